"""Agreement against sentences written by hand, and reading back what was written."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.blocksworld.grammar import FORMS, LANGUAGES, phrase, plural
from polytask.blocksworld.language import (
    PLACES,
    RELATIONS,
    TEMPLATES,
    Counted,
    Related,
    describe,
    facts,
    holds,
    read,
    tell,
)
from polytask.blocksworld.scene import GRID, PAIRS, SIZES, Block
from polytask.errors import TaskError
from tests.blocksworld.scenes import scenes

CIRCLE, STAR, CROSS = ("red", "circle"), ("white", "star"), ("black", "cross")
DIAMOND, SQUARE = ("blue", "diamond"), ("brown", "square")
SCENE = (
    Block("small", *CIRCLE, 0),
    Block("large", *STAR, 4),
    Block("small", *DIAMOND, 5),
    Block("large", *SQUARE, 7),
)

DESCRIPTIONS = {
    ("en", "see"): "I see a small red circle at the top left, a large white star in the centre, a small blue diamond "
    "on the right and a large brown square at the bottom.",
    ("de", "see"): "Ich sehe einen kleinen roten Kreis oben links, einen großen weißen Stern in der Mitte, eine kleine "
    "blaue Raute rechts und ein großes braunes Quadrat unten.",
    ("fr", "see"): "Je vois un petit cercle rouge en haut à gauche, une grande étoile blanche au centre, un petit "
    "losange bleu à droite et un grand carré marron en bas.",
    ("es", "see"): "Veo un círculo rojo pequeño arriba a la izquierda, una estrella blanca grande en el centro, un "
    "rombo azul pequeño a la derecha y un cuadrado marrón grande abajo.",
    ("de", "show"): "Das Bild zeigt einen kleinen roten Kreis oben links, einen großen weißen Stern in der Mitte, eine "
    "kleine blaue Raute rechts und ein großes braunes Quadrat unten.",
    ("en", "is"): "A small red circle is at the top left. A large white star is in the centre. A small blue diamond is "
    "on the right. A large brown square is at the bottom.",
    ("de", "is"): "Ein kleiner roter Kreis ist oben links. Ein großer weißer Stern ist in der Mitte. Eine kleine blaue "
    "Raute ist rechts. Ein großes braunes Quadrat ist unten.",
    ("fr", "is"): "Un petit cercle rouge est en haut à gauche. Une grande étoile blanche est au centre. Un petit "
    "losange bleu est à droite. Un grand carré marron est en bas.",
    ("es", "is"): "Un círculo rojo pequeño está arriba a la izquierda. Una estrella blanca grande está en el centro. "
    "Un rombo azul pequeño está a la derecha. Un cuadrado marrón grande está abajo.",
}


@pytest.mark.parametrize(("lang", "template"), DESCRIPTIONS)
def test_descriptions_agree_in_gender_and_case(lang, template):
    assert describe(SCENE, lang, template) == DESCRIPTIONS[lang, template]


RELATED = [
    (Related(CIRCLE, "left", STAR), "en", "The red circle is to the left of the white star."),
    (Related(CIRCLE, "left", STAR), "de", "Der rote Kreis ist links vom weißen Stern."),
    (Related(CIRCLE, "left", STAR), "fr", "Le cercle rouge est à gauche de l'étoile blanche."),
    (Related(CIRCLE, "left", STAR), "es", "El círculo rojo está a la izquierda de la estrella blanca."),
    (Related(STAR, "right", DIAMOND), "de", "Der weiße Stern ist rechts von der blauen Raute."),
    (Related(STAR, "right", DIAMOND), "fr", "L'étoile blanche est à droite du losange bleu."),
    (Related(STAR, "right", DIAMOND), "es", "La estrella blanca está a la derecha del rombo azul."),
    (Related(DIAMOND, "above", SQUARE), "en", "The blue diamond is above the brown square."),
    (Related(DIAMOND, "above", SQUARE), "de", "Die blaue Raute ist über dem braunen Quadrat."),
    (Related(SQUARE, "below", DIAMOND), "de", "Das braune Quadrat ist unter der blauen Raute."),
    (Related(SQUARE, "above", CROSS), "fr", "Le carré marron est au-dessus de la croix noire."),
    (Related(SQUARE, "above", CROSS), "es", "El cuadrado marrón está encima de la cruz negra."),
    (Related(CROSS, "below", CIRCLE), "fr", "La croix noire est en dessous du cercle rouge."),
    (Related(CROSS, "below", CIRCLE), "es", "La cruz negra está debajo del círculo rojo."),
    (Related(CROSS, "below", CIRCLE), "de", "Das schwarze Kreuz ist unter dem roten Kreis."),
    (Counted(2, "", "", "circle"), "en", "There are two circles."),
    (Counted(2, "", "", "cross"), "en", "There are two crosses."),
    (Counted(3, "", "", "diamond"), "de", "Es gibt drei Rauten."),
    (Counted(2, "", "white", ""), "de", "Es gibt zwei weiße Formen."),
    (Counted(2, "", "white", ""), "fr", "Il y a deux formes blanches."),
    (Counted(4, "large", "", ""), "fr", "Il y a quatre grandes formes."),
    (Counted(2, "", "brown", ""), "fr", "Il y a deux formes marron."),
    (Counted(2, "", "brown", ""), "es", "Hay dos formas marrones."),
    (Counted(2, "", "blue", ""), "es", "Hay dos formas azules."),
    (Counted(5, "small", "", ""), "es", "Hay cinco formas pequeñas."),
    (Counted(2, "", "", "cross"), "es", "Hay dos cruces."),
]


@pytest.mark.parametrize(("fact", "lang", "expected"), RELATED)
def test_facts_contract_elide_and_take_the_plural(fact, lang, expected):
    assert tell(fact, lang) == expected


PHRASES = [
    ("de", "seen", ("large", "green", "circle"), "einen großen grünen Kreis"),
    ("de", "seen", ("large", "green", "triangle"), "ein großes grünes Dreieck"),
    ("de", "seen", ("large", "green", "diamond"), "eine große grüne Raute"),
    ("de", "dative", ("small", "yellow", "star"), "dem kleinen gelben Stern"),
    ("de", "dative", ("small", "yellow", "cross"), "dem kleinen gelben Kreuz"),
    ("de", "dative", ("small", "yellow", "diamond"), "der kleinen gelben Raute"),
    ("fr", "the", ("", "purple", "star"), "l'étoile violette"),
    ("fr", "the", ("large", "purple", "star"), "la grande étoile violette"),
    ("fr", "of", ("small", "purple", "star"), "de la petite étoile violette"),
    ("fr", "of", ("small", "purple", "triangle"), "du petit triangle violet"),
    ("es", "of", ("large", "yellow", "triangle"), "del triángulo amarillo grande"),
    ("es", "seen", ("small", "purple", "cross"), "una cruz morada pequeña"),
    ("es", "the", ("", "black", "star"), "la estrella negra"),
    ("en", "of", ("", "black", "star"), "of the black star"),
]


@pytest.mark.parametrize(("lang", "form", "words", "expected"), PHRASES)
def test_phrases(lang, form, words, expected):
    assert phrase(lang, form, *words) == expected


def test_plurals_agree():
    assert plural("de", "small", "white", "star") == "kleine weiße Sterne"
    assert plural("fr", "small", "white", "star") == "petites étoiles blanches"
    assert plural("fr", "large", "blue", "square") == "grands carrés bleus"
    assert plural("es", "large", "green", "triangle") == "triángulos verdes grandes"
    assert plural("es", "small", "yellow", "cross") == "cruces amarillas pequeñas"


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("form", FORMS)
def test_different_blocks_have_different_names(lang, form):
    """So that a scene follows from its description, and nothing is lost in translation."""
    names = {phrase(lang, form, size, *pair) for size in SIZES for pair in PAIRS}
    assert len(names) == len(SIZES) * len(PAIRS)
    assert len(set(PLACES[lang])) == GRID * GRID


@settings(max_examples=200, deadline=None)
@given(scenes(), st.sampled_from(LANGUAGES), st.sampled_from(TEMPLATES))
def test_a_description_reads_back_to_its_scene(scene, lang, template):
    assert read(describe(scene, lang, template), lang) == scene


@settings(max_examples=60, deadline=None)
@given(scenes(fewest=2), st.sampled_from(LANGUAGES), st.data())
def test_what_is_said_of_a_scene_holds(scene, lang, data):
    """Positions are compared here on their own, from the words of the place to coordinates."""
    for fact in facts(scene):
        assert holds(fact, scene)
        assert read(f"{describe(scene, lang)} {tell(fact, lang)}", lang) == scene
        if isinstance(fact, Related):
            cells = {block.pair: divmod(block.cell, GRID) for block in scene}
            (row, column), (other_row, other_column) = cells[fact.one], cells[fact.other]
            assert {
                "left": column < other_column,
                "right": column > other_column,
                "above": row < other_row,
                "below": row > other_row,
            }[fact.relation]


def test_reading_refuses_what_is_false_or_no_description():
    text = describe(SCENE)
    with pytest.raises(TaskError, match="does not hold"):
        read(f"{text} The red circle is to the right of the white star.")
    with pytest.raises(TaskError, match="describes nothing"):
        read("I see a small red house on the left.")
    with pytest.raises(TaskError, match="describes nothing"):
        read(describe(SCENE, "de"), "fr")
    with pytest.raises(TaskError, match="describes nothing"):
        read("Ich sehe ein kleinen roten Kreis links.", "de")
    with pytest.raises(TaskError, match="two blocks in one place"):
        read("I see a small red circle on the left and a large blue star on the left.")
    with pytest.raises(TaskError, match="or none at all"):
        read("")
    with pytest.raises(TaskError, match="did you mean 'en'"):
        read(text, "eng")


def test_every_relation_has_words_in_every_language():
    assert all(set(RELATIONS[lang]) == {"left", "right", "above", "below"} for lang in LANGUAGES)
