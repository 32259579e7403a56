"""Captions: what a picture must show, in words that can be read back.

placed   a small red circle at the top left and a large blue star in the centre
chained  a small red circle left of a large blue star above a small green cross

A placed caption says all of a scene. A chained one leaves the places free but for its relations, which hold between
neighbours: the circle is left of the star, the star is above the cross. Alone, "a small red circle" may be anywhere.
"""

import re
from collections.abc import Sequence
from functools import cache
from hashlib import blake2b
from itertools import pairwise
from random import Random
from typing import NamedTuple

from polytask.blocksworld.grammar import phrase
from polytask.blocksworld.language import item, listed, lookup, stands
from polytask.blocksworld.language import read as read_description
from polytask.blocksworld.scene import COLOURS, HELD_OUT, MOST, SHAPES, SIZES, TENTHS, Block, Scene, valid
from polytask.errors import TaskError

ANYWHERE = -1  # the cell of a block whose place a caption leaves free
BETWEEN = {"left": "left of", "right": "right of", "above": "above", "below": "below"}
_BETWEEN = re.compile(rf" ({'|'.join(BETWEEN.values())}) ")
_RELATION = {words: relation for relation, words in BETWEEN.items()}
_LONGEST = 1000  # characters
_TRIES = 24  # to find a chained caption of the split; of the rarer splits is one in ten


class Caption(NamedTuple):
    """Blocks in the order of the words; in a chained one relations[i] holds between blocks[i] and blocks[i + 1]."""

    blocks: Scene
    relations: tuple[str, ...] = ()

    @property
    def placed(self) -> bool:
        return all(block.cell != ANYWHERE for block in self.blocks)


def say(caption: Caption) -> str:
    if caption.placed:
        return listed([item(block) for block in caption.blocks])
    names = [phrase("en", "seen", *block[:3]) for block in caption.blocks]
    return names[0] + "".join(f" {BETWEEN[r]} {name}" for r, name in zip(caption.relations, names[1:]))


def read_caption(text: str) -> Caption:
    """The caption that a text says, or the description of a scene ("I see ..."), full stop or none, in whatever case.

    Raises TaskError where it says none, or one thing twice.
    """
    words = " ".join(text[:_LONGEST].split())
    bare = words.removesuffix(".").casefold()
    found = _placed(bare) or _chained(bare) or Caption(read_description(words))
    if not 1 <= len(found.blocks) <= MOST or len({block.pair for block in found.blocks}) < len(found.blocks):
        raise TaskError(f"Blocks world: '{words[:80]}' names one block twice, or more than {MOST}.")
    if found.placed and not valid(found.blocks):
        raise TaskError(f"Blocks world: '{words[:80]}' puts two blocks in one place.")
    return found


def _placed(words: str) -> Caption | None:
    blocks = [lookup("en", "seen").get(part) for part in re.split(r", and |, | and ", words)]
    return Caption(tuple(block for block in blocks if block)) if all(blocks) else None


def _chained(words: str) -> Caption | None:
    names, between = _BETWEEN.split(words)[::2], _BETWEEN.split(words)[1::2]
    blocks = [_names().get(name) for name in names]
    if not all(blocks):
        return None
    return Caption(tuple(block for block in blocks if block), tuple(_RELATION[word] for word in between))


@cache
def _names() -> dict[str, Block]:
    every = (Block(size, colour, shape, ANYWHERE) for size in SIZES for colour in COLOURS for shape in SHAPES)
    return {phrase("en", "seen", *block[:3]): block for block in every}


def fits(caption: Caption, scene: Scene) -> bool:
    """Whether the scene shows what the caption says, and nothing else."""
    there = {block.pair: block for block in scene}
    if len(scene) != len(caption.blocks) or len(there) != len(scene):
        return False
    for said in caption.blocks:
        block = there.get(said.pair)
        if block is None or block.size != said.size or said.cell not in (ANYWHERE, block.cell):
            return False
    return all(held(caption, [there[said.pair] for said in caption.blocks]))


def held(caption: Caption, blocks: Sequence[Block | None]) -> list[bool]:
    """Whether each of the caption's relations holds between the blocks that stand for its own, None for one missing."""
    pairs = zip(caption.relations, blocks, blocks[1:])
    return [bool(one and other and stands(relation, one, other)) for relation, one, other in pairs]


def relations(caption: Caption) -> set[tuple[str, Block, Block]]:
    """What a chained caption says of places, in one way of the two: "b right of a" as "a left of b"."""
    said = set()
    for relation, one, other in zip(caption.relations, caption.blocks, caption.blocks[1:]):
        turned = relation in ("right", "below")
        relation = {"right": "left", "below": "above"}.get(relation, relation)
        said.add((relation, *((other, one) if turned else (one, other))))
    return said


def full(scene: Scene) -> Caption:
    """The caption that says all of the scene, blocks in reading order."""
    return Caption(tuple(sorted(scene, key=lambda block: block.cell)))


def draw_chain(generator: Random, scene: Scene, split: str) -> Caption | None:
    """A random chained caption of the scene that belongs to the split, or None where none was found.

    A chained caption fits many scenes, of several splits, so it has a split of its own: rows of different splits
    never have the same words.
    """
    for _ in range(_TRIES):
        order = generator.sample(scene, len(scene))
        chosen = []
        for one, other in pairwise(order):
            true = [relation for relation in BETWEEN if stands(relation, one, other)]
            chosen.append(true[int(generator.random() * len(true))])
        caption = Caption(tuple(block._replace(cell=ANYWHERE) for block in order), tuple(chosen))
        if split_of_chain(caption) == split:
            return caption
    return None


def split_of_chain(caption: Caption) -> str:
    """By its blocks and relations, whatever their order: "a left of b" is "b right of a"."""
    if any(block.pair in HELD_OUT for block in caption.blocks):
        return "compositional"
    said = sorted(caption.blocks), sorted(relations(caption))
    digest = blake2b(repr([[tuple(part) for part in parts] for parts in said]).encode(), digest_size=8).digest()
    return TENTHS.get(int.from_bytes(digest, "little") % 10, "train")
