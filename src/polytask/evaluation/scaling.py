"""Laws of how loss falls with scale, fitted to small runs, and what they say of a larger one.

The law in compute is L(C) = a C^b + c with b < 0, whose c no compute removes (OpenAI 2023, GPT-4 technical report,
section 3; Henighan et al. 2020, section 3). Where runs vary parameters N and tokens D apart from each other it is
L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, section 3.3). Both are one form: a constant and a falling
power of each quantity. It is fitted by least squares of relative errors, where Hoffmann et al. take a Huber loss of
logarithms: for given exponents the rest is linear and solved exactly, so that exponents alone are searched (variable
projection, Golub and Pereyra 1973).
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from polytask.errors import DataError
from polytask.evaluation.intervals import Interval, percentile

FORMS = {"compute": ("flops",), "parametric": ("parameters", "tokens")}
EXPONENTS = (0.01, 3.0)  # below the first a power is a logarithm, above the second it is gone at once
RESAMPLES = 200
APART = 0.95  # a correlation of log N and log D above which runs do not tell the two apart


@dataclass(frozen=True)
class SmallRun:
    """flops: of the whole run; loss: at its end, in nats a token; parameters and tokens where they are known."""

    name: str
    flops: float
    loss: float
    parameters: float | None = None
    tokens: float | None = None


@dataclass(frozen=True)
class Law:
    """L = constant + the sum of factor x quantity^-exponent."""

    quantities: tuple[str, ...]
    constant: float
    factors: tuple[float, ...]
    exponents: tuple[float, ...]

    def loss(self, *values: float) -> float:
        """At one value of each quantity, in nats a token."""
        powers = zip(self.factors, values, self.exponents, strict=True)
        return self.constant + sum(factor * value**-exponent for factor, value, exponent in powers)

    @property
    def form(self) -> str:
        return "L(C) = a C^b + c" if len(self.quantities) == 1 else "L(N, D) = E + A / N^alpha + B / D^beta"

    def named(self) -> dict[str, float]:
        """The coefficients by their names in `form`."""
        if len(self.quantities) == 1:
            return {"a": self.factors[0], "b": -self.exponents[0], "c": self.constant}
        names = ("E", "A", "alpha", "B", "beta")
        (a, b), (alpha, beta) = self.factors, self.exponents
        return dict(zip(names, (self.constant, a, alpha, b, beta)))

    @classmethod
    def of(cls, named: Mapping[str, float]) -> "Law":
        """The law with these coefficients. Raises KeyError where they are those of neither form."""
        if "c" in named:
            return cls(FORMS["compute"], named["c"], (named["a"],), (-named["b"],))
        factors, exponents = (named["A"], named["B"]), (named["alpha"], named["beta"])
        return cls(FORMS["parametric"], named["E"], factors, exponents)

    def best_split(self, flops: float) -> tuple[float, float]:
        """(N, D) with 6 N D = flops at which a parametric law is lowest (Hoffmann et al. 2022, equation 4)."""
        (a, b), (alpha, beta) = self.factors, self.exponents
        if not a or not b:
            raise DataError(
                "The fitted law falls with parameters alone or tokens alone, so it does not say how to spend a number "
                "of FLOPs; predict a recipe."
            )
        ratio = (alpha * a / (beta * b)) ** (1 / (alpha + beta))
        parameters = ratio * (flops / 6) ** (beta / (alpha + beta))
        return parameters, flops / 6 / parameters


@dataclass(frozen=True)
class Fit:
    """A law and the runs it was fitted to."""

    law: Law
    runs: tuple[SmallRun, ...]

    @cached_property
    def residuals(self) -> np.ndarray:
        """Relative errors of the law on the runs, (R,)."""
        return np.array([self.law.loss(*_values(run, self.law.quantities)) / run.loss - 1 for run in self.runs])

    @cached_property
    def resampled(self) -> tuple[Law, ...]:
        """Laws fitted to losses with errors drawn anew (Efron 1979: a bootstrap of residuals); none where as few
        runs as coefficients leave no residuals to draw from."""
        if not self.freedom:
            return ()
        quantities, generator = self.law.quantities, np.random.default_rng(0)
        values = np.array([_values(run, quantities) for run in self.runs])
        fitted = np.array([self.law.loss(*row) for row in values])
        drawn = fitted * (1 + generator.choice(self._errors, (RESAMPLES, len(fitted))))
        parts = np.array_split(drawn, RESAMPLES // 20)  # small enough for a cache
        return tuple(law for part in parts for law in _least_squares(quantities, values, part, rounds=8))

    @property
    def freedom(self) -> int:
        """Runs beyond the number of coefficients."""
        return max(0, len(self.runs) - 1 - 2 * len(self.law.quantities))

    @cached_property
    def _errors(self) -> np.ndarray:
        """Residuals without their mean, as large as those of the truth: a fit with few runs hides a part of them."""
        return (self.residuals - self.residuals.mean()) * math.sqrt(len(self.runs) / self.freedom)

    def intervals(self) -> dict[str, Interval]:
        """95% intervals of the coefficients by name; {} where there are none."""
        found = [law.named() for law in self.resampled]
        return {name: percentile([law[name] for law in found]) for name in self.law.named() if found}

    def interval(self, *values: float) -> Interval | None:
        """95% interval of the loss of a run with these quantities, its own error included; None without residuals."""
        if not self.resampled:
            return None
        errors = np.random.default_rng(1).choice(self._errors, RESAMPLES)
        return percentile([law.loss(*values) * (1 + error) for law, error in zip(self.resampled, errors)])


def fit(runs: Sequence[SmallRun], form: str = "auto") -> Fit:
    """Fits "compute", "parametric", or ("auto") the second where runs are enough and tell N and D apart.

    Raises DataError where runs are too few or too alike, or where a figure is not positive.
    """
    for run in runs:
        for what, value in (("loss", run.loss), ("compute", run.flops)):
            if not (math.isfinite(value) and value > 0):
                raise DataError(f"{run.name}: its {what} is {value:g}, and a law is fitted to positive figures alone.")
    form = ("parametric" if _told_apart(runs) else "compute") if form == "auto" else form
    quantities = FORMS[form]
    least = 1 + 2 * len(quantities)
    if len(runs) < least:
        raise DataError(f"A law of {least} coefficients needs as many runs, and there are {len(runs)}; add small runs.")
    for run in runs:
        if form == "parametric" and not ((run.parameters or 0) > 0 and (run.tokens or 0) > 0):
            raise DataError(f"{run.name}: a parametric law needs its parameters and its tokens; give both columns.")
    values = np.array([_values(run, quantities) for run in runs], dtype=np.float64)
    for what, column in zip(quantities, values.T):
        if len(set(column)) < 3:
            raise DataError(f"The runs have {len(set(column))} different {what}, and a curve needs three; vary them.")
    (law,) = _least_squares(quantities, values, np.array([[run.loss for run in runs]]))
    return Fit(law, tuple(runs))


def _told_apart(runs: Sequence[SmallRun]) -> bool:
    known = [(run.parameters, run.tokens) for run in runs if (run.parameters or 0) > 0 and (run.tokens or 0) > 0]
    if len(known) < len(runs) or len(runs) < 6 or any(len(set(column)) < 3 for column in zip(*known)):
        return False
    logs = np.log(np.array(known, dtype=np.float64))
    return bool(abs(np.corrcoef(logs.T)[0, 1]) < APART)


def _values(run: SmallRun, quantities: Sequence[str]) -> list[float]:
    return [getattr(run, name) for name in quantities]


def _least_squares(quantities: tuple[str, ...], values: np.ndarray, losses: np.ndarray, rounds: int = 20) -> list[Law]:
    """A law for each of S sets of losses (S, R) at the values (R, Q) of R runs: a grid over the logarithms of the
    exponents, then ever smaller ones around its best."""
    scale = np.exp(np.log(values).mean(0))
    logs = np.log(values / scale)
    low, high = np.log(EXPONENTS)
    center, half, points = np.full((len(losses), 1, values.shape[1]), (low + high) / 2), (high - low) / 2, 25
    coefficients = np.empty((0, 0))
    for _ in range(rounds):
        steps = np.array(list(itertools.product(np.linspace(-half, half, points), repeat=values.shape[1])))
        grid = np.clip(center + steps, low, high)
        found, errors = _linear(np.exp(-np.exp(grid)[:, :, None, :] * logs), losses)
        best = errors.argmin(1)[:, None, None]
        center, coefficients = np.take_along_axis(grid, best, 1), np.take_along_axis(found, best, 1)[:, 0]
        half, points = 3 * half / (points - 1), 9
    exponents = np.exp(center[:, 0])
    factors = coefficients[:, 1:] * scale**exponents
    rows = zip(coefficients[:, 0].tolist(), factors.tolist(), exponents.tolist())
    return [Law(quantities, constant, tuple(factor), tuple(exponent)) for constant, factor, exponent in rows]


def _linear(powers: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best coefficients (S, G, 1 + Q), none below 0, for powers (S, G, R, Q) at G exponents and losses (S, R), and
    sums of squared relative errors (S, G).

    The best with a sign constraint is the best of some set of columns without one, so that all sets are solved.
    """
    columns = np.concatenate([np.ones((*powers.shape[:3], 1)), powers], 3) / losses[:, None, :, None]
    size = columns.shape[3]
    square, right = columns.swapaxes(2, 3) @ columns, columns.sum(2)
    least, chosen = np.full(right.shape[:2], np.inf), np.zeros(right.shape)
    for kept in itertools.product((0.0, 1.0), repeat=size):
        mask = np.array(kept)
        matrix = square * np.outer(mask, mask) + np.diag(1 - mask + 1e-13)  # columns left out get 0
        found = np.linalg.solve(matrix, (right * mask)[..., None])
        total = (((columns @ found)[..., 0] - 1) ** 2).sum(2)
        better = (found[..., 0] >= 0).all(2) & (total < least)
        least, chosen = np.where(better, total, least), np.where(better[..., None], found[..., 0], chosen)
    return chosen, least
