import copy

import pytest
import torch

from polytask.errors import CheckpointError
from polytask.training.adafactor import Adafactor
from polytask.training.config import TrainingConfig
from polytask.training.muon import Muon
from polytask.training.objectives.language import LanguageModelling
from polytask.training.objectives.loss import WithLoss
from polytask.training.optimizers import build_optimizer
from polytask.training.parallel.data import World
from polytask.training.step import backward
from tests.training.toy import network, rows


def steps(net, optimizer, numbers, lr=1e-2):
    for number in numbers:
        optimizer.zero_grad()
        backward(WithLoss(net, LanguageModelling()), lambda _, n=number: (rows(n), 0), 1, World())
        optimizer.step(lr)


def test_adamw_against_its_equations():
    """Loshchilov and Hutter 2019, algorithm 2, written out in float64."""
    net = network(dtype=torch.float64)
    config = TrainingConfig(1, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.3)
    optimizer = build_optimizer(net, config)
    expected = {name: p.detach().clone() for name, p in net.named_parameters()}
    first = {name: torch.zeros_like(p) for name, p in expected.items()}
    second = {name: torch.zeros_like(p) for name, p in expected.items()}
    for t in (1, 2, 3):
        steps(net, optimizer, [t])
        for name, parameter in net.named_parameters():
            gradient, decay = parameter.grad, 0.3 if parameter.ndim >= 2 else 0.0
            first[name] = 0.8 * first[name] + 0.2 * gradient
            second[name] = 0.9 * second[name] + 0.1 * gradient**2
            step = first[name] / (1 - 0.8**t) / ((second[name] / (1 - 0.9**t)).sqrt() + 1e-6)
            expected[name] = expected[name] * (1 - 1e-2 * decay) - 1e-2 * step
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-10, atol=1e-12)


def test_muon_moves_hidden_matrices_alone():
    net = network(tied=False)
    before = copy.deepcopy(net.state_dict())
    optimizer = build_optimizer(net, TrainingConfig(1, optimizer="muon", weight_decay=0.0))
    steps(net, optimizer, [0], lr=1.0)
    gradients = {name: parameter.grad for name, parameter in net.named_parameters()}
    matrices = {"attention.qkv.weight", "attention.output.weight", "feedforward.up.weight", "feedforward.down.weight"}
    for name, after in net.state_dict().items():
        change = after - before[name]
        if name.partition(".")[0] == "blocks" and after.ndim == 2:
            assert any(name.endswith(matrix) for matrix in matrices)
            u, singular, v = torch.linalg.svd(gradients[name], full_matrices=False)
            parts = 3 if name.endswith("qkv.weight") else 1  # queries, keys and values, each by itself
            for moved, gradient in zip(change.chunk(parts), gradients[name].chunk(parts)):
                u, singular, v = torch.linalg.svd(gradient, full_matrices=False)
                moved = -moved / (0.2 * max(moved.shape) ** 0.5)
                kept = singular > 0.05 * singular[0]  # five Newton-Schulz iterations bring those near 1, in bfloat16
                reached = ((u.t() @ moved) * v).sum(1)[kept]
                assert reached.min() > 0.6
                assert reached.max() < 1.3
        elif name in ("embedding.weight", "output.weight"):
            moved = change[change != 0].abs()
            torch.testing.assert_close(moved, torch.ones_like(moved), atol=0.02, rtol=0)  # Adam's first step is lr


def test_muon_against_torch():
    """torch's own has its products in bfloat16, so a few updates agree to its precision."""
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in ((8, 8), (6, 12), (12, 6), (8, 8))]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    words = {"lr": 0.1, "weight_decay": 0.2, "momentum": 0.9}
    mine, other = Muon(ours, **words), torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **words)
    for _ in range(3):
        for a, b in zip(ours, theirs):
            a.grad = torch.randn(a.shape)
            b.grad = a.grad.clone()
        mine.step()
        other.step()
    for a, b in zip(ours, theirs):
        assert (a - b).norm() < 2e-2 * b.norm()


def test_adafactor_against_torch():
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape) * 0.1) for shape in ((8, 8), (6, 12), (12,))]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    mine, other = Adafactor(ours, 0.3, 0.2), torch.optim.Adafactor(theirs, lr=0.3, weight_decay=0.2)
    for step in range(30):  # the rate is lr at first, and 1 / sqrt(t) in the end
        for a, b in zip(ours, theirs):
            a.grad = torch.randn(a.shape) * (10.0 if step == 7 else 1.0)
            b.grad = a.grad.clone()
        mine.step()
        other.step()
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "muon", "adafactor"])
def test_state_survives_exactly(name):
    config = TrainingConfig(1, optimizer=name)
    straight = network()
    optimizer = build_optimizer(straight, config)
    steps(straight, optimizer, range(3))
    kept = {label: tensor.clone() for label, tensor in optimizer.state().items()}
    resumed = copy.deepcopy(straight)
    other = build_optimizer(resumed, config)
    other.load(kept)
    steps(straight, optimizer, range(3, 6))
    steps(resumed, other, range(3, 6))
    for mine, theirs in zip(straight.parameters(), resumed.parameters()):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("name", ["adamw", "muon", "adafactor"])
def test_they_learn(name):
    net = network()
    optimizer = build_optimizer(net, TrainingConfig(1, optimizer=name, weight_decay=0.0))

    def loss():
        with torch.no_grad():
            value = LanguageModelling().loss(net, rows(0))
        return float(value.sum / value.weight)

    before = loss()
    steps(net, optimizer, range(60), lr=0.1 if name == "adafactor" else 1e-2)
    assert loss() < before / 3


def test_state_of_another_network_is_refused():
    optimizer = build_optimizer(network(), TrainingConfig(1))
    with pytest.raises(CheckpointError, match="strange"):
        optimizer.load({"strange.weight|exp_avg": torch.zeros(1)})
