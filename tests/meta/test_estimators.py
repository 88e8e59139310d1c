"""Meta-gradient estimators on functions whose derivatives are known."""

import jax
import numpy as np
import pytest

from mamba.meta import estimators, evolution, vector


@pytest.mark.parametrize(("levers", "pairs"), [(1, 2), (3, 4), (7, 8), (11, 16), (15, 4)])
def test_design_is_orthogonal_and_leaves_a_residual(levers, pairs):
    rows = evolution.design(levers, pairs)
    assert set(np.unique(rows)) == {-1.0, 1.0}
    assert len(rows) >= max(pairs, levers + 1)
    np.testing.assert_array_equal(rows.T @ rows, len(rows) * np.eye(levers))


def _runs(function, centre, *, pairs, sigma, keys, noise):
    """Objectives in the order of `evolution.perturbed`: key, then row, then sign."""
    values = []
    for key in range(keys):
        shared = noise[key]
        for row in evolution.design(len(centre), pairs, key=key):
            values += [function(centre + sign * sigma * row) + shared for sign in (1.0, -1.0)]
    return np.array(values)


def test_audit_is_exact_for_linear_and_even_functions():
    rng = np.random.default_rng(0)
    slope = rng.normal(size=(2, 5))
    centre = rng.normal(size=5)

    def objectives(x):
        away = x - centre
        return slope @ x + np.array([away @ away, (away @ away) ** 2])  # even parts cancel in antithetic pairs

    common = rng.normal(size=(3, 2))  # common random numbers cancel too
    values = _runs(objectives, centre, pairs=8, sigma=0.3, keys=3, noise=common)
    audit = evolution.audit(values, n_parameters=5, n_keys=3, pairs=8, sigma=0.3)
    np.testing.assert_allclose(audit.jacobian, slope, atol=1e-10)
    np.testing.assert_allclose(audit.error, 0.0, atol=1e-9)


def test_audit_error_covers_the_noise_it_is_given():
    rng = np.random.default_rng(1)
    slope, covered, pairs, sigma = np.array([[1.0, -2.0, 0.5]]), [], 16, 0.2
    for _ in range(200):
        rows = evolution.design(3, pairs)
        values = []
        for row in rows:
            values += [slope @ (sign * sigma * row) + rng.normal(0, 0.3, 1) for sign in (1.0, -1.0)]
        audit = evolution.audit(np.array(values), n_parameters=3, n_keys=1, pairs=pairs, sigma=sigma)
        covered.append(np.abs(audit.jacobian - slope) < 1.96 * audit.error)
    assert 0.90 < np.mean(covered) < 0.98


def _gradient(value, error):
    return estimators.Gradient(np.zeros(1), value[None], error[None], {})


def test_combination_trusts_the_pathwise_gradient_until_it_is_biased():
    path = _gradient(np.array([1.0, 1.0]), np.array([0.01, 0.01]))
    checked = _gradient(np.array([1.1, -1.0]), np.array([0.2, 0.2]))
    gradient, error, weight = (each[0] for each in estimators.combine(path, checked, np.array([[0.0, 4.0]])))
    assert weight[0] > 0.99
    assert weight[1] < 0.02
    np.testing.assert_allclose(gradient, [1.0, -1.0], atol=0.05)
    np.testing.assert_allclose(error, [0.01, 0.2], rtol=0.02)


def test_one_key_leaves_no_pathwise_error_and_the_audit_stands_in():
    path = _gradient(np.array([2.0]), np.array([np.inf]))
    checked = _gradient(np.array([0.0]), np.array([0.5]))
    gradient, error, weight = (each[0] for each in estimators.combine(path, checked, np.array([[0.0]])))
    assert weight[0] == pytest.approx(0.5)
    assert gradient[0] == pytest.approx(1.0)
    assert error[0] == pytest.approx(0.5 / 2**0.5)


def test_names_follow_the_flat_order():
    levers = {"b": {"y": np.float32(3), "x": np.float32(2)}, "a": {"z": np.array([0.0, 1.0], np.float32)}}
    assert vector.names(levers) == ["a/z/0", "a/z/1", "b/x", "b/y"]
    np.testing.assert_array_equal(vector.flat(levers), [0.0, 1.0, 2.0, 3.0])
    again = vector.unflat(levers)(vector.flat(levers))
    assert float(again["b"]["y"]) == 3.0


def test_cosine():
    assert estimators.cosine(np.array([1.0, 0.0]), np.array([2.0, 0.0])) == pytest.approx(1.0)
    assert estimators.cosine(np.array([1.0, 0.0]), np.array([0.0, 0.0])) == 0.0


# ---- the hybrid over time --------------------------------------------------------------------------------------------


def _scripted(slopes, *, error=1e-3):
    """An estimator that says what it is told, one row [P] after the other."""
    queue = list(slopes)

    def estimate(key, theta, state, rows=None, worlds=None):
        value = np.asarray(queue.pop(0), np.float64)[None]
        return estimators.Gradient(np.zeros(1), value, np.full(value.shape, error), {}), state

    return estimators.Estimator(lambda theta: (), estimate)


def _linear(slope, *, noise=1e-3):
    """Outcomes of a linear model with noise that is common to a key's runs up to its slope."""

    def measure(thetas, keys, samples):
        apart = np.asarray(jax.vmap(lambda key: jax.random.normal(key, (len(slope),)))(keys))
        return np.sum(thetas * (np.asarray(slope) + noise * apart), axis=1, keepdims=True)

    return measure


def _run(path, measure, *, steps, every, stride=0.0):
    made = estimators.hybrid(path, measure, every=every, outcomes=1, pairs=4, sigma=0.3, keys=2)
    state, found = made.init(np.zeros(3)), []
    for step in range(steps):
        theta = np.full(3, step * stride)
        gradient, state = made.estimate(jax.random.key(step), theta, state, np.ones((1, 1)))
        found.append(gradient)
    return found, state


def test_one_derivative_that_overflows_does_no_lasting_harm():
    honest = [1.0, -2.0, 0.5]
    slopes = [honest, [np.inf, -2.0, 0.5], [np.nan, -2.0, 0.5], honest, honest]
    found, state = _run(_scripted(slopes), _linear(honest), steps=5, every=2)
    for gradient in found:
        np.testing.assert_allclose(gradient.jacobian[0], honest, atol=0.01)
    assert np.all(np.isfinite(state.bias_squared))
    assert (
        found[1].told["weight"][0, 0] == 0.0 and found[1].told["weight"][0, 1] > 0
    )  # the audit stands in for it alone


def test_an_old_audit_gives_way_to_the_derivative_as_levers_move_on():
    start, later = [1.0, -2.0, 0.5], [0.1, -2.0, 0.5]  # the first lever has become far less steep
    still, _ = _run(_scripted([start, start]), _linear(start), steps=2, every=10)
    moved, _ = _run(_scripted([start, later]), _linear(start), steps=2, every=10, stride=0.3)
    assert np.all(still[1].told["weight"] < 0.9)  # an audit is as good as new where it was made
    assert np.all(moved[1].told["weight"] > 0.99)
    np.testing.assert_allclose(moved[1].jacobian[0], later, atol=0.01)
    np.testing.assert_allclose(moved[1].told["audited_error"][0], np.abs(moved[1].told["audited"][0]), rtol=0.01)


def test_one_key_of_the_derivative_is_not_taken_for_no_noise():
    rng = np.random.default_rng(0)
    biased = 0
    for trial in range(40):
        honest = np.array([1.0, -2.0, 0.5])
        path = _scripted([honest + rng.normal(0, 0.1, 3)], error=np.inf)  # one key: nothing to compare
        made = estimators.hybrid(path, _linear(honest, noise=0.2), every=1, outcomes=1, pairs=4, sigma=0.3, keys=2)
        _, state = made.estimate(jax.random.key(trial), np.zeros(3), made.init(np.zeros(3)), np.ones((1, 1)))
        biased += int(np.sum(np.asarray(state.bias_squared) > 0))
    assert biased / 120 < 0.2


def test_effects_of_three_levers_at_once_show_as_noise_between_keys():
    def values(theta):
        return np.prod(theta[:, :3] + 1.0, axis=1, keepdims=True)  # third order in the first three of seven

    keys, sigma = 8, 0.3
    thetas, _ = evolution.points(np.zeros(7), jax.random.split(jax.random.key(0), keys), pairs=16, sigma=sigma)
    found = evolution.audit(values(thetas), n_parameters=7, n_keys=keys, pairs=16, sigma=sigma)
    others = np.abs(found.jacobian[0, 3:])
    assert np.all(others <= 3 * found.error[0, 3:] + 1e-6)
    single = evolution.audit(values(thetas[:32]), n_parameters=7, n_keys=1, pairs=16, sigma=sigma)
    assert np.max(np.abs(single.jacobian[0, 3:])) > 0.05  # under one key it looks like a derivative


@pytest.mark.parametrize("noisy", [0, 2])
def test_errors_of_two_keys_cover_columns_of_unequal_noise(noisy):
    rng, covered = np.random.default_rng(3), []
    for _ in range(200):
        slopes = np.zeros((2, 12))
        slopes[:, :noisy] += rng.normal(0, 5.0, (2, noisy))
        slopes[:, noisy:] += rng.normal(0, 0.2, (2, 12 - noisy))
        rows = [evolution.design(12, 16, key=s) for s in range(2)]
        values = [sign * 0.3 * row @ slopes[s] for s in range(2) for row in rows[s] for sign in (1.0, -1.0)]
        found = evolution.audit(np.array(values)[:, None], n_parameters=12, n_keys=2, pairs=16, sigma=0.3)
        covered.append(np.abs(found.jacobian[0]) < 1.96 * found.error[0])
    rates = np.mean(covered, axis=0)
    assert np.all(rates[noisy:] > 0.9) and np.all(rates[:noisy] > 0.65)  # one degree of freedom covers 70 %
