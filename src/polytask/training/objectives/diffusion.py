"""Predicting noise: pictures with some of it, and what is said of them (Ho et al. 2020; Nichol and Dhariwal 2021)."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from polytask.diffusion import process
from polytask.diffusion.degradation import bsr
from polytask.diffusion.guidance import augmented, blurred
from polytask.errors import ConfigError
from polytask.models.diffusion import Condition, Diffusion, DiffusionConfig
from polytask.training.objectives.loss import Loss

if TYPE_CHECKING:
    from polytask.data.pictures import PictureBatch


class Seen(NamedTuple):
    """What a network is given of a batch."""

    x: Tensor
    t: Tensor
    condition: Condition
    low: Tensor | None = None
    augmentation: Tensor | None = None
    guess: Tensor | None = None


@dataclass
class Denoising:
    """The mean squared error of what the network predicts, a picture, with weights.

    min_snr: bounds the weight of almost clean pictures (Hang et al. 2023); None weighs all errors alike. drop: of how
    many pictures the text or the label is left out, so that guidance has something to lead away from; drop_pooled: the
    same of vectors from `encoder`, whose `encode_image(pixels)` gives (B, P) and is not trained (unCLIP). Where the
    variance is learned too, its variational bound is added, in which the mean has no gradient (Nichol and Dhariwal
    2021, equation 16). Where the U-Net enlarges, it sees the picture at low_pixels, under a Gaussian of deviation
    `blur` in pixels (unCLIP's first upsampler: 0.6) or, with `bsr`, made worse in many ways (its second), with noise of
    a random level where it is told one (Saharia et al. 2022, algorithm 1); and with self-conditioning, for every other
    batch, its own first estimate. Where it changes pictures it sees those that are given, and the text alone, the
    picture alone and both are left out of `drop` each (Brooks et al. 2023, "InstructPix2Pix", section 3.2.1). crop: it
    learns from random parts of that side, of which it sees the same part at low_pixels (both papers' larger networks).

    Steps are spread evenly over a batch (Kingma et al. 2021, "Variational diffusion models", appendix I.1). All else
    that is random is of torch's generator, which the trainer seeds by seed, step and process; in evaluation it is the
    same every time.
    """

    min_snr: float | None = 5.0
    drop: float = 0.1
    drop_pooled: float = 0.1
    variance_weight: float = 0.001
    encoder: Any = None
    blur: float = 0.0
    bsr: bool = False
    crop: int | None = None
    step: int = field(default=0, init=False)  # the trainer says it by `begin`

    def __post_init__(self) -> None:
        if self.bsr and self.blur:
            raise ConfigError(f"training.dials: blur={self.blur} and bsr exclude each other; leave one out.")
        for name in ("drop", "drop_pooled"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"training.dials: {name}={getattr(self, name)} must be a share from 0 to 1.")

    def begin(self, step: int) -> None:
        self.step = step

    def loss(self, model: Diffusion, batch: "PictureBatch") -> Loss:
        generator = None if model.training else Generator(batch.pixels.device).manual_seed(0)
        config = model.config
        if config.changes and (self.drop > 1 / 3 or self.blur or self.bsr):
            raise ConfigError(
                "training.dials: a network that changes pictures leaves out text, picture and both in a share `drop` "
                "each, a third at most, and sees no picture made worse; leave blur and bsr out."
            )
        pixels, low = self._cut(batch, config, generator)
        noise = _normal(pixels, generator)
        seen = self._seen(model, batch, pixels, low, noise, generator)
        alpha_bar = model.schedule.at(seen.t)
        output = model(*seen).float()
        said, variance = output[:, :3], output[:, 3:]
        wanted = process.target(config.prediction, pixels, noise, alpha_bar)
        errors = (said - wanted).square().flatten(1).mean(1)
        real = (batch.sources >= 0).to(errors.dtype)
        weights = real if self.min_snr is None else real * self._weights(model, alpha_bar)
        total, log, judged = (weights * errors).sum(), {"mse": (real * errors).sum().detach()}, "loss"
        if config.unet.learned_variance:
            estimate = process.clean(config.prediction, said.detach(), seen.x, alpha_bar)
            bits = process.bound(pixels, seen.x, seen.t, model.schedule, estimate, variance)
            total = total + self.variance_weight * config.steps * (real * bits).sum()
            log["bits"] = config.steps * (real * bits).sum().detach()  # per dimension, of all steps
            judged = (
                "mse"  # the one picture in some thirty batches that is at step 0 costs bits like hundreds of others
            )
        return Loss(total, real.sum(), log=log, judged=judged)

    def _weights(self, model: Diffusion, alpha_bar: Tensor) -> Tensor:
        assert self.min_snr is not None
        return process.min_snr(model.config.prediction, alpha_bar, self.min_snr).flatten()

    def _cut(
        self, batch: "PictureBatch", config: DiffusionConfig, generator: Generator | None
    ) -> tuple[Tensor, Tensor | None]:
        """The part of the pictures that is learned from, and the same part of the ones that are seen beside noise."""
        pixels, low_pixels, low = batch.pixels, config.low_pixels, None
        if config.changes:
            assert batch.given is not None
            low = batch.given
        elif low_pixels:
            low = self._smaller(pixels, low_pixels, generator)
        if self.crop is None or self.crop >= pixels.shape[-1]:
            return pixels, low
        factor = pixels.shape[-1] // low_pixels if low_pixels else 1
        if self.crop % factor:
            raise ConfigError(f"crop={self.crop} must be a multiple of {factor}, by which the network enlarges.")
        side, free = self.crop // factor, (pixels.shape[-1] - self.crop) // factor + 1
        top, left = torch.randint(free, (2,), generator=_on_cpu(generator)).tolist()
        part = pixels[..., factor * top :, factor * left :][..., : self.crop, : self.crop]
        return part, None if low is None else low[..., top : top + side, left : left + side]

    def _smaller(self, pixels: Tensor, side: int, generator: Generator | None) -> Tensor:
        with torch.autocast(pixels.device.type, enabled=False):  # pixels of bfloat16 cannot be resized on a CPU
            if self.bsr:
                return bsr(pixels, side, generator)
            low = F.interpolate(pixels, size=side, mode="area")
            return blurred(low, self.blur) if self.blur else low

    def _seen(
        self, model: Diffusion, batch: "PictureBatch", pixels: Tensor, low: Tensor | None, noise: Tensor,
        generator: Generator | None,
    ) -> Seen:  # fmt: skip
        config = model.config
        t = _steps(len(pixels), config.steps, pixels.device, generator)
        condition, low = self._condition(model, batch, low, generator)
        x, level = process.noised(pixels, noise, model.schedule.at(t)), None
        if low is not None and config.unet.augmentation:
            level = _uniform(pixels, generator)
            low = augmented(low, level, _normal(low, generator))
        seen = Seen(x, t, condition, low, level)
        # Decided by the step alone: processes that share a network must make the same passes.
        coin = torch.rand((), generator=Generator().manual_seed(self.step if generator is None else 0))
        if config.unet.self_conditioning and float(coin) < 0.5:
            with torch.no_grad():
                first = model(*seen)[:, :3].float()
            guess = process.clean(config.prediction, first, x, model.schedule.at(t)).clamp(-1, 1)
            seen = seen._replace(guess=guess)
        return seen

    def _condition(
        self, model: Diffusion, batch: "PictureBatch", low: Tensor | None, generator: Generator | None
    ) -> tuple[Condition, Tensor | None]:
        """What the batch is to show and the pictures seen beside, with some of it left out in training."""
        pooled = None
        if self.encoder is not None:
            with torch.no_grad():
                pooled = self.encoder.encode_image(batch.pixels)
        condition = model.condition(batch.ids, batch.mask, batch.labels, pooled)
        chance = _uniform(batch.pixels, generator)
        text = chance >= (2 * self.drop if model.config.changes else self.drop)
        vector = _uniform(batch.pixels, generator) >= (self.drop if self.encoder is None else self.drop_pooled)
        if not model.training:
            text, vector = torch.ones_like(text), torch.ones_like(vector)
        elif low is not None and model.config.changes:
            seen = (chance < self.drop) | (chance >= 3 * self.drop)
            low = low * seen.view(-1, 1, 1, 1)
        return condition.kept(text, vector), low


def _steps(count: int, steps: int, device: torch.device, generator: Generator | None) -> Tensor:
    """One in each of `count` equal parts of all steps, in random order."""
    start = torch.rand((), generator=generator, device=device)
    places = torch.randperm(count, generator=generator, device=device)
    return (((places + start) / count) * steps).long().clamp(max=steps - 1)


def _uniform(pixels: Tensor, generator: Generator | None) -> Tensor:
    return torch.rand(len(pixels), generator=generator, device=pixels.device)


def _normal(like: Tensor, generator: Generator | None) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def _on_cpu(generator: Generator | None) -> Generator | None:
    """A coin for the whole batch is thrown where no device must be waited for."""
    return None if generator is None else Generator().manual_seed(0)
