"""Sentences about a scene in four languages, and reading a scene back from them.

A description is one of three templates over the same facts, and says all of the scene:

    see    I see a small red circle at the top left and a large blue star in the centre.
    show   The picture shows a small red circle at the top left and a large blue star in the centre.
    is     A small red circle is at the top left. A large blue star is in the centre.

A fact, such as "The red circle is above the blue star." or "There are two stars.", may follow; it adds nothing new.
"""

import re
from functools import cache
from typing import NamedTuple

from polytask.blocksworld.grammar import LANGUAGES, phrase, plural
from polytask.blocksworld.scene import COLOURS, PAIRS, SHAPES, SIZES, Block, Scene, valid
from polytask.errors import TaskError
from polytask.registry import nearest

TEMPLATES = ("see", "show", "is")
OPENERS = {
    "en": {"see": "I see", "show": "The picture shows", "now": "Now I see", "draw": "Draw"},
    "de": {"see": "Ich sehe", "show": "Das Bild zeigt"},
    "fr": {"see": "Je vois", "show": "L'image montre"},
    "es": {"see": "Veo", "show": "La imagen muestra"},
}
IS = {"en": "is", "de": "ist", "fr": "est", "es": "está"}
AND = {"en": "and", "de": "und", "fr": "et", "es": "y"}
THERE = {"en": "There are", "de": "Es gibt", "fr": "Il y a", "es": "Hay"}
NUMBERS = {
    "en": ("zero", "one", "two", "three", "four", "five"),
    "de": ("null", "eins", "zwei", "drei", "vier", "fünf"),
    "fr": ("zéro", "un", "deux", "trois", "quatre", "cinq"),
    "es": ("cero", "uno", "dos", "tres", "cuatro", "cinco"),
}
# By cell, in reading order.
PLACES = {
    "en": (
        "at the top left", "at the top", "at the top right",
        "on the left", "in the centre", "on the right",
        "at the bottom left", "at the bottom", "at the bottom right",
    ),
    "de": (
        "oben links", "oben", "oben rechts",
        "links", "in der Mitte", "rechts",
        "unten links", "unten", "unten rechts",
    ),
    "fr": (
        "en haut à gauche", "en haut", "en haut à droite",
        "à gauche", "au centre", "à droite",
        "en bas à gauche", "en bas", "en bas à droite",
    ),
    "es": (
        "arriba a la izquierda", "arriba", "arriba a la derecha",
        "a la izquierda", "en el centro", "a la derecha",
        "abajo a la izquierda", "abajo", "abajo a la derecha",
    ),
}  # fmt: skip
# relation -> (words before the other's noun phrase, the form of that phrase)
RELATIONS = {
    "en": {
        "left": ("to the left", "of"),
        "right": ("to the right", "of"),
        "above": ("above", "the"),
        "below": ("below", "the"),
    },
    "de": {
        "left": ("links", "of"),
        "right": ("rechts", "of"),
        "above": ("über", "dative"),
        "below": ("unter", "dative"),
    },
    "fr": {
        "left": ("à gauche", "of"),
        "right": ("à droite", "of"),
        "above": ("au-dessus", "of"),
        "below": ("en dessous", "of"),
    },
    "es": {
        "left": ("a la izquierda", "of"),
        "right": ("a la derecha", "of"),
        "above": ("encima", "of"),
        "below": ("debajo", "of"),
    },
}


class Related(NamedTuple):
    """One block stands "left", "right", "above" or "below" of another."""

    one: tuple[str, str]
    relation: str
    other: tuple[str, str]


class Counted(NamedTuple):
    """So many blocks are of that size, colour or shape; what is empty does not matter."""

    number: int
    size: str
    colour: str
    shape: str


Fact = Related | Counted


def check_language(lang: str) -> None:
    if lang not in LANGUAGES:
        raise TaskError(f"Blocks world: unknown language '{lang}': {nearest(lang, LANGUAGES)}")


def stands(relation: str, one: Block, other: Block) -> bool:
    """Whether `one` is left of, right of, above or below `other`: by columns or rows, at any distance."""
    if relation in ("left", "right"):
        return one.column < other.column if relation == "left" else one.column > other.column
    return one.row < other.row if relation == "above" else one.row > other.row


def number_of(scene: Scene, size: str, colour: str, shape: str) -> int:
    """How many blocks are of that size, colour and shape; what is empty does not matter."""
    return sum(size in ("", b.size) and colour in ("", b.colour) and shape in ("", b.shape) for b in scene)


def capitalized(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def listed(items: list[str], lang: str = "en") -> str:
    """ "a, b and c" in the language."""
    if len(items) == 1:
        return items[0]
    return f"{', '.join(items[:-1])} {AND[lang]} {items[-1]}"


def item(block: Block, lang: str = "en", form: str = "seen") -> str:
    """ "a small red circle at the top left"."""
    return f"{phrase(lang, form, *block[:3])} {PLACES[lang][block.cell]}"


def describe(scene: Scene, lang: str = "en", template: str = "see") -> str:
    """All of the scene in the language, blocks in their order."""
    if template == "is":
        places, verb = PLACES[lang], IS[lang]
        sentences = [f"{phrase(lang, 'subject', *b[:3])} {verb} {places[b.cell]}." for b in scene]
        return " ".join(capitalized(sentence) for sentence in sentences)
    return f"{OPENERS[lang][template]} {listed([item(b, lang) for b in scene], lang)}."


def tell(fact: Fact, lang: str = "en") -> str:
    """The fact as a sentence."""
    if isinstance(fact, Counted):
        what = plural(lang, fact.size, fact.colour, fact.shape or "shape")
        return f"{THERE[lang]} {NUMBERS[lang][fact.number]} {what}."
    words, form = RELATIONS[lang][fact.relation]
    one, other = phrase(lang, "the", "", *fact.one), phrase(lang, form, "", *fact.other)
    return capitalized(f"{one} {IS[lang]} {words} {other}.")


def holds(fact: Fact, scene: Scene) -> bool:
    if isinstance(fact, Counted):
        return number_of(scene, *fact[1:]) == fact.number
    blocks = {b.pair: b for b in scene}
    one, other = blocks.get(fact.one), blocks.get(fact.other)
    return one is not None and other is not None and stands(fact.relation, one, other)


def facts(scene: Scene) -> list[Fact]:
    """All that `tell` can say of a scene of two or more blocks."""
    found: list[Fact] = [
        Related(one.pair, relation, other.pair)
        for one in scene
        for other in scene
        if one is not other
        for relation in ("left", "right", "above", "below")
        if stands(relation, one, other)
    ]
    for place, words in enumerate((SIZES, COLOURS, SHAPES)):
        for word in words:
            number = sum(block[place] == word for block in scene)
            if number > 1:
                found.append(Counted(number, *(word if place == i else "" for i in range(3))))
    return found


def sentences(text: str) -> list[str]:
    """The sentences of a text, without their full stops, blanks made single."""
    text = " ".join(text.split())
    return [part for part in re.split(r"[.!?](?: |$)", text) if part]


def read(text: str, lang: str = "en") -> Scene:
    """The scene that a description says, blocks in their order. Facts that follow must hold.

    Raises TaskError where the text is not a description in that language, or contradicts itself.
    """
    check_language(lang)
    blocks: list[Block] = []
    said: list[Fact] = []
    for sentence in sentences(text):
        found = read_sentence(sentence, lang)
        fact = None if found else read_fact(sentence, lang)
        if not found and fact is None:
            raise TaskError(f"Blocks world: '{sentence}' describes nothing in the language '{lang}'.")
        blocks += found
        said += [fact] if fact else []
    scene = tuple(blocks)
    if not valid(scene):
        raise TaskError(f"Blocks world: '{text[:80]}' puts two blocks in one place, one in two, or none at all.")
    wrong = [fact for fact in said if not holds(fact, scene)]
    if wrong:
        raise TaskError(f"Blocks world: '{tell(wrong[0], lang)}' does not hold in what is described.")
    return scene


def read_sentence(sentence: str, lang: str) -> list[Block]:
    """The blocks that one sentence describes, without its full stop; none where it is not a description."""
    for opener in OPENERS[lang].values():
        if sentence.startswith(f"{opener} "):
            parts = re.split(f", | {AND[lang]} ", sentence[len(opener) + 1 :])
            found = [lookup(lang, "seen").get(part) for part in parts]
            return [b for b in found if b] if all(found) else []
    found = lookup(lang, "subject").get(sentence)
    return [found] if found else []


@cache
def lookup(lang: str, form: str) -> dict[str, Block]:
    """What stands in a list, or as a sentence of its own, for every block there can be."""
    table = {}
    for size in SIZES:
        for colour, shape in PAIRS:
            for cell, place in enumerate(PLACES[lang]):
                words = phrase(lang, form, size, colour, shape)
                told = f"{words} {place}" if form == "seen" else capitalized(f"{words} {IS[lang]} {place}")
                table[told] = Block(size, colour, shape, cell)
    return table


def read_fact(sentence: str, lang: str) -> Fact | None:
    return _facts(lang).get(sentence)


@cache
def _facts(lang: str) -> dict[str, Fact]:
    everything: list[Fact] = [
        Related(one, relation, other)
        for one in PAIRS
        for other in PAIRS
        if one != other
        for relation in ("left", "right", "above", "below")
    ]
    for number in range(2, 6):
        everything += [Counted(number, size, "", "") for size in SIZES]
        everything += [Counted(number, "", colour, "") for colour in COLOURS]
        everything += [Counted(number, "", "", shape) for shape in SHAPES]
    return {tell(fact, lang).removesuffix("."): fact for fact in everything}
