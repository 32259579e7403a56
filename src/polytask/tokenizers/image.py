"""Pictures as tokens: one vocabulary for texts and pictures, and the autoencoder that knows what a code looks like."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from polytask.errors import TokenizerError
from polytask.models.dvae import Autoencoder
from polytask.tasks.picture import decode, fitted, png, to_picture, to_tensor

_BATCH = 256  # pictures that go through the autoencoder at once


@dataclass(frozen=True)
class JointVocabulary:
    """Ids of texts, then `special` ones, then the codes of a picture of height x width tokens in raster order.

    special: with two of them the first begins and the second ends a picture that stands among texts. DALL-E has one for
    each place of its text, which stands where the text is shorter, and a picture always behind them (Ramesh et al.
    2021, section 2.2).
    """

    text: int
    special: int
    codes: int
    height: int
    width: int

    @property
    def padding(self) -> bool:
        """Whether special ids stand behind a text that is shorter, as DALL-E's do."""
        return self.special > 2

    @property
    def begin(self) -> int:
        return self.text

    @property
    def end(self) -> int:
        return self.text + 1

    @property
    def first(self) -> int:
        """The id of code 0."""
        return self.text + self.special

    @property
    def size(self) -> int:
        return self.first + self.codes

    @property
    def tokens(self) -> int:
        """Of a picture."""
        return self.height * self.width

    def spell(self, ids: Iterable[int]) -> str:
        """The names of ids that are none of texts. Raises TokenizerError where there is no such id."""
        return "".join(map(self._name, ids))

    def _name(self, i: int) -> str:
        if not self.text <= i < self.size:
            raise TokenizerError(f"Id {i} is none of a picture, which are {self.text} to {self.size - 1}.")
        if i >= self.first:
            return f"<|code_{i - self.first}|>"
        return "<|pad|>" if self.padding else "<|image|>" if i == self.begin else "<|end of image|>"

    def padded(self, ids: Sequence[int]) -> list[int]:
        """A text as long as there are special ids, each place behind its end with the padding of that place.

        Raises TokenizerError where it is longer.
        """
        if len(ids) > self.special:
            raise TokenizerError(
                f"The text has {len(ids)} tokens, and the model reads {self.special} before a picture; shorten it."
            )
        return [*ids, *range(self.text + len(ids), self.text + self.special)]

    def ids(self, codes: Tensor) -> list[list[int]]:
        """Of each of B grids of codes (B, h, w), row after row."""
        if codes.min() < 0 or codes.max() >= self.codes:
            raise TokenizerError(
                f"A picture has the code {int(codes.max())}, and the vocabulary holds {self.codes}; use the image "
                "tokenizer that belongs to the model."
            )
        return (codes.flatten(1) + self.first).tolist()

    def grids(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Codes (B, height, width) of B pictures. Raises TokenizerError where one is no whole picture."""
        for one in ids:
            if len(one) != self.tokens or min(one) < self.first or max(one) >= self.size:
                raise TokenizerError(
                    f"These are not the {self.tokens} tokens of a picture, each from {self.first} to {self.size - 1}."
                )
        return torch.tensor([list(one) for one in ids]).view(-1, self.height, self.width) - self.first


class ImageTokenizer:
    """Pictures (B, 3, H, W) in [-1, 1] to the ids of their tokens and back."""

    draws = True

    def __init__(self, autoencoder: Autoencoder, vocabulary: JointVocabulary):
        if not isinstance(autoencoder, Autoencoder):
            raise TokenizerError(
                f"A {type(autoencoder).__name__} makes no codes of pictures; give the folder of an autoencoder."
            )
        grid, codes = autoencoder.config.grid, autoencoder.codebook
        if (vocabulary.height, vocabulary.width, vocabulary.codes) != (grid, grid, codes):
            raise TokenizerError(
                f"The autoencoder makes {grid} x {grid} tokens of {codes} codes, and the vocabulary holds "
                f"{vocabulary.height} x {vocabulary.width} of {vocabulary.codes}; use those that belong together."
            )
        self.autoencoder, self.vocabulary = autoencoder.eval(), vocabulary

    @classmethod
    def beside(cls, autoencoder: Autoencoder, text: int, text_length: int | None = None) -> "ImageTokenizer":
        """Codes behind `text` ids of texts, with two special ids, or DALL-E's of a text of `text_length` tokens.

        Raises TokenizerError for a network that is no autoencoder.
        """
        known = isinstance(autoencoder, Autoencoder)
        grid, codes = (autoencoder.config.grid, autoencoder.codebook) if known else (0, 0)
        return cls(autoencoder, JointVocabulary(text, text_length or 2, codes, grid, grid))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of everything that decides which ids a picture gets."""
        digest = hashlib.sha256(repr((self.autoencoder.config, self.vocabulary)).encode())
        for tensor in self.autoencoder.state_dict().values():
            digest.update(tensor.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()

    def read(self, files: Sequence[bytes]) -> list[list[int]]:
        """The ids of encoded pictures (PNG, ...), in batches; what has another size is scaled and cropped.

        Raises TaskError for a broken one.
        """
        different = list(dict.fromkeys(files))
        found: dict[bytes, list[int]] = {}
        for start in range(0, len(different), _BATCH):
            part = different[start : start + _BATCH]
            found |= zip(part, self.encode(self.seen(part)))
        return [found[data] for data in files]

    def among(self, files: Sequence[bytes]) -> list[list[int]]:
        """The same as they stand among texts, between their opener and their end."""
        return [[self.vocabulary.begin, *ids, self.vocabulary.end] for ids in self.read(files)]

    def seen(self, files: Sequence[bytes]) -> Tensor:
        """Encoded pictures as pixels (B, 3, H, W) of the size that is read."""
        return to_tensor([fitted(decode(data), self.size) for data in files])

    def drawn(self, ids: Sequence[Sequence[int]]) -> list[bytes]:
        """Pictures of ids as PNGs, in batches."""
        parts = (self.decode(ids[start : start + _BATCH]) for start in range(0, len(ids), _BATCH))
        return [png(to_picture(one)) for part in parts for one in part]

    @property
    def size(self) -> int:
        """Side of a picture in pixels."""
        return self.autoencoder.config.image

    @torch.inference_mode()
    def encode(self, pixels: Tensor) -> list[list[int]]:
        return self.vocabulary.ids(self.autoencoder.codes(pixels))

    @torch.inference_mode()
    def decode(self, ids: Sequence[Sequence[int]]) -> Tensor:
        codes = self.vocabulary.grids(ids)
        return self.autoencoder.pixels(codes.to(next(self.autoencoder.parameters()).device))
