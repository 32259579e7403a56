"""Laws of loss: known ones are recovered, scipy finds the same, and what they cannot be fitted to is refused."""

from collections.abc import Iterable

import numpy as np
import pytest
from scipy.optimize import curve_fit, least_squares, minimize_scalar

from polytask.errors import DataError
from polytask.evaluation.scaling import Law, SmallRun, fit

COMPUTE = np.geomspace(1e10, 1e12, 8)
TRUTH = Law(("flops",), 0.9, (9203.3,), (0.35,))
HOFFMANN = Law(("parameters", "tokens"), 1.69, (406.4, 410.7), (0.34, 0.28))
GRID = [(n, d) for n in np.geomspace(1e5, 1e7, 4) for d in np.geomspace(1e6, 1e9, 4)]


def runs(losses, compute: Iterable[float] = COMPUTE):
    return [SmallRun(f"run {i}", flops, loss) for i, (flops, loss) in enumerate(zip(compute, losses))]


def noisy(seed, size=0.004):
    noise = np.random.default_rng(seed).normal(size=len(COMPUTE))
    return np.array([TRUTH.loss(flops) for flops in COMPUTE]) * (1 + size * noise)


def on_grid(noise=0.0):
    errors = 1 + noise * np.random.default_rng(0).normal(size=len(GRID))
    return [SmallRun("", 6 * n * d, HOFFMANN.loss(n, d) * e, n, d) for (n, d), e in zip(GRID, errors)]


def test_a_known_law_is_recovered():
    found = fit(runs([TRUTH.loss(flops) for flops in COMPUTE]))
    assert found.law.named() == pytest.approx(TRUTH.named(), rel=1e-6)
    assert abs(found.residuals).max() < 1e-8
    assert Law.of(found.law.named()) == found.law


@pytest.mark.parametrize("seed", range(3))
def test_noisy_losses_give_the_law_that_scipy_finds(seed):
    losses = noisy(seed)
    law = fit(runs(losses)).law
    (a, b, c), _ = curve_fit(
        lambda x, a, b, c: a * (x / 1e11) ** b + c, COMPUTE, losses, (1, -0.3, 1), sigma=losses, xtol=1e-14, ftol=1e-14
    )
    assert law.named() == pytest.approx({"a": a * 1e11**-b, "b": b, "c": c}, rel=1e-5)


def test_what_no_compute_removes_is_not_negative():
    losses = [1e4 * flops**-0.4 - 0.05 for flops in COMPUTE]
    law = fit(runs(losses)).law
    bounded = least_squares(
        lambda p: (np.exp(p[0]) * (COMPUTE / 1e11) ** -p[1] + p[2]) / losses - 1, (0, 0.4, 0.1),
        bounds=([-9, 0, 0], [9, 3, 9]), xtol=1e-14, ftol=1e-14, gtol=1e-14,
    ).x  # fmt: skip
    assert law.constant == 0 == pytest.approx(bounded[2], abs=1e-9)
    assert law.exponents[0] == pytest.approx(bounded[1], rel=1e-5)


def test_the_law_in_parameters_and_tokens_is_recovered():
    found = fit(on_grid())
    assert found.law.quantities == ("parameters", "tokens")
    assert found.law.named() == pytest.approx(HOFFMANN.named(), rel=1e-5)


def test_noisy_losses_give_the_parametric_law_that_scipy_finds():
    given = on_grid(0.003)
    n, d = np.array(GRID).T / np.array([[1e6], [1e8]])
    losses = np.array([run.loss for run in given])
    e, a, b, alpha, beta = least_squares(
        lambda p: (p[0] + p[1] * n ** -p[3] + p[2] * d ** -p[4]) / losses - 1,
        (1, 3, 3, 0.5, 0.5),
        xtol=1e-14,
        ftol=1e-14,
    ).x
    law = fit(given).law
    assert law.exponents == pytest.approx((alpha, beta), rel=1e-4)
    assert (law.constant, law.loss(1e6, 1e8)) == pytest.approx((e, e + a + b), rel=1e-4)


def test_compute_is_spent_where_the_law_is_lowest():
    parameters, tokens = HOFFMANN.best_split(1e20)
    assert 6 * parameters * tokens == pytest.approx(1e20)
    lowest = minimize_scalar(lambda n: HOFFMANN.loss(np.exp(n), 1e20 / 6 / np.exp(n)), (18, 22))
    assert parameters == pytest.approx(np.exp(lowest.x), rel=1e-4)


def test_intervals_hold_the_truth_most_times():
    far = 40 * COMPUTE[-1]
    hits = 0
    for seed in range(12):
        low, high = fit(runs(noisy(seed))).interval(far) or (0, 0)
        assert 0 < high - low < 0.2
        hits += low <= TRUTH.loss(far) <= high
    assert hits >= 9
    found = fit(runs(noisy(0))).intervals()
    assert all(low <= high for low, high in found.values())
    assert found["b"][0] < -0.35 < found["b"][1]


def test_three_runs_make_a_law_without_intervals():
    found = fit(runs([TRUTH.loss(flops) for flops in COMPUTE[:3]], COMPUTE[:3]))
    assert found.law.named() == pytest.approx(TRUTH.named(), rel=1e-3)
    assert found.intervals() == {}
    assert found.interval(1e13) is None


def test_tokens_in_proportion_to_parameters_are_one_quantity():
    given = [SmallRun("", 120 * n * n, 1 + n**-0.3, n, 20 * n) for n in np.geomspace(1e4, 1e6, 7)]
    assert fit(given).law.quantities == ("flops",)


@pytest.mark.parametrize(
    ("given", "form", "sentence"),
    [
        (runs([3, 2]), "auto", "3 coefficients needs as many runs, and there are 2"),
        (runs([3, 2, 0]), "auto", "run 2: its loss is 0"),
        (runs([3, 2, float("nan")]), "auto", "run 2: its loss is nan"),
        (runs([3, 2, 1], [1e9, -1, 1e10]), "auto", "run 1: its compute is -1"),
        (runs([3, 2, 1], [1e9, 1e9, 1e10]), "auto", "2 different flops"),
        (runs([3, 2, 1]), "parametric", "5 coefficients"),
        (runs([3, 2, 1, 1, 1]), "parametric", "run 0: a parametric law needs its parameters and its tokens"),
    ],
)
def test_what_gives_no_law_is_told(given, form, sentence):
    with pytest.raises(DataError, match=sentence):
        fit(given, form)
