"""Rows of a step that are attended to together, and what each of their tokens sees."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from polytask.nn import masks, pieces
from polytask.nn.attention import mix
from polytask.nn.cache import Scorer
from polytask.nn.sparse import Pattern

BLOCK = 16
SHORT = 8  # tokens of a row, up to which it is read by products, or beside others
SMALL = 4096  # numbers of a head's keys, up to which torch's kernel is the fastest for one query, by far
SHARED = 4  # blocks that rows must have in common to be read together
BESIDE = 1 << 20  # queries times keys, filled up, that a GPU attends to in one call


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


def runs(table: Sequence[int], first: int, end: int) -> list[slice]:
    """Where places `first` up to `end` of a sequence lie in a store: a slice for each run of neighbouring blocks."""
    found: list[slice] = []
    for place in range(first // BLOCK, -(-end // BLOCK)):
        start = table[place] * BLOCK
        if found and found[-1].stop == start:
            found[-1] = slice(found[-1].start, start + BLOCK)
        else:
            found.append(slice(start, start + BLOCK))
    if found:
        found[0] = slice(found[0].start + first % BLOCK, found[0].stop)
        found[-1] = slice(found[-1].start, found[-1].stop - (-end) % BLOCK)
    return found


def joined(parts: Sequence[slice], device: torch.device) -> "slice | Tensor":
    """One slice as it is, several as the places that they hold, (S,)."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat([torch.arange(0), *(torch.arange(p.start, p.stop) for p in parts)]).to(device)


class Sight:
    """The keys (B, S) that rows of tokens (B, T) may see, of their own or of what an encoder read.

    T is what the longest row has; what others lack is filled up with queries that stand for nothing.
    """

    def __init__(
        self, rows: Sequence[Row], window: int | None, memory: bool, device: torch.device,
        pattern: Pattern | None = None,
    ):  # fmt: skip
        self.rows, self.window, self.device, self.causal, self.pattern = rows, window, device, not memory, pattern
        self.count = max(row.count for row in rows)
        self.tables = [row.memory if memory else row.table for row in rows]
        self.ends = [row.read if memory else row.end for row in rows]
        # Keys before a window of all tokens are not read at all.
        self.firsts = [max(0, r.start + 1 - window) if window and not r.prefix and not memory else 0 for r in rows]
        if len(rows) > 1:
            self.firsts = [first - first % BLOCK for first in self.firsts]
        self.length = max(end - first for end, first in zip(self.ends, self.firsts))
        self._kept: dict = {}

    @cached_property
    def positions(self) -> tuple[Tensor, Tensor]:
        """Of queries (B, T) and keys (B, S)."""
        starts, firsts = torch.tensor([[row.start for row in self.rows], self.firsts], device=self.device)[..., None]
        queries = starts + torch.arange(self.count, device=self.device)
        return queries, firsts + torch.arange(self.length, device=self.device)

    @property
    def square(self) -> bool:
        """Whether each token sees what came before in its own row, and there is nothing before that."""
        row = self.rows[0]
        whole = row.start == 0 and (self.window is None or self.window >= row.count)
        alone = len(self.rows) == 1 and self.pattern is None
        return self.causal and alone and row.count > 1 and whole and row.prefix < 2

    @cached_property
    def mask(self) -> Tensor | None:
        """(B, 1, T, S), or None where every token sees every key."""
        even = len({end - first for end, first in zip(self.ends, self.firsts)}) == 1
        if not self.causal:
            return None if even else self._real[:, None, None]
        cut = self.window is not None and any(first or end > self.window for first, end in zip(self.firsts, self.ends))
        if (
            self.count == 1
            and even
            and self.pattern is None
            and (not cut or (len(self.rows) == 1 and not self.rows[0].prefix))
        ):
            return None
        queries, keys = self.positions
        mask = masks.causal(queries, keys, self.window)
        if any(row.prefix for row in self.rows):
            prefix = torch.tensor([row.prefix for row in self.rows], device=self.device)[:, None]
            mask = mask | (keys < prefix)[:, None, None]
        return mask if self.pattern is None else mask & self.pattern.visible(queries, keys)

    @property
    def _real(self) -> Tensor:
        """(B, S): keys that a row has."""
        return self.positions[1] < torch.tensor(self.ends, device=self.device)[:, None]

    def bias(self, dtype: torch.dtype) -> Tensor | None:
        """The mask as what is added to scores."""
        mask = self.mask
        return None if mask is None else self._once(dtype, lambda: masks.additive(mask, dtype))

    def scores(self, scorer: Scorer | None, dtype: torch.dtype) -> Tensor | None:
        """What positions add, (B, H, T, S)."""
        return None if scorer is None else self._once((scorer, dtype), lambda: scorer(*self.positions).to(dtype))

    def _once(self, key: object, compute: Callable[[], Tensor]) -> Tensor:
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]


class Packet(Sight):
    """Rows whose keys are read side by side, (B, kv_heads, S, K), for one call of torch's kernel."""

    def __init__(
        self, rows: Sequence[Row], tokens: slice, window: int | None, memory: bool, device: torch.device,
        pattern: Pattern | None = None,
    ):  # fmt: skip
        super().__init__(rows, window, memory, device, pattern)
        self.tokens = tokens
        alone = len(rows) == 1
        self.queries, self.real = (None, None) if len({row.count for row in rows}) == 1 else self._filled()
        self.index = joined(runs(self.tables[0], self.firsts[0], self.ends[0]), device) if alone else self._gathered()

    def _gathered(self) -> Tensor:
        """(B S,): past a row's end its first place, which holds numbers, stands in for what it lacks."""
        count = -(-self.length // BLOCK)
        tables = [table[first // BLOCK :][:count] for table, first in zip(self.tables, self.firsts)]
        blocks = torch.tensor([[*table, *[0] * (count - len(table))] for table in tables], device=self.device)
        places = blocks[:, :, None] * BLOCK + torch.arange(BLOCK, device=self.device)
        places = places.flatten(1)[:, : self.length]
        return torch.where(self._real, places, places[:, :1]).flatten()

    def _filled(self) -> tuple[Tensor, Tensor]:
        """Which token is each of the queries (B T,), a row's last one where it has no more; where each token is."""
        counts = torch.tensor([row.count for row in self.rows])[:, None]
        column = torch.arange(self.count)
        queries = (counts.cumsum(0) - counts + column.minimum(counts - 1)).flatten()
        return queries.to(self.device), (column < counts).flatten().nonzero()[:, 0].to(self.device)

    def attend(
        self, q: Tensor, keys: Tensor, values: Tensor, scale: float | None, cap: float | None, scorer: Scorer | None
    ) -> Tensor:
        """The rows' part of what `CacheView.attend` gives, from a layer's keys and values (kv_heads, places, K)."""
        if not self.length:
            return torch.zeros_like(q[:, :, self.tokens])
        k, v = self._take(keys).to(q.dtype), self._take(values).to(q.dtype)
        scores = self.scores(scorer, q.dtype)
        written_out = bool(cap) or scores is not None
        causal = self.square and not written_out
        mask = None if causal else self.bias(q.dtype) if written_out else self.mask
        if len(self.rows) == 1:
            return mix(q[:, :, self.tokens], k, v, mask, causal, scale, cap, scores)
        q = q[0, :, self.tokens] if self.queries is None else q[0, :, self.tokens][:, self.queries]
        q = q.unflatten(1, (len(self.rows), self.count)).transpose(0, 1)
        mixed = mix(q, k, v, mask, causal, scale, cap, scores).transpose(0, 1).flatten(1, 2)[None]
        return mixed if self.real is None else mixed[:, :, self.real]

    def _take(self, store: Tensor) -> Tensor:
        taken = pieces.take(store, self.index)
        return taken[None] if len(self.rows) == 1 else taken.unflatten(1, (len(self.rows), self.length)).transpose(0, 1)


class Cluster:
    """Rows of few tokens each whose keys are read where they lie, and those of blocks that they share once for all."""

    def __init__(
        self, rows: Sequence[Row], tokens: slice, window: int | None, memory: bool, device: torch.device,
        pattern: Pattern | None = None,
    ):  # fmt: skip
        self.tokens = tokens
        self.sights = [Sight([row], window, memory, device, pattern) for row in rows]
        count = common(rows, memory) if len(rows) > 1 else 0
        self.shared = _few(runs(self.sights[0].tables[0], 0, count * BLOCK), device)
        self.rows, start = [], 0
        for row, sight in zip(rows, self.sights):
            own = runs(sight.tables[0], max(sight.firsts[0], count * BLOCK), sight.ends[0])
            self.rows.append(pieces.Own(slice(start, start + row.count), _few(own, device)))
            start += row.count

    def attend(
        self, q: Tensor, keys: Tensor, values: Tensor, scale: float | None, cap: float | None, scorer: Scorer | None
    ) -> Tensor:
        """See `Packet.attend`."""
        added = [(sight.scores(scorer, q.dtype), sight.bias(q.dtype)) for sight in self.sights]
        return pieces.attend(q[:, :, self.tokens], keys, values, self.shared, self.rows, scale, cap, added)


def _few(parts: list[slice], device: torch.device, most: int = 8) -> list[pieces.Piece]:
    """Many short pieces are gathered: a product of each would cost more than copying their keys."""
    return [joined(parts, device)] if len(parts) > most else list(parts)


def common(rows: Sequence[Row], memory: bool) -> int:
    """How many first blocks all rows have, and all of their tokens see; each keeps a key of its own."""
    tables = [row.memory if memory else row.table for row in rows]
    most = min((row.read - 1 if memory else row.start) // BLOCK for row in rows)
    same = itertools.takewhile(lambda blocks: len(set(blocks)) == 1, zip(*tables))
    return sum(1 for _ in itertools.islice(same, max(most, 0)))


def packets(
    rows: Sequence[Row], window: int | None, memory: bool, width: int, device: torch.device, precise: bool = True,
    pattern: Pattern | None = None,
) -> list[Packet | Cluster]:  # fmt: skip
    """All rows of a step, in order, for heads of `width`.

    A CPU reads rows of few tokens by products if they are `precise` (scores in bfloat16 would not be), other devices as
    many rows of like lengths as possible at once.
    """
    made, start = [], 0
    cpu = device.type == "cpu"
    for group in _groups(rows, window, memory, device) if precise or not cpu else [[row] for row in rows]:
        tokens = slice(start, start + sum(row.count for row in group))
        start = tokens.stop
        large = (group[0].read if memory else group[0].end) * width > SMALL
        products = cpu and precise and (len(group) > 1 or (group[0].count <= SHORT and large))
        made.append((Cluster if products else Packet)(group, tokens, window, memory, device, pattern))
    return made


def _groups(rows: Sequence[Row], window: int | None, memory: bool, device: torch.device) -> list[list[Row]]:
    groups: list[list[Row]] = []
    for row in rows:
        last = groups[-1] if groups else None
        if last and _fits(last, row, window, memory, device):
            last.append(row)
        else:
            groups.append([row])
    return groups


def _fits(group: list[Row], row: Row, window: int | None, memory: bool, device: torch.device) -> bool:
    if memory and not (row.read and group[0].read):
        return False
    if device.type != "cpu":
        counts = [one.count for one in (*group, row)]
        last = max(one.read if memory else one.end for one in (*group, row))
        alike = max(counts) <= 2 * min(counts) and len(counts) * max(counts) * last <= BESIDE
        return max(counts) == 1 or alike
    if max(row.count, group[0].count) > SHORT or (window is not None and not memory):
        return False
    return common([group[0], row], memory) >= SHARED
