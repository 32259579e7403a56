"""Small events that change a scene, as values, as English sentences, and read back from them.

move    The red circle moves right.          one cell, onto a free one
paint   The red circle turns blue.
resize  The red circle grows. / shrinks.
remove  The red circle vanishes.             never the last block
add     A small green cross appears at the bottom.
"""

from random import Random
from typing import Literal, NamedTuple

from polytask.blocksworld.grammar import phrase
from polytask.blocksworld.language import PLACES, capitalized, lookup, sentences
from polytask.blocksworld.scene import (
    CELLS,
    COLOURS,
    GRID,
    MOST,
    PAIRS,
    SEEN,
    SHAPES,
    SIZES,
    SPLITS,
    Block,
    Scene,
    split_of,
    valid,
)
from polytask.errors import TaskError

DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


class Event(NamedTuple):
    """`pair` names the block before the event; `to` is a direction, a colour, a size; `block` is the one added."""

    kind: Literal["move", "paint", "resize", "remove", "add"]
    pair: tuple[str, str] = ("", "")
    to: str = ""
    block: Block | None = None


def apply(event: Event, scene: Scene) -> Scene | None:
    """The scene after the event, or None where it cannot happen."""
    if event.kind == "add":
        after = (*scene, event.block) if event.block else scene
        return after if event.block and len(after) <= MOST and valid(after) else None
    place = next((i for i, block in enumerate(scene) if block.pair == event.pair), None)
    if place is None:
        return None
    changed = _changed(event, scene[place])
    if changed == scene[place]:
        return None
    after = scene[:place] + (() if changed is None else (changed,)) + scene[place + 1 :]
    return after if valid(after) else None


def _changed(event: Event, block: Block) -> Block | None:
    """The block after the event; the same where nothing can happen to it, None where it is gone."""
    if event.kind == "remove":
        return None
    if event.kind == "paint":
        return block._replace(colour=event.to)
    if event.kind == "resize":
        return block._replace(size=event.to)
    right, down = DIRECTIONS[event.to]
    column, row = block.column + right, block.row + down
    inside = 0 <= column < GRID and 0 <= row < GRID
    return block._replace(cell=row * GRID + column) if inside else block


def tell_event(event: Event) -> str:
    if event.kind == "add" and event.block:
        block = event.block
        return capitalized(f"{phrase('en', 'subject', *block[:3])} appears {PLACES['en'][block.cell]}.")
    verb = {
        "move": f"moves {event.to}",
        "paint": f"turns {event.to}",
        "resize": "grows" if event.to == "large" else "shrinks",
        "remove": "vanishes",
    }[event.kind]
    return f"The {event.pair[0]} {event.pair[1]} {verb}."


def read_event(sentence: str) -> Event:
    """The event that a sentence tells, with or without its full stop. Raises TaskError where it tells none."""
    words = " ".join(sentences(sentence)).split()
    verb = words[3] if len(words) > 3 else ""
    if len(words) in (4, 5) and words[0] == "The" and (words[1], words[2]) in PAIRS:
        pair, to = (words[1], words[2]), words[4] if len(words) == 5 else ""
        if verb == "moves" and to in DIRECTIONS:
            return Event("move", pair, to)
        if verb == "turns" and to in COLOURS:
            return Event("paint", pair, to)
        if verb in ("grows", "shrinks") and not to:
            return Event("resize", pair, "large" if verb == "grows" else "small")
        if verb == "vanishes" and not to:
            return Event("remove", pair)
    place = " ".join(words[5:])
    if words[:1] == ["A"] and words[4:5] == ["appears"] and place in PLACES["en"]:
        size, colour, shape = words[1:4]
        if size in SIZES and colour in COLOURS and shape in SHAPES:
            return Event("add", block=Block(size, colour, shape, PLACES["en"].index(place)))
    raise TaskError(f"Blocks world: '{sentence}' tells no event, such as 'The red circle moves right.'.")


def instruct(event: Event, scene: Scene, short: bool = False) -> str:
    """ "make the red circle blue": the event as a request. `short`: a block goes by its shape where no other has it."""
    if event.kind == "add" and event.block:
        return f"add {phrase('en', 'seen', *event.block[:3])} {PLACES['en'][event.block.cell]}"
    colour, shape = event.pair
    alone = sum(block.shape == shape for block in scene) == 1
    name = f"the {shape}" if short and alone else f"the {colour} {shape}"
    if event.kind == "remove":
        return f"remove {name}"
    return f"move {name} {event.to}" if event.kind == "move" else f"make {name} {event.to}"


def read_instruction(text: str, scene: Scene) -> list[Event]:
    """The events that a request asks for in the scene, one after the other. Raises TaskError where it asks none."""
    events, now = [], scene
    for part in " ".join(text.split()).removesuffix(".").casefold().split(", then "):
        event = _read_request(part, now)
        after = apply(event, now) if event else None
        if event is None or after is None:
            raise TaskError(
                f"Blocks world: '{part}' asks for nothing that can be done, as 'make the circle blue' does."
            )
        events.append(event)
        now = after
    return events


def _read_request(text: str, scene: Scene) -> Event | None:
    """By comparison with all that can be asked of this scene."""
    if text.startswith("add "):
        block = lookup("en", "seen").get(text.removeprefix("add "))
        return Event("add", block=block) if block else None
    every: list[Event] = []
    for block in scene:
        every += [Event("move", block.pair, to) for to in DIRECTIONS]
        every += [Event("paint", block.pair, to) for to in COLOURS]
        every += [Event("resize", block.pair, to) for to in SIZES]
        every.append(Event("remove", block.pair))
    return next((e for e in every if text in (instruct(e, scene), instruct(e, scene, short=True))), None)


def draw_events(generator: Random, scene: Scene, split: str, count: int, most: int) -> tuple[list[Event], Scene]:
    """Random events and the scene after them, another one of the same split with at most `most` blocks.

    There are `count` events, or more where no so short way leads to a scene of the split. Scenes in between
    hold no held-out pairs but in "compositional", and are of "train" in training.
    """
    pairs = PAIRS if split == "compositional" else SEEN
    allowed = {"train": ("train",), "compositional": SPLITS}.get(split, SPLITS[:3])
    tries = 0
    while True:
        events, now = [], scene
        while len(events) < count + tries // PATIENCE:
            event = _draw(generator, now, pairs, most)
            after = apply(event, now)
            if after is None:
                continue
            events.append(event)
            now = after
            if split_of(now) not in allowed:
                break
        if split_of(now) == split and set(now) != set(scene):
            return events, now
        tries += 1


PATIENCE = 40  # a scene has some 30 neighbours, of which one in ten is of the split, for the rarer ones
_KINDS = ("move", "move", "move", "paint", "paint", "resize", "remove", "add")


def _draw(generator: Random, scene: Scene, pairs: tuple[tuple[str, str], ...], most: int) -> Event:
    def among(options):
        return options[int(generator.random() * len(options))]

    kind = among(_KINDS)
    if kind == "add" and len(scene) < most:
        return Event("add", block=Block(among(SIZES), *among(pairs), int(generator.random() * CELLS)))
    if kind == "remove" and len(scene) > 1:
        return Event("remove", among(scene).pair)
    block = among(scene)
    if kind == "resize":
        return Event("resize", block.pair, "small" if block.size == "large" else "large")
    if kind == "paint":
        return Event("paint", block.pair, among(COLOURS))
    return Event("move", block.pair, among(tuple(DIRECTIONS)))
