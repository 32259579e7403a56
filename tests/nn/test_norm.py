"""The root mean square norm for CPUs against torch's own."""

import pytest
import torch
import torch.nn.functional as F

from polytask.nn.norm import RMSNorm


def both(dtype):
    """(x, scale) and a gradient; x as a head of a fused projection lies in memory."""
    torch.manual_seed(0)
    x = torch.randn(3, 5, 2, 4, 16, dtype=torch.float64)[:, :, 1].transpose(1, 2).to(dtype)
    return x.requires_grad_(), torch.randn_like(x)


def test_gradients_are_those_of_torch():
    x, grad = both(torch.float64)
    norm = RMSNorm(eps=0.1).build(16).double()
    torch.nn.init.normal_(norm.weight)
    theirs = F.rms_norm(x, (16,), norm.weight, 0.1)
    wanted = torch.autograd.grad(theirs, (x, norm.weight), grad)
    torch.testing.assert_close(norm(x), theirs, rtol=1e-12, atol=1e-12)
    for mine, other in zip(torch.autograd.grad(norm(x), (x, norm.weight), grad), wanted, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_is_as_exact_as_torch(dtype):
    x, grad = both(dtype)
    norm = RMSNorm().build(16)
    torch.nn.init.normal_(norm.weight)

    def run(of, dtype):
        x_, w = x.detach().to(dtype).requires_grad_(), norm.weight.detach().to(dtype).requires_grad_()
        y = of(x_, w)
        return [one.double() for one in (y, *torch.autograd.grad(y, (x_, w), grad.to(dtype)))]

    def ours(x, w):
        with torch.no_grad():
            norm.weight.copy_(w)
        return torch.func.functional_call(norm, {"weight": w}, (x,))

    def torchs(x, w):
        return F.rms_norm(x, (16,), w, 1e-6)

    exact = run(torchs, torch.float64)
    for mine, other, true in zip(run(ours, dtype), run(torchs, dtype), exact, strict=True):
        assert (mine - true).abs().max() <= 2 * (other - true).abs().max() + 1e-6 * true.abs().max()


@pytest.mark.parametrize("grad", [True, False])
def test_what_is_added_to_1_is_rounded_once(grad):
    """As transformers does it for Gemma: in bfloat16 itself 1 + w keeps two digits of a small w or less."""
    from transformers.models.gemma.modeling_gemma import GemmaRMSNorm

    (x, _), ours, theirs = both(torch.bfloat16), RMSNorm(offset=1.0).build(16).bfloat16(), GemmaRMSNorm(16).bfloat16()
    torch.nn.init.normal_(ours.weight, std=0.1)
    theirs.load_state_dict(ours.state_dict())
    with torch.set_grad_enabled(grad):
        same = (ours(x) == theirs(x)).float().mean()
    assert same > 0.99  # a sum in another order may round to the other side


def test_parameters_keep_their_precision():
    x, grad = both(torch.bfloat16)
    norm = RMSNorm().build(16)
    norm(x).backward(grad)
    assert norm(x).dtype == torch.bfloat16
    assert norm.weight.grad.dtype == torch.float32
