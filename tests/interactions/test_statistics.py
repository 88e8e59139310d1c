"""Intervals, many tests, equivalence and variance ratios: exact cases, brute force, and coverage at fixed seeds."""

import itertools

import numpy as np
import pytest
from scipy import stats

from mamba.interactions import statistics

# The 15 p-values of Benjamini and Hochberg 1995, section 3.2.
ORIGINAL = np.array([0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528,
                     0.7590, 1.0000])  # fmt: skip


def _rejected_by_closure(p, level):
    """Holm as the closed test of Bonferroni: a test is rejected when every family with it is."""
    everyone = range(len(p))
    families = [f for k in range(1, len(p) + 1) for f in itertools.combinations(everyone, k)]
    return np.array([all(min(p[list(f)]) <= level / len(f) for f in families if i in f) for i in everyone])


def _found_by_search(p, level):
    """Benjamini-Hochberg by its definition: the largest k with k p-values of at most k level / m."""
    sizes = [k for k in range(1, len(p) + 1) if np.sum(p <= k * level / len(p)) >= k]
    return p <= max(sizes, default=0) * level / len(p)


def _hard_p_values(rng, count=7):
    """Some tiny, some near the limits, some equal."""
    p = rng.uniform(size=count) ** rng.integers(1, 6)
    p[rng.integers(count)] = p[rng.integers(count)]
    return p


def test_benjamini_hochberg_on_the_original_example():
    assert statistics.discoveries(ORIGINAL, 0.05).sum() == 4
    assert not statistics.discoveries(np.full(5, np.nan), 0.05).any()
    shuffled = np.random.default_rng(0).permutation(15)
    np.testing.assert_array_equal(
        statistics.discoveries(ORIGINAL[shuffled], 0.05), statistics.discoveries(ORIGINAL, 0.05)[shuffled]
    )


def test_many_tests_against_brute_force():
    rng = np.random.default_rng(1)
    counts = np.zeros((2, 8), int)
    for _ in range(200):
        p = _hard_p_values(rng)
        found, rejected = statistics.discoveries(p, 0.1), statistics.holm(p, 0.1)
        np.testing.assert_array_equal(found, _found_by_search(p, 0.1))
        np.testing.assert_array_equal(rejected, _rejected_by_closure(p, 0.1))
        assert not (rejected & ~found).any()
        counts[0, found.sum()] += 1
        counts[1, rejected.sum()] += 1
    assert (counts > 0).sum(1).min() >= 5  # from none to nearly all


def test_holm_on_the_original_example_and_without_tests():
    assert statistics.holm(ORIGINAL, 0.05).sum() == 3  # .0095 > .05 / 12
    table = np.array([[0.02, np.nan], [0.6, 0.024]])
    np.testing.assert_array_equal(statistics.holm(table, 0.05), [[False, False], [False, False]])
    np.testing.assert_array_equal(statistics.holm(table, 0.0601), [[True, False], [False, True]])
    assert not statistics.holm(np.full((2, 2), np.nan), 0.05).any()
    assert not statistics.holm(np.array([]), 0.05).any()


def test_holm_holds_the_family_wise_error():
    """Ten tests that share a seed level, three real: at most 5 % of 4,000 families hold a false rejection."""
    rng = np.random.default_rng(2)
    z = np.sqrt(0.5) * rng.normal(size=(4000, 10)) + np.sqrt(0.5) * rng.normal(size=(4000, 1))
    z[:, :3] += 4.0
    p = 2 * stats.norm.sf(np.abs(z))
    rejected = np.array([statistics.holm(row, 0.05) for row in p])
    assert rejected[:, 3:].any(axis=1).mean() < 0.05
    assert rejected[:, :3].mean() > 0.8
    assert (p[:, 3:] <= 0.05).any(axis=1).mean() > 0.15  # what happens without


def test_certainty_without_spread():
    estimate = statistics.estimate(np.array([[0.0, 2.0], [0.0, 2.0], [0.0, 2.0]]), 0.95)
    np.testing.assert_array_equal(estimate.p, [1.0, 0.0])
    np.testing.assert_array_equal(estimate.low, estimate.high)
    np.testing.assert_array_equal(statistics.equivalent(estimate, margin=1.0), [True, False])
    np.testing.assert_array_equal(statistics.equivalence_p(estimate, seeds=3, margin=1.0), [0.0, 1.0])


def test_estimates_are_those_of_a_t_test():
    samples = np.random.default_rng(3).normal(0.4, 1.0, (9, 2, 3))
    found, known = statistics.estimate(samples, 0.9), stats.ttest_1samp(samples, 0.0)
    np.testing.assert_allclose(found.p, known.pvalue, rtol=1e-12)
    interval = known.confidence_interval(0.9)
    np.testing.assert_allclose(found.low, interval.low, rtol=1e-12)
    np.testing.assert_allclose(found.high, interval.high, rtol=1e-12)
    wide = statistics.widened(found, 9, 0.99)
    np.testing.assert_allclose(wide.low, known.confidence_interval(0.99).low, rtol=1e-12)


def test_the_jackknife_of_a_mean_is_the_mean_and_its_error():
    samples = np.random.default_rng(4).normal(size=(7, 3))
    left_out = np.stack([np.delete(samples, s, axis=0).mean(axis=0) for s in range(7)])
    found = statistics.jackknife(samples.mean(axis=0), left_out, confidence=0.95)
    for ours, known in zip(found, statistics.estimate(samples, 0.95), strict=True):
        np.testing.assert_allclose(ours, known, rtol=1e-12)


def test_contrasts_are_taken_within_each_seed():
    rng = np.random.default_rng(5)
    values, weights = rng.normal(size=(4, 8, 5, 2)), rng.normal(size=(3, 6, 8))
    found = statistics.contrast(weights, values)
    assert found.shape == (4, 3, 6, 5, 2)
    np.testing.assert_allclose(found[3, 1, 5, 2, 1], weights[1, 5] @ values[3, :, 2, 1], atol=1e-13)
    np.testing.assert_allclose(
        statistics.contrast(weights[0, 0], values[:, :, 0, 0]), values[:, :, 0, 0] @ weights[0, 0]
    )


def test_equivalence_is_two_one_sided_tests():
    samples = np.random.default_rng(6).normal(0.1, 1.0, (20, 300))
    margin = 0.5
    p = statistics.equivalence_p(statistics.estimate(samples, 0.9), seeds=20, margin=margin)
    above = stats.ttest_1samp(samples, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(samples, margin, alternative="less").pvalue
    np.testing.assert_allclose(p, np.maximum(above, below), rtol=1e-9)
    for confidence in (0.9, 0.95):
        inside = statistics.equivalent(statistics.estimate(samples, confidence), margin=margin)
        np.testing.assert_array_equal(inside, p <= (1 - confidence) / 2)
        assert 0.1 < inside.mean() < 0.9


def test_equivalence_is_wrongly_claimed_no_oftener_than_its_level():
    """The true effect lies on the margin: a 90 % interval falls inside in at most 5 % of 20,000 experiments."""
    samples = np.random.default_rng(7).normal(0.5, 0.3, (12, 20000))
    claimed = statistics.equivalent(statistics.estimate(samples, 0.9), margin=0.5).mean()
    assert 0.04 < claimed < 0.055


def test_margins_are_broadcast_and_not_negative():
    estimate = statistics.estimate(np.random.default_rng(8).normal(0, 1e-3, (5, 4, 4, 2)), 0.95)
    inside = statistics.equivalent(estimate, margin=np.array([0.1, np.nan]))
    assert inside[..., 0].all() and not inside[..., 1].any()
    with pytest.raises(ValueError, match=r"not negative, got -0\.1"):
        statistics.equivalent(estimate, margin=-0.1)
    with pytest.raises(ValueError, match="not negative"):
        statistics.equivalence_p(estimate, seeds=5, margin=np.array([0.1, -1.0]))


def test_variance_ratio_of_a_difference():
    values = np.random.default_rng(9).normal(size=(6, 3, 2))
    weights = np.array([[1.0, -1.0, 0.0], [0.5, 0.5, -1.0]])
    found = statistics.variance_ratio(values, weights)
    var = values.var(axis=0, ddof=1)
    paired = (values[:, 0] - values[:, 1]).var(axis=0, ddof=1)
    np.testing.assert_allclose(found[0], (var[0] + var[1]) / paired, rtol=1e-12)
    np.testing.assert_allclose(found[1, 0] * (values[:, :, 0] @ weights[1]).var(ddof=1), weights[1] ** 2 @ var[:, 0])
    constant = np.broadcast_to(values[:, :1], values.shape)  # switching changes nothing: there is no ratio
    assert np.isnan(statistics.variance_ratio(constant, weights[0])).all()


def test_variance_ratios_are_covered_and_lost_pairing_is_seen():
    """A level of 3 that the rows share and noise of 1/2: 2 (9 + 1/4) / (2 / 4) = 37 paired, 1 where the seeds are mixed up."""
    rng = np.random.default_rng(10)
    shared, count = rng.normal(0, 3.0, (16, 1, 1000)), 1000
    paired = shared + rng.normal(0, 0.5, (16, 2, count))
    mixed = rng.normal(0, 3.0, (16, 2, count)) + rng.normal(0, 0.5, (16, 2, count))
    weights = np.array([-1.0, 1.0])
    for values, truth in ((paired, 37.0), (mixed, 1.0)):
        low, high = statistics.variance_ratio_interval(values, weights, confidence=0.95)
        assert 0.92 < np.mean((low <= truth) & (truth <= high)) < 0.98
        assert abs(np.log(np.median(statistics.variance_ratio(values, weights)) / truth)) < 0.1
    assert np.mean(statistics.variance_ratio_interval(paired, weights, confidence=0.95)[0] > 2) > 0.99
    assert np.mean(statistics.variance_ratio(mixed, weights) > 2) < 0.05


def test_refusals():
    with pytest.raises(ValueError, match="at least 2 seeds"):
        statistics.estimate(np.zeros((1, 3)), 0.95)
    with pytest.raises(ValueError, match="at least 2 seeds"):
        statistics.jackknife(np.zeros(3), np.zeros((1, 3)), confidence=0.95)
    with pytest.raises(ValueError, match="at least 2, got 1"):
        statistics.variance_ratio(np.zeros((1, 2, 3)), np.array([1.0, -1.0]))
    with pytest.raises(ValueError, match="at least 3 seeds, got 2"):
        statistics.variance_ratio_interval(np.zeros((2, 2, 3)), np.array([1.0, -1.0]), confidence=0.95)
    with pytest.raises(ValueError, match=r"\[2\] do not fit values \[S, R, ...\] \[4, 3, 1\]"):
        statistics.contrast(np.array([1.0, -1.0]), np.zeros((4, 3, 1)))


def test_intervals_of_picked_effects_cover_as_often_as_they_say():
    # 200 effects of which 20 are real; the confirmed ones are reported, which is where plain intervals fail.
    rng = np.random.default_rng(3)
    truth = np.zeros(200)
    truth[:20] = 0.45
    missed, plain = [], []
    for _ in range(200):
        found = statistics.estimate(truth + rng.normal(0.0, 1.0, (30, 200)), 0.95)
        picked = statistics.discoveries(found.p, 0.1)
        if not picked.any():
            missed.append(0.0)
            plain.append(0.0)
            continue
        wide = statistics.selected(found, 30, chosen=int(picked.sum()), among=200, confidence=0.95)
        for each, store in ((wide, missed), (found, plain)):
            store.append(np.mean(((truth < each.low) | (truth > each.high))[picked]))
    assert np.mean(missed) < 0.05 + 0.02 < np.mean(plain)
