"""Drawing items in proportion to mass: the law, and a search that is only faster."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamba.algorithms import pool

KEY = jax.random.key(3)


def masses(kind, size):
    uniform = jax.random.uniform(KEY, (size,))
    return {
        "even": jnp.ones(size),
        "sparse": (uniform < 0.2).astype(float),
        "steep": uniform**-3.0,
        "one": jnp.zeros(size).at[size // 2].set(2.0),
        "gone": jnp.zeros(size),
        "tiny": 1e-30 * uniform,
    }[kind]


@pytest.mark.parametrize("kind", ["even", "sparse", "steep", "one", "gone", "tiny"])
@pytest.mark.parametrize("size", [1, 2, 300, 5000])
def test_the_guided_search_finds_what_bisection_finds(kind, size):
    below = jax.lax.cummax(jnp.cumsum(masses(kind, size)))
    inside = jax.random.uniform(jax.random.key(1), (2000,)) * below[-1]
    marks = jnp.concatenate(
        [inside, below, jnp.zeros(1), jnp.nextafter(below, jnp.inf), jnp.nextafter(below, -jnp.inf)]
    )
    np.testing.assert_array_equal(pool._guided_search(below, marks), pool._search(below, marks))


def test_items_are_drawn_in_proportion_to_their_mass():
    mass = jnp.asarray([0.0, 3.0, 1.0, 0.0, 6.0])
    drawn = pool.draw(mass, jax.random.uniform(KEY, (4, 5000)))
    assert drawn.shape == (4, 5000) and drawn.dtype == jnp.int32
    share = np.bincount(np.ravel(drawn), minlength=5) / drawn.size
    np.testing.assert_allclose(share, np.asarray(mass) / 10.0, atol=0.012)
    assert share[0] == share[3] == 0


def test_without_any_mass_the_last_item_is_drawn():
    assert bool(jnp.all(pool.draw(jnp.zeros(7), jnp.asarray([0.1, 0.9])) == 6))


def test_an_item_is_drawn_also_where_numbers_are_not_finite():
    drawn = pool.draw(jnp.full(7, jnp.nan), jnp.asarray([0.1, 0.9]))
    assert bool(jnp.all((drawn >= 0) & (drawn < 7)))
