"""Folders of small random networks that draw, and of a CLIP."""

import torch
from PIL import Image

from polytask.interop import networks
from polytask.models.clip import CLIP
from polytask.models.diffusion import Diffusion, DiffusionConfig
from polytask.models.unet import UNetConfig
from polytask.systems.captions import reader
from polytask.systems.clip import clip, vit
from tests.inference.networks import TOKENIZER

SIDE, EMBED, LENGTH, TEXT = 8, 16, 24, 64
ABOUT = {"text_length": LENGTH}
SMALL = {"channels": 16, "multipliers": (1, 2), "blocks": 1, "groups": 8, "head_dim": 16}


def shaken(network, std=0.05, seed=0):
    """With weights that are not 0 where branches end."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(std * torch.randn(parameter.shape, generator=generator))
    return network


def write_clip(path, seed=0, side=SIDE):
    sizes = {"text_layers": 1, "text_dim": TEXT, "vocab_size": TOKENIZER.vocab_size, "context_length": LENGTH}
    networks.save(path, CLIP(clip(vit(side, 4, 1, 64), EMBED, **sizes)).initialize(seed), tokenizer=TOKENIZER)
    return path


def write_unclip(root, drawing=None):
    """unCLIP's decoder with the CLIP that it holds, root / "decoder", which may have dials of its own; and one that
    enlarges what it draws."""
    write_clip(root / "clip")
    unet = UNetConfig(pixels=SIDE, pooled=EMBED, learned_variance=True, **SMALL)
    _write(root / "decoder", DiffusionConfig(unet, prediction="v"), drawing, parts={"clip": root / "clip"})
    unet = UNetConfig(pixels=2 * SIDE, low=True, augmentation=True, **SMALL)
    _write(root / "larger", DiffusionConfig(unet, low_pixels=SIDE, prediction="v"), parts={"base": root / "decoder"})
    return root


def write_captioned(root, drawing=None, enlarging=None):
    """What draws a caption, root / "base", and what enlarges that, told of its noise; with dials of their own."""
    read = reader(1, TEXT, TOKENIZER.vocab_size, LENGTH)
    unet = UNetConfig(pixels=SIDE, text=TEXT, attention=(4,), **SMALL)
    _write(root / "base", DiffusionConfig(unet, read, prediction="v"), drawing)
    unet = UNetConfig(pixels=2 * SIDE, low=True, augmentation=True, **SMALL)
    larger = DiffusionConfig(unet, low_pixels=SIDE, prediction="v")
    _write(root / "larger", larger, enlarging, parts={"base": root / "base"})
    return root


def _write(path, config, drawing=None, **words):
    about = ABOUT | ({"drawing": drawing} if drawing else {})
    networks.save(path, shaken(Diffusion(config).initialize(0)), about=about, tokenizer=TOKENIZER, **words)


def picture(seed, side=SIDE):
    values = torch.rand(side, side, 3, generator=torch.Generator().manual_seed(seed)) * 200 + 20
    return Image.fromarray(values.byte().numpy())
