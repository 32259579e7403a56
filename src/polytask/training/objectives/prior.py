"""How a diffusion prior learns (Ramesh et al. 2022, section 2.2)."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from polytask.models.clip import CLIP
from polytask.models.prior import Prior
from polytask.training.objectives.loss import Loss

if TYPE_CHECKING:
    from polytask.data.pictures import PictureBatch


class DiffusionPrior:
    """The squared error of the clean embedding, a mean over its channels. A text is left out of a tenth of the rows, so
    that there is something to guide away from.

    clip: frozen; makes what the prior reads and predicts. alpha_bar (steps,): the share of variance that is left of an
    embedding at each step.
    """

    def __init__(self, clip: CLIP, alpha_bar: Tensor, drop: float = 0.1):
        self.clip, self.alpha_bar, self.drop = clip.eval().requires_grad_(False), alpha_bar, drop

    def loss(self, model: Prior, batch: "PictureBatch") -> Loss:
        real = batch.sources >= 0
        ids, mask = batch.ids[real], batch.mask[real]
        with torch.no_grad():
            clean = model.scaled(self.clip.encode_image(batch.pixels[real]))
            text, states = self.clip.encode_text(ids, mask), self.clip.text_states(ids, mask)
        count, device = len(clean), clean.device
        t = torch.randint(len(self.alpha_bar), (count,), device=device)
        kept = self.alpha_bar.to(device, clean.dtype)[t][:, None]
        x = kept.sqrt() * clean + (1 - kept).sqrt() * torch.randn_like(clean)
        read = torch.rand(count, 1, device=device) >= self.drop
        said = model(x, t, states, text * read, mask & read)
        return Loss((said - clean).square().mean(dim=1).sum(), clean.new_tensor(count))
