"""Continuation on systems whose folds are known, on systems without any, and on a platform that collapses."""

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamba import ecosystem as eco
from mamba import objectives
from mamba.algorithms import registry
from mamba.interactions import axes, tipping
from mamba.world.parameters import WorldParameters

_STEP = 0.1
_FOLD = 2 / (3 * np.sqrt(3))  # of r + x - x^3


def _settle(drift, *, noise, hold):
    """Compiled `settle` of dx = drift(x, r) dt + noise dW."""

    def advance(x, r, key):
        after = x + _STEP * drift(x, r) + noise * jnp.sqrt(_STEP) * jax.random.normal(key)
        return after, after[None]

    return jax.jit(lambda x, r, keys: tipping.settle(advance, x, levers=r, keys=keys, hold=hold, layout="vmap"))


def _keys(seed, seeds=8):
    return jax.random.split(jax.random.key(seed), seeds)


def test_saddle_node_has_its_two_folds():
    """r + x - x^3 has two regimes for |r| < 2 / (3 sqrt 3) and one elsewhere."""
    settle = _settle(lambda x, r: r + x - x**3, noise=0.002, hold=300)
    found = tipping.scan(settle, jnp.full(8, -1.2), levers=np.linspace(-0.8, 0.8, 17), keys=_keys(1), bisections=6)
    np.testing.assert_array_equal(found.flagged[:, 0], np.abs(found.levers) < _FOLD)
    assert [fold.branch for fold in found.folds] == ["up", "down"]
    for fold, sign in zip(found.folds, (1, -1), strict=True):
        np.testing.assert_allclose(fold.high - fold.low, 0.1 / 2**6, rtol=1e-6)
        # In 120 units of time the bottleneck behind the fold lets through what is (pi / 120)^2 / sqrt 3 = 0.0004 beyond it.
        assert np.all(fold.low < sign * _FOLD + 0.0015) and np.all(fold.high > sign * _FOLD - 0.0015)
        assert abs(fold.place.mean - sign * _FOLD) < 0.0016  # the width of a bracket


def test_a_regime_that_never_returns_has_its_fold_outside_the_range():
    settle = _settle(lambda x, r: r + x - x**3, noise=0.002, hold=300)
    found = tipping.scan(settle, jnp.full(8, -1.2), levers=np.linspace(-0.3, 0.6, 7), keys=_keys(2), bisections=1)
    up, down = found.folds
    assert up.place is not None
    assert down.place is None and np.all(down.low == -np.inf) and np.all(down.high == -0.3)


def _scans(settle, count):
    return [
        tipping.scan(settle, jnp.full(8, -0.96), levers=np.linspace(-1, 1, 9), keys=_keys(100 + n), lead=1)
        for n in range(count)
    ]


def _bare(scans):
    """Share of scans that three standard errors alone would flag."""
    return np.mean([(np.abs(scan.gap.mean) > 3 * scan.gap.error).any() for scan in scans])


@pytest.mark.slow
def test_a_monotone_system_is_rarely_flagged():
    """tanh(2 r) - x follows its lever: chance may pass for hysteresis in at most 5 % of 200 scans."""
    scans = _scans(_settle(lambda x, r: jnp.tanh(2 * r) - x, noise=0.3, hold=40), 200)
    assert np.mean([scan.flagged.any() for scan in scans]) <= 0.05
    assert _bare(scans) > 0.1  # eight seeds have heavy tails


def test_lag_is_not_hysteresis():
    """The same, with a relaxation time of 100 steps against holds of 40: beyond chance, and yet not flagged."""
    scans = _scans(_settle(lambda x, r: 0.1 * (jnp.tanh(2 * r) - x), noise=0.03, hold=40), 10)
    assert np.mean([scan.screened.any() for scan in scans]) > 0.9
    assert np.mean([scan.flagged.any() for scan in scans]) <= 0.05


def test_scans_are_checked():
    settle = _settle(lambda x, r: r - x, noise=0.1, hold=4)
    with pytest.raises(ValueError, match="ascending"):
        tipping.scan(settle, jnp.zeros(8), levers=[0, 2, 1], keys=_keys(0))
    with pytest.raises(ValueError, match="at least 2 seeds"):
        tipping.scan(settle, jnp.zeros(1), levers=[0, 1, 2], keys=_keys(0, 1))
    with pytest.raises(ValueError, match="hold = 1"):
        tipping.settle(lambda x, r, key: (x, x), jnp.zeros(2), levers=jnp.zeros(2), keys=_keys(0, 2), hold=1)


# ---- platforms

# An empty platform satisfies nobody and a lively one everybody: who finds something comes back and posts. Nothing else moves.
SIZES = helpers.SIZES._replace(users=120, creators=40, followees=12, in_network=8)
COLLAPSING = WorldParameters(
    activity_base=-4.0,
    activity_satisfaction=40.0,
    activity_fatigue=0.0,
    activity_wellbeing=0.0,
    activity_trust=0.0,
    posting_rate=1.0,
    click_base=4.0,
    scroll=0.95,
    churn_rate=0.0,
)
REMINDERS = axes.Axis("levers/notification/strength")


@pytest.fixture(scope="module")
def platform():
    """`(scan of reminders up and down) of world parameters`."""
    ecosystem = eco.make({"notification": registry.make("notification")}, sizes=SIZES)
    people = helpers.population(SIZES)
    chosen = [objectives.NAMES.index(name) for name in ("retention", "engagement_per_user")]

    def summary(metrics):
        return objectives.evaluate(metrics, SIZES.users)[jnp.asarray(chosen)]

    def held(given, moments, levers, keys):
        advance = axes.advancer(ecosystem, given, axis=REMINDERS)
        return tipping.settle(advance, moments, levers=levers, keys=keys, hold=60, summary=summary)

    run = jax.jit(held)
    start = jax.jit(lambda given, keys: axes.begin(ecosystem, given, keys=keys))

    def scan(parameters, **settings):
        given = eco.inputs(ecosystem, people, parameters=parameters)

        def settle(moments, levers, keys):
            return run(given, moments, jnp.asarray(axes.coordinates(ecosystem, REMINDERS, levers)), keys)

        keys = _keys(3)
        grid = np.linspace(0.01, 0.49, 9)
        return tipping.scan(settle, start(given, keys), levers=grid, keys=keys, **settings)

    return scan


@pytest.mark.slow
def test_a_platform_that_lives_on_its_users_tips(platform):
    """On the way up reminders revive an empty platform late; on the way down it needs far fewer of them."""
    found = platform(COLLAPSING, bisections=3)
    assert found.flagged[1:4, 0].all()
    empty, alive = found.up.mean(axis=0)[3, 0], found.down.mean(axis=0)[3, 0]
    assert empty < 0.1 and alive > 0.8
    up, down = found.folds
    assert 0.1 < up.place.low and up.place.high < 0.49
    assert np.mean(down.low == -np.inf) >= 0.75  # once alive, most stay alive without any


@pytest.mark.slow
def test_the_default_world_follows_its_reminders_both_ways(platform):
    assert not platform(WorldParameters()).flagged.any()
