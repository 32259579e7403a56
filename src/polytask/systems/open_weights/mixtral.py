"""Mixtral (Jiang et al. 2024, arXiv:2401.04088): Mistral with eight experts a layer, of which a token passes two.

What is its own: gates are the softmax over all experts, scaled so that the chosen sum to 1, and no token is dropped.
Its balance loss counts all choices, so that an even load costs top_k.
"""

from typing import Any

from polytask.interop.rows import At, Entry, Row, spread
from polytask.models.config import TransformerConfig
from polytask.nn.experts import Experts
from polytask.nn.norm import RMSNorm
from polytask.nn.position import Rotary
from polytask.systems.open_weights.llama import (
    NORMS,
    attention_table,
    llama_attention,
    llama_config,
    llama_kin,
    llama_words,
)
from polytask.systems.open_weights.words import Words, activation, number, parts, size, whole_rotary


def _read(words: Words) -> TransformerConfig:
    words = {"max_position_embeddings": 131_072, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, **words}
    experts = Experts(
        size(words, "num_local_experts", 8),
        size(words, "intermediate_size"),
        top_k=size(words, "num_experts_per_tok", 2),
        gated=True,
        activation=activation(words, "hidden_act", "silu"),
        balance=number(words, "router_aux_loss_coef", 0.001, zero=True),
        balance_over="all",
    )
    attention = llama_attention(words, window=size(words, "sliding_window", None))
    return llama_config(words, attention, feedforward=experts, position=whole_rotary(words, theta=1e6))


def _write(c: TransformerConfig) -> dict[str, Any]:
    attention, experts, _, _ = parts(c)
    return llama_words(c) | {
        "sliding_window": attention.window,
        "num_local_experts": experts.count,
        "num_experts_per_tok": experts.top_k,
        "router_aux_loss_coef": experts.balance,
    }


def _rows(c: TransformerConfig) -> list[Row]:
    """Each expert's matrices by themselves, as they are published."""
    _, experts, _, _ = parts(c)
    layer, block, width = "model.layers.{i}.block_sparse_moe", "blocks.{i}.feedforward", experts.width
    table: list[Entry] = [(f"{layer}.gate", f"{block}.router")]
    for e in range(experts.count):
        table += [
            (f"{layer}.experts.{e}.w1.weight", f"{block}.gate_up", At(e, slice(0, width))),
            (f"{layer}.experts.{e}.w3.weight", f"{block}.gate_up", At(e, slice(width, None))),
            (f"{layer}.experts.{e}.w2.weight", f"{block}.down", At(e)),
        ]
    return spread(c, [*attention_table(c), *NORMS, *table])


def _fused_rows(c: TransformerConfig) -> list[Row]:
    """All experts of a layer in one, as transformers 5 has them in memory."""
    layer, block = "model.layers.{i}.mlp", "blocks.{i}.feedforward"
    return spread(c, [
        *attention_table(c), *NORMS,
        (f"{layer}.gate", f"{block}.router"),
        (f"{layer}.experts.gate_up_proj", f"{block}.gate_up"),
        (f"{layer}.experts.down_proj", f"{block}.down"),
    ])  # fmt: skip


MIXTRAL = llama_kin(
    "mixtral", "MixtralForCausalLM", _read, _write, _rows, parts=(RMSNorm, Experts, Rotary), other_rows=_fused_rows
)
