"""Which row of which source comes next: a pure function of (seed, step, row in the batch).

Nothing is remembered, so a run resumes at any step at once, and any number of ranks or workers sees the same data.
Sources (those that share rows as one) take turns in a fixed cycle that holds each of them as often as its share says,
spread evenly; the k-th row drawn from a source is row `permutation(seed, source, epoch)[k]` of it, computed without
storing the permutation.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce

import numpy as np

from polytask.errors import ConfigError
from polytask.registry import nearest

PERIOD = 65_536  # the longest cycle of turns; shares that need a longer one are off by less than one in this
_ROUNDS = 4  # Luby and Rackoff 1988: four rounds of a Feistel network look like a random permutation


def expect_names(names: Sequence[str]) -> None:
    """Raises ConfigError where two sources have one name."""
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"Two sources are called '{name}'; give each its own name.")


@dataclass(frozen=True)
class Mixture:
    """How much of each source a run sees, as shares of rows, hence of tokens.

    weights       by source name; those not named get none. None: by size ** (1 / temperature) (Devlin et al. 2018)
    temperature   1 takes sources as large as they are; larger values even them out
    stages        (until, weights), ...: `until` is a step, or a fraction of the run where it is a float up to 1.0;
                  the last stage goes on to the end
    """

    weights: Mapping[str, float] | None = None
    temperature: float = 1.0
    stages: tuple[tuple[float | int, Mapping[str, float]], ...] = ()

    @classmethod
    def stated(cls, weights: Mapping[str, float | None]) -> "Mixture":
        """By the weights that sources state (1 where one states none), or by size where none does."""
        if all(weight is None for weight in weights.values()):
            return cls()
        return cls({name: 1.0 if weight is None else weight for name, weight in weights.items()})

    def definite(
        self,
        names: Sequence[str],
        documents: Sequence[int],
        total_steps: int | None = None,
        sizes: Sequence[float] | None = None,
    ) -> list[tuple[int, list[float]]]:
        """(last step, share of each source) of every stage, for these sources of so many `documents`.

        `sizes` (default: documents) decides where no weights do. Raises ConfigError for unknown names, negative
        weights, and stages that are out of order.
        """
        if self.temperature <= 0:
            raise ConfigError(f"The mixture's temperature is {self.temperature}; it must be above 0.")
        stages: list[tuple[int, list[float]]] = []
        for until, weights in self.stages or ((1.0, self.weights),):
            stages.append((_step(until, total_steps), self._shares(weights, names, documents, sizes or documents)))
            if len(stages) > 1 and stages[-1][0] <= stages[-2][0]:
                raise ConfigError(f"The mixture's stages must end one after another; stage {len(stages)} does not.")
        return stages

    def _shares(
        self,
        weights: Mapping[str, float] | None,
        names: Sequence[str],
        documents: Sequence[int],
        sizes: Sequence[float],
    ) -> list[float]:
        if weights is None:
            shares = [size ** (1 / self.temperature) if size > 0 else 0.0 for size in sizes]
        else:
            for name, weight in weights.items():
                if name not in names:
                    raise ConfigError(f"The mixture names source '{name}', not in the data: {nearest(name, names)}")
                if not (weight >= 0 and math.isfinite(weight)):
                    raise ConfigError(f"The mixture gives source '{name}' the weight {weight}; it must be 0 or more.")
            shares = [float(weights.get(name, 0.0)) for name in names]
        for name, share, count in zip(names, shares, documents, strict=True):
            if share > 0 and not count:
                raise ConfigError(f"Source '{name}' has no rows to train on; add data or set its weight to 0.")
        if not sum(shares) > 0:
            raise ConfigError("The mixture gives every source the weight 0; give at least one a positive weight.")
        return shares


def _step(until: float | int, total_steps: int | None) -> int:
    if isinstance(until, float) and until <= 1.0:
        if until == 1.0:
            return 2**62
        if total_steps is None:
            raise ConfigError(f"A stage ends at the fraction {until} of a run without a number of steps; give a step.")
        return round(until * total_steps)
    return int(until)


class Draw:
    """Turns of sources with so many `rows` each, by their shares in `stages`; see `index`."""

    def __init__(self, rows: Sequence[int], stages: Sequence[tuple[int, Sequence[float]]], batch_rows: int, seed: int):
        self.rows = np.asarray(rows, dtype=np.int64)
        self.batch_rows = batch_rows
        self.seed = seed
        self._cycles = [_Cycle(weights) for _, weights in stages]
        ends = [until * batch_rows for until, _ in stages[:-1]]
        self._starts = np.array([0, *ends], dtype=np.int64)  # the first draw of each stage
        before = [np.zeros(len(self.rows), dtype=np.int64)]
        for cycle, start, end in zip(self._cycles, self._starts, ends):
            before.append(before[-1] + cycle.counts(np.array([end - start]))[0])
        self._before = np.stack(before)  # (stages, sources): rows drawn before a stage

    def index(self, step: int, row: int) -> tuple[int, int]:
        """(source, row of it) for one row of the global batch of a step."""
        source, chosen, _ = self.indices(step, np.array([row]))
        return int(source[0]), int(chosen[0])

    def indices(self, step: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(sources, rows of them, epochs), each (B,) int64, for `rows` (B,) of the global batch of a step."""
        number = step * self.batch_rows + np.asarray(rows, dtype=np.int64)
        stage = np.searchsorted(self._starts, number, side="right") - 1
        source = np.empty_like(number)
        draw = np.empty_like(number)
        for s in np.unique(stage):
            at = stage == s
            source[at], seen = self._cycles[s].turns(number[at] - self._starts[s])
            draw[at] = seen + self._before[s, source[at]]
        epoch, place = np.divmod(draw, self.rows[source])
        chosen = np.empty_like(number)
        for key in set(zip(source.tolist(), epoch.tolist())):
            at = (source == key[0]) & (epoch == key[1])
            chosen[at] = permute(place[at], int(self.rows[key[0]]), (self.seed, *key))
        return source, chosen, epoch

    def epochs(self, step: int) -> np.ndarray:
        """How often each source was gone through before this step, (sources,) float64."""
        number = np.array([step * self.batch_rows])
        stage = int(np.searchsorted(self._starts, number, side="right")[0]) - 1
        drawn = self._before[stage] + self._cycles[stage].counts(number - self._starts[stage])[0]
        return drawn / np.maximum(self.rows, 1)


class _Cycle:
    """A sequence of sources that repeats; each comes as often as its share says, at even distances."""

    def __init__(self, weights: Sequence[float]):
        quotas = _quotas(weights)
        self.period = int(quotas.sum())
        source = np.repeat(np.arange(len(quotas)), quotas)
        turn = np.arange(self.period) - np.repeat(np.cumsum(quotas) - quotas, quotas)
        # The j-th of q turns is due at (j + 1/2) / q of the cycle; going by due time spreads every source evenly.
        order = np.lexsort((source, (turn + 0.5) / quotas[source]))
        self._source, self._turn = source[order], turn[order]
        self._quotas = quotas
        self._due = [np.flatnonzero(self._source == s) for s in range(len(quotas))]

    def turns(self, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The source of each draw and how often it was drawn before."""
        cycle, place = np.divmod(number, self.period)
        source = self._source[place]
        return source, cycle * self._quotas[source] + self._turn[place]

    def counts(self, number: np.ndarray) -> np.ndarray:
        """How often each source comes among the first `number` (N,) draws: (N, sources)."""
        cycle, place = np.divmod(number, self.period)
        within = np.stack([np.searchsorted(due, place) for due in self._due], axis=1)
        return cycle[:, None] * self._quotas + within


def _quotas(weights: Sequence[float]) -> np.ndarray:
    """Whole numbers in the ratio of `weights`: exact where they sum to at most PERIOD, else the nearest that do."""
    exact = [Fraction(str(float(weight))) for weight in weights]
    total = sum(exact)
    shares = [weight / total for weight in exact]
    period = reduce(math.lcm, (share.denominator for share in shares), 1)
    if period <= PERIOD:
        return np.array([int(share * period) for share in shares], dtype=np.int64)
    ideal = np.array([float(share) for share in shares]) * PERIOD
    quotas = np.floor(ideal).astype(np.int64)
    quotas[np.argsort(quotas - ideal, kind="stable")[: PERIOD - int(quotas.sum())]] += 1
    quotas[(quotas == 0) & (ideal > 0)] = 1  # a rare source still comes
    return quotas


def permute(places: np.ndarray, size: int, key: tuple[int, ...]) -> np.ndarray:
    """`places` (N,) in 0..size-1 under a permutation that `key` chooses, in constant memory.

    A Feistel network permutes the next power of four; results outside are sent round again (cycle walking, Black and
    Rogaway 2002), on average fewer than four times.
    """
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    keys = [number(*key, r) for r in range(_ROUNDS)]
    result = np.asarray(places).astype(np.uint64)
    todo = np.arange(len(result))
    while len(todo):
        value = result[todo]
        left, right = value >> shift, value & mask
        for k in keys:
            left, right = right, left ^ (scramble(right ^ k) & mask)
        value = (left << shift) | right
        result[todo] = value
        todo = todo[value >= size]
    return result.astype(np.int64)


def scramble(value: np.ndarray) -> np.ndarray:
    """A 64-bit mix in which every bit of the input reaches every bit of the output (SplitMix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        value = value + np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))


def number(*key: int) -> np.uint64:
    """A random-looking 64-bit number that depends on every part of the key and on their order."""
    state = np.zeros(1, dtype=np.uint64)
    for part in key:
        state = scramble(state ^ np.uint64(part % 2**64))
    return state[0]
