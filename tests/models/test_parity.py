"""Our networks against transformers': logits, loss and every gradient; padded, packed and cached, in float64."""

import pytest
import torch

from polytask.models.heads import cross_entropy
from polytask.nn.cache import Context
from polytask.nn.paged import Row
from tests.models.cached import cached
from tests.models.oracles import FAMILIES, VOCABULARY

EXACT = 1e-9


def ids_of(rows: int, length: int, seed: int = 3) -> torch.Tensor:
    return torch.randint(2, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def places(ids: torch.Tensor) -> torch.Tensor:
    return torch.arange(ids.shape[1]).expand_as(ids)


@pytest.fixture(params=["gpt2", "llama"])
def decoder(request):
    return FAMILIES[request.param]()


@pytest.fixture
def marian():
    return FAMILIES["marian"]()


def compare_gradients(oracle, ours, entries) -> None:
    from tests.models.oracles import gradients

    for name, mine, expected in gradients(oracle, ours, entries):
        assert (mine - expected).abs().max() < EXACT, name


def test_decoder_logits_loss_and_gradients(decoder):
    oracle, ours, entries = decoder
    ids = ids_of(2, 12)
    theirs = oracle(ids)
    # transformers computes its own loss in float32; torch's on its float64 logits is the finer oracle.
    expected = torch.nn.functional.cross_entropy(theirs.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    hidden = ours(ids, Context(places(ids)))
    assert (ours.logits(hidden) - theirs.logits).abs().max() < EXACT
    total, _ = cross_entropy(hidden[:, :-1], ours.head, ids[:, 1:], torch.ones(2, 11).double(), chunk=5)
    loss = total / 22
    assert abs(loss - expected) < EXACT
    loss.backward()
    expected.backward()
    compare_gradients(oracle, ours, entries)


@pytest.mark.parametrize("side", ["left", "right"])
def test_decoder_with_padding(decoder, side):
    oracle, ours, _ = decoder
    ids = ids_of(2, 12)
    real = torch.ones(2, 12, dtype=torch.long)
    padding = slice(0, 5) if side == "left" else slice(7, 12)
    real[1, padding] = 0
    positions = (real.cumsum(1) - 1).clamp(min=0)
    expected = oracle(ids, attention_mask=real, position_ids=positions).logits
    logits = ours.logits(ours(ids, Context(positions, documents=real)))
    kept = real.bool()
    assert (logits - expected)[kept].abs().max() < EXACT


def test_packed_documents_equal_documents_alone(decoder):
    oracle, ours, _ = decoder
    first, second = ids_of(1, 7, seed=4), ids_of(1, 9, seed=5)
    packed = torch.cat([first, second], dim=1)
    positions = torch.cat([places(first), places(second)], dim=1)
    documents = torch.tensor([[1] * 7 + [2] * 9])
    logits = ours.logits(ours(packed, Context(positions, documents)))
    expected = torch.cat([oracle(first).logits, oracle(second).logits], dim=1)
    assert (logits - expected).abs().max() < EXACT


def test_packed_gradients_stay_inside_their_document(decoder):
    _, ours, _ = decoder
    ids = ids_of(1, 10)
    embedded = []
    ours.embedding.register_forward_hook(lambda module, args, output: embedded.append(output) or output.retain_grad())
    documents = torch.tensor([[1] * 6 + [2] * 4])
    ours(ids, Context(places(ids), documents))[:, 6:].square().sum().backward()
    assert embedded[0].grad[:, :6].abs().max() == 0
    assert embedded[0].grad[:, 6:].abs().min() > 0


@pytest.mark.parametrize("chunks", [[1] * 12, [5, 7], [4, 1, 1, 6]])
def test_cache_equals_the_full_pass(decoder, chunks):
    oracle, ours, _ = decoder
    ids = ids_of(2, 12)
    cache = ours.new_cache(blocks=3)
    parts, start = [], 0
    for size in chunks:
        part = ids[:, start : start + size]
        parts.append(cached(ours, cache, part, [Row([2], start, size), Row([0], start, size)]))
        start += size
    assert (ours.logits(torch.cat(parts, 1)) - oracle(ids).logits).abs().max() < EXACT


def test_cache_rows_of_different_lengths(decoder):
    oracle, ours, _ = decoder
    long, short = ids_of(1, 9, seed=6), ids_of(1, 4, seed=7)
    cache = ours.new_cache(blocks=2)
    cached(ours, cache, long[:, :6], [Row([0], 0, 6)])
    batch = torch.cat([long[:, 6:9], short[:, :3]])
    logits = ours.logits(cached(ours, cache, batch, [Row([0], 6, 3), Row([1], 0, 3)]))
    assert (logits[0] - oracle(long).logits[0, 6:]).abs().max() < EXACT
    assert (logits[1] - oracle(short[:, :3]).logits[0]).abs().max() < EXACT


def source_and_target():
    source, target = ids_of(2, 9, seed=8), ids_of(2, 6, seed=9)
    real = torch.ones(2, 9, dtype=torch.long)
    real[1, 6:] = 0
    return source, target, real


def test_encoder_decoder_logits_loss_and_gradients(marian):
    oracle, ours, entries = marian
    source, target, real = source_and_target()
    start = torch.full((2, 1), 1)
    inputs = torch.cat([start, target[:, :-1]], 1)
    theirs = oracle(source, attention_mask=real, decoder_input_ids=inputs)
    expected = torch.nn.functional.cross_entropy(theirs.logits.flatten(0, 1), target.flatten())
    memory = ours.encode(source, Context(places(source), documents=real))
    hidden = ours(inputs, Context(places(inputs), memory=memory))
    assert (ours.logits(hidden) - theirs.logits).abs().max() < EXACT
    total, _ = cross_entropy(hidden, ours.head, target, torch.ones(2, 6).double())
    assert abs(total / 12 - expected) < EXACT
    (total / 12).backward()
    expected.backward()
    compare_gradients(oracle, ours, entries)


def test_encoder_decoder_packed(marian):
    oracle, ours, _ = marian
    sources, targets = [ids_of(1, n, seed=n) for n in (5, 7)], [ids_of(1, n, seed=n) for n in (6, 4)]
    documents = [torch.tensor([[1] * a + [2] * b]) for a, b in ((5, 7), (6, 4))]
    positions = [torch.cat([places(x) for x in side], 1) for side in (sources, targets)]
    memory = ours.encode(torch.cat(sources, 1), Context(positions[0], documents[0]))
    logits = ours.logits(ours(torch.cat(targets, 1), Context(positions[1], documents[1], memory=memory)))
    expected = [oracle(s, decoder_input_ids=t).logits for s, t in zip(sources, targets)]
    assert (logits - torch.cat(expected, 1)).abs().max() < EXACT


def test_encoder_decoder_cached(marian):
    oracle, ours, _ = marian
    source, target, real = source_and_target()
    expected = oracle(source, attention_mask=real, decoder_input_ids=target).logits
    cache = ours.new_cache(blocks=4)
    memory = ours.encode(source, Context(places(source), documents=real))
    sizes = real.sum(1).tolist()
    ours.remember(cache.view([Row([], 0, 0, 0, [2 + i], n) for i, n in enumerate(sizes)]), memory.states[real > 0])
    steps = []
    for t in range(6):
        rows = [Row([i], t, 1, 0, [2 + i], n) for i, n in enumerate(sizes)]
        steps.append(cached(ours, cache, target[:, t : t + 1], rows))
    assert (ours.logits(torch.cat(steps, 1)) - expected).abs().max() < EXACT
