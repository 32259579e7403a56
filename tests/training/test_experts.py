"""Layers of experts in training: their losses are counted once, however a step is split, saved or shared."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from polytask.data.batch import Batch
from polytask.models.config import TransformerConfig
from polytask.models.transformer import Transformer
from polytask.nn.attention import Attention
from polytask.nn.cache import Context
from polytask.nn.experts import Experts
from polytask.nn.feedforward import MLP
from polytask.training.callbacks import Record
from polytask.training.config import TrainingConfig
from polytask.training.muon import Muon, orthogonalize
from polytask.training.objectives.language import LanguageModelling, SequenceToSequence
from polytask.training.optimizers import build_optimizer
from polytask.training.parallel.blocks import blocks_of, checkpoint_activations
from polytask.training.progress import line_of
from tests.training.test_resume import finish, model, start
from tests.training.test_step import pairs, step
from tests.training.toy import LENGTH, VOCABULARY, losses, part, rows, trainer

BALANCE, Z = 0.5, 0.1


def network(**words):
    experts = Experts(4, 32, capacity=1.5, balance=BALANCE, z_loss=Z)
    config = TransformerConfig(VOCABULARY, LENGTH, 4, 16, Attention(2), (MLP(32), experts), **words)
    return Transformer(config).initialize(seed=1).train()


def oracle(net, pieces):
    """Mean cross-entropy by torch, and for each batch the mean over layers of what `Routing` says, by its weight."""
    net.zero_grad()
    total, weight, figures = torch.zeros(()), sum(piece.weights.sum() for piece in pieces), torch.zeros(4)
    for piece in pieces:
        seen = Context(piece.positions, piece.documents)
        logits = net.logits(net(piece.ids, seen))
        plain = F.cross_entropy(logits.flatten(0, 1), piece.targets.flatten(), reduction="none")
        total = total + (plain * piece.weights.flatten()).sum()
        first, second = seen.routing
        share = piece.weights.sum() / 2
        total = total + share * (BALANCE * (first.balance + second.balance) + Z * (first.z + second.z))
        for layer in seen.routing:
            shown = torch.stack([layer.balance, layer.dropped, 4 * layer.load.max(), layer.z]).detach()
            figures += share * shown
    (total / weight).backward()
    named = dict(zip(("balance", "dropped", "expert_load", "router_z"), (figures / weight).tolist()))
    return {"loss": (total / weight).item(), **named}, {name: p.grad.clone() for name, p in net.named_parameters()}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("cuts", [[0, 8], [0, 3, 8]])
def test_the_objective_adds_the_mean_over_layers(cuts, checkpointing):
    pieces = [part(rows(3, count=8), a, b) for a, b in pairwise(cuts)]
    expected, gradients = oracle(network(), pieces)
    net = network()
    if checkpointing:
        checkpoint_activations(blocks_of(net))
    figures, found = step(net, pieces)
    for name, value in expected.items():
        assert figures.mean(name) == pytest.approx(value, rel=1e-5), name
    assert figures.mean("loss") > figures.mean("cross_entropy")
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, gradients[name], rtol=1e-4, atol=1e-6)


def test_a_block_that_is_computed_again_leaves_nothing_behind():
    """Else what it says would keep all of it in memory until the last block is done."""
    net, batch, contexts = network(), rows(3), []
    checkpoint_activations(blocks_of(net))
    net.register_forward_pre_hook(lambda _, given: contexts.append(given[1]))
    LanguageModelling().loss(net, batch).sum.backward()
    (context,) = contexts
    assert context.routing is None


def test_evaluation_adds_nothing():
    net, batch = network().eval(), rows(4)
    loss = LanguageModelling().loss(net, batch)
    assert not loss.log
    torch.testing.assert_close(loss.sum, (loss.token_losses * batch.weights).sum())
    assert LanguageModelling().loss(net.train(), batch).sum > loss.sum


def test_experts_of_an_encoder_count_too():
    net = network(encoder_layers=2)
    batch = pairs()
    loss = SequenceToSequence().loss(net, batch)
    encoded = Context(batch.encoder_positions, batch.encoder_documents)
    memory = net.encode(batch.encoder_ids, encoded)
    decoded = Context(batch.positions, batch.documents, memory=memory)
    net(batch.ids, decoded)
    layers = encoded.routing + decoded.routing
    assert len(layers) == 3
    added = sum(layer.loss for layer in layers) / 3
    plain = (loss.token_losses * batch.weights).sum()
    torch.testing.assert_close(loss.sum, plain + batch.weights.sum() * added)


def test_a_batch_of_nothing_but_padding_counts_nothing():
    net, batch, empty = network(), rows(3), rows(4)
    empty = Batch(*(torch.zeros_like(getattr(empty, name)) for name in ("ids", "positions", "documents", "targets")),
                  torch.zeros_like(empty.weights), empty.sources)  # fmt: skip
    alone, expected = step(net, [batch])
    both, found = step(net, [batch, empty])
    assert both.means() == pytest.approx(alone.means())
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-7)


def test_two_processes_train_what_one_does(tmp_path):
    """Each process routes the rows that one process takes as a batch of its own."""
    words = {"steps": 6, "dropout": 0.0, "experts": True, "save_every": 0}
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    two = start(tmp_path / "two", launcher, checkpointing=True, **words)
    one = start(tmp_path / "one", accumulate=2, **words)
    finish(two)
    finish(one)
    for line, expected in zip(losses(tmp_path / "two"), losses(tmp_path / "one"), strict=True):
        assert line["dropped"] > 0
        assert line == pytest.approx(expected, abs=1e-5, rel=1e-5)
    ours, theirs = model(tmp_path / "two"), model(tmp_path / "one")
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=1e-4)


def test_muon_treats_each_expert_by_itself():
    torch.manual_seed(0)
    experts, gradient = torch.nn.Parameter(torch.zeros(3, 8, 6)), torch.randn(3, 8, 6)
    experts.grad = gradient.clone()
    Muon([{"params": [experts], "parts": (4, 4)}], lr=1.0, weight_decay=0.0, momentum=0.0).step()
    for moved, given in zip(experts.detach(), gradient, strict=True):
        expected = torch.cat([orthogonalize(half[None])[0] * 0.2 * 6**0.5 for half in given.split(4)])
        torch.testing.assert_close(moved, -expected)
    net = network()
    muon, adam = build_optimizer(net, TrainingConfig(1, optimizer="muon")).parts
    moved = {id(parameter) for group in muon.param_groups for parameter in group["params"]}
    layer = net.blocks[1].feedforward
    assert moved >= {id(layer.up), id(layer.down), id(layer.router.weight)}
    assert len(moved) + sum(len(group["params"]) for group in adam.param_groups) == len(list(net.parameters()))


@pytest.mark.parametrize("name", ["adamw", "muon", "adafactor"])
def test_they_learn_and_their_figures_are_shown(tmp_path, name):
    seen: list[Record] = []

    class Watch:
        def __getattr__(self, event):
            return seen.append if event == "on_log" else lambda *_: None

    config = TrainingConfig(40, lr=0.1 if name == "adafactor" else 1e-2, log_every=20, optimizer=name)
    trainer(tmp_path, config, network(), callbacks=[Watch()]).run()
    assert seen[-1].losses["cross_entropy"] < 0.8 * seen[0].losses["cross_entropy"]
    for figure in ("balance", "dropped", "expert_load", "router_z"):
        assert f"{figure} {seen[-1].losses[figure]:.3f}" in line_of(seen[-1])
        assert losses(tmp_path)[-1][figure] == seen[-1].losses[figure]
