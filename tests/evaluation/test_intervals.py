"""Intervals against published numbers, closed forms and coverage."""

import numpy as np
import pytest
from scipy.stats import binomtest

from polytask.evaluation.intervals import bootstrap, bootstrap_of, wilson


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (1, 10), (5, 10), (10, 10), (81, 263), (148, 148), (1, 29)])
def test_wilson_is_scipys(successes, n):
    theirs = binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson(successes, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_wilson_is_newcombes_table():
    """Newcombe 1998, table I, method 3."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 3), (4, 3)])
def test_no_share_has_no_interval(successes, n):
    with pytest.raises(ValueError, match="no share"):
        wilson(successes, n)


def test_bootstrap_is_the_normal_interval_for_many_values():
    values = np.random.default_rng(3).gamma(2.0, size=4000)
    low, high = bootstrap(values, resamples=4000)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=half * 0.1)
    assert high == pytest.approx(values.mean() + half, abs=half * 0.1)
    assert bootstrap(values, seed=1) == bootstrap(values, seed=1) != bootstrap(values, seed=2)


def test_bootstrap_covers_the_truth():
    generator = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        low, high = bootstrap(generator.uniform(size=40), resamples=300, seed=trial)
        hits += low <= 0.5 <= high
    assert 180 <= hits <= 199


def test_figures_that_are_no_means_are_measured_anew():
    values = np.random.default_rng(1).normal(size=300)
    found, done = bootstrap_of(lambda rows: {"spread": values[rows].std(), "mean": values[rows].mean()}, 300, 500)
    assert done == 500
    assert found["mean"] == bootstrap(values, 500)
    assert found["spread"][0] < values.std() < found["spread"][1]


def test_time_ends_resampling():
    def slow(rows):
        import time

        time.sleep(0.002)
        return {"a": 1.0}

    found, done = bootstrap_of(slow, 5, 1000, seconds=1.0)
    assert 100 <= done < 1000
    assert found == {"a": (1.0, 1.0)}
    found, done = bootstrap_of(slow, 5, 1000, seconds=0.05)
    assert found == {}
    assert done < 100
