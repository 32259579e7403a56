"""T5 and Marian against transformers: logits, loss, gradients, padded sources, cache, and back; and their traps."""

import functools
import json
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from polytask.errors import CheckpointError
from polytask.interop import hf
from polytask.models.heads import cross_entropy
from polytask.nn.cache import Context
from tests.interop.families import _Norm

VOCABULARY = 97
_T5 = {
    "vocab_size": VOCABULARY, "d_model": 32, "d_kv": 12, "d_ff": 40, "num_layers": 2, "num_decoder_layers": 3,
    "num_heads": 4, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 12, "n_positions": 64,
    "decoder_start_token_id": 0,
}  # fmt: skip
_MARIAN = {
    "vocab_size": VOCABULARY, "d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40, "max_position_embeddings": 64,
    "pad_token_id": 96, "eos_token_id": 1, "decoder_start_token_id": 96, "forced_eos_token_id": None,
}  # fmt: skip
CASES = {
    "t5 1.0": ("T5", _T5),
    "t5 1.1": ("T5", _T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "t5, gated silu": ("T5", _T5 | {"feed_forward_proj": "gated-silu"}),
    "marian": ("Marian", _MARIAN | {"activation_function": "swish", "scale_embedding": True}),
    "marian, relu and unscaled": ("Marian", _MARIAN | {"activation_function": "relu"}),
    "marian, gelu": ("Marian", _MARIAN | {"scale_embedding": True}),
}


@functools.cache
def case(name: str) -> tuple[torch.nn.Module, Path]:
    """The oracle in float64 and the folder as it is published: of T5 1.1 with an output matrix of its own."""
    kind, words = CASES[name]
    config = getattr(transformers, f"{kind}Config")(**words)
    config.dropout = config.dropout_rate = 0.0
    torch.manual_seed(len(name))
    oracle = getattr(transformers, "T5ForConditionalGeneration" if kind == "T5" else "MarianMTModel")(config)
    if name == "t5 1.1":
        oracle.lm_head.weight = torch.nn.Parameter(torch.randn(VOCABULARY, 32))
        oracle.config.tie_word_embeddings = False
    with torch.no_grad():
        for parameter in oracle.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        for module in oracle.modules():
            if type(module).__name__ == "MarianSinusoidalPositionalEmbedding":
                module.weight.copy_(module.create_weight())
        if kind == "Marian":
            oracle.final_logits_bias.normal_()
    oracle = oracle.double().eval()
    folder = Path(tempfile.mkdtemp()) / "theirs"
    oracle.save_pretrained(folder)
    for parent in list(oracle.modules()):
        for child, module in list(parent.named_children()):
            if type(module).__name__ == "T5LayerNorm":
                setattr(parent, child, _Norm(module))
    return oracle, folder


@pytest.fixture(params=list(CASES))
def name(request):
    return request.param


def network(name: str):
    return hf.load_network(case(name)[1], torch.float64)


def ids_of(rows: int, length: int, seed: int = 3) -> torch.Tensor:
    return torch.randint(2, 96, (rows, length), generator=torch.Generator().manual_seed(seed))


def places(ids: torch.Tensor) -> torch.Tensor:
    return torch.arange(ids.shape[1]).expand_as(ids)


def logits(ours, source: torch.Tensor, target: torch.Tensor, real: torch.Tensor | None = None) -> torch.Tensor:
    memory = ours.encode(source, Context(places(source), documents=real))
    return ours.logits(hidden(ours, target, memory))


def hidden(ours, target: torch.Tensor, memory) -> torch.Tensor:
    return ours(target, Context(places(target), documents=torch.ones_like(target), memory=memory))


def test_logits_loss_and_gradients(name):
    (oracle, folder), ours, source, target = case(name), network(name), ids_of(2, 14), ids_of(2, 11, seed=4)
    oracle.zero_grad()
    expected = oracle(input_ids=source, decoder_input_ids=target).logits
    loss = torch.nn.functional.cross_entropy(expected[:, :-1].flatten(0, 1), target[:, 1:].flatten())
    loss.backward()
    states = hidden(ours, target, ours.encode(source, Context(places(source), torch.ones_like(source))))
    assert (ours.logits(states) - expected).abs().max() < 1e-9
    total, _ = cross_entropy(states[:, :-1], ours.head, target[:, 1:], torch.ones(2, 10).double())
    (total / 20).backward()
    assert abs(total / 20 - loss) < 1e-9
    family = hf.family_of(folder)
    rows = {row.theirs: row for row in family.rows(ours.config)}
    covered = {"final_logits_bias"} & set(rows)  # a buffer of theirs
    for theirs, parameter in oracle.named_parameters():
        if "embed_positions" in theirs:
            continue
        row = rows[family.full_name(theirs, rows)]
        covered.add(row.theirs)
        for one, other in row.view.pairs(parameter.grad, ours.get_parameter(row.ours).grad):
            assert (one - other).abs().max() < 1e-9, theirs
    assert covered == set(rows)


@torch.no_grad()
def test_padded_source(name):
    (oracle, _), ours, source, target = case(name), network(name), ids_of(2, 14), ids_of(2, 11, seed=4)
    real = torch.ones(2, 14, dtype=torch.long)
    real[1, 9:] = 0
    expected = oracle(input_ids=source, attention_mask=real, decoder_input_ids=target).logits
    assert (logits(ours, source, target, real) - expected).abs().max() < 1e-9
    alone = logits(ours, source[1:, :9], target[1:], torch.ones(1, 9, dtype=torch.long))
    assert (alone - expected[1:]).abs().max() < 1e-9


@torch.no_grad()
def test_logits_in_float32(name):
    oracle, folder = case(name)
    ours = hf.load_network(folder)
    source, target = ids_of(2, 14), ids_of(2, 11, seed=4)
    expected = oracle(input_ids=source, decoder_input_ids=target).logits
    assert (logits(ours, source, target) - expected).abs().max() < 1e-4


@torch.no_grad()
def test_greedy_continuation_through_the_engine(name):
    from polytask.inference.engine import Engine
    from polytask.inference.sampling import Sampling
    from polytask.inference.sequence import Request

    (oracle, _), ours = case(name), network(name)
    pad = oracle.config.pad_token_id
    lengths = (14, 9)
    sources = [ids_of(1, length, seed=length) for length in lengths]
    engine = Engine(ours, _tokenizer(pad))
    made = engine.run([Request([pad], Sampling(max_tokens=32, temperature=0), s[0].tolist()) for s in sources])
    for (completion,), source in zip(made, sources):
        expected = oracle.generate(
            source, max_new_tokens=32, do_sample=False, num_beams=1, bad_words_ids=[[pad]], eos_token_id=1,
            forced_eos_token_id=None, use_cache=False,
        )[0].tolist()  # fmt: skip
        assert completion.ids == [i for i in expected[1:] if i != 1]


def _tokenizer(pad: int):
    from tokenizers import Tokenizer, models

    from polytask.tokenizers import TextTokenizer
    from polytask.tokenizers.conventions import Conventions

    words = {f"w{i}": i for i in range(VOCABULARY)}
    return TextTokenizer(Tokenizer(models.WordLevel(words, "w2")), Conventions(ends=(1,), pad=pad, start=pad))


@torch.no_grad()
def test_export_gives_transformers_the_same_bits(name, tmp_path):
    (oracle, folder), ours = case(name), network(name)
    hf.export(tmp_path / "out", ours)
    again = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out", dtype=torch.float64).eval()
    assert type(again) is type(oracle)
    before, after = oracle.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before if "embed_positions" not in key)
    plain = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float64).eval()
    words = {"input_ids": ids_of(2, 14), "decoder_input_ids": ids_of(2, 11)}
    # Sums of the same weights differ in their last bits where memory is aligned in another way (MKL on AMD).
    torch.testing.assert_close(again(**words).logits, plain(**words).logits, rtol=1e-12, atol=1e-12)
    assert hf.read_config(tmp_path / "out") == ours.config


# Traps


def changed(folder: Path, out: Path, **words) -> Path:
    shutil.copytree(folder, out)
    said = json.loads((out / "config.json").read_text()) | words
    (out / "config.json").write_text(json.dumps({k: v for k, v in said.items() if v is not None}))
    return out


@torch.no_grad()
def test_t5_tied_but_unscaled_as_transformers_5_saves_it(tmp_path):
    """A network without the factor whose matrices are tied: only `scale_decoder_outputs` tells it from T5 1.0."""
    folder = changed(case("t5 1.0")[1], tmp_path / "t5", scale_decoder_outputs=False)
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float64).eval()
    theirs.config.scale_decoder_outputs = False
    ours, source, target = hf.load_network(folder, torch.float64), ids_of(2, 14), ids_of(2, 11)
    assert ours.config.tied
    assert ours.config.logit_scale == 1.0
    expected = theirs(input_ids=source, decoder_input_ids=target).logits
    assert (logits(ours, source, target) - expected).abs().max() < 1e-4  # their norms compute in float32
    hf.export(tmp_path / "out", ours)
    assert hf.read_config(tmp_path / "out") == ours.config


@torch.no_grad()
def test_t5_with_two_matrices_as_transformers_5_saves_it(tmp_path):
    """It calls them tied, keeps both and goes on with both."""
    published = transformers.T5ForConditionalGeneration.from_pretrained(case("t5 1.1")[1], dtype=torch.float64)
    published.save_pretrained(tmp_path / "t5")
    said = json.loads((tmp_path / "t5" / "config.json").read_text())
    assert said["tie_word_embeddings"]
    assert said["scale_decoder_outputs"] is False
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "t5", dtype=torch.float64).eval()
    ours, source, target = hf.load_network(tmp_path / "t5", torch.float64), ids_of(2, 14), ids_of(2, 11)
    assert ours.config == network("t5 1.1").config
    expected = theirs(input_ids=source, decoder_input_ids=target).logits
    assert (logits(ours, source, target) - expected).abs().max() < 1e-4  # their norms compute in float32


def test_t5_tied_by_name_with_two_different_matrices_is_refused(tmp_path):
    folder = changed(case("t5 1.1")[1], tmp_path / "t5", tie_word_embeddings=None, scale_decoder_outputs=None)
    with pytest.raises(CheckpointError, match="tie_word_embeddings"):
        hf.load_network(folder)


def test_t5_gated_gelu_is_the_form_by_tanh():
    assert network("t5 1.1").config.feedforward.activation == "gelu_tanh"
    assert network("t5 1.0").config.attention.scale == 1.0


@torch.no_grad()
def test_old_t5_folders_repeat_their_embedding_and_have_a_table_nobody_uses(tmp_path):
    folder = changed(case("t5 1.0")[1], tmp_path / "t5")
    tensors = load_file(folder / "model.safetensors")
    for copy in ("encoder.embed_tokens", "decoder.embed_tokens", "lm_head"):
        tensors[f"{copy}.weight"] = tensors["shared.weight"].clone()
    tensors["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = torch.ones(8, 4)
    save_file(tensors, folder / "model.safetensors")
    source, target = ids_of(1, 5), ids_of(1, 4)
    ours = hf.load_network(folder, torch.float64)
    assert torch.equal(logits(ours, source, target), logits(network("t5 1.0"), source, target))


@torch.no_grad()
def test_old_marian_folders_keep_their_sinusoids(tmp_path):
    folder = changed(case("marian")[1], tmp_path / "marian", static_position_embeddings=True, normalize_before=False)
    tensors = load_file(folder / "model.safetensors")
    for side in ("encoder", "decoder"):
        tensors[f"model.{side}.embed_positions.weight"] = torch.zeros(64, 32)
        tensors[f"model.{side}.embed_tokens.weight"] = tensors["model.shared.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    source, target = ids_of(1, 5), ids_of(1, 4)
    ours = hf.load_network(folder, torch.float64)
    assert torch.equal(logits(ours, source, target), logits(network("marian"), source, target))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ({"normalize_before": True}, "normalize_before"),
        ({"share_encoder_decoder_embeddings": False}, "share_encoder_decoder_embeddings"),
        ({"encoder_ffn_dim": 36}, "encoder_ffn_dim"),
        ({"decoder_vocab_size": 90}, "decoder_vocab_size"),
    ],
)
def test_marian_of_another_kind_is_refused_by_its_key(words, named, tmp_path):
    with pytest.raises(CheckpointError, match=named):
        hf.read_config(changed(case("marian")[1], tmp_path / "marian", **words))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ({"dense_act_fn": "silu"}, "dense_act_fn='silu'"),
        ({"is_gated_act": True}, "is_gated_act=True"),
        ({"feed_forward_proj": 7}, "feed_forward_proj"),
        ({"num_layers": 0}, "num_layers=0 leaves out the encoder"),
        ({"d_kv": "12"}, "d_kv='12'"),
    ],
)
def test_t5_of_another_kind_is_refused_by_its_key(words, named, tmp_path):
    with pytest.raises(CheckpointError, match=named):
        hf.read_config(changed(case("t5 1.0")[1], tmp_path / "t5", **words))
