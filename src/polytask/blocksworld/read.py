"""Reading a picture back by rule: which shapes it shows, of what size and colour, in which cells.

Each cell is compared with every size, colour and shape there can be, moved by up to SHIFT pixels, and holds the one
that explains it best, or nothing. Then the picture must look like what was read: nowhere may the two differ by more
than a third of the contrast there, on the mean of 3 x 3 pixels, and of each half of a block (left, right, upper, lower)
seven tenths must be there. Half a shape, a shape between two cells, one too many in a cell or a colour that is none of
the eight fails this, and so does noise that hides what is there.

All is measured on 32 x 32 pixels; larger pictures are averaged down to them first.
"""

from dataclasses import dataclass
from functools import cache
from math import ceil, floor
from typing import TYPE_CHECKING

import numpy as np

from polytask.blocksworld.render import GREY, PALETTE, SMALLEST, coverage
from polytask.blocksworld.scene import CELLS, GRID, SHAPES, SIZES, Block, Scene
from polytask.errors import TaskError

if TYPE_CHECKING:
    from PIL.Image import Image

SHIFT = 1.5  # pixels that a shape may be off the middle of its cell
ERROR = 1 / 3  # of the contrast, by which a picture may differ from what is read in it
HALF = 0.7  # of what each half of a block should add to the grey, it must
NOISE = 24.0  # standard deviation, of 255, above which no picture is read
_SIDE = SMALLEST
_STEP = 0.5  # pixels between the places where a shape is looked for
_TINY = 1e-6  # against division by zero, where a cell holds nothing
_AT_ONCE = 32  # pictures in memory at the same time

_COLOURS = tuple(PALETTE)
_GREY = np.array(GREY, dtype=np.float32)
_CONTRAST = np.array([PALETTE[colour] for colour in _COLOURS], dtype=np.float32) - _GREY  # (8, 3)
_CONTRASTS = np.linalg.norm(_CONTRAST, axis=1)
_KINDS = [(size, shape) for size in SIZES for shape in SHAPES]


@dataclass(frozen=True)
class Reading:
    """What a picture shows: blocks by their cells, and the cells where something is that is no block as it should be.

    fault: why the picture as a whole cannot be one of a scene ("blank", "noisy"); "" where it can.
    """

    blocks: Scene
    unclear: tuple[int, ...] = ()
    fault: str = ""

    @property
    def scene(self) -> Scene | None:
        """The scene, where the picture shows one clearly; else None."""
        return None if self.fault or self.unclear else self.blocks

    @property
    def objects(self) -> int:
        """How many things there are to be seen, the unclear ones included."""
        return len(self.blocks) + len(self.unclear)


def read(picture: "Image") -> Reading:
    """What the picture shows. Raises TaskError unless it is square and of 32 pixels a side or more."""
    return read_many([picture])[0]


def read_many(pictures: "list[Image]") -> list[Reading]:
    """As `read`, faster for many."""
    found = []
    for start in range(0, len(pictures), _AT_ONCE):
        seen = np.stack([_small(picture) for picture in pictures[start : start + _AT_ONCE]])
        found += _read(seen - _GREY)
    return found


def _small(picture: "Image") -> np.ndarray:
    from PIL import Image

    width, height = picture.size
    if width != height or width < _SIDE:
        raise TaskError(f"Blocks world: pictures are square, of {_SIDE} pixels a side or more, not {width} x {height}.")
    picture = picture.convert("RGB")
    if width > _SIDE:
        picture = picture.resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return np.asarray(picture, dtype=np.float32)


@dataclass(frozen=True)
class _Cell:
    """One cell's surroundings (rows, columns of the picture) and how each kind at each place covers them."""

    rows: slice
    columns: slice
    covers: np.ndarray  # (M, pixels)
    energy: np.ndarray  # (M,) sums of squares
    kinds: np.ndarray  # (M,) numbers in _KINDS


@cache
def _cells() -> tuple[_Cell, ...]:
    """Made once, in some tenths of a second."""
    side, found = _SIDE / GRID, []
    places = np.arange(-SHIFT, SHIFT + _STEP / 2, _STEP).tolist()
    for cell in range(CELLS):
        top, left = (max(0, floor(side * at - SHIFT)) for at in (cell // GRID, cell % GRID))
        bottom, right = (min(_SIDE, ceil(side * (at + 1) + SHIFT)) for at in (cell // GRID, cell % GRID))
        covers, kinds = [], []
        for number, (size, shape) in enumerate(_KINDS):
            for down in places:
                for across in places:
                    x, y, alpha = coverage(shape, size, cell, _SIDE, (across, down))
                    canvas = np.zeros((_SIDE + 16, _SIDE + 16), dtype=np.float32)  # shapes may stand out of the picture
                    canvas[y + 8 : y + 8 + alpha.shape[0], x + 8 : x + 8 + alpha.shape[1]] = alpha
                    covers.append(canvas[top + 8 : bottom + 8, left + 8 : right + 8].reshape(-1))
                    kinds.append(number)
        table = np.stack(covers)
        found.append(_Cell(slice(top, bottom), slice(left, right), table, (table**2).sum(1), np.array(kinds)))
    return tuple(found)


def _read(seen: np.ndarray) -> list[Reading]:
    """Of pictures (N, 32, 32, 3) less the grey."""
    count = len(seen)
    drawn = np.zeros((CELLS, *seen.shape), dtype=np.float32)  # what each cell's block adds to the grey
    kinds = np.full((CELLS, count), -1)
    colours = np.zeros((CELLS, count), dtype=np.int64)
    partial = np.zeros((CELLS, count), dtype=bool)
    for _ in range(2):  # once more, without what the neighbours put into a cell's surroundings
        whole = drawn.sum(0)
        for number, cell in enumerate(_cells()):
            window = (slice(None), cell.rows, cell.columns)
            left = (seen - whole + drawn[number])[window]
            kinds[number], colours[number], drawn[number][window] = _best(cell, left)
            partial[number] = (kinds[number] >= 0) & (_least_half(left, drawn[number][window]) < HALF)
    rest = seen - drawn.sum(0)
    tolerated = _tolerance(kinds, colours)
    wrong = np.linalg.norm(_smooth(rest), axis=-1) > ERROR * tolerated
    wrong |= partial[_PIXEL_CELL].transpose(2, 0, 1)
    noise = np.sqrt((rest**2).mean((1, 2, 3)))
    return [_reading(kinds[:, n], colours[:, n], wrong[n], float(noise[n])) for n in range(count)]


def _best(cell: _Cell, left: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(kind or -1, colour, what it adds) by least squares, for surroundings (N, rows, columns, 3)."""
    count = len(left)
    flat = left.reshape(count, -1, 3)
    products = (cell.covers @ flat) @ _CONTRAST.T  # (N, M, 8)
    gain = 2 * products - cell.energy[:, None] * _CONTRASTS**2  # how much less of the picture is unexplained
    place, colour = np.divmod(gain.reshape(count, -1).argmax(1), len(_COLOURS))
    there = gain[np.arange(count), place, colour] > 0
    adds = cell.covers[place][:, :, None] * _CONTRAST[colour][:, None, :] * there[:, None, None]
    return np.where(there, cell.kinds[place], -1), colour, adds.reshape(left.shape)


def _least_half(left: np.ndarray, adds: np.ndarray) -> np.ndarray:
    """(N,) how much of what a block adds (N, rows, columns, 3) is there, in that of its halves where it is least."""
    there, wanted = (left * adds).sum(-1), (adds**2).sum(-1)  # as weighted by least squares
    mass = np.sqrt(wanted)
    shares = []
    for axis in (1, 2):
        places = np.arange(left.shape[axis]).reshape((-1, 1) if axis == 1 else (1, -1))
        middle = (mass * places).sum((1, 2), keepdims=True) / np.maximum(mass.sum((1, 2), keepdims=True), _TINY)
        for side in (places - middle, middle - places):
            half = np.clip(side + 0.5, 0, 1)  # the pixel in the middle belongs to both
            shares.append((there * half).sum((1, 2)) / np.maximum((wanted * half).sum((1, 2)), _TINY))
    return np.min(shares, axis=0)


def _tolerance(kinds: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """(N, 32, 32) the contrast of what stands in each pixel's cell; of the faintest colour where nothing does."""
    contrast = np.where(kinds >= 0, _CONTRASTS[colours], _CONTRASTS.min())  # (9, N)
    return contrast[_PIXEL_CELL].transpose(2, 0, 1)


def _of_pixels() -> np.ndarray:
    line = (np.arange(_SIDE) + 0.5) * GRID // _SIDE
    return (line[:, None] * GRID + line[None, :]).astype(np.int64)


_PIXEL_CELL = _of_pixels()  # (32, 32)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Means of 3 x 3 pixels, (N, 32, 32, 3), the edge repeated."""
    wide = np.pad(values, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    lines = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    return (lines[:, :, :-2] + lines[:, :, 1:-1] + lines[:, :, 2:]) / 9


def _reading(kinds: np.ndarray, colours: np.ndarray, wrong: np.ndarray, noise: float) -> Reading:
    unclear = tuple(sorted(set(_PIXEL_CELL[wrong].tolist())))
    if noise > NOISE:
        return Reading((), unclear, "noisy")
    blocks = tuple(
        Block(_KINDS[kind][0], _COLOURS[colour], _KINDS[kind][1], cell)
        for cell, (kind, colour) in enumerate(zip(kinds.tolist(), colours.tolist()))
        if kind >= 0 and cell not in unclear
    )
    return Reading(blocks, unclear, "" if blocks or unclear else "blank")
