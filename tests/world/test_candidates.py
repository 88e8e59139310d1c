"""Candidates: places around a table, ages, pairs of indices, the packed gather."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SIZES

from mamba.types import ITEM_COLUMNS
from mamba.world import candidates


def test_places_go_around_a_table_of_any_length():
    degree = np.repeat(np.arange(1, 1025), 8)
    start = (np.random.default_rng(0).random(degree.size) * degree).astype(np.int64)
    start[::8], start[1::8] = 0, degree[1::8] - 1
    found = jax.jit(lambda start, degree: candidates.around(start, degree, count=64))(
        jnp.asarray(start, jnp.int32), jnp.asarray(degree, jnp.int32)
    )
    np.testing.assert_array_equal(found, (start[:, None] + np.arange(64)) % degree[:, None])


@pytest.mark.parametrize("step", [0, 1, SIZES.lifetime - 1, SIZES.lifetime, 1000])
def test_the_age_of_an_item_is_the_steps_since_its_slot_was_filled(step):
    ids = np.arange(SIZES.items)
    found = jax.jit(lambda ids, step: candidates.item_age(ids, step, SIZES))(ids, jnp.int32(step))
    np.testing.assert_array_equal(found, (step - ids // SIZES.creators) % SIZES.lifetime)


def test_pairs_of_indices_find_what_they_name(monkeypatch):
    tables = jnp.arange(21).reshape(7, 3), jnp.arange(21.0).reshape(7, 3) ** 2
    rows, columns = jnp.asarray([[0, 6, 2], [5, 5, 1]]), jnp.asarray([[2, 0, 1], [1, 2, 2]])
    for most in (candidates._INT32, 20):  # a table whose places are no int32
        monkeypatch.setattr(candidates, "_INT32", most)
        for table, found in zip(tables, candidates.at_pairs(tables, rows, columns), strict=True):
            np.testing.assert_array_equal(found, np.asarray(table)[rows, columns])


def test_the_packed_gather_and_its_derivatives():
    table = jax.random.normal(jax.random.key(0), (9, 3 + len(ITEM_COLUMNS)))
    ids = jnp.asarray([[0, 8, 3], [3, 3, 1]])
    np.testing.assert_array_equal(
        jax.jit(candidates.gather_planes)(table, ids), np.moveaxis(np.asarray(table)[ids], -1, 0)
    )
    aim = jax.random.normal(jax.random.key(1), (3 + len(ITEM_COLUMNS), 2, 3))
    slope = jax.grad(lambda table: jnp.sum(aim * candidates.gather_planes(table, ids)))(table)
    wanted = np.zeros(table.shape, np.float32)
    np.add.at(wanted, ids, np.moveaxis(np.asarray(aim), 0, -1))
    np.testing.assert_allclose(slope, wanted, rtol=1e-6)
