"""What cannot be read, as a folder in the place of a file or a file that is locked, is named in one sentence."""

import ctypes
import json
import os

import pytest

RECIPE = """
model: {system: generalist, depth: 1, dim: 32, heads: 1}
tokenizer: {kind: bytes}
data:
  held_out: 0
  sources:
    - {task: text, from: lines.txt}
training: {steps: 2, batch_rows: 2, context_length: 64}
evaluation: {every: 0}
"""
TRAIN = ["train", "{work}/recipe.yaml", "--out", "{work}/run", "--set"]
TUNE = ["--task", "text", "--data", "{work}/{name}", "--out", "{work}/run"]


@pytest.fixture
def work(tmp_path):
    """A recipe over a good file, beside folders that hold nothing to read."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "lines.txt").write_text("A line of text that is long enough to be learnt from.\n" * 20)
    (tmp_path / "line.jsonl").write_text(json.dumps({"text": "A line of text."}) + "\n")
    for name in ("empty", "songs", "folder.txt", "folder.jsonl", "folder.parquet", "folder.json", "folder.yaml"):
        (tmp_path / name).mkdir()
    (tmp_path / "songs" / "README.md").write_text("About these songs.")
    (tmp_path / "songs" / "song.mp3").write_bytes(b"ID3")
    return tmp_path


@pytest.fixture
def refused(polytask, work, babbler):
    """Runs a verb, and expects one sentence that holds all of `sentences`."""

    def refused(words, name, *sentences):
        result = polytask(*(str(word).format(work=work, model=babbler, name=name) for word in words))
        assert result.exit_code == 2, result.stdout + result.stderr
        assert result.stderr.count("Error: ") == 1
        assert "Traceback" not in result.stdout + result.stderr
        for sentence in (name, *sentences):
            assert sentence in result.stderr
        assert not list(work.glob("run/checkpoints/*"))

    return refused


READING = [
    [*TRAIN, "data.sources.0.from={name}"],
    ["eval", "{model}", "--task", "text", "--data", "{work}/{name}"],
    ["tune", "{model}", *TUNE],
    ["tokenizer", "train", "{work}/{name}", "--out", "{work}/t.json"],
]
VERBS = [words[0] for words in READING]


@pytest.mark.parametrize("words", READING, ids=VERBS)
@pytest.mark.parametrize("name", ["empty", "songs", "folder.txt", "folder.jsonl", "folder.parquet"])
def test_a_folder_that_holds_no_data(refused, words, name):
    refused(words, name, "no files of a kind that is read")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ([*TRAIN, "data.sources.0.validation={name}"], "empty"),
        ([*TRAIN, "tokenizer={{file: {name}}}"], "folder.json"),
        ([*TRAIN, "data.sources.0.task={name}"], "folder.yaml"),
        (["train", "{work}/{name}", "--out", "{work}/run"], "folder.yaml"),
        (["plan", "{work}/{name}"], "empty"),
        (["tasks", "{work}/{name}"], "folder.yaml"),
        (["ask", "{model}", "text", "--text", "@{work}/{name}"], "folder.txt"),
        (["ask", "{model}", "{work}/{name}", "--text", "Once"], "folder.yaml"),
        (["ask", "{model}", "text", "--text", "Once", "--adapter", "{work}/{name}"], "empty"),
        (["show", "{work}/{name}"], "empty"),
    ],
)
def test_a_folder_in_the_place_of_another_file(refused, words, name):
    refused(words, name)


@pytest.fixture
def bound(work):
    """This thread may not read what it is not allowed to, even where it is root's; skips where that cannot be had."""
    libc, header = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0)  # the third version of capabilities; me
    before = (ctypes.c_uint32 * 6)()
    if not hasattr(libc, "capset") or libc.capget(header, before):
        pytest.skip("this system has no capabilities")
    without = (ctypes.c_uint32 * 6)(*before)
    without[0] &= ~0b110  # what may be done: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    assert libc.capset(header, without) == 0
    yield
    assert libc.capset(header, before) == 0


def lock(path):
    path.chmod(0)
    with pytest.raises(PermissionError):
        os.listdir(path) if path.is_dir() else path.read_bytes()


@pytest.mark.parametrize("words", READING, ids=VERBS)
@pytest.mark.parametrize("name", ["lines.txt", "line.jsonl"])
def test_a_locked_file_of_data(refused, work, bound, words, name):
    lock(work / name)
    refused(words, name, "cannot be read (Permission denied)")


@pytest.mark.parametrize("words", READING, ids=VERBS)
def test_a_locked_file_among_others(refused, work, bound, words):
    (work / "empty" / "good.txt").write_text("A good text.")
    (work / "empty" / "locked.txt").write_text("Another text.")
    lock(work / "empty" / "locked.txt")
    refused(words, "empty", "locked.txt: cannot be read (Permission denied)")


@pytest.mark.parametrize("words", READING, ids=VERBS)
def test_a_file_in_a_locked_folder(refused, work, bound, words):
    (work / "empty" / "good.txt").write_text("A good text.")
    lock(work / "empty")
    try:
        refused(words, "empty/good.txt", "Permission denied")
    finally:
        (work / "empty").chmod(0o700)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["plan", "{work}/{name}"], "recipe.yaml"),
        ([*TRAIN, "data.sources.0.task={work}/{name}"], "task.yaml"),
        ([*TRAIN, "tokenizer={{file: {work}/{name}}}"], "tokenizer.json"),
        (["tasks", "{work}/{name}"], "task.yaml"),
        (["ask", "{model}", "text", "--text", "@{work}/{name}"], "lines.txt"),
    ],
)
def test_another_file_that_is_locked(refused, work, bound, words, name):
    (work / name).touch()
    lock(work / name)
    refused(words, name, "Permission denied")
