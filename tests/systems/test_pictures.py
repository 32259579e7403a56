"""The U-Nets of DALL-E 2 and Imagen: counts on the meta device, and structure."""

import pytest

from polytask.errors import ConfigError
from polytask.models.built import parameters, parameters_by_part
from polytask.models.catalogue import PRESETS, build_config
from polytask.models.unet import UNet, UNetConfig, step_flops

EXACT = {
    ("dalle2", "prior"): 1_225_925_632,
    ("dalle2", "decoder-unet"): 2_097_586_694,
    ("dalle2", "256"): 736_272_006,
    ("dalle2", "1024"): 284_428_230,
    ("imagen", "2b"): 2_097_572_867,
    ("imagen", "300m"): 295_131_267,
}
ROWS = {(system, size): row for system in ("dalle2", "imagen") for size, row in PRESETS.get(system).items()}


@pytest.mark.parametrize(("system", "size"), EXACT)
def test_exact_counts(system, size):
    row = ROWS[system, size]
    assert parameters(row.config) == row.exact == EXACT[system, size]


@pytest.mark.parametrize(("system", "size"), ROWS)
def test_printed_counts(system, size):
    row = ROWS[system, size]
    assert row.source
    if row.exact is not None:
        assert parameters(row.config) == row.exact
    if row.tolerance is not None:
        assert parameters(row.config) == pytest.approx(row.parameters, rel=row.tolerance)


def test_text_layers_of_the_decoder():
    """Keys and values for 22 attentions from states of width 2048, the embedding's two projections."""
    whole, bare = (ROWS["dalle2", size].config for size in ("decoder", "decoder-unet"))
    projections = (1024 + 1) * 2048 + (1024 + 1) * 4 * 2048
    assert parameters(whole) - parameters(bare) == 140_577_792 + projections
    text_encoder = 1_209_000_000  # 24 layers of width 2048, without its table
    assert parameters(whole) + text_encoder == pytest.approx(3.5e9, rel=0.03)


def test_the_efficient_networks_are_as_published():
    for size, itself in (("256", True), ("1024", False)):
        config = ROWS["imagen", size].config
        assert config.widths == (128, 256, 512, 1024)
        assert config.blocks == (2, 4, 8, 8)
        assert config.factors[0] == 2
        assert [config.attends(level) for level in range(4)] == [(False, False)] * 3 + [(itself, True)]
        assert sum(parameters_by_part(config).values()) == parameters(config)
    assert parameters(ROWS["imagen", "256"].config) > parameters(ROWS["imagen", "1024"].config)


def test_flops_of_a_network_counted_by_hand():
    config = UNetConfig(pixels=8, channels=8, multipliers=(1,), blocks=1, middle_attention=False, groups=4)
    c, emb, places = 8, 32, 64
    conv = lambda i, o, k=9: 2 * places * i * o * k  # noqa: E731 products alone
    block = lambda i, o: conv(i, o) + conv(o, o) + 2 * emb * 2 * o + (conv(i, o, 1) if i != o else 0)  # noqa: E731
    blocks = 3 * block(c, c) + 2 * block(2 * c, c)
    assert step_flops(config) == conv(3, c) + conv(c, 3) + blocks + 2 * (c * emb + emb * emb)


def test_families_have_dials_for_small_networks():
    small = {"pixels": 16, "channels": 16, "multipliers": [1, 2], "attention": [8], "reader_dim": 64, "groups": 8}
    whole, other = build_config("imagen", **small), build_config("dalle2", **small, embed=8)
    imagen, decoder = whole.unet, other.unet
    assert (whole.text.dim, whole.frozen_text, decoder.pooled) == (64, False, 8)
    assert isinstance(UNet(imagen).initialize(0), UNet)
    assert (imagen.text_pooling, decoder.pooled_tokens, decoder.learned_variance) == (True, 4, True)
    assert build_config("imagen", "2b", dropout=0.1).dropout == 0.1
    with pytest.raises(ConfigError, match="did you mean 'channels'"):
        build_config("imagen", chanels=3)
