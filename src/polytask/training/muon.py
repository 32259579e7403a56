"""Muon: momentum whose matrices are made orthogonal before they move the weights (Jordan et al. 2024)."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from polytask.training.parallel.tensors import like, unsplit

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration, steep at 0: fast, and near 1 rather than exact
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalized, with decoupled weight decay; for matrices alone.

    Updates are scaled to AdamW's usual size, 0.2 sqrt(larger side) (Liu et al. 2025, section 2.2). The products are in
    the precision of the run's own: in float32, runs on any number of processes agree. A parameter (E, R, C) holds E
    matrices, each by itself. A group's `parts` are the rows of projections that share its matrices (`nn.stacked`); each
    is made orthogonal by itself, since the gradients of values are so much larger than those of queries and keys that
    these would hardly move.
    """

    def __init__(
        self, matrices: Iterable[nn.Parameter] | Iterable[dict[str, Any]], lr: float, weight_decay: float,
        momentum: float, dtype: torch.dtype = torch.float32,
    ):  # fmt: skip
        self.dtype = dtype
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "parts": None})

    @torch.no_grad()
    def step(self, closure=None):  # type: ignore[override]
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in moved:
                by_shape.setdefault(parameter.shape, []).append(parameter)
            for alike in by_shape.values():
                self._move(alike, group)

    def _move(self, parameters: list[nn.Parameter], group: dict) -> None:
        """One batched iteration for all matrices of a shape: small ones would leave the machine idle one by one."""
        directions = torch.stack([unsplit(self._direction(parameter, group["momentum"])) for parameter in parameters])
        flat = directions.flatten(0, -3).to(self.dtype)  # (N, R, C)
        pieces = flat.split(group["parts"] or flat.shape[-2], dim=-2)
        updates = torch.cat([orthogonalize(piece) * (0.2 * max(piece.shape[-2:]) ** 0.5) for piece in pieces], dim=-2)
        for parameter, update in zip(parameters, updates.view_as(directions)):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.sub_(like(update.to(parameter.dtype), parameter), alpha=group["lr"])

    def _direction(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(state["momentum"], momentum)


def orthogonalize(matrices: Tensor) -> Tensor:
    """Each of (N, R, C) with its singular values brought near 1, by Newton-Schulz iterations."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    first, third, fifth = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        gram = torch.baddbmm(gram, gram, gram, beta=third, alpha=fifth)
        x = torch.baddbmm(x, gram, x, beta=first)
    return x.mT if tall else x
