"""Batches of pictures with their captions: what contrastive, diffusion and autoencoder objectives take.

`PictureLoader.batch(step)` depends on nothing but its arguments, as the text loader's. Rank r of w holds rows r, r + w,
... of the global batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from polytask.data.ahead import made_ahead
from polytask.data.albums import Album, Pictures
from polytask.data.mixture import Draw, Mixture
from polytask.errors import ConfigError, DataError
from polytask.registry import nearest

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from polytask.tokenizers.dropout import Dropout
    from polytask.tokenizers.text import TextTokenizer


STRIDE = 8  # tokens by which captions grow: few shapes for what is compiled, and little padding


@dataclass
class PictureBatch:
    """B pictures of one size, each with a caption.

    pixels     (B, 3, H, W) float32 in [-1, 1]
    ids        (B, L) int64, the caption's tokens, the padding token behind them; L as the longest of the batch has, in
               steps of 8
    mask       (B, L) bool, True where `ids` holds a token of the caption
    labels     (B,) int64, the number of the picture's label; -1 where it has none
    sources    (B,) int64, which source a picture came from; -1 for a row that fills up the last batch of a validation
    given      (B, 3, H, W) float32 in [-1, 1], the pictures from which they were changed as their captions say; None
               where no source has such
    """

    pixels: "Tensor"
    ids: "Tensor"
    mask: "Tensor"
    labels: "Tensor"
    sources: "Tensor"
    given: "Tensor | None" = None

    def to(self, device: "torch.device | str") -> "PictureBatch":
        """The same batch on another device; copies overlap with work already queued there."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def pin(self) -> "PictureBatch":
        """The same batch in page-locked memory, from which copies to a GPU run in the background."""
        return self._with(lambda tensor: tensor.pin_memory())

    def _with(self, change: "Callable[[Tensor], Tensor]") -> "PictureBatch":
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: change(tensor) for name, tensor in held.items() if tensor is not None})

    @property
    def seen(self) -> int:
        """How many pictures there are."""
        return len(self)

    def __len__(self) -> int:
        return self.pixels.shape[0]


class PictureLoader:
    """Batches of prepared pictures.

    tokenizer     of the captions; None where a network reads none, and `ids` are (B, 0)
    text_length   tokens of a caption, the <|end|> behind it included; what is longer is cut
    dropout       of the merges of its BPE, in batches of training
    batch_rows, mixture, seed, rank, world, total_steps   as in the text loader
    """

    def __init__(
        self,
        pictures: Pictures,
        tokenizer: "TextTokenizer | None",
        batch_rows: int,
        text_length: int = 64,
        mixture: Mixture | None = None,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        total_steps: int | None = None,
        dropout: "Dropout | None" = None,
    ):
        if batch_rows < world:
            raise ConfigError(
                f"A batch of {batch_rows} pictures cannot be shared by {world} ranks; give each at least one."
            )
        if tokenizer is not None and text_length < 2:
            raise ConfigError(f"A caption of {text_length} tokens says nothing; text_length is 2 or more.")
        self.pictures, self.batch_rows, self.rank, self.world = pictures, batch_rows, rank, world
        counts = [len(source.train) for source in pictures.sources]
        if not any(counts):
            raise DataError("The data has no pictures to train on; add some or hold out a smaller share.")
        stages = (mixture or pictures.mixture()).definite(pictures.names, counts, total_steps)
        self.draw = Draw(counts, stages, batch_rows, seed)
        self._words = _Words(tokenizer, text_length if tokenizer is not None else 0, dropout)

    def batch(self, step: int) -> PictureBatch:
        """This rank's pictures of a step."""
        mine = np.arange(self.rank, self.batch_rows, self.world)
        sources, rows, epochs = self.draw.indices(step, mine)
        return self._assemble([source.train for source in self.pictures.sources], sources, rows, epochs=epochs)

    def batches(self, start: int = 0, stop: int | None = None, ahead: int = 2) -> Iterator[PictureBatch]:
        """Batches of steps `start` to `stop`, assembled by a thread up to `ahead` steps before they are asked for."""
        return made_ahead(self.batch, range(start, stop if stop is not None else 2**62), ahead)

    def validation_batches(self, source: str | int, limit: int | None = None) -> Iterator[PictureBatch]:
        """One pass over a source's held-out pictures, always the same, in batches of one shape.

        The last batch is filled with grey pictures of source -1, so every rank gets as many batches. `limit` stops
        after so many batches. Raises DataError where nothing was held out.
        """
        names = self.pictures.names
        if isinstance(source, str) and source not in names:
            raise ConfigError(f"Unknown source '{source}': {nearest(source, names)}")
        index = source if isinstance(source, int) else names.index(source)
        album = self.pictures.sources[index].validation
        if not len(album):
            raise DataError(f"Source '{names[index]}' has no held-out pictures; prepare it with a larger `holdout`.")
        count = -(-len(album) // self.batch_rows)
        for step in range(count if limit is None else min(count, limit)):
            rows = step * self.batch_rows + np.arange(self.rank, self.batch_rows, self.world)
            yield self._assemble([album], np.where(rows < len(album), 0, -1), rows, [index])

    def epochs(self, step: int) -> dict[str, float]:
        """How often each source was gone through before this step."""
        return dict(zip(self.pictures.names, self.draw.epochs(step).tolist()))

    def _assemble(
        self, albums: Sequence[Album], turns: np.ndarray, rows: np.ndarray, names: Sequence[int] | None = None,
        epochs: np.ndarray | None = None,
    ) -> PictureBatch:  # fmt: skip
        """turns (B,): which album each row is of, -1 for none; `names`: the source of each album; epochs (B,): in which
        a picture of training is seen."""
        import torch

        size = self.pictures.size
        pixels = np.full((len(rows), size, size, 3), 128, dtype=np.uint8)
        given = np.full_like(pixels, 128) if any(album.given is not None for album in albums) else None
        labels, sources = np.full(len(rows), -1, np.int64), np.full(len(rows), -1, np.int64)
        captions: list[str | None] = [None] * len(rows)
        for turn in np.unique(turns[turns >= 0]).tolist():
            slots = np.flatnonzero(turns == turn)
            pixels[slots], labels[slots] = albums[turn].pixels[rows[slots]], albums[turn].labels[rows[slots]]
            if given is not None and (before := albums[turn].given) is not None:
                given[slots] = before[rows[slots]]
            sources[slots] = turn if names is None else names[turn]
            for slot in slots.tolist():
                captions[slot] = albums[turn].captions[rows[slot]]
        keys = None if epochs is None else np.stack([epochs, turns, rows], axis=1).tolist()
        ids, mask = self._words.arrays(captions, keys)
        ids, mask, labels, sources = (torch.from_numpy(array) for array in (ids, mask, labels, sources))
        return PictureBatch(_planes(pixels), ids, mask, labels, sources, None if given is None else _planes(given))


def _planes(pixels: np.ndarray) -> "Tensor":
    """(B, H, W, 3) uint8 as (B, 3, H, W) float32 in [-1, 1]."""
    import torch

    from polytask.tasks.picture import scaled

    return scaled(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous())


class _Words:
    """Captions as tokens, each with the end token behind it."""

    def __init__(self, tokenizer: "TextTokenizer | None", length: int, dropout: "Dropout | None"):
        self.tokenizer, self.length, self.dropout = tokenizer, length, dropout

    def arrays(
        self, captions: Sequence[str | None], keys: Sequence[Sequence[int]] | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """ids (B, L) int64 and mask (B, L); a caption that is None stays empty. keys: of each caption of training, by
        which it is cut anew."""
        if self.tokenizer is None:
            return np.zeros((len(captions), 0), np.int64), np.zeros((len(captions), 0), bool)
        special = self.tokenizer.special
        texts = [caption or "" for caption in captions]
        if self.dropout is None or keys is None:
            tokens = self.tokenizer.encode_lists(texts)
        else:
            cuts = [self.dropout.cut(self.tokenizer, *key) for key in keys]
            tokens = [cut([text])[0] for cut, text in zip(cuts, texts, strict=True)]
        longest = 1 + max(map(len, tokens), default=0)
        shape = len(captions), min(self.length, STRIDE * -(-longest // STRIDE))
        ids, mask = np.full(shape, special["<|pad|>"], np.int64), np.zeros(shape, bool)
        for row, found in enumerate(tokens):
            if captions[row] is not None:
                whole = [*found[: self.length - 1], special["<|end|>"]]
                ids[row, : len(whole)], mask[row, : len(whole)] = whole, True
        return ids, mask
