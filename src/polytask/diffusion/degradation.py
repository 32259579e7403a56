"""Worse copies of pictures (B, 3, H, W) in [-1, 1], for networks that enlarge to learn from."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

# Annex K of the standard (ITU-T T.81), tables K.1 and K.2.
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99), (18, 21, 26, 66, 99, 99, 99, 99), (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99), *[(99,) * 8] * 4,
)  # fmt: skip
COLOURS = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))  # of JFIF: Y, Cb, Cr
RESIZINGS = ("bilinear", "bicubic", "area")

# What is drawn from, as in BSRGAN's published code at a factor of 4; blur in pixels of the smaller picture.
BLUR, NOISE, QUALITY = (0.1, 0.7), (1 / 255, 25 / 255), (30.0, 95.0)


def bsr(pixels: Tensor, side: int, generator: Generator | None = None) -> Tensor:
    """Smaller pictures (B, 3, side, side), each made worse in a way of its own: two blurs, a resizing, noise and JPEG
    in random order, then a resizing, and JPEG once more (Zhang et al. 2021, "BSRGAN", section 3; Rombach et al. 2022,
    section 4.5). DALL-E 2's second upsampler learned from these (Ramesh et al. 2022, section 2.2).

    Left out: the noise of a camera's sensor, which needs a model of the camera.
    """
    return torch.cat([_worse(one, side, generator) for one in pixels.split(1)])


def _worse(picture: Tensor, side: int, generator: Generator | None) -> Tensor:
    device = picture.device if generator is None else generator.device
    coins = torch.rand(32, generator=generator, device=device).tolist()

    def between(least: float, most: float) -> float:
        return least + (most - least) * coins.pop()

    def chosen() -> str:
        return RESIZINGS[int(coins.pop() * len(RESIZINGS))]

    factor = picture.shape[-1] / side
    blurs = [
        partial(gaussian, sigmas=(factor * between(*BLUR), factor * between(*BLUR)), angle=between(0, torch.pi))
        for _ in range(2)
    ]
    between_sizes = max(1, round(picture.shape[-1] / between(1, max(1.0, factor))))
    level = between(*NOISE)
    steps: list[Callable[[Tensor], Tensor]] = [
        *blurs,
        partial(resized, side=between_sizes, how=chosen()),
        lambda x: x + 2 * level * _noise(x, generator),
        partial(jpeg, quality=between(*QUALITY)),
    ]
    for index in torch.randperm(len(steps), generator=generator, device=device).tolist():
        picture = steps[index](picture).clamp(-1, 1)
    return jpeg(resized(picture, side, chosen()).clamp(-1, 1), between(*QUALITY))


def gaussian(pixels: Tensor, sigmas: tuple[float, float], angle: float = 0.0) -> Tensor:
    """Under a Gaussian of those deviations in pixels along two axes, turned by an angle in radians; edges repeated."""
    radius = max(1, min(round(3 * max(sigmas)), pixels.shape[-1] - 1))
    places = torch.arange(-radius, radius + 1, dtype=pixels.dtype, device=pixels.device)
    down, right = torch.meshgrid(places, places, indexing="ij")
    turn = torch.tensor(angle)
    along, across = turn.cos() * right + turn.sin() * down, turn.cos() * down - turn.sin() * right
    kernel = torch.exp(-0.5 * ((along / sigmas[0]).square() + (across / sigmas[1]).square()))
    padded = F.pad(pixels, (radius,) * 4, mode="replicate")
    kernel = (kernel / kernel.sum()).expand(pixels.shape[1], 1, -1, -1)
    return F.conv2d(padded, kernel, groups=pixels.shape[1])


def resized(pixels: Tensor, side: int, how: str) -> Tensor:
    """At `side` pixels by "bilinear", "bicubic" or "area"."""
    if how == "area":
        return F.interpolate(pixels, size=side, mode="area")
    return F.interpolate(pixels, size=side, mode=how, antialias=True)


def jpeg(pixels: Tensor, quality: float) -> Tensor:
    """What JPEG leaves of pictures at a quality from 1 to 100, colours not subsampled (ITU-T T.81, annexes A and K)."""
    height, width = pixels.shape[-2:]
    colours = torch.tensor(COLOURS, dtype=pixels.dtype, device=pixels.device)
    padded = F.pad((pixels + 1) * 127.5, (0, -width % 8, 0, -height % 8), mode="replicate").round()
    planes = torch.einsum("cd,bdhw->bchw", colours, padded).round()
    planes[:, 0] -= 128
    blocks = planes.unflatten(2, (-1, 8)).unflatten(4, (-1, 8)).transpose(3, 4)  # (B, 3, rows, columns, 8, 8)
    cosines, steps = _cosines(pixels), _steps(quality, pixels)[:, None, None]
    kept = (cosines @ blocks @ cosines.mT / steps).round() * steps
    planes = (cosines.mT @ kept @ cosines).transpose(3, 4).flatten(4).flatten(2, 3).round().clamp(-128, 127)
    planes[:, 0] += 128
    again = torch.einsum("cd,bdhw->bchw", torch.linalg.inv(colours), planes).round().clamp(0, 255)
    return again[..., :height, :width] / 127.5 - 1


def _cosines(like: Tensor) -> Tensor:
    """The orthogonal cosine transform of 8 numbers."""
    frequency, place = torch.arange(8.0)[:, None], torch.arange(8.0)
    found = torch.cos((2 * place + 1) * frequency * torch.pi / 16) / 2
    found[0] = 8**-0.5
    return found.to(like)


def _steps(quality: float, like: Tensor) -> Tensor:
    """By how much coefficients are rounded, (3, 8, 8), as the IJG's code scales the standard's tables."""
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    tables = torch.tensor((LUMINANCE, CHROMINANCE, CHROMINANCE), dtype=torch.float64)
    return ((tables * scale + 50) / 100).floor().clamp(1, 255).to(like)


def _noise(like: Tensor, generator: Generator | None) -> Tensor:
    device = like.device if generator is None else generator.device
    return torch.randn(like.shape, generator=generator, device=device, dtype=like.dtype).to(like.device)
