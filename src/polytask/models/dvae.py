"""The discrete autoencoder of DALL-E (Ramesh et al. 2021, section 2.1 and appendix A; sizes of the released code).

No norms: weights are drawn so that maps keep their size, and what a block adds is divided by the square of the number
of blocks. Pixels have a logit-Laplace likelihood, whose support is a bounded interval as theirs is.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polytask.errors import ConfigError
from polytask.nn.part import Part
from polytask.nn.quantizer import Categorical, Quantizer

EDGE = 0.1  # pixels lie so far inside (0, 1), where logits are finite (appendix A.3)


@dataclass(frozen=True)
class AutoencoderConfig(Part):
    """image: side in pixels. width: of the first group of blocks, doubled from group to group; the picture is halved
    after each but the last one. first: channels of the decoder's first layer.
    """

    image: int = 256
    width: int = 256
    quantizer: Quantizer = Categorical()
    groups: int = 4
    blocks: int = 2
    first: int = 128

    def __post_init__(self) -> None:
        self.expect_numbers("image", "width", "groups", "blocks", "first", whole=True)
        if self.width % 4:
            raise ConfigError(f"autoencoder: width={self.width} must be a multiple of 4, as blocks narrow it to that")
        if self.image % self.scale:
            raise ConfigError(
                f"autoencoder: image={self.image} is not a multiple of {self.scale}, by which {self.groups} groups "
                "shrink it; change one"
            )

    def build(self) -> "Autoencoder":
        return Autoencoder(self)

    @property
    def scale(self) -> int:
        """So many pixels a side share a code."""
        return 2 ** (self.groups - 1)

    @property
    def grid(self) -> int:
        """Codes a side."""
        return self.image // self.scale


class Relaxed(NamedTuple):
    """statistics (B, 6, H, W): mu and ln b of the likelihood. divergence (B,): of the codes from a uniform choice, in
    nats. codes (B, h, w) int64: the likeliest ones.
    """

    statistics: Tensor
    divergence: Tensor
    codes: Tensor


def convolution(channels: int, to: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(channels, to, kernel, padding=kernel // 2)


class ResidualBlock(nn.Module):
    """x + gain f(x), f four convolutions of a quarter of the width."""

    def __init__(self, channels: int, to: int, kernels: tuple[int, ...], gain: float):
        super().__init__()
        widths = [channels, to // 4, to // 4, to // 4, to]
        self.gain = gain
        self.identity = convolution(channels, to, 1) if channels != to else nn.Identity()
        self.branch = nn.ModuleList(map(convolution, widths, widths[1:], kernels))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in self.branch:
            y = layer(F.relu(y))
        return self.identity(x) + self.gain * y


class Encoder(nn.Module):
    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.input = convolution(3, config.width, 7)
        widths = [config.width * 2**group for group in range(config.groups)]
        self.groups = _groups(config, [config.width, *widths], (3, 3, 3, 1))
        self.output = convolution(widths[-1], config.quantizer.channels, 1)

    def forward(self, x: Tensor) -> Tensor:  # (B, 3, H, W) -> (B, C, h, w)
        x = self.input(x)
        for number, group in enumerate(self.groups):
            x = group(F.max_pool2d(x, 2) if number else x)
        return self.output(F.relu(x))


class Decoder(nn.Module):
    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.input = convolution(config.quantizer.channels, config.first, 1)
        widths = [config.width * 2**group for group in reversed(range(config.groups))]
        self.groups = _groups(config, [config.first, *widths], (1, 3, 3, 3))
        self.output = convolution(widths[-1], 6, 1)

    def forward(self, x: Tensor) -> Tensor:  # what `input` gave, (B, first, h, w) -> (B, 6, H, W)
        for number, group in enumerate(self.groups):
            x = group(F.interpolate(x, scale_factor=2, mode="nearest") if number else x)
        return self.output(F.relu(x))


def _groups(config: AutoencoderConfig, widths: list[int], kernels: tuple[int, ...]) -> nn.ModuleList:
    gain = 1 / (config.groups * config.blocks) ** 2

    def group(channels: int, to: int) -> nn.Sequential:
        blocks = [(channels, to), *[(to, to)] * (config.blocks - 1)]
        return nn.Sequential(*(ResidualBlock(a, b, kernels, gain) for a, b in blocks))

    return nn.ModuleList(map(group, widths, widths[1:]))


class Autoencoder(nn.Module):
    """Pictures to grids of codes and back."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.config, self.quantizer = config, config.quantizer
        self.encoder, self.decoder = Encoder(config), Decoder(config)

    @torch.no_grad()
    def initialize(self, seed: int = 0) -> "Autoencoder":
        """Weights N(0, 1/sqrt(fan_in)), biases 0 (released code). Returns self."""
        generator = torch.Generator().manual_seed(seed)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=math.prod(layer.weight.shape[1:]) ** -0.5, generator=generator)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        return self

    @property
    def codebook(self) -> int:
        """How many codes there are."""
        return self.quantizer.codes

    def maps(self, pixels: Tensor) -> Tensor:
        """What the encoder says of pictures (B, 3, H, W) in [-1, 1], (B, C, h, w)."""
        side = self.config.image
        if pixels.shape[-3:] != (3, side, side):
            raise ConfigError(
                f"autoencoder: pictures of shape {tuple(pixels.shape[-3:])} were given, and it reads (3, {side}, "
                f"{side}); resize them."
            )
        return self.encoder(inside(pixels))

    def codes(self, pixels: Tensor) -> Tensor:
        """(B, h, w) int64 for pictures (B, 3, H, W) in [-1, 1]."""
        return self.quantizer.code(self.maps(pixels))

    def pixels(self, codes: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] for codes (B, h, w): where each colour's likelihood has its middle."""
        return outside(self.decoder(self.quantizer.enter(self.decoder.input, codes)))

    def forward(self, pixels: Tensor, temperature: float = 1.0) -> Relaxed:
        maps = self.maps(pixels).float()
        relaxed, divergence = self.quantizer.relax(maps, temperature)
        statistics = self.decoder(self.decoder.input(relaxed))
        return Relaxed(statistics, divergence, self.quantizer.code(maps.detach()))


def inside(pixels: Tensor) -> Tensor:
    """Pixels in [-1, 1] as numbers in (0, 1)."""
    return (1 - 2 * EDGE) * (pixels * 0.5 + 0.5) + EDGE


def outside(statistics: Tensor) -> Tensor:
    """Inverse of `inside` for the middle of the likelihood of statistics (B, 6, H, W)."""
    middle = statistics[:, :3].sigmoid()
    return (((middle - EDGE) / (1 - 2 * EDGE)).clamp(0, 1) - 0.5) * 2


def log_likelihood(pixels: Tensor, statistics: Tensor) -> Tensor:
    """Of pictures (B, 3, H, W) in [-1, 1], as densities of `inside`, in nats: (B, 3, H, W) (appendix A.3)."""
    x, (mu, log_b) = inside(pixels), statistics.float().chunk(2, dim=1)
    return -(math.log(2) + log_b + (x * (1 - x)).log() + (x.logit() - mu).abs() * (-log_b).exp())
