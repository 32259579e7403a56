"""Our own modern decoder: one dial, depth, derives the rest.

Pre-norm with RMSNorm, rotary positions, SwiGLU, query-key norm, no biases, residual outputs that start at zero.
Width 64 x depth with heads of 64 keeps the aspect ratio of small language models (Karpathy's nanochat fixes the same
ratio); the inner width is 8/3 of it, rounded to 64, so that a gated layer costs what an ungated one of 4 x does
(Shazeer 2020, section 2).
"""

from dataclasses import replace

from polytask.errors import ConfigError
from polytask.models.config import TransformerConfig
from polytask.models.published import Publication, Published
from polytask.nn.attention import Attention
from polytask.nn.feedforward import GatedMLP
from polytask.nn.norm import RMSNorm
from polytask.nn.position import Rotary

PAPER = Publication(
    title="generalist",
    year=2026,
    paper="polytask",
    special="our own decoder: one dial, depth, derives the rest; rotary, SwiGLU, query-key norm, no biases",
)
SOURCES = {
    "dim": "64 x depth",
    "heads": "dim / 64: heads of 64 channels",
    "kv_heads": "heads: nothing is shared until a cache is the limit",
    "width": "8/3 x dim rounded up to 64 (Shazeer 2020, section 2)",
}


def generalist(
    depth: int = 6, *, dim: int | None = None, heads: int | None = None, kv_heads: int | None = None,
    width: int | None = None, band: int | None = None, vocab_size: int = 16_384, context_length: int = 512,
    tied: bool = True, dropout: float = 0.0,
) -> TransformerConfig:  # fmt: skip
    """`depth` layers; every other size follows from it unless given (SOURCES says how).

    band: every other layer, the first one included, sees so many last tokens alone (Child et al. 2019). With a narrow
    one a network learns sooner what belongs together, so that a later layer can look it up (docs/log.md).
    """
    if not isinstance(depth, int) or depth < 1:
        raise ConfigError(f"depth={depth} must be a whole number of at least 1")
    dim = dim or 64 * depth
    heads = heads or max(1, dim // 64)
    width = width or 64 * -(-8 * dim // (3 * 64))
    dense = Attention(heads=heads, kv_heads=kv_heads, qk_norm=RMSNorm())
    return TransformerConfig(
        vocab_size=vocab_size,
        context_length=context_length,
        layers=depth,
        dim=dim,
        attention=(replace(dense, window=band), dense) if band else dense,
        feedforward=GatedMLP(width=width),
        norm=RMSNorm(),
        position=Rotary(),
        tied=tied,
        dropout=dropout,
        initialization="zero_residual",
    )


SIZES = {
    name: Published(generalist(depth), PAPER, "docs/log.md")
    for name, depth in {"tiny": 2, "mini": 6, "small": 10, "medium": 16}.items()
}
