"""PaLM (Chowdhery et al. 2022, arXiv:2204.02311).

What is its own (section 2): attention and feed-forward run in parallel from one norm, one head of keys and values
serves all queries, SwiGLU, rotary positions, no biases in any matrix or norm, one matrix for embeddings and logits,
which are scaled by 1/sqrt(dim) since embeddings begin at N(0, 1). Not public: the layout of the rotary channels (we
take "half") and whether all of them turn (all do here), and the norm's epsilon. The 540B has 48 heads of 256, an
attention of 12,288 channels, narrower than the model. Table 1 prints two decimals, which these counts meet; 540.35
is that of the largest without its norms.
"""

from polytask.models.config import TransformerConfig
from polytask.models.published import Publication, Published
from polytask.nn.attention import Attention
from polytask.nn.feedforward import GatedMLP
from polytask.nn.norm import LayerNorm
from polytask.nn.position import Rotary

PAPER = Publication(
    title="PaLM",
    year=2022,
    paper="Chowdhery et al. 2022, arXiv:2204.02311",
    special="attention and feed-forward in parallel, one key/value head, SwiGLU, rotary positions, no biases",
    unpublished=("layout of the rotary channels", "share of the channels that turn", "epsilon of the norms"),
)


def palm(
    layers: int, dim: int, heads: int, *, head_dim: int | None = None, width: int | None = None,
    vocab_size: int = 256_000, context_length: int = 2048,
) -> TransformerConfig:  # fmt: skip
    """head_dim None means dim / heads, width None 4 dim."""
    return TransformerConfig(
        vocab_size=vocab_size,
        context_length=context_length,
        layers=layers,
        dim=dim,
        attention=Attention(heads=heads, kv_heads=1, head_dim=head_dim),
        feedforward=GatedMLP(width=width or 4 * dim, activation="silu"),
        norm=LayerNorm(bias=False),
        position=Rotary(layout="half"),
        placement="parallel",
        tied=True,
        logit_scale=dim**-0.5,
        initialization="fan_in",
    )


# Section 5 and table 1.
_TRAINING = {
    "tokens": 780e9, "context": 2048, "optimizer": "Adafactor without factorisation", "lr": 1e-2,
    "schedule": "constant for 10,000 steps, then 1/sqrt(step)", "beta1": 0.9, "beta2": "1 - step^-0.8", "clip": 1.0,
    "weight_decay": "lr^2", "z_loss": 1e-4, "dropout": 0.0,
}  # fmt: skip


def _row(
    layers: int, dim: int, heads: int, printed: float, exact: int, batch: dict[str, int], **training: object
) -> Published:
    return Published(
        palm(layers, dim, heads, head_dim=256),
        PAPER,
        "table 1",
        parameters=printed,
        tolerance=3e-4,
        exact=exact,
        training=_TRAINING | {"batch_rows": batch} | training,
    )


SIZES = {
    "8b": _row(32, 4096, 16, 8.63e9, 8_632_012_800, {"first": 256, "last": 512}),
    "62b": _row(64, 8192, 32, 62.50e9, 62_495_662_080, {"first": 512, "last": 1024}),
    "540b": _row(
        118, 18_432, 48, 540.35e9, 540_356_474_880, {"to step 50k": 512, "to 115k": 1024, "to 255k": 2048},
        chips="6144 TPU v4: in each of two pods 12-way model and 256-way sharded data parallel",
    ),
}  # fmt: skip

# Section 4.1 and table 3: the throughput of the largest model and what its authors make of it.
THROUGHPUT = {
    "tokens_per_second": 238.3e3, "batch_rows": 2048, "chips": 6144, "peak_flops": 275e12,
    "mfu_without_attention": 0.457, "mfu": 0.462, "hfu": 0.578,
}  # fmt: skip
