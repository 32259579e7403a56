"""Kernels in Triton for decoding on a GPU; `nn.kernels.gpu` says when they are called. Sums are in float32.

Attention splits the keys of a head over programs and joins what they found, as flash-decoding does (Dao et al. 2023).

Each lets the next one start at once and waits for the last one to end before it touches what a kernel of the same
step has written (programmatic dependent launch, from Hopper on): the first weights of a product are on their way by
then. What earlier steps wrote may be read before, since every step begins with kernels of torch, which start late.
"""

# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false
from functools import cache
from typing import TYPE_CHECKING

import torch
import triton  # type: ignore[import-not-found]
import triton.language as tl  # type: ignore[import-not-found]
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait  # type: ignore[import-not-found]

from polytask.nn.kernels.gpu import span
from polytask.nn.kernels.library import Norm

if TYPE_CHECKING:
    from polytask.nn.position import Turn

LOWEST = tl.constexpr(-1e30)
TILE, WARPS = 64, 4  # keys that are looked at together, and by how many warps
PART = 2048  # logits that one program of `choose` reads


ACTIVATIONS = ("", "relu", "gelu", "gelu_tanh", "silu", "relu_squared")


@cache
def early(device: torch.device) -> dict[str, bool]:
    """What a kernel is started with where it may start before the last one has ended; nothing elsewhere."""
    able = torch.version.hip is None and torch.cuda.get_device_capability(device) >= (9, 0)
    return {"EARLY": able} | ({"launch_pdl": True} if able else {})


def tile(out: int, width: int) -> tuple[int, int, int]:
    """How many rows a program multiplies, columns at a time, and its warps: what was quickest on an H100."""
    if width <= 1024:
        return (4, 512, 4) if out >= 8192 else (2, 512, 2)
    if width <= 2048 and out < 8192:
        return 2, 1024, 4
    return (4, 1024, 4) if out >= 2048 else (2, 1024, 8)


@triton.jit
def _begin(EARLY: tl.constexpr):
    if EARLY:
        gdc_launch_dependents()


@triton.jit
def _await(EARLY: tl.constexpr):
    if EARLY:
        gdc_wait()


def product(
    x: Tensor, weight: Tensor, bias: Tensor | None, norm: Norm, activation: str = "", onto: Tensor | None = None
) -> Tensor:  # fmt: skip
    """norm(x), or what an activation makes of x, times weight (out, in); of an x twice as wide the first half gates."""
    out, width = weight.shape
    y = torch.empty(*x.shape[:-1], out, dtype=x.dtype, device=x.device)
    rows, step, warps = tile(out, width)
    _product[(triton.cdiv(out, rows),)](
        x, weight, bias, onto, y, norm.scale, norm.bias, out, norm.eps, norm.offset, width,
        triton.next_power_of_2(width), norm.kind, bias is not None, onto is not None, norm.bias is not None,
        ACTIVATIONS.index(activation), x.shape[-1] > width, rows, step, num_warps=warps,
        **early(x.device),
    )  # fmt: skip
    return y


@triton.jit
def _active(x, KIND: tl.constexpr):
    if KIND == 2:
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif KIND == 3:
        x = x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))  # (1 + tanh(z)) / 2 = sigmoid(2 z)
    elif KIND == 4:
        x = x * tl.sigmoid(x)
    else:
        x = tl.maximum(x, 0.0)
        if KIND == 5:
            x = x * x
    return x


@triton.jit
def _rows(weight, row, out, start, WIDTH: tl.constexpr, STEP: tl.constexpr):
    """STEP columns of the rows of a weight, from `start` on."""
    at = start + tl.arange(0, STEP)
    inside = (row < out)[:, None] & (at < WIDTH)[None, :]
    return tl.load(weight + row.to(tl.int64)[:, None] * WIDTH + at[None, :], mask=inside, other=0.0)


@triton.jit
def _product(
    x, weight, bias, onto, y, norm_scale, norm_bias, out, eps, offset, WIDTH: tl.constexpr, PADDED: tl.constexpr,
    NORM: tl.constexpr, BIASED: tl.constexpr, ADDED: tl.constexpr, SHIFTED: tl.constexpr, ACTIVATION: tl.constexpr,
    GATED: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    # Weights are asked for before anything is known of x or its norm, which is applied to their sums.
    _begin(EARLY)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    first = _rows(weight, row, out, 0, WIDTH, STEP)
    _await(EARLY)
    total = tl.zeros((ROWS, STEP), tl.float32)
    gains = tl.zeros((ROWS, STEP), tl.float32)
    shifts = tl.zeros((ROWS, STEP), tl.float32)
    for start in tl.static_range(0, WIDTH, STEP):
        at = start + tl.arange(0, STEP)
        inside = at < WIDTH
        taken = (first if start == 0 else _rows(weight, row, out, start, WIDTH, STEP)).to(tl.float32)
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        if NORM > 0:
            gain = tl.load(norm_scale + at, mask=inside, other=0.0).to(tl.float32) + offset
            value *= gain
            if NORM == 1:
                gains += taken * gain[None, :]
            if SHIFTED:
                shifts += taken * tl.load(norm_bias + at, mask=inside, other=0.0).to(tl.float32)[None, :]
        if ACTIVATION > 0:
            value = _active(value, ACTIVATION).to(x.dtype.element_ty).to(tl.float32)
            if GATED:
                value *= tl.load(x + WIDTH + at, mask=inside, other=0.0).to(tl.float32)
                value = value.to(x.dtype.element_ty).to(tl.float32)
        total += taken * value[None, :]
    result = tl.sum(total, axis=1)
    if NORM > 0:
        at = tl.arange(0, PADDED)
        whole = tl.load(x + at, mask=at < WIDTH, other=0.0).to(tl.float32)
        if NORM == 1:
            mean = tl.sum(whole) / WIDTH
            whole = tl.where(at < WIDTH, whole - mean, 0.0)
            result -= mean * tl.sum(gains, axis=1)
        result *= 1.0 / tl.sqrt(tl.sum(whole * whole) / WIDTH + eps)
        if SHIFTED:
            result += tl.sum(shifts, axis=1)
    if BIASED:
        result += tl.load(bias + row, mask=row < out, other=0.0).to(tl.float32)
    if ADDED:
        result = result.to(y.dtype.element_ty).to(tl.float32)
        result += tl.load(onto + row, mask=row < out, other=0.0).to(tl.float32)
    tl.store(y + row, result.to(y.dtype.element_ty), mask=row < out)


def attend(
    q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, tables: Tensor, positions: Tensor,
    turn: "Turn | None", window: int | None, scale: float | None,
) -> Tensor:  # fmt: skip
    from polytask.nn.packets import BLOCK

    _, heads, rows, width = q.shape
    kv_heads, group, each = k.shape[1], heads // k.shape[1], span(tables.shape[1] * BLOCK)
    splits = triton.cdiv(tables.shape[1] * BLOCK, each)
    scale = width**-0.5 if scale is None else scale
    cos, sin = turn.angles if turn is not None else (q, q)  # in float32
    turned = cos.shape[-1] if turn is not None else 0
    neighbours = turn is not None and turn.rotary.layout != "half"
    parts = torch.empty(rows, kv_heads, splits, group, width + 2, dtype=torch.float32, device=q.device)
    y = torch.empty(1, rows, heads, width, dtype=q.dtype, device=q.device)
    padded = max(16, triton.next_power_of_2(group))
    _part[(rows, kv_heads, splits)](
        q, k, v, keys, values, tables, positions, cos, sin, parts, q.stride(2), q.stride(1), k.stride(2), k.stride(1),
        v.stride(2), v.stride(1), keys.stride(0), values.stride(0), tables.stride(0), positions.stride(0), scale,
        window or 0, group, padded, width, turned, neighbours, BLOCK, TILE, each, num_warps=WARPS,
        **early(q.device),
    )  # fmt: skip
    _join[(rows, heads)](
        parts, positions, y, positions.stride(0), window or 0, kv_heads, group, width, each, splits,
        triton.next_power_of_2(splits), num_warps=4, **early(q.device),
    )  # fmt: skip
    return y.transpose(1, 2)


@triton.jit
def _turned(at, other, cos, sin, channel, seen, TURNED: tl.constexpr):
    """x at `at`, turned with what stands at `other` by the row's angles."""
    x = tl.load(at, mask=seen, other=0.0)
    if TURNED > 0:
        c = tl.load(cos + channel, mask=channel < TURNED, other=1.0).to(x.dtype).to(tl.float32)
        s = tl.load(sin + channel, mask=channel < TURNED, other=0.0).to(x.dtype).to(tl.float32)
        x = (x.to(tl.float32) * c + tl.load(other, mask=seen, other=0.0).to(tl.float32) * s).to(x.dtype)
    return x


@triton.jit
def _partner(channel, TURNED: tl.constexpr, NEIGHBOURS: tl.constexpr):
    """With which channel each is turned."""
    if NEIGHBOURS:
        partner = channel ^ 1
    else:
        partner = tl.where(channel < TURNED // 2, channel + TURNED // 2, channel - TURNED // 2)
    return tl.where(channel < TURNED, partner, channel)


@triton.jit
def _kept(store, table, start, first, place, channel, BLOCK: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr):
    """What a head has of TILE places from `start` on, and which of them are seen."""
    at = start + tl.arange(0, TILE)
    seen = (at < place) & (at >= first)
    block = tl.load(table + at // BLOCK, mask=seen, other=0).to(tl.int64)
    slot = (block * BLOCK + at % BLOCK)[:, None] * WIDTH + channel[None, :]
    return tl.load(store + slot, mask=seen[:, None], other=0.0), seen


@triton.jit
def _more(query, taken, values, seen, top, mass, total, scale):
    """The highest score, the mass by it and the sum of values, with what more keys give."""
    scores = tl.dot(query, tl.trans(taken), input_precision="ieee") * scale
    scores = tl.where(seen[None, :], scores, LOWEST)
    higher = tl.maximum(top, tl.max(scores, axis=1))
    odds = tl.where(seen[None, :], tl.exp(scores - higher[:, None]), 0.0)
    fall = tl.exp(top - higher)
    total = total * fall[:, None] + tl.dot(odds.to(values.dtype), values, input_precision="ieee")
    return higher, mass * fall + tl.sum(odds, axis=1), total


@triton.jit
def _part(
    q, k, v, keys, values, tables, positions, cos, sin, parts, q_row, q_head, k_row, k_head, v_row, v_head,
    keys_head, values_head, table_row, position_row, scale, window, GROUP: tl.constexpr, PADDED: tl.constexpr,
    WIDTH: tl.constexpr, TURNED: tl.constexpr, NEIGHBOURS: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
    SPAN: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """What SPAN keys give the queries of a head: the highest score, the mass by it, and the sum of values."""
    _begin(EARLY)
    row, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    place = tl.load(positions + row * position_row).to(tl.int32)
    first = tl.where(window > 0, tl.maximum(place + 1 - window, 0), 0)
    begin = split * SPAN
    if (begin <= place) & (begin + SPAN > first):
        channel, member = tl.arange(0, WIDTH), tl.arange(0, PADDED)
        table = tables + row * table_row
        keys += head.to(tl.int64) * keys_head
        values += head.to(tl.int64) * values_head
        taken, seen = _kept(keys, table, begin, first, place, channel, BLOCK, TILE, WIDTH)
        given, _ = _kept(values, table, begin, first, place, channel, BLOCK, TILE, WIDTH)
        newest = tl.load(table + place // BLOCK).to(tl.int64) * BLOCK + place % BLOCK
        partner = _partner(channel, TURNED, NEIGHBOURS)
        cos_row, sin_row = cos + row * TURNED, sin + row * TURNED
        start_q = q + row * q_row + (head * GROUP + member[:, None]) * q_head
        real = (member < GROUP)[:, None] & (channel >= 0)[None, :]
        last = (channel >= 0) & (place < begin + SPAN)  # the new token's own key, which no program reads from the cache
        start_k = k + row * k_row + head * k_head
        _await(EARLY)
        query = _turned(
            start_q + channel[None, :], start_q + partner[None, :], cos_row, sin_row, channel[None, :], real, TURNED
        )
        new = _turned(start_k + channel, start_k + partner, cos_row, sin_row, channel, last, TURNED)
        value = tl.load(v + row * v_row + head * v_head + channel, mask=last, other=0.0)
        top = tl.full((PADDED,), LOWEST, tl.float32)
        mass = tl.zeros((PADDED,), tl.float32)
        total = tl.zeros((PADDED, WIDTH), tl.float32)
        top, mass, total = _more(query, taken, given, seen, top, mass, total, scale)
        for start in range(begin + TILE, tl.minimum(begin + SPAN, place), TILE):
            taken, seen = _kept(keys, table, start, first, place, channel, BLOCK, TILE, WIDTH)
            given, _ = _kept(values, table, start, first, place, channel, BLOCK, TILE, WIDTH)
            top, mass, total = _more(query, taken, given, seen, top, mass, total, scale)
        if place < begin + SPAN:
            tl.store(keys + newest * WIDTH + channel, new)
            tl.store(values + newest * WIDTH + channel, value)
            score = tl.sum(query.to(tl.float32) * new.to(tl.float32)[None, :], axis=1) * scale
            higher = tl.maximum(top, score)
            odds, fall = tl.exp(score - higher), tl.exp(top - higher)
            total = total * fall[:, None] + odds[:, None] * value.to(tl.float32)[None, :]
            mass = mass * fall + odds
            top = higher
        splits = tl.num_programs(2)
        at = parts + (((row * tl.num_programs(1) + head) * splits + split) * GROUP + member) * (WIDTH + 2)
        tl.store(at, top, mask=member < GROUP)
        tl.store(at + 1, mass, mask=member < GROUP)
        tl.store(at[:, None] + 2 + channel[None, :], total, mask=real)


@triton.jit
def _join(
    parts, positions, y, position_row, window, kv_heads, GROUP: tl.constexpr, WIDTH: tl.constexpr, SPAN: tl.constexpr,
    splits, PADDED: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    _begin(EARLY)
    row, head = tl.program_id(0), tl.program_id(1)
    place = tl.load(positions + row * position_row).to(tl.int32)
    _await(EARLY)
    first = tl.where(window > 0, tl.maximum(place + 1 - window, 0), 0)
    split, channel = tl.arange(0, PADDED), tl.arange(0, WIDTH)
    real = (split * SPAN <= place) & (split * SPAN + SPAN > first)
    at = parts + (((row * kv_heads + head // GROUP) * splits + split) * GROUP + head % GROUP) * (WIDTH + 2)
    top = tl.load(at, mask=real, other=LOWEST)
    share = tl.where(real, tl.exp(top - tl.max(top)), 0.0)
    mass = tl.sum(share * tl.load(at + 1, mask=real, other=0.0))
    found = tl.load(at[:, None] + 2 + channel[None, :], mask=real[:, None] & (channel >= 0)[None, :], other=0.0)
    mixed = tl.sum(share[:, None] * found, axis=0) / mass
    tl.store(y + (row * tl.num_programs(1) + head) * WIDTH + channel, mixed.to(y.dtype.element_ty))


def choose(logits: Tensor, kinds: Tensor, state: Tensor, records: Tensor, tie: float) -> None:
    rows, vocabulary = logits.shape
    count = triton.cdiv(vocabulary, PART)
    parts = torch.empty(rows, 5, count, dtype=torch.float32, device=logits.device)
    words, padded = early(logits.device), triton.next_power_of_2(count)
    _ranked[(rows, count)](logits, kinds, state, parts, logits.stride(0), state.stride(0), vocabulary, PART, **words)
    _chosen[(rows,)](parts, state, records, state.stride(0), records.stride(0), count, tie, padded, **words)


@triton.jit
def _ranked(logits, kinds, state, parts, logit_row, state_row, vocabulary, PART: tl.constexpr, EARLY: tl.constexpr):
    """Of PART logits: the best and the second that may come, where the best is, and all of their mass."""
    _begin(EARLY)
    _await(EARLY)
    row, part, count = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    at = part * PART + tl.arange(0, PART)
    x = tl.load(logits + row.to(tl.int64) * logit_row + at, mask=at < vocabulary, other=LOWEST).to(tl.float32)
    kind = tl.load(kinds + at, mask=at < vocabulary, other=2)
    early = tl.load(state + row * state_row + 1) + 1 < tl.load(state + row * state_row + 2)
    scores = tl.where((kind == 2) | ((kind == 1) & early), LOWEST, x)
    best = tl.max(scores)
    where = tl.min(tl.where(scores == best, at, vocabulary))
    top = tl.max(x)
    into = parts + row * 5 * count + part
    tl.store(into, best)
    tl.store(into + count, where.to(tl.float32))
    tl.store(into + 2 * count, tl.max(tl.where(at == where, LOWEST, scores)))
    tl.store(into + 3 * count, top)
    tl.store(into + 4 * count, tl.sum(tl.exp(x - top)))


@triton.jit
def _chosen(parts, state, records, state_row, record_row, count, tie, PADDED: tl.constexpr, EARLY: tl.constexpr):
    """The best of all parts becomes the row's next id; see `inference.steps` for the columns of state and records."""
    _begin(EARLY)
    _await(EARLY)
    row, part = tl.program_id(0), tl.arange(0, PADDED)
    real = part < count
    start = parts + row * 5 * count + part
    bests, places = tl.load(start, mask=real, other=LOWEST), tl.load(start + count, mask=real, other=1e9)
    best = tl.max(bests)
    where = tl.min(tl.where(bests == best, places, 1e9))
    seconds = tl.load(start + 2 * count, mask=real, other=LOWEST)
    second = tl.max(tl.where(places == where, seconds, bests))
    tops = tl.load(start + 3 * count, mask=real, other=LOWEST)
    top = tl.max(tops)
    mass = tl.sum(tl.load(start + 4 * count, mask=real, other=0.0) * tl.exp(tops - top))
    own = state + row * state_row
    position = tl.load(own + 1)
    into = records + row * record_row + (position - tl.load(own + 3)) * 3
    tl.store(into, where)
    tl.store(into + 1, best - top - tl.log(mass))
    tl.store(into + 2, tl.where(best - second <= tie * tl.maximum(tl.abs(best), 1.0), 1.0, 0.0))
    tl.store(own, where.to(tl.int64))
    tl.store(own + 1, position + 1)
