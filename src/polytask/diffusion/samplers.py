"""From noise to a picture: a catalogue of small samplers with one signature.

A sampler is a generator. It yields what it wants to know, a picture and its moment, is sent the `Estimate` of the clean
picture there, and returns what it has drawn. So whoever drives it decides how networks are run: `draw` for one batch,
`inference.images` for many requests at once, each at a step and with a sampler of its own.
"""

import math
from collections.abc import Callable, Generator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from polytask.diffusion.process import Prediction, clean, epsilon, learned_range, posterior
from polytask.diffusion.schedule import Moment, Schedule, path
from polytask.errors import SamplingError
from polytask.registry import Registry

Denoiser = Callable[[Tensor, Tensor], Tensor]  # x (B, C, H, W), t (B,) -> what was predicted, (B, C or 2 C, H, W)


class Query(NamedTuple):
    """What a sampler wants to have estimated; number: of the step, from 1."""

    x: Tensor
    now: Moment
    number: int


class Estimate(NamedTuple):
    """The clean picture, and the output from -1 to 1 that chooses the variance where a network learned to."""

    x0: Tensor
    variance: Tensor | None = None


Sampling = Generator[Query, Estimate, Tensor]
Sampler = Callable[..., Sampling]


def ddpm(
    way: Sequence[Moment], x: Tensor, generator: torch.Generator | None = None, *, eta: float = 1.0, gamma: float = 0.0
) -> Sampling:
    """Ancestral sampling (Ho et al. 2020, algorithm 2), over any of the steps (Nichol and Dhariwal 2021, section 4).

    gamma: between the variance of the posterior (0) and that of the step (1), in logarithms, where the network has not
    learned it (Saharia et al. 2022, section 2.1). eta: noise is multiplied by it.
    """
    for number, (now, then) in enumerate(pairwise(way), 1):
        x0, learned = yield Query(x, now, number)
        mean = posterior(x0, x, now.alpha_bar, then.alpha_bar).mean
        x = mean
        if then.alpha_bar < 1:
            chosen = torch.full_like(x0[:1, :1, :1, :1], 2 * gamma - 1) if learned is None else learned
            deviation = (0.5 * learned_range(chosen, now.alpha_bar, then.alpha_bar)).exp()
            x = mean + eta * deviation * _noise(x, generator)
    return x


def ddim(
    way: Sequence[Moment], x: Tensor, generator: torch.Generator | None = None, *, eta: float = 0.0, gamma: float = 0.0
) -> Sampling:
    """Deterministic at eta 0, and as noisy as DDPM at 1 (Song et al. 2021, equation 12)."""
    for number, (now, then) in enumerate(pairwise(way), 1):
        x0, _ = yield Query(x, now, number)
        deviation = eta * then.noise / now.noise * math.sqrt(1 - now.alpha_bar / then.alpha_bar)
        direction = math.sqrt(max(0.0, 1 - then.alpha_bar - deviation**2))
        x = then.signal * x0 + direction * epsilon(x0, x, now.alpha_bar)
        if deviation:
            x = x + deviation * _noise(x, generator)
    return x


def euler(
    way: Sequence[Moment], x: Tensor, generator: torch.Generator | None = None, *, eta: float = 0.0, gamma: float = 0.0
) -> Sampling:
    """Steps along the probability flow, dx / dsigma = noise, for pictures scaled to keep theirs (Karras et al. 2022,
    algorithm 1 without its second order)."""
    for number, (now, then) in enumerate(pairwise(way), 1):
        x0, _ = yield Query(x, now, number)
        slope = epsilon(x0, x, now.alpha_bar)
        x = then.signal * (x / now.signal + (then.sigma - now.sigma) * slope)
    return x


def heun(
    way: Sequence[Moment], x: Tensor, generator: torch.Generator | None = None, *, eta: float = 0.0, gamma: float = 0.0
) -> Sampling:
    """The mean of the slopes at both ends of a step, but for the last (Karras et al. 2022, algorithm 1): two estimates
    a step."""
    for number, (now, then) in enumerate(pairwise(way), 1):
        x0, _ = yield Query(x, now, number)
        slope, stride = epsilon(x0, x, now.alpha_bar), then.sigma - now.sigma
        there = then.signal * (x / now.signal + stride * slope)
        if then.alpha_bar < 1:
            x0, _ = yield Query(there, then, number)
            slope = (slope + epsilon(x0, there, then.alpha_bar)) / 2
            there = then.signal * (x / now.signal + stride * slope)
        x = there
    return x


def dpm_solver(
    way: Sequence[Moment], x: Tensor, generator: torch.Generator | None = None, *, eta: float = 0.0, gamma: float = 0.0
) -> Sampling:
    """DPM-Solver++ (2M): a straight line through the last two estimates in log-SNR (Lu et al. 2022, algorithm 2); the
    first step and the last are of first order."""
    before, past = None, 0.0
    for number, (now, then) in enumerate(pairwise(way), 1):
        x0, _ = yield Query(x, now, number)
        ahead = x0
        if then.alpha_bar == 1:
            return x0
        stride = math.log(now.sigma / then.sigma)
        if before is not None:
            ahead = torch.lerp(before, x0, 1 + stride / (2 * past))
        x = then.noise / now.noise * x - then.signal * math.expm1(-stride) * ahead
        before, past = x0, stride
    return x


def ddim_inversion(
    way: Sequence[Moment], x: Tensor, generator: torch.Generator | None = None, *, rounds: int = 2
) -> Sampling:
    """Against the way: the noise from which `ddim` draws, nearly, the picture x (Dhariwal and Nichol 2021, appendix F;
    Ramesh et al. 2022, section 3).

    A step's noise is what the network finds at the moment that the step goes to. With one round it is asked about the
    picture before the step, as published; every further one asks again about the picture that came of the last (Pan et
    al. 2023, section 3), and what is drawn comes closer to x.
    """
    for number, (then, now) in enumerate(pairwise(reversed(way)), 1):
        seen = x
        for _ in range(rounds):
            x0, _ = yield Query(seen, now, number)
            found = epsilon(x0, seen, now.alpha_bar)
            seen = now.signal * (x - then.noise * found) / then.signal + now.noise * found
        x = seen
    return x


def _noise(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Drawn where the generator is, so that a seed on the CPU gives the same on every machine."""
    device = x.device if generator is None else generator.device
    return torch.randn(x.shape, generator=generator, device=device, dtype=x.dtype).to(x.device)


SAMPLERS = Registry("sampler", {"ddpm": ddpm, "ddim": ddim, "euler": euler, "heun": heun, "dpm_solver": dpm_solver})


def estimate(kind: Prediction, output: Tensor, x: Tensor, now: Moment) -> Estimate:
    """What an output (B, C or 2 C, H, W) of that kind means; a second half is of the variance."""
    said, variance = output.split(x.shape[1], dim=1) if output.shape[1] == 2 * x.shape[1] else (output, None)
    return Estimate(clean(kind, said, x, now.alpha_bar), variance)


def check(x0: Tensor, number: int, of: int) -> None:
    """Raises SamplingError where an estimate is no picture any more."""
    if not torch.isfinite(x0).all():
        raise SamplingError(
            f"Drawing stopped at step {number} of {of}: the network's estimate is not finite. Lower the guidance, set "
            "a thresholding, or draw in float32."
        )


def draw(
    denoiser: Denoiser, x: Tensor, schedule: Schedule, steps: int, *, sampler: str = "ddim", spacing: str = "trailing",
    prediction: Prediction = "epsilon", threshold: Callable[[Tensor], Tensor] | None = None,
    generator: torch.Generator | None = None, **words: float,
) -> Tensor:  # fmt: skip
    """The pictures (B, C, H, W) that noise x becomes in `steps` steps; `words` are the sampler's eta and gamma.

    Raises ConfigError for an unknown sampler, with the nearest name, and for steps out of range, and SamplingError
    where an estimate is not finite.
    """
    way = path(schedule, steps, spacing)
    sampling = SAMPLERS.get(sampler)(way, x, generator, **words)
    try:
        query = next(sampling)
        while True:
            t = torch.full((len(x),), query.now.t, device=x.device)
            found = estimate(prediction, denoiser(query.x, t), query.x, query.now)
            check(found.x0, query.number, steps)
            query = sampling.send(found if threshold is None else found._replace(x0=threshold(found.x0)))
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
