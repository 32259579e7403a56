"""Sources are tokenized once, on all cores, into a cache that later runs and all ranks map into memory.

The cache is the folder POLYTASK_CACHE, or ~/.cache/polytask. An entry is named by all that decides its content (the
source's files, the task, the tokenizer, the share held out), appears at once when it is complete, and is never changed.
The objective and the length of rows are not part of it: they are applied when rows are assembled.
"""

import hashlib
import inspect
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polytask import runtime
from polytask.data.clean import Report
from polytask.data.mixture import Mixture, expect_names
from polytask.data.store import Counts, Store, StoreWriter
from polytask.data.workers import Workers
from polytask.errors import ConfigError, DataError, Notice

if TYPE_CHECKING:
    from polytask.data.sources import SourceSpec
    from polytask.tasks.task import Task
    from polytask.tokenizers.dropout import Dropout
    from polytask.tokenizers.sight import Sight
    from polytask.tokenizers.text import TextTokenizer

_SURELY_WRONG = 1000  # so many rows that do not fit the task are enough to stop before the end

_log = logging.getLogger(__name__)
_FORMAT = 3  # of the store's files
_BATCH_CHARACTERS = 1_000_000  # a piece of work for one core, some tenths of a second
_BATCH_ROWS = 4_000
_PICTURE_CHARACTERS = 4_000  # that a picture counts for: its pixels are kept until the piece of work is done

Progress = Callable[[str, int, int], None]
"""Called with (source, rows read, tokens written) while sources are tokenized."""


@dataclass(frozen=True)
class PreparedSource:
    """A tokenized source. `flat`: plain text without anything given, to be cut as one stream."""

    name: str
    task: str
    flat: bool
    weight: float | None
    train: Store
    validation: Store
    objective: str | None = None
    cleaned: str = ""  # what cleaning removed, with some examples; empty where nothing was

    @property
    def rows(self) -> int:
        """Examples, those held out included."""
        return self.train.counts.documents + self.validation.counts.documents


@dataclass(frozen=True)
class Prepared:
    """All sources of a run, and the special ids that rows are assembled with; ids from `codes` on are of pictures.

    sight: of pictures that the network looks at by itself.
    """

    sources: tuple[PreparedSource, ...]
    special: dict[str, int]
    vocab_size: int
    codes: int | None = None
    sight: "Sight | None" = None
    segmentations: int = 1  # of each row of training

    @property
    def names(self) -> list[str]:
        return [source.name for source in self.sources]

    def mixture(self) -> Mixture:
        return Mixture.stated({source.name: source.weight for source in self.sources})

    def report(self) -> dict[str, dict[str, Counts]]:
        """Documents, tokens, characters and bytes of each source, training and held out."""
        return {s.name: {"train": s.train.counts, "validation": s.validation.counts} for s in self.sources}


def prepare(
    sources: "Sequence[SourceSpec]",
    tokenizer: "TextTokenizer",
    holdout: float = 0.0,
    cache: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    cores: int | None = None,
    dropout: "Dropout | None" = None,
) -> Prepared:
    """Tokenizes what is not in the cache yet. `holdout` is the share of examples kept for validation. `dropout` cuts
    those that are learnt from in several ways, and never those held out.

    Raises DataError naming the source and a row where too many do not fit the task, ConfigError for two sources of one
    name.
    """
    if not 0 <= holdout < 1:
        raise ConfigError(f"The share held out is {holdout}; it must be at least 0 and below 1.")
    expect_names([source.name for source in sources])
    root = cache_folder(cache)
    prepared = []
    for source in sources:
        share = share_of(source, holdout)
        folder = root / _key(source, tokenizer, share, dropout)
        with locked(folder.with_suffix(".lock")):
            if not (folder / "source.json").exists():
                _build(folder, source, tokenizer, share, progress, cores, dropout)
        about = json.loads((folder / "source.json").read_text())
        train, validation = Store(folder / "train"), Store(folder / "validation")
        words = {"objective": source.objective, "cleaned": about["cleaned"]}
        made = PreparedSource(source.name, _task(source).name, about["flat"], source.weight, train, validation, **words)
        prepared.append(made)
    codes = tokenizer.drawing and tokenizer.drawing.vocabulary.first
    times = 1 if dropout is None else dropout.times
    return Prepared(tuple(prepared), dict(tokenizer.special), tokenizer.size, codes, tokenizer.sight, times)


def cache_folder(path: str | os.PathLike[str] | None = None) -> Path:
    """Where prepared data is kept: `path`, else POLYTASK_CACHE, else ~/.cache/polytask.

    Raises DataError where it cannot be made.
    """
    folder = Path(path or os.environ.get("POLYTASK_CACHE") or Path.home() / ".cache" / "polytask").expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot make the folder for prepared data ({error.strerror}); set POLYTASK_CACHE to another."
        ) from error
    return folder


def share_of(source: "SourceSpec", holdout: float) -> float:
    """The share of a source's own rows that is held out, where the run holds out `holdout`."""
    if source.validation is not None:
        return 0.0
    return holdout if source.held_out is None else source.held_out


def parts_of(source: "SourceSpec") -> "list[SourceSpec]":
    """The source and, where it has one, the source of its validation file."""
    validating = source.validating()
    return [source] if validating is None else [source, validating]


def _task(source: "SourceSpec") -> "Task":
    from polytask.tasks import get_task

    return get_task(source.task) if isinstance(source.task, str) else source.task


def _key(source: "SourceSpec", tokenizer: "TextTokenizer", holdout: float, dropout: "Dropout | None") -> str:
    task = _task(source)
    # A task is its values and its code: a prompt that was reworded makes other documents.
    file = inspect.getsourcefile(type(task))
    code = Path(file).read_bytes() if file and os.path.exists(file) else b""
    parts: list[Any] = [
        _FORMAT,
        runtime.version(),
        [part.fingerprint() for part in parts_of(source)],
        repr(task),
        hashlib.sha256(code).hexdigest(),
        tokenizer.fingerprint,
        holdout,
        *([] if dropout is None else [repr(dropout)]),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Only one process of this machine is inside; the others wait, then find the work done."""
    try:
        import fcntl
    except ImportError:  # Windows; there two processes may do the same work, and the first one wins
        yield
        return
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(
    folder: Path,
    source: "SourceSpec",
    tokenizer: "TextTokenizer",
    holdout: float,
    progress: Progress | None,
    cores: int | None,
    dropout: "Dropout | None",
) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=folder.name + ".", dir=folder.parent))
    try:
        writers = [StoreWriter(temporary / side, tokenizer.size) for side in ("train", "validation")]
        flat, rows, report = True, 0, Report()

        def told(count: int) -> None:
            if progress is not None:
                progress(source.name, rows + count, sum(writer.tokens for writer in writers))

        for part, kept in zip(parts_of(source), (writers, writers[1:] * 2)):
            learnt = dropout if kept is writers else None
            plain, count = _tokenize(part, tokenizer, holdout, kept, told, cores, report, learnt)
            flat, rows = flat and plain, rows + count
        counts = [writer.close() for writer in writers]
        cleaned = str(report) if report.removed else ""
        if cleaned:
            warnings.warn(f"Source '{source.name}': {cleaned}", Notice, stacklevel=2)
        about = {"name": source.name, "flat": flat, "tokens": [count.tokens for count in counts], "cleaned": cleaned}
        (temporary / "source.json").write_text(json.dumps(about))
        if folder.exists():
            shutil.rmtree(folder)  # without source.json, so not one of ours that is complete
        with suppress(FileExistsError):
            os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _tokenize(
    source: "SourceSpec",
    tokenizer: "TextTokenizer",
    holdout: float,
    writers: Sequence[StoreWriter],
    told: Callable[[int], None],
    cores: int | None,
    report: Report,
    dropout: "Dropout | None",
) -> tuple[bool, int]:
    """Writes all documents of a source to (training, held out); is all of it plain text, and how many rows are read?"""
    from polytask.data.sources import too_many

    rows, flat = 0, True
    refused: list[str] = []
    with Workers(source.task, tokenizer, holdout, cores, dropout, source.together) as workers:
        for count, (*sides, wrong) in workers.map(_batches(source, report)):
            rows += count
            refused += wrong
            if len(refused) > _SURELY_WRONG and too_many(len(refused), rows):
                break
            for writer, side in zip(writers, sides):
                flat &= side.pop("plain")
                writer.add(**side)
            told(rows)
    if not rows:
        raise DataError(f"Source '{source.name}' has no rows; check its path and its filters.")
    if refused:
        sentence = f"Source '{source.name}': {len(refused)} of {rows} rows do not fit its task; {refused[0]}"
        if too_many(len(refused), rows):  # which means that it is the wrong task or column
            raise DataError(sentence)
        _log.warning("%s They were left out.", sentence)
    return flat, rows


def _batches(source: "SourceSpec", report: Report) -> Iterator[list[dict[str, Any]]]:
    from polytask.data.sources import read

    rows = iter(read(source, report=report))
    while batch := _batch(rows):
        yield batch


def _batch(rows: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    batch, size = [], 0
    for row in islice(rows, _BATCH_ROWS):
        batch.append(row)
        size += sum(map(_work, row.values()))
        if size >= _BATCH_CHARACTERS:
            break
    return batch


def _work(value: Any) -> int:
    return len(value) if isinstance(value, str) else _PICTURE_CHARACTERS if isinstance(value, bytes) else 100
