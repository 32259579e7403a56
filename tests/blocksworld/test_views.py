"""Rows with pictures: always the same, of one split alone, and right by rule."""

import io
import subprocess
import sys
from itertools import pairwise
from random import Random

import pytest
from PIL import Image

from polytask.blocksworld import SPLITS, TASKS, example, examples
from polytask.blocksworld.captions import read_caption
from polytask.blocksworld.drawn import right
from polytask.blocksworld.events import apply, draw_events, instruct, read_instruction
from polytask.blocksworld.language import read as read_description
from polytask.blocksworld.questions import answer, read_question
from polytask.blocksworld.read import read
from polytask.blocksworld.scene import HELD_OUT, draw_scene, split_of
from polytask.blocksworld.views import LABELS, MOST_TURNS, VIEWS
from polytask.errors import ConfigError, TaskError

FIELDS = {
    "drawing": {"caption", "image", "judge"},
    "captioning": {"image", "caption", "judge"},
    "editing": {"image", "instruction", "edited", "judge"},
    "answering": {"image", "question", "answers"},
    "classification": {"image", "label", "labels"},
}


def opened(data):
    return Image.open(io.BytesIO(data))


def scene_of(data):
    scene = read(opened(data)).scene
    assert scene
    return scene


@pytest.mark.parametrize("task", VIEWS)
@pytest.mark.parametrize("split", SPLITS)
def test_rows_are_of_their_split_alone(task, split):
    for row in examples(task, 60, split=split, pixels=32, seed=2):
        assert set(row) == FIELDS[task] | {"id"}
        for name in ("image", "edited"):
            if name in row:
                scene = scene_of(row[name])
                assert split_of(scene) == split
                assert any(block.pair in HELD_OUT for block in scene) == (split == "compositional")


@pytest.mark.parametrize("task", VIEWS)
def test_the_same_index_gives_the_same_row_in_whatever_process(task):
    rows = list(examples(task, 5, start=3, split="test", pixels=32))
    assert rows[2] == example(task, 5, split="test", pixels=32)
    program = f"from polytask.blocksworld import *; print(example({task!r}, 5, split='test', pixels=32))"
    found = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": "src", "PYTHONHASHSEED": "77"},
    )
    assert found.stdout.strip() == str(rows[2])
    assert all(opened(row["image"]).size == (48, 48) for row in examples(task, 3, pixels=48))


def test_rows_of_pictures_and_of_texts_tell_of_the_same_scenes():
    for picture, text in zip(examples("answering", 40, pixels=32), examples("answering", 40)):
        assert set(scene_of(picture["image"])) == set(read_description(text["context"]))


def test_drawings_and_captions_are_right_by_rule():
    drawn = list(examples("drawing", 150))
    assert all(right(opened(row["image"]), row["caption"]) for row in drawn)
    assert 40 < sum(not read_caption(row["caption"]).placed for row in drawn) < 90
    told = list(examples("captioning", 50))
    assert all(right(row["caption"], opened(row["image"])) for row in told)
    assert not any(right(one["caption"], opened(other["image"])) for one, other in pairwise(told))


def test_words_of_drawing_are_never_of_two_splits():
    found = {split: {row["caption"] for row in examples("drawing", 400, split=split)} for split in SPLITS}
    assert not found["train"] & (found["test"] | found["validation"])
    assert not found["test"] & found["validation"]


def test_an_edit_does_what_is_asked_and_no_more():
    asked = set()
    for row in examples("editing", 80, objects=(1, 4)):
        now = scene_of(row["image"])
        for event in read_instruction(row["instruction"], now):
            asked.add(event.kind)
            now = apply(event, now)
        assert set(now) == set(scene_of(row["edited"]))
        assert not right(opened(row["image"]), opened(row["edited"]))
    assert asked == {"move", "paint", "resize", "remove", "add"}


def test_questions_and_labels_follow_from_the_picture():
    for row in examples("answering", 80, pixels=32):
        found = answer(read_question(row["question"]), scene_of(row["image"]))
        assert found is not None
        assert row["answers"] == [found.short]
    for row in examples("classification", 80, pixels=32):
        there = {f"{block.colour} {block.shape}" for block in scene_of(row["image"])}
        assert len(set(row["labels"])) == LABELS
        assert there & set(row["labels"]) == {row["label"]}


@pytest.mark.parametrize("split", SPLITS)
def test_turns_are_of_one_picture_each_edit_of_what_the_last_one_made(split):
    rows = list(examples("editing", 60, split=split, turns=3))
    for number, (before, row) in enumerate(pairwise(rows), 1):
        assert (row["image"] == before["edited"]) == (number % 3 > 0)
        now = scene_of(row["image"])
        for event in read_instruction(row["instruction"], now):
            now = apply(event, now)
        assert set(now) == set(scene_of(row["edited"]))
        assert split_of(scene_of(row["edited"])) == split
    assert len({row["id"] for row in rows}) == len(rows)
    asked = list(examples("answering", 80, split=split, pixels=32, turns=MOST_TURNS))
    for start in range(0, 80, MOST_TURNS):
        same = asked[start : start + MOST_TURNS]
        assert len({row["image"] for row in same}) == 1
        assert len({row["question"] for row in same}) == MOST_TURNS
        assert all(answer(read_question(r["question"]), scene_of(r["image"])).short == r["answers"][0] for r in same)
    assert asked[0] == example("answering", 0, split=split, pixels=32) | {"id": asked[0]["id"]}


def test_instructions_are_read_back_by_colour_and_shape_or_shape_alone():
    rng = Random(5)
    for _ in range(60):
        scene = draw_scene(rng, "train", (1, 4))
        events, _ = draw_events(rng, scene, "train", 1, 4)
        for short in (False, True):
            told = instruct(events[0], scene, short)
            assert read_instruction(f" {told.capitalize()}. ", scene) == [events[0]]
    with pytest.raises(TaskError, match="as 'make the circle blue' does"):
        read_instruction("make the dog blue", scene)


def test_mistakes_are_told():
    with pytest.raises(TaskError, match="did you mean 'drawing'"):
        example("drawin", 0)
    with pytest.raises(ConfigError, match="whole number from 1 to 8"):
        example("editing", 0, turns=9)
    with pytest.raises(ConfigError, match="only answering and editing with pictures take turns"):
        example("answering", 0, turns=2)
    with pytest.raises(ConfigError, match="takes no pixels; tasks with pictures: drawing, captioning"):
        example("translation", 0, pixels=32)
    with pytest.raises(ConfigError, match="32 to 1024"):
        example("drawing", 0, pixels=16)
    assert set(TASKS) & set(VIEWS) == {"answering", "classification"}
    assert "context" in example("answering", 0)
