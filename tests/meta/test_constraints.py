"""The augmented Lagrangian and its derivative."""

import numpy as np
import pytest

from mamba.meta import constraints
from mamba.objectives import NAMES

ENGAGEMENT, TOXIC, TRUST = (NAMES.index(n) for n in ("engagement_per_user", "toxic_exposure_per_user", "trust"))


def _baseline():
    return np.linspace(0.5, 2.0, len(NAMES))


def _lagrangian(values, baseline, goal, multipliers, penalty):
    violated = constraints.violations(values, baseline, goal)
    pushed = np.maximum(0.0, multipliers + penalty * violated)
    return constraints.utility(values, baseline, goal) + np.sum(pushed**2 - multipliers**2) / (2 * penalty)


@pytest.mark.parametrize("engagement", [1.2, 0.97, 0.8])
def test_slope_is_the_scaled_derivative_of_the_lagrangian(engagement):
    goal = constraints.goal(
        {"toxic_exposure_per_user": 1.0, "trust": -0.5}, {"engagement_per_user": 0.97, "trust": 0.99}
    )
    baseline = _baseline()
    values = baseline * 1.01
    values[ENGAGEMENT] = engagement * baseline[ENGAGEMENT]
    multipliers, penalty = np.array([0.4, 0.0]), 6.0
    violated = constraints.violations(values, baseline, goal)
    slope = constraints.slope(violated, baseline, goal, multipliers=multipliers, penalty=penalty)
    divisor = 1.0 + np.maximum(0.0, multipliers + penalty * violated).sum()
    for j in range(len(NAMES)):
        step = np.zeros(len(NAMES))
        step[j] = 1e-6
        up = _lagrangian(values + step, baseline, goal, multipliers, penalty)
        down = _lagrangian(values - step, baseline, goal, multipliers, penalty)
        assert slope[j] * divisor == pytest.approx((up - down) / 2e-6, rel=1e-4, abs=1e-6)


def test_a_broken_constraint_does_not_make_the_gradient_large():
    goal = constraints.goal({"toxic_exposure_per_user": 1.0}, {"engagement_per_user": 0.97})
    baseline = np.ones(len(NAMES))
    slopes = [
        constraints.slope(np.array([c]), baseline, goal, multipliers=np.array([0.5]), penalty=6.0)
        for c in (-1.0, 0.0, 50.0)
    ]
    assert slopes[0][TOXIC] == 1.0 and slopes[0][ENGAGEMENT] == 0.0
    sizes = [abs(slope[TOXIC]) + 0.03 * abs(slope[ENGAGEMENT]) for slope in slopes]
    assert sizes == pytest.approx([1.0, 1.0, 1.0])


def test_the_baseline_fulfils_a_constraint_with_slack_also_below_zero():
    goal = constraints.goal({}, {"wellbeing": 0.97, "misinformation_exposure_per_user": 1.05})
    baseline = -_baseline()
    assert constraints.violations(baseline, baseline, goal) == pytest.approx([-1.0, -1.0])
    values = baseline.copy()
    values[goal.kept] += np.array([-0.03, 0.05]) * np.abs(baseline[goal.kept])
    assert constraints.violations(values, baseline, goal) == pytest.approx([0.0, 0.0], abs=1e-12)


def test_constraints_are_in_units_of_their_slack():
    goal = constraints.goal({}, {"engagement_per_user": 0.97})
    baseline = _baseline()
    values = baseline.copy()
    assert constraints.violations(values, baseline, goal) == pytest.approx([-1.0])
    values[ENGAGEMENT] *= 0.97
    assert constraints.violations(values, baseline, goal) == pytest.approx([0.0], abs=1e-12)
    values[ENGAGEMENT] = 0.94 * baseline[ENGAGEMENT]
    assert constraints.violations(values, baseline, goal) == pytest.approx([1.0])


def test_an_objective_where_less_is_healthier_is_capped():
    goal = constraints.goal({}, {"toxic_exposure_per_user": 1.05})
    baseline = _baseline()
    values = baseline.copy()
    assert constraints.violations(values, baseline, goal)[0] < 0
    values[TOXIC] *= 1.2
    assert constraints.violations(values, baseline, goal)[0] > 0


def test_unknown_objectives_are_refused_by_name():
    with pytest.raises(ValueError, match="no objective is called 'toxicity'"):
        constraints.goal({"toxicity": 1.0}, {})
