"""Which label a picture has."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from polytask.errors import ConfigError
from polytask.models.classifier import Classifier
from polytask.training.objectives.loss import Loss

if TYPE_CHECKING:
    from polytask.data.pictures import PictureBatch


@dataclass(frozen=True)
class Classifying:
    """The cross-entropy of the labels, in nats; pictures without one are left out.

    shift: in training a picture is moved by up to so many pixels each way, its border repeated, and with `flip` half of
    them are mirrored (He et al. 2016, section 4.2, which pads with zeros). smoothing: the share of the right label's
    probability that all labels are given in equal parts (Szegedy et al. 2016). All that is random is of torch's
    generator, which the trainer seeds by seed and step.
    """

    shift: int = 0
    flip: bool = False
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if self.shift < 0:
            raise ConfigError(f"training.dials: shift={self.shift} must be some pixels, at least 0.")
        if not 0 <= self.smoothing < 1:
            raise ConfigError(f"training.dials: smoothing={self.smoothing!r} must be at least 0 and below 1.")

    def loss(self, model: Classifier, batch: "PictureBatch") -> Loss:
        known = batch.labels >= 0
        pixels, labels = batch.pixels[known], batch.labels[known]
        if model.training:
            pixels = self._changed(pixels)
        logits = model(pixels).float()
        smoothing = self.smoothing if model.training else 0.0
        total = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
        return Loss(total, known.sum().to(total.dtype), log={"accuracy": (logits.argmax(1) == labels).sum()})

    def _changed(self, pixels: Tensor) -> Tensor:
        count, side = len(pixels), pixels.shape[-1]
        if self.shift:
            wide = F.pad(pixels, (self.shift,) * 4, mode="replicate")
            places = torch.arange(side, device=pixels.device)
            across, down = torch.randint(2 * self.shift + 1, (2, count, 1), device=pixels.device)
            rows = torch.arange(count, device=pixels.device)[:, None, None]
            wide = wide.permute(0, 2, 3, 1)[rows, (down + places)[:, :, None], (across + places)[:, None]]
            pixels = wide.permute(0, 3, 1, 2)
        if self.flip:
            mirrored = torch.rand(count, device=pixels.device) < 0.5
            pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
        return pixels
