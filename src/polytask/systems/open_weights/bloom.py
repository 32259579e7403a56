"""BLOOM (BigScience 2022, arXiv:2211.05100) and Falcon (Almazrouei et al. 2023, arXiv:2311.16867).

What is their own: both keep queries, keys and values in one matrix, by groups of heads. BLOOM adds ALiBi's distances to
its scores and has one more norm after the embedding. Falcon has three styles: 7B (one key/value head, attention and
feed-forward in parallel from one norm), 40B and 180B (groups, a norm for each), and RW (ALiBi that is divided with the
scores, one after the other, biases).
"""

from typing import Any

from polytask.interop.hf import Family
from polytask.interop.rows import SAME, Grouped, Row, View, spread
from polytask.models.config import TransformerConfig
from polytask.nn.attention import Attention
from polytask.nn.block import Placement
from polytask.nn.feedforward import MLP
from polytask.nn.norm import LayerNorm
from polytask.nn.position import Alibi, Rotary
from polytask.systems.open_weights.words import (
    Words,
    activation,
    first,
    number,
    only,
    parts,
    rope,
    size,
    their_activation,
    whole_rotary,
)


def _read_bloom(words: Words) -> TransformerConfig:
    only(words, "apply_residual_connection_post_layernorm", False)
    if words.get("slow_but_exact"):
        only(words, "pretraining_tp", 1)  # else products are rounded slice by slice
    dim, norm = first(words, "hidden_size", "n_embed"), LayerNorm(number(words, "layer_norm_epsilon", 1e-5, zero=True))
    return TransformerConfig(
        vocab_size=size(words, "vocab_size"),
        context_length=size(words, "seq_length", 2048),
        layers=first(words, "n_layer", "num_hidden_layers"),
        dim=dim,
        attention=Attention(first(words, "n_head", "num_attention_heads"), bias=True),
        feedforward=MLP(4 * dim, "gelu_tanh", True),
        norm=norm,
        position=Alibi(),
        embedding_norm=norm,
        tied=words.get("tie_word_embeddings", True),
    )


def _write_bloom(c: TransformerConfig) -> dict[str, Any]:
    attention, _, norm, _ = parts(c)
    return {
        "vocab_size": c.vocab_size,
        "seq_length": c.context_length,
        "n_layer": c.layers,
        "hidden_size": c.dim,
        "n_head": attention.heads,
        "layer_norm_epsilon": norm.eps,
        "tie_word_embeddings": c.tied,
    }


def _bloom_rows(c: TransformerConfig) -> list[Row]:
    return spread(c, [
        ("transformer.word_embeddings", "embedding"),
        ("transformer.word_embeddings_layernorm", "embedding_norm"),
        ("transformer.h.{i}.input_layernorm", "blocks.{i}.attention_norm"),
        ("transformer.h.{i}.post_attention_layernorm", "blocks.{i}.feedforward_norm"),
        *_matrices(c),
        ("transformer.ln_f", "norm"),
        ("lm_head", "output"),
    ])  # fmt: skip


def _matrices(c: TransformerConfig) -> list[tuple[str, str, View]]:
    layer, block = "transformer.h.{i}", "blocks.{i}"
    return [
        (f"{layer}.self_attention.query_key_value", f"{block}.attention.qkv", Grouped(*c.attention_of(0).sizes(c.dim))),
        (f"{layer}.self_attention.dense", f"{block}.attention.output", SAME),
        (f"{layer}.mlp.dense_h_to_4h", f"{block}.feedforward.up", SAME),
        (f"{layer}.mlp.dense_4h_to_h", f"{block}.feedforward.down", SAME),
    ]


BLOOM = Family(
    "bloom", "BloomForCausalLM", _read_bloom, _write_bloom, _bloom_rows,
    parts=(LayerNorm, MLP, Alibi),
    prefix="transformer.",
    copies={"lm_head.weight": "transformer.word_embeddings.weight"},
)  # fmt: skip


def _read_falcon(words: Words) -> TransformerConfig:
    dim, heads = size(words, "hidden_size"), size(words, "num_attention_heads")
    bias, grouped = words.get("bias", False), words.get("new_decoder_architecture", False)
    single = words.get("multi_query", True) and not grouped
    return TransformerConfig(
        vocab_size=size(words, "vocab_size"),
        context_length=size(words, "max_position_embeddings", 2048),
        layers=size(words, "num_hidden_layers"),
        dim=dim,
        attention=Attention(heads, 1 if single else size(words, "num_kv_heads", None) or heads, bias=bias),
        feedforward=MLP(size(words, "ffn_hidden_size", None) or 4 * dim, activation(words, "activation", "gelu"), bias),
        norm=LayerNorm(number(words, "layer_norm_epsilon", 1e-5, zero=True)),
        position=Alibi(scaled=True) if words.get("alibi", False) else whole_rotary(words),
        placement=_placement(words, grouped),
        tied=words.get("tie_word_embeddings", True),
    )


def _placement(words: Words, grouped: bool) -> Placement:
    norms = words.get("num_ln_in_parallel_attn")
    only({"num_ln_in_parallel_attn": norms}, "num_ln_in_parallel_attn", None, *((1, 2) if grouped else (1,)))
    if not only(words, "parallel_attn", True, *(() if grouped else (False,))):
        return "pre"
    return "parallel_norms" if grouped and norms != 1 else "parallel"


def _write_falcon(c: TransformerConfig) -> dict[str, Any]:
    attention, feedforward, norm, position = parts(c)
    heads, kv_heads, _ = attention.sizes(c.dim)
    grouped = c.placement == "parallel_norms" or kv_heads not in (1, heads)
    return {
        "vocab_size": c.vocab_size,
        "max_position_embeddings": c.context_length,
        "num_hidden_layers": c.layers,
        "hidden_size": c.dim,
        "ffn_hidden_size": feedforward.width,
        "num_attention_heads": heads,
        "num_kv_heads": kv_heads,
        "multi_query": kv_heads == 1 and not grouped,
        "new_decoder_architecture": grouped,
        "num_ln_in_parallel_attn": {"parallel_norms": 2, "parallel": 1}.get(c.placement) if grouped else None,
        "parallel_attn": c.placement != "pre",
        "bias": attention.bias,
        "activation": their_activation(feedforward.activation),
        "layer_norm_epsilon": norm.eps,
        "alibi": isinstance(position, Alibi),
        "tie_word_embeddings": c.tied,
        **(rope(position) if isinstance(position, Rotary) else {}),
    }


def _falcon_rows(c: TransformerConfig) -> list[Row]:
    both = c.placement == "parallel_norms"
    first_norm, second_norm = ("ln_attn", "ln_mlp") if both else ("input_layernorm", "post_attention_layernorm")
    return spread(c, [
        ("transformer.word_embeddings", "embedding"),
        (f"transformer.h.{{i}}.{first_norm}", "blocks.{i}.attention_norm"),
        (f"transformer.h.{{i}}.{second_norm}", "blocks.{i}.feedforward_norm"),
        *_matrices(c),
        ("transformer.ln_f", "norm"),
        ("lm_head", "output"),
    ])  # fmt: skip


FALCON = Family(
    "falcon", "FalconForCausalLM", _read_falcon, _write_falcon, _falcon_rows,
    parts=(LayerNorm, MLP, (Rotary, Alibi)),
    prefix="transformer.",
    copies={"lm_head.weight": "transformer.word_embeddings.weight"},
    ignored=(r"\.(inv_freq|maybe_rotary\.inv_freq)$",),
)  # fmt: skip
