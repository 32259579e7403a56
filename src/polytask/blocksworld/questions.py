"""Questions about a scene: their English words, their right answers, and reading a question back from its words."""

from collections.abc import Sequence
from functools import cache
from random import Random
from typing import Any, NamedTuple

from polytask.blocksworld.grammar import phrase, plural
from polytask.blocksworld.language import NUMBERS, PLACES, RELATIONS, capitalized, number_of, stands
from polytask.blocksworld.scene import CELLS, COLOURS, PAIRS, SEEN, SHAPES, SIZES, Block, Scene
from polytask.errors import TaskError


class Answer(NamedTuple):
    """`short`: a word or a phrase ("red"); `full`: a sentence ("The circle is red.")."""

    short: str
    full: str


class Question(NamedTuple):
    """`about`: what the kind asks about.

    kind     about              words
    colour   (shape,)           What colour is the circle?
    shape    (colour,)          Which shape is red?
    size     (colour, shape)    Is the red circle small or large?
    where    (colour, shape)    Where is the red circle?
    at       (cell,)            What is at the top left?
    count    (size, colour, shape), all but one empty    How many circles are there?
    exists   (colour, shape)    Is there a red circle?
    beside   (relation, pair)   What is to the left of the red circle?
    related  (pair, relation, pair)   Is the red circle above the blue star?
    """

    kind: str
    about: tuple[Any, ...]


def ask(question: Question) -> str:
    """The question in words."""
    kind, about = question
    match kind:
        case "colour":
            return f"What colour is the {about[0]}?"
        case "shape":
            return f"Which shape is {about[0]}?"
        case "size":
            return f"Is {_the(about)} small or large?"
        case "where":
            return f"Where is {_the(about)}?"
        case "at":
            return f"What is {PLACES['en'][about[0]]}?"
        case "count":
            return f"How many {_kinds(about)} are there?"
        case "exists":
            return f"Is there a {about[0]} {about[1]}?"
        case "beside":
            return f"What is {_relation(*about)}?"
    return f"Is {_the(about[0])} {_relation(*about[1:])}?"


def answer(question: Question, scene: Scene) -> Answer | None:
    """The one right answer, or None where the question has none in this scene."""
    return _ANSWERS[question.kind](question.about, scene)


def _colour(about: tuple[str], scene: Scene) -> Answer | None:
    found = [block.colour for block in scene if block.shape == about[0]]
    return Answer(found[0], f"The {about[0]} is {found[0]}.") if len(found) == 1 else None


def _shape(about: tuple[str], scene: Scene) -> Answer | None:
    found = [block.shape for block in scene if block.colour == about[0]]
    return Answer(found[0], f"The {about[0]} shape is a {found[0]}.") if len(found) == 1 else None


def _size(about: tuple[str, str], scene: Scene) -> Answer | None:
    block = _find(about, scene)
    return Answer(block.size, f"{capitalized(_the(about))} is {block.size}.") if block else None


def _where(about: tuple[str, str], scene: Scene) -> Answer | None:
    block = _find(about, scene)
    if block is None:
        return None
    place = PLACES["en"][block.cell]
    return Answer(place, f"{capitalized(_the(about))} is {place}.")


def _at(about: tuple[int], scene: Scene) -> Answer:
    what = next((phrase("en", "subject", *block[:3]) for block in scene if block.cell == about[0]), "nothing")
    return Answer(what, f"{capitalized(what)} is {PLACES['en'][about[0]]}.")


def _count(about: tuple[str, str, str], scene: Scene) -> Answer:
    number = number_of(scene, *about)
    short, size, colour, shape = NUMBERS["en"][number], *about
    if number == 1:
        one = phrase("en", "subject", size, colour, shape or "shape").removeprefix("a ")
        return Answer(short, f"There is one {one}.")
    return Answer(short, f"There are {short if number else 'no'} {_kinds(about)}.")


def _exists(about: tuple[str, str], scene: Scene) -> Answer:
    name = " ".join(about)
    if _find(about, scene):
        return Answer("yes", f"Yes, there is a {name}.")
    return Answer("no", f"No, there is no {name}.")


def _beside(about: tuple[str, tuple[str, str]], scene: Scene) -> Answer | None:
    relation, pair = about
    other = _find(pair, scene)
    found = [block for block in scene if other and stands(relation, block, other)]
    if len(found) != 1:
        return None
    what = _the(found[0].pair)
    return Answer(what, f"{capitalized(what)} is {_relation(relation, pair)}.")


def _related(about: tuple[tuple[str, str], str, tuple[str, str]], scene: Scene) -> Answer | None:
    one, other = _find(about[0], scene), _find(about[2], scene)
    if one is None or other is None:
        return None
    return Answer("yes", "Yes, it is.") if stands(about[1], one, other) else Answer("no", "No, it is not.")


_ANSWERS = {
    "colour": _colour,
    "shape": _shape,
    "size": _size,
    "where": _where,
    "at": _at,
    "count": _count,
    "exists": _exists,
    "beside": _beside,
    "related": _related,
}


def _find(pair: tuple[str, str], scene: Scene) -> Block | None:
    return next((block for block in scene if block.pair == pair), None)


def _the(pair: tuple[str, str]) -> str:
    return f"the {pair[0]} {pair[1]}"


def _kinds(about: tuple[str, str, str]) -> str:
    size, colour, shape = about
    return plural("en", size, colour, shape or "shape")


def _relation(relation: str, pair: tuple[str, str]) -> str:
    words, form = RELATIONS["en"][relation]
    return f"{words} {phrase('en', form, '', *pair)}"


def read_question(text: str) -> Question:
    """The question that these words ask. Raises TaskError where they ask none."""
    found = _table().get(" ".join(text.split()))
    if found is None:
        raise TaskError(f"Blocks world: '{text}' is no question, such as 'What colour is the circle?'.")
    return found


@cache
def _table() -> dict[str, Question]:
    relations = tuple(RELATIONS["en"])
    every = [Question("colour", (shape,)) for shape in SHAPES]
    every += [Question("shape", (colour,)) for colour in COLOURS]
    every += [Question(kind, pair) for kind in ("size", "where", "exists") for pair in PAIRS]
    every += [Question("at", (cell,)) for cell in range(CELLS)]
    every += [Question("count", _only(word)) for word in (*SIZES, *COLOURS, *SHAPES)]
    every += [Question("beside", (relation, pair)) for relation in relations for pair in PAIRS]
    every += [Question("related", (a, r, b)) for a in PAIRS for r in relations for b in PAIRS if a != b]
    return {ask(question): question for question in every}


def _only(word: str) -> tuple[str, str, str]:
    """What a count is about, from the one word that it counts."""
    return tuple(word if word in words else "" for words in (SIZES, COLOURS, SHAPES))  # type: ignore[return-value]


# How often each kind is drawn, of 100. What has few answers is drawn less: guessing must not pay.
_KINDS = (
    *["colour"] * 14,
    *["shape"] * 8,
    *["size"] * 5,
    *["where"] * 26,
    *["at"] * 26,
    *["count"] * 8,
    *["exists"] * 4,
    *["beside"] * 5,
    *["related"] * 4,
)


def draw_question(generator: Random, scene: Scene) -> tuple[Question, Answer]:
    """A random question that has an answer in this scene, with that answer."""
    while True:
        question = _draw(_among(generator, _KINDS), generator, scene)
        found = answer(question, scene) if question else None
        if question and found:
            return question, found


def _among(generator: Random, options: Sequence[Any]) -> Any:
    return options[int(generator.random() * len(options))]


def _draw(kind: str, generator: Random, scene: Scene) -> Question | None:
    block = _among(generator, scene)
    relation = _among(generator, ("left", "right", "above", "below"))
    match kind:
        case "colour":
            return Question(kind, (block.shape,))
        case "shape":
            return Question(kind, (block.colour,))
        case "size" | "where":
            return Question(kind, block.pair)
        case "at":
            empty = generator.random() < 0.15
            return Question(kind, (int(generator.random() * CELLS) if empty else block.cell,))
        case "count":
            words = _among(generator, (SIZES, COLOURS, SHAPES, block[:3]))
            return Question(kind, _only(_among(generator, words)))
        case "exists":
            return Question(kind, block.pair if generator.random() < 0.5 else _absent(generator, scene))
        case "beside":
            return Question(kind, (relation, block.pair))
    other = _among(generator, scene)
    return Question(kind, (block.pair, relation, other.pair)) if other is not block else None


def _absent(generator: Random, scene: Scene) -> tuple[str, str]:
    """A pair that is not there: where it can be, one block's colour with the shape of another."""
    pair = (_among(generator, scene).colour, _among(generator, scene).shape)
    return pair if pair in SEEN else _among(generator, SEEN)
