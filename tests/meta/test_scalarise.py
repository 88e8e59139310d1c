"""Simplex grids to walk along, and the smooth maximum between a maximum and a sum."""

import math

import numpy as np
import pytest
from scipy import optimize

from mamba.meta import descent, fronts, scalarise


@pytest.mark.parametrize(("objectives", "divisions"), [(1, 3), (2, 1), (2, 31), (3, 7), (4, 4), (6, 2), (5, 1)])
def test_the_grid_is_the_whole_simplex_and_a_walk(objectives, divisions):
    weights, parent, wave = scalarise.das_dennis(objectives, divisions)
    counts = np.rint(weights * divisions).astype(int)
    np.testing.assert_allclose(weights * divisions, counts, atol=1e-12)
    assert len(weights) == math.comb(divisions + objectives - 1, objectives - 1) == len({*map(tuple, counts)})
    assert (counts >= 0).all() and (counts.sum(axis=1) == divisions).all()
    steps = np.abs(np.diff(counts, axis=0))
    assert (steps.sum(axis=1) == 2).all() and (steps.max(axis=1, initial=1) == 1).all()

    root = np.flatnonzero(parent < 0)
    assert len(root) == 1 and wave[root[0]] == 0
    assert np.ptp(counts[root[0]]) <= 1  # as even as counts can be
    rest = np.flatnonzero(parent >= 0)
    assert (wave[parent[rest]] == wave[rest] - 1).all()
    assert (np.abs(counts[parent[rest]] - counts[rest]).sum(axis=1) == 2).all()
    np.testing.assert_array_equal(wave, np.abs(counts - counts[root]).sum(axis=1) // 2)


def test_a_floor_shrinks_the_grid_towards_even_weights():
    plain, floored = scalarise.das_dennis(3, 4).weights, scalarise.das_dennis(3, 4, smallest=0.05).weights
    np.testing.assert_allclose(floored.sum(axis=1), 1.0, atol=1e-15)
    assert floored.min() == pytest.approx(0.05)
    np.testing.assert_allclose(floored - 1 / 3, 0.85 * (plain - 1 / 3), atol=1e-15)


def test_grids_that_cannot_be():
    with pytest.raises(ValueError, match="got 0 and 3"):
        scalarise.das_dennis(0, 3)
    with pytest.raises(ValueError, match=r"below 0.5, got 0.5"):
        scalarise.das_dennis(2, 3, smallest=0.5)


def test_the_slope_is_the_derivative():
    rng = np.random.default_rng(0)
    values, weights = rng.normal(size=(7, 4)), rng.dirichlet(np.ones(4), 7)
    ideal, step = rng.normal(size=4), 1e-6
    value, slope = scalarise.chebyshev(values, weights, ideal=ideal, smoothing=0.1)
    assert value.shape == (7,)
    for m in range(4):
        ends = [
            scalarise.chebyshev(values + sign * step * np.eye(4)[m], weights, ideal=ideal, smoothing=0.1)[0]
            for sign in (1, -1)
        ]
        np.testing.assert_allclose(slope[:, m], (ends[0] - ends[1]) / (2 * step), rtol=1e-7, atol=1e-9)


def test_between_the_maximum_and_the_weighted_sum():
    rng = np.random.default_rng(1)
    values, weights = rng.normal(size=(50, 3)), rng.dirichlet(np.ones(3), 50)
    largest = np.max(weights * (values + 0.5), axis=-1)
    for smoothing in (1e-6, 1e-2, 1.0):
        value, slope = scalarise.chebyshev(values, weights, ideal=-0.5, smoothing=smoothing)
        assert (value >= largest - 1e-14).all() and (value <= largest + smoothing * np.log(3) + 1e-14).all()
        assert (slope >= 0).all() and (slope <= weights).all()
    value, slope = scalarise.chebyshev(values, weights, ideal=0.0, smoothing=1e6)
    total, gradient = scalarise.linear(values, weights)
    np.testing.assert_allclose(3 * (value - 1e6 * np.log(3)), total, atol=1e-5)
    np.testing.assert_allclose(3 * slope, gradient, atol=1e-5)


def test_extreme_values_do_not_overflow():
    value, slope = scalarise.chebyshev(np.array([1e6, -1e6]), np.array([0.5, 0.5]), ideal=0.0, smoothing=1e-3)
    assert value == 5e5
    np.testing.assert_array_equal(slope, [0.5, 0.0])
    with pytest.raises(ValueError, match="positive, got 0"):
        scalarise.chebyshev(np.zeros(2), np.ones(2), ideal=0.0, smoothing=0.0)


def test_a_concave_front_is_reached_by_the_maximum_and_not_by_the_sum():
    """On J = (cos t, sin t), t in [0, pi / 2], a sum has minima at the ends only; the maximum has them all along."""
    angle = np.linspace(0.0, np.pi / 2, 1001)
    front = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    weights = scalarise.das_dennis(2, 10, smallest=0.05).weights
    smooth, _ = scalarise.chebyshev(front[None], weights[:, None], ideal=0.0, smoothing=1e-3)
    summed, _ = scalarise.linear(front[None], weights[:, None])
    assert set(np.argmin(summed, axis=1)) == {0, 1000}
    exact = np.arctan2(weights[:, 0], weights[:, 1])  # where w_1 J_1 = w_2 J_2
    np.testing.assert_allclose(angle[np.argmin(smooth, axis=1)], exact, atol=0.01)


def test_the_pieces_train_a_concave_front():
    """Fonseca and Fleming 1995: Pareto-optimal where all coordinates are equal, between -1 / sqrt(n) and 1 / sqrt(n).

    Trained wave by wave, every point from its parent; weighted sums end near the ends, as stationary but dominating less.
    """
    levers, centres = 4, np.array([[0.5], [-0.5]]) * np.ones((2, 4))

    def harms(theta):
        near = np.exp(-np.sum((theta - centres) ** 2, axis=1))
        return 1.0 - near, 2.0 * near[:, None] * (theta - centres)

    def trained(scalar):
        grid = scalarise.das_dennis(2, 8, smallest=0.05)
        found = np.zeros((len(grid.weights), levers))
        for i in np.argsort(grid.wave, kind="stable"):

            def loss(theta, weights=grid.weights[i]):
                values, gradients = harms(theta)
                value, slope = scalar(values, weights)
                return float(value), slope @ gradients

            begin = found[grid.parent[i]] if grid.parent[i] >= 0 else np.array([0.3, -0.2, 0.1, 0.05])
            found[i] = optimize.minimize(loss, begin, jac=True, method="BFGS", options={"gtol": 1e-9}).x
        return found

    front = trained(lambda values, weights: scalarise.chebyshev(values, weights, ideal=0.0, smoothing=0.02))
    sums = trained(scalarise.linear)
    for theta in (*front, *sums):
        _, gradients = harms(theta)
        assert descent.common_descent(gradients).norm < 1e-6
    np.testing.assert_allclose(front, front.mean(axis=1, keepdims=True) * np.ones(levers), atol=1e-4)
    places = front.mean(axis=1)
    assert (np.abs(places) < 0.5).all() and (np.diff(places) > 0.02).all()  # in order, spread, none at an end
    volume = [
        float(fronts.hypervolume(np.stack([harms(theta)[0] for theta in each]), reference=np.ones(2)))
        for each in (front, sums)
    ]
    assert volume[0] > 1.2 * volume[1], (volume, places, sums.mean(axis=1))
