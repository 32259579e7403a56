"""Batches of pictures with their captions: what contrastive, diffusion and autoencoder objectives take."""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass
class PictureBatch:
    """B pictures of one size, each with a caption.

    pixels     (B, 3, H, W) float32 in [-1, 1]
    ids        (B, L) int64, the caption's tokens; the padding token behind them
    mask       (B, L) bool, True where `ids` holds a token of the caption
    labels     (B,) int64, the number of the picture's label; -1 where it has none
    sources    (B,) int64, which source a picture came from; -1 for a row that fills up the last batch of a validation
    """

    pixels: "Tensor"
    ids: "Tensor"
    mask: "Tensor"
    labels: "Tensor"
    sources: "Tensor"

    def to(self, device: "torch.device | str") -> "PictureBatch":
        """The same batch on another device; copies overlap with work already queued there."""
        return PictureBatch(*(getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)))

    def pin(self) -> "PictureBatch":
        """The same batch in page-locked memory, from which copies to a GPU run in the background."""
        return PictureBatch(*(getattr(self, field.name).pin_memory() for field in fields(self)))

    def __len__(self) -> int:
        return self.pixels.shape[0]
