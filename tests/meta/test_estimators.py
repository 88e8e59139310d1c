"""Meta-gradient estimators on functions whose derivatives are known."""

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
    rows = evolution.design(len(centre), pairs)
    values = []
    for key in range(keys):
        shared = noise[key]
        for row in rows:
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
