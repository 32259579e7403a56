"""Decoding that chooses its own ids, several steps at once, without Python between them.

Where that is simple, as for likeliest ids, a step goes on with what it chose: the host asks for several steps and reads
once. What makes the steps is a CUDA graph (`inference.graphs`) or our library on a CPU (`inference.native`).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as List

import torch
from torch import Tensor

from polytask.inference.sampling import TIE, Chosen
from polytask.inference.sequence import Sequence
from polytask.models.transformer import Transformer
from polytask.nn.experts import ExpertsLayer
from polytask.nn.paged import BLOCK, KVCache

ROWS = 64  # that one step has at most
STEPS = 16  # that are asked for at once, at most
ID, POSITION, LEAST, BASE, PLACE, FIRST, LAST, TABLE = range(8)  # columns of the state
FREE, END, NEVER = range(3)  # kinds of ids: those that end an answer come from a row's position LEAST on


class Steps(ABC):
    """Decoding of one network over one cache.

    kinds (V,) int8: what may come. length: tokens of a sequence at most.
    """

    def __init__(self, network: Transformer, cache: KVCache, kinds: Tensor, length: int):
        self.network, self.cache, self.kinds = network, cache, kinds
        self.windowed = any(part.window for part in network.config.attentions)
        self.precise = network.embedding.weight.dtype in (torch.float32, torch.float64)
        device, self.blocks = kinds.device, -(-length // BLOCK)
        self.state = torch.zeros(ROWS, TABLE + self.blocks, dtype=torch.int64, device=device)
        self.records = torch.zeros(ROWS, STEPS, 3, dtype=torch.float32, device=device)

    @property
    @abstractmethod
    def able(self) -> bool:
        """Whether steps can be made as things are."""

    def renew(self) -> None:
        """The network has become another one; who looks at it in each step needs no word of that."""
        return None

    def most(self, rows: int) -> int:
        """How many steps of so many rows are worth asking for at once."""
        return STEPS

    def fits(self, sequence: Sequence) -> bool:
        """Whether a step can go on with a sequence: its next ids are no picture's, and no prefix is seen from behind a
        window."""
        if self.windowed and sequence.prefix:
            return False
        given = sequence.given
        return given is None or not given.places or given.places[-1] < sequence.computed

    def steps(self, sequences: List[Sequence], free: int) -> int:
        """How many steps these may go on by themselves; 1 where the host chooses, or the `free` blocks of the cache are
        not enough for all to go on."""
        if not sequences or len(sequences) > ROWS or not all(self.chooses(s) and self.fits(s) for s in sequences):
            return 1
        count = min(self.most(len(sequences)), *(s.limit - s.produced for s in sequences))
        wanted = sum(max(0, -(-(len(s.ids) + count - 1) // BLOCK) - len(s.table.blocks)) for s in sequences)
        return count if count > 1 and wanted <= free and self.able else 1

    def takes(self, plan: Mapping[Sequence, int]) -> bool:
        """Whether every sequence decodes, all by as many steps."""
        counts = set(plan.values())
        if len(plan) > ROWS or len(counts) > 1 or any(s.reading or not self.fits(s) for s in plan):
            return False
        (count,) = counts
        if count > STEPS or any(s.pending != count or any(s.drafts) for s in plan):  # a guess is worth a pass
            return False
        return (count == 1 or all(map(self.chooses, plan))) and self.able

    def run(self, sequences: List[Sequence], count: int) -> tuple[Tensor, Chosen | None] | None:
        """The logits (rows, V) of the last of `count` steps, and where the steps chose for all rows what they did, row
        after row; None, and the old way is left, where the steps cannot be made."""
        chooses = all(map(self.chooses, sequences))
        logits = self._go(sequences, count, chooses)
        return None if logits is None else (logits, self._read(len(sequences), count) if chooses else None)

    def whole(self, sequences: List[Sequence], counts: List[int], answers: List[int]) -> Tensor | None:
        """A pass over the next counts[i] ids of each sequence, all of them rows one after another; the logits (A, V) of
        the rows that `answers` names. None, and the old way is left, where that is not to be done here."""
        return None

    @abstractmethod
    def _go(self, sequences: List[Sequence], count: int, chooses: bool) -> Tensor | None:
        """Puts the rows of the state in place and goes `count` steps on, choosing ids on the way where that is asked
        for."""

    def chooses(self, sequence: Sequence) -> bool:
        """Whether a step can choose for a sequence: of the likeliest ids alone."""
        return sequence.sampling.temperature == 0 and sequence.drawing is None and plain(sequence)

    def _rows(self, sequences: List[Sequence], counts: List[int]) -> Tensor:
        """What the state is to hold for the next counts[i] ids of each sequence, with as many columns as the longest
        table wants."""
        longest, rows = max(len(sequence.table.blocks) for sequence in sequences), []
        grid = self.network.config.grid
        for sequence, count in zip(sequences, counts):
            table, first, drawing = sequence.table.blocks, sequence.computed, sequence.drawing
            least, upcoming = sequence.prompt + sequence.sampling.min_tokens, sequence.upcoming(count)
            places = grid.places_from([*sequence.ids[:first], *upcoming], first) if grid else [-1] * count
            among = (drawing.first, drawing.first + drawing.codes) if drawing else (-1, -1)
            rest = [*among, *table, *[0] * (longest - len(table))]
            rows += [[id, first + i, least, first, places[i], *rest] for i, id in enumerate(upcoming)]
        return torch.tensor(rows)

    def _read(self, rows: int, count: int) -> Chosen:
        found = self.records[:rows, :count].flatten(0, 1).tolist()
        ids, logprobs = [int(record[0]) for record in found], [record[1] for record in found]
        return Chosen(ids, logprobs, None, None if self.precise else [record[2] > 0 for record in found])


def choose(logits: Tensor, kinds: Tensor, state: Tensor, records: Tensor) -> None:
    """The likeliest id of each row that may come, from logits (B, V), as its next one.

    state (B, columns) int64: of each row the id and its position, which are moved on, the position from which it may
    end, and that of the first step. records (rows, STEPS, 3): the id chosen in each step, its log-probability and
    whether another nearly tied with it.
    """
    x = logits.float()
    early = (state[:, POSITION] + 1 < state[:, LEAST])[:, None]
    scores = x.masked_fill((kinds == NEVER) | ((kinds == END) & early), -torch.inf)
    best, ids = scores.max(-1)
    second = scores.scatter(1, ids[:, None], -torch.inf).amax(-1)
    tie = best - second <= TIE * best.abs().clamp(min=1)
    found = torch.stack([ids.float(), best - x.logsumexp(-1), tie.float()], -1)
    place = (state[:, POSITION] - state[:, BASE])[:, None, None].expand(-1, 1, 3)
    records[: len(state)].scatter_(1, place, found[:, None])
    state[:, ID] = ids
    state[:, POSITION] += 1


def plain(sequence: Sequence) -> bool:
    """Whether an id is to be chosen by its logit alone, and nothing else is asked for."""
    sampling = sequence.sampling
    if sampling.penalised or sampling.logit_bias or sampling.logprobs:
        return False
    free = sequence.constraint is None and sequence.odds is None and not sequence.hooks
    alone = sequence.group.beam is None and not any(other.waits for other in sequence.group.sequences)
    return free and alone and sequence.error is None


def kinds_of(network: Transformer, ends: Iterable[int], never: Iterable[int]) -> Tensor | None:
    """What each id may be; None where a pass depends on more than its rows (what an encoder read, which experts were
    chosen), or nothing could be chosen."""
    config = network.config
    if config.encoder_layers or any(isinstance(module, ExpertsLayer) for module in network.modules()):
        return None
    kinds = torch.full((config.vocab_size,), FREE, dtype=torch.int8)
    kinds[list(ends)] = END
    kinds[list(never)] = NEVER
    return kinds.to(network.embedding.weight.device) if (kinds == FREE).any() else None
