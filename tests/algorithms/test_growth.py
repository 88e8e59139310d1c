"""The A/B machine: its test, what it ships, and what its sample does not see; suggestions of friends; advertising."""

import functools
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import PLAIN, SIZES, assert_same, compile, key, population
from test_conformance import observation

from mamba import ecosystem as eco
from mamba.algorithms import base, membership, registry
from mamba.algorithms.recommenders import friend_suggestion, growth
from mamba.rollout import rollout
from mamba.types import Sizes
from mamba.world.mechanisms import Mechanisms
from mamba.world.parameters import WorldParameters

_file = Path(__file__).resolve().parents[2] / "experiments" / "algorithm_zoo" / "growth_gap.py"
_spec = importlib.util.spec_from_file_location("growth_gap", _file)
growth_gap = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(growth_gap)


def parts(kind, seed=4, **settings):
    algorithm = registry.make(kind, **settings) if isinstance(kind, str) else kind.make(kind.Config(**settings))
    levers = base.meaningful({n: jnp.float32(v) for n, v in algorithm.levers.items()}, algorithm.bounds)
    return algorithm, levers, *observation(seed)


# ---- samples


def test_samples_have_their_share_and_are_independent():
    ids = jnp.arange(20_000)
    one, other = (membership.member(membership.hashed(ids, salt), jnp.float32(0.2)) for salt in (11, 12))
    for weight in (one, other):
        assert abs(float(weight.mean()) - 0.2) < 4 * np.sqrt(0.16 / len(ids))
        assert float(jnp.mean((weight > 0.01) & (weight < 0.99))) < 0.1
    assert abs(np.corrcoef(one, other)[0, 1]) < 4 / np.sqrt(len(ids))
    chance = np.sort(np.asarray(membership.hashed(ids, 3)))
    assert np.max(np.abs(chance - (np.arange(len(ids)) + 0.5) / len(ids))) < 1.95 / np.sqrt(len(ids))
    # neighbours are unrelated, and the ends are exact
    assert abs(np.corrcoef(one[:-1], one[1:])[0, 1]) < 4 / np.sqrt(len(ids))
    hashed = membership.hashed(ids[:200], 3)
    assert float(membership.member(hashed, jnp.float32(0.0)).max()) == 0.0
    assert float(membership.member(hashed, jnp.float32(1.0)).min()) == 1.0


# ---- the sequential test alone


@functools.partial(jax.jit, static_argnames=("users", "share", "count"))
def streams(seed, gain, trait, alpha, *, users, share, count=2000):
    """What is shipped at the end of 48 steps, in `count` experiments on users with persistent traits."""

    def experiment(seed):
        traits, salt, noise = jax.random.split(seed, 3)
        level = jax.nn.sigmoid(-1.0 + trait * jax.random.normal(traits, (users,)))
        arm = membership.member(membership.hashed(jnp.arange(users), jax.random.bits(salt, (), "uint32")), share)

        def step(carry, seed):
            trial, shipped = carry
            outcome = jax.random.bernoulli(seed, jnp.clip(level + gain * arm, 0.0, 1.0)).astype(jnp.float32)
            trial = growth.observe(trial, outcome)
            return (trial, growth.decide(shipped, growth.evidence(trial, arm, 0.05), alpha)), None

        begin = growth.begin(users), jnp.float32(0.0)
        return jax.lax.scan(step, begin, jax.random.split(noise, 48))[0][1]

    return jax.vmap(experiment)(jax.random.split(seed, count))


@pytest.mark.parametrize("users", [60, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("trait", [0.0, 1.5])
def test_without_an_effect_hardly_anything_is_shipped(users, trait):
    for alpha in (0.05, 0.2):
        shipped = streams(key(1), 0.0, trait, alpha, users=users, share=0.2)
        assert float(jnp.mean(shipped > 0.5)) <= alpha
        assert float(jnp.mean(shipped)) <= alpha
    assert float(jnp.mean(shipped > 0.5)) > 0.005  # alpha of 0.2 is used: the test is not merely silent


def test_power_grows_with_the_effect():
    shipped = functools.partial(streams, key(2), users=300, share=0.5, count=500)
    power = [float(jnp.mean(shipped(gain, 1.0, 0.05))) for gain in (0.0, 0.02, 0.05, 0.1)]
    assert np.all(np.diff(power) > 0.01) and power[-1] > 0.9
    worse = shipped(-0.1, 1.0, 0.05)
    assert float(jnp.max(worse)) < 0.01


def test_the_spread_of_probabilities_is_that_of_the_events_behind_them():
    # The same users as events and as probabilities: the test must be as sure of the averages as of one draw of events.
    users, steps = 4000, 12
    chance = jax.nn.sigmoid(jax.random.normal(key(3), (users,)) - 1.0)
    mean, events = growth.begin(users), growth.begin(users)
    for step in range(steps):
        mean = growth.observe(mean, chance)
        events = growth.observe(events, (jax.random.uniform(key(100 + step), (users,)) < chance).astype(jnp.float32))

    def spread(trial):
        return float(jnp.sum(trial.square) - jnp.sum(trial.total) ** 2 / users) / (users - 1)

    assert abs(spread(mean) / spread(events) - 1) < 0.06
    np.testing.assert_allclose(events.square, events.total**2, rtol=1e-6)


# ---- the machine


def test_shipping_gives_everyone_the_challenger_and_before_it_a_sample():
    # Random rankers would differ by their learned state: here the arms differ by a lever, so scores tell who has which.
    algorithm, levers, view, candidates, _ = parts("growth", value=2.0, share=0.4)
    learned = algorithm.init(key(), view)
    old = registry.make("engagement")
    plain = old.rank(
        {name: levers[f"incumbent_{name}"] for name in old.bounds}, learned.incumbent, view, candidates, key()
    ).score
    want = plain + 2.0 * candidates.items.glitter

    def score(state):
        return algorithm.rank(levers, state, view, candidates, key()).score

    np.testing.assert_allclose(score(learned._replace(shipped=jnp.float32(1.0))), want, atol=1e-5)
    users = jnp.arange(view.followers.shape[0])
    mixed = np.zeros(len(users))
    for salt in range(40):
        state = learned._replace(salt=jnp.uint32(salt))
        weight = growth.sample(state.salt, users, view.step, jnp.float32(0.4), growth.Config())
        np.testing.assert_allclose(score(state), plain + weight[None] * (want - plain), atol=1e-5)
        mixed += np.asarray(weight) / 40
    assert abs(mixed.mean() - 0.4) < 4 * np.sqrt(0.24 / (40 * len(users)))
    # both offer the same items: whoever fills a slot, it is there
    offered = algorithm.act(levers, learned, view, key()).propose
    assert_same(offered, old.act({}, (), view, key()).propose)


def test_a_clear_win_is_shipped_for_good_and_a_window_without_one_starts_anew():
    algorithm, levers, view, _, log = parts("growth", window=12, share=0.5)
    many = 400
    view = view.replace(followers=jnp.zeros(many))
    users = jnp.arange(many, dtype=jnp.int32)
    begin = algorithm.init(key(), view)

    @jax.jit
    def run(gain):
        def one(learned, step):
            arm = growth.sample(learned.salt, users, step, jnp.float32(0.5), growth.Config(window=12))
            chance = jnp.clip(0.3 + gain * jnp.where(step < 12, arm, 0.0), 0.0, 1.0)
            outcome = jax.random.bernoulli(jax.random.fold_in(key(5), step), chance).astype(jnp.float32)
            now = log.replace(engaged_weight=outcome)
            learned = algorithm.learn(levers, learned, view.replace(step=step), now, key())[0]
            return learned, (learned.shipped, learned.trial.steps)

        return jax.lax.scan(one, begin, jnp.arange(36, dtype=jnp.int32))[1]

    shipped, steps = run(0.15)
    assert float(shipped[11]) > 0.99 and bool(jnp.all(jnp.diff(shipped) >= 0)) and float(shipped[-1]) <= 1.0
    np.testing.assert_array_equal(steps, np.arange(36) % 12 + 1)
    assert float(run(0.0)[0][-1]) < 0.05


def test_what_the_machine_refuses():
    with pytest.raises(ValueError, match="not growth itself"):
        registry.make("growth", challenger="growth")
    with pytest.raises(ValueError, match="no kind is called 'engagment'"):
        registry.make("growth", incumbent="engagment")
    with pytest.raises(ValueError, match="has no setting 'glittter'"):
        registry.make("growth", changed="glittter")


def test_arms_of_other_ports_are_mixed_too():
    new, old = registry.make("notification", strength=0.3), registry.make("removal")
    both = growth.pair(new, old, growth.Config(share=0.5))
    _, _, view, candidates, _ = parts("notification")
    levers = base.meaningful({n: jnp.float32(v) for n, v in both.levers.items()}, both.bounds)
    learned = both.init(key(), view)
    act = both.act(levers, learned, view, key())
    weight = growth.sample(
        learned.salt, jnp.arange(view.followers.shape[0]), view.step, levers["share"], growth.Config()
    )
    pace = new.act({"strength": jnp.float32(0.3)}, learned.challenger, view, key()).pace
    survive = old.act({n: levers[f"incumbent_{n}"] for n in old.bounds}, learned.incumbent, view, key()).survive
    np.testing.assert_allclose(act.pace, weight * pace, rtol=1e-5)
    np.testing.assert_allclose(act.survive, weight.mean() + (1 - weight.mean()) * survive, rtol=1e-5)
    assert act.propose is None and both.rank(levers, learned, view, candidates, key()) == base.Rank()


# ---- the gap between the sample's win and the whole's

WIDE = Sizes(
    users=400, creators=80, topics=2, lifetime=12, followees=8, in_network=6, recent=3, outbox=3, links=4, log_batch=128
)
ERROR = 1 / np.sqrt(16)


@functools.cache
def gap(network):
    # Reminders: who gets more of them comes back more, and then reads, reshares and posts more.
    strong, weak = (registry.make("notification", strength=strength) for strength in (0.4, 0.001))
    return growth_gap.measure(
        strong,
        weak,
        population(WIDE),
        sizes=WIDE,
        steps=24,
        seeds=16,
        share=0.3,
        mechanisms=Mechanisms() if network else PLAIN,
        learning=network,
        compile=compile,
    )


def test_without_a_network_the_sample_tells_the_truth():
    alone = gap(False)
    np.testing.assert_array_equal(alone.gap, 0.0)
    j = growth_gap.OBJECTIVES.index("engagement_per_user")
    effect, told = alone.total[:, j], alone.sample[:, j]
    assert effect.mean() > 10 * ERROR * effect.std(ddof=1)  # there is an effect to be told
    off = told - effect
    assert abs(off.mean()) < 4 * ERROR * off.std(ddof=1)


def test_on_a_network_the_sample_misleads():
    found = gap(True)
    for name in ("engagement_per_user", "toxic_exposure_per_user"):
        j = growth_gap.OBJECTIVES.index(name)
        effect, missed = found.total[:, j], found.gap[:, j]
        assert abs(missed.mean()) > 6 * ERROR * missed.std(ddof=1)
        # what reaches the others is in neither arm's favour: the sample sees too little
        assert 0.1 * effect.mean() < -missed.mean() < 0.6 * effect.mean()


def test_the_gap_of_the_arms_is_that_of_the_estimates():
    # The gap is measured arm by arm, without what users bring along; on average it is A/B estimate minus effect.
    found = gap(True)
    off = (found.sample - found.total) - found.gap
    error = ERROR * off.std(axis=0, ddof=1)
    assert np.all(np.abs(off.mean(axis=0)) < 4 * error)
    assert np.all(found.gap.std(axis=0) < 0.8 * (found.sample - found.total).std(axis=0))


def test_arms_that_are_alike_have_no_effect_and_no_gap():
    arm = registry.make("engagement", proposals=1)
    alike = growth_gap.measure(arm, arm, population(), sizes=SIZES, steps=12, seeds=3, compile=compile)
    np.testing.assert_array_equal(alike.total, 0.0)
    np.testing.assert_array_equal(alike.gap, 0.0)
    assert np.all(np.abs(alike.sample[:, 0]) > 0)  # arms of different people do differ
    table = growth_gap.table(alike)
    assert all(name in table for name in growth_gap.OBJECTIVES)


# ---- suggestions of friends


def test_suggestions_follow_shared_interests_and_fame():
    algorithm, levers, view, _, _ = parts(friend_suggestion, similarity=2.0, popularity=0.5)
    learned = algorithm.init(key(), view)
    score = algorithm.act(levers, learned, view, key()).link
    topics = np.asarray(view.interest)
    match = np.einsum("du,dlu->lu", topics, topics[:, np.asarray(view.links)]) * len(topics) - 1
    fame = np.log1p(np.asarray(view.followers))[np.asarray(view.links)]
    np.testing.assert_allclose(score, 2.0 * match + 0.5 * fame, atol=1e-5)
    assert algorithm.act(levers, learned, view.replace(links=view.links[:0]), key()).link.shape == (0, match.shape[1])


@pytest.mark.parametrize("alike", [True, False])
def test_suggestion_learns_whether_people_engage_with_their_like(alike):
    algorithm, levers, view, _, log = parts(friend_suggestion)
    users, topics, accounts = 300, 3, 60
    taste = jax.nn.softmax(2.0 * jax.random.normal(key(8), (topics, users)), axis=0)
    view = view.replace(
        interest=taste,
        followers=jnp.zeros(users),
        author=jnp.arange(2 * accounts, dtype=jnp.int32) % accounts,
        age=jnp.zeros(2 * accounts, jnp.int32),
    )
    match = jnp.einsum("du,da->au", taste, taste[:, :accounts])
    closest = jnp.argmax(match if alike else -match, axis=0).astype(jnp.int32)
    log = log.replace(engaged=closest, engaged_weight=jnp.ones(users))

    @jax.jit
    def run():
        def one(learned, step):
            return algorithm.learn(levers, learned, view, log, jax.random.fold_in(key(), step))

        return jax.lax.scan(one, algorithm.init(key(), view), jnp.arange(300))

    learned, losses = run()
    weight = float(learned.weights[1, 0])
    assert weight > 1.3 if alike else weight < -1.0
    assert float(losses[-20:].mean()) < 0.8 * float(losses[:5].mean())


def test_raising_similarity_raises_the_homophily_of_new_ties():
    # Creators who keep to a topic and people with a taste: what is logged then tells people apart.
    sizes = WIDE._replace(links=8, topics=4)
    people = population(sizes).replace(interest=3.0 * jax.random.normal(key(9), (4, sizes.users)))
    topical = people.strategy.at[:, :4].set(4.0 * jax.random.normal(key(10), (sizes.creators, 4)))
    people = people.replace(strategy=topical)
    ecosystem = eco.make({"suggestion": friend_suggestion.make(friend_suggestion.Config())}, sizes=sizes)
    parameters = WorldParameters(rewire_rate=0.5, rewire_distance=0.2)

    @compile
    def run(given, seed):
        state = rollout(ecosystem, given, key=seed, steps=30, mode="sampled", segment=0)[0]
        return state.world.ties

    given = eco.inputs(ecosystem, people, parameters=parameters)
    taste = np.asarray(jax.nn.softmax(people.interest, axis=0))

    def homophily(similarity, seed):
        own = given.levers["suggestion"] | {"similarity": jnp.log(jnp.float32(similarity))}
        ties = run(given.replace(levers={"suggestion": own}), key(seed))
        new = (np.asarray(ties.followees) != np.asarray(people.followees)) & (np.asarray(ties.weight) > 0)
        assert new.sum() > 300
        reader, slot = np.nonzero(new)
        return np.mean(np.sum(taste[:, reader] * taste[:, np.asarray(ties.followees)[reader, slot]], axis=0))

    low, high = (np.array([homophily(similarity, seed) for seed in range(4)]) for similarity in (0.01, 8.0))
    assert np.all(high > low) and (high - low).mean() > 0.015


# ---- advertising

BUDGET = 0.02


@functools.cache
def adverts(steps=400):
    sizes = WIDE._replace(log_batch=WIDE.users)
    ecosystem = eco.make({"ads": registry.make("advertising", budget=BUDGET)}, sizes=sizes)

    @compile
    def run(given, seed):
        return -rollout(ecosystem, given, key=seed, steps=steps, mode="sampled", segment=0)[1]["loss/ads"]

    return run(eco.inputs(ecosystem, population(sizes)), key())


def test_spending_rises_to_the_budget_and_stays_there():
    revenue = adverts()
    assert float(revenue[:5].mean()) < 0.7 * BUDGET  # the loss falls
    assert abs(float(revenue[-200:].mean()) / BUDGET - 1) < 0.03


def test_a_higher_bid_wins_more_proposals_and_positions():
    algorithm, levers, view, candidates, _ = parts("advertising", proposals=64)
    learned = algorithm.init(key(), view)
    author = np.asarray(view.author)
    adverts = np.unique(author[np.asarray(membership.hashed(view.author, 1) < 0.2)])
    rich, *others = adverts
    assert others
    # a multiplier below that of the others is a higher bid
    raised = learned._replace(multiplier=learned.multiplier.at[rich].add(-np.log(4.0)))
    before, after = (np.asarray(algorithm.rank(levers, s, view, candidates, key()).score) for s in (learned, raised))
    by = author[np.asarray(candidates.ids)]
    outside = np.broadcast_to(np.asarray(candidates.in_network) == 0, by.shape)
    promoted = outside & (by == rich)
    assert promoted.any() and (outside & ~np.isin(by, adverts)).any()
    np.testing.assert_allclose((after - before)[promoted], 0.5 * np.log(4.0), rtol=1e-4)
    np.testing.assert_array_equal((after - before)[~promoted], 0.0)
    np.testing.assert_array_equal(after[~outside | ~np.isin(by, adverts)], 0.0)
    # proposals go by bid: four times the odds against the others
    share = []
    for state in (learned, raised):
        ids, existence = algorithm.act(levers, state, view, key(2)).propose
        offered = author[np.asarray(ids)]
        assert np.isin(offered, adverts).all()
        np.testing.assert_allclose(existence, 1.0, rtol=1e-5)
        share.append(np.mean(offered == rich))
    odds = [each / (1 - each) for each in share]
    assert 3.0 < odds[1] / odds[0] < 5.3


def test_clicks_cost_the_second_price_and_never_more_than_the_bid():
    algorithm, levers, view, _, log = parts("advertising", advertisers=1.0)
    learned = algorithm.init(key(), view)._replace(multiplier=jnp.zeros_like(view.followers))
    # two ads to each user, out of network; the first is clicked
    two = jax.tree.map(lambda x: x, log.candidates)
    shape = two.ids.shape
    author = np.asarray(view.author)[np.asarray(two.ids)]
    chance = 1.0 / (1.0 + np.exp(1.0))  # of the untrained click model
    bid = 0.5 + np.asarray(membership.hashed(jnp.asarray(author), 2))
    existence = jnp.zeros(shape).at[-2:].set(1.0)
    clicked = jnp.zeros(shape).at[-2].set(1.0)
    log = log.replace(candidates=two.replace(existence=existence), clicked=clicked, examined=clicked)
    revenue = -algorithm.learn(levers, learned, view, log, key())[1]
    first, second = bid[-2], bid[-1]
    reserve = float(levers["reserve"]) / chance
    price = np.where(first >= second, second, reserve)
    assert (first > second).any() and (first < second).any()
    np.testing.assert_allclose(revenue, price.mean(), rtol=1e-5)
    # a reserve above every bid makes everybody pay what they bid
    dear = -algorithm.learn(levers | {"reserve": jnp.float32(9.0)}, learned, view, log, key())[1]
    np.testing.assert_allclose(dear, first.mean(), rtol=1e-5)
