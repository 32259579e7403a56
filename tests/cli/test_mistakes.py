"""Every mistake of a user ends with one sentence and exit code 2, and what there was is still there."""

import json
import os
import shutil
import subprocess

import pytest

TEXT = "task: text, from: lines.txt"
RECIPE = f"""
model: {{system: generalist, depth: 1, dim: 32, heads: 1}}
tokenizer: {{kind: bytes}}
data:
  held_out: 0
  sources:
    - {{{TEXT}}}
training: {{steps: 2, batch_rows: 2, context_length: 64}}
evaluation: {{every: 0}}
"""


@pytest.fixture
def work(tmp_path):
    """A recipe over good files, beside some bad ones."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "lines.txt").write_text("A line of text that is long enough to be learnt from.\n" * 20)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "noise.txt").write_bytes(b"\xff\xfe" + bytes(range(128, 256)) * 20)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 this is no table PAR1")
    (tmp_path / "broken.jsonl").write_text('{"text": "fine"}\n' + '{"text": \n' * 11)
    rows = [json.dumps({"source": "a dog", "target": "ein Hund"})] * 5
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows) + "\n")
    return tmp_path


def refused(result, *sentences):
    assert result.exit_code == 2, result.stdout + result.stderr
    assert result.stderr.count("Error: ") == 1
    assert "Traceback" not in result.stdout + result.stderr
    for sentence in sentences:
        assert sentence in " ".join(result.stderr.split()), result.stderr


@pytest.mark.parametrize(
    ("old", "new", "sentences"),
    [
        ("lines.txt", "lime.txt", ["lime.txt"]),
        ("lines.txt", "empty.txt", ["empty.txt"]),
        ("lines.txt", "noise.txt", ["noise.txt", "UTF-8"]),
        ("lines.txt", "broken.parquet", ["broken.parquet"]),
        ("lines.txt", "broken.jsonl", ["broken.jsonl", "line 2"]),
        ("lines.txt", "pairs.jsonl", ["'text'", "source, target"]),
        (TEXT, "task: text, from: pairs.jsonl, columns: {text: sorce}", ["'sorce'", "source"]),
        (TEXT, "task: texts, from: lines.txt", ["line 7", "'texts'", "did you mean 'text'"]),
        (TEXT, "task: translation, from: pairs.jsonl, fields: {target_lang: germann}", ["line 7", "mean 'german'"]),
        (TEXT, "task: mine.yaml, from: lines.txt", ["mine.yaml"]),
        ("system: generalist", "system: generalst", ["line 2", "did you mean 'generalist'"]),
        ("held_out: 0", "held_uot: 0", ["line 5", "did you mean 'held_out'"]),
        ("held_out: 0", "held_out: 1.5", ["line 5", "held_out"]),
        ("steps: 2", "steps: 0", ["line 8", "steps"]),
        ("steps: 2", "steps: two", ["line 8", "steps"]),
        ("depth: 1", "depth: -1", ["line 2", "depth"]),
        ("depth: 1", "depth: two", ["line 2", "depth"]),
        ("heads: 1", "heads: 3", ["line 2", "heads"]),
        ("heads: 1", "heads: 1, vocab_size: 200", ["vocab_size=200", "tokens of the tokenizer"]),
        ("heads: 1", "heads: 1, context_length: 32", ["line 2", "context_length=32", "64 tokens"]),
        ("kind: bytes", "file: nowhere.json", ["nowhere.json"]),
        ("training: {", "training: [", ["line 8"]),
    ],
)  # fmt: skip
def test_of_a_recipe_or_its_files(polytask, work, old, new, sentences):
    assert old in RECIPE
    (work / "recipe.yaml").write_text(RECIPE.replace(old, new))
    refused(polytask("train", work / "recipe.yaml", "--out", work / "run"), *sentences)
    assert not list((work / "run").glob("checkpoints/*"))


def test_a_file_one_may_not_read(polytask, work):
    (work / "lines.txt").chmod(0)
    if os.access(work / "lines.txt", os.R_OK):
        pytest.skip("this user may read everything")
    refused(polytask("train", work / "recipe.yaml", "--out", work / "run"), "lines.txt", "permission")


def test_a_broken_row_in_a_hundred_is_counted_named_and_passed_over(polytask, work, caplog):
    rows = [json.dumps({"text": f"Line {number} of a text to learn from."}).encode() for number in range(150)]
    (work / "lines.jsonl").write_bytes(b"\n".join([*rows[:7], b'{"text": "\xff"}', *rows[7:]]))
    (work / "recipe.yaml").write_text(RECIPE.replace("lines.txt", "lines.jsonl"))
    result = polytask("train", work / "recipe.yaml", "--out", work / "run")
    assert result.exit_code == 0, result.stderr
    assert "1 of 151 rows" in caplog.text
    assert "lines.jsonl line 8: not UTF-8" in caplog.text


@pytest.fixture
def model(trained, tmp_path):
    """A copy of a good checkpoint, to break."""
    run, _ = trained
    return shutil.copytree(run / "model", tmp_path / "model")


def ask(polytask, model):
    return polytask("classify", model, "This soup is awful.", "--labels", "good", "bad")


def test_a_damaged_checkpoint(polytask, model):
    weights = model / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    refused(ask(polytask, model), "model.safetensors")
    weights.write_bytes(data[: len(data) // 2])
    refused(ask(polytask, model), "model.safetensors")
    weights.unlink()
    refused(ask(polytask, model), "model.safetensors")


def test_a_pickle_is_refused(polytask, model):
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    refused(ask(polytask, model), "pytorch_model.bin", "pickle", "safetensors")
    refused(ask(polytask, model / "pytorch_model.bin"), "pickle")


def test_a_tokenizer_of_another_model(polytask, model, tmp_path):
    (tmp_path / "other.txt").write_text("Quite other words stand here, and none of them was ever seen.\n" * 50)
    made = polytask("tokenizer", "train", tmp_path / "other.txt", "--size", 330, "--out", model / "tokenizer.json")
    assert made.exit_code == 0, made.stderr
    refused(ask(polytask, model), "tokenizer.json")


def test_what_is_no_checkpoint(polytask, work):
    for path in (work / "nowhere", work, work / "lines.txt"):
        refused(polytask("generate", path, "Once"), str(path.name))


def test_a_text_longer_than_the_context(polytask, trained):
    run, _ = trained
    refused(polytask("generate", run, "great " * 400), "64")
    long = polytask("classify", run, "great " * 400, "--labels", "good", "bad")
    assert long.exit_code == 2


def test_what_is_no_model_is_not_written_over(polytask, work, trained):
    mine = work / "run" / "model"
    mine.mkdir(parents=True)
    (mine / "user.py").write_text("precious")
    refused(polytask("train", work / "recipe.yaml", "--out", work / "run"), "would remove")
    assert (mine / "user.py").read_text() == "precious"
    import polytask as pt
    from polytask.errors import CheckpointError

    model = pt.load(str(trained[0]))
    for path in (mine, work / "lines.txt"):
        with pytest.raises(CheckpointError, match="choose another place"):
            model.save(path)
    assert (work / "lines.txt").read_text().startswith("A line")
    model.save(work / "new")
    model.save(work / "new")  # its own folder may be replaced


@pytest.mark.parametrize("out", ["/proc/nowhere/run", "lines.txt/run"])
def test_a_place_that_cannot_be_written(polytask, work, out):
    refused(polytask("train", work / "recipe.yaml", "--out", work / out))


def test_a_disk_that_is_full_before_the_first_checkpoint(polytask, work):
    disk = work / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "none", str(disk)], capture_output=True).returncode:
        pytest.skip("this machine does not let us mount")
    try:
        refused(polytask("train", work / "recipe.yaml", "--out", disk / "run"), "disk is full")
        refused(polytask("tokenizer", "train", work / "lines.txt", "--size", 400, "--out", disk / "t.json"))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_network_that_memory_cannot_hold(polytask, work):
    large = ["training.context_length=1000000", "training.batch_rows=1000"]
    refused(polytask("train", work / "recipe.yaml", "--out", work / "run", "--set", *large), "GiB", "activations")


@pytest.mark.parametrize("words", [["--limit", 0], ["--limit", -3], ["--shots", -1]])
def test_numbers_out_of_range(polytask, trained, work, words):
    result = polytask("eval", trained[0], "--task", "text", "--data", work / "lines.txt", *words)
    assert result.exit_code == 2
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("verb", "option"), [("eval", "--columns"), ("eval", "--field"), ("eval", "--where"), ("tune", "--columns")]
)
def test_a_name_that_is_given_twice(polytask, work, verb, option):
    given = [verb, work / "nowhere", "--task", "text", "--data", work / "lines.txt", option, "text=a", option, "text=b"]
    refused(polytask(*given), f"{option}: 'text' is given twice")


@pytest.mark.parametrize("words", [["--lr", -1], ["--epochs", "nan"], ["--epochs", 0], ["--steps", 0]])
def test_numbers_of_tuning_out_of_range(polytask, trained, work, words):
    tuned = ["tune", trained[0], "--task", "text", "--data", work / "lines.txt", "--out", work / "tuned"]
    refused(polytask(*tuned, *words), words[0])


def test_a_data_folder_that_is_not_there(polytask, work):
    refused(polytask("data", "prepare", work / "recipe.yaml", "--data-dir", work / "nowhere"), "nowhere")


def test_resuming_with_another_recipe_says_what_it_was(polytask, work):
    recipe = [work / "recipe.yaml", "--out", work / "run"]
    assert polytask("train", *recipe, "--set", "data.sources.0.limit=15").exit_code == 0
    changed = polytask("train", *recipe, "--resume", "--set", "data.sources.0.limit=20")
    refused(changed, "it said 'limit: 15', and now it says 'limit: 20'")


def test_resuming_what_never_began_says_so(polytask, work):
    result = polytask("train", work / "recipe.yaml", "--out", work / "never", "--resume")
    assert result.exit_code == 0, result.stderr
    assert "never holds no checkpoint to go on from" in result.stderr


def test_weights_know_no_other_tokenizer(polytask, work, trained):
    run, _ = trained
    (work / "recipe.yaml").write_text(
        RECIPE.replace("{system: generalist, depth: 1, dim: 32, heads: 1}", f"{{from: {run / 'model'}}}").replace(
            "kind: bytes", "file: lines.txt"
        )
    )
    refused(
        polytask("train", work / "recipe.yaml", "--out", work / "run"), "tokenizer.file", "no tokenizer but its own"
    )


def test_a_tokenizer_with_too_many_tokens_for_its_model(polytask, model):
    """Its checksums are right, so that it is not just taken for damaged."""
    from polytask.interop.atomic import write_checksums

    tokenizer = json.loads((model / "tokenizer.json").read_text())
    size = len(tokenizer["model"]["vocab"])
    tokenizer["model"]["vocab"] |= {f"another{number}": size + number for number in range(3000)}
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    (model / "checksums.json").unlink()
    write_checksums(model)
    refused(ask(polytask, model), "the tokenizer has", "belongs to another model")


def test_what_is_piped_in_is_no_text(polytask, trained):
    refused(polytask("classify", trained[0], "--labels", "good", "bad", stdin=b"\xff\xfe"), "not UTF-8", "piped")


@pytest.mark.parametrize("error", [RuntimeError("DefaultCPUAllocator: can't allocate memory"), MemoryError()])
def test_memory_that_does_not_do_for_asking(polytask, trained, monkeypatch, error):
    from polytask.model import Model

    def starve(*_, **__):
        raise error

    monkeypatch.setattr(Model, "ask", starve)
    refused(ask(polytask, trained[0]), "not enough memory", "--int8")


@pytest.mark.parametrize("name", ["recipe.yaml", "tokenizer.json", "log.jsonl"])
def test_a_users_files_are_not_written_over(polytask, work, name):
    (work / "mine").mkdir()
    (work / "mine" / name).write_text("my own\n")
    refused(polytask("train", work / "recipe.yaml", "--out", work / "mine"), name, "another --out")
    assert (work / "mine" / name).read_text() == "my own\n"
    assert [file.name for file in (work / "mine").iterdir()] == [name]


@pytest.mark.parametrize("name", ["report.json", "report.html", "model/notes.txt", "run/notes.txt"])
def test_a_demo_spares_what_is_not_its_own(polytask, work, name):
    file = work / "mine" / name
    file.parent.mkdir(parents=True)
    file.write_text("my own\n")
    refused(polytask("demo", "--out", work / "mine", "--steps", 1), "choose another")
    assert file.read_text() == "my own\n"


def test_programs_are_run_without_walls_only_where_told(polytask, trained, work, monkeypatch):
    from polytask.tasks import sandbox

    monkeypatch.setattr(sandbox, "available", lambda: sandbox.Means(missing=("Landlock",)))
    row = {"prompt": "Write f.", "solution": "def f(): return 1", "tests": "assert True"}
    (work / "programs.jsonl").write_text(json.dumps(row) + "\n")
    words = ["--task", "code", "--data", work / "programs.jsonl", "--max-tokens", 2]
    refused(polytask("eval", trained[0], *words), "Landlock", "--unsafe")
    result = polytask("eval", trained[0], *words, "--unsafe")
    assert result.exit_code == 0, result.stderr
    assert "pass@1" in result.stdout
    (work / "programs.jsonl").write_text('{"text": "A text."}\n')
    words[1] = "text"
    refused(polytask("eval", trained[0], *words, "--unsafe"), "task code", "'text' runs none")
