"""Events change what they say and nothing else; those that cannot happen do not."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.blocksworld.events import Event, apply, draw_events, read_event, tell_event
from polytask.blocksworld.scene import SPLITS, Block, draw_scene, split_of, valid
from polytask.errors import TaskError
from tests.blocksworld.scenes import scenes

SCENE = (Block("small", "red", "circle", 0), Block("large", "blue", "star", 1), Block("small", "red", "star", 8))

HAPPENS = [
    ("The red circle moves down.", Block("small", "red", "circle", 3)),
    ("The red circle turns green.", Block("small", "green", "circle", 0)),
    ("The red circle grows.", Block("large", "red", "circle", 0)),
    ("The red circle vanishes.", None),
]


@pytest.mark.parametrize(("sentence", "after"), HAPPENS)
def test_an_event_changes_the_block_that_it_names(sentence, after):
    assert apply(read_event(sentence), SCENE) == ((after, *SCENE[1:]) if after else SCENE[1:])


def test_a_block_appears_behind_the_others():
    event = read_event("A large white cross appears in the centre.")
    assert apply(event, SCENE) == (*SCENE, Block("large", "white", "cross", 4))


@pytest.mark.parametrize(
    "sentence",
    [
        "The red circle moves right.",  # taken
        "The red circle moves up.",  # beyond the edge
        "The red circle moves left.",
        "The red star moves right.",
        "The blue star turns red.",  # there would be two red stars
        "The red circle turns red.",
        "The red circle shrinks.",
        "The green circle vanishes.",  # is not there
        "A large white cross appears at the top.",  # taken
        "A large red circle appears in the centre.",  # there would be two
    ],
)
def test_what_cannot_happen_does_not(sentence):
    assert apply(read_event(sentence), SCENE) is None


def test_the_last_block_stays_and_a_sixth_does_not_come():
    assert apply(Event("remove", ("red", "circle")), SCENE[:1]) is None
    full = tuple(
        Block("small", colour, "circle", cell) for cell, colour in enumerate(("red", "blue", "green", "black"))
    )
    full = (*full, Block("small", "white", "star", 8))
    assert apply(read_event("A large white cross appears in the centre."), full) is None


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(SPLITS), st.integers(1, 5), st.integers(1, 2))
def test_events_read_back_and_lead_to_a_scene_of_the_split(seed, split, most, count):
    generator = Random(seed)
    scene = draw_scene(generator, split, (1, most))
    events, end = draw_events(generator, scene, split, count, most)
    now = scene
    for event in events:
        assert read_event(tell_event(event)) == event
        after = apply(event, now)
        assert after is not None
        assert valid(after)
        assert len(after) <= most
        assert split != "train" or split_of(after) == "train"
        now = after
    assert now == end
    assert len(events) >= count
    assert split_of(end) == split
    assert set(end) != set(scene)


@settings(max_examples=100, deadline=None)
@given(scenes(), st.data())
def test_moves_there_and_back_change_nothing(scene, data):
    block = data.draw(st.sampled_from(scene))
    there, back = data.draw(st.sampled_from([("left", "right"), ("right", "left"), ("up", "down"), ("down", "up")]))
    moved = apply(Event("move", block.pair, there), scene)
    if moved is not None:
        assert apply(Event("move", block.pair, back), moved) == scene


@pytest.mark.parametrize(
    "sentence", ["", "The red circle.", "The red circle jumps.", "The red house moves left.", "Hi."]
)
def test_reading_refuses_what_tells_no_event(sentence):
    with pytest.raises(TaskError, match="tells no event"):
        read_event(sentence)
