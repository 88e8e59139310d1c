"""Back to where the constraints hold: how far trained levers may go from the default ones.

Multipliers settle slowly, so a short training may end beyond a limit, and a long one ends on it. The levers that are deployed lie
on the straight way (in unconstrained units) from the default levers to the trained ones, as far along it as every constraint holds
on seeds that no gradient saw: a feasibility restoration along a line, by regula falsi. "Holds" means with confidence: what is on
a limit by its mean is beyond it on half of all other seeds, so that the upper end of a one-sided interval decides, of each limit by
itself. In robust training that is an interval over seeds, of the worlds that were drawn.

References:
    Nocedal and Wright 2006, section 15.4 (restoration); Dowell and Jarratt 1971 (the Illinois rule).
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy import stats

from mamba.meta import constraints, optimise, vector
from mamba.objectives import NAMES
from mamba.types import Array

CONFIDENCE = 0.95  # one-sided, that a limit is kept
TRIES = 4  # shares that are tried where the trained levers pass a limit
_SAFE = 0.98  # of the way to where a limit is expected
_LEAST = 0.02  # of what is left of the way that a try goes at least


class Restored(NamedTuple):
    """Levers that keep what they were told to keep.

    Attributes:
        levers: [P] unconstrained.
        share: of the way from the default levers (0) to the trained ones (1).
        violation: [K] constraint values there, in units of slack.
        bound: [K] upper ends of their one-sided intervals; positive where none was found that holds.
        trained: [K] constraint values of the trained levers.
        trained_bound: [K] upper ends of their intervals.
    """

    levers: Array
    share: float
    violation: np.ndarray
    bound: np.ndarray
    trained: np.ndarray
    trained_bound: np.ndarray


def restored(trainer: optimise.Trainer, state: optimise.TrainingState, *, seeds: int, key: Array) -> Restored:
    """The trained levers, or as much of the way to them as keeps every constraint.

    Args:
        trainer: see `mamba.meta.optimise.Trainer`.
        state: after training.
        seeds: S paired rollouts (in robust training: of each world) of every share that is tried; a single one says nothing of
            its own noise, and then means decide.
        key: typed key; all shares are tried on the same noise.

    Returns:
        What was found. Where nothing on the way keeps every constraint, the place that breaks them least.
    """
    config = dataclasses.replace(trainer.config, constraint_seeds=seeds)
    measuring = trainer._replace(config=config)
    start = np.asarray(vector.flat(trainer.baseline), np.float64)
    way = np.asarray(state.levers, np.float64) - start

    def at(share: float) -> Array:
        # Exactly the trained levers at the end of the way, and the default ones at its beginning even where it leads nowhere.
        ends = {0.0: start, 1.0: state.levers}
        return jnp.asarray(ends[share] if share in ends else start + share * way, state.levers.dtype)

    quantile = float(stats.t.ppf(CONFIDENCE, seeds - 1)) if seeds > 1 else 0.0
    means: dict[float, np.ndarray] = {}

    def measure(share: float) -> optimise.Measured:
        found = optimise.measured(measuring, state._replace(levers=at(share)), key)
        means[share], bounds[share] = found.violation, found.violation + quantile * found.error
        worst[share] = np.nan_to_num(bounds[share], nan=np.inf).max(initial=-np.inf)  # what is not known does not hold
        return found

    bounds: dict[float, np.ndarray] = {}
    worst: dict[float, float] = {}
    before = measure(1.0).baseline[: len(NAMES)]
    # Against itself a platform differs on no seed.
    means[0.0] = bounds[0.0] = constraints.violations(before, before, trainer.goal)
    worst[0.0] = np.nan_to_num(bounds[0.0], nan=np.inf).max(initial=-np.inf)
    if worst[1.0] > 0.0 >= worst[0.0]:
        low, high, below, above = 0.0, 1.0, bounds[0.0], bounds[1.0]
        for _ in range(TRIES):
            # Where the chord of the first limit to be broken crosses it, a little on the safe side. What is lost grows faster than
            # the way, so that the first try mostly holds; the Illinois rule, halving the end that stays, keeps the next ones from
            # falling short. A limit without slack, or one that is not known, has no chord to follow: the way is halved.
            broken = ~(above <= 0.0)
            part = float(np.min(below[broken] / (below[broken] - above[broken])))
            share = low + _SAFE * (part if part > _LEAST else 0.5) * (high - low)
            measure(share)
            if worst[share] > 0.0:
                high, above = share, bounds[share]
            else:
                low, below, above = share, bounds[share], 0.5 * above
    elif worst[1.0] > 0.0:  # the default levers break a limit, too
        for share in (0.25, 0.5, 0.75):
            measure(share)
    holding = [share for share, value in worst.items() if value <= 0.0]
    # Of places that are equally bad, the one nearest to the default levers.
    share = max(holding) if holding else min(sorted(worst), key=worst.__getitem__)
    return Restored(at(share), share, means[share], bounds[share], means[1.0], bounds[1.0])
