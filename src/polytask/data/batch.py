"""What one training step consumes: tensors of fixed shape that hold several documents a row."""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

STARTS = 64  # `starts` has a power of two of numbers, at least so many: compiled code is made for few of them


@dataclass
class Batch:
    """B rows of T positions; documents in a row never see each other.

    ids, targets       (B, T) int64; `targets[b, i]` is the id that follows `ids[b, i]` in its document
    positions          (B, T) int64, from 0 in every document
    documents          (B, T) int64, 1, 2, ... in a row; 0 marks padding
    weights            (B, T) float32, the weight of predicting `targets`
    sources            (B, T) int64, which source a token came from; -1 for padding
    prefix             (B, T) bool, True where a token is given and may be seen from both sides; None if all is causal
    encoder_*          (B, S) int64, what an encoder reads; `encoder_documents` has the numbers of `documents`
    pixels             (P, 3, S, S) float32 in [-1, 1], the rows' pictures, where the network looks at them by itself
    shown              (B, T) int64, which of all pictures' states, one after the other, stands for the id; -1: none
    starts             (n,) int32, where documents begin in all B x T places, then B x T; made by `located`, or None
    """

    ids: Tensor
    positions: Tensor
    documents: Tensor
    targets: Tensor
    weights: Tensor
    sources: Tensor
    prefix: Tensor | None = None
    encoder_ids: Tensor | None = None
    encoder_positions: Tensor | None = None
    encoder_documents: Tensor | None = None
    starts: Tensor | None = None
    pixels: Tensor | None = None
    shown: Tensor | None = None

    def located(self) -> "Batch":
        """With `starts`, which kernels of GPUs read in place of a mask, where no token sees any after its own place.

        It has B + 1 numbers where every row is one document, else more.
        """
        if self.prefix is not None:
            return self
        begins = torch.ones_like(self.documents, dtype=torch.bool)
        begins[:, 1:] = self.documents[:, 1:] != self.documents[:, :-1]
        places = begins.flatten().nonzero()[:, 0]
        count = len(places) + 1
        if count > len(self) + 1:
            count = max(STARTS, 1 << (count - 1).bit_length())
            count += count == len(self) + 1
        starts = torch.full((count,), begins.numel(), dtype=torch.int32)
        starts[: len(places)] = places
        return replace(self, starts=starts)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device; copies overlap with work already queued there."""
        away = torch.device(device).type == "cuda"
        batch = self.located() if away and self.starts is None and self.documents.is_cpu else self
        moved = {}
        for field in fields(batch):
            value = getattr(batch, field.name)
            moved[field.name] = None if value is None else value.to(device, non_blocking=True)
        return Batch(**moved)

    def pin(self) -> "Batch":
        """The same batch in page-locked memory, from which copies to a GPU run in the background."""
        batch, pinned = self.located(), {}
        for field in fields(batch):
            value = getattr(batch, field.name)
            pinned[field.name] = None if value is None else value.pin_memory()
        return Batch(**pinned)

    @property
    def tokens(self) -> int:
        """Positions of the decoder that are not padding."""
        return int((self.documents > 0).sum())

    @property
    def seen(self) -> int:
        """What a step goes through: tokens, those that an encoder reads included."""
        return self.tokens + (0 if self.encoder_documents is None else int((self.encoder_documents > 0).sum()))

    def __len__(self) -> int:
        return self.ids.shape[0]
