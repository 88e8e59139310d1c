"""Forward and reverse mode, with shares and rows, against a linear system whose derivatives are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known import CHAOTIC, LINEAR, STEPS, THETA, Noise, truth

from mamba import passing
from mamba.meta import derivatives

QUIET = Noise(0.0, 0.0)
KEYS = jax.random.split(jax.random.key(4), 3)
ROWS = np.array([[1.0, 0.0], [0.5, -2.0], [0.0, 1.0]])


def _theta() -> jax.Array:
    return jnp.asarray(THETA, float)


@pytest.mark.parametrize("segment", [None, 0, 7])
def test_reverse_mode_of_rows(segment):
    slope = jax.jit(derivatives.reverse(LINEAR, steps=STEPS, segment=segment))
    for memory in (STEPS, 4, 1):
        shares = jnp.asarray(passing.windows(np.ones(1), steps=STEPS, window=memory))
        _, slopes = slope(QUIET, _theta(), jnp.asarray(ROWS, float), shares, KEYS)
        np.testing.assert_allclose(slopes[0], ROWS @ truth(memory=memory)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("chunk", [1, 2, 8])
def test_forward_mode_along_directions_with_shares_of_their_own(chunk):
    directions = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, -1.0], [0.5, 0.5, 0.5]])
    memories = (STEPS, 4, 1)
    shares = np.stack([passing.windows(np.ones(1), steps=STEPS, window=memory) for memory in memories])
    slope = jax.jit(derivatives.forward(LINEAR, steps=STEPS, chunk=chunk))
    _, slopes = slope(QUIET, _theta(), jnp.asarray(directions, float), jnp.asarray(shares), KEYS)
    expected = [truth(memory=memory)[0] @ direction for memory, direction in zip(memories, directions, strict=True)]
    np.testing.assert_allclose(slopes[1], expected, rtol=1e-4, atol=1e-4)


def test_keys_are_runs_of_their_own():
    noise = Noise(0.3, 0.3)
    slope = jax.jit(derivatives.reverse(LINEAR, steps=STEPS))
    given = (noise, _theta(), jnp.eye(2), jnp.ones(1))
    values, slopes = slope(*given, KEYS)
    value, alone = slope(*given, KEYS[1:2])
    np.testing.assert_allclose(values[1], value[0], rtol=1e-6)
    np.testing.assert_allclose(slopes[1], alone[0], rtol=1e-6)
    assert np.abs(slopes[0] - slopes[1]).max() > 0.1


@pytest.mark.parametrize("at_once", [2, 64])
def test_keys_side_by_side_are_what_they_are_one_by_one(at_once):
    given = (Noise(0.3, 0.3), _theta(), jnp.eye(2), jnp.ones(1), KEYS)  # three keys: two leave a rest
    apart = jax.jit(derivatives.reverse(LINEAR, steps=STEPS))(*given)
    together = derivatives.reverse(LINEAR._replace(at_once=at_once), steps=STEPS)
    assert str(jax.make_jaxpr(together)(*given)) != str(
        jax.make_jaxpr(derivatives.reverse(LINEAR, steps=STEPS))(*given)
    )
    for one, other in zip(apart, jax.jit(together)(*given), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)


def test_a_closed_block_stops_even_what_has_overflowed():
    steps = 200  # tangents of 2^200 are beyond float32
    theta = jnp.zeros(2)
    reverse = jax.jit(derivatives.reverse(CHAOTIC, steps=steps))
    forward = jax.jit(derivatives.forward(CHAOTIC, steps=steps))
    assert not np.isfinite(reverse((), theta, jnp.eye(1), jnp.ones(2), KEYS)[1]).all()
    shares = jnp.array([1.0, 0.0])
    back = reverse((), theta, jnp.eye(1), shares, KEYS)[1][:, 0]
    ahead = forward((), theta, jnp.eye(2), jnp.stack([shares, shares]), KEYS)[1][:, :, 0]
    assert np.isfinite(back).all()
    np.testing.assert_allclose(back, ahead, rtol=1e-4)
