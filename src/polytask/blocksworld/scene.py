"""Scenes: a few coloured shapes on a 3x3 grid, and the split that each scene belongs to.

A scene is a tuple of blocks in the order in which they are told; no two share a cell, nor colour and shape together, so
"the red circle" names one block. The split follows from the blocks alone, whatever their order: the same scene never
stands in two splits. Some pairs of colour and shape are held out: they stand in scenes of "compositional" only, and
every such scene holds one.
"""

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from polytask.errors import ConfigError
from polytask.registry import nearest

GRID = 3
CELLS = GRID * GRID
SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross")
COLOURS = ("red", "blue", "green", "yellow", "black", "white", "purple", "brown")
SIZES = ("small", "large")
SPLITS = ("train", "validation", "test", "compositional")
MOST = 5  # blocks in a scene

PAIRS = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
# One colour a shape, all different: each colour and each shape is still seen, only these six never together.
HELD_OUT = frozenset(zip(("red", "blue", "green", "yellow", "black", "purple"), SHAPES))
SEEN = tuple(pair for pair in PAIRS if pair not in HELD_OUT)

TENTHS = {8: "validation", 9: "test"}  # of ten parts; the others train
_WEIGHTS = (1, 12, 24, 24, 24)  # scenes of one block are few (756), so few are drawn
_MASK = (1 << 64) - 1
_SHAPE = {shape: i for i, shape in enumerate(SHAPES)}
_COLOUR = {colour: i for i, colour in enumerate(COLOURS)}


class Block(NamedTuple):
    """One shape; `cell` counts from 0 at the top left, in reading order."""

    size: str
    colour: str
    shape: str
    cell: int

    @property
    def column(self) -> int:
        return self.cell % GRID

    @property
    def row(self) -> int:
        return self.cell // GRID

    @property
    def pair(self) -> tuple[str, str]:
        return self.colour, self.shape


Scene = tuple[Block, ...]


def valid(scene: Scene) -> bool:
    """Whether no cell is taken twice and no pair of colour and shape stands twice."""
    return len({b.cell for b in scene}) == len({b.pair for b in scene}) == len(scene) > 0


def split_of(scene: Scene) -> str:
    """The one split the scene belongs to."""
    codes = []
    for size, colour, shape, cell in scene:
        if (colour, shape) in HELD_OUT:
            return "compositional"
        codes.append(((cell * 8 + _COLOUR[colour]) * 6 + _SHAPE[shape]) * 2 + (size == "large") + 1)
    codes.sort()
    number = 0
    for code in codes:
        number = number * 1000 + code
    # The finalizer of splitmix64 (Steele et al. 2014): neighbouring numbers fall into unrelated splits.
    number = (number * 0x9E3779B97F4A7C15) & _MASK
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
    return TENTHS.get((number ^ (number >> 31)) % 10, "train")


def check_objects(objects: Sequence[int]) -> tuple[int, int]:
    """(fewest, most) as a tuple. Raises ConfigError unless they are within what a scene can hold."""
    pair = tuple(objects) if isinstance(objects, Sequence) and not isinstance(objects, str) else ()
    if len(pair) != 2 or not all(isinstance(n, int) for n in pair) or not 1 <= pair[0] <= pair[1] <= MOST:
        raise ConfigError(
            f"Blocks world: objects={objects!r} must be (fewest, most), whole numbers within 1 to {MOST}."
        )
    return pair


def check_split(split: str) -> None:
    if split not in SPLITS:
        raise ConfigError(f"Blocks world: unknown split '{split}': {nearest(split, SPLITS)}")


def draw_scene(generator: Random, split: str, objects: tuple[int, int]) -> Scene:
    """A random scene of the split with a number of blocks within `objects`, ends included."""
    fewest, most = objects
    count = fewest
    if most > fewest:
        weights = _WEIGHTS[fewest - 1 : most]
        left = int(generator.random() * sum(weights))
        while left >= weights[count - fewest]:
            left -= weights[count - fewest]
            count += 1
    pairs = PAIRS if split == "compositional" else SEEN
    while True:
        scene = _decode(generator.getrandbits(96), count, pairs)
        if split_of(scene) == split:
            return scene


def _decode(number: int, count: int, pairs: tuple[tuple[str, str], ...]) -> Scene:
    """Blocks read off the digits of a random number: one call of the generator a scene keeps this fast."""
    cells, free, blocks = list(range(CELLS)), list(range(len(pairs))), []
    for _ in range(count):
        number, cell = divmod(number, len(cells))
        number, pair = divmod(number, len(free))
        number, size = divmod(number, 2)
        colour, shape = pairs[free.pop(pair)]
        blocks.append(Block(SIZES[size], colour, shape, cells.pop(cell)))
    return tuple(blocks)


def count_scenes(objects: tuple[int, int]) -> int:
    """How many scenes without held-out pairs there are: the sum over n of C(9, n) * 42!/(42-n)! * 2^n."""
    from math import comb, perm

    return sum(comb(CELLS, n) * perm(len(SEEN), n) * 2**n for n in range(objects[0], objects[1] + 1))
