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

    def residual(self, x: Tensor, norm: nn.Module, layer: nn.Module, *context: Context) -> Tensor:
        if self.pre:
            return x + self.dropout(layer(x, *context, norm=norm))
        return norm(x + self.dropout(layer(x, *context)))

    def forward(self, x: Tensor, context: Context) -> Tensor:  # (B, T, D)
        x = self.residual(x, self.attention_norm, self.attention, context)
        if self.cross is not None and self.cross_norm is not None:
            x = self.residual(x, self.cross_norm, self.cross, context)
        return self.residual(x, self.feedforward_norm, self.feedforward)
