"""How documents fill rows under an objective.

Every arrangement has `rows`, how many rows an epoch has, and `fill`, which writes some of them into the arrays of a
batch, without state. Rows are assembled for the whole batch at once by numpy; there is no loop over documents except
where spans are corrupted.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from polytask.data.convert import corrupted_lengths, sentinel_ids, span_corruption
from polytask.data.mixture import number, permute, scramble
from polytask.data.packing import Rows, Stream, pack, pack_pairs, ranges
from polytask.data.store import Store

Arrays = dict[str, np.ndarray]

# A cycle of a mixture has at least so many rows, for tight packing and exact shares, and at most so many, for speed.
_LEAST, _MOST = 1 << 12, 1 << 18


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
    reports: dict[int, Report]  # by source

    @property
    def rows(self) -> int: ...

    def epochs(self) -> dict[int, float]:
        """By source, how often these rows go through it."""
        return dict.fromkeys(self.reports, 1.0)

    def fill(self, arrays: Arrays, slots: np.ndarray, rows: np.ndarray, epochs: np.ndarray) -> None:
        """Writes `rows` (R,) of `epochs` (R,) into the rows `slots` (R,) of `arrays`."""
        ...


@dataclass(frozen=True)
class Part:
    """A source's part in an arrangement.

    `index` is the source's number, `share` its part of the tokens, `first` the first of its documents to come, counted
    over all epochs. In rows that are `two_sided`, what is given is seen from both sides. `placeholder`: the id in whose
    places the network sees pictures.
    """

    index: int
    store: Store
    seed: int = 0
    two_sided: bool = False
    share: float = 1.0
    first: int = 0
    placeholder: int = -1

    def draws(self, epochs: np.ndarray) -> np.ndarray:
        """A random number (R,) uint64 for each of `epochs` (R,)."""
        known = {epoch: number(self.seed, self.index, epoch, 7) for epoch in set(epochs.tolist())}
        return np.array([known[epoch] for epoch in epochs.tolist()], dtype=np.uint64)

    def documents(self, first: int, count: int) -> np.ndarray:
        """(count,) of the source's endless sequence: in each epoch every document once, in another order."""
        size = len(self.store)
        epoch, place = np.divmod(self.first + first + np.arange(count), size)
        return np.concatenate(
            [np.zeros(0, np.int64)]
            + [permute(place[epoch == e], size, (self.seed, self.index, int(e), 11)) for e in np.unique(epoch)]
        )


@dataclass
class _Fragments:
    """Runs of predictions.

    `place` is where a run begins in the (B, T) arrays laid flat, `start` the first token read, `prefix` how long the
    two-sided part of the document is, `position` where in its document the run begins, `document` its number in the
    row, from 1.
    """

    place: np.ndarray
    start: np.ndarray
    length: np.ndarray
    document: np.ndarray
    position: np.ndarray
    prefix: np.ndarray


def _numbered(owner: np.ndarray) -> np.ndarray:
    """1, 2, ... within each run of equal values (N,)."""
    return np.arange(len(owner)) - _begins(owner) + 1


def _begins(owner: np.ndarray) -> np.ndarray:
    """(N,) Where the run of equal values begins that each place is in."""
    new = np.ones(len(owner), dtype=bool)
    new[1:] = owner[1:] != owner[:-1]
    return np.maximum.accumulate(np.where(new, np.arange(len(owner)), 0))


def _places(slot: np.ndarray, length: np.ndarray, width: int) -> np.ndarray:
    """Where runs of `length` (N,), side by side in the rows `slot` (N,), begin in (B, width) arrays laid flat."""
    before = np.cumsum(length) - length
    return slot * width + before - before[_begins(slot)]


def _write(part: Part, f: _Fragments, arrays: Arrays) -> None:
    store = part.store
    place = ranges(f.place, f.length)
    within = ranges(np.zeros_like(f.length), f.length)
    index = np.repeat(f.start, f.length) + within
    position = np.repeat(f.position, f.length) + within
    weights = store.predicted(index + 1)
    if part.two_sided:
        given = np.repeat(f.prefix, f.length)
        arrays["prefix"].reshape(-1)[place] = position < given
        weights[position < given - 1] = 0  # the answer is in sight there
    arrays["ids"].reshape(-1)[place] = store.tokens[index]
    arrays["targets"].reshape(-1)[place] = store.tokens[index + 1]
    arrays["positions"].reshape(-1)[place] = position
    arrays["documents"].reshape(-1)[place] = np.repeat(f.document, f.length)
    arrays["weights"].reshape(-1)[place] = weights
    arrays["sources"].reshape(-1)[place] = part.index
    if "pictures" in arrays and len(store.pictures):
        looked = arrays["ids"].reshape(-1)[place] == part.placeholder
        number, state = store.shown(index[looked])
        arrays["pictures"].reshape(-1)[place[looked]] = number
        arrays["states"].reshape(-1)[place[looked]] = state


@dataclass(frozen=True)
class _Cycle:
    """Rows and, for each document in them: the part it is of, its number there, the predictions that a row holds."""

    rows: Rows
    part: np.ndarray
    document: np.ndarray
    size: np.ndarray


class Packed(Arrangement):
    """Whole documents of all parts side by side; one that is longer than a row loses the end of what is given, not its
    answer.

    Documents of different sources share rows, since what one source leaves of a row is often too little for another
    document of its own. A cycle packs the next documents of every source together, as many as its share of the tokens
    asks for; where that is an epoch of each, it holds every document once. All cycles have as many rows as the first:
    what a later one has beyond them, documents of its emptiest rows, is left out.
    """

    def __init__(self, parts: Sequence[Part], length: int):
        self._parts, self._length = parts, length
        wanted = [np.maximum(part.store.lengths - 1, 0) for part in parts]
        self._sizes = [np.minimum(predictions, length) for predictions in wanted]
        self.counts = self._documents_each()
        self._cycles: dict[int, _Cycle] = {}
        self._rows = len(self._cycle(0).rows)
        padding = 1 - int(self._cycle(0).size.sum()) / max(self._rows * length, 1)
        self.reports = {
            part.index: Report(len(sizes), self._rows, int((full > sizes).sum()), int((full - sizes).sum()), padding)
            for part, sizes, full in zip(parts, self._sizes, wanted)
        }

    @property
    def rows(self) -> int:
        return self._rows

    def _documents_each(self) -> list[int]:
        """How many documents of each part a cycle takes."""
        tokens = np.array([max(int(sizes.sum()), 1) for sizes in self._sizes])
        epochs = np.array([part.share for part in self._parts]) / tokens
        epochs /= epochs.max()
        rows = float((epochs * tokens).sum()) / self._length
        if not np.allclose(epochs, 1):
            epochs *= max(1.0, _LEAST / rows)
        epochs *= min(1.0, _MOST / rows)
        return [max(1, round(share * len(sizes))) for share, sizes in zip(epochs.tolist(), self._sizes)]

    def epochs(self) -> dict[int, float]:
        return {part.index: count / len(part.store) for part, count in zip(self._parts, self.counts)}

    def _cycle(self, number: int) -> _Cycle:
        if number not in self._cycles:
            documents = [part.documents(number * count, count) for part, count in zip(self._parts, self.counts)]
            size = np.concatenate([sizes[chosen] for sizes, chosen in zip(self._sizes, documents)])
            part = np.repeat(np.arange(len(documents)), self.counts)
            rows = pack(size, self._length)
            self._cycles = {**dict(list(self._cycles.items())[-1:]), number: _Cycle(
                rows, part[rows.documents], np.concatenate(documents)[rows.documents], size[rows.documents]
            )}  # fmt: skip
        return self._cycles[number]

    def fill(self, arrays: Arrays, slots: np.ndarray, rows: np.ndarray, epochs: np.ndarray) -> None:
        for epoch in np.unique(epochs).tolist():
            at = epochs == epoch
            self._fill(arrays, slots[at], rows[at], self._cycle(epoch))

    def _fill(self, arrays: Arrays, slots: np.ndarray, rows: np.ndarray, cycle: _Cycle) -> None:
        # A cycle with fewer rows than the first shows some of them twice.
        places, owner = cycle.rows.places(rows % len(cycle.rows))
        size = cycle.size[places]
        place, numbers = _places(slots[owner], size, self._length), _numbered(owner)
        for index, part in enumerate(self._parts):
            mine = np.flatnonzero(cycle.part[places] == index)
            if len(mine):
                fragments = self._whole(part.store, cycle.document[places[mine]], place[mine], numbers[mine])
                _write(part, fragments, arrays)

    def _whole(self, store: Store, documents: np.ndarray, place: np.ndarray, numbers: np.ndarray) -> _Fragments:
        limit = self._length
        start, total = store.starts[documents], store.lengths[documents] - 1
        opener, first = store.openers[documents], store.firsts[documents]
        # A cut document is two runs: its beginning, then its last answer (or as much of it as half a row holds).
        cut = total > limit
        answer = total - opener
        head = np.where(answer <= limit, limit - answer, np.minimum(opener, limit // 2))
        head = np.where(cut, head, total)
        tail = np.where(cut, limit - head, 0)
        prefix = np.where(cut & (first > head), head + 1, first)

        def both(one: np.ndarray, two: np.ndarray) -> np.ndarray:
            return np.concatenate([one, two[cut]])

        return _Fragments(
            place=both(place, place + head),
            start=both(start, start + opener),
            length=both(head, tail),
            document=both(numbers, numbers),
            position=both(np.zeros_like(head), head),
            prefix=both(prefix, prefix),
        )


def share_loss(arrays: Arrays, codes: int, share: float) -> None:
    """Weighs predictions of pictures' ids, from `codes` on, so that they have this share of each row that has both
    kinds (Ramesh et al. 2021, section 2.2: 7/8); the sum of a row's weights stays."""
    weights, drawn = arrays["weights"], arrays["targets"] >= codes
    pictures, texts = (np.where(kind, weights, 0).sum(axis=1, keepdims=True) for kind in (drawn, ~drawn))
    both, total = (pictures > 0) & (texts > 0), pictures + texts
    scale = np.where(drawn, share * total / np.where(both, pictures, 1), (1 - share) * total / np.where(both, texts, 1))
    weights *= np.where(both, scale, 1).astype(np.float32)


class Flat(Arrangement):
    """Plain text as one stream; positions restart in every document and in every row."""

    def __init__(self, part: Part, length: int):
        self._part, store = part, part.store
        predictions = np.maximum(store.lengths - 1, 0)
        self._stream = Stream(np.concatenate([[0], np.cumsum(predictions)]), length)
        padding = 1 - int(predictions.sum()) / max(len(self._stream) * length, 1)
        self.reports = {part.index: Report(len(store), len(self._stream), 0, 0, padding)}

    @property
    def rows(self) -> int:
        return len(self._stream)

    def fill(self, arrays: Arrays, slots: np.ndarray, rows: np.ndarray, epochs: np.ndarray) -> None:
        draws = self._part.draws(epochs)
        document, begin, length, owner = self._stream.of(rows, self._stream.offset(draws))
        start = self._part.store.starts[document] + begin
        # Where the objective asks for a prefix, a text has none of its own: a random part of what the row shows.
        chance = scramble(draws[owner] ^ start.astype(np.uint64)) >> np.uint64(32)
        prefix = 1 + (chance.astype(np.int64) * length >> 32)
        place = _places(slots[owner], length, self._stream.length)
        _write(self._part, _Fragments(place, start, length, _numbered(owner), np.zeros_like(begin), prefix), arrays)


class Pairs(Arrangement):
    """Encoder and decoder documents with the same numbers in the same row."""

    def __init__(self, part: Part, length: int, encoder_length: int, special: dict[str, int]):
        self._part, self._special, store = part, special, part.store
        # A tokenizer of another project has no openers: there the decoder starts as its model was taught to.
        self._bare = "<|answer|>" not in special
        given, answer = pair_lengths(store, special)
        self._encoder, self._decoder = np.minimum(given, encoder_length), np.minimum(answer, length)
        self._encoder[self._decoder == 0] = 0
        self._packed = pack_pairs(self._encoder, self._decoder, encoder_length, length)
        cut = (given > encoder_length) | (answer > length)
        used = int(self._encoder.sum() + self._decoder.sum())
        padding = 1 - used / max(len(self._packed) * (encoder_length + length), 1)
        lost = int((given + answer).sum()) - used
        self.reports = {part.index: Report(len(store), len(self._packed), int(cut.sum()), lost, padding)}

    @property
    def rows(self) -> int:
        return len(self._packed)

    def fill(self, arrays: Arrays, slots: np.ndarray, rows: np.ndarray, epochs: np.ndarray) -> None:
        store = self._part.store
        documents, owner = self._packed.of(rows)
        slot, numbers = slots[owner], _numbered(owner)
        start, opener, size = store.starts[documents], store.openers[documents], self._decoder[documents]
        zero = np.zeros_like(start)
        place = _places(slot, size, arrays["ids"].shape[1])
        _write(self._part, _Fragments(place, start + opener, size, numbers, zero, zero), arrays)
        if self._bare:
            arrays["ids"].reshape(-1)[place[size > 0]] = self._special.get("<|start|>", self._special["<|pad|>"])
        length = self._encoder[documents]
        within = ranges(zero, length)
        place = ranges(_places(slot, length, arrays["encoder_ids"].shape[1]), length)
        ids = store.tokens[np.repeat(start, length) + within].astype(np.int64)
        ids[np.cumsum(length)[length > 0] - 1] = self._special["<|end|>"]
        arrays["encoder_ids"].reshape(-1)[place] = ids
        arrays["encoder_positions"].reshape(-1)[place] = within
        arrays["encoder_documents"].reshape(-1)[place] = np.repeat(numbers, length)


def pair_lengths(store: Store, special: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """What the encoder reads (with <|end|>) and the decoder predicts of every document, (N,) each."""
    return store.openers + (1 if "<|answer|>" in special else 2), np.maximum(store.lengths - 1 - store.openers, 0)


class Corrupted(Arrangement):
    """Pieces of plain text with spans to restore; each epoch hides others."""

    def __init__(self, part: Part, length: int, encoder_length: int | None, special: dict[str, int]):
        self._part, self._special, store = part, special, part.store
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
        self.reports = {part.index: Report(len(store), len(self._packed), 0, 0, padding)}

    @property
    def rows(self) -> int:
        return len(self._packed)

    def fill(self, arrays: Arrays, slots: np.ndarray, rows: np.ndarray, epochs: np.ndarray) -> None:
        draws = self._part.draws(epochs)
        pieces, owner = self._packed.of(rows)
        decoder, encoder = np.zeros(len(slots), np.int64), np.zeros(len(slots), np.int64)
        for piece, own, n in zip(pieces.tolist(), owner.tolist(), _numbered(owner).tolist()):
            start, size = int(self._start[piece]), int(self._size[piece])
            rng = np.random.Generator(np.random.PCG64([int(draws[own]), piece]))
            text = self._part.store.tokens[start : start + size]
            document = span_corruption(text, self._special, rng, self._paired)
            at = (slots[own], slice(decoder[own], decoder[own] + len(document)))
            decoder[own] += len(document)
            arrays["ids"][at], arrays["targets"][at] = document.ids, document.targets
            arrays["weights"][at], arrays["documents"][at] = document.weights, n
            arrays["positions"][at], arrays["sources"][at] = np.arange(len(document)), self._part.index
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
