"""LaMDA (Thoppilan et al. 2022, arXiv:2201.08239).

What is its own (section 3): attention twice as wide as the model, a gated-GELU feed-forward layer of 8 dim with three
matrices, and T5's relative attention. The paper prints head and inner widths for 137B alone; those of the smaller rows
(table 27) follow from the same ratios, which their counts confirm. Not public: the norm and its place, biases, whether
scores are divided by sqrt(head_dim) (T5's are not), the number and reach of the distance buckets, context length, tying
of the output, dropout, optimizer and learning rate. We take T5 1.1's pre-norm RMSNorm without biases and its 32 buckets
up to 128, scaled scores (`scaled=False` gives T5's), 2048 tokens and a tied output.

The accounts of the tokens seen disagree: steps x batch is 768B, the published FLOPs allow for about 432B. Neither is
taken as a fact here.
"""

from polytask.models.config import TransformerConfig
from polytask.models.published import Publication, Published
from polytask.nn.attention import Attention
from polytask.nn.feedforward import GatedMLP
from polytask.nn.norm import RMSNorm
from polytask.nn.position import RelativeBuckets

PAPER = Publication(
    title="LaMDA",
    year=2022,
    paper="Thoppilan et al. 2022, arXiv:2201.08239",
    special="attention twice as wide as the model, gated GELU of 8 dim, T5's relative positions",
    unpublished=(
        "norm and its place", "biases", "scale of the scores", "buckets of distances", "context length",
        "tying of the output", "dropout", "optimizer and learning rate", "tokens seen", "threshold of the filter",
    ),
)  # fmt: skip


def lamda(
    layers: int, dim: int, heads: int, *, head_dim: int | None = None, width: int | None = None, scaled: bool = True,
    vocab_size: int = 32_000, context_length: int = 2048,
) -> TransformerConfig:  # fmt: skip
    """head_dim None means 2 dim / heads, width None 8 dim. scaled: scores are divided by sqrt(head_dim)."""
    return TransformerConfig(
        vocab_size=vocab_size,
        context_length=context_length,
        layers=layers,
        dim=dim,
        attention=Attention(heads=heads, head_dim=head_dim or 2 * dim // heads, scale=None if scaled else 1.0),
        feedforward=GatedMLP(width=width or 8 * dim, activation="gelu_tanh"),
        norm=RMSNorm(),
        position=RelativeBuckets(buckets=32, furthest=128, shared=True),
        placement="pre",
        tied=True,
        initialization="gpt",
    )


def _row(layers: int, dim: int, heads: int, printed: float, exact: int, **training: object) -> Published:
    matrices, named = ("attention", "feed-forward"), printed < 100e9  # 2B and 8B are names of one digit
    return Published(
        lamda(layers, dim, heads),
        PAPER,
        "section 3 and table 27",
        parameters=printed,
        counts=matrices,
        tolerance=0.08 if named else 0.004,
        exact=exact,
        convention=matrices,
        training={"batch_tokens": 256_000} | training,
        difference="the printed count is rounded to one digit, and leaves the embedding out" if named else "",
    )


SIZES = {
    "2b": _row(10, 2560, 40, 2e9, 2_097_152_000, steps=501_000, chips="64 TPU v3", days=1.5),
    "8b": _row(16, 4096, 64, 8e9, 8_589_934_592, steps=521_000, chips="64 TPU v3", days=23),
    "137b": _row(64, 8192, 128, 137e9, 137_438_953_472, steps=3_000_000, chips="1024 TPU v3", days=57.7),
}
