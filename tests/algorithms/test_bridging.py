"""Bridging and community notes: camps are found, applause from one of them does not count, brigades and delays matter."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import key
from test_conformance import observation, observed_items

from mamba.algorithms import base, notes, registry
from mamba.datasets import load
from mamba.types import ACTIONS, Candidates


def auc(score, positive):
    """Probability that a positive scores above a negative."""
    score, positive = np.asarray(score, float), np.asarray(positive, bool)
    more = score[positive][:, None] - score[~positive][None]
    return float(np.mean((more > 0) + 0.5 * (more == 0)))


def meaning(kind, **settings):
    algorithm = registry.make(kind, **settings)
    return algorithm, base.meaningful({n: jnp.float32(v) for n, v in algorithm.levers.items()}, algorithm.bounds)


# ---- offline, on a real conversation ---------------------------------------------------------------------------------


@functools.cache
def uber():
    """Last votes of a conversation with two clear camps, and the model fitted to them."""
    talk = load("polis_vtaiwan_uberx")
    order = np.argsort(talk.time_s, kind="stable")[::-1]
    pair = talk.voter.astype(np.int64) * talk.n_statements + talk.statement
    rows = order[np.unique(pair[order], return_index=True)[1]]
    voter, statement, vote = talk.voter[rows], talk.statement[rows], talk.vote[rows]
    rating = jnp.asarray((vote + 1) / 2, jnp.float32)
    fit = notes.fit(
        jnp.asarray(voter), jnp.asarray(statement), rating, raters=talk.n_voters, notes=talk.n_statements, key=key()
    )
    return talk, voter, statement, vote, jax.tree.map(np.asarray, fit)


def test_the_raters_factor_separates_the_opinion_groups_of_a_conversation():
    talk, _, _, _, fit = uber()
    known = (talk.voter_group >= 0) & (fit.rater[1] != 0)
    assert known.sum() > 1000
    separation = auc(fit.rater[1][known], talk.voter_group[known] == 1)
    assert max(separation, 1 - separation) >= 0.9
    # not by how much they approve of everything: the intercept does it worse
    plain = auc(fit.rater[0][known], talk.voter_group[known] == 1)
    assert max(plain, 1 - plain) < 0.8


@pytest.mark.parametrize("k", [10, 20, 30])
def test_bridging_ranks_fewer_statements_that_split_the_groups_than_engagement(k):
    talk, voter, statement, vote, fit = uber()
    size = talk.n_statements
    seen = np.array([np.bincount(statement[talk.voter_group[voter] == g], minlength=size) for g in (0, 1)])
    yes = (vote == 1) & (talk.voter_group[voter] == np.array([[0], [1]]))
    agreed = np.array([np.bincount(statement, row, size) for row in yes]) / np.maximum(seen, 1)
    judged = (seen >= 10).all(axis=0)
    splits = np.abs(agreed[0] - agreed[1]) > 0.4
    assert splits[judged].sum() > 40

    def share_of_splits(rank):
        return splits[np.argsort(-np.where(judged, rank, -np.inf))[:k]].mean()

    bridging = share_of_splits(fit.note[0])
    most_votes = share_of_splits(np.bincount(statement, minlength=size))
    most_agreed = share_of_splits(np.bincount(statement, vote == 1, size))
    assert bridging <= most_votes - 0.3
    assert bridging < most_agreed or bridging == most_agreed == 0


def test_who_rates_too_little_is_left_out():
    talk, voter, statement, _, fit = uber()
    votes = np.bincount(voter, minlength=talk.n_voters)
    assert (votes < 10).any() and (votes >= 10).any()
    np.testing.assert_array_equal(fit.rater[:, votes < 10], 0.0)
    assert (fit.rater[1][votes >= 10] != 0).all()
    rare = np.bincount(statement, minlength=talk.n_statements) < 5
    np.testing.assert_array_equal(fit.note[:, rare], 0.0)


# ---- offline, with known qualities and a brigade ---------------------------------------------------------------------

RATERS, NOTES, EACH = 400, 120, 25


def rated(seed, brigade, majority=0.7):
    """Ratings by two camps: sigma(quality + camp x slant); a brigade votes for its side and against the other."""
    rng = np.random.default_rng(seed)
    camp = np.where(rng.random(RATERS) < majority, 1, -1)
    quality, slant = rng.normal(0, 1.5, (2, NOTES))
    sworn = rng.random(RATERS) < brigade
    rater = np.concatenate([rng.choice(RATERS, EACH, replace=False) for _ in range(NOTES)])
    note = np.repeat(np.arange(NOTES), EACH)
    fair = rng.random(len(note)) < 1 / (1 + np.exp(-quality[note] - camp[rater] * slant[note]))
    return rater, note, np.where(sworn[rater], slant[note] > 0, fair).astype(np.float32), quality, slant


@jax.jit
def fitted(rater, note, rating):
    return notes.fit(rater, note, rating, raters=RATERS, notes=NOTES, key=key(), least_of_rater=1)


@pytest.mark.parametrize("brigade", [0.0, 0.1, 0.2])
def test_notes_survive_a_minority_of_brigading_raters(brigade):
    found, means = [], []
    for seed in range(12):
        rater, note, rating, quality, _ = rated(seed, brigade)
        found.append(auc(fitted(rater, note, rating).note[0], quality > 0))
        means.append(auc(np.bincount(note, rating, NOTES) / EACH, quality > 0))
    gain = np.subtract(found, means)
    assert np.mean(found) > 0.87
    assert gain.mean() > 2 * gain.std(ddof=1) / np.sqrt(len(gain))


def test_a_majority_shows_slanted_bad_notes_and_bridging_does_not():
    shown, passed, good, cold = [], [], [], []
    for seed in range(12):
        rater, note, rating, quality, slant = rated(seed, 0.0)
        fit = fitted(rater, note, rating)
        bad = (quality < -0.5) & (slant > 1.0)
        status, no = np.asarray(notes.helpful(fit.note, width=1e-3)), np.asarray(notes.unhelpful(fit.note, width=1e-3))
        shown.append(status[bad])
        passed.append((np.bincount(note, rating, NOTES) / EACH > 0.5)[bad])
        good.append(status[quality > 1.5])
        cold.append(no[quality < -1.5].mean() - no[quality > 1.5].mean())
    assert np.concatenate(passed).mean() > 0.3
    assert np.concatenate(shown).mean() <= 0.01
    assert np.concatenate(good).mean() > 0.05  # at the price of low coverage
    assert np.mean(cold) > 0.2


# ---- online ----------------------------------------------------------------------------------------------------------

U, M, C, B, LIFE = 120, 96, 6, 40, 24


def camps(seed=0):
    rng = np.random.default_rng(seed)
    camp = np.where(np.arange(U) % 10 < 7, 1.0, -1.0)
    quality, slant = rng.normal(0, 1, (2, M))
    return jnp.asarray(camp), jnp.asarray(quality), jnp.asarray(slant)


@functools.cache
def program(kind, behave, steps):
    """Compiled `truth -> learned` after a stream of logs in which `behave(truth, key, users, items, log) -> log` decides.

    Slots are recycled after `LIFE` steps; what is posted there is as good and as slanted as what was there before. In the
    view beside it items are as old as at the end.
    """
    algorithm, levers = meaning(kind)
    view, _, log = observation()
    items = observed_items(np.random.default_rng(0), M)
    view = view.replace(items=items, author=jnp.arange(M), followers=jnp.zeros(U))

    def at(step):
        return view.replace(age=(step + jnp.arange(M) * 7) % LIFE)

    @jax.jit
    def run(truth):
        def one(learned, now):
            step, seed = now
            who, what, how = jax.random.split(seed, 3)
            users = jax.random.permutation(who, U)[:B]
            ids = jax.random.randint(what, (C, B), 0, M)
            nothing = jnp.zeros((C, B))
            blank = log.replace(
                candidates=log.candidates.replace(users=users, ids=ids),
                examined=nothing + 1.0,
                clicked=nothing,
                reshared=nothing,
                reported=nothing,
                actions=dict.fromkeys(ACTIONS, nothing),
                asked=nothing,
                rating=nothing,
            )
            return algorithm.learn(levers, learned, at(step), behave(truth, how, users, ids, blank), key())[0], None

        begin = algorithm.init(key(1), at(0))
        return jax.lax.scan(one, begin, (jnp.arange(steps), jax.random.split(key(2), steps)))[0]

    return algorithm, levers, at(steps - 1), run


def everyone(view):
    """All items, each as a candidate of all of four users."""
    ids = jnp.broadcast_to(jnp.arange(M)[:, None], (M, 4))
    return Candidates(
        users=jnp.arange(4),
        ids=ids,
        existence=jnp.ones((M, 4)),
        in_network=jnp.ones((M, 1)),
        age=view.age[ids].astype(jnp.float32),
        items=jax.tree.map(lambda leaf: leaf[..., ids], view.items),
        interest=view.interest[:, :4],
    )


def reacting(truth, seed, users, ids, log):
    """Users like what is good and on their side; some of the others are annoyed."""
    camp, quality, slant = truth
    chance = jax.random.uniform(seed, (2, C, B))
    fond = jax.nn.sigmoid(quality[ids] + 1.5 * camp[users][None] * slant[ids])
    like = (chance[0] < fond).astype(jnp.float32)
    upset = (chance[1] < 0.3 * (1.0 - fond)).astype(jnp.float32) * (1.0 - like)
    return log.replace(actions={**log.actions, "like": like, "negative": upset})


@pytest.mark.parametrize("seed", range(3))
def test_bridging_learns_camps_online_and_scores_what_both_approve(seed):
    camp, quality, slant = camps(seed)
    algorithm, levers, view, run = program("bridging", reacting, 300)
    learned = run((camp, quality, slant))
    separation = auc(learned.rater[1], camp > 0)
    assert max(separation, 1 - separation) > 0.95
    score = algorithm.rank(levers, learned, view, everyone(view), key()).score[:, 0]
    approval = jax.nn.sigmoid(quality[:, None] + 1.5 * slant[:, None] * camp[None]).mean(axis=1)
    # even the exact share who approve follows the larger camp; bridging follows what both camps share
    rated = np.asarray(view.age > LIFE // 2)

    def correlation(x, y):
        return np.corrcoef(np.asarray(x)[rated], np.asarray(y)[rated])[0, 1]

    assert correlation(score, quality) > 0.75
    assert abs(correlation(score, slant)) < abs(correlation(approval, slant)) - 0.05


def test_a_recycled_slot_is_a_new_item():
    algorithm, levers, view, run = program("bridging", reacting, 300)
    learned = run(camps())
    view = view.replace(age=jnp.full(M, 5))
    item = int(jnp.argmax(jnp.abs(learned.note[0])))
    log = observation()[2]
    fresh = view.replace(age=view.age.at[item].set(0))
    silent = log.replace(examined=jnp.zeros_like(log.examined), actions=jax.tree.map(jnp.zeros_like, log.actions))
    after = algorithm.learn(levers, learned, fresh, silent, key())[0]
    np.testing.assert_array_equal(after.note[:, item], 0.0)
    start = algorithm.init(key(), view)
    np.testing.assert_array_equal(after.note_precision[:, item], start.note_precision[:, item])
    others = np.arange(M) != item
    np.testing.assert_array_equal(after.note[:, others], learned.note[:, others])
    # until it has been learned about, it scores 0, whatever was in its slot before
    scores = [algorithm.rank(levers, learned, now, everyone(now), key()).score[item] for now in (view, fresh)]
    assert float(jnp.min(jnp.abs(scores[0]))) > 0.5
    np.testing.assert_array_equal(scores[1], 0.0)


MISLEADING = jnp.arange(M) % 5 == 0


def flagging(truth, seed, users, ids, log):
    """Fair users notice what misleads; a brigade reports every item of the other side and likes those of its own."""
    camp, _, slant, sworn = truth
    chance = jax.random.uniform(seed, (2, C, B))
    side = camp[users][None] * slant[ids]
    fond = jax.nn.sigmoid(0.5 + 2.0 * side) * jnp.where(MISLEADING[ids], 0.1, 0.7)
    upset = jnp.where(MISLEADING[ids], 0.7, 0.15 * jax.nn.sigmoid(-2.0 * side))
    mine = sworn[users][None]
    reported = (chance[0] < jnp.where(mine, side < 0, upset)).astype(jnp.float32)
    like = (chance[1] < jnp.where(mine, side > 0, fond)).astype(jnp.float32) * (1.0 - reported)
    return log.replace(reported=reported, actions={**log.actions, "like": like})


def noted(brigade):
    """Community notes after a stream; every `brigade`-th user is sworn in, 0 for none."""
    algorithm, levers, view, run = program("community_notes", flagging, 150)
    sworn = (jnp.arange(U) % brigade == 0) if brigade else jnp.zeros(U, bool)
    return algorithm, levers, view, run((*camps(), sworn))


@pytest.mark.parametrize(("brigade", "coverage"), [(0, 0.6), (7, 0.3)])
def test_community_notes_are_shown_on_what_both_camps_find_misleading(brigade, coverage):
    algorithm, levers, view, learned = noted(brigade)
    levers = levers | {"delay": jnp.float32(1.0)}
    rank = algorithm.rank(levers, learned, view, everyone(view), key())
    shown = (1.0 - rank.friction[:, 0]) / (1.0 - 0.54)
    np.testing.assert_allclose(rank.score[:, 0], -0.15 * shown, atol=1e-5)
    rated = view.age > LIFE // 2
    assert float(shown[MISLEADING & rated].mean()) > coverage
    assert float(shown[~MISLEADING & rated].max()) < 0.05
    assert auc(learned.note[0][rated], MISLEADING[rated]) > 0.97


def test_a_delay_of_hours_loses_most_of_the_effect_of_notes(shared):
    # When the reshares of a post happen in its life: reaction delays of real posts.
    hours = np.load(shared / "data" / "klout_when_to_post" / "tw.npz")["delay_s"] / 3600
    algorithm, levers, view, learned = noted(0)
    item = int(jnp.argmax(jnp.where(MISLEADING, learned.note[0], -jnp.inf)))

    @jax.jit
    def friction(delay, age):
        aged = view.replace(age=jnp.full(M, age))
        return algorithm.rank(levers | {"delay": delay}, learned, aged, everyone(aged), key()).friction[item, 0]

    def prevented(delay):
        by_hour = np.array([float(friction(jnp.float32(delay), age)) for age in range(24)])
        return 1 - by_hour[hours.astype(int)].mean()

    at_once, late = prevented(0.01), prevented(12.0)
    assert at_once > 0.1
    assert 0 < late < 0.4 * at_once
    assert prevented(6.0) > late > prevented(18.0)
