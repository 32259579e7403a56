"""Normalisation over the channels of each token."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from polytask.nn.part import Part


@dataclass(frozen=True)
class LayerNorm(Part):
    """Zero mean and unit variance, then a learned scale and, with `bias`, a shift (Ba et al. 2016)."""

    eps: float = 1e-5
    bias: bool = True

    def build(self, dim: int) -> nn.Module:
        return nn.LayerNorm(dim, eps=self.eps, bias=self.bias)


@dataclass(frozen=True)
class RMSNorm(Part):
    """Unit root mean square, then a learned scale (Zhang and Sennrich 2019, equation 4)."""

    eps: float = 1e-6

    def build(self, dim: int) -> nn.Module:
        return _RMSNorm(dim, eps=self.eps)


class _RMSNorm(nn.RMSNorm):
    """torch's, with its scale in the precision of the input: where they differ it warns."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)
