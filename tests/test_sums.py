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


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_inner_and_its_derivatives(axis):
    other = jnp.sin(VALUES[:1] if axis != 0 else VALUES[:, :1])
    aim = jnp.cos(jnp.arange(5.0))[:, None] if axis == 0 else jnp.ones(())

    def ours(a, b):
        return jnp.sum(aim * sums.inner(a, b, axis) ** 2)

    def theirs(a, b):
        return jnp.sum(aim * jnp.sum(a * b, axis) ** 2)

    np.testing.assert_allclose(sums.inner(other, VALUES, axis), jnp.sum(other * VALUES, axis), atol=1e-5)
    for mine, plain in zip(jax.grad(ours, (0, 1))(other, VALUES), jax.grad(theirs, (0, 1))(other, VALUES), strict=True):
        np.testing.assert_allclose(mine, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_sum_of_a_function_and_its_derivatives(axis):
    other = jnp.sin(VALUES[:1] if axis != 0 else VALUES[:, :1])
    parts, whole = (VALUES, other), {"scale": jnp.float32(1.5), "shift": jnp.float32(-0.2)}
    aim = jnp.cos(jnp.arange(70.0))[None] if axis != 2 else jnp.ones(())

    def function(parts, whole):
        return jnp.tanh(whole["scale"] * parts[0] + whole["shift"]) * parts[1]

    def ours(parts, whole):
        return jnp.sum(aim * sums.total_of(function, parts, whole, axis=axis) ** 2)

    def theirs(parts, whole):
        return jnp.sum(aim * jnp.sum(function(parts, whole), axis) ** 2)

    np.testing.assert_allclose(
        sums.total_of(function, parts, whole, axis=axis), jnp.sum(function(parts, whole), axis), atol=1e-5
    )
    mine, plain = (jax.tree.leaves(jax.grad(loss, (0, 1))(parts, whole)) for loss in (ours, theirs))
    for one, other in zip(mine, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)


def test_a_sum_of_a_function_over_nothing_is_nothing():
    found = sums.total_of(lambda parts, whole: parts[0] * parts[1], (VALUES[:0], VALUES[:1]), None)
    np.testing.assert_array_equal(found, jnp.zeros(VALUES.shape[1:]))
