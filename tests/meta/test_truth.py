"""Where all estimators must agree, and where they must not, on systems whose derivatives are known (`known`)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import cached
from known import CHAOTIC, LINEAR, STEPS, THETA, Noise, chaotic_truth, measured, truth
from scipy.stats import norm

from mamba import passing
from mamba.meta import derivatives, estimators, growth
from mamba.meta.systems import System

TRUE = truth()[0]

NOISE = Noise(common=0.3, own=0.1)
KEYS = 32
REPEATS = 60
SHORT = 5  # window of `pes`


@cached
def _path(own: float = NOISE.own) -> estimators.Estimator:
    return estimators.pathwise(LINEAR, Noise(NOISE.common, own), steps=STEPS, keys=KEYS)


@cached
def _measure(own: float = NOISE.own):
    return measured(LINEAR, Noise(NOISE.common, own), steps=STEPS)


DESIGN = {"pairs": 4, "sigma": 0.3, "keys": KEYS}
ROOT = jax.random.key(3)
ESTIMATORS = {
    "pathwise": _path,
    "forward": lambda: estimators.forward(LINEAR, NOISE, steps=STEPS, keys=KEYS),
    "truncated": lambda: estimators.truncated(LINEAR, NOISE, window=STEPS, horizon=STEPS, keys=KEYS, key=ROOT),
    "es": lambda: estimators.es(_measure(), **DESIGN),
    "pes": lambda: estimators.pes(LINEAR, NOISE, window=SHORT, horizon=STEPS, sigma=0.3, pairs=200, key=ROOT),
    "control_variate": lambda: estimators.control_variate(_measure(), _measure(own=0.0), _path(own=0.0), **DESIGN),
    "hybrid": lambda: estimators.hybrid(_path(), _measure(), every=1, outcomes=2, n_rows=2, **DESIGN),
}


@cached
def _estimator(name: str) -> estimators.Estimator:
    return ESTIMATORS[name]()


@cached
def _repeated(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Estimates and their errors, [REPEATS, J, P] each."""
    estimator = _estimator(name)
    state, found = estimator.init(THETA), []
    for key in jax.random.split(jax.random.key(11), REPEATS):
        gradient, state = estimator.estimate(key, THETA, state)
        found.append((gradient.jacobian, gradient.error))
    return tuple(np.array(each) for each in zip(*found, strict=True))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimates_are_true_and_their_errors_cover(name):
    found, error = _repeated(name)
    # Windows of `pes` follow each other through whole lives; each has outcomes, and so derivatives, of its own.
    true = np.tile(truth(window=SHORT), (REPEATS * SHORT // STEPS, 1, 1)) if name == "pes" else TRUE
    away = (found - true) / error
    np.testing.assert_array_less(np.abs((found - true).mean(axis=0)), 4 * np.sqrt((error**2).mean(axis=0) / REPEATS))
    assert 0.88 < np.mean(np.abs(away) < 1.96) < 0.98
    assert 0.8 < np.sqrt(np.mean(away**2)) < 1.25


def test_forward_and_reverse_are_the_same_on_the_same_keys():
    np.testing.assert_allclose(_repeated("forward")[0], _repeated("pathwise")[0], rtol=1e-4, atol=1e-4)


def test_rows_are_weighted_sums_of_outcomes():
    rows, key = np.array([[2.0, -1.0], [0.0, 1.0]]), jax.random.key(2)
    for name in ("pathwise", "forward", "truncated", "es", "pes", "control_variate"):
        estimator = _estimator(name)
        whole, _ = estimator.estimate(key, THETA, estimator.init(THETA))
        some, _ = estimator.estimate(key, THETA, estimator.init(THETA), rows)
        np.testing.assert_allclose(some.jacobian, rows @ whole.jacobian, rtol=1e-4, atol=1e-3, err_msg=name)
        np.testing.assert_allclose(some.error[1], whole.error[1], rtol=1e-4, err_msg=name)


def test_worlds_are_averaged_with_their_weights():
    """Each key in a world of its own, as separate calls would have it."""
    samples, weights = jnp.array([0.0, 0.1, 1.0]), np.array([0.5, 0.3, 0.2])
    key, worlds = jax.random.key(2), estimators.Worlds(jnp.array([0.0, 0.1, 1.0]), weights)
    keys = jax.random.split(key, 3)
    slope = jax.jit(derivatives.reverse(LINEAR, steps=STEPS))
    theta, rows, shares = jnp.asarray(THETA, float), jnp.eye(2), jnp.ones(1)
    alone = [
        slope(Noise(NOISE.common, own), theta, rows, shares, keys[w : w + 1])[1][0] for w, own in enumerate(samples)
    ]
    seen, _ = estimators.pathwise(LINEAR, NOISE, steps=STEPS, keys=3).estimate(key, THETA, shares, None, worlds)
    np.testing.assert_allclose(seen.jacobian, np.einsum("w,wjp->jp", weights, np.array(alone)), rtol=1e-5, atol=1e-5)
    ahead = jax.jit(derivatives.forward(LINEAR, steps=STEPS))
    pushed = ahead(NOISE, theta, jnp.eye(3), jnp.ones((3, 1)), keys, samples)[1]
    np.testing.assert_allclose(np.asarray(pushed).swapaxes(1, 2), np.array(alone), rtol=1e-4, atol=1e-4)
    # Perturbed runs see the same worlds on the same keys, and a linear derivative is exact from differences.
    audit, _ = estimators.es(_measure(), **DESIGN | {"keys": 3}).estimate(key, THETA, (), None, worlds)
    np.testing.assert_allclose(audit.jacobian, seen.jacobian, rtol=1e-3, atol=1e-2)


def test_the_control_variate_takes_out_what_both_modes_share():
    """Estimates are linear in the noise, of which the expected mode has the common half: 1 - rho^2 = own^2 / (own^2 + common^2)."""
    (common, own), keys = NOISE, 4
    design = DESIGN | {"keys": keys}
    plain = estimators.es(_measure(), **design)
    controlled = estimators.control_variate(_measure(), _measure(own=0.0), _path(own=0.0), **design)
    found = {"plain": [], "controlled": []}
    for key in jax.random.split(jax.random.key(5), 150):
        found["plain"].append(plain.estimate(key, THETA, ())[0].jacobian)
        found["controlled"].append(controlled.estimate(key, THETA, jnp.ones(1))[0].jacobian)
    before, after = (np.array(each).var(axis=0, ddof=1) for each in found.values())
    # The derivative of the expected mode comes from `KEYS` keys, perturbed runs from fewer.
    expected = (own**2 + common**2 * keys / KEYS) / (own**2 + common**2)
    assert expected < 0.25
    assert np.mean(after / before) == pytest.approx(expected, rel=0.2)
    for each, variance in ((found["plain"], before), (found["controlled"], after)):
        np.testing.assert_array_less(np.abs(np.mean(each, axis=0) - TRUE), 4 * np.sqrt(variance / 150))


def test_windows_and_truncation_lose_what_takes_longer():
    """Exactly the derivatives that the linear system has when all influence ends every so many steps."""
    memory = 5
    short = truth(memory=memory)[0]
    quiet = Noise(0.0, 0.0)
    slope = jax.jit(derivatives.reverse(LINEAR, steps=STEPS))
    shares = passing.windows(np.ones(1), steps=STEPS, window=memory)
    found = slope(quiet, jnp.asarray(THETA, float), jnp.eye(2), jnp.asarray(shares), jax.random.split(ROOT, 1))[1][0]
    np.testing.assert_allclose(found, short, rtol=1e-4, atol=1e-4)
    one = estimators.truncated(LINEAR, quiet, window=memory, horizon=STEPS, keys=1, key=ROOT)
    state, windows = one.init(THETA), []
    for _ in range(STEPS // memory):
        gradient, state = one.estimate(ROOT, THETA, state)
        windows.append(gradient.jacobian)
    np.testing.assert_allclose(windows, truth(window=memory, memory=memory), rtol=1e-4, atol=1e-4)
    assert np.abs(short - TRUE).max() > 0.5 * np.abs(TRUE).max()  # what a window loses here


def test_a_threshold_has_no_derivative_but_an_effect():
    """J = P(theta + noise > 0); perturbed runs give the difference of two normal distribution functions."""

    def advance(context, theta, state, index, key):
        shock = jax.random.normal(jax.random.fold_in(key, index))
        return state, (theta[0] + shock > 0).astype(theta.dtype)

    hard = System(
        begin=lambda context, theta, key: jnp.zeros(()),
        advance=advance,
        measure=lambda above: jnp.mean(above)[None],
        outcomes=("above",),
    )
    theta, sigma = np.array([0.4]), 0.5
    path, _ = estimators.pathwise(hard, (), steps=STEPS, keys=2).estimate(ROOT, theta, jnp.ones(1))
    np.testing.assert_array_equal(path.jacobian, 0.0)
    measure = measured(hard, (), steps=STEPS)
    checked, _ = estimators.es(measure, pairs=2, sigma=sigma, keys=400).estimate(ROOT, theta, ())
    true = (norm.cdf(theta + sigma) - norm.cdf(theta - sigma)) / (2 * sigma)
    assert abs(checked.jacobian - true) < 4 * checked.error
    assert checked.error < 0.05 * true
    mixed, _ = (both := estimators.hybrid(
        estimators.pathwise(hard, (), steps=STEPS, keys=2), measure, every=1, outcomes=1, pairs=2, sigma=sigma, keys=400
    )).estimate(ROOT, theta, both.init(theta))  # fmt: skip
    assert mixed.told["weight"] < 0.05
    np.testing.assert_allclose(mixed.jacobian, checked.jacobian, rtol=0.05)


def test_an_exploding_learner_spoils_every_derivative_that_passes_through_it():
    steps, theta = 50, np.array([0.3, 0.2])
    true = chaotic_truth(steps)
    whole = estimators.pathwise(CHAOTIC, (), steps=steps, keys=16)
    direction = whole.estimate(ROOT, theta, jnp.ones(2))[0].jacobian[0]
    assert np.linalg.norm(direction - true) > 1e9 * np.linalg.norm(true)
    # Its direction is wrong, which clipping does not change; windows only make the error smaller, not small.
    assert estimators.cosine(direction, true) < 1e-6
    short = passing.windows(np.ones(2), steps=steps, window=10)
    assert estimators.cosine(whole.estimate(ROOT, theta, jnp.asarray(short))[0].jacobian[0], true) < 0.1
    closed = whole.estimate(ROOT, theta, jnp.array([1.0, 0.0]))[0].jacobian[0]
    np.testing.assert_allclose(closed[0], true[0], rtol=1e-5)
    # The price of the stop: the learner's own parameter keeps its direct effect, which the chaos then would undo.
    np.testing.assert_allclose(closed[1], closed[0], rtol=1e-5)
    measure = measured(CHAOTIC, (), steps=steps)
    checked = estimators.es(measure, pairs=4, sigma=0.3, keys=400).estimate(ROOT, theta, ())[0]
    np.testing.assert_array_less(np.abs(checked.jacobian[0] - true), 4 * checked.error[0])
    assert np.all(checked.error < 0.1 * true[0])
    guard = growth.guarded(whole, CHAOTIC, (), steps=steps, every=1, shares=np.ones(2))
    _, state = guard.estimate(ROOT, theta, guard.init(theta))
    np.testing.assert_array_equal(np.asarray(state.shares), [1.0, 0.0])
