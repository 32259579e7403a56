"""Which text belongs to which picture (Radford et al. 2021, section 2.3 and figure 3)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from polytask.models.clip import CLIP
from polytask.training.objectives.loss import Loss

if TYPE_CHECKING:
    from polytask.data.pictures import PictureBatch


@dataclass(frozen=True)
class Contrastive:
    """The mean of two cross-entropies, of a picture among the batch's texts and of a text among its pictures, in nats.

    All other pairs of the batch are taken for wrong, so the loss depends on how rows are split over batches. The scale
    stays at 100 at most, as if it were clipped after each update.
    """

    def loss(self, model: CLIP, batch: "PictureBatch") -> Loss:
        model.clip_scale()
        real = batch.sources >= 0
        logits = model(batch.pixels[real], batch.ids[real], batch.mask[real]).float()
        right = torch.arange(len(logits), device=logits.device)
        total = (
            F.cross_entropy(logits, right, reduction="sum") + F.cross_entropy(logits.mT, right, reduction="sum")
        ) / 2
        # Nothing has no largest: a process may have no pair of the last batch of a validation.
        found = (logits.argmax(1) == right).sum() + (logits.argmax(0) == right).sum() if len(right) else right.sum()
        log = {"accuracy": found / 2, "scale": model.scale.detach() * len(logits)}
        return Loss(total, total.new_tensor(len(logits)), log=log)
