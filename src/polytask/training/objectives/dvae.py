"""How an autoencoder of codes learns: likelihood of the pixels, and codes that are used evenly."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from polytask.errors import ConfigError
from polytask.models.dvae import Autoencoder, inside, log_likelihood, outside
from polytask.training.objectives.loss import Loss

if TYPE_CHECKING:
    from polytask.data.pictures import PictureBatch


@dataclass(frozen=True)
class Annealing:
    """From one value to another along half a cosine, in so many updates."""

    start: float
    end: float
    updates: int

    def __post_init__(self) -> None:
        if self.updates < 1:
            raise ConfigError(
                f"training.dials: [{self.start}, {self.end}, {self.updates}] must take at least one update."
            )

    def at(self, step: int) -> float:
        done = min(step / self.updates, 1.0)
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * done)) / 2


@dataclass
class Autoencoding:
    """Minus the log-likelihood of the pixels, and the divergence of the codes from a uniform choice times its weight,
    both divided by the number of colours, in nats (Ramesh et al. 2021, section 2.1 and appendix A.2).

    temperature: of the relaxed codes. weight: of the divergence (beta). spread: the standard deviation, in the units of
    `inside`, of a normal likelihood in place of the logit-Laplace one. That one has its best value at the median, which
    is the background wherever the codes do not tell yet what else there is: small pictures of few things teach it
    nothing more for long (docs/log.md). The trainer says by `begin` how far it is.
    Reported are the two terms, PSNR in decibels of the relaxed pictures, and of the likeliest codes how many of the
    codebook the batch uses, as a share, and the perplexity of their frequencies.
    """

    temperature: Annealing = Annealing(1.0, 1 / 16, 150_000)
    weight: Annealing = Annealing(0.0, 6.6, 5_000)
    spread: float | None = None
    step: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.spread is not None and self.spread <= 0:
            raise ConfigError(f"spread={self.spread} must be above 0.")

    def begin(self, step: int) -> None:
        self.step = step

    def loss(self, model: Autoencoder, batch: "PictureBatch") -> Loss:
        pixels = batch.pixels[batch.sources >= 0]
        relaxed = model(pixels, self.temperature.at(self.step))
        colours = pixels.shape[1:].numel()
        likelihood = self._likelihood(pixels, relaxed.statistics).sum() / colours
        divergence = relaxed.divergence.sum() / colours
        total = self.weight.at(self.step) * divergence - likelihood
        log = {"log_likelihood": likelihood, "divergence": divergence, **_use(relaxed.codes, model.codebook)}
        error = (outside(relaxed.statistics) - pixels).square().mean(dim=(1, 2, 3))
        log["psnr"] = (10 * (4 / error.clamp(min=1e-10)).log10()).sum()  # colours span 2
        return Loss(total, total.new_tensor(len(pixels)), log={name: figure.detach() for name, figure in log.items()})

    def _likelihood(self, pixels: Tensor, statistics: Tensor) -> Tensor:
        """In nats, (B, 3, H, W)."""
        if self.spread is None:
            return log_likelihood(pixels, statistics)
        error = (inside(pixels) - statistics[:, :3].float().sigmoid()) / self.spread
        return -error.square() / 2 - math.log(self.spread * math.sqrt(2 * math.pi))


def _use(codes: Tensor, codebook: int) -> dict[str, Tensor]:
    """Of the codes of a batch (B, h, w), times B."""
    shares = torch.bincount(codes.flatten(), minlength=codebook) / max(1, codes.numel())
    used = (shares > 0).sum() / codebook
    return {"codes_used": used * len(codes), "code_perplexity": torch.special.entr(shares).sum().exp() * len(codes)}
