import json
import random
import sys
from itertools import pairwise

import pytest

from polytask.data.clean import Clean, Report, clean, words
from polytask.data.sources import SourceSpec, read
from polytask.errors import ConfigError, DataError, MissingExtra

VOCABULARY = [f"{a}{b}{c}" for a in "bdfglmnprst" for b in "aeiou" for c in "kmnrst"]


def documents(count, length=60, seed=0):
    generator = random.Random(seed)
    return [" ".join(generator.choices(VOCABULARY, k=length)) for _ in range(count)]


def kept(texts, spec, **more):
    report = Report()
    return [row["text"] for row in clean(({"text": text} for text in texts), spec, report, **more)], report


def test_exact_duplicates_ignore_case_spaces_and_forms():
    texts = ["A dog runs.", "a dog  runs.", "A dog\nruns.", "A dog ran.", "ﬁne", "FINE", "A dog runs"]
    left, report = kept(texts, Clean())
    assert left == ["A dog runs.", "A dog ran.", "ﬁne", "A dog runs"]
    assert (report.rows, report.kept, report.removed) == (7, 4, {"exact duplicates": 3})
    assert "row 2: 'a dog runs.'" in str(report)


def test_rows_that_share_a_field_are_no_duplicates():
    rows = [{"text": "fine", "label": "a"}, {"text": "fine", "label": "b"}, {"label": "a", "text": "Fine"}]
    assert list(clean(iter(rows), Clean())) == rows[:2]


def jaccard(a, b, size=5):
    a, b = ({tuple(words(t)[i : i + size]) for i in range(len(words(t)) - size + 1)} for t in (a, b))
    return len(a & b) / len(a | b)


def test_planted_near_duplicates_are_found_and_others_stay():
    texts = documents(400)
    copies = []
    for text in texts[:200]:
        changed = text.split()
        changed[0] = "otherwise"  # one of 56 shingles at each end
        changed[-1] = "different"
        copies.append(" ".join(changed))
    assert min(jaccard(a, b) for a, b in zip(texts, copies)) > 0.9
    left, report = kept(texts + copies, Clean(near=0.8))
    assert left[:400] == texts
    assert len(left) - 400 <= 4, "at least 98% of the copies are found"
    assert report.removed == {"near duplicates": 600 - len(left)}
    assert "like" in str(report)


def test_texts_half_alike_stay_at_a_threshold_of_08():
    texts = documents(200)
    halves = [" ".join(a.split()[:45] + b.split()[45:]) for a, b in pairwise(texts)]
    assert max(jaccard(a, b) for a, b in zip(texts, halves)) < 0.65
    left, _ = kept(texts + halves, Clean(near=0.8))
    assert len(left) >= len(texts + halves) - 4


def test_near_duplicates_without_rensa_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "rensa", None)
    with pytest.raises(MissingExtra, match="clean"):
        kept(["a"], Clean(near=0.8))
    assert kept(["a"], Clean())[0] == ["a"]


@pytest.fixture
def benchmark(tmp_path):
    rows = [{"question": text, "id": f"q{number}"} for number, text in enumerate(documents(20, 20, seed=5))]
    (tmp_path / "bench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [row["question"] for row in rows]


def test_overlap_with_a_benchmark_removes_from_13_words_on(tmp_path, benchmark):
    spec = Clean(decontaminate=("bench.jsonl",))
    filler = documents(1, 10, seed=9)[0]
    asked = benchmark[7].split()
    thirteen = f"{filler} {' '.join(asked[3:16]).upper()}! {filler} again"
    twelve = f"{filler} {' '.join(asked[3:15])} {filler}"
    left, report = kept([thirteen, twelve, filler, benchmark[0]], spec, base=str(tmp_path))
    assert left == [twelve, filler]
    assert report.removed == {"overlaps with benchmarks": 2}
    assert "bench.jsonl row 8" in str(report)
    shorter = Clean(decontaminate=("bench.jsonl",), ngram=12)
    assert kept([twelve, filler], shorter, base=str(tmp_path))[0] == [filler]


def test_a_benchmark_that_can_remove_nothing_is_an_error(tmp_path, benchmark):
    with pytest.raises(DataError, match="there"):
        kept(["a"], Clean(decontaminate=("bensch.jsonl",)), base=str(tmp_path))
    with pytest.raises(DataError, match="ngram"):
        kept(["a"], Clean(decontaminate=("bench.jsonl",), ngram=21), base=str(tmp_path))
    with pytest.raises(DataError, match="question, id"):
        kept(["a"], Clean(decontaminate=("bench.jsonl",), columns=("answer",)), base=str(tmp_path))


def test_cleaning_streams(tmp_path):
    def endless():
        number = 0
        while True:
            number += 1
            yield {"text": f"row {number // 2}"}

    rows = clean(endless(), Clean())
    assert [next(rows)["text"] for _ in range(4)] == ["row 0", "row 1", "row 2", "row 3"]


def test_read_cleans_what_a_source_says(tmp_path, benchmark):
    texts = ["one", "ONE", "two", benchmark[3]]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    report = Report()
    spec = SourceSpec("text", "a.jsonl", base=str(tmp_path), clean=Clean(decontaminate=("bench.jsonl",)))
    assert [row["text"] for row in read(spec, report=report)] == ["one", "two"]
    assert sum(report.removed.values()) == 2
    before = spec.fingerprint()
    with open(tmp_path / "bench.jsonl", "a") as file:
        file.write('{"question": "a new question", "id": "q"}\n')
    assert spec.fingerprint() != before


def test_values_out_of_range_and_nothing_left_are_named():
    for wrong in ({"near": 1.5}, {"near": 0.0}, {"ngram": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Clean(**wrong)
