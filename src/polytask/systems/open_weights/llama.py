"""Llama (Touvron et al. 2023, arXiv:2302.13971) and its kin: pre-norm, RMSNorm, rotary positions, a gated layer."""

from typing import Any

from polytask.interop.hf import Family
from polytask.interop.rows import Row, spread, stacked
from polytask.models.config import TransformerConfig
from polytask.nn.attention import Attention
from polytask.nn.feedforward import GatedMLP
from polytask.nn.norm import RMSNorm
from polytask.nn.position import Rotary
from polytask.systems.open_weights.words import Words, activation, only, parts, rope, rotary, their_activation


def _read_llama(words: Words) -> TransformerConfig:
    return TransformerConfig(
        vocab_size=words["vocab_size"],
        context_length=words.get("max_position_embeddings", 2048),
        layers=words["num_hidden_layers"],
        dim=words["hidden_size"],
        attention=_attention(words, bias=words.get("attention_bias", False)),
        feedforward=GatedMLP(
            words["intermediate_size"], activation(words, "hidden_act", "silu"), words.get("mlp_bias", False)
        ),
        norm=RMSNorm(words.get("rms_norm_eps", 1e-6)),
        position=_whole_rotary(words),
        tied=words.get("tie_word_embeddings", False),
    )


def _attention(words: Words, **fields: Any) -> Attention:
    heads = words["num_attention_heads"]
    width = words.get("head_dim") or words["hidden_size"] // heads
    return Attention(heads, words.get("num_key_value_heads") or heads, width, **fields)


def _whole_rotary(words: Words, theta: float = 10_000.0) -> Rotary:
    """All channels turn."""
    part = rotary(words, theta=theta)
    only({"partial_rotary_factor": part.fraction}, "partial_rotary_factor", 1.0)
    return part


def _write_llama(c: TransformerConfig) -> dict[str, Any]:
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
        "attention_bias": attention.bias,
        "mlp_bias": feedforward.bias,
        "tie_word_embeddings": c.tied,
        **rope(position),
    }


def _llama_rows(c: TransformerConfig) -> list[Row]:
    attention, feedforward, _, _ = parts(c)
    heads, kv_heads, width = attention.sizes(c.dim)
    q, k, v = stacked(heads * width, kv_heads * width, kv_heads * width)
    gate, up = stacked(feedforward.width, feedforward.width)
    layer, block = "model.layers.{i}", "blocks.{i}"
    return spread(c, [
        ("model.embed_tokens", "embedding"),
        (f"{layer}.input_layernorm", f"{block}.attention_norm"),
        (f"{layer}.self_attn.q_proj", f"{block}.attention.qkv", q),
        (f"{layer}.self_attn.k_proj", f"{block}.attention.qkv", k),
        (f"{layer}.self_attn.v_proj", f"{block}.attention.qkv", v),
        (f"{layer}.self_attn.o_proj", f"{block}.attention.output"),
        (f"{layer}.post_attention_layernorm", f"{block}.feedforward_norm"),
        (f"{layer}.mlp.gate_proj", f"{block}.feedforward.gate_up", gate),
        (f"{layer}.mlp.up_proj", f"{block}.feedforward.gate_up", up),
        (f"{layer}.mlp.down_proj", f"{block}.feedforward.down"),
        ("model.norm", "norm"),
        ("lm_head", "output"),
    ])  # fmt: skip


LLAMA = Family(
    "llama", "LlamaForCausalLM", _read_llama, _write_llama, _llama_rows,
    parts=(RMSNorm, GatedMLP, Rotary),
    prefix="model.",
    copies={"lm_head.weight": "model.embed_tokens.weight"},
    ignored=(r"rotary_emb\.inv_freq$",),
)  # fmt: skip
