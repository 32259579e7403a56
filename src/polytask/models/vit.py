"""The Vision Transformer (Dosovitskiy et al. 2021), in the form of CLIP (Radford et al. 2021, section 2.4)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polytask.errors import ConfigError
from polytask.nn.attention import Attention
from polytask.nn.block import Block
from polytask.nn.cache import Context
from polytask.nn.feedforward import MLP
from polytask.nn.norm import LayerNorm
from polytask.nn.part import Part
from polytask.nn.picture import normalized
from polytask.nn.position import Unpositioned


@dataclass(frozen=True)
class ViTConfig(Part):
    """image, patch: sides in pixels. One more state, of a learned class embedding, comes before those of the patches.

    The first norm, before the blocks, is CLIP's; the last one is of the class state alone. mean, deviation: by which
    colours in [0, 1] are normalised; with 0.5 they stay as they come, in [-1, 1].
    """

    image: int
    patch: int
    layers: int
    dim: int
    attention: Attention
    feedforward: MLP
    norm: LayerNorm = LayerNorm()
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    deviation: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        self.expect_numbers("image", "patch", "layers", "dim", whole=True)
        if self.image % self.patch:
            raise ConfigError(f"vision: image={self.image} is not a multiple of patch={self.patch}; change one")
        self.attention.sizes(self.dim)

    @property
    def patches(self) -> int:
        return (self.image // self.patch) ** 2


class ViT(nn.Module):
    """Pixels (B, 3, image, image) to states (B, 1 + patches, D)."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.config = c = config
        self.class_embedding = nn.Parameter(torch.empty(c.dim))
        self.patches = nn.Conv2d(3, c.dim, c.patch, stride=c.patch, bias=False)
        self.position = nn.Parameter(torch.empty(1 + c.patches, c.dim))
        self.first_norm = c.norm.build(c.dim)
        self.blocks = nn.ModuleList(
            Block(
                c.dim, c.attention, c.feedforward, c.norm, Unpositioned(), layer,
                placement="pre", dropout=0.0, cross=False, causal=False,
            )
            for layer in range(c.layers)
        )  # fmt: skip
        self.norm = c.norm.build(c.dim)

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """Class, patches and positions N(0, dim^-1/2), the blocks as CLIP's text tower (Radford et al. 2021, code)."""
        for parameter in (self.class_embedding, self.position):
            nn.init.normal_(parameter, std=self.config.dim**-0.5, generator=generator)
        nn.init.normal_(self.patches.weight, std=0.02, generator=generator)
        draw_blocks(self.blocks, self.config.dim, generator)
        for norm in (self.first_norm, self.norm):
            norm.reset_parameters()  # type: ignore[operator]

    def forward(self, pixels: Tensor, left_out: int = 0) -> Tensor:
        """States before the last norm, after all layers but the last `left_out` (1 gives those of the second-last)."""
        x = self.patches(normalized(pixels, self.config).to(self.patches.weight.dtype)).flatten(2).mT
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1) + self.position
        x = self.first_norm(x)
        context = Context(torch.arange(x.shape[1], device=x.device)[None], causal=False)
        for block in self.blocks[: len(self.blocks) - left_out]:
            x = block(x, context)
        return x


def draw_blocks(blocks: nn.ModuleList, dim: int, generator: torch.Generator) -> None:
    """Attention N(0, dim^-1/2), what ends a branch (2 layers)^-1/2 of that, feed-forward N(0, (2 dim)^-1/2) (CLIP's
    code)."""
    end = dim**-0.5 * (2 * len(blocks)) ** -0.5
    stds = {"attention.qkv": dim**-0.5, "attention.output": end, "feedforward.up": (2 * dim) ** -0.5}
    stds["feedforward.down"] = end
    for block in blocks:
        for name, std in stds.items():
            linear = block.get_submodule(name)
            nn.init.normal_(linear.weight, std=std, generator=generator)  # type: ignore[arg-type]
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)  # type: ignore[arg-type]
        block.attention_norm.reset_parameters()  # type: ignore[operator, union-attr]
        block.feedforward_norm.reset_parameters()  # type: ignore[operator, union-attr]
