"""The one seam between products by torch and by our kernels: on a CPU, where no gradient is asked for. Few rows, or any
number where the CPU multiplies tiles of bfloat16."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polytask import runtime
from polytask.nn.kernels import gpu
from polytask.nn.kernels.library import ACTIVATIONS, KINDS, LOADER, NO_NORM, Library, Norm
from polytask.nn.norm import RootMeanSquare
from polytask.nn.stacked import Stacked

FEW = 64  # rows up to which a product is bound by the memory that its weights lie in (docs/log.md)
LINES = 16  # outputs of a tile: an activation is of whole ones
LEAST = 1 << 15  # weights: below, a call costs as much as the product
PLAIN = (nn.Linear, Stacked)
AFTER = {"gelu": ("gelu", [], "none"), "gelu_tanh": ("gelu", [], "tanh"), "relu": ("relu", [], "")}  # what oneDNN adds


def kernels(x: Tensor, out: int, width: int, rows: int = FEW) -> Library | None:
    """The kernels, where they are ready and take x (at most `rows`, or any number by tiles, width) with weights (out,
    width) on the CPU."""
    if out * width < LEAST or x.shape[-1] != width or not x.numel() or not inferring(x):
        return None
    library = LOADER.get()
    return library if x.numel() <= rows * width or tiled(x) else None


def tiled(x: Tensor) -> bool:
    """Whether the kernels multiply any number of rows of x, in a pass that nobody wants gradients of, by tiles."""
    if x.dtype != torch.bfloat16 or not inferring(x):
        return False
    library = LOADER.get()
    return library is not None and library.tiles


def inferring(x: Tensor) -> bool:
    """Whether x is a plain tensor on the CPU, of a type that kernels take, in a pass that nobody wants gradients of."""
    if torch.is_grad_enabled() or x.dtype not in KINDS or type(x) is not Tensor or not x.is_cpu:
        return False
    return not (torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling())


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """torch's: x (..., in) times weight (out, in), plus bias (out,)."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.linear(x, weight, bias)
    product = _plain(x, weight, bias, NO_NORM)
    return many(x, weight, bias) if product is None else product


def many(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """torch's linear, with bfloat16 widened to float32 where the CPU would make its products up."""
    rows = x.numel() // max(x.shape[-1], 1)
    if rows > FEW and inferring(x) and made_up(x):
        return F.linear(x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)
    if not _onednn(x, weight, bias):
        return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # type: ignore[no-any-return]


def _onednn(x: Tensor, *others: Tensor | None) -> bool:
    """Whether oneDNN is to be called for many rows itself, which copies no bias first: where torch would go to it, too;
    see `runtime.prepare`."""
    if x.numel() <= FEW * x.shape[-1] or not inferring(x) or not alike(x, *others):
        return False
    if not all(other is None or other.is_contiguous() for other in others):
        return False
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return torch.get_float32_matmul_precision() == "medium" if x.dtype == torch.float32 else runtime.fast_bfloat16()


def made_up(x: Tensor) -> bool:
    """Whether products of x are bfloat16 on a CPU that has no instructions for it."""
    return x.dtype == torch.bfloat16 and not runtime.fast_bfloat16()


def apply(layer: nn.Module, x: Tensor, norm: nn.Module | None = None, onto: Tensor | None = None) -> Tensor:
    """layer(norm(x)), added to `onto`; a linear layer's product does the norm on its way where the kernels do."""
    product = _quick(layer, x, norm, onto=onto)
    if product is None:
        x = x if norm is None else norm(x)
        plain = type(layer) in PLAIN and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
        product = many(x, layer.weight, layer.bias) if plain else layer(x)  # type: ignore[arg-type]
        product = product if onto is None else onto + product
    return product


def activated(layer: nn.Module, x: Tensor, norm: nn.Module | None, name: str, gated: bool = False) -> Tensor | None:
    """The activation of that name, of layer(norm(x)) of many rows, in one product; where it is gated, of its first half
    times its second. None where there is no such one."""
    if x.numel() <= FEW * x.shape[-1] or not inferring(x):
        return None
    if tiled(x) and name in ACTIVATIONS and getattr(layer, "out_features", 1) % (LINES * (1 + gated)) == 0:
        product = _quick(layer, x, norm, activation=name, gated=gated)
        if product is not None:
            return product
    if gated or name not in AFTER or not _onednn(x):
        return None
    own = getattr(layer, "widened", None)
    weight: Tensor | None = layer.weight if type(layer) in PLAIN else None if own is None else own(x)  # type: ignore[assignment]
    if weight is None or not _onednn(x, weight, layer.bias):  # type: ignore[arg-type]
        return None
    x = x if norm is None else norm(x)
    return torch.ops.mkldnn._linear_pointwise(x, weight, layer.bias, *AFTER[name])  # type: ignore[no-any-return]


def _quick(layer: nn.Module, x: Tensor, norm: nn.Module | None, **after: Any) -> Tensor | None:
    """What `apply` and `activated` give, by the kernels; None where they do not take it."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or (form := fused(norm, x)) is None:
        return None
    if type(layer) in PLAIN:
        return _plain(x, layer.weight, layer.bias, form, **after)  # type: ignore[arg-type]
    own = getattr(layer, "product", None)
    return None if own is None else own(x, form, **after)


def fused(norm: nn.Module | None, x: Tensor) -> Norm | None:
    """What the kernels are told of a norm; None where it is none of theirs."""
    if norm is None:
        return NO_NORM
    if type(norm) is nn.LayerNorm and norm.normalized_shape == x.shape[-1:]:
        form = Norm(1, norm.weight, norm.bias, norm.eps)
    elif type(norm) is RootMeanSquare and norm.normalized_shape == x.shape[-1:]:
        form = Norm(2, norm.weight, None, norm.eps or 0.0, norm.offset)
    else:
        return None
    return form if alike(x, form.scale, form.bias) else None


def alike(x: Tensor, *others: Tensor | None) -> bool:
    return all(other is None or other.dtype == x.dtype for other in others)


def _plain(x: Tensor, weight: Tensor, bias: Tensor | None, norm: Norm, **after: Any) -> Tensor | None:
    if x.is_cuda:
        return gpu.product(x, weight, bias, norm, **after)
    if (library := kernels(x, *weight.shape)) is None or not alike(x, weight, bias, after.get("onto")):
        return None
    if not weight.is_cpu or not weight.is_contiguous():
        return None
    kind = "float32" if x.dtype == torch.float32 else "bfloat16"
    return library.product(kind, x, weight, None, bias, len(weight), norm, **after)
