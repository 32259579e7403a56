"""Tasks with pictures: what the model is shown and what it must draw, and by whose rules it is judged."""

import pytest
from PIL import Image as Pillow

from polytask.blocksworld import example, examples
from polytask.blocksworld.drawn import SCORES
from polytask.errors import TaskError
from polytask.tasks import Image, Text, check, get_task, prompt
from polytask.tasks.judging import JUDGES
from polytask.tasks.judging import SCORES as OURS
from polytask.tasks.picture import decode, encoded, png
from polytask.tasks.segment import TO_DRAW, texts

RED = png(Pillow.new("RGB", (4, 4), "red"))


def test_segments_in_order():
    assert get_task("drawing").segments({"caption": "a dog", "image": RED}) == [
        Text("Draw: a dog"),
        Image(RED, target=True),
    ]
    assert get_task("captioning").segments({"image": RED, "caption": "red"}) == [
        Image(RED),
        Text("What does the picture show?"),
        Text("red", target=True),
    ]
    assert prompt(get_task("editing"), {"image": RED, "instruction": "make it blue", "edited": RED}) == [
        Image(RED),
        Text("Edit: make it blue"),
        TO_DRAW,
    ]
    assert prompt(get_task("drawing"), {"caption": "a dog"}) == [Text("Draw: a dog"), TO_DRAW]


def test_answering_and_classification_take_a_picture_or_a_text():
    answering, classification = get_task("answering"), get_task("classification", labels=("red", "blue"))
    assert prompt(answering, {"question": "What?", "image": RED}) == [Image(RED), Text("Question: What?")]
    asked = prompt(classification, {"image": RED})
    assert asked == [Image(RED), Text("Classify as red, blue.")]
    assert prompt(classification, {"text": "a", "image": RED})[1] == Text("Classify as red, blue: a")
    assert prompt(classification, {"text": "a"}) == [Text("Classify as red, blue: a")]
    assert [one[0].text for one in classification.choices({"image": RED})] == ["red", "blue"]
    with pytest.raises(TaskError, match="field 'text' is missing"):
        check(classification, {"label": "red"})


def test_a_field_takes_what_users_have(tmp_path):
    (tmp_path / "a.png").write_bytes(RED)
    for value in (RED, Pillow.new("RGB", (4, 4), "red"), tmp_path / "a.png", {"bytes": RED}):
        assert check(get_task("captioning"), {"image": value}) == {"image": RED}
    with pytest.raises(TaskError, match=r"Task 'captioning': field 'image': A picture is its bytes.*not the text"):
        check(get_task("captioning"), {"image": str(tmp_path / "a.png")})


def test_a_model_that_drew_nothing_or_drew_where_it_should_write():
    with pytest.raises(TaskError, match="drew no picture"):
        get_task("drawing").parse([Text("a dog")])
    with pytest.raises(TaskError, match="text alone"):
        get_task("captioning").parse([Image(RED)])
    with pytest.raises(TaskError, match="text alone"):
        texts([Text("a"), Image(RED)])
    assert get_task("drawing").parse([Text("Here it is."), Image(RED)]).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(("task", "field"), [("drawing", "image"), ("editing", "edited"), ("captioning", "caption")])
def test_rows_of_the_blocks_world_are_judged_by_rule(task, field):
    rows = [check(get_task(task), row) for row in examples(task, 6)]
    own = [row[field] if task == "captioning" else decode(row[field]) for row in rows]
    right = get_task(task).metrics([[one] for one in own], rows)
    assert {name: right[name] for name in SCORES} == dict.fromkeys(SCORES, 1.0)
    mixed = get_task(task).metrics([[one] for one in [*own[:3], *own[:3]]], rows)
    assert mixed["right"] == 0.5
    assert 0 < mixed["colour"] < 1
    if task != "captioning":
        assert get_task(task).per_example([[one] for one in own], rows) == [1.0] * 6


def test_pictures_without_a_judge_have_no_scores():
    rows = [{"caption": "a dog", "image": RED}]
    assert get_task("drawing").metrics([[decode(RED)]], rows) == {}
    assert get_task("drawing").per_example([[decode(RED)]], rows) is None
    told = get_task("captioning").metrics([["the dog"]], [{"image": RED, "caption": "a dog"}])
    assert told == {"squad_f1": 1.0, "exact_match": 1.0}


def test_judges_go_by_name_and_users_add_theirs(monkeypatch):
    monkeypatch.setattr(JUDGES, "_entries", dict(JUDGES._entries))
    JUDGES.add("colour", lambda answer, wanted: {"right": float(answer.getpixel((0, 0)) == (255, 0, 0))})
    assert get_task("drawing").metrics([[decode(RED)]], [{"caption": "red", "judge": "colour"}]) == {"right": 1.0}
    with pytest.raises(TaskError, match="did you mean 'blocksworld'"):
        get_task("drawing").metrics([[decode(RED)]], [{"caption": "red", "judge": "blockworld"}])
    with pytest.raises(TaskError, match="has no 'edited' to compare"):
        get_task("editing").metrics([[decode(RED)]], [{"image": RED, "instruction": "a", "judge": "blocksworld"}])
    assert OURS == SCORES


def test_visual_questions_are_judged_as_others():
    row = check(get_task("answering"), example("answering", 1, pixels=32))
    assert get_task("answering").metrics([[row["answers"][0]]], [row])["exact_match"] == 1
    assert encoded(row["image"]) == row["image"]
