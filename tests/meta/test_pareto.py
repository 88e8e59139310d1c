"""A front whose points are known, concave and without a rollout; and one wave on a small platform."""

import dataclasses

import jax
import jax.numpy as jnp
import known
import numpy as np
import pytest
from helpers import SIZES, STEPS, population, small

from mamba import ecosystem as eco
from mamba.meta import constraints, derivatives, estimators, fronts, optimise, pareto, scalarise, vector
from mamba.meta.settings import MetaConfig
from mamba.objectives import NAMES

TOXIC, ENGAGED, TRUST = (NAMES.index(name) for name in ("toxic_exposure_per_user", "engagement_per_user", "trust"))
LEVERS = {"a": {"x": jnp.float32(0.5), "y": jnp.float32(-0.8)}}
ENDS = np.array([[0.7, 0.7], [-0.7, -0.7]])  # where either objective is at its best; the front is the segment between


def _outcomes(theta):
    """Harms 1 - exp(-|theta - end|^2) (Fonseca and Fleming 1995): a concave front. More engagement is healthier."""
    first, second = (1.0 - jnp.exp(-jnp.sum((theta - end) ** 2)) for end in ENDS)
    return (
        jnp.ones(len(NAMES) + 1)
        .at[TOXIC]
        .set(1.0 + first)
        .at[ENGAGED]
        .set(3.0 - second)
        .at[TRUST]
        .set(2.0 - 0.3 * theta[0])
    )


MANY = jax.jit(jax.vmap(_outcomes))
SLOPES = jax.jit(jax.vmap(lambda theta, rows: rows @ jax.jacrev(_outcomes)(theta)))


def _search(*, divisions=6, smoothing=0.05, sign=1.0, noise=0.0, **settings):
    ecosystem = eco.Ecosystem(sizes=None, mechanisms=None, names=("a",), algorithms=(None,))
    inputs = eco.Inputs(population=None, parameters=None, levers=LEVERS, gates=jnp.ones(1), learning=jnp.ones(1))
    config = MetaConfig(**{"minimise": {}, "keep": {}, "learning_rate": 0.1, "audit_every": 0, "seeds": 2} | settings)
    asked = []

    def evaluate(members):
        asked.append(len(members.keys))
        thetas = jnp.stack([members.levers["a"]["x"], members.levers["a"]["y"]], axis=1)
        # Common random numbers: what a key adds, it adds to all platforms.
        drawn = jax.vmap(lambda key: jax.random.normal(key, (1,)))(members.keys)
        return np.asarray(MANY(thetas)) + noise * np.asarray(drawn)

    def slopes(thetas, rows, shares, keys):
        assert shares.shape == (len(thetas), 1)
        found = np.asarray(SLOPES(jnp.asarray(thetas, jnp.float32), jnp.asarray(rows, jnp.float32)))
        values = np.asarray(MANY(jnp.asarray(thetas, jnp.float32)))
        return (np.repeat(each[:, None], len(keys), axis=1) for each in (values, sign * found))

    nothing = estimators.Estimator(lambda theta: (), None)
    trainer = optimise.trainer(
        ecosystem, inputs, config, steps=1, evaluate=evaluate, key=jax.random.key(0), estimator=nothing
    )
    grid = scalarise.das_dennis(2, divisions)
    made = pareto.Search(trainer, slopes, None, np.ones(1), np.array([TOXIC, ENGAGED]), grid, smoothing)
    return made, asked


def _front(search, *, steps=60, warm_steps=15, **more):
    return pareto.front(search, steps=steps, warm_steps=warm_steps, seeds=4, key=jax.random.key(1), **more)


def _away(levers):
    """How far from the front, and where along it from 0 to 1."""
    along = (levers - ENDS[0]) @ (ENDS[1] - ENDS[0]) / np.sum((ENDS[1] - ENDS[0]) ** 2)
    nearest = ENDS[0] + np.clip(along, 0, 1)[:, None] * (ENDS[1] - ENDS[0])
    return np.linalg.norm(levers - nearest, axis=1), along


@pytest.fixture(scope="module")
def trained():
    search, _ = _search(noise=0.05)
    return search, *_front(search)


def _harms(search, levers):
    values, before = np.asarray(MANY(jnp.asarray(levers, jnp.float32))), np.asarray(_outcomes(vector.flat(LEVERS)))
    return constraints.harms(values, before, search.objectives)


def test_every_point_lands_on_a_concave_front_in_the_order_of_its_weights(trained):
    search, points, scale = trained
    away, along = _away(points.levers)
    assert away.max() < 0.03
    order = np.argsort(search.grid.weights[:, 1])
    assert np.all(np.diff(along[order]) > 0.03)  # spread over the front: also where a weighted sum has no minimum
    np.testing.assert_allclose(points.levers[order[[0, -1]]], ENDS, atol=0.05)
    # No point of the front is better for these weights by more than 1 % of the range of an objective.
    inner = np.flatnonzero(~pareto.corners(search.grid))
    truth, there = (
        _harms(search, levers)
        for levers in (ENDS[0] + np.linspace(0, 1, 2000)[:, None] * (ENDS[1] - ENDS[0]), points.levers[inner])
    )
    for f, harms in zip(inner, there, strict=True):
        best, found = (
            scalarise.chebyshev(
                some / scale.span, search.grid.weights[f], ideal=scale.ideal / scale.span, smoothing=0.05
            )[0]
            for some in (truth, harms)
        )
        assert found - best.min() < 0.01 < 0.1 * np.ptp(best)


def test_the_front_is_worth_more_than_its_best_point(trained):
    search, points, _ = trained
    harms = _harms(search, points.levers)
    assert fronts.nondominated(harms).sum() == 7
    # The baseline lies off the front: below it is what is gained jointly.
    whole = float(fronts.hypervolume(harms, reference=np.zeros(2)))
    truth = _harms(search, ENDS[0] + np.linspace(0, 1, 2000)[:, None] * (ENDS[1] - ENDS[0]))
    limit = float(fronts.hypervolume(truth, reference=np.zeros(2)))
    best = max(float(fronts.hypervolume(one[None], reference=np.zeros(2))) for one in harms)
    assert 1.1 * best < whole < limit


def test_a_weighted_sum_would_leave_the_middle_empty():
    """The control: with so much smoothing that the scalarisation is a sum, even weights run to an end."""
    points, _ = _front(_search(smoothing=10.0, divisions=2)[0])
    _, along = _away(points.levers)
    assert np.all((along < 0.1) | (along > 0.9))


def test_neighbours_save_steps(trained):
    """From its neighbour a point is there within steps that do not suffice from the baseline."""
    search, points, scale = trained
    last = pareto.waves(search.grid)[-1]
    weights, begin = search.grid.weights[last], pareto.starts(search, last, pareto.untrained(search))
    np.testing.assert_array_equal(begin.levers[0], np.asarray(vector.flat(LEVERS)))
    cold = pareto.train(search, begin, weights, scale=scale, steps=15, key=jax.random.key(2)).levers
    assert _away(points.levers[last])[0].max() < 0.03 and _away(cold)[0].min() > 0.1


def test_constraints_hold_at_every_point():
    # Trust is 2 - 0.3 x, and 1.85 at the baseline: it keeps 98 % where x is at most 0.623.
    settings = {"keep": {"trust": 0.98}, "optimizer": "rmsprop", "learning_rate": 0.05}
    points, _ = _front(_search(restore=False, **settings)[0])
    corner = points.levers[:, 0].argmax()
    np.testing.assert_allclose(points.levers[corner], [0.623, ENDS[0, 1]], atol=0.03)
    assert points.multipliers[corner] > 1e-4 and not np.delete(points.multipliers, corner).any()
    assert points.levers[corner, 0] > 0.6234  # the multipliers alone leave it a little beyond the limit
    restored, _ = _front(_search(**settings)[0])
    assert 0.62 < restored.levers[:, 0].max() <= 0.6234
    # As much of the way from the baseline as keeps the limit, and of that the same share in every lever.
    start = np.asarray(vector.flat(LEVERS))
    share = (restored.levers[corner] - start) / (points.levers[corner] - start)
    assert 0.9 < share[0] < 1.0
    np.testing.assert_allclose(share, share[0], rtol=1e-5)


def test_multipliers_are_handed_on():
    search, _ = _search(keep={"trust": 0.9})
    known = pareto.untrained(search)
    wave = pareto.waves(search.grid)
    for each, value in zip(known, (0.1, 0.5, 0.0), strict=True):
        each[wave[1]] = value
    begin = pareto.starts(search, wave[2], known)
    np.testing.assert_array_equal(begin.multipliers, 0.5)
    np.testing.assert_array_equal(begin.levers, 0.1)
    np.testing.assert_array_equal(begin.shares, 0.0)


def test_a_stopped_front_goes_on_with_the_same_bytes():
    search, asked = _search(noise=0.05, divisions=4)
    kept = []
    whole, scale = _front(
        search, steps=10, warm_steps=4, done=lambda points, scale: kept.append((points.levers.copy(), points, scale))
    )
    assert len(kept) == len(pareto.waves(search.grid)) == 3
    asked.clear()
    partly = pareto.Points(*(np.array(each) for each in whole))
    later = pareto.waves(search.grid)[-1]
    for each in partly:
        each[later] = np.nan
    again, same = _front(search, steps=10, warm_steps=4, known=partly, scaled=kept[0][2])
    np.testing.assert_array_equal(again.levers, whole.levers)
    np.testing.assert_array_equal(same.span, scale.span)
    assert len(asked) == 4  # the steps of the last wave, and nothing measured twice
    assert np.isnan(kept[0][0]).any(axis=1).sum() == 3 and not np.isnan(kept[-1][0]).any()


def test_what_points_share_is_measured_once():
    search, asked = _search(divisions=4, constraint_seeds=3)
    wave = pareto.waves(search.grid)[0]
    begin = pareto.starts(search, wave, pareto.untrained(search))
    pareto.train(search, begin, search.grid.weights[wave], scale=None, steps=2, key=jax.random.key(0))
    assert asked == [9, 9]  # two points and one baseline of three seeds


def test_audits_overrule_a_lying_gradient_at_every_point():
    settings = {"sign": -1.0, "divisions": 2, "audit_pairs": 4, "audit_sigma": 0.1}
    blind, _ = _front(_search(**settings)[0], steps=10)
    honest, _ = _front(_search(**settings, audit_every=2)[0])
    assert _away(honest.levers)[0].max() < 0.1 < _away(blind.levers)[0].min()


def test_settings_that_make_no_front():
    given = {"steps": 2, "divisions": 2, "smoothing": 0.05, "evaluate": None, "key": jax.random.key(0)}
    ecosystem = eco.make({"removal": small("removal")}, sizes=SIZES)
    for objectives, config, message in (
        (("nothing", "trust"), {}, "no objective is called 'nothing'"),
        (("trust",), {}, "at least two different"),
        (("trust", "trust"), {}, "at least two different"),
        (("trust", "wellbeing"), {"estimator": "es"}, "estimator es cannot train a front"),
        (("trust", "wellbeing"), {"through": {"nobody": False}}, "no algorithm is called 'nobody'"),
    ):
        with pytest.raises(ValueError, match=message):
            pareto.search(ecosystem, None, MetaConfig(**config), objectives=objectives, **given)
    with pytest.raises(ValueError, match="train the corners first"):
        search, _ = _search()
        wave = pareto.waves(search.grid)[1]
        begin = pareto.starts(search, wave, pareto.untrained(search))
        pareto.train(search, begin, search.grid.weights[wave], scale=None, steps=1, key=jax.random.key(0))


# ---- gradients of many points


def test_slopes_side_by_side_are_those_one_by_one():
    system, context = known.LINEAR, known.Noise(0.1, 0.0)
    rng = np.random.default_rng(0)
    thetas, rows, shares = rng.normal(size=(5, 3)), rng.normal(size=(5, 1, 2)), np.ones((5, 1))
    keys = jax.random.split(jax.random.key(0), 2)
    ways = [
        pareto._slopes(system, context, steps=known.STEPS, layout=layout, width=2)(thetas, rows, shares, keys)
        for layout in ("loop", "vmap")
    ]
    for one, many in zip(*ways, strict=True):
        assert one.shape == many.shape and one.shape[:2] == (5, 2)
        np.testing.assert_allclose(one, many, rtol=1e-4, atol=1e-5)
    alone = derivatives.reverse(system, steps=known.STEPS)
    for w in range(5):
        given = (jnp.asarray(each, jnp.float32) for each in (thetas[w], rows[w], shares[w]))
        np.testing.assert_allclose(ways[0][1][w], alone(context, *given, keys)[1], rtol=1e-4, atol=1e-5)


# ---- on a platform


@pytest.fixture(scope="module")
def platform():
    """Both layouts of one small platform, with their programs."""
    ecosystem = eco.make({kind: small(kind) for kind in ("engagement", "removal")}, sizes=SIZES)
    inputs = eco.inputs(ecosystem, population())
    config = MetaConfig(
        seeds=1, constraint_seeds=1, audit_every=0, monitor_every=0, keep={"trust": 0.9, "engagement_per_user": 0.97}
    )

    def evaluate(members):
        # The sampled model is not what is tested here: outcomes that levers move a little.
        thetas = jax.vmap(vector.flat)(members.levers)
        return 1.0 + 0.01 * np.asarray(jnp.sin(thetas @ jnp.ones((thetas.shape[1], len(NAMES) + 2))))

    common = {"objectives": ("toxic_exposure_per_user", "engagement_per_user"), "divisions": 2, "smoothing": 0.05}
    return {
        layout: pareto.search(
            ecosystem, inputs, config, **common, steps=STEPS, evaluate=evaluate, key=jax.random.key(0), layout=layout
        )
        for layout in ("loop", "vmap")
    }


@pytest.mark.slow
def test_a_wave_is_the_same_one_by_one_and_side_by_side(platform):
    search = platform["loop"]
    assert [NAMES[i] for i in search.trainer.goal.kept] == ["trust"]  # what is traded off is not kept
    theta = np.asarray(vector.flat(search.trainer.baseline), np.float64)
    rng = np.random.default_rng(0)
    thetas = theta + 0.1 * rng.normal(size=(3, len(theta)))
    rows = rng.normal(size=(3, 1, len(NAMES) + 2)) * (np.arange(len(NAMES) + 2) < len(NAMES))
    shares = np.tile(search.shares, (3, 1))
    keys = jax.random.split(jax.random.key(3), 1)
    one, many = (platform[layout].slopes(thetas, rows, shares, keys) for layout in ("loop", "vmap"))
    for a, b in zip(one, many, strict=True):
        assert a.shape == b.shape and len(a) == 3 and np.abs(a).max() > 0
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5 * np.abs(a).max())
    alone = [search.slopes(thetas[w : w + 1], rows[w : w + 1], shares[:1], keys)[1][0] for w in range(3)]
    np.testing.assert_array_equal(one[1], np.stack(alone))
    assert np.abs(one[1][0] - one[1][1]).max() > 1e-6


@pytest.mark.slow
def test_a_wave_trains_alike_in_both_layouts(platform):
    ends = []
    for layout in ("loop", "vmap"):
        search = platform[layout]
        wave = pareto.waves(search.grid)[0]
        begin = pareto.starts(search, wave, pareto.untrained(search))
        found = pareto.train(search, begin, search.grid.weights[wave], scale=None, steps=2, key=jax.random.key(4))
        assert np.all(np.isfinite(found.levers)) and np.abs(found.levers - begin.levers).max() > 0.01
        ends.append(found.levers)
    np.testing.assert_allclose(*ends, atol=2e-3)


@pytest.mark.slow
def test_certificates_use_the_program_of_the_training(platform):
    search = platform["loop"]
    theta = np.asarray(vector.flat(search.trainer.baseline), np.float64)
    rows = np.zeros((2, len(NAMES) + 2))
    rows[0, TOXIC], rows[1, ENGAGED] = 1.0, -1.0
    keys = jax.random.split(jax.random.key(5), 3)
    found = pareto.certificate_slopes(search, theta, rows, search.shares, keys)
    assert found.shape == (3, 2, len(theta))
    one = search.slopes(theta[None], rows[None, 1:], search.shares[None], keys[2:])[1][0, 0, 0]
    np.testing.assert_array_equal(found[2, 1], one)
    odd = search._replace(trainer=search.trainer._replace(config=dataclasses.replace(search.trainer.config, seeds=2)))
    with pytest.raises(ValueError, match="no multiple"):
        pareto.certificate_slopes(odd, theta, rows, search.shares, keys)
