"""How fresh weights are drawn, against the standard deviations that the papers print."""

import pytest

from polytask.models.catalogue import build_config
from polytask.models.transformer import Transformer

SMALL = {"layers": 3, "dim": 192, "heads": 4, "vocab_size": 400, "context_length": 64}


def deviations(system, **changes):
    network = Transformer(build_config(system, **(SMALL | changes))).initialize(0)
    return {
        name: parameter.detach().std().item() for name, parameter in network.named_parameters() if parameter.ndim > 1
    }


def test_palm_draws_by_fan_in_and_embeddings_from_a_unit_normal():
    """Kernels 1/sqrt(n_in), embeddings 1 (Chowdhery et al. 2022, section 5)."""
    found = deviations("palm")
    assert found["embedding.weight"] == pytest.approx(1.0, rel=0.03)
    for name in ("attention.qkv", "attention.output", "feedforward.gate_up"):
        assert found[f"blocks.1.{name}.weight"] == pytest.approx(192**-0.5, rel=0.03)
    assert found["blocks.1.feedforward.down.weight"] == pytest.approx((4 * 192) ** -0.5, rel=0.03)


@pytest.mark.parametrize("system", ["bloom", "mtnlg"])
def test_megatron_draws_by_width(system):
    """sqrt(1/(3 h)), residual outputs smaller by sqrt(2 L)."""
    found, std = deviations(system), (3 * 192) ** -0.5
    assert found["embedding.weight"] == pytest.approx(std, rel=0.03)
    assert found["blocks.2.attention.qkv.weight"] == pytest.approx(std, rel=0.03)
    for name in ("attention.output", "feedforward.down"):
        assert found[f"blocks.2.{name}.weight"] == pytest.approx(std / 6**0.5, rel=0.03)


def test_experts_and_their_routers_are_drawn_too():
    found = deviations("glam", experts=4, initialization="fan_in")
    assert found["blocks.1.feedforward.up"] == pytest.approx(192**-0.5, rel=0.03)
    assert found["blocks.1.feedforward.down"] == pytest.approx((4 * 192) ** -0.5, rel=0.03)
    assert found["blocks.1.feedforward.router.weight"] == pytest.approx(192**-0.5, rel=0.1)
