"""An exploding inner learner on a platform (`exploding`): named, closed, and what is left held against the sampled model."""

import exploding
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import cached, compile, key

from mamba import members as mem
from mamba import passing
from mamba.interactions import jacobian
from mamba.meta import derivatives, estimators, evolution, growth, systems, vector

pytestmark = pytest.mark.slow

STEPS = 60
KEYS = 16
ECOSYSTEM = exploding.platform(exploding.UNSTABLE)
SYSTEM = systems.platform(ECOSYSTEM)
LEARNER = f"{passing.LEARNER}{exploding.NAME}"
OPEN = np.ones(len(SYSTEM.blocks), np.float32)
SEEN = ("engagement_per_user", "retention", "toxic_exposure_per_user", "trust")


def _theta() -> jax.Array:
    return vector.flat(exploding.inputs(ECOSYSTEM).levers)


@cached
def _forward():
    return compile(derivatives.forward(SYSTEM, steps=STEPS, chunk=len(_theta())))


def _slopes(shares: np.ndarray) -> np.ndarray:
    """[S, J, P]."""
    count = len(_theta())
    each = jnp.broadcast_to(jnp.asarray(shares, jnp.float32), (count, STEPS, len(OPEN)))
    keys = jax.random.split(key(5), KEYS)
    columns = _forward()(exploding.inputs(ECOSYSTEM), _theta(), jnp.eye(count), each, keys)[1]
    return np.asarray(columns, np.float64).swapaxes(1, 2)


@cached
def _checked() -> estimators.Gradient:
    given = exploding.inputs(ECOSYSTEM)
    run = compile(jacobian.evaluator(ECOSYSTEM, steps=STEPS))
    measure = evolution.measure(lambda members: mem.in_chunks(run, given, members, chunk=64), given)
    return estimators.es(measure, pairs=8, sigma=0.2, keys=48).estimate(key(9), np.asarray(_theta()), ())[0]


def _away(slopes: np.ndarray) -> np.ndarray:
    """Distance of a mean derivative from the audit's as a share of it, for each outcome of `SEEN`."""
    rows = [SYSTEM.outcomes.index(name) for name in SEEN]
    true = _checked().jacobian[rows]
    return np.linalg.norm(slopes.mean(axis=0)[rows] - true, axis=1) / np.linalg.norm(true, axis=1)


def test_the_learner_is_named_and_closed_and_nothing_else():
    follow = compile(growth.tangents(SYSTEM, steps=STEPS))
    directions = jax.random.rademacher(key(1), (2, len(_theta())), float)

    def norms(shares: np.ndarray) -> np.ndarray:
        return np.asarray(follow(exploding.inputs(ECOSYSTEM), _theta(), directions, jnp.asarray(shares), key(0)))

    found = growth.inspect(norms, SYSTEM.blocks, OPEN)
    assert found.closed == (LEARNER,)


def test_what_passes_by_the_learner_is_near_the_sampled_model():
    error, size = _checked().error, np.abs(_checked().jacobian)
    assert all(size[SYSTEM.outcomes.index(name)].max() > 4 * error[SYSTEM.outcomes.index(name)].max() for name in SEEN)
    closed = _away(_slopes(passing.shares(ECOSYSTEM, [LEARNER])))
    whole = _away(_slopes(OPEN))
    assert closed.max() < 0.4
    assert np.all(whole > 1.0)  # worse than no gradient at all


def test_clipping_and_windows_are_no_match_for_it():
    closed = _away(_slopes(passing.shares(ECOSYSTEM, [LEARNER])))
    slopes = _slopes(OPEN)
    norm = np.linalg.norm(slopes, axis=2, keepdims=True)
    clipped = slopes * np.minimum(1.0, 3.0 * np.median(norm, axis=0) / np.maximum(norm, 1e-30))
    assert np.mean(_away(clipped) > closed) >= 0.75
    for window in (10, 25):
        shorter = _away(_slopes(passing.windows(OPEN, steps=STEPS, window=window)))
        assert np.mean(shorter > closed) >= 0.75
        assert np.mean(shorter) > 1.5 * np.mean(closed)
