"""Networks of published configurations: counted without being allocated, and shrunk until they run in a moment."""

import dataclasses
import math
from functools import cache
from typing import Any

import torch

from polytask.models.config import TransformerConfig
from polytask.models.transformer import Transformer
from polytask.nn.experts import Experts

FIRST_WORDS = {
    "embedding": "embedding", "position": "positions", "relative": "positions", "encoder_relative": "positions",
    "output": "output", "output_bias": "output", "norm": "norms", "encoder_norm": "norms", "embedding_norm": "norms",
}  # fmt: skip


def part_of(name: str) -> str:
    """Which part of models.cost a parameter of that name belongs to, read off the name alone."""
    first, *rest = name.split(".")
    if first not in ("blocks", "encoder"):
        return FIRST_WORDS[first]
    module = rest[1]
    if module.endswith("norm"):
        return "norms"
    if "relative" in rest:
        return "positions"
    return {"attention": "attention", "cross": "cross-attention", "feedforward": "feed-forward"}[module]


def counted(config: TransformerConfig, parts: tuple[str, ...] = (), active: bool = False) -> int:
    """Numbers of the network that is built, on the meta device, in the named parts (none: in all).

    active: of experts, whose tensors alone have three dimensions, those that one token meets.
    """
    total = 0
    for name, shape in _shapes(config):
        if not parts or part_of(name) in parts:
            number = math.prod(shape)
            if active and len(shape) == 3:
                layer = config.feedforward_of(int(name.split(".")[1]))
                assert isinstance(layer, Experts)
                number = number // shape[0] * layer.top_k
            total += number
    return total


@cache
def _shapes(config: TransformerConfig) -> list[tuple[str, torch.Size]]:
    with torch.device("meta"):
        network = Transformer(config)
    return [(name, parameter.shape) for name, parameter in network.named_parameters()]


def shrunk(config: TransformerConfig, vocab_size: int = 97, context_length: int = 32) -> TransformerConfig:
    """The same parts in two layers of width 32, with 4 heads as wide for their model as they were."""
    dim, heads = 32, 4
    attention = tuple(_narrower(part, config.dim, dim, heads) for part in config.attentions)
    feedforward = config.feedforward if isinstance(config.feedforward, tuple) else (config.feedforward,)
    fed = tuple(_fewer(part, config.dim, dim) for part in feedforward)
    return dataclasses.replace(
        config,
        vocab_size=vocab_size,
        context_length=context_length,
        layers=2,
        encoder_layers=min(config.encoder_layers, 2),
        dim=dim,
        attention=attention if isinstance(config.attention, tuple) else attention[0],
        feedforward=fed if isinstance(config.feedforward, tuple) else fed[0],
        dropout=0.0,
        logit_scale=dim**-0.5 if config.logit_scale != 1.0 else 1.0,
    )


def _narrower(part: Any, dim: int, to: int, heads: int) -> Any:
    _, kv_heads, width = part.sizes(dim)
    share = part.heads * width / dim
    return dataclasses.replace(
        part,
        heads=heads,
        kv_heads=max(1, heads * kv_heads // part.heads),
        head_dim=2 * round(share * to / heads / 2),
        window=5 if part.window else None,
    )


def _fewer(part: Any, dim: int, to: int) -> Any:
    changes = {"width": part.width * to // dim}
    return dataclasses.replace(part, **changes, **({"count": 4} if isinstance(part, Experts) else {}))
