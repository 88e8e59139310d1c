"""Systems run in pieces, and judged on what another deployment brings about."""

import jax
import jax.numpy as jnp
import numpy as np
from known import LINEAR, STEPS, THETA, Noise, truth

from mamba.meta import systems

NOISE = Noise(0.3, 0.3)
KEY = jax.random.key(1)


def _theta() -> jax.Array:
    return jnp.asarray(THETA, float)


def test_a_run_goes_on_where_it_stopped():
    run = jax.jit(lambda **given: systems.run(LINEAR, NOISE, _theta(), key=KEY, steps=STEPS // 2, **given)[0])
    whole = jax.jit(lambda: systems.run(LINEAR, NOISE, _theta(), key=KEY, steps=STEPS)[0])()
    half = run()
    again = run(state=half, first=STEPS // 2)
    np.testing.assert_allclose(again, whole, rtol=1e-6)
    assert np.abs(half - whole).max() > 0.1


def test_shares_change_derivatives_and_no_values():
    def outcome(theta, shares):
        return systems.run(LINEAR, NOISE, theta, key=KEY, steps=STEPS, shares=shares)[1]

    both = jax.jit(lambda theta, shares: (outcome(theta, shares), jax.jacfwd(outcome)(theta, shares)))
    full, one = both(_theta(), jnp.asarray(systems.everything_passes(LINEAR))), both(_theta(), jnp.zeros(1))
    np.testing.assert_array_equal(full[0], one[0])
    quiet = jax.jacfwd(lambda theta: systems.run(LINEAR, Noise(0.0, 0.0), theta, key=KEY, steps=STEPS)[1])(_theta())
    np.testing.assert_allclose(quiet, truth()[0], rtol=1e-4, atol=1e-4)
    assert np.abs(full[1] - one[1]).max() > 1.0


def test_decoupled_outcomes_are_the_run_where_both_agree_and_its_one_step_view_nearby():
    """Perdomo et al. 2020: what is judged moves outcomes, and not the data."""
    quiet = Noise(0.0, 0.0)

    def judged(theta):
        return systems.decoupled(LINEAR, quiet, _theta(), theta, key=KEY, steps=STEPS)

    _, value = systems.run(LINEAR, quiet, _theta(), key=KEY, steps=STEPS)
    np.testing.assert_allclose(judged(_theta()), value, rtol=1e-5)
    np.testing.assert_allclose(jax.jacfwd(judged)(_theta()), truth(memory=1)[0], rtol=1e-4, atol=1e-4)
    moved = jax.jacfwd(lambda theta: systems.decoupled(LINEAR, quiet, theta, _theta(), key=KEY, steps=STEPS))(_theta())
    np.testing.assert_array_equal(moved, 0.0)  # no derivative through what is deployed
