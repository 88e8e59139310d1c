"""Fronts by definition, hypervolumes in closed form and by counting, and the coverage of their intervals."""

import itertools

import numpy as np
import pytest

from mamba.meta import fronts


def _by_inclusion(values, reference):
    """Volume of a union of boxes by inclusion and exclusion."""
    total = 0.0
    for size in range(1, len(values) + 1):
        for some in itertools.combinations(range(len(values)), size):
            edges = np.maximum(reference - values[list(some)].max(axis=0), 0.0)
            total -= (-1) ** size * edges.prod()
    return total


def _arc(points):
    """Points on the quarter circle around (1, 1), a convex front."""
    angle = np.linspace(0.05, np.pi / 2 - 0.05, points)
    return 1.0 - np.stack([np.cos(angle), np.sin(angle)], axis=1)


def test_dominance_with_ties():
    values = np.array([[1, 3], [2, 2], [3, 1], [2, 2], [2, 3], [1, 4], [np.nan, 0], [3, 1]], float)
    np.testing.assert_array_equal(fronts.nondominated(values), [1, 1, 1, 1, 0, 0, 0, 1])
    assert fronts.nondominated(np.zeros((4, 3))).all()
    assert fronts.nondominated(np.zeros((0, 3))).shape == (0,)


def test_dominance_by_definition():
    rng = np.random.default_rng(0)
    for objectives in (1, 2, 4):
        values = rng.integers(0, 4, (40, objectives)).astype(float)
        beaten = [any((b <= a).all() and (b < a).any() for b in values) for a in values]
        found = fronts.nondominated(values)
        np.testing.assert_array_equal(found, ~np.array(beaten))
        assert 0 < found.sum() < 40


@pytest.mark.parametrize("objectives", [1, 2, 3, 4, 5])
def test_hypervolumes_by_inclusion_and_exclusion(objectives):
    rng = np.random.default_rng(objectives)
    for _ in range(5):
        values = np.round(rng.uniform(0.0, 1.2, (7, objectives)), 1)  # with ties and points beyond the reference
        reference = np.full(objectives, 1.0)
        found = fronts.hypervolume(values, reference=reference)
        assert found == pytest.approx(_by_inclusion(values, reference), abs=1e-12)
        best = values[fronts.nondominated(values)]
        assert fronts.hypervolume(best, reference=reference) == pytest.approx(found, abs=1e-12)
        turned = fronts.hypervolume(values[::-1, ::-1] + 3.0, reference=reference + 3.0)
        assert turned == pytest.approx(found, abs=1e-12)


def test_hypervolumes_in_closed_form():
    """A staircase of n equal steps, seven boxes around a corner, and nothing."""
    for n in (1, 2, 50):
        x = np.arange(n) / n
        stairs = np.stack([x, 1.0 - 1.0 / n - x], axis=1)
        assert fronts.hypervolume(stairs, reference=np.ones(2)) == pytest.approx(0.5 + 0.5 / n, abs=1e-12)
    corners = 1.0 - np.eye(6)
    assert fronts.hypervolume(corners, reference=np.full(6, 2.0)) == pytest.approx(7.0, abs=1e-12)  # 1 + 6 (2 - 1)
    assert fronts.hypervolume(np.ones((4, 3)), reference=np.ones(3)) == 0
    assert fronts.hypervolume(np.zeros((0, 3)), reference=np.ones(3)) == 0


def test_many_sets_at_once():
    values = np.random.default_rng(6).uniform(size=(2, 3, 8, 4))
    found = fronts.hypervolume(values, reference=np.ones(4))
    assert found.shape == (2, 3)
    each = [[float(fronts.hypervolume(one, reference=np.ones(4))) for one in row] for row in values]
    np.testing.assert_array_equal(found, each)
    with pytest.raises(ValueError, match="does not fit"):
        fronts.hypervolume(values, reference=np.ones(3))
    with pytest.raises(ValueError, match="NaN"):
        fronts.hypervolume(values * np.nan, reference=np.ones(4))


def test_without_noise_the_measured_volume_is_exact():
    values = np.repeat(np.concatenate([_arc(9), [[0.9, 0.9]]])[:, None], 4, axis=1)
    found = fronts.measured(values, values, reference=np.ones(2), resamples=20)
    exact = float(fronts.hypervolume(_arc(9), reference=np.ones(2)))
    np.testing.assert_allclose([found.value, found.low, found.high, found.plain], exact, rtol=1e-12)
    np.testing.assert_allclose([found.error, found.bias, found.curse], 0.0, atol=1e-12)
    np.testing.assert_array_equal(found.chosen, [True] * 9 + [False])


def test_the_resampling_is_paired_over_points():
    """Noise that all points share moves the front as one: its error is that of the shared shift, not of its parts."""
    shift = np.random.default_rng(7).normal(size=(1, 30, 1)) * 0.01
    values = 0.3 + 0.5 * _arc(9)[:, None] + shift
    found = fronts.measured(values, values, reference=np.full(2, 1.5), resamples=2000)
    step = 1e-5
    ends = [fronts.hypervolume(values.mean(1) + sign * step, reference=np.full(2, 1.5)) for sign in (1, -1)]
    slope = float(ends[0] - ends[1]) / (2 * step)
    assert found.error == pytest.approx(abs(slope) * shift.std(ddof=1) / 30**0.5, rel=0.05)


def test_coverage_and_bias_on_a_known_front():
    """400 repetitions: 12 points of a known convex front, 12 seeds, noise of 0.3 that points share by half or not at all."""
    rng = np.random.default_rng(8)
    front, reference = _arc(12), np.full(2, 1.1)
    exact = float(fronts.hypervolume(front, reference=reference))
    for shared in (0.0, 0.5):
        hits, plain, value = [], [], []
        for repetition in range(400):
            noise = shared**0.5 * rng.normal(size=(1, 12, 2)) + (1 - shared) ** 0.5 * rng.normal(size=(12, 12, 2))
            known = np.repeat(front[:, None], 2, axis=1)  # all points are chosen
            found = fronts.measured(
                known, front[:, None] + 0.3 * noise, reference=reference, resamples=200, seed=repetition
            )
            assert found.chosen.all()
            hits.append(found.low <= exact <= found.high)
            plain.append(found.plain - exact)
            value.append(found.value - exact)
        assert 0.92 < np.mean(hits) < 0.99
        assert np.mean(plain) > 4 * np.std(plain) / 20  # the union of boxes is biased upwards
        assert abs(np.mean(value)) < 0.4 * np.mean(plain)  # and most of it is taken off


def test_the_winners_curse_is_reported():
    """40 candidates that are truly alike: on the seeds they were chosen by, their front looks far better than it is."""
    rng = np.random.default_rng(9)
    candidates = np.full((40, 1, 2), 0.5)
    curse, fresh, chosen = [], [], []
    for repetition in range(50):
        selection, again = (candidates + 0.2 * rng.normal(size=(40, 8, 2)) for _ in range(2))
        found = fronts.measured(selection, again, reference=np.ones(2), resamples=100, seed=repetition)
        curse.append(found.curse)
        fresh.append(found.value - 0.25)
        chosen.append(found.chosen.sum())
    assert np.mean(curse) > 0.05 and np.mean(chosen) < 10
    hoped = np.mean(curse) + np.mean(fresh)  # of the selection seeds, against the truth
    assert abs(np.mean(fresh)) < 0.4 * hoped


def test_fronts_that_do_not_fit():
    good = np.zeros((3, 4, 2))
    with pytest.raises(ValueError, match="of the same points"):
        fronts.measured(good, np.zeros((2, 4, 2)), reference=np.ones(2))
    with pytest.raises(ValueError, match="2 fresh seeds"):
        fronts.measured(good, good[:, :1], reference=np.ones(2))
