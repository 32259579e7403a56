"""Where examples come from: files, folders, globs, data sets of the Hugging Face hub, and worlds that are generated.

`read` yields rows whose columns carry the names of the task's fields. Rows that are broken are named and passed over;
when they are more than ten and more than one in a hundred, or all there are, the run stops, for then it is the file
that is not what it should be. A picture may stand in a row as its bytes or as a path beside the file; in the example it
is bytes that are known to be sound.
"""

import dataclasses
import hashlib
import inspect
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polytask.data.clean import Clean, Report, clean
from polytask.data.files import Skip, columns_of, kind_of, records
from polytask.data.places import GENERATORS, Place, locate
from polytask.errors import ConfigError, DataError, TaskError
from polytask.registry import nearest
from polytask.tasks.picture import Picture, decode, encoded

if TYPE_CHECKING:
    from polytask.tasks.task import Task

SKIPPED, SKIP_SHARE = 10, 0.01  # rows, and of all rows; above both a source is refused
_SURELY_WRONG = 1000  # so many broken rows, and most of all, end the reading before the end of the file
_OPTIONS = ("lines",)  # of files; a generated world has its own
_VALIDATED = 500  # examples of a generated world to validate on
_GENERATED = 10_000  # examples of a generated world where no limit says another number

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourceSpec:
    """One source of examples of one task.

    task         a task's name, a path of a task in YAML, or the task itself
    from_        a file, a folder, a glob, "blocksworld", or "hub:owner/name" ("hub:owner/name@revision/path/*.parquet")
    columns      field of the task -> column of the file; "translation.en" looks inside of a column. Fields that are not
                 named come from the column of their own name, the first picture also from `file_name`. Two fields that
                 swap columns turn a translation round.
    fields       constants for fields that the file lacks: {"target_lang": "de"}
    where        only rows whose column has this value, or one of these: {"source_lang": "en", "level": ["a", "b"]}
    weight       its share in the mixture, beside those of the other sources
    limit        at most so many rows (examples of a generated world: 10,000 by default)
    split        which part: "train" and "validation" choose among the files of a folder by their names
    held_out     share kept for validation, where it differs from the run's
    validation   a file of the same columns to validate on, in place of a share held out
    objective    in place of the run's: "next_token", "prefix", "span_corruption", "seq2seq"
    together     so many rows at most become one document of a decoder, of which each begins with the picture that the
                 row before it showed, or drew: it is there once, and all that is asked of it follows; the
                 picture decides whether they are held out, and together they should fit a row of the context
    options      of the reader: lines=True makes each line of a text file a document; of blocksworld: objects=[1, 3],
                 pixels=64 (of a picture; answering and classification have none unless it is said), turns=4 (rows of
                 one picture: questions about it, or edits one after the other)
    clean        duplicates and benchmark rows to drop
    base         the folder that relative paths start from; else $POLYTASK_DATA, else the current folder
    """

    task: "str | Task"
    from_: str
    columns: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)
    where: Mapping[str, Any] = field(default_factory=dict)
    weight: float | None = None
    limit: int | None = None
    split: str | None = None
    name: str = ""
    licence: str = ""
    attribution: str = ""
    objective: str | None = None
    together: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    held_out: float | None = None
    validation: str | None = None
    clean: Clean | None = None
    base: str | None = None

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", _name(self))

    def validating(self) -> "SourceSpec | None":
        """The source of the validation file, read in the same way but whole; None where there is no such file."""
        if self.validation is None:
            return None
        limit = _VALIDATED if self.validation in GENERATORS else None
        return dataclasses.replace(
            self, from_=self.validation, split="validation", limit=limit, clean=None, validation=None, held_out=None
        )

    def place(self) -> Place:
        """The files that are meant. Raises DataError where they are not there."""
        return locate(self.from_, self.base, self.split)

    def fingerprint(self) -> str:
        """A hash of all that decides which rows come out: the files' names, sizes and times, and how they are read.

        Raises DataError where the files are not there.
        """
        parts: list[Any] = [self.fields, self.columns, self.where, self.limit, self.split, self.options, self.together]
        if self.clean is not None:
            parts.append(self.clean.fingerprint(self.base))
        parts.append(self.place().fingerprint())
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def read(
    spec: SourceSpec,
    on_skip: Callable[[Skip], None] | None = None,
    report: Report | None = None,
    answered: bool = True,
) -> Iterator[dict[str, Any]]:
    """The examples of a source as mappings of its task's fields.

    on_skip is called for every row that is passed over; without it a warning at the end counts and names some. report
    collects what `spec.clean` removed. answered: the answer (target, summary, label, ...) must be there, as it must to
    train and to evaluate. Raises DataError for missing files and columns and for too many broken rows.
    """
    rows = _read(spec, on_skip, answered)
    return rows if spec.clean is None else clean(rows, spec.clean, report, base=spec.base, name=spec.name)


def _read(spec: SourceSpec, on_skip: Callable[[Skip], None] | None, answered: bool) -> Iterator[dict[str, Any]]:
    place = locate(spec.from_, spec.base, spec.split)
    if place.generator is not None:
        yield from _generate(spec, place.generator)
        return
    for option in spec.options:
        if option not in _OPTIONS:
            raise ConfigError(f"Source '{spec.name}' has no option '{option}': {nearest(option, _OPTIONS)}")
    tally = _Tally(spec, on_skip)
    mapping = _Mapping(spec, answered)
    for path in place.files:
        columns = columns_of(path)
        if columns is not None:
            mapping.check(path, columns)
        for row in records(path, mapping.columns(columns or []), bool(spec.options.get("lines"))):
            if isinstance(row, Skip):
                tally.skip(row)
                continue
            example = mapping.example(row, path)
            if isinstance(example, str):
                where = str(path) if kind_of(path) == "picture" else f"{path} row {tally.rows + tally.skipped + 1}"
                tally.skip(Skip(where, example))
                continue
            tally.rows += 1
            if example is None:
                continue
            tally.kept += 1
            yield example
            if tally.kept == spec.limit:
                tally.close()
                return
    tally.close()


class _Mapping:
    """From the columns of a file to the fields of a task."""

    def __init__(self, spec: SourceSpec, answered: bool):
        from polytask.tasks import get_task

        self.spec = spec
        task = get_task(spec.task) if isinstance(spec.task, str) else spec.task
        self.task, self.known = task.name, task.fields
        for name in (*spec.columns, *spec.fields):
            if name not in self.known:
                raise ConfigError(
                    f"Source '{spec.name}' fills field '{name}', which task '{self.task}' lacks: "
                    f"{nearest(name, self.known)}"
                )
        fields = [name for name in self.known if name not in spec.fields]
        self.named = {name: spec.columns.get(name, name) for name in fields}
        self.pictures = [name for name in fields if self.known[name].type is Picture]
        self.must = [name for name in fields if self.known[name].required or name in spec.columns]
        answer = _answer(task) if answered else None
        if answer in fields and answer not in self.must:
            self.must.append(answer)

    def columns(self, there: list[str]) -> list[str]:
        """The top-level columns of the file that are worth reading."""
        wanted = {_column(path, there) for path in (*self.named.values(), *self.spec.where)}
        return [column for column in there if column in wanted]

    def check(self, path: Path, there: list[str]) -> None:
        """Raises DataError naming the columns there are, where one is missing."""
        for name in self.pictures:
            other = "file_name" if name == self.pictures[0] else f"{name}_file_name"
            if name not in self.spec.columns:
                self.named[name] = other if name not in there and other in there else name
        filled = {name for name, column in self.named.items() if _column(column, there) in there}
        for name in self.must:
            if name not in filled and self.known[name].unless not in filled:
                wanted = self.named[name]
                pairs = " ".join(
                    f"{field}=..." if field == name else f"{field}={self.named[field]}" for field in self.must
                )
                raise DataError(
                    f"{path}: column '{wanted}' is missing; the file has: {', '.join(there)}. Say which column holds "
                    f"the {name}: --columns {pairs} (in a recipe: columns: {{{name}: ...}}); {nearest(wanted, there)}"
                )
        for wanted in self.spec.where:
            if _column(wanted, there) not in there:
                raise DataError(f"{path}: `where` names column '{wanted}', which is missing: {nearest(wanted, there)}")

    def example(self, row: dict[str, Any], path: Path) -> dict[str, Any] | str | None:
        """The task's fields; None where the filter drops the row; a string that says what is wrong with it."""
        for column, wanted in self.spec.where.items():
            value = _look(row, column)
            if not (value in wanted if isinstance(wanted, list | tuple) else value == wanted):
                return None
        found = {name: _look(row, column) for name, column in self.named.items()}
        example = {name: value for name, value in found.items() if value is not None and value not in ("", [], b"")}
        for name in self.must:
            if name not in example and self.known[name].unless not in example:
                return f"column '{self.named[name]}' is empty"
        try:
            for name in self.pictures:
                if name in example:
                    example[name] = _picture(example[name], path.parent)
        except TaskError as error:
            return str(error)
        example.update(self.spec.fields)
        return example


def _picture(value: Any, folder: Path) -> Picture:
    """The bytes of a picture, which can be decoded; paths start from the folder of the file that names them."""
    if isinstance(value, Mapping) and value.get("bytes") is None:
        value = value.get("path")
    if isinstance(value, str) and not value.startswith("data:"):
        value = folder / value
    picture = encoded(value)
    decode(picture)
    return picture


def _answer(task: "Task") -> str | None:
    """The one field without which an example of the task has no target: the translation's target, the label, ..."""
    try:
        example: dict[str, Any] = {name: _anything(task, name) for name in task.fields if task.fields[name].required}
        if any(segment.target for segment in task.segments(example)):
            return None
        for name in (name for name in task.fields if not task.fields[name].required):
            filled = example | {name: _anything(task, name)}
            if any(segment.target for segment in task.segments(filled)):
                return name
    except TaskError:  # fields that depend on each other; the task itself will say what is missing
        return None
    return None


def _anything(task: "Task", name: str) -> Any:
    kind = task.fields[name].type
    if kind is Picture:
        return b""
    return "en" if kind is str else [{"role": "user", "content": "a"}] if kind == list[dict] else ["a"]


def _column(path: str, there: list[str]) -> str:
    return path if path in there else path.split(".", 1)[0]


def _look(row: Mapping[str, Any], column: str) -> Any:
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


class _Tally:
    """Counts of one reading, and the judgement whether too much was broken."""

    def __init__(self, spec: SourceSpec, on_skip: Callable[[Skip], None] | None):
        self.spec, self.on_skip = spec, on_skip
        self.rows = self.kept = self.skipped = 0
        self.named: list[Skip] = []

    def skip(self, skip: Skip) -> None:
        self.skipped += skip.rows
        self.named += [skip] if len(self.named) < 3 else []
        if self.on_skip is not None:
            self.on_skip(skip)
        if self.skipped >= _SURELY_WRONG and self.skipped > self.rows:
            self._refuse()

    def close(self) -> None:
        if too_many(self.skipped, self.rows + self.skipped):
            self._refuse()
        if not self.kept:
            which = f" with {dict(self.spec.where)}" if self.spec.where and self.rows else ""
            raise DataError(
                f"Source '{self.spec.name}' ({self.spec.from_}) has no rows{which}; check path and filters."
            )
        if self.skipped and self.on_skip is None:
            _log.warning("%s", self._sentence())

    def _refuse(self) -> None:
        why = f"Above {SKIPPED} rows and {SKIP_SHARE:.0%} this is too many" if self.rows else "None is left"
        raise DataError(f"{self._sentence()} {why}: repair the file or leave it out.")

    def _sentence(self) -> str:
        named = "; ".join(str(skip).rstrip(".") for skip in self.named)
        more = "; ..." if self.skipped > sum(skip.rows for skip in self.named) else "."
        counts = f"{self.skipped} of {self.rows + self.skipped}"
        return f"Source '{self.spec.name}': {counts} rows cannot be read and were skipped: {named}{more}"


def too_many(wrong: int, rows: int) -> bool:
    """Whether a source of so many rows is refused for those of them that are wrong: more than a few and than a small
    share, or than half of it."""
    return wrong > max(min(SKIPPED, rows // 2), SKIP_SHARE * rows)


def _generate(spec: SourceSpec, name: str) -> Iterator[dict[str, Any]]:
    for what in ("columns", "where"):
        if getattr(spec, what):
            raise ConfigError(f"Source '{spec.name}': {name} is generated and has no columns; leave out `{what}`.")
    from polytask.tasks import get_task

    task = get_task(spec.task) if isinstance(spec.task, str) else spec.task
    count = _GENERATED if spec.limit is None else spec.limit
    check_options(spec)
    for example in GENERATORS.get(name)(task.name, count, split=spec.split or "train", **spec.options):
        yield {name: value for name, value in example.items() if name in task.fields} | dict(spec.fields)


def check_options(spec: SourceSpec) -> None:
    """Raises ConfigError where a generator takes no such option, with the nearest that it takes."""
    if spec.from_ not in GENERATORS:
        return
    known = set(inspect.signature(GENERATORS.get(spec.from_)).parameters) - {"task", "count", "split"}
    for name in spec.options:
        if name not in known:
            space = " (YAML wants a space after a colon)" if ":" in name else ""
            raise ConfigError(
                f"Source '{spec.name}': {spec.from_} has no option '{name}'{space}: {nearest(name, known)}"
            )


def _name(spec: SourceSpec) -> str:
    if spec.from_ in GENERATORS:
        return f"{spec.from_}-{Path(spec.task).stem if isinstance(spec.task, str) else spec.task.name}"
    parts = [part for part in Path(spec.from_.removeprefix("hub:")).parts if "*" not in part]
    stem = Path(parts[-1]).name.split(".")[0] if parts else "data"
    generic = stem in {"train", "training", "validation", "data", "test"} or stem.startswith(("train-", "part-"))
    return Path(parts[-2]).name if generic and len(parts) > 1 and Path(parts[-2]).name else stem


def summary(skips: list[Skip]) -> dict[str, int]:
    """How many rows were passed over for each reason."""
    counts: Counter[str] = Counter()
    for skip in skips:
        counts[skip.why.split(" (")[0]] += skip.rows
    return dict(counts)


__all__ = ["GENERATORS", "Place", "Skip", "SourceSpec", "read", "summary"]
