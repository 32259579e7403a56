"""All that can be wrong with a folder of others: one sentence that names it."""

import json
import shutil

import pytest
import torch

from polytask.errors import Notice, TokenizerError
from polytask.interop import hf
from polytask.interop.folder import read_folder
from tests.interop.editing import change, refused, same_weights, tensors, with_tokenizer
from tests.interop.families import case


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
        ("llama", {"hidden_act": "mish"}, "hidden_act='mish'"),
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
