"""What attention knows beside its input: positions, documents, the key/value cache and the encoder's output."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from polytask.nn import masks


@dataclass(frozen=True)
class Memory:
    """The encoder's output: states (B, S, D) and the document of each place (B, S), or None where all is one."""

    states: Tensor
    documents: Tensor | None = None


@dataclass
class Context:
    """One argument for all of attention.

    positions (B, T) restart in each document. documents (B, T) number the packed documents of a row; padding is a
    document of its own, so no query is ever without a visible key. prefix (B, T) marks tokens that all of their
    document sees (prefix language modelling). With a cache, `positions` are places in the cached sequence. scores (1 or
    B, H, T, S) are what positions add to the scores of every layer. routing is filled by layers of
    experts, without a cache; None where nobody wants it.
    """

    positions: Tensor
    documents: Tensor | None = None
    prefix: Tensor | None = None
    causal: bool = True
    cache: "CacheView | None" = None
    memory: Memory | None = None
    scores: Tensor | None = None
    routing: list | None = field(default_factory=list, repr=False, compare=False)
    _kept: dict = field(default_factory=dict, repr=False, compare=False)

    @property
    def ordered(self) -> bool:
        """Whether no token sees any after its own place."""
        return self.causal and self.prefix is None and self.cache is None

    def take_routing(self) -> list:
        """What layers of experts have said so far. What they say later, computed again on the way back, is not kept:
        it would hold all of their block in memory.
        """
        taken, self.routing = self.routing or [], None
        return taken

    def once(self, key, compute):
        """The value of `compute()`, made once for all layers."""
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]

    def places(self, absolute: bool = False) -> tuple[Tensor, Tensor]:
        """Positions of queries (1 or B, T) and keys (1 or B, S), right up to a constant unless `absolute`."""
        if self.cache is not None:
            return self.positions[:1] if self.cache.even else self.positions, self._range(self.cache.end)
        if absolute:
            return self.positions, self.positions
        # Within a document places and positions differ by a constant, and nobody sees another document.
        return (place := self._range(self.positions.shape[1])), place

    def _range(self, length: int) -> Tensor:
        return torch.arange(length, device=self.positions.device)[None]

    def self_mask(self, window: int | None) -> tuple[Tensor | None, bool]:
        """(mask, is_causal) for scaled_dot_product_attention; is_causal alone lets the kernel skip half of the work."""
        return self.once(("self", window), lambda: self._self_mask(window))

    def _self_mask(self, window: int | None) -> tuple[Tensor | None, bool]:
        if self.cache is not None:
            return self.cache.mask(self.positions, window)
        length = self.positions.shape[1]
        if self.documents is None and self.prefix is None:
            if not self.causal:
                return None, False
            if window is None or window >= length:
                return None, True
        place = self._range(length)
        # Within a document places and positions differ by a constant, so order and distance may be read off places.
        mask = masks.causal(place, place, window) if self.causal else None
        if self.prefix is not None and mask is not None:
            mask = mask | self.prefix[:, None, None, :]
        if self.documents is not None:
            same = masks.same_document(self.documents, self.documents)
            mask = same if mask is None else mask & same
        return mask, False

    def cross_mask(self) -> Tensor | None:
        """(B, 1, T, S): a document of the decoder sees its own document of the encoder."""
        if self.cache is not None:
            return self.once("cross", self.cache.memory_mask)
        memory = self.memory
        if memory is None or memory.documents is None:
            return None
        documents = memory.documents
        queries = self.documents if self.documents is not None else torch.ones_like(self.positions)
        return self.once("cross", lambda: _seen(masks.same_document(queries, documents)))

    def bias(self, q: Tensor, k: Tensor, window: int | None, cross: bool) -> Tensor | None:
        """The mask as what attention adds to its scores, (1 or B, 1, T, S) of the type of q (B, H, T, K)."""

        def make() -> Tensor | None:
            mask, is_causal = (self.cross_mask(), False) if cross else self.self_mask(window)
            if is_causal:
                mask = torch.ones(1, 1, q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
            return None if mask is None else masks.additive(mask, q.dtype)

        return self.once(("bias", window, cross, q.dtype), make)


def _seen(mask: Tensor) -> Tensor:
    """Lets a query without any visible key (padding) see all, so that its softmax stays finite; nobody reads it."""
    return mask | ~mask.any(dim=-1, keepdim=True)


class KVCache:
    """Contiguous cache: each slot owns `length` places in every layer; an encoder's keys and values lie beside.

    Storage is (layers, slots, kv_heads, length + 1, head_dim); the last place takes what padding writes.
    """

    def __init__(
        self, layers: int, kv_heads: int, head_dim: int, slots: int, length: int, *,
        memory_length: int = 0, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu",
    ):  # fmt: skip
        self.slots, self.length, self.memory_length = slots, length, memory_length
        shape = (layers, slots, kv_heads, length + 1, head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        memory_shape = (layers, slots, kv_heads, memory_length, head_dim)
        self.memory_keys = torch.zeros(memory_shape, dtype=dtype, device=device)
        self.memory_values = torch.zeros(memory_shape, dtype=dtype, device=device)
        self.memory_lengths = torch.zeros(slots, dtype=torch.long, device=device)

    def view(self, slots: list[int], start: list[int], length: int, prefix: list[int] | None = None) -> "CacheView":
        """Row i of the batch is slot slots[i], whose first `start[i]` places are filled; `length` tokens follow.

        Every token sees the first prefix[i] places, which are among those filled or written by now.
        """
        return CacheView(self, slots, start, length, prefix)

    def take(self, other: "KVCache") -> None:
        """Copies all of a smaller cache into the corner of this one."""
        for name in ("keys", "values", "memory_keys", "memory_values"):
            mine, theirs = getattr(self, name), getattr(other, name)
            # The last place of `keys` and `values` is the spare one, which holds nothing.
            length = other.length if name in ("keys", "values") else other.memory_length
            mine[:, : other.slots, :, :length] = theirs[:, :, :, :length]
        self.memory_lengths[: other.slots] = other.memory_lengths

    def copy(self, source: int, targets: list[int], length: int) -> None:
        """Slots `targets` become copies of the first `length` places of slot `source` (n samples of one prompt)."""
        for store in (self.keys, self.values):
            store[:, targets, :, :length] = store[:, source : source + 1, :, :length]
        for store in (self.memory_keys, self.memory_values):
            store[:, targets] = store[:, source : source + 1]
        self.memory_lengths[targets] = self.memory_lengths[source].clone()

    def reorder(self, slots: list[int], parents: list[int], length: int) -> None:
        """Slot slots[i] takes the first `length` places of slot parents[i], all at once (beam search)."""
        for store in (self.keys, self.values):
            store[:, slots, :, :length] = store[:, parents, :, :length]


class CacheView:
    """The rows of a batch inside a cache: `write` puts new keys and values in place, `read` returns all there are."""

    def __init__(
        self, cache: KVCache, slots: list[int], start: list[int], length: int, prefix: list[int] | None = None
    ):
        self.cache, self.start, self.length = cache, start, length
        self.prefix = prefix if prefix and any(prefix) else None
        first = slots[0]
        consecutive = slots == list(range(first, first + len(slots)))
        self.rows = slice(first, first + len(slots)) if consecutive else torch.tensor(slots, device=cache.keys.device)
        self.even = min(start) == max(start)
        self.end = min(max(start) + length, cache.length)
        if not self.even or start[0] + length > cache.length:
            device = cache.keys.device
            places = torch.tensor(start, device=device)[:, None] + torch.arange(length, device=device)
            self.places = places.clamp(
                max=cache.length
            )  # what padding would write past the end goes to the spare place
            self.slots = torch.tensor(slots, device=device)[:, None]
            self.even = False

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """keys and values (B, kv_heads, T, K) of the new tokens."""
        for store, new in ((self.cache.keys[layer], keys), (self.cache.values[layer], values)):
            if self.even:
                store[self.rows, :, self.start[0] : self.start[0] + self.length] = new.to(store.dtype)
            else:
                store[self.slots, :, self.places] = new.transpose(1, 2).to(store.dtype)

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """All keys and values up to the longest row, (B, kv_heads, S, K); the mask hides what a row lacks."""
        return (
            self.cache.keys[layer][self.rows, :, : self.end],
            self.cache.values[layer][self.rows, :, : self.end],
        )

    def mask(self, positions: Tensor, window: int | None) -> tuple[Tensor | None, bool]:
        if self.even and (window is None or window >= self.end):
            if self.length == 1:
                return None, False
            if self.start[0] == 0 and self.prefix is None:
                return None, True
        keys = torch.arange(self.end, device=positions.device)[None]
        mask = masks.causal(positions, keys, window)
        if self.prefix is not None:
            mask = mask | (keys < torch.tensor(self.prefix, device=keys.device)[:, None])[:, None, None, :]
        return mask, False

    def write_memory(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Keys and values (B, kv_heads, S, K) of the encoder's output, at admission."""
        length = keys.shape[2]
        self.cache.memory_keys[layer][self.rows, :, :length] = keys.to(self.cache.memory_keys.dtype)
        self.cache.memory_values[layer][self.rows, :, :length] = values.to(self.cache.memory_values.dtype)

    def set_memory_lengths(self, lengths: Tensor) -> None:
        """How many places of the encoder's output are real, (B,)."""
        self.cache.memory_lengths[self.rows] = lengths

    def read_memory(self, layer: int) -> tuple[Tensor, Tensor]:
        end = self.memory_end
        return self.cache.memory_keys[layer][self.rows, :, :end], self.cache.memory_values[layer][self.rows, :, :end]

    @property
    def memory_end(self) -> int:
        return int(self.cache.memory_lengths[self.rows].max())

    def memory_mask(self) -> Tensor | None:
        lengths = self.cache.memory_lengths[self.rows]
        end = int(lengths.max())
        if bool((lengths == end).all()):
            return None
        return (torch.arange(end, device=lengths.device) < lengths[:, None])[:, None, None, :]
