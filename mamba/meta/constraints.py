"""The scalar that meta-training minimises, and its derivative with respect to objectives.

    U(J) = sum_o w_o (J_o - J0_o) / |J0_o|          relative change of each objective, J0 the baseline
    L(J) = U(J) + sum_c [max(0, lambda_c + rho c(J))^2 - lambda_c^2] / (2 rho)

is the augmented Lagrangian of "minimise U subject to c(J) <= 0". A constraint "keep 97 % of the baseline" is in units of
its slack, c = (0.97 J0 - J) / (0.03 |J0|), so that one multiplier scale suits all. People can argue about a constraint;
nobody can argue about a weight of 0.37.

References:
    Hestenes 1969; Powell 1969; Nocedal and Wright 2006, chapter 17; Stooke, Achiam and Abbeel 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from mamba.objectives import NAMES, OBJECTIVES

_SMALLEST_SLACK = 0.01
_NOTHING = 1e-6  # levels below are none


class Goal(NamedTuple):
    """What to minimise and what to keep, in arrays.

    Attributes:
        weights: [J] weights of relative change; 0 where an objective does not count.
        kept: [K] indices of constrained objectives.
        share: [K] share of the baseline that each must stay above, or below where less is healthier.
    """

    weights: np.ndarray
    kept: np.ndarray
    share: np.ndarray


def goal(minimise: Mapping[str, float], keep: Mapping[str, float]) -> Goal:
    """Reads a goal from names.

    Args:
        minimise: objective -> weight of its relative change; a negative weight maximises.
        keep: objective -> share of its baseline. An objective where more is healthier must stay above the share, one
            where less is healthier must stay below it.

    Raises:
        ValueError: an unknown objective.
    """
    for name in (*minimise, *keep):
        if name not in OBJECTIVES:
            raise ValueError(f"no objective is called '{name}'. Known: {', '.join(NAMES)}")
    weights = np.array([float(minimise.get(name, 0.0)) for name in NAMES])
    kept = np.array([NAMES.index(name) for name in keep], np.int64)
    return Goal(weights, kept, np.array([float(keep[name]) for name in keep]))


def utility(values: np.ndarray, baseline: np.ndarray, goal: Goal) -> float:
    """Weighted relative change U, a number (0 at the baseline, negative is better)."""
    return float(np.sum(goal.weights * (values - baseline) / _scale(baseline)))


def violations(values: np.ndarray, baseline: np.ndarray, goal: Goal) -> np.ndarray:
    """Constraint values c [K] in units of slack; positive is violated.

    The limit is J0 + (share - 1) |J0|, so that 0.97 leaves a slack of 3 % of the level on either side of 0.
    """
    before = baseline[goal.kept]
    limit = before + (goal.share - 1.0) * np.abs(before)
    return _sign(goal) * (limit - values[goal.kept]) / _slack(baseline, goal)


def slope(
    violation: np.ndarray,
    baseline: np.ndarray,
    goal: Goal,
    *,
    multipliers: np.ndarray,
    penalty: float,
    utility: np.ndarray | None = None,
) -> np.ndarray:
    """Derivative with respect to the objectives, [J], of L over one plus the weights that it puts on constraints.

    These are the weights of the next gradient. The divisor changes no stationary point; without it one broken constraint makes
    gradients several times as large, which optimisers that scale by past gradients (Adam) remember long after it is mended (Stooke,
    Achiam and Abbeel 2020).

    Args:
        violation: [K] present (smoothed) constraint values.
        baseline: [J].
        goal: what to minimise and keep.
        multipliers: [K] lambda.
        penalty: rho.
        utility: [J] derivative of a utility other than U; None takes that of U.
    """
    weights = goal.weights / _scale(baseline) if utility is None else np.array(utility, np.float64)
    push = np.maximum(0.0, multipliers + penalty * violation)
    np.add.at(weights, goal.kept, -_sign(goal) * push / _slack(baseline, goal))
    return weights / (1.0 + push.sum())


class ZeroBaseline(ValueError):
    """Something that is to change relative to a baseline is 0 there."""


def check(baseline: np.ndarray, goal: Goal) -> None:
    """Refuses a goal that is relative to nothing.

    Raises:
        ZeroBaseline: an objective that is minimised or kept is 0 at the baseline [J].
    """
    for k in sorted({*np.flatnonzero(goal.weights).tolist(), *goal.kept.tolist()}):
        if abs(baseline[k]) < _NOTHING:
            raise ZeroBaseline(
                f"{NAMES[k]} is {baseline[k]:.2g} with the default levers, so it has no relative change: take it out of "
                "minimise and keep, or deploy what makes it occur"
            )


def harms(values: np.ndarray, baseline: np.ndarray, objectives: np.ndarray) -> np.ndarray:
    """Relative worsening of some objectives, [..., m]: positive where an objective is less healthy than at the baseline.

    Args:
        values: [..., J].
        baseline: [..., J].
        objectives: [m] indices.
    """
    worse = harm_sign(objectives)
    return worse * (values[..., objectives] - baseline[..., objectives]) / _scale(baseline)[..., objectives]


def of_harms(slope: np.ndarray, baseline: np.ndarray, objectives: np.ndarray) -> np.ndarray:
    """Derivative [J] with respect to all objectives of a function whose derivative with respect to `harms` is `slope` [m]."""
    whole = np.zeros(len(NAMES))
    whole[objectives] = harm_sign(objectives) * slope / _scale(baseline)[objectives]
    return whole


def harm_sign(objectives: np.ndarray) -> np.ndarray:
    """+1 where less of an objective is healthier, -1 where more is, [m]."""
    return np.array([-1.0 if OBJECTIVES[NAMES[i]].better == "higher" else 1.0 for i in objectives])


def _scale(baseline: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(baseline), _NOTHING)


def _slack(baseline: np.ndarray, goal: Goal) -> np.ndarray:
    return np.maximum(np.abs(1.0 - goal.share), _SMALLEST_SLACK) * _scale(baseline)[goal.kept]


def _sign(goal: Goal) -> np.ndarray:
    return -harm_sign(goal.kept)
