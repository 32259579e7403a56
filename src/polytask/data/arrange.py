"""How the documents of one source fill rows under an objective.

Every arrangement has `rows`, how many rows an epoch has, and `fill`, which writes some of them into the arrays of a
batch, without state. Rows are assembled for the whole batch at once by numpy; there is no loop over documents except
where spans are corrupted.
"""

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from polytask.data.convert import corrupted_lengths, sentinel_ids, span_corruption
from polytask.data.mixture import number, scramble
from polytask.data.packing import Stream, pack, pack_pairs, ranges
from polytask.data.store import Store

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Report:
    """What became of a source's documents. `padding` is the share of positions (the encoder's included) left empty."""

    documents: int
    rows: int
    cut: int
    tokens_lost: int
    padding: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


class Arrangement(Protocol):
    report: Report

    @property
    def rows(self) -> int: ...

    def fill(self, arrays: Arrays, slots: np.ndarray, rows: np.ndarray, draws: np.ndarray) -> None:
        """Writes `rows` (R,) into the rows `slots` (R,) of `arrays`.

        `draws` (R,) uint64 are random numbers of the epoch that each row belongs to.
        """
        ...


@dataclass
class _Fragments:
    """Runs of predictions, in the order of the rows they go to.

    `start` is the first token read, `prefix` how long the two-sided part of the document is, `position` where in its
    document the run begins, `document` its number in the row, from 1.
    """

    slot: np.ndarray
    start: np.ndarray
    length: np.ndarray
    document: np.ndarray
    position: np.ndarray
    prefix: np.ndarray


def _numbered(owner: np.ndarray) -> np.ndarray:
    """1, 2, ... within each run of equal values (N,)."""
    first = np.searchsorted(owner, owner, side="left")
    return np.arange(len(owner)) - first + 1


def _places(slot: np.ndarray, length: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(flat place in the (B, width) arrays, place in the fragment) of every token of fragments side by side."""
    ends = np.cumsum(length)
    before = ends - length
    new = np.ones(len(slot), dtype=bool)
    new[1:] = slot[1:] != slot[:-1]
    row_start = before[np.maximum.accumulate(np.where(new, np.arange(len(slot)), 0))]
    total = int(ends[-1]) if len(ends) else 0
    within = np.arange(total) - np.repeat(before, length)
    return np.repeat(slot * width + before - row_start, length) + within, within


def _write(store: Store, f: _Fragments, arrays: Arrays, two_sided: bool = False) -> None:
    place, within = _places(f.slot, f.length, arrays["ids"].shape[1])
    index = np.repeat(f.start, f.length) + within
    position = np.repeat(f.position, f.length) + within
    weights = store.predicted(index + 1)
    if two_sided:
        given = np.repeat(f.prefix, f.length)
        arrays["prefix"].reshape(-1)[place] = position < given
        weights[position < given - 1] = 0  # the answer is in sight there
    arrays["ids"].reshape(-1)[place] = store.tokens[index]
    arrays["targets"].reshape(-1)[place] = store.tokens[index + 1]
    arrays["positions"].reshape(-1)[place] = position
    arrays["documents"].reshape(-1)[place] = np.repeat(f.document, f.length)
    arrays["weights"].reshape(-1)[place] = weights


class Packed:
    """Whole documents side by side; one that is longer than a row loses the end of what is given, not its answer."""

    def __init__(self, store: Store, length: int, two_sided: bool = False):
        self._store, self._length, self._two_sided = store, length, two_sided
        predictions = np.maximum(store.lengths - 1, 0)
        self._packed = pack(np.minimum(predictions, length), length)
        lost = predictions - np.minimum(predictions, length)
        used = int(predictions.sum() - lost.sum())
        padding = 1 - used / max(len(self._packed) * length, 1)
        self.report = Report(len(store), len(self._packed), int((lost > 0).sum()), int(lost.sum()), padding)

    @property
    def rows(self) -> int:
        return len(self._packed)

    def fill(self, arrays: Arrays, slots: np.ndarray, rows: np.ndarray, draws: np.ndarray) -> None:
        store, limit = self._store, self._length
        documents, owner = self._packed.of(rows)
        start, total = store.starts[documents], store.lengths[documents] - 1
        opener, first = store.openers[documents], store.firsts[documents]
        # A cut document is two runs: its beginning, then its last answer (or as much of it as half a row holds).
        cut = total > limit
        answer = total - opener
        head = np.where(answer <= limit, limit - answer, np.minimum(opener, limit // 2))
        head = np.where(cut, head, total)
        tail = np.where(cut, limit - head, 0)
        prefix = np.where(cut & (first > head), head + 1, first)
        pairs = _Fragments(
            slot=np.repeat(slots[owner], 2),
            start=np.stack([start, start + opener], axis=1).reshape(-1),
            length=np.stack([head, tail], axis=1).reshape(-1),
            document=np.repeat(_numbered(owner), 2),
            position=np.stack([np.zeros_like(head), head], axis=1).reshape(-1),
            prefix=np.repeat(prefix, 2),
        )
        some = pairs.length > 0
        _write(store, _Fragments(**{name: value[some] for name, value in vars(pairs).items()}), arrays, self._two_sided)


class Flat:
    """Plain text as one stream; positions restart in every document and in every row."""

    def __init__(self, store: Store, length: int, two_sided: bool = False):
        self._store, self._two_sided = store, two_sided
        predictions = np.maximum(store.lengths - 1, 0)
        self._stream = Stream(np.concatenate([[0], np.cumsum(predictions)]), length)
        padding = 1 - int(predictions.sum()) / max(len(self._stream) * length, 1)
        self.report = Report(len(store), len(self._stream), 0, 0, padding)

    @property
    def rows(self) -> int:
        return len(self._stream)

    def fill(self, arrays: Arrays, slots: np.ndarray, rows: np.ndarray, draws: np.ndarray) -> None:
        document, begin, length, owner = self._stream.of(rows, self._stream.offset(draws))
        start = self._store.starts[document] + begin
        # Where the objective asks for a prefix, a text has none of its own: a random part of what the row shows.
        chance = scramble(draws[owner] ^ start.astype(np.uint64)) >> np.uint64(32)
        prefix = 1 + (chance.astype(np.int64) * length >> 32)
        zero = np.zeros_like(begin)
        fragments = _Fragments(slots[owner], start, length, _numbered(owner), zero, prefix)
        _write(self._store, fragments, arrays, self._two_sided)


class Pairs:
    """Encoder and decoder documents with the same numbers in the same row."""

    def __init__(self, store: Store, length: int, encoder_length: int, special: dict[str, int]):
        self._store, self._special = store, special
        # A tokenizer of another project has no openers: there the decoder starts from padding, as T5's does.
        self._bare = "<|answer|>" not in special
        given, answer = pair_lengths(store, special)
        self._encoder, self._decoder = np.minimum(given, encoder_length), np.minimum(answer, length)
        self._encoder[self._decoder == 0] = 0
        self._packed = pack_pairs(self._encoder, self._decoder, encoder_length, length)
        cut = (given > encoder_length) | (answer > length)
        used = int(self._encoder.sum() + self._decoder.sum())
        padding = 1 - used / max(len(self._packed) * (encoder_length + length), 1)
        lost = int((given + answer).sum()) - used
        self.report = Report(len(store), len(self._packed), int(cut.sum()), lost, padding)

    @property
    def rows(self) -> int:
        return len(self._packed)

    def fill(self, arrays: Arrays, slots: np.ndarray, rows: np.ndarray, draws: np.ndarray) -> None:
        store = self._store
        documents, owner = self._packed.of(rows)
        slot, numbers = slots[owner], _numbered(owner)
        start, opener, size = store.starts[documents], store.openers[documents], self._decoder[documents]
        zero = np.zeros_like(start)
        _write(store, _Fragments(slot, start + opener, size, numbers, zero, zero), arrays)
        if self._bare:
            place, within = _places(slot, size, arrays["ids"].shape[1])
            arrays["ids"].reshape(-1)[place[within == 0]] = self._special["<|pad|>"]
        length = self._encoder[documents]
        place, within = _places(slot, length, arrays["encoder_ids"].shape[1])
        ids = store.tokens[np.repeat(start, length) + within].astype(np.int64)
        ids[np.cumsum(length)[length > 0] - 1] = self._special["<|end|>"]
        arrays["encoder_ids"].reshape(-1)[place] = ids
        arrays["encoder_positions"].reshape(-1)[place] = within
        arrays["encoder_documents"].reshape(-1)[place] = np.repeat(numbers, length)


def pair_lengths(store: Store, special: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """What the encoder reads (with <|end|>) and the decoder predicts of every document, (N,) each."""
    return store.openers + (1 if "<|answer|>" in special else 2), np.maximum(store.lengths - 1 - store.openers, 0)


class Corrupted:
    """Pieces of plain text with spans to restore; each epoch hides others."""

    def __init__(self, store: Store, length: int, encoder_length: int | None, special: dict[str, int]):
        self._store, self._special = store, special
        self._paired = encoder_length is not None
        sentinels = len(sentinel_ids(special))
        piece = longest_piece(length, encoder_length, sentinels)
        # Only the text itself is corrupted, without the opener before it and the <|end|> after it.
        content = np.maximum(store.lengths - 1 - store.firsts, 0)
        counts = -(-content // piece)
        document = np.repeat(np.arange(len(store)), counts)
        place = ranges(np.zeros_like(counts), counts) * piece
        self._start = (store.starts + store.firsts)[document] + place
        self._size = np.minimum(content[document] - place, piece)
        table = np.array([row_lengths(n, self._paired, sentinels) for n in range(piece + 1)], dtype=np.int64)
        encoder, decoder = table[self._size].T if len(self._size) else np.zeros((2, 0), dtype=np.int64)
        if encoder_length is not None:
            self._packed = pack_pairs(encoder, decoder, encoder_length, length)
        else:
            self._packed = pack(decoder, length)
        space = len(self._packed) * (length + (encoder_length or 0))
        padding = 1 - int(encoder.sum() + decoder.sum()) / max(space, 1)
        self.report = Report(len(store), len(self._packed), 0, 0, padding)

    @property
    def rows(self) -> int:
        return len(self._packed)

    def fill(self, arrays: Arrays, slots: np.ndarray, rows: np.ndarray, draws: np.ndarray) -> None:
        pieces, owner = self._packed.of(rows)
        decoder, encoder = np.zeros(len(slots), np.int64), np.zeros(len(slots), np.int64)
        for piece, own, n in zip(pieces.tolist(), owner.tolist(), _numbered(owner).tolist()):
            start, size = int(self._start[piece]), int(self._size[piece])
            rng = np.random.Generator(np.random.PCG64([int(draws[own]), piece]))
            text = self._store.tokens[start : start + size]
            document = span_corruption(text, self._special, rng, self._paired)
            at = (slots[own], slice(decoder[own], decoder[own] + len(document)))
            decoder[own] += len(document)
            arrays["ids"][at], arrays["targets"][at] = document.ids, document.targets
            arrays["weights"][at], arrays["documents"][at] = document.weights, n
            arrays["positions"][at] = np.arange(len(document))
            if "prefix" in arrays:
                arrays["prefix"][at] = np.arange(len(document)) < document.prefix
            if document.encoder_ids is not None:
                size = len(document.encoder_ids)
                at = (slots[own], slice(encoder[own], encoder[own] + size))
                encoder[own] += size
                arrays["encoder_ids"][at], arrays["encoder_documents"][at] = document.encoder_ids, n
                arrays["encoder_positions"][at] = np.arange(size)


def row_lengths(length: int, paired: bool, sentinels: int) -> tuple[int, int]:
    """(encoder, decoder) tokens that a piece of `length` takes in a row."""
    visible, restored = corrupted_lengths(length, sentinels)
    return (visible + 1, restored + 1) if paired else (0, visible + restored + 2)


@lru_cache
def longest_piece(length: int, encoder_length: int | None, sentinels: int) -> int:
    """The longest text whose corrupted form fits a row."""
    for size in range(2 * max(length, encoder_length or 0), 0, -1):
        encoder, decoder = row_lengths(size, encoder_length is not None, sentinels)
        if encoder <= (encoder_length or 0) and decoder <= length:
            return size
    return 1


def epoch_draws(seed: int, sources: np.ndarray, epochs: np.ndarray) -> np.ndarray:
    """A random number (R,) uint64 for each row's source and epoch."""
    known = {key: number(seed, *key, 7) for key in set(zip(sources.tolist(), epochs.tolist()))}
    return np.array([known[key] for key in zip(sources.tolist(), epochs.tolist())], dtype=np.uint64)
