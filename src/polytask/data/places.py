"""From what a user writes (a path, a folder, a glob, a name on the hub) to the files that are meant."""

import glob
import hashlib
import importlib.util
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from polytask.data.files import kind_of
from polytask.errors import DataError
from polytask.registry import Registry, nearest

GENERATORS = Registry("generated world", {"blocksworld": "polytask.blocksworld:examples"}, DataError)
_SPLITS = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
_PREFERRED = (
    "parquet",
    "jsonl",
    "json",
    "csv",
    "txt",
    "picture",
)  # a hub repository has one of them as data, others beside it


@dataclass(frozen=True)
class Place:
    """The files of a source in a fixed order, or the name of a generated world.

    beside: pictures in the same folder, which the files name
    """

    files: tuple[Path, ...] = ()
    generator: str | None = None
    beside: tuple[Path, ...] = ()

    def fingerprint(self) -> list[Any]:
        """Changes when a file does, or the code of the world."""
        if self.generator is not None:
            return [self.generator, _code(self.generator)]
        stats = [(path, path.stat()) for path in (*self.files, *self.beside)]
        return [[str(path.resolve()), stat.st_size, stat.st_mtime_ns] for path, stat in stats]


def locate(name: str, base: str | None = None, split: str | None = None) -> Place:
    """The files that `name` means. Raises DataError that says where it was looked for."""
    if name in GENERATORS:
        return Place(generator=name)
    if name.startswith("hub:"):
        return Place(_hub(name.removeprefix("hub:"), split))
    roots = _roots(base)
    for root in roots:
        path = root / Path(name).expanduser()
        if path.is_file():
            return Place((path,))
        if path.is_dir():
            return _folder(path, split)
        if glob.has_magic(name):
            found = [Path(file) for file in glob.glob(str(path), recursive=True) if Path(file).is_file()]
            if found:
                return Place(tuple(sorted(found)))
    raise DataError(f"'{name}' is not there. {_looked(name, roots)}")


def judging_split(name: str, base: str | None = None) -> str | None:
    """The split to judge a model on where nobody names one: "test", else "validation", of those that `name` has.

    None for a single file, and where no name of a file speaks of either. Raises DataError where nothing is there.
    """
    if name in GENERATORS:
        return "test"
    usual = () if name.startswith("hub:") else locate(name, base).files  # nothing is fetched that is not judged on
    for split in ("test", "validation"):
        try:
            files = locate(name, base, split).files
        except DataError:  # it has none of that split
            continue
        if files != usual:
            return split
    return None


def _roots(base: str | None) -> list[Path]:
    """The first that has the file counts: the base, the data folder of this machine, the current folder."""
    given = [base, os.environ.get("POLYTASK_DATA"), "."]
    return list(dict.fromkeys(Path(root).expanduser() for root in given if root))


def _looked(name: str, roots: Sequence[Path]) -> str:
    if Path(name).expanduser().is_absolute():
        parent = Path(name).expanduser().parent
        there = sorted(path.name for path in parent.iterdir()) if parent.is_dir() else []
        return f"In {parent} {nearest(Path(name).name, there)}" if there else f"There is no folder {parent}."
    roots = list(dict.fromkeys(root.resolve() for root in roots))
    there = sorted({path.name for root in roots if root.is_dir() for path in root.iterdir()} | set(GENERATORS))
    first = Path(name).parts[0] if Path(name).parts else name
    hint = "" if first in there else f" For '{first}': {nearest(first, there)}"
    return f"Looked in {', '.join(map(str, roots))}; set POLYTASK_DATA or --data-dir.{hint}"


def _folder(path: Path, split: str | None) -> Place:
    if not os.access(path, os.R_OK | os.X_OK):
        raise DataError(f"The folder {path} cannot be read (permission denied); make it accessible.")
    there = sorted(file.relative_to(path) for file in path.rglob("*") if file.is_file())
    data = [str(file) for file in there if _is_data(file)]
    pictures = [file for file in data if kind_of(Path(file)) == "picture"]
    texts = [file for file in data if kind_of(Path(file)) != "picture"]
    chosen = of_split(texts, split) if texts else _pictures_of_split(pictures, split)
    if not chosen:
        which = f"{split} files" if split else "files"
        raise DataError(
            f"The folder {path} has no {which} of a kind that is read (txt, jsonl, csv, parquet, pictures)."
        )
    beside = tuple(path / file for file in pictures) if texts else ()
    return Place(tuple(path / file for file in chosen), beside=beside)


def _pictures_of_split(files: list[str], split: str | None) -> list[str]:
    """By the topmost folders, where all of them are called like splits; "train" may be a class among others."""
    tops = {file: f"{Path(file).parts[0]}/x" for file in files}
    if not all(map(_split_of, tops.values())):
        return [] if split else files
    chosen = set(of_split(tops.values(), split))
    return [file for file in files if tops[file] in chosen]


def _is_data(path: Path) -> bool:
    hidden = any(part.startswith((".", "_")) for part in path.parts)
    return not hidden and kind_of(path) is not None and not path.stem.upper().startswith(("README", "LICEN"))


def of_split(files: Iterable[str], split: str | None) -> list[str]:
    """The files whose name, or a folder above, speaks of the split ("train-0001.parquet", "test/a.csv").

    Without a split: those for training where some name it, else all, so that nobody trains on a test set unasked.
    """
    files = list(files)
    if split is None:
        return of_split(files, "train") or [file for file in files if _split_of(file) is None] or files
    canonical = next((name for name, words in _SPLITS.items() if split in words), split)
    return [file for file in files if _split_of(file) == canonical or split in _words(file)]


def _split_of(file: str) -> str | None:
    words = _words(file)
    return next((name for name, marks in _SPLITS.items() if words & set(marks)), None)


def _words(file: str) -> set[str]:
    """ "data/train-00000-of-2.parquet" speaks of data and train."""
    parts = Path(file).parts
    stem = parts[-1].split(".")[0].lower()
    return {part.lower() for part in parts[:-1]} | {stem, *stem.replace("_", "-").split("-")}


def _hub(name: str, split: str | None) -> tuple[Path, ...]:
    """owner/name[@revision][/path or glob]: its data files, from the hub's cache where they are there already."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    owner, _, rest = name.partition("/")
    repository, _, inside = rest.partition("/")
    repository, _, revision = repository.partition("@")
    if not owner or not repository:
        raise DataError(f"'hub:{name}' names no data set; write hub:owner/name.")
    which: dict[str, Any] = {"repo_id": f"{owner}/{repository}", "repo_type": "dataset", "revision": revision or None}
    try:
        try:
            there = HfApi().list_repo_files(**which)
            chosen = _chosen(there, inside, split)
            wanted = chosen + _named_beside(chosen, there)
            folder = Path(snapshot_download(**which, allow_patterns=[glob.escape(file) for file in wanted] or ["-"]))
        except (RepositoryNotFoundError, DataError):
            raise
        except Exception as error:  # no network, in any of the ways a client says it: the cache may have it
            folder = Path(snapshot_download(**which, local_files_only=True))
            there = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
            chosen = _chosen(there, inside, split)
            if not chosen:
                raise LocalEntryNotFoundError(str(error)) from error
    except RepositoryNotFoundError as error:
        raise DataError(f"The hub has no data set '{owner}/{repository}', or it is private: check the name.") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).split("\n", 1)[0][:200]
        raise DataError(f"The data set '{owner}/{repository}' cannot be fetched from the hub ({reason}).") from error
    if not chosen:
        raise DataError(
            f"The data set '{owner}/{repository}' has no {split or ''} files of parquet, jsonl, csv or txt"
            f"{f' under {inside}' if inside else ''}; it has: {', '.join(sorted(there)[:10])}."
        )
    return tuple(folder / file for file in sorted(chosen))


def _named_beside(chosen: list[str], there: Iterable[str]) -> list[str]:
    """The pictures that a metadata.jsonl or .csv names, as data sets of pictures have it."""
    described = any(Path(file).stem == "metadata" for file in chosen)
    return [file for file in there if described and kind_of(Path(file)) == "picture"]


def _chosen(there: Iterable[str], inside: str, split: str | None) -> list[str]:
    files = [file for file in there if _is_data(Path(file))]
    if inside:
        files = [file for file in files if fnmatch(file, inside) or file.startswith(inside.rstrip("/") + "/")]
    files = of_split(files, split)
    kinds = {kind_of(Path(file)) for file in files}
    best = next((kind for kind in _PREFERRED if kind in kinds), None)
    return [file for file in files if kind_of(Path(file)) == best]


def _code(generator: str) -> str:
    """A hash of the world's source: examples change when it does."""
    spec = importlib.util.find_spec(f"polytask.{generator}")
    digest = hashlib.sha256()
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(Path(folder).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()
