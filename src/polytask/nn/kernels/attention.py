"""Attention over a cache in blocks, by our kernel: one call for each layer of a step."""

import ctypes
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from polytask.nn.kernels.library import KINDS, LOADER, fields, pointer
from polytask.nn.kernels.products import inferring

if TYPE_CHECKING:
    from polytask.nn.packets import Row
    from polytask.nn.position import Turn

WIDTHS = 16  # of a head: a multiple of a vector's lanes


class AttentionCall(ctypes.Structure):
    """Attention of calls.h."""

    _fields_ = fields(
        c_void_p="q k v keys values y tables row place first end cos sin seen",
        c_int64="tokens heads kv_heads width q_head q_token k_head k_token v_head v_token turned window reach",
        c_float="scale", c_int32="neighbours threads kind",
    )  # fmt: skip


def attend(
    rows: "Sequence[Row]", kept: dict, keys: Tensor, values: Tensor, q: Tensor, k: Tensor | None, v: Tensor | None,
    turn: "Turn | None", window: int | None, scale: float | None,
) -> Tensor | None:  # fmt: skip
    """What `CacheView.attend` gives, the new k and v put in their places of keys and values (kv_heads, places, K) of a
    layer, or `CacheView.attend_memory` where there are none; None, and nothing done, where the kernel does not take
    these: it wants the heads of a place side by side. kept: of the step, to keep what layers share.
    """
    new = [x for x in (q, k, v) if x is not None]
    if not q.shape[2] or not inferring(q) or keys.dtype != q.dtype or q.shape[3] % WIDTHS:
        return None
    if any(x.stride(3) != 1 or x.dtype != q.dtype for x in new):
        return None
    if not all(store.transpose(0, 1).is_contiguous() for store in (keys, values)):
        return None
    if any(row.prefix if window else len(new) == 1 and not row.read for row in rows) or not (library := LOADER.get()):
        return None
    key = ("call", window, scale, turn, *(x.stride() for x in new))
    if key not in kept:
        kept[key] = called(rows, keys, q, k, v, turn, window, scale)
    call, _ = kept[key]
    _, heads, tokens, width = q.shape
    y = torch.empty(1, tokens, heads, width, dtype=q.dtype)
    call.q, call.k, call.v, call.y = q.data_ptr(), pointer(k), pointer(v), y.data_ptr()
    call.keys, call.values = keys.data_ptr(), values.data_ptr()
    library.attend(ctypes.addressof(call))
    return y.transpose(1, 2)


def called(
    rows: "Sequence[Row]", keys: Tensor, q: Tensor, k: Tensor | None, v: Tensor | None, turn: "Turn | None",
    window: int | None, scale: float | None,
) -> tuple[AttentionCall, Any]:  # fmt: skip
    """What layers share, and the memory that it points to."""
    _, heads, tokens, width = q.shape
    memory = k is None
    tables = [row.memory if memory else row.table for row in rows]
    starts, places, first, end, at = [], [], [], [], 0
    for row, table in zip(rows, tables):
        own = range(row.start, row.end)
        ends = [row.read] * row.count if memory else [max(p + 1, min(row.prefix, row.end)) for p in own]
        starts += [at] * row.count
        places += own
        end += ends
        first += [max(0, e - window) if window else 0 for e in ends]
        at += len(table)
    numbers = (ctypes.c_int32 * (4 * tokens + at))(*starts, *places, *first, *end, *chain.from_iterable(tables))
    base = ctypes.addressof(numbers)
    row_, place, first_, end_, table_ = (base + 4 * tokens * i for i in range(5))
    strides = [step for x in (q, k, v) for step in ((0, 0) if x is None else x.stride()[1:3])]
    scale = width**-0.5 if scale is None else scale
    sizes = (tokens, heads, len(keys), width)
    angles = [part.to(q.dtype).float().contiguous() for part in turn.angles] if turn else []
    turns = [part.data_ptr() for part in angles] or [None, None]
    turned, neighbours = (angles[0].shape[-1], turn.rotary.layout != "half") if turn else (0, False)
    call = AttentionCall(
        *[None] * 6, table_, row_, None if memory else place, first_, end_, *turns, None, *sizes, *strides, turned, 0,
        0, scale, neighbours, torch.get_num_threads(), KINDS[q.dtype],
    )  # fmt: skip
    return call, (numbers, angles)
