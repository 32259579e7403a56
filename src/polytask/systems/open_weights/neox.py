"""GPT-J (Wang and Komatsuzaki 2021) and GPT-NeoX (Black et al. 2022, arXiv:2204.06745; Pythia): attention and
feed-forward in parallel, rotary positions for some of each head's channels.

What is their own: GPT-J has one norm for both, turns neighbouring channels, and biases its logits; GPT-NeoX has a norm
for each, turns channel i with i + R/2, and keeps queries, keys and values in one matrix, by heads.
"""

from typing import Any

from polytask.errors import ConfigError
from polytask.interop.hf import Family
from polytask.interop.rows import Grouped, Row, spread, stacked
from polytask.models.config import TransformerConfig
from polytask.nn.attention import Attention
from polytask.nn.feedforward import MLP
from polytask.nn.norm import LayerNorm
from polytask.nn.position import Rotary
from polytask.systems.open_weights.words import (
    Words,
    activation,
    first,
    number,
    only,
    parts,
    rope,
    rotary,
    size,
    their_activation,
)


def _read_gptj(words: Words) -> TransformerConfig:
    dim, heads = first(words, "n_embd", "hidden_size"), first(words, "n_head", "num_attention_heads")
    turned = size(words, "rotary_dim", 64)
    if turned % 2 or turned * heads > dim:
        raise ConfigError(f"rotary_dim={turned} must be even and at most the width of a head, {dim // heads}.")
    return TransformerConfig(
        vocab_size=size(words, "vocab_size"),
        context_length=first(words, "n_positions", "max_position_embeddings"),
        layers=first(words, "n_layer", "num_hidden_layers"),
        dim=dim,
        attention=Attention(heads),
        feedforward=MLP(
            size(words, "n_inner", None) or 4 * dim, activation(words, "activation_function", "gelu_new"), True
        ),
        norm=LayerNorm(number(words, "layer_norm_epsilon", 1e-5, zero=True)),
        position=Rotary(layout="interleaved", fraction=turned * heads / dim),
        placement="parallel",
        tied=only(words, "tie_word_embeddings", False),
        output_bias=True,
    )


def _write_gptj(c: TransformerConfig) -> dict[str, Any]:
    attention, feedforward, norm, position = parts(c)
    return {
        "vocab_size": c.vocab_size,
        "n_positions": c.context_length,
        "n_layer": c.layers,
        "n_embd": c.dim,
        "n_head": attention.heads,
        "n_inner": feedforward.width,
        "rotary_dim": position.turned(c.dim // attention.heads),
        "activation_function": their_activation(feedforward.activation, "gelu_new"),
        "layer_norm_epsilon": norm.eps,
        "tie_word_embeddings": False,
    }


def _gptj_rows(c: TransformerConfig) -> list[Row]:
    layer, block, (q, k, v) = "transformer.h.{i}", "blocks.{i}", stacked(c.dim, c.dim, c.dim)
    return spread(c, [
        ("transformer.wte", "embedding"),
        (f"{layer}.ln_1", f"{block}.attention_norm"),
        (f"{layer}.attn.q_proj", f"{block}.attention.qkv", q),
        (f"{layer}.attn.k_proj", f"{block}.attention.qkv", k),
        (f"{layer}.attn.v_proj", f"{block}.attention.qkv", v),
        (f"{layer}.attn.out_proj", f"{block}.attention.output"),
        (f"{layer}.mlp.fc_in", f"{block}.feedforward.up"),
        (f"{layer}.mlp.fc_out", f"{block}.feedforward.down"),
        ("transformer.ln_f", "norm"),
        ("lm_head", "output"),
        ("lm_head.bias", "output_bias"),
    ])  # fmt: skip


GPTJ = Family(
    "gptj", "GPTJForCausalLM", _read_gptj, _write_gptj, _gptj_rows,
    parts=(LayerNorm, MLP, Rotary),
    prefix="transformer.",
    ignored=(r"\.attn\.(bias|masked_bias|embed_positions)$",),
)  # fmt: skip


def _read_neox(words: Words) -> TransformerConfig:
    parallel = words.get("use_parallel_residual", True)
    theta, share = number(words, "rotary_emb_base", 10_000.0), number(words, "rotary_pct", 0.25, zero=True)
    own = {key: value for key, value in words.items() if key not in ("rope_theta", "partial_rotary_factor")}
    return TransformerConfig(
        vocab_size=size(words, "vocab_size"),
        context_length=size(words, "max_position_embeddings", 2048),
        layers=size(words, "num_hidden_layers"),
        dim=size(words, "hidden_size"),
        attention=Attention(size(words, "num_attention_heads"), bias=words.get("attention_bias", True)),
        feedforward=MLP(size(words, "intermediate_size"), activation(words, "hidden_act", "gelu"), True),
        norm=LayerNorm(number(words, "layer_norm_eps", 1e-5, zero=True)),
        position=rotary(own, theta=theta, fraction=share),  # it has no such keys, and transformers takes none
        placement="parallel_norms" if parallel else "pre",
        tied=words.get("tie_word_embeddings", False),
    )


def _write_neox(c: TransformerConfig) -> dict[str, Any]:
    attention, feedforward, norm, position = parts(c)
    turning = rope(position)
    return {
        "vocab_size": c.vocab_size,
        "max_position_embeddings": c.context_length,
        "num_hidden_layers": c.layers,
        "hidden_size": c.dim,
        "intermediate_size": feedforward.width,
        "num_attention_heads": attention.heads,
        "hidden_act": their_activation(feedforward.activation),
        "layer_norm_eps": norm.eps,
        "attention_bias": attention.bias,
        "use_parallel_residual": c.placement == "parallel_norms",
        "tie_word_embeddings": c.tied,
        "rotary_pct": position.fraction,
        "rotary_emb_base": turning.pop("rope_theta"),
        **turning,
    }


def _neox_rows(c: TransformerConfig) -> list[Row]:
    heads, _, width = c.attention_of(0).sizes(c.dim)
    layer, block = "gpt_neox.layers.{i}", "blocks.{i}"
    return spread(c, [
        ("gpt_neox.embed_in", "embedding"),
        (f"{layer}.input_layernorm", f"{block}.attention_norm"),
        (f"{layer}.attention.query_key_value", f"{block}.attention.qkv", Grouped(heads, heads, width)),
        (f"{layer}.attention.dense", f"{block}.attention.output"),
        (f"{layer}.post_attention_layernorm", f"{block}.feedforward_norm"),
        (f"{layer}.mlp.dense_h_to_4h", f"{block}.feedforward.up"),
        (f"{layer}.mlp.dense_4h_to_h", f"{block}.feedforward.down"),
        ("gpt_neox.final_layer_norm", "norm"),
        ("embed_out", "output"),
    ])  # fmt: skip


GPT_NEOX = Family(
    "gpt_neox", "GPTNeoXForCausalLM", _read_neox, _write_neox, _neox_rows,
    parts=(LayerNorm, MLP, Rotary),
    prefix="gpt_neox.",
    copies={"embed_out.weight": "gpt_neox.embed_in.weight"},
    spellings={"lm_head.": "embed_out."},
    ignored=(r"\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)$",),
)  # fmt: skip
