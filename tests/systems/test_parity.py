"""Systems whose weights are not open against transformers' parts, put together as their papers say; in float64."""

import dataclasses

import pytest
import torch

from polytask.models.catalogue import build_config
from polytask.models.transformer import Transformer
from polytask.nn.cache import Context
from polytask.nn.surgery import replace
from tests.models.oracles import VOCABULARY, copy_weights, gradients

LAYERS, DIM, HEADS = 2, 32, 4
SMALL = {"layers": LAYERS, "dim": DIM, "heads": HEADS, "vocab_size": VOCABULARY}


def ids_of(length):
    return torch.randint(VOCABULARY, (2, length), generator=torch.Generator().manual_seed(0))


def built(config):
    return Transformer(config).double().eval()


def shaken(oracle):
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in oracle.parameters():
            parameter.normal_(std=0.3)
    return oracle.double().eval()


def run(ours, ids):
    hidden = ours(ids, Context(torch.arange(ids.shape[1]).expand_as(ids)))
    return hidden, ours.logits(hidden)


def compare(ours, oracle, entries, mine, theirs):
    """Values, and every gradient of the sum of their squares."""
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)
    mine.square().sum().backward()
    theirs.square().sum().backward()
    for name, found, expected in gradients(oracle, ours, entries):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


def falcon_with_gates():
    """Falcon's parallel block, one norm and one key/value head, with Llama's gated feed-forward layer."""
    from transformers import FalconConfig, FalconForCausalLM, LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaMLP

    config = FalconConfig(
        vocab_size=VOCABULARY, hidden_size=DIM, num_hidden_layers=LAYERS, num_attention_heads=HEADS, parallel_attn=True,
        multi_query=True, new_decoder_architecture=False, alibi=False, bias=False, attn_implementation="eager",
    )  # fmt: skip
    oracle = FalconForCausalLM(config)
    gated = LlamaConfig(hidden_size=DIM, intermediate_size=4 * DIM, hidden_act="silu")
    replace(oracle, lambda _, module: type(module).__name__ == "FalconMLP", lambda _: LlamaMLP(gated))
    shaken(oracle)
    with torch.no_grad():
        for name, parameter in oracle.named_parameters():
            if "bias" in name:
                parameter.zero_()  # its norms have one
    return oracle


def palm_map():
    yield "transformer.word_embeddings.weight", "embedding.weight", None, False
    yield "transformer.ln_f.weight", "norm.weight", None, False
    for i in range(LAYERS):
        h, b = f"transformer.h.{i}", f"blocks.{i}"
        yield f"{h}.input_layernorm.weight", f"{b}.attention_norm.weight", None, False
        yield f"{h}.self_attention.query_key_value.weight", f"{b}.attention.qkv.weight", None, False
        yield f"{h}.self_attention.dense.weight", f"{b}.attention.output.weight", None, False
        yield f"{h}.mlp.gate_proj.weight", f"{b}.feedforward.gate_up.weight", slice(0, 4 * DIM), False
        yield f"{h}.mlp.up_proj.weight", f"{b}.feedforward.gate_up.weight", slice(4 * DIM, None), False
        yield f"{h}.mlp.down_proj.weight", f"{b}.feedforward.down.weight", None, False


def test_palm_is_falcons_attention_beside_llamas_feed_forward_layer():
    oracle, ours = falcon_with_gates(), built(build_config("palm", context_length=24, **SMALL))
    biases = {name for name, _ in oracle.named_parameters() if "bias" in name}
    entries = copy_weights(oracle, ours, palm_map(), biases)
    ids = ids_of(20)
    # Falcon does not scale its logits; PaLM's are divided by the square root of its width.
    compare(ours, oracle, entries, run(ours, ids)[1], oracle(ids).logits / DIM**0.5)


def bloom_weights(oracle):
    """Ours by name; BLOOM keeps queries, keys and values head by head."""
    theirs = dict(oracle.named_parameters())
    names = {
        "transformer.word_embeddings.weight": "embedding.weight", "transformer.ln_f": "norm",
        "transformer.word_embeddings_layernorm": "embedding_norm", "transformer.h": "blocks",
        "input_layernorm": "attention_norm", "post_attention_layernorm": "feedforward_norm",
        "self_attention.query_key_value": "attention.qkv", "self_attention.dense": "attention.output",
        "mlp.dense_h_to_4h": "feedforward.up", "mlp.dense_4h_to_h": "feedforward.down",
    }  # fmt: skip
    for name, weight in theirs.items():
        if "query_key_value" in name:
            weight = weight.view(HEADS, 3, DIM // HEADS, -1).transpose(0, 1).reshape(weight.shape)
        for their, our in names.items():
            name = name.replace(their, our) if f"{their}." in f"{name}." else name
        yield name, weight.detach()


def test_bloom_is_blooms():
    from transformers import BloomConfig, BloomForCausalLM

    config = BloomConfig(vocab_size=VOCABULARY, hidden_size=DIM, n_layer=LAYERS, n_head=HEADS)
    oracle, ours = shaken(BloomForCausalLM(config)), built(build_config("bloom", context_length=24, **SMALL))
    ours.load_state_dict(dict(bloom_weights(oracle)))  # names and shapes, each once
    ids = ids_of(20)
    torch.testing.assert_close(run(ours, ids)[1], oracle(ids).logits, rtol=0, atol=1e-6)  # it softmaxes in float32


def t5_config(activation):
    from transformers import T5Config

    config = T5Config(
        vocab_size=VOCABULARY, d_model=DIM, d_kv=16, d_ff=8 * DIM, num_layers=LAYERS, num_heads=HEADS,
        feed_forward_proj="gated-gelu", dropout_rate=0.0, is_decoder=True, use_cache=False,
        is_encoder_decoder=False,
    )  # fmt: skip
    config.dense_act_fn = activation
    return config


def t5_norms_in_float64(module):
    """transformers' own drops to float32 inside."""
    replace(module, lambda _, m: type(m).__name__ == "T5LayerNorm", lambda _: torch.nn.RMSNorm(DIM, eps=1e-6))
    return module


def t5_blocks_map(prefix):
    inner = 2 * DIM
    for i in range(LAYERS):
        h, b = f"{prefix}{i}.layer", f"blocks.{i}"
        yield f"{h}.0.layer_norm.weight", f"{b}.attention_norm.weight", None, False
        for n, name in enumerate("qkv"):
            rows = slice(n * inner, (n + 1) * inner)
            yield f"{h}.0.SelfAttention.{name}.weight", f"{b}.attention.qkv.weight", rows, False
        yield f"{h}.0.SelfAttention.o.weight", f"{b}.attention.output.weight", None, False
        yield f"{h}.1.layer_norm.weight", f"{b}.feedforward_norm.weight", None, False
        yield f"{h}.1.DenseReluDense.wi_0.weight", f"{b}.feedforward.gate_up.weight", slice(0, 8 * DIM), False
        yield f"{h}.1.DenseReluDense.wi_1.weight", f"{b}.feedforward.gate_up.weight", slice(8 * DIM, None), False
        yield f"{h}.1.DenseReluDense.wo.weight", f"{b}.feedforward.down.weight", None, False


def lamda_map():
    yield "embed_tokens.weight", "embedding.weight", None, False
    yield "final_layer_norm.weight", "norm.weight", None, False
    yield "block.0.layer.0.SelfAttention.relative_attention_bias.weight", "relative.weight", None, False
    yield from t5_blocks_map("block.")


def test_lamda_is_a_decoder_of_t5_without_cross_attention():
    """With T5's scores, which are not scaled; rows are long enough for the furthest bucket."""
    from transformers.models.t5.modeling_t5 import T5Stack

    oracle = T5Stack(t5_config("gelu_new"))
    for block in oracle.block:
        del block.layer[1]  # the cross-attention
    oracle = shaken(t5_norms_in_float64(oracle))
    ours = built(build_config("lamda", context_length=160, scaled=False, **SMALL))
    entries = copy_weights(oracle, ours, lamda_map())
    ids = ids_of(150)
    compare(ours, oracle, entries, run(ours, ids)[0], oracle(input_ids=ids).last_hidden_state)


@pytest.mark.parametrize(("scaled", "scale"), [(True, None), (False, 1.0)])
def test_lamda_says_whether_scores_are_scaled(scaled, scale):
    assert build_config("lamda", context_length=8, scaled=scaled, **SMALL).attention_of(0).scale == scale


def glam_map():
    yield "embedding.weight", "embedding.weight", None, False
    yield "norm.weight", "norm.weight", None, False
    for i in range(LAYERS):
        name = f"{i}.layer.0.SelfAttention.relative_attention_bias.weight"
        yield name, f"blocks.{i}.attention.relative.weight", None, False
    yield from t5_blocks_map("")


def test_dense_layers_of_glam_are_t5s_with_positions_of_their_own():
    from transformers.models.t5.modeling_t5 import T5Block

    config = t5_config("gelu")
    config._attn_implementation = "eager"
    oracle = torch.nn.ModuleList(T5Block(config, has_relative_attention_bias=True, layer_idx=i) for i in range(LAYERS))
    for block in oracle:
        del block.layer[1]
    oracle = shaken(t5_norms_in_float64(oracle))
    oracle.add_module("embedding", torch.nn.Embedding(VOCABULARY, DIM, dtype=torch.float64))
    oracle.add_module("norm", torch.nn.RMSNorm(DIM, eps=1e-6, dtype=torch.float64))
    dense = build_config("glam", experts=None, head_dim=16, width=8 * DIM, context_length=64, **SMALL)
    ours = built(dataclasses.replace(dense, attention=dataclasses.replace(dense.attention, scale=1.0)))
    entries = copy_weights(oracle, ours, glam_map())
    ids = ids_of(50)
    hidden = oracle.embedding(ids)
    mask = torch.full((50, 50), torch.finfo(torch.float64).min, dtype=torch.float64).triu(1)[None, None]
    for layer in range(LAYERS):
        hidden = oracle[layer](hidden, attention_mask=mask)[0]
    compare(ours, oracle, entries, run(ours, ids)[0], oracle.norm(hidden))
