"""The gradient of a step: one division for all, whatever the split."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.data.batch import Batch
from polytask.errors import ConfigError
from polytask.nn.cache import Context
from polytask.training.guard import fault
from polytask.training.objectives.language import LanguageModelling, SequenceToSequence
from polytask.training.objectives.loss import WithLoss
from polytask.training.parallel.blocks import blocks_of, checkpoint_activations
from polytask.training.parallel.data import World
from polytask.training.step import backward, clip_gradients, norm_of
from tests.training.toy import VOCABULARY, network, part, rows


def step(net, pieces, objective=None, **words):
    net.zero_grad()
    module = WithLoss(net, objective or LanguageModelling())
    figures = backward(module, lambda micro: (pieces[micro], pieces[micro].tokens), len(pieces), World(), **words)
    return figures, {name: p.grad.clone() for name, p in net.named_parameters()}


def oracle(net, batch):
    """Mean cross-entropy by torch itself, over all logits at once."""
    net.zero_grad()
    logits = net.logits(net(batch.ids, Context(batch.positions, batch.documents)))
    losses = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none")
    loss = (losses * batch.weights.flatten()).sum() / batch.weights.sum()
    loss.backward()
    return float(loss.detach()), {name: p.grad.clone() for name, p in net.named_parameters()}


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(1, 7), max_size=4, unique=True).map(sorted))
def test_any_split_gives_the_gradient_of_the_whole(cuts):
    net, batch = network(), rows(3, count=8)
    loss, expected = oracle(net, batch)
    edges = [0, *cuts, 8]
    figures, gradients = step(net, [part(batch, a, b) for a, b in pairwise(edges)])
    assert figures.mean() == pytest.approx(loss, rel=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-6)
    assert figures.norm == pytest.approx(float(torch.cat([g.flatten() for g in expected.values()]).norm()), rel=1e-5)


def test_a_batch_without_weight_changes_nothing():
    net, batch, empty = network(), rows(3), rows(4)
    empty.weights = torch.zeros_like(empty.weights)
    _, alone = step(net, [batch])
    _, both = step(net, [batch, empty])
    for name in alone:
        torch.testing.assert_close(both[name], alone[name], rtol=0, atol=1e-7)


def test_losses_by_source_add_up():
    net, batch = network(), rows(5, count=6)
    figures, _ = step(net, [part(batch, 0, 3), part(batch, 3, 6)], sources=("even", "odd"))
    for index, name in enumerate(("even", "odd")):
        loss, _ = oracle(net, part(batch, index, None, 2))
        assert figures.mean(f"loss/{name}") == pytest.approx(loss, rel=1e-6)


def test_smoothing_and_z_loss_count_in_the_loss_but_not_in_cross_entropy():
    net, batch = network(), rows(6)
    plain, _ = oracle(net, batch)
    figures, _ = step(net, [batch], LanguageModelling(label_smoothing=0.1, z_loss=1e-2))
    logits = net.logits(net(batch.ids, Context(batch.positions, batch.documents))).flatten(0, 1)
    smooth = F.cross_entropy(logits, batch.targets.flatten(), reduction="none", label_smoothing=0.1)
    full = ((smooth + 1e-2 * logits.logsumexp(-1) ** 2) * batch.weights.flatten()).sum() / batch.weights.sum()
    assert figures.mean("cross_entropy") == pytest.approx(plain, rel=1e-5)
    assert figures.mean("loss") == pytest.approx(float(full.detach()), rel=1e-5)


def test_recomputation_gives_the_same_gradients():
    batch, plain, thrifty = rows(7), network(), network()
    blocks = blocks_of(thrifty)
    assert len(blocks) == 2
    saved = []
    checkpoint_activations(blocks)
    _, expected = step(plain, [batch])
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        _, gradients = step(thrifty, [batch])
    kept = sum(saved)
    saved.clear()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        step(plain, [batch])
    assert kept < sum(saved) / 2
    for name in expected:
        assert torch.equal(gradients[name], expected[name])


def test_bfloat16_is_near_and_keeps_float32_gradients():
    batch, net = rows(8), network()
    exact, expected = step(net, [batch])
    figures, gradients = step(net, [batch], precision_name="bfloat16")
    assert figures.mean() != exact.mean()
    assert figures.mean() == pytest.approx(exact.mean(), rel=1e-2)
    for name, gradient in gradients.items():
        assert gradient.dtype == torch.float32
        assert (gradient - expected[name]).norm() < 0.1 * expected[name].norm() + 1e-3


def test_clipping_keeps_the_direction():
    net = network()
    figures, before = step(net, [rows(9)])
    clip_gradients(net, figures.norm, figures.norm * 2)
    assert all(torch.equal(p.grad, before[name]) for name, p in net.named_parameters())
    clip_gradients(net, figures.norm, 0.1)
    assert norm_of([p.grad for p in net.parameters()]) == pytest.approx(0.1, rel=1e-4)
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.grad, before[name] * (0.1 / figures.norm), rtol=1e-4, atol=1e-8)


def pairs(count=3):
    batch = rows(10, count)
    encoder_ids = torch.randint(VOCABULARY, (count, 8), generator=torch.Generator().manual_seed(0))
    return Batch(
        batch.ids, batch.positions, batch.documents, batch.targets, batch.weights, batch.sources, None,
        encoder_ids, torch.arange(8).expand(count, -1), torch.tensor([1] * 4 + [2] * 4).expand(count, -1),
    )  # fmt: skip


def test_sequence_to_sequence_learns_through_the_encoder():
    net = network(encoder_layers=1)
    _, gradients = step(net, [pairs()], SequenceToSequence())
    assert all(gradients[name].abs().sum() > 0 for name in gradients if name.startswith("encoder.0.attention.qkv"))
    with pytest.raises(ConfigError, match="seq2seq"):
        step(net, [rows(0)], SequenceToSequence())


def test_the_encoder_is_read_within_its_document():
    net = network(encoder_layers=1).eval()
    batch, other = pairs(), pairs()
    other.encoder_ids = batch.encoder_ids.clone()
    other.encoder_ids[:, 4:] = (other.encoder_ids[:, 4:] + 1) % VOCABULARY
    one, two = (SequenceToSequence().loss(net, b).token_losses for b in (batch, other))
    first = (batch.documents == 1) & (batch.weights > 0)
    second = (batch.documents == 2) & (batch.weights > 0)
    assert torch.equal(one[first], two[first])
    assert (one[second] != two[second]).all()


def test_what_is_a_fault():
    def said(loss, recent, spike=10.0, norm=1.0):
        return fault(loss, norm, {"a": [loss * 8, 8]}, [{"a": [one * 4, 4]} for one in recent], spike) or ""

    calm = [2.0 + 0.01 * (i % 5) for i in range(64)]
    assert "nan" in said(math.nan, calm)
    assert "norm" in said(2.0, calm, 0, norm=math.inf)
    assert not said(2.1, calm)
    assert "loss of 3 is far above the last ones, where it would be 2.02" in said(3.0, calm)
    assert not said(3.0, calm, 0)
    assert not said(3.0, calm[:10])
    noisy = [2.0 + (i % 7) * 0.3 for i in range(64)]
    assert not said(5.0, noisy)
    assert said(20.0, noisy)
    assert not said(2.05, [2.0] * 64), "losses that hardly differ must not make a spike"


def test_a_source_is_compared_with_itself():
    """Another mixture, or a source that has not been seen, is no spike; one source's own is."""
    recent = [{"easy": [9 * (0.1 + 0.001 * (i % 5)), 9], "hard": [5.0 + 0.01 * (i % 3), 1]} for i in range(64)]

    def said(**losses):
        return fault(1.0, 1.0, losses, recent, 10)

    assert said(easy=[0.1, 1], hard=[45.5, 9]) is None
    assert said(hard=[50.0, 10]) is None
    assert said(easy=[0.9, 9], new=[70.0, 10]) is None
    assert said(easy=[9.0, 9], hard=[5.0, 1]) is not None
    assert said(hard=[90.0, 10]) is not None
