"""Reductions over short axes: what the ordinary ones give, and their derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamba import sums

VALUES = jax.random.normal(jax.random.key(0), (7, 5, 70))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("keepdims", [False, True])
def test_they_agree_with_the_ordinary_reductions(axis, keepdims):
    ours = sums.total(VALUES, axis, keepdims=keepdims)
    np.testing.assert_allclose(ours, jnp.sum(VALUES, axis, keepdims=keepdims), atol=1e-5)
    ours = sums.largest(VALUES, axis, keepdims=keepdims)
    np.testing.assert_array_equal(ours, jnp.max(VALUES, axis, keepdims=keepdims))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_softmax_and_its_derivative(axis):
    steep = 40.0 * VALUES
    np.testing.assert_allclose(sums.softmax(steep, axis), jax.nn.softmax(steep, axis), rtol=1e-5, atol=1e-12)
    aim = jnp.cos(VALUES)
    ours = jax.grad(lambda x: jnp.sum(aim * sums.softmax(x, axis)))(VALUES)
    theirs = jax.grad(lambda x: jnp.sum(aim * jax.nn.softmax(x, axis)))(VALUES)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_parts_are_combined_in_order(count):
    words = [chr(ord("a") + i) for i in range(count)]
    assert sums.in_pairs(str.__add__, words) == "".join(words)
