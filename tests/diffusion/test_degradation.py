"""Worse copies: JPEG beside Pillow's, blurs beside scipy's, and that every picture goes a way of its own."""

import io

import pytest
import torch
from PIL import Image
from scipy import ndimage

from polytask.blocksworld.generate import example
from polytask.diffusion.degradation import bsr, gaussian, jpeg
from polytask.errors import ConfigError
from polytask.tasks.picture import decode, to_picture, to_tensor
from polytask.training.objectives.diffusion import Denoising


def scene(seed=0, side=64):
    return to_tensor(decode(example("drawing", seed, pixels=side)["image"]).resize((side, side)))


@pytest.mark.parametrize("quality", [20, 50, 75, 95])
@pytest.mark.parametrize("side", [64, 37])
def test_jpeg_is_that_of_pillow(quality, side):
    generator = torch.Generator().manual_seed(0)
    pixels = gaussian(torch.randn(1, 3, side, side, generator=generator), (2.0, 2.0)) * 3
    pixels = to_tensor(to_picture(pixels[0].clamp(-1, 1)))
    file = io.BytesIO()
    to_picture(pixels).save(file, "JPEG", quality=quality, subsampling=0)
    wanted, found = to_tensor(Image.open(file)), jpeg(pixels[None], quality)[0]
    away = (found - wanted).abs() * 127.5  # levels
    assert float(away.mean()) < 0.5
    assert float(away.mean()) < 0.3 * float((pixels - wanted).abs().mean() * 127.5)


def test_a_blur_is_that_of_scipy():
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = gaussian(pixels, (1.5, 0.7))[0]
    for plane, wanted in zip(found, pixels[0], strict=True):
        expected = ndimage.gaussian_filter(wanted.numpy(), (0.7, 1.5), mode="nearest", radius=4)
        torch.testing.assert_close(plane, torch.from_numpy(expected), atol=1e-9, rtol=0)
    turned = gaussian(pixels, (1.5, 0.7), torch.pi / 2)
    torch.testing.assert_close(turned, gaussian(pixels.mT, (1.5, 0.7)).mT, atol=1e-6, rtol=0)


def test_every_picture_is_made_worse_in_a_way_of_its_own():
    pixels = torch.stack([scene()] * 6)
    made = bsr(pixels, 32, torch.Generator().manual_seed(3))
    assert made.shape == (6, 3, 32, 32)
    assert float(made.abs().max()) <= 1
    clean = torch.nn.functional.interpolate(pixels, size=32, mode="area")
    away = (made - clean).square().mean((1, 2, 3)).sqrt()
    assert len({round(float(one), 5) for one in away}) == 6
    assert float(away.min()) > 0.005
    assert float(away.max()) < 0.4  # the picture is still there
    assert torch.equal(made, bsr(pixels, 32, torch.Generator().manual_seed(3)))


def test_one_way_to_make_pictures_worse_is_chosen():
    with pytest.raises(ConfigError, match="exclude each other"):
        Denoising(bsr=True, blur=0.6)
