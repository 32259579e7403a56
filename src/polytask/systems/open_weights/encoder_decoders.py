"""Open encoder-decoders: T5 (Raffel et al. 2020, arXiv:1910.10683) and Marian (Junczys-Dowmunt et al. 2018).

T5 adds a learned number for each bucket of distances to the scores, one table for all layers of a stack, and does not
divide scores by anything. T5 1.0 has ReLU and multiplies what the last norm gives by 1/sqrt(dim) before the embedding,
its output matrix too; T5 1.1 and Flan-T5 have a gated GELU and an output matrix of their own, without that factor.
transformers 5 calls the two matrices tied and says by `scale_decoder_outputs` which of both a network is.

Marian is the Transformer of Vaswani et al. (2017) with all sines before all cosines, biases everywhere, and one learned
number for each logit. Both start their decoders from padding.
"""

from pathlib import Path
from typing import Any

from polytask.errors import ConfigError
from polytask.interop import shards
from polytask.interop.hf import Family
from polytask.interop.rows import At, Entry, Row, spread, stacked
from polytask.models.config import TransformerConfig
from polytask.nn.attention import Attention
from polytask.nn.feedforward import MLP, GatedMLP
from polytask.nn.norm import LayerNorm, RMSNorm
from polytask.nn.position import RelativeBuckets, Sinusoidal
from polytask.systems.open_weights.words import Words, activation, number, only, parts, size, their_activation


def _read_t5(words: Words) -> TransformerConfig:
    dim, kind = size(words, "d_model"), str(words.get("feed_forward_proj", "relu"))
    gated, _, name = kind.rpartition("-")
    only({"feed_forward_proj": gated}, "feed_forward_proj", "", "gated")
    act = "gelu_tanh" if kind == "gated-gelu" else activation({"feed_forward_proj": name}, "feed_forward_proj", "relu")
    only(words, "is_gated_act", bool(gated), None)
    only(words, "dense_act_fn", "gelu_new" if kind == "gated-gelu" else name, None)
    tied = words.get("tie_word_embeddings", True)
    encoder_layers = _encoder(words, "num_layers")
    scaled = words.get("scale_decoder_outputs", tied)
    return TransformerConfig(
        vocab_size=size(words, "vocab_size"),
        context_length=size(words, "n_positions", 512),
        layers=size(words, "num_decoder_layers", None) or encoder_layers,
        encoder_layers=encoder_layers,
        dim=dim,
        attention=Attention(size(words, "num_heads"), head_dim=size(words, "d_kv"), scale=1.0),
        feedforward=GatedMLP(size(words, "d_ff"), act) if gated else MLP(size(words, "d_ff"), act),
        norm=RMSNorm(number(words, "layer_norm_epsilon", 1e-6, zero=True)),
        position=RelativeBuckets(
            size(words, "relative_attention_num_buckets", 32), size(words, "relative_attention_max_distance", 128)
        ),
        tied=tied,
        logit_scale=dim**-0.5 if scaled else 1.0,
    )


def _settled(words: Words, folder: Path) -> Words:
    """Without the factor, whether the matrices are tied is for the stored ones to say."""
    if words.get("scale_decoder_outputs") is not False or words.get("tie_word_embeddings") is False:
        return words
    tensors = shards.stored(folder)
    one, other = tensors.get("shared.weight"), tensors.get("lm_head.weight")
    return words if one is None or other is None or one.equals(other) else {**words, "tie_word_embeddings": False}


def _encoder(words: Words, key: str) -> int:
    layers = number(words, key, whole=True, zero=True)
    if not layers:
        raise ConfigError(f"{key}=0 leaves out the encoder, which this family has.")
    return layers


def _write_t5(c: TransformerConfig) -> dict[str, Any]:
    attention, feedforward, norm, position = parts(c)
    name = their_activation(feedforward.activation, "gelu_new")
    gated = isinstance(feedforward, GatedMLP)
    scaled = c.logit_scale == c.dim**-0.5
    return {
        "vocab_size": c.vocab_size,
        "n_positions": c.context_length,
        "num_layers": c.encoder_layers,
        "num_decoder_layers": c.layers,
        "d_model": c.dim,
        "num_heads": attention.heads,
        "d_kv": attention.sizes(c.dim)[2],
        "d_ff": feedforward.width,
        "feed_forward_proj": ("gated-gelu" if name == "gelu_new" else f"gated-{name}") if gated else name,
        "layer_norm_epsilon": norm.eps,
        "relative_attention_num_buckets": position.buckets,
        "relative_attention_max_distance": position.furthest,
        "tie_word_embeddings": c.tied,
        "is_encoder_decoder": True,
        **({"scale_decoder_outputs": scaled} if scaled != c.tied else {}),
    }


def _t5_rows(c: TransformerConfig) -> list[Row]:
    attention, feedforward, _, _ = parts(c)
    heads, kv_heads, width = attention.sizes(c.dim)
    q, k, v = stacked(heads * width, kv_heads * width, kv_heads * width)
    key, value = stacked(kv_heads * width, kv_heads * width)
    gate, up = stacked(feedforward.width, feedforward.width)
    table: list[Entry] = [("shared", "embedding"), ("lm_head", "output")]
    for side, ours, last in (("encoder", "encoder", 1), ("decoder", "blocks", 2)):
        layer, block = f"{side}.block.{{i}}.layer", f"{ours}.{{i}}"
        fed = f"{layer}.{last}.DenseReluDense"
        before = "encoder_" if side == "encoder" else ""
        table += [
            (f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias", f"{before}relative"),
            (f"{layer}.0.layer_norm", f"{block}.attention_norm"),
            (f"{layer}.0.SelfAttention.q", f"{block}.attention.qkv", q),
            (f"{layer}.0.SelfAttention.k", f"{block}.attention.qkv", k),
            (f"{layer}.0.SelfAttention.v", f"{block}.attention.qkv", v),
            (f"{layer}.0.SelfAttention.o", f"{block}.attention.output"),
            (f"{layer}.{last}.layer_norm", f"{block}.feedforward_norm"),
            (f"{fed}.wi", f"{block}.feedforward.up"),
            (f"{fed}.wi_0", f"{block}.feedforward.gate_up", gate),
            (f"{fed}.wi_1", f"{block}.feedforward.gate_up", up),
            (f"{fed}.wo", f"{block}.feedforward.down"),
            (f"{side}.final_layer_norm", f"{before}norm"),
        ]
    crossing = "decoder.block.{i}.layer.1"
    table += [
        (f"{crossing}.layer_norm", "blocks.{i}.cross_norm"),
        (f"{crossing}.EncDecAttention.q", "blocks.{i}.cross.query"),
        (f"{crossing}.EncDecAttention.k", "blocks.{i}.cross.key_value", key),
        (f"{crossing}.EncDecAttention.v", "blocks.{i}.cross.key_value", value),
        (f"{crossing}.EncDecAttention.o", "blocks.{i}.cross.output"),
    ]
    return spread(c, table)


T5 = Family(
    "t5", "T5ForConditionalGeneration", _read_t5, _write_t5, _t5_rows,
    parts=(RMSNorm, (MLP, GatedMLP), RelativeBuckets),
    copies={
        "encoder.embed_tokens.weight": "shared.weight",
        "decoder.embed_tokens.weight": "shared.weight",
        "lm_head.weight": "shared.weight",
    },
    ignored=(r"EncDecAttention\.relative_attention_bias",),
    settled=_settled,
)  # fmt: skip


def _read_marian(words: Words) -> TransformerConfig:
    for key in ("normalize_before", "add_final_layer_norm", "normalize_embedding", "add_bias_logits"):
        only(words, key, False)
    only(words, "share_encoder_decoder_embeddings", True)
    only(words, "tie_word_embeddings", True)
    only(words, "decoder_vocab_size", size(words, "vocab_size"), None)
    heads, width = size(words, "decoder_attention_heads"), size(words, "decoder_ffn_dim")
    only(words, "encoder_attention_heads", heads)
    only(words, "encoder_ffn_dim", width)
    return TransformerConfig(
        vocab_size=size(words, "vocab_size"),
        context_length=size(words, "max_position_embeddings", 1024),
        layers=size(words, "decoder_layers"),
        encoder_layers=_encoder(words, "encoder_layers"),
        dim=size(words, "d_model"),
        attention=Attention(heads, bias=True),
        feedforward=MLP(width, activation(words, "activation_function", "gelu"), True),
        norm=LayerNorm(),
        position=Sinusoidal("half"),
        placement="post",
        final_norm=False,
        output_bias=True,
        scale_embedding=words.get("scale_embedding", False),
    )


def _write_marian(c: TransformerConfig) -> dict[str, Any]:
    attention, feedforward, _, _ = parts(c)
    return {
        "vocab_size": c.vocab_size,
        "max_position_embeddings": c.context_length,
        "encoder_layers": c.encoder_layers,
        "decoder_layers": c.layers,
        "d_model": c.dim,
        "encoder_attention_heads": attention.heads,
        "decoder_attention_heads": attention.heads,
        "encoder_ffn_dim": feedforward.width,
        "decoder_ffn_dim": feedforward.width,
        "activation_function": their_activation(feedforward.activation, "gelu_new"),
        "scale_embedding": c.scale_embedding,
        "is_encoder_decoder": True,
        "pad_token_id": c.vocab_size - 1,  # the last one, as in all published folders; their default is a number
        "decoder_start_token_id": c.vocab_size - 1,
        "forced_eos_token_id": None,
    }


def _marian_rows(c: TransformerConfig) -> list[Row]:
    q, k, v = stacked(c.dim, c.dim, c.dim)
    table: list[Entry] = [("model.shared", "embedding"), ("final_logits_bias", "output_bias", At(None))]
    for side, ours in (("encoder", "encoder"), ("decoder", "blocks")):
        layer, block = f"model.{side}.layers.{{i}}", f"{ours}.{{i}}"
        table += [
            (f"{layer}.self_attn.q_proj", f"{block}.attention.qkv", q),
            (f"{layer}.self_attn.k_proj", f"{block}.attention.qkv", k),
            (f"{layer}.self_attn.v_proj", f"{block}.attention.qkv", v),
            (f"{layer}.self_attn.out_proj", f"{block}.attention.output"),
            (f"{layer}.self_attn_layer_norm", f"{block}.attention_norm"),
            (f"{layer}.encoder_attn.q_proj", f"{block}.cross.query"),
            (f"{layer}.encoder_attn.k_proj", f"{block}.cross.key_value", q),
            (f"{layer}.encoder_attn.v_proj", f"{block}.cross.key_value", k),
            (f"{layer}.encoder_attn.out_proj", f"{block}.cross.output"),
            (f"{layer}.encoder_attn_layer_norm", f"{block}.cross_norm"),
            (f"{layer}.fc1", f"{block}.feedforward.up"),
            (f"{layer}.fc2", f"{block}.feedforward.down"),
            (f"{layer}.final_layer_norm", f"{block}.feedforward_norm"),
        ]
    return spread(c, table)


MARIAN = Family(
    "marian", "MarianMTModel", _read_marian, _write_marian, _marian_rows,
    parts=(LayerNorm, MLP, Sinusoidal),
    prefix="model.",
    copies={
        "model.encoder.embed_tokens.weight": "model.shared.weight",
        "model.decoder.embed_tokens.weight": "model.shared.weight",
        "lm_head.weight": "model.shared.weight",
    },
    ignored=(r"embed_positions\.weight$",),
)  # fmt: skip
