"""Attention of few new tokens over a cache in blocks, by our kernel: one call for each layer of a step."""

import ctypes
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from polytask.nn.kernels.library import KINDS, LOADER, fields
from polytask.nn.kernels.products import FEW, inferring

if TYPE_CHECKING:
    from polytask.nn.packets import Row
    from polytask.nn.position import Turn

WIDTHS = 16  # of a head: a multiple of a vector's lanes


class AttentionCall(ctypes.Structure):
    """Attention of calls.h."""

    _fields_ = fields(
        c_void_p="q k v keys values y tables row first end cos sin seen",
        c_int64="tokens heads kv_heads width places q_head q_token k_head k_token v_head v_token turned window reach",
        c_float="scale", c_int32="neighbours threads kind",
    )  # fmt: skip


def attend(
    rows: "Sequence[Row]", kept: dict, keys: Tensor, values: Tensor, q: Tensor, k: Tensor, v: Tensor,
    turn: "Turn | None", window: int | None, scale: float | None,
) -> Tensor | None:  # fmt: skip
    """What `CacheView.attend` gives, the new k and v put in their places of keys and values (kv_heads, places, K) of a
    layer; None, and nothing done, where the kernel does not take these. kept: of the step, to keep what layers share.
    """
    if not 0 < q.shape[2] <= FEW or not inferring(q) or keys.dtype != q.dtype or q.shape[3] % WIDTHS:
        return None
    if any(x.stride(3) != 1 or x.dtype != q.dtype for x in (q, k, v)):
        return None
    if (library := LOADER.get()) is None or any(row.prefix > (0 if window else row.start + 1) for row in rows):
        return None
    key = ("few", window, scale, turn, q.stride(), k.stride(), v.stride())
    if key not in kept:
        kept[key] = _call(rows, keys, q, k, v, turn, window, scale)
    call, _ = kept[key]
    _, heads, tokens, width = q.shape
    y = torch.empty(1, tokens, heads, width, dtype=q.dtype)
    call.q, call.k, call.v, call.y = q.data_ptr(), k.data_ptr(), v.data_ptr(), y.data_ptr()
    call.keys, call.values = keys.data_ptr(), values.data_ptr()
    library.attend(ctypes.addressof(call))
    return y.transpose(1, 2)


def _call(
    rows: "Sequence[Row]", keys: Tensor, q: Tensor, k: Tensor, v: Tensor, turn: "Turn | None", window: int | None,
    scale: float | None,
) -> tuple[AttentionCall, Any]:  # fmt: skip
    """What layers share, and the memory that it points to."""
    _, heads, tokens, width = q.shape
    tables = list(chain.from_iterable(row.table for row in rows))
    starts, first, end, at = [], [], [], 0
    for row in rows:
        ends = range(row.start + 1, row.end + 1)
        starts += [at] * row.count
        end += ends
        first += [max(0, e - window) if window else 0 for e in ends]
        at += len(row.table)
    numbers = (ctypes.c_int32 * (3 * tokens + at))(*starts, *first, *end, *tables)
    base = ctypes.addressof(numbers)
    places = [base + 4 * tokens * i for i in range(4)]
    strides = [step for x in (q, k, v) for step in x.stride()[1:3]]
    scale = width**-0.5 if scale is None else scale
    sizes = (tokens, heads, *keys.shape[:1], width, keys.shape[1])
    angles = [part.to(q.dtype).float().contiguous() for part in turn.angles] if turn else []
    turns = [part.data_ptr() for part in angles] or [None, None]
    turned, neighbours = (angles[0].shape[-1], turn.rotary.layout != "half") if turn else (0, False)
    call = AttentionCall(
        *[None] * 6, places[3], *places[:3], *turns, None, *sizes, *strides, turned, 0, 0, scale, neighbours,
        torch.get_num_threads(), KINDS[q.dtype],
    )  # fmt: skip
    return call, (numbers, angles)
