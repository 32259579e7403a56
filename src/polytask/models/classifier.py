"""A residual network that says which of its labels a picture has (He et al. 2016a, section 4.2, the form for small
pictures): three stages, each half as large and twice as wide as the one before, and the mean over all places.

Ours: norms and activations stand before the convolutions (He et al. 2016b), and norms are of groups of channels (Wu and
He 2018), so that what is said of a picture depends on no other.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polytask.errors import ConfigError
from polytask.nn.convolution import ActivatedNorm, Convolution
from polytask.nn.part import Part
from polytask.nn.picture import normalized

STAGES = 3


@dataclass(frozen=True)
class ClassifierConfig(Part):
    """image: side in pixels. classes: of labels. width: channels of the first stage. blocks: of each stage. groups: of
    the norms. mean, deviation: as in ViTConfig.
    """

    image: int
    classes: int
    width: int = 16
    blocks: int = 3
    groups: int = 8
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    deviation: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        self.expect_numbers("image", "classes", "width", "blocks", "groups", whole=True)
        if self.width % self.groups:
            raise ConfigError(f"classifier: width={self.width} is not a multiple of groups={self.groups}; change one")

    @property
    def dim(self) -> int:
        """Of the features of a picture."""
        return self.width * 2 ** (STAGES - 1)

    def build(self) -> "Classifier":
        return Classifier(self)


class Block(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))); where the size changes, x is a convolution of what is activated."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int):
        super().__init__()
        self.norm, self.inner_norm = ActivatedNorm(groups, inputs), ActivatedNorm(groups, outputs)
        self.inner, self.outer = Convolution(inputs, outputs, stride=stride), Convolution(outputs, outputs)
        changes = stride > 1 or inputs != outputs
        self.shortcut = Convolution(inputs, outputs, kernel=1, stride=stride) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        active = self.norm(x)
        x = x if self.shortcut is None else self.shortcut(active)
        return x + self.outer(self.inner_norm(self.inner(active)))


class Classifier(nn.Module):
    def __init__(self, config: ClassifierConfig):
        super().__init__()
        self.config, channels = config, config.width
        self.first, self.blocks = Convolution(3, channels), nn.ModuleList()
        for stage in range(STAGES):
            for block in range(config.blocks):
                width = config.width * 2**stage
                self.blocks.append(Block(channels, width, 2 if stage and not block else 1, config.groups))
                channels = width
        self.norm = ActivatedNorm(config.groups, channels)
        self.head = nn.Linear(channels, config.classes)

    @torch.no_grad()
    def initialize(self, seed: int = 0) -> "Classifier":
        """He's normal for convolutions, 0 where a branch ends, and a head that says nothing. Returns self."""
        generator = torch.Generator().manual_seed(seed)
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d):
                std = 0.0 if name.endswith(".outer") else math.sqrt(2 / module.weight[0].numel())
                nn.init.normal_(module.weight, std=std, generator=generator)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
            elif isinstance(module, nn.GroupNorm):
                module.reset_parameters()
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        return self

    def fill_buffers(self) -> None:
        """It has none."""

    def features(self, pixels: Tensor) -> Tensor:
        """What the head sees of pictures (B, 3, S, S) in [-1, 1], (B, dim). Raises ConfigError for another size."""
        x = self.first(normalized(pixels, self.config).to(self.first.weight.dtype))
        for block in self.blocks:
            x = block(x)
        return self.norm(x).mean(dim=(2, 3))

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (B, classes)."""
        return self.head(self.features(pixels))  # type: ignore[no-any-return]
