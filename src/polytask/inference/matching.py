"""How well pictures and texts fit, by a CLIP (Radford et al. 2021): embeddings of both, the best of many pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from polytask.errors import ConfigError, TooLong
from polytask.models.clip import CLIP
from polytask.tokenizers.text import TextTokenizer

MOST = 512  # pictures that are ranked at once
TOGETHER = 64  # pictures or texts of one pass


@dataclass(frozen=True)
class Matcher:
    """A CLIP with the tokenizer of its texts."""

    network: CLIP
    tokenizer: TextTokenizer

    @classmethod
    def of(cls, network: Any, tokenizer: TextTokenizer | None, where: Any) -> "Matcher":
        """Raises ConfigError where `where` holds another network, or no tokenizer."""
        if not isinstance(network, CLIP):
            raise ConfigError(f"{where} holds no CLIP; name a folder of one, such as a run of clip-blocks.")
        if tokenizer is None:
            raise ConfigError(f"{where} holds a CLIP without a tokenizer; put its tokenizer.json into the folder.")
        return cls(network, tokenizer)

    @property
    def device(self) -> torch.device:
        return self.network.log_scale.device

    @property
    def side(self) -> int:
        """Of the pictures that it reads, in pixels."""
        return self.network.config.vision.image

    @property
    def length(self) -> int:
        """Tokens of a text that it reads, those that open and end it included."""
        return self.network.config.text.context_length

    def tokens(self, texts: Sequence[str], *, cut: bool = False) -> list[list[int]]:
        """Ids of each text, those that open and end it included. Raises TooLong where a text has more than it reads,
        unless they may be cut."""
        begin, end = self.tokenizer.begin, self.tokenizer.special["<|end|>"]
        room = self.length - len(begin) - 1
        rows = []
        for text, found in zip(texts, self.tokenizer.encode_lists(list(texts)), strict=True):
            if len(found) > room and not cut:
                raise TooLong(f"'{text[:40]}' has {len(found)} tokens, but this CLIP reads {room}; shorten it.")
            rows.append([*begin, *found[:room], end])
        return rows

    def embed_texts(self, texts: Sequence[str], *, cut: bool = False) -> Tensor:
        """Unit vectors (B, E); see `tokens`."""
        return self.embed_ids(self.tokens(texts, cut=cut))

    @torch.inference_mode()
    def embed_ids(self, rows: Sequence[list[int]]) -> Tensor:
        """Unit vectors (B, E) of texts as `tokens` has them."""
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        parts = zip(ids.to(self.device).split(TOGETHER), mask.to(self.device).split(TOGETHER), strict=True)
        return torch.cat([self.network.encode_text(*part) for part in parts])

    @torch.inference_mode()
    def embed_pictures(self, pixels: Tensor) -> Tensor:
        """Unit vectors (B, E) of pictures (B, 3, H, W) in [-1, 1], resized where they have another size."""
        if pixels.shape[-2:] != (self.side, self.side):
            size = (self.side, self.side)
            pixels = F.interpolate(pixels.float(), size=size, mode="bicubic", antialias=True).clamp(-1, 1)
        given = pixels.to(self.device, self.network.log_scale.dtype)
        return torch.cat([self.network.encode_image(part) for part in given.split(TOGETHER)])

    def rank(self, pixels: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Order of pictures (N, 3, H, W), those first that lie nearest to an embedding (E,), and the cosine of each in
        that order. Raises ConfigError where there are not 1 to 512 pictures."""
        if not 1 <= len(pixels) <= MOST:
            raise ConfigError(f"{len(pixels)} pictures were given to be ranked; give 1 to {MOST}.")
        values, order = (self.embed_pictures(pixels) @ wanted).sort(descending=True, stable=True)
        return order.cpu(), values.cpu()


def expect_candidates(candidates: int, n: int) -> None:
    """Raises ConfigError where so many pictures are not enough, or too many."""
    if isinstance(candidates, bool) or not isinstance(candidates, int) or not n <= candidates <= MOST:
        raise ConfigError(f"candidates={candidates!r} must be a whole number of at least n={n} and at most {MOST}.")
