"""Learning rates: small functions with one signature, (step, config) -> rate; the first step is 0."""

import math
from typing import TYPE_CHECKING

from polytask.registry import Registry

if TYPE_CHECKING:
    from polytask.training.config import TrainingConfig


def _warm(step: int, config: "TrainingConfig") -> float:
    """Linear rise to 1 over `warmup` steps; never 0, so that the first step counts."""
    return min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0


def constant(step: int, config: "TrainingConfig") -> float:
    return config.lr * _warm(step, config)


def cosine(step: int, config: "TrainingConfig") -> float:
    """Half a cosine from lr to min_lr after the warm-up (Brown et al. 2020, appendix B)."""
    if step < config.warmup:
        return config.lr * _warm(step, config)
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def inverse_sqrt(step: int, config: "TrainingConfig") -> float:
    """Linear rise, then the inverse square root of the step (Vaswani et al. 2017, equation 3).

    With lr = `transformer_peak(d_model, warmup)` it is that equation exactly.
    """
    warmup = max(1, config.warmup)
    return config.lr * min((step + 1) / warmup, math.sqrt(warmup / (step + 1)))


def transformer_peak(d_model: int, warmup: int) -> float:
    """The highest rate of the Transformer's schedule, d_model^-0.5 warmup^-0.5 (Vaswani et al. 2017, equation 3)."""
    return (d_model * warmup) ** -0.5


def wsd(step: int, config: "TrainingConfig") -> float:
    """Warm-up, a long stable part, and a decay by 1 - sqrt at the end (Hägele et al. 2024, section 3).

    A run can go on from any checkpoint of its stable part: only the decay knows where the end is.
    """
    decay = min(config.decay or math.ceil(config.steps / 5), config.steps - config.warmup)
    left = config.steps - step
    if left > decay or decay == 0:
        return config.lr * _warm(step, config)
    share = 1 - math.sqrt((decay - left) / decay)
    return config.min_lr + (config.lr - config.min_lr) * share


SCHEDULES = Registry("schedule", {"cosine": cosine, "inverse_sqrt": inverse_sqrt, "wsd": wsd, "constant": constant})


def learning_rate(step: int, config: "TrainingConfig") -> float:
    return SCHEDULES.get(config.schedule)(step, config)
