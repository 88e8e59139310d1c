"""One known property of each kind, and what it does to the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SIZES, compile, first, gates, inputs, key, population, run, values
from test_conformance import observation

from mamba import ecosystem as eco
from mamba import objectives
from mamba.algorithms import base, registry
from mamba.objectives import NAMES
from mamba.rollout import rollout


def parts(kind, **settings):
    algorithm = registry.make(kind, **settings)
    levers = base.meaningful({n: jnp.float32(v) for n, v in algorithm.levers.items()}, algorithm.bounds)
    return algorithm, levers, *observation(4)


def test_chronological_halves_the_odds_every_half_life():
    algorithm, levers, view, candidates, _ = parts("chronological", half_life=3.0)
    score = algorithm.rank(levers, (), view, candidates, key()).score
    np.testing.assert_allclose(score, -np.log(2) * candidates.age / 3.0, rtol=1e-5)
    newest = jnp.argmax(score, axis=0)
    np.testing.assert_array_equal(candidates.age[newest, jnp.arange(score.shape[1])], jnp.min(candidates.age, axis=0))


@pytest.mark.parametrize("concentration", [0.5, 1.0, 2.0])
def test_popularity_proposes_live_items_in_proportion_to_their_trend(concentration):
    algorithm, levers, view, candidates, _ = parts("popularity", concentration=concentration, proposals=64)
    ids, existence = algorithm.act(levers, (), view, key()).propose
    mass = np.asarray(view.items.alive * (view.items.popularity + 0.1) ** concentration, np.float64)
    count = np.bincount(np.asarray(ids).ravel(), minlength=len(mass))
    expected = mass / mass.sum() * count.sum()
    live = expected > 0
    assert count.sum() == count[live].sum()
    degrees = live.sum() - 1
    assert np.sum((count[live] - expected[live]) ** 2 / expected[live]) < degrees + 4 * np.sqrt(2 * degrees)
    np.testing.assert_allclose(existence, 1.0, rtol=1e-5)
    score = algorithm.rank(levers, (), view, candidates, key()).score
    order = jnp.argsort(candidates.items.popularity.ravel())
    assert bool(jnp.all(jnp.diff(score.ravel()[order]) >= 0))
    assert registry.make("popularity", proposals=0).act(levers, (), view, key()) == base.Act()


def learn_from(kind, rewarded, steps=300):
    """Learned state after many steps in which everybody clicks on, and reshares, what `rewarded(candidates)` marks."""
    algorithm, levers, view, candidates, log = parts(kind)
    everyone = jax.tree.map(lambda x: x, candidates)
    examined = jnp.ones_like(candidates.age)
    clicked = rewarded(candidates).astype(jnp.float32)
    log = log.replace(candidates=everyone, examined=examined, clicked=clicked, reshared=clicked)

    @jax.jit
    def run():
        def one(learned, _):
            return algorithm.learn(levers, learned, view, log, key())[0], None

        return jax.lax.scan(one, algorithm.init(key(), view), None, length=steps)[0]

    return algorithm, levers, view, candidates, run()


def test_engagement_ranks_up_what_was_clicked():
    algorithm, levers, view, candidates, learned = learn_from("engagement", lambda c: c.items.glitter > 0.5)
    score = algorithm.rank(levers, learned, view, candidates, key()).score
    shiny = candidates.items.glitter > 0.5
    assert float(score[shiny].mean()) > float(score[~shiny].mean()) + 1.0
    # the score is the published sum: sharpness times weighted probabilities, within its bound
    assert 0 <= float(score.min()) and float(score.max()) <= 6.0 * 2.0
    pushed = algorithm.rank(levers | {"glitter": jnp.float32(2.0)}, learned, view, candidates, key()).score
    np.testing.assert_allclose(pushed - score, 2.0 * candidates.items.glitter, atol=1e-5)


def test_engagement_explores_live_items_uniformly():
    algorithm, levers, view, _, _ = parts("engagement", proposals=64)
    ids, existence = algorithm.act(levers, (), view, key()).propose
    live = np.flatnonzero(view.items.alive)
    np.testing.assert_array_equal(existence, 1.0)
    count = np.bincount(np.asarray(ids).ravel(), minlength=len(view.age))
    assert count.sum() == count[live].sum()
    expected = count.sum() / len(live)
    assert np.sum((count[live] - expected) ** 2 / expected) < len(live) + 4 * np.sqrt(2 * len(live))


def test_two_tower_learns_who_likes_what_and_retrieves_it():
    def liked(candidates):
        return jnp.argmax(candidates.items.topics, axis=0) == jnp.argmax(candidates.interest, axis=0)[None]

    algorithm, levers, view, candidates, learned = learn_from("two_tower", liked, steps=600)
    score = algorithm.rank(levers, learned, view, candidates, key()).score
    assert float(jnp.max(jnp.abs(score))) <= 3.0  # sharpness times an inner product of two codes of norm at most 1
    good = liked(candidates)
    assert float(score[good].mean()) > float(score[~good].mean()) + 1.0
    ids, existence = algorithm.act(levers, learned, view, key(6)).propose
    np.testing.assert_array_equal(existence, 1.0)
    taste = jnp.argmax(view.interest, axis=0)[None]
    hit = float(jnp.mean(jnp.argmax(view.items.topics[:, ids], axis=0) == taste))
    alive = view.items.alive[None] * (jnp.argmax(view.items.topics, axis=0)[None] == taste.T)
    assert hit > float(jnp.mean(jnp.sum(alive, axis=1) / jnp.sum(view.items.alive))) + 0.2


def test_notification_reminds_those_who_stay_away():
    algorithm, levers, view, _, log = parts("notification", strength=0.2)
    log = log.replace(active=(view.sessions > 0.5).astype(jnp.float32))

    @jax.jit
    def run():
        def one(learned, _):
            return algorithm.learn(levers, learned, view, log, key())[0], None

        return jax.lax.scan(one, algorithm.init(key(), view), None, length=300)[0]

    pace = algorithm.act(levers, run(), view, key()).pace
    order = jnp.argsort(view.sessions)
    assert bool(jnp.all(jnp.diff(pace[order]) <= 0)) and float(pace[order[0]]) > 2 * float(pace[order[-1]])
    assert float(pace.min()) >= 0 and float(pace.max()) <= 0.2


def test_removal_takes_harm_down_first():
    algorithm, levers, view, _, _ = parts("removal", speed=0.6, threshold=0.5)
    learned = algorithm.init(key(), view)
    level = jnp.linspace(0.02, 0.98, len(view.age))
    items = view.items.replace(toxicity_signal=level, falsity_signal=level, reports=jnp.zeros_like(level))
    survive = algorithm.act(levers, learned, view.replace(items=items), key()).survive
    assert bool(jnp.all(jnp.diff(survive) <= 0))
    assert float(survive[0]) > 0.99 and float(survive.min()) >= 1 - 0.6 - 1e-6 and float(survive[-1]) < 0.6
    spared = algorithm.act(levers | {"speed": jnp.float32(0.0)}, learned, view, key()).survive
    np.testing.assert_array_equal(spared, 1.0)


def test_demotion_lowers_harm_and_nothing_else():
    algorithm, levers, view, candidates, _ = parts("demotion", toxicity=2.0, falsity=1.0)
    score = algorithm.rank(levers, (), view, candidates, key()).score
    want = -2.0 * candidates.items.toxicity_signal - candidates.items.falsity_signal
    np.testing.assert_allclose(score, want, rtol=1e-5)
    clean = candidates.replace(items=candidates.items.replace(toxicity_signal=0 * want, falsity_signal=0 * want))
    np.testing.assert_array_equal(algorithm.rank(levers, (), view, clean, key()).score, 0.0)


# ---- what a kind does to the whole, in expected mode -----------------------------------------------------------------


def whole(levers=None, **closed):
    given = inputs(gates=gates(**closed))
    if levers:
        changed = {
            kind: given.levers[kind] | {n: jnp.float32(v) for n, v in new.items()} for kind, new in levers.items()
        }
        given = given.replace(levers=given.levers | changed)
    metrics = run("expected")(given, first(), key())[1]
    return dict(zip(NAMES, values(metrics), strict=True)), metrics


@pytest.mark.parametrize(
    ("kind", "lever", "low", "high", "objective", "sign"),
    [
        ("demotion", "toxicity", -3.0, 2.0, "toxic_exposure_per_impression", -1),
        ("demotion", "falsity", -3.0, 2.0, "misinformation_exposure_per_impression", -1),
        ("removal", "threshold", -3.0, 3.0, "false_removal_rate", -1),
        ("notification", "strength", -4.0, 2.0, "engagement_per_user", 1),
        ("popularity", "strength", -4.0, 1.5, "creator_inequality", 1),
    ],
)
def test_turning_a_lever_moves_its_objective(kind, lever, low, high, objective, sign):
    down, up = (whole({kind: {lever: value}})[0][objective] for value in (low, high))
    assert sign * (up - down) > 0


def test_opening_a_gate_has_its_effect():
    base_values, base_metrics = whole()
    without, quiet = whole(removal=0.0)
    assert float(jnp.sum(quiet["removed"])) == 0 and without["false_removal_rate"] == 0
    assert float(jnp.sum(base_metrics["removed"])) > 0
    silent, _ = whole(notification=0.0)
    assert silent["engagement_per_user"] < base_values["engagement_per_user"]
    assert SIZES.users == 60


def test_popularity_concentrates_attention_where_chronology_does_not():
    # The same inventory, ties and two items from everywhere: drawn and ranked by trend, or drawn alike and ranked by age.
    def inequality(**algorithms):
        ecosystem = eco.make(algorithms, sizes=SIZES)
        given = eco.inputs(ecosystem, population())

        @compile
        def one(seed):
            metrics = rollout(ecosystem, given, key=seed, steps=24, segment=0)[1]
            return objectives.evaluate(metrics, SIZES.users)[NAMES.index("creator_inequality")]

        return np.array([float(one(key(seed))) for seed in range(16)])

    trending = inequality(trending=registry.make("popularity", proposals=2, concentration=1.5, strength=1.0))
    alike = registry.make("popularity", proposals=2, concentration=0.01, strength=1e-3)
    newest = inequality(trending=alike, newest=registry.make("chronological"))
    gap = trending - newest  # paired by seed
    assert gap.mean() > 4 * gap.std(ddof=1) / 16**0.5
