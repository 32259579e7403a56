"""Attention of packed documents on a GPU: a kernel that is told where they begin, in place of a mask of all pairs."""

import inspect

from torch import Tensor, bfloat16, cuda, float16

from polytask.nn.cache import Context

WIDEST, WINDOWED = 256, False  # the widest head; whether the kernel knows windows, which say "causal" too
if cuda.is_available():  # elsewhere the import, torch's compiler with it, would cost each start a second
    from torch.nn.attention.varlen import varlen_attn

    WINDOWED = "window_size" in inspect.signature(varlen_attn).parameters


def takes(q: Tensor, context: Context, window: int | None) -> bool:
    """Whether the kernel takes queries (B, H, T, K); where rows are whole and see all torch's own choice is as good."""
    if not WINDOWED or context.starts is None or not context.ordered or (context.whole and window is None):
        return False
    return q.is_cuda and q.dtype in (float16, bfloat16) and q.shape[-1] <= WIDEST and q.shape[-1] % 8 == 0


def attention(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, window: int | None, scale: float | None) -> Tensor:
    """What each token takes from those up to it in its document, and of those from the last `window`, (B, H, T, K).

    q, k, v (B, H, T, K); starts (n,) int32: see `data.batch.Batch`.
    """
    rows, _, length, _ = q.shape
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))  # (B T, H, K)
    seen = (-1 if window is None else window - 1, 0)
    mixed = varlen_attn(q, k, v, starts, starts, length, length, scale=scale, window_size=seen)
    assert isinstance(mixed, Tensor)
    return mixed.unflatten(0, (rows, length)).transpose(1, 2)
