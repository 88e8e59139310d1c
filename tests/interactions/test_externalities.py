"""Externalities and conflicts of Jacobians whose answer is known."""

import numpy as np
import pytest
from helpers import everything

from mamba.interactions.externalities import conflict, externalities
from mamba.interactions.jacobian import Jacobian
from mamba.meta.players import Own, own_metrics
from mamba.objectives import NAMES

# Two objectives and the losses of four algorithms; levers 0 and 1 belong to algorithm 0, 2 to 1, 3 to 2, and 3 has none.
OWNER = np.array([0, 0, 1, 2])
OWN = Own(np.array([2, 3, 4, 5]), np.ones(4))
LEVEL = np.array([10.0, -4.0, 2.0, -0.5, 0.0, 1.0])
SLOPES = np.array(
    [
        [1.0, 2.0, 0.0, 3.0],
        [0.5, -1.0, 0.0, 1.0],
        [-0.4, 0.3, 0.0, 0.2],
        [0.1, 0.2, 0.5, 0.1],
        [0.0, 0.0, 0.0, 0.0],
        [0.3, 0.0, 0.0, 0.0],
    ]
)


def _planted(keys=5, *, noise=0.0, seed=0, slopes=SLOPES):
    rng = np.random.default_rng(seed)
    value = LEVEL * (1 + noise * 0.1 * rng.normal(size=(keys, len(LEVEL))))
    full = slopes + noise * rng.normal(size=(keys, *slopes.shape)) * (slopes != 0)
    return Jacobian(value, full, 0.25 * full)


def test_percent_per_percent():
    seen = externalities(_planted(), owner=OWNER, own=OWN)
    wish = -SLOPES[2, :2]  # (0.4, -0.3), improves algorithm 0's loss of level 2 by 0.25
    gain = (0.25 / 2.0) * np.ones(2)
    np.testing.assert_allclose(seen.objective.mean[:, 0], SLOPES[:2, :2] @ wish / [10.0, 4.0] / gain, rtol=1e-12)
    # What algorithm 0 does to the loss of algorithm 1 (level -0.5), as an improvement of it.
    assert seen.algorithm.mean[1, 0] == pytest.approx(-(SLOPES[3, :2] @ wish) / 0.5 / gain[0])
    assert seen.algorithm.mean[3, 0] == pytest.approx(-(0.3 * 0.4) / 1.0 / gain[0])
    np.testing.assert_allclose(seen.objective.error[:, :2], 0.0, atol=1e-12)


def test_own_externality_is_one_and_an_isolated_algorithm_has_none():
    seen = externalities(_planted(noise=0.05), owner=OWNER, own=OWN)
    for estimate, expected in ((seen.algorithm.mean, 1.0), (seen.algorithm.error, 0.0), (seen.algorithm.low, 1.0)):
        np.testing.assert_array_equal([estimate[0, 0], estimate[1, 1]], expected)
    np.testing.assert_array_equal(seen.objective.mean[:, 1], 0.0)
    np.testing.assert_array_equal(seen.algorithm.mean[[0, 3], 1], 0.0)


def test_rows_that_say_nothing_are_suppressed_with_a_reason():
    seen = externalities(_planted(noise=0.05), owner=OWNER, own=OWN)
    assert seen.reasons[:2] == ("", "")
    assert "no own metric" in seen.reasons[2]
    assert "no levers" in seen.reasons[3]
    assert np.isnan(seen.objective.mean[:, 2:]).all()
    assert np.isnan(seen.algorithm.mean[:, 2:]).all()
    assert np.isnan(seen.algorithm.mean[2, :2]).all()  # percent of a loss that is always 0
    assert np.isfinite(seen.algorithm.mean[3, :2]).all()
    around_zero = _planted(noise=0.05)
    around_zero.value[:, 2] = [-1.0, 1.0, 0.5, -0.5, 0.1]
    assert "level" in externalities(around_zero, owner=OWNER, own=OWN).reasons[0]
    still = externalities(_planted(slopes=SLOPES * (OWNER != 1)), owner=OWNER, own=OWN)
    assert "do not move" in still.reasons[1]


def test_a_gradient_of_noise_does_not_pass_for_an_effect():
    """Six levers whose own gradient is noise: along its own mean direction it would have |t| >= 3 in a quarter of all cases."""
    rng = np.random.default_rng(0)
    owner, own = np.zeros(6, np.int64), Own(np.array([1]), np.ones(1))
    passed, naive = [], []
    for _ in range(3000):
        full = rng.normal(size=(12, 2, 6))
        seen = externalities(Jacobian(np.ones((12, 2)), full, None), owner=owner, own=own)
        passed.append(seen.reasons[0] == "")
        along = full[:, 1] @ full[:, 1].mean(axis=0)
        naive.append(along.mean() / (along.std(ddof=1) / np.sqrt(12)) >= 3)
    assert np.mean(naive) > 0.15  # what the pairs of different keys are for
    assert np.mean(passed) < 0.03  # Student's tail beyond 3 with 11 degrees of freedom, both ways, is 0.012


def test_direct_and_mediated_add_up():
    seen = externalities(_planted(noise=0.1), owner=OWNER, own=OWN)
    np.testing.assert_allclose(seen.direct.mean + seen.mediated.mean, seen.objective.mean, rtol=1e-12)
    np.testing.assert_allclose(seen.direct.mean[:, 0], 0.25 * seen.objective.mean[:, 0], rtol=1e-12)
    audited = externalities(_planted()._replace(direct=None), owner=OWNER, own=OWN)
    assert audited.direct is None
    assert audited.mediated is None


def test_intervals_cover_under_noise():
    """Eight keys; noise that leaves the own effect at about ten standard errors."""
    truth = externalities(_planted(), owner=OWNER, own=OWN)
    covered = []
    for seed in range(500):
        seen = externalities(_planted(8, noise=0.1, seed=seed), owner=OWNER, own=OWN)
        pairs = [(seen.objective, truth.objective), (seen.algorithm, truth.algorithm)]
        for here, there in pairs:
            inside = (here.low <= there.mean) & (there.mean <= here.high)
            covered.append(inside[(0, 1), 0] if here is seen.objective else inside[(1, 3), 0])
    rate = np.mean(covered, axis=0)
    assert (rate > 0.92).all(), rate
    assert (rate < 0.98).all(), rate


def test_an_objective_stands_in_as_own_metric():
    """Algorithm 0 wants more of objective 0: a step of its own raises it by 1 % per 1 %."""
    own = Own(np.array([0, 3, 4, 5]), np.array([-1.0, 1, 1, 1]))
    seen = externalities(_planted(), owner=OWNER, own=own)
    assert seen.objective.mean[0, 0] == 1.0
    wish = SLOPES[0, :2]
    assert seen.objective.mean[1, 0] == pytest.approx((SLOPES[1, :2] @ wish / 4.0) / (wish @ wish / 10.0))
    own = Own(np.array([1, 3, 4, 5]), np.ones(4))  # less of objective 1, whose level is negative
    assert externalities(_planted(), owner=OWNER, own=own).objective.mean[1, 0] == -1.0


def test_own_metrics_by_name():
    ecosystem = everything()
    own = own_metrics(ecosystem, {"notification": "engagement_per_user", "removal": "toxic_exposure_per_user"})
    names = ecosystem.names
    assert own.row[names.index("notification")] == NAMES.index("engagement_per_user")
    assert own.sign[names.index("notification")] == -1.0
    assert own.row[names.index("removal")] == NAMES.index("toxic_exposure_per_user")
    assert own.sign[names.index("removal")] == 1.0
    assert own.row[names.index("engagement")] == len(NAMES) + names.index("engagement")
    with pytest.raises(ValueError, match="no algorithm is called 'x'"):
        own_metrics(ecosystem, {"x": "trust"})
    with pytest.raises(ValueError, match="no objective is called 'fun'"):
        own_metrics(ecosystem, {"removal": "fun"})


def test_two_keys_are_too_few():
    with pytest.raises(ValueError, match="at least 3 keys"):
        externalities(_planted(2), owner=OWNER, own=OWN)


def test_conflicts_are_cosines():
    rng = np.random.default_rng(0)
    table = np.array([[1.0, 0.0], [1.0, 1.0], [-2.0, 0.0], [0.0, 0.0]]) + np.zeros((4, 1, 1))
    seen = conflict(table)
    np.testing.assert_allclose(seen.cosine[0, :3], [1.0, np.sqrt(0.5), -1.0], rtol=1e-12)
    assert np.isnan(seen.cosine[3]).all()
    assert np.isnan(seen.low[3]).all()
    np.testing.assert_allclose(seen.low[:3, :3], seen.cosine[:3, :3], atol=1e-12)  # keys that agree leave no doubt
    # A common step of 3 on the second lever turns (1, 1) to (1, 3); a sign turns a gradient round.
    assert conflict(table, step=np.array([1.0, 3.0])).cosine[0, 1] == pytest.approx(1 / np.sqrt(10))
    turned = conflict(table, sign=np.array([-1.0, 1.0, 1.0, 1.0]))
    assert turned.cosine[0, 2] == pytest.approx(1.0)
    covered = []
    for _ in range(100):
        noisy = table[:1, :3] + rng.normal(0, 0.5, (16, 3, 2))
        here = conflict(noisy, draws=200)
        covered.append(here.low[0, 1] <= np.sqrt(0.5) <= here.high[0, 1])
    assert 0.85 < np.mean(covered) < 0.99
