"""The feed-forward half of a block, applied to each token alone."""

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from polytask.nn.part import Part
from polytask.nn.stacked import Stacked
from polytask.registry import Registry


def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh form of GELU, as in the GPT-2 code (Hendrycks and Gimpel 2016, section 2)."""
    return F.gelu(x, approximate="tanh")


def relu_squared(x: Tensor) -> Tensor:
    """ReLU squared (So et al. 2021, "Primer", section 4)."""
    return F.relu(x).square()


ACTIVATIONS = Registry(
    "activation",
    {"relu": F.relu, "gelu": F.gelu, "gelu_tanh": gelu_tanh, "silu": F.silu, "relu_squared": relu_squared},
)


@dataclass(frozen=True)
class MLP(Part):
    """Two linear maps with an activation between them (Vaswani et al. 2017, section 3.3)."""

    width: int
    activation: str = "gelu"
    bias: bool = False

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

    def build(self, dim: int) -> nn.Module:
        return GatedMLPLayer(dim, self)

    def parameters(self, dim: int) -> int:
        return 3 * dim * self.width + (dim + 2 * self.width if self.bias else 0)


class MLPLayer(nn.Module):
    def __init__(self, dim: int, part: MLP):
        super().__init__()
        self.activation: Callable[[Tensor], Tensor] = ACTIVATIONS.get(part.activation)
        self.up = nn.Linear(dim, part.width, bias=part.bias)
        self.down = nn.Linear(part.width, dim, bias=part.bias)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D)
        return self.down(self.activation(self.up(x)))


class GatedMLPLayer(nn.Module):
    def __init__(self, dim: int, part: GatedMLP):
        super().__init__()
        self.activation: Callable[[Tensor], Tensor] = ACTIVATIONS.get(part.activation)
        self.gate_up = Stacked(dim, (part.width, part.width), bias=part.bias)
        self.down = nn.Linear(part.width, dim, bias=part.bias)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D)
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(self.activation(gate) * up)
