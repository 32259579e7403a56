"""The key/value cache in blocks, and attention over it.

A block is BLOCK neighbouring places; a sequence has a table of blocks, some of which others may share. Which block is
whose is kept elsewhere (`inference.blocks`). Keys lie as (layers, kv_heads, places, K): those of a block are contiguous
for each head, and blocks that follow each other are one slice, which is read in place. `CacheView.attend` is the one
place that knows how blocks are read.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from polytask.nn import masks
from polytask.nn.attention import mix
from polytask.nn.cache import Scorer

BLOCK = 16
SHORT = 8  # tokens of a row, up to which rows with as many are read together
GATHERED = 1 << 18  # bytes of a row's keys in a layer, up to which copying them costs less than a call of its own


@dataclass(frozen=True)
class Row:
    """What one sequence does in a step: `count` new tokens after `start` that lie in the blocks of `table`.

    prefix: so many first places are seen by all tokens. memory: the blocks of what an encoder read, `read` places.
    """

    table: Sequence[int]
    start: int
    count: int
    prefix: int = 0
    memory: Sequence[int] = ()
    read: int = 0

    @property
    def end(self) -> int:
        return self.start + self.count


class KVCache:
    """Room for the keys and values of blocks * BLOCK tokens, (layers, kv_heads, places, K) each.

    Nothing is written to it here: on a CPU the system gives memory when a place is first used.
    """

    def __init__(
        self, layers: int, kv_heads: int, head_dim: int, blocks: int, *,
        dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu",
    ):  # fmt: skip
        shape = (layers, kv_heads, blocks * BLOCK, head_dim)
        self.blocks, self.keys, self.values = blocks, *(torch.empty(shape, dtype=dtype, device=device) for _ in "kv")

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


class CacheView:
    """The rows of a step: `attend` puts new keys and values in their places and attends to all that a token sees."""

    def __init__(self, cache: KVCache, rows: Sequence[Row]):
        self.cache, self.rows, self.device = cache, rows, cache.keys.device
        self._kept: dict = {}

    @cached_property
    def new(self) -> "slice | Tensor":
        """Where the new tokens lie, (N,)."""
        return self._joined([places(row.table, row.start, row.end) for row in self.rows])

    @cached_property
    def memory(self) -> "slice | Tensor":
        """Where what the encoders of all rows read lies, row after row."""
        return self._joined([places(row.memory, 0, row.read) for row in self.rows])

    def _joined(self, parts: "list[slice | Tensor]") -> "slice | Tensor":
        if len(parts) == 1 and isinstance(parts[0], slice):
            return parts[0]
        return torch.cat([torch.arange(p.start, p.stop) if isinstance(p, slice) else p for p in parts]).to(self.device)

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, window: int | None = None, scale: float | None = None,
        cap: float | None = None, scorer: Scorer | None = None,
    ) -> Tensor:  # fmt: skip
        """The heads' outputs (1, H, N, K) for q (1, H, N, K) and the new k and v (1, kv_heads, N, K).

        window, scale, cap: see `nn.attention.Attention`. scorer: what positions add to scores.
        """
        self._write(layer, self.new, k, v)
        return self._over(self._packets(window), layer, q, scale, cap, scorer)

    def attend_memory(self, layer: int, q: Tensor, *, scale: float | None = None, cap: float | None = None) -> Tensor:
        """The same over what an encoder read, for q (1, H, N, K)."""
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
        self, packets: "list[_Packet]", layer: int, q: Tensor, scale: float | None, cap: float | None,
        scorer: Scorer | None,
    ) -> Tensor:  # fmt: skip
        keys, values, outputs = self.cache.keys[layer], self.cache.values[layer], []
        for packet in packets:
            k, v = packet.take(keys).to(q.dtype), packet.take(values).to(q.dtype)
            scores = None if scorer is None else packet.scores(scorer, q.dtype)
            causal = packet.square and not cap and scores is None
            mask = None if causal else packet.bias(q.dtype) if cap or scores is not None else packet.mask
            mixed = mix(packet.split(q), k, v, mask, causal, scale, cap, scores)
            outputs.append(mixed.transpose(0, 1).flatten(1, 2)[None])
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)

    # Which rows are read together

    def _packets(self, window: int | None, memory: bool = False) -> "list[_Packet]":
        key = (window, memory)
        if key not in self._kept:
            packets, start = [], 0
            for rows in self._together(memory):
                tokens = slice(start, start + sum(row.count for row in rows))
                packets.append(_Packet(rows, tokens, window, memory, self.device))
                start = tokens.stop
            self._kept[key] = packets
        return self._kept[key]

    def _together(self, memory: bool) -> list[list[Row]]:
        """Neighbouring rows with as many tokens, where copying their keys side by side costs less than a call each."""
        _, kv_heads, _, head_dim = self.cache.keys.shape
        most = GATHERED // (2 * kv_heads * head_dim * self.cache.keys.itemsize)
        groups: list[list[Row]] = []
        joins = False
        for row in self.rows:
            small = row.count <= SHORT and ((row.read if memory else row.end) <= most or self.device.type != "cpu")
            if small and groups and joins and groups[-1][0].count == row.count:
                groups[-1].append(row)
            else:
                groups.append([row])
            joins = small
        return groups


class _Packet:
    """Rows of as many tokens each, (B, T), and the keys that they see, (B, S)."""

    def __init__(self, rows: list[Row], tokens: slice, window: int | None, memory: bool, device: torch.device):
        self.rows, self.tokens, self.window, self.device, self.causal = rows, tokens, window, device, not memory
        self.count = rows[0].count
        # Keys before a window of all tokens are not read at all.
        unseen = [max(0, r.start + 1 - window) if window and not r.prefix and not memory else 0 for r in rows]
        self.tables = [r.memory if memory else r.table for r in rows]
        self.ends = [r.read if memory else r.end for r in rows]
        if len(rows) > 1:
            unseen = [first - first % BLOCK for first in unseen]
        self.firsts = unseen
        self.length = max(end - first for end, first in zip(self.ends, unseen))
        self._kept: dict = {}
        index = places(self.tables[0], unseen[0], self.ends[0]) if len(rows) == 1 else self._gathered()
        self.index = index if isinstance(index, slice) else index.to(device)

    def _gathered(self) -> Tensor:
        """(B S,): past a row's end its first place, which holds numbers, stands in for what it lacks."""
        count = -(-self.length // BLOCK)
        tables = [table[first // BLOCK :][:count] for table, first in zip(self.tables, self.firsts)]
        blocks = torch.tensor([[*table, *[0] * (count - len(table))] for table in tables])
        spread = (blocks[:, :, None] * BLOCK + torch.arange(BLOCK)).flatten(1)[:, : self.length]
        real = torch.arange(self.length) < torch.tensor([e - f for e, f in zip(self.ends, self.firsts)])[:, None]
        return torch.where(real, spread, spread[:, :1]).flatten()

    def take(self, store: Tensor) -> Tensor:
        """(B, kv_heads, S, K) of a layer's (kv_heads, places, K)."""
        if isinstance(self.index, slice):
            return store[None, :, self.index]
        return store.index_select(1, self.index).unflatten(1, (len(self.rows), self.length)).transpose(0, 1)

    def split(self, q: Tensor) -> Tensor:
        """(B, H, T, K) of (1, H, N, K)."""
        if len(self.rows) == 1:
            return q[:, :, self.tokens]
        return q[0, :, self.tokens].unflatten(1, (len(self.rows), self.count)).transpose(0, 1)

    @property
    def square(self) -> bool:
        """Whether each token sees what came before in its own row, and there is nothing before that."""
        row = self.rows[0]
        whole = row.start == 0 and (self.window is None or self.window >= row.count)
        return self.causal and len(self.rows) == 1 and row.count > 1 and whole and row.prefix < 2

    @cached_property
    def positions(self) -> tuple[Tensor, Tensor]:
        """Of queries (B, T) and keys (B, S)."""
        starts, firsts = torch.tensor([[r.start for r in self.rows], self.firsts], device=self.device)[..., None]
        return starts + torch.arange(self.count, device=self.device), firsts + torch.arange(
            self.length, device=self.device
        )

    def scores(self, scorer: Scorer, dtype: torch.dtype) -> Tensor:
        return self._once((scorer, dtype), lambda: scorer(*self.positions).to(dtype))

    def bias(self, dtype: torch.dtype) -> Tensor | None:
        """The mask as what is added to scores."""
        mask = self.mask
        return None if mask is None else self._once(dtype, lambda: masks.additive(mask, dtype))

    def _once(self, key: object, compute: Callable[[], Tensor]) -> Tensor:
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]

    @cached_property
    def mask(self) -> Tensor | None:
        """(B, 1, T, S), or None where every token sees every key."""
        even = len({end - first for end, first in zip(self.ends, self.firsts)}) == 1
        if not self.causal:
            return None if even else self._real[:, None, None]
        row = self.rows[0]
        if len(self.rows) == 1 and row.count == 1 and (not self.window or not row.prefix):
            return None
        if self.count == 1 and even and not self.window:
            return None
        queries, keys = self.positions
        mask = masks.causal(queries, keys, self.window)
        if any(row.prefix for row in self.rows):
            prefix = torch.tensor([row.prefix for row in self.rows], device=self.device)[:, None]
            mask = mask | ((keys < prefix) & self._real)[:, None, None]
        return mask

    @property
    def _real(self) -> Tensor:
        """(B, S): keys that a row has."""
        ends = torch.tensor(self.ends, device=self.device)[:, None]
        return self.positions[1] < ends


def places(table: Sequence[int], first: int, end: int) -> "slice | Tensor":
    """Where places `first` up to `end` of a sequence lie in the store: a slice where its blocks follow each other."""
    blocks, offset = table[first // BLOCK : -(-end // BLOCK)], first % BLOCK
    start = (blocks[0] if blocks else 0) * BLOCK + offset
    if all(b == a + 1 for a, b in itertools.pairwise(blocks)):
        return slice(start, start + end - first)
    spread = (torch.tensor(blocks)[:, None] * BLOCK + torch.arange(BLOCK)).flatten()
    return spread[offset : offset + end - first]
