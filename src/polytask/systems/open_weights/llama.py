"""Llama (Touvron et al. 2023, arXiv:2302.13971) and its kin: pre-norm, RMSNorm, rotary positions, a gated layer.

What is their own: Mistral (Jiang et al. 2023, arXiv:2310.06825) sees a window of its last tokens; Qwen2 (Yang et al.
2024, arXiv:2407.10671) biases queries, keys and values, and may have windows in its upper layers; Qwen3 (arXiv:
2505.09388) normalises queries and keys instead.
"""

from dataclasses import replace
from typing import Any

from polytask.interop.hf import Family
from polytask.interop.rows import Entry, Row, spread, stacked
from polytask.models.config import TransformerConfig
from polytask.nn.attention import Attention
from polytask.nn.feedforward import GatedMLP
from polytask.nn.norm import RMSNorm
from polytask.nn.position import Rotary
from polytask.systems.open_weights.words import (
    Words,
    activation,
    in_turn,
    number,
    only,
    parts,
    rope,
    size,
    their_activation,
    whole_rotary,
)


def llama_attention(words: Words, **fields: Any) -> Attention:
    heads = size(words, "num_attention_heads")
    width = size(words, "head_dim", None) or size(words, "hidden_size") // heads
    return Attention(heads, size(words, "num_key_value_heads", None) or heads, width, **fields)


def llama_config(words: Words, attention: Any, **fields: Any) -> TransformerConfig:
    """What all of the kin have in common; `fields` stand in for some of it."""
    common = {
        "vocab_size": size(words, "vocab_size"),
        "context_length": size(words, "max_position_embeddings"),
        "layers": size(words, "num_hidden_layers"),
        "dim": size(words, "hidden_size"),
        "attention": attention,
        "norm": RMSNorm(number(words, "rms_norm_eps", 1e-6, zero=True)),
        "position": whole_rotary(words),
        "tied": words.get("tie_word_embeddings", False),
    }
    if "feedforward" not in fields:
        common["feedforward"] = GatedMLP(size(words, "intermediate_size"), activation(words, "hidden_act", "silu"))
    return TransformerConfig(**(common | fields))


def llama_words(c: TransformerConfig) -> dict[str, Any]:
    """Inverse of `llama_config`."""
    attention, feedforward, norm, position = parts(c)
    heads, kv_heads, width = attention.sizes(c.dim)
    return {
        "vocab_size": c.vocab_size,
        "max_position_embeddings": c.context_length,
        "num_hidden_layers": c.layers,
        "hidden_size": c.dim,
        "intermediate_size": feedforward.width,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": width,
        "hidden_act": their_activation(feedforward.activation),
        "rms_norm_eps": norm.eps,
        "tie_word_embeddings": c.tied,
        **rope(position),
    }


def attention_table(c: TransformerConfig) -> list[Entry]:
    """The attention of a layer, with embedding, last norm and output."""
    heads, kv_heads, width = c.attention_of(0).sizes(c.dim)
    q, k, v = stacked(heads * width, kv_heads * width, kv_heads * width)
    layer, block = "model.layers.{i}.self_attn", "blocks.{i}.attention"
    return [
        ("model.embed_tokens", "embedding"),
        (f"{layer}.q_proj", f"{block}.qkv", q),
        (f"{layer}.k_proj", f"{block}.qkv", k),
        (f"{layer}.v_proj", f"{block}.qkv", v),
        (f"{layer}.q_norm", f"{block}.query_norm"),
        (f"{layer}.k_norm", f"{block}.key_norm"),
        (f"{layer}.o_proj", f"{block}.output"),
        ("model.norm", "norm"),
        ("lm_head", "output"),
    ]


def gated_table(c: TransformerConfig) -> list[Entry]:
    """The gated feed-forward layer."""
    _, feedforward, _, _ = parts(c)
    gate, up = stacked(feedforward.width, feedforward.width)
    layer, block = "model.layers.{i}.mlp", "blocks.{i}.feedforward"
    return [
        (f"{layer}.gate_proj", f"{block}.gate_up", gate),
        (f"{layer}.up_proj", f"{block}.gate_up", up),
        (f"{layer}.down_proj", f"{block}.down"),
    ]


NORMS: list[Entry] = [
    ("model.layers.{i}.input_layernorm", "blocks.{i}.attention_norm"),
    ("model.layers.{i}.post_attention_layernorm", "blocks.{i}.feedforward_norm"),
]


def _rows(c: TransformerConfig) -> list[Row]:
    return spread(c, [*attention_table(c), *NORMS, *gated_table(c)])


def llama_kin(model_type: str, architecture: str, read: Any, write: Any, rows: Any = _rows, **fields: Any) -> Family:
    fields = {"parts": (RMSNorm, GatedMLP, Rotary)} | fields
    return Family(
        model_type, architecture, read, write, rows,
        prefix="model.",
        copies={"lm_head.weight": "model.embed_tokens.weight"},
        ignored=(r"rotary_emb\.inv_freq$",),
        **fields,
    )  # fmt: skip


def _read_llama(words: Words) -> TransformerConfig:
    bias = words.get("mlp_bias", False)
    attention = llama_attention(words, bias=words.get("attention_bias", False))
    feedforward = GatedMLP(size(words, "intermediate_size"), activation(words, "hidden_act", "silu"), bias)
    return llama_config({"max_position_embeddings": 2048, **words}, attention, feedforward=feedforward)


def _write_llama(c: TransformerConfig) -> dict[str, Any]:
    attention, feedforward, _, _ = parts(c)
    return llama_words(c) | {"attention_bias": attention.bias, "mlp_bias": feedforward.bias}


LLAMA = llama_kin("llama", "LlamaForCausalLM", _read_llama, _write_llama)


def _read_mistral(words: Words) -> TransformerConfig:
    only(words, "layer_types", None)
    words = {"max_position_embeddings": 131_072, "num_key_value_heads": 8, **words}
    return llama_config(words, llama_attention(words, window=size(words, "sliding_window", 4096, None)))


def _write_mistral(c: TransformerConfig) -> dict[str, Any]:
    return llama_words(c) | {"sliding_window": c.attention_of(0).window}


MISTRAL = llama_kin("mistral", "MistralForCausalLM", _read_mistral, _write_mistral)


def banded(words: Words, dense: Attention, kinds: list[str]) -> Any:
    """The attention of each layer of `layer_types`."""
    layers = size(words, "num_hidden_layers")
    if not isinstance(kinds, list) or len(kinds) != layers:
        only({"layer_types": kinds}, "layer_types", f"one for each of {layers} layers")
    for kind in kinds:
        only({"layer_types": kind}, "layer_types", "full_attention", "sliding_attention")
    window = replace(dense, window=size(words, "sliding_window", 4096, None))
    return in_turn([window if kind == "sliding_attention" else dense for kind in kinds])


def layer_types(c: TransformerConfig) -> dict[str, Any]:
    """Inverse of `banded`."""
    windows = [c.attention_of(layer).window for layer in range(c.layers)]
    kinds = ["sliding_attention" if window else "full_attention" for window in windows]
    return {"layer_types": kinds, "sliding_window": max(filter(None, windows), default=None)}


def _qwen_attention(words: Words, dense: Attention) -> Any:
    layers, first = size(words, "num_hidden_layers"), number(words, "max_window_layers", 28, whole=True, zero=True)
    windows = words.get("use_sliding_window", False) and size(words, "sliding_window", 4096, None) is not None
    above = ["sliding_attention" if windows and layer >= first else "full_attention" for layer in range(layers)]
    return banded(words, dense, words.get("layer_types") or above)


def _qwen_words(c: TransformerConfig) -> dict[str, Any]:
    types = layer_types(c)
    lowest = types["layer_types"].index("sliding_attention") if types["sliding_window"] else c.layers
    used = {"use_sliding_window": types["sliding_window"] is not None, "max_window_layers": lowest}
    return llama_words(c) | types | used


def _read_qwen2(words: Words) -> TransformerConfig:
    words = {"max_position_embeddings": 32_768, **words}
    return llama_config(words, _qwen_attention(words, llama_attention(words, bias=True, output_bias=False)))


QWEN2 = llama_kin("qwen2", "Qwen2ForCausalLM", _read_qwen2, _qwen_words)


def _read_qwen3(words: Words) -> TransformerConfig:
    words = {"max_position_embeddings": 32_768, "head_dim": 128, **words}
    norm = RMSNorm(number(words, "rms_norm_eps", 1e-6, zero=True))
    dense = llama_attention(words, bias=words.get("attention_bias", False), qk_norm=norm)
    return llama_config(words, _qwen_attention(words, dense))


def _write_qwen3(c: TransformerConfig) -> dict[str, Any]:
    return _qwen_words(c) | {"attention_bias": c.attention_of(0).bias}


QWEN3 = llama_kin("qwen3", "Qwen3ForCausalLM", _read_qwen3, _write_qwen3)
