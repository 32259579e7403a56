"""What recipes of networks for pictures have made is asked: it draws, changes, varies, and is judged."""

import re

import pytest

import polytask
import polytask.interop.networks
from polytask.errors import ConfigError, TaskError, TooLong
from polytask.pictures.painter import Painter
from polytask.run.judge import HELD_OUT


@pytest.mark.parametrize(("name", "prompt", "side"), [
    ("imagen-blocks", "a large red circle", 32), ("imagen-64-blocks", "a large red circle", 64),
    ("unclip-blocks", "a large red circle", 32), ("mnist-digits", "2", 28), ("emoji", "the digit 2", 32),
    ("unclip-64-blocks", "a large red circle", 64),
])  # fmt: skip
def test_they_draw(name, prompt, side, runs):
    model = polytask.load(runs / name)
    words = {"steps": 2} | ({"prior_steps": 2} if name.startswith("unclip") else {})
    one, two = model.draw(prompt, n=2, seed=5, **words)
    assert one.size == (side, side)
    assert one.mode == "RGB"
    assert one.tobytes() != two.tobytes()
    assert model.draw(prompt, seed=6, **words)[0].tobytes() == two.tobytes() or name.startswith("unclip")
    assert model.draw(prompt, n=2, seed=5, **words)[1].tobytes() == two.tobytes()


@pytest.mark.parametrize("name", ["imagen-blocks", "imagen-64-blocks"])
def test_edits_keep_what_the_mask_leaves(name, runs):
    from PIL import Image

    model = polytask.load(runs / name)
    picture = Image.new("RGB", (model.side, model.side), (40, 160, 90))
    mask = Image.new("L", picture.size, 0)
    mask.paste(255, (0, 0, model.side // 2, model.side))
    made = model.edit(picture, "a red circle", mask, steps=2)[0]
    right = (model.side // 2, 0, model.side, model.side)
    assert made.crop(right).tobytes() == picture.crop(right).tobytes()
    assert made.tobytes() != picture.tobytes()
    with pytest.raises(TaskError, match="The mask has 7 x 7 pixels"):
        model.edit(picture, "a red circle", mask.resize((7, 7)))
    assert model.edit(picture, "a red circle", mask.resize((8, 8)), resize=True, steps=1)
    with pytest.raises(TaskError, match="black everywhere"):
        model.edit(picture, "a red circle", Image.new("L", picture.size))


def test_instructions_change_pictures(runs):
    from PIL import Image

    model = polytask.load(runs / "edit-blocks")
    picture, words = Image.new("RGB", (32, 32), (40, 160, 90)), {"steps": 2, "seed": 3}
    assert model.able == ["editing"]
    one, two = model.edit(picture, "make the circle blue", n=2, **words)
    assert one.tobytes() != two.tobytes()
    (other,) = model.edit_many([picture], ["make the circle blue"], seed=4, steps=2)
    assert other[0].tobytes() == two.tobytes()
    red = Image.new("RGB", (32, 32), (200, 20, 20))
    assert model.edit(red, "make the circle blue", **words)[0].tobytes() != one.tobytes()
    closer = model.edit(picture, "make the circle blue", picture_guidance=5.0, **words)[0]
    assert closer.tobytes() != one.tobytes()
    mask = Image.new("L", picture.size, 0)
    mask.paste(255, (0, 0, 16, 32))
    kept = model.edit(picture, "make the circle blue", mask, **words)[0]
    assert kept.crop((16, 0, 32, 32)).tobytes() == picture.crop((16, 0, 32, 32)).tobytes()
    assert kept.crop((0, 0, 16, 32)).tobytes() != picture.crop((0, 0, 16, 32)).tobytes()


@pytest.mark.parametrize(("ask", "error", "sentence"), [
    (lambda model, one: model.draw("a red circle"), TaskError, "changes a picture as an instruction says"),
    (lambda model, one: model.variations(one), TaskError, "system dalle2"),
    (lambda model, one: model.edit(one.resize((8, 8)), "make it red"), TaskError, "The picture has 8 x 8 pixels"),
    (lambda model, one: model.edit(one, "make it red", candidates=4), ConfigError, "told what to change"),
    (lambda model, one: model.edit(one, "make it red", picture_guidance=-1), ConfigError, "picture_guidance=-1"),
    (lambda model, one: model.edit(one, "make it red", augmentation=[0, 0.2]), ConfigError, "that enlarges"),
])  # fmt: skip
def test_mistakes_about_instructions_are_named(ask, error, sentence, runs):
    from PIL import Image

    with pytest.raises(error, match=sentence):
        ask(polytask.load(runs / "edit-blocks"), Image.new("RGB", (32, 32)))


def test_instructions_are_of_models_that_follow_them(runs):
    from PIL import Image

    model = polytask.load(runs / "imagen-blocks")
    with pytest.raises(ConfigError, match="picture_guidance is of a model that changes pictures"):
        model.draw("a red circle", picture_guidance=2.0)
    with pytest.raises(TaskError, match="where a mask says"):
        model.edit_many([Image.new("RGB", (32, 32))], ["make it red"])


def test_a_clip_of_a_run_is_asked(runs):
    model = polytask.load(runs / "clip-blocks")
    assert model.embed(["a red circle", "a blue square"]).shape == (2, 32)


def test_a_model_chooses_by_the_clip_that_it_holds(runs):
    model = polytask.load(runs / "unclip-blocks")
    words = {"steps": 2, "prior_steps": 2, "seed": 1}
    (found,) = model.draw("a red circle", candidates=3, **words)
    assert found.tobytes() in [one.tobytes() for one in model.draw("a red circle", n=3, **words)]


def test_variations_are_of_the_picture(runs):
    model = polytask.load(runs / "unclip-blocks")
    drawn = model.draw("a red circle", steps=2, prior_steps=2)[0]
    assert len(model.variations(drawn, n=2, steps=2)) == 2
    larger = polytask.load(runs / "unclip-64-blocks")
    assert [one.size for one in larger.interpolate(drawn, drawn, n=2, steps=2)] == [(64, 64)] * 2
    with pytest.raises(TaskError, match="system dalle2"):
        polytask.load(runs / "imagen-blocks").variations(drawn)


@pytest.mark.parametrize(("words", "sentence"), [
    ({"steps": 0}, "steps=0 must be a whole number from 1"), ({"steps": 1001}, "from 1 to 1000"),
    ({"guidance": -1.0}, "guidance=-1.0 must be a number from 0 to 100"), ({"n": 0}, "n=0"),
    ({"sampler": "heum"}, "did you mean 'heun'"), ({"stpes": 2}, "did you mean 'steps'"), ({"seed": -1}, "seed=-1"),
])  # fmt: skip
def test_dials_out_of_range_are_named(words, sentence, runs):
    with pytest.raises(ConfigError, match=sentence):
        polytask.load(runs / "imagen-blocks").draw("a red circle", **words)


def test_mistakes_of_prompts_and_folders_are_named(runs):
    with pytest.raises(TooLong, match=r"The prompt has \d+ tokens, but this model reads 79"):
        polytask.load(runs / "imagen-blocks").draw("a zebra of quilts " * 30)
    with pytest.raises(ConfigError, match="no 'seven'"):
        polytask.load(runs / "mnist-digits").draw("seven")
    with pytest.raises(ConfigError, match="holds a prior, which alone draws nothing"):
        polytask.load(runs / "unclip-prior-blocks")


def test_what_is_drawn_is_judged(runs):
    from polytask.run.evaluate import evaluate

    report = evaluate(str(runs / "imagen-blocks"), "drawing", "blocksworld", {}, {}, limit=2, drawing={"steps": 1})
    assert report.examples == 8
    assert {f"right, {group}" for group in ("1 object", "2 objects", "3 objects", HELD_OUT)} < set(report.metrics)
    assert report.metrics["right"] == 0  # two steps teach nobody to draw
    for task in ("chat", "editing"):
        with pytest.raises(ConfigError, match="judged by task drawing"):
            evaluate(str(runs / "imagen-blocks"), task, "blocksworld", {}, {}, limit=2)


def test_what_is_changed_is_judged(runs, monkeypatch):
    from polytask.run.evaluate import evaluate

    folder, words = str(runs / "edit-blocks"), {"limit": 2, "drawing": {"steps": 1}}
    report = evaluate(folder, "editing", "blocksworld", {}, {}, **words)
    assert (report.task, report.examples, report.metrics["right"]) == ("editing", 8, 0)
    with pytest.raises(ConfigError, match="judged by task editing"):
        evaluate(folder, "drawing", "blocksworld", {}, {}, **words)
    monkeypatch.setattr(Painter, "text_length", 8)  # in place of 32
    report = evaluate(folder, "editing", "blocksworld", {}, {}, **words)
    assert report.examples == 8
    (note,) = report.notes
    assert re.fullmatch(r"\d prompts were longer than the model reads; nothing was drawn of them.*", note)
    with pytest.raises(ConfigError, match="not to instructions"):
        evaluate(folder, "editing", "blocksworld", {}, {}, limit=2, drawing={"candidates": 3})
    with pytest.raises(ConfigError, match="changes pictures and draws none"):
        evaluate(folder, "drawing", "blocksworld", {}, {}, judge=str(runs / "clip-blocks"), limit=2)


def test_who_changes_pictures_as_told_is_judged_right(runs, monkeypatch):
    """Pictures as the world itself changes them, but for one that is left as it is."""
    from polytask.data.sources import SourceSpec, read
    from polytask.pictures import PictureModel
    from polytask.run.evaluate import evaluate
    from polytask.tasks.picture import decode

    options = {"pixels": 32, "objects": [1, 1]}
    rows = read(SourceSpec("editing", "blocksworld", limit=200, split="test", options=options))
    answers = {(row["image"], row["instruction"]): row["edited"] for row in rows}
    asked = []

    def edit_many(self, pictures, instructions, **dials):
        asked.extend(zip(pictures, instructions))
        pairs = list(zip(pictures, instructions))
        return [[decode(answers.get(pair, pair[0]) if i else pair[0])] for i, pair in enumerate(pairs)]

    monkeypatch.setattr(PictureModel, "edit_many", edit_many)
    report = evaluate(str(runs / "edit-blocks"), "editing", "blocksworld", {}, {}, limit=10)
    assert report.metrics["right, 1 object"] == pytest.approx(0.9)
    assert report.metrics["right, 2 objects"] == 0
    assert len(asked) == 40


def test_drawings_of_captions_are_judged_by_a_clip(runs, monkeypatch):
    from polytask.run import likeness
    from polytask.run.evaluate import evaluate

    monkeypatch.setattr(likeness, "TRAINING", 24)
    words = {"judge": str(runs / "clip-blocks"), "limit": 6, "drawing": {"steps": 1}}
    report = evaluate(str(runs / "imagen-blocks"), "drawing", "blocksworld", {}, {}, **words)
    assert {"clip_score", "clip_score, real", "frechet_distance, real", "recall"} < set(report.metrics)
    assert "6 pictures were drawn, and 6 real ones held out; both are compared with 24 of training" in report.notes[0]


def test_a_perfect_drawer_is_judged_right(runs, monkeypatch):
    """Pictures that the world itself draws of the captions, but for one that is blank."""
    from PIL import Image

    from polytask.blocksworld.captions import read_caption
    from polytask.blocksworld.render import render
    from polytask.pictures import PictureModel
    from polytask.run.evaluate import evaluate

    drawn = []

    def draw_many(self, prompts, **words):
        for prompt in prompts:
            placed = read_caption(prompt).placed
            drawn.append(render(read_caption(prompt).blocks) if placed and drawn else Image.new("RGB", (32, 32)))
        return [[picture] for picture in drawn[-len(prompts) :]]

    monkeypatch.setattr(PictureModel, "draw_many", draw_many)
    report = evaluate(str(runs / "imagen-blocks"), "drawing", "blocksworld", {}, {}, limit=20)
    shares = [report.metrics[f"right, {number}"] for number in ("1 object", "2 objects", "3 objects")]
    assert report.metrics["right"] == pytest.approx(sum(shares) / 3)
    assert all(0.2 < share < 1 for share in shares)  # chained captions, a half or fewer, were left blank
