"""What a network costs, by formula: parameters, FLOPs, cache and activation bytes. Nothing is built or allocated."""

from typing import Any

from polytask.models.config import TransformerConfig
from polytask.models.vision_language import VisionLanguageConfig
from polytask.models.vit import ViTConfig
from polytask.nn.attention import Attention
from polytask.nn.cpu_attention import KEPT, spans
from polytask.nn.experts import Experts
from polytask.nn.feedforward import GatedMLP
from polytask.nn.part import Part
from polytask.nn.position import Alibi, Learned, RelativeBuckets, Rotary, TextAndGrid

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
    if isinstance(part, TextAndGrid):
        return part.rows * config.dim
    if isinstance(part, RelativeBuckets):
        stacks = 2 if config.encoder_layers else 1
        return part.buckets * heads * (stacks if part.shared else config.encoder_layers + config.layers)
    return 0


def _grid_parameters(config: TransformerConfig) -> int:
    return (config.grid.height + config.grid.width) * config.dim if config.grid else 0


def parameters_by_part(config: TransformerConfig | VisionLanguageConfig, active: bool = False) -> dict[str, int]:
    """Learned numbers by part; a tied matrix counts once, buffers (sinusoids) do not count.

    active: of layers of experts only what one token meets.
    """
    if isinstance(config, VisionLanguageConfig):
        return parameters_by_part(config.decoder, active) | _sight_parameters(config)
    attention = config.attention_of(0).parameters(config.dim)
    encoder, decoder = config.encoder_layers, config.layers
    cross = decoder if encoder else 0
    norms = _NORMS[config.placement] * (encoder + decoder) + cross + (config.final_norm * (2 if encoder else 1))
    return {
        "embedding": config.vocab_size * config.dim,
        "positions": _position_parameters(config) + _grid_parameters(config),
        "attention": (encoder + decoder) * attention,
        "cross-attention": cross * attention,
        "feed-forward": sum(_feedforward_parameters(part, config.dim, active) for part in feedforwards(config)),
        "norms": norms * _norm(config.norm, config.dim) + _norm(config.embedding_norm, config.dim),
        "output": (0 if config.tied else config.vocab_size * config.dim) + config.output_bias * config.vocab_size,
    }


def tower(vision: ViTConfig) -> TransformerConfig:
    """A decoder whose layers cost what those of a vision transformer do, and its last norm."""
    return TransformerConfig(
        1, vision.patches + 1, vision.layers, vision.dim, vision.attention, vision.feedforward, vision.norm
    )


def _sight_parameters(config: VisionLanguageConfig) -> dict[str, int]:
    vision, layers = config.vision, parameters_by_part(tower(config.vision))
    ends = (3 * vision.patch**2 + 1 + (1 + vision.patches)) * vision.dim + _norm(vision.norm, vision.dim)
    bridge = (vision.dim + config.text.dim + 2 * config.bias) * config.text.dim
    return {"vision": ends + layers["attention"] + layers["feed-forward"] + layers["norms"], "projector": bridge}


def flops_per_picture(config: VisionLanguageConfig) -> float:
    """Training FLOPs of looking at one picture, what the decoder makes of its states left out."""
    length, vision, text = config.vision.patches + 1, config.vision.dim, config.text.dim
    bridge = 6 * config.states * (vision + text) * text
    patches = 6 * config.vision.patches * 3 * config.vision.patch**2 * vision
    return flops_per_token(tower(config.vision), length) * length + bridge + patches


def _feedforward_parameters(part: Any, dim: int, active: bool) -> int:
    return part.active_parameters(dim) if active and isinstance(part, Experts) else part.parameters(dim)


def parameters(config: TransformerConfig | VisionLanguageConfig) -> int:
    """All learned numbers, equal to the sum over the network's `parameters()`."""
    return sum(parameters_by_part(config).values())


def active_parameters(config: TransformerConfig) -> int:
    """Learned numbers that one token meets: of layers of experts the router and those that a token passes."""
    return sum(parameters_by_part(config, active=True).values())


def hidden_parameters(config: TransformerConfig, active: bool = False) -> int:
    """Numbers in the matrices of attention and feed-forward layers."""
    by_part = parameters_by_part(config, active)
    return by_part["attention"] + by_part["cross-attention"] + by_part["feed-forward"]


def matmul_parameters(config: TransformerConfig) -> int:
    """N of the 6N rule: numbers that take part in a matrix product for a token (systems with tied output: once)."""
    return hidden_parameters(config, active=True) + config.vocab_size * config.dim


def flops_per_token(config: TransformerConfig, length: int) -> float:
    """Training FLOPs of one token, forward and backward: 6 N + 12 L a T (Chowdhery et al. 2022, appendix B).

    `length` is the row's length T; a layer with a window sees no more than that of it. In an encoder-decoder a token
    passes one of the two stacks; the figure is for a row of `length` decoder tokens with as many encoder tokens,
    divided by all of them.
    """
    heads, _, width = config.attention_of(0).sizes(config.dim)
    seen = sum(_seen(config, layer, length) for n in (config.layers, config.encoder_layers) for layer in range(n))
    seen += length * config.layers if config.encoder_layers else 0
    total = 6 * matmul_parameters(config) + 12 * heads * width * seen
    return total / 2 if config.encoder_layers else float(total)


def _seen(config: TransformerConfig, layer: int, length: int) -> int:
    """Of how many tokens a layer may read keys and values."""
    part = config.attention_of(layer)
    return min(length, part.window or length, part.pattern.most if part.pattern else length)


def kv_bytes_per_token(config: TransformerConfig, precision: str = "float32") -> int:
    """Bytes that one token adds to the key/value cache."""
    _, kv_heads, width = config.attention_of(0).sizes(config.dim)
    return 2 * config.layers * kv_heads * width * PRECISION_BYTES[precision]


def kv_bytes(config: TransformerConfig, length: int, precision: str = "float32") -> int:
    """Bytes of the keys and values that are needed to go on after `length` tokens, in an encoder-decoder after as many
    of either side. Layers with a window need its tokens alone, but `nn.cache` keeps the others too.
    """
    each = kv_bytes_per_token(config, precision) // config.layers
    seen = sum(_seen(config, layer, length) for layer in range(config.layers))
    return each * (seen + (config.layers * length if config.encoder_layers else 0))


def activation_bytes(
    config: TransformerConfig, rows: int, length: int, precision: str = "float32", checkpointing: bool = False
) -> int:
    """Bytes kept for the backward pass of a batch of `rows` x `length` tokens, in an encoder-decoder of either side.

    Counts, for each layer and token, what autograd saves on a CPU: the inputs of norms, projections, attention and
    activation. The residual stream stays in float32 under mixed precision. With checkpointing only each layer's
    input stays, and one layer's inside at a time.
    """
    size = PRECISION_BYTES[precision]
    cross = config.encoder_layers > 0
    layers = [_layer_bytes(config, layer, length, size, cross=cross) for layer in range(config.layers)]
    layers += [_layer_bytes(config, layer, length, size, causal=False) for layer in range(config.encoder_layers)]
    stream = max(size, 4) * config.dim
    kept = max(layers) + len(layers) * stream if checkpointing else sum(layers)
    ends = 3 * stream + (stream if config.embedding_norm else 0) + (stream if config.dropout else 0)
    ends += 4 * _angles(config)
    masks = len({(part.window, part.pattern) for part in config.attentions if not part.cap}) + (2 if cross else 0)
    seen = masks * rows * length**2 * size  # of packed documents, as numbers that are added to scores
    return int(rows * length * (kept + ends)) + seen + _score_bytes(config, rows, length, size)


def _angles(config: TransformerConfig) -> int:
    """Cosines and sines of one token, which all layers share."""
    part = config.position
    return 2 * part.turned(config.attention_of(0).sizes(config.dim)[2]) if isinstance(part, Rotary) else 0


def copy_bytes(config: TransformerConfig, precision: str, checkpointing: bool = False) -> int:
    """Bytes of the copies of matrices that mixed precision multiplies with and keeps for the way back; with
    checkpointing, those of one layer."""
    size, layers = PRECISION_BYTES[precision], config.layers + config.encoder_layers
    return 0 if size >= 4 else size * hidden_parameters(config) // (layers if checkpointing else 1)


def _layer_bytes(
    config: TransformerConfig, layer: int, length: int, size: int, *, causal: bool = True, cross: bool = False
) -> float:
    """Of one token in one layer; `size` bytes a number, but for the residual stream."""
    dim, placement, part = config.dim, config.placement, config.attention_of(layer)
    inside = _attention_numbers(part, dim, length, causal, isinstance(config.position, Rotary))
    inside += _feedforward_numbers(config.feedforward_of(layer), dim)
    inside += _attention_numbers(part, dim, length, causal=False, turned=False) if cross else 0
    inside += 2 * _angles(config) if size < 4 else 0  # once for queries and once for keys, in lower precision
    branches = 3 if cross else 2
    stream = dim * (1 if placement in ("parallel", "parallel_norms") else branches)  # what goes into norms
    if placement in ("post", "sandwich"):
        inside += branches * dim  # post: what goes into projections; sandwich: what goes into the outer norms
    if config.dropout:
        inside += branches * dim
    return size * inside + max(size, 4) * stream


def _attention_numbers(part: Attention, dim: int, length: int, causal: bool, turned: bool) -> float:
    """Queries, keys and values, what comes of them, and probabilities.

    Three are views of one projection, which stays as long as one of them does; those that are turned or normalised are
    written anew, as are keys and values that heads share, which a CPU repeats.
    """
    heads, kv_heads, width = part.sizes(dim)
    anew, shared = turned or part.qk_norm is not None, kv_heads != heads
    projected = (heads + 2 * kv_heads) * width
    if part.cap:  # attention written out lays all three out anew, and keeps what goes into tanh and what softmax gives
        return heads * (4 * width + 2 * length) + (projected if part.qk_norm is not None else 0)
    numbers: float = heads * width * (1 + (2 if shared else 0) + (1 if anew else 0) + (1 if anew and not shared else 0))
    numbers += projected if part.qk_norm is not None or not (anew and shared) else 0
    if length <= KEPT:
        passes = spans(length, length, causal, part.window)
        numbers += heads * sum(len(range(length)[q]) * len(range(length)[k]) for q, k, _ in passes) / length
    return numbers


def _feedforward_numbers(part: Any, dim: int) -> float:
    """What is activated; the rest is computed again. Experts keep their tokens and, of those that find room, their
    results too."""
    if isinstance(part, Experts):
        placed = part.top_k if part.capacity is None else min(part.top_k, part.capacity)
        return placed * (part.width * (2 if part.gated else 1) + dim) + dim + 2 * part.count
    return part.width * (2 if isinstance(part, GatedMLP) else 1)


def _score_bytes(config: TransformerConfig, rows: int, length: int, size: int) -> int:
    """Of what positions add to scores: once for all rows, and for all layers that share it."""
    part, heads = config.position, config.attention_of(0).heads
    if isinstance(part, Alibi):
        return size * heads * length**2 * (rows if part.scaled else 1)
    if isinstance(part, RelativeBuckets):
        stacks = 2 if config.encoder_layers else 1
        each = size * heads + 8  # the numbers of buckets are kept to find their gradient
        return each * length**2 * (stacks if part.shared else config.layers + config.encoder_layers)
    return 0
