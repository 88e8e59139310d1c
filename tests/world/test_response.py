"""Responses: the laws of choice, and that what is left of a draw is as good as new."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamba.world import response

N = 200_000
VALUE = jnp.broadcast_to(jnp.asarray([0.5, -1.0, 2.0])[:, None], (3, N))
EXAMINED = jnp.asarray([1.0, 1.0, 0.0])[:, None] * jnp.ones((1, N))
DRAW = jax.random.uniform(jax.random.key(0), (3, N), minval=1e-6)


def test_multinomial_choice_takes_at_most_one_by_its_odds():
    clicked, _ = response.CHOICE["multinomial"](VALUE, EXAMINED, DRAW, "sampled")
    assert float(clicked.sum(axis=0).max()) == 1.0 and float(clicked[2].max()) == 0.0
    odds = np.exp([0.5, -1.0])
    want = odds / (1 + odds.sum())
    np.testing.assert_allclose(clicked.mean(axis=1)[:2], want, atol=4 * 0.5 / N**0.5)
    soft, _ = response.CHOICE["multinomial"](VALUE, EXAMINED, DRAW, "expected")
    np.testing.assert_allclose(soft[:2, 0], want, rtol=1e-5)


def test_logit_choice_takes_each_on_its_own():
    clicked, _ = response.CHOICE["logit"](VALUE, EXAMINED, DRAW, "sampled")
    chance = jax.nn.sigmoid(VALUE[:2, 0])
    np.testing.assert_allclose(clicked.mean(axis=1)[:2], chance, atol=4 * 0.5 / N**0.5)
    both = float((clicked[0] * clicked[1]).mean())
    assert both == pytest.approx(float(chance[0] * chance[1]), abs=4 * 0.5 / N**0.5)
    assert float(clicked[2].max()) == 0.0


@pytest.mark.parametrize("name", response.CHOICE)
def test_what_is_left_of_a_draw_is_uniform_whatever_was_clicked(name):
    clicked, spare = response.CHOICE[name](VALUE, EXAMINED, DRAW, "sampled")
    assert float(spare.min()) > 0 and float(spare.max()) < 1
    for row in range(3):
        for happened in (0.0, 1.0):
            left = np.asarray(spare[row])[np.asarray(clicked[0]) == happened]
            if len(left):
                np.testing.assert_allclose(left.mean(), 0.5, atol=4 * 0.29 / len(left) ** 0.5)
                np.testing.assert_allclose((left < 0.25).mean(), 0.25, atol=4 * 0.44 / len(left) ** 0.5)


@pytest.mark.parametrize("name", ["logit", "multinomial"])
def test_straight_through_has_the_derivative_of_the_expectation(name):
    def total(value, mode):
        return jnp.sum(response.CHOICE[name](value, EXAMINED[:, :50], DRAW[:, :50], mode)[0])

    value = VALUE[:, :50]
    soft, hard = (jax.grad(total)(value, mode) for mode in ("expected", "straight_through"))
    np.testing.assert_allclose(hard, soft, atol=1e-6)
    assert float(jnp.abs(soft).max()) > 0.01
