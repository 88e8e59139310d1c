"""What is stored: the same numbers and derivatives, computed once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamba.storing import stored

VALUES = jnp.linspace(-2.0, 2.0, 64).reshape(8, 8)


@pytest.mark.parametrize(
    "operand", [VALUES, VALUES.astype(jnp.int32), VALUES > 0, jnp.zeros((0, 3)), jnp.full(3, jnp.nan)]
)
def test_any_array_is_stored(operand):
    found = jax.jit(lambda x: stored(lambda x: 2 * x, x))(operand)
    np.testing.assert_array_equal(found, 2 * operand)


def test_derivatives_and_maps_pass():
    def total(x):
        return jnp.sum(stored(lambda x, y: jnp.sin(x) * y, x, VALUES) ** 2)

    def plain(x):
        return jnp.sum((jnp.sin(x) * VALUES) ** 2)

    np.testing.assert_allclose(jax.jit(jax.grad(total))(VALUES), jax.grad(plain)(VALUES), rtol=1e-5)
    tangent = jax.jvp(total, (VALUES,), (jnp.ones_like(VALUES),))[1]
    np.testing.assert_allclose(tangent, jax.jvp(plain, (VALUES,), (jnp.ones_like(VALUES),))[1], rtol=1e-5)
    many = jnp.stack([VALUES, -VALUES, 2.0 * VALUES])
    np.testing.assert_allclose(jax.jit(jax.vmap(total))(many), jax.vmap(plain)(many), rtol=1e-5)


def test_nothing_is_computed_again_by_what_reads_it():
    def read(x, keep):
        made = keep(jnp.sin, x)
        return jnp.cumsum(made, axis=1), made[::2] * made[1::2], jnp.exp(made)

    def sines(keep, many):
        def each(x):
            return read(x, keep)

        function = jax.vmap(each) if many else each
        return jax.jit(function).lower(jnp.stack([VALUES] * 3) if many else VALUES).compile().as_text().count(" sine(")

    for many in (False, True):
        assert sines(lambda compute, x: compute(x), many) > 1  # else this shows nothing
        assert sines(stored, many) == 1
