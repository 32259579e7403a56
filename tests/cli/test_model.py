"""What can be done with a trained model: ask it, evaluate it, tune it."""

import json

import pytest

from polytask.tasks import get_task


def test_a_trained_model_answers(polytask, trained):
    run, _ = trained
    words = ["--text", "This soup is awful.", "--labels", "good", "bad"]
    result = polytask("ask", run, "classification", *words)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.strip() == "bad"
    short = polytask("classify", run / "model", "This film is lovely.", "--labels", "good", "bad")
    assert short.stdout.strip() == "good"


def test_an_answer_can_be_json(polytask, trained):
    run, _ = trained
    words = ["--text", "This day is great.", "--labels", "good", "bad", "--json"]
    said = json.loads(polytask("ask", run, "classification", *words).stdout)
    probabilities = said.pop("probabilities")
    assert said == {
        "task": "classification",
        "example": {"text": "This day is great.", "labels": ["good", "bad"]},
        "answer": "good",
    }
    assert probabilities["good"] > 0.5
    assert sum(probabilities.values()) == pytest.approx(1)


def test_log_probabilities_and_samples_are_in_the_json(polytask, trained):
    run, _ = trained
    words = ["--max-tokens", 4, "--min-tokens", 4, "--logprobs", 3, "--n", 2, "--seed", 1, "--json"]
    said = json.loads(polytask("generate", run, "This soup", *words).stdout)
    assert len(said["answer"]) == len(said["logprobs"]) == 2
    for places in said["logprobs"]:
        assert len(places) == 4
        for place in places:
            assert 3 <= len(place) <= 4
            assert all(one["logprob"] <= 0 and set(one) == {"token", "id", "logprob"} for one in place)


def test_penalties_reach_the_sampler(polytask, trained):
    run, _ = trained
    words = ["--max-tokens", 24, "--min-tokens", 24, "--temperature", 0, "--logprobs", 1, "--json"]

    def distinct(*more):
        said = json.loads(polytask("generate", run, "This soup", *words, *more).stdout)
        return len({place[0]["id"] for place in said["logprobs"]}), said["answer"]

    plain, penalised = distinct(), distinct("--presence-penalty", 100, "--frequency-penalty", 100)
    assert penalised[1] != plain[1]


def test_a_text_comes_from_a_file_or_a_pipe(polytask, trained, tmp_path):
    run, _ = trained
    (tmp_path / "text").write_text("This road is nasty.\n")
    labels = ["--labels", "good", "bad"]
    assert polytask("ask", run, "classification", "--text", f"@{tmp_path / 'text'}", *labels).stdout.strip() == "bad"
    assert polytask("ask", run, "classification", *labels, stdin="This road is nasty.\n").stdout.strip() == "bad"
    assert polytask("classify", run, *labels, stdin="This road is nasty.\n").stdout.strip() == "bad"


def test_an_unknown_option_names_the_fields(polytask, trained):
    run, _ = trained
    result = polytask("ask", run, "classification", "--txt", "x")
    assert result.exit_code == 2
    assert "did you mean 'text'" in result.stderr
    assert "--labels" in result.stderr
    assert polytask("ask", run, "classification", stdin="").exit_code == 2


def test_sampling_is_the_users_choice(polytask, trained):
    run, _ = trained
    options = ["--temperature", 1.0, "--max-tokens", 5, "--n", 3]
    once = polytask("generate", run, "This song", *options, "--seed", 7)
    assert once.exit_code == 0, once.stderr
    assert once.stdout == polytask("generate", run, "This song", *options, "--seed", 7).stdout
    said = json.loads(polytask("generate", run, "This song", *options, "--json").stdout)
    assert len(said["answer"]) == 3
    bad = polytask("generate", run, "This song", "--top-p", 3)
    assert bad.exit_code == 2
    assert "top_p" in bad.stderr


def test_answers_keep_to_a_guide_whatever_guesses_ahead(polytask, trained, folder, tmp_path):
    run, _ = trained
    options = ["--guide", "regex:[ab]{4}", "--logit-bias", "50=-3", "--best-of", 3, "--temperature", 1.0, "--seed", 1]
    plain = polytask("generate", run, "This song", *options)
    assert plain.exit_code == 0, plain.stderr
    assert set(plain.stdout.strip()) <= set("ab")
    assert len(plain.stdout.strip()) == 4
    assert polytask("generate", run, "This song", *options, "--draft", "ngram").stdout == plain.stdout
    greedy = polytask("generate", run, "This song", "--temperature", 0)
    assert polytask("generate", run, "This song", "--temperature", 0, "--draft", run).stdout == greedy.stdout
    (tmp_path / "schema.json").write_text('{"enum": ["yes"]}')
    assert polytask("generate", run, "Is it?", "--guide", tmp_path / "schema.json").stdout.strip() == '"yes"'
    for wrong in (["--guide", "xml"], ["--guide", "regex:("], ["--logit-bias", "fox=1"]):
        bad = polytask("generate", run, "This song", *wrong)
        assert bad.exit_code == 2
        assert wrong[1] in bad.stderr or "regular expression" in bad.stderr


def test_a_conversation_ends_with_an_empty_line(polytask, trained):
    run, _ = trained
    one = polytask("chat", run, "Hello!", "--max-tokens", 4)
    assert one.exit_code == 0, one.stderr


def test_own_tasks_are_asked_by_their_file(polytask, trained, tmp_path):
    run, _ = trained
    (tmp_path / "praise.yaml").write_text(
        'name: praise\nprompt: "Classify as good, bad: {text}"\ntarget: "{label}"\nchoices: [good, bad]\n'
    )
    result = polytask("ask", run, tmp_path / "praise.yaml", "--text", "This coat is poor.")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.strip() == "bad"


def test_evaluation_measures_what_is_right(polytask, trained, folder):
    """As often as asking one by one gives the right label."""
    run, _ = trained
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()][::7]
    (folder / "some.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--task", "classification", "--data", folder / "some.jsonl"]
    result = polytask("eval", run, *words, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["examples"] == len(rows)

    from polytask.model import Model

    model, task = Model.load(str(run)), get_task("classification")
    right = [model.ask(task, {"text": r["text"], "labels": r["labels"]}) == r["label"] for r in rows]
    assert report["metrics"]["accuracy"] == pytest.approx(sum(right) / len(rows))
    assert report["metrics"]["accuracy"] > 0.8
    shown = polytask("eval", run, *words, "--limit", 3).stdout
    assert "accuracy" in shown
    assert "3 examples" in shown


def test_evaluation_of_a_folder_takes_what_was_not_trained_on(polytask, trained, folder):
    run, _ = trained
    rows, sets = (folder / "rows.jsonl").read_text().splitlines(), folder / "sets"
    sets.mkdir()
    for name, part in (("train", rows[:20]), ("validation", rows[20:25]), ("test", rows[25:28])):
        (sets / f"{name}.jsonl").write_text("\n".join(part) + "\n")

    def examples(*words):
        result = polytask("eval", run, "--task", "classification", "--data", sets, *words, "--json")
        assert result.exit_code == 0, result.stderr
        report = json.loads(result.stdout)
        return report["examples"], report["reproduce"]["files"]

    assert examples() == (3, ["test.jsonl"])
    assert examples("--split", "train") == (20, ["train.jsonl"])
    one = polytask("eval", run, "--task", "classification", "--data", sets / "test.jsonl", "--split", "train")
    assert one.exit_code == 2
    assert "is one file" in one.stderr
    (sets / "test.jsonl").unlink()
    assert examples() == (5, ["validation.jsonl"])
    assert "of validation.jsonl" in polytask("eval", run, "--task", "classification", "--data", sets).stdout


def test_a_world_can_be_asked_of_what_training_never_combined(polytask, trained):
    words = ["--task", "classification", "--data", "blocksworld", "--limit", 5, "--truncate", "right"]
    usual, new = (polytask("eval", trained[0], *words, *more) for more in ([], ["--split", "compositional"]))
    assert usual.exit_code == new.exit_code == 0, new.stderr
    assert usual.stdout.splitlines()[2:] != new.stdout.splitlines()[2:]


def test_evaluation_takes_some_rows_and_the_users_sampling(polytask, trained, folder):
    words = ["eval", trained[0], "--task", "text", "--data", folder / "rows.jsonl", "--columns", "text=text"]
    some = polytask(*words, "--where", "label=good", "--json")
    assert some.exit_code == 0, some.stderr
    assert json.loads(some.stdout)["examples"] == 30
    none = polytask(*words, "--where", "label=better")
    assert none.exit_code == 2
    chat = ["eval", trained[0], "--task", "answering", "--data", folder / "rows.jsonl", "--limit", 3]
    chat += ["--columns", "question=text", "answers=label", "--beam-size", 2, "--max-tokens", 4, "--json"]
    sampled = json.loads(polytask(*chat).stdout)
    assert sampled["reproduce"]["sampling"]["beam_size"] == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--task", "classification", "--data", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--task", "translation", "--data", "{folder}/rows.jsonl"], "--columns"),
        (["--task", "classification", "--data", "{folder}/rows.jsonl", "--columns", "text"], "name=value"),
    ],
)
def test_evaluation_says_what_is_wrong_with_the_file(polytask, trained, folder, words, sentence):
    run, _ = trained
    result = polytask("eval", run, *[word.format(folder=folder) for word in words])
    assert result.exit_code == 2
    assert sentence in result.stderr


@pytest.fixture(scope="module")
def turned(folder):
    """The same sentences with other columns and the labels turned round."""
    swap = {"good": "bad", "bad": "good"}
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    lines = [json.dumps({"sentence": r["text"], "mood": swap[r["label"]], "labels": r["labels"]}) for r in rows]
    (folder / "turned.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "turned.jsonl"


@pytest.mark.parametrize(
    "kind",
    [["--lr", 1e-3], ["--lora", "--rank", 8, "--lr", 5e-3], ["--lora", "--merge", "--lr", 5e-3]],
    ids=["whole", "lora", "merged"],
)
def test_a_tuned_model_has_learnt_the_users_file(polytask, trained, turned, tmp_path, kind):
    run, _ = trained
    words = ["--task", "classification", "--data", turned, "--columns", "text=sentence", "label=mood"]
    result = polytask("tune", run, *words, "--steps", 120, "--out", tmp_path / "tuned", *kind)
    assert result.exit_code == 0, result.stderr
    assert "polytask ask" in result.stdout
    asked = polytask("classify", tmp_path / "tuned", "This soup is awful.", "--labels", "good", "bad")
    assert asked.stdout.strip() == "good", "it was bad before"
    assert (tmp_path / "tuned/model/adapter/adapter_model.safetensors").exists() == ("--rank" in kind)
    made = json.loads(polytask("show", tmp_path / "tuned", "--json").stdout)
    assert made["from"] == str((run / "model").resolve())


def test_merging_needs_adapters(polytask, trained, turned):
    run, _ = trained
    result = polytask("tune", run, "--task", "classification", "--data", turned, "--merge")
    assert result.exit_code == 2
    assert "--lora" in result.stderr


def test_own_tasks_stay_with_a_model_wherever_it_goes(polytask, folder, tmp_path):
    """Trained on, tuned on something else, saved again."""
    rows = [{"line": f"This {thing} is fine.", "mood": "good"} for thing in ("soup", "song", "day", "book")] * 5
    (tmp_path / "moods.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mood.yaml").write_text('name: mood\nprompt: "Which mood? {line}"\ntarget: "{mood}"\n')
    recipe = (
        (folder / "recipe.yaml").read_text().replace("task: classification, from: rows", "task: mood.yaml, from: moods")
    )
    (tmp_path / "recipe.yaml").write_text(recipe)
    steps = ["--set", "training.steps=2"]
    made = polytask("train", tmp_path / "recipe.yaml", "--out", tmp_path / "run", *steps)
    assert made.exit_code == 0, made.stderr
    assert f"polytask ask {tmp_path}/run/model mood --line ..." in made.stdout
    words = ["--task", "classification", "--data", folder / "rows.jsonl", "--steps", 2, "--out", tmp_path / "tuned"]
    tuned = polytask("tune", tmp_path / "run", *words)
    assert tuned.exit_code == 0, tuned.stderr
    import polytask as pt

    pt.load(str(tmp_path / "tuned")).save(tmp_path / "saved")
    for model in ("run", "tuned", "saved"):
        asked = polytask("ask", tmp_path / model, "mood", "--line", "This soup is fine.", "--max-tokens", 3)
        assert asked.exit_code == 0, asked.stderr


def test_a_checkpoint_says_how_many_steps_it_has_seen(polytask, folder, tmp_path):
    words = ["--set", "training.steps=6", "training.save_every=2", "training.keep=3", "evaluation.every=0"]
    assert polytask("train", folder / "recipe.yaml", "--out", tmp_path / "run", *words).exit_code == 0
    for step in (2, 4, 6):
        checkpoint = tmp_path / "run" / "checkpoints" / f"step-{step:06d}"
        assert json.loads(polytask("show", checkpoint, "--json").stdout)["steps"] == step
        assert f"in {step} steps" in (checkpoint / "README.md").read_text()


def test_a_long_conversation_goes_on(polytask, trained, monkeypatch, capsys):
    """The model reads 64 tokens; what is too long is cut, and said so."""
    from polytask.cli import shorthands
    from polytask.inference.shortening import TruncationWarning
    from polytask.model import Model

    lines = iter([*["This soup is great, and so is the day."] * 6, "word " * 300, "This song is fine.", ""])

    class Terminal:
        def print(self, *_):
            pass

        def input(self, _):
            return next(lines)

    monkeypatch.setattr(shorthands, "console", Terminal)
    with pytest.warns(TruncationWarning, match="parts are left out"):
        shorthands.converse(Model.load(str(trained[0]), truncate="left"), None, {"max_tokens": 4})
    assert next(lines, "all were said") == "all were said"
