"""A recipe with `evaluation.samples` shows what the model says while it trains."""

import json

import pytest

import polytask as pt
from polytask.interop import networks
from polytask.models.dvae import Autoencoder, AutoencoderConfig
from polytask.nn.quantizer import FiniteScalar

RECIPE = """
model: {{from: {model}}}
data:
  held_out: 0
  sources:
    - {{task: classification, from: moods.jsonl}}
training: {{steps: 2, batch_rows: 2, context_length: 256}}
evaluation:
  every: 1
  samples: 2
  tasks:
    - {{task: classification, from: moods.jsonl, split: null}}
    - {{task: answering, from: riddles.jsonl, split: null}}
"""
DRAWING = """
model: {{system: dalle, layers: 1, dim: 32, heads: 2, kernel: 3}}
tokenizer: {{kind: bytes, pictures: {{from: {codes}, text_length: 150}}}}
data:
  sources:
    - {{task: drawing, from: blocksworld, limit: 20}}
training: {{steps: 1, batch_rows: 2, context_length: 213}}
evaluation: {{every: 1, samples: 1}}
"""
MOODS = [{"text": f"The {thing} is fine.", "labels": ["good", "bad"], "label": "good"} for thing in "ABCDE"]
RIDDLES = [{"question": f"What is {number},\nand what not?", "answers": ["it"]} for number in range(5)]


@pytest.fixture(scope="module")
def work(tmp_path_factory, babbler):
    folder = tmp_path_factory.mktemp("samples")
    for name, rows in (("moods", MOODS), ("riddles", RIDDLES)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.yaml").write_text(RECIPE.format(model=babbler))
    return folder


@pytest.fixture(scope="module")
def told(polytask, work):
    """The lines that training prints between its figures."""
    result = polytask("train", work / "recipe.yaml", "--out", work / "run")
    assert result.exit_code == 0, result.stderr
    return [line for line in result.stderr.splitlines() if " → " in line]


def test_samples_of_every_task_are_shown_other_ones_each_time(told):
    asked = [line.partition(" → ")[0] for line in told]
    assert asked == [
        f"{kind}{question}"
        for step in (1, 2)
        for kind, questions in (
            ("classification: ", [f"Classify as good, bad: The {thing} is fine." for thing in "ABCDE"]),
            ("answering: ", [f"Question: What is {number}, and what not?" for number in range(5)]),
        )
        for question in questions[step : step + 2]
    ]


def test_samples_are_what_the_model_says(told, work):
    """The last ones are those of the model that is kept."""
    model = pt.load(work / "run", dtype="float32")
    labels = [model.ask("classification", row) for row in MOODS[2:4]]
    answers = [" ".join(model.ask("answering", row, max_tokens=60).split()) for row in RIDDLES[2:4]]
    assert [line.partition(" → ")[2] for line in told[-4:]] == labels + answers
    assert answers[0] != answers[1]


def test_a_recipe_that_scores_no_task_shows_texts_of_its_own(polytask, work):
    changes = ["evaluation={every: 1, samples: 3}"]
    result = polytask("train", work / "recipe.yaml", "--out", work / "texts", "--set", *changes)
    assert result.exit_code == 0, result.stderr
    texts = [line for line in result.stderr.splitlines() if line.startswith("text: ")]
    assert len(texts) == len(set(texts)) == 2 * 3


def test_a_model_that_only_draws_shows_no_text_and_is_kept(polytask, work):
    config = AutoencoderConfig(image=32, width=8, quantizer=FiniteScalar((4, 4)), groups=3, blocks=1, first=8)
    networks.save(work / "codes", Autoencoder(config).initialize(0))
    (work / "drawing.yaml").write_text(DRAWING.format(codes=work / "codes"))
    result = polytask("train", work / "drawing.yaml", "--out", work / "drawing")
    assert result.exit_code == 0, result.stderr
    assert "no samples" not in result.stderr
    assert "text: " not in result.stderr
    assert "text" not in pt.load(work / "drawing").able
