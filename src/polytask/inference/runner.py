"""Runs the rows of a step through the network and its cache: the only place where requests become tensors."""

from collections.abc import Mapping
from collections.abc import Sequence as Listing

import torch
from torch import Tensor

from polytask.inference.sequence import Sequence
from polytask.inference.slots import SlotPool
from polytask.models.transformer import Transformer
from polytask.nn.cache import Context


class Runner:
    """One network over the cache of one pool."""

    def __init__(self, network: Transformer, pool: SlotPool):
        self.network, self.pool = network, pool
        self.device = network.embedding.weight.device

    def read(self, sequences: Listing[Sequence], sources: Listing[list[int]]) -> None:
        """Encodes what encoder-decoder requests read, and keeps its keys and values in their slots."""
        ids, real = padded(sources, self.device)
        cache = self.pool.room(1, ids.shape[1])
        positions = torch.arange(ids.shape[1], device=self.device).expand_as(ids)
        memory = self.network.encode(ids, Context(positions, documents=real.long()))
        slots = [sequence.slot for sequence in sequences]
        self.network.remember(cache.view(slots, [0] * len(slots), 0), memory, real.sum(1))

    def run(self, plan: Mapping[Sequence, int]) -> tuple[list[Sequence], Tensor | None]:
        """Runs plan[s] pending ids of each sequence; those that have none left, and their next logits (rows, V)."""
        ready, logits = [], []
        # One-token rows run apart from longer ones: padding them to the others' length would waste most of the work.
        for one in (True, False):
            rows = sorted((s for s in plan if (plan[s] == 1) is one), key=lambda s: s.slot)
            if not rows:
                continue
            hidden = self._forward(rows, [plan[s] for s in rows])
            done = [row for row, s in enumerate(rows) if plan[s] == s.pending]
            if done:
                ready += [rows[row] for row in done]
                logits.append(self.network.logits(hidden if len(done) == len(rows) else hidden[done]))
        for sequence, tokens in plan.items():
            sequence.computed += tokens
        return ready, torch.cat(logits) if len(logits) > 1 else (logits[0] if logits else None)

    def _forward(self, rows: list[Sequence], counts: list[int]) -> Tensor:
        """Hidden state (rows, D) of the last token that each row runs."""
        starts, longest = [s.computed for s in rows], max(counts)
        cache = self.pool.room(max(start + count for start, count in zip(starts, counts)))
        view = cache.view([s.slot for s in rows], starts, longest, [s.prefix for s in rows])
        ids, _ = padded([s.ids[start : start + n] for s, start, n in zip(rows, starts, counts)], self.device)
        positions = torch.tensor(starts, device=self.device)[:, None]
        if longest == 1:
            return self.network(ids, Context(positions, cache=view))[:, 0]
        # Padding runs on past a row's end; where it passes the context it must still find a position.
        positions = positions + torch.arange(longest, device=self.device)
        positions = positions.clamp(max=self.network.config.context_length - 1)
        hidden = self.network(ids, Context(positions, cache=view))
        last = torch.tensor(counts, device=self.device) - 1
        return hidden[torch.arange(len(rows), device=self.device), last]


def padded(rows: Listing[Listing[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """ids (B, T) filled up with zeros on the right, and where they are real, both (B, T)."""
    longest = max(1, *map(len, rows)) if len(rows) > 1 else max(1, len(rows[0]))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, torch.arange(longest, device=device) < lengths[:, None]
