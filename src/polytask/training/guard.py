"""Which steps are not to be taken: those whose loss is no number, or far above the ones before it."""

import math
import statistics
from collections.abc import Sequence

WINDOW = 128  # losses looked back on
ENOUGH = 32  # losses before which nothing is called a spike
NORMAL = 1.4826  # median absolute deviation of a normal distribution, in standard deviations


def fault(loss: float, norm: float, recent: Sequence[float], spike: float) -> str | None:
    """Why a step is bad, or None. `recent` are losses of good steps; `spike` is in standard deviations, 0 for never.

    The deviation is estimated from the median, which outliers cannot move; the loss must be a tenth above the median
    as well, since losses that hardly differ would otherwise make anything a spike.
    """
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if not math.isfinite(norm):
        return f"the gradient's norm is {norm}"
    if not spike or len(recent) < ENOUGH:
        return None
    median = statistics.median(recent)
    deviation = NORMAL * statistics.median(abs(value - median) for value in recent)
    limit = median + max(spike * deviation, 0.1 * abs(median))
    if loss > limit:
        return f"the loss of {loss:.4g} is far above the last ones, {median:.4g} in the middle"
    return None
