"""Every published configuration, shrunk to a width of 32 with all of its parts: it learns, caches and answers."""

import pytest
import torch

from polytask.inference.engine import Engine
from polytask.inference.sampling import Sampling
from polytask.inference.sequence import Request
from polytask.models.catalogue import PRESETS
from polytask.models.config import TransformerConfig
from polytask.models.heads import cross_entropy
from polytask.models.transformer import Transformer
from polytask.nn.cache import Context
from polytask.nn.paged import Row
from polytask.nn.part import from_plain, to_plain
from tests.inference.networks import TOKENIZER, greedy, prompts
from tests.models.cached import cached
from tests.systems.built import shrunk

# Rows of a system that differ in size alone shrink to one configuration, under the name of the first of them.
DISTINCT: dict = {}
for _system in PRESETS:
    for _size, _row in PRESETS.get(_system).items():
        if isinstance(_row.config, TransformerConfig):
            DISTINCT.setdefault(shrunk(_row.config), f"{_system}-{_size}")
TINY = pytest.mark.parametrize("config", DISTINCT, ids=list(DISTINCT.values()))


def ids_of(rows, length, seed=0):
    return torch.randint(97, (rows, length), generator=torch.Generator().manual_seed(seed))


def places(ids):
    return torch.arange(ids.shape[1]).expand_as(ids)


def test_shrinking_keeps_the_parts():
    """Two layers hold one of each part that takes turns, and no kind of part is lost."""
    assert len(DISTINCT) >= 8
    for system, size in (("gpt3", "175b"), ("palm", "540b"), ("glam", "64b-64e"), ("bloom", "176b"), ("lamda", "137b")):
        whole = PRESETS.get(system)[size].config
        tiny = shrunk(whole)
        kinds = [[(type(c.feedforward_of(i)), c.attention_of(i).window is None) for i in (0, 1)] for c in (whole, tiny)]
        assert kinds[0] == kinds[1]
        for name in ("norm", "position", "placement", "embedding_norm", "tied", "initialization"):
            assert getattr(tiny, name) == getattr(whole, name)


@TINY
def test_it_learns_a_batch(config):
    network, ids = Transformer(config).initialize(0).train(), ids_of(4, 17)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        context = Context(places(ids[:, :-1]))
        context.memory = network.encode(ids[:, 1:], Context(places(ids[:, 1:]))) if config.encoder_layers else None
        hidden = network(ids[:, :-1], context)
        total, _ = cross_entropy(hidden, network.head, ids[:, 1:], torch.ones(4, 16))
        loss = total / 64
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] < 2 * torch.tensor(97.0).log(), "the first loss is about that of a guess"
    assert losses[-1] < losses[0] - 0.3


@TINY
@torch.no_grad()
def test_its_cache_gives_what_the_full_pass_gives(config):
    network, ids = Transformer(config).initialize(0).double().eval(), ids_of(2, 12)
    source = ids_of(2, 9, seed=1)
    memory = network.encode(source, Context(places(source))) if config.encoder_layers else None
    full = network(ids, Context(places(ids), memory=memory))
    cache, parts, start = network.new_cache(blocks=4), [], 0
    read = 9 if config.encoder_layers else 0
    if memory is not None:
        network.remember(cache.view([Row([], 0, 0, 0, [block], read) for block in (2, 3)]), memory.states.flatten(0, 1))
    for size in (5, 1, 1, 5):
        part = ids[:, start : start + size]
        rows = [Row([i], start, size, 0, [2 + i], read) for i in range(2)]
        parts.append(cached(network, cache, part, rows))
        start += size
    torch.testing.assert_close(torch.cat(parts, 1), full, rtol=1e-9, atol=1e-9)


@TINY
def test_it_answers_through_the_engine(config):
    tiny = shrunk(config, vocab_size=TOKENIZER.vocab_size, context_length=64)
    network = Transformer(tiny).initialize(0).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)  # so that answers differ from prompt to prompt
    asked, sources = prompts(3, most=20), prompts(3, 1, most=20)
    sources = sources if config.encoder_layers else [None] * 3
    requests = [Request(p, Sampling(max_tokens=8), encoder_ids=s) for p, s in zip(asked, sources)]
    answers = Engine(network, TOKENIZER).run(requests)
    assert [answer.ids for (answer,) in answers] == [greedy(network, p, 8, s) for p, s in zip(asked, sources)]


@TINY
def test_its_configuration_survives_a_file(config):
    assert from_plain(to_plain(config)) == config
