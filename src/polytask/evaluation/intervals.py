"""95% intervals: how far a figure might lie from what more examples would give."""

import math
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

Interval = tuple[float, float]
NORMAL = 1.959963984540054  # the 97.5% quantile of the normal distribution
RESAMPLES = 1000
LEAST = 100  # resamples below which the ends of an interval mean little


def wilson(successes: float, n: int) -> Interval:
    """The interval of a share, `successes` of `n` (Wilson 1927); it stays within 0 and 1 and has a width at both ends.

    Raises ValueError unless 0 <= successes <= n and n > 0.
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is no share")
    share, square = successes / n, NORMAL**2 / n
    middle = (share + square / 2) / (1 + square)
    half = NORMAL / (1 + square) * math.sqrt(share * (1 - share) / n + square / (4 * n))
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    return low, 1.0 if successes == n else min(1.0, middle + half)


def bootstrap(values: Sequence[float] | np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """The percentile interval of the mean of `values` (Efron 1979), rows drawn with replacement."""
    array = np.asarray(values, dtype=np.float64)
    return percentile([array[rows].mean() for rows in draws(len(array), resamples, seed)])


def bootstrap_of(
    measure: Callable[[np.ndarray], Mapping[str, float]], count: int, resamples: int = RESAMPLES, seed: int = 0,
    seconds: float = math.inf,
) -> tuple[dict[str, Interval], int]:  # fmt: skip
    """Percentile intervals of figures that are no means: `measure` gets the rows of each resample (count,).

    Returns (intervals by name, how many resamples there were): fewer where `seconds` do not suffice for all; no
    intervals where they do not suffice for LEAST. A name that a resample lacks is judged by the others.
    """
    found: dict[str, list[float]] = {}
    start, done = time.monotonic(), 0
    for rows in draws(count, resamples, seed):
        for name, value in measure(rows).items():
            if math.isfinite(value):
                found.setdefault(name, []).append(value)
        done += 1
        spent = time.monotonic() - start
        if spent > seconds or (done <= LEAST and spent / done * LEAST > 2 * seconds):
            break
    if done < min(LEAST, resamples):
        return {}, done
    return {name: percentile(values) for name, values in found.items()}, done


def draws(count: int, resamples: int, seed: int):
    """Rows (count,) of each resample; the same for the same seed."""
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield generator.integers(0, count, count)


def percentile(values: Sequence[float]) -> Interval:
    """The middle 95% of resampled figures."""
    low, high = np.percentile(np.asarray(values, dtype=np.float64), [2.5, 97.5])
    return float(low), float(high)
