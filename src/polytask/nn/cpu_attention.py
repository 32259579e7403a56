"""Attention for training on CPUs, two to four times as fast there as torch's kernel (docs/log.md).

torch's flash attention for CPUs goes through tiles of keys with small products. Here a few heads at a time have all of
their scores in the processor's cache, made by large batched products, which is what a CPU is fast at.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SCORES = 1 << 20  # of one pass: a few megabytes, which fit in the cache
KEPT = 256  # up to so many keys the probabilities are kept for the way back; for more they are computed again


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(K) + bias) v for q (B, H, T, K), k and v (B, H, S, K): as (B, H, T, K).

    bias (1 or B, 1, T, S), of the type of q, is `masks.additive` of a mask; None sees all. It gets no gradient.
    """
    return _Attention.apply(q, k, v, bias)  # type: ignore[no-any-return]


class _Attention(torch.autograd.Function):
    """The backward pass is that of softmax(S) V written out (Dao et al. 2022, appendix B.2)."""

    @staticmethod
    @torch.autocast("cpu", enabled=False)  # the inputs are in the precision they are to be multiplied in
    def forward(ctx, q, k, v, bias):
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        out = torch.empty_like(q)
        kept = k.shape[2] <= KEPT and any(ctx.needs_input_grad)
        shares = q.new_empty(*q.shape[:3], k.shape[2]) if kept else None
        for rows, heads in _parts(q, k):
            part = _probabilities(q[rows, heads], k[rows, heads], bias, rows)
            if shares is not None:
                shares[rows, heads] = part
            torch.bmm(part.flatten(0, 1), v[rows, heads].flatten(0, 1), out=out[rows, heads].flatten(0, 1))
        ctx.save_for_backward(q, k, v, bias, shares)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        q, k, v, bias, shares = ctx.saved_tensors
        grad, scale = grad.contiguous(), q.shape[-1] ** -0.5
        grads = [torch.empty_like(x) for x in (q, k, v)]
        for rows, heads in _parts(q, k):
            q_, k_, v_, g_ = (x[rows, heads].flatten(0, 1) for x in (q, k, v, grad))
            dq, dk, dv = (x[rows, heads].flatten(0, 1) for x in grads)
            if shares is None:
                p = _probabilities(q[rows, heads], k[rows, heads], bias, rows).flatten(0, 1)
            else:
                p = shares[rows, heads].flatten(0, 1)
            torch.bmm(p.mT, g_, out=dv)
            ds = torch._softmax_backward_data(torch.bmm(g_, v_.mT), p, -1, p.dtype)
            torch.baddbmm(dq, ds, k_, beta=0, alpha=scale, out=dq)
            torch.baddbmm(dk, ds.mT, q_, beta=0, alpha=scale, out=dk)
        return *grads, None


def _parts(q: Tensor, k: Tensor) -> list[tuple[slice, slice]]:
    """(rows, heads) of each pass: several whole rows, or some heads of one."""
    rows, heads, length, keys = q.shape[0], q.shape[1], q.shape[2], k.shape[2]
    many = max(1, SCORES // (length * keys))
    if many >= heads:
        step = many // heads
        return [(slice(start, start + step), slice(None)) for start in range(0, rows, step)]
    return [(slice(row, row + 1), slice(h, h + many)) for row in range(rows) for h in range(0, heads, many)]


def _probabilities(q: Tensor, k: Tensor, bias: Tensor | None, rows: slice) -> Tensor:
    q_, k_ = q.flatten(0, 1), k.flatten(0, 1)
    scores = torch.baddbmm(q_.new_empty(()), q_, k_.mT, beta=0, alpha=q.shape[-1] ** -0.5).view(*q.shape[:3], -1)
    if bias is not None:
        scores += bias if len(bias) == 1 else bias[rows]
    return scores.softmax(dim=-1)
