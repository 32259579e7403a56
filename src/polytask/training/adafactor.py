"""Adafactor: Adam's second moments as row and column means, a sliver of their memory (Shazeer and Stern 2018)."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from polytask.training.parallel.tensors import like, unsplit

LEAST_SIZE = 1e-3  # a parameter smaller than this is moved as if it were so large (the paper's second epsilon)


class Adafactor(torch.optim.Optimizer):
    """Algorithms 4 and 5 of the paper with its section 8: steps relative to each parameter's size, the moments' decay
    1 - t^-0.8, updates clipped to a root mean square of 1, rate never above 1 / sqrt(t). No momentum.

    Equal to torch's own, which does not take parameters that processes share in parts.
    """

    def __init__(self, parameters: Iterable[nn.Parameter] | list[dict[str, Any]], lr: float, weight_decay: float = 0.0):
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group["lr"], group["weight_decay"])

    def _move(self, parameter: nn.Parameter, lr: float, weight_decay: float) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        count = state["step"] = state.get("step", torch.zeros(())) + 1  # on the CPU: reading it must not wait for a GPU
        least = torch.finfo(parameter.dtype).eps
        fresh = float(count) ** -0.8
        if parameter.ndim > 1:
            gradient = unsplit(gradient)
            moment = _factored(state, gradient, fresh, least)
        else:
            squared = gradient.square()
            kept = state.get("variance", torch.zeros_like(squared))
            state["variance"] = kept.lerp(squared, fresh)
            gradient, moment = unsplit(gradient), unsplit(state["variance"])
        update = gradient * moment.clamp(min=least**2).rsqrt()
        update = update / _root_mean_square(update).clamp(min=1.0)
        rate = min(lr, float(count) ** -0.5) * _root_mean_square(unsplit(parameter)).clamp(min=LEAST_SIZE)
        parameter.mul_(1 - lr * weight_decay)
        parameter.sub_(like(rate * update, parameter))


def _factored(state: dict[str, Tensor], gradient: Tensor, fresh: float, least: float) -> Tensor:
    """The second moments of a matrix from its row and column means, which it brings up to date."""
    squared = gradient.square()
    for key, dim in (("rows", -1), ("columns", -2)):
        mean = squared.mean(dim=dim, keepdim=True)
        kept = state.get(key, torch.zeros_like(mean))
        state[key] = kept.lerp(mean, fresh)
    return state["rows"] @ state["columns"] / state["rows"].mean(dim=-2, keepdim=True).clamp(min=least)


def _root_mean_square(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()
