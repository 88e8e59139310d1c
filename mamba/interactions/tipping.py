"""Tipping points by continuation: a lever goes up and down again, and the platform carries its state along.

Where one lever value has one regime, the way back passes through the same values as the way up. Where it has two, the
platform stays in the one it is in until that one ceases to exist, at a fold, and the ways differ in between: hysteresis.

    up    x_g = settle(x_{g-1}, lever_g),  g = 0 .. G - 1        J_up(g), J_down(g): mean over the second half of a hold
    down  x_g = settle(x_{g+1}, lever_g),  g = G - 1 .. 0        gap(g) = J_up(g) - J_down(g), over seeds

A gap counts as hysteresis when it passes three tests.

1. *Chance.* |gap| is above 3 standard errors **and** above the Student-t quantile at `level / (2 G J)`: with 8 seeds, |t|
   exceeds 3 by chance in 2 % of the comparisons, hence in a third of all scans of 20 points. Bonferroni, because the gaps
   of neighbouring values depend on each other and it holds under any dependence. The two ways see different noise: with
   shared noise a contracting system forgets its past down to the last bit, the standard error vanishes with the gap,
   and their ratio stays significant for ever.
2. *Size.* |gap| is above `resolution` times the range of the response.
3. *Lag.* A slow platform trails its lever, which looks like hysteresis. Both ends of every gap that passes 1 and 2 are held
   `patience` times longer, under fresh noise: what was lag shrinks, what is hysteresis stays. The gap must keep its
   sign, be significant at `level`, and keep more than 80 % of its size: exponential lag passes only if its relaxation time
   is above 4.5 `patience` holds (- patience / ln 0.8). A flag next to which `lasting` is still falling asks for more patience.

What this cannot see: a second regime that the lever's way never enters. What it calls a fold is where a seed left its
regime: noise drives it out before the fold of the noiseless system, and beyond that fold it lingers for as long as the
bottleneck takes.

References:
    Scheffer et al. 2009 (tipping points); Strogatz 2015, chapter 3 (folds, hysteresis).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from mamba.interactions.statistics import Estimate, estimate
from mamba.members import Layout
from mamba.types import Array

Advance = Callable[[Any, Array, Array], tuple[Any, Any]]
Settle = Callable[[Any, Array, Array], tuple[Any, Array]]

_ERRORS = 3.0  # standard errors that a gap must at least exceed
_KEPT = 0.8  # share of a gap that the longer hold must leave


class Fold(NamedTuple):
    """Where a regime ceases to exist.

    Attributes:
        branch: which way leaves its regime here.
        objective: number of the objective whose jump was followed.
        low: [S] lower end of every seed's bracket.
        high: [S] upper end. An end at infinity: the seed did not leave within the scanned range; NaN: it never was in two regimes.
        place: estimate of the brackets' middles over the seeds with a finite bracket; None with fewer than two.
    """

    branch: Literal["up", "down"]
    objective: int
    low: np.ndarray
    high: np.ndarray
    place: Estimate | None


class Hysteresis(NamedTuple):
    """A continuation scan.

    Attributes:
        levers: [G] ascending values.
        up: [S, G, J] values on the way up.
        down: [S, G, J] values on the way down.
        gap: estimates [G, J] of up - down.
        screened: [G, J] gaps that pass the tests of chance and size.
        lasting: [G, J] gap after the longer hold; NaN where none was asked for.
        flagged: [G, J] hysteresis.
        folds: two for every stretch of flagged values.
    """

    levers: np.ndarray
    up: np.ndarray
    down: np.ndarray
    gap: Estimate
    screened: np.ndarray
    lasting: np.ndarray
    flagged: np.ndarray
    folds: tuple[Fold, ...]


def settle(
    advance: Advance,
    states: Any,
    *,
    levers: Array,
    keys: Array,
    hold: int,
    summary: Callable[[Any], Array] | None = None,
    layout: Layout = "loop",
) -> tuple[Any, Array]:
    """Holds every seed at its lever for some steps; the caller jits it.

    Args:
        advance: one step, `(state, lever, key) -> (state, record)`.
        states: leaves [S, ...].
        levers: [S].
        keys: [S] typed keys; consumed, one key a step is folded from each.
        hold: steps, at least 2.
        summary: records of the second half of the hold, leading axis [T], to values [J]; None takes their mean.
        layout: seeds one after the other, or side by side.

    Returns:
        `(states, values [S, J])`.

    Raises:
        ValueError: hold below 2.
    """
    if hold < 2:
        raise ValueError(f"hold = {hold} must be at least 2: values are read in its second half")

    def one(each: tuple[Any, Array, Array]):
        state, lever, key = each
        final, records = jax.lax.scan(
            lambda carry, t: advance(carry, lever, jax.random.fold_in(key, t)), state, jnp.arange(hold)
        )
        late = jax.tree.map(lambda leaf: leaf[hold // 2 :], records)
        return final, (jnp.mean(late, axis=0) if summary is None else summary(late))

    every = (states, levers, keys)
    return jax.vmap(one)(every) if layout == "vmap" else jax.lax.map(one, every)


class _Runner(NamedTuple):
    """`settle` with fresh keys at every call, and a count of the calls."""

    settle: Settle
    keys: Array
    calls: list[int]


def _held(runner: _Runner, states: Any, levers: np.ndarray | float, *, times: int = 1) -> tuple[Any, np.ndarray]:
    """State and values after `times` holds, [S, J]."""
    values = None
    at = jnp.broadcast_to(jnp.asarray(levers, jnp.float32), (len(runner.keys),))
    for _ in range(times):
        keys = jax.vmap(jax.random.fold_in, (0, None))(runner.keys, runner.calls[0])
        runner.calls[0] += 1
        states, values = runner.settle(states, at, keys)
    return states, np.asarray(values, np.float64)


def scan(
    settle: Settle,
    start: Any,
    *,
    levers: Sequence[float] | np.ndarray,
    keys: Array,
    lead: int = 4,
    patience: int = 4,
    resolution: float = 0.05,
    level: float = 0.05,
    bisections: int = 6,
) -> Hysteresis:
    """Scans a lever up and down.

    Args:
        settle: a jitted `(states, levers [S], keys [S]) -> (states, values [S, J])`; one compilation serves the scan, the longer
            holds and the bisections.
        start: states at the start, leaves [S, ...].
        levers: [G] ascending.
        keys: [S] typed keys; consumed.
        lead: holds at the first lever before the scan begins, and at the last before it turns.
        patience: holds that tell lag from hysteresis, and that a platform gets to leave its regime in a bisection.
        resolution: smallest gap worth naming, as a share of the range of the mean response.
        level: family-wise error over all values and objectives; a summary of few objectives and at least 8 seeds keep power.
        bisections: halvings of the lever between the two grid values around a jump.

    Returns:
        See `Hysteresis`.

    Raises:
        ValueError: fewer than two seeds or three levers, or levers that do not ascend.
    """
    grid = np.asarray(levers, np.float64)
    if grid.ndim != 1 or len(grid) < 3 or np.any(np.diff(grid) <= 0):
        raise ValueError(f"levers = {grid.tolist()} must be at least three ascending values")
    if len(keys) < 2:
        raise ValueError(f"a gap needs at least 2 seeds, got {len(keys)}: pass more keys")
    runner = _Runner(settle, keys, [0])
    count = len(grid)

    states, _ = _held(runner, start, grid[0], times=lead) if lead else (start, None)
    path: dict[str, list[Any]] = {"up": [None] * count, "down": [None] * count}
    seen: dict[str, list[Any]] = {"up": [None] * count, "down": [None] * count}
    for branch, order in (("up", range(count)), ("down", reversed(range(count)))):
        if branch == "down" and lead:
            states, _ = _held(runner, states, grid[-1], times=lead)
        for g in order:
            states, seen[branch][g] = _held(runner, states, grid[g])
            path[branch][g] = states
    up, down = np.stack(seen["up"], 1), np.stack(seen["down"], 1)

    gap = estimate(up - down, 1.0 - level)
    screened = _beyond_chance(gap, seeds=len(keys), level=level) & (np.abs(gap.mean) > resolution * _range(up, down))
    lasting = np.full(gap.mean.shape, np.nan)
    flagged = np.zeros(screened.shape, bool)
    for g in np.flatnonzero(screened.any(axis=1)):
        ends = {branch: _held(runner, path[branch][g], grid[g], times=patience)[1] for branch in path}
        later = estimate(ends["up"] - ends["down"], 1.0 - level)
        lasting[g] = later.mean
        flagged[g] = screened[g] & (later.p < level) & (later.mean / np.where(screened[g], gap.mean[g], 1.0) > _KEPT)

    folds = []
    for first, last in _stretches(np.asarray(flagged.any(axis=1))):
        share = np.abs(gap.mean[first : last + 1]).max(axis=0) / np.maximum(_range(up, down), np.finfo(float).tiny)
        # The objective that shows it at the most values; among those, the one with the largest gap.
        objective = int(np.argmax(flagged[first : last + 1].sum(axis=0) + 0.5 * np.minimum(share, 1.0)))
        apart = (up - down)[:, :, objective] * np.sign(gap.mean[first : last + 1, objective].sum())
        # The gap that lasts best: near the ends of the stretch some seeds leave if they are given time.
        lasts = np.where(flagged[first : last + 1, objective], np.abs(lasting[first : last + 1, objective]), -1.0)
        star = first + int(np.argmax(lasts))
        for branch, values, far in (("up", up, down), ("down", down, up)):
            folds.append(
                _fold(
                    runner,
                    branch,
                    path[branch],
                    grid=grid,
                    apart=apart,
                    far=far[:, :, objective],
                    toward=np.sign((far - values)[:, star, objective].mean()),
                    star=star,
                    objective=objective,
                    patience=patience,
                    bisections=bisections,
                )
            )
    return Hysteresis(grid, up, down, gap, screened, lasting, flagged, tuple(folds))


def _beyond_chance(gap: Estimate, *, seeds: int, level: float) -> np.ndarray:
    """Gaps above 3 standard errors and above the Bonferroni quantile, [G, J]."""
    limit = max(_ERRORS, float(stats.t.ppf(1.0 - level / (2.0 * gap.mean.size), seeds - 1)))
    return np.abs(gap.mean) > limit * gap.error


def _range(up: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Range of the mean response over both ways, [J]."""
    both = np.concatenate([up.mean(axis=0), down.mean(axis=0)])
    return both.max(axis=0) - both.min(axis=0)


def _stretches(mask: np.ndarray) -> list[tuple[int, int]]:
    """First and last index of every run of True."""
    edges = np.diff(np.concatenate([[0], mask.astype(int), [0]]))
    return list(zip(np.flatnonzero(edges == 1).tolist(), (np.flatnonzero(edges == -1) - 1).tolist(), strict=True))


def _fold(
    runner: _Runner,
    branch: Literal["up", "down"],
    path: list[Any],
    *,
    grid: np.ndarray,
    apart: np.ndarray,
    far: np.ndarray,
    toward: float,
    star: int,
    objective: int,
    patience: int,
    bisections: int,
) -> Fold:
    """Bisects the lever at which every seed leaves a branch.

    A seed has left when it is closer to the other branch than half of its gap at the star, where the gap lasts
    best; the other branch is interpolated between grid values. A seed that has not left goes on from where it is.

    Args:
        runner: holds with fresh noise.
        branch: which way.
        path: states of this way at every lever.
        grid: [G].
        apart: [S, G] gap of the objective, signed so that it is positive.
        far: [S, G] values of the other way.
        toward: sign of the way to the other branch.
        star: index of the gap that lasts best.
        objective: its number.
        patience: holds to wait for a jump.
        bisections: how many halvings.
    """
    seeds = len(apart)
    every = np.arange(seeds)
    order = np.arange(star, len(grid)) if branch == "up" else np.arange(star, -1, -1)
    half = 0.5 * apart[:, star]
    torn = half > 0.25 * apart[:, star].mean()  # seeds that were in two regimes at all
    left = apart[:, order] < half[:, None]
    leaves = left.any(axis=1) & torn
    step = np.where(leaves, left.argmax(axis=1), 1)
    states = None
    for _ in order:
        # A seed may stay for one hold and leave within `patience` of them: then its jump lies further back.
        before = order[np.minimum(step - 1, len(order) - 1)]
        pick = jnp.asarray(before)
        states = jax.tree.map(lambda *leaves, pick=pick: jnp.stack(leaves)[pick, jnp.arange(seeds)], *path)
        if not leaves.any():
            break
        seen = _held(runner, states, grid[before], times=patience)[1][:, objective]
        early = leaves & (toward * (far[every, before] - seen) < half)
        torn &= ~(early & (step == 1))  # not even at the star: one regime, given time
        leaves &= torn
        if not (early & (step > 1)).any():
            break
        step = np.where(early & (step > 1), step - 1, step)
    # Where nobody leaves there is nothing to bisect, and the star may be the last value of its way.
    before, after = order[np.minimum(step - 1, len(order) - 1)], order[np.minimum(step, len(order) - 1)]
    stays, jumps = grid[before].copy(), grid[after].copy()
    for _ in range(bisections if leaves.any() else 0):
        lever = 0.5 * (stays + jumps)
        moved, seen = _held(runner, states, lever, times=patience)
        span = np.where(before == after, 1.0, grid[after] - grid[before])
        share = (lever - grid[before]) / span
        other = (1.0 - share) * far[every, before] + share * far[every, after]
        jumped = toward * (other - seen[:, objective]) < half
        stays, jumps = np.where(jumped, stays, lever), np.where(jumped, lever, jumps)
        states = _choose(jumped, states, moved)
    low, high = np.minimum(stays, jumps), np.maximum(stays, jumps)
    beyond = torn & ~leaves
    low[beyond], high[beyond] = (grid[-1], np.inf) if branch == "up" else (-np.inf, grid[0])
    low[~torn] = high[~torn] = np.nan
    place = estimate(0.5 * (low + high)[leaves], 0.95) if leaves.sum() > 1 else None
    return Fold(branch, objective, low, high, place)


def _choose(first: np.ndarray, a: Any, b: Any) -> Any:
    """Leaves of `a` for the seeds in `first`, else of `b`."""

    def one(x: Array, y: Array) -> Array:
        return jnp.where(jnp.asarray(first).reshape(-1, *([1] * (x.ndim - 1))), x, y)

    return jax.tree.map(one, a, b)
