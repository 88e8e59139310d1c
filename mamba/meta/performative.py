"""Performativity: what comes of teams that retrain on the data which their own deployed levers bring about.

Three points, each compared with the next:

    naive             theta_i minimises  L_i(theta_0; theta_i)  on the data of the present levers theta_0
    stable            theta_i minimises  L_i(theta; theta_i)    on its own data: retraining changes nothing any more
    (meta-)optimum    theta minimises a goal with the data following along, `derivatives` through the dynamics

L_i(theta; theta_i) is `systems.decoupled` with the levers of player i at theta_i and all others where they are deployed. Every
player minimises its own row of outcomes over its own levers; nothing is summed. A derivative of it reaches back one step and no
further, so that it is cheap and many keys can be used.

Repeated retraining contracts, for one player, if the data depend little enough on what is deployed (eps < gamma / beta); nothing
makes it converge in general, and that it did not is a result. Here the players reply to what the others have deployed; in Narang
et al. 2022 each round is an equilibrium on fixed data. The points of rest are the same.

References:
    Perdomo et al. 2020 (performative stability, repeated risk minimisation); Mendler-Dünner et al. 2020 (greedy and lazy
    deployment); Miller et al. 2021 (stable is not optimal); Narang et al. 2022 (several learners).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mamba import members as mem
from mamba.meta import systems, vector
from mamba.meta.systems import System
from mamba.types import Array

# (deployed [P], theta [P], number of the gradient) -> [P], each entry the slope of its own player's risk.
Slope = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
# (theta [P], number of the gradient) -> [P].
Gradient = Callable[[np.ndarray, int], np.ndarray]


def slopes(system: System, *, steps: int, segment: int | None = None) -> Callable[..., Array]:
    """Every player's slope of its own risk on the data of what is deployed.

    Args:
        system: whose outcomes the players look at.
        steps: T.
        segment: see `mamba.unroll.unroll`.

    Returns:
        `(context, deployed [P], theta [P], players [P], weights [k, J], keys [S]) -> [S, P]`: entry p is the derivative, with
        respect to theta_p, of the risk `weights[players[p]] @ outcomes` of the player that turns lever p, who has its levers at
        theta while all others are where they are deployed; 0 where `players` names nobody. It costs k runs and as many backward
        passes for each key; callers jit.
    """

    def run(context: Any, deployed: Array, theta: Array, players: Array, weights: Array, keys: Array) -> Array:
        def one(key: Array) -> Array:
            def of(player: tuple[Array, Array]) -> Array:
                index, weight = player
                mine = players == index

                def risk(moved: Array) -> Array:
                    judged = jnp.where(mine, moved, deployed)
                    found = systems.decoupled(system, context, deployed, judged, key=key, steps=steps, segment=segment)
                    return weight.astype(found.dtype) @ found

                return jax.grad(risk)(theta)  # nothing but the player's own levers has a slope

            return jnp.sum(jax.lax.map(of, (jnp.arange(len(weights)), weights)), axis=0)

        return mem.mapped(one, keys, at_once=system.at_once)

    return run


def risks(system: System, *, steps: int) -> Callable[..., Array]:
    """Every player's own risk on the data of what is deployed: what retraining promises.

    Args:
        system: whose outcomes the players look at.
        steps: T.

    Returns:
        `(context, deployed [P], theta [P], players [P], weights [k, J], keys [S]) -> [S, k]`, arguments as in `slopes`.
    """

    def run(context: Any, deployed: Array, theta: Array, players: Array, weights: Array, keys: Array) -> Array:
        def one(key: Array) -> Array:
            def of(player: tuple[Array, Array]) -> Array:
                index, weight = player
                judged = jnp.where(players == index, theta, deployed)
                found = systems.decoupled(system, context, deployed, judged, key=key, steps=steps, segment=0)
                return weight.astype(found.dtype) @ found

            return jax.lax.map(of, (jnp.arange(len(weights)), weights))

        return mem.mapped(one, keys, at_once=system.at_once)

    return run


def slope(
    run: Callable[..., Array], context: Any, *, players: np.ndarray, weights: np.ndarray, key: Array, keys: int
) -> Slope:
    """Mean slopes over fresh keys for every gradient, the same keys in every retraining.

    So what is retrained depends on nothing but what is deployed, and repeating it is the iteration of one function.

    Args:
        run: jitted `slopes`.
        context: see `System`.
        players: [P] player of each lever, `vector.NOBODY` for one that stays.
        weights: [k, J] each player's risk as a weighted sum of outcomes.
        key: typed key.
        keys: S, keys of a gradient.
    """

    def at(deployed: np.ndarray, theta: np.ndarray, index: int) -> np.ndarray:
        fresh = jax.random.split(jax.random.fold_in(key, index), keys)
        given = (jnp.asarray(each) for each in (deployed, theta, players, weights))
        return np.asarray(run(context, *given, fresh), np.float64).mean(axis=0)

    return at


def charged(slope: Slope, centre: np.ndarray, *, players: np.ndarray, price: float) -> Slope:
    """Slopes of risks that also count how far a player has moved its levers, `price / 2 |theta_i - centre_i|^2`.

    Stable points are only sure where risks are strongly convex (Perdomo et al. 2020, theorem 3.5), and metrics that more of a lever
    always improves are not even bounded: this makes them so. A lever without effect stays at the centre.

    Args:
        slope: slopes without it.
        centre: [P] from where ways count.
        players: [P] player of each lever.
        price: per square of an unconstrained unit.
    """
    pays = np.asarray(players) != vector.NOBODY

    def at(deployed: np.ndarray, theta: np.ndarray, index: int) -> np.ndarray:
        return slope(deployed, theta, index) + np.where(pays, price * (theta - centre), 0.0)

    return at


# ---- retraining


class Solver(NamedTuple):
    """How a risk is minimised.

    Attributes:
        transform: any optax transform.
        steps: most gradients.
        tolerance: ends earlier once no lever moves further than this in a step.
        radius: largest distance of a lever from `centre`, in unconstrained units.
        centre: [P] middle of the box; None takes the point of the start.
    """

    transform: optax.GradientTransformation
    steps: int
    tolerance: float = 0.0
    radius: float = np.inf
    centre: np.ndarray | None = None


def adam(*, radius: float, steps: int, centre: np.ndarray | None = None) -> Solver:
    """Adam inside a box, for slopes whose size says nothing.

    Its step falls from 4 radius / steps to 0 along a cosine, so that any corner of the box is in reach.
    """
    schedule = optax.cosine_decay_schedule(4.0 * radius / steps, steps)
    return Solver(optax.adam(schedule, b1=0.5, b2=0.9, eps=1e-12), steps, radius=radius, centre=centre)


class Minimum(NamedTuple):
    """Where a minimisation ended.

    Attributes:
        levers: [P].
        steps: gradients that were taken.
        moved: largest move of a lever in the last of them.
        converged: whether that was within the tolerance.
    """

    levers: np.ndarray
    steps: int
    moved: float
    converged: bool


def minimise(gradient: Gradient, theta: np.ndarray, *, solver: Solver) -> Minimum:
    """Descends along `gradient` inside the box; of the three points, the optimum, given a gradient through the dynamics.

    Args:
        gradient: slopes; those of a lever that stays are 0.
        theta: [P] where to start.
        solver: how.
    """
    point = np.asarray(theta, np.float64)
    middle = point if solver.centre is None else np.asarray(solver.centre, np.float64)
    low, high = middle - solver.radius, middle + solver.radius
    state, moved, taken = solver.transform.init(jnp.asarray(point)), np.inf, 0
    for index in range(solver.steps):
        found = jnp.asarray(gradient(point, index))
        change, state = solver.transform.update(found, state, jnp.asarray(point))
        # Whoever has no slope stays, whatever the transform makes of it (weight decay, momentum without end).
        after = np.clip(point + np.where(np.asarray(found) == 0.0, 0.0, np.asarray(change)), low, high)
        moved, point, taken = float(np.abs(after - point).max(initial=0.0)), after, index + 1
        if moved <= solver.tolerance:
            break
    return Minimum(point, taken, moved, moved <= solver.tolerance)


def retrain(slope: Slope, deployed: np.ndarray, *, solver: Solver, start: np.ndarray | None = None) -> Minimum:
    """One retraining of every player on the data of `deployed`; from the present levers, that is the naive point.

    Args:
        slope: each player's slope of its own risk.
        deployed: [P] levers that bring the data about.
        solver: how each risk is minimised.
        start: [P] where to start; None starts from what is deployed.
    """
    deployed = np.asarray(deployed, np.float64)
    begin = deployed if start is None else start
    return minimise(lambda theta, index: slope(deployed, theta, index), begin, solver=solver)


class Stable(NamedTuple):
    """Where repeated retraining led.

    Attributes:
        levers: [P] what was deployed last.
        path: [N + 1, P] deployed levers, the start first.
        moves: [N] Euclidean length of every move.
        ratios: [N - 1] of each move to the one before: below 1 where retraining contracts.
        rate: geometric mean of the ratios of the later half of the moves; NaN for fewer than two moves, or none left.
        left: distance that is still to go if moves go on shrinking at that rate, move x rate / (1 - rate); infinite where they
            do not shrink, NaN where the rate is not known.
        converged: whether the last move was within the tolerance.
        diverges: whether moves grow, over the later half and since the first, or left the numbers.
        solved: whether every retraining came to rest within its own limits.
    """

    levers: np.ndarray
    path: np.ndarray
    moves: np.ndarray
    ratios: np.ndarray
    rate: float
    left: float
    converged: bool
    diverges: bool
    solved: bool


def stable(
    slope: Slope,
    theta: np.ndarray,
    *,
    solver: Solver,
    rounds: int,
    tolerance: float,
    anew: bool = False,
    done: Callable[[float], None] | None = None,
) -> Stable:
    """Repeated risk minimisation: deploys and retrains until nothing changes, or the rounds are over.

    Args:
        slope: each player's slope of its own risk; one that does not draw other keys in every round lets moves vanish.
        theta: [P] what is deployed first, and the middle of the box where the solver names none.
        solver: how each risk is minimised.
        rounds: most retrainings, at least 1.
        tolerance: Euclidean length of a move that counts as none.
        anew: every retraining starts from `theta` instead of from where the last one ended.
        done: told the length of every move.
    """
    first = np.asarray(theta, np.float64)
    solver = solver._replace(centre=first if solver.centre is None else solver.centre)
    path, moves, solved = [first], [], True
    for _ in range(rounds):
        found = retrain(slope, path[-1], solver=solver, start=first if anew else None)
        solved = solved and found.converged
        path.append(found.levers)
        moves.append(float(np.linalg.norm(path[-1] - path[-2])))
        if done is not None:
            done(moves[-1])
        if not moves[-1] > tolerance or not np.isfinite(moves[-1]):
            break
    return _followed(np.stack(path), np.array(moves), tolerance=tolerance, solved=solved)


def _followed(path: np.ndarray, moves: np.ndarray, *, tolerance: float, solved: bool) -> Stable:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = moves[1:] / moves[:-1]
    finite = bool(np.all(np.isfinite(moves)))
    begun = len(moves) // 2 - (len(moves) > 1)  # at least one ratio
    rate = float("nan")
    if len(moves) > 1 and finite and moves[begun] > 0:
        rate = float((moves[-1] / moves[begun]) ** (1.0 / (len(moves) - 1 - begun)))
    if np.isnan(rate):
        left = 0.0 if finite and moves[-1] == 0 else float("nan")
    else:
        left = float(moves[-1] * rate / (1.0 - rate)) if rate < 1 else float("inf")
    return Stable(
        levers=path[-1],
        path=path,
        moves=moves,
        ratios=ratios,
        rate=rate,
        left=left,
        converged=finite and bool(moves[-1] <= tolerance),
        diverges=not finite or bool(rate > 1 and moves[-1] > moves[0]),
        solved=solved,
    )


# ---- learning from one sample at a time


class Schedule(NamedTuple):
    """When samples are followed by a deployment.

    Attributes:
        deploys: [N] bool.
        since: [N] samples since the last deployment, this one among them.
    """

    deploys: np.ndarray
    since: np.ndarray


def schedule(samples: int, *, length: Callable[[int], float]) -> Schedule:
    """Deployment k = 1, 2, ... follows `length(k)` samples: `lambda k: 1` is greedy, a growing one lazy.

    References:
        Mendler-Dünner et al. 2020, section 3.
    """
    lengths, total = [], 0
    while total < samples:
        lengths.append(max(1, int(length(len(lengths) + 1))))
        total += lengths[-1]
    deploys = np.zeros(total, bool)
    deploys[np.cumsum(lengths) - 1] = True
    since = np.concatenate([np.arange(1, each + 1) for each in lengths])
    return Schedule(deploys[:samples], since[:samples])


def online(
    slope: Callable[[Array, Array, Array], Array], theta: Array, *, rates: Array, deploys: Array
) -> tuple[Array, Array]:
    """Stochastic gradient steps, one sample each, on data of what was deployed last; callers jit.

    Args:
        slope: traceable `(deployed [P], theta [P], number of the sample) -> [P]`.
        theta: [P] learned and deployed first.
        rates: [N] step sizes.
        deploys: [N] bool, whether what is learned is deployed after the sample.

    Returns:
        `(deployed, learned)`, [N, P] each, after every sample.
    """

    def one(carry: tuple[Array, Array], at: tuple[Array, Array, Array]):
        deployed, theta = carry
        index, rate, deploy = at
        theta = theta - rate * slope(deployed, theta, index)
        after = (jnp.where(deploy, theta, deployed), theta)
        return after, after

    theta = jnp.asarray(theta)
    numbers = jnp.arange(len(rates), dtype=jnp.int32)
    return jax.lax.scan(one, (theta, theta), (numbers, jnp.asarray(rates, theta.dtype), jnp.asarray(deploys)))[1]
