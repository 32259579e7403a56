"""Safetensors files of others: tensors read straight to where they belong, and written in shards.

What is read is not kept memory-mapped: most matrices are fused on the way (queries, keys and values are one of ours),
and a mapped file that somebody writes anew ends the process or changes the weights under it. Read by the operating
system into the weights themselves, bytes are copied once.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from polytask.errors import CheckpointError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SCRATCH = 16 << 20  # bytes that are converted at a time
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: its bytes begin at `start`."""

    name: str
    file: Path
    start: int
    shape: tuple[int, ...]
    kind: str

    @property
    def dtype(self) -> torch.dtype:
        if self.kind not in DTYPES:
            raise CheckpointError(
                f"{self.file} keeps {self.name} as {self.kind}; quantised weights are not read, take the folder in "
                "bfloat16, float16 or float32."
            )
        return DTYPES[self.kind]

    def read_into(self, target: Tensor) -> None:
        """Fills a contiguous tensor of as many numbers, of any precision and on any device."""
        flat = target.view(-1)
        if target.dtype == self.dtype and target.device.type == "cpu":
            return self._bytes_into(flat, 0)
        for start, part in self.parts():
            flat[start : start + len(part)].copy_(part)

    def parts(self) -> Iterator[tuple[int, Tensor]]:
        """All numbers in order, as flat tensors with where each begins; a part is overwritten by the next."""
        total, step = math.prod(self.shape), SCRATCH // self.dtype.itemsize
        scratch = torch.empty(min(step, total), dtype=self.dtype)
        for start in range(0, total, step):
            part = scratch[: min(step, total - start)]
            self._bytes_into(part, start * self.dtype.itemsize)
            yield start, part

    def equals(self, other: "Stored") -> bool:
        """Whether both hold the same numbers in the same precision."""
        if (self.shape, self.kind) != (other.shape, other.kind):
            return False
        return all(torch.equal(one, two) for (_, one), (_, two) in zip(self.parts(), other.parts(), strict=True))

    def read(self) -> Tensor:
        whole = torch.empty(self.shape, dtype=self.dtype)
        self.read_into(whole)
        return whole

    def _bytes_into(self, flat: Tensor, offset: int) -> None:
        left = flat.view(torch.uint8).numpy().data
        with self.file.open("rb", buffering=0) as stream:
            stream.seek(self.start + offset)
            while len(left):
                count = stream.readinto(left)
                if not count:
                    raise CheckpointError(f"{self.file} ends before {self.name} does; copy it again from its source.")
                left = left[count:]


def stored(folder: Path) -> dict[str, Stored]:
    """The tensors of a folder by name, in one file or in shards. Raises CheckpointError naming what is wrong."""
    if (folder / SINGLE).is_file():
        return _of_file(folder / SINGLE)
    tensors: dict[str, Stored] = {}
    placed = _index(folder / INDEX)
    for name in sorted(set(placed.values())):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} lacks {name}, which {INDEX} lists; copy that file too.")
        tensors |= _of_file(folder / name)
    lost = sorted(placed.keys() - tensors.keys())
    if lost:
        raise CheckpointError(f"{folder / placed[lost[0]]} lacks {lost[0]}, which {INDEX} places there; copy it again.")
    return tensors


def _index(file: Path) -> dict[str, str]:
    try:
        placed = dict(json.loads(file.read_text(encoding="utf-8"))["weight_map"])
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"{file} is damaged: it lists no weight_map; copy it again from its source.") from None
    for name in placed.values():
        if not isinstance(name, str) or Path(name).name != name:
            raise CheckpointError(f"{file} names a file outside of its folder: {name!r}.")
    return placed


def _of_file(file: Path) -> dict[str, Stored]:
    try:
        with safe_open(file, framework="pt"):  # the library checks that header and length agree
            pass
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{file} is damaged ({error}); copy it again from its source.") from None
    first = 8 + length
    return {
        name: Stored(name, file, first + entry["data_offsets"][0], tuple(entry["shape"]), entry["dtype"])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def write(
    folder: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, make: Callable[[str], Tensor],
    shard_bytes: int,
) -> None:  # fmt: skip
    """Writes the tensors `make(name)` of these shapes, one in memory at a time, with an index where shards are several.

    A shard holds at most `shard_bytes`, or one tensor that is larger.
    """
    sizes = {name: math.prod(shape) * dtype.itemsize for name, shape in shapes.items()}
    shards = _shared_out(sizes, shard_bytes)
    placed = {}
    for n, names in enumerate(shards, start=1):
        file = SINGLE if len(shards) == 1 else f"model-{n:05}-of-{len(shards):05}.safetensors"
        _write_file(folder / file, {name: shapes[name] for name in names}, dtype, make)
        placed |= dict.fromkeys(names, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": dict(sorted(placed.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _write_file(
    file: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, make: Callable[[str], Tensor]
) -> None:
    """The library's own writer wants all tensors of a file at once."""
    kind = next(kind for kind, of in DTYPES.items() if of == dtype)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": (start, end)}
    said = json.dumps(header).encode()
    said += b" " * (-len(said) % 8)  # tensors begin at a multiple of 8
    with file.open("wb") as stream:
        stream.write(len(said).to_bytes(8, "little") + said)
        for name in shapes:
            stream.write(make(name).contiguous().view(-1).view(torch.uint8).numpy().data)


def _shared_out(sizes: Mapping[str, int], shard_bytes: int) -> Sequence[Sequence[str]]:
    shards: list[list[str]] = [[]]
    held = 0
    for name, size in sizes.items():
        if shards[-1] and held + size > shard_bytes:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += size
    return shards
