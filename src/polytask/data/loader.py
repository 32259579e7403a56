"""Batches by step number: `loader.batch(step)` depends on nothing but its arguments.

Rank r of w holds rows r, r + w, ... of the global batch, so the data of a step is the same for any number of ranks,
and a run that resumes asks for its step and gets what it would have got.
"""

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from polytask.data.arrange import (
    Arrangement,
    Arrays,
    Corrupted,
    Flat,
    Packed,
    Pairs,
    Report,
    epoch_draws,
    longest_piece,
    pair_lengths,
    row_lengths,
)
from polytask.data.convert import OBJECTIVES, Objective, sentinel_ids
from polytask.data.mixture import Mixture
from polytask.data.store import Store
from polytask.errors import ConfigError, DataError
from polytask.registry import nearest

if TYPE_CHECKING:
    from polytask.data.batch import Batch
    from polytask.data.prepare import Prepared


_CORRUPTING = ("span_corruption", "seq2seq")


class Loader:
    """Rows of `context_length` positions from prepared sources.

    batch_rows       rows of the global batch, over all ranks
    mixture          shares of the sources; without one, the weights that the sources state, else their sizes
    objective        "next_token", "prefix", "span_corruption" or "seq2seq" (where plain text is span corruption)
    encoder_length   positions of the encoder; with "seq2seq" the default is fitted to the data, and the decoder gets
                     fewer than `context_length` where its side is the shorter one
    total_steps      needed where the mixture's stages end at fractions of the run
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
    ):
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
        self._train = [self._arrange(index, source.train) for index, source in enumerate(prepared.sources)]
        self._held: dict[int, Arrangement] = {}  # of held-out rows, made when they are first asked for
        self.rows = [arrangement.rows for arrangement in self._train]
        if not any(self.rows):
            raise DataError("The data has no training examples; add rows or hold out a smaller share.")
        sizes = [source.train.counts.tokens for source in prepared.sources]
        mixture = mixture or prepared.mixture()
        self.draw = mixture.draw(prepared.names, self.rows, batch_rows, seed, total_steps, sizes)

    def batch(self, step: int) -> "Batch":
        """This rank's rows of a step."""
        mine = np.arange(self.rank, self.batch_rows, self.world)
        sources, rows, epochs = self.draw.indices(step, mine)
        return self._assemble(self._train, sources, rows, epochs)

    def batches(self, start: int = 0, stop: int | None = None, ahead: int = 2) -> "Iterator[Batch]":
        """Batches of steps `start` to `stop`, assembled by a thread up to `ahead` steps before they are asked for."""
        steps = range(start, stop if stop is not None else 2**62)
        if ahead < 1:
            yield from map(self.batch, steps)
            return
        ready: queue.Queue = queue.Queue(maxsize=ahead)
        stopped = threading.Event()

        def work() -> None:
            for step in steps:
                try:
                    item = self.batch(step)
                except BaseException as error:  # raised again where the batch is asked for
                    item = error
                while not stopped.is_set():
                    try:
                        ready.put(item, timeout=0.1)
                        break
                    except queue.Full:
                        continue
                if stopped.is_set() or isinstance(item, BaseException):
                    return

        thread = threading.Thread(target=work, name="polytask-loader", daemon=True)
        thread.start()
        try:
            for _ in steps:
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stopped.set()
            thread.join()

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
            self._held[index] = self._arrange(index, chosen.validation)
        arrangement = self._held[index]
        arrangements: list[Arrangement] = [arrangement] * len(self.prepared.sources)
        count = -(-arrangement.rows // self.batch_rows)
        for step in range(count if limit is None else min(count, limit)):
            rows = step * self.batch_rows + np.arange(self.rank, self.batch_rows, self.world)
            sources = np.where(rows < arrangement.rows, index, -1)
            yield self._assemble(arrangements, sources, rows, np.zeros_like(rows))

    def epochs(self, step: int) -> dict[str, float]:
        """How often each source was gone through before this step."""
        return dict(zip(self.prepared.names, self.draw.epochs(step).tolist()))

    def report(self) -> dict[str, Report]:
        """For each source, what its rows hold, what was cut and how much is padding."""
        return {name: arrangement.report for name, arrangement in zip(self.prepared.names, self._train)}

    def _named(self, name: str) -> int:
        if name not in self.prepared.names:
            raise ConfigError(f"Unknown source '{name}': {nearest(name, self.prepared.names)}")
        return self.prepared.names.index(name)

    def _arrange(self, index: int, store: Store) -> Arrangement:
        special, flat, objective = self.prepared.special, self.prepared.sources[index].flat, self.objectives[index]
        if flat and objective in _CORRUPTING:
            return Corrupted(store, self.length, self.encoder_length, special)
        if self.encoder_length is not None:
            return Pairs(store, self.length, self.encoder_length, special)
        return (Flat if flat else Packed)(store, self.length, objective == "prefix")

    def _arrays(self, rows: int) -> Arrays:
        shape = (rows, self.length)
        pad = self.prepared.special["<|pad|>"]
        arrays: Arrays = {
            "ids": np.full(shape, pad, np.int64),
            "targets": np.full(shape, pad, np.int64),
            "positions": np.zeros(shape, np.int64),
            "documents": np.zeros(shape, np.int64),
            "weights": np.zeros(shape, np.float32),
        }
        if self.encoder_length is None and any(objective == "prefix" for objective in self.objectives):
            arrays["prefix"] = np.zeros(shape, bool)
        if self.encoder_length is not None:
            shape = (rows, self.encoder_length)
            arrays["encoder_ids"] = np.full(shape, pad, np.int64)
            arrays["encoder_positions"] = np.zeros(shape, np.int64)
            arrays["encoder_documents"] = np.zeros(shape, np.int64)
        return arrays

    def _assemble(
        self, arrangements: Sequence[Arrangement], sources: np.ndarray, rows: np.ndarray, epochs: np.ndarray
    ) -> "Batch":
        import torch

        from polytask.data.batch import Batch

        arrays = self._arrays(len(rows))
        draws = epoch_draws(self.seed, sources, epochs)
        for source in np.unique(sources[sources >= 0]).tolist():
            slots = np.flatnonzero(sources == source)
            arrangements[source].fill(arrays, slots, rows[slots], draws[slots])
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return Batch(sources=torch.from_numpy(sources.astype(np.int64)), **tensors)


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
    """To a multiple of 8, which tensor cores like."""
    return max(8, round(value / 8) * 8)
