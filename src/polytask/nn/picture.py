"""What all networks that look at pictures do with their pixels first."""

from typing import Protocol

from torch import Tensor

from polytask.errors import ConfigError


class Seen(Protocol):
    """image: the side in pixels. mean, deviation: of colours in [0, 1], by which they are normalised."""

    @property
    def image(self) -> int: ...
    @property
    def mean(self) -> tuple[float, float, float]: ...
    @property
    def deviation(self) -> tuple[float, float, float]: ...


def normalized(pixels: Tensor, seen: Seen) -> Tensor:
    """Pictures (B, 3, S, S) in [-1, 1] as the network was trained on them. Raises ConfigError for another size."""
    side = seen.image
    if pixels.shape[-3:] != (3, side, side):
        raise ConfigError(
            f"vision: pictures of shape {tuple(pixels.shape[-3:])} were given, and the model reads (3, {side}, "
            f"{side}); resize them."
        )
    mean, deviation = (pixels.new_tensor(x)[:, None, None] for x in (seen.mean, seen.deviation))
    return (pixels * 0.5 + 0.5 - mean) / deviation
