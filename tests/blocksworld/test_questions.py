"""Questions and their right answers, by hand and against counting done another way."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.blocksworld.language import describe
from polytask.blocksworld.questions import answer, ask, draw_question, read_question
from polytask.blocksworld.scene import Block
from polytask.errors import TaskError
from tests.blocksworld.scenes import scenes

SCENE = (
    Block("small", "red", "circle", 0),
    Block("large", "blue", "star", 4),
    Block("small", "white", "star", 7),
)

ANSWERS = [
    ("What colour is the circle?", "red", "The circle is red."),
    ("Which shape is blue?", "star", "The blue shape is a star."),
    ("Is the blue star small or large?", "large", "The blue star is large."),
    ("Where is the white star?", "at the bottom", "The white star is at the bottom."),
    ("What is in the centre?", "a large blue star", "A large blue star is in the centre."),
    ("What is on the left?", "nothing", "Nothing is on the left."),
    ("How many stars are there?", "two", "There are two stars."),
    ("How many small shapes are there?", "two", "There are two small shapes."),
    ("How many red shapes are there?", "one", "There is one red shape."),
    ("How many crosses are there?", "zero", "There are no crosses."),
    ("Is there a red circle?", "yes", "Yes, there is a red circle."),
    ("Is there a red star?", "no", "No, there is no red star."),
    ("What is to the left of the blue star?", "the red circle", "The red circle is to the left of the blue star."),
    ("What is below the blue star?", "the white star", "The white star is below the blue star."),
    ("Is the red circle above the white star?", "yes", "Yes, it is."),
    ("Is the white star to the right of the blue star?", "no", "No, it is not."),
]


@pytest.mark.parametrize(("words", "short", "full"), ANSWERS)
def test_answers(words, short, full):
    assert answer(read_question(words), SCENE) == (short, full)


@pytest.mark.parametrize(
    "words",
    [
        "What colour is the star?",  # there are two
        "What colour is the cross?",  # there is none
        "Where is the green star?",
        "Is the green star small or large?",
        "What is to the left of the red circle?",  # nothing
        "What is below the red circle?",  # two
        "Is the red circle above the green star?",
    ],
)
def test_questions_without_one_right_answer_have_none(words):
    assert answer(read_question(words), SCENE) is None


@settings(max_examples=200, deadline=None)
@given(scenes(), st.integers(0, 2**32))
def test_drawn_questions_read_back_and_have_an_answer(scene, seed):
    question, found = draw_question(Random(seed), scene)
    assert read_question(ask(question)) == question
    assert answer(question, scene) == found


@settings(max_examples=200, deadline=None)
@given(scenes(), st.sampled_from(["red", "blue", "circle", "star", "small", "large"]))
def test_counts_are_those_of_the_words_in_the_description(scene, word):
    """The oracle knows nothing of blocks: it counts words."""
    noun = "stars" if word == "star" else "circles" if word == "circle" else f"{word} shapes"
    found = answer(read_question(f"How many {noun} are there?"), scene)
    number = describe(scene).replace(",", "").replace(".", "").split().count(word)
    assert found is not None
    assert found.short == ["zero", "one", "two", "three", "four", "five"][number]


def test_reading_refuses_what_is_no_question():
    with pytest.raises(TaskError, match="is no question"):
        read_question("Why is the circle red?")
