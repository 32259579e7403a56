"""The chunked loss against torch's own on all logits."""

import pytest
import torch
import torch.nn.functional as F

from polytask.models.heads import cross_entropy


@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.0, 0.0), (0.1, 0.0), (0.0, 1e-2), (0.1, 1e-3)])
@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_loss_and_gradients(smoothing, z_loss, chunk):
    torch.manual_seed(0)
    hidden = torch.randn(2, 10, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(31, 8, dtype=torch.float64, requires_grad=True)
    targets, weights = torch.randint(31, (2, 10)), torch.rand(2, 10, dtype=torch.float64)
    weights[0, 3:6] = 0
    total, losses = cross_entropy(
        hidden, weight, targets, weights, label_smoothing=smoothing, z_loss=z_loss, chunk=chunk
    )
    mine = torch.autograd.grad(3 * total, (hidden, weight))
    logits = hidden @ weight.t()
    plain = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(2, 10)
    full = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none", label_smoothing=smoothing)
    expected = (full.view(2, 10) * weights).sum() + z_loss * (logits.logsumexp(-1).square() * weights).sum()
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(losses, plain.detach() * (weights > 0))
    for got, wanted in zip(mine, torch.autograd.grad(3 * expected, (hidden, weight))):
        torch.testing.assert_close(got, wanted)


def test_all_weights_zero_costs_nothing():
    hidden = torch.randn(1, 4, 8, requires_grad=True)
    total, losses = cross_entropy(hidden, torch.randn(5, 8), torch.zeros(1, 4, dtype=torch.long), torch.zeros(1, 4))
    total.backward()
    assert total == 0
    assert losses.abs().sum() == 0
    assert hidden.grad.abs().sum() == 0


def test_without_gradient_nothing_is_kept():
    hidden, weight = torch.randn(4, 8), torch.randn(5, 8)
    with torch.no_grad():
        total, _ = cross_entropy(hidden, weight, torch.arange(4), torch.ones(4))
    assert not total.requires_grad
