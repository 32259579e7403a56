"""What one training step consumes: tensors of fixed shape that hold several documents a row."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor


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

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device; copies overlap with work already queued there."""
        moved = {}
        for field in fields(self):
            value = getattr(self, field.name)
            moved[field.name] = None if value is None else value.to(device, non_blocking=True)
        return Batch(**moved)

    def pin(self) -> "Batch":
        """The same batch in page-locked memory, from which copies to a GPU run in the background."""
        pinned = {}
        for field in fields(self):
            value = getattr(self, field.name)
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
