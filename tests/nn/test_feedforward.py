"""The way back through a feed-forward layer, where activations are computed again."""

import pytest
import torch
from torch import nn

from polytask.nn.feedforward import ACTIVATIONS, MLP, GatedMLP


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("kind", [MLP, GatedMLP])
def test_gradients_are_those_of_the_plain_composition(kind, activation):
    torch.manual_seed(0)
    layer = kind(12, activation=activation, bias=True).build(8).double()
    x = torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)
    found = []
    for plain in (False, True):
        if plain:
            layer.down = nn.Sequential(layer.down)  # no nn.Linear itself, so torch keeps everything as it does
        layer.zero_grad()
        out = layer(x)
        (out * torch.arange(8)).square().sum().backward()
        found.append([out.detach(), x.grad, *(parameter.grad for parameter in layer.parameters())])
        x.grad = None
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("kind", "parts"), [(MLP, 1), (GatedMLP, 2)])
def test_what_goes_into_an_activation_is_kept_and_no_more(kind, parts):
    layer, x = kind(64).build(4), torch.randn(2, 5, 4)
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.data_ptr(), t), lambda t: t):
        layer(x)
    of_tokens = [tensor for tensor in kept.values() if tensor.shape[:2] == (2, 5) and tensor.shape[-1] >= 64]
    assert sum(tensor.shape[-1] for tensor in of_tokens) == 64 * parts


def test_a_frozen_layer_gets_no_gradient():
    layer = MLP(12, bias=True).build(8)
    layer.down.requires_grad_(False)
    layer(torch.randn(2, 3, 8)).sum().backward()
    assert layer.down.weight.grad is None
    assert layer.up.weight.grad is not None
