"""Which tokens of a picture a token of it sees, as parts given by value (Ramesh et al. 2021, appendix B.1, figure 11).

A text comes first, then the picture's tokens in raster order. All see what came before in the text; the patterns differ
in what they see of the picture, and cost as much less as they see.
"""

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from polytask.errors import ConfigError
from polytask.nn.part import Part


@dataclass(frozen=True)
class Pattern(Part, ABC):
    """text: tokens before the picture; height, width: of the picture, in tokens."""

    text: int
    height: int
    width: int

    def __post_init__(self) -> None:
        self.expect_numbers("text", whole=True, zero=True)
        self.expect_numbers("height", "width", whole=True)

    def visible(self, queries: Tensor, keys: Tensor) -> Tensor:
        """(B, 1, T, S) for positions (B, T) and (B, S), of keys that do not come after the query."""
        places = queries[:, None, :, None], keys[:, None, None, :]
        return (places[0] < self.text) | (places[1] < self.text) | self.near(places[0] - places[1])

    @abstractmethod
    def near(self, distance: Tensor) -> Tensor:
        """Whether a token sees the one that stands so many places before it in raster order."""

    @property
    def most(self) -> int:
        """How many keys a token sees at most."""
        return self.text + self._most()

    @abstractmethod
    def _most(self) -> int:
        """Of the picture."""


class RowPattern(Pattern):
    """Itself and the last `width` tokens, across the ends of rows, up to the one above it."""

    def near(self, distance: Tensor) -> Tensor:
        return distance <= self.width

    def _most(self) -> int:
        return self.width + 1


class ColumnPattern(Pattern):
    """The tokens above it, and itself."""

    def near(self, distance: Tensor) -> Tensor:
        return distance % self.width == 0

    def _most(self) -> int:
        return self.height


@dataclass(frozen=True)
class ConvolutionPattern(Pattern):
    """The square of `kernel` tokens a side around it, of which it comes last; like rows, it goes on across their
    ends."""

    kernel: int = 11

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel % 2 == 0 or self.kernel < 1:
            raise ConfigError(f"ConvolutionPattern: kernel={self.kernel!r} must be an odd number of at least 1")

    def near(self, distance: Tensor) -> Tensor:
        half = self.kernel // 2
        rows = ((distance - row * self.width).abs() <= half for row in range(half + 1))
        return functools.reduce(Tensor.__or__, rows)

    def _most(self) -> int:
        return (self.kernel // 2) * (self.kernel + 1) + 1
