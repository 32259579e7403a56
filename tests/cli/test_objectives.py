"""Objectives other than the next token, from the recipe to the answer."""

import json
import math

import pytest

from polytask.training.logs import read_log

TWO_SIDED = """
model: {system: generalist, depth: 2, dim: 64, heads: 2}
tokenizer: {kind: bpe, size: 500}
data:
  held_out: 0
  sources:
    - {task: classification, from: rows.jsonl, weight: 3}
    - {task: text, from: places.jsonl, weight: 1}
training:
  {steps: 60, batch_rows: 8, context_length: 64, lr: 5e-3, precision: float32, log_every: 1}
evaluation: {every: 0}
"""


@pytest.fixture(scope="module")
def recipe(folder):
    """Praise and blame as in the folder's own recipe, and plain text, which is what span corruption is about."""
    things = ("soup", "song", "road", "house", "coat", "film")
    texts = [{"text": f"The {one} is near the {other}."} for one in things for other in things if one != other]
    (folder / "places.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    (folder / "objectives.yaml").write_text(TWO_SIDED)
    return folder / "objectives.yaml"


@pytest.fixture(scope="module", params=["prefix", "span_corruption"])
def learnt(polytask, recipe, tmp_path_factory, request):
    """The objective, and the folder of a run with it. One thread suffices, and does not wait for others at work."""
    out = tmp_path_factory.mktemp("objective") / request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        result = polytask("train", recipe, "--out", out, "--set", f"training.objective={request.param}")
    assert result.exit_code == 0, result.stderr
    return request.param, out


def test_the_losses_of_all_sources_fall(learnt):
    _, out = learnt
    lines = read_log(out / "log.jsonl")
    assert len(lines) == 60
    for name in ("loss", "loss/rows", "loss/places"):
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


@pytest.mark.parametrize(("text", "label"), [("This soup is awful.", "bad"), ("This film is lovely.", "good")])
def test_the_model_can_be_asked(polytask, learnt, text, label):
    _, out = learnt
    result = polytask("ask", out, "classification", "--text", text, "--labels", "good", "bad", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["answer"] == label
