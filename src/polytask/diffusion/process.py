"""Pictures and noise: how they mix, what a network may predict of them, and what its mistakes weigh.

alpha_bar is a tensor that broadcasts, (B, 1, 1, 1) beside pictures (B, C, H, W), or a number.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from polytask.diffusion.schedule import Schedule
from polytask.errors import ConfigError
from polytask.registry import nearest

Prediction = Literal["epsilon", "x0", "v"]


def check_prediction(kind: str) -> None:
    """Raises ConfigError with the nearest name."""
    if kind not in get_args(Prediction):
        raise ConfigError(f"Unknown prediction '{kind}': {nearest(kind, get_args(Prediction))}")


def noised(x0: Tensor, noise: Tensor, alpha_bar: Any) -> Tensor:
    """x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) noise (Ho et al. 2020, equation 4)."""
    return alpha_bar**0.5 * x0 + (1 - alpha_bar) ** 0.5 * noise


def target(kind: Prediction, x0: Tensor, noise: Tensor, alpha_bar: Any) -> Tensor:
    """What a network of that kind is to say; v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x0 (Salimans and Ho 2022,
    appendix D)."""
    if kind == "v":
        return alpha_bar**0.5 * noise - (1 - alpha_bar) ** 0.5 * x0
    return noise if kind == "epsilon" else x0


def clean(kind: Prediction, output: Tensor, x: Tensor, alpha_bar: Any) -> Tensor:
    """The picture x0 that an output of that kind means, seen x."""
    if kind == "v":
        return alpha_bar**0.5 * x - (1 - alpha_bar) ** 0.5 * output
    return (x - (1 - alpha_bar) ** 0.5 * output) / alpha_bar**0.5 if kind == "epsilon" else output


def epsilon(x0: Tensor, x: Tensor, alpha_bar: Any) -> Tensor:
    """The noise that is left of x where x0 is the picture."""
    return (x - alpha_bar**0.5 * x0) / (1 - alpha_bar) ** 0.5


def spherical(first: Tensor, second: Tensor, share: float) -> Tensor:
    """On the arc from one row to another, both taken as one vector; the length goes evenly (Shoemake 1985). So what is
    between two noises is as large as they are, which on the straight line it is not."""
    one, other = first.flatten(1), second.flatten(1)
    lengths = one.norm(dim=1, keepdim=True), other.norm(dim=1, keepdim=True)
    angle = ((one * other).sum(1, keepdim=True) / (lengths[0] * lengths[1])).clamp(-1, 1).acos()
    apart = angle.sin().clamp(min=1e-6)
    weights = ((1 - share) * angle).sin() / apart, (share * angle).sin() / apart
    near = angle < 1e-4  # where the line and the arc are one
    mixed = torch.where(near, 1 - share, weights[0]) * one / lengths[0]
    mixed = mixed + torch.where(near, share, weights[1]) * other / lengths[1]
    return (mixed * torch.lerp(*lengths, share)).reshape(first.shape)


def min_snr(kind: Prediction, alpha_bar: Tensor, gamma: float = 5.0) -> Tensor:
    """Weights of squared errors that bound the pull of almost clean pictures: min(SNR, gamma) in terms of x0 (Hang et
    al. 2023, section 3.4), and the same loss in terms of the other predictions."""
    snr = alpha_bar / (1 - alpha_bar)
    bounded = snr.clamp(max=gamma)
    return {"x0": bounded, "epsilon": bounded / snr, "v": bounded / (snr + 1)}[kind]


class Gaussian(NamedTuple):
    mean: Tensor
    log_variance: Tensor


def posterior(x0: Tensor, x: Tensor, now: Any, then: Any) -> Gaussian:
    """q(x_then | x_now, x0) for the alpha_bar of both, then >= now (Ho et al. 2020, equation 7).

    Its variance is 0 where `then` is clean; 1e-20 stands for it.
    """
    kept = now / then
    mean = then**0.5 * (1 - kept) / (1 - now) * x0 + kept**0.5 * (1 - then) / (1 - now) * x
    return Gaussian(mean, _log(_between(now, then), mean))


def learned_range(output: Tensor, now: Any, then: Any, least: Any = None) -> Tensor:
    """Log-variance that a network chose by an output from -1 to 1: between that of the posterior, or `least`, a
    variance, and that of the step (Nichol and Dhariwal 2021, equation 15)."""
    share = (output + 1) / 2
    least = _between(now, then) if least is None else least
    return share * _log(1 - now / then, output) + (1 - share) * _log(least, output)


def _between(now: Any, then: Any) -> Any:
    """The posterior's variance."""
    return (1 - then) / (1 - now) * (1 - now / then)


def _log(variance: Any, like: Tensor) -> Tensor:
    return torch.as_tensor(variance, dtype=like.dtype, device=like.device).clamp(min=1e-20).log()


def kl(first: Gaussian, second: Gaussian) -> Tensor:
    """KL divergence in nats, of each number."""
    (m1, v1), (m2, v2) = first, second
    return 0.5 * (v2 - v1 + (v1 - v2).exp() + (m1 - m2).square() * (-v2).exp() - 1)


def discretized_log_likelihood(x0: Tensor, gaussian: Gaussian) -> Tensor:
    """log p of pictures in [-1, 1] of 256 levels, of each number in nats; the outermost levels have all of the tails
    (Ho et al. 2020, equation 13)."""
    scale = (-0.5 * gaussian.log_variance).exp() / math.sqrt(2)
    centred, half = x0 - gaussian.mean, 1 / 255
    above, below = (centred + half) * scale, (centred - half) * scale
    middle = ((torch.erf(above) - torch.erf(below)) / 2).clamp(min=1e-12).log()
    lowest = (torch.erfc(-above) / 2).clamp(min=1e-12).log()
    highest = (torch.erfc(below) / 2).clamp(min=1e-12).log()
    return torch.where(x0 < -0.999, lowest, torch.where(x0 > 0.999, highest, middle))


def bound(x0: Tensor, x: Tensor, t: Tensor, schedule: Schedule, estimate: Tensor, variance: Tensor) -> Tensor:
    """The term of the variational bound at the steps t (B,), in bits per dimension, (B,) (Nichol and Dhariwal 2021,
    section 2). estimate: of x0; variance: the output from -1 to 1 that chooses it.

    The posterior of step 0 has no variance, and no picture is worth the bits that such certainty costs where it is
    wrong: the least that may be chosen there is that of step 1, as in the authors' code.
    """
    now, then = schedule.at(t), torch.where((t > 0).view(-1, 1, 1, 1), schedule.at((t - 1).clamp(min=0)), 1.0)
    noisy = t.clamp(min=min(1, schedule.steps - 1))
    least = _between(schedule.at(noisy), schedule.at((noisy - 1).clamp(min=0)))
    chosen = Gaussian(posterior(estimate, x, now, then).mean, learned_range(variance, now, then, least))
    distance = kl(posterior(x0, x, now, then), chosen)
    likelihood = discretized_log_likelihood(x0, chosen)
    nats = torch.where((t == 0).view(-1, 1, 1, 1), -likelihood, distance)
    return nats.flatten(1).mean(1) / math.log(2)


def prior_bits(x0: Tensor, schedule: Schedule) -> Tensor:
    """Bits per dimension (B,) by which the last step is no pure noise."""
    last = float(schedule.alpha_bar[-1])
    end = Gaussian(last**0.5 * x0, _log(1 - last, x0))
    return kl(end, Gaussian(torch.zeros_like(x0), torch.zeros_like(x0))).flatten(1).mean(1) / math.log(2)


def bits_per_dimension(
    outputs: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], x0: Tensor, schedule: Schedule,
    generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """The variational bound on the code length of pictures x0 (B, C, H, W), (B,), over all steps.

    outputs(x, t): the estimate of x0 and the output from -1 to 1 that chooses the variance.
    """
    total = prior_bits(x0, schedule)
    for step in range(schedule.steps):
        t = torch.full((len(x0),), step, device=x0.device)
        noise = torch.randn(x0.shape, generator=generator, device=x0.device, dtype=x0.dtype)
        x = noised(x0, noise, schedule.at(t).to(x0.dtype))
        estimate, variance = outputs(x, t)
        total = total + bound(x0, x, t, schedule, estimate.clamp(-1, 1), variance)
    return total
