"""Norms and attention of pictures: the ways that are taken where a CPU trains, and torch's."""

import pytest
import torch
import torch.nn.functional as F

from polytask.nn.convolution import ActivatedNorm
from polytask.nn.picture_attention import PictureAttention, TextStates


def pictures(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(2, 12, 6, 5, generator=generator).to(dtype)
    return drawn.contiguous(memory_format=torch.channels_last).requires_grad_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_activated_norm_is_what_it_says(dtype):
    generator = torch.Generator().manual_seed(1)
    norm, x, shifts = ActivatedNorm(3, 12), pictures(dtype), torch.randn(2, 24, generator=generator).to(dtype)
    with torch.no_grad():
        norm.weight.normal_(generator=generator), norm.bias.normal_(generator=generator)
    y = norm(x, shifts)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert y.dtype == dtype
    own = x.detach().double().requires_grad_()
    scale, shift = shifts.double()[:, :, None, None].chunk(2, dim=1)
    wanted = F.silu(F.group_norm(own, 3, norm.weight.double(), norm.bias.double(), 1e-5) * (1 + scale) + shift)
    like = {"rtol": 3e-2, "atol": 6e-2} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(y.double(), wanted, **like)
    given = torch.randn(y.shape, generator=generator)
    y.backward(given.to(dtype))
    wanted.backward(given.to(dtype).double())
    assert x.grad is not None
    assert (x.grad.double() - own.grad).norm() / own.grad.norm() < (1e-2 if dtype == torch.bfloat16 else 1e-5)


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_in_training_is_that_of_drawing(alone, masked):
    generator = torch.Generator().manual_seed(2)
    layer = PictureAttention(12, heads=2, inner=16, groups=3, text=8, alone=alone)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    states = torch.randn(2, 7, 8, generator=generator)
    mask = torch.arange(7) < torch.tensor([[3], [7]]) if masked else None
    x, text = pictures(), TextStates(states.requires_grad_(), mask)
    given = torch.randn(x.shape, generator=generator)

    def gradients(y: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad(y, [x, states, *layer.parameters()], given))

    trained = layer(x, text)
    with torch.no_grad():
        torch.testing.assert_close(trained, layer(x, text), rtol=1e-4, atol=1e-5)
    found = gradients(trained)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("polytask.nn.picture_attention._mixed", F.scaled_dot_product_attention)
        for ours, theirs in zip(found, gradients(layer(x, text)), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    if masked:
        assert (found[1][0, 3:] == 0).all()
