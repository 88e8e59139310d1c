"""Relaxation primitives: values, laws and derivatives in every mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamba.streams import uniforms
from mamba.types import MODES
from mamba.world.relax import bern, carried, drawn, hard_with_soft_derivative, pick, soft_step

P = jnp.asarray([0.0, 0.1, 0.5, 0.9, 1.0])
DRAWS = uniforms(jax.random.key(1), (200_000, 5))


def rows(p):
    return jnp.broadcast_to(p, (len(DRAWS), len(p)))


def test_bern_values():
    hard = bern(rows(P), DRAWS, "sampled")
    assert set(np.unique(hard)) == {0.0, 1.0}
    np.testing.assert_allclose(jnp.mean(hard, axis=0), P, atol=4 * 0.5 / np.sqrt(len(DRAWS)))
    assert bool(jnp.all(hard[:, 0] == 0)) and bool(jnp.all(hard[:, -1] == 1))
    np.testing.assert_array_equal(bern(P, DRAWS[0], "expected"), P)
    np.testing.assert_array_equal(bern(rows(P), DRAWS, "straight_through"), hard)


def test_bern_derivatives():
    def slope(mode):
        return jax.grad(lambda p: jnp.sum(jnp.arange(5.0) * bern(p, DRAWS[0], mode)))(P)

    np.testing.assert_array_equal(slope("sampled"), 0.0)
    np.testing.assert_array_equal(slope("expected"), jnp.arange(5.0))
    np.testing.assert_array_equal(slope("straight_through"), jnp.arange(5.0))


def test_hard_with_soft_derivative():
    x = jnp.asarray([-0.3, 0.0, 2.0])
    hard = hard_with_soft_derivative(jnp.sign(x), jnp.tanh(x))
    np.testing.assert_array_equal(hard, jnp.sign(x))
    slope = jax.grad(lambda x: jnp.sum(hard_with_soft_derivative(jnp.sign(x), jnp.tanh(x))))(x)
    np.testing.assert_allclose(slope, 1 - jnp.tanh(x) ** 2, rtol=1e-6)


def test_carried_is_one_and_carries_the_log_derivative():
    p = jnp.asarray([1e-18, 1e-6, 0.1, 0.7, 1.0])
    np.testing.assert_array_equal(carried(p), 1.0)
    np.testing.assert_allclose(jax.vmap(jax.grad(carried))(p), 1.0 / p, rtol=1e-6)
    assert float(carried(jnp.float32(0.0))) == 1.0
    assert float(jax.grad(carried)(jnp.float32(0.0))) == 0.0


def test_drawn_is_hard_in_every_mode_and_its_mean_derivative_is_exact():
    p = P[1:4]
    sampled = drawn(rows(p), DRAWS[:, 1:4], "sampled")
    for mode in MODES:
        np.testing.assert_array_equal(drawn(rows(p), DRAWS[:, 1:4], mode), sampled)

    def total(p, mode):
        return jnp.mean(drawn(rows(p), DRAWS[:, 1:4], mode), axis=0) @ jnp.asarray([1.0, -2.0, 3.0])

    np.testing.assert_array_equal(jax.grad(total)(p, "sampled"), 0.0)
    for mode in MODES[1:]:
        # d E[weight] = d p; each coordinate is a mean of hard / p, whose standard deviation is at most 3. Four errors.
        np.testing.assert_allclose(jax.grad(total)(p, mode), [1.0, -2.0, 3.0], atol=4 * 3 * 3 / np.sqrt(len(DRAWS)))


MASS = jnp.asarray([0.05, 1.2, 0.0, 0.4, 2.35])


def test_pick_draws_in_proportion_to_mass():
    n = len(DRAWS)
    for mode in MODES:
        index, weight = pick(jnp.broadcast_to(MASS[:, None], (5, n)), DRAWS.T, mode)
        assert index.dtype == jnp.int32
        np.testing.assert_array_equal(weight, 1.0)
        count = np.bincount(np.asarray(index), minlength=5)
        expected = np.asarray(MASS / MASS.sum(), np.float64) * n
        assert count[2] == 0
        live = expected > 0
        chi = np.sum((count[live] - expected[live]) ** 2 / expected[live])
        assert chi < 16.3  # 0.1 % point of chi-square with 3 degrees of freedom


def test_pick_without_mass_is_safe():
    def weight(mass):
        return jnp.sum(pick(mass, DRAWS[:4].T, "expected")[1])

    index, value = pick(jnp.zeros((5, 4)), DRAWS[:4].T, "expected")
    assert bool(jnp.all((index >= 0) & (index < 5)))
    np.testing.assert_array_equal(value, 1.0)
    np.testing.assert_array_equal(jax.grad(weight)(jnp.zeros((5, 4))), 0.0)


@pytest.mark.parametrize("mode", ["expected", "straight_through"])
def test_mean_derivative_of_pick_is_the_derivative_of_the_expectation(mode):
    worth = jnp.asarray([3.0, -1.0, 5.0, 2.0, 0.5])

    def through_draws(logits):
        mass = jnp.broadcast_to(jax.nn.softmax(logits)[:, None], (5, len(DRAWS)))
        index, weight = pick(mass, DRAWS.T, mode)
        return jnp.mean(weight * worth[index])

    logits = jnp.asarray([0.1, 0.7, -0.5, 0.0, -1.2])
    exact = jax.grad(lambda logits: jax.nn.softmax(logits) @ worth)(logits)
    # Per draw |weight derivative| <= 1 and |worth| <= 5: four standard errors.
    np.testing.assert_allclose(jax.grad(through_draws)(logits), exact, atol=4 * 5 / np.sqrt(len(DRAWS)))
    assert float(jnp.max(jnp.abs(exact))) > 0.2


def test_primitives_against_finite_differences():
    with jax.enable_x64(True):
        u = jnp.asarray([0.31, 0.62, 0.87])
        start = jnp.asarray([0.2, 0.55, 0.8])
        cases = {
            "bern": (lambda p: jnp.sum(bern(p, u, "expected") ** 2), lambda p: jnp.sum(p**2)),
            # carried, drawn: value 1, derivative that of the logarithm of what was drawn
            "carried": (lambda p: jnp.sum(carried(p)), lambda p: jnp.sum(jnp.log(p))),
            "drawn": (
                lambda p: jnp.sum(drawn(p, u, "expected")),
                lambda p: jnp.sum(jnp.where(u < start, jnp.log(p), 0)),
            ),
            "pick": (
                lambda p: pick(p, u, "expected")[1],
                lambda p: jnp.log(p[pick(start, u, "sampled")[0]] / jnp.sum(p)),
            ),
            "soft_step": (
                lambda p: jnp.sum(soft_step(p - 0.5, 0.1)),
                lambda p: jnp.sum(1 / (1 + jnp.exp((0.5 - p) / 0.1))),
            ),
        }
        h = 1e-6
        for name, (function, law) in cases.items():
            slope = jax.grad(function)(start)
            for i in range(3):
                bump = jnp.zeros(3).at[i].set(h)
                difference = (law(start + bump) - law(start - bump)) / (2 * h)
                assert abs(difference - slope[i]) < 1e-6 * max(1.0, abs(float(difference))), (name, i)
