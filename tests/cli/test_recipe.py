"""What can be done with a recipe, before and while it trains."""

import json
import signal
import time

from tests.training import recipes


def test_plan_says_what_training_will_cost(polytask, folder, trained):
    planned = json.loads(polytask("plan", folder / "recipe.yaml", "--no-measure", "--json").stdout)
    assert planned["tokens"] == 60 * 8 * 64
    assert planned["memory_bytes"]["total"] > 0
    shown = polytask("plan", folder / "recipe.yaml").stdout
    for word in ("parameters", "activations", "GFLOP/s", "derived", "warmup"):
        assert word in shown


def test_a_plan_counts_the_parameters_that_training_has(polytask, folder, trained):
    run, _ = trained
    made = json.loads(polytask("show", run, "--json").stdout)
    tokens = made["tokenizer"]["tokens"]
    changes = ["--set", f"tokenizer.size={tokens}", "training.steps=5"]
    planned = json.loads(polytask("plan", folder / "recipe.yaml", *changes, "--no-measure", "--json").stdout)
    assert planned["parameters"]["total"] == made["parameters"]
    assert planned["tokens"] == 5 * 8 * 64


def test_rows_are_shown_as_the_model_sees_them(polytask, folder):
    result = polytask("data", "show", folder / "recipe.yaml", "--rows", 2)
    assert result.exit_code == 0, result.stderr
    assert "<|task|>" in result.stdout
    learnt = [line for line in result.stdout.splitlines() if "<|answer|>{{" in line]
    assert learnt
    for line in learnt:
        answer = line.split("<|answer|>{{")[1]
        assert answer.startswith(("good<|end|>}}", "bad<|end|>}}")), "only the label is learnt"


def test_prepare_counts_the_data(polytask, folder):
    result = polytask("data", "prepare", folder / "recipe.yaml")
    assert result.exit_code == 0, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("rows ")]
    examples, held_out = line.split()[1:3]
    assert int(examples) + int(held_out) == 60


def test_training_ends_with_the_next_commands(trained):
    run, result = trained
    for word in (f"polytask ask {run}/model", "polytask eval", "polytask serve", "polytask show"):
        assert word in result.stdout
    assert (run / "recipe.yaml").exists()


def test_a_checkpoint_says_what_it_was_made_of(polytask, trained):
    run, _ = trained
    made = json.loads(polytask("show", run, "--json").stdout)
    assert made["data"][0]["licence"] == "CC0"
    assert made["tasks"] == ["classification"]
    assert "CC0" in (run / "model" / "README.md").read_text()
    shown = polytask("show", run / "model").stdout
    for word in ("feed-forward", "GatedMLP", "Rotary", "CC0"):
        assert word in shown


def test_a_checkpoint_says_what_it_saw_and_reached(polytask, trained):
    run, _ = trained
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    reached = [line["evaluation"] for line in log if "evaluation" in line][-1]
    tokens = [line["tokens"] for line in log if "tokens" in line][-1]
    made = json.loads(polytask("show", run, "--json").stdout)
    assert made["figures"] == reached
    assert made["tokens_seen"] == tokens > 0
    card = (run / "model" / "README.md").read_text()
    assert f"saw {tokens:,} tokens" in card
    assert f"| validation_loss | {reached['validation_loss']:.4g} |" in card
    shown = polytask("show", run).stdout
    assert f"{tokens:,}" in shown
    assert "validation_loss" in shown


def test_progress_says_which_share_of_the_products_it_reaches(trained):
    run, _ = trained
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert all(0 < line["mfu"] < 1 for line in log if "loss" in line)


def test_what_cleaning_removes_is_said_with_examples(polytask, folder, tmp_path):
    rows = [json.dumps({"text": f"Line {number} of many."}) for number in range(40)]
    (tmp_path / "lines.jsonl").write_text("\n".join([*rows, *rows[:7]]) + "\n")
    (tmp_path / "recipe.yaml").write_text(
        "model: {system: generalist, depth: 1, dim: 32, heads: 1}\ntokenizer: {kind: bytes}\n"
        "data:\n  clean: {exact: true}\n  sources: [{task: text, from: lines.jsonl}]\n"
        "training: {steps: 1, batch_rows: 2, context_length: 64}\n"
    )
    first = polytask("data", "prepare", tmp_path / "recipe.yaml")
    assert "40 of 47 rows kept: 7 exact duplicates" in first.stderr
    again = polytask("data", "prepare", tmp_path / "recipe.yaml")  # from the cache
    assert "40 of 47 rows kept: 7 exact duplicates" in again.stdout
    assert "Line 3 of many." in again.stdout


def test_what_training_cuts_is_counted(polytask, tmp_path):
    rows = [{"document": "word " * (5 if number else 200), "summary": "short"} for number in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.yaml").write_text(
        "model: {system: generalist, depth: 1, dim: 32, heads: 1}\ntokenizer: {kind: bytes}\n"
        "data: {held_out: 0, sources: [{task: summarization, from: rows.jsonl}]}\n"
        "training: {steps: 1, batch_rows: 2, context_length: 64}\nevaluation: {every: 0}\n"
    )
    result = polytask("train", tmp_path / "recipe.yaml", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    assert "1 of the 20 examples of 'rows' are longer than a row" in result.stderr


def test_stopping_a_run_keeps_a_shell_from_going_on(tmp_path):
    """`polytask train ... && polytask eval ...` must not evaluate half a model."""
    recipe = recipes.write(tmp_path)
    process = recipes.start(recipe, tmp_path / "run", changes=["training.steps=2000"])
    deadline = time.monotonic() + 120
    while not list((tmp_path / "run" / "checkpoints").glob("step-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "--resume" in said


def test_a_run_is_not_overwritten(polytask, folder, trained):
    run, _ = trained
    before = (run / "recipe.yaml").read_text()
    result = polytask("train", folder / "recipe.yaml", "--out", run, "--set", "seed=5")
    assert result.exit_code == 2
    assert "--resume" in result.stderr
    assert (run / "recipe.yaml").read_text() == before


def test_a_run_goes_on_with_its_own_recipe_alone(polytask, folder, trained):
    run, _ = trained
    again = polytask("train", folder / "recipe.yaml", "--out", run, "--resume")
    assert again.exit_code == 0, again.stderr
    other = polytask("train", folder / "recipe.yaml", "--out", run, "--resume", "--set", "training.lr=0.5")
    assert other.exit_code == 2
    assert "lr: 0.5" in other.stderr


def test_accumulation_gives_the_same_model(polytask, folder):
    """Eight rows at once or in two parts: the same batches, hence the same weights but for rounding."""
    from safetensors.torch import load_file

    made = []
    for parts in (1, 2):
        changes = ["--set", f"training.accumulate={parts}", "training.steps=4", "evaluation.every=0",
                   "training.precision=float32"]  # fmt: skip
        out = folder / f"parts{parts}"
        result = polytask("train", folder / "recipe.yaml", "--out", out, *changes)
        assert result.exit_code == 0, result.stderr
        made.append(load_file(out / "model" / "model.safetensors"))
    for name in made[0]:
        assert (made[0][name] - made[1][name]).abs().max() < 1e-3, name


def test_rows_that_cannot_be_split_are_refused(polytask, folder):
    result = polytask("train", folder / "recipe.yaml", "--out", folder / "x", "--set", "training.accumulate=3")
    assert result.exit_code == 2
    assert "accumulate=3" in result.stderr
