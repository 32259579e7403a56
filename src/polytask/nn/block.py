"""One layer: attention, in a decoder of an encoder-decoder cross-attention, and feed-forward, each with a residual."""

from typing import Literal

from torch import Tensor, nn

from polytask.nn.attention import Attention, CrossAttention, SelfAttention
from polytask.nn.cache import Context
from polytask.nn.part import Part


class Block(nn.Module):
    """x + f(norm(x)) with placement "pre" (Radford et al. 2019), norm(x + f(x)) with "post" (Vaswani et al. 2017)."""

    def __init__(
        self, dim: int, attention: Attention, feedforward: Part, norm: Part, position: Part, layer: int, *,
        placement: Literal["pre", "post"], dropout: float, cross: bool,
    ):  # fmt: skip
        super().__init__()
        self.pre = placement == "pre"
        self.dropout = nn.Dropout(dropout)
        self.attention = SelfAttention(dim, attention, position, layer)
        self.attention_norm = norm.build(dim)  # type: ignore[attr-defined]
        self.cross = CrossAttention(dim, attention, layer) if cross else None
        self.cross_norm = norm.build(dim) if cross else None  # type: ignore[attr-defined]
        self.feedforward = feedforward.build(dim)  # type: ignore[attr-defined]
        self.feedforward_norm = norm.build(dim)  # type: ignore[attr-defined]

    def residual(self, x: Tensor, layer, norm: nn.Module) -> Tensor:
        return x + self.dropout(layer(norm(x))) if self.pre else norm(x + self.dropout(layer(x)))

    def forward(self, x: Tensor, context: Context) -> Tensor:  # (B, T, D)
        x = self.residual(x, lambda h: self.attention(h, context), self.attention_norm)
        if (cross := self.cross) is not None and self.cross_norm is not None:
            x = self.residual(x, lambda h: cross(h, context), self.cross_norm)
        return self.residual(x, self.feedforward, self.feedforward_norm)
