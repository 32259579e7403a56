"""GPT-2 (Radford et al. 2019) and the open decoders that follow it."""

from typing import Any

from polytask.interop.hf import Family
from polytask.interop.rows import Row, Transposed, spread
from polytask.models.config import TransformerConfig
from polytask.nn.attention import Attention
from polytask.nn.feedforward import MLP
from polytask.nn.norm import LayerNorm
from polytask.nn.position import Learned
from polytask.systems.open_weights.words import Words, activation, only, parts, their_activation


def _read_gpt2(words: Words) -> TransformerConfig:
    only(words, "scale_attn_by_inverse_layer_idx", False)
    only(words, "add_cross_attention", False)
    dim = words["n_embd"]
    scaled = only(words, "scale_attn_weights", True, False)
    return TransformerConfig(
        vocab_size=words["vocab_size"],
        context_length=words["n_positions"],
        layers=words["n_layer"],
        dim=dim,
        attention=Attention(words["n_head"], bias=True, scale=None if scaled else 1.0),
        feedforward=MLP(words.get("n_inner") or 4 * dim, activation(words, "activation_function", "gelu_new"), True),
        norm=LayerNorm(words.get("layer_norm_epsilon", 1e-5)),
        position=Learned(),
        tied=words.get("tie_word_embeddings", True),
    )


def _write_gpt2(c: TransformerConfig) -> dict[str, Any]:
    attention, feedforward, norm, _ = parts(c)
    return {
        "vocab_size": c.vocab_size,
        "n_positions": c.context_length,
        "n_layer": c.layers,
        "n_embd": c.dim,
        "n_head": attention.heads,
        "n_inner": feedforward.width,
        "activation_function": their_activation(feedforward.activation, "gelu_new"),
        "scale_attn_weights": attention.scale is None,
        "layer_norm_epsilon": norm.eps,
        "tie_word_embeddings": c.tied,
    }


def _gpt2_rows(c: TransformerConfig) -> list[Row]:
    turned = Transposed()
    return spread(c, [
        ("transformer.wte", "embedding"),
        ("transformer.wpe", "position"),
        ("transformer.h.{i}.ln_1", "blocks.{i}.attention_norm"),
        ("transformer.h.{i}.attn.c_attn", "blocks.{i}.attention.qkv", turned),
        ("transformer.h.{i}.attn.c_proj", "blocks.{i}.attention.output", turned),
        ("transformer.h.{i}.ln_2", "blocks.{i}.feedforward_norm"),
        ("transformer.h.{i}.mlp.c_fc", "blocks.{i}.feedforward.up", turned),
        ("transformer.h.{i}.mlp.c_proj", "blocks.{i}.feedforward.down", turned),
        ("transformer.ln_f", "norm"),
        ("lm_head", "output"),
    ])  # fmt: skip


GPT2 = Family(
    "gpt2", "GPT2LMHeadModel", _read_gpt2, _write_gpt2, _gpt2_rows,
    parts=(LayerNorm, MLP, Learned),
    prefix="transformer.",
    copies={"lm_head.weight": "transformer.wte.weight"},
    ignored=(r"\.attn\.(bias|masked_bias)$",),
)  # fmt: skip
