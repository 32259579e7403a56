"""CLIP: a picture and a text as two directions in one space (Radford et al. 2021, arXiv:2103.00020).

The text tower is a decoder of ours without its last product; a text's state is the one at its end.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polytask.models.config import TransformerConfig
from polytask.models.resnet import ResNet, ResNetConfig
from polytask.models.transformer import Transformer
from polytask.models.vit import ViT, ViTConfig, draw_blocks
from polytask.nn.cache import Context
from polytask.nn.part import Part

FIRST_SCALE = math.log(1 / 0.07)
MOST_SCALE = math.log(100.0)  # more makes training unstable (section 2.5)


@dataclass(frozen=True)
class CLIPConfig(Part):
    """embed: the width of the common space. end: the id at whose first place a text's state is taken; None takes the
    place of the highest id, as the released code does, in whose vocabulary the end of a text is the last one. scale: of
    the products before training, as a logarithm.
    """

    vision: ViTConfig | ResNetConfig
    text: TransformerConfig
    embed: int
    end: int | None = None
    scale: float = FIRST_SCALE

    def __post_init__(self) -> None:
        self.expect_numbers("embed", whole=True)

    def build(self) -> "CLIP":
        return CLIP(self)


class CLIP(nn.Module):
    def __init__(self, config: CLIPConfig):
        super().__init__()
        self.config = config
        self.text = Transformer(config.text)
        if isinstance(config.vision, ResNetConfig):  # its pool projects already
            self.vision, self.picture_projection = ResNet(config.vision, config.embed), None
        else:
            self.vision = ViT(config.vision)
            self.picture_projection = nn.Linear(config.vision.dim, config.embed, bias=False)
        self.text_projection = nn.Linear(config.text.dim, config.embed, bias=False)
        self.log_scale = nn.Parameter(torch.empty(()))

    @torch.no_grad()
    def initialize(self, seed: int = 0) -> "CLIP":
        """Draws fresh weights as the released code does; the same seed gives the same weights. Returns self."""
        generator = torch.Generator().manual_seed(seed)
        self.vision.initialize(generator)
        self.text.initialize(seed)
        nn.init.normal_(self.text.embedding.weight, std=0.02, generator=generator)
        draw_blocks(self.text.blocks, self.config.text.dim, generator)
        for linear in filter(None, (self.picture_projection, self.text_projection)):
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5, generator=generator)
        self.log_scale.fill_(self.config.scale)
        return self

    def fill_buffers(self) -> None:
        self.text.fill_buffers()

    @property
    def scale(self) -> Tensor:
        """What products of unit vectors are multiplied by."""
        return self.log_scale.exp()

    def clip_scale(self) -> None:
        """Keeps the scale at 100 at most; to be called after an update (section 2.5)."""
        with torch.no_grad():
            self.log_scale.clamp_(max=MOST_SCALE)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Unit vectors (B, E) of pictures (B, 3, S, S) in [-1, 1]."""
        seen = self.vision(pixels)
        if isinstance(self.vision, ViT) and self.picture_projection is not None:
            seen = self.picture_projection(self.vision.norm(seen[:, 0]))
        return F.normalize(seen, dim=-1)

    def text_states(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, L, D) after the last norm, for ids (B, L); mask (B, L) is False where a row has none."""
        places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        return self.text(ids, Context(places, None if mask is None else mask.long()))

    def encode_text(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Unit vectors (B, E) of texts of ids (B, L)."""
        states = self.text_states(ids, mask)
        kept = ids if mask is None else ids.masked_fill(~mask, -1)
        ends = (kept if self.config.end is None else (kept == self.config.end).int()).argmax(dim=-1)
        return F.normalize(self.text_projection(states[torch.arange(len(ids), device=ids.device), ends]), dim=-1)

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """The logits (B, B) of pictures by texts."""
        return self.scale * self.encode_image(pixels) @ self.encode_text(ids, mask).mT
