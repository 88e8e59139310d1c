"""The common descent direction against closed forms and enumeration; its certificate against the noise it must not count."""

import itertools

import numpy as np
import pytest

from mamba.meta import descent


def _by_enumeration(gradients):
    """Shortest vector of the hull: the shortest of all affine hulls whose nearest point has weights on the simplex."""
    best = np.full(gradients.shape[1], np.inf)
    for size in range(1, len(gradients) + 1):
        for face in itertools.combinations(range(len(gradients)), size):
            first, rest = gradients[face[0]], gradients[list(face[1:])] - gradients[face[0]]
            weights = np.linalg.lstsq(rest.T, -first, rcond=None)[0]
            if (weights >= 0).all() and weights.sum() <= 1:
                found = first + weights @ rest
                best = min(best, found, key=np.linalg.norm)
    return best


def _stationary(rng, objectives, levers):
    """Gradients with 0 in their hull, well inside it."""
    gradients = rng.normal(size=(objectives, levers))
    weights = rng.dirichlet(np.full(objectives, 5.0))
    gradients[-1] = -(weights[:-1] @ gradients[:-1]) / weights[-1]
    return gradients


def test_two_objectives_in_closed_form():
    """The nearest point of a segment, clipped to its ends (Sener and Koltun 2018)."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(100):
        a, b = rng.normal(size=(2, 3)) + rng.normal(size=3)
        share = np.clip((b - a) @ b / np.sum((a - b) ** 2), 0.0, 1.0)
        found = descent.common_descent(np.stack([a, b]))
        np.testing.assert_allclose(found.weights, [share, 1 - share], atol=1e-10)
        np.testing.assert_allclose(found.direction, -(share * a + (1 - share) * b), atol=1e-10)
        assert found.norm == pytest.approx(np.linalg.norm(found.direction), abs=1e-14)
        inside += 0 < share < 1
    assert 20 < inside < 80


def test_the_direction_is_that_of_enumeration():
    rng = np.random.default_rng(1)
    for case in range(100):
        objectives, levers = rng.integers(1, 6), rng.integers(3, 9)
        gradients = rng.normal(size=(objectives, levers)) + (case % 3) * rng.normal(size=levers)
        found = descent.common_descent(gradients)
        np.testing.assert_allclose(found.direction, -_by_enumeration(gradients), atol=1e-10)


def test_every_objective_falls_at_least_as_fast_as_the_norm_says():
    rng = np.random.default_rng(2)
    for case in range(200):
        gradients = rng.normal(size=(rng.integers(2, 9), 12)) * 10.0 ** rng.uniform(-1, 1)
        gradients[0] = gradients[1] if case % 4 == 0 else gradients[0]  # affinely dependent
        weights, direction, norm = descent.common_descent(gradients)
        assert (weights >= 0).all() and weights.sum() == pytest.approx(1.0, abs=1e-12)
        assert (gradients @ direction <= -(norm**2) + 1e-10 * np.mean(gradients**2)).all()


def test_gradients_of_very_different_lengths():
    rng = np.random.default_rng(10)
    for _ in range(200):
        gradients = rng.normal(size=(4, 9)) * 10.0 ** rng.uniform(-2, 2, size=(4, 1))
        _, direction, norm = descent.common_descent(gradients)
        assert (gradients @ direction <= -(norm**2) * (1 - 1e-10)).all()


def test_order_does_not_matter():
    rng = np.random.default_rng(3)
    gradients = rng.normal(size=(5, 20)) + 0.5
    found, order = descent.common_descent(gradients), rng.permutation(5)
    shuffled = descent.common_descent(gradients[order])
    np.testing.assert_allclose(shuffled.weights, found.weights[order], atol=1e-12)
    np.testing.assert_allclose(shuffled.direction, found.direction, atol=1e-12)
    turned = descent.common_descent(gradients[:, ::-1])
    np.testing.assert_allclose(turned.weights, found.weights, atol=1e-12)


def test_stationary_points_have_norm_zero():
    rng = np.random.default_rng(4)
    for objectives, levers in ((2, 5), (4, 12), (7, 3), (6, 2000)):
        assert descent.common_descent(_stationary(rng, objectives, levers)).norm < 1e-10 * levers**0.5
    assert descent.common_descent(np.eye(3)[:2]).norm == pytest.approx(0.5**0.5, abs=1e-14)
    at_optimum = descent.common_descent(np.array([[0.0, 0.0], [1.0, 2.0], [0.0, 0.0]]))
    np.testing.assert_array_equal(at_optimum.weights, [0.5, 0.0, 0.5])
    assert at_optimum.norm == 0


def test_gradients_that_are_none():
    with pytest.raises(ValueError, match=r"got \(0, 3\)"):
        descent.common_descent(np.zeros((0, 3)))
    with pytest.raises(ValueError, match="finite"):
        descent.common_descent(np.array([[np.nan]]))
    with pytest.raises(ValueError, match="at least 4 keys"):
        descent.certificate(np.zeros((3, 2, 2)))


def test_without_noise_the_certificate_is_the_squared_norm():
    gradients = np.random.default_rng(5).normal(size=(3, 8)) + 1.0
    exact = descent.common_descent(gradients).norm ** 2
    found = descent.certificate(np.tile(gradients, (5, 1, 1)))
    np.testing.assert_allclose([found.squared, found.low, found.high, found.naive], exact, rtol=1e-12)
    assert exact > 0.1 and found.error < 1e-12


def test_only_inner_products_matter():
    """More levers than gradients: rotated and padded, the certificate is the same."""
    rng = np.random.default_rng(6)
    jacobians = rng.normal(size=(6, 3, 10)) + rng.normal(size=(3, 10))
    turn = np.linalg.qr(rng.normal(size=(400, 400)))[0][:10]
    for one, other in zip(descent.certificate(jacobians), descent.certificate(jacobians @ turn), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)


@pytest.mark.parametrize(("objectives", "away"), [(2, 0.0), (4, 0.0), (4, 0.3)])
def test_noise_is_not_counted_as_descent(objectives, away):
    """400 repetitions at a stationary point and off it, 12 keys, 12 levers, noise of the size of the gradients."""
    rng = np.random.default_rng(7)
    gradients = _stationary(rng, objectives, 12) + away * rng.normal(size=12)
    exact = descent.common_descent(gradients).norm ** 2
    found = [descent.certificate(gradients + rng.normal(size=(12, objectives, 12))) for _ in range(400)]
    squared, error, low, high, naive = (np.array([getattr(c, name) for c in found]) for name in
                                        ("squared", "error", "low", "high", "naive"))  # fmt: skip
    doubt = squared.std() / 20
    assert abs(squared.mean() - exact) < 3 * doubt
    assert naive.mean() - exact > 8 * doubt
    assert np.mean((low <= exact) & (exact <= high)) > 0.92
    assert 0.9 < error.mean() / squared.std() < 2.0  # cautious at a stationary point, where the estimate is degenerate
    if away == 0:
        assert np.mean(low > 0) < 0.03
