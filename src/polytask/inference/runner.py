"""Runs the rows of a step through the network and its cache; the only place where requests become tensors."""

from collections.abc import Mapping

import torch
from torch import Tensor

from polytask.inference.sequence import Row, Sequence
from polytask.models.transformer import Transformer
from polytask.nn.cache import Context, KVCache


class Runner:
    """Owns the cache, which grows by doubling up to `slots` rows of `length` places as requests need it."""

    def __init__(self, network: Transformer, slots: int, length: int):
        self.network, self.slots, self.length = network, slots, length
        self.device = network.embedding.weight.device
        self.cache: KVCache | None = None

    @torch.inference_mode()
    def admit(self, sequences: list[Sequence]) -> None:
        """Encodes what encoder-decoder requests read, and keeps its keys and values in their slots."""
        sources = [sequence.request.encoder_ids or [] for sequence in sequences]
        if not self.network.config.encoder_layers or not sequences:
            return
        ids, real = _padded(sources, self.device)
        cache = self._room(max(max(s.slots) for s in sequences) + 1, 1, ids.shape[1])
        positions = torch.arange(ids.shape[1], device=self.device).expand_as(ids)
        memory = self.network.encode(ids, Context(positions, documents=real.long()))
        slots = [sequence.slot for sequence in sequences]
        self.network.remember(cache.view(slots, [0] * len(slots), 0), memory, real.sum(1))

    @torch.inference_mode()
    def run(self, plan: Mapping[Sequence, int]) -> dict[Sequence, Tensor]:
        """Scores (rows, V) of the next token for every sequence whose known tokens are all in the cache now."""
        groups: dict[bool, list[tuple[Sequence, Row]]] = {True: [], False: []}
        for sequence, tokens in plan.items():
            groups[tokens == 1] += [(sequence, row) for row in sequence.rows(tokens)]
        scores: dict[Sequence, list[Tensor]] = {}
        # Rows of one token apart from longer ones: padding those to the others' length would waste most of the work.
        for rows in filter(None, groups.values()):
            rows.sort(key=lambda item: item[1].slot)
            hidden = self._forward([row for _, row in rows])
            done = [i for i, (sequence, _) in enumerate(rows) if plan[sequence] == sequence.waiting]
            if done:
                logits = self.network.logits(hidden[done])  # (rows, V)
                for i, row_scores in zip(done, logits):
                    scores.setdefault(rows[i][0], []).append(row_scores)
        for sequence, tokens in plan.items():
            sequence.computed += tokens
        return {sequence: torch.stack(parts) for sequence, parts in scores.items()}

    def _forward(self, rows: list[Row]) -> Tensor:
        """Hidden state (rows, D) of the last token of each row."""
        longest = max(len(row.ids) for row in rows)
        end = max(row.start + len(row.ids) for row in rows)
        cache = self._room(max(row.slot for row in rows) + 1, end, 0)
        starts = [row.start for row in rows]
        view = cache.view([row.slot for row in rows], starts, longest)
        if longest == 1:
            ids = torch.tensor([row.ids for row in rows], device=self.device)
            positions = torch.tensor(starts, device=self.device)[:, None]
            return self.network(ids, Context(positions, cache=view))[:, 0]
        ids, _ = _padded([row.ids for row in rows], self.device)
        positions = torch.tensor(starts, device=self.device)[:, None] + torch.arange(longest, device=self.device)
        # Padding runs on past a row's end; where it passes the context it must still find a position.
        positions = positions.clamp(max=self.network.config.context_length - 1)
        hidden = self.network(ids, Context(positions, cache=view))
        last = torch.tensor([len(row.ids) - 1 for row in rows], device=self.device)
        return hidden[torch.arange(len(rows), device=self.device), last]

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """The child's slot becomes a copy of the parent's."""
        cache = self._room(child.slot + 1, parent.computed, 0)
        cache.copy(parent.slot, child.slots, parent.computed)

    def spread(self, sequence: Sequence) -> None:
        """All slots of a beam become copies of its first."""
        cache = self._room(max(sequence.slots) + 1, sequence.computed, 0)
        cache.copy(sequence.slot, sequence.slots[1:], sequence.computed)

    def reorder(self, sequence: Sequence, parents: list[int]) -> None:
        """Slot i of a beam goes on from its slot parents[i]."""
        if parents != list(range(len(parents))) and self.cache is not None:
            self.cache.reorder(sequence.slots, [sequence.slots[p] for p in parents], sequence.computed)

    def _room(self, slots: int, length: int, memory: int) -> KVCache:
        """The cache, made larger where it is too small for `slots` rows, `length` places or `memory` encoder places."""
        old = self.cache
        if old and slots <= old.slots and length <= old.length and memory <= old.memory_length:
            return old
        grown = [
            min(_doubled(slots, old.slots if old else 1), self.slots),
            min(_doubled(length, old.length if old else 64), self.length),
            _doubled(memory, old.memory_length if old else 0),
        ]
        self.cache = self.network.new_cache(grown[0], grown[1], grown[2])
        if old:
            self.cache.take(old)
        return self.cache


def _doubled(needed: int, present: int) -> int:
    size = max(present, 1) if needed else present
    while size < needed:
        size *= 2
    return size


def _padded(rows: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """ids (B, T) filled up with zeros on the right, and where they are real, both (B, T)."""
    longest = max(len(row) for row in rows)
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, torch.arange(longest, device=device) < lengths[:, None]
