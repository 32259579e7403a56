"""Runs the rows of a step through the network and its cache: the only place where requests become tensors."""

from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Listing
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from polytask.inference.sampling import Chosen
from polytask.inference.scoring import weigh
from polytask.inference.sequence import Group, Sequence
from polytask.inference.steps import Steps
from polytask.models.transformer import Transformer
from polytask.nn.cache import Context
from polytask.nn.paged import KVCache, Row


class Logits(NamedTuple):
    """What a step gives: the sequences that have no id left to run, and the logits (rows, V) of what comes next.

    Each sequence has the row after its last id, and one more after each of its drafts; `counts` says how many. chosen:
    what was chosen already, where the pass did that itself; rows are then not to be asked for.
    """

    sequences: list[Sequence]
    counts: list[int]
    rows: Tensor | None
    chosen: Chosen | None = None


class Runner:
    """One network over one cache; `steps` runs what it takes, where there is such a thing."""

    def __init__(self, network: Transformer, cache: KVCache, steps: Steps | None = None):
        self.network, self.cache, self.steps = network, cache, steps
        self.device = network.embedding.weight.device

    def read(self, groups: Listing[Group]) -> None:
        """Encodes what encoder-decoder requests read, and puts its keys and values in their blocks."""
        sources = [group.request.encoder_ids or [] for group in groups]
        ids, real = padded(sources, self.device)
        positions = torch.arange(ids.shape[1], device=self.device).expand_as(ids)
        memory = self.network.encode(ids, Context(positions, documents=real.long()))
        rows = [Row((), 0, 0, 0, g.memory.blocks, len(source)) for g, source in zip(groups, sources)]
        self.network.remember(self.cache.view(rows), memory.states[real])

    def renew(self) -> None:
        """The network has become another one."""
        if self.steps is not None:
            self.steps.renew()

    def foresee(self, groups: Listing[Group], free: int) -> None:
        """Gives sequences that decode alone room for the steps that they may take at once, as drafts to be written.
        free: blocks of the cache."""
        sequences = [sequence for group in groups for sequence in group.active]
        if self.steps is None or any(s.reading or s.drafts for s in sequences):
            return
        count = self.steps.steps(sequences, free)
        for sequence in sequences:
            sequence.drafts = [0] * (count - 1)

    def _recorded(self, plan: Mapping[Sequence, int]) -> Logits | None:
        if self.steps is None or not self.steps.takes(plan):
            return None
        sequences, count = list(plan), next(iter(plan.values()))
        found = self.steps.run(sequences, count)
        if found is None:
            return None
        rows, chosen = found
        if chosen is not None:
            for row, sequence in enumerate(sequences):
                sequence.drafts = chosen.ids[row * count : (row + 1) * count - 1]
        return Logits(sequences, [count] * len(sequences), rows, chosen)

    def run(self, plan: Mapping[Sequence, int]) -> Logits:
        """Runs plan[s] pending ids of each sequence, all in one pass; what comes next where none are left."""
        if (found := self._recorded(plan)) is not None:
            return found
        # Rows with as many tokens, or with the same first blocks, may be read together if they stand side by side.
        sequences = sorted(plan, key=lambda s: (plan[s], s.table.blocks))
        counts = [plan[s] for s in sequences]
        ready, wanted, end = [], [], 0
        for sequence, count in zip(sequences, counts):
            end += count
            if count == sequence.pending and sequence.wanted is None:
                ready.append(sequence)
                wanted.append(range(end - 1 - len(sequence.drafts), end))
        rows = list(chain.from_iterable(wanted))
        logits = self.steps and self.steps.whole(sequences, counts, rows)
        if logits is None:
            logits = self._through(sequences, counts, rows)
        return Logits(ready, [len(one) for one in wanted], logits if ready else None)

    def _through(self, sequences: Listing[Sequence], counts: Listing[int], rows: Listing[int]) -> Tensor | None:
        """Runs a pass layer by layer; the logits of such rows, None where there are none."""
        ids = torch.tensor([list(chain.from_iterable(map(Sequence.upcoming, sequences, counts)))], device=self.device)
        places = chain.from_iterable(range(s.computed, s.computed + n) for s, n in zip(sequences, counts))
        positions = torch.tensor([list(places)], device=self.device)
        view = self.cache.view([self._row(s, n) for s, n in zip(sequences, counts)])
        upcoming = ((s.ids + s.drafts, s.computed, n) for s, n in zip(sequences, counts))
        context = Context(positions, cache=view, given=self._given(sequences, counts))
        context.grid = places_in_pictures(self.network, upcoming)
        hidden = self.network(ids, context)[0]  # (N, D)
        self._weigh(sequences, counts, hidden)
        return self.network.logits(self._picked(hidden, rows)) if rows else None

    def _weigh(self, sequences: Listing[Sequence], counts: Listing[int], hidden: Tensor) -> None:
        """Notes how likely wanted ids are that the step's tokens, with states (N, D), predict."""
        places, rows, end = list[tuple[Sequence, int]](), list[int](), 0
        for sequence, count in zip(sequences, counts):
            end += count
            predicted = sequence.predicted(count)
            places += [(sequence, place) for place in predicted]
            rows += range(end - len(predicted), end)
        if not rows:
            return
        targets = [(sequence.wanted or [])[place] for sequence, place in places]
        top = max(sequence.sampling.logprobs for sequence, _ in places)
        found = weigh(self.network, self._picked(hidden, rows), targets, top)
        for (sequence, place), weighed in zip(places, found, strict=True):
            sequence.weighed[place] = weighed

    def _picked(self, hidden: Tensor, rows: Listing[int]) -> Tensor:
        return hidden if len(rows) == len(hidden) else hidden[torch.tensor(rows, device=self.device)]

    def _given(self, sequences: Listing[Sequence], counts: Listing[int]) -> tuple[Tensor, Tensor] | None:
        """Which of the step's tokens (1, N) are of pictures, and their states."""
        if all(sequence.given is None for sequence in sequences):
            return None
        places, states, start = list[int](), list[Tensor](), 0
        for sequence, count in zip(sequences, counts):
            if sequence.given is not None:
                found, own = sequence.given.within(sequence.computed, count)
                places += [start + place for place in found]
                states.append(own)
            start += count
        mask = torch.zeros(1, start, dtype=torch.bool, device=self.device)
        mask[0, places] = True
        return mask, torch.cat(states).to(self.device)

    def _row(self, sequence: Sequence, count: int) -> Row:
        group = sequence.group
        read = len(group.request.encoder_ids or [])
        return Row(sequence.table.blocks, sequence.computed, count, sequence.prefix, group.memory.blocks, read)


def places_in_pictures(network: Transformer, runs: Iterable[tuple[Listing[int], int, int]]) -> Tensor | None:
    """`Grid.places` (1, N) of the tokens that are run: of each row its ids, where they begin and how many. None where
    the network has no grid."""
    grid = network.config.grid
    if grid is None:
        return None
    found = [grid.places_from(ids[: start + count], start) for ids, start, count in runs]
    return torch.tensor([list(chain.from_iterable(found))], device=network.embedding.weight.device)


def padded(rows: Listing[Listing[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """ids (B, T) filled up with zeros on the right, and where they are real, both (B, T)."""
    longest = max(1, *map(len, rows)) if len(rows) > 1 else max(1, len(rows[0]))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, torch.arange(longest, device=device) < lengths[:, None]
