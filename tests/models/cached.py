"""A pass with a key/value cache, for rows of as many tokens each."""

from collections.abc import Sequence

import torch
from torch import Tensor

from polytask.models.transformer import Transformer
from polytask.nn.cache import Context
from polytask.nn.paged import KVCache, Row


def cached(network: Transformer, cache: KVCache, ids: Tensor, rows: Sequence[Row]) -> Tensor:
    """Hidden states (B, T, D) of the new tokens `ids` (B, T), one row of the cache for each."""
    positions = torch.cat([torch.arange(row.start, row.end) for row in rows])
    return network(ids.reshape(1, -1), Context(positions[None], cache=cache.view(rows))).view(*ids.shape, -1)
