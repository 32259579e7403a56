"""How an encoder's maps become codes, as parts given by value.

`Categorical` is DALL-E's: scores over a codebook, relaxed by Gumbel noise in training (Jang et al. 2017; Maddison et
al. 2017). `FiniteScalar` has no codebook: a few bounded channels are rounded, and their combinations are the codes
(Mentzer et al. 2023, arXiv:2309.15505).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polytask.errors import ConfigError
from polytask.nn.part import Part

MARGIN = 1e-3  # by which the outermost levels stay inside the bound (Mentzer et al. 2023, appendix A.1)


@dataclass(frozen=True)
class Categorical(Part):
    """One score for each of `codes` codes."""

    codes: int = 8192

    def __post_init__(self) -> None:
        self.expect_numbers("codes", whole=True)

    @property
    def channels(self) -> int:
        """Of the encoder's maps, and of what a decoder reads."""
        return self.codes

    def code(self, maps: Tensor) -> Tensor:
        """The likeliest codes (B, h, w) of maps (B, C, h, w)."""
        return maps.argmax(dim=1)

    def relax(self, maps: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Shares of the codes (B, C, h, w), drawn with Gumbel noise, and the divergence (B,) of the codes'
        distribution from the uniform one, in nats, summed over places."""
        shares = F.gumbel_softmax(maps, tau=temperature, dim=1)
        logs = maps.log_softmax(dim=1)
        return shares, (logs.exp() * (logs + math.log(self.codes))).sum(dim=(1, 2, 3))

    def enter(self, first: nn.Conv2d, codes: Tensor) -> Tensor:
        """What a decoder's first layer, of 1 x 1, makes of codes (B, h, w): a look-up, as each has a map of its own."""
        rows = F.embedding(codes, first.weight[:, :, 0, 0].mT)
        return (rows if first.bias is None else rows + first.bias).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class FiniteScalar(Part):
    """One channel for each of `levels`, rounded to so many values; the gradient passes through the rounding."""

    levels: tuple[int, ...] = (8, 8, 8, 16)

    def __post_init__(self) -> None:
        if not self.levels or any(not isinstance(n, int) or n < 2 for n in self.levels):
            raise ConfigError(f"FiniteScalar: levels={self.levels!r} must be whole numbers of at least 2")

    @property
    def codes(self) -> int:
        return math.prod(self.levels)

    @property
    def channels(self) -> int:
        return len(self.levels)

    def _column(self, values: list[float], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]

    def _bounded(self, maps: Tensor) -> Tensor:
        """Each channel between its outermost levels; those of an even number of levels lie around -1/2, and a map of 0
        is still 0 there."""
        half = self._column([(n - 1) * (1 - MARGIN) / 2 for n in self.levels], maps)
        offset = self._column([0.5 * (n % 2 == 0) for n in self.levels], maps)
        return (maps + (offset / half).atanh()).tanh() * half - offset

    def _middle(self, like: Tensor) -> Tensor:
        return self._column([float(n // 2) for n in self.levels], like)

    def code(self, maps: Tensor) -> Tensor:
        digits = (self._bounded(maps).round() + self._middle(maps)).long()
        return (digits * self._weights(digits)).sum(dim=1)

    def _weights(self, like: Tensor) -> Tensor:
        """What a step of each channel is worth in a code."""
        return self._column([float(math.prod(self.levels[:n])) for n in range(len(self.levels))], like)

    def relax(self, maps: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """The rounded channels in [-1, 1], whatever the temperature; nothing holds their distribution to a prior."""
        bounded = self._bounded(maps)
        rounded = bounded + (bounded.round() - bounded).detach()
        return rounded / self._middle(maps), maps.new_zeros(len(maps))

    def enter(self, first: nn.Conv2d, codes: Tensor) -> Tensor:
        """What a decoder's first layer makes of codes (B, h, w)."""
        levels = torch.tensor(self.levels, device=codes.device)[:, None, None]
        digits = codes[:, None] // self._weights(codes) % levels
        middle = self._middle(first.weight)
        return first((digits - middle) / middle)


Quantizer = Categorical | FiniteScalar
