"""One layer: attention, in a decoder of an encoder-decoder cross-attention, and feed-forward, each with a residual."""

from typing import Literal

from torch import Tensor, nn

from polytask.nn.attention import Attention, CrossAttention, SelfAttention
from polytask.nn.cache import Context
from polytask.nn.kernels import gpu
from polytask.nn.kernels.products import tiled
from polytask.nn.part import Part

Placement = Literal["pre", "post", "sandwich", "parallel", "parallel_norms"]


class Block(nn.Module):
    """Where the norms stand:

    pre             x + f(norm(x)), attention and then feed-forward (Radford et al. 2019)
    post            norm(x + f(x)) (Vaswani et al. 2017)
    sandwich        x + norm(f(norm(x))) (Ding et al. 2021; Gemma 2)
    parallel        x + attention(norm(x)) + feedforward(norm(x)), one norm for both (Wang and Komatsuzaki 2021; PaLM)
    parallel_norms  the same with a norm for each (GPT-NeoX)
    """

    def __init__(
        self, dim: int, attention: Attention, feedforward: Part, norm: Part, position: Part, layer: int, *,
        placement: Placement, dropout: float, cross: bool, causal: bool = True,
    ):  # fmt: skip
        super().__init__()
        self.placement = placement
        self.dropout = nn.Dropout(dropout)
        self.attention = SelfAttention(dim, attention, position, layer, causal)
        self.attention_norm = norm.build(dim)  # type: ignore[attr-defined]
        self.cross = CrossAttention(dim, attention, layer) if cross else None
        self.cross_norm = norm.build(dim) if cross else None  # type: ignore[attr-defined]
        self.feedforward = feedforward.build(dim)  # type: ignore[attr-defined]
        self.feedforward_norm = norm.build(dim) if placement != "parallel" else None  # type: ignore[attr-defined]
        outer = placement == "sandwich"
        self.attention_outer_norm = norm.build(dim) if outer else None  # type: ignore[attr-defined]
        self.feedforward_outer_norm = norm.build(dim) if outer else None  # type: ignore[attr-defined]

    def drop(self, x: Tensor) -> Tensor:
        return self.dropout(x) if self.training else x  # the call alone takes a hundredth of a small network's step

    def residual(
        self, x: Tensor, norm: nn.Module, layer: nn.Module, context: Context, outer: nn.Module | None = None
    ) -> Tensor:
        if self.placement == "post":
            return norm(x + self.drop(layer(x, context)))
        # What is added on the way is no pass of its own there; who hooks a layer sees what it gives alone.
        if outer is None and not self.training and not layer._forward_hooks and (gpu.takes(x) or tiled(x)):
            return layer(x, context, norm=norm, onto=x)
        y = layer(x, context, norm=norm)
        return x + self.drop(y if outer is None else outer(y))

    def forward(self, x: Tensor, context: Context) -> Tensor:  # (B, T, D)
        if self.placement in ("parallel", "parallel_norms"):
            mixed = self.attention(x, context, norm=self.attention_norm)
            fed = self.feedforward(x, context, norm=self.feedforward_norm or self.attention_norm)
            return x + self.drop(mixed) + self.drop(fed)
        x = self.residual(x, self.attention_norm, self.attention, context, self.attention_outer_norm)
        if self.cross is not None and self.cross_norm is not None:
            x = self.residual(x, self.cross_norm, self.cross, context)
        assert self.feedforward_norm is not None
        return self.residual(x, self.feedforward_norm, self.feedforward, context, self.feedforward_outer_norm)
