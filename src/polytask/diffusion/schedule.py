"""How much noise there is at each step: a catalogue of small functions with one signature, steps -> betas (steps,).

All of them are float64, and of steps 0 (almost clean) to steps - 1 (almost noise). A picture at step t is
sqrt(alpha_bar[t]) x0 + sqrt(1 - alpha_bar[t]) noise (Ho et al. 2020, equation 4).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from polytask.errors import ConfigError
from polytask.registry import Registry

MOST = 0.999  # of beta, so that no step loses everything (Nichol and Dhariwal 2021, section 3.2)


def linear(steps: int) -> Tensor:
    """From 1e-4 to 0.02 for 1000 steps, and as much noise in all for any other number (Ho et al. 2020, section 4)."""
    scale = 1000 / steps
    return torch.linspace(1e-4 * scale, 0.02 * scale, steps, dtype=torch.float64).clamp(max=MOST)


def cosine(steps: int) -> Tensor:
    """alpha_bar falls as a squared cosine (Nichol and Dhariwal 2021, equation 17, s = 0.008)."""
    return _betas(cosine_alpha_bar, steps)


def sigmoid(steps: int) -> Tensor:
    """alpha_bar falls as a sigmoid from -3 to 3 (Jabri et al. 2022, algorithm 1, temperature 1)."""
    return _betas(sigmoid_alpha_bar, steps)


def cosine_alpha_bar(time: Tensor) -> Tensor:
    """For continuous time from 0 to 1; 1 at time 0."""
    s = 0.008
    return (torch.cos((time + s) / (1 + s) * math.pi / 2) / math.cos(s / (1 + s) * math.pi / 2)).square()


def sigmoid_alpha_bar(time: Tensor) -> Tensor:
    """For continuous time from 0 to 1; 1 at time 0 and 0 at time 1."""
    start, end = 1 / (1 + math.exp(3)), 1 / (1 + math.exp(-3))
    return (end - torch.sigmoid(6 * time - 3)) / (end - start)


def _betas(alpha_bar: Callable[[Tensor], Tensor], steps: int) -> Tensor:
    kept = alpha_bar(torch.linspace(0, 1, steps + 1, dtype=torch.float64))
    return (1 - kept[1:] / kept[:-1]).clamp(max=MOST)


SCHEDULES = Registry("noise schedule", {"linear": linear, "cosine": cosine, "sigmoid": sigmoid})


class Moment(NamedTuple):
    """A place on the way from noise to a picture: the step t, which a network is told and which may lie between two
    steps, and the share of the picture's variance there. The end of every way is `CLEAN`."""

    t: float
    alpha_bar: float

    @property
    def signal(self) -> float:
        """What a picture is multiplied by."""
        return math.sqrt(self.alpha_bar)

    @property
    def noise(self) -> float:
        """What noise is multiplied by."""
        return math.sqrt(1 - self.alpha_bar)

    @property
    def sigma(self) -> float:
        """Noise for each unit of picture (Karras et al. 2022)."""
        return self.noise / self.signal


CLEAN = Moment(-1.0, 1.0)


@dataclass(frozen=True)
class Schedule:
    """A schedule by name. Raises ConfigError for an unknown name, with the nearest, and for less than one step."""

    name: str = "cosine"
    steps: int = 1000

    def __post_init__(self) -> None:
        SCHEDULES.get(self.name)
        if not isinstance(self.steps, int) or self.steps < 1:
            raise ConfigError(f"schedule: steps={self.steps!r} must be a whole number of at least 1")

    @cached_property
    def betas(self) -> Tensor:
        """Variance that each step adds, (steps,) float64."""
        return SCHEDULES.get(self.name)(self.steps)

    @cached_property
    def alpha_bar(self) -> Tensor:
        """Share of the picture's variance that is left at each step, (steps,) float64."""
        return torch.cumprod(1 - self.betas, dim=0)

    @cached_property
    def log_snr(self) -> Tensor:
        """log(alpha_bar / (1 - alpha_bar)), (steps,) float64."""
        return torch.logit(self.alpha_bar)

    def at(self, t: Tensor) -> Tensor:
        """alpha_bar at the steps t (B,) as (B, 1, 1, 1), float32, on the device of t."""
        return self.alpha_bar.to(t.device)[t].float().view(-1, 1, 1, 1)

    def moments(self, times: list[int]) -> list[Moment]:
        """The way through those steps, noisiest first, to the clean picture."""
        return [*(Moment(float(t), float(self.alpha_bar[t])) for t in times), CLEAN]


def trailing(schedule: Schedule, count: int) -> list[Moment]:
    """Even, from the last step on, so that drawing begins where training ended (Lin et al. 2023, table 2)."""
    stride = schedule.steps / count
    return schedule.moments([round(schedule.steps - i * stride) - 1 for i in range(count)])


def leading(schedule: Schedule, count: int) -> list[Moment]:
    """Even, down to step 0 (Song et al. 2021)."""
    stride = schedule.steps // count
    return schedule.moments([i * stride for i in reversed(range(count))])


def karras(schedule: Schedule, count: int) -> list[Moment]:
    """Dense where there is little noise: even in sigma^(1/7) (Karras et al. 2022, equation 5)."""
    sigmas = (-schedule.log_snr / 2).exp()
    first, last = float(sigmas[-1]) ** (1 / 7), float(sigmas[0]) ** (1 / 7)
    found = [(first + (last - first) * i / max(1, count - 1)) ** 7 for i in range(count)]
    return [*(Moment(_step_of(schedule, sigma), 1 / (1 + sigma**2)) for sigma in found), CLEAN]


def _step_of(schedule: Schedule, sigma: float) -> float:
    """The step, perhaps between two, at which there is that much noise; log sigma is even between neighbours."""
    logs, wanted = -schedule.log_snr / 2, math.log(sigma)
    above = int(torch.searchsorted(logs, wanted).clamp(1, schedule.steps - 1)) if schedule.steps > 1 else 0
    if above == 0:
        return 0.0
    low, high = float(logs[above - 1]), float(logs[above])
    return above - 1 + min(1.0, max(0.0, (wanted - low) / (high - low)))


SPACINGS = Registry("spacing", {"trailing": trailing, "leading": leading, "karras": karras})


def path(schedule: Schedule, count: int, spacing: str = "trailing") -> list[Moment]:
    """The moments of a drawing of `count` steps, noisiest first, with the clean picture at the end.

    Raises ConfigError where the schedule has not so many steps.
    """
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= schedule.steps:
        raise ConfigError(
            f"steps={count!r} must be a whole number from 1 to {schedule.steps}, those of training.", "steps"
        )
    return SPACINGS.get(spacing)(schedule, count)  # type: ignore[no-any-return]
