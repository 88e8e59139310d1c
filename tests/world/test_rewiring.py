"""Rewiring: what it conserves, what it never creates, where it leads, and its likelihood ratios."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SIZES, key, population

from mamba.streams import draw_rows, row_keys
from mamba.types import Ties
from mamba.world import rewiring
from mamba.world.parameters import WorldParameters, as_arrays

EAGER = as_arrays(WorldParameters(rewire_rate=0.5, rewire_distance=0.3))
U, L = SIZES.users, SIZES.links


def ties():
    people = population()
    return Ties(people.followees, people.weight)


@functools.partial(jax.jit, static_argnames="mode")
def once(table, seed, link_score=None, *, opinion=None, parameters=EAGER, mode="sampled"):
    opinion = population().innate if opinion is None else opinion
    draws = draw_rows(row_keys(seed, {"near": L, "far": L, "which": 2, "pick": L}), U)
    links = rewiring.suggestions(table, jnp.stack([draws["near"], draws["far"]]), sizes=SIZES)
    after = rewiring.rewire(
        table,
        opinion,
        step=jnp.int32(0),
        links=links,
        link_score=jnp.zeros((L, U)) if link_score is None else link_score,
        draws=draws["which"],
        pick_draw=draws["pick"],
        parameters=parameters,
        sizes=SIZES,
        mode=mode,
    )
    return after.ties, links, after


@jax.jit
def many(table, opinion, score, parameters=EAGER):
    def step(table, seed):
        return once(table, seed, score, opinion=opinion, parameters=parameters)[0], None

    return jax.lax.scan(step, table, jax.random.split(key(1), 200))[0]


def distance(table):
    x = np.asarray(population().innate)
    gap = np.sqrt(np.mean((x[:, :, None] - x[:, np.asarray(table.followees)]) ** 2, axis=0))
    return np.sum(gap * np.asarray(table.weight)) / np.sum(np.asarray(table.weight))


@pytest.mark.parametrize("extreme", [0.0, 80.0])
def test_degrees_are_kept_and_no_tie_is_doubled(extreme):
    # An extreme score on some suggestions must not force a tie that exists already.
    score = jnp.zeros((L, U)).at[0].set(extreme)
    before, after = ties(), many(ties(), population().innate, score)
    np.testing.assert_array_equal(after.weight > 0, before.weight > 0)
    np.testing.assert_array_equal(after.weight, before.weight)
    moved = 0
    for user in range(U):
        filled = np.asarray(after.weight[user] > 0)
        names = np.asarray(after.followees[user])[filled]
        assert user not in names
        assert len(set(names.tolist())) == len(names)
        assert np.all(np.asarray(after.followees[user])[~filled] == user)
        moved += len(set(names.tolist()) - set(np.asarray(before.followees[user])[filled].tolist()))
    assert moved > 50


def test_homophily_rises():
    choosy = EAGER.replace(rewire_distance=jnp.float32(0.5), rewire_width=jnp.float32(0.03))
    after = many(ties(), population().innate, jnp.zeros((L, U)), choosy)
    assert distance(after) < 0.85 * distance(ties())


def test_suggestions_are_accounts():
    _, links, _ = once(ties(), key(2))
    assert links.dtype == jnp.int32 and links.shape == (L, U)
    assert int(links.min()) >= 0 and int(links.max()) < U
    assert int(links[1::2].max()) < SIZES.creators


def test_link_scores_decide_who_is_suggested():
    # Every user is certain to drop; the score singles out the last suggestion.
    certain = EAGER.replace(rewire_rate=jnp.float32(1.0), rewire_distance=jnp.float32(-9.0))
    table, links, _ = once(ties(), key(3), jnp.zeros((L, U)).at[L - 1].set(30.0), parameters=certain)
    before = ties()
    fresh = np.asarray(table.followees != before.followees)
    free = ~np.asarray(jnp.any(links[L - 1][:, None] == before.followees, axis=1) | (links[L - 1] == jnp.arange(U)))
    users, slots = np.nonzero(fresh & free[:, None])
    assert len(users) > 10
    np.testing.assert_array_equal(np.asarray(table.followees)[users, slots], np.asarray(links)[L - 1, users])


def test_weights_are_one_and_carry_likelihood_ratios():
    score = jax.random.normal(key(4), (L, U))

    def weights(score, opinion, mode):
        return once(ties(), key(5), score, opinion=opinion, mode=mode)[0]

    hard = weights(score, population().innate, "sampled")
    for mode in ("expected", "straight_through"):
        soft = weights(score, population().innate, mode)
        np.testing.assert_array_equal(soft.followees, hard.followees)
        np.testing.assert_array_equal(soft.weight, hard.weight)
    changed = np.any(np.asarray(hard.followees != ties().followees), axis=1)
    assert 5 < changed.sum() < U

    def total(score, opinion, mode):
        return jnp.sum(weights(score, opinion, mode).weight)

    slopes = jax.grad(total, (0, 1))(score, population().innate, "expected")
    assert all(bool(jnp.all(jnp.isfinite(slope))) for slope in slopes)
    # Only replaced ties depend on the score, and not where a single suggestion was left to choose.
    depends = np.any(np.asarray(slopes[0]) != 0, axis=0)
    assert np.all(changed[depends]) and depends.sum() > 0.5 * changed.sum()
    np.testing.assert_allclose(jnp.sum(slopes[0], axis=0), 0.0, atol=1e-5)  # scores matter through differences
    assert float(jnp.max(jnp.abs(slopes[1]))) > 0.1


def test_a_user_without_ties_stays_without():
    alone = ties().replace(weight=ties().weight.at[7].set(0.0), followees=ties().followees.at[7].set(7))
    after = many(alone, population().innate, jnp.zeros((L, U)))
    np.testing.assert_array_equal(after.weight[7], 0.0)
    np.testing.assert_array_equal(after.followees[7], 7)


def squared(opinion, table):
    """Squared opinion distance [U, K] of every user to every followee, mean over topics."""
    opinion = np.asarray(opinion)
    return np.mean((opinion[:, :, None] - opinion[:, np.asarray(table.followees)]) ** 2, axis=0)


def test_what_is_seen_of_ties():
    before = ties().replace(weight=ties().weight.at[7].set(0.0), followees=ties().followees.at[7].set(7))
    after, _, seen = once(before, key(3))
    changed = np.any(np.asarray(after.followees) != np.asarray(before.followees), axis=1)
    np.testing.assert_array_equal(seen.replaced, changed)
    assert 0 < changed.sum() < U
    looked = np.asarray(seen.looked)
    np.testing.assert_array_equal(looked, np.asarray(jnp.any(before.weight > 0, axis=1)))
    assert looked[7] == 0.0 and seen.apart[7] == 0.0
    gaps = squared(population().innate, before)
    assert np.all(np.isclose(np.asarray(seen.apart)[:, None], gaps, atol=1e-6).any(axis=1)[looked > 0])
    # Whoever replaced a tie had looked at that one.
    where = np.argmax(np.asarray(after.followees) != np.asarray(before.followees), axis=1)
    np.testing.assert_allclose(np.asarray(seen.apart)[changed], gaps[np.arange(U), where][changed], atol=1e-6)


def test_fixed_ties():
    table, opinion = ties(), population().innate
    degree = np.maximum(jnp.sum(table.weight > 0, axis=1), 1)
    seen = [rewiring.fixed_ties(table, opinion, step=jnp.int32(step)) for step in range(int(np.lcm.reduce(degree)))]
    assert all(each.ties is table and not np.any(each.replaced) for each in seen)
    np.testing.assert_array_equal(seen[0].looked, jnp.any(table.weight > 0, axis=1))
    # In turn: all ties of a user are looked at equally often.
    gaps = np.where(np.asarray(table.weight) > 0, squared(opinion, table), 0.0).sum(axis=1) / degree
    np.testing.assert_allclose(np.mean([each.apart for each in seen], axis=0), gaps, rtol=1e-5)
