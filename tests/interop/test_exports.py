"""What we write for others: which family it is, one tensor at a time, never over anything."""

import json
import weakref

import pytest
import torch
from safetensors.torch import load_file

import polytask
from polytask.errors import CheckpointError
from polytask.interop import hf
from polytask.models.config import TransformerConfig
from polytask.models.transformer import Transformer
from polytask.nn.attention import Attention
from polytask.nn.cache import Context
from polytask.nn.feedforward import MLP, GatedMLP
from polytask.nn.norm import LayerNorm, RMSNorm
from polytask.nn.position import Learned, Rotary, Sinusoidal
from polytask.systems.generalist import generalist
from polytask.tokenizers.text import TextTokenizer
from tests.interop.editing import with_tokenizer
from tests.interop.families import case


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


def test_tokenizer_is_kept(copy, tmp_path):
    folder = with_tokenizer(copy())
    made = TextTokenizer.load(folder)
    hf.export(tmp_path / "out", hf.load_network(folder), made)
    assert TextTokenizer.load(tmp_path / "out").fingerprint == made.fingerprint


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
