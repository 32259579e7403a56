"""Muon: momentum whose matrices are made orthogonal before they move the weights (Jordan et al. 2024)."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from polytask.training.parallel.tensors import like, unsplit

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration, steep at 0: fast, and near 1 rather than exact
ITERATIONS = 5
TOGETHER = 1 << 24  # numbers of matrices that are made orthogonal at once


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
        moved = [(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        moved.sort(key=lambda one: sorted(one[0].shape[-2:]))
        run, size = [], 0
        for one in moved:
            if run and size + one[0].numel() > TOGETHER:
                self._move(run)
                run, size = [], 0
            run.append(one)
            size += one[0].numel()
        self._move(run)

    def _move(self, moved: list[tuple[nn.Parameter, dict[str, Any]]]) -> None:
        """One batched iteration for all matrices of a size, lying or standing: small ones would leave the machine idle
        one by one."""
        pieces, shapes = [], []  # matrices (N, R, C), no higher than wide; of each parameter how they were
        for parameter, group in moved:
            direction = unsplit(self._direction(parameter, group["momentum"])).to(self.dtype)
            split = direction.reshape(-1, *direction.shape[-2:]).split(group["parts"] or direction.shape[-2], dim=-2)
            pieces += [piece.mT if piece.shape[-2] > piece.shape[-1] else piece for piece in split]
            shapes.append([piece.shape for piece in split])
        by_size: dict[torch.Size, list[int]] = {}
        for index, piece in enumerate(pieces):
            by_size.setdefault(piece.shape[-2:], []).append(index)
        for alike in by_size.values():
            counts = [len(pieces[index]) for index in alike]
            made = orthogonalize(torch.cat([pieces[index] for index in alike])) * (
                0.2 * pieces[alike[0]].shape[-1] ** 0.5
            )
            for index, update in zip(alike, made.split(counts)):
                pieces[index] = update
        found = iter(pieces)
        for (parameter, group), own in zip(moved, shapes):
            parts = [piece if piece.shape == shape else piece.mT for shape, piece in zip(own, found)]
            update = torch.cat(parts, dim=-2).view(parameter.shape)
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
