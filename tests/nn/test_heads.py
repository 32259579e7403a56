"""The chunked loss against torch's own on all logits."""

import pytest
import torch
import torch.nn.functional as F

from polytask.models import heads
from polytask.models.heads import Head, cross_entropy


@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.0, 0.0), (0.1, 0.0), (0.0, 1e-2), (0.1, 1e-3)])
@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize(("biased", "scale", "cap"), [(False, 1.0, None), (True, 0.3, None), (True, 2.0, 1.5)])
@pytest.mark.parametrize("whole", [False, True])
def test_loss_and_gradients(smoothing, z_loss, chunk, biased, scale, cap, whole, monkeypatch):
    if whole:  # as on a GPU
        monkeypatch.setattr(heads, "_token_losses", heads.whole_token_losses)
    torch.manual_seed(0)
    hidden = torch.randn(2, 10, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(31, 8, dtype=torch.float64, requires_grad=True)
    targets, weights = torch.randint(31, (2, 10)), torch.rand(2, 10, dtype=torch.float64)
    weights[0, 3:6] = 0
    bias = torch.randn(31, dtype=torch.float64, requires_grad=True) if biased else None
    head = Head(weight, bias, scale, cap)
    learnt = (hidden, weight) if bias is None else (hidden, weight, bias)
    total, losses = cross_entropy(hidden, head, targets, weights, label_smoothing=smoothing, z_loss=z_loss, chunk=chunk)
    mine = torch.autograd.grad(3 * total, learnt)
    logits = scale * (hidden @ weight.t()) + (0 if bias is None else bias)
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    torch.testing.assert_close(head.logits(hidden), logits)
    plain = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(2, 10)
    full = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none", label_smoothing=smoothing)
    expected = (full.view(2, 10) * weights).sum() + z_loss * (logits.logsumexp(-1).square() * weights).sum()
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(losses, plain.detach() * (weights > 0))
    for got, wanted in zip(mine, torch.autograd.grad(3 * expected, learnt), strict=True):
        torch.testing.assert_close(got, wanted)


def test_all_weights_zero_costs_nothing():
    hidden = torch.randn(1, 4, 8, requires_grad=True)
    total, losses = cross_entropy(
        hidden, Head(torch.randn(5, 8)), torch.zeros(1, 4, dtype=torch.long), torch.zeros(1, 4)
    )
    total.backward()
    assert total == 0
    assert losses.abs().sum() == 0
    assert hidden.grad.abs().sum() == 0


def test_without_gradient_nothing_is_kept():
    hidden, weight = torch.randn(4, 8), torch.randn(5, 8)
    with torch.no_grad():
        total, _ = cross_entropy(hidden, Head(weight), torch.arange(4), torch.ones(4))
    assert not total.requires_grad
