"""A moving average of weights, which is often better than the weights (Polyak and Juditsky 1992)."""

from collections.abc import Mapping

import torch
from torch import Tensor


class MovingAverage:
    """shadow <- decay shadow + (1 - decay) weights after every step; early on the decay is lower, (1 + n) / (10 + n)
    after n updates (as TensorFlow's ExponentialMovingAverage has it), so that random first weights are forgotten."""

    def __init__(self, weights: Mapping[str, Tensor], decay: float):
        self.weights, self.decay = weights, decay
        self.shadow = {name: tensor.detach().clone() for name, tensor in weights.items()}

    @torch.no_grad()
    def update(self, updates: int) -> None:
        decay = min(self.decay, (1 + updates) / (10 + updates))
        current = [self.weights[name].detach() for name in self.shadow]
        torch._foreach_lerp_(list(self.shadow.values()), current, 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges average and weights, in place; twice is nothing."""
        for name, average in self.shadow.items():
            weight = self.weights[name].detach()
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)
