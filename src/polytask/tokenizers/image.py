"""Pictures as tokens: one vocabulary for texts and pictures, and the autoencoder that knows what a code looks like."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from polytask.errors import TokenizerError
from polytask.models.dvae import Autoencoder


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

    def __init__(self, autoencoder: Autoencoder, vocabulary: JointVocabulary):
        grid, codes = autoencoder.config.grid, autoencoder.codebook
        if (vocabulary.height, vocabulary.width, vocabulary.codes) != (grid, grid, codes):
            raise TokenizerError(
                f"The autoencoder makes {grid} x {grid} tokens of {codes} codes, and the vocabulary holds "
                f"{vocabulary.height} x {vocabulary.width} of {vocabulary.codes}; use those that belong together."
            )
        self.autoencoder, self.vocabulary = autoencoder.eval(), vocabulary

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
