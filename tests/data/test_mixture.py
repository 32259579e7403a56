"""The mixture is a pure function with exact shares, and each epoch sees each row once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.data.mixture import Draw, Mixture, permute
from polytask.errors import ConfigError


@settings(max_examples=150, deadline=None)
@given(size=st.integers(1, 3000), key=st.tuples(st.integers(0, 2**63), st.integers(0, 9)))
def test_permutation_hits_everything_once(size, key):
    assert sorted(permute(np.arange(size), size, key).tolist()) == list(range(size))


def test_permutations_differ_and_look_random():
    size = 10_000
    one, two = permute(np.arange(size), size, (1,)), permute(np.arange(size), size, (2,))
    for permutation in (one, two):
        assert abs(np.corrcoef(np.arange(size), permutation)[0, 1]) < 0.04
        assert abs(np.corrcoef(permutation[:-1], permutation[1:])[0, 1]) < 0.04
        assert (permutation == np.arange(size)).sum() < 10
    assert (one == two).sum() < 10
    # Each pair of small positions is equally likely to come first: a test of the key's effect.
    first = [permute(np.arange(2), 7, (seed,)) for seed in range(400)]
    assert 140 < sum(a < b for a, b in first) < 260


def turns(mixture, names, rows, batch_rows, seed=0, total_steps=None):
    return Draw(rows, mixture.definite(names, rows, total_steps), batch_rows, seed)


def drawn(draw, steps, batch_rows):
    return np.concatenate([np.stack(draw.indices(step, np.arange(batch_rows)), axis=1) for step in range(steps)])


def test_shares_are_exact_and_even():
    draw = turns(Mixture({"a": 0.7, "b": 0.2, "c": 0.1}), ["a", "b", "c"], [50, 20, 1000], batch_rows=10)
    sources = drawn(draw, 30, 10)[:, 0].reshape(30, 10)
    for row in sources:
        assert np.bincount(row, minlength=3).tolist() == [7, 2, 1]


@settings(max_examples=80, deadline=None)
@given(weights=st.lists(st.floats(0.001, 1), min_size=1, max_size=6), steps=st.integers(1, 60))
def test_shares_hold_at_every_moment(weights, steps):
    names = [f"s{i}" for i in range(len(weights))]
    draw = turns(Mixture(dict(zip(names, weights))), names, [100] * len(weights), batch_rows=8)
    counts = np.bincount(drawn(draw, steps, 8)[:, 0], minlength=len(weights))
    ideal = np.array(weights) / sum(weights) * 8 * steps
    assert np.abs(counts - ideal).max() <= len(weights)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.integers(1, 40), min_size=1, max_size=4), seed=st.integers(0, 2**32))
def test_every_epoch_sees_every_row_once(rows, seed):
    names = [f"s{i}" for i in range(len(rows))]
    all_drawn = drawn(turns(Mixture(dict.fromkeys(names, 1)), names, rows, 5, seed), 60, 5)
    for source, count in enumerate(rows):
        chosen = all_drawn[all_drawn[:, 0] == source, 1]
        for epoch in range(len(chosen) // count):
            assert sorted(chosen[epoch * count : (epoch + 1) * count].tolist()) == list(range(count))


def test_epochs_are_shuffled_differently():
    draw = turns(Mixture(), ["a"], [100], 100)
    assert draw.indices(0, np.arange(100))[1].tolist() != draw.indices(1, np.arange(100))[1].tolist()


@settings(max_examples=60, deadline=None)
@given(step=st.integers(0, 10**9), row=st.integers(0, 31), seed=st.integers(0, 2**40))
def test_one_row_is_what_the_whole_batch_has(step, row, seed):
    mixture = Mixture({"a": 3, "b": 1}, stages=())
    draw = turns(mixture, ["a", "b"], [1000, 77], 32, seed)
    sources, rows, _ = draw.indices(step, np.arange(32))
    assert draw.index(step, row) == (sources[row], rows[row])
    again = turns(mixture, ["a", "b"], [1000, 77], 32, seed)
    assert again.index(step, row) == (sources[row], rows[row])


def test_size_and_temperature():
    def shares(temperature):
        draw = turns(Mixture(temperature=temperature), ["a", "b"], [900, 100], 100)
        return np.bincount(drawn(draw, 100, 100)[:, 0], minlength=2) / 10_000

    np.testing.assert_allclose(shares(1.0), [0.9, 0.1])
    np.testing.assert_allclose(shares(2.0), [0.75, 0.25])
    np.testing.assert_allclose(shares(1e9), [0.5, 0.5], atol=1e-3)


def test_stages_switch_at_their_step_and_go_on_through_a_source():
    mixture = Mixture(stages=((0.5, {"a": 1, "b": 1}), (1.0, {"b": 1})))
    draw = turns(mixture, ["a", "b"], [6, 30], batch_rows=4, total_steps=10)
    every = drawn(draw, 12, 4)
    assert np.bincount(every[:20, 0]).tolist() == [10, 10]
    assert (every[20:, 0] == 1).all()
    chosen = every[every[:, 0] == 1, 1]
    assert sorted(chosen[:30].tolist()) == list(range(30))  # the epoch does not start anew with the stage
    np.testing.assert_allclose(draw.epochs(10), [10 / 6, 30 / 30])


def test_epochs_count_what_was_drawn():
    draw = turns(Mixture({"a": 2, "b": 1}), ["a", "b"], [7, 5], 3)
    for step in (0, 1, 5, 40):
        counts = np.bincount(drawn(draw, step, 3)[:, 0].astype(int), minlength=2) if step else np.zeros(2)
        np.testing.assert_allclose(draw.epochs(step), counts / [7, 5])


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        (Mixture({"wiki": 1, "boks": 1}), "did you mean 'books'"),
        (Mixture({"wiki": -1}), "'wiki' the weight -1"),
        (Mixture({"wiki": float("nan")}), "nan"),
        (Mixture({"wiki": 0}), "weight 0"),
        (Mixture({"empty": 1}), "'empty' has no rows"),
        (Mixture(temperature=0), "temperature"),
        (Mixture(stages=((0.5, {"wiki": 1}), (1.0, {"books": 1}))), "give a step"),
        (Mixture(stages=((9, {"wiki": 1}), (5, {"books": 1}))), "one after another"),
    ],
)
def test_mistakes_are_explained(mixture, message):
    with pytest.raises(ConfigError, match=message):
        turns(mixture, ["wiki", "books", "empty"], [10, 10, 0], 4)


def test_empty_sources_are_left_out_by_size():
    draw = turns(Mixture(), ["a", "empty"], [10, 0], 4)
    assert set(drawn(draw, 10, 4)[:, 0].tolist()) == {0}
