"""A tuned adapter beside its base is the model that tuning has made, for whoever asks and however."""

import json

import pytest

import polytask as pt
from polytask.tasks import Text, get_task, prompt

LABELS = ["good", "bad"]
TEXTS = ["This soup is awful.", "This film is lovely.", "This day is great.", "This road is nasty."]


@pytest.fixture(scope="module")
def tuned(polytask, trained, tmp_path_factory):
    """The folder of a run that has learnt, by adapters, that everything is bad."""
    folder = tmp_path_factory.mktemp("adapter")
    rows = [{"text": text, "label": "bad", "labels": LABELS} for text in TEXTS] * 10
    (folder / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--task", "classification", "--data", folder / "bad.jsonl", "--steps", 20, "--lr", 5e-3]
    result = polytask("tune", trained[0], *words, "--lora", "--rank", 4, "--out", folder / "tuned")
    assert result.exit_code == 0, result.stderr
    return folder / "tuned"


def scores(path, **words):
    """Log-probabilities of both labels after every text."""
    model = pt.load(path, dtype="float32", **words)
    asked = [prompt(get_task("classification"), {"text": text, "labels": LABELS}) for text in TEXTS]
    pairs = [(given, [Text(label, target=True)]) for given in asked for label in LABELS]
    return [score.logprob for score in model.score(*map(list, zip(*pairs)))]


def test_base_and_adapter_are_the_merged_model(trained, tuned):
    base, merged = scores(trained[0]), scores(tuned)
    assert scores(trained[0], adapter=tuned / "model" / "adapter") == pytest.approx(merged, abs=1e-4)
    assert base != pytest.approx(merged, abs=1.0)
    assert scores(trained[0]) == base, "loading an adapter leaves its base as it was"


def test_asking_with_an_adapter(polytask, trained, tuned):
    asked = ["classification", "--text", "This film is lovely.", "--labels", *LABELS]
    adapter = ["--adapter", tuned / "model" / "adapter"]
    assert polytask("ask", trained[0], *asked).stdout.strip() == "good"
    assert polytask("ask", tuned, *asked).stdout.strip() == "bad"
    assert polytask("ask", trained[0], *asked, *adapter).stdout.strip() == "bad"
    short = polytask("classify", trained[0], "This film is lovely.", "--labels", *LABELS, *adapter)
    assert short.stdout.strip() == "bad"


def test_evaluating_with_an_adapter(polytask, trained, tuned):
    words = ["--task", "classification", "--data", tuned.parent / "bad.jsonl", "--limit", 4, "--json"]

    def accuracy(model, *more):
        return json.loads(polytask("eval", model, *words, *more).stdout)["metrics"]["accuracy"]

    assert accuracy(trained[0]) == 0.5
    assert accuracy(trained[0], "--adapter", tuned / "model" / "adapter") == accuracy(tuned) == 1.0


def test_an_adapter_of_another_model_is_refused(polytask, babbler, tuned):
    words = ["--text", "Good.", "--adapter", tuned / "model" / "adapter"]
    result = polytask("ask", babbler, "classification", *words)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert str(tuned / "model" / "adapter") in result.stderr
