"""Rows of files: text, JSON lines, CSV, Parquet and pictures, streamed, with what cannot be read named and passed over.

A reader yields a mapping of columns for every row, or a Skip that says which row is broken and why; who reads decides
how many of those are too many. Texts of any format may be compressed with gzip (`.jsonl.gz`). A picture is a row: its
`file_name`, and as `label` the name of the folder that it is in.
"""

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from polytask.errors import DataError

SUFFIXES = {
    ".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json",
    ".csv": "csv", ".tsv": "csv", ".txt": "txt", ".md": "txt",
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"), "picture"),
}  # fmt: skip
_BATCH = 1024  # Parquet rows that are in memory at once


@dataclass(frozen=True)
class Skip:
    """Rows that were passed over: `where` names file and line, `rows` says how many they are."""

    where: str
    why: str
    rows: int = 1

    def __str__(self) -> str:
        return f"{self.where}: {self.why}"


def kind_of(path: Path) -> str | None:
    """ "parquet", "jsonl", "json", "csv", "txt" or "picture" by the file's name; None for any other."""
    return SUFFIXES.get((path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower())


def columns_of(path: Path) -> list[str] | None:
    """The names of the columns a file has, from its head alone; None where it holds no row to tell.

    Raises DataError where the file cannot be read at all.
    """
    try:
        match _kind(path):
            case "parquet":
                return list(_parquet(path).schema_arrow.names)
            case "csv":
                with _open(path) as file:
                    return next(_csv(path, file), None)
            case "txt":
                return ["text"] if path.stat().st_size else None
            case "picture":
                return list(_picture_row(path))
            case _:
                return next((list(row) for row in records(path) if not isinstance(row, Skip)), None)
    except csv.Error as error:
        raise DataError(f"{path}: the first line is no row of column names ({error}).") from error


def records(path: Path, columns: Sequence[str] | None = None, lines: bool = False) -> Iterator[dict[str, Any] | Skip]:
    """The rows of one file. `columns`: those to read where the format can leave others out; `lines`: a document a line.

    Raises DataError where the file cannot be read at all.
    """
    match _kind(path):
        case "parquet":
            return _parquet_rows(path, columns)
        case "csv":
            return _csv_rows(path)
        case "jsonl":
            return _json_lines(path)
        case "json":
            return _json_list(path)
        case "picture":
            return iter([_picture_row(path)])
        case _:
            return _text_lines(path) if lines else _text_document(path)


def _kind(path: Path) -> str:
    kind = kind_of(path)
    if kind is None:
        raise DataError(
            f"{path}: files of this kind are not read; use one of {', '.join(SUFFIXES)} (or .gz of a text)."
        )
    return kind


def _open(path: Path) -> IO[bytes]:
    try:
        file: Any = gzip.open(path) if path.suffix == ".gz" else open(path, "rb")  # noqa: SIM115 - the caller closes it
        file.peek(1)  # so that a folder, a lock or a broken archive is known at once
        return file
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}).") from error


def _lines(path: Path) -> Iterator[tuple[str, str | None]]:
    """("file line 7", its text without the line end), or None for the text where the bytes are not UTF-8."""
    with _open(path) as file:
        try:
            for number, line in enumerate(file, 1):
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError:
                    text = None
                yield f"{path} line {number}", text
        except (OSError, EOFError, zlib.error) as error:  # an archive that ends too early
            raise DataError(f"{path}: reading stopped in the middle ({error}); the file is damaged.") from error


def _picture_row(path: Path) -> dict[str, Any]:
    return {"file_name": path.name, "label": path.resolve().parent.name}


def _text_document(path: Path) -> Iterator[dict[str, Any] | Skip]:
    with _open(path) as file:
        try:
            text = file.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            yield Skip(str(path), f"not UTF-8 (byte {error.start})")
            return
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path}: reading stopped in the middle ({error}); the file is damaged.") from error
    yield {"text": text} if text.strip() else Skip(str(path), "empty")


def _text_lines(path: Path) -> Iterator[dict[str, Any] | Skip]:
    for where, text in _lines(path):
        if text is None:
            yield Skip(where, "not UTF-8")
        elif text.strip():
            yield {"text": text}


def _json_lines(path: Path) -> Iterator[dict[str, Any] | Skip]:
    for where, text in _lines(path):
        if text is None:
            yield Skip(where, "not UTF-8")
            continue
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            yield Skip(where, f"not JSON ({error})")
            continue
        if not isinstance(row, dict):
            yield Skip(where, "not a JSON object with named fields")
        elif "\\ud" in text and _broken(json.dumps(row, ensure_ascii=False)):  # half of a pair, escaped: no text has it
            yield Skip(where, "not Unicode (half of a surrogate pair)")
        else:
            yield row


def _json_list(path: Path) -> Iterator[dict[str, Any] | Skip]:
    """A JSON file that is one list of objects; one that is JSON lines under this name is read as such."""
    with _open(path) as file:
        head = file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
    if not head.startswith(b"["):
        yield from _json_lines(path)
        return
    with _open(path) as file:
        try:
            rows = json.loads(file.read().decode("utf-8-sig"))
        except (ValueError, RecursionError, OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path}: not a list in JSON ({error}); JSON lines (.jsonl) bear a broken row.") from error
    for number, row in enumerate(rows, 1):
        yield row if isinstance(row, dict) else Skip(f"{path} item {number}", "not a JSON object with named fields")


def _csv(path: Path, file: IO[bytes]) -> Any:
    import io

    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a document in a cell is longer than the default of 128 KiB
    # Bytes that are not UTF-8 become lone surrogates, so that they spoil their own row and no other.
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    return csv.reader(text, delimiter="\t" if ".tsv" in path.suffixes else ",")


def _csv_rows(path: Path) -> Iterator[dict[str, Any] | Skip]:
    with _open(path) as file:
        reader = _csv(path, file)
        header = next(reader, None)
        while True:
            where = f"{path} line {reader.line_num + 1}"
            try:
                values = next(reader, None)
            except csv.Error as error:
                yield Skip(where, f"not CSV ({error})")
                continue
            except (OSError, EOFError, zlib.error) as error:
                raise DataError(f"{path}: reading stopped in the middle ({error}); the file is damaged.") from error
            if values is None or header is None:
                return
            if not values:
                continue
            if len(values) != len(header):
                yield Skip(where, f"{len(values)} values for {len(header)} columns")
            elif any(_broken(value) for value in values):
                yield Skip(where, "not UTF-8")
            else:
                yield dict(zip(header, values))


def _broken(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)


def _parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a Parquet file that can be read ({_first_line(error)}).") from error


def _parquet_rows(path: Path, columns: Sequence[str] | None) -> Iterator[dict[str, Any] | Skip]:
    import pyarrow as pa

    file = _parquet(path)
    with file:
        for group in range(file.num_row_groups):
            left = file.metadata.row_group(group).num_rows
            try:
                for batch in file.iter_batches(_BATCH, row_groups=[group], columns=columns, use_threads=False):
                    first = file.metadata.row_group(group).num_rows - left
                    left -= batch.num_rows
                    yield from _batch_rows(batch, f"{path} row group {group}", first)
            except (OSError, pa.ArrowException) as error:
                yield Skip(f"{path} row group {group}", f"damaged ({_first_line(error)})", left)


def _batch_rows(batch: Any, where: str, first: int) -> Iterator[dict[str, Any] | Skip]:
    names = batch.schema.names
    try:
        table: Mapping[str, list[Any]] = batch.to_pydict()
    except UnicodeDecodeError:  # some row of the batch has bytes that are not UTF-8; find which
        for index in range(batch.num_rows):
            try:
                yield batch.slice(index, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield Skip(f"{where} row {first + index}", "not UTF-8")
        return
    for values in zip(*(table[name] for name in names)):
        yield dict(zip(names, values))


def _first_line(error: BaseException) -> str:
    return str(error).split("\n", 1)[0][:200]
