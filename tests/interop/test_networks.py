"""Networks that are no language models, kept in folders."""

import json

import pytest
import torch

from polytask.errors import CheckpointError
from polytask.interop import networks
from polytask.interop.atomic import write_checksums
from polytask.models.clip import CLIP, CLIPConfig
from polytask.models.dvae import Autoencoder, AutoencoderConfig
from polytask.models.prior import Prior, PriorConfig
from polytask.models.vision_language import VisionLanguage, VisionLanguageConfig
from polytask.models.vit import ViTConfig
from polytask.nn.attention import Attention
from polytask.nn.feedforward import MLP
from polytask.nn.position import Sinusoidal
from polytask.nn.quantizer import FiniteScalar
from polytask.systems.gpt3 import gpt3

ATTENTION, MATRICES = Attention(2, bias=True), MLP(24, "quick_gelu", True)
VISION = ViTConfig(8, 4, 1, 16, ATTENTION, MATRICES, mean=(0.1, 0.2, 0.3))
TEXT = gpt3(1, 16, 2, band=None, vocab_size=30, context_length=8)
MADE = {
    "clip": lambda: CLIP(CLIPConfig(VISION, TEXT, 6, end=4)).initialize(0),
    "autoencoder": lambda: Autoencoder(AutoencoderConfig(8, 8, FiniteScalar((3, 5)), 2, 1, 8)).initialize(0),
    "prior": lambda: Prior(PriorConfig(6, 16, 8, 1, 16, ATTENTION, MATRICES)).initialize(0),
    "vision language": lambda: VisionLanguage(VisionLanguageConfig(VISION, TEXT, 29)).initialize(0),
}


@pytest.mark.parametrize("name", MADE)
def test_what_is_saved_is_loaded(name, tmp_path):
    network = MADE[name]()
    if name == "prior":
        network.mean.fill_(0.25)  # statistics are kept with the weights
    networks.save(tmp_path / "kept", network, {"data": "blocks world"})
    rights = {(tmp_path / "kept" / name).stat().st_mode for name in ("config.json", "model.safetensors")}
    assert len(rights) == 1  # who may read the one may read the other
    again = networks.load(tmp_path / "kept")
    assert type(again) is type(network)
    assert again.config == network.config
    assert not again.training
    state = again.state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in network.state_dict().items())
    assert not any(parameter.is_meta for parameter in (*again.parameters(), *again.buffers()))
    assert json.loads((tmp_path / "kept" / "config.json").read_text())["about"] == {"data": "blocks world"}


def test_sinusoids_are_computed_again(tmp_path):
    import dataclasses

    config = CLIPConfig(VISION, dataclasses.replace(TEXT, position=Sinusoidal()), 6)
    network, ids = CLIP(config).initialize(0).eval(), torch.randint(30, (2, 8))
    networks.save(tmp_path / "kept", network)
    torch.testing.assert_close(networks.load(tmp_path / "kept").encode_text(ids), network.encode_text(ids))


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda file: file.write_text(file.read_text().replace("CLIPConfig", "CLIPConfg")), "did you mean"),
        (lambda file: file.write_text('{"architecture": {"kind": "LayerNorm"}}'), "which is no network"),
        (lambda file: file.write_text(file.read_text().replace('"embed": 6', '"embed": 7')), "another shape"),
    ],
)
def test_broken_folders_are_refused(break_it, words, tmp_path):
    networks.save(tmp_path / "kept", MADE["clip"]())
    break_it(tmp_path / "kept" / "config.json")
    (tmp_path / "kept" / "checksums.json").unlink()
    write_checksums(tmp_path / "kept")
    with pytest.raises(CheckpointError, match=words):
        networks.load(tmp_path / "kept")
