"""Weights in 8 and 4 bits: how far they are from the whole ones, and what a trained network then says."""

import pytest
import torch

from polytask.inference.engine import Engine
from polytask.inference.sampling import Sampling
from polytask.inference.sequence import Request
from polytask.models.catalogue import build_config
from polytask.models.transformer import Transformer
from polytask.nn.cache import Context
from polytask.nn.experts import Experts
from polytask.nn.kernels.library import LOADER
from polytask.nn.quant import (
    Int4Linear,
    Int8Linear,
    QuantizedExperts,
    QuantizedLinear,
    pack,
    quantize,
    quantize_groups,
    quantize_rows,
    unpack,
)
from polytask.run.bench import bytes_per_token
from tests.inference.networks import TOKENIZER, network

LENGTH = 48


@pytest.mark.parametrize("shape", [(700, 1000), (33, 100), (1, 7)])  # the first one goes in three pieces
def test_eight_bits_are_the_nearest_ones(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weight[-1] = 0
    whole, scales = quantize_rows(weight)
    assert scales.equal((weight.abs().amax(1) / 127).clamp(min=1e-12))
    assert whole.equal((weight / scales[:, None]).round().to(torch.int8))


@pytest.mark.parametrize("shape", [(64, 128), (33, 100), (1, 7)])
def test_four_bits_are_within_a_step_of_the_weights(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    whole, scales = quantize_groups(weight)
    assert whole.min() >= -8
    assert whole.max() <= 7
    found = (whole * scales[..., None].float()).flatten(1)[:, : shape[1]]
    # Half a step by rounding; where a group's other end is as far out as its largest weight, one more for the level
    # that 16 of them lack there.
    step = scales.float().abs().repeat_interleave(32, 1)[:, : shape[1]]
    assert ((found - weight).abs() <= 1.6 * step + 1e-6).all()
    assert (found - weight).norm() < 0.09 * weight.norm()
    torch.testing.assert_close(unpack(*pack(whole, scales), torch.float32)[: shape[0], : shape[1]], found)


def test_a_group_of_zeros_and_one_of_equal_weights_are_exact():
    weight = torch.cat([torch.zeros(4, 32), torch.full((4, 32), 0.5), torch.full((4, 32), -2.0)], dim=1)
    layer = Int4Linear(weight, None)
    assert torch.equal(unpack(layer.weight, layer.scales, torch.float32)[:4], weight)


@pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
def test_a_layer_is_the_same_with_and_without_kernels(kind, monkeypatch):
    """Few rows by ours, many by torch, and by torch where there is nothing else; scales keep their precision."""
    torch.manual_seed(0)
    layer = kind(torch.randn(300, 130), torch.nn.Parameter(torch.randn(300)))
    x, scales = torch.randn(40, 130), layer.scales.clone()
    LOADER.wait()
    with torch.no_grad():
        few = torch.cat([layer(part) for part in x.split(5)])
        many = layer(x)
        monkeypatch.setattr(LOADER, "library", None)
        without = torch.cat([layer(part) for part in x.split(5)])
        half = layer.bfloat16()
        rounded = torch.cat([half(part) for part in x.bfloat16().split(5)])
    torch.testing.assert_close(few, many, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(without, many, rtol=1e-3, atol=1e-3)
    assert (rounded - many).norm() < 0.01 * many.norm()
    assert torch.equal(half.scales, scales)
    assert half.scales.dtype == scales.dtype


@pytest.mark.parametrize(("kind", "off"), [(Int8Linear, 1e-3), (Int4Linear, 1e-3)])
@pytest.mark.parametrize("gated", [True, False])
@torch.no_grad()
def test_experts_are_those_of_their_rounded_matrices(kind, off, gated):
    torch.manual_seed(0)
    layer = Experts(4, 96, top_k=2, gated=gated).build(64).eval()
    for parameter in layer.parameters():
        parameter.normal_()
    small = QuantizedExperts(layer, kind).eval()
    for whole, quantized in ((layer.first, small.opening), (layer.down, small.closing)):
        for matrix, one in zip(whole, quantized, strict=True):
            matrix.copy_(one(torch.eye(matrix.shape[1])).T)
    for rows in (1, 40):
        x = torch.randn(2, rows, 64)
        assert (small(x) - layer(x)).norm() < off * layer(x).norm()


@pytest.mark.parametrize("bits", [8, 4])
@torch.no_grad()
def test_a_network_of_experts_is_quantised_as_a_whole(bits):
    built = network("glam", layers=4, dim=64, heads=4, experts=4).eval()
    read = bytes_per_token(built)
    names = quantize(built, bits)
    assert sum(isinstance(module, QuantizedExperts) for module in built.modules()) == 2
    assert not any(isinstance(module, torch.nn.Linear) for module in built.modules())
    assert "output" in names
    assert bytes_per_token(built) < read / 2
    prompts = [torch.randint(256, (length,)).tolist() for length in (3, 9, 5)]
    requests = [Request(ids, Sampling(max_tokens=8)) for ids in prompts]
    together = [one.ids for (one,) in Engine(built, TOKENIZER).run(requests)]
    assert together == [Engine(built, TOKENIZER).run([request])[0][0].ids for request in requests]


@pytest.fixture(scope="module")
def trained():
    """A network that has learnt to repeat what it read, each time with a step of its own."""
    config = build_config("generalist", vocab_size=32, context_length=LENGTH, depth=2, dim=128, heads=2)
    network = Transformer(config).initialize(0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for step in range(100):
        loss = _loss(network, _texts(8, step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def _texts(rows: int, seed: int) -> torch.Tensor:
    start, step = torch.randint(32, (2, rows, 1), generator=torch.Generator().manual_seed(seed))
    return (start + (1 + step % 3) * torch.arange(LENGTH)) % 32


def _logits(network: Transformer, ids: torch.Tensor) -> torch.Tensor:
    return network.logits(network(ids, Context(torch.arange(ids.shape[1]).expand_as(ids))))


def _loss(network: Transformer, ids: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(_logits(network, ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


@pytest.mark.parametrize(("bits", "worse"), [(8, 0.001), (4, 0.01)])
@torch.no_grad()
def test_a_trained_network_says_the_same(trained, bits, worse):
    import copy

    small, ids = copy.deepcopy(trained), _texts(64, 1000)
    before = _loss(trained, ids)
    assert before < 0.2
    names = quantize(small, bits)
    assert len(names) == sum(isinstance(module, QuantizedLinear) for module in small.modules()) == 9
    assert abs(_loss(small, ids) - before) < worse
    late = slice(LENGTH // 2, None)
    agree = (_logits(small, ids).argmax(-1) == _logits(trained, ids).argmax(-1))[:, late].float().mean()
    assert agree > 0.99
