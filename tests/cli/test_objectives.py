"""Objectives other than the next token, from the recipe to the answer."""

import json
import math

import pytest

from polytask.training.logs import read_log
from tests.training import recipes

PLAIN = ("training.steps=60", "training.accumulate=1", "training.dropout=0", "training.ema=0", "evaluation.every=0",
         "data.held_out=0", "model.dim=64")  # fmt: skip


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Praise and blame, and plain text, which is what span corruption is about."""
    return recipes.write(tmp_path_factory.mktemp("objectives"))


@pytest.fixture(scope="module", params=["prefix", "span_corruption"])
def learnt(polytask, recipe, tmp_path_factory, request):
    """The objective, and the folder of a run with it. One thread suffices, and does not wait for others at work."""
    out = tmp_path_factory.mktemp("objective") / request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        result = polytask("train", recipe, "--out", out, "--set", *PLAIN, f"training.objective={request.param}")
    assert result.exit_code == 0, result.stderr
    return request.param, out


def test_the_losses_of_all_sources_fall(learnt):
    _, out = learnt
    lines = read_log(out / "log.jsonl")
    assert len(lines) == 60
    for name in ("loss", "loss/praise", "loss/places"):
        values = [line[name] for line in lines if name in line]
        assert all(map(math.isfinite, values))
        assert sum(values[-5:]) < sum(values[:5]) / 3, name


def test_the_objective_is_what_is_learnt(polytask, recipe, learnt):
    """Span corruption hides text behind marks; a model of prefixes reads its prompts from both sides ever after."""
    objective, out = learnt
    shown = polytask("data", "show", recipe, "--rows", 8, "--set", f"training.objective={objective}")
    assert shown.exit_code == 0, shown.stderr
    assert ("<|mask_0|>" in shown.stdout) == (objective == "span_corruption")
    config = json.loads((out / "model" / "config.json").read_text())
    assert config["architecture"]["prefix"] == (objective == "prefix")


@pytest.mark.parametrize(("text", "label"), [("This soup is awful.", "bad"), ("This book is lovely.", "good")])
def test_the_model_can_be_asked(polytask, learnt, text, label):
    _, out = learnt
    result = polytask("ask", out, "classification", "--text", text, "--labels", "good", "bad", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["answer"] == label


def test_an_encoder_decoder_takes_rows_one_by_one(polytask, recipe, tmp_path):
    words = (
        *PLAIN,
        "model={system: transformer, layers: 1, dim: 32, heads: 2, width: 64}",
        "data.sources.0.together=3",
    )
    result = polytask("train", recipe, "--out", tmp_path / "run", "--set", *words)
    assert result.exit_code == 2
    assert "learns a document's last answer alone; leave it out." in " ".join(result.stderr.split())
