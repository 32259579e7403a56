"""CLIP's residual network (Radford et al. 2021, section 2.4): ResNet-D with blurred strides, and attention in place of
the last mean (He et al. 2016 and 2019; Zhang 2019)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polytask.errors import ConfigError
from polytask.nn.part import Part
from polytask.nn.picture import normalized

GROWTH = 4  # channels that leave a block, for each channel inside
SHRINK = 32  # pixels a side that become one


@dataclass(frozen=True)
class ResNetConfig(Part):
    """image: side in pixels. blocks: of each of the four stages. width: channels inside the blocks of the first one,
    doubled from stage to stage. mean, deviation: as in ViTConfig.
    """

    image: int
    blocks: tuple[int, int, int, int]
    width: int
    heads: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    deviation: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        self.expect_numbers("image", "width", "heads", whole=True)
        if self.image % SHRINK:
            raise ConfigError(f"vision: image={self.image} is not a multiple of {SHRINK}; change it")
        if self.dim % self.heads:
            raise ConfigError(f"vision: {self.dim} channels are not a multiple of heads={self.heads}; change one")

    @property
    def dim(self) -> int:
        """Channels at the end."""
        return self.width * 8 * GROWTH


def _layer(channels: int, to: int, kernel: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(channels, to, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(to))


class Bottleneck(nn.Module):
    """Strides are means over squares of pixels in front of a convolution of 1 x 1."""

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.stride = stride
        self.first, self.second = _layer(channels, width, 1), _layer(width, width, 3)
        self.third = _layer(width, width * GROWTH, 1)
        changes = stride > 1 or channels != width * GROWTH
        self.identity = _layer(channels, width * GROWTH, 1) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.second(F.relu(self.first(x))))
        return F.relu(self.third(self._strided(y)) + self.identity(self._strided(x)))

    def _strided(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.stride) if self.stride > 1 else x


class AttentionPool(nn.Module):
    """The mean of all places asks them, itself included, once: (B, C, h, w) -> (B, E)."""

    def __init__(self, places: int, dim: int, heads: int, embed: int):
        super().__init__()
        self.heads = heads
        self.position = nn.Parameter(torch.empty(1 + places, dim))
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in "qkv")
        self.output = nn.Linear(dim, embed)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).mT
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1) + self.position
        q, k, v = self.query(x[:, :1]), self.key(x), self.value(x)
        q, k, v = (one.unflatten(-1, (self.heads, -1)).transpose(1, 2) for one in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)
        return self.output(mixed[:, 0])


class ResNet(nn.Module):
    """Pixels (B, 3, image, image) to embeddings (B, E)."""

    def __init__(self, config: ResNetConfig, embed: int):
        super().__init__()
        self.config, width = config, config.width
        self.stem = nn.ModuleList(
            [_layer(3, width // 2, 3, stride=2), _layer(width // 2, width // 2, 3), _layer(width // 2, width, 3)]
        )
        self.stages, channels = nn.ModuleList(), width
        for number, count in enumerate(config.blocks):
            inside, blocks = width * 2**number, nn.Sequential()
            for block in range(count):
                blocks.append(Bottleneck(channels, inside, 2 if number and not block else 1))
                channels = inside * GROWTH
            self.stages.append(blocks)
        self.pool = AttentionPool((config.image // SHRINK) ** 2, config.dim, config.heads, embed)

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """He's normal for convolutions, the last scale of a block 0, attention N(0, dim^-1/2) (CLIP's code)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu", generator=generator)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=self.config.dim**-0.5, generator=generator)
                nn.init.zeros_(module.bias)
            elif isinstance(module, AttentionPool):
                nn.init.normal_(module.position, std=self.config.dim**-0.5, generator=generator)
        for stage in self.stages:
            for block in stage:  # type: ignore[union-attr]
                nn.init.zeros_(block.third[1].weight)

    def forward(self, pixels: Tensor) -> Tensor:
        x = normalized(pixels, self.config).to(self.pool.position.dtype)
        for layer in self.stem:
            x = F.relu(layer(x))
        x = F.avg_pool2d(x, 2)
        for stage in self.stages:
            x = stage(x)
        return self.pool(x)
