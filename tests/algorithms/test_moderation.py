"""Known properties of the moderators that review, sanction, hold, limit and leave it to communities."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import PLATFORMS, first, gates, inputs, key, platform_with, run, values
from jax.test_util import check_grads
from test_conformance import observation

from mamba.algorithms import base, registry, review
from mamba.objectives import NAMES
from mamba.streams import uniforms
from mamba.types import Log, View


def parts(kind, **settings):
    algorithm = registry.make(kind, **settings)
    levers = base.meaningful({n: jnp.float32(v) for n, v in algorithm.levers.items()}, algorithm.bounds)
    return algorithm, levers, *observation(4)


def quiet(log: Log) -> Log:
    """The log of a step in which nothing happened."""
    still = {name: jnp.zeros_like(value) for name, value in log.actions.items()}
    names = ("examined", "clicked", "reshared", "reported", "asked", "rating", "engaged_weight", "shared_weight")
    names += ("counts", "active", "checked", "verdict", "taken", "appealed", "judgement")
    return log.replace(actions=still, **{name: jnp.zeros_like(getattr(log, name)) for name in names})


def aged(view: View, age: int = 2, **items) -> View:
    """A view whose items are all of one age and alive."""
    shape = view.age.shape
    changes = {"alive": jnp.ones(shape)} | {name: jnp.broadcast_to(value, shape) for name, value in items.items()}
    return view.replace(age=jnp.full(shape, age, jnp.int32), items=view.items.replace(**changes))


# ---- human review ----------------------------------------------------------------------------------------------------


def factorial_moments(yes: np.ndarray, raters: np.ndarray) -> tuple[float, float, float]:
    one = yes / raters
    two = one * (yes - 1) / (raters - 1)
    return float(np.mean(one)), float(np.mean(two)), float(np.mean(two * (yes - 2) / (raters - 2)))


def test_reviewers_err_as_often_as_the_raters_of_public_annotations(shared):
    votes = np.load(shared / "data" / "hate_annotations" / "votes.npz")
    yes, raters = votes["hate"].astype(float), votes["n_raters"].astype(float)
    low, high, _ = review.two_coins(factorial_moments(yes, raters))
    np.testing.assert_allclose(review.SENSITIVITY, high, atol=5e-4)
    np.testing.assert_allclose(review.SPECIFICITY, 1 - low, atol=5e-4)
    # The mixture is a model: other posts, those with more than three raters, must tell the same of raters.
    more = raters > 3
    low, high, _ = review.two_coins(factorial_moments(yes[more], raters[more]))
    np.testing.assert_allclose((high, 1 - low), (review.SENSITIVITY, review.SPECIFICITY), atol=0.07)


def test_two_coins_recovers_a_known_mixture():
    rng = np.random.default_rng(0)
    harmful = rng.random(200_000) < 0.2
    yes = rng.binomial(3, np.where(harmful, 0.8, 0.1))
    found = review.two_coins(factorial_moments(yes, np.full(yes.shape, 3.0)))
    np.testing.assert_allclose(found, (0.1, 0.8, 0.2), atol=0.01)


@pytest.mark.parametrize("budget", [0.5, 3.0, 12.0])
def test_the_soft_top_spends_its_budget_and_has_the_derivative_of_the_implicit_function(budget):
    rng = np.random.default_rng(1)
    values, weight = jnp.asarray(rng.normal(size=(2, 30)), jnp.float32)
    weight = jax.nn.sigmoid(weight)

    @jax.jit
    def taken(values, weight, budget):
        return review.top(values, weight, budget, 0.25)

    share = taken(values, weight, jnp.float32(budget))
    np.testing.assert_allclose(jnp.sum(weight * share), budget, rtol=1e-4)
    order = jnp.argsort(values)
    assert bool(jnp.all(jnp.diff(share[order]) >= 0))
    check_grads(taken, (values, weight, jnp.float32(budget)), order=1, atol=2e-2, rtol=2e-2, eps=1e-2)
    # A shift of all values changes nobody's rank.
    moved = jax.jvp(lambda shift: taken(values + shift, weight, jnp.float32(budget)), (0.0,), (1.0,))[1]
    np.testing.assert_allclose(moved, 0.0, atol=1e-5)
    # More reviewers than items: 99 % of the queue, and an empty queue breaks nothing.
    everything = jnp.sum(weight * taken(values, weight, jnp.float32(1e6)))
    np.testing.assert_allclose(everything, 0.99 * jnp.sum(weight), rtol=1e-4)
    assert bool(jnp.all(jnp.isfinite(taken(values, 0 * weight, jnp.float32(budget)))))


def queue_after(steps, *, capacity=0.05, judgement=1.0, **settings):
    algorithm, levers, view, _, log = parts("review_queue", capacity=capacity, **settings)
    rng = np.random.default_rng(3)
    harm = jnp.asarray(rng.random(view.age.shape), jnp.float32)
    view = aged(view, toxicity_signal=harm, falsity_signal=harm)
    log = quiet(log)
    counts = jnp.zeros_like(log.counts).at[:, 0].set(jnp.asarray(rng.random(view.age.shape), jnp.float32))
    log = log.replace(judgement=jnp.full(harm.shape, judgement), counts=counts)

    @jax.jit
    def path():
        def one(learned, _):
            learned, left = algorithm.learn(levers, learned, view, log, key())
            return learned, (algorithm.act(levers, learned, view, key()), left)

        return jax.lax.scan(one, algorithm.init(key(), view), None, length=steps)

    return path()


def test_the_queue_pays_its_capacity_and_takes_the_most_preventable_harm_first():
    learned, (acts, left) = queue_after(15)
    np.testing.assert_allclose(acts.reviews, 0.05 * learned.reviewed.size, rtol=1e-3)
    # The first 5 % of the items, chosen by the index, hold far more than 5 % of the preventable harm.
    assert float(left[0]) < 1 - 2 * 0.05
    assert bool(jnp.all(jnp.diff(left) < 0))
    first_review, (acts, _) = queue_after(1)
    np.testing.assert_allclose(1.0 - acts.survive[0], review.SENSITIVITY * first_review.reviewed, atol=1e-6)


def test_a_review_is_paid_and_acted_upon_once():
    # Nobody is really taken from this queue: in the end every item has had its one review.
    learned, (acts, _) = queue_after(60, sensitivity=1.0, specificity=1.0)
    paid = float(jnp.sum(acts.reviews))
    np.testing.assert_allclose(paid, jnp.sum(1.0 - acts.survive), rtol=1e-4)
    np.testing.assert_allclose(paid, jnp.sum(learned.reviewed), rtol=1e-4)
    assert 0.95 * learned.reviewed.size < paid <= learned.reviewed.size + 1e-3


def test_reviewers_remove_what_violates_and_seldom_what_does_not():
    wrong, right = (jnp.sum(1.0 - queue_after(1, judgement=value)[1][0].survive) for value in (0.0, 1.0))
    np.testing.assert_allclose(wrong / right, (1 - review.SPECIFICITY) / review.SENSITIVITY, rtol=1e-4)


def test_a_new_item_in_a_recycled_slot_starts_clean():
    algorithm, levers, view, _, log = parts("review_queue", capacity=0.5)
    view = aged(view)
    log = quiet(log).replace(judgement=jnp.ones(view.age.shape))
    learned, _ = jax.jit(algorithm.learn)(levers, algorithm.init(key(), view), view, log, key())
    assert float(jnp.sum(1.0 - algorithm.act(levers, learned, view, key()).survive)) > 1
    new = aged(view, age=0)
    np.testing.assert_array_equal(algorithm.act(levers, learned, new, key()).survive, 1.0)


# ---- circuit breaker -------------------------------------------------------------------------------------------------

_CROWDS, _PEOPLE, _TRACES, _BURSTS, _STEPS = 8, 60, 80, 20, 16
_BURST = np.arange(_TRACES) >= _TRACES - _BURSTS


def poisson(rate: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Poisson counts by inversion, at most 12, so that two rules face the same noise."""
    mass, below, count = np.exp(-rate), np.zeros_like(rate), np.zeros_like(rate)
    for k in range(1, 13):
        below = below + mass
        count = count + (uniform > below)
        mass = mass * rate / k
    return count


@functools.cache
def breaker(communities):
    """A circuit breaker without reviews on `_TRACES` standing items, compiled: `(start, learn, friction)`."""
    algorithm, levers, view, candidates, log = parts("circuit_breaker", communities=communities, friction=0.95)
    levers = levers | {"entry": jnp.float32(0.0), "review": jnp.float32(0.0)}
    one = jax.tree.map(lambda x: x[..., :1].repeat(_TRACES, axis=-1), aged(view).items)
    here = jnp.arange(_CROWDS * _PEOPLE, dtype=jnp.int32) % _CROWDS
    none = jnp.zeros(_TRACES)
    view = view.replace(age=jnp.ones(_TRACES, jnp.int32), group=here, items=one)
    log = quiet(log).replace(taken=none, judgement=none)
    candidates = candidates.replace(ids=jnp.arange(_TRACES, dtype=jnp.int32)[:, None])

    @jax.jit
    def learn(learned, threshold, shared, weight):
        now = log.replace(shared=shared, shared_weight=weight)
        return algorithm.learn(levers | {"threshold": threshold}, learned, view, now, key())[0]

    @jax.jit
    def friction(learned):
        return algorithm.rank(levers, learned, view, candidates, key()).friction[:, 0]

    return algorithm.init(key(), view), learn, friction


def spread(communities, threshold, seed):
    """Reshares and last friction of `_TRACES` branching processes over communities, the last `_BURSTS` of them bursts.

    Ordinary cascades start in one community and stay there but for a tenth (branching 0.75). Bursts are seeded in all
    communities by as many posts in total and cross freely (1.5).
    """
    learned, learn, friction = breaker(communities)
    rng, crowding = np.random.default_rng(seed), np.random.default_rng(seed)
    noise = rng.random((_STEPS, _TRACES, _CROWDS))
    home = np.eye(_CROWDS)[rng.integers(0, _CROWDS, _TRACES)]
    seeds = np.where(_BURST[:, None], 1.0 / _CROWDS, home)
    recent, total, left = np.zeros((_TRACES, _CROWDS)), np.zeros(_TRACES), np.ones(_TRACES)
    for step in range(_STEPS):
        drive = recent.sum(axis=1, keepdims=True) / _CROWDS
        offspring = np.where(_BURST[:, None], 1.5 * drive, 0.75 * (0.9 * recent + 0.1 * drive))
        rate = (seeds * (step < 3) + np.minimum(offspring, 2.0)) * left[:, None]
        counts = poisson(rate, noise[step])
        shared, weight = np.zeros((_PEOPLE, _CROWDS), np.int32), np.zeros((_PEOPLE, _CROWDS), np.float32)
        for g in range(_CROWDS):
            sharers = np.repeat(np.arange(_TRACES), counts[:, g].astype(int))
            sharers = crowding.permutation(sharers)[:_PEOPLE]
            shared[: len(sharers), g], weight[: len(sharers), g] = sharers, 1.0
        learned = learn(learned, jnp.float32(threshold), jnp.asarray(shared.ravel()), jnp.asarray(weight.ravel()))
        recent, total, left = 0.5 * recent + 0.5 * counts, total + counts.sum(axis=1), np.asarray(friction(learned))
    return total, left


def held_wrongly(communities, threshold):
    """Share of ordinary items that end up held."""
    return np.mean([np.mean(spread(communities, threshold, seed)[1][~_BURST] < 0.5) for seed in range(4)])


def burst_size(communities, threshold):
    return np.mean([spread(communities, threshold, seed)[0][_BURST].mean() for seed in range(10, 16)])


def test_a_burst_from_many_sources_is_cut_more_than_by_total_growth_at_the_same_rate_of_false_holds():
    size = {}
    for communities in (1, _CROWDS):
        low, high = 0.1, 6.0
        for _ in range(9):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if held_wrongly(communities, middle) > 0.1 else (low, middle)
        false = held_wrongly(communities, high)
        assert 0.05 <= false <= 0.1
        size[communities] = burst_size(communities, high)
    free = burst_size(1, 1e3)
    # measured: 104 reshares a burst without a hold, 33 under the rule on total growth, 6 under this one
    assert size[_CROWDS] < 0.5 * size[1] < 0.5 * free


def test_a_hold_is_reversible_and_a_review_lifts_it_for_good():
    algorithm, levers, view, candidates, log = parts("circuit_breaker", review=0.5)
    view, log = aged(view), quiet(log)
    target = candidates.ids[0, 0]
    crowd = log.replace(shared=jnp.full_like(log.shared, target), shared_weight=jnp.ones_like(log.shared_weight))
    learn = jax.jit(lambda learned, log: algorithm.learn(levers, learned, view, log, key())[0])
    held = learn(algorithm.init(key(), view), crowd)
    rank = algorithm.rank(levers, held, view, candidates, key())
    there = candidates.ids == target
    assert float(jnp.max(jnp.where(there, rank.score, -jnp.inf))) < -0.95 * float(levers["strength"])
    np.testing.assert_allclose(rank.friction, 1 - levers["friction"] * there, atol=0.01)
    assert float(jnp.max(jnp.abs(jnp.where(there, 0.0, rank.score)))) < 0.02
    assert algorithm.act(levers, held, view, key()).survive is None
    ends = {}
    for judgement in (0.0, 1.0):
        learned = held
        for _ in range(20):
            learned = learn(learned, log.replace(judgement=jnp.full_like(log.judgement, judgement)))
        ends[judgement] = learn(learned, crowd)
    still = {judgement: float((end.held + end.upheld)[target]) for judgement, end in ends.items()}
    np.testing.assert_allclose(still[0.0], 1 - review.SPECIFICITY, atol=0.01)
    np.testing.assert_allclose(still[1.0], review.SENSITIVITY, atol=0.01)
    for end in ends.values():  # free, held, upheld and cleared are the parts of one
        assert bool(jnp.all(end.held + end.upheld + end.cleared <= 1 + 1e-5))


# ---- rules -----------------------------------------------------------------------------------------------------------


def test_either_rule_is_enough_and_neither_looks_at_anything_else():
    algorithm, levers, view, _, _ = parts("rules", toxicity=0.7, falsity=0.5, speed=0.4)

    def survive(toxicity, falsity, view=view):
        return algorithm.act(levers, (), aged(view, toxicity_signal=toxicity, falsity_signal=falsity), key()).survive

    np.testing.assert_allclose(survive(0.2, 0.1), 1.0, atol=1e-3)
    for toxicity, falsity in ((0.99, 0.1), (0.2, 0.9), (0.99, 0.9)):
        np.testing.assert_allclose(survive(toxicity, falsity), 1 - 0.4, atol=5e-3)
    np.testing.assert_allclose(survive(0.7, 0.0), 1 - 0.4 / 2, atol=1e-4)
    np.testing.assert_array_equal(survive(0.6, 0.4), survive(0.6, 0.4, observation(9)[0]))


# ---- strikes ---------------------------------------------------------------------------------------------------------


def test_strikes_add_up_and_fade_and_only_the_author_is_sanctioned():
    algorithm, levers, view, candidates, log = parts("strikes", memory=0.9)
    view = aged(view)
    culprit = 2
    slot = int(jnp.argmax(view.author == culprit))
    log = quiet(log)
    guilty = log.replace(taken=log.taken.at[slot].set(1.0))
    learn = jax.jit(lambda learned, log: algorithm.learn(levers, learned, view, log, key())[0])
    learned = algorithm.init(key(), view)
    for _ in range(8):
        learned = learn(learned, guilty)
    np.testing.assert_allclose(learned.strikes[culprit], (1 - 0.9**8) / (1 - 0.9), rtol=1e-4)
    np.testing.assert_allclose(jnp.sum(learned.strikes), learned.strikes[culprit], atol=0.05)
    # Warned: the rank of all that the author has posted falls; suspended: what is new stops, what stands stays.
    score = algorithm.rank(levers, learned, view, candidates, key()).score
    own = view.author[candidates.ids] == culprit
    np.testing.assert_allclose(jnp.where(own, score, -levers["reach"]), -levers["reach"], atol=1e-3)
    assert float(jnp.max(jnp.abs(jnp.where(own, 0.0, score)))) < 0.05
    np.testing.assert_array_equal(algorithm.act(levers, learned, view, key()).survive, 1.0)
    survive = algorithm.act(levers, learned, aged(view, age=0), key()).survive
    np.testing.assert_allclose(survive, view.author != culprit, atol=1e-3)
    for _ in range(60):
        learned = learn(learned, log)
    np.testing.assert_allclose(algorithm.act(levers, learned, aged(view, age=0), key()).survive, 1.0, atol=1e-3)


def test_a_suspension_gives_no_strikes_for_what_it_stops_itself():
    algorithm, levers, view, _, log = parts("strikes", memory=0.9)
    view = aged(view, age=0)
    before = algorithm.init(key(), view)._replace(strikes=jnp.linspace(0.0, 12.0, view.group.shape[0]))
    stopped = 1.0 - algorithm.act(levers, before, view, key()).survive
    assert float(jnp.max(stopped)) > 0.3
    after, _ = algorithm.learn(levers, before, view, quiet(log).replace(taken=stopped), key())
    np.testing.assert_allclose(after.strikes, 0.9 * before.strikes, atol=1e-5)


def test_an_appeal_that_is_granted_takes_the_strike_back_and_every_appeal_is_paid():
    algorithm, levers, view, _, log = parts("strikes")
    view = aged(view)
    log = quiet(log)
    taken = log.taken.at[:4].set(1.0)
    log = log.replace(taken=taken, appealed=taken, judgement=jnp.zeros_like(taken).at[:2].set(1.0))
    learned, _ = algorithm.learn(levers, algorithm.init(key(), view), view, log, key())
    np.testing.assert_allclose(learned.strikes[:5], [1.0, 1.0, 0.0, 0.0, 0.0], atol=1e-4)
    np.testing.assert_allclose(algorithm.act(levers, learned, view, key()).reviews, 4.0)


# ---- communities and persons -----------------------------------------------------------------------------------------


def community_votes(limit, steps=300):
    """Learned shifts after users liked what is below their own community's `limit` and complained about the rest."""
    algorithm, levers, view, _, log = parts("community_rules", complaint_weight=1.0)
    mine = jnp.asarray(limit)[view.group[log.candidates.users]][None]

    @jax.jit
    def votes():
        def one(learned, step):
            harm = uniforms(jax.random.fold_in(key(), step), log.examined.shape)
            items = log.candidates.items.replace(toxicity_signal=harm, falsity_signal=harm)
            dislikes = (harm > mine).astype(jnp.float32)
            actions = quiet(log).actions | {"like": 1.0 - dislikes, "negative": dislikes}
            now = quiet(log).replace(candidates=log.candidates.replace(items=items), actions=actions)
            return algorithm.learn(levers, learned, view, now, key())[0], None

        return jax.lax.scan(one, algorithm.init(key(), view), jnp.arange(steps))[0]

    return algorithm, levers, view, votes()


def test_communities_of_different_tastes_end_with_different_rules_that_bind_nobody_else():
    algorithm, levers, view, learned = community_votes([0.35, 0.75])
    np.testing.assert_allclose((levers["start"] + learned)[:2], [0.35, 0.75], atol=0.06)
    np.testing.assert_array_equal(learned[2:], 0.0)  # nobody lives there
    # An item between the two tastes goes in the strict community and stays in the other.
    survive = algorithm.act(levers, learned, aged(view, toxicity_signal=0.55, falsity_signal=0.1), key()).survive
    strict = view.group[view.author] == 0
    np.testing.assert_allclose(survive, jnp.where(strict, 1 - levers["speed"], 1.0), atol=0.01)
    # Other neighbours, other votes there: at home not a bit changes.
    _, _, _, other = community_votes([0.35, 0.15])
    assert float(learned[1] - other[1]) > 0.4
    np.testing.assert_array_equal(learned[0], other[0])


def test_a_filter_follows_its_own_user_and_changes_no_other_feed():
    algorithm, levers, view, candidates, log = parts("personal_filters")
    learn = jax.jit(lambda learned, log: algorithm.learn(levers, learned, view, log, key())[0])
    start = algorithm.init(key(), view)
    user = 3
    still = quiet(log)
    mild = jnp.full_like(log.examined, 0.4)
    items = still.candidates.items.replace(toxicity_signal=mild)
    mutes = still.replace(
        candidates=still.candidates.replace(items=items),
        actions=still.actions | {"negative": jnp.zeros_like(mild).at[0, user].set(1.0)},
    )
    likes = mutes.replace(actions=still.actions | {"like": jnp.zeros_like(mild).at[:, user].set(1.0)})
    learned = start
    for _ in range(30):
        learned = learn(learned, mutes)

    def feed(learned):
        toxic = candidates.items.replace(toxicity_signal=jnp.full(candidates.ids.shape, 0.4))
        return algorithm.rank(levers, learned, view, candidates.replace(items=toxic), key()).score

    changed = feed(learned) - feed(start)
    assert float(jnp.max(changed[:, user])) < -0.3 * float(levers["strength"])
    np.testing.assert_array_equal(jnp.delete(changed, user, axis=1), 0.0)
    # A block of users sees its own columns.
    block = jnp.asarray([user, 0], jnp.int32)
    part = jax.tree.map(lambda x: x[..., block], candidates.replace(in_network=None)).replace(
        in_network=candidates.in_network
    )
    whole = algorithm.rank(levers, learned, view, candidates, key()).score
    np.testing.assert_array_equal(algorithm.rank(levers, learned, view, part, key()).score, whole[:, block])
    forgiven = learned
    for _ in range(60):
        forgiven = learn(forgiven, likes)
    assert float(forgiven[user]) > float(learned[user]) + 0.05


# ---- limits ----------------------------------------------------------------------------------------------------------


def test_rate_limits_stop_who_does_too_much_and_nobody_else():
    algorithm, levers, view, candidates, log = parts("rate_limit", window=10.0, posts=4.0, reshares=3.0)
    busy, calm, sharer = 1, 2, 5
    learn = jax.jit(lambda learned, view, log: algorithm.learn(levers, learned, view, log, key())[0])
    log = quiet(log)
    share = log.replace(shared_weight=log.shared_weight.at[sharer].set(1.0).at[calm].set(0.2))
    first_slots = jnp.arange(view.age.shape[0]) < 5  # the slots of this step: one for each author
    learned = algorithm.init(key(), view)
    for step in range(60):
        posts = (view.author == busy) | ((view.author == calm) & (step % 5 == 0))
        now = aged(view, alive=(first_slots & posts).astype(jnp.float32))
        now = now.replace(age=jnp.where(first_slots, 0, 2).astype(jnp.int32))
        learned = learn(learned, now, share)
    np.testing.assert_allclose(learned.posts[busy], 10.0, rtol=0.01)  # at a steady rate: those of one window
    np.testing.assert_allclose(learned.reshares[jnp.asarray([sharer, calm])], [10.0, 2.0], rtol=0.01)
    survive = algorithm.act(levers, learned, now, key()).survive
    assert float(survive[busy]) < 1e-3
    np.testing.assert_allclose(survive[calm], 1.0, atol=0.02)
    np.testing.assert_array_equal(survive[5:], 1.0)
    friction = algorithm.rank(levers, learned, view, candidates, key()).friction
    assert float(jnp.max(friction[:, sharer])) < 1e-3
    np.testing.assert_allclose(friction[:, 0], 1.0, atol=0.01)


# ---- trusted flaggers ------------------------------------------------------------------------------------------------


def test_flaggers_look_in_proportion_to_exposure_and_suspicion_and_their_flags_bind():
    algorithm, levers, view, candidates, log = parts("trusted_flaggers", flaggers=0.005, focus=1.5)
    rng = np.random.default_rng(0)
    shape = view.age.shape
    harm, seen = (jnp.asarray(0.1 + 0.9 * rng.random(shape), jnp.float32) for _ in range(2))
    view = aged(view, toxicity_signal=harm, falsity_signal=0.0)
    log = quiet(log)
    judgement = (jnp.arange(shape[0]) % 2).astype(jnp.float32)
    log = log.replace(counts=log.counts.at[:, 0].set(seen), judgement=judgement)
    learned, left = algorithm.learn(levers, algorithm.init(key(), view), view, log, key())
    mass = seen * harm**1.5
    np.testing.assert_allclose(learned.looked, 0.005 * shape[0] * mass / jnp.sum(mass), rtol=0.02)
    act = algorithm.act(levers, learned, view, key())
    np.testing.assert_allclose(act.reviews, jnp.sum(learned.looked), rtol=1e-5)
    assert 0.97 * 0.005 * shape[0] < float(act.reviews) <= 0.005 * shape[0]
    np.testing.assert_allclose(left, jnp.sum((1 - learned.looked) * mass) / jnp.sum(mass), rtol=1e-4)
    flagged = learned.looked * jnp.where(judgement > 0, review.SENSITIVITY, 1 - review.SPECIFICITY)
    np.testing.assert_allclose(1 - act.survive, levers["speed"] * flagged, atol=1e-6)
    score = algorithm.rank(levers, learned, view, candidates, key()).score
    np.testing.assert_allclose(score, -levers["strength"] * flagged[candidates.ids], rtol=1e-4)


# ---- what a kind does to the whole -----------------------------------------------------------------------------------


def alone(kind, **levers):
    """Objectives of the platform on which this kind and the ranker act alone, in expected mode."""
    at = platform_with(kind)
    given = inputs(at, gates=gates(at, **{other: 0.0 for other in PLATFORMS[at] if other not in (kind, "engagement")}))
    changed = given.levers[kind] | {name: jnp.float32(value) for name, value in levers.items()}
    metrics = run("expected", at)(given.replace(levers=given.levers | {kind: changed}), first(at), key())[1]
    return dict(zip(NAMES, values(metrics), strict=True))


@pytest.mark.parametrize(
    ("kind", "lever", "low", "high", "objective", "sign"),
    [
        ("rules", "falsity", -1.0, 1.0, "false_removal_rate", -1),
        ("rules", "speed", -2.0, 2.0, "violation_lifetime", -1),
        ("review_queue", "capacity", -5.0, -2.0, "violation_lifetime", -1),
        ("review_queue", "capacity", -5.0, -2.0, "reviewer_load", 1),
        ("circuit_breaker", "threshold", -2.0, 1.0, "misinformation_reshares_per_user", 1),
        ("circuit_breaker", "review", -2.0, 1.0, "reviewer_load", 1),
        ("trusted_flaggers", "speed", -2.0, 2.0, "violation_lifetime", -1),
        ("community_rules", "start", -1.0, 2.0, "misinformation_exposure_per_user", 1),
        ("personal_filters", "strength", -3.0, 2.0, "toxic_exposure_per_impression", -1),
        ("rate_limit", "reshares", -3.0, 1.0, "misinformation_reshares_per_user", 1),
    ],
)
def test_turning_a_lever_moves_its_objective(kind, lever, low, high, objective, sign):
    down, up = (alone(kind, **{lever: value})[objective] for value in (low, high))
    assert sign * (up - down) > 0
