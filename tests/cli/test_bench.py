"""polytask bench: figures of a small model, and what a wrong wish is told."""

import json
import sys

import pytest
import torch

from polytask.interop import hf
from polytask.model import Model
from polytask.models.config import TransformerConfig
from polytask.nn.attention import Attention
from polytask.nn.feedforward import MLP, GatedMLP
from polytask.nn.norm import LayerNorm, RMSNorm
from polytask.nn.position import Learned, Rotary
from polytask.nn.quant import quantize
from polytask.run import bench, gguf
from tests.inference.networks import TOKENIZER, network

FEW = ("--prompt", "12", "--new", "40", "--tries", "2")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folders of a decoder and of an encoder-decoder."""
    folder = tmp_path_factory.mktemp("models")
    for system in ("generalist", "transformer"):
        Model(network(system), TOKENIZER).save(folder / system)
    return folder


@pytest.fixture(autouse=True)
def _small_probe(monkeypatch):
    monkeypatch.setattr(bench, "PROBE", 1 << 22)


@pytest.mark.parametrize("system", ["generalist", "transformer"])
@pytest.mark.parametrize("words", [(), ("--int4",)])
def test_figures_as_json(polytask, saved, system, words):
    done = polytask("bench", saved / system, *FEW, *words, "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kind"] == ("int4" if words else "float32")
    assert min(found["own"].values()) > 0
    assert found["share"] == pytest.approx(
        found["own"]["decoding"] * found["bytes_per_token"] / found["bandwidth"], rel=1e-6
    )
    assert found["own"]["prefill"] == pytest.approx(12 / found["own"]["first"])


def test_figures_for_people_beside_transformers(polytask, saved):
    pytest.importorskip("transformers")
    done = polytask("bench", saved / "generalist", *FEW, "--against", "hf")
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("polytask, float32") for line in lines)
    assert any(line.startswith("hf") for line in lines)
    assert "of what that allows" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--against", "vllm"), "none of hf, llama.cpp"),
        (("--prompt", "90", "--new", "90"), "context of 96"),
        (("--new", "1"), "at least 1 and 2"),
        (("--int8", "--int4"), "exclude each other"),
    ],
)
def test_mistakes_are_sentences(polytask, saved, words, said):
    done = polytask("bench", saved / "generalist", *words)
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.split())


def test_a_peer_that_is_not_there_says_what_to_install(polytask, saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    done = polytask("bench", saved / "generalist", "--against", "llama.cpp")
    assert done.exit_code == 2
    assert "pip install llama-cpp-python gguf" in done.stderr


def test_a_token_reads_the_weights_of_its_products():
    built = network()
    tables = built.embedding.weight.numel() if built.output is not None else 0
    whole = bench.bytes_per_token(built)
    assert whole == 4 * (sum(p.numel() for p in built.parameters()) - tables)
    quantize(built, 8)
    assert whole / 5 < bench.bytes_per_token(built) < whole / 3


def built(gpt2: bool):
    config = TransformerConfig(
        vocab_size=50, context_length=32, layers=2, dim=32, attention=Attention(4, 4 if gpt2 else 2, bias=gpt2),
        feedforward=MLP(48, "gelu_tanh", bias=True) if gpt2 else GatedMLP(48), norm=LayerNorm() if gpt2 else RMSNorm(),
        position=Learned() if gpt2 else Rotary(), tied=gpt2,
    )  # fmt: skip
    return network_of(config)


def network_of(config):
    from polytask.models.transformer import Transformer

    return Transformer(config).initialize(0).eval()


@pytest.mark.parametrize("gpt2", [True, False])
def test_llama_cpp_is_given_all_weights(gpt2):
    """Every number of ours comes once; Llama's queries are those of transformers with neighbouring channels paired."""
    mine = built(gpt2)
    given = gguf.of_network(mine)
    tensors = {name: torch.from_numpy(array) for name, array in given.tensors}
    assert given.architecture == ("gpt2" if gpt2 else "llama")
    assert sum(t.numel() for t in tensors.values()) == sum(p.numel() for p in mine.parameters())
    assert given.sizes["attention.head_count"] == 4
    qkv = mine.blocks[1].attention.qkv.weight
    if gpt2:
        assert torch.equal(tensors["blk.1.attn_qkv.weight"], qkv)
    else:
        assert torch.equal(tensors["blk.1.attn_q.weight"][:4], qkv[[0, 4, 1, 5]])
        assert torch.equal(tensors["blk.1.attn_v.weight"], qkv[-16:])
        assert hf.describe(mine.config)[0].model_type == "llama"
