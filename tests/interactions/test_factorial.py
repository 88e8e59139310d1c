"""Effects from value tables whose answer is known."""

import numpy as np
import pytest

from mamba.interactions import designs, factorial
from mamba.objectives import NAMES


def _table(function, n, seeds=2):
    """[S, 2^n, J] with the same value for every objective and seed."""
    values = np.array([function(*(2 * row - 1)) for row in designs.gates(n)])
    return np.broadcast_to(values[None, :, None], (seeds, 2**n, len(NAMES))).copy()


def test_two_level_factorial_with_known_coefficients():
    """y = 3 + 2a - b + c/2 + 4ab - 2abc with a, b, c = -1, +1: effects are 2 and 4 times the coefficients."""
    table = _table(lambda a, b, c: 3 + 2 * a - b + 0.5 * c + 4 * a * b - 2 * a * b * c, 3)
    analysis = factorial.analyse("abc", table)
    np.testing.assert_allclose(analysis.main.mean[:, 0], [4.0, -2.0, 1.0], atol=1e-12)
    np.testing.assert_allclose(analysis.pair.mean[0, 1, 0], 16.0, atol=1e-12)
    np.testing.assert_allclose(analysis.pair.mean[0, 2, 0], 0.0, atol=1e-12)  # the three-way term averages out
    np.testing.assert_allclose(analysis.pair.mean[1, 2, 0], 0.0, atol=1e-12)
    np.testing.assert_array_equal(analysis.pair.mean, analysis.pair.mean.swapaxes(0, 1))
    on, off = 3 + 2 - 1 + 0.5 + 4 - 2, 3 - 2 - 1 + 0.5 - 4 + 2
    np.testing.assert_allclose(analysis.switch_off.mean[0, 0], on - off, atol=1e-12)


def test_additive_platforms_have_no_interaction():
    table = _table(lambda a, b: 5 + a + 10 * b, 2)
    analysis = factorial.analyse("ab", table)
    np.testing.assert_allclose(analysis.pair.mean, 0.0, atol=1e-12)
    assert not analysis.confirmed.any()


def test_intervals_cover_and_the_false_discovery_rate_holds():
    """Twelve paired seeds, one planted pair effect on one objective, none elsewhere."""
    rng = np.random.default_rng(0)
    covered, false, found = [], [], []
    for _ in range(400):
        seed_level = rng.normal(0, 5, (12, 1, 1))  # cancels in every contrast
        noise = rng.normal(0, 0.3, (12, 4, len(NAMES)))
        table = seed_level + noise
        table[:, 3, 0] += 1.0
        analysis = factorial.analyse("ab", table)
        pair = analysis.pair
        covered.append((pair.low[0, 1, 0] < 1.0) & (pair.high[0, 1, 0] > 1.0))
        wrong = analysis.confirmed[0, 1, 1:].sum()
        false.append(wrong / max(wrong + analysis.confirmed[0, 1, 0], 1))
        found.append(analysis.confirmed[0, 1, 0])
    assert 0.90 < np.mean(covered) < 0.99
    assert np.mean(found) > 0.9
    assert np.mean(false) < 0.05 + 3 * np.std(false) / np.sqrt(len(false))  # the false discovery rate


def test_refusals():
    with pytest.raises(ValueError, match=r"shape \[S, 4, J\]"):
        factorial.analyse("ab", np.zeros((2, 8, 17)))
