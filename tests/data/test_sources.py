import gzip
import json
import logging
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from polytask.data.sources import SourceSpec, read
from polytask.errors import ConfigError, DataError, Error
from polytask.tasks import TASKS, get_task
from polytask.tasks.task import check

PAIRS = [
    {"source": f"A dog {n}, “quoted”", "target": f"Ein Hund {n}\nneue Zeile", "target_lang": "de"} for n in range(7)
]


def write(path, rows, row_group_size=None):
    """The same rows in the format that the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=row_group_size, compression="NONE")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix in (".csv", ".tsv"):
        import csv

        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    else:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def translate(path, **more):
    return SourceSpec("translation", str(path), **more)


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.jsonl.gz", "a.json", "a.csv", "a.tsv"])
def test_every_format_gives_the_rows_that_were_written(tmp_path, name):
    assert list(read(translate(write(tmp_path / name, PAIRS)))) == PAIRS


def test_a_text_file_is_a_document_or_lines(tmp_path):
    (tmp_path / "a.txt").write_text("One.\n\nTwo.\r\n", encoding="utf-8-sig")
    assert [row["text"] for row in read(SourceSpec("text", str(tmp_path / "a.txt")))] == ["One.\n\nTwo.\r\n"]
    lines = SourceSpec("text", str(tmp_path / "a.txt"), options={"lines": True})
    assert list(read(lines)) == [{"text": "One."}, {"text": "Two."}]


def test_columns_rename_swap_reach_inside_and_leave_out(tmp_path):
    rows = [{"en": "yes", "tr": {"de": "ja"}, "extra": 3, "target_lang": "de"}]
    path = write(tmp_path / "a.parquet", rows)
    assert list(read(translate(path, columns={"source": "en", "target": "tr.de"}))) == [
        {"source": "yes", "target": "ja", "target_lang": "de"}
    ]
    path = write(tmp_path / "b.parquet", PAIRS)
    swapped = read(
        translate(path, columns={"source": "target", "target": "source"}, fields={"target_lang": "en"}, limit=1)
    )
    assert next(swapped) == {"source": PAIRS[0]["target"], "target": PAIRS[0]["source"], "target_lang": "en"}


def test_where_keeps_matching_rows_and_limit_counts_those(tmp_path):
    rows = [{"text": str(n), "lang": "en" if n % 3 else "de", "level": n % 4} for n in range(50)]
    spec = SourceSpec("text", str(write(tmp_path / "a.jsonl", rows)), where={"lang": "en", "level": [1, 2]}, limit=5)
    wanted = [row["text"] for row in rows if row["lang"] == "en" and row["level"] in (1, 2)][:5]
    assert [row["text"] for row in read(spec)] == wanted


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.csv"])
def test_a_missing_column_names_those_there_and_the_option(tmp_path, name):
    path = write(tmp_path / name, [{"source": "a", "german": "b", "target_lang": "de"}])
    with pytest.raises(DataError, match="source, german") as error:
        list(read(translate(path)))
    assert "'target'" in str(error.value)
    assert "--columns" in str(error.value)
    assert next(read(translate(path, columns={"target": "german"})))["target"] == "b"
    assert list(read(translate(path), answered=False)) == [{"source": "a", "target_lang": "de"}]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"columns": {"sauce": "source"}}, "did you mean 'source'"),
        ({"where": {"lang": "en"}}, "'lang'"),
        ({"where": {"target_lang": "xx"}}, "no rows with"),
        ({"options": {"line": True}}, "did you mean 'lines'"),
    ],
)
def test_a_wrong_description_is_named(tmp_path, change, words):
    path = write(tmp_path / "a.parquet", PAIRS)
    with pytest.raises(Error, match=words):
        list(read(translate(path, **change)))


def test_missing_and_empty_files_are_refused(tmp_path, monkeypatch):
    write(tmp_path / "training.jsonl", PAIRS)
    with pytest.raises(DataError, match=r"did you mean 'training.jsonl'"):
        list(read(translate(tmp_path / "trainin.jsonl")))
    for name in ("empty.jsonl", "empty.csv", "empty.txt"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(DataError, match=r"empty"):
            list(read(SourceSpec("text", str(tmp_path / name))))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 this is none")
    with pytest.raises(DataError, match="not a Parquet file"):
        list(read(translate(tmp_path / "broken.parquet")))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="POLYTASK_DATA"):
        list(read(translate("nowhere/a.parquet")))


def test_broken_rows_are_counted_named_and_passed_over(tmp_path, caplog):
    lines = [json.dumps({"text": f"row {n}"}).encode() for n in range(1000)]
    lines[10], lines[20], lines[30] = b'{"text": "cut', b'{"text": "\xff\xfe"}', b'["a list"]'
    lines[40], lines[50] = b'{"text": "\\ud800"}', b'{"other": 1}'
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    skips = []
    rows = list(read(SourceSpec("text", str(tmp_path / "a.jsonl")), on_skip=skips.append))
    assert [row["text"] for row in rows] == [f"row {n}" for n in range(1000) if n not in (10, 20, 30, 40, 50)]
    assert [skip.where for skip in skips[:4]] == [f"{tmp_path / 'a.jsonl'} line {n}" for n in (11, 21, 31, 41)]
    with caplog.at_level(logging.WARNING):
        list(read(SourceSpec("text", str(tmp_path / "a.jsonl"))))
    assert "5 of 1000 rows" in caplog.text
    assert "line 11" in caplog.text


@pytest.mark.parametrize(
    ("broken", "rows", "stops"),
    [
        (10, 1000, False), (11, 1000, True), (20, 2000, False), (21, 2000, True),
        (1, 3, False), (10, 11, True), (2, 4, False), (10, 30, False), (11, 12, True), (3, 3, True), (1, 1, True),
    ],
)  # fmt: skip
def test_more_than_ten_broken_rows_and_one_in_a_hundred_stop_and_all_do(tmp_path, broken, rows, stops):
    lines = [b"{" if n < broken else b'{"text": "a"}' for n in range(rows)]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    source = SourceSpec("text", str(tmp_path / "a.jsonl"))
    if stops:
        why = "None is left" if broken == rows else "Above 10 rows and 1% this is too many"
        with pytest.raises(DataError, match=f"{broken} of {rows} rows cannot be read.* {why}: repair"):
            list(read(source))
    else:
        assert len(list(read(source))) == rows - broken


def test_csv_rows_with_wrong_counts_or_bytes_spoil_themselves_alone(tmp_path):
    lines = [b"text,label", *(b"fine,%d" % n for n in range(400))]
    lines[5], lines[9] = b"one,two,three", b"caf\xe9,1"
    (tmp_path / "a.csv").write_bytes(b"\n".join(lines))
    skips = []
    rows = list(read(SourceSpec("classification", str(tmp_path / "a.csv")), on_skip=skips.append))
    assert len(rows) == 398
    assert [skip.where.rsplit(" ", 1)[1] for skip in skips] == ["6", "10"]


def test_a_damaged_row_group_costs_its_own_rows(tmp_path):
    random.seed(0)
    rows = [{"text": f"{n} " + "".join(random.choices("abcdef", k=200))} for n in range(1000)]
    path = write(tmp_path / "a.parquet", rows, row_group_size=8)
    column = pq.ParquetFile(path).metadata.row_group(50).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(data)
    skips = []
    got = [row["text"] for row in read(SourceSpec("text", str(path)), on_skip=skips.append)]
    assert got == [row["text"] for n, row in enumerate(rows) if not 400 <= n < 408]
    assert [(skip.where, skip.rows) for skip in skips] == [(f"{path} row group 50", 8)]


def test_bytes_that_are_no_text_in_parquet_are_named_by_row(tmp_path):
    texts = [b"fine %d" % n for n in range(3000)]
    texts[1500] = b"\xff\xfe"
    array = pa.Array.from_buffers(pa.string(), 3000, pa.array(texts, pa.binary()).buffers())
    pq.write_table(pa.table({"text": array}), tmp_path / "a.parquet")
    skips = []
    rows = list(read(SourceSpec("text", str(tmp_path / "a.parquet")), on_skip=skips.append))
    assert len(rows) == 2999
    assert skips[0].where.endswith("row group 0 row 1500")


def test_folders_globs_and_splits_choose_files(tmp_path):
    for name in ("train-00.jsonl", "train-01.jsonl", "validation.jsonl", "test/x.jsonl"):
        write(tmp_path / "set" / name, [{"text": name}])
    (tmp_path / "set" / "README.md").write_text("# not data")

    def texts(source, **more):
        return [row["text"] for row in read(SourceSpec("text", str(source), **more))]

    assert texts(tmp_path / "set") == ["train-00.jsonl", "train-01.jsonl"]
    assert texts(tmp_path / "set", split="validation") == ["validation.jsonl"]
    assert texts(tmp_path / "set", split="test") == ["test/x.jsonl"]
    assert texts(tmp_path / "set" / "*-01.jsonl") == ["train-01.jsonl"]
    assert len(texts(tmp_path / "**" / "*.jsonl")) == 4
    (tmp_path / "docs").mkdir()
    for number in range(3):
        (tmp_path / "docs" / f"{number}.txt").write_text(f"document {number}")
    assert texts(tmp_path / "docs") == ["document 0", "document 1", "document 2"]
    with pytest.raises(DataError, match="no validation files"):
        texts(tmp_path / "docs", split="validation")


def test_relative_paths_start_at_the_base_then_the_data_folder(tmp_path, monkeypatch):
    write(tmp_path / "base" / "a.jsonl", [{"text": "base"}])
    write(tmp_path / "data" / "a.jsonl", [{"text": "data"}])
    write(tmp_path / "data" / "b.jsonl", [{"text": "only in data"}])
    monkeypatch.setenv("POLYTASK_DATA", str(tmp_path / "data"))
    base = str(tmp_path / "base")
    assert [next(read(SourceSpec("text", "a.jsonl", base=b)))["text"] for b in (base, None)] == ["base", "data"]
    assert next(read(SourceSpec("text", "b.jsonl", base=base)))["text"] == "only in data"


def test_names_come_from_what_tells_sources_apart():
    assert SourceSpec("text", "multi30k/train.parquet").name == "multi30k"
    assert SourceSpec("text", "corpus/poems.jsonl.gz").name == "poems"
    assert SourceSpec("text", "corpus/*.txt").name == "corpus"
    assert SourceSpec("text", "hub:owner/poems").name == "poems"
    assert SourceSpec("chat", "blocksworld").name == "blocksworld-chat"


def test_the_fingerprint_changes_with_files_and_words_alone(tmp_path):
    path = write(tmp_path / "a.jsonl", PAIRS)
    before = translate(path).fingerprint()
    assert translate(path, weight=3, name="x", licence="MIT").fingerprint() == before
    assert translate(path, limit=3).fingerprint() != before
    assert translate(path, fields={"target_lang": "fr"}).fingerprint() != before
    write(path, PAIRS * 2)
    assert translate(path).fingerprint() != before


@pytest.mark.parametrize("name", list(TASKS))
def test_the_generated_world_gives_examples_of_every_task(name):
    spec = SourceSpec(name, "blocksworld", limit=20, options={"objects": [1, 2]}, validation="blocksworld")
    task, rows = get_task(name), list(read(spec))
    assert len(rows) == 20
    assert all(any(segment.target for segment in task.segments(check(task, row))) for row in rows)
    assert set().union(*rows) <= set(task.fields)
    held = spec.validating()
    assert held is not None
    seen = {json.dumps(row, sort_keys=True, default=str) for row in rows}
    assert seen.isdisjoint(json.dumps(row, sort_keys=True, default=str) for row in read(held))
    with pytest.raises(ConfigError, match="size"):
        list(read(SourceSpec(name, "blocksworld", options={"size": 3})))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one data set; its cache is a folder, filled with what is asked for."""
    import fnmatch
    import shutil

    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

    there, cache = tmp_path / "there", tmp_path / "cache"
    for name in ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"):
        write(there / name, [{"text": name}])
    write(there / "preview.jsonl", [{"text": "beside the data"}])
    (there / "README.md").write_text("a card")
    state = {"online": True, "root": there, "cache": cache}

    def missing():
        error = RepositoryNotFoundError.__new__(RepositoryNotFoundError)
        Exception.__init__(error, "404")
        return error

    def list_repo_files(self, repo_id, repo_type, revision):
        assert repo_type == "dataset"
        if not state["online"]:
            raise ConnectionError("no network")
        if repo_id != "owner/poems":
            raise missing()
        return [str(path.relative_to(there)) for path in there.rglob("*") if path.is_file()]

    def snapshot_download(repo_id, repo_type, revision, allow_patterns=None, local_files_only=False):
        if local_files_only and not cache.exists():
            raise LocalEntryNotFoundError("not in the cache")
        for path in [] if local_files_only else there.rglob("*"):
            name = str(path.relative_to(there))
            if path.is_file() and any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns or ["*"]):
                (cache / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, cache / name)
        return str(cache)

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", list_repo_files)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return state


def test_a_hub_data_set_is_fetched_once_and_by_split(hub):
    spec = SourceSpec("text", "hub:owner/poems")
    assert list(read(spec)) == [{"text": "data/train-00000-of-00001.parquet"}]
    assert [path.name for path in hub["cache"].rglob("*.*")] == ["train-00000-of-00001.parquet"]
    assert list(read(SourceSpec("text", "hub:owner/poems", split="test"))) == [
        {"text": "data/test-00000-of-00001.parquet"}
    ]
    assert list(read(SourceSpec("text", "hub:owner/poems/*.jsonl"))) == [{"text": "beside the data"}]
    hub["online"] = False
    assert list(read(spec)) == [{"text": "data/train-00000-of-00001.parquet"}]


def test_a_hub_that_has_it_not_or_is_away_is_one_sentence(hub):
    with pytest.raises(DataError, match="owner/proems"):
        list(read(SourceSpec("text", "hub:owner/proems")))
    with pytest.raises(DataError, match="write hub:owner/name"):
        list(read(SourceSpec("text", "hub:poems")))
    hub["online"] = False
    with pytest.raises(DataError, match="cannot be fetched"):
        list(read(SourceSpec("text", "hub:owner/poems")))


def test_a_damaged_archive_is_named(tmp_path):
    data = bytearray(gzip.compress(b'{"text": "a line"}\n' * 5000))
    data[40] ^= 0xFF  # within the deflated stream, which zlib itself notices
    (tmp_path / "a.jsonl.gz").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.jsonl\.gz"):
        list(read(SourceSpec("text", str(tmp_path / "a.jsonl.gz"))))
