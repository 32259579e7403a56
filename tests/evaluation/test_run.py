"""Tasks that are scored while a recipe trains, and checkpoints on files and worlds."""

import json

import pytest

from polytask.errors import ConfigError, DataError
from polytask.recipe import load_recipe
from polytask.run.evaluate import evaluate
from polytask.run.train import train_recipe

RECIPE = """
model: {system: generalist, depth: 1, dim: 32, heads: 2}
tokenizer: {kind: bytes}
data:
  sources:
    - {task: classification, from: rows.jsonl}
training: {steps: 40, batch_rows: 8, context_length: 96, lr: 1e-2, save_every: 100}
evaluation:
  every: 20
  tasks:
    - {task: classification, from: rows.jsonl, name: mood, limit: 20, shots: 0}
    - {task: answering, from: blocksworld, limit: 4, metric: exact_match, sampling: {max_tokens: 5}}
  keep_best: {metric: mood/accuracy, mode: highest}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    rows = [
        {"text": f"{word} {i}", "label": label, "labels": ["good", "bad"]}
        for i in range(20)
        for word, label in (("fine", "good"), ("awful", "bad"))
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYTASK_CACHE", str(folder / "cache"))
        return train_recipe(load_recipe(folder / "recipe.yaml"), folder / "run", callbacks=[], device_name="cpu")


def test_tasks_are_scored_while_training(folder, trained):
    assert {"mood/accuracy", "mood/macro_f1", "blocksworld-answering/exact_match"} <= set(trained.metrics)
    assert "blocksworld-answering/squad_f1" not in trained.metrics
    again = evaluate(
        str(folder / "run"), "classification", str(folder / "rows.jsonl"), {}, {}, limit=20, shots=0, quiet=True
    )
    assert again.metrics["accuracy"] >= trained.metrics["mood/accuracy"], "the best is kept"
    assert set(again.reproduce) >= {"data", "model"}


def test_a_world_is_asked_of_its_test_split(folder, trained):
    report = evaluate(str(folder / "run"), "classification", "blocksworld", {}, {}, limit=3, quiet=True)
    from polytask.blocksworld import examples

    assert report.examples == 3
    asked = [row["text"] for row in examples("classification", 3, split="test")]
    assert all(text in sample.prompt for text, sample in zip(asked, report.samples))


def test_long_rows_are_cut_and_the_report_says_so(folder, trained):
    rows = [{"text": "fine " * n, "label": "good", "labels": ["good", "bad"]} for n in (1, 2, 100)]
    (folder / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = evaluate(str(folder / "run"), "classification", str(folder / "long.jsonl"), {}, {}, quiet=True)
    assert report.examples == 3
    assert any("onger than the model reads" in note for note in report.notes)


def test_shots_come_from_the_same_file(folder, trained):
    report = evaluate(
        str(folder / "run"), "classification", str(folder / "rows.jsonl"), {}, {}, limit=4, shots=1, quiet=True
    )
    assert report.samples[0].prompt.count("Classify") == 2
    with pytest.raises(DataError, match="only 39 others"):
        evaluate(str(folder / "run"), "classification", str(folder / "rows.jsonl"), {}, {}, shots=40, quiet=True)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("sampling: {max_token: 5}", "did you mean 'max_tokens'"),
        ("metric: exact_mach", "did you mean 'exact_match'"),
    ],
)
def test_mistakes_in_the_recipe_are_sentences(folder, monkeypatch, tmp_path, change, sentence):
    monkeypatch.setenv("POLYTASK_CACHE", str(folder / "cache"))
    file = folder / f"{tmp_path.name}.yaml"
    old = "sampling: {max_tokens: 5}" if change.startswith("sampling") else "metric: exact_match"
    file.write_text(RECIPE.replace(old, change).replace("every: 20", "every: 1"))
    with pytest.raises(ConfigError, match=sentence):
        train_recipe(load_recipe(file), tmp_path / "run", callbacks=[], device_name="cpu")
