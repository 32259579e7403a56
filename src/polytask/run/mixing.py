"""Mixtures of a run whose steps are of several micro-batches."""

from dataclasses import replace

from polytask.data.mixture import Mixture


def by_micro_batch(mixture: Mixture, accumulate: int) -> Mixture:
    """Stages that end at a step, in micro-batches; a share of the run stays one."""

    def end(until: float | int) -> float | int:
        return until if isinstance(until, float) and until <= 1 else until * accumulate

    return replace(mixture, stages=tuple((end(until), weights) for until, weights in mixture.stages))
