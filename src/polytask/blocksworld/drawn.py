"""Is a picture right, or what is said of one? Both sides are pictures, which are read by rule, or captions.

drawing      a picture against a caption
captioning   a caption against a picture, or against a caption that says all of it
editing      a picture against a picture
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from polytask.blocksworld.captions import Caption, held, read_caption, relations
from polytask.blocksworld.read import read
from polytask.blocksworld.scene import Block, Scene
from polytask.errors import TaskError

if TYPE_CHECKING:
    from PIL.Image import Image

SCORES = ("right", "objects", "colour", "shape", "size", "place")


def compare(answer: "Image | str", wanted: "Image | str") -> dict[str, float]:
    """SCORES of an answer, each from 0 to 1.

    right      exactly what is wanted: all the others are 1
    objects    as many as are wanted
    colour, shape, size, place   the share of objects that have the right one, of as many as are wanted or shown,
               whichever is more; place is the share of relations that hold where a caption gives no places

    Raises TaskError where `wanted` is no picture of a scene or no caption. An answer that is none is wrong in all.
    """
    if isinstance(wanted, str):
        caption = read_caption(wanted)
    else:
        scene = read(wanted).scene
        if not scene:
            raise TaskError("Blocks world: the picture that an answer is compared with shows no scene clearly.")
        caption = Caption(scene)
    shown, unclear = _shown(answer)
    return _scores(shown, unclear, caption)


def right(answer: "Image | str", wanted: "Image | str") -> bool:
    """Whether the answer is fully right."""
    return compare(answer, wanted)["right"] == 1


def judge_picture(picture: "Image", scene: Scene) -> bool:
    """Whether the picture shows exactly this scene."""
    return _scores(*_shown(picture), Caption(scene))["right"] == 1


def _shown(answer: "Image | str") -> tuple[Caption, int]:
    """What the answer shows or says, and how many things in it are unclear."""
    if isinstance(answer, str):
        try:
            return read_caption(answer), 0
        except TaskError:
            return Caption(()), 0
    reading = read(answer)
    return Caption(reading.blocks), len(reading.unclear)


def _scores(shown: Caption, unclear: int, caption: Caption) -> dict[str, float]:
    wanted, most = caption.blocks, max(len(caption.blocks), len(shown.blocks) + unclear)
    partners = _matched(wanted, shown.blocks)
    pairs = [(one, other) for one, other in zip(wanted, partners) if other is not None]
    scores = {"objects": float(len(wanted) == len(shown.blocks) + unclear)}
    for name in ("colour", "shape", "size"):
        scores[name] = sum(getattr(one, name) == getattr(other, name) for one, other in pairs) / most
    if caption.placed:
        scores["place"] = sum(one.cell == other.cell for one, other in pairs) / most
    elif caption.relations:
        said = relations(shown)
        hold = [relation in said for relation in relations(caption)] if said else held(caption, partners)
        scores["place"] = sum(hold) / len(hold)
    else:
        scores["place"] = float(bool(pairs))
    return {"right": float(all(score == 1 for score in scores.values()))} | scores


def _matched(wanted: Sequence[Block], shown: Sequence[Block]) -> list[Block | None]:
    """The block that stands for each wanted one, so that most of colour, shape, size and place agree; None: missing."""
    # best[taken]: (agreements, partners) with the wanted blocks whose bits are in `taken` matched so far
    best: dict[int, tuple[int, dict[int, Block]]] = {0: (0, {})}
    for block in shown:
        for taken, (agreed, partners) in list(best.items()):
            for i, other in enumerate(wanted):
                if taken >> i & 1:
                    continue
                found = agreed + 1 + sum(a == b for a, b in zip(block, other))  # a match at all is worth one
                if found > best.get(taken | 1 << i, (0, {}))[0]:
                    best[taken | 1 << i] = found, {**partners, i: block}
    _, partners = max(best.values(), key=lambda one: one[0])
    return [partners.get(i) for i in range(len(wanted))]
