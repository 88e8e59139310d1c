"""The mean of the worst: definition, limits and gradient. Sampled worlds: bounds, medians and spreads."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from mamba.meta import robust
from mamba.world.parameters import WorldParameters


def _by_definition(values, level):
    """Rockafellar and Uryasev 2000, equation 4; the minimum of a convex piecewise linear function is at one of its corners."""
    return min(v + np.maximum(values - v, 0.0).mean() / (1.0 - level) for v in values)


@pytest.mark.parametrize("level", [0.0, 0.1, 0.5, 0.8, 0.85, 0.93])
def test_the_mean_of_the_worst_is_that_of_the_definition(level):
    rng = np.random.default_rng(0)
    for count in (1, 2, 5, 10, 33):
        values = np.round(rng.normal(size=count), 1)  # with ties
        value, weights = robust.cvar(values, level)
        assert value == pytest.approx(_by_definition(values, level), abs=1e-12)
        assert weights.sum() == pytest.approx(1.0, abs=1e-12)
        assert weights.min() >= 0 and weights.max() <= max(1.0, 1.0 / ((1.0 - level) * count)) + 1e-12
        assert value == pytest.approx(weights @ values, abs=1e-12)
        for tied in values:  # equal outcomes, equal weights
            assert np.ptp(weights[values == tied]) == 0


def test_limits_and_fractions_of_a_sample():
    values = np.array([3.0, 1.0, 4.0, 2.0, 0.0])
    np.testing.assert_allclose(robust.cvar(values, 0.0)[1], 0.2)
    np.testing.assert_allclose(robust.cvar(values, 0.7)[1], [1 / 3, 0, 2 / 3, 0, 0], atol=1e-12)  # 1.5 samples
    for level in (0.8, 0.9, 1.0):
        value, weights = robust.cvar(values, level)
        assert value == pytest.approx(4.0, abs=1e-12)
        np.testing.assert_allclose(weights, [0, 0, 1, 0, 0], atol=1e-12)
    np.testing.assert_array_equal(robust.cvar(np.array([2.0, 2.0, 1.0]), 1.0)[1], [0.5, 0.5, 0.0])
    levels = [robust.cvar(values, level)[0] for level in np.linspace(0.0, 1.0, 21)]
    assert (np.diff(levels) >= -1e-12).all()


def test_rows_are_independent():
    values = np.random.default_rng(1).normal(size=(3, 4, 7))
    value, weights = robust.cvar(values, 0.65)
    assert value.shape == (3, 4) and weights.shape == values.shape
    one, its = robust.cvar(values[2, 1], 0.65)
    assert value[2, 1] == one
    np.testing.assert_array_equal(weights[2, 1], its)


def test_the_gradient_is_the_weighted_average_of_gradients():
    rng = np.random.default_rng(2)
    centres, scales = rng.normal(size=(9, 3)), rng.uniform(0.5, 2.0, 9)

    def outcomes(theta):
        return scales * np.log(np.cosh(theta - centres)).sum(axis=1)

    theta = rng.normal(size=3)
    _, weights = robust.cvar(outcomes(theta), 0.73)
    assert np.count_nonzero(weights) == 3 and len(np.unique(weights)) == 3  # 2.43 samples
    exact = weights @ (scales[:, None] * np.tanh(theta - centres))
    found = optimize.approx_fprime(theta, lambda at: robust.cvar(outcomes(at), 0.73)[0], 1e-7)
    np.testing.assert_allclose(found, exact, atol=1e-6)


def test_what_is_no_number_is_worst():
    values = np.array([[1.0, np.nan, 5.0, 2.0], [1.0, 3.0, 5.0, 2.0], [np.nan, np.inf, 0.0, np.nan]])
    value, weights = robust.cvar(values, 0.5)
    np.testing.assert_array_equal(weights[0], [0.0, 0.5, 0.5, 0.0])
    np.testing.assert_array_equal(np.isnan(value), [True, False, True])
    assert value[1] == 4.0  # the others are what they are without
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)


def test_tails_that_cannot_be():
    with pytest.raises(ValueError, match=r"from 0 \(mean\) to 1 \(maximum\), got 1.2"):
        robust.cvar(np.zeros(3), 1.2)
    with pytest.raises(ValueError, match="at least 1 sample"):
        robust.cvar(np.zeros(0), 0.5)


SPREAD = {"opinion_rate": 0.5, "scroll": 0.3, "reach_memory": 0.2, "click_base": 0.1, "agreement_width": 2.0}


def test_sampled_worlds_lie_around_the_present_one():
    present, count = WorldParameters(), 4000
    worlds = robust.parameter_samples(jax.random.key(0), present, spread=SPREAD, count=count)
    for field in dataclasses.fields(WorldParameters):
        drawn, value = np.asarray(getattr(worlds, field.name), np.float64), getattr(present, field.name)
        assert drawn.shape == (count,) and getattr(worlds, field.name).dtype == jnp.zeros(()).dtype
        if field.name not in SPREAD:
            np.testing.assert_array_equal(drawn, np.asarray(jnp.asarray(value, float)))
            continue
        above = np.mean(drawn > value)  # the present value is the median
        assert abs(above - 0.5) < 4 * 0.5 / count**0.5
    rate = np.asarray(worlds.opinion_rate, np.float64)
    assert rate.min() > 0 and rate.std() / rate.mean() == pytest.approx(0.5, rel=0.1)
    wide = np.log(np.asarray(worlds.agreement_width, np.float64))
    assert wide.std() == pytest.approx(np.log(5.0) ** 0.5, rel=4 / (2 * count) ** 0.5)  # r = 2: log(1 + r^2) = log 5
    assert abs(np.corrcoef(wide, np.log(rate))[0, 1]) < 4 / count**0.5
    for name in ("scroll", "reach_memory"):
        share = np.asarray(getattr(worlds, name), np.float64)
        odds = share / (1 - share)
        assert 0 < share.min() and share.max() < 1
        assert odds.std() / odds.mean() == pytest.approx(SPREAD[name], rel=0.1)
    base = np.asarray(worlds.click_base, np.float64)
    assert base.mean() == pytest.approx(-2.4, rel=0.01) and base.std() == pytest.approx(0.24, rel=0.05)


def test_draws_belong_to_names_and_keys():
    sample = robust.parameter_samples
    present, key = WorldParameters(), jax.random.key(1)
    one = sample(key, present, spread={"scroll": 0.3}, count=5)
    more = sample(key, present, spread={"opinion_rate": 0.2, "scroll": 0.3}, count=5)
    other = sample(jax.random.key(2), present, spread={"scroll": 0.3}, count=5)
    np.testing.assert_array_equal(one.scroll, more.scroll)
    assert not np.array_equal(one.scroll, other.scroll) and not np.array_equal(more.opinion_rate, one.opinion_rate)
    still = sample(key, present, spread={"scroll": 0.0}, count=5)
    np.testing.assert_allclose(still.scroll, 0.8, rtol=1e-6)
    moved = sample(key, present.replace(scroll=0.3), spread={"scroll": 0.3}, count=5)
    np.testing.assert_allclose(
        np.log(moved.scroll / (1 - moved.scroll)) - np.log(0.3 / 0.7),
        np.log(one.scroll / (1 - one.scroll)) - np.log(0.8 / 0.2),
        atol=1e-5,
    )


def test_every_declared_bound_has_a_distribution():
    """Every parameter with room around its value can be spread, and stays within its bounds."""
    present = WorldParameters()
    fields = {field.name: field for field in dataclasses.fields(WorldParameters)}
    names = [name for name in fields if getattr(present, name) != 0]
    worlds = robust.parameter_samples(jax.random.key(3), present, spread=dict.fromkeys(names, 0.5), count=64)
    for name in names:
        drawn, bounds = np.asarray(getattr(worlds, name)), fields[name].metadata
        assert np.ptp(drawn) > 0 and np.isfinite(drawn).all()
        for bound, holds in (("ge", np.greater_equal), ("gt", np.greater), ("le", np.less_equal), ("lt", np.less)):
            assert bounds[bound] is None or holds(drawn, bounds[bound]).all(), name


def test_spreads_that_cannot_be():
    for spread, message in (
        ({"gravity": 0.1}, "no world parameter is called 'gravity'"),
        ({"scroll": -0.1}, "from 0 up, got -0.1"),
        ({"scroll": float("nan")}, "from 0 up, got nan"),
        ({"payout_substance": 0.1}, "'payout_substance' is 0, where a relative spread is none"),
    ):
        with pytest.raises(ValueError, match=message):
            robust.parameter_samples(jax.random.key(0), WorldParameters(), spread=spread, count=3)
    with pytest.raises(ValueError, match="got 0"):
        robust.parameter_samples(jax.random.key(0), WorldParameters(), spread={}, count=0)
