"""polytask systems: the table, one system, several side by side."""

import json
import subprocess
import sys

import pytest


def read(polytask, *words):
    result = polytask("systems", *words, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_the_table_has_every_system_and_both_counts(polytask):
    rows = {row["name"]: row for row in read(polytask)}
    systems = {name.split("-")[0] for name in rows}
    assert systems >= {
        "transformer", "gpt3", "instructgpt", "chatgpt", "gpt4", "lamda", "palm", "glam", "bloom", "mtnlg",
    }  # fmt: skip
    assert rows["palm-62b"]["total"] == 62_495_662_080
    assert rows["palm-62b"]["published"] == 62_500_000_000
    assert rows["gpt4"]["total"] is None
    shown = polytask("systems").stdout
    for words in ("palm-540b", "540,356,474,880", "540.35B", "2022", "Chowdhery"):
        assert words in shown


def test_counts_that_differ_are_marked_and_explained(polytask):
    """All that are more than 5% apart and no other, in the table, under it, and where one is shown."""
    rows = read(polytask)
    both = [row for row in rows if row["total"] and row["published"]]
    apart = {row["name"] for row in both if abs(row["total"] / row["published"] - 1) > 0.05}
    assert apart >= {"dalle2-decoder", "dalle2-prior", "imagen-1024", "glam-1.7b-32e"}
    assert {row["name"] for row in rows if row["difference"]} == apart
    table, _, notes = polytask("systems").stdout.partition("* These counts are more than 5% apart:\n")
    marked = [line.split() for line in table.splitlines() if "*" in line.split()]
    assert {words[0] for words in marked} == apart
    for row in rows:
        if row["difference"]:
            assert any(row["name"] in line and row["difference"] in line for line in notes.splitlines())
    for name, word in (("dalle2-decoder", "text encoder"), ("imagen-1024", "600M and 400M cannot both")):
        assert word in read(polytask, "show", name)["why they differ"]
        assert word in polytask("systems", "show", name).stdout
    assert "why they differ" not in polytask("systems", "show", "palm-62b").stdout


def test_the_prior_of_dalle_2_is_a_row(polytask):
    about = read(polytask, "show", "dalle2-prior")
    assert about["parameters"]["total"] == 1_225_925_632  # diffusers' class has 2 x 1024 more: mean and deviation
    assert about["published training"]["weight_decay"] == 0.06
    assert "table 3" in about["source"]
    shown = polytask("systems", "compare", "dalle2-prior", "clip-vit-h-16").stdout
    for words in ("1,225,925,632", "heads 32", "2,048"):
        assert words in shown


def test_one_system_is_shown_with_its_parts_costs_and_gaps(polytask):
    about = read(polytask, "show", "palm-62b")
    assert sum(about["by part"].values()) == about["parameters"]["total"] == 62_495_662_080
    assert about["architecture"]["layers"] == 64
    assert about["published training"]["z_loss"] == 1e-4
    assert "layout of the rotary channels" in about["not public"]
    training, serving = about["memory to train"], about["memory to serve"]
    assert training["weights"] == 4 * 62_495_662_080
    assert training["total"] == sum(bytes_ for term, bytes_ in training.items() if term != "total")
    assert serving == {
        "weights": 2 * 62_495_662_080, "keys and values": 2 * 2 * 64 * 256 * 2048,
        "total": 2 * 62_495_662_080 + 2 * 2 * 64 * 256 * 2048,
    }  # fmt: skip
    assert (
        read(polytask, "show", "palm-62b", "--precision", "float32")["memory to serve"]["weights"] == 4 * 62_495_662_080
    )
    shown = polytask("systems", "show", "PaLM-62B").stdout
    assert "norms  one before both sub-layers" in shown
    assert shown.count("one row of the context's length, bfloat16") == 2
    assert shown.count("AdamW") == 1
    for words in ("62,495,662,080", "FLOPs", "GiB", "not public"):
        assert words in shown


def test_networks_for_pictures_are_shown_with_their_parts(polytask):
    about = read(polytask, "show", "clip-vit-b-32")
    assert about["parameters"]["total"] == sum(about["by part"].values()) == 151_277_313
    assert about["architecture"]["text"]["vocab_size"] == 49_408
    assert about["architecture"]["vision"]["patch"] == 32
    patterns = read(polytask, "show", "dalle-12b")["architecture"]["attention"].split("; ")
    assert [pattern.split()[0] for pattern in patterns] == ["47", "16", "1"]
    columns = read(polytask, "compare", "clip-vit-l-14", "dalle-12b")
    assert columns["clip-vit-l-14"]["parameters, total"] == 427_616_513


def test_experts_are_counted_whole_and_at_work(polytask):
    about = read(polytask, "show", "glam-64b-64e")["parameters"]
    assert about["total"] == 1_161_756_418_048
    assert about["active"] == pytest.approx(96.6e9, rel=1e-3)


def test_what_is_not_public_is_said_to_be_so(polytask):
    about = read(polytask, "show", "gpt4")
    assert about["architecture"] == "not public"
    assert set(about["parameters"].values()) == {None}
    assert "memory to train" not in about
    assert "architecture" in about["not public"]
    assert "not public" in polytask("systems", "show", "chatgpt").stdout


def test_networks_for_pictures_are_listed_shown_and_compared(polytask):
    rows = {row["name"]: row for row in read(polytask)}
    assert rows["imagen-2b"]["total"] == 2_097_572_867
    assert rows["dalle2-256"]["published"] == 700_000_000
    about = read(polytask, "show", "dalle2-1024")
    assert sum(about["by part"].values()) == about["parameters"]["total"] == 284_428_230
    assert about["memory to serve"]["total"] == 2 * 284_428_230
    assert about["FLOPs a picture and step"]["to train"] == 3 * about["FLOPs a picture and step"]["to draw"]
    assert "attention of the upsamplers" in about["not public"]
    shown = polytask("systems", "show", "imagen-256").stdout
    for words in ("efficient", "2, 4, 8, 8", "Saharia", "weights alone"):
        assert words in shown
    shown = polytask("systems", "compare", "imagen-2b", "dalle2-256", "gpt3-175b").stdout
    for words in ("2,097,572,867", "736,272,006", "96"):
        assert words in shown


def test_misprints_are_shown_beside_what_is_built(polytask):
    assert read(polytask, "show", "gpt3-13b")["printed, but not built"] == {"dim": 5140}


def test_systems_side_by_side(polytask):
    names = ["gpt3-175b", "palm-540b", "glam-64b-64e", "bloom-176b", "gpt4"]
    columns = read(polytask, "compare", *names)
    assert list(columns) == names
    assert [columns[name].get("key/value heads") for name in names] == [96, 1, 128, 112, None]
    assert columns["gpt3-175b"]["windows"] == [None, 256]
    assert columns["glam-64b-64e"]["FLOPs a token"] < columns["gpt3-175b"]["FLOPs a token"]
    shown = polytask("systems", "compare", *names).stdout
    for words in ("gpt3-175b", "bloom-176b", "Experts", "all, 256", "Alibi"):
        assert words in shown


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["show", "plam-62b"], "did you mean 'palm-62b'"),
        (["compare", "gpt3-175b", "blom-176b"], "did you mean 'bloom-176b'"),
        (["show", "lamda"], "lamda comes in sizes; name one: lamda-2b, lamda-8b, lamda-137b"),
        (["show", "palm-8b", "--precision", "bfloat61"], "did you mean 'bfloat16'"),
    ],
)
def test_mistakes_are_one_sentence(polytask, words, sentence):
    result = polytask("systems", *words)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert result.stderr.startswith("Error: ")


def test_the_table_may_be_piped_into_less():
    """A reader that leaves early ends the command without a word."""
    command = f"{sys.executable} -m polytask.cli.main systems | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("name")
    assert done.stderr == ""


def test_one_system_alone_is_not_compared(polytask):
    result = polytask("systems", "compare", "gpt3-175b")
    assert result.exit_code == 2
    assert "two or more" in result.stderr
    assert "polytask systems show gpt3-175b" in result.stderr
