"""Pictures of sources on disk, decoded and resized once: bytes of pixels, memory-mapped, with captions and labels.

pixels.bin      uint8, (N, S, S, 3)
given.bin       as pixels.bin, the pictures that an instruction changes, where a task has such
captions.json   a list of N strings, of instructions where pictures are changed
labels.npy      (N,) int64, numbers in the source's labels; -1 where a picture has none

An entry of the cache is named by all that decides its content: the source's files, the size, how pictures are fitted,
the share held out. Captions become tokens when they are loaded, so another tokenizer reads the same pictures.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from polytask.data.mixture import Mixture, expect_names
from polytask.data.prepare import cache_folder, locked, parts_of, share_of
from polytask.data.tokenize import held_out
from polytask.errors import DataError
from polytask.tasks.picture import Fit, decode, fitted

if TYPE_CHECKING:
    from polytask.data.sources import SourceSpec

_FORMAT = 1
_SIDES = ("train", "validation")


@dataclass(frozen=True)
class Album:
    """N pictures: pixels (N, S, S, 3) uint8, their captions, their labels (N,) int64. given: those from which they were
    changed as the captions say, (N, S, S, 3) uint8; None where they are of no such task."""

    pixels: np.ndarray
    captions: list[str]
    labels: np.ndarray
    given: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.captions)


@dataclass(frozen=True)
class PictureSource:
    name: str
    weight: float | None
    train: Album
    validation: Album


@dataclass(frozen=True)
class Pictures:
    """All sources of a run. `labels`: their names by number, the same for all sources; `size`: pixels of a side."""

    sources: tuple[PictureSource, ...]
    labels: tuple[str, ...]
    size: int

    @property
    def names(self) -> list[str]:
        return [source.name for source in self.sources]

    def mixture(self) -> Mixture:
        return Mixture.stated({source.name: source.weight for source in self.sources})


def prepare_pictures(
    sources: "Sequence[SourceSpec]",
    size: int,
    fit: Fit = "crop",
    holdout: float = 0.0,
    cache: str | os.PathLike[str] | None = None,
    progress: Callable[[str, int], None] | None = None,
) -> Pictures:
    """Decodes what is not in the cache yet. `progress` is told (source, rows) while it does.

    A row's picture is its field `image`, its caption `caption`, else its `label`; of editing it is `edited`, made of
    `image` by `instruction`. Raises DataError where a source has no pictures, or too many that cannot be read;
    ConfigError for two sources of one name.
    """
    expect_names([source.name for source in sources])
    root, found, labels = cache_folder(cache), [], []
    for source in sources:
        share = share_of(source, holdout)
        folder = root / f"pictures-{_key(source, size, fit, share)}"
        with locked(folder.with_suffix(".lock")):
            if not (folder / "source.json").exists():
                _build(folder, source, size, fit, share, progress)
        labels.append(json.loads((folder / "source.json").read_text())["labels"])
        found.append(PictureSource(source.name, source.weight, *(_open(folder / side, size) for side in _SIDES)))
    every = sorted({label for own in labels for label in own})
    numbered = [_renumbered(source, [every.index(label) for label in own]) for source, own in zip(found, labels)]
    return Pictures(tuple(numbered), tuple(every), size)


def _renumbered(source: PictureSource, numbers: list[int]) -> PictureSource:
    """Labels by their number among those of all sources; -1 stays."""
    table = np.array([*numbers, -1], dtype=np.int64)
    albums = {side: getattr(source, side) for side in _SIDES}
    return dataclasses.replace(
        source, **{side: dataclasses.replace(album, labels=table[album.labels]) for side, album in albums.items()}
    )


def _key(source: "SourceSpec", size: int, fit: str, share: float) -> str:
    task = source.task if isinstance(source.task, str) else source.task.name
    parts: list[Any] = [_FORMAT, [part.fingerprint() for part in parts_of(source)], task, size, fit, share]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _build(
    folder: Path,
    source: "SourceSpec",
    size: int,
    fit: Fit,
    share: float,
    progress: Callable[[str, int], None] | None,
) -> None:
    from polytask.data.sources import read

    temporary = Path(tempfile.mkdtemp(prefix=folder.name + ".", dir=folder.parent))
    labels: dict[str, int] = {}
    try:
        writers = [(_Edits if _edits(source) else _Writer)(temporary / side, size, fit, labels) for side in _SIDES]
        count = 0
        for part, (kept, held) in zip(parts_of(source), (writers, writers[1:] * 2)):
            for row in read(part):
                count += 1
                if "image" not in row:
                    raise DataError(f"Source '{source.name}' has rows without a picture; say which column holds it.")
                (held if held_out(row, share) else kept).add(row)
                if progress is not None and count % 100 == 0:
                    progress(source.name, count)
        for writer in writers:
            writer.close()
        (temporary / "source.json").write_text(json.dumps({"name": source.name, "labels": list(labels)}))
        if folder.exists():
            shutil.rmtree(folder)  # without source.json, so not one of ours that is complete
        with suppress(FileExistsError):
            os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class _Writer:
    """Appends pictures to a folder. `labels` are numbered as they come."""

    def __init__(self, path: Path, size: int, fit: Fit, labels: dict[str, int]):
        path.mkdir(parents=True)
        self.path, self.size, self.names = path, size, labels
        self.fit: Fit = fit
        self.captions: list[str] = []
        self.labels: list[int] = []
        self._pixels = open(path / "pixels.bin", "wb")  # noqa: SIM115 (closed in `close`)

    def add(self, row: Mapping[str, Any]) -> None:
        self._pixels.write(fitted(decode(row["image"]), self.size, self.fit).tobytes())
        label = row.get("label")
        self.captions.append(row.get("caption") or label or "")
        self.labels.append(-1 if label is None else self.names.setdefault(label, len(self.names)))

    def close(self) -> None:
        """Writes what comes at the end."""
        self._pixels.close()
        (self.path / "captions.json").write_text(json.dumps(self.captions))
        np.save(self.path / "labels.npy", np.array(self.labels, dtype=np.int64))


class _Edits(_Writer):
    """The same of pictures that an instruction makes of others."""

    def __init__(self, path: Path, size: int, fit: Fit, labels: dict[str, int]):
        super().__init__(path, size, fit, labels)
        self._given = open(path / "given.bin", "wb")  # noqa: SIM115 (closed in `close`)

    def add(self, row: Mapping[str, Any]) -> None:
        given = fitted(decode(row["image"]), self.size, self.fit)
        super().add({"image": row["edited"], "caption": row["instruction"]})
        self._given.write(given.tobytes())

    def close(self) -> None:
        super().close()
        self._given.close()


def _edits(source: "SourceSpec") -> bool:
    return (source.task if isinstance(source.task, str) else source.task.name) == "editing"


def _open(path: Path, size: int) -> Album:
    """Raises DataError where the files do not belong together."""
    try:
        captions = json.loads((path / "captions.json").read_text())
        labels = np.load(path / "labels.npy")
        shape = (len(captions), size, size, 3)
        given = path / "given.bin"
        files = [path / "pixels.bin", *([given] if given.exists() else [])]
        if any(file.stat().st_size != int(np.prod(shape)) for file in files) or len(labels) != len(captions):
            raise ValueError("pictures, captions and labels are not equally many")
        pixels = [
            np.memmap(file, np.uint8, "r", shape=shape) if captions else np.zeros(shape, np.uint8) for file in files
        ]
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: the prepared pictures are damaged ({error}); delete this folder.") from error
    return Album(pixels[0], captions, labels, *pixels[1:])
