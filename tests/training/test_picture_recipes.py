"""Recipes of networks for pictures: planned, trained by the one trainer, and resumed exactly."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import polytask
import polytask.interop.networks
from polytask.models import built
from polytask.run.assembly import assemble_any, read_recipe
from polytask.run.data import prepare_recipe
from polytask.run.plan import plan_recipe
from polytask.run.show import describe
from polytask.run.train import train_recipe
from tests.training.picture_runs import FEW, SMALL, more_of_unclip, small


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


@pytest.mark.parametrize("name", [name for name in SMALL if read_recipe(name, []).drawing])
def test_what_a_recipe_says_of_drawing_is_how_its_model_draws(name, runs):
    said = read_recipe(name, []).drawing
    wish = polytask.load(runs / name).wish({})
    assert {dial: getattr(wish, dial) for dial in said} == said
    assert describe(str(runs / name))["drawing"] == said
    card = (runs / name / "model" / "README.md").read_text()
    assert f"It draws by {', '.join(f'{dial} {value}' for dial, value in said.items())}, unless" in card


@pytest.mark.parametrize("name", [n for n in SMALL if not any(part in n for part in ("unclip", "64", "edit", "more"))])
def test_they_are_planned(name):
    made = plan_recipe(name, measure=False)
    assert made.unit == "pictures"
    assert made.tokens == read_recipe(name, []).training.steps * read_recipe(name, []).training.batch_rows
    assert 1e12 < made.flops < 3e15  # two hours of two cores at 250 GFLOP/s, or a few minutes of a GPU
    assert made.memory["activations"] > made.memory["weights"]


def test_plans_count_on_recomputation_and_lower_precision():
    def activations(*changes):
        return plan_recipe("dvae-blocks", changes, measure=False).memory["activations"]

    whole = activations("training.precision=float32")
    assert activations("training.precision=float32", "training.checkpointing=true") < 0.8 * whole
    assert activations("training.precision=bfloat16") < 0.7 * whole


def test_plans_count_what_is_trained(runs):
    recipe = small("unclip-blocks", runs)
    from polytask.run.pictures import Frozen, picture_config
    from polytask.run.plan import planned_pictures

    frozen = Frozen(recipe)
    config = picture_config(recipe, frozen, vocab_size=frozen.tokenizer().vocab_size)
    made = planned_pictures(recipe, config, frozen, torch.device("cpu"))
    assert made.total_parameters == sum(tensor.numel() for tensor in weights(runs / "unclip-blocks").values())


def test_what_changes_pictures_begins_as_what_draws(runs):
    recipe = small("edit-blocks", runs)
    made = assemble_any(recipe)
    begun, drawing = made.network(torch.device("cpu")), polytask.interop.networks.load(runs / "imagen-blocks" / "model")
    noise, t = torch.randn(2, 3, 32, 32), torch.tensor([10, 700])
    ids = torch.randint(1, 200, (2, 9))
    with torch.no_grad():
        condition = begun.condition(ids, torch.ones_like(ids, dtype=torch.bool))
        expected = drawing(noise, t, drawing.condition(ids, torch.ones_like(ids, dtype=torch.bool)))
        found = begun(noise, t, condition, low=torch.randn(2, 3, 32, 32))
    assert torch.equal(found, expected)
    assert not (runs / "edit-blocks" / "model" / "parts").exists()


@pytest.mark.parametrize("form", ["efficient", "improved"])
def test_imagens_upsampler_has_either_form(runs, form):
    made = assemble_any(small("imagen-64-blocks", runs, [f"model.form={form}"]))
    device = torch.device("cpu")
    network = made.network(device)
    assert network.config.unet.form == form
    loss = made.objective(device).loss(network, made.loader().batch(0))
    assert torch.isfinite(loss.sum)


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


def test_a_network_that_draws_goes_on_from_its_weights(runs, tmp_path):
    changes = ["training.lr=1e-12", "training.ema=0.0"]
    train_recipe(small("imagen-more-blocks", runs, changes), tmp_path, callbacks=[])
    before, after = weights(runs / "imagen-blocks"), weights(tmp_path)
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
    assert describe(str(tmp_path))["steps"] == 2
    assert not (tmp_path / "model" / "parts").exists()


def test_a_network_that_draws_embeddings_goes_on_from_its_weights(runs, tmp_path):
    train_recipe(more_of_unclip(runs, ["training.lr=1e-12", "training.ema=0.0"]), tmp_path, callbacks=[])
    before, after = weights(runs / "unclip-blocks"), weights(tmp_path)
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
    assert {part.name for part in (tmp_path / "model" / "parts").iterdir()} == {"clip", "prior"}
    assert polytask.load(tmp_path).variations(polytask.load(tmp_path).draw("a circle", steps=1)[0], steps=1)


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
