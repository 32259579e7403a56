"""Which steps are not to be taken: those whose loss is no number, or far above the ones before it."""

import math
import statistics
from collections.abc import Mapping, Sequence

WINDOW = 128  # steps looked back on
ENOUGH = 32  # steps before which nothing is called a spike
NORMAL = 1.4826  # median absolute deviation of a normal distribution, in standard deviations

Losses = Mapping[str, Sequence[float]]  # of one step, by source: the sum of its losses and their weight


def fault(loss: float, norm: float, losses: Losses, recent: Sequence[Losses], spike: float) -> str | None:
    """Why a step is bad, or None. `recent` are good steps' losses; `spike` is in standard deviations, 0 for never.

    Each source is compared with itself, so that a step or a stage with more of a hard one is no spike; what a source
    costs that has not been seen is not known. The deviation is estimated from the median, which outliers cannot move;
    the loss must be a tenth above what is expected as well, since losses that hardly differ would otherwise make
    anything a spike.
    """
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if not math.isfinite(norm):
        return f"the gradient's norm is {norm}"
    if not spike or len(recent) < ENOUGH:
        return None
    seen: dict[str, list[float]] = {}
    for step in recent:
        for source, (total, weight) in step.items():
            seen.setdefault(source, []).append(total / weight)
    usual = {source: statistics.median(values) for source, values in seen.items()}
    expected, over = _against(usual, losses)
    others = [_against(usual, step)[1] for step in recent]
    median = statistics.median(others)
    deviation = NORMAL * statistics.median(abs(value - median) for value in others)
    if over - median > max(spike * deviation, 0.1 * abs(expected)):
        return f"the loss of {expected + over:.4g} is far above the last ones, where it would be {expected:.4g}"
    return None


def _against(usual: Mapping[str, float], losses: Losses) -> tuple[float, float]:
    """(the mean loss that a step of these weights would usually have, how far its own is above that)"""
    weights = sum(weight for _, weight in losses.values())
    expected = sum(weight * usual.get(source, total / weight) for source, (total, weight) in losses.items()) / weights
    return expected, sum(total for total, _ in losses.values()) / weights - expected
