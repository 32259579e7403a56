"""Normalisation over the channels of each token."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from polytask.nn.part import Part


@dataclass(frozen=True)
class LayerNorm(Part):
    """Zero mean and unit variance, then a learned scale and, with `bias`, a shift (Ba et al. 2016)."""

    eps: float = 1e-5
    bias: bool = True

    def __post_init__(self) -> None:
        self.expect_numbers("eps", zero=True)

    def build(self, dim: int) -> nn.Module:
        return nn.LayerNorm(dim, eps=self.eps, bias=self.bias)


@dataclass(frozen=True)
class RMSNorm(Part):
    """Unit root mean square, then a learned scale (Zhang and Sennrich 2019, equation 4).

    offset: is added to the scale that is kept (Gemma keeps what is to be added to 1).
    """

    eps: float = 1e-6
    offset: float = 0.0

    def __post_init__(self) -> None:
        self.expect_numbers("eps", zero=True)

    def build(self, dim: int) -> nn.Module:
        return RootMeanSquare(dim, self)


class RootMeanSquare(nn.RMSNorm):
    """torch's, with its scale in the precision of the input: where they differ it warns."""

    def __init__(self, dim: int, part: RMSNorm):
        self.offset = part.offset
        super().__init__(dim, eps=part.eps)

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, 1.0 - self.offset)

    def forward(self, x: Tensor) -> Tensor:
        if self.offset and x.dtype in (torch.bfloat16, torch.float16):
            return self.forward(x.float()).to(x.dtype)  # 1 + w has no place for a small w in lower precision
        scale = self.weight.to(x.dtype)
        scale = scale + self.offset if self.offset else scale
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            if not torch.is_grad_enabled():  # a function of autograd takes as long again for one token
                return _rounded_once(x, scale, self.eps)
            return _Normalize.apply(x, scale, self.eps)  # type: ignore[no-any-return]
        return F.rms_norm(x, self.normalized_shape, scale, self.eps)


def _normalized(x: Tensor, scale: Tensor, eps: float | None) -> tuple[Tensor, Tensor]:
    """The norm of x, and the inverse of its root mean square. On CPUs torch composes it of many passes over memory;
    written out it takes half the time (docs/log.md)."""
    wide = x.dtype if x.dtype == torch.float64 else torch.float32
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
    inverse = norm.square_().div_(x.shape[-1]).add_(eps or 0.0).rsqrt_().to(x.dtype)
    return torch.mul(x, inverse).mul_(scale), inverse


def _rounded_once(x: Tensor, scale: Tensor, eps: float | None) -> Tensor:
    """The norm of x as the kernels for few tokens have it, so that it matters little which of them a token meets."""
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    return _normalized(wide, scale.to(wide.dtype), eps)[0].to(x.dtype)


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale, eps):
        normalized, inverse = _normalized(x, scale, eps)
        ctx.save_for_backward(x, scale, inverse)
        return normalized

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, scale, inverse = ctx.saved_tensors
        products = (grad * x).reshape(-1, x.shape[-1])
        along = (products @ scale).view(inverse.shape)  # how far the gradient points along x, by which y cannot grow
        dx = torch.mul(grad, scale).mul_(inverse).addcmul_(x, along * inverse**3 / -x.shape[-1])
        return dx, (inverse.reshape(1, -1) @ products).view(-1), None  # transposed, its product is slower by half
