"""Captions in other words: what a reader of captions learns from that sees no picture.

    a small red circle at the top left and a large blue star in the centre
    things; blue star: large, centre; red circle: small, top left

The first word says what is asked for. It stands nowhere in what is read, so that the reader has to be ready for all of
it: from each word of a block the others must be known. `grid` tells of all nine places, also of those that are empty;
`links` of a chained caption, both ways round.
"""

from random import Random
from typing import Any

from polytask.blocksworld.captions import BETWEEN, Caption, draw_chain, say
from polytask.blocksworld.language import PLACES
from polytask.blocksworld.scene import CELLS, Block, Scene

FORMS = ("places", "things", "sizes", "grid")
TURNED = {"left": "right", "right": "left", "above": "below", "below": "above"}


def restating(generator: Random, scene: Scene, split: str, most: int) -> dict[str, Any]:
    """A caption, placed or, half of the time where one of the split is found, chained, and what follows from it."""
    chained = draw_chain(generator, scene, split) if generator.random() < 0.5 else None
    said = _placed(generator, scene) if chained is None else _chained(generator, chained)
    return {"caption": say(chained or Caption(scene)), "said": said}


def _placed(generator: Random, scene: Scene) -> str:
    form = generator.choice(FORMS)
    if form == "grid":
        there = {block.cell: block for block in scene}
        names = [_name(there[cell]) if cell in there else "none" for cell in range(CELLS)]
        return f"{form}; " + "; ".join(f"{_place(cell)}: {name}" for cell, name in enumerate(names))
    told = []
    for size, colour, shape, cell in generator.sample(scene, len(scene)):
        if form == "places":
            told.append(f"{_place(cell)}: {size} {colour} {shape}")
        elif form == "things":
            told.append(f"{colour} {shape}: {size}, {_place(cell)}")
        else:
            told.append(f"{_place(cell)}, {shape}: {colour}, {size}")
    return f"{form}; " + "; ".join(told)


def _chained(generator: Random, caption: Caption) -> str:
    blocks, beside = caption.blocks, {block: list[str]() for block in caption.blocks}
    for relation, one, other in zip(caption.relations, blocks, blocks[1:]):
        beside[one].append(f"{BETWEEN[relation]} {' '.join(other.pair)}")
        beside[other].append(f"{BETWEEN[TURNED[relation]]} {' '.join(one.pair)}")
    told = [", ".join([f"{' '.join(block.pair)}: {block.size}", *beside[block]])
            for block in generator.sample(blocks, len(blocks))]  # fmt: skip
    return "links; " + "; ".join(told)


def _name(block: Block) -> str:
    return f"{block.shape} {block.colour} {block.size}"


def _place(cell: int) -> str:
    """ "top left", without the words that lead to it."""
    return PLACES["en"][cell].split(" ", 2)[2]
