"""A random network that draws large enough to paint on and in steps enough to be stopped."""

from pathlib import Path

import torch

from polytask.interop.networks import NetworkFolder
from polytask.models.clip import CLIP
from polytask.models.prior import Prior
from polytask.pictures import PictureModel
from polytask.pictures.painter import Painter
from polytask.systems.clip import clip, vit
from polytask.systems.dalle2 import decoder, prior
from tests.inference.networks import TOKENIZER

SIDE, LENGTH, EMBED = 16, 48, 16
SMALL = {"pixels": SIDE, "channels": 16, "multipliers": (1, 2), "attention": (8,), "head_dim": 16, "groups": 8}


def unclip() -> PictureModel:
    """Draws, edits by a mask, and varies."""
    words = {"vocab_size": TOKENIZER.vocab_size, "context_length": LENGTH}
    drawing = _loud(decoder(**SMALL, embed=EMBED, reader_layers=1, reader_dim=64, **words).build().initialize(0))
    seeing = clip(vit(SIDE, 8, 1, 64), EMBED, text_layers=1, text_dim=64, **words)
    guessing = Prior(prior(EMBED, 64, LENGTH, 1, 64)).initialize(0).eval()
    folder = NetworkFolder(Path("unclip"), drawing.config, {"text_length": LENGTH}, TOKENIZER)
    return PictureModel(Painter(folder, drawing, CLIP(seeing).initialize(0).eval(), guessing))


@torch.no_grad()
def _loud(model):
    """With a last layer, which is zero before training."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.unet.last.parameters():
        parameter.normal_(std=0.1, generator=generator)
    return model.eval()
