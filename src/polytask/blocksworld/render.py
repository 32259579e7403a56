"""Pictures of scenes: anti-aliased shapes on grey, each in the middle of its cell of the 3x3 grid.

The grey in the middle of the scale is as far from white as from black, and is 0 where pixels run from -1 to 1.
"""

from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from math import ceil, cos, floor, pi, sin
from typing import TYPE_CHECKING

import numpy as np

from polytask.blocksworld.scene import GRID, Scene
from polytask.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image

SMALLEST, LARGEST = 32, 1024  # pixels of a side
GREY = (128, 128, 128)
# No two are nearer to each other than 115 (of 255, in RGB), nor any to the grey than 130.
PALETTE = {
    "red": (225, 25, 25),
    "blue": (30, 60, 225),
    "green": (20, 150, 40),
    "yellow": (245, 225, 30),
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "purple": (165, 20, 205),
    "brown": (115, 60, 15),
}
RADIUS = {"small": 0.3, "large": 0.44}  # of a cell's side
_FINE = 8  # points a pixel and direction at which a shape is sampled


def render(scene: Scene, size: int = 32, shifts: Sequence[tuple[float, float]] | None = None) -> "Image":
    """The scene as a picture of `size` x `size` pixels in RGB. `shifts`: (right, down) in pixels for every block.

    Raises ConfigError for a size that is not within 32 to 1024.
    """
    from PIL import Image

    return Image.fromarray(pixels(scene, size, shifts))


def pixels(scene: Scene, size: int = 32, shifts: Sequence[tuple[float, float]] | None = None) -> np.ndarray:
    """As `render`, as an array (size, size, 3) uint8."""
    check_size(size)
    canvas = np.full((size, size, 3), GREY, dtype=np.float32)
    for block, shift in zip(scene, shifts or [(0.0, 0.0)] * len(scene), strict=True):
        x, y, alpha = coverage(block.shape, block.size, block.cell, size, shift)
        across, down = slice(max(x, 0), x + alpha.shape[1]), slice(max(y, 0), y + alpha.shape[0])
        part = canvas[down, across]
        seen = alpha[max(-y, 0) :, max(-x, 0) :][: part.shape[0], : part.shape[1], None]
        part += seen * (np.array(PALETTE[block.colour], dtype=np.float32) - part)
    return canvas.round().astype(np.uint8)


def png(scene: Scene, size: int = 32) -> bytes:
    """As `render`, as the bytes of a PNG."""
    file = BytesIO()
    render(scene, size).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def check_size(size: int) -> None:
    if not isinstance(size, int) or not SMALLEST <= size <= LARGEST:
        raise ConfigError(f"Blocks world: pictures have {SMALLEST} to {LARGEST} pixels a side, not {size!r}.")


@lru_cache(maxsize=16_384)
def coverage(
    shape: str, size: str, cell: int, pixels: int, shift: tuple[float, float] = (0.0, 0.0)
) -> tuple[int, int, np.ndarray]:
    """(column, row, alpha): how much of each pixel a shape covers, from the pixel at (column, row) on."""
    side = pixels / GRID
    radius = RADIUS[size] * side
    x, y = (cell % GRID + 0.5) * side + shift[0], (cell // GRID + 0.5) * side + shift[1]
    reach = radius * _REACH
    left, top = floor(x - reach), floor(y - reach)
    width, height = ceil(x + reach) - left, ceil(y + reach) - top
    fine = (np.arange(_FINE) + 0.5) / _FINE
    xs = ((left + np.arange(width)[:, None] + fine).reshape(-1) - x) / radius
    ys = ((top + np.arange(height)[:, None] + fine).reshape(-1) - y) / radius
    inside = INSIDE[shape](xs[None, :], ys[:, None])
    alpha = inside.reshape(height, _FINE, width, _FINE).mean((1, 3)).astype(np.float32)
    alpha.setflags(write=False)
    return left, top, alpha


_REACH = 1.12  # no shape stands out further than this many radii


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x**2 + y**2 <= 1


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(abs(x), abs(y)) <= 0.96


def _diamond(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return abs(x) + abs(y) <= 1.1


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (abs(x) * 1.85 <= y + 1) & (y <= 0.85)


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (np.minimum(abs(x), abs(y)) <= 0.28) & (np.maximum(abs(x), abs(y)) <= 1.05)


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Five points: inside of an odd or even number of edges, as their rays cross."""
    corners = [(r * sin(i * pi / 5), -r * cos(i * pi / 5)) for i in range(10) for r in ((1.1, 0.45)[i % 2],)]
    inside = np.zeros(np.broadcast_shapes(x.shape, y.shape), dtype=bool)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1]):
        crosses = ((y0 > y) != (y1 > y)) & (x < (x1 - x0) * (y - y0) / ((y1 - y0) or 1) + x0)
        inside ^= crosses
    return inside


INSIDE = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "diamond": _diamond,
    "cross": _cross,
}
