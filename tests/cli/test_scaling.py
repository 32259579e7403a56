"""polytask scaling: from small runs to a prediction, and from the large run to whether it holds."""

import json
import shutil

import pytest

from polytask.evaluation.scaling import Law
from tests.cli.test_mistakes import refused

RECIPE = """
model: {system: generalist, depth: 1, dim: 16, heads: 1}
tokenizer: {kind: bytes}
data:
  held_out: 0.2
  sources:
    - {task: text, from: lines.jsonl}
training: {steps: 12, batch_rows: 2, context_length: 32, lr: 5e-3, precision: float32, save_every: 0}
evaluation: {every: 12}
"""
LAW = Law(("flops",), 1.2, (400.0,), (0.25,))


@pytest.fixture(scope="module")
def ladder(polytask, tmp_path_factory):
    """A recipe, and runs of 4, 8 and 12 steps."""
    folder = tmp_path_factory.mktemp("ladder")
    (folder / "recipe.yaml").write_text(RECIPE)
    rows = [json.dumps({"text": f"Line {n} says that {n} and {n} are {2 * n}."}) for n in range(300)]
    (folder / "lines.jsonl").write_text("\n".join(rows))
    for steps in (4, 8, 12):
        train(polytask, folder, folder / "small" / str(steps), steps)
    return folder


def train(polytask, folder, out, steps):
    done = polytask(
        "train", folder / "recipe.yaml", "--out", out, "--set", f"training.steps={steps}", f"evaluation.every={steps}"
    )
    assert done.exit_code == 0, done.stderr


@pytest.fixture
def table(tmp_path):
    rows = [f"r{n},{1e9 * 2**n},{LAW.loss(1e9 * 2**n)}" for n in range(6)]
    (tmp_path / "runs.csv").write_text("name,compute,loss\n" + "\n".join(rows) + "\n")
    return tmp_path / "runs.csv"


def test_runs_are_fitted_predicted_and_checked(polytask, ladder, tmp_path):
    out = tmp_path / "p.json"
    done = polytask("scaling", "fit", ladder / "small", "--predict", ladder / "recipe.yaml", "--out", out,
                    "--set", "training.steps=240")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    said = json.loads(out.read_text())
    assert said["times"] == pytest.approx(20)
    assert "Note" not in done.stderr
    assert [run["name"] for run in said["runs"]] == ["12", "4", "8"]
    log = (ladder / "small" / "8" / "log.jsonl").read_text().splitlines()
    assert said["runs"][2]["loss"] == json.loads(log[-1])["evaluation"]["validation_loss"]
    assert said["runs"][2]["tokens"] == 8 * 2 * 32
    plan = json.loads(
        polytask("plan", ladder / "recipe.yaml", "--no-measure", "--json", "--set", "training.steps=240").stdout
    )
    assert said["flops"] == plan["flops"]
    before = (tmp_path / "p.png").read_bytes()

    train(polytask, ladder, tmp_path / "large", 240)
    done = polytask("scaling", "check", out, tmp_path / "large", "--json")
    found = json.loads(done.stdout)
    assert found["before"]
    assert found["error"] == pytest.approx(said["loss"] / found["loss"] - 1)
    assert done.exit_code == (0 if abs(found["error"]) <= 0.02 else 1)
    assert (tmp_path / "p.png").read_bytes() != before

    late = said | {"loss": found["loss"] * 1.015, "made": "2999-01-01T00:00:00+00:00"}
    out.write_text(json.dumps(late))
    done = polytask("scaling", "check", out, tmp_path / "large")
    assert done.exit_code == 1
    assert "holds within 2%" in done.stdout
    assert "after the run began" in done.stdout
    out.write_text(json.dumps(late | {"made": said["made"]}))
    assert polytask("scaling", "check", out, tmp_path / "large").exit_code == 0
    out.write_text(json.dumps(said | {"loss": found["loss"] * 1.03}))
    done = polytask("scaling", "check", out, tmp_path / "large")
    assert (done.exit_code, "does not hold within 2%" in done.stdout) == (1, True)


def test_a_table_of_runs_gives_its_law(polytask, table, tmp_path):
    done = polytask("scaling", "fit", table, "--predict", "1e12", "--out", tmp_path / "p.json", "--json")
    found = json.loads(done.stdout)
    assert found["law"].pop("form") == "L(C) = a C^b + c"
    assert found["law"] == pytest.approx(LAW.named(), rel=1e-4)
    assert found["prediction"]["loss"] == pytest.approx(LAW.loss(1e12), rel=1e-5)
    assert found["prediction"] == json.loads((tmp_path / "p.json").read_text())
    lines = [json.dumps({"parameters": 1e4, "tokens": 1e6 * 2**n, "loss": 1 + 0.5**n}) for n in range(4)]
    (tmp_path / "runs.jsonl").write_text("\n".join(lines))
    shown = polytask("scaling", "fit", tmp_path / "runs.jsonl").stdout
    assert "b = -1\n" in shown.replace("   (", "\n")
    assert "6e+10" in shown


def test_a_near_prediction_is_said_to_be_near(polytask, table, tmp_path):
    done = polytask("scaling", "fit", table, "--predict", "6.4e10", "--out", tmp_path / "p.json")
    assert done.exit_code == 0
    assert "2 times the compute of the largest small run" in " ".join(done.stderr.split())


def test_a_prediction_is_not_written_over(polytask, table, tmp_path):
    words = ("scaling", "fit", table, "--predict", "1e12", "--out", tmp_path / "p.json")
    assert polytask(*words).exit_code == 0
    kept = (tmp_path / "p.json").read_bytes()
    refused(polytask(*words), "is not written over")
    assert (tmp_path / "p.json").read_bytes() == kept


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda run: (run / "log.jsonl").unlink(), "has no log.jsonl"),
        (lambda run: (run / "recipe.yaml").unlink(), "holds no runs"),
        (lambda run: (run / "tokenizer.json").unlink(), "has no tokenizer.json"),
        (lambda run: cut(run / "log.jsonl"), "stopped at step 7 of 8"),
        (lambda run: shutil.rmtree(run), "no folder of a run"),
    ],
)
def test_a_run_that_lacks_something_is_told(polytask, ladder, tmp_path, change, sentence):
    shutil.copytree(ladder / "small" / "8", tmp_path / "8")
    change(tmp_path / "8")
    refused(polytask("scaling", "fit", tmp_path / "8", ladder / "small"), sentence, str(tmp_path / "8"))


def cut(log):
    """Leaves out the lines of the last step."""
    log.write_text(json.dumps({"step": 7, "loss": 2.0}) + "\n")


def test_wrong_words_are_told(polytask, ladder, table, tmp_path):
    small = ladder / "small"
    refused(polytask("scaling", "fit", small / "4", small / "8"), "there are 2")
    refused(polytask("scaling", "fit", small, "--metric", "bleu"), "no bleu of the last step", "validation_loss")
    refused(polytask("scaling", "fit", tmp_path), "no runs")
    refused(polytask("scaling", "fit", table, "--predict", "-3"), "above 0")
    refused(polytask("scaling", "fit", table, "--predict", "1e12", "--out", tmp_path / "p.png"), ".json")
    refused(polytask("scaling", "fit", table, "--predict", "no-recipe"), "no-recipe")
    (tmp_path / "bad.csv").write_text("flops,loss\n1e9,3\n1e10,two\n")
    refused(polytask("scaling", "fit", tmp_path / "bad.csv"), "row 2", "'two'")
    (tmp_path / "bad.csv").write_text("compute,perplexity\n1e9,3\n")
    refused(polytask("scaling", "fit", tmp_path / "bad.csv"), "row 1", "loss")
    (tmp_path / "bad.jsonl").write_text("[1, 2]\n{")
    refused(polytask("scaling", "fit", tmp_path / "bad.jsonl"), "not JSONL")
    refused(polytask("scaling", "check", tmp_path / "none.json", small / "4"), "none.json")
    (tmp_path / "empty.json").write_text("{}")
    refused(polytask("scaling", "check", tmp_path / "empty.json", small / "4"), "is no prediction")
    polytask("scaling", "fit", table, "--predict", "1e12", "--out", tmp_path / "p.json")
    refused(polytask("scaling", "check", tmp_path / "p.json", small / "4"), "1e+12", "the run that was predicted")
