"""Attention for training on CPUs, two to four times as fast there as torch's kernel (docs/log.md).

torch's flash attention for CPUs goes through tiles of keys with small products. Here a few heads at a time have all of
their scores in the processor's cache, made by large batched products, which is what a CPU is fast at.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SCORES = 1 << 20  # of one pass: a few megabytes, which fit in the cache
KEPT = 256  # up to so many keys the probabilities are kept for the way back; for more they are computed again
HALVED = 64  # from so many queries on, causal attention spares the first half of them the keys of the second
BANDED = 32  # queries that are worth a pass of their own where each sees a window of keys alone


def attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool = False, *,
    scale: float | None = None, scores: Tensor | None = None, window: int | None = None,
) -> Tensor:  # fmt: skip
    """softmax(scale q k^T + scores + bias) v for q (B, H, T, K), k and v (B, H, S, K): as (B, H, T, K).

    bias (1 or B, 1, T, S), of the type of q, is `masks.additive` of a mask; None sees all. It gets no gradient. causal
    says of the bias that it hides all keys after a query's own place, window that it hides all but the last so many up
    to there; what neither shows is not computed. scale None is 1 / sqrt(K). scores (1 or B, H, T,
    S), of the type of q, are what positions add.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return _Attention.apply(q, k, v, bias, scores, causal, scale, window)  # type: ignore[no-any-return]


class _Part(NamedTuple):
    """What one pass works on: some rows, heads, queries, and the keys that they may see."""

    rows: slice
    heads: slice
    queries: slice
    keys: slice
    adds: bool  # to the gradients of keys that another part has written, too

    def take(self, x: Tensor, places: slice) -> Tensor:
        """(rows x heads, places, K) of (B, H, T, K), side by side: a product copies what is not, each time."""
        return x[self.rows, self.heads, places].flatten(0, 1).contiguous()

    def put(self, x: Tensor, places: slice, value: Tensor, adds: bool = False) -> None:
        """Inverse of `take`."""
        target = x[self.rows, self.heads, places]
        value = value.view(target.shape)
        target.add_(value) if adds else target.copy_(value)


def spans(length: int, keys: int, causal: bool, window: int | None) -> list[tuple[slice, slice, bool]]:
    """Queries, the keys that they may see, and whether those belong to another span as well."""
    if causal and window and length == keys and length >= 2 * (size := max(BANDED, window)):
        return [(slice(i, i + size), slice(max(0, i - window + 1), i + size), True) for i in range(0, length, size)]
    if causal and length == keys and length >= HALVED:
        half = length // 2
        return [(slice(half, None), slice(None), False), (slice(half), slice(half), True)]
    return [(slice(None), slice(None), False)]


def _parts(q: Tensor, k: Tensor, causal: bool, window: int | None) -> Iterator[_Part]:
    (rows, heads, length, _), keys = q.shape, k.shape[2]
    passes = spans(length, keys, causal, window)
    many = max(1, SCORES // max(len(range(length)[a]) * len(range(keys)[b]) for a, b, _ in passes))
    step = many // heads  # several whole rows, or some heads of one
    if step:
        groups = [(slice(start, start + step), slice(None)) for start in range(0, rows, step)]
    else:
        groups = [(slice(row, row + 1), slice(h, h + many)) for row in range(rows) for h in range(0, heads, many)]
    for group in groups:
        for span in passes:
            yield _Part(*group, *span)


def _by_token(x: Tensor, zero: bool = False) -> Tensor:
    """An empty tensor of that shape (B, H, T, K) that lies in memory as (B, T, H, K), as its neighbours read it."""
    return (torch.zeros if zero else torch.empty)(x.transpose(1, 2).shape, dtype=x.dtype).transpose(1, 2)


class _Attention(torch.autograd.Function):
    """The backward pass is that of softmax(S) V written out (Dao et al. 2022, appendix B.2)."""

    @staticmethod
    @torch.autocast("cpu", enabled=False)  # the inputs are in the precision they are to be multiplied in
    def forward(ctx, q, k, v, bias, added, causal, scale, window):
        out, kept = _by_token(q), []
        for part in _parts(q, k, causal, window):
            p = _probabilities(part, q, k, bias, added, scale)
            part.put(out, part.queries, torch.bmm(p, part.take(v, part.keys)))
            if k.shape[2] <= KEPT:
                kept.append(p)
        ctx.causal, ctx.scale, ctx.window = causal, scale, window
        ctx.save_for_backward(q, k, v, bias, added, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        q, k, v, bias, added, *kept = ctx.saved_tensors
        parts = list(_parts(q, k, ctx.causal, ctx.window))
        dq, dk, dv = _by_token(q), _by_token(k, zero=parts[0].adds), _by_token(v, zero=parts[0].adds)
        d_added = torch.zeros_like(added) if ctx.needs_input_grad[4] else None
        for index, part in enumerate(parts):
            p = kept[index] if kept else _probabilities(part, q, k, bias, added, ctx.scale)
            g = part.take(grad, part.queries)
            part.put(dv, part.keys, torch.bmm(p.mT, g), part.adds)
            ds = torch._softmax_backward_data(torch.bmm(g, part.take(v, part.keys).mT), p, -1, p.dtype)
            if d_added is not None:
                _add(part, ds, d_added)
            part.put(dq, part.queries, _scaled(ds, part.take(k, part.keys), ctx.scale))
            part.put(dk, part.keys, _scaled(ds.mT, part.take(q, part.queries), ctx.scale), part.adds)
        return dq, dk, dv, None, d_added, None, None, None


def _scaled(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """scale x left @ right, by matrices."""
    return torch.baddbmm(left.new_empty(()), left, right, beta=0, alpha=scale)


def _probabilities(
    part: _Part, q: Tensor, k: Tensor, bias: Tensor | None, added: Tensor | None, scale: float
) -> Tensor:
    """(rows x heads, queries, keys) of the part."""
    scores = _scaled(part.take(q, part.queries), part.take(k, part.keys).mT, scale)
    rows = len(range(*part.rows.indices(len(q))))
    by_row = scores.view(rows, -1, *scores.shape[1:])
    if added is not None:
        by_row.add_(_of_rows(part, added)[:, part.heads, part.queries, part.keys])
    if bias is not None:
        by_row.add_(_of_rows(part, bias)[:, :, part.queries, part.keys])
    return scores.softmax(dim=-1)


def _of_rows(part: _Part, x: Tensor) -> Tensor:
    return x if len(x) == 1 else x[part.rows]


def _add(part: _Part, ds: Tensor, total: Tensor) -> None:
    """Adds the gradient of the part's scores to that of what positions added to them."""
    target = _of_rows(part, total)[:, part.heads, part.queries, part.keys]
    by_row = ds.view(-1, target.shape[1], *ds.shape[1:])
    target += by_row if len(total) > 1 else by_row.sum(0, keepdim=True)
