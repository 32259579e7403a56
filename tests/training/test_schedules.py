"""Learning rates against the formulas of their publications."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polytask.errors import ConfigError
from polytask.training.config import TrainingConfig
from polytask.training.schedules import learning_rate, transformer_peak


def test_the_transformer_equation():
    d_model, warmup = 512, 4000
    config = TrainingConfig(100_000, lr=transformer_peak(d_model, warmup), schedule="inverse_sqrt", warmup=warmup)
    for step in (1, 17, 3999, 4000, 4001, 100_000):
        expected = d_model**-0.5 * min(step**-0.5, step * warmup**-1.5)
        assert learning_rate(step - 1, config) == pytest.approx(expected, rel=1e-12)
    assert transformer_peak(512, 4000) == pytest.approx(6.99e-4, rel=1e-3)


def test_cosine_goes_from_peak_to_minimum():
    config = TrainingConfig(110, lr=2.0, min_lr=0.2, warmup=10)
    assert [learning_rate(step, config) for step in (0, 4, 9)] == pytest.approx([0.2, 1.0, 2.0])
    assert learning_rate(10, config) == pytest.approx(2.0)
    assert learning_rate(60, config) == pytest.approx(1.1)
    assert learning_rate(110, config) == pytest.approx(0.2)


def test_wsd_is_flat_then_decays():
    config = TrainingConfig(100, lr=1.0, min_lr=0.1, schedule="wsd", warmup=10, decay=20)
    assert all(learning_rate(step, config) == 1.0 for step in range(10, 80))
    assert learning_rate(85, config) == pytest.approx(0.1 + 0.9 * (1 - math.sqrt(5 / 20)))
    assert learning_rate(100, config) == pytest.approx(0.1)


@given(
    st.sampled_from(["cosine", "wsd"]), st.integers(1, 60), st.integers(0, 60), st.integers(0, 80), st.floats(0, 1)
)  # fmt: skip
def test_rates_stay_between_minimum_and_peak(schedule, steps, warmup, decay, least):
    config = TrainingConfig(steps, lr=1.0, min_lr=least, schedule=schedule, warmup=min(warmup, steps), decay=decay)
    rates = [learning_rate(step, config) for step in range(steps)]
    after = rates[config.warmup :]
    assert all(0 < rate <= 1 for rate in rates[: config.warmup])
    assert all(least - 1e-9 <= rate <= 1 + 1e-9 for rate in after)
    assert after == sorted(after, reverse=True)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"schedule": "cosin"}, "cosine"), ({"optimizer": "adam"}, "adamw"), ({"steps": 0}, "steps"),
        ({"lr": -1.0}, "lr"), ({"warmup": 11}, "warmup"), ({"betas": (0.9, 1.0)}, "betas"),
        ({"patience": 2}, "keep_best"), ({"precision": "float8"}, "bfloat16"), ({"best": "largest"}, "highest"),
        ({"accumulate": 1.5}, "accumulate"),
    ],
)  # fmt: skip
def test_mistakes_in_the_configuration_are_named(fields, named):
    with pytest.raises(ConfigError, match=named):
        TrainingConfig(**{"steps": 10, **fields})
