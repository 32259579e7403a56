"""Parameter counts on the meta device against the integers that the publications' shapes give."""

import pytest
import torch

from polytask.errors import ConfigError
from polytask.models import cost
from polytask.models.catalogue import PRESETS, build_config
from polytask.models.transformer import Transformer

EXACT = {
    ("gpt3", "small"): 125_226_240,
    ("gpt3", "medium"): 355_871_744,
    ("gpt3", "large"): 760_300_032,
    ("gpt3", "xl"): 1_315_723_264,
    ("gpt3", "2.7b"): 2_651_553_280,
    ("gpt3", "6.7b"): 6_658_404_352,
    ("gpt3", "13b"): 12_853_386_240,
    ("gpt3", "175b"): 174_604_259_328,
    ("transformer", "base"): 63_045_632,
    ("transformer", "big"): 214_171_648,
}


def counted(config) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Transformer(config).parameters())


@pytest.mark.parametrize(("system", "size"), EXACT)
def test_exact_counts(system, size):
    config = build_config(system, size)
    assert counted(config) == cost.parameters(config) == EXACT[system, size]


@pytest.mark.parametrize(("system", "size"), EXACT)
def test_printed_counts(system, size):
    row = PRESETS.get(system)[size]
    tolerance = 0.04 if system == "transformer" else 0.02
    assert cost.parameters(row.config) == pytest.approx(row.parameters, rel=tolerance)


@pytest.mark.parametrize(("layers", "dim", "expected"), [(6, 512, 63_082_496), (6, 1024, 214_245_376)])
def test_attention_biases(layers, dim, expected):
    config = build_config("transformer", layers=layers, dim=dim, heads=dim // 64, attention_bias=True)
    assert counted(config) == cost.parameters(config) == expected


@pytest.mark.parametrize("depth", [1, 3, 8])
@pytest.mark.parametrize("tied", [True, False])
def test_generalist_formula(depth, tied):
    config = build_config("generalist", depth=depth, tied=tied, vocab_size=1000)
    assert counted(config) == cost.parameters(config)
    assert config.dim == 64 * depth


def test_gpt3_layers_alternate_dense_and_banded():
    config = build_config("gpt3", "small")
    assert [config.attention_of(layer).window for layer in range(4)] == [None, 256, None, 256]
    assert build_config("gpt3", layers=2, dim=64, heads=2, band=None).attention_of(1).window is None


def test_palm_utilisation_from_the_formula():
    """46.2% of 275 TFLOP/s at 238.3k tokens/s on 6144 chips (PaLM, table 3), from 6N + 12 L a T."""
    flops = 6 * 540.35e9 + 12 * 118 * 48 * 256 * 2048
    assert 238.3e3 * flops / (6144 * 275e12) == pytest.approx(0.462, abs=0.001)


def test_flops_follow_the_formula():
    config = build_config("gpt3", "small")
    by_part = cost.parameters_by_part(config)
    matmuls = by_part["attention"] + by_part["feed-forward"] + by_part["embedding"]
    assert cost.flops_per_token(config, 2048) == 6 * matmuls + 12 * 12 * 768 * 2048


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"system": "gpt33"}, "did you mean 'gpt3'"),
        ({"system": "gpt3", "size": "smal"}, "did you mean 'small'"),
        ({"system": "generalist", "dept": 3}, "did you mean 'depth'"),
        ({"system": "generalist", "depth": 3, "heads": 5}, "multiple of heads"),
        ({"system": "gpt3"}, "cannot be built"),
        ({"system": "generalist", "depth": 2, "position": {"kind": "Rotery"}}, "did you mean 'Rotary'"),
        ({"system": "generalist", "depth": 2, "position": {"kind": "Rotary", "teta": 1.0}}, "did you mean 'theta'"),
    ],
)
def test_mistakes_are_named(words, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build_config(**words)
