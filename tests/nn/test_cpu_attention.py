"""Attention for training on CPUs gives what torch's own gives, forwards and backwards."""

import pytest
import torch
import torch.nn.functional as F

from polytask.nn import cpu_attention, masks


def inputs(rows, heads, length, keys, width, dtype=torch.float64):
    torch.manual_seed(rows * length + keys)
    shapes = [(rows, length), (rows, keys), (rows, keys)]
    made = [torch.randn(*shape, heads * width, dtype=dtype).unflatten(-1, (heads, width)) for shape in shapes]
    return [x.transpose(1, 2).requires_grad_() for x in made]


def some_mask(rows, length, keys):
    """A random one, different in every row, with a visible key for each query."""
    mask = torch.rand(rows, 1, length, keys, generator=torch.Generator().manual_seed(1)) < 0.4
    mask[..., 0] = True
    return mask


@pytest.mark.parametrize("scores", [1, 40, 150, 1 << 20], ids=lambda n: f"{n} scores")
@pytest.mark.parametrize("kept", [0, 512])
@pytest.mark.parametrize("shape", [(3, 4, 7, 7, 8), (2, 3, 5, 9, 4), (1, 1, 1, 1, 2)])
def test_as_torch(monkeypatch, scores, kept, shape):
    """However the work is cut, and whether probabilities are kept or computed again."""
    monkeypatch.setattr(cpu_attention, "SCORES", scores)
    monkeypatch.setattr(cpu_attention, "KEPT", kept)
    rows, heads, length, keys, width = shape
    q, k, v = inputs(rows, heads, length, keys, width)
    grad = torch.randn(rows, heads, length, width, dtype=q.dtype)
    for mask in (None, some_mask(rows, length, keys), some_mask(1, length, keys)):
        bias = None if mask is None else masks.additive(mask, q.dtype)
        ours = cpu_attention.attention(q, k, v, bias)
        theirs = F.scaled_dot_product_attention(q, k, v, mask)
        torch.testing.assert_close(ours, theirs)
        pairs = zip(torch.autograd.grad(ours, (q, k, v), grad), torch.autograd.grad(theirs, (q, k, v), grad))
        for mine, other in pairs:
            torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("length", [63, 64, 65, 130])
@pytest.mark.parametrize("scores", [1, 10_000, 1 << 20])
@pytest.mark.parametrize("kept", [0, 512])
def test_queries_that_are_spared_later_keys(monkeypatch, length, scores, kept):
    monkeypatch.setattr(cpu_attention, "SCORES", scores)
    monkeypatch.setattr(cpu_attention, "KEPT", kept)
    q, k, v = inputs(3, 2, length, length, 4)
    grad = torch.randn(3, 2, length, 4, dtype=q.dtype)
    for rows in (1, 3):
        mask = some_mask(rows, length, length).tril() | torch.eye(length, dtype=torch.bool)
        ours = cpu_attention.attention(q, k, v, masks.additive(mask, q.dtype), causal=True)
        theirs = F.scaled_dot_product_attention(q, k, v, mask)
        torch.testing.assert_close(ours, theirs)
        pairs = zip(torch.autograd.grad(ours, (q, k, v), grad), torch.autograd.grad(theirs, (q, k, v), grad))
        for mine, other in pairs:
            torch.testing.assert_close(mine, other)


@pytest.mark.parametrize(("length", "window"), [(64, 1), (65, 6), (130, 32), (96, 33), (70, 60)])
@pytest.mark.parametrize("scores", [1, 3_000, 1 << 20])
@pytest.mark.parametrize("kept", [0, 512])
def test_queries_that_see_a_window_are_spared_the_other_keys(monkeypatch, length, window, scores, kept):
    monkeypatch.setattr(cpu_attention, "SCORES", scores)
    monkeypatch.setattr(cpu_attention, "KEPT", kept)
    q, k, v = inputs(3, 2, length, length, 4)
    added = torch.randn(1, 2, length, length, dtype=q.dtype, requires_grad=True)
    grad = torch.randn(3, 2, length, 4, dtype=q.dtype)
    place = torch.arange(length)[None]
    band = masks.causal(place, place, window)
    for mask in (band, some_mask(3, length, length) & band | torch.eye(length, dtype=torch.bool)):
        bias = masks.additive(mask, q.dtype)
        ours = cpu_attention.attention(q, k, v, bias, causal=True, scores=added, window=window)
        theirs = F.scaled_dot_product_attention(q, k, v, bias + added)
        torch.testing.assert_close(ours, theirs)
        pairs = zip(
            torch.autograd.grad(ours, (q, k, v, added), grad), torch.autograd.grad(theirs, (q, k, v, added), grad)
        )
        for mine, other in pairs:
            torch.testing.assert_close(mine, other)


def test_in_bfloat16_it_is_as_near_to_the_truth_as_torch():
    exact = inputs(2, 4, 64, 64, 32)
    mask = torch.ones(1, 1, 64, 64, dtype=torch.bool).tril()
    truth = F.scaled_dot_product_attention(*exact, mask)
    lower = [x.detach().to(torch.bfloat16) for x in exact]
    ours = cpu_attention.attention(*lower, masks.additive(mask, torch.bfloat16))
    theirs = F.scaled_dot_product_attention(*lower, mask)
    error, usual = ((out.double() - truth).abs().mean() for out in (ours, theirs))
    assert error < 1.5 * usual


def test_inside_autocast_it_keeps_the_type_of_its_inputs():
    q, k, v = inputs(2, 2, 5, 5, 4, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = cpu_attention.attention(q, k, v, None)
    torch.testing.assert_close(inside, cpu_attention.attention(q, k, v, None), rtol=0, atol=0)
