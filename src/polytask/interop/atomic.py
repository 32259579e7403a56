"""A folder that is written whole or not at all, and whose files can be checked.

It is written beside its place, flushed, and renamed into it, so that a crash leaves the old one or the new one.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from polytask.errors import CheckpointError


@contextmanager
def atomic_folder(path: Path, *, ours: bool = True, advice: str = "") -> Iterator[Path]:
    """A folder to fill, which takes the place of `path` when the block ends well and vanishes when it does not.

    All files are flushed to disk first, and those of `ours` are checksummed, which marks the folder as one that may be
    replaced; any other is new or an error. A full disk is a CheckpointError, which ends with `advice`; what
    stood at `path` stays.
    """
    path = Path(path)
    check_replaceable(path, ours)
    fresh, old = path.with_name(f".{path.name}.new-{os.getpid()}"), path.with_name(f".{path.name}.old-{os.getpid()}")
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        yield fresh
        if ours:
            write_checksums(fresh)
        else:
            _flush_all(fresh)
        if path.exists():
            path.rename(old)
        fresh.rename(path)
        _flush(path.parent)
    except OSError as error:
        raise CheckpointError(f"Cannot save to {path}: {error.strerror or error}. {advice}".rstrip()) from error
    finally:
        if old.exists() and not path.exists():  # interrupted between the two renames
            old.rename(path)
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def share_files(source: Path, target: Path) -> None:
    """All of a model's folder but its training state and its checksums, which are those of a whole; files are shared
    where the disk can."""
    for file in source.rglob("*"):
        relative = file.relative_to(source)
        if file.is_dir() or relative.parts[0] == "state" or relative.name == "checksums.json":
            continue
        (target / relative).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, target / relative)
        except OSError:
            shutil.copyfile(file, target / relative)


def check_replaceable(path: Path, ours: bool = True) -> None:
    """Raises CheckpointError where writing a folder at `path` would take the place of what is not polytask's."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not ours:
        raise CheckpointError(f"{path} exists; choose another place, or remove it first.")
    if not (path / "checksums.json").is_file():
        what = "holds other files than a model's" if path.is_dir() else "is a file"
        raise CheckpointError(f"{path} {what}, which saving there would remove; choose another place.")


def write_checksums(folder: Path) -> None:
    """Flushes every file of `folder` and notes its SHA-256 in checksums.json."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    sums = {file.relative_to(folder).as_posix(): sha256(file) for file in files}
    (folder / "checksums.json").write_text(json.dumps(sums, indent=1))
    _flush_all(folder)


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def verify(folder: Path) -> None:
    """Raises CheckpointError where a file is missing or differs from its checksum."""
    listing = folder / "checksums.json"
    if not listing.exists():
        raise CheckpointError(f"{folder} has no checksums.json: writing it never ended. Use an earlier checkpoint.")
    try:
        sums = dict(json.loads(listing.read_text()))
    except (ValueError, TypeError):
        raise CheckpointError(f"{listing} is damaged. Use an earlier checkpoint or copy the folder anew.") from None
    for name, expected in sums.items():
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"{folder} lacks {name}. Use an earlier checkpoint or copy the folder anew.")
        if sha256(file) != expected:
            raise CheckpointError(
                f"{file} is damaged: its checksum differs. Use an earlier checkpoint or copy it anew."
            )


def _flush_all(folder: Path) -> None:
    """Every file may be read by whom the folder's own rights say: safetensors writes for its owner alone."""
    rights = folder.stat().st_mode & 0o666
    for path in [*(p for p in folder.rglob("*") if p.is_file()), folder]:
        if path != folder and path.stat().st_nlink == 1:
            path.chmod(rights)
        _flush(path)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
