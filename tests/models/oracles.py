"""Tiny random networks of transformers and ours with the same weights, through explicit maps.

Each map gives, for every tensor of the oracle, the name and (for fused matrices) the rows of ours;
`copy_weights` checks that every tensor of both sides is used exactly once.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from polytask.models.config import TransformerConfig
from polytask.models.transformer import Transformer
from polytask.nn.attention import Attention
from polytask.nn.feedforward import MLP, GatedMLP
from polytask.nn.norm import LayerNorm, RMSNorm
from polytask.nn.position import Learned, Rotary, Sinusoidal
from polytask.nn.surgery import replace

Entry = tuple[str, str, slice | None, bool]  # theirs, ours, rows of ours, transposed
VOCABULARY, LENGTH = 97, 24


def copy_weights(oracle, ours: Transformer, entries: Iterator[Entry], ignored: set[str] = frozenset()):
    """Copies every weight of `oracle` into `ours`; the map is returned so that gradients can be compared through it."""
    entries = list(entries)
    theirs, mine = dict(oracle.named_parameters()), dict(ours.named_parameters())
    covered = {name: torch.zeros_like(parameter) for name, parameter in mine.items()}
    with torch.no_grad():
        for their, our, rows, transposed in entries:
            value = theirs[their].t() if transposed else theirs[their]
            mine[our][rows if rows is not None else slice(None)] = value
            covered[our][rows if rows is not None else slice(None)] += 1
    assert len({e[0] for e in entries}) == len(entries)
    assert {e[0] for e in entries} == set(theirs) - set(ignored)
    assert all((count == 1).all() for count in covered.values()), "a weight of ours was written more or less than once"
    return entries


def gradients(oracle, ours: Transformer, entries: list[Entry]) -> Iterator[tuple[str, Tensor, Tensor]]:
    theirs, mine = dict(oracle.named_parameters()), dict(ours.named_parameters())
    for their, our, rows, transposed in entries:
        expected = theirs[their].grad.t() if transposed else theirs[their].grad
        yield our, mine[our].grad[rows if rows is not None else slice(None)], expected


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=LENGTH, n_embd=32, n_layer=3, n_head=4,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, attn_implementation="sdpa",
    )  # fmt: skip
    oracle = _shaken(GPT2LMHeadModel(config))
    ours = Transformer(
        TransformerConfig(
            VOCABULARY, LENGTH, 3, 32, Attention(4, bias=True), MLP(128, "gelu_tanh", bias=True), LayerNorm(), Learned()
        )
    ).double()  # fmt: skip
    return oracle, ours.eval(), copy_weights(oracle, ours, _gpt2_map(3))


def _gpt2_map(layers: int) -> Iterator[Entry]:
    yield "transformer.wte.weight", "embedding.weight", None, False
    yield "transformer.wpe.weight", "position.weight", None, False
    for kind in ("weight", "bias"):
        yield f"transformer.ln_f.{kind}", f"norm.{kind}", None, False
        for i in range(layers):
            h, b = f"transformer.h.{i}", f"blocks.{i}"
            yield f"{h}.ln_1.{kind}", f"{b}.attention_norm.{kind}", None, False
            yield f"{h}.ln_2.{kind}", f"{b}.feedforward_norm.{kind}", None, False
            transposed = kind == "weight"  # Conv1D keeps its matrices as (in, out)
            yield f"{h}.attn.c_attn.{kind}", f"{b}.attention.qkv.{kind}", None, transposed
            yield f"{h}.attn.c_proj.{kind}", f"{b}.attention.output.{kind}", None, transposed
            yield f"{h}.mlp.c_fc.{kind}", f"{b}.feedforward.up.{kind}", None, transposed
            yield f"{h}.mlp.c_proj.{kind}", f"{b}.feedforward.down.{kind}", None, transposed


def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=56, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=LENGTH, rms_norm_eps=1e-6, attn_implementation="sdpa",
    )  # fmt: skip
    oracle = LlamaForCausalLM(config)
    # transformers' own RMSNorm drops to float32 inside; torch's lets float64 show differences down to 1e-9.
    replace(oracle, lambda _, m: type(m).__name__ == "LlamaRMSNorm", lambda m: torch.nn.RMSNorm(32, eps=1e-6))
    oracle = _shaken(oracle)
    ours = Transformer(
        TransformerConfig(
            VOCABULARY, LENGTH, 3, 32, Attention(4, kv_heads=2), GatedMLP(56), RMSNorm(1e-6), Rotary(), tied=False
        )
    ).double()
    return oracle, ours.eval(), copy_weights(oracle, ours, _llama_map(3, 32, 16, 56))


def _llama_map(layers: int, inner: int, kv: int, width: int) -> Iterator[Entry]:
    yield "model.embed_tokens.weight", "embedding.weight", None, False
    yield "model.norm.weight", "norm.weight", None, False
    yield "lm_head.weight", "output.weight", None, False
    for i in range(layers):
        h, b = f"model.layers.{i}", f"blocks.{i}"
        yield f"{h}.input_layernorm.weight", f"{b}.attention_norm.weight", None, False
        yield f"{h}.post_attention_layernorm.weight", f"{b}.feedforward_norm.weight", None, False
        start = 0
        for name, size in (("q", inner), ("k", kv), ("v", kv)):
            yield f"{h}.self_attn.{name}_proj.weight", f"{b}.attention.qkv.weight", slice(start, start + size), False
            start += size
        yield f"{h}.self_attn.o_proj.weight", f"{b}.attention.output.weight", None, False
        yield f"{h}.mlp.gate_proj.weight", f"{b}.feedforward.gate_up.weight", slice(0, width), False
        yield f"{h}.mlp.up_proj.weight", f"{b}.feedforward.gate_up.weight", slice(width, 2 * width), False
        yield f"{h}.mlp.down_proj.weight", f"{b}.feedforward.down.weight", None, False


def marian():
    from transformers import MarianConfig, MarianMTModel

    torch.manual_seed(2)
    config = MarianConfig(
        vocab_size=VOCABULARY, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=LENGTH,
        activation_function="relu", scale_embedding=True, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0,
        pad_token_id=1, eos_token_id=0, bos_token_id=0, decoder_start_token_id=1, share_encoder_decoder_embeddings=True,
        attn_implementation="eager",
    )  # fmt: skip
    oracle = _shaken(MarianMTModel(config))
    for module in oracle.modules():
        if isinstance(module, torch.nn.Embedding):
            module.padding_idx = None  # it would hide the gradient of the start token, which is the padding token
    ours = Transformer(
        TransformerConfig(
            VOCABULARY, LENGTH, 2, 32, Attention(4, bias=True), MLP(64, "relu", bias=True), LayerNorm(),
            Sinusoidal("half"), placement="post", encoder_layers=2, scale_embedding=True, final_norm=False,
        )
    ).double()  # fmt: skip
    # Sinusoids are parameters of the oracle, frozen, and a table of ours.
    tables = {"model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight"}
    return oracle, ours.eval(), copy_weights(oracle, ours, _marian_map(2, 32), tables)


def _marian_map(layers: int, dim: int) -> Iterator[Entry]:
    yield "model.shared.weight", "embedding.weight", None, False
    for kind in ("weight", "bias"):
        for side, stack in (("encoder", "encoder"), ("decoder", "blocks")):
            for i in range(layers):
                h, b = f"model.{side}.layers.{i}", f"{stack}.{i}"
                for n, name in enumerate("qkv"):
                    rows = slice(n * dim, (n + 1) * dim)
                    yield f"{h}.self_attn.{name}_proj.{kind}", f"{b}.attention.qkv.{kind}", rows, False
                yield f"{h}.self_attn.out_proj.{kind}", f"{b}.attention.output.{kind}", None, False
                yield f"{h}.self_attn_layer_norm.{kind}", f"{b}.attention_norm.{kind}", None, False
                yield f"{h}.fc1.{kind}", f"{b}.feedforward.up.{kind}", None, False
                yield f"{h}.fc2.{kind}", f"{b}.feedforward.down.{kind}", None, False
                yield f"{h}.final_layer_norm.{kind}", f"{b}.feedforward_norm.{kind}", None, False
                if side == "decoder":
                    yield f"{h}.encoder_attn.q_proj.{kind}", f"{b}.cross.query.{kind}", None, False
                    yield f"{h}.encoder_attn.k_proj.{kind}", f"{b}.cross.key_value.{kind}", slice(0, dim), False
                    yield f"{h}.encoder_attn.v_proj.{kind}", f"{b}.cross.key_value.{kind}", slice(dim, 2 * dim), False
                    yield f"{h}.encoder_attn.out_proj.{kind}", f"{b}.cross.output.{kind}", None, False
                    yield f"{h}.encoder_attn_layer_norm.{kind}", f"{b}.cross_norm.{kind}", None, False


def _shaken(oracle):
    """Random biases and norms too, so that nothing is hidden behind a zero or a one."""
    with torch.no_grad():
        for name, parameter in oracle.named_parameters():
            if "embed_positions" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return oracle.double().eval()


FAMILIES: dict[str, Callable] = {"gpt2": gpt2, "llama": llama, "marian": marian}
