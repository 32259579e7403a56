"""What is done to a network's estimates on the way: small functions on tensors (B, C, H, W)."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from polytask.diffusion.process import noised
from polytask.diffusion.schedule import cosine_alpha_bar
from polytask.errors import ConfigError
from polytask.registry import nearest

Threshold = Callable[[Tensor], Tensor]


def classifier_free(conditional: Tensor, unconditional: Tensor, weight: float | Tensor) -> Tensor:
    """weight c + (1 - weight) u, so that 1 is no guidance (Saharia et al. 2022, equation 2; Ho and Salimans 2022)."""
    return torch.lerp(unconditional, conditional, weight)


def static(x0: Tensor) -> Tensor:
    """Clips to [-1, 1]."""
    return x0.clamp(-1, 1)


def dynamic(x0: Tensor, percentile: float = 0.995, most: float | None = None) -> Tensor:
    """Clips each picture to [-s, s] and divides by s, its percentile of |x0|, where that is above 1 (Saharia et al.
    2022, section 2.3). most: an upper bound on s (DeepFloyd IF has 1.5)."""
    s = quantile(x0.float().abs().flatten(1), percentile).clamp(min=1.0, max=most)
    s = s.to(x0.dtype).view(-1, 1, 1, 1)
    return x0.clamp(-s, s) / s


def quantile(x: Tensor, share: float) -> Tensor:
    """(B,) of x (B, N): what `share` of a row is not above, between two values by linear interpolation.

    torch.quantile is the same for rows of up to 2**24 values and refuses longer ones, such as pictures of 2,400 pixels.
    """
    rank = share * (x.shape[1] - 1)
    below = math.floor(rank)
    top = x.topk(x.shape[1] - below, dim=1).values  # the largest first
    return torch.lerp(top[:, -1], top[:, -2 if top.shape[1] > 1 else -1], rank - below)


THRESHOLDS = ("static", "dynamic", "none")


def thresholding(name: str, percentile: float = 0.995, most: float | None = None) -> Threshold:
    """By name: "none" does nothing. Raises ConfigError for an unknown name or a percentile that is none."""
    if name == "none":
        return lambda x0: x0
    if name == "static":
        return static
    if name != "dynamic":
        raise ConfigError(f"Unknown thresholding '{name}': {nearest(str(name), THRESHOLDS)}")
    if not 0 < percentile <= 1:
        raise ConfigError(f"thresholding: percentile={percentile} must be above 0 and at most 1, such as 0.995")
    return lambda x0: dynamic(x0, percentile, most)


def augmented(low: Tensor, level: Tensor, noise: Tensor) -> Tensor:
    """A low-resolution picture with noise of the levels (B,) from 0 to 1, as the cosine schedule mixes it at that time
    (Saharia et al. 2022, section 2.4; Ho et al. 2021, "Cascaded diffusion models", section 4)."""
    return noised(low, noise, cosine_alpha_bar(level).clamp(0, 1).to(low.dtype).view(-1, 1, 1, 1))


def blurred(low: Tensor, sigma: float) -> Tensor:
    """Under a Gaussian of 3 x 3 pixels, edges repeated: what the first upsampler of DALL-E 2 sees in training, with a
    sigma of 0.6 (Ramesh et al. 2022, section 2.2)."""
    side = torch.exp(torch.tensor([-0.5 / sigma**2, 0.0, -0.5 / sigma**2], dtype=low.dtype, device=low.device))
    kernel = torch.outer(side, side) / side.sum() ** 2
    padded = F.pad(low, (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded, kernel.expand(low.shape[1], 1, 3, 3), groups=low.shape[1])
