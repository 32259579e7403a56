"""Rows for every task from scenes: an index and a seed give the same row, always and on every machine.

Rows of different tasks with the same index, split, objects and seed tell of the same scene. A row says all of its
scene, so rows of different splits differ: no scene of one split, before or after events, stands in another. Scenes in
between, which no row describes, are of "train" in training rows, and may be of "train" in others too.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

from polytask.blocksworld.events import apply, draw_events, tell_event
from polytask.blocksworld.grammar import LANGUAGES
from polytask.blocksworld.language import OPENERS, PLACES, TEMPLATES, describe, facts, listed, tell
from polytask.blocksworld.program import Stroke, picture, prompt, tests, write
from polytask.blocksworld.questions import ask, draw_question
from polytask.blocksworld.render import check_size
from polytask.blocksworld.restating import restating
from polytask.blocksworld.scene import GRID, Block, Scene, check_objects, check_split, count_scenes, draw_scene
from polytask.blocksworld.views import MOST_TURNS, PIXELS, TURNS, VIEWS
from polytask.errors import ConfigError, TaskError
from polytask.registry import nearest

# What each mood is called. No word belongs to two moods.
MOODS = {
    "happy": ("glad", "cheerful", "merry", "joyful", "delighted", "jolly"),
    "sad": ("gloomy", "tearful", "unhappy", "sorrowful", "miserable", "downcast"),
    "angry": ("furious", "irate", "enraged", "annoyed", "mad", "outraged"),
    "calm": ("peaceful", "quiet", "relaxed", "serene", "restful", "placid"),
}
LABELS = tuple(MOODS)
BRIEF = "Answer briefly."
PAIRS_OF_LANGUAGES = tuple((a, b) for a in LANGUAGES for b in LANGUAGES if (a == "en") != (b == "en"))


def example(
    task: str,
    index: int,
    *,
    split: str = "train",
    objects: Sequence[int] = (1, 3),
    seed: int = 0,
    pixels: int | None = None,
    turns: int = 1,
) -> dict[str, Any]:
    """Row number `index` of the task. Scenes have a number of blocks within `objects`, ends included, before events.

    pixels: how large pictures are, of tasks that have some (32 a side unless said); it gives answering and
    classification a picture in place of a text. turns: so many rows in a row are of one picture, each another question
    about it or the next edit of what the last one made. Raises TaskError for an unknown task, ConfigError for a split,
    objects, index, size or number of turns that there is not.
    """
    if index < 0:
        raise ConfigError(f"Blocks world: index {index} is negative; rows count from 0.")
    pictured = pixels is not None or task not in TEXTS
    scene_number, turn = divmod(index, _check_turns(task, turns, pictured))
    make = check_view(task, pixels, turn) if pictured else check_task(task)
    check_split(split)
    fewest, most = check_objects(objects)
    name = f"{split}-{fewest}-{most}-{seed}-{scene_number}"
    scene = draw_scene(_generator(name), split, (fewest, most))
    row = make(_generator(f"{task}-{name}"), scene, split, most)
    return {"id": f"blocksworld-{task}-{name}{f'-{turn}' if turns > 1 else ''}", **row}


def examples(
    task: str,
    count: int,
    *,
    split: str = "train",
    start: int = 0,
    objects: Sequence[int] = (1, 3),
    seed: int = 0,
    pixels: int | None = None,
    turns: int = 1,
) -> Iterator[dict[str, Any]]:
    """Rows `start` to `start + count - 1` of the task."""
    dials: dict[str, Any] = {"split": split, "objects": objects, "seed": seed, "pixels": pixels, "turns": turns}
    return (example(task, i, **dials) for i in range(start, start + count))


def distinct(task: str, objects: Sequence[int] = (1, 5)) -> int:
    """How many distinct rows of the task there are at least in train, validation and test together.

    Every row says all of its scene, so there are as many as there are scenes; translation has six directions for each.
    """
    check_task(task)
    return count_scenes(check_objects(objects)) * (len(PAIRS_OF_LANGUAGES) if task == "translation" else 1)


def _check_turns(task: str, turns: int, pictured: bool) -> int:
    if not isinstance(turns, int) or not 1 <= turns <= MOST_TURNS:
        raise ConfigError(f"Blocks world: turns={turns!r} must be a whole number from 1 to {MOST_TURNS}.")
    if turns > 1 and not (pictured and task in TURNS):
        raise ConfigError(f"Blocks world: only {' and '.join(TURNS)} with pictures take turns; leave them out.")
    return turns


def check_view(task: str, pixels: int | None, turn: int = 0) -> Callable[[Random, Scene, str, int], dict[str, Any]]:
    """The function that makes rows with pictures. Raises TaskError with the nearest name, ConfigError for a size."""
    if task not in VIEWS:
        if task in TEXTS:
            raise ConfigError(f"Blocks world: task '{task}' takes no pixels; tasks with pictures: {', '.join(VIEWS)}.")
        raise TaskError(f"Blocks world has no task '{task}': {nearest(task, {*TEXTS, *VIEWS})}")
    check_size(size := PIXELS if pixels is None else pixels)
    more = {"turn": turn} if turn else {}
    return lambda generator, scene, split, most: VIEWS[task](generator, scene, split, most, size, **more)


def check_task(task: str) -> Callable[[Random, Scene, str, int], dict[str, Any]]:
    """The function that makes the task's rows. Raises TaskError with the nearest name."""
    if task not in TEXTS:
        raise TaskError(f"Blocks world has no task '{task}': {nearest(task, TEXTS)}")
    return TEXTS[task]


def _generator(name: str) -> Random:
    return Random(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little"))


def _among(generator: Random, options: Any) -> Any:
    return options[int(generator.random() * len(options))]


def _story(generator: Random, scene: Scene, split: str, most: int) -> tuple[str, str]:
    """(a description and what happens then, what there is in the end)"""
    events, after = draw_events(generator, scene, split, 1 + (generator.random() < 0.5), most)
    told = " ".join([describe(scene, "en", _among(generator, TEMPLATES)), *map(tell_event, events)])
    return told, describe(after, "en", "now")


def _text(generator: Random, scene: Scene, split: str, most: int) -> dict[str, Any]:
    return {"text": " ".join(_story(generator, scene, split, most))}


def _summarization(generator: Random, scene: Scene, split: str, most: int) -> dict[str, Any]:
    document, summary = _story(generator, scene, split, most)
    return {"document": document, "summary": summary}


def _translation(generator: Random, scene: Scene, split: str, most: int) -> dict[str, Any]:
    source, target = _among(generator, PAIRS_OF_LANGUAGES)
    template = _among(generator, TEMPLATES)
    said = facts(scene) if len(scene) > 1 and generator.random() < 0.5 else []
    fact = _among(generator, said) if said else None
    texts = [describe(scene, lang, template) + (f" {tell(fact, lang)}" if fact else "") for lang in (source, target)]
    return {"source": texts[0], "target": texts[1], "source_lang": source, "target_lang": target}


def _answering(generator: Random, scene: Scene, split: str, most: int) -> dict[str, Any]:
    question, answer = draw_question(generator, scene)
    context = describe(scene, "en", _among(generator, TEMPLATES))
    return {"context": context, "question": ask(question), "answers": [answer.short]}


def _chat(generator: Random, scene: Scene, split: str, most: int) -> dict[str, Any]:
    """Two to four questions, each with its answer; in some a greeting, a system prompt, events between them."""
    brief = generator.random() < 0.3
    turns = [("system", BRIEF)] if brief else []
    if generator.random() < 0.2:
        turns += [("user", "Hello!"), ("assistant", "Hello! What do you see?")]
    told, now, asked = describe(scene, "en", _among(generator, TEMPLATES)), scene, None
    for number in range(2 + int(generator.random() * 3)):
        if number:
            told = ""
            if generator.random() < 0.5:
                events, now = draw_events(generator, now, split, 1, most)
                told = " ".join(map(tell_event, events))
        question, answer = draw_question(generator, now)
        while question == asked:
            question, answer = draw_question(generator, now)
        asked = question
        turns.append(("user", f"{told} {ask(question)}".strip()))
        turns.append(("assistant", answer.short if brief else answer.full))
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def _code(generator: Random, scene: Scene, split: str, most: int) -> dict[str, Any]:
    strokes = [Stroke(*block) for block in scene]
    if generator.random() < 0.35:
        strokes = _with_line(strokes)
    return {"prompt": prompt(strokes), "solution": write(strokes), "tests": tests(picture(strokes))}


def _with_line(strokes: list[Stroke]) -> list[Stroke]:
    """The first block that can be drawn out to a whole row or column, is.

    Only from the left edge or the top edge: so the picture still tells which scene it comes from.
    """
    for i, stroke in enumerate(strokes):
        others = {other.cell for other in strokes if other is not stroke}
        row, column = divmod(stroke.cell, GRID)
        if column == 0 and not any(cell // GRID == row for cell in others):
            return [*strokes[:i], stroke._replace(line="row"), *strokes[i + 1 :]]
        if row == 0 and not any(cell % GRID == column for cell in others):
            return [*strokes[:i], stroke._replace(line="column"), *strokes[i + 1 :]]
    return strokes


def _classification(generator: Random, scene: Scene, split: str, most: int) -> dict[str, Any]:
    """What a block feels now counts; what it felt before is said before or behind it.

    Three moods stand in each text, so to know its words is not to know its label.
    """
    label = _among(generator, LABELS)
    first, second = generator.sample([mood for mood in LABELS if mood != label], 2)
    now, before = (
        _among(generator, MOODS[label]),
        f"{_among(generator, MOODS[first])}, then {_among(generator, MOODS[second])}",
    )
    block = _among(generator, scene)
    order = generator.random() < 0.5
    feeling = f"was {before}, and is now {now}" if order else f"is now {now} and was {before}"
    told = describe(scene, "en", _among(generator, TEMPLATES))
    return {"text": f"{told} The {block.colour} {block.shape} {feeling}.", "label": label, "labels": list(LABELS)}


def _infilling(generator: Random, scene: Scene, split: str, most: int) -> dict[str, Any]:
    """A story of an event with two parts masked, each of which follows from the rest.

    One stands in the end, which follows from what was before; the other in what was or in the event, and then of a
    block of which the end says all, or in the end too.
    """
    events, after = draw_events(generator, scene, split, 1, most)
    event = events[-1]
    start, end = [_parts(block) for block in scene], [_parts(block) for block in after]
    hidden = _among(generator, after)
    marks = [(end[after.index(hidden)], _among(generator, (0, 1, 2, 3)))]
    happens = " ".join(map(tell_event, events)).removesuffix(".").rsplit(" ", 1)
    others: list[tuple[list[str], int]] = [
        (start[i], part) for i, block in enumerate(scene) if block in after and block != hidden for part in range(4)
    ]
    touched = [block for block in scene if block.pair == event.pair]
    if len(events) == 1 and event.kind in ("move", "paint", "resize") and apply(event, tuple(touched)) != (hidden,):
        others += [(happens, 1)] * 4
    others += [(parts, part) for parts in end for part in range(4) if (parts, part) != marks[0]][:4]
    marks.append(_among(generator, others))
    order = [*start, happens, *end]
    marks.sort(key=lambda mark: (next(i for i, parts in enumerate(order) if parts is mark[0]), mark[1]))
    answers = []
    for number, (parts, part) in enumerate(marks, start=1):
        answers.append(parts[part])
        parts[part] = f"[{number}]"
    openers = OPENERS["en"]
    told = f"{openers[_among(generator, ('see', 'show'))]} {_items(start)}. {' '.join(happens)}."
    return {"masked": f"{told} {openers['now']} {_items(end)}.", "answers": answers}


def _parts(block: Block) -> list[str]:
    """What may be masked of a block: size, colour, shape, place."""
    return [block.size, block.colour, block.shape, PLACES["en"][block.cell]]


def _items(parts: list[list[str]]) -> str:
    return listed([f"a {' '.join(words)}" for words in parts])


TASKS: dict[str, Callable[[Random, Scene, str, int], dict[str, Any]]] = {
    "text": _text,
    "translation": _translation,
    "answering": _answering,
    "summarization": _summarization,
    "chat": _chat,
    "code": _code,
    "classification": _classification,
    "infilling": _infilling,
}
TEXTS = TASKS | {"restating": restating}
"""With those that are no built-in tasks but a recipe's own, for which it names a file."""
