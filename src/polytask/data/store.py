"""Tokenized documents on disk, memory-mapped: tokens, which of them are predicted, and where documents begin.

tokens.bin      uint16 or uint32, all documents one after another
predicted.bin   one bit a token (numpy's packbits order): is predicting it worth anything
documents.npy   (N, 4) int64: first token; opener of the last answer, first predicted token (both counted from the
                document's start); UTF-8 bytes of the answers
pictures.npy    (P,) int64: where among the tokens each picture begins, of a network that looks at them by itself
pixels.bin      uint8, (P, S, S, 3), what they show
store.json      token width, counts, S
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from polytask.errors import DataError


@dataclass(frozen=True)
class Counts:
    """What a store holds. `predicted` tokens carry the loss, and spell `predicted_bytes` bytes of text (for bits per
    byte; the <|end|> after each answer is predicted as well but has no bytes)."""

    documents: int = 0
    tokens: int = 0
    predicted: int = 0
    characters: int = 0
    bytes: int = 0
    predicted_bytes: int = 0
    pictures: int = 0


class Store:
    """Documents of one source, read from a folder. Opening is instant and ranks on one machine share the memory.

    pictures (P,): where among the tokens each begins; pixels (P, S, S, 3) uint8, both memory-mapped.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            about = json.loads((path / "store.json").read_text())
            self.counts = Counts(**about["counts"])
            table = np.load(path / "documents.npy", mmap_mode="r") if self.counts.documents else np.zeros((0, 4))
            self.tokens = _mapped(path / "tokens.bin", np.dtype(about["dtype"]), self.counts.tokens)
            self._bits = _mapped(path / "predicted.bin", np.dtype(np.uint8), -(-self.counts.tokens // 8))
            count, side = self.counts.pictures, about["side"]
            self.pictures = np.load(path / "pictures.npy", mmap_mode="r") if count else np.zeros(0, np.int64)
            pixels = _mapped(path / "pixels.bin", np.dtype(np.uint8), count * 3 * side**2) if count else np.zeros(0)
            self.pixels = pixels.reshape(count, side, side, 3)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}: the prepared data is damaged ({error}); delete this folder and run again."
            ) from error
        columns = np.ascontiguousarray(table.T, dtype=np.int64)
        self.starts, self.openers, self.firsts, self.predicted_bytes = columns
        self.lengths = np.diff(self.starts, append=self.counts.tokens)

    def predicted(self, index: np.ndarray) -> np.ndarray:
        """Weights (N,) float32, 1 or 0, of predicting the tokens at `index` (N,)."""
        return ((self._bits[index >> 3] >> (7 - (index & 7)).astype(np.uint8)) & 1).astype(np.float32)

    def shown(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of tokens at `index` (N,) that stand for a picture's states: which picture's, and which of its states."""
        number = np.searchsorted(self.pictures, index, side="right") - 1
        return number, index - self.pictures[number]

    def __len__(self) -> int:
        return self.counts.documents


def _mapped(path: Path, dtype: np.dtype, count: int) -> np.ndarray:
    if path.stat().st_size != count * dtype.itemsize:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes instead of {count * dtype.itemsize}")
    return np.asarray(np.memmap(path, dtype, "r")) if count else np.zeros(0, dtype)


class StoreWriter:
    """Appends documents to a folder; nothing can be read before `close`."""

    def __init__(self, path: Path, vocab_size: int):
        path.mkdir(parents=True)
        self.path = path
        self._dtype = np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)
        self._tokens: BinaryIO = open(path / "tokens.bin", "wb")  # noqa: SIM115 (closed in `close`)
        self._bits: BinaryIO = open(path / "predicted.bin", "wb")  # noqa: SIM115
        self._waiting = np.zeros(0, dtype=np.uint8)  # bits that do not fill a byte yet
        self._tables: list[np.ndarray] = []
        self._pictures: list[np.ndarray] = []
        self._pixels: BinaryIO | None = None
        self._side = 0
        self._counts = Counts()

    def add(
        self,
        ids: np.ndarray,
        predicted: np.ndarray,
        lengths: np.ndarray,
        openers: np.ndarray,
        firsts: np.ndarray,
        predicted_bytes: np.ndarray,
        characters: int,
        bytes: int,
        pictures: np.ndarray | None = None,
        pixels: np.ndarray | None = None,
    ) -> None:
        """Documents of `lengths` (N,), their ids and flags joined, (sum of lengths,); pictures and pixels as
        `tokenizers.encode.Documents` has them."""
        counts = self._counts
        starts = counts.tokens + np.cumsum(lengths) - lengths
        self._tables.append(np.stack([starts, openers, firsts, predicted_bytes], axis=1).astype(np.int64))
        self._tokens.write(np.ascontiguousarray(ids, dtype=self._dtype).data)
        bits = np.concatenate([self._waiting, predicted.astype(np.uint8)])
        whole = len(bits) // 8 * 8
        self._bits.write(np.packbits(bits[:whole]).data)
        self._waiting = bits[whole:]
        if pictures is not None and pixels is not None:
            self._keep(counts.tokens + pictures, pixels)
        self._counts = Counts(
            documents=counts.documents + len(lengths),
            tokens=counts.tokens + len(ids),
            predicted=counts.predicted + int(predicted.sum()),
            characters=counts.characters + characters,
            bytes=counts.bytes + bytes,
            predicted_bytes=counts.predicted_bytes + int(predicted_bytes.sum()),
            pictures=counts.pictures + (0 if pictures is None else len(pictures)),
        )

    def _keep(self, pictures: np.ndarray, pixels: np.ndarray) -> None:
        if self._pixels is None:
            self._pixels, self._side = open(self.path / "pixels.bin", "wb"), pixels.shape[1]  # noqa: SIM115
        self._pictures.append(pictures)
        self._pixels.write(np.ascontiguousarray(pixels).data)

    @property
    def tokens(self) -> int:
        """Written so far."""
        return self._counts.tokens

    def close(self) -> Counts:
        self._bits.write(np.packbits(self._waiting).data)
        self._tokens.close()
        self._bits.close()
        if self._pixels is not None:
            self._pixels.close()
            np.save(self.path / "pictures.npy", np.concatenate(self._pictures).astype(np.int64))
        empty: Sequence[np.ndarray] = [np.zeros((0, 4), dtype=np.int64)]
        np.save(self.path / "documents.npy", np.concatenate([*empty, *self._tables]))
        about = {"dtype": self._dtype.name, "counts": asdict(self._counts), "side": self._side}
        (self.path / "store.json").write_text(json.dumps(about))
        return self._counts
