"""The key/value cache in blocks, and attention over it.

A block is BLOCK neighbouring places; a sequence has a table of blocks, some of which others may share. Which block is
whose is kept elsewhere (`inference.blocks`). Blocks that follow each other are one slice, which is read in place.
`CacheView.attend` is the one place that knows how blocks are read.
"""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from polytask import runtime
from polytask.nn.cache import Scorer
from polytask.nn.kernels import attention as kernels
from polytask.nn.packets import BLOCK, Cluster, Packet, Row, joined, packets, runs
from polytask.nn.position import Turn
from polytask.nn.sparse import Pattern

__all__ = ["BLOCK", "CacheView", "KVCache", "Row"]


class KVCache:
    """Room for the keys and values of blocks * BLOCK tokens, (layers, kv_heads, places, K) each.

    Nothing is written to it here: on a CPU the system gives memory when a place is first used, in small pages.
    """

    def __init__(
        self, layers: int, kv_heads: int, head_dim: int, blocks: int, *,
        dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu",
    ):  # fmt: skip
        self.blocks = blocks
        self.keys, self.values = (_room(layers, kv_heads, blocks * BLOCK, head_dim, dtype, device) for _ in "kv")

    @property
    def bytes(self) -> int:
        return 2 * self.keys.numel() * self.keys.itemsize

    def view(self, rows: Sequence[Row]) -> "CacheView":
        """What one pass of the network reads and writes; the batch is (1, N), one row's tokens after the other's."""
        return CacheView(self, rows)

    def copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Blocks `targets` become copies of blocks `sources`."""
        for store in (self.keys, self.values):
            blocks = store.unflatten(2, (-1, BLOCK))
            blocks[:, :, torch.tensor(targets)] = blocks[:, :, torch.tensor(sources)]


def _room(layers: int, heads: int, places: int, width: int, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """(layers, heads, places, width). On a CPU the heads of a place lie side by side: a block of each head alone would
    be 2 KB in bfloat16, on a page that has to be found for it."""
    if torch.device(device).type != "cpu":
        return torch.empty(layers, heads, places, width, dtype=dtype, device=device)
    room = torch.empty(layers, places, heads, width, dtype=dtype)
    runtime.use_small_pages(room)
    return room.transpose(1, 2)


class CacheView:
    """The rows of a step: `attend` puts new keys and values in their places and attends to all that a token sees."""

    def __init__(self, cache: KVCache, rows: Sequence[Row]):
        self.cache, self.rows, self.device = cache, rows, cache.keys.device
        self._kept: dict = {}

    @cached_property
    def new(self) -> "slice | Tensor":
        """Where the new tokens lie, (N,)."""
        return joined([run for row in self.rows for run in runs(row.table, row.start, row.end)], self.device)

    @cached_property
    def memory(self) -> "slice | Tensor":
        """Where what the encoders of all rows read lies, row after row."""
        return joined([run for row in self.rows for run in runs(row.memory, 0, row.read)], self.device)

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, turn: Turn | None = None, window: int | None = None,
        pattern: Pattern | None = None, scale: float | None = None, cap: float | None = None,
        scorer: Scorer | None = None,
    ) -> Tensor:  # fmt: skip
        """The heads' outputs (1, H, N, K) for q (1, H, N, K) and the new k and v (1, kv_heads, N, K).

        turn: of queries and keys by their positions. window, pattern, scale, cap: see `nn.attention.Attention`. scorer:
        what positions add to scores.
        """
        if not cap and scorer is None and pattern is None:
            keys, values = self.cache.keys[layer], self.cache.values[layer]
            mixed = kernels.attend(self.rows, self._kept, keys, values, q, k, v, turn, window, scale)
            if mixed is not None:
                return mixed
        if turn is not None:
            q, k = turn(q), turn(k)
        self._write(layer, self.new, k, v)
        return self._over(self._packets(window, pattern=pattern), layer, q, scale, cap, scorer)

    def attend_memory(self, layer: int, q: Tensor, *, scale: float | None = None, cap: float | None = None) -> Tensor:
        """The same over what an encoder read, for q (1, H, N, K)."""
        if not cap:
            keys, values = self.cache.keys[layer], self.cache.values[layer]
            mixed = kernels.attend(self.rows, self._kept, keys, values, q, None, None, None, None, scale)
            if mixed is not None:
                return mixed
        return self._over(self._packets(None, memory=True), layer, q, scale, cap, None)

    def write_memory(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Keys and values (1, kv_heads, M, K) of what the encoders of all rows read, row after row."""
        self._write(layer, self.memory, k, v)

    def _write(self, layer: int, where: "slice | Tensor", k: Tensor, v: Tensor) -> None:
        for store, new in ((self.cache.keys[layer], k[0]), (self.cache.values[layer], v[0])):
            if isinstance(where, slice):
                store[:, where] = new
            else:
                store.index_copy_(1, where, new.to(store.dtype))

    def _over(
        self, packets: "list[Packet | Cluster]", layer: int, q: Tensor, scale: float | None, cap: float | None,
        scorer: Scorer | None,
    ) -> Tensor:  # fmt: skip
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        outputs = [packet.attend(q, keys, values, scale, cap, scorer) for packet in packets]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)

    def _packets(
        self, window: int | None, memory: bool = False, pattern: Pattern | None = None
    ) -> "list[Packet | Cluster]":
        key = (window, memory, pattern)
        if key not in self._kept:
            store = self.cache.keys
            precise = store.dtype in (torch.float32, torch.float64)
            self._kept[key] = packets(self.rows, window, memory, store.shape[-1], self.device, precise, pattern)
        return self._kept[key]
