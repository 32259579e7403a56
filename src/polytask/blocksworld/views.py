"""Rows with pictures: drawing, captioning, editing, questions about a picture, and which pair a picture shows.

A picture tells all of its scene, so rows of different splits never share one, before or after an edit. Captions of
drawing are placed or, where one of the split is found, chained half of the time; see `captions`.
"""

from collections.abc import Callable
from random import Random
from typing import Any

from polytask.blocksworld.captions import Caption, draw_chain, full, say
from polytask.blocksworld.events import apply, draw_events, instruct
from polytask.blocksworld.questions import ask, draw_question
from polytask.blocksworld.render import png
from polytask.blocksworld.scene import PAIRS, SEEN, Scene

PIXELS = 32  # a side, where nobody says another number
LABELS = 8  # that a picture is classified among
MOST_TURNS = 8  # every scene has so many different questions

View = Callable[..., dict[str, Any]]


def _drawing(generator: Random, scene: Scene, split: str, most: int, pixels: int) -> dict[str, Any]:
    chained = draw_chain(generator, scene, split) if generator.random() < 0.5 else None
    return {"caption": say(chained or Caption(scene)), "image": png(scene, pixels), "judge": "blocksworld"}


def _captioning(generator: Random, scene: Scene, split: str, most: int, pixels: int) -> dict[str, Any]:
    return {"image": png(scene, pixels), "caption": say(full(scene)), "judge": "blocksworld"}


def _editing(generator: Random, scene: Scene, split: str, most: int, pixels: int, turn: int = 0) -> dict[str, Any]:
    events, after = draw_events(generator, scene, split, 1, most)
    if turn:
        return _editing(generator, after, split, most, pixels, turn - 1)
    told, now = [], scene
    for event in events:
        told.append(instruct(event, now, short=generator.random() < 0.5))
        now = apply(event, now) or now
    return {
        "image": png(scene, pixels),
        "instruction": ", then ".join(told),
        "edited": png(after, pixels),
        "judge": "blocksworld",
    }


def _answering(generator: Random, scene: Scene, split: str, most: int, pixels: int, turn: int = 0) -> dict[str, Any]:
    asked = [draw_question(generator, scene)]
    while len(asked) <= turn:
        one = draw_question(generator, scene)
        asked += [] if one in asked else [one]
    question, answer = asked[-1]
    return {"image": png(scene, pixels), "question": ask(question), "answers": [answer.short]}


def _classification(generator: Random, scene: Scene, split: str, most: int, pixels: int) -> dict[str, Any]:
    """One of the labels, "red circle", is of a block that is there; the others are not."""
    shown = {block.pair for block in scene}
    pairs = PAIRS if split == "compositional" else SEEN
    label = generator.choice(scene).pair
    labels = [label, *generator.sample([pair for pair in pairs if pair not in shown], LABELS - 1)]
    generator.shuffle(labels)
    return {"image": png(scene, pixels), "label": " ".join(label), "labels": [" ".join(pair) for pair in labels]}


VIEWS: dict[str, View] = {
    "drawing": _drawing,
    "captioning": _captioning,
    "editing": _editing,
    "answering": _answering,
    "classification": _classification,
}
"""Tasks with pictures; a row of those that are in `generate.TASKS` too has a picture where `pixels` says how large."""
TURNS = ("answering", "editing")
"""Those of which several rows may be of one picture: each has its `turn`, from 0 on."""
