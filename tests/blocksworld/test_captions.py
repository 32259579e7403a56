"""Captions are read back, say what is to be drawn, and drawn pictures are judged by them."""

from random import Random

import pytest

from polytask.blocksworld.captions import (
    ANYWHERE,
    BETWEEN,
    Caption,
    draw_chain,
    fits,
    full,
    read_caption,
    say,
    split_of_chain,
)
from polytask.blocksworld.drawn import SCORES, compare, right
from polytask.blocksworld.language import describe
from polytask.blocksworld.render import render
from polytask.blocksworld.scene import HELD_OUT, SPLITS, Block, draw_scene
from polytask.errors import TaskError

RED, BLUE = Block("large", "red", "circle", 3), Block("small", "blue", "square", 5)
GREEN = Block("small", "green", "star", 8)
ISSUE = "a large red circle left of a small blue square"


def scenes(split, count=200, objects=(1, 5)):
    rng = Random(split)
    return [draw_scene(rng, split, objects) for _ in range(count)]


@pytest.mark.parametrize("split", SPLITS)
def test_what_is_said_is_read_back_and_true(split):
    rng, chained = Random(1), 0
    for scene in scenes(split):
        placed = Caption(scene)
        assert read_caption(say(placed)) == placed
        assert read_caption(f" {say(placed).capitalize()}. ") == placed
        assert set(read_caption(describe(scene, "en", "see")).blocks) == set(scene)
        chain = draw_chain(rng, scene, split)
        if chain is not None:
            chained += 1
            assert read_caption(say(chain)) == chain
            assert fits(chain, scene)
            assert split_of_chain(chain) == split
            assert compare(render(scene), say(chain))["right"] == 1
    assert chained > 40


def test_the_words_of_a_chain():
    scene = (RED, BLUE, GREEN)
    assert say(Caption(tuple(b._replace(cell=ANYWHERE) for b in scene[:2]), ("left",))) == ISSUE
    caption = read_caption(f"{ISSUE} above a small green star")
    assert caption.relations == ("left", "above")
    assert fits(caption, scene)
    assert not fits(caption, (RED, BLUE._replace(cell=8), GREEN._replace(cell=5)))
    assert say(full((GREEN, RED))) == "a large red circle on the left and a small green star at the bottom right"


def test_a_chain_and_its_mirror_are_of_one_split():
    one, other = RED._replace(cell=ANYWHERE), BLUE._replace(cell=ANYWHERE)
    mirrored = {"left": "right", "right": "left", "above": "below", "below": "above"}
    for relation in BETWEEN:
        there = split_of_chain(Caption((one, other), (relation,)))
        assert there == split_of_chain(Caption((other, one), (mirrored[relation],)))
    colour, shape = next(iter(HELD_OUT))
    assert split_of_chain(Caption((Block("small", colour, shape, ANYWHERE),))) == "compositional"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a dog", "describes nothing"),
        ("", "puts two blocks"),
        ("a large red circle left of", "describes nothing"),
        ("a large red circle on the left and a large red circle on the right", "one block twice"),
        ("a large red circle on the left and a small blue star on the left", "two blocks in one place"),
        ("a large red circle left of a small red circle", "one block twice"),
    ],
)
def test_what_is_no_caption(text, reason):
    with pytest.raises(TaskError, match=reason):
        read_caption(text)


def test_a_drawn_picture_against_a_caption():
    assert compare(render((RED, BLUE)), ISSUE) == dict.fromkeys(SCORES, 1.0)
    assert compare(render((RED._replace(cell=0), BLUE._replace(cell=1))), ISSUE)["right"] == 1
    wrong = compare(render((RED._replace(cell=5), BLUE._replace(cell=3))), ISSUE)
    assert wrong == {"right": 0, "objects": 1, "colour": 1, "shape": 1, "size": 1, "place": 0}
    # One of two has another colour and the other another size.
    mixed = compare(render((RED._replace(colour="green"), BLUE._replace(size="large"))), ISSUE)
    assert mixed == {"right": 0, "objects": 1, "colour": 0.5, "shape": 1, "size": 0.5, "place": 1}
    # A third object: two of three are right; a lone one: one of two, and no relation holds.
    assert compare(render((RED, BLUE, GREEN)), ISSUE)["colour"] == pytest.approx(2 / 3)
    assert compare(render((RED,)), ISSUE) | {"objects": 0} == {
        "right": 0, "objects": 0, "colour": 0.5, "shape": 0.5, "size": 0.5, "place": 0,
    }  # fmt: skip
    assert compare(render((RED,)), "a large red circle")["right"] == 1


def test_attributes_are_those_of_the_best_match():
    """However the blocks stand: no order of them is better than the one that agrees most."""
    wanted = (RED, BLUE, GREEN)
    shown = (GREEN._replace(cell=0), RED._replace(size="small"), BLUE)
    found = compare(render(shown), render(wanted))
    two_of_three = pytest.approx(2 / 3)
    assert found == dict(zip(SCORES, (0, 1, 1, 1, two_of_three, two_of_three)))


def test_a_caption_against_a_picture():
    picture = render((RED, BLUE))
    assert right("A small blue square on the right and a large red circle on the left.", picture)
    assert right("I see a large red circle on the left and a small blue square on the right.", picture)
    assert not right(ISSUE, picture)  # it is true, but does not say where they are
    assert not right("a large red circle on the left", picture)
    assert compare("nothing of the kind", picture) == dict.fromkeys(SCORES, 0.0)
    assert compare("a large red circle on the left and a small green square on the right", picture)["colour"] == 0.5


def test_what_is_wanted_must_be_a_scene():
    with pytest.raises(TaskError, match="shows no scene clearly"):
        compare("a large red circle", render(()))
