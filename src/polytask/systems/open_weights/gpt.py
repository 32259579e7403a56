"""GPT-2 (Radford et al. 2019), GPT-Neo (Black et al. 2021) and OPT (Zhang et al. 2022, arXiv:2205.01068): pre-norm
decoders with learned positions.

What is their own: GPT-2 keeps its matrices as (in, out), queries, keys and values in one. GPT-Neo does not divide
scores by sqrt(K), and its layers take turns in seeing all and a window. OPT activates by ReLU, and its table of
positions begins with two rows that nobody reads; the smallest but one (350M) is post-norm and has narrower embeddings,
which we do not have.
"""

from dataclasses import replace
from typing import Any

from polytask.interop.hf import Family
from polytask.interop.rows import Row, Transposed, spread, stacked
from polytask.models.config import TransformerConfig
from polytask.nn.attention import Attention
from polytask.nn.feedforward import MLP
from polytask.nn.norm import LayerNorm
from polytask.nn.position import Learned
from polytask.systems.open_weights.words import (
    Words,
    activation,
    first,
    in_turn,
    number,
    only,
    parts,
    size,
    their_activation,
)


def _read_gpt2(words: Words) -> TransformerConfig:
    only(words, "scale_attn_by_inverse_layer_idx", False)
    only(words, "add_cross_attention", False)
    dim = first(words, "n_embd", "hidden_size")
    scaled = only(words, "scale_attn_weights", True, False)
    return TransformerConfig(
        vocab_size=size(words, "vocab_size"),
        context_length=first(words, "n_positions", "max_position_embeddings", "n_ctx"),
        layers=first(words, "n_layer", "num_hidden_layers"),
        dim=dim,
        attention=Attention(first(words, "n_head", "num_attention_heads"), bias=True, scale=None if scaled else 1.0),
        feedforward=MLP(
            size(words, "n_inner", None) or 4 * dim, activation(words, "activation_function", "gelu_new"), True
        ),
        norm=LayerNorm(number(words, "layer_norm_epsilon", 1e-5, zero=True)),
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
    layer, block, turned = "transformer.h.{i}", "blocks.{i}", Transposed()
    return spread(c, [
        ("transformer.wte", "embedding"),
        ("transformer.wpe", "position"),
        (f"{layer}.ln_1", f"{block}.attention_norm"),
        (f"{layer}.attn.c_attn", f"{block}.attention.qkv", turned),
        (f"{layer}.attn.c_proj", f"{block}.attention.output", turned),
        (f"{layer}.ln_2", f"{block}.feedforward_norm"),
        (f"{layer}.mlp.c_fc", f"{block}.feedforward.up", turned),
        (f"{layer}.mlp.c_proj", f"{block}.feedforward.down", turned),
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


def _read_neo(words: Words) -> TransformerConfig:
    dim = size(words, "hidden_size")
    layers, width = first(words, "num_layers", "num_hidden_layers"), size(words, "intermediate_size", None) or 4 * dim
    kinds = _kinds(words, layers)
    dense = Attention(first(words, "num_heads", "num_attention_heads"), bias=False, output_bias=True, scale=1.0)
    banded = replace(dense, window=size(words, "window_size", 256))
    return TransformerConfig(
        vocab_size=size(words, "vocab_size"),
        context_length=size(words, "max_position_embeddings", 2048),
        layers=layers,
        dim=dim,
        attention=in_turn([dense if kind == "global" else banded for kind in kinds]),
        feedforward=MLP(width, activation(words, "activation_function", "gelu_new"), True),
        norm=LayerNorm(number(words, "layer_norm_epsilon", 1e-5, zero=True)),
        position=Learned(),
        tied=words.get("tie_word_embeddings", True),
    )


def _kinds(words: Words, layers: int) -> list[str]:
    """global or local for each layer; the list of layers is taken before that of turns."""
    key = "attention_types" if words.get("attention_layers") is None else "attention_layers"
    kinds = words[key]
    try:
        if key == "attention_types":
            kinds = [kind for turn, times in kinds for kind in list(turn) * times]
        fits = len(kinds) == layers and set(kinds) <= {"global", "local"}
    except (TypeError, ValueError):
        fits = False
    return kinds if fits else only({key: kinds}, key, [f"global or local, {layers} times"])


def _write_neo(c: TransformerConfig) -> dict[str, Any]:
    attention, feedforward, norm, _ = parts(c)
    windows = [c.attention_of(layer).window for layer in range(c.layers)]
    return {
        "vocab_size": c.vocab_size,
        "max_position_embeddings": c.context_length,
        "num_layers": c.layers,
        "hidden_size": c.dim,
        "num_heads": attention.heads,
        "intermediate_size": feedforward.width,
        "attention_types": [[["local" if window else "global"], 1] for window in windows],
        "window_size": max(filter(None, windows), default=256),
        "activation_function": their_activation(feedforward.activation, "gelu_new"),
        "layer_norm_epsilon": norm.eps,
        "tie_word_embeddings": c.tied,
    }


def _neo_rows(c: TransformerConfig) -> list[Row]:
    layer, block, (q, k, v) = "transformer.h.{i}", "blocks.{i}", stacked(c.dim, c.dim, c.dim)
    return spread(c, [
        ("transformer.wte", "embedding"),
        ("transformer.wpe", "position"),
        (f"{layer}.ln_1", f"{block}.attention_norm"),
        (f"{layer}.attn.attention.q_proj", f"{block}.attention.qkv", q),
        (f"{layer}.attn.attention.k_proj", f"{block}.attention.qkv", k),
        (f"{layer}.attn.attention.v_proj", f"{block}.attention.qkv", v),
        (f"{layer}.attn.attention.out_proj", f"{block}.attention.output"),
        (f"{layer}.ln_2", f"{block}.feedforward_norm"),
        (f"{layer}.mlp.c_fc", f"{block}.feedforward.up"),
        (f"{layer}.mlp.c_proj", f"{block}.feedforward.down"),
        ("transformer.ln_f", "norm"),
        ("lm_head", "output"),
    ])  # fmt: skip


GPT_NEO = Family(
    "gpt_neo", "GPTNeoForCausalLM", _read_neo, _write_neo, _neo_rows,
    parts=(LayerNorm, MLP, Learned),
    prefix="transformer.",
    copies={"lm_head.weight": "transformer.wte.weight"},
    ignored=(r"\.attn\.attention\.(bias|masked_bias)$",),
)  # fmt: skip


def _read_opt(words: Words) -> TransformerConfig:
    dim, before = size(words, "hidden_size"), only(words, "do_layer_norm_before", True, False)
    only({"word_embed_proj_dim": words.get("word_embed_proj_dim") or dim}, "word_embed_proj_dim", dim)
    only(words, "layer_norm_elementwise_affine", True)
    bias = words.get("enable_bias", True)
    return TransformerConfig(
        vocab_size=size(words, "vocab_size"),
        context_length=size(words, "max_position_embeddings", 2048),
        layers=size(words, "num_hidden_layers"),
        dim=dim,
        attention=Attention(size(words, "num_attention_heads"), bias=bias),
        feedforward=MLP(size(words, "ffn_dim"), activation(words, "activation_function", "relu"), bias),
        norm=LayerNorm(),
        position=Learned(offset=2),
        placement="pre" if before else "post",
        final_norm=before and not words.get("_remove_final_layer_norm", False),
        tied=words.get("tie_word_embeddings", True),
    )


def _write_opt(c: TransformerConfig) -> dict[str, Any]:
    attention, feedforward, _, _ = parts(c)
    return {
        "vocab_size": c.vocab_size,
        "max_position_embeddings": c.context_length,
        "num_hidden_layers": c.layers,
        "hidden_size": c.dim,
        "word_embed_proj_dim": c.dim,
        "num_attention_heads": attention.heads,
        "ffn_dim": feedforward.width,
        "activation_function": their_activation(feedforward.activation, "gelu_new"),
        "enable_bias": attention.bias,
        "do_layer_norm_before": c.placement == "pre",
        "_remove_final_layer_norm": c.placement == "pre" and not c.final_norm,
        "tie_word_embeddings": c.tied,
    }


def _opt_rows(c: TransformerConfig) -> list[Row]:
    layer, block, (q, k, v) = "model.decoder.layers.{i}", "blocks.{i}", stacked(c.dim, c.dim, c.dim)
    return spread(c, [
        ("model.decoder.embed_tokens", "embedding"),
        ("model.decoder.embed_positions", "position"),
        (f"{layer}.self_attn_layer_norm", f"{block}.attention_norm"),
        (f"{layer}.self_attn.q_proj", f"{block}.attention.qkv", q),
        (f"{layer}.self_attn.k_proj", f"{block}.attention.qkv", k),
        (f"{layer}.self_attn.v_proj", f"{block}.attention.qkv", v),
        (f"{layer}.self_attn.out_proj", f"{block}.attention.output"),
        (f"{layer}.final_layer_norm", f"{block}.feedforward_norm"),
        (f"{layer}.fc1", f"{block}.feedforward.up"),
        (f"{layer}.fc2", f"{block}.feedforward.down"),
        ("model.decoder.final_layer_norm", "norm"),
        ("lm_head", "output"),
    ])  # fmt: skip


OPT = Family(
    "opt", "OPTForCausalLM", _read_opt, _write_opt, _opt_rows,
    parts=(LayerNorm, MLP, Learned),
    prefix="model.",
    copies={"lm_head.weight": "model.decoder.embed_tokens.weight"},
)  # fmt: skip
