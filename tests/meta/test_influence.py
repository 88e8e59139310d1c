"""Influence balancing (Vicol et al. 2021, section 5.1): short windows have the wrong sign, persistent perturbations do not.

Of 23 coupled numbers s' = A s + theta b, with A = (I + shift) / 2, the first is what counts: (s[0] - 1)^2 / 2. Ten of them are
pushed up by theta, the other thirteen, which reach the first one later, down. In the long run s[0] = -6 theta, so the best theta
is -1/6; within K <= 40 steps more theta raises s[0], so whoever looks no further goes the wrong way.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import cached

from mamba.meta import derivatives, estimators
from mamba.meta.systems import System

UP, DOWN = 10, 13
SIZE = UP + DOWN
COUPLING = 0.5 * np.eye(SIZE) + 0.5 * np.eye(SIZE, k=1)
PUSH = np.r_[np.ones(UP), -np.ones(DOWN)]
BEST = -1.0 / 6.0
START, RATE, UPDATES = 0.5, 1e-4, 3000
SIGMA, PAIRS = 0.1, 500  # N = 1000 particles


def _advance(context, theta, state, index, key):
    del context, index, key
    after = jnp.asarray(COUPLING, state.dtype) @ state + theta[0] * jnp.asarray(PUSH, state.dtype)
    return after, after[0]


# The loss counts at the end of each window.
SYSTEM = System(
    begin=lambda context, theta, key: jnp.ones(SIZE, theta.dtype),
    advance=_advance,
    measure=lambda first: 0.5 * (first[-1:] - 1.0) ** 2,
    outcomes=("loss",),
)


def _loss(theta: float, steps: int = 500) -> float:
    """After so many steps, in float64."""
    state = np.ones(SIZE)
    for _ in range(steps):
        state = COUPLING @ state + theta * PUSH
    return 0.5 * (state[0] - 1.0) ** 2


def _trained(online: estimators.Online, keys: jax.Array, updates: int = UPDATES) -> np.ndarray:
    """Gradient descent from `START`, [updates, seeds]: every seed its own life, all on the device."""

    def descend(key):
        root, drawn = jax.random.split(key)

        def update(carry, key):
            theta, life = carry
            _, slopes, life = online.advance((), theta, jnp.ones((1, 1)), life, root, key)
            theta = theta - RATE * slopes.mean(axis=0)[0]
            return (theta, life), theta[0]

        theta = jnp.full(1, START)
        return jax.lax.scan(update, (theta, online.init((), theta, root)), jax.random.split(drawn, updates))[1]

    return np.asarray(jax.jit(jax.vmap(descend, out_axes=1))(keys), np.float64)


def _seeds(count: int = 5) -> jax.Array:
    return jax.random.split(jax.random.key(0), count)


def _perturbed(**changes):
    return estimators.persistent_lives(SYSTEM, **{"window": 1, "sigma": SIGMA, "pairs": PAIRS} | changes)


@cached
def _truncated(window: int) -> np.ndarray:
    """There is no randomness in a truncated gradient of this system."""
    return _trained(estimators.windowed(SYSTEM, window=window, keys=1), _seeds(1))[:, 0]


def test_truncated_sensitivities_have_the_wrong_sign_up_to_forty_steps():
    followed = SYSTEM._replace(measure=lambda first: first, outcomes=tuple(f"s{t + 1}" for t in range(100)))
    slope = jax.jit(derivatives.forward(followed, steps=100))
    values, slopes = slope((), jnp.full(1, START), jnp.eye(1), jnp.ones((1, 1)), _seeds(1))
    steps = np.array([1, 5, 10, 20, 30, 40, 50, 100])
    found = np.asarray(slopes)[0, 0]
    np.testing.assert_allclose(found[steps - 1], [1, 5, 10, 16.476, 9.870, 0.566, -4.753, -6.000], atol=1e-3)
    assert np.flatnonzero(found < 0)[0] + 1 == 41
    np.testing.assert_allclose(np.asarray(values)[0, -1], -6 * START, atol=1e-3)


def test_persistent_perturbations_of_single_steps_find_the_best_theta():
    ends = _trained(_perturbed(), _seeds())[-1]
    assert np.sum(np.abs(ends - BEST) < 1e-3) >= 4
    assert sum(_loss(theta) < 1e-9 for theta in ends) >= 4


def test_perturbations_of_single_steps_that_do_not_persist_diverge():
    ends = _trained(_perturbed(persistent=False), _seeds())[-1]
    assert min(_loss(theta) for theta in ends) > 100
    np.testing.assert_allclose(ends, _truncated(1)[-1], atol=0.02)  # the same bias, whoever estimates it


def test_a_tenth_of_the_particles_is_too_noisy():
    ends = _trained(_perturbed(pairs=PAIRS // 10), _seeds())[-1]
    assert np.sum(np.abs(ends - BEST) < 1e-3) < 4
    assert max(_loss(theta) for theta in ends) > 1.0


@pytest.mark.parametrize("window", [1, 10, 100])
def test_windows_shorter_than_the_influence_diverge(window):
    path = _truncated(window)
    if window == 100:
        assert path[-1] == pytest.approx(BEST, abs=1e-4)
        assert _loss(path[-1]) < 1e-8
    else:
        assert _loss(path[-1]) > 100
    if window == 10:
        assert np.flatnonzero(path > 1e6)[0] == 2531


def test_estimators_on_the_host_are_the_same_as_the_loop_on_the_device():
    key = _seeds(1)[0]
    root, drawn = jax.random.split(key)
    options = {"window": 2, "sigma": SIGMA, "pairs": 8, "horizon": 4}
    host, theta, seen = estimators.pes(SYSTEM, (), key=root, **options), np.full(1, START), []
    state = host.init(theta)
    for each in jax.random.split(drawn, 5):  # two lives and a half
        gradient, state = host.estimate(each, theta, state)
        theta = theta - RATE * gradient.jacobian[0]
        seen.append(theta[0])
    assert (int(state.index), int(state.begun)) == (2, 2)
    online = estimators.persistent_lives(SYSTEM, **options)
    np.testing.assert_allclose(seen, _trained(online, key[None], 5)[:, 0], rtol=1e-6)
