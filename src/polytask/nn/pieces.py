"""Attention of few queries over keys that lie in pieces, for CPUs: products without a copy of any key.

torch's kernel for CPUs is made for many queries; for one it takes up to four times as long as two products
(docs/log.md). What rows have in common (a system's prompt, several samples of one answer, a beam) is read once for all
of them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from polytask.nn.attention import bend

Piece = slice | Tensor  # places in a store (kv_heads, places, K)


class Own(NamedTuple):
    """The queries of one row, and what it sees alone."""

    tokens: slice
    pieces: Sequence[Piece]


def attend(
    q: Tensor, keys: Tensor, values: Tensor, shared: Sequence[Piece], rows: Sequence[Own], scale: float | None,
    cap: float | None, added: Sequence[tuple[Tensor | None, Tensor | None]],
) -> Tensor:  # fmt: skip
    """What neighbouring rows take from `values`, (1, H, N, K) for their queries q (1, H, N, K).

    keys and values (kv_heads, places, K) of the layer. All rows see the `shared` pieces first, then their own. added:
    for each row, scores and bias (1, 1 or H, T, S) or None.
    """
    kv_heads, _, width = keys.shape
    q = q[0].unflatten(0, (kv_heads, -1)) * (width**-0.5 if scale is None else scale)  # (kv_heads, G, N, K)
    common = _scores(q, [take(keys, piece) for piece in shared])
    parts, outputs = [], []
    for row, (scores, bias) in zip(rows, added):
        own = _scores(q[:, :, row.tokens], [take(keys, piece) for piece in row.pieces])
        s = torch.cat([*(x[:, :, row.tokens] for x in common), *own], dim=-1)
        if scores is not None or cap or bias is not None:
            s = bend(s.flatten(0, 1), cap, bias, scores).view_as(s)
        p = s.softmax(dim=-1)
        sizes = [x.shape[-1] for x in (*common, *own)]
        p = p.split(sizes, dim=-1)
        parts.append(p[: len(common)])
        outputs.append(_mixed(p[len(common) :], [take(values, piece) for piece in row.pieces]))
    out = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)
    if common:
        together = [torch.cat(part, dim=2) for part in zip(*parts)]
        out = out + _mixed(together, [take(values, piece) for piece in shared])
    return out.flatten(0, 1)[None]


def take(store: Tensor, piece: Piece) -> Tensor:
    return store[:, piece] if isinstance(piece, slice) else store.index_select(1, piece)


def _scores(q: Tensor, keys: list[Tensor]) -> list[Tensor]:
    """(kv_heads, G, T, S) for each piece of keys (kv_heads, S, K)."""
    columns = q.flatten(1, 2).mT  # of the two orders of factors the one that is faster for few queries
    return [torch.bmm(k, columns).mT.unflatten(1, q.shape[1:3]) for k in keys]


def _mixed(p: Sequence[Tensor], values: list[Tensor]) -> Tensor:
    """(kv_heads, G, T, K): the sum over pieces of probabilities (kv_heads, G, T, S) times values."""
    shape = p[0].shape[1:3]
    products = [torch.bmm(part.flatten(1, 2), v) for part, v in zip(p, values)]
    return (products[0] if len(products) == 1 else torch.stack(products).sum(0)).unflatten(1, shape)
