"""The wall between objectives and the trainer."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn


class Loss(NamedTuple):
    """A sum over the tokens of a batch, not yet divided: the trainer divides once, by the weight of all batches of a
    step on all processes, so that any split of the same rows gives the same gradient.

    sum            scalar with gradient
    weight         scalar: what `sum` is to be divided by
    token_losses   (B, T) without gradient, in nats, for the losses by source; None where there are no tokens
    log            more sums to show, each divided by `weight`
    judged         by which of them a step is compared with those before it, where the sum itself varies by its nature
    """

    sum: Tensor
    weight: Tensor
    token_losses: Tensor | None = None
    log: Mapping[str, Tensor] = {}
    judged: str = "loss"


class Objective(Protocol):
    def loss(self, model: Any, batch: Any) -> Loss: ...


class WithLoss(nn.Module):
    """Network and objective as one module, so that whatever wraps a forward pass (sharding) wraps the loss too."""

    def __init__(self, network: nn.Module, objective: Objective):
        super().__init__()
        self.network, self.objective = network, objective

    def begin(self, step: int) -> None:
        """Tells an objective that changes over a run how many updates were made before the step."""
        if begin := getattr(self.objective, "begin", None):
            begin(step)

    def forward(self, batch: Any) -> Loss:
        return self.objective.loss(self.network, batch)
