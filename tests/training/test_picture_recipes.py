"""Recipes of networks for pictures: planned, trained by the one trainer, resumed exactly, and drawn from."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import polytask
import polytask.interop.networks
from polytask.errors import ConfigError, TaskError, TooLong
from polytask.models import built
from polytask.run.assembly import read_recipe
from polytask.run.data import prepare_recipe
from polytask.run.judge import HELD_OUT
from polytask.run.plan import plan_recipe
from polytask.run.show import describe
from polytask.run.train import train_recipe
from polytask.tasks.picture import png

FEW = [
    "training.steps=2", "training.warmup=1", "training.batch_rows=4", "evaluation.every=2", "data.sources.0.limit=24",
    "data.sources.0.validation=null", "data.held_out=0.2",
]  # fmt: skip
EFFICIENT = ["model.channels=32", "model.multipliers=[1,1]", "model.blocks=1", "model.attention=[16]",
             "model.reader_dim=64"]  # fmt: skip
SMALL = {
    "clip-blocks": ["model.layers=1", "model.dim=64", "model.text_layers=1", "model.text_dim=64", "model.embed=32"],
    "dvae-blocks": ["model.width=8", "model.first=16"],
    "imagen-blocks": EFFICIENT,
    "imagen-64-blocks": ["model.multipliers=[1,1,1]", "model.reader_dim=64"],
    "edit-blocks": EFFICIENT,
    "unclip-prior-blocks": ["model.layers=1", "model.dim=64"],
    "unclip-blocks": EFFICIENT,
    "unclip-64-blocks": ["model.multipliers=[1,1]"],
    "mnist-digits": ["model.channels=32", "model.multipliers=[1,1]", "model.attention=[]"],
    "cifar10": ["model.channels=32", "model.multipliers=[1,1]", "model.attention=[]"],
    "emoji": ["model.channels=32", "model.multipliers=[1,1]", "model.attention=[]", "model.reader_dim=64"],
    "digits-classifier": ["model.width=8", "model.blocks=1"],
    "cifar10-classifier": ["model.width=8", "model.blocks=1"],
}  # fmt: skip
REAL = ["mnist-digits", "cifar10", "emoji", "digits-classifier", "cifar10-classifier"]  # of files, written by the test
DIGITS = ["data.sources.0.from=digits.jsonl", "data.sources.0.limit=null"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Every recipe trained for two steps, those that others read first."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYTASK_CACHE", str(root / "cache"))
        write_digits(root / "data")
        for name in SMALL:
            train_recipe(small(name, root), root / name, callbacks=[])
        yield root


def write_digits(folder):
    from PIL import Image

    folder.mkdir()
    rows = []
    for number in range(12):
        (folder / f"{number}.png").write_bytes(png(Image.new("L", (28, 28), 20 * number)))
        rows.append(
            json.dumps({"image": f"{number}.png", "label": str(number % 3), "caption": f"the digit {number % 3}"})
        )
    (folder / "digits.jsonl").write_text("\n".join(rows))


def small(name, root, more=()):
    frozen = {
        "imagen-64-blocks": [f"model.base.from={root / 'imagen-blocks'}"],
        "unclip-prior-blocks": [f"model.clip.from={root / 'clip-blocks'}"],
        "unclip-blocks": [f"model.clip.from={root / 'clip-blocks'}",
                          f"model.prior.from={root / 'unclip-prior-blocks'}"],
        "unclip-64-blocks": [f"model.base.from={root / 'unclip-blocks'}"],
    }  # fmt: skip
    own = DIGITS if name in REAL else []
    return read_recipe(name, [*FEW, *SMALL[name], *frozen.get(name, []), *own, *more], root / "data")


def weights(run):
    return load_file(run / "model" / "model.safetensors")


@pytest.mark.parametrize("name", SMALL)
def test_they_train(name, runs):
    assert (runs / name / "model" / "model.safetensors").is_file()
    lines = [json.loads(line) for line in (runs / name / "log.jsonl").read_text().splitlines()]
    assert any("validation_loss" in json.dumps(line) for line in lines)
    about = describe(str(runs / name))
    assert about["parameters"] == sum(about["by part"].values())
    assert about["steps"] == 2
    assert about["pictures_seen"] == 8


@pytest.mark.parametrize("name", [name for name in SMALL if "unclip" not in name and "64" not in name])
def test_they_are_planned(name):
    made = plan_recipe(name, measure=False)
    assert made.unit == "pictures"
    assert made.tokens == read_recipe(name, []).training.steps * read_recipe(name, []).training.batch_rows
    assert 1e12 < made.flops < 3e15  # two hours of two cores at 250 GFLOP/s, or a few minutes of a GPU
    assert made.memory["activations"] > made.memory["weights"]


def test_plans_count_what_is_trained(runs):
    recipe = small("unclip-blocks", runs)
    from polytask.run.pictures import Frozen, picture_config
    from polytask.run.plan import planned_pictures

    frozen = Frozen(recipe)
    config = picture_config(recipe, frozen, vocab_size=frozen.tokenizer().vocab_size)
    made = planned_pictures(recipe, config, frozen, torch.device("cpu"))
    assert made.total_parameters == sum(tensor.numel() for tensor in weights(runs / "unclip-blocks").values())


def test_frozen_networks_come_along_as_they_are(runs):
    parts = runs / "unclip-blocks" / "model" / "parts"
    for name, run in (("clip", "clip-blocks"), ("prior", "unclip-prior-blocks")):
        one, other = load_file(parts / name / "model.safetensors"), weights(runs / run)
        assert all(torch.equal(one[key], tensor) for key, tensor in other.items())


def test_a_run_that_stopped_ends_as_one_that_did_not(runs, tmp_path):
    more = ["training.steps=4", "training.save_every=1", "evaluation.every=0"]
    whole = small("imagen-blocks", runs, more)
    train_recipe(whole, tmp_path / "whole", callbacks=[])
    stopped = tmp_path / "stopped"
    train_recipe(whole, stopped, callbacks=[StopAfter(1)])
    assert json.loads((stopped / "model" / "config.json").read_text())["about"]["steps"] == 2
    train_recipe(whole, stopped, callbacks=[], resume=True)
    one, other = weights(tmp_path / "whole"), weights(stopped)
    assert all(torch.equal(one[name], other[name]) for name in one)


class StopAfter:
    """Asks the run to stop, as Ctrl-C does."""

    def __init__(self, step):
        self.step = step

    def __getattr__(self, name):
        return lambda *_: None

    def on_step(self, step):
        import os
        import signal

        if step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_frozen_text_encoder_is_read_and_stays(runs, tmp_path):
    source = {"task": "text", "from": "blocksworld", "limit": 30}
    short = [*FEW[:3], "evaluation.every=0", f"data.sources={json.dumps([source])}"]
    text = read_recipe("text-blocks", ["model.layers=1", "model.dim=64", "training.optimizer=adamw", *short])
    train_recipe(text, tmp_path / "text", callbacks=[])
    recipe = small("imagen-blocks", runs, [f"model.text_encoder.from={tmp_path / 'text'}"])
    train_recipe(recipe, tmp_path / "drawing", callbacks=[])
    before, after = weights(tmp_path / "text"), weights(tmp_path / "drawing")
    assert torch.equal(before["embedding.weight"], after["text.network.embedding.weight"])
    assert polytask.load(tmp_path / "drawing").draw("a circle", steps=1)[0].size == (32, 32)


@pytest.mark.parametrize(("name", "prompt", "side"), [
    ("imagen-blocks", "a large red circle", 32), ("imagen-64-blocks", "a large red circle", 64),
    ("unclip-blocks", "a large red circle", 32), ("mnist-digits", "2", 28), ("emoji", "the digit 2", 32),
    ("unclip-64-blocks", "a large red circle", 64),
])  # fmt: skip
def test_they_draw(name, prompt, side, runs):
    model = polytask.load(runs / name)
    words = {"steps": 2, "prior_steps": 2}
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
    with pytest.raises(TooLong, match=r"The prompt has \d+ tokens, but this model reads 31"):
        polytask.load(runs / "imagen-blocks").draw("a zebra of quilts " * 30)
    with pytest.raises(ConfigError, match="no 'seven'"):
        polytask.load(runs / "mnist-digits").draw("seven")
    with pytest.raises(ConfigError, match="holds a prior, which alone draws nothing"):
        polytask.load(runs / "unclip-prior-blocks")


@pytest.mark.parametrize(("name", "changes", "sentence"), [
    ("clip-blocks", ["training.objective=prefix"], "has one of its own"),
    ("clip-blocks", ["training.tokens=100"], "learns from pictures; write steps"),
    ("clip-blocks", ["training.label_smoothing=0.1"], "label_smoothing is of texts"),
    ("digits-classifier", ["training.label_smoothing=0.1"], "write training.dials.smoothing"),
    ("clip-blocks", ["model.dpeth=2"], "clip has no 'dpeth'"),
    ("clip-blocks", ["data.sources.0.task=chat"], "task chat has no picture"),
    ("clip-blocks", ["data.sources.0.task=editing"], "task editing has no picture with a caption"),
    ("edit-blocks", ["data.sources.0.task=drawing"], "task drawing has no picture before and after an instruction"),
    ("clip-blocks", ["model.prior.from=x"], r"model\.prior: clip reads no other network"),
    ("imagen-blocks", ["model.attention=[7]"], "attention at 7"),
    ("gpt3-tiny", ["training.dials.drop=0.1"], r"training\.dials: gpt3 has none"),
])  # fmt: skip
def test_mistakes_in_recipes_are_named(name, changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        read_recipe(name, changes)


@pytest.mark.parametrize(("change", "sentence"), [
    ("model.classes=2", "model.classes=2, but the data has"), ("training.dials={shift: 0.5}", "whole number of pixels"),
    ("training.dials={flip: maybe}", "true or false"), ("training.dials={smoothing: 1.5}", "below 1"),
])  # fmt: skip
def test_mistakes_about_labels_are_named(runs, tmp_path, change, sentence):
    with pytest.raises(ConfigError, match=sentence):
        train_recipe(small("digits-classifier", runs, [change]), tmp_path / "run", callbacks=[])


@pytest.mark.parametrize(("value", "sentence"), [
    ("[1.0, 0.1, 0]", "must take at least one update"), ("[1.0, 0.1]", r"is \[start, end, updates\]"),
])  # fmt: skip
def test_mistakes_in_what_is_annealed_are_named(runs, tmp_path, value, sentence):
    recipe = small("dvae-blocks", runs, ["model.levels=[]", f"training.dials={{temperature: {value}}}"])
    with pytest.raises(ConfigError, match=sentence):
        train_recipe(recipe, tmp_path / "run", callbacks=[])


def test_mistakes_in_frozen_networks_are_named(runs, tmp_path):
    recipe = small("unclip-prior-blocks", runs, [f"model.clip.from={runs / 'imagen-blocks'}"])
    with pytest.raises(ConfigError, match="holds a DiffusionConfig, not a CLIPConfig"):
        train_recipe(recipe, tmp_path / "run", callbacks=[])
    with pytest.raises(ConfigError, match="did you mean 'drop'"):
        train_recipe(small("imagen-blocks", runs, ["training.dials.dorp=1"]), tmp_path / "run", callbacks=[])


def test_what_is_drawn_is_judged(runs):
    from polytask.run.evaluate import evaluate

    report = evaluate(str(runs / "imagen-blocks"), "drawing", "blocksworld", {}, {}, limit=2, drawing={"steps": 1})
    assert report.examples == 8
    assert {f"right, {group}" for group in ("1 object", "2 objects", "3 objects", HELD_OUT)} < set(report.metrics)
    assert report.metrics["right"] == 0  # two steps teach nobody to draw
    for task in ("chat", "editing"):
        with pytest.raises(ConfigError, match="judged by task drawing"):
            evaluate(str(runs / "imagen-blocks"), task, "blocksworld", {}, {}, limit=2)


def test_what_is_changed_is_judged(runs):
    from polytask.run.evaluate import evaluate

    folder, words = str(runs / "edit-blocks"), {"limit": 2, "drawing": {"steps": 1}}
    report = evaluate(folder, "editing", "blocksworld", {}, {}, **words)
    assert (report.task, report.examples, report.metrics["right"]) == ("editing", 8, 0)
    with pytest.raises(ConfigError, match="judged by task editing"):
        evaluate(folder, "drawing", "blocksworld", {}, {}, **words)
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


def test_data_is_counted_and_shown(runs):
    from polytask.run.data import examples_with_pictures

    prepared = prepare_recipe("imagen-blocks", [*FEW])
    (one,) = prepared.sources
    assert (len(one.train) + len(one.validation), prepared.size) == (24, 32)
    shown = examples_with_pictures("imagen-blocks", FEW, 2)
    assert len(shown) == 2
    assert "32 x 32 pixels" in shown[0].pieces[-1].text


def test_parameters_are_counted_without_building(runs):
    for name in SMALL:
        config = polytask.interop.networks.read(runs / name).config
        assert built.parameters(config) == sum(p.numel() for p in config.build().parameters())
    assert Path(runs / "imagen-64-blocks" / "model" / "parts" / "base" / "tokenizer.json").is_file()


@pytest.mark.parametrize(("name", "changes", "sentence"), [
    ("imagen-64-blocks", ["model.pixels=32"], "must be more than the 32 of the picture that is enlarged"),
    ("edit-blocks", ["training.dials.drop=0.5"], "a third at most"),
    ("edit-blocks", ["training.dials.blur=0.6"], "sees no picture made worse"),
    ("imagen-blocks", ["training.dials.drop=1.5"], "drop=1.5 must be a share"),
])  # fmt: skip
def test_mistakes_about_what_is_seen_beside_noise_are_named(name, changes, sentence, runs, tmp_path):
    with pytest.raises(ConfigError, match=sentence):
        train_recipe(small(name, runs, changes), tmp_path / "run", callbacks=[])


def test_what_changes_pictures_is_nothing_to_enlarge(runs, tmp_path):
    with pytest.raises(ConfigError, match="edit-blocks changes pictures and draws none"):
        train_recipe(
            small("imagen-64-blocks", runs, [f"model.base.from={runs / 'edit-blocks'}"]), tmp_path, callbacks=[]
        )
