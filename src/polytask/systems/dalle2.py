"""DALL-E 2, or unCLIP (Ramesh et al. 2022, arXiv:2204.06125).

What is its own: a prior turns a caption into CLIP's embedding of a picture, and a decoder draws that picture: GLIDE's
U-Net, to whose embedding of the step the picture's is added, and which sees it as four more states of the text as well.
Two U-Nets of improved DDPM's form enlarge to 256 and 1024 pixels; they read no text. Appendix C has the table.

Not public: inpainting, the vocabulary of the text encoders, where the upsamplers attend (the table says nowhere; the
middle attention of the form is kept, as its code has it) and how they resample; of the prior what encodes its text (we
take states of CLIP's text tower) and the activation (GELU). Counts of the decoder are those of its U-Net; with its text
encoder of 24 layers it comes to the printed 3.5B.
"""

from typing import Any

from polytask.models.config import TransformerConfig
from polytask.models.diffusion import DiffusionConfig
from polytask.models.prior import PriorConfig
from polytask.models.published import Publication, Published
from polytask.models.unet import Form, UNetConfig
from polytask.nn.attention import Attention
from polytask.nn.feedforward import MLP
from polytask.systems.captions import reader

PAPER = Publication(
    title="DALL-E 2",
    year=2022,
    paper="Ramesh et al. 2022, arXiv:2204.06125",
    special="a prior guesses CLIP's embedding of the picture, a decoder draws it, two U-Nets enlarge it",
    unpublished=(
        "inpainting", "vocabulary of the text encoders", "attention of the upsamplers", "resampling of the upsamplers",
        "what encodes the prior's text", "activation of the prior",
    ),
)  # fmt: skip
CLIP, TEXT = 1024, 2048  # widths of the embedding of a picture and of the decoder's text states


def dalle2(
    pixels: int = 64, channels: int = 512, *, multipliers: tuple[int, ...] = (1, 2, 3, 4),
    blocks: int | tuple[int, ...] = 3, attention: tuple[int, ...] = (32, 16, 8), text: int = TEXT, pooled: int = CLIP,
    pooled_tokens: int = 4, groups: int = 32, **words: Any,
) -> UNetConfig:  # fmt: skip
    """The decoder. pooled: width of the embedding that it draws."""
    return UNetConfig(
        pixels=pixels, channels=channels, multipliers=multipliers, blocks=blocks, attention=attention, text=text,
        pooled=pooled, pooled_tokens=pooled_tokens, learned_variance=True, groups=groups, **words,
    )  # fmt: skip


def upsampler(pixels: int, channels: int, multipliers: tuple[int, ...], blocks: int, dropout: float) -> UNetConfig:
    return UNetConfig(
        pixels=pixels, channels=channels, multipliers=multipliers, blocks=blocks, low=True, learned_variance=True,
        dropout=dropout,
    )  # fmt: skip


def decoder(
    pixels: int = 32, channels: int = 64, *, multipliers: tuple[int, ...] = (1, 2, 3),
    blocks: int | tuple[int, ...] = 1, attention: tuple[int, ...] = (16, 8), head_dim: int = 32, groups: int = 32,
    dropout: float = 0.0, form: Form = "improved", pooled_tokens: int = 4, embed: int = 256,
    text: TransformerConfig | None = None, reader_layers: int = 2, reader_dim: int = 256, vocab_size: int = 512,
    context_length: int = 64, drawing: DiffusionConfig | None = None,
) -> DiffusionConfig:  # fmt: skip
    """What a recipe trains to draw an embedding of width `embed`: the decoder, with what reads its captions. drawing:
    the network that it goes on from, which has all of its sizes."""
    if drawing is not None:
        return drawing
    read = text or reader(reader_layers, reader_dim, vocab_size, context_length)
    unet = dalle2(
        pixels, channels, multipliers=multipliers, blocks=blocks, attention=attention, text=read.dim, pooled=embed,
        pooled_tokens=pooled_tokens, groups=groups, head_dim=head_dim, dropout=dropout, form=form,
    )  # fmt: skip
    return DiffusionConfig(unet, read, frozen_text=text is not None)


def prior(embed: int = 256, text_dim: int = 256, text_length: int = 64, layers: int = 4, dim: int = 256) -> PriorConfig:
    """What a recipe trains to predict embeddings. The first three sizes are those of the CLIP that it reads."""
    attention, feedforward = Attention(max(1, dim // 64), bias=True), MLP(4 * dim, "gelu", bias=True)
    return PriorConfig(embed, text_dim, text_length, layers, dim, attention, feedforward)


def larger(
    low_pixels: int = 32, pixels: int = 64, channels: int = 32, *, multipliers: tuple[int, ...] = (1, 2, 3),
    blocks: int = 1, attention: tuple[int, ...] = (), middle_attention: bool = False, head_dim: int = 32,
    groups: int = 32, dropout: float = 0.0,
) -> DiffusionConfig:  # fmt: skip
    """What a recipe trains to enlarge: it reads no text, and its variance is learned."""
    unet = UNetConfig(
        pixels=pixels, channels=channels, multipliers=multipliers, blocks=blocks, attention=attention,
        middle_attention=middle_attention, head_dim=head_dim, groups=groups, dropout=dropout, low=True,
        learned_variance=True,
    )  # fmt: skip
    return DiffusionConfig(unet, low_pixels=low_pixels)


SHARED = {"diffusion_steps": 1000, "ema": 0.9999, "betas": (0.9, 0.999), "eps": 1e-8}
DECODER = SHARED | {
    "schedule": "cosine", "sampling": "250 steps, ancestral with the learned variance", "batch": 2048,
    "steps": 800_000, "lr": 1.2e-4, "embedding_dropped": 0.1, "text_dropped": 0.5, "guidance": 1.25,
}  # fmt: skip
PRIOR = {
    "diffusion_steps": 1000, "schedule": "cosine", "sampling": "64 steps, analytic-DPM", "batch": 4096,
    "steps": 600_000, "lr": 1.1e-4, "weight_decay": 6e-2, "betas": (0.9, 0.96), "eps": 1e-6, "ema": 0.9999,
    "text_dropped": 0.1,
}  # fmt: skip
UPSAMPLERS = "where the upsamplers attend and how they resample is not public"

SIZES = {
    "prior": Published(
        prior(CLIP, 1024, 256, 24, 2048), PAPER, "section 2.2 and appendix C, table 3", 1e9, tolerance=0.25,
        exact=1_225_925_632, training=PRIOR,
        difference="the printed count is rounded to one digit; 24 layers of the printed width have 1.21B by themselves",
    ),
    "decoder": Published(
        dalle2(dropout=0.1), PAPER, "appendix C", 3.5e9, tolerance=None, training=DECODER,
        difference="the printed count is with a text encoder of 24 layers of width 2048, which is not counted here",
    ),
    "decoder-unet": Published(
        dalle2(dropout=0.1, text=0, pooled=0, pooled_tokens=0), PAPER, "appendix C, without text and embedding",
        tolerance=None, exact=2_097_586_694, training=DECODER,
    ),
    "256": Published(
        upsampler(256, 320, (1, 2, 3, 4), 3, 0.1), PAPER, "appendix C", 700e6, tolerance=0.07, exact=736_272_006,
        training=SHARED
        | {"schedule": "cosine", "sampling": "27 steps, DDIM", "batch": 1024, "steps": 1_000_000, "lr": 1.2e-4}
        | {"crop": 0.25, "corruption": "Gaussian blur, kernel 3, sigma 0.6"},
        difference=UPSAMPLERS,
    ),
    "1024": Published(
        upsampler(1024, 192, (1, 1, 2, 2, 4, 4), 2, 0.0), PAPER, "appendix C", 300e6, tolerance=0.07,
        exact=284_428_230,
        training=SHARED
        | {"schedule": "linear", "sampling": "15 steps, DDIM", "batch": 512, "steps": 1_000_000, "lr": 1e-4}
        | {"crop": 0.25, "corruption": "BSR degradation"},
        difference=UPSAMPLERS,
    ),
}  # fmt: skip
