"""Networks of GPT-2's and Llama's kind under the names that llama.cpp has for their tensors and sizes."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from polytask.errors import ConfigError
from polytask.interop.hf import describe
from polytask.models.transformer import Transformer
from polytask.nn.position import Rotary
from polytask.run.peers import Gguf

ENDS = {"embedding": "token_embd", "position": "position_embd", "norm": "output_norm", "output": "output"}
LAYER = {
    "attention_norm": "attn_norm", "attention.qkv": "attn_qkv", "attention.output": "attn_output",
    "feedforward_norm": "ffn_norm", "feedforward.up": "ffn_up", "feedforward.down": "ffn_down",
}  # fmt: skip


def of_network(network: Transformer) -> Gguf:
    """The network as llama.cpp knows it. Raises ConfigError where it is neither GPT-2's nor Llama's."""
    c = network.config
    family, words = describe(c)
    name = family.model_type
    if name not in ("gpt2", "llama") or any(words.get(key) for key in ("attention_bias", "mlp_bias", "rope_scaling")):
        raise ConfigError(f"A network of the family {name} is not measured beside llama.cpp; use --against hf.")
    heads, kv_heads, width = c.attention_of(0).sizes(c.dim)
    sizes: dict[str, int | float] = {
        "context_length": c.context_length, "embedding_length": c.dim, "block_count": c.layers,
        "feed_forward_length": c.feedforward_of(0).width,  # type: ignore[attr-defined]
        "attention.head_count": heads, "vocab_size": c.vocab_size,
    }  # fmt: skip
    if name == "gpt2":
        sizes["attention.layer_norm_epsilon"] = float(words["layer_norm_epsilon"])
    elif isinstance(c.position, Rotary):
        sizes |= {
            "attention.head_count_kv": kv_heads, "attention.layer_norm_rms_epsilon": float(words["rms_norm_eps"]),
            "rope.dimension_count": width, "rope.freq_base": float(c.position.theta),
        }  # fmt: skip
    return Gguf(name, sizes, _tensors(network, None if name == "gpt2" else (heads, kv_heads)))


def _tensors(network: Transformer, heads: tuple[int, int] | None) -> Iterator[tuple[str, Any]]:
    """`heads`: of queries and of keys, where their projections are kept apart."""
    for name, tensor in network.named_parameters():
        for theirs, part in _named(name, tensor.detach().float(), heads):
            yield theirs, part.contiguous().numpy()


def _named(name: str, tensor: Tensor, heads: tuple[int, int] | None) -> Iterator[tuple[str, Tensor]]:
    module, end = name.rsplit(".", 1)
    if not module.startswith("blocks."):
        yield f"{ENDS[module]}.{end}", tensor
        return
    _, layer, part = module.split(".", 2)
    start = f"blk.{layer}"
    if part == "feedforward.gate_up":
        yield from zip((f"{start}.ffn_gate.{end}", f"{start}.ffn_up.{end}"), tensor.chunk(2))
    elif part == "attention.qkv" and heads:
        width = len(tensor) // (heads[0] + 2 * heads[1])
        q, k, v = tensor.split((heads[0] * width, heads[1] * width, heads[1] * width))
        yield f"{start}.attn_q.{end}", _interleaved(q, heads[0])
        yield f"{start}.attn_k.{end}", _interleaved(k, heads[1])
        yield f"{start}.attn_v.{end}", v
    else:
        yield f"{start}.{LAYER[part]}.{end}", tensor


def _interleaved(rows: Tensor, heads: int) -> Tensor:
    """llama.cpp rotates neighbouring channels where transformers rotates those of the two halves."""
    return rows.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
