"""Mean losses over held-out data, measured as in training but without smoothing and without gradients."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from polytask.data.batch import Batch
from polytask.training.objectives.loss import Loss
from polytask.training.parallel.data import World
from polytask.training.step import precision


@torch.no_grad()
def validation_losses(
    module: nn.Module, validation: Mapping[str, Callable[[], Iterable[Batch]]], device: torch.device,
    precision_name: str, world: World,
) -> dict[str, float]:  # fmt: skip
    """{"validation_loss/SOURCE": nats a token, ..., "validation_loss": their mean by tokens}; empty without sources.

    Every process passes over as many batches; the means are over all of them.
    """
    sums = torch.zeros(len(validation), 2, dtype=torch.float64, device=device)
    for index, batches in enumerate(validation.values()):
        for batch in batches():
            batch = batch.to(device)
            with precision(device, precision_name):
                loss = module(batch)
            sums[index] += _plain(loss, batch)
    world.sum(sums)
    totals = sums.tolist()
    losses = {f"validation_loss/{name}": total / weight for name, (total, weight) in zip(validation, totals) if weight}
    everything, weight = sums.sum(0).tolist()
    return losses | ({"validation_loss": everything / weight} if weight else {})


def _plain(loss: Loss, batch: Batch) -> Tensor:
    """[sum, weight] of the losses without smoothing and penalties, where the objective knows them."""
    weight = torch.as_tensor(loss.weight, dtype=torch.float64, device=loss.sum.device)
    total = loss.sum if loss.token_losses is None else (loss.token_losses * batch.weights).sum()
    return torch.stack([total.double(), weight])
