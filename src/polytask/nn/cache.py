"""What attention knows beside its input: positions, documents, the key/value cache and the encoder's output."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from polytask.nn import masks
from polytask.nn.sparse import Pattern

if TYPE_CHECKING:
    from polytask.nn.paged import CacheView

Scorer = Callable[[Tensor, Tensor], Tensor]  # positions of queries (B, T) and keys (B, S): what they add, (B, H, T, S)


@dataclass(frozen=True)
class Memory:
    """The encoder's output: states (B, S, D) and the document of each place (B, S), or None where all is one."""

    states: Tensor
    documents: Tensor | None = None


@dataclass
class Context:
    """One argument for all of attention.

    positions (B, T) restart in each document. documents (B, T) number the packed documents of a row; padding is a
    document of its own, so no query is ever without a visible key. starts: see `data.batch.Batch`. prefix (B, T) marks
    tokens that all of their document sees (prefix language modelling). scores (1 or B, H, T, S) are what positions add
    to the scores of every layer. With a cache the batch is (1, N), the new tokens of its rows one row after the other;
    `positions` are places in each row's sequence, the cache knows the rows, and `scorer` makes the scores of some of
    them. given: where states stand for embeddings (B, T) bool, and these states (M, D) in order. grid (B, T):
    `Grid.places`, which must be given with a cache where the network has such. routing is filled by layers of experts,
    without a cache; None where nobody wants it.
    """

    positions: Tensor
    documents: Tensor | None = None
    prefix: Tensor | None = None
    causal: bool = True
    starts: Tensor | None = None
    cache: "CacheView | None" = None
    memory: Memory | None = None
    scores: Tensor | None = None
    scorer: Scorer | None = None
    given: tuple[Tensor, Tensor] | None = None
    grid: Tensor | None = None
    routing: list | None = field(default_factory=list, repr=False, compare=False)
    _kept: dict = field(default_factory=dict, repr=False, compare=False)

    @property
    def ordered(self) -> bool:
        """Whether no token sees any after its own place."""
        return self.causal and self.prefix is None and self.cache is None

    @property
    def whole(self) -> bool:
        """Whether it is known that each row is one document."""
        return self.documents is None or (self.starts is not None and len(self.starts) == len(self.positions) + 1)

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
        if absolute:
            return self.positions, self.positions
        # Within a document places and positions differ by a constant, and nobody sees another document.
        return (place := self._range(self.positions.shape[1])), place

    def _range(self, length: int) -> Tensor:
        return torch.arange(length, device=self.positions.device)[None]

    def self_mask(self, window: int | None, pattern: Pattern | None = None) -> tuple[Tensor | None, bool]:
        """(mask, is_causal) for scaled_dot_product_attention; is_causal alone lets the kernel skip half of the work."""
        return self.once(("self", window, pattern), lambda: self._self_mask(window, pattern))

    def _self_mask(self, window: int | None, pattern: Pattern | None) -> tuple[Tensor | None, bool]:
        length = self.positions.shape[1]
        if self.whole and self.prefix is None and pattern is None:
            if not self.causal:
                return None, False
            if window is None or window >= length:
                return None, True
        place = self._range(length)
        # Within a document places and positions differ by a constant, so order and distance may be read off places.
        mask = masks.causal(place, place, window) if self.causal else None
        if self.prefix is not None and mask is not None:
            mask = mask | self.prefix[:, None, None, :]
        if self.documents is not None and not self.whole:
            same = masks.same_document(self.documents, self.documents)
            mask = same if mask is None else mask & same
        if pattern is not None:
            near = pattern.visible(self.positions, self.positions)
            mask = near if mask is None else mask & near
        return mask, False

    def cross_mask(self) -> Tensor | None:
        """(B, 1, T, S): a document of the decoder sees its own document of the encoder."""
        memory = self.memory
        if memory is None or memory.documents is None:
            return None
        documents = memory.documents
        queries = self.documents if self.documents is not None else torch.ones_like(self.positions)
        return self.once("cross", lambda: _seen(masks.same_document(queries, documents)))

    def bias(
        self, q: Tensor, k: Tensor, window: int | None, cross: bool, pattern: Pattern | None = None
    ) -> Tensor | None:
        """The mask as what attention adds to its scores, (1 or B, 1, T, S) of the type of q (B, H, T, K)."""

        def make() -> Tensor | None:
            mask, is_causal = (self.cross_mask(), False) if cross else self.self_mask(window, pattern)
            if is_causal:
                mask = torch.ones(1, 1, q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
            return None if mask is None else masks.additive(mask, q.dtype)

        return self.once(("bias", window, pattern, cross, q.dtype), make)


def _seen(mask: Tensor) -> Tensor:
    """Lets a query without any visible key (padding) see all, so that its softmax stays finite; nobody reads it."""
    return mask | ~mask.any(dim=-1, keepdim=True)
