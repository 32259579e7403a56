"""A plan's figures against networks that are built, and against runs of published systems."""

import dataclasses

import pytest
import torch

from polytask import plan as planning
from polytask.models import cost
from polytask.models.heads import cross_entropy
from polytask.models.transformer import Transformer
from polytask.nn.cache import Context
from polytask.nn.experts import Experts
from polytask.systems.generalist import generalist
from polytask.systems.gpt3 import SIZES

CONFIG = generalist(3, vocab_size=600, context_length=64)
EXPERTS = dataclasses.replace(CONFIG, feedforward=(CONFIG.feedforward, Experts(4, 256), Experts(4, 256, gated=True)))


def test_totals_are_the_sums_of_their_parts():
    made = planning.plan(CONFIG, tokens=10_000, rows=4, length=64, rate=(2e9, "a test"))
    assert made.total_parameters == sum(p.numel() for p in Transformer(CONFIG).parameters())
    assert made.peak_bytes == sum(made.memory.values())
    assert made.flops == pytest.approx(made.flops_per_token * 10_000)
    assert made.seconds == pytest.approx(made.flops / 2e9)
    assert made.to_dict()["memory_bytes"]["total"] == made.peak_bytes


def test_gpt3_needs_the_compute_that_was_published():
    """3.14e23 FLOPs for 300B tokens (Brown et al. 2020, table D.1), attention apart."""
    made = planning.plan(SIZES["175b"].config, tokens=300_000_000_000, rows=1, length=2048)
    assert made.flops == pytest.approx(3.14e23, rel=0.05)


@pytest.mark.parametrize("config", [CONFIG, EXPERTS], ids=["dense", "experts"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_optimizer_state_is_what_torch_keeps(optimizer, config):
    from polytask.training.config import TrainingConfig
    from polytask.training.optimizers import build_optimizer

    network = Transformer(config).initialize(0)
    built = build_optimizer(network, TrainingConfig(steps=1, optimizer=optimizer))
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    built.step(1e-3)
    kept = sum(t.numel() * t.element_size() for t in built.state().values())
    assert planning.optimizer_bytes(config, optimizer) == pytest.approx(kept, rel=0.01)


@pytest.mark.parametrize("config", [CONFIG, EXPERTS], ids=["dense", "experts"])
def test_activations_are_what_autograd_saves(config):
    """Bytes that the graph keeps between forward and backward, weights apart, within 15% of the formula."""
    rows, length = 4, 64
    network = Transformer(config).initialize(0).train()
    ids = torch.randint(config.vocab_size, (rows, length))
    positions = torch.arange(length).expand(rows, length)
    weights = {p.data_ptr() for p in network.parameters()}
    saved: dict[int, int] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = network(ids, Context(positions))
        total, _ = cross_entropy(hidden, network.head, ids, torch.ones(rows, length))
    assert total.requires_grad
    expected = cost.activation_bytes(config, rows, length) + 4 * config.vocab_size * config.dim
    assert sum(saved.values()) == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("config", [CONFIG, EXPERTS], ids=["dense", "experts"])
def test_checkpointing_and_smaller_batches_need_less(config):
    def peak(rows, **changes):
        return planning.plan(config, tokens=1, rows=rows, length=64, **changes).peak_bytes

    assert peak(64, checkpointing=True) < peak(64)
    assert peak(8) < peak(64)
    assert peak(8, average=True) - peak(8) == 4 * cost.parameters(config)


def test_a_plan_beyond_the_device_says_so_and_what_to_change():
    made = planning.plan(CONFIG, tokens=1, rows=512, length=64, available=10**6)
    assert len(made.notes) == 1
    assert "activations" in made.notes[0]
    assert not planning.plan(CONFIG, tokens=1, rows=1, length=64, available=10**12).notes


def test_the_measured_rate_is_that_of_real_steps(monkeypatch):
    """A plan gives the seconds of the clock, which is the test's own: others disturb a real one. The machine is so slow
    that 4 of 16 rows are tried."""
    tried, real = [], planning._step

    def step(config, rows, *words):
        tried.append(rows)
        return real(config, rows, *words)

    def clock(work, device, **_):
        work()
        return 3.0

    config, device = generalist(2, vocab_size=600, context_length=64), torch.device("cpu")
    rate = 4.5 * cost.flops_per_token(config, 64) * 64 / planning.STEP_SECONDS
    monkeypatch.setattr(planning, "_step", step)
    monkeypatch.setattr("polytask.runtime.stopwatch", clock)
    monkeypatch.setattr("polytask.runtime.matmul_rate", lambda *_: rate)
    rate, measured = planning.measured_rate(config, 16, 64, "float32", device)
    assert tried == [4]
    made = planning.plan(config, tokens=10 * 16 * 64, rows=16, length=64, rate=(rate, measured))
    assert made.seconds == pytest.approx(10 * 4 * 3.0)


def test_networks_too_large_to_try_are_rated_by_their_products(monkeypatch):
    monkeypatch.setattr(planning, "MEASURED_PARAMETERS", 1000)
    rate, measured = planning.measured_rate(CONFIG, 1, 64, "float32", torch.device("cpu"))
    assert rate > 0
    assert "matrix products" in measured


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(40, "40 s"), (720, "12 min"), (12_240, "3.4 h"), (25 * 86_400, "25 days"), (340 * 365 * 86_400, "340 years")],
)
def test_durations_read_as_people_say_them(seconds, words):
    assert planning.duration(seconds) == words


def test_encoder_decoders_are_planned_too():
    config = dataclasses.replace(CONFIG, encoder_layers=2)
    made = planning.plan(config, tokens=100, rows=2, length=64)
    assert made.parameters["cross-attention"] > 0
    assert made.total_parameters == sum(p.numel() for p in Transformer(config).parameters())
