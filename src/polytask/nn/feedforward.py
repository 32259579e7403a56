"""The feed-forward half of a block, applied to each token alone."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from polytask.nn.cache import Context
from polytask.nn.kernels import gpu
from polytask.nn.kernels.products import activated, apply
from polytask.nn.part import Part
from polytask.nn.projection import project
from polytask.nn.stacked import Stacked
from polytask.registry import Registry


def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh form of GELU, as in the GPT-2 code (Hendrycks and Gimpel 2016, section 2)."""
    return F.gelu(x, approximate="tanh")


def relu_squared(x: Tensor) -> Tensor:
    """ReLU squared (So et al. 2021, "Primer", section 4)."""
    return F.relu(x).square()


def quick_gelu(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x), as in the code of GPT-1 and CLIP (Hendrycks and Gimpel 2016, section 2)."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS = Registry(
    "activation",
    {
        "relu": F.relu,
        "gelu": F.gelu,
        "gelu_tanh": gelu_tanh,
        "quick_gelu": quick_gelu,
        "silu": F.silu,
        "relu_squared": relu_squared,
    },
)


@dataclass(frozen=True)
class MLP(Part):
    """Two linear maps with an activation between them (Vaswani et al. 2017, section 3.3)."""

    width: int
    activation: str = "gelu"
    bias: bool = False

    def __post_init__(self) -> None:
        self.expect_numbers("width", whole=True)
        ACTIVATIONS.get(self.activation)

    def build(self, dim: int) -> nn.Module:
        return MLPLayer(dim, self)

    def parameters(self, dim: int) -> int:
        return 2 * dim * self.width + (dim + self.width if self.bias else 0)


@dataclass(frozen=True)
class GatedMLP(Part):
    """SwiGLU and its kin: an activated gate multiplies a second projection (Shazeer 2020, equation 6)."""

    width: int
    activation: str = "silu"
    bias: bool = False

    def __post_init__(self) -> None:
        self.expect_numbers("width", whole=True)
        ACTIVATIONS.get(self.activation)

    def build(self, dim: int) -> nn.Module:
        return GatedMLPLayer(dim, self)

    def parameters(self, dim: int) -> int:
        return 3 * dim * self.width + (dim + 2 * self.width if self.bias else 0)


class MLPLayer(nn.Module):
    def __init__(self, dim: int, part: MLP):
        super().__init__()
        self.name = part.activation
        self.activation: Callable[[Tensor], Tensor] = ACTIVATIONS.get(part.activation)
        self.up = nn.Linear(dim, part.width, bias=part.bias)
        self.down = nn.Linear(part.width, dim, bias=part.bias)

    def forward(
        self, x: Tensor, context: Context | None = None, norm: nn.Module | None = None, onto: Tensor | None = None
    ) -> Tensor:  # (B, T, D)
        if (active := activated(self.up, x, norm, self.name)) is not None:
            return apply(self.down, active, onto=onto)
        return _activated(project(x, norm, self.up), self.activation, self.down, self.name, onto)


class GatedMLPLayer(nn.Module):
    def __init__(self, dim: int, part: GatedMLP):
        super().__init__()
        self.name = part.activation
        self.activation: Callable[[Tensor], Tensor] = ACTIVATIONS.get(part.activation)
        self.gate_up = Stacked(dim, (part.width, part.width), bias=part.bias)
        self.down = nn.Linear(part.width, dim, bias=part.bias)

    def forward(
        self, x: Tensor, context: Context | None = None, norm: nn.Module | None = None, onto: Tensor | None = None
    ) -> Tensor:  # (B, T, D)
        if (active := activated(self.gate_up, x, norm, self.name, gated=True)) is not None:
            return apply(self.down, active, onto=onto)
        return _activated(project(x, norm, self.gate_up), self._gated, self.down, self.name, onto)

    def _gated(self, hidden: Tensor) -> Tensor:
        gate, up = hidden.chunk(2, dim=-1)
        return self.activation(gate) * up


def _activated(
    hidden: Tensor, activation: Callable[[Tensor], Tensor], down: nn.Module, name: str, onto: Tensor | None
) -> Tensor:
    """down(activation(hidden)), which keeps `hidden` alone for the way back: activations are a third of what a layer
    would keep, and soon computed again. A layer that surgery put in place of `down` goes its own way, as compilers do.
    onto: what the result is added to, where nobody wants a gradient.
    """
    if type(down) is not nn.Linear or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        fused = None
        if hidden.is_cuda and type(down) is nn.Linear:
            fused = gpu.product(hidden, down.weight, down.bias, activation=name, onto=onto)
        return apply(down, activation(hidden), onto=onto) if fused is None else fused
    bias = None if down.bias is None else down.bias.to(hidden.dtype)
    return _Down.apply(hidden, down.weight.to(hidden.dtype), bias, activation)  # type: ignore[no-any-return]


class _Down(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, activation):
        ctx.activation = activation
        ctx.save_for_backward(hidden, weight)
        return F.linear(activation(hidden), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        hidden, weight = ctx.saved_tensors
        with torch.enable_grad():
            hidden = hidden.detach().requires_grad_()
            active = ctx.activation(hidden)
        rows, wanted = grad.flatten(0, -2), ctx.needs_input_grad
        d_weight = rows.mT @ active.detach().flatten(0, -2) if wanted[1] else None
        d_bias = rows.sum(0) if wanted[2] else None
        (d_hidden,) = torch.autograd.grad(active, hidden, grad @ weight)
        return d_hidden, d_weight, d_bias, None
