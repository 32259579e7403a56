"""What a network costs, by formula: parameters, FLOPs, cache and activation bytes. Nothing is built or allocated."""

from typing import Any

from polytask.models.config import TransformerConfig
from polytask.nn.cpu_attention import KEPT
from polytask.nn.experts import Experts
from polytask.nn.feedforward import GatedMLP
from polytask.nn.part import Part
from polytask.nn.position import Learned, RelativeBuckets

PRECISION_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


def _norm(part: Part | None, dim: int) -> int:
    return 0 if part is None else dim * (2 if getattr(part, "bias", False) else 1)


_NORMS = {"pre": 2, "post": 2, "sandwich": 4, "parallel": 1, "parallel_norms": 2}  # of a layer, by placement


def feedforwards(config: TransformerConfig) -> list[Any]:
    """The feed-forward part of every layer, those of an encoder first."""
    encoder, decoder = (
        [config.feedforward_of(layer) for layer in range(n)] for n in (config.encoder_layers, config.layers)
    )
    return encoder + decoder


def _position_parameters(config: TransformerConfig) -> int:
    part, heads = config.position, config.attention_of(0).heads
    if isinstance(part, Learned):
        return (config.context_length + part.offset) * config.dim
    if isinstance(part, RelativeBuckets):
        stacks = 2 if config.encoder_layers else 1
        return part.buckets * heads * (stacks if part.shared else config.encoder_layers + config.layers)
    return 0


def parameters_by_part(config: TransformerConfig) -> dict[str, int]:
    """Learned numbers by part; a tied matrix counts once, buffers (sinusoids) do not count."""
    attention = config.attention_of(0).parameters(config.dim)
    encoder, decoder = config.encoder_layers, config.layers
    cross = decoder if encoder else 0
    norms = _NORMS[config.placement] * (encoder + decoder) + cross + (config.final_norm * (2 if encoder else 1))
    return {
        "embedding": config.vocab_size * config.dim,
        "positions": _position_parameters(config),
        "attention": (encoder + decoder) * attention,
        "cross-attention": cross * attention,
        "feed-forward": sum(part.parameters(config.dim) for part in feedforwards(config)),
        "norms": norms * _norm(config.norm, config.dim) + _norm(config.embedding_norm, config.dim),
        "output": (0 if config.tied else config.vocab_size * config.dim) + config.output_bias * config.vocab_size,
    }


def parameters(config: TransformerConfig) -> int:
    """All learned numbers, equal to the sum over `Transformer(config).parameters()`."""
    return sum(parameters_by_part(config).values())


def active_parameters(config: TransformerConfig) -> int:
    """Learned numbers that one token meets: of layers of experts the router and those that a token passes."""
    return parameters(config) - sum(_idle(part, config.dim) for part in feedforwards(config))


def _idle(part: Any, dim: int) -> int:
    return part.parameters(dim) - part.active_parameters(dim) if isinstance(part, Experts) else 0


def hidden_parameters(config: TransformerConfig) -> int:
    """Numbers in the matrices of attention and feed-forward layers."""
    by_part = parameters_by_part(config)
    return by_part["attention"] + by_part["cross-attention"] + by_part["feed-forward"]


def matmul_parameters(config: TransformerConfig) -> int:
    """N of the 6N rule: numbers that take part in a matrix product for a token (systems with tied output: once)."""
    idle = sum(_idle(part, config.dim) for part in feedforwards(config))
    return hidden_parameters(config) - idle + config.vocab_size * config.dim


def flops_per_token(config: TransformerConfig, length: int) -> float:
    """Training FLOPs of one token, forward and backward: 6 N + 12 L a T (Chowdhery et al. 2022, appendix B).

    `length` is the row's length T. In an encoder-decoder a token passes one of the two stacks; the figure is for a
    row of `length` decoder tokens with as many encoder tokens, divided by all of them.
    """
    heads, _, width = config.attention_of(0).sizes(config.dim)
    layers = config.layers + config.encoder_layers + (config.layers if config.encoder_layers else 0)
    attended = 12 * layers * heads * width * length
    total = 6 * matmul_parameters(config) + attended
    return total / 2 if config.encoder_layers else float(total)


def kv_bytes_per_token(config: TransformerConfig, precision: str = "float32") -> int:
    """Bytes that one token adds to the key/value cache."""
    _, kv_heads, width = config.attention_of(0).sizes(config.dim)
    return 2 * config.layers * kv_heads * width * PRECISION_BYTES[precision]


def activation_bytes(
    config: TransformerConfig, rows: int, length: int, precision: str = "float32", checkpointing: bool = False
) -> int:
    """Bytes kept for the backward pass of a batch of `rows` x `length` tokens.

    Counts, for each layer and token, what autograd saves: the inputs of norms, projections, attention and activation.
    The residual stream stays in float32 under mixed precision. With checkpointing only each layer's
    input stays, and one layer's inside at a time.
    """
    heads, kv_heads, width = config.attention_of(0).sizes(config.dim)
    size = PRECISION_BYTES[precision]
    attention = (heads + 2 * kv_heads) * width * 2 + heads * width  # projected, laid out by head, mixed
    attention += heads * length if length <= KEPT else 0  # probabilities, on a CPU
    # What goes into the norms is in float32.
    layers = [size * (attention + _kept(part, config.dim)) + 2 * 4 * config.dim for part in feedforwards(config)]
    kept = max(layers) + len(layers) * 4 * config.dim if checkpointing else sum(layers)
    return int(rows * length * (kept + 3 * 4 * config.dim))


def _kept(part: Any, dim: int) -> int:
    """Numbers that a feed-forward layer keeps of a token: what is activated, the rest is computed again."""
    if isinstance(part, Experts):
        each = part.width * (2 if part.gated else 1) + dim  # an expert's output too: its gate's gradient needs it
        return part.top_k * each + dim + 2 * part.count  # the tokens, the router's logits and their softmax
    return part.width * (2 if isinstance(part, GatedMLP) else 1)
