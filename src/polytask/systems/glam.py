"""GLaM (Du et al. 2021, arXiv:2112.06905).

What is its own (section 4): in every other layer the feed-forward half is one of many experts, of which a gate picks
two for each token; dense layers have a gated feed-forward layer of three matrices, experts plain ones of two; and each
layer has its own relative positions. Not public: the capacity of an expert (GShard trains with 2, and so do we), norms
and their place (pre-norm RMSNorm here), the form of the relative positions (T5's buckets, each layer its own), and
biases (the counts have none).

Where table 4 contradicts itself: the paper states a vocabulary of 256k, which the totals of 64B/64E need, while those
of all other rows fit 32k; we take 32,000 for these. Printed and not compared: 20B for 1.7B/32E, where the formula gives
14.0B and its neighbours fit; 130M for 0.1B and 145M active for 0.1B/64E, which no vocabulary of the two explains.
"""

from typing import Any

from polytask.models.config import TransformerConfig
from polytask.models.published import Publication, Published
from polytask.nn.attention import Attention
from polytask.nn.experts import Experts
from polytask.nn.feedforward import GatedMLP
from polytask.nn.norm import RMSNorm
from polytask.nn.position import RelativeBuckets

PAPER = Publication(
    title="GLaM",
    year=2021,
    paper="Du et al. 2021, arXiv:2112.06905",
    special="a gate picks two of 64 experts for each token in every other layer: a twelfth of the network at work",
    unpublished=(
        "capacity of an expert", "norms and their place", "form of the relative positions",
        "vocabulary of the smaller rows",
    ),
)  # fmt: skip


def glam(
    layers: int, dim: int, heads: int, *, experts: int | None = 64, head_dim: int | None = None,
    width: int | None = None, top_k: int = 2, capacity: float | None = 2.0, vocab_size: int = 256_000,
    context_length: int = 1024,
) -> TransformerConfig:  # fmt: skip
    """experts None gives the dense rows. width None means 4 dim. capacity: times the even share; None drops nothing."""
    width = width or 4 * dim
    dense = GatedMLP(width=width, activation="gelu")
    sparse = Experts(experts, width, top_k=top_k, activation="gelu", capacity=capacity) if experts else dense
    return TransformerConfig(
        vocab_size=vocab_size,
        context_length=context_length,
        layers=layers,
        dim=dim,
        attention=Attention(heads=heads, head_dim=head_dim),
        feedforward=(dense, sparse) if experts else dense,
        norm=RMSNorm(),
        position=RelativeBuckets(shared=False),
        placement="pre",
        tied=True,
        initialization="gpt",
    )


# Section 5.1.
_TRAINING = {
    "tokens": 600e9, "context": 1024, "batch_tokens": 1_000_000, "optimizer": "Adafactor", "lr": 0.01,
    "schedule": "constant for 10,000 steps, then 1/sqrt(step)", "beta1": 0.0, "beta2": 0.99, "clip": 1.0,
    "dropout": 0.0, "balance_loss": 0.01, "precision": "weights float32, activations bfloat16",
}  # fmt: skip


def _row(
    layers: int, dim: int, heads: int, parameters: float, active: float | None, *, experts: int | None = None,
    vocab_size: int = 32_000, head_dim: int = 128, width: int | None = None, **words: Any,
) -> Published:  # fmt: skip
    config = glam(layers, dim, heads, experts=experts, head_dim=head_dim, width=width, vocab_size=vocab_size)
    given = {"tolerance": 0.03, "convention": ("attention", "feed-forward"), "training": _TRAINING} | words
    return Published(config, PAPER, "table 4", parameters=parameters, active=active, **given)


SIZES = {
    "0.1b": _row(
        12, 768, 12, 130e6, None, head_dim=64, tolerance=None, exact=113_246_208,
        difference="no vocabulary that fits the other rows of the table gives the printed count",
    ),
    "0.1b-64e": _row(
        12, 768, 12, 1.9e9, None, experts=64, head_dim=64, exact=1_883_013_120, exact_active=127_696_896,
        printed={"active": 145e6},
    ),
    "1.7b": _row(24, 2048, 16, 1.7e9, 1.700e9),
    "1.7b-32e": _row(
        24, 2048, 16, 20e9, 1.878e9, experts=32, tolerance=None,
        difference="the formula that fits the rows beside it does not give the printed count",
    ),
    "1.7b-64e": _row(24, 2048, 16, 27e9, 1.879e9, experts=64, exact=26_778_009_600, exact_active=1_813_512_192),
    "1.7b-128e": _row(24, 2048, 16, 53e9, 1.881e9, experts=128),
    "1.7b-256e": _row(24, 2048, 16, 105e9, 1.886e9, experts=256),
    "8b": _row(32, 4096, 32, 8.7e9, 8.7e9),
    "8b-64e": _row(32, 4096, 32, 143e9, 9.8e9, experts=64, exact=142_811_856_896, exact_active=9_667_870_720),
    "137b": _row(64, 8192, 128, 137e9, 137e9, width=65_536),
    "64b-64e": _row(
        64, 8192, 128, 1.2e12, 96.6e9, experts=64, vocab_size=256_000, exact=1_159_657_947_136,
        exact_active=94_506_057_728, tolerance=0.04, training=_TRAINING | {"chips": "1024 TPU v4"},
    ),
}  # fmt: skip
