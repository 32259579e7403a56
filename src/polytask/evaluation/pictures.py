"""How good drawn pictures are: beside real ones by features of a given network, beside an original, beside a text.

Features are (N, F), of any network: figures of different networks do not compare. Pictures are (B, C, H, W) in [-1, 1].
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from polytask.diffusion import process
from polytask.errors import ConfigError
from polytask.models.diffusion import Condition, Diffusion

RANGE = 2.0  # of pixels, from -1 to 1
WINDOW = 11  # pixels a side of what SSIM compares at a time


@dataclass
class Moments:
    """Mean and covariance of features, gathered batch by batch in float64."""

    count: int = 0
    total: Tensor | None = None
    products: Tensor | None = None

    def add(self, features: Tensor) -> "Moments":
        """features (N, F). Returns self."""
        x = features.double().flatten(1)
        total, products = x.sum(0), x.T @ x
        self.count += len(x)
        self.total = total if self.total is None else self.total + total
        self.products = products if self.products is None else self.products + products
        return self

    @property
    def mean(self) -> Tensor:
        """(F,). Raises ConfigError where there are no two pictures."""
        if self.total is None or self.count < 2:
            raise ConfigError(
                f"A distance of distributions needs two pictures or more of either side, not {self.count}."
            )
        return self.total / self.count

    @property
    def covariance(self) -> Tensor:
        """(F, F), unbiased."""
        mean = self.mean
        assert self.products is not None
        return (self.products - self.count * torch.outer(mean, mean)) / (self.count - 1)


def frechet_distance(real: Moments, drawn: Moments) -> float:
    """Between the normal distributions of those moments, squared (Heusel et al. 2017, equation 6): that of the means
    and tr(A + B - 2 (A B)^(1/2)). Small samples make it larger; compare figures of equal counts alone."""
    gap, first, second = real.mean - drawn.mean, real.covariance, drawn.covariance
    root = _root(first)
    # The eigenvalues of A B are those of A^(1/2) B A^(1/2), which is symmetric.
    mixed = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    return max(0.0, float(gap @ gap + first.trace() + second.trace() - 2 * mixed))


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


class PrecisionRecall(NamedTuple):
    """Shares: of drawn pictures that could be real, and of real pictures that could be drawn."""

    precision: float
    recall: float


def precision_recall(real: Tensor, drawn: Tensor, neighbours: int = 3) -> PrecisionRecall:
    """By features (N, F) and (M, F): a picture could be of the other side where it lies no further from one of them
    than that one's k-th neighbour (Kynkäänniemi et al. 2019, section 2)."""
    if min(len(real), len(drawn)) <= neighbours:
        raise ConfigError(
            f"precision and recall with {neighbours} neighbours need more than {neighbours} pictures of either side."
        )
    return PrecisionRecall(_covered(drawn, real, neighbours), _covered(real, drawn, neighbours))


def _covered(points: Tensor, others: Tensor, neighbours: int, rows: int = 1024) -> float:
    """The share of `points` that lie within reach of one of `others`; so many rows of distances exist at once."""
    points, others = points.double(), others.double()
    exact = "donot_use_mm_for_euclid_dist"
    reach = torch.cat(
        [torch.cdist(part, others, compute_mode=exact).kthvalue(neighbours + 1).values for part in others.split(rows)]
    )
    inside = [(torch.cdist(part, others, compute_mode=exact) <= reach).any(1) for part in points.split(rows)]
    return float(torch.cat(inside).double().mean())


def clip_score(pictures: Tensor, texts: Tensor) -> Tensor:
    """100 max(0, cosine) of the embeddings (B, E) of pictures and of their texts, (B,) (Hessel et al. 2021, with the
    scale of 100 that is usual since)."""
    return 100 * F.cosine_similarity(pictures.float(), texts.float(), dim=-1).clamp(min=0)


def psnr(pictures: Tensor, originals: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in decibels, (B,); infinite for equal pictures."""
    error = (pictures.double() - originals.double()).square().flatten(1).mean(1)
    return 10 * (RANGE**2 / error).log10()


def ssim(pictures: Tensor, originals: Tensor, window: int = WINDOW, sigma: float = 1.5) -> Tensor:
    """Structural similarity, (B,): the mean over channels and over all places whose window lies within the picture
    (Wang et al. 2004, equation 13, K1 = 0.01, K2 = 0.03, a Gaussian window of 11 pixels and deviation 1.5)."""
    if min(pictures.shape[-2:]) < window:
        raise ConfigError(f"SSIM with a window of {window} needs pictures of at least {window} x {window} pixels.")
    x, y = pictures.double(), originals.double()
    blurred = _blur(torch.stack([x, y, x * x, y * y, x * y]), window, sigma)
    mx, my, xx, yy, xy = blurred
    vx, vy, covariance = xx - mx * mx, yy - my * my, xy - mx * my
    c1, c2 = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2
    similarity = (2 * mx * my + c1) * (2 * covariance + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return similarity.flatten(1).mean(1)


def _blur(x: Tensor, window: int, sigma: float) -> Tensor:
    """(..., H, W) to (..., H - window + 1, W - window + 1), rows first and then columns."""
    places = torch.arange(window, dtype=x.dtype, device=x.device) - (window - 1) / 2
    weights = torch.exp(-places.square() / (2 * sigma**2))
    weights = weights / weights.sum()
    return (x.unfold(-1, window, 1) @ weights).unfold(-2, window, 1) @ weights


class CodeUse(NamedTuple):
    """used: the share of a codebook that occurs. perplexity: of how often each of them does."""

    used: float
    perplexity: float


def code_use(codes: Tensor, codebook: int) -> CodeUse:
    """Of codes of any shape, whole numbers below `codebook`."""
    shares = torch.bincount(codes.flatten(), minlength=codebook).double() / codes.numel()
    return CodeUse(float((shares > 0).double().mean()), float(torch.special.entr(shares).sum().exp()))


@torch.no_grad()
def features_of(encode: Callable[[Tensor], Tensor], batches: Iterable[Tensor]) -> Tensor:
    """(N, F) of all batches of pictures, on the CPU."""
    return torch.cat([encode(batch).float().flatten(1).cpu() for batch in batches])


@torch.no_grad()
def bits_per_dimension(
    model: Diffusion, pixels: Tensor, condition: Condition, seed: int = 0, low: Tensor | None = None
) -> Tensor:
    """The variational bound on the code length of pictures of 256 levels, (B,), over all steps of the schedule (Nichol
    and Dhariwal 2021). low (B, 3, h, w): what is known of them, where the network enlarges; no noise is put into it.

    Raises ConfigError where the network has not learned its variance, without which the bound is loose.
    """
    if not model.config.unet.learned_variance:
        raise ConfigError("bits per dimension are defined for networks with learned_variance alone.")

    def outputs(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        output = model(x, t, condition, low).float()
        x0 = process.clean(model.config.prediction, output[:, :3], x, model.schedule.at(t))
        return x0, output[:, 3:]

    generator = torch.Generator(pixels.device).manual_seed(seed)
    return process.bits_per_dimension(outputs, pixels, model.schedule, generator)
