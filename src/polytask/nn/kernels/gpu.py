"""The one seam between torch and our kernels on a GPU: decoding, one token a row, where no gradient is asked for.

Each returns None, and has done nothing, where there is no Triton or the kernel does not take what it is given.
"""

from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from polytask.nn.kernels.library import NO_NORM, Norm

if TYPE_CHECKING:
    from polytask.nn.position import Turn

KINDS = (torch.bfloat16, torch.float16, torch.float32)
SPAN = 64  # keys that one program reads at least
SPLITS = 32  # programs for one head of one row at most


@cache
def ready() -> bool:
    return find_spec("triton") is not None


def takes(x: Tensor) -> bool:
    """Whether x is on a GPU, of a type that kernels take, in a pass that nobody wants gradients of."""
    if not x.is_cuda or x.dtype not in KINDS or torch.is_grad_enabled():
        return False
    return ready() and not (torch.is_autocast_enabled("cuda") or torch.compiler.is_compiling())


def product(
    x: Tensor, weight: Tensor, bias: Tensor | None, norm: Norm = NO_NORM, activation: str = "",
    onto: Tensor | None = None,
) -> Tensor | None:  # fmt: skip
    """norm(x) (..., in) of one row times weight (out, in), plus bias, added to `onto`: (..., out). activation: the name
    of what is applied to x; where x is twice as wide, to its first half, which its second half is then multiplied by.
    """
    width = weight.shape[1] * (2 if activation and x.shape[-1] > weight.shape[1] else 1)
    if x.shape[-1] != width or x.numel() != width or weight.dtype != x.dtype:
        return None
    if not weight.is_contiguous() or not takes(x):
        return None
    from polytask.nn.kernels import triton

    return triton.product(x.contiguous(), weight, bias, norm, activation, None if onto is None else onto.contiguous())


def attend(
    q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, tables: Tensor, positions: Tensor,
    turn: "Turn | None", window: int | None, scale: float | None,
) -> Tensor | None:  # fmt: skip
    """See `nn.fixed.FixedView.attend`; keys and values (kv_heads, places, K) of a layer."""
    width = q.shape[-1]
    if not takes(q) or keys.dtype != q.dtype or width < 16 or width & (width - 1):
        return None
    if any(x.stride(-1) != 1 for x in (q, k, v, keys, values)):
        return None
    from polytask.nn.kernels import triton

    return triton.attend(q, k, v, keys, values, tables, positions, turn, window, scale)


def choose(logits: Tensor, kinds: Tensor, state: Tensor, records: Tensor, tie: float) -> bool:
    """See `inference.steps.choose`; False where that is left to torch."""
    if not takes(logits) or logits.stride(1) != 1:
        return False
    from polytask.nn.kernels import triton

    triton.choose(logits, kinds, state, records, tie)
    return True


def span(places: int) -> int:
    """How many keys one program reads, of at most so many."""
    return max(SPAN, 1 << (-(-places // SPLITS) - 1).bit_length())
