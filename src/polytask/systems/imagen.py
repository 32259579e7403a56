"""Imagen (Saharia et al. 2022, arXiv:2205.11487).

What is its own: a large language model that is frozen, T5-XXL's encoder, reads the caption; a U-Net draws it at 64
pixels and two more enlarge it to 256 and 1024, told how noisy the smaller picture is that they see (noise-conditioning
augmentation); and estimates are scaled back from saturation (dynamic thresholding), so that guidance may be strong.
Appendix F has the three networks. The first is of improved DDPM's form; the others are Efficient U-Nets, most of whose
blocks are where maps are small.

Not public: how the residual blocks of the Efficient U-Net share skip connections, biases, what "hidden 2x" of its
attention widens (we take all heads together), the norm's groups, and steps of sampling. The figures of appendix B give
both Efficient U-Nets almost the same size, so the printed 600M and 400M cannot both follow from them: they are held as
printed and compared with nothing. Counts of the first are without its text layers, as the printed 2B seems to be.
"""

from typing import Any

from polytask.models.config import TransformerConfig
from polytask.models.diffusion import DiffusionConfig
from polytask.models.published import Publication, Published
from polytask.models.unet import Form, UNetConfig
from polytask.systems.captions import reader

PAPER = Publication(
    title="Imagen",
    year=2022,
    paper="Saharia et al. 2022, arXiv:2205.11487",
    special="a frozen T5 reads, three U-Nets draw and enlarge; dynamic thresholding",
    unpublished=(
        "skip connections of the Efficient U-Net", "biases", "what its attention's hidden width is of",
        "groups of norms", "steps of sampling", "which T5 line",
    ),
)  # fmt: skip
T5_XXL = 4096  # width of its states
SKIP = 2**-0.5  # by which Efficient U-Nets scale what they keep (appendix B)


def imagen(
    pixels: int = 64, channels: int = 512, *, multipliers: tuple[int, ...] = (1, 2, 3, 4),
    blocks: int | tuple[int, ...] = 3, attention: tuple[int, ...] = (32, 16, 8), text: int = T5_XXL, groups: int = 32,
    **words: Any,
) -> UNetConfig:  # fmt: skip
    """The network that draws at first."""
    return UNetConfig(
        pixels=pixels, channels=channels, multipliers=multipliers, blocks=blocks, attention=attention, text=text,
        text_pooling=bool(text), groups=groups, **words,
    )  # fmt: skip


def efficient(pixels: int, attention: tuple[int, ...], text: int = T5_XXL) -> UNetConfig:
    """A network that enlarges. attention: where places attend to each other; the text is read at the deepest level."""
    return UNetConfig(
        pixels=pixels, channels=128, multipliers=(1, 2, 4, 8), blocks=(2, 4, 8, 8), attention=attention,
        text_attention=(pixels // 16,), heads=8, attention_width=2, form="efficient", skip_scale=SKIP, text=text,
        text_pooling=True, low=True, augmentation=True,
    )  # fmt: skip


def base(
    pixels: int = 32, channels: int = 64, *, multipliers: tuple[int, ...] = (1, 2, 3),
    blocks: int | tuple[int, ...] = 1, attention: tuple[int, ...] = (16, 8), head_dim: int = 32, groups: int = 32,
    dropout: float = 0.0, self_conditioning: bool = False, form: Form = "improved",
    text: TransformerConfig | None = None, reader_layers: int = 2, reader_dim: int = 256, vocab_size: int = 512,
    context_length: int = 64, drawing: DiffusionConfig | None = None,
) -> DiffusionConfig:  # fmt: skip
    """What a recipe trains: the first network with what reads its captions.

    form: "improved", as published; "efficient", that of the larger networks, has no blocks at full size.

    text: a language network whose encoder is taken and frozen, as published; without one a stack of reader_layers of
    width reader_dim is trained along. drawing: the network that it goes on from, which has all of its sizes.
    """
    if drawing is not None:
        return drawing
    read = text or reader(reader_layers, reader_dim, vocab_size, context_length)
    unet = imagen(
        pixels, channels, multipliers=multipliers, blocks=blocks, attention=attention, text=read.dim, groups=groups,
        head_dim=head_dim, dropout=dropout, self_conditioning=self_conditioning, form=form,
        skip_scale=SKIP if form == "efficient" else 1.0,
    )  # fmt: skip
    return DiffusionConfig(unet, read, frozen_text=text is not None)


def larger(
    low_pixels: int = 32, pixels: int = 64, channels: int = 32, *, multipliers: tuple[int, ...] = (1, 2, 4),
    blocks: tuple[int, ...] = (1, 2, 2), reader_dim: int = 128, reader_layers: int = 1, head_dim: int = 32,
    groups: int = 32, form: Form = "efficient", text: TransformerConfig | None = None, vocab_size: int = 512,
    context_length: int = 64,
) -> DiffusionConfig:  # fmt: skip
    """What a recipe trains to enlarge: a network that reads the caption at its deepest level.

    form: "efficient", as published, has no blocks at full size, whose detail its few channels must then hold;
    "improved", that of the first network, has.
    """
    read = text or reader(reader_layers, reader_dim, vocab_size, context_length)
    deepest = pixels // 2 ** (len(multipliers) - (form == "improved"))
    unet = UNetConfig(
        pixels=pixels, channels=channels, multipliers=multipliers, blocks=blocks, attention=(deepest,),
        head_dim=head_dim, form=form, skip_scale=SKIP if form == "efficient" else 1.0, text=read.dim,
        text_pooling=True, low=True, augmentation=True, groups=groups,
    )  # fmt: skip
    return DiffusionConfig(unet, read, frozen_text=text is not None, low_pixels=low_pixels)


SHARED = {"batch": 2048, "steps": 2_500_000, "lr": 1e-4, "warmup": 10_000, "prediction": "epsilon", "text_dropped": 0.1}
BASE = SHARED | {"optimizer": "Adafactor", "schedule": "cosine", "guidance": 1.35}
BOTH = "appendix B gives both Efficient U-Nets almost the same size, so 600M and 400M cannot both follow from it"
LARGER = SHARED | {"optimizer": "Adam, 0.9, 0.999, 1e-8", "guidance": 8.0, "augmentation": "uniform from 0 to 1"}


def _base(channels: int, printed: float, exact: int, text: int = 0) -> Published:
    return Published(
        imagen(channels=channels, text=text), PAPER, "appendix F.1", printed, tolerance=0.05, exact=exact,
        training=BASE | {"chips": "256 TPU v4"},
    )  # fmt: skip


SIZES = {
    "300m": _base(192, 300e6, 295_131_267),
    "500m": _base(256, 500e6, 524_563_971),
    "2b": _base(512, 2e9, 2_097_572_867),
    "2b-text": Published(
        imagen(), PAPER, "appendix F.1; with the text layers of T5-XXL's width", 2e9, tolerance=None,
        training=BASE | {"chips": "256 TPU v4"},
        difference="the printed count seems to be of the network without text layers, imagen-2b",
    ),
    "256": Published(
        efficient(256, (16,)), PAPER, "appendix F.2", 600e6, tolerance=None,
        training=LARGER | {"schedule": "cosine", "chips": "128 TPU v4", "draws": "64 to 256 pixels"},
        difference=BOTH,
    ),
    "1024": Published(
        efficient(1024, ()), PAPER, "appendix F.3", 400e6, tolerance=None,
        training=LARGER
        | {"schedule": "linear, 1000 steps from 1e-4 to 0.02", "chips": "128 TPU v4", "draws": "256 to 1024 pixels"}
        | {"crop": "64 to 256 pixels"},
        difference=BOTH,
    ),
}  # fmt: skip
