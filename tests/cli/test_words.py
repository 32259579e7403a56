"""How words on the command line are read."""

import pytest

from polytask.cli.command import pairs, spread
from polytask.cli.fields import fields, needed
from polytask.errors import ConfigError, DataError, TaskError
from polytask.tasks import get_task


@pytest.mark.parametrize(
    ("words", "meaning"),
    [
        ("r --set a=1 b=2 --out x", "r --set a=1 --set b=2 --out x"),
        ("r --set a=1 --set b=2", "r --set a=1 --set b=2"),
        ("m --columns source=en target=de --limit 3", "m --columns source=en --columns target=de --limit 3"),
        ("m text --labels a b c --json", "m text --labels a --labels b --labels c --json"),
        ("--set a=1 r.yaml", "--set a=1 r.yaml"),  # no key=value, so it is the recipe
        ("r --out a=b c=d", "r --out a=b c=d"),
    ],
)
def test_several_values_may_follow_one_option(words, meaning):
    assert spread(words.split()) == meaning.split()


def test_pairs_need_an_equals_sign():
    assert pairs(["a=1", "b=x=y"], "--columns") == {"a": "1", "b": "x=y"}
    with pytest.raises(ConfigError, match="'source'"):
        pairs(["source"], "--columns")


def test_fields_come_as_values_lists_json_and_files(tmp_path):
    passage = tmp_path / "passage.txt"
    passage.write_text("The sky is blue.\n")
    task = get_task("answering")
    words = ["--question=Which?", "--context", f"@{passage}", "--choices", "red", "blue"]
    assert fields(task, words) == {"question": "Which?", "context": "The sky is blue.", "choices": ["red", "blue"]}
    messages = '[{"role": "user", "content": "Hi"}]'
    assert fields(get_task("chat"), ["--messages", messages]) == {"messages": [{"role": "user", "content": "Hi"}]}


def test_the_first_missing_field_comes_by_the_pipe():
    assert fields(get_task("translation"), ["--target-lang", "de"], "A dog.\n") == {
        "target_lang": "de",
        "source": "A dog.",
    }


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--sorce", "x"], "did you mean 'source'"),
        (["--zzz", "x"], "It takes: --source, --target "),
        (["x"], "belongs to no option"),
        (["--source", "a", "b"], "quotation marks"),
        (["--source"], "no value"),
    ],
)
def test_a_wrong_option_names_the_fields(words, sentence):
    with pytest.raises(TaskError, match=sentence):
        fields(get_task("translation"), words)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for name in ("bytes", "absent"):
        with pytest.raises(DataError, match=name):
            fields(get_task("text"), ["--text", f"@{tmp_path / name}"])


def test_a_picture_is_the_path_of_its_file(tmp_path):
    (tmp_path / "a.png").write_bytes(b"bytes of a picture")
    for path in (tmp_path / "a.png", f"@{tmp_path / 'a.png'}"):
        found = fields(get_task("answering"), ["--image", str(path), "--question", "What?"])
        assert found == {"image": b"bytes of a picture", "question": "What?"}
    assert (
        fields(get_task("editing"), ["--image", str(tmp_path / "a.png")], "make it red\n")["instruction"]
        == "make it red"
    )
    assert fields(get_task("captioning"), [], "text") == {}
    assert needed(get_task("classification"), {"image": b""}) == []
    assert needed(get_task("classification"), {}) == ["text"]
    with pytest.raises(TaskError, match=r"absent.png: the picture cannot be read"):
        fields(get_task("captioning"), ["--image", str(tmp_path / "absent.png")])
