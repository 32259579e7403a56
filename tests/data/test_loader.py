"""Batches hold every token once, keep documents apart, and depend on the step alone."""

import tempfile
from collections import Counter
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.data.batch import Batch
from polytask.data.convert import next_token, prefix, seq2seq
from polytask.data.loader import Loader
from polytask.data.mixture import Mixture
from polytask.errors import ConfigError, DataError
from polytask.tasks.segment import Text
from tests.data.documents import BYTES, PAIRS, TEXTS, encoded, letters, pairs, prepared, texts

OBJECTIVES = ["next_token", "prefix", "span_corruption", "seq2seq"]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    rng = np.random.default_rng(0)
    train = {"tasks": pairs(rng, 300), "books": texts(rng, 60)}
    held = {"tasks": pairs(rng, 20), "books": texts(rng, 5)}
    return prepared(tmp_path_factory.mktemp("mixed"), train, held)


def same(one: Batch, two: Batch) -> None:
    for field in fields(Batch):
        a, b = getattr(one, field.name), getattr(two, field.name)
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a, b), field.name


def documents_of(batch: Batch) -> list[tuple]:
    """(ids, targets, weights, prefix length, encoder ids) of each document in the batch."""
    found = []
    for row in range(len(batch)):
        for n in range(1, int(batch.documents[row].max()) + 1):
            at = batch.documents[row] == n
            assert batch.positions[row][at].tolist() == list(range(int(at.sum())))
            assert (at.nonzero()[:, 0].diff() == 1).all()  # side by side
            given = int(batch.prefix[row][at].sum()) if batch.prefix is not None else 0
            reads = ()
            if batch.encoder_ids is not None:
                where = batch.encoder_documents[row] == n
                assert batch.encoder_positions[row][where].tolist() == list(range(int(where.sum())))
                reads = tuple(batch.encoder_ids[row][where].tolist())
            ids, targets, weights = (
                tuple(tensor[row][at].tolist()) for tensor in (batch.ids, batch.targets, batch.weights)
            )
            found.append((ids, targets, weights, given, reads))
    return found


def epoch(loader: Loader) -> list[tuple]:
    steps = -(-loader.rows[0] // loader.batch_rows)
    batches = [loader.batch(step) for step in range(steps)]
    return [document for batch in batches for document in documents_of(batch)]


def one_row_at_a_time(documents, folder, **options) -> Loader:
    return Loader(prepared(Path(folder), {"s": documents}), batch_rows=1, **options)


@pytest.mark.parametrize("objective", ["next_token", "prefix", "seq2seq"])
@settings(max_examples=40, deadline=None)
@given(documents=PAIRS)
def test_an_epoch_holds_each_document_once_as_convert_makes_it(objective, documents):
    with tempfile.TemporaryDirectory() as folder:
        lengths = {"encoder_length": 64} if objective == "seq2seq" else {}
        loader = one_row_at_a_time(documents, folder, context_length=64, objective=objective, **lengths)
        found = epoch(loader)
    convert = {"next_token": next_token, "prefix": prefix, "seq2seq": lambda e: seq2seq(e, BYTES)}[objective]
    expected = []
    for document in map(convert, encoded(documents)):
        reads = () if document.encoder_ids is None else tuple(document.encoder_ids.tolist())
        expected.append(
            (
                tuple(document.ids.tolist()),
                tuple(document.targets.tolist()),
                tuple(document.weights.tolist()),
                document.prefix,
                reads,
            )
        )
    assert Counter(found) == Counter(expected)


@settings(max_examples=40, deadline=None)
@given(documents=TEXTS, seed=st.integers(0, 99))
def test_an_epoch_of_text_predicts_every_token_once(documents, seed):
    with tempfile.TemporaryDirectory() as folder:
        loader = one_row_at_a_time(documents, folder, context_length=16, seed=seed)
        found = epoch(loader)
        filled = [loader.batch(step).tokens for step in range(loader.rows[0])]
    assert sum(length < 16 for length in filled) <= 1  # rows are full, documents run across them
    expected = Counter()
    for document in encoded(documents):
        expected.update(zip(document.ids[:-1].tolist(), document.ids[1:].tolist()))
    got = Counter()
    for ids, targets, weights, _, _ in found:
        assert ids[1:] == targets[:-1]  # a fragment of one document
        assert all(weight == 1 for weight in weights)
        got.update(zip(ids, targets))
    assert got == expected


@pytest.mark.parametrize("encoder_length", [None, 40])
def test_span_corruption_hides_text_and_keeps_tasks(tmp_path, encoder_length):
    rng = np.random.default_rng(1)
    documents = texts(rng, 30)
    source = prepared(tmp_path, {"s": documents})
    loader = Loader(source, 1, 48, objective="span_corruption", encoder_length=encoder_length)
    masks = {i for name, i in BYTES.special.items() if name.startswith("<|mask_")}
    content = Counter(i for document in encoded(documents) for i in document.ids[1:-1].tolist())
    for start in (0, loader.rows[0]):  # each epoch hides other places of the same text
        got = Counter()
        for step in range(start, start + loader.rows[0]):
            for ids, targets, weights, _, reads in documents_of(loader.batch(step)):
                assert ids[1:] == targets[:-1]
                assert sum(weights) == sum(1 for t, w in zip(targets, weights) if w)
                got.update(i for i in (*ids, *reads) if i not in masks and i >= len(BYTES.special))
        assert got == content
    first, second = (
        {d[4] or d[0] for step in range(start, start + loader.rows[0]) for d in documents_of(loader.batch(step))}
        for start in (0, loader.rows[0])
    )
    assert len(first & second) < len(first) / 4


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("world", [2, 3, 8])
def test_ranks_together_hold_the_same_batch(mixed, objective, world):
    alone = Loader(mixed, 8, 64, objective=objective, seed=3)
    ranks = [Loader(mixed, 8, 64, objective=objective, seed=3, rank=rank, world=world) for rank in range(world)]
    for step in (0, 7, 1000):
        whole = alone.batch(step)
        for rank, loader in enumerate(ranks):
            part = loader.batch(step)
            for field in fields(Batch):
                a, b = getattr(part, field.name), getattr(whole, field.name)
                assert a is None if b is None else torch.equal(a, b[rank::world])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_resuming_gives_what_would_have_come(mixed, objective):
    going = list(Loader(mixed, 4, 64, objective=objective).batches(0, 12))
    resumed = list(Loader(mixed, 4, 64, objective=objective).batches(7, 12, ahead=0))
    assert len(going) == 12
    for one, two in zip(going[7:], resumed, strict=True):
        same(one, two)


def test_seeds_differ(mixed):
    one, two = Loader(mixed, 4, 64, seed=0).batch(0), Loader(mixed, 4, 64, seed=1).batch(0)
    assert not torch.equal(one.ids, two.ids)


def test_shares_of_rows_follow_the_mixture(mixed):
    loader = Loader(mixed, 8, 64, Mixture({"tasks": 0.75, "books": 0.25}))
    for step in range(5):
        batch = loader.batch(step)
        assert all(len(set(row[row >= 0].tolist())) == 1 for row in batch.sources)  # text shares no row with tasks
        assert torch.bincount(batch.sources.amax(1)).tolist() == [6, 2]
    assert loader.epochs(5)["books"] == pytest.approx(10 / loader.report()["books"].rows)


def of_length(rng, low, high, count):
    """Tasks that take `low` to `high` - 1 positions of a row each."""
    lengths = rng.integers(low, high, count)
    return [[Text("q"), Text(letters(rng, 1) * (int(length) - 3), target=True)] for length in lengths]


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """None fills rows of 64 by itself: two of the long ones are too much, one leaves a third."""
    rng = np.random.default_rng(2)
    made = {"long": of_length(rng, 36, 46, 900), "short": of_length(rng, 6, 20, 900), "rare": of_length(rng, 5, 30, 40)}
    return prepared(tmp_path_factory.mktemp("uneven"), made)


def test_documents_of_several_sources_share_rows_and_leave_less_than_one_percent(uneven):
    def padding(mixture):
        loader = Loader(uneven, 8, 64, mixture)
        batches = [loader.batch(step) for step in range(200)]
        return 1 - sum(batch.tokens for batch in batches) / (200 * 8 * 64), loader

    alone, _ = padding(Mixture({"long": 1}))
    together, loader = padding(Mixture({"long": 0.6, "short": 0.4}))
    assert alone > 0.3
    assert together < 0.01
    assert loader.report()["short"].padding == pytest.approx(together, abs=0.005)
    shared = [set(row[row >= 0].tolist()) for row in loader.batch(0).sources]
    assert {0, 1} in shared


def test_shares_of_tokens_follow_the_mixture(uneven):
    weights = {"long": 0.6, "short": 0.3, "rare": 0.1}
    loader = Loader(uneven, 16, 64, Mixture(weights), seed=1)
    steps = 600
    sources = torch.cat([loader.batch(step).sources.flatten() for step in range(steps)])
    counts = torch.bincount(sources[sources >= 0], minlength=3)
    np.testing.assert_allclose(counts / counts.sum(), list(weights.values()), atol=0.005)
    for index, (name, source) in enumerate(zip(uneven.names, uneven.sources)):
        gone = float(counts[index]) / int((source.train.lengths - 1).sum())
        assert loader.epochs(steps)[name] == pytest.approx(gone, rel=0.02)


def test_each_document_comes_equally_often_where_sources_share_rows(uneven):
    loader = Loader(uneven, 16, 64, Mixture({"long": 0.5, "short": 0.5}))
    steps = 2 * loader.rows[0] // 16
    found = Counter(document[0] for step in range(steps) for document in documents_of(loader.batch(step)))
    for source in uneven.sources[:2]:
        store = source.train
        ids = [tuple(store.tokens[s : s + n - 1].tolist()) for s, n in zip(store.starts, store.lengths)]
        owners = Counter(ids)
        times = np.array([found[document] / owners[document] for document in owners])
        assert times.max() - times.min() <= 2.5
        assert times.min() > 5


def test_stages_go_on_with_the_documents_that_were_not_seen(uneven):
    stages = ((4, {"long": 0.7, "short": 0.3}), (8, {"long": 1.0}))
    loader = Loader(uneven, 32, 64, Mixture(stages=stages), total_steps=8)
    batches = [loader.batch(step) for step in range(8)]
    assert all((batch.sources != 1).all() for batch in batches[4:])
    seen = [
        [d[0] for batch in part for d in documents_of(batch) if len(d[0]) >= 36] for part in (batches[:4], batches[4:])
    ]
    again = len(set(seen[0]) & set(seen[1])) / len(seen[1])
    assert again < 0.5
    assert loader.epochs(4)["long"] < loader.epochs(8)["long"]


def test_shapes_types_and_padding(mixed):
    batch = Loader(mixed, 6, 64, objective="seq2seq", encoder_length=48).batch(0)
    assert batch.ids.shape == (6, 64)
    assert batch.encoder_ids is not None
    assert batch.encoder_ids.shape == (6, 48)
    assert batch.weights.dtype == torch.float32
    assert batch.ids.dtype == batch.targets.dtype == batch.documents.dtype == torch.int64
    padding = batch.documents == 0
    assert padding.any()
    assert (batch.weights[padding] == 0).all()
    assert (batch.ids[padding] == BYTES.special["<|pad|>"]).all()
    prefixed = Loader(mixed, 6, 64, objective="prefix").batch(0)
    assert prefixed.prefix is not None
    assert prefixed.prefix.dtype == torch.bool
    moved = batch.to("cpu")
    same(moved, batch)


def test_text_prefix_is_random_and_hides_nothing_that_is_predicted(tmp_path):
    source = prepared(tmp_path, {"s": texts(np.random.default_rng(0), 40, 300)})
    loader = Loader(source, 1, 64, objective="prefix")
    shares = []
    for step in range(loader.rows[0]):
        for ids, _, weights, part, _ in documents_of(loader.batch(step)):
            assert 1 <= part <= len(ids)
            assert weights == tuple(float(i >= part - 1) for i in range(len(ids)))
            shares.append(part / len(ids))
    assert 0.3 < np.mean(shares) < 0.7


def test_long_documents_lose_the_middle_and_keep_the_answer(tmp_path):
    documents = [[Text("q" * 100), Text("answer", target=True)], [Text("short"), Text("x", target=True)]]
    loader = Loader(prepared(tmp_path, {"s": documents}), 1, 32)
    assert loader.report()["s"].cut == 1
    found = [d for step in range(loader.rows[0]) for d in documents_of(loader.batch(step))]
    (cut,) = [d for d in found if len(d[0]) == 32]
    predicted = [t for t, w in zip(cut[1], cut[2]) if w]
    assert BYTES.decode(predicted, special=True) == "answer<|end|>"
    assert BYTES.decode(cut[0], special=True) == "<|task|>" + "q" * 24 + "<|answer|>answer"
    assert loader.report()["s"].tokens_lost == len(BYTES.encode("q" * 100)) - 24


def test_long_answers_are_cut_at_their_end(tmp_path):
    documents = [[Text("q" * 100), Text("abcdefgh" * 10, target=True)]]
    (found,) = documents_of(Loader(prepared(tmp_path, {"s": documents}), 1, 32).batch(0))
    assert BYTES.decode(found[0], special=True) == "<|task|>" + "q" * 15 + "<|answer|>" + ("abcdefgh" * 2)[:15]
    assert sum(found[2]) == 16


def test_report_counts_padding(mixed):
    report = Loader(mixed, 4, 64).report()
    for source, made in zip(mixed.sources, report.values()):
        predictions = source.train.lengths - 1
        used = (predictions if source.flat else np.minimum(predictions, 64)).sum()
        assert made.padding == pytest.approx(1 - used / (made.rows * 64))


def test_balanced_lengths_waste_little(tmp_path):
    rng = np.random.default_rng(0)
    documents = [[a, Text(b.text[: max(1, len(a.text) // 4)], target=True)] for a, b in pairs(rng, 2000, 60)]
    loader = Loader(prepared(tmp_path, {"s": documents}), 4, 256, objective="seq2seq")
    assert loader.encoder_length == 256
    assert loader.length < 128
    assert loader.report()["s"].padding < 0.03


def test_validation_is_one_pass_in_one_shape(mixed):
    rng = np.random.default_rng(0)
    pairs(rng, 300), texts(rng, 60)
    expected = Counter(tuple(document.ids[:-1].tolist()) for document in encoded(pairs(rng, 20)))
    for world in (1, 2):
        found, shapes, counts = Counter(), set(), set()
        for rank in range(world):
            batches = list(Loader(mixed, 4, 64, rank=rank, world=world).validation_batches("tasks"))
            counts.add(len(batches))
            shapes |= {tuple(batch.ids.shape) for batch in batches}
            found.update(document[0] for batch in batches for document in documents_of(batch))
            for batch in batches:
                assert set(batch.sources.flatten().tolist()) <= {0, -1}
                assert ((batch.sources < 0) == (batch.documents == 0)).all()
        assert found == expected
        assert shapes == {(4 // world, 64)}
        assert len(counts) == 1  # ranks meet in every step
    assert len(list(Loader(mixed, 1, 64).validation_batches(1, limit=2))) == 2


def test_errors_of_the_thread_arrive(mixed):
    loader = Loader(mixed, 4, 64)
    loader.batch = lambda step: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        next(loader.batches(0))


def test_mistakes_are_explained(mixed, tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'prefix'"):
        Loader(mixed, 4, 64, objective="prefx")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="2 rows cannot be shared by 3"):
        Loader(mixed, 2, 64, world=3)
    with pytest.raises(ConfigError, match="context_length of 1 "):
        Loader(mixed, 2, 1)
    with pytest.raises(ConfigError, match="did you mean 'books'"):
        next(Loader(mixed, 2, 64).validation_batches("boks"))
    bare = prepared(tmp_path, {"s": pairs(np.random.default_rng(0), 5)})
    with pytest.raises(DataError, match="no held-out"):
        next(Loader(bare, 1, 64).validation_batches("s"))
    with pytest.raises(DataError, match="no training examples"):
        Loader(prepared(tmp_path / "empty", {"s": []}), 1, 64)
