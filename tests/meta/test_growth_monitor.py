"""The growth monitor on linear systems of three blocks, whose tangents are known, and on a platform with a planted fault."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import cached

from mamba.meta import growth
from mamba.meta.systems import System
from mamba.passing import share_of

STEPS = 60
BLOCKS = ("users", "items", "learner")


class Linear(NamedTuple):
    """x_i' = sum_j at_t[i, j] x_j + push_t[i] theta."""

    at: np.ndarray  # [T, 3, 3]
    push: np.ndarray  # [T, 3]


def _advance(context, theta, state, index, key):
    del key
    x = jnp.stack(state)
    after = jnp.sum(jnp.asarray(context.at)[index] * x[None], axis=1) + jnp.asarray(context.push)[index] * theta[0]
    return tuple(after), after


SYSTEM = System(
    begin=lambda context, theta, key: (jnp.zeros(()),) * 3,
    advance=_advance,
    measure=lambda x: jnp.mean(x, axis=0),
    outcomes=BLOCKS,
    blocks=BLOCKS,
    parts=lambda state: state,
    scaled=lambda state, shares: tuple(share_of(part, share) for part, share in zip(state, shares, strict=True)),
)


def _linear(at, push=(1.0, 1.0, 1.0)) -> Linear:
    return Linear(
        np.broadcast_to(np.asarray(at, np.float32), (STEPS, 3, 3)).copy(),
        np.broadcast_to(np.asarray(push, np.float32), (STEPS, 3)).copy(),
    )


@cached
def _follow(steps: int):
    return jax.jit(growth.tangents(SYSTEM, steps=steps))


def _found(context: Linear, *, steps: int = STEPS, shares=(1.0, 1.0, 1.0)) -> growth.Growth:
    def norms(shares: np.ndarray) -> np.ndarray:
        given = (jnp.zeros(1), jnp.ones((2, 1)), jnp.asarray(shares), jax.random.key(0))
        return np.asarray(_follow(steps)(context, *given))

    return growth.inspect(norms, BLOCKS, np.asarray(shares, np.float32))


# A society that keeps much, counts what happens, and listens to its learner.
HEALTHY = np.array([[0.95, 0.0, 0.3], [0.2, 1.0, 0.1], [0.1, 0.0, 0.8]])


def _with(gain: float, at: np.ndarray = HEALTHY) -> np.ndarray:
    changed = at.copy()
    changed[2, 2] = gain
    return changed


def test_norms_are_those_of_the_tangent():
    context, x, expected = _linear(_with(0.7)), np.zeros(3), []
    for _ in range(STEPS):
        x = _with(0.7) @ x + 1.0
        expected.append(x)
    norms = _follow(STEPS)(context, jnp.zeros(1), jnp.ones((2, 1)), jnp.ones(3), jax.random.key(0))
    np.testing.assert_allclose(norms, np.broadcast_to(expected, (2, STEPS, 3)), rtol=1e-5)
    still = _follow(STEPS)(context, jnp.zeros(1), jnp.ones((2, 1)), jnp.zeros(3), jax.random.key(0))
    np.testing.assert_array_equal(still, np.ones((2, STEPS, 3)))  # what is injected


def test_a_healthy_system_is_left_alone():
    found = _found(_linear(HEALTHY))
    assert found.closed == ()
    np.testing.assert_array_equal(found.shares, 1.0)


def test_one_unstable_block_is_named_and_closed_and_others_left():
    found = _found(_linear(_with(1.4)))
    assert found.closed == ("learner",)
    np.testing.assert_array_equal(found.shares, [1.0, 1.0, 0.0])
    assert found.factors.min() > 1e3  # it shows everywhere
    assert _found(_linear(_with(1.4)), shares=(1.0, 1.0, 0.0)).closed == ()


def test_two_unstable_blocks_are_both_closed():
    at = _with(1.4)
    at[1, 1] = -1.5
    assert _found(_linear(at)).closed == ("items", "learner")


def test_a_loop_of_two_blocks_each_stable_alone_is_opened_once():
    at = np.array([[0.5, 0.0, 1.2], [0.1, 0.9, 0.0], [1.2, 0.0, 0.5]])
    assert np.abs(np.linalg.eigvals(at)).max() > 1.6
    found = _found(_linear(at))
    assert len(found.closed) == 1
    assert found.closed[0] in ("users", "learner")


def test_a_block_that_only_others_reach_does_not_escape():
    """Nothing is injected into it, so alone it shows nothing; cutting it off from whoever feeds it helps as well."""
    found = _found(_linear(_with(1.5), push=(1.0, 1.0, 0.0)))
    assert len(found.closed) == 1
    assert found.closed[0] in ("users", "learner")


def test_a_burst_is_an_explosion_though_nothing_grows_later():
    """A thousandfold within fifteen steps, then kept: late in the run nothing grows."""
    context = _linear(_with(1.0))
    context.at[10:25, 2, 2] = 1.6
    assert _found(context).closed == ("learner",)


def test_what_is_late_is_not_an_explosion():
    context = _linear(HEALTHY)
    context.push[:40, 2] = 1e-6
    context.push[:5, 1] = 0.0
    assert _found(context).closed == ()


@pytest.mark.parametrize("gain", [1e3, -3e38])
def test_overflow_is_an_explosion(gain):
    found = _found(_linear(_with(gain)))
    assert found.closed == ("learner",)
    assert np.isinf(found.factors[2])
    assert np.isfinite(found.shares).all()


def test_short_runs():
    assert _found(_linear(HEALTHY), steps=8).closed == ()
    assert _found(_linear(_with(0.0), push=(0.0, 0.0, 0.0)), steps=8).closed == ()  # nothing to differentiate
    assert _found(_linear(_with(1.1)), steps=8).closed == ()  # no harm in so few steps
    assert _found(_linear(_with(3.0)), steps=8).closed == ("learner",)
