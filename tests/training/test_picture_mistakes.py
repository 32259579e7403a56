"""Mistakes in recipes of networks for pictures are one sentence each."""

import pytest

from polytask.errors import ConfigError
from polytask.run.assembly import read_recipe
from polytask.run.train import train_recipe
from tests.training.picture_runs import more_of_unclip, small


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
    ("clip-blocks", ["data.sources.0.together=2"], "documents of a decoder"),
    ("imagen-blocks", ["model.attention=[7]"], "attention at 7"),
    ("gpt3-tiny", ["training.dials.drop=0.1"], r"training\.dials: gpt3 has none"),
    ("imagen-blocks", ["drawing.guidanc=2"], "there is no 'guidanc': did you mean 'guidance'"),
    ("imagen-blocks", ["drawing.sampler=heum"], "did you mean 'heun'"), ("imagen-blocks", ["drawing.n=2"], "n is said"),
    ("imagen-blocks", ["drawing.eta=0.5"], "dpm_solver adds no noise"),
    ("imagen-blocks", ["drawing.steps=1001"], "from 1 to 1000"),
    ("imagen-blocks", ["drawing.picture_guidance=2"], "of a model that changes pictures"),
    ("imagen-blocks", ["drawing.augmentation=0.1"], "that enlarges"),
    ("imagen-blocks", ["drawing.prior_steps=8"], "with a prior"),
    ("clip-blocks", ["drawing.steps=8"], "how diffusion draws, and clip is none"),
    ("gpt3-tiny", ["drawing.steps=8"], "how diffusion draws, and gpt3 is none"),
])  # fmt: skip
def test_mistakes_in_recipes_are_named(name, changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        read_recipe(name, changes)


@pytest.mark.parametrize(("change", "sentence"), [
    ("model.classes=2", "model.classes=2, but the data has"), ("training.dials={shift: 0.5}", "a whole number"),
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


@pytest.mark.parametrize(("name", "changes", "sentence"), [
    ("imagen-64-blocks", ["model.pixels=32"], "must be more than the 32 of the picture that is enlarged"),
    ("edit-blocks", ["training.dials.drop=0.5"], "a third at most"),
    ("edit-blocks", ["training.dials.blur=0.6"], "sees no picture made worse"),
    ("edit-blocks", ["model.channels=64"], "model.channels: the network has all of the sizes"),
    ("imagen-blocks", ["training.dials.drop=1.5"], "drop=1.5 must be a share"),
    ("imagen-blocks", ["training.dials.drop=many"], "drop=many must be a number"),
    ("imagen-64-blocks", ["training.dials.crop=2.5"], "crop=2.5 must be a whole number or null"),
    ("imagen-64-blocks", ["training.dials.crop=0"], "crop=0 must be at least 1"),
])  # fmt: skip
def test_mistakes_about_what_is_seen_beside_noise_are_named(name, changes, sentence, runs, tmp_path):
    with pytest.raises(ConfigError, match=sentence):
        train_recipe(small(name, runs, changes), tmp_path / "run", callbacks=[])


def test_what_changes_pictures_is_nothing_to_enlarge(runs, tmp_path):
    with pytest.raises(ConfigError, match="edit-blocks changes pictures and draws none"):
        train_recipe(
            small("imagen-64-blocks", runs, [f"model.base.from={runs / 'edit-blocks'}"]), tmp_path, callbacks=[]
        )
    for name, sentence in (
        ("edit-blocks", "changes pictures and draws none"), ("imagen-64-blocks", "enlarges pictures and draws none"),
        ("mnist-digits", "reads no captions"), ("unclip-blocks", "draws embeddings of 32 numbers beside captions"),
        ("clip-blocks", "holds a CLIPConfig"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=f"{name} {sentence}"):
            train_recipe(small("edit-blocks", runs, [f"model.drawing.from={runs / name}"]), tmp_path, callbacks=[])
    with pytest.raises(ConfigError, match="imagen-blocks draws captions alone; name a run that draws embeddings of 32"):
        train_recipe(more_of_unclip(runs, drawing="imagen-blocks"), tmp_path, callbacks=[])
