"""InstructPix2Pix (Brooks et al. 2023, arXiv:2211.09800): a picture changed as an instruction says.

What is its own: the network sees, beside the noise, the picture that is to be changed; in training the instruction, the
picture and both are left out of a twentieth each, so that drawing may be led towards either by a weight of its own.
Published: a latent diffusion model, begun from Stable Diffusion; the weights that see the picture begin at zero. Ours:
Imagen's first network, on pixels, begun from one that draws where a recipe names it.
"""

from dataclasses import replace

from polytask.models.config import TransformerConfig
from polytask.models.diffusion import DiffusionConfig
from polytask.models.unet import Form
from polytask.systems.captions import reader
from polytask.systems.imagen import SKIP, imagen


def editor(
    pixels: int = 32, channels: int = 64, *, multipliers: tuple[int, ...] = (1, 2, 3),
    blocks: int | tuple[int, ...] = 1, attention: tuple[int, ...] = (16, 8), head_dim: int = 32, groups: int = 32,
    dropout: float = 0.0, form: Form = "improved", text: TransformerConfig | None = None, reader_layers: int = 2,
    reader_dim: int = 256, vocab_size: int = 512, context_length: int = 64, drawing: DiffusionConfig | None = None,
) -> DiffusionConfig:  # fmt: skip
    """What a recipe trains. text: a language network whose encoder is taken and frozen. drawing: the network that it
    begins from, which has all of its sizes."""
    if drawing is not None:
        return replace(drawing, unet=replace(drawing.unet, low=True), low_pixels=drawing.unet.pixels)
    read = text or reader(reader_layers, reader_dim, vocab_size, context_length)
    unet = imagen(
        pixels, channels, multipliers=multipliers, blocks=blocks, attention=attention, text=read.dim, groups=groups,
        head_dim=head_dim, dropout=dropout, form=form, skip_scale=SKIP if form == "efficient" else 1.0, low=True,
    )  # fmt: skip
    return DiffusionConfig(unet, read, frozen_text=text is not None, low_pixels=pixels)
