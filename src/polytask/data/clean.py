"""Rows that should not be trained on: those said before, those said almost, and those a benchmark asks.

Cleaning streams: a row is judged when it comes, and the first of several alike stays. What is remembered is 8 bytes a
row for exact duplicates and a MinHash index (128 numbers a row) for near ones.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

from polytask.data.files import Skip, columns_of, records
from polytask.data.places import Place, locate
from polytask.errors import ConfigError, DataError, MissingExtra

_WORD = re.compile(r"\w+")
_NAMED = 5  # examples of what was removed that a report keeps, by reason
_BITS = 8  # bytes of a hash: of a billion rows, chance makes about 3% of one pair collide


@dataclass(frozen=True)
class Clean:
    """What to remove.

    exact           rows that are equal but for case, spaces and the form of their characters (NFKC)
    near            rows whose sets of word 5-grams overlap by more than this (Jaccard, estimated by MinHash; Lee et al.
                    2021 take 0.8); None removes none. Needs the extra `clean`.
    decontaminate   benchmark files, folders or globs: a row that shares a run of `ngram` words with one of their rows
                    is removed (Brown et al. 2020, appendix C, take 13)
    columns         the columns of benchmark files that count; all that hold text if empty
    """

    exact: bool = True
    near: float | None = None
    decontaminate: tuple[str, ...] = ()
    ngram: int = 13
    columns: tuple[str, ...] = ()
    shingle: int = 5
    permutations: int = 128

    def __post_init__(self) -> None:
        if self.near is not None and not 0 < self.near <= 1:
            raise ConfigError(f"clean: near={self.near} must be above 0 and at most 1; 0.8 is usual.")
        for name in ("ngram", "shingle"):
            if getattr(self, name) < 1:
                raise ConfigError(f"clean: {name}={getattr(self, name)} must be at least 1.")

    def fingerprint(self, base: str | None = None) -> list[Any]:
        """All that decides what stays, the benchmarks' files included."""
        return [asdict(self), [locate(name, base, "test").fingerprint() for name in self.decontaminate]]


@dataclass
class Report:
    """What cleaning removed: counts by reason, and the beginnings of some rows, each with what it was like."""

    rows: int = 0
    kept: int = 0
    removed: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, why: str, row: Mapping[str, Any], like: str = "") -> None:
        self.removed[why] = self.removed.get(why, 0) + 1
        named = self.examples.setdefault(why, [])
        if len(named) < _NAMED:
            named.append(f"row {self.rows}: {_short(text_of(row))!r}{like}")

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {why}" for why, count in self.removed.items()) or "nothing removed"
        named = [f"  {why}, {example}" for why, examples in self.examples.items() for example in examples]
        return "\n".join([f"{self.kept} of {self.rows} rows kept: {counts}", *named])


def clean(
    rows: Iterable[dict[str, Any]],
    spec: Clean,
    report: Report | None = None,
    base: str | None = None,
    name: str = "",
) -> Iterator[dict[str, Any]]:
    """The rows that stay, in order. `report` fills while they are taken; `base` is where benchmark paths start.

    Raises MissingExtra for near-duplicates without rensa, DataError for benchmarks that are missing or hold no text.
    """
    report = Report() if report is None else report
    judges: list[Any] = []
    # Cheap judges first: a row that one removes is not seen by the next.
    if spec.exact:
        judges.append(_Exact())
    if spec.decontaminate:
        judges.append(_Benchmarks(spec, base))
    if spec.near is not None:
        judges.append(_Near(spec))
    for row in rows:
        report.rows += 1
        text = text_of(row)
        for judge in judges:
            like = judge(text)
            if like is not None:
                report.add(judge.why, row, like)
                break
        else:
            report.kept += 1
            yield row
    if report.rows and not report.kept:
        raise DataError(f"Cleaning removed every row of source '{name}': {', '.join(report.removed)}; loosen `clean`.")


def text_of(value: Any) -> str:
    """All text of a row, its fields in the order of their names."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return "\n".join(filter(None, (text_of(value[key]) for key in sorted(value, key=str))))
    if isinstance(value, list | tuple):
        return "\n".join(filter(None, map(text_of, value)))
    return ""


def normalised(text: str) -> str:
    """Text without what does not make two rows different: case, kinds and numbers of spaces, forms of characters."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def words(text: str) -> list[str]:
    """Its words without case and punctuation."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


class _Exact:
    why = "exact duplicates"

    def __init__(self) -> None:
        self.seen: set[bytes] = set()

    def __call__(self, text: str) -> str | None:
        key = hashlib.blake2b(normalised(text).encode("utf-8", "surrogatepass"), digest_size=_BITS).digest()
        if key in self.seen:
            return ""
        self.seen.add(key)
        return None


class _Near:
    """MinHash with locality-sensitive hashing (Broder 1997; Leskovec et al. 2014, chapter 3) through rensa."""

    why = "near duplicates"

    def __init__(self, spec: Clean):
        try:
            from rensa import RMinHash, RMinHashLSH  # pyright: ignore[reportAttributeAccessIssue]
        except ImportError as error:
            raise MissingExtra("rensa (near-duplicates)", "clean") from error
        assert spec.near is not None
        self.spec, self.threshold = spec, spec.near
        self.sketch = RMinHash
        self.index = RMinHashLSH(
            threshold=spec.near, num_perm=spec.permutations, num_bands=_bands(spec.near, spec.permutations)
        )
        self.sketches: list[Any] = []
        self.starts: list[str] = []

    def __call__(self, text: str) -> str | None:
        found = words(text)
        size = min(self.spec.shingle, len(found))
        if not size:
            return None
        sketch = self.sketch(num_perm=self.spec.permutations, seed=1)
        sketch.update([" ".join(found[i : i + size]) for i in range(len(found) - size + 1)])
        for key in sorted(self.index.query(sketch)):
            if self.sketches[key].jaccard(sketch) >= self.threshold:
                return f", like {self.starts[key]!r}"
        self.index.insert(len(self.sketches), sketch)
        self.sketches.append(sketch)
        self.starts.append(_short(text))
        return None


def _bands(threshold: float, permutations: int) -> int:
    """The fewest bands that find 99% of the pairs at the threshold: a pair is found with 1 - (1 - J^r)^b, b r = n."""
    for bands in (b for b in range(1, permutations + 1) if permutations % b == 0):
        if 1 - (1 - threshold ** (permutations // bands)) ** bands >= 0.99:
            return bands
    return permutations


class _Benchmarks:
    why = "overlaps with benchmarks"

    def __init__(self, spec: Clean, base: str | None):
        self.size = spec.ngram
        places = tuple((name, locate(name, base, "test")) for name in spec.decontaminate)
        # Files may change while a process lives, so what they are is part of the question.
        self.runs = _benchmark_runs(
            places, repr([place.fingerprint() for _, place in places]), spec.ngram, spec.columns
        )

    def __call__(self, text: str) -> str | None:
        for key in _runs(words(text), self.size):
            if key in self.runs:
                return f", as in {self.runs[key]}"
        return None


@lru_cache(maxsize=1)  # all sources of a run are held against the same benchmarks
def _benchmark_runs(
    places: tuple[tuple[str, Place], ...], fingerprint: str, size: int, columns: tuple[str, ...]
) -> dict[int, str]:
    """Where each run of `size` words stands."""
    runs: dict[int, str] = {}
    for name, place in places:
        long_enough = False
        for path in place.files:
            there = columns_of(path) or []
            missing = [column for column in columns if column not in there]
            if missing:
                raise DataError(f"{path}: clean names column '{missing[0]}'; the file has: {', '.join(there)}.")
            for number, row in enumerate(records(path, list(columns) or None), 1):
                # Runs are taken inside of one column; a run across two is in no text.
                values = [] if isinstance(row, Skip) else [row.get(column) for column in columns or row]
                for key in (key for value in values for key in _runs(words(text_of(value)), size)):
                    runs.setdefault(key, f"{path} row {number}")
                    long_enough = True
        if not long_enough:
            raise DataError(f"clean: benchmark '{name}' holds no text of {size} words; set a lower `ngram`.")
    return runs


def _runs(found: list[str], size: int) -> Iterator[int]:
    for i in range(len(found) - size + 1):
        yield hash(" ".join(found[i : i + size]))  # 64 bits; never leaves the process, for which it is seeded


def _short(text: str, limit: int = 60) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
