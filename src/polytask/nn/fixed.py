"""The cache for one new token a row, told in tensors of fixed shape alone, so that a CUDA graph can record the pass."""

from collections.abc import Callable

import torch
from torch import Tensor

from polytask.nn import masks
from polytask.nn.attention import mix
from polytask.nn.cache import Scorer
from polytask.nn.kernels import gpu
from polytask.nn.paged import BLOCK, CacheView, KVCache
from polytask.nn.position import Turn
from polytask.nn.sparse import Pattern


class FixedView(CacheView):
    """What `paged.CacheView` is of rows: tables (B, blocks) of their blocks, positions (B,) of their new tokens.

    Rows may be equal: they write the same numbers in the same places.
    """

    def __init__(self, cache: KVCache, tables: Tensor, positions: Tensor):
        super().__init__(cache, ())
        self.tables, self.positions = tables, positions

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, turn: Turn | None = None, window: int | None = None,
        pattern: Pattern | None = None, scale: float | None = None, cap: float | None = None,
        scorer: Scorer | None = None,
    ) -> Tensor:  # fmt: skip
        """See `paged.CacheView.attend`."""
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        if not cap and scorer is None and pattern is None:
            tables, positions = self.tables, self.positions
            mixed = gpu.attend(q, k, v, keys, values, tables, positions, turn, window, scale)
            if mixed is not None:
                return mixed
        if turn is not None:
            q, k = turn(q), turn(k)
        return self._by_torch(keys, values, q, k, v, window, pattern, scale, cap, scorer)

    def _by_torch(
        self, keys: Tensor, values: Tensor, q: Tensor, k: Tensor, v: Tensor, window: int | None,
        pattern: Pattern | None, scale: float | None, cap: float | None, scorer: Scorer | None,
    ) -> Tensor:  # fmt: skip
        """All places of every table are read, and hidden where nothing was written or nobody may look."""
        for store, new in ((keys, k[0]), (values, v[0])):
            store.index_copy_(1, self._once("slots", self._slots), new.to(store.dtype))
        places = self._once("places", self._places)
        k, v = (store[:, places].transpose(0, 1).to(q.dtype) for store in (keys, values))  # (B, kv_heads, S, K)
        mask = self._once((window, pattern), lambda: self._mask(window, pattern))
        scores = None if scorer is None else scorer(*self._positions()).to(q.dtype)
        mask = masks.additive(mask, q.dtype) if cap or scores is not None else mask
        return mix(q[0].transpose(0, 1)[:, :, None], k, v, mask, False, scale, cap, scores).permute(2, 1, 0, 3)

    def _mask(self, window: int | None, pattern: Pattern | None) -> Tensor:
        mask = masks.causal(*self._positions(), window)
        return mask if pattern is None else mask & pattern.visible(*self._positions())

    def _positions(self) -> tuple[Tensor, Tensor]:
        """Of queries (B, 1) and keys (1, S)."""
        return self.positions[:, None], torch.arange(self.tables.shape[1] * BLOCK, device=self.tables.device)[None]

    def _places(self) -> Tensor:
        """(B, S): where the keys of each row lie; in place of those not written yet its first, which holds numbers."""
        within = torch.arange(BLOCK, device=self.tables.device)
        places = (self.tables[:, :, None] * BLOCK + within).flatten(1)
        queries, keys = self._positions()
        return torch.where(keys <= queries, places, places[:, :1])

    def _slots(self) -> Tensor:
        """(B,): where the new keys lie."""
        block = self.tables.gather(1, self.positions[:, None] // BLOCK)[:, 0]
        return block * BLOCK + self.positions % BLOCK

    def _once(self, key: object, compute: Callable[[], Tensor]) -> Tensor:
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]
