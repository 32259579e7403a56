"""Batches by step number: `loader.batch(step)` depends on nothing but its arguments.

Rank r of w holds rows r, r + w, ... of the global batch, so the data of a step is the same for any number of ranks,
and a run that resumes asks for its step and gets what it would have got.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from polytask.data.ahead import made_ahead
from polytask.data.arrange import (
    Arrangement,
    Arrays,
    Corrupted,
    Flat,
    Packed,
    Pairs,
    Part,
    Report,
    longest_piece,
    pair_lengths,
    row_lengths,
    share_loss,
)
from polytask.data.convert import OBJECTIVES, Objective, sentinel_ids
from polytask.data.mixture import Draw, Mixture
from polytask.errors import ConfigError, DataError
from polytask.registry import nearest
from polytask.tasks.picture import scaled

if TYPE_CHECKING:
    from polytask.data.batch import Batch
    from polytask.data.prepare import Prepared


_CORRUPTING = ("span_corruption", "seq2seq")


class Loader:
    """Rows of `context_length` positions from prepared sources; short documents of several sources share rows.

    batch_rows       rows of the global batch, over all ranks
    mixture          shares of the sources; without one, the weights that the sources state, else their sizes
    objective        "next_token", "prefix", "span_corruption" or "seq2seq" (where plain text is span corruption)
    encoder_length   positions of the encoder; with "seq2seq" the default is fitted to the data, and the decoder gets
                     fewer than `context_length` where its side is the shorter one
    total_steps      needed where the mixture's stages end at fractions of the run
    picture_share    of the loss of each row with texts and pictures to predict, that part is the pictures'
    """

    def __init__(
        self,
        prepared: "Prepared",
        batch_rows: int,
        context_length: int,
        mixture: Mixture | None = None,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        objective: Objective = "next_token",
        encoder_length: int | None = None,
        total_steps: int | None = None,
        picture_share: float | None = None,
    ):
        if picture_share is not None and prepared.codes is None:
            raise ConfigError("A share of the loss for pictures needs a tokenizer of pictures; leave it out.")
        self.picture_share = picture_share
        if batch_rows < world:
            raise ConfigError(
                f"A batch of {batch_rows} rows cannot be shared by {world} ranks; give each at least one."
            )
        if context_length < 8:
            raise ConfigError(f"A context_length of {context_length} holds no example; 8 is the least.")
        self.prepared, self.seed = prepared, seed
        self.objectives = _objectives(prepared, objective)
        self.batch_rows, self.rank, self.world = batch_rows, rank, world
        self.length, self.encoder_length = context_length, encoder_length
        corrupts = any(s.flat and o in _CORRUPTING for s, o in zip(prepared.sources, self.objectives))
        if corrupts and not len(sentinel_ids(prepared.special)):
            raise ConfigError("Span corruption needs a tokenizer with <|mask_0|>, ...: use `with_special()` of it.")
        if "seq2seq" in self.objectives and encoder_length is None:
            self.length, self.encoder_length = _balanced(prepared, context_length)
        self._held: dict[int, Arrangement] = {}  # of held-out rows, made when they are first asked for
        documents = [len(source.train) for source in prepared.sources]
        if not any(documents):
            raise DataError("The data has no training examples; add rows or hold out a smaller share.")
        sizes = [source.train.counts.tokens for source in prepared.sources]
        stages = (mixture or prepared.mixture()).definite(prepared.names, documents, total_steps, sizes)
        self._train: list[Arrangement] = []
        self.draw = self._draw(stages)
        self.rows = self.draw.rows.tolist()

    def _draw(self, stages: list[tuple[int, list[float]]]) -> Draw:
        """Arranges what has a share in any stage. Sources whose documents share rows take turns as one."""
        sources = self.prepared.sources
        together = [not source.flat and self.encoder_length is None for source in sources]
        columns: dict[object, int] = {}  # by source, or by the shares of those together
        turns: list[dict[int, float]] = []
        first = [0.0] * len(sources)  # documents drawn in the stages before
        begin = 0
        for end, shares in stages:
            turn: dict[int, float] = {}
            alone = [index for index, share in enumerate(shares) if share and not together[index]]
            packed = {index: share for index, share in enumerate(shares) if share and together[index]}
            for index in alone:
                if index not in columns:
                    columns[index] = len(self._train)
                    self._train.append(self._arrange(index))
                turn[columns[index]] = shares[index]
            if packed:
                total = sum(packed.values())
                key = tuple((index, round(share / total, 9)) for index, share in packed.items())
                if key not in columns:
                    columns[key] = len(self._train)
                    parts = [self._part(index, share, round(first[index])) for index, share in packed.items()]
                    self._train.append(Packed(parts, self.length))
                turn[columns[key]] = total
            turns.append(turn)
            for column, share in turn.items():
                cycles = (end - begin) * self.batch_rows * share / sum(turn.values()) / self._train[column].rows
                for index, epochs in self._train[column].epochs().items():
                    first[index] += cycles * epochs * len(sources[index].train)
            begin = end
        weights = [[turn.get(column, 0.0) for column in range(len(self._train))] for turn in turns]
        rows = [arrangement.rows for arrangement in self._train]
        return Draw(rows, [(end, w) for (end, _), w in zip(stages, weights)], self.batch_rows, self.seed)

    def batch(self, step: int) -> "Batch":
        """This rank's rows of a step."""
        mine = np.arange(self.rank, self.batch_rows, self.world)
        return self._assemble(self._train, *self.draw.indices(step, mine))

    def batches(self, start: int = 0, stop: int | None = None, ahead: int = 2) -> "Iterator[Batch]":
        """Batches of steps `start` to `stop`, assembled by a thread up to `ahead` steps before they are asked for."""
        return made_ahead(self.batch, range(start, stop if stop is not None else 2**62), ahead)

    def validation_batches(self, source: str | int, limit: int | None = None) -> "Iterator[Batch]":
        """One pass over a source's held-out rows, always the same, in batches of one shape.

        The last batch is filled with rows of padding (source -1, weight 0), so every rank gets as many batches.
        `limit` stops after so many batches. Raises DataError where nothing was held out.
        """
        index = source if isinstance(source, int) else self._named(source)
        chosen = self.prepared.sources[index]
        if not len(chosen.validation):
            raise DataError(f"Source '{chosen.name}' has no held-out examples; prepare it with a larger `holdout`.")
        if index not in self._held:
            self._held[index] = self._arrange(index, held_out=True)
        arrangement = self._held[index]
        count = -(-arrangement.rows // self.batch_rows)
        for step in range(count if limit is None else min(count, limit)):
            rows = step * self.batch_rows + np.arange(self.rank, self.batch_rows, self.world)
            turns = np.where(rows < arrangement.rows, 0, -1)
            yield self._assemble([arrangement], turns, rows, np.zeros_like(rows), held_out=True)

    def epochs(self, step: int) -> dict[str, float]:
        """How often each source was gone through before this step."""
        gone = dict.fromkeys(self.prepared.names, 0.0)
        for arrangement, cycles in zip(self._train, self.draw.epochs(step).tolist()):
            for index, epochs in arrangement.epochs().items():
                gone[self.prepared.names[index]] += cycles * epochs * self.prepared.segmentations
        return gone

    def report(self) -> dict[str, Report]:
        """For each source that is trained on, what the rows that hold it are, what was cut and how much is padding."""
        found = {index: report for arrangement in self._train for index, report in arrangement.reports.items()}
        return {self.prepared.names[index]: found[index] for index in sorted(found)}

    def _named(self, name: str) -> int:
        if name not in self.prepared.names:
            raise ConfigError(f"Unknown source '{name}': {nearest(name, self.prepared.names)}")
        return self.prepared.names.index(name)

    def _part(self, index: int, share: float = 1.0, first: int = 0, held_out: bool = False) -> Part:
        source = self.prepared.sources[index]
        two_sided = self.objectives[index] == "prefix" and self.encoder_length is None
        placeholder = self.prepared.sight.vocabulary.placeholder if self.prepared.sight else -1
        store = source.validation if held_out else source.train
        return Part(index, store, self.seed, two_sided, share, first, placeholder)

    def _arrange(self, index: int, held_out: bool = False) -> Arrangement:
        """Of one source by itself."""
        part, special, flat = (
            self._part(index, held_out=held_out),
            self.prepared.special,
            self.prepared.sources[index].flat,
        )
        if flat and self.objectives[index] in _CORRUPTING:
            return Corrupted(part, self.length, self.encoder_length, special)
        if self.encoder_length is not None:
            return Pairs(part, self.length, self.encoder_length, special)
        return Flat(part, self.length) if flat else Packed([part], self.length)

    def _arrays(self, rows: int) -> Arrays:
        shape = (rows, self.length)
        pad = self.prepared.special["<|pad|>"]
        arrays: Arrays = {
            "ids": np.full(shape, pad, np.int64),
            "targets": np.full(shape, pad, np.int64),
            "positions": np.zeros(shape, np.int64),
            "documents": np.zeros(shape, np.int64),
            "weights": np.zeros(shape, np.float32),
            "sources": np.full(shape, -1, np.int64),
        }
        if self.encoder_length is None and any(objective == "prefix" for objective in self.objectives):
            arrays["prefix"] = np.zeros(shape, bool)
        if self.prepared.sight is not None:
            arrays |= {"pictures": np.full(shape, -1, np.int64), "states": np.zeros(shape, np.int64)}
        if self.encoder_length is not None:
            shape = (rows, self.encoder_length)
            arrays["encoder_ids"] = np.full(shape, pad, np.int64)
            arrays["encoder_positions"] = np.zeros(shape, np.int64)
            arrays["encoder_documents"] = np.zeros(shape, np.int64)
        return arrays

    def _assemble(
        self, arrangements: Sequence[Arrangement], turns: np.ndarray, rows: np.ndarray, epochs: np.ndarray,
        held_out: bool = False,
    ) -> "Batch":  # fmt: skip
        import torch

        from polytask.data.batch import Batch

        arrays = self._arrays(len(rows))
        for turn in np.unique(turns[turns >= 0]).tolist():
            slots = np.flatnonzero(turns == turn)
            arrangements[turn].fill(arrays, slots, rows[slots], epochs[slots])
        if self.picture_share is not None:
            share_loss(arrays, self.prepared.codes or 0, self.picture_share)
        pictures, states = arrays.pop("pictures", None), arrays.pop("states", None)
        batch = Batch(**{name: torch.from_numpy(array) for name, array in arrays.items()})
        if pictures is None or states is None:
            return batch
        pixels, shown = self._looked(held_out, arrays["sources"], pictures, states)
        return replace(
            batch, pixels=scaled(torch.from_numpy(pixels).permute(0, 3, 1, 2)), shown=torch.from_numpy(shown)
        )

    def _looked(
        self, held_out: bool, sources: np.ndarray, pictures: np.ndarray, states: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The pictures of a batch (P, S, S, 3), each once, and which of their states stands where (B, T).

        Where there are none it is a blank one, so that all processes have gradients of the same parameters.
        """
        sight = self.prepared.sight
        assert sight is not None
        found, shown, count = [], np.full_like(pictures, -1), 0
        for index, source in enumerate(self.prepared.sources):
            mine = (pictures >= 0) & (sources == index)
            numbers, places = np.unique(pictures[mine], return_inverse=True)
            shown[mine] = (count + places) * sight.vocabulary.tokens + states[mine]
            if len(numbers):
                found.append((source.validation if held_out else source.train).pixels[numbers])
                count += len(numbers)
        blank = np.zeros((1, sight.size, sight.size, 3), np.uint8)
        return np.concatenate(found) if found else blank, shown


def _objectives(prepared: "Prepared", default: str) -> list[str]:
    """The objective of each source: its own, else the run's. Raises ConfigError for unknown ones and mixed networks."""
    chosen = [source.objective or default for source in prepared.sources]
    for objective in (default, *chosen):
        if objective not in OBJECTIVES:
            raise ConfigError(f"Unknown objective '{objective}': {nearest(objective, OBJECTIVES)}")
    causal = [name for name, objective in zip(prepared.names, chosen) if objective in ("next_token", "prefix")]
    if "seq2seq" in chosen and causal:
        raise ConfigError(
            f"Source '{causal[0]}' has an objective for a decoder alone, while others have seq2seq for an "
            "encoder-decoder; a run trains one of the two."
        )
    return chosen


def _balanced(prepared: "Prepared", length: int) -> tuple[int, int]:
    """(decoder, encoder) lengths of at most `length` in the ratio that the data fills, so that neither side is padding.

    At most one pair in a thousand that fits `length` on both sides is cut for it.
    """
    stores = [source.train for source in prepared.sources if not source.flat]
    given = np.concatenate([np.zeros(0, np.int64), *(pair_lengths(store, prepared.special)[0] for store in stores)])
    answer = np.concatenate([np.zeros(0, np.int64), *(pair_lengths(store, prepared.special)[1] for store in stores)])
    if not stores:  # plain text alone: as long as a corrupted piece and what restores it
        sentinels = len(sentinel_ids(prepared.special))
        encoder, decoder = row_lengths(longest_piece(length, length, sentinels), True, sentinels)
        return decoder, encoder
    if not answer.sum():
        return length, length
    ratio = float(np.minimum(given, length).sum() / np.minimum(answer, length).sum())
    if ratio >= 1:
        return max(_rounded(length / ratio), min(int(np.quantile(answer, 0.999)), length)), length
    return length, max(_rounded(length * ratio), min(int(np.quantile(given, 0.999)), length))


def _rounded(value: float) -> int:
    """To a multiple of 8, which tensor cores like, or of less where that would leave more than a hundredth empty."""
    step = min(8, max(1, round(value) // 64))
    return max(8, round(value / step) * step)
