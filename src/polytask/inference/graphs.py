"""Decoding on a GPU without its host: a step is recorded once for each padded number of rows as a CUDA graph.

A GPU computes a token of a small network sooner than Python can ask for it.
"""

import warnings
from collections.abc import Callable
from collections.abc import Sequence as List

import torch
from torch import Tensor

from polytask.errors import Notice, out_of_memory
from polytask.inference.sampling import TIE
from polytask.inference.sequence import Sequence
from polytask.inference.steps import ID, POSITION, ROWS, TABLE, Steps, choose
from polytask.models.transformer import Transformer
from polytask.nn.cache import Context
from polytask.nn.composition import Composition
from polytask.nn.fixed import FixedView
from polytask.nn.kernels import gpu
from polytask.nn.paged import KVCache

SIZES = (1, 2, 4, 8, 16, 32, ROWS)  # rows that a step is recorded for; a batch is filled up to the next one

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


class Graphs(Steps):
    """Recorded decoding; see `Steps`."""

    def __init__(self, network: Transformer, cache: KVCache, kinds: Tensor, length: int, capture: Capture):
        super().__init__(network, cache, kinds, length)
        self.capture, self.recorded, self.broken = capture, dict[int, Step](), False
        self._composition = Composition(network)

    @property
    def able(self) -> bool:
        return not (self.broken or self._composition.hooked)  # a recorded step calls no hooks

    def renew(self) -> None:
        if self._composition.stays:  # what was written there is read
            return
        self.recorded, self._composition = {}, Composition(self.network)
        if isinstance(self.capture, CudaCapture):  # memory of graphs that are no more takes no other ones
            self.capture = CudaCapture()

    def _go(self, sequences: List[Sequence], count: int, chooses: bool) -> Tensor | None:
        """Rows that fill the state up repeat the first, and do again what that does."""
        rows = self._rows(sequences, [1] * len(sequences))
        size = next(size for size in SIZES if size >= len(rows))
        filled = torch.cat([rows, rows[:1].expand(size - len(rows), -1)])
        filled = filled.pin_memory() if self.state.is_cuda else filled
        self._load(filled)
        if size not in self.recorded and not self._record(size, filled):
            return None
        for _ in range(count):
            logits = self.recorded[size]()
        return logits[: len(rows)]

    def _load(self, rows: Tensor) -> None:
        self.state[: len(rows), : rows.shape[1]].copy_(rows, non_blocking=True)

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
