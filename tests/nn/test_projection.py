"""The way back through a norm and the linear map behind it, where the norm is computed again."""

import pytest
import torch
from torch import nn

from polytask.nn.norm import LayerNorm, RMSNorm
from polytask.nn.projection import project
from polytask.nn.stacked import Stacked

NORMS = [LayerNorm(), LayerNorm(bias=False), RMSNorm()]


def made(norm, bias=True):
    torch.manual_seed(0)
    built, linear = norm.build(8), Stacked(8, (12, 4), bias=bias)
    for parameter in built.parameters():
        nn.init.normal_(parameter)
    return built, linear, torch.randn(2, 3, 8)


def gradients(apply, norm, linear, x):
    x = x.detach().requires_grad_()
    linear.zero_grad()
    norm.zero_grad()
    out = apply(x, norm, linear)
    (out.double() * torch.arange(16)).square().sum().backward()
    return [out.detach(), x.grad, *(p.grad for p in (*linear.parameters(), *norm.parameters()))]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", NORMS, ids=repr)
def test_gradients_are_those_of_the_plain_composition(kind, bias):
    norm, linear, x = made(kind, bias)
    norm, linear, x = norm.double(), linear.double(), x.double()
    ours = gradients(project, norm, linear, x)
    theirs = gradients(lambda x, norm, linear: linear(norm(x)), norm, linear, x)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", NORMS, ids=repr)
def test_in_mixed_precision_they_differ_by_its_rounding(kind):
    norm, linear, x = made(kind)
    with torch.autocast("cpu", torch.bfloat16):
        ours = gradients(project, norm, linear, x)
        theirs = gradients(lambda x, norm, linear: linear(norm(x)), norm, linear, x)
    assert ours[0].dtype == torch.bfloat16
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2 * float(other.abs().max()))


@pytest.mark.parametrize("kind", NORMS, ids=repr)
def test_of_the_tokens_only_what_goes_in_is_kept(kind):
    norm, linear, x = made(kind)
    x.requires_grad_()
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.data_ptr(), t), lambda t: t):
        project(x, norm, linear)
    assert [t.data_ptr() for t in kept.values() if t.numel() == x.numel()] == [x.data_ptr()]


def test_what_is_frozen_gets_no_gradient():
    norm, linear, x = made(LayerNorm())
    norm.weight.requires_grad_(False)
    linear.weight.requires_grad_(False)
    project(x, norm, linear).sum().backward()
    assert norm.weight.grad is None
    assert linear.weight.grad is None
    assert norm.bias.grad is not None
    assert linear.bias.grad is not None


def test_what_stands_in_for_a_linear_layer_is_called():
    norm, linear, x = made(RMSNorm())
    assert torch.equal(project(x, norm, nn.Sequential(linear)), linear(norm(x)))
    assert torch.equal(project(x, None, linear), linear(x))
