"""Folders of others as users meet them: names, shards, precisions, tokenizers, and all that can be wrong with them."""

import json
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import polytask
from polytask.errors import CheckpointError, Notice, TokenizerError
from polytask.interop import hf
from polytask.interop.folder import read_folder
from polytask.models import cost
from polytask.models.config import TransformerConfig
from polytask.models.transformer import Transformer
from polytask.nn.attention import Attention
from polytask.nn.cache import Context
from polytask.nn.feedforward import MLP, GatedMLP
from polytask.nn.norm import LayerNorm, RMSNorm
from polytask.nn.position import Learned, Rotary, Sinusoidal
from polytask.systems.generalist import generalist
from polytask.tokenizers.text import TextTokenizer
from tests.interop.families import CASES, case


@pytest.fixture
def copy(tmp_path):
    """A copy of a case's folder, to be broken."""

    def make(name: str = "llama") -> Path:
        return Path(shutil.copytree(case(name).folder, tmp_path / name))

    return make


def change(folder: Path, **words) -> None:
    file = folder / "config.json"
    old = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in (old | words).items() if value is not ...}))


def tensors(folder: Path, edit) -> None:
    state = load_file(folder / "model.safetensors")
    edit(state)
    save_file(state, folder / "model.safetensors")


def same_weights(folder: Path, name: str) -> None:
    expected = hf.load_network(case(name).folder, torch.float64).state_dict()
    found = hf.load_network(folder, torch.float64).state_dict()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def with_tokenizer(folder: Path, size: int = 90) -> Path:
    from tokenizers import Tokenizer, models

    pieces = ["<s>", "</s>", *(chr(33 + n) for n in range(size - 2))]
    made = Tokenizer(models.WordLevel({piece: n for n, piece in enumerate(pieces)}, unk_token="!"))
    made.add_special_tokens(["<s>", "</s>"])
    made.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("name", list(CASES))
def test_the_table_inverts_and_covers_every_number_once(name):
    """Ours out by the table and in again is ours; every number of ours has exactly one place there."""
    family = hf.family_of(case(name).folder)
    config = hf.read_config(case(name).folder)
    with torch.device("meta"):
        shapes = {name: p.shape for name, p in Transformer(config).named_parameters()}
    assert cost.parameters(config) == sum(shape.numel() for shape in shapes.values())
    for rows in filter(None, (family.rows, family.other_rows)):
        ours = {key: torch.arange(shape.numel()).view(shape) for key, shape in shapes.items()}
        back = {key: torch.full(shape, -1) for key, shape in shapes.items()}
        places = 0
        table = rows(config)
        assert len({row.theirs for row in table}) == len(table)
        for row in table:
            theirs = torch.full(row.view.shape(ours[row.ours]), -1)
            for whole, part in row.view.pairs(theirs, ours[row.ours]):
                whole.copy_(part)
            assert theirs.min() >= 0
            places += theirs.numel()
            for whole, part in row.view.pairs(theirs, back[row.ours]):
                part.copy_(whole)
        assert places == sum(tensor.numel() for tensor in ours.values())
        assert all(torch.equal(back[key], ours[key]) for key in ours)


def test_blooms_matrix_is_by_head():
    """[head, (q, k, v), channel]: the rows of the second head's key, by hand."""
    folder = case("bloom").folder
    theirs = load_file(folder / "model.safetensors")["transformer.h.0.self_attention.query_key_value.weight"]
    ours = hf.load_network(folder, torch.float64).get_parameter("blocks.0.attention.qkv.weight")
    heads, width = 6, 6
    assert torch.equal(
        ours[heads * width + width : heads * width + 2 * width], theirs[(3 + 1) * width : (3 + 2) * width]
    )


def test_falcons_groups_end_with_key_and_value():
    folder = case("falcon 40b").folder
    theirs = load_file(folder / "model.safetensors")["transformer.h.1.self_attention.query_key_value.weight"]
    ours = hf.load_network(folder, torch.float64).get_parameter("blocks.1.attention.qkv.weight")
    heads, groups, width = 6, 2, 8
    start = (heads + groups) * width + width  # the second group's value
    second = (heads // groups + 2) * width
    assert torch.equal(ours[start : start + width], theirs[2 * second - width : 2 * second])


def test_gpt_neo_does_not_scale_its_scores():
    attention = hf.read_config(case("gpt neo").folder).attention
    assert [part.scale for part in attention] == [1.0, 1.0, 1.0]
    assert [part.window for part in attention] == [None, 5, 5]


def test_mixtrals_balance_loss_is_top_k_at_an_even_load(tmp_path):
    import transformers

    _, words = CASES["mixtral"]
    config = transformers.MixtralConfig(**(words | {"num_hidden_layers": 1}), output_router_logits=True)
    torch.manual_seed(0)
    oracle = transformers.MixtralForCausalLM._from_config(config).eval()
    ids = torch.randint(2, 97, (2, 12))
    for even in (False, True):
        if even:
            oracle.model.layers[0].mlp.gate.weight.data.zero_()
        oracle.save_pretrained(tmp_path / str(even))
        ours = hf.load_network(tmp_path / str(even))
        context = Context(torch.arange(12).expand(2, 12))
        ours(ids, context)
        assert float(context.routing[0].balance) == pytest.approx(float(oracle(ids).aux_loss), abs=1e-5)
    assert float(context.routing[0].balance) == pytest.approx(2.0, abs=1e-5)


def test_experts_in_one_tensor_load_as_well(copy):
    folder = copy("mixtral")
    ours = hf.load_network(folder, torch.float64)
    rows = hf.family_of(folder).other_rows(ours.config)

    def fuse(state):
        state.clear()
        state.update({r.theirs: next(iter(r.view.pairs(None, ours.get_parameter(r.ours))))[1].clone() for r in rows})

    tensors(folder, fuse)
    same_weights(folder, "mixtral")


@pytest.mark.parametrize("name", ["gpt2", "bloom", "llama", "opt"])
def test_names_without_the_prefix(copy, name):
    folder = copy(name)
    prefix = hf.family_of(folder).prefix
    tensors(folder, lambda s: [s.update({key.removeprefix(prefix): s.pop(key)}) for key in list(s)])
    same_weights(folder, name)


def test_buffers_and_copies_of_old_folders_are_no_weights(copy):
    folder = copy("gpt2")

    def old(state):
        state["transformer.h.0.attn.bias"] = torch.ones(1, 1, 64, 64, dtype=torch.uint8)
        state["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
        state["lm_head.weight"] = state["transformer.wte.weight"].clone()

    tensors(folder, old)
    same_weights(folder, "gpt2")
    tensors(folder, lambda state: state["lm_head.weight"].add_(1))
    with pytest.raises(CheckpointError, match=r"lm_head.weight, which differs from transformer.wte.weight.*tie_word"):
        hf.load_network(folder)


def test_old_words_for_rotary_positions(copy):
    folder = copy("llama, wide heads and biases")
    said = json.loads((folder / "config.json").read_text())["rope_parameters"]
    new = hf.read_config(folder)
    theta = said.pop("rope_theta")
    change(folder, rope_parameters=..., rope_theta=theta, rope_scaling=said)
    assert hf.read_config(folder) == new
    assert new.position.theta == 700.0
    said["type"] = said.pop("rope_type")
    change(folder, rope_scaling=said)
    assert hf.read_config(folder) == new


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_come_in_any_precision(copy, dtype, monkeypatch):
    monkeypatch.setattr("polytask.interop.shards.SCRATCH", 1000)
    found = hf.load_network(case("gpt2").folder, dtype).state_dict()
    expected = hf.load_network(case("gpt2").folder, torch.float64).state_dict()
    assert all(torch.equal(found[key], expected[key].to(dtype)) for key in expected)


def test_a_model_is_loaded_asked_saved_and_exported(copy, tmp_path):
    folder = with_tokenizer(copy("qwen2"))
    model = polytask.load(folder)
    assert model.info["open weights"] == "qwen2 (Qwen2ForCausalLM)"
    again = polytask.load(copy_of(model, tmp_path / "own"))
    assert again.ask("text", {"text": "!"}, max_tokens=5, seed=1) == model.ask(
        "text", {"text": "!"}, max_tokens=5, seed=1
    )
    hf.export(tmp_path / "theirs", again.network, again.tokenizer)
    assert polytask.load(tmp_path / "theirs").config == model.config
    words = json.loads((tmp_path / "theirs" / "generation_config.json").read_text())
    assert words["eos_token_id"] == 0  # as its own config.json says


def copy_of(model, path):
    model.save(path)
    return path


def test_our_own_decoder_is_a_qwen3_to_others(tmp_path):
    import transformers

    network = Transformer(generalist(2, vocab_size=97, context_length=32)).initialize(1).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    hf.export(tmp_path / "out", network)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert type(theirs).__name__ == "Qwen3ForCausalLM"
    ids = torch.randint(97, (2, 12))
    with torch.no_grad():
        logits = network.logits(network(ids, Context(torch.arange(12).expand(2, 12))))
        assert (logits - theirs(ids).logits).abs().max() < 1e-4


def test_what_no_format_holds_says_what_differs(tmp_path):
    unscaled = TransformerConfig(97, 32, 2, 32, Attention(4, scale=1.0), GatedMLP(40), RMSNorm(), Rotary())
    with pytest.raises(CheckpointError, match="nearest, llama, has another attention"):
        hf.describe(unscaled)
    with pytest.raises(CheckpointError, match="LayerNorm, MLP, Sinusoidal"):
        hf.describe(TransformerConfig(97, 32, 2, 32, Attention(4), MLP(40), LayerNorm(), Sinusoidal()))
    with pytest.raises(CheckpointError, match="nearest, opt, has another position"):
        hf.describe(TransformerConfig(97, 32, 2, 32, Attention(4), MLP(40), LayerNorm(), Learned()))


def test_an_export_never_takes_the_place_of_anything(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(CheckpointError, match="exists"):
        hf.export(tmp_path / "mine", hf.load_network(case("llama").folder))
    assert [file.name for file in tmp_path.rglob("*")] == ["mine", "letter.txt"]


def test_a_network_in_int8_is_not_exported(tmp_path):
    from polytask.nn.quant import quantize

    network = hf.load_network(case("llama").folder)
    quantize(network)
    with pytest.raises(CheckpointError, match="int8"):
        hf.export(tmp_path / "out", network)
    assert not list(tmp_path.iterdir())


def refused(folder: Path, *words: str, error=CheckpointError) -> None:
    with pytest.raises(error) as raised:
        hf.load_network(read_folder(with_tokenizer(folder)).path)
    said = str(raised.value)
    assert all(word in said for word in words), said
    assert said.count("\n") == 0


def test_an_unknown_architecture_names_itself_and_the_nearest(copy):
    folder = copy()
    change(folder, model_type="llamma")
    refused(folder, "'llamma'", "'llama'", "model_type in config.json")


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "rope_type='dynamic'",
        ),
        ("llama", {"hidden_act": "quick_gelu"}, "hidden_act='quick_gelu'"),
        ("llama", {"hidden_size": ...}, "lacks 'hidden_size'"),
        ("llama", {"num_attention_heads": 0, "head_dim": ...}, "config.json"),
        ("llama", {"rope_parameters": "none"}, "config.json"),
        ("llama", {"num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": ...}, "blocks"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("opt", {"word_embed_proj_dim": 20}, "word_embed_proj_dim=20"),
        ("bloom", {"apply_residual_connection_post_layernorm": True}, "apply_residual_connection_post_layernorm"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gpt neo", {"attention_types": [[["global"], 2]], "attention_layers": ...}, "attention_types"),
        ("gpt neo", {"attention_types": None, "attention_layers": ...}, "attention_types"),
        ("gpt neo", {"attention_layers": ["local"]}, "attention_layers"),
        ("llama", {"is_causal": False}, "is_causal=False"),
        ("gpt neo", {"is_causal": False}, "is_causal=False"),
        ("llama", {"rms_norm_eps": "1e-5"}, "rms_norm_eps='1e-5' must be a number of at least 0"),
        ("llama", {"rms_norm_eps": None}, "rms_norm_eps=None"),
        ("llama", {"rms_norm_eps": -1}, "rms_norm_eps=-1"),
        ("llama", {"intermediate_size": None}, "intermediate_size=None must be a whole number of at least 1"),
        ("llama", {"intermediate_size": "56"}, "intermediate_size='56'"),
        ("llama", {"intermediate_size": 1.5}, "intermediate_size=1.5"),
        ("llama", {"hidden_size": "32"}, "hidden_size='32'"),
        ("llama", {"hidden_size": True}, "hidden_size=True"),
        ("llama", {"num_hidden_layers": -1}, "num_hidden_layers=-1"),
        ("llama", {"head_dim": "8"}, "head_dim='8'"),
        ("llama", {"head_dim": 1.5}, "head_dim=1.5"),
        ("llama", {"num_key_value_heads": -1}, "num_key_value_heads=-1"),
        ("llama", {"rope_parameters": ..., "rope_theta": "x"}, "rope_theta='x'"),
        ("llama", {"rope_parameters": ..., "rope_theta": -1.0}, "rope_theta=-1.0"),
        ("llama", {"rope_scaling": ["linear", 2.0]}, "rope_scaling=["),
        ("llama", {"rope_scaling": {"type": "yarn", "factor": None}}, "factor=None"),
        ("llama", {"rope_scaling": {"type": "yarn", "factor": -4.0}}, "factor=-4.0"),
        ("llama", {"rope_scaling": {"type": "yarn", "factor": 4.0, "beta_fast": "32"}}, "beta_fast='32'"),
        ("gpt-neox", {"rotary_pct": 2.0, "rope_parameters": ...}, "fraction=2.0"),
        ("gpt-j", {"rotary_dim": None}, "rotary_dim=None"),
        ("gpt-j", {"rotary_dim": 0}, "rotary_dim=0"),
        ("gpt-j", {"rotary_dim": 9}, "rotary_dim=9 must be even"),
        ("gpt-j", {"rotary_dim": 14}, "rotary_dim=14 must be even and at most the width of a head, 12"),
        ("gpt-j", {"rotary_dim": ...}, "rotary_dim=64"),
        ("bloom", {"slow_but_exact": True, "pretraining_tp": 2}, "pretraining_tp=2"),
        ("falcon 40b", {"parallel_attn": False}, "parallel_attn=False"),
    ],
)
def test_what_we_do_not_have_is_refused_by_its_key(copy, name, words, said):
    folder = copy(name)
    change(folder, **words)
    refused(folder, said if said != "blocks" else "q_proj")


def test_code_that_comes_with_weights_is_never_run(copy):
    folder = copy()
    change(folder, model_type="ours_is_new", auto_map={"AutoModelForCausalLM": "modeling.New"})
    (folder / "modeling.py").write_text("raise SystemExit('it ran')")
    refused(folder, "auto_map", "never runs code")
    change(folder, model_type="llama")
    with pytest.warns(Notice, match="auto_map in config.json.*was not run.*own llama network"):
        assert hf.load_network(folder).config.layers == 3


def test_config_that_is_no_json(copy):
    folder = copy()
    (folder / "config.json").write_text("{'model_type': llama")
    refused(folder, "config.json", "no JSON")
    (folder / "config.json").write_text("[1]")
    refused(folder, "config.json", "list")


def test_broken_weights(copy, tmp_path):
    folder = copy()
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-50])
    refused(folder, "model.safetensors", "damaged")
    file.write_bytes(b"x" * 4)
    refused(folder, "model.safetensors", "damaged")


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda s: s.pop("model.layers.1.mlp.up_proj.weight"), "lacks the tensor model.layers.1.mlp.up_proj.weight"),
        (lambda s: s.update({"model.layers.1.mlp.extra": torch.ones(2)}), "has model.layers.1.mlp.extra"),
        (lambda s: s.update({"model.norm.weight": torch.ones(31)}), "model.norm.weight of shape (31,)"),
        (lambda s: s.update({"model.norm.weight": torch.ones(32, dtype=torch.int8)}), "model.norm.weight as I8"),
    ],
)
def test_wrong_tensors_are_named(copy, edit, said):
    folder = copy()
    tensors(folder, edit)
    refused(folder, said)


def test_shards(copy, tmp_path):
    network = hf.load_network(case("llama").folder, torch.float64)
    hf.export(tmp_path / "out", network, shard_bytes=30_000)
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 3
    assert all(file.stat().st_size < 34_000 for file in files)
    same_weights(tmp_path / "out", "llama")
    shutil.move(files[1], tmp_path / "gone")
    refused(tmp_path / "out", files[1].name, "index.json lists")
    shutil.copy(files[0], files[1])
    refused(tmp_path / "out", files[1].name, "lacks")
    index = tmp_path / "out" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": "../../etc/passwd"}}))
    refused(tmp_path / "out", "outside")
    index.write_text("{}")
    refused(tmp_path / "out", "weight_map")


def test_a_pickle_is_refused_with_the_way_to_convert_it(copy):
    folder = copy()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, "pytorch_model.bin", "pickle", "save_pretrained")


def test_tokenizers_smaller_than_the_embedding_are_usual_and_larger_ones_an_error(copy):
    folder = with_tokenizer(copy(), 97)
    assert read_folder(folder).tokenizer.vocab_size == 97
    with_tokenizer(folder, 100)
    with pytest.raises(TokenizerError, match=r"100 tokens, 3 more than the 97"):
        read_folder(folder)


def test_tokenizer_is_kept(copy, tmp_path):
    folder = with_tokenizer(copy())
    made = TextTokenizer.load(folder)
    hf.export(tmp_path / "out", hf.load_network(folder), made)
    assert TextTokenizer.load(tmp_path / "out").fingerprint == made.fingerprint


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gemma 2", {"hidden_activation": "gelu"}),
        ("gemma", {"hidden_act": "gelu"}),
        ("gpt neo", {"attention_layers": ["local", "local", "local"]}),
        ("gpt-neox", {"rope_parameters": ..., "rope_theta": 100.0, "partial_rotary_factor": 0.5}),
        ("gpt-neox", {"rope_parameters": ..., "rope_theta": 100.0, "rotary_emb_base": 500, "rotary_pct": 0.5}),
        ("gpt-neox", {"rotary_pct": 1.0, "rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}),
    ],
)
def test_keys_that_rule_each_other_out_are_read_as_transformers_does(copy, name, words):
    import transformers

    folder, ids = copy(name), torch.arange(2, 38)[None]
    change(folder, **words)
    network, positions = hf.load_network(folder), torch.arange(36)[None]
    with torch.no_grad():
        expected = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits
        assert (network.logits(network(ids, Context(positions))) - expected).abs().max() < 2e-5


def test_export_holds_one_tensor_at_a_time(tmp_path, monkeypatch):
    """All the same, the library reads what is written."""
    network, empty, alive = hf.load_network(case("llama").folder, torch.bfloat16), torch.empty, weakref.WeakSet()

    def watched(*words, **options):
        made = empty(*words, **options)
        alive.add(made)
        most.append(len(alive))
        return made

    most: list[int] = []
    monkeypatch.setattr(torch, "empty", watched)
    hf.export(tmp_path / "out", network)
    monkeypatch.undo()
    assert max(most) <= 2
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert len(most) >= len(found)
    again = hf.load_network(tmp_path / "out", torch.bfloat16).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in network.state_dict().items())


def test_a_place_that_cannot_be_written_is_named_without_advice_on_training(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"^Cannot save to .*/file/out: Not a directory\.$"):
        hf.export(tmp_path / "file" / "out", hf.load_network(case("llama").folder))
