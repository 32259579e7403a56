"""Packing keeps every document once, within its budgets, with little padding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.data.packing import Stream, pack, pack_pairs, ranges


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(0, 50), max_size=200), capacity=st.integers(50, 80))
def test_each_document_lies_in_one_row_that_holds_it(lengths, capacity):
    rows = pack(np.array(lengths, dtype=np.int64), capacity)
    assert sorted(rows.documents.tolist()) == [i for i, length in enumerate(lengths) if length]
    for row in range(len(rows)):
        documents = rows.documents[rows.starts[row] : rows.starts[row + 1]]
        assert 0 < sum(lengths[i] for i in documents) <= capacity
    # No two rows could be one: what first fit guarantees as well.
    sums = sorted(sum(lengths[i] for i in rows.of(np.array([row]))[0]) for row in range(len(rows)))
    assert len(sums) < 2 or sums[0] + sums[1] > capacity


def test_best_fit_finds_the_perfect_packing():
    rows = pack(np.array([6, 4, 7, 3, 5, 5, 9, 1]), 10)
    assert len(rows) == 4


@pytest.mark.parametrize("mean", [3.0, 4.0])
def test_padding_of_typical_task_data_is_below_one_percent(mean):
    lengths = np.random.default_rng(0).lognormal(mean, 0.8, 20_000).astype(int) + 5
    lengths = np.minimum(lengths, 512)
    rows = pack(lengths, 512)
    assert 1 - lengths.sum() / (len(rows) * 512) < 0.01


@settings(max_examples=100, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 20)), max_size=120))
def test_pairs_fit_both_budgets(pairs):
    sizes = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    rows = pack_pairs(sizes[:, 0], sizes[:, 1], 30, 20)
    assert sorted(rows.documents.tolist()) == [i for i, pair in enumerate(pairs) if sum(pair)]
    for row in range(len(rows)):
        total = sizes[rows.documents[rows.starts[row] : rows.starts[row + 1]]].sum(axis=0)
        assert total[0] <= 30
        assert total[1] <= 20


@pytest.mark.parametrize("instruction", [0, 12])
def test_padding_of_translations_is_small(instruction):
    rng = np.random.default_rng(0)
    target = np.minimum(rng.lognormal(3.3, 0.5, 10_000).astype(int) + 3, 400)
    source = np.maximum((target * rng.uniform(0.8, 1.2, 10_000)).astype(int), 1) + instruction
    length = int(512 * target.sum() / source.sum())
    rows = pack_pairs(source, target, 512, length)
    assert 1 - (source.sum() + target.sum()) / (len(rows) * (512 + length)) < 0.01


def test_too_long_documents_are_refused():
    with pytest.raises(ValueError, match="11"):
        pack(np.array([3, 11]), 10)
    with pytest.raises(ValueError, match="pair"):
        pack_pairs(np.array([3]), np.array([11]), 10, 10)


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=40),
    length=st.integers(1, 25),
    draw=st.integers(0, 2**64 - 1),
)
def test_stream_covers_every_prediction_once_from_any_offset(lengths, length, draw):
    stream = Stream(np.concatenate([[0], np.cumsum(lengths)]), length)
    rows = np.arange(len(stream))
    offsets = stream.offset(np.full(len(rows), draw, dtype=np.uint64))
    document, begin, size, owner = stream.of(rows, offsets)
    seen = list(zip(np.repeat(document, size).tolist(), ranges(begin, size).tolist()))
    assert sorted(seen) == [(i, j) for i, n in enumerate(lengths) for j in range(n)]
    per_row = np.bincount(owner, weights=size, minlength=len(rows))
    assert (per_row[:-1] == length).all()  # only the last row is padded


def test_stream_offset_changes_the_windows():
    stream = Stream(np.array([0, 1000]), 64)
    draws = np.arange(20, dtype=np.uint64) * np.uint64(977)
    assert len(set(stream.offset(draws).tolist())) > 10
