"""Preparation: done once, found again, undone by any change; held-out rows; broken rows; processes."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from polytask.data.loader import Loader
from polytask.data.prepare import prepare
from polytask.data.sources import SourceSpec
from polytask.errors import ConfigError, DataError
from polytask.tasks import get_task
from polytask.tokenizers import TextTokenizer, encode

BYTES = TextTokenizer.bytes()
ROWS = [
    {"source": f"sentence {i} goes here", "target": f"Satz {i} steht hier", "source_lang": "en", "target_lang": "de"}
    for i in range(400)
]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("POLYTASK_CACHE", str(folder))
    return folder


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def source(tmp_path, cache):
    return SourceSpec("translation", write(tmp_path / "pairs.jsonl", ROWS))


def stored(store) -> Counter:
    """Documents of a store as Counter of (ids, predicted)."""
    found = Counter()
    for start, length in zip(store.starts.tolist(), store.lengths.tolist()):
        index = np.arange(start, start + length)
        found[tuple(store.tokens[index].tolist()), tuple(store.predicted(index).tolist())] += 1
    return found


def expected(rows) -> Counter:
    task = get_task("translation")
    documents = [encode(task.segments(row), BYTES) for row in rows]
    return Counter((tuple(d.ids.tolist()), tuple(d.weights.tolist())) for d in documents)


def test_every_document_is_stored_once(source):
    (made,) = prepare([source], BYTES).sources
    assert stored(made.train) == expected(ROWS)
    assert len(made.validation) == 0
    assert not made.flat
    counts = made.train.counts
    assert counts.documents == made.rows == 400
    assert counts.tokens == sum(len(ids) * n for (ids, _), n in expected(ROWS).items())
    assert counts.predicted_bytes == sum(len(row["target"].encode()) for row in ROWS)
    assert counts.predicted == counts.predicted_bytes + 400  # one id a byte, and each <|end|>
    assert made.train.predicted_bytes.sum() == counts.predicted_bytes


def test_held_out_rows_are_the_share_and_stay_the_same(source):
    (made,) = prepare([source], BYTES, holdout=0.2).sources
    assert stored(made.train) + stored(made.validation) == expected(ROWS)
    assert 50 < len(made.validation) < 110
    doubled = write(Path(source.from_).parent / "doubled.jsonl", ROWS[::-1] + ROWS)
    (again,) = prepare([replace(source, from_=doubled)], BYTES, holdout=0.2).sources
    assert set(stored(again.validation)) == set(stored(made.validation))  # whatever the order and however often
    (own,) = prepare([replace(source, held_out=0.0)], BYTES, holdout=0.2).sources
    assert len(own.validation) == 0


def test_validation_file_in_place_of_a_share(source, tmp_path):
    other = write(tmp_path / "held.jsonl", ROWS[:7])
    (made,) = prepare([replace(source, validation=other)], BYTES, holdout=0.5).sources
    assert stored(made.train) == expected(ROWS)
    assert stored(made.validation) == expected(ROWS[:7])


class Seen:
    """Counts how often sources are really read: progress is called for no other reason."""

    def __init__(self):
        self.calls = []

    def __call__(self, *call):
        self.calls.append(call)


def read_again(source, tokenizer=BYTES, **options) -> bool:
    seen = Seen()
    prepare([source], tokenizer, progress=seen, **options)
    return bool(seen.calls)


def test_prepared_once_until_something_changes(source):
    assert read_again(source)
    assert not read_again(source)
    assert not read_again(replace(source, name="other", weight=3.0))  # nothing about the documents
    assert read_again(source, holdout=0.1)
    assert read_again(source, TextTokenizer.characters(["abc"]))
    assert read_again(replace(source, limit=10))
    write(Path(source.from_), [*ROWS, ROWS[0]])
    assert read_again(source)
    assert not read_again(source)


def test_progress_ends_with_the_totals(source):
    seen = Seen()
    prepared = prepare([source], BYTES, holdout=0.1, progress=seen)
    train, held = prepared.report()["pairs"].values()
    assert seen.calls[-1] == ("pairs", 400, train.tokens + held.tokens)


def test_progress_counts_the_validation_file_too(source, tmp_path):
    seen = Seen()
    held = write(tmp_path / "held.jsonl", ROWS[:7])
    (made,) = prepare([replace(source, validation=held)], BYTES, progress=seen).sources
    assert seen.calls[-1] == ("pairs", 407, made.train.counts.tokens + made.validation.counts.tokens)


def test_processes_give_what_one_gives(source, tmp_path, monkeypatch):
    monkeypatch.setattr("polytask.data.prepare._BATCH_ROWS", 25)
    (alone,) = prepare([source], BYTES, holdout=0.1, cache=tmp_path / "one", cores=1).sources
    (several,) = prepare([source], BYTES, holdout=0.1, cache=tmp_path / "two", cores=2).sources
    for side in ("train", "validation"):
        for file in ("tokens.bin", "predicted.bin", "documents.npy", "store.json"):
            one, two = (getattr(made, side).path / file for made in (alone, several))
            assert one.read_bytes() == two.read_bytes()


def test_script_without_main_guard_works(source, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        "import polytask.data.prepare as p\n"
        "from polytask.data.sources import SourceSpec\n"
        "from polytask.tokenizers import TextTokenizer\n"
        "p._BATCH_ROWS = 25\n"
        f"made = p.prepare([SourceSpec('translation', {source.from_!r})], TextTokenizer.bytes(), cores=2)\n"
        "print(made.sources[0].rows)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "400", done.stderr


@pytest.mark.parametrize("good", [ROWS, ROWS[:3]])
def test_some_rows_that_do_not_fit_are_left_out(source, caplog, good):
    rows = [*good, {"source": "no answer", "source_lang": "en", "target_lang": "de"}]
    write(Path(source.from_), rows)
    (made,) = prepare([source], BYTES).sources
    assert stored(made.train) == expected(good)
    assert f"1 of {len(rows)} rows" in caplog.text
    assert f"row {len(rows)}" in caplog.text


def test_many_rows_that_do_not_fit_stop_the_run(source, cache):
    write(Path(source.from_), [*ROWS, *({"source": "x", "target_lang": "de"} for _ in range(20))])
    with pytest.raises(DataError, match=r"'pairs'.*row 401"):
        prepare([source], BYTES)
    assert not [path for path in cache.iterdir() if path.is_dir()]  # nothing half done is left


def test_interruption_leaves_nothing_behind(source, cache):
    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare([source], BYTES, progress=stop)
    assert not [path for path in cache.iterdir() if path.is_dir()]
    (made,) = prepare([source], BYTES).sources
    assert len(made.train) == 400


@dataclass(frozen=True)
class Shout:
    """A user's task, known by its values and its code."""

    mark: str = "!"
    name = "shout"
    metric_names = ()
    primary = ""
    fields = get_task("translation").fields

    def segments(self, example):
        segments = get_task("translation").segments(example)
        return [replace(segment, text=segment.text + self.mark) for segment in segments]


def test_task_values_are_part_of_the_key(source):
    assert read_again(replace(source, task=Shout("!"), name="pairs"))
    assert not read_again(replace(source, task=Shout("!"), name="pairs"))
    assert read_again(replace(source, task=Shout("?"), name="pairs"))


def test_plain_text_is_one_stream_and_trains(tmp_path, cache):
    rows = [{"text": f"document {i} " * (i % 7 + 1)} for i in range(100)]
    source = SourceSpec("text", write(tmp_path / "books.jsonl", rows), weight=2.0)
    pairs = SourceSpec("translation", write(tmp_path / "pairs.jsonl", ROWS), objective="prefix", weight=1.0)
    prepared = prepare([source, pairs], BYTES, holdout=0.1)
    assert [made.flat for made in prepared.sources] == [True, False]
    batch = Loader(prepared, 6, 128).batch(0)
    assert sorted(batch.sources.amax(1).tolist()) == [0, 0, 0, 0, 1, 1]  # the weights that the sources state
    assert batch.prefix is not None
    assert batch.prefix.any(dim=1).tolist() == [source == 1 for source in batch.sources.amax(1).tolist()]


def test_damaged_cache_is_explained(source, cache):
    prepare([source], BYTES)
    (tokens,) = cache.glob("*/train/tokens.bin")
    tokens.write_bytes(tokens.read_bytes()[:-2])
    with pytest.raises(DataError, match=r"damaged.*tokens\.bin"):
        prepare([source], BYTES)


def test_mistakes_are_explained(source, tmp_path):
    with pytest.raises(ConfigError, match="called 'pairs'"):
        prepare([source, source], BYTES)
    with pytest.raises(ConfigError, match=r"1\.5"):
        prepare([source], BYTES, holdout=1.5)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(DataError, match="POLYTASK_CACHE"):
        prepare([source], BYTES, cache=file / "below")
    one = replace(source, objective="seq2seq")
    two = SourceSpec("text", write(tmp_path / "t.jsonl", [{"text": "abc"}]), objective="next_token")
    with pytest.raises(ConfigError, match="'t' has an objective for a decoder"):
        Loader(prepare([one, two], BYTES), 2, 64)
