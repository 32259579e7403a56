"""Decoding on a GPU without its host: a step is recorded once for each padded number of rows as a CUDA graph.

A GPU computes a token of a small network sooner than Python can ask for it. So the recorded step chooses the next ids
itself, where all of them are the likeliest ones, and goes on with them: the host asks for several steps and reads once.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as List

import torch
from torch import Tensor

from polytask.errors import Notice, out_of_memory
from polytask.inference.sampling import TIE, Chosen
from polytask.inference.sequence import Sequence
from polytask.models.transformer import Transformer
from polytask.nn.cache import Context
from polytask.nn.experts import ExpertsLayer
from polytask.nn.fixed import FixedView
from polytask.nn.kernels import gpu
from polytask.nn.paged import BLOCK, KVCache

SIZES = (1, 2, 4, 8, 16, 32, 64)  # rows that a step is recorded for; a batch is filled up to the next one
STEPS = 16  # that are asked for at once
ID, POSITION, LEAST, BASE, TABLE = range(5)  # columns of the state
FREE, END, NEVER = range(3)  # kinds of ids: those that end an answer come from a row's position LEAST on

Step = Callable[[], Tensor]
Capture = Callable[[Step], Step]


class CudaCapture:
    """Records a step, which was run before; what it gives is overwritten by the next run of any recorded step."""

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: Step) -> Step:
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            result = step()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay


class Graphs:
    """Recorded decoding of one network over one cache.

    kinds (V,) int8: what may come, see `inference.graphs`. length: tokens of a sequence at most.
    """

    def __init__(self, network: Transformer, cache: KVCache, kinds: Tensor, length: int, capture: Capture):
        self.network, self.cache, self.kinds, self.capture = network, cache, kinds, capture
        self.precise = network.embedding.weight.dtype in (torch.float32, torch.float64)
        device, self.blocks = kinds.device, -(-length // BLOCK)
        self.state = torch.zeros(SIZES[-1], TABLE + self.blocks, dtype=torch.int64, device=device)
        self.records = torch.zeros(SIZES[-1], STEPS, 3, device=device)
        self.recorded: dict[int, Step] = {}
        self.broken = False

    def steps(self, sequences: List[Sequence]) -> int:
        """How many steps these may go on by themselves; 1 where the host chooses."""
        if self.broken or not sequences or len(sequences) > SIZES[-1] or not all(map(simple, sequences)):
            return 1
        return min(STEPS, *(s.limit - s.produced for s in sequences))

    def takes(self, plan: Mapping[Sequence, int]) -> bool:
        """Whether every sequence decodes, all by as many steps."""
        counts = set(plan.values())
        if self.broken or len(plan) > SIZES[-1] or len(counts) > 1 or any(s.reading for s in plan):
            return False
        (count,) = counts
        if count > STEPS or any(s.pending != count for s in plan):
            return False
        return count == 1 or all(map(simple, plan))

    def run(self, sequences: List[Sequence], count: int) -> tuple[Tensor, Chosen | None] | None:
        """The logits (rows, V) of the last of `count` steps, and where the likeliest ids were wanted those, row after
        row; None, and the old way is left, where the step cannot be recorded."""
        size = next(size for size in SIZES if size >= len(sequences))
        rows = self._rows(sequences, size)
        self._load(rows)
        if size not in self.recorded and not self._record(size, rows):
            return None
        for _ in range(count):
            logits = self.recorded[size]()
        greedy = all(map(simple, sequences))
        return logits[: len(sequences)], self._read(len(sequences), count) if greedy else None

    def _rows(self, sequences: List[Sequence], size: int) -> Tensor:
        """The state; rows that fill it up repeat the first, and do again what that does."""
        rows = []
        for sequence in sequences:
            table, last = sequence.table.blocks, sequence.computed
            least = sequence.prompt + sequence.sampling.min_tokens
            rows.append([sequence.ids[last], last, least, last, *table, *[0] * (self.blocks - len(table))])
        rows += rows[:1] * (size - len(rows))
        rows = torch.tensor(rows)
        return rows.pin_memory() if self.state.is_cuda else rows

    def _load(self, rows: Tensor) -> None:
        self.state[: len(rows)].copy_(rows, non_blocking=True)

    def _record(self, size: int, rows: Tensor) -> bool:
        try:
            self._step(size)  # compiles what is to be compiled, and writes what the first recorded step writes again
            self.recorded[size] = self.capture(lambda: self._step(size))
        except Exception as error:
            if out_of_memory(error):
                raise
            self.broken = True
            reason = str(error).strip().split("\n")[0]
            warnings.warn(f"Decoding goes on without CUDA graphs, which could not be recorded: {reason}", Notice, 2)
            return False
        self._load(rows)
        return True

    def _step(self, size: int) -> Tensor:
        """One pass for the state's first rows, which go on to their likeliest next ids."""
        state = self.state[:size]
        view = FixedView(self.cache, state[:, TABLE:], state[:, POSITION])
        context = Context(state[:, POSITION][None], cache=view)
        logits = self.network.logits(self.network(state[:, ID][None], context)[0])
        if not gpu.choose(logits, self.kinds, state, self.records, TIE):
            choose(logits, self.kinds, state, self.records)
        return logits

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


def simple(sequence: Sequence) -> bool:
    """Whether nothing but the likeliest id is asked for."""
    sampling = sequence.sampling
    if sampling.temperature > 0 or sampling.penalised or sampling.logit_bias or sampling.logprobs:
        return False
    free = sequence.constraint is None and sequence.drawing is None
    plain = free and sequence.odds is None and not sequence.hooks
    alone = sequence.group.beam is None and not any(other.waits for other in sequence.group.sequences)
    return plain and alone and sequence.error is None


def graphs(
    network: Transformer, cache: KVCache, ends: Iterable[int], never: Iterable[int], length: int,
    capture: Capture | None = None,
) -> Graphs | None:  # fmt: skip
    """What records the decoding of a network; None on a CPU, unless `capture` is given, and where a pass depends on
    more than its rows (what an encoder read, which experts were chosen, where in a picture a code stands)."""
    device, vocabulary = network.embedding.weight.device, network.config.vocab_size
    if capture is None and device.type != "cuda":
        return None
    config = network.config
    if config.encoder_layers or config.grid or any(isinstance(module, ExpertsLayer) for module in network.modules()):
        return None
    kinds = torch.full((vocabulary,), FREE, dtype=torch.int8)
    kinds[list(ends)] = END
    kinds[list(never)] = NEVER
    if not (kinds == FREE).any():
        return None
    return Graphs(network, cache, kinds.to(device), length, capture or CudaCapture())
