"""What moderators that strengthen users do, each on its own: prompts, prebunking, labels, friction, session limits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import PLAIN, SIZES, STEPS, compile, key, population
from test_conformance import observation

from mamba import ecosystem as eco
from mamba.algorithms import base, registry
from mamba.rollout import rollout


def parts(kind, **settings):
    algorithm = registry.make(kind, **settings)
    levers = base.meaningful({n: jnp.float32(v) for n, v in algorithm.levers.items()}, algorithm.bounds)
    return algorithm, levers, *observation(4)


def with_falsity(candidates, signal):
    return candidates.replace(
        items=candidates.items.replace(falsity_signal=jnp.full_like(candidates.items.falsity_signal, signal))
    )


def after(algorithm, levers, view, log, steps, seed=0):
    """Learned state after `steps` steps with one log."""

    def one(learned, index):
        return algorithm.learn(levers, learned, view, log, jax.random.fold_in(key(seed), index))[0], None

    start = algorithm.init(key(), view)
    return jax.jit(lambda: jax.lax.scan(one, start, jnp.arange(steps))[0])()


def test_a_fresh_prompt_cuts_sharing_of_false_items_by_a_tenth_and_hardly_of_true_ones():
    algorithm, levers, view, candidates, _ = parts("accuracy_prompt", frequency=0.999)
    fresh = algorithm.init(key(), view)
    false, true = (
        algorithm.rank(levers, fresh, view, with_falsity(candidates, signal), key()).friction for signal in (0.95, 0.1)
    )
    np.testing.assert_allclose(false, 0.9, atol=0.003)
    assert float(true.min()) > 0.995


def test_prompts_wear_off_with_their_number_and_recover():
    algorithm, levers, view, candidates, log = parts("accuracy_prompt", frequency=0.999)
    log = log.replace(active=(jnp.arange(view.sessions.shape[0]) % 2).astype(jnp.float32))
    false = with_falsity(candidates, 1.0)
    cut = [
        1.0 - algorithm.rank(levers, after(algorithm, levers, view, log, steps), view, false, key()).friction[0]
        for steps in (0, 5, 50)
    ]
    prompted, absent = slice(1, None, 2), slice(0, None, 2)
    assert np.all(np.diff(np.stack(cut)[:, prompted], axis=0) < 0) and np.all(cut[2][prompted] < 0.6 * cut[0][prompted])
    np.testing.assert_array_equal(cut[2][absent], cut[0][absent])
    # without habituation every prompt works like the first
    steady, *_ = parts("accuracy_prompt", frequency=0.999, habituation=0.0)
    np.testing.assert_array_equal(after(steady, levers, view, log, 50), 0.0)
    # prompts that stop are forgotten
    tired = after(algorithm, levers, view, log, 50)
    rested = algorithm.learn(levers, tired, view, log.replace(active=0.0 * log.active), key())[0]
    np.testing.assert_allclose(rested[prompted], 0.99 * tired[prompted], rtol=1e-5)


@pytest.mark.parametrize("half_life", [10.0, 40.0])
def test_inoculation_halves_every_half_life(half_life):
    algorithm, levers, view, candidates, log = parts("prebunking", half_life=half_life)
    nobody = levers | {"reach": jnp.float32(0.0)}
    log = log.replace(active=jnp.ones_like(log.active))

    def one(learned, _):
        return algorithm.learn(nobody, learned, view, log, key())[0], None

    full = jnp.ones_like(algorithm.init(key(), view))
    left = jax.lax.scan(one, full, None, length=int(half_life))[0]
    np.testing.assert_allclose(left, 0.5, rtol=1e-4)
    false = with_falsity(candidates, 1.0)
    cut, half = (1.0 - algorithm.rank(levers, state, view, false, key()).friction for state in (full, left))
    np.testing.assert_allclose(half, 0.5 * cut, rtol=1e-4)
    np.testing.assert_allclose(cut, 0.15, rtol=0.01)


@pytest.mark.parametrize("reach", [0.02, 0.1, 0.4])
def test_campaigns_reach_their_share_of_the_active(reach):
    algorithm, levers, view, _, log = parts("prebunking", reach=reach, half_life=1e6)
    many = 20_000
    view = view.replace(sessions=jnp.zeros(many))
    log = log.replace(active=(jnp.arange(many) < many // 2).astype(jnp.float32))
    reached = after(algorithm, levers, view, log, 1, seed=3)
    error = np.sqrt(reach * (1 - reach) / (many // 2))
    assert abs(float(reached[: many // 2].mean()) - reach) < 4 * error + 0.01 * reach
    assert float(reached[many // 2 :].max()) == 0
    twice = after(algorithm, levers, view, log, 2, seed=3)
    assert abs(float(twice[: many // 2].mean()) - (1 - (1 - reach) ** 2)) < 6 * error + 0.01 * reach


def test_labels_touch_labelled_items_only():
    algorithm, levers, view, candidates, _ = parts("labels", threshold=0.6, strength=0.25)
    rank = algorithm.rank(levers, (), view, candidates, key())
    assert rank.score is None
    signal = candidates.items.falsity_signal
    np.testing.assert_array_equal(rank.friction[signal < 0.2], 1.0)
    np.testing.assert_allclose(rank.friction[signal > 0.75], 0.75, atol=2e-4)
    assert bool(jnp.any(signal < 0.2)) and bool(jnp.any(signal > 0.75))
    stricter = algorithm.rank(levers | {"threshold": jnp.float32(0.3)}, (), view, candidates, key()).friction
    assert (
        bool(jnp.all(stricter <= rank.friction)) and float(jnp.mean(stricter)) < float(jnp.mean(rank.friction)) - 0.02
    )


def test_session_limit_slows_heavy_users_only():
    algorithm, levers, view, _, _ = parts("session_limit", limit=0.6, strength=0.1)
    share = jnp.linspace(0.0, 1.0, view.sessions.shape[0])
    pace = algorithm.act(levers, (), view.replace(sessions=share), key()).pace
    assert bool(jnp.all(jnp.diff(pace) <= 0))
    assert float(jnp.abs(pace[share < 0.3]).max()) < 1e-3 * 0.1 + 1e-3
    np.testing.assert_allclose(pace[share > 0.85], -0.1, rtol=0.01)


# ---- in a small world, without anything that feeds back ---------------------------------------------------------------


@functools.cache
def world(kind):
    ecosystem = eco.make({kind: registry.make(kind)}, sizes=SIZES, mechanisms=PLAIN)

    def body(given):
        _, metrics, active = rollout(
            ecosystem,
            given,
            key=key(),
            steps=STEPS,
            mode="expected",
            probe=lambda state, metrics: state.world.footprint.sessions,
        )
        return metrics, active

    return ecosystem, compile(body)


def outcome(kind, gate=1.0, habit=None, **levers):
    ecosystem, body = world(kind)
    people = population() if habit is None else population().replace(habit=habit)
    bounds = ecosystem.algorithms[0].bounds
    free = {name: jnp.float32(bounds[name].inverse(value)) for name, value in levers.items()}
    given = eco.inputs(ecosystem, people, gates=[gate])
    return body(given.replace(levers={kind: given.levers[kind] | free}))


@pytest.mark.parametrize("strength", [0.15, 0.6])
def test_friction_cuts_reshares_one_for_one_and_nothing_else(strength):
    free, _ = outcome("friction", gate=0.0)
    slowed, _ = outcome("friction", strength=strength)
    for name in ("reshares", "false_reshares"):
        np.testing.assert_allclose(slowed[name], (1.0 - strength) * free[name], rtol=1e-5)
    for name in ("exposures", "clicks", "reports"):
        np.testing.assert_array_equal(slowed[name], free[name])
    assert float(jnp.sum(free["reshares"])) > 0


@pytest.mark.parametrize("kind", ["accuracy_prompt", "labels", "prebunking"])
def test_false_items_lose_more_reshares_than_others(kind):
    free, _ = outcome(kind, gate=0.0)
    warned, _ = outcome(kind, **({"reach": 0.5} if kind == "prebunking" else {}))
    false, every = (float(jnp.sum(warned[n]) / jnp.sum(free[n])) for n in ("false_reshares", "reshares"))
    assert false < every < 1.0
    for name in ("exposures", "clicks"):
        np.testing.assert_array_equal(warned[name], free[name])


def test_session_limit_lowers_the_activity_of_heavy_users():
    habit = jnp.where(jnp.arange(SIZES.users) % 2 == 0, 0.9, 0.2)
    _, free = outcome("session_limit", gate=0.0, habit=habit)
    _, slowed = outcome("session_limit", habit=habit)
    change = slowed[-1] - free[-1]
    assert float(change[::2].max()) < -0.02
    assert float(jnp.abs(change[1::2]).max()) < 1e-3
