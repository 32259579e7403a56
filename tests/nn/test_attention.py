"""Masks, rotary angles and the cache, against hand-made cases and plain loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.models.config import TransformerConfig
from polytask.models.transformer import Transformer
from polytask.nn import masks
from polytask.nn.attention import Attention
from polytask.nn.cache import Context
from polytask.nn.feedforward import MLP, GatedMLP
from polytask.nn.norm import LayerNorm, RMSNorm
from polytask.nn.paged import Row
from polytask.nn.part import from_plain, to_plain
from polytask.nn.position import Learned, Rotary, Sinusoidal, Unpositioned
from tests.models.cached import cached


def test_banded_mask_shows_the_last_w_positions():
    place = torch.arange(5)[None]
    seen = masks.causal(place, place, window=2)[0, 0].int().tolist()
    assert seen == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 1]]


def test_rotary_angle_by_hand():
    place = torch.tensor([[3]])
    cos, sin = Rotary(theta=100.0).angles(place, head_dim=4)  # theta^(-2i/K): 1 and 1/10
    assert cos[0, 0, 0].tolist() == pytest.approx([math.cos(3.0), math.cos(0.3)] * 2)
    assert sin[0, 0, 0].tolist() == pytest.approx([-math.sin(3.0), -math.sin(0.3), math.sin(3.0), math.sin(0.3)])
    x = torch.tensor([1.0, 2.0, 0.0, 0.0]).view(1, 1, 1, 4)
    half = Rotary(100.0, "half").rotate(x, (cos, sin)).flatten().tolist()
    assert half == pytest.approx([math.cos(3), 2 * math.cos(0.3), math.sin(3), 2 * math.sin(0.3)])
    rotary = Rotary(100.0, "interleaved")
    neighbours = rotary.rotate(x, rotary.angles(place, head_dim=4)).flatten().tolist()
    assert neighbours == pytest.approx([math.cos(3) - 2 * math.sin(3), 2 * math.cos(3) + math.sin(3), 0, 0])


def test_sinusoids_by_hand():
    table = Sinusoidal().table(torch.tensor([2]), 4)[0].tolist()
    assert table == pytest.approx([math.sin(2), math.cos(2), math.sin(0.02), math.cos(0.02)])
    assert Sinusoidal("half").table(torch.tensor([2]), 4)[0].tolist() == pytest.approx(
        [math.sin(2), math.sin(0.02), math.cos(2), math.cos(0.02)]
    )


POSITIONS = [Unpositioned(), Learned(), Sinusoidal(), Rotary(), Rotary(layout="interleaved")]


@st.composite
def configurations(draw):
    heads = draw(st.sampled_from([1, 2, 4]))
    part = Attention(
        heads,
        kv_heads=draw(st.sampled_from([h for h in (1, 2, 4) if heads % h == 0])),
        bias=draw(st.booleans()),
        window=draw(st.sampled_from([None, 1, 3])),
        qk_norm=draw(st.sampled_from([None, RMSNorm()])),
    )
    return TransformerConfig(
        19, 12, draw(st.integers(1, 2)), 16, part,
        draw(st.sampled_from([MLP(24, "relu"), MLP(8, "gelu", True), GatedMLP(16), GatedMLP(8, "gelu_tanh", True)])),
        draw(st.sampled_from([LayerNorm(), LayerNorm(bias=False), RMSNorm()])),
        draw(st.sampled_from(POSITIONS)), draw(st.sampled_from(["pre", "post"])),
        tied=draw(st.booleans()), scale_embedding=draw(st.booleans()), final_norm=draw(st.booleans()),
        encoder_layers=draw(st.sampled_from([0, 1])),
    )  # fmt: skip


def built(config: TransformerConfig) -> Transformer:
    network = Transformer(config).double().initialize(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return network.eval()


@settings(max_examples=40, deadline=None)
@given(configurations(), st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_any_network_gives_with_a_cache_what_it_gives_without(config, chunks):
    network = built(config)
    length = min(sum(chunks), 12)
    ids = torch.randint(19, (2, length))
    positions = torch.arange(length).expand(2, -1)
    memory = None
    if config.encoder_layers:
        memory = network.encode(ids, Context(positions))
    full = network(ids, Context(positions, memory=memory))
    cache = network.new_cache(blocks=4)
    if memory is not None:
        reads = [Row([], 0, 0, 0, [block], length) for block in (2, 3)]
        network.remember(cache.view(reads), memory.states.flatten(0, 1))
    parts, start = [], 0
    for size in chunks:
        size = min(size, length - start)
        if size:
            rows = [Row([i], start, size, 0, [2 + i], length if memory else 0) for i in range(2)]
            parts.append(cached(network, cache, ids[:, start : start + size], rows))
            start += size
    torch.testing.assert_close(torch.cat(parts, 1), full, atol=1e-10, rtol=0)


@settings(max_examples=40, deadline=None)
@given(configurations())
def test_a_configuration_survives_its_file(config):
    assert from_plain(to_plain(config)) == config


@settings(max_examples=20, deadline=None)
@given(configurations())
def test_no_token_sees_the_future(config):
    network = built(config)
    ids = torch.randint(19, (1, 8))
    changed = ids.clone()
    changed[0, 5] = (ids[0, 5] + 1) % 19
    positions = torch.arange(8)[None]
    memory = network.encode(ids, Context(positions)) if config.encoder_layers else None
    a, b = (network(x, Context(positions, memory=memory)) for x in (ids, changed))
    assert torch.equal(a[:, :5], b[:, :5])
    assert not torch.equal(a[:, 5], b[:, 5])


def test_prefix_tokens_see_each_other():
    config = TransformerConfig(19, 12, 1, 16, Attention(2), MLP(16), RMSNorm(), Rotary())
    network = built(config)
    ids = torch.randint(19, (1, 6))
    positions, prefix = torch.arange(6)[None], torch.tensor([[True] * 3 + [False] * 3])
    changed = ids.clone()
    changed[0, 2] = (ids[0, 2] + 1) % 19
    a, b = (network(x, Context(positions, torch.ones_like(ids), prefix)) for x in (ids, changed))
    assert not torch.equal(a[:, 0], b[:, 0])  # the first token sees the changed third
    later = ids.clone()
    later[0, 4] = (ids[0, 4] + 1) % 19
    c = network(later, Context(positions, torch.ones_like(ids), prefix))
    assert torch.equal(a[:, :4], c[:, :4])
