"""Gemma (Gemma Team 2024, arXiv:2403.08295) and Gemma 2 (arXiv:2408.00118).

What is their own: norms keep what is to be added to 1, embeddings are multiplied by sqrt(dim), gates are activated by
the tanh form of GELU, heads are wider than dim / heads. Gemma 2 has norms on both sides of each sub-layer, bends scores
and logits, divides scores by the square root of a number of its own, and every other layer sees a window.
"""

from typing import Any

from polytask.interop.rows import Entry, Row, spread
from polytask.models.config import TransformerConfig
from polytask.nn.feedforward import GatedMLP
from polytask.nn.norm import RMSNorm
from polytask.systems.open_weights.llama import (
    attention_table,
    banded,
    gated_table,
    layer_types,
    llama_attention,
    llama_config,
    llama_kin,
    llama_words,
)
from polytask.systems.open_weights.words import Words, activation, number, only, parts, size


def _config(words: Words, attention: Any, key: str, **fields: Any) -> TransformerConfig:
    only(words, "use_bidirectional_attention", None, False)
    act = activation(words, key, "gelu_pytorch_tanh")
    return llama_config(
        words, attention,
        feedforward=GatedMLP(size(words, "intermediate_size"), act),
        norm=RMSNorm(number(words, "rms_norm_eps", 1e-6, zero=True), offset=1.0),
        scale_embedding=True,
        tied=words.get("tie_word_embeddings", True),
        **fields,
    )  # fmt: skip


def _read_gemma(words: Words) -> TransformerConfig:
    words = {"max_position_embeddings": 8192, "head_dim": 256, **words}
    if words.get("hidden_act") == "gelu":  # early folders mean its tanh form, which transformers takes as well
        words["hidden_act"] = "gelu_pytorch_tanh"
    return _config(words, llama_attention(words, bias=words.get("attention_bias", False)), "hidden_act")


def _write_gemma(c: TransformerConfig) -> dict[str, Any]:
    return llama_words(c) | {"attention_bias": c.attention_of(0).bias}


GEMMA = llama_kin("gemma", "GemmaForCausalLM", _read_gemma, _write_gemma)


def _read_gemma2(words: Words) -> TransformerConfig:
    words = {"max_position_embeddings": 8192, "head_dim": 256, "num_key_value_heads": 4, **words}
    dense = llama_attention(
        words,
        bias=words.get("attention_bias", False),
        scale=number(words, "query_pre_attn_scalar", 256) ** -0.5,
        cap=number(words, "attn_logit_softcapping", 50.0, None),
    )
    layers = size(words, "num_hidden_layers")
    turns = ["full_attention" if layer % 2 else "sliding_attention" for layer in range(layers)]
    attention = banded(words, dense, words.get("layer_types") or turns)
    cap = number(words, "final_logit_softcapping", 30.0, None)
    return _config(words, attention, "hidden_activation", placement="sandwich", logit_cap=cap)


def _write_gemma2(c: TransformerConfig) -> dict[str, Any]:
    attention, _, _, _ = parts(c)
    _, _, width = attention.sizes(c.dim)
    words = llama_words(c)
    return words | layer_types(c) | {
        "hidden_activation": words.pop("hidden_act"),
        "attention_bias": attention.bias,
        "query_pre_attn_scalar": width if attention.scale is None else round(attention.scale**-2),
        "attn_logit_softcapping": attention.cap,
        "final_logit_softcapping": c.logit_cap,
    }  # fmt: skip


_SANDWICH: list[Entry] = [
    ("model.layers.{i}.input_layernorm", "blocks.{i}.attention_norm"),
    ("model.layers.{i}.post_attention_layernorm", "blocks.{i}.attention_outer_norm"),
    ("model.layers.{i}.pre_feedforward_layernorm", "blocks.{i}.feedforward_norm"),
    ("model.layers.{i}.post_feedforward_layernorm", "blocks.{i}.feedforward_outer_norm"),
]


def _gemma2_rows(c: TransformerConfig) -> list[Row]:
    return spread(c, [*attention_table(c), *_SANDWICH, *gated_table(c)])


GEMMA2 = llama_kin("gemma2", "Gemma2ForCausalLM", _read_gemma2, _write_gemma2, _gemma2_rows)
