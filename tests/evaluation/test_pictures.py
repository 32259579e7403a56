"""Measures of pictures against scipy, numpy and values worked out by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import linalg, ndimage

from polytask.errors import ConfigError
from polytask.evaluation.pictures import (
    Moments,
    bits_per_dimension,
    clip_score,
    features_of,
    frechet_distance,
    precision_recall,
    psnr,
    ssim,
)
from polytask.models.diffusion import Diffusion, DiffusionConfig
from polytask.models.unet import UNetConfig


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_frechet_distance_is_that_of_scipy():
    real, drawn = noise(0, 300, 12) @ noise(1, 12, 12), noise(2, 200, 12) * 1.5 + 0.3
    a, b = real.double().numpy(), drawn.double().numpy()
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    gap = a.mean(0) - b.mean(0)
    wanted = gap @ gap + np.trace(first + second - 2 * linalg.sqrtm(first @ second).real)
    whole = frechet_distance(Moments().add(real), Moments().add(drawn))
    assert whole == pytest.approx(wanted, rel=1e-6)
    parts = Moments().add(real[:100]).add(real[100:])
    assert frechet_distance(parts, Moments().add(drawn)) == pytest.approx(wanted, rel=1e-6)
    assert frechet_distance(parts, Moments().add(real)) == pytest.approx(0, abs=1e-6)
    # Normal distributions of one dimension: (m - n)^2 + (s - t)^2; fewer pictures than features are no trouble.
    one = [Moments().add(torch.tensor([[0.0], [2.0]])), Moments().add(torch.tensor([[4.0], [10.0]]))]
    assert frechet_distance(*one) == pytest.approx(36 + (math.sqrt(2) - math.sqrt(18)) ** 2)
    few = frechet_distance(Moments().add(real[:5]), Moments().add(drawn[:5]))
    assert math.isfinite(few)
    with pytest.raises(ConfigError, match="not 1"):
        frechet_distance(Moments().add(real[:1]), Moments().add(drawn))


def test_precision_and_recall():
    real, drawn = noise(0, 60, 4), torch.cat([noise(1, 30, 4), noise(2, 10, 4) + 50])

    def share(points, others):
        """Pair by pair."""
        inside = 0
        for point in points:
            for other in others:
                reach = sorted(float((other - third).norm()) for third in others)[3]
                if float((point - other).norm()) <= reach:
                    inside += 1
                    break
        return inside / len(points)

    found = precision_recall(real, drawn)
    assert found == pytest.approx((share(drawn.double(), real.double()), share(real.double(), drawn.double())))
    assert 0.5 < found.precision <= 0.75
    assert precision_recall(real, real + 1000) == (0, 0)
    assert precision_recall(real, real) == (1, 1)
    with pytest.raises(ConfigError, match="3 neighbours"):
        precision_recall(real, drawn[:3])


def test_psnr():
    x = torch.zeros(2, 3, 4, 4)
    y = x + torch.tensor([0.2, 2.0]).view(2, 1, 1, 1)
    assert psnr(x, y).tolist() == pytest.approx([20.0, 0.0], abs=1e-5)
    assert math.isinf(psnr(x, x)[0])


def test_ssim_is_that_of_a_direct_computation():
    x = torch.rand(2, 3, 24, 20, generator=torch.Generator().manual_seed(0)) * 2 - 1
    y = (x + 0.3 * noise(1, 2, 3, 24, 20)).clamp(-1, 1)
    wanted = []
    for a, b in zip(x.double().numpy(), y.double().numpy(), strict=True):
        maps = []
        for p, q in zip(a, b, strict=True):
            blur = lambda image: ndimage.gaussian_filter(image, 1.5, truncate=5 / 1.5)[5:-5, 5:-5]  # noqa: E731
            mp, mq = blur(p), blur(q)
            vp, vq, cov = blur(p * p) - mp**2, blur(q * q) - mq**2, blur(p * q) - mp * mq
            c1, c2 = 0.02**2, 0.06**2
            maps.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
        wanted.append(np.mean(maps))
    assert ssim(x, y).tolist() == pytest.approx(wanted, rel=1e-9)
    assert ssim(x, x).tolist() == pytest.approx([1, 1])
    with pytest.raises(ConfigError, match="at least 11"):
        ssim(x[..., :8], y[..., :8])


def test_clip_score():
    pictures = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    texts = torch.tensor([[2.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    assert clip_score(pictures, texts).tolist() == pytest.approx([100, 100 / math.sqrt(2), 0])


def test_features_of_batches():
    found = features_of(lambda x: x.mean((2, 3)), [torch.ones(2, 3, 4, 4), torch.zeros(1, 3, 4, 4)])
    assert found.tolist() == [[1.0] * 3, [1.0] * 3, [0.0] * 3]


def test_bits_per_dimension_of_a_network():
    """A network that knows that all pictures are black codes black ones in little, most of it for rounding at the last
    of so few steps, and others in much."""
    unet = UNetConfig(pixels=4, channels=8, multipliers=(1,), blocks=1, groups=4, middle_attention=False)
    plain = Diffusion(DiffusionConfig(unet, steps=20)).initialize(0).eval()
    pixels = (torch.randint(0, 256, (3, 3, 4, 4), generator=torch.Generator().manual_seed(0)) / 127.5) - 1
    with pytest.raises(ConfigError, match="learned_variance"):
        bits_per_dimension(plain, pixels, plain.condition())
    model = Diffusion(DiffusionConfig(replace(unet, learned_variance=True), steps=20, prediction="x0")).initialize(0)
    with torch.no_grad():
        model.unet.last.bias[:3] = -1.0
    model.eval()
    bits = bits_per_dimension(model, pixels, model.condition())
    assert (bits > 2).all()
    assert torch.equal(bits, bits_per_dimension(model, pixels, model.condition()))
    assert (bits_per_dimension(model, torch.full_like(pixels, -1.0), model.condition()) < 1.3).all()
