"""A file whose columns are called by their languages needs no other word about them."""

import csv
import json

import pytest

from polytask.run.source import shared_fields
from polytask.tasks import get_task

PAIRS = [("A dog runs.", "Ein Hund rennt."), ("A cat sleeps.", "Eine Katze schläft.")] * 5


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """One column in English, one in German, and the same under names that say nothing."""
    file = tmp_path_factory.mktemp("pairs") / "pairs.csv"
    with file.open("w", encoding="utf-8", newline="") as opened:
        csv.writer(opened).writerows([("en", "German", "left", "right"), *(pair * 2 for pair in PAIRS)])
    return file


@pytest.mark.parametrize(
    ("columns", "asked", "right"),
    [
        (["source=en", "target=German"], "Translate to German: A dog runs.", "Ein Hund rennt."),
        (["source=German", "target=en"], "Translate to English: Ein Hund rennt.", "A dog runs."),
        (["source=left", "target=German"], "Translate to German: A dog runs.", "Ein Hund rennt."),
    ],
)
def test_evaluation_asks_for_the_language_of_the_column(polytask, babbler, pairs, columns, asked, right):
    words = ["--task", "translation", "--data", pairs, "--columns", *columns, "--max-tokens", 3, "--limit", 2, "--json"]
    result = polytask("eval", babbler, *words)
    assert result.exit_code == 0, result.stderr
    sample = json.loads(result.stdout)["samples"][0]
    assert (sample["prompt"], sample["reference"]) == (asked, right)


@pytest.mark.parametrize(
    ("columns", "document"),
    [
        (["source=en", "target=German"], "Translate to German: A dog runs.<|answer|>{{Ein Hund rennt.<|end|>}}"),
        (["source=German", "target=en"], "Translate to English: Ein Hund rennt.<|answer|>{{A dog runs.<|end|>}}"),
    ],
)
def test_tuning_learns_to_write_the_language_of_the_column(polytask, babbler, pairs, tmp_path, columns, document):
    words = ["--task", "translation", "--data", pairs, "--columns", *columns, "--steps", 1, "--out", tmp_path / "tuned"]
    result = polytask("tune", babbler, *words)
    assert result.exit_code == 0, result.stderr
    shown = polytask("data", "show", tmp_path / "tuned" / "recipe.yaml", "--rows", 9)
    assert document in shown.stdout, shown.stderr


def test_columns_that_name_no_language_leave_it_to_the_user(polytask, babbler, pairs):
    words = ["eval", babbler, "--task", "translation", "--data", pairs, "--columns", "source=left", "target=right"]
    refused = polytask(*words)
    assert refused.exit_code == 2
    assert "target_lang" in refused.stderr
    told = polytask(*words, "--field", "target_lang=de", "--max-tokens", 3, "--json")
    assert json.loads(told.stdout)["samples"][0]["prompt"].startswith("Translate to German: ")


@pytest.mark.parametrize(
    ("task", "columns", "fields", "found"),
    [
        ("translation", {"source": "en", "target": "de"}, {}, {"source_lang": "en", "target_lang": "de"}),
        ("translation", {"source": "English", "target": "x"}, {}, {"source_lang": "English"}),
        ("translation", {"source": "en", "target": "de"}, {"target_lang": "fr"},
         {"source_lang": "en", "target_lang": "fr"}),
        ("translation", {"source": "en", "target": "de", "target_lang": "to"}, {}, {"source_lang": "en"}),
        ("summarization", {"document": "en", "summary": "de"}, {}, {}),
    ],
)  # fmt: skip
def test_what_the_user_says_counts_before_the_names(task, columns, fields, found):
    assert shared_fields(get_task(task), columns, fields) == found
