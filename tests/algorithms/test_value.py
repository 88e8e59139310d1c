"""Recommenders by what they value: explored clicks, stated preferences, calibration, weighted actions, one's own score."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SIZES, compile, key, population
from test_conformance import observation

from mamba import ecosystem as eco
from mamba.algorithms import base, linear_bandit, registry
from mamba.algorithms.recommenders import constant, engagement
from mamba.rollout import rollout
from mamba.streams import normals, uniforms


def parts(kind, **settings):
    algorithm = registry.make(kind, **settings)
    levers = base.meaningful({n: jnp.float32(v) for n, v in algorithm.levers.items()}, algorithm.bounds)
    return algorithm, levers, *observation(4)


def taught(algorithm, levers, view, log, steps=300):
    """Learned state after many steps with the same log."""

    @jax.jit
    def run():
        def one(learned, seed):
            return algorithm.learn(levers, learned, view, log, seed)[0], None

        return jax.lax.scan(one, algorithm.init(key(), view), jax.random.split(key(), steps))[0]

    return run()


def correlation(x, y):
    return float(np.corrcoef(np.ravel(x), np.ravel(y))[0, 1])


# ---- bandit ----------------------------------------------------------------------------------------------------------

F, ARMS, ROUNDS = 5, 10, 4000


@functools.cache
def regret(policy):
    """Cumulative regret [seeds, ROUNDS] in a planted linear environment with fresh contexts in every round."""

    def play(seed):
        plant, rest = jax.random.split(seed)
        truth = jax.random.normal(plant, (F,)) / np.sqrt(F)

        def one(posterior, seed):
            context, noise, explore = jax.random.split(seed, 3)
            arms = jax.random.normal(context, (F, ARMS)) / np.sqrt(F)
            belief = linear_bandit.belief(posterior, ridge=1.0)
            if policy == "thompson":
                value = linear_bandit.inner(
                    belief.mean + 0.5 * linear_bandit.deviations(belief, explore, 1)[:, 0], list(arms)
                )
            elif policy == "ucb":
                value = linear_bandit.inner(belief.mean, list(arms))
                value = value + 0.5 * linear_bandit.deviation(belief.root, list(arms))
            else:
                value = uniforms(explore, (ARMS,))
            chosen = jnp.argmax(value)
            reward = truth @ arms[:, chosen] + 0.5 * normals(uniforms(noise, ()))
            posterior = linear_bandit.update(
                posterior, arms[:, chosen, None], reward[None], jnp.ones(1), memory=1.0, ridge=1.0
            )
            return posterior, jnp.max(truth @ arms) - truth @ arms[:, chosen]

        begin = linear_bandit.start(F, ridge=1.0)
        return jnp.cumsum(jax.lax.scan(one, begin, jax.random.split(rest, ROUNDS))[1])

    return np.asarray(jax.jit(jax.vmap(play))(jax.random.split(key(), 8)))


@pytest.mark.parametrize("policy", ["thompson", "ucb"])
def test_regret_of_a_bandit_grows_sublinearly(policy):
    def exponent(path):
        return np.log(path[-1] / path[ROUNDS // 16]) / np.log(16)

    mean, blind = regret(policy).mean(axis=0), regret("random").mean(axis=0)
    assert exponent(mean) < 0.6
    assert exponent(blind) > 0.95
    assert mean[-1] < 0.1 * blind[-1]


def test_the_posterior_is_that_of_ridge_regression():
    rng = np.random.default_rng(0)
    x, y, weight = rng.normal(size=(3, 50)), rng.normal(size=50), rng.random(50)
    posterior = linear_bandit.start(3, ridge=2.0)
    for half in (slice(0, 25), slice(25, 50)):
        given = (jnp.asarray(v, jnp.float32) for v in (x[:, half], (weight * y)[half], weight[half]))
        posterior = linear_bandit.update(posterior, *given, memory=0.5, ridge=2.0)
    aged = weight * np.repeat([0.5, 1.0], 25)
    covariance = np.linalg.inv(2.0 * np.eye(3) + (x * aged) @ x.T)
    belief = linear_bandit.belief(posterior, ridge=2.0)
    np.testing.assert_allclose(belief.root @ belief.root.T, covariance, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(belief.mean, covariance @ (x @ (aged * y)), rtol=1e-4, atol=1e-6)
    plane = [jnp.asarray(row, jnp.float32) for row in x]
    want = np.sqrt(np.einsum("fi,fg,gi->i", x, covariance, x))
    np.testing.assert_allclose(linear_bandit.deviation(belief.root, plane), want, rtol=1e-4)


@pytest.mark.parametrize("campaign", ["men", pytest.param("women", marks=pytest.mark.slow)])
def test_logged_propensities_of_thompson_sampling_are_right(shared, campaign):
    # An environment with the click rates of a uniform-random log. The bandit's own log, weighted by the inverse of the
    # propensities that it wrote down, must give the uniform policy's value: the mean of the random log.
    table = np.load(shared / "data" / "obd" / f"{campaign}_random.npz")
    arms = len(table["item_feature_0"])
    shown = np.bincount(table["item"], minlength=arms)
    rates = jnp.asarray(np.bincount(table["item"], table["click"], arms) / np.maximum(shown, 1), jnp.float32)
    batches, size, noise = 50, 200, 0.07  # the noise of a click at these rates
    floor = 0.1  # share of impressions that are served at random, so that no weight is huge
    units = jnp.eye(arms)

    def logged(seed):
        def one(posterior, seed):
            judge, choose, click, chance = jax.random.split(seed, 4)
            belief = linear_bandit.belief(posterior, ridge=1.0)
            given = linear_bandit.propensities(belief, units, judge, exploration=noise, draws=10_000)
            weights = belief.mean[:, None] + noise * linear_bandit.deviations(belief, choose, size)
            roll = uniforms(chance, (2, size))
            chosen = jnp.where(roll[0] < floor, (roll[1] * arms).astype(jnp.int32), jnp.argmax(weights, axis=0))
            given = floor / arms + (1.0 - floor) * given
            clicked = (uniforms(click, (size,)) < rates[chosen]).astype(jnp.float32)
            posterior = linear_bandit.update(
                posterior, units[:, chosen], clicked, jnp.ones(size), memory=1.0, ridge=1.0
            )
            return posterior, (clicked / given[chosen] / arms, clicked, given)

        begin = linear_bandit.start(arms, ridge=1.0)
        estimates, clicked, given = jax.lax.scan(one, begin, jax.random.split(seed, batches))[1]
        return jnp.mean(estimates), jnp.mean(clicked), given[-1]

    estimate, naive, last = (
        np.asarray(v) for v in jax.jit(lambda s: jax.lax.map(logged, s))(jax.random.split(key(3), 12))
    )
    np.testing.assert_allclose(last.sum(axis=1), 1.0, rtol=1e-5)
    value = float(rates.mean())
    error = estimate.std(ddof=1) / np.sqrt(len(estimate))
    assert abs(estimate.mean() - value) < 2 * error
    # the random log's own mean, which its clicks make uncertain too
    clicks = table["click"]
    spread = np.hypot(error, clicks.std() / np.sqrt(len(clicks)))
    assert abs(estimate.mean() - clicks.mean()) < 2 * spread
    # the bandit earns more than the uniform policy, so that without propensities its log misleads
    assert naive.mean() > value + 5 * error


def test_thompson_draws_differ_between_shares_of_users_and_steps():
    algorithm, levers, view, candidates, log = parts("bandit", draws=3)
    same = candidates.replace(
        items=jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[..., :1], leaf.shape), candidates.items),
        interest=jnp.broadcast_to(candidates.interest[:, :1], candidates.interest.shape),
        age=jnp.broadcast_to(candidates.age[:, :1], candidates.age.shape),
    )
    learned = algorithm.init(key(), view)
    score = algorithm.rank(levers, learned, view, same, key()).score
    np.testing.assert_allclose(score[:, 0], score[:, 3], rtol=1e-6)
    assert not np.allclose(score[:, 0], score[:, 1])
    after = algorithm.learn(levers, learned, view, log, key(5))[0]
    assert not np.allclose(after.deviations, algorithm.learn(levers, learned, view, log, key(6))[0].deviations)
    # a block of users sees the draws that it would see among all
    block = jax.tree.map(lambda leaf: leaf[..., 4:7], same.replace(in_network=None)).replace(in_network=same.in_network)
    np.testing.assert_array_equal(algorithm.rank(levers, learned, view, block, key(9)).score, score[:, 4:7])


@pytest.mark.parametrize("policy", ["thompson", "ucb"])
def test_a_bandit_ranks_up_what_is_clicked_and_explores_less_with_evidence(policy):
    algorithm, levers, view, candidates, log = parts("bandit", policy=policy)
    shiny = log.candidates.items.glitter > 0.5
    log = log.replace(examined=jnp.ones_like(log.examined), clicked=shiny.astype(jnp.float32))
    learned = taught(algorithm, levers, view, log)
    greedy = algorithm.rank(levers | {"exploration": jnp.float32(0.0)}, learned, view, candidates, key()).score
    score = algorithm.rank(levers, learned, view, candidates, key()).score
    good = candidates.items.glitter > 0.5
    assert float(score[good].mean()) > float(score[~good].mean()) + 1.0

    def roaming(state):
        still = algorithm.rank(levers | {"exploration": jnp.float32(0.0)}, state, view, candidates, key()).score
        return float(jnp.std(algorithm.rank(levers, state, view, candidates, key()).score - still))

    assert 0 < roaming(learned) < 0.5 * roaming(algorithm.init(key(), view))
    if policy == "ucb":
        assert bool(jnp.all(score >= greedy))


# ---- stated preferences ----------------------------------------------------------------------------------------------


def test_stated_preference_follows_answers_and_engagement_clicks():
    # Users click what glitters; asked, they value what matches their interest and is harmless.
    algorithm, levers, view, candidates, log = parts("stated_preference")
    shown = candidates.items
    match = jnp.sum(shown.topics * candidates.interest[:, None], axis=0)
    worth = jax.nn.sigmoid(10.0 * (match - jnp.mean(match)) - 4.0 * (shown.toxicity_signal - 0.5))
    clicked = (shown.glitter > 0.5).astype(jnp.float32)
    ones = jnp.ones_like(clicked)
    log = log.replace(
        candidates=candidates, examined=ones, clicked=clicked, reshared=clicked, asked=0.1 * ones, rating=0.1 * worth
    )
    stated = algorithm.rank(levers, taught(algorithm, levers, view, log), view, candidates, key()).score
    other, weights, *_ = parts("engagement")
    engaged = other.rank(weights, taught(other, weights, view, log), view, candidates, key()).score
    assert correlation(stated, worth) > 0.9 and abs(correlation(stated, shown.glitter)) < 0.2
    assert correlation(engaged, shown.glitter) > 0.7 and correlation(engaged, worth) < 0.5
    # the lever goes back to clicks
    mixed = algorithm.rank(
        levers | {"engagement": jnp.float32(20.0)}, taught(algorithm, levers, view, log), view, candidates, key()
    )
    assert correlation(mixed.score, shown.glitter) > 0.7


# ---- diversity -------------------------------------------------------------------------------------------------------


def test_the_score_is_what_an_item_takes_off_the_miscalibration():
    algorithm, levers, view, candidates, _ = parts("diversity", strength=1.0, breadth=1e-6)
    score = algorithm.rank(levers, (), view, candidates, key()).score
    step = 1e-3

    def miscalibration(seen):
        mixed = 0.9 * seen + 0.1 * view.interest[:, None]
        wanted = view.interest[:, None]
        return jnp.sum(wanted * (jnp.log(wanted) - jnp.log(mixed)), axis=0)

    seen = jnp.broadcast_to(view.seen[:, None], candidates.items.topics.shape)
    gain = miscalibration(seen) - miscalibration(seen + step * (candidates.items.topics - seen))
    np.testing.assert_allclose(0.9 * score, gain / step, rtol=0.02, atol=5e-3)


@pytest.mark.parametrize(("breadth", "goal"), [(1e-4, "interest"), (1.0 - 1e-4, "all topics")])
def test_what_users_see_is_pulled_towards_the_goal(breadth, goal):
    # One item a step, the best; what was seen is remembered, as the world does.
    algorithm, levers, view, candidates, _ = parts("diversity", breadth=breadth)
    rng = np.random.default_rng(2)
    users = len(view.followers)
    pool = candidates.items
    topics = jnp.asarray(rng.dirichlet(np.full(3, 0.4), (40, users)).transpose(2, 0, 1), jnp.float32)
    interest = jnp.asarray(rng.dirichlet(np.full(3, 0.8), users).T, jnp.float32)
    offer = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[..., :1, :], (*leaf.shape[:-2], 40, users)), pool)
    candidates = candidates.replace(items=offer.replace(topics=topics), interest=interest)
    wanted = interest if goal == "interest" else jnp.full_like(interest, 1 / 3)

    @jax.jit
    def rank(now):
        return algorithm.rank(levers, (), now, candidates, key()).score

    def see(pick):
        seen = jnp.full((3, users), 1e-3).at[0].set(1.0)
        for _ in range(120):
            now = view.replace(seen=seen / seen.sum(axis=0, keepdims=True), interest=interest)
            best = pick(rank(now))
            seen = 0.97 * seen + jnp.take_along_axis(topics, best[None, None], axis=1)[:, 0]
        return float(jnp.abs(seen / seen.sum(axis=0, keepdims=True) - wanted).sum(axis=0).mean())

    by_chance = np.random.default_rng(0)
    calibrated = see(lambda score: jnp.argmax(score, axis=0))
    assert calibrated < 0.4 * see(lambda score: jnp.asarray(by_chance.integers(0, 40, users)))


def test_diversity_raises_the_diversity_of_exposure_in_a_rollout():
    # enough candidates for ranking to decide what is seen
    sizes = SIZES._replace(topics=3, in_network=16, followees=16, recent=5)
    ecosystem = eco.make({"diversity": registry.make("diversity", breadth=0.9)}, sizes=sizes)

    def body(levers, seed):
        given = eco.inputs(ecosystem, population(sizes))
        given = given.replace(levers={"diversity": given.levers["diversity"] | {"strength": levers}})
        return rollout(ecosystem, given, key=seed, steps=24, mode="expected")[1]["exposure_diversity"][-1]

    run = compile(body)
    low, none, high = (float(run(jnp.float32(strength), key())) for strength in (-12.0, 0.0, 12.0))
    assert low < none - 0.005 and high > none + 0.005


# ---- engagement ------------------------------------------------------------------------------------------------------


def test_the_published_weights_are_those_of_the_preset():
    algorithm, levers, view, candidates, _ = parts("engagement", preset="x_like")
    for name, weight in engagement.X_WEIGHTS.items():
        np.testing.assert_allclose(levers[f"weight_{name}"], weight, rtol=1e-5)
    assert "weight_click" not in levers
    assert set(engagement.X_WEIGHTS) <= set(engagement.HEADS)
    # every weight enters the score as it should: by the probability that its own head predicts
    learned = algorithm.init(key(), view)
    learned = learned._replace(weights=learned.weights + 0.3 * jax.random.normal(key(), learned.weights.shape))
    slopes = jax.jacfwd(lambda w: algorithm.rank(w, learned, view, candidates, key()).score)(levers)
    score = algorithm.rank(levers, learned, view, candidates, key()).score
    linear = sum(levers[f"weight_{name}"] * slopes[f"weight_{name}"] for name in engagement.X_WEIGHTS)
    np.testing.assert_allclose(linear, score, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("action", [name for name in engagement.HEADS if name not in ("click", "reshare")])
def test_weighted_actions_are_learned_and_ranked_by(action):
    weight = -50.0 if action in ("negative", "report") else 50.0
    algorithm, levers, view, candidates, log = parts("engagement", **{f"weight_{action}": weight}, sharpness=1.0)
    shiny = (log.candidates.items.glitter > 0.5).astype(jnp.float32)
    quiet = jax.tree.map(jnp.zeros_like, log.actions)
    log = log.replace(
        examined=jnp.ones_like(shiny), clicked=0.0 * shiny, reshared=0.0 * shiny, reported=0.0 * shiny, actions=quiet
    )
    done = {"reported": shiny} if action == "report" else {"actions": quiet | {action: shiny}}
    learned = taught(algorithm, levers, view, log.replace(**done), steps=1500)
    assert learned.weights.shape[1] == 3
    score = algorithm.rank(levers, learned, view, candidates, key()).score
    good = candidates.items.glitter > 0.5
    assert np.sign(weight) * float(score[good].mean() - score[~good].mean()) > 20.0


def test_only_actions_that_count_have_heads():
    algorithm, levers, view, *_ = parts("engagement")
    assert set(levers) == {"weight_click", "weight_reshare", "sharpness", "glitter"}
    assert algorithm.init(key(), view).weights.shape[1] == 2


# ---- one's own score -------------------------------------------------------------------------------------------------


def test_a_function_of_ones_own_is_the_score():
    def mine(view, candidates):
        return view.followers[view.author[candidates.ids]] - candidates.age

    view, candidates, _ = observation()
    algorithm = constant.make(constant.Config(strength=3.0), score=mine)
    given = {name: jnp.float32(value) for name, value in algorithm.levers.items()}
    levers = base.meaningful(given, algorithm.bounds)
    score = algorithm.rank(levers, (), view, candidates, key()).score
    np.testing.assert_allclose(score, 3.0 * mine(view, candidates), rtol=1e-6)


def test_named_scores():
    view, candidates, _ = observation()
    scores = {}
    for name in constant.SCORES:
        algorithm, levers, *_ = parts("constant", score=name)
        scores[name] = algorithm.rank(levers, (), view, candidates, key()).score
    np.testing.assert_array_equal(scores["zero"], 0.0)
    np.testing.assert_allclose(scores["freshness"], -candidates.age / 24.0, rtol=1e-6)
    order = jnp.argsort(candidates.items.popularity.ravel())
    assert bool(jnp.all(jnp.diff(scores["popularity"].ravel()[order]) >= 0))
    with pytest.raises(ValueError, match="score = 'novelty' is none of freshness, popularity, zero"):
        registry.make("constant", score="novelty")
