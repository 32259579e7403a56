"""The Transformer (Vaswani et al. 2017, arXiv:1706.03762), encoder-decoder.

What is its own: post-norm layers, sinusoidal positions, embeddings multiplied by sqrt(dim), and one matrix for source,
target and output. Not stated in the paper: biases of the attention projections (tensor2tensor has none; neither do we),
and the initialisation (we take Xavier uniform with N(0, dim^-1/2) embeddings). No vocabulary size meets both printed
parameter counts; 37,000 is within 4% of each.
"""

from typing import Literal

from polytask.models.config import TransformerConfig
from polytask.models.published import Publication, Published
from polytask.nn.attention import Attention
from polytask.nn.feedforward import MLP
from polytask.nn.norm import LayerNorm
from polytask.nn.position import Sinusoidal

PAPER = Publication(
    title="Transformer",
    year=2017,
    paper="Vaswani et al. 2017, arXiv:1706.03762",
    special="an encoder-decoder of attention alone: post-norm, sinusoids, one matrix for source, target and output",
    unpublished=("biases of the attention projections", "initialisation", "exact size of the vocabulary"),
)


def transformer(
    layers: int, dim: int, heads: int, *, width: int | None = None, dropout: float = 0.1, vocab_size: int = 37_000,
    context_length: int = 512, attention_bias: bool = False, placement: Literal["pre", "post"] = "post",
    encoder_layers: int | None = None,
) -> TransformerConfig:  # fmt: skip
    """`layers` in the decoder, and as many in the encoder unless that has a number of its own; width None means 4 dim.
    Pre-norm adds the final norms it needs."""
    return TransformerConfig(
        vocab_size=vocab_size,
        context_length=context_length,
        layers=layers,
        encoder_layers=layers if encoder_layers is None else encoder_layers,
        dim=dim,
        attention=Attention(heads=heads, bias=attention_bias),
        feedforward=MLP(width=width or 4 * dim, activation="relu", bias=True),
        norm=LayerNorm(),
        position=Sinusoidal(layout="interleaved"),
        placement=placement,
        final_norm=placement == "pre",
        scale_embedding=True,
        dropout=dropout,
        initialization="xavier",
    )


# Section 5 and table 3.
_TRAINING = {
    "batch_tokens": 25_000, "optimizer": "Adam", "betas": (0.9, 0.98), "eps": 1e-9, "warmup": 4000,
    "schedule": "dim^-0.5 min(step^-0.5, step warmup^-1.5)", "label_smoothing": 0.1,
}  # fmt: skip


def _row(dim: int, heads: int, dropout: float, printed: float, exact: int, **training: object) -> Published:
    return Published(
        transformer(6, dim, heads, dropout=dropout),
        PAPER,
        "table 3",
        parameters=printed,
        tolerance=0.04,
        exact=exact,
        training=_TRAINING | training,
    )


SIZES = {
    "base": _row(512, 8, 0.1, 65e6, 63_045_632, lr=7.0e-4, steps=100_000, averaged_checkpoints=5),
    "big": _row(1024, 16, 0.3, 213e6, 214_171_648, steps=300_000, averaged_checkpoints=20),
}
