"""Runs verbs in this process, with a cache of their own."""

import json

import pytest
from typer.testing import CliRunner

import polytask as pt
from polytask.cli.main import app
from tests.inference.networks import TOKENIZER, network

RECIPE = """
model: {system: generalist, depth: 2, dim: 64, heads: 2}
tokenizer: {kind: bpe, size: 500}
data:
  held_out: 0.1
  sources:
    - {task: classification, from: rows.jsonl, licence: CC0, attribution: the test}
training: {steps: 60, batch_rows: 8, context_length: 64, lr: 5e-3, log_every: 20, save_every: 30}
evaluation: {every: 30}
"""
WORDS = {"good": ("great", "fine", "lovely"), "bad": ("awful", "poor", "nasty")}


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYTASK_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def polytask():
    """polytask("train", "r.yaml", ...) -> result with exit_code, stdout, stderr."""
    runner = CliRunner()

    def run(*words, stdin=None):
        return runner.invoke(app, [str(word) for word in words], input=stdin)

    return run


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A recipe and its data: whether a word is praise or blame."""
    folder = tmp_path_factory.mktemp("work")
    rows = [
        {"text": f"This {thing} is {word}.", "label": label, "labels": list(WORDS)}
        for label, words in WORDS.items()
        for word in words
        for thing in ("soup", "song", "day", "book", "road", "house", "film", "game", "coat", "idea")
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="session")
def trained(polytask, folder):
    """The folder of a run of that recipe, and what training printed."""
    result = polytask("train", folder / "recipe.yaml", "--out", folder / "run")
    assert result.exit_code == 0, result.stderr
    return folder / "run", result


@pytest.fixture(scope="session")
def train_of(polytask, tmp_path_factory):
    """train_of(text of a recipe) -> the folder of its run, beside recipe.yaml, and what training printed."""

    def train(recipe):
        folder = tmp_path_factory.mktemp("run")
        (folder / "recipe.yaml").write_text(recipe)
        result = polytask("train", folder / "recipe.yaml", "--out", folder / "run")
        assert result.exit_code == 0, result.stderr
        return folder / "run", result.stdout + result.stderr

    return train


@pytest.fixture(scope="session")
def babbler(tmp_path_factory):
    """The folder of a model that has learnt nothing, and answers every prompt with other nonsense."""
    folder = tmp_path_factory.mktemp("babbler")
    pt.Model(network(context=256), TOKENIZER).save(folder / "model")
    return folder / "model"
