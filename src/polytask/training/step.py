"""One step up to the optimizer: the gradient of the mean loss over all batches of the step on all processes."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from polytask.data.batch import Batch
from polytask.training.objectives.loss import Loss, WithLoss
from polytask.training.parallel.data import World, synchronize_gradients
from polytask.training.parallel.tensors import DTensor

Batches = Callable[[int, int], Any]  # a batch of whatever the objective takes


@dataclass
class Figures:
    """Sums and the weights to divide them by, by name ("loss", "loss/SOURCE"), and what was gone through."""

    sums: dict[str, list[float]] = field(default_factory=dict)
    tokens: int = 0
    norm: float = 0.0
    stop: bool = False  # somebody asked one of the processes to stop
    judged: str = "loss"  # by which a step is compared with those before it

    def mean(self, name: str = "loss") -> float:
        total, weight = self.sums[name]
        return total / weight if weight else 0.0

    def means(self) -> dict[str, float]:
        return {name: self.mean(name) for name, (_, weight) in self.sums.items() if weight}

    def by_source(self) -> dict[str, list[float]]:
        """Sum and weight of the losses of each source in the batch, or of all where sources are not counted."""
        parts = {name: pair for name, pair in self.sums.items() if name.startswith("loss/") and pair[1]}
        return parts or {self.judged: self.sums[self.judged]}

    def add(self, other: "Figures") -> None:
        for name, (total, weight) in other.sums.items():
            mine = self.sums.setdefault(name, [0.0, 0.0])
            mine[0] += total
            mine[1] += weight
        self.tokens += other.tokens


class Ahead:
    """Fetches batches in a thread, a few before they are asked for; `batches` must depend on its arguments alone."""

    def __init__(self, batches: Batches, accumulate: int, steps: int, device: torch.device, depth: int = 2):
        self.batches, self.accumulate, self.steps, self.device, self.depth = batches, accumulate, steps, device, depth
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="polytask-batches")
        self._waiting: dict[int, Future[tuple[Batch, int]]] = {}

    def get(self, step: int, micro: int) -> tuple[Batch, int]:
        """The batch, on the device, and the number of its tokens."""
        place = step * self.accumulate + micro
        for ahead in range(place, min(place + self.depth + 1, self.steps * self.accumulate)):
            if ahead not in self._waiting:
                self._waiting[ahead] = self._pool.submit(self._fetch, *divmod(ahead, self.accumulate))
        batch, tokens = self._waiting.pop(place).result()
        return batch.to(self.device), tokens

    def _fetch(self, step: int, micro: int) -> tuple[Batch, int]:
        batch = self.batches(step, micro)
        seen = batch.seen
        return (batch.pin() if self.device.type == "cuda" else batch), seen

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def precision(device: torch.device, name: str) -> Iterator[None]:
    """Matrix products in the named precision; weights and sums stay in float32. A GPU attends by cuDNN where it can:
    torch's first choice takes up to 1.7 times as long there (docs/log.md)."""
    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    kernels = sdpa_kernel(order, set_priority=True) if device.type == "cuda" else nullcontext()
    with torch.autocast(device.type, torch.bfloat16, enabled=name == "bfloat16"), kernels:
        yield


def tally(loss: Loss, batch: Batch, sources: int) -> Tensor:
    """One float64 row [sum, weight, then sums and weights by source, then the log's sums]."""
    parts = [torch.stack([loss.sum.detach().double(), torch.as_tensor(loss.weight, device=loss.sum.device).double()])]
    if sources and loss.token_losses is not None:
        places = batch.sources.clamp(min=0).flatten()  # padding (-1) has no weight
        weights = batch.weights.double()
        values = torch.stack([loss.token_losses.double() * weights, weights], dim=-1).flatten(0, 1)  # (B x T, 2)
        parts.append(values.new_zeros(sources, 2).index_add_(0, places, values).flatten())
    elif sources:
        parts.append(parts[0].new_zeros(2 * sources))
    parts += [loss.log[name].detach().double().reshape(1) for name in sorted(loss.log)]
    return torch.cat(parts)


def read_tally(row: list[float], sources: tuple[str, ...], logged: list[str]) -> dict[str, list[float]]:
    sums = {"loss": row[:2]}
    for index, name in enumerate(sources):
        sums[f"loss/{name}"] = row[2 + 2 * index : 4 + 2 * index]
    start = 2 + 2 * len(sources)
    return sums | {name: [row[start + index], row[1]] for index, name in enumerate(logged)}


def backward(
    module: WithLoss, fetch: Callable[[int], tuple[Batch, int]], accumulate: int, world: World, *,
    precision_name: str = "float32", sources: tuple[str, ...] = (), stop: bool = False,
) -> Figures:  # fmt: skip
    """Leaves the gradient of the step's mean loss in `.grad`, and returns its figures with the gradient's norm.

    The sum of losses is divided once, by the weight of all `accumulate` batches on all processes, so the gradient does
    not depend on how rows are split over batches and processes (a mean of means would weigh tokens unequally).
    """
    row, tokens, logged, judged = None, 0, [], "loss"
    for micro in range(accumulate):
        batch, count = fetch(micro)
        synchronize_gradients(module, micro == accumulate - 1)
        with precision(batch.sources.device, precision_name):
            loss = module(batch)
        loss.sum.backward()
        logged, judged = sorted(loss.log), loss.judged
        values = tally(loss, batch, len(sources))
        row = values if row is None else row + values
        tokens += count
    assert row is not None
    row = torch.cat([row, row.new_tensor([tokens, float(stop)])])
    *values, tokens, stopped = world.sum(row).tolist()
    figures = Figures(read_tally(values, sources, logged), int(tokens), stop=stopped > 0, judged=judged)
    weight = figures.sums["loss"][1]
    # fully_shard takes the mean over processes; we want the sum.
    figures.norm = scale_gradients(module, world.size / weight if weight else 0.0)
    return figures


def gradients(module: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in module.parameters() if parameter.grad is not None]


def norm_of(tensors: list[Tensor]) -> float:
    if not tensors:
        return 0.0
    norm = torch.nn.utils.get_total_norm(tensors)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def scale_gradients(module: nn.Module, factor: float) -> float:
    """Multiplies every gradient by `factor`; the norm of the result."""
    tensors = gradients(module)
    if tensors:
        torch._foreach_mul_(tensors, factor)
    return norm_of(tensors)


def clip_gradients(module: nn.Module, norm: float, largest: float) -> None:
    """Scales a gradient of that norm down to `largest` (Pascanu et al. 2013); 0 leaves it."""
    if largest and norm > largest:
        torch._foreach_mul_(gradients(module), largest / (norm + 1e-6))
