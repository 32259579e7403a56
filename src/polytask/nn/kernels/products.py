"""The one seam between products by torch and by our kernels: few rows, on a CPU, where no gradient is asked for."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polytask.nn.kernels.library import KINDS, LOADER, Library
from polytask.nn.stacked import Stacked

FEW = 16  # rows up to which a product is bound by the memory that its weights lie in (docs/log.md)
LEAST = 1 << 15  # weights: below, a call costs as much as the product


def kernels(x: Tensor, out: int, width: int) -> Library | None:
    """The kernels, where they are ready and take x (..., width) with a matrix of (out, width) weights on the CPU."""
    if out * width < LEAST or x.shape[-1] != width or not 0 < x.numel() <= FEW * width or not inferring(x):
        return None
    return LOADER.get()


def inferring(x: Tensor) -> bool:
    """Whether x is a plain tensor on the CPU, of a type that kernels take, in a pass that nobody wants gradients of."""
    if torch.is_grad_enabled() or x.dtype not in KINDS or type(x) is not Tensor or not x.is_cpu:
        return False
    return not (torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling())


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """torch's: x (..., in) times weight (out, in), plus bias (out,)."""
    library = kernels(x, *weight.shape)
    alike = weight.dtype == x.dtype and (bias is None or bias.dtype == x.dtype)
    if library is None or not alike or not weight.is_cpu or not weight.is_contiguous():
        return F.linear(x, weight, bias)
    kind = "float32" if x.dtype == torch.float32 else "bfloat16"
    return library.product(kind, x, weight, None, bias, len(weight))


def apply(layer: nn.Module, x: Tensor) -> Tensor:
    """layer(x); a plain linear layer by `linear`."""
    if type(layer) in (nn.Linear, Stacked):
        return linear(x, layer.weight, layer.bias)  # type: ignore[arg-type]
    return layer(x)
