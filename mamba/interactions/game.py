"""The game that teams play: k players, each with its own loss L_i and its own levers theta_i.

    xi = (grad_{theta_1} L_1, ..., grad_{theta_k} L_k),   H = d xi / d theta = S + A,   S symmetric, A antisymmetric

A = 0 is a potential game: some joint metric has these gradients, and teams that follow their own one improve it. S = 0 is a
harmonic game: teams chase each other in circles. The rotation index |A|_F / (|S|_F + |A|_F) lies between. A best-response gap says
how far a team is from wanting to stay, the price of non-coordination what a goal (without its constraints) loses where each team
looks after itself.

Everything here runs on plain functions of a lever vector, on the host; `platform_slopes` and `platform_descent` make them from
compiled Jacobians. Some draws of the expected mode stay hard (who posts, what is proposed and reshared, which tie is replaced) and
carry a likelihood ratio that is right to first order, on average over keys: values on fixed keys jump, and derivatives of
derivatives are not second derivatives. So H is a difference of gradients, with an error over keys, and players minimise by
stochastic gradients on fresh keys (Adam inside a box), not by a line search.

References:
    Balduzzi et al. 2018, Letcher et al. 2019 (the decomposition); Rosen 1965 (joint gradient); Monderer and Shapley 1996
    (potential games); Hoeffding 1948 (U-statistics); Kingma and Ba 2015 (Adam).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mamba import ecosystem as eco
from mamba import members as mem
from mamba.interactions.factorial import Estimate, estimate
from mamba.interactions.jacobian import Jacobian
from mamba.meta import constraints, vector
from mamba.meta.vector import NOBODY
from mamba.types import Array

# theta [P] -> (values [S, R], slopes [S, R, P]) of R outcomes under S keys.
Slopes = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
# (theta [P], weights [R], number of the step) -> gradient [P] of a weighted sum of outcomes.
Descent = Callable[[np.ndarray, np.ndarray, int], np.ndarray]

NEAR = 0.1  # unconstrained units
_LARGE = 1e4
# Adam's averages for runs of some fifteen steps: on quadratics they end ten times nearer than with the usual 0.9 and 0.999.
_MEMORY = (0.5, 0.9)


# ---- functions of a lever vector


def plain_slopes(losses: Callable[[Array], Array]) -> Slopes:
    """Slopes of a differentiable function `theta [P] -> [R]`, as one key."""
    slope = jax.jacfwd(losses)

    def at(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        point = jnp.asarray(theta)
        return np.asarray(losses(point))[None], np.asarray(slope(point))[None]

    return at


def platform_slopes(run: Callable[[eco.Inputs, Array], Jacobian], inputs: eco.Inputs, *, keys: Array) -> Slopes:
    """Slopes of all J + A outcomes of a platform.

    Args:
        run: jitted `jacobian.jacobian`; one without direct part is cheaper.
        inputs: population, parameters, gates; its levers give the shape.
        keys: [S] typed keys, the same for every lever vector.
    """
    restore = vector.unflat(inputs.levers)

    def at(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        here = run(replace(inputs, levers=restore(jnp.asarray(theta, jnp.float32))), keys)
        return np.asarray(here.value, np.float64), np.asarray(here.full, np.float64)

    return at


def descent(slopes: Slopes) -> Descent:
    """Gradients of weighted sums from all slopes, every step on the same keys."""

    def at(theta: np.ndarray, weights: np.ndarray, index: int) -> np.ndarray:
        del index
        return weights @ slopes(theta)[1].mean(axis=0)

    return at


def platform_descent(
    run: Callable[[eco.Inputs, Array], Jacobian], inputs: eco.Inputs, *, key: Array, keys: int
) -> Descent:
    """Gradients of weighted sums of a platform's outcomes, every step on fresh keys, the same for every player.

    Args:
        run: jitted `jacobian.jacobian`. All outcomes are pushed forward for the sake of one weighted sum, and up to some ten
            levers that is still no dearer than a backward pass; one compilation serves Jacobian, game and descent.
        inputs: population, parameters, gates; its levers give the shape.
        key: typed key.
        keys: S, keys of a step.
    """

    def at(theta: np.ndarray, weights: np.ndarray, index: int) -> np.ndarray:
        slopes = platform_slopes(run, inputs, keys=jax.random.split(jax.random.fold_in(key, index), keys))
        return weights @ slopes(theta)[1].mean(axis=0)

    return at


def platform_gradient(run: Callable[..., tuple[Array, Array]], inputs: eco.Inputs, *, key: Array, keys: int) -> Descent:
    """`platform_descent` in reverse mode, whose cost does not grow with P: `run` is a jitted `jacobian.gradient`."""

    def at(theta: np.ndarray, weights: np.ndarray, index: int) -> np.ndarray:
        point, wanted = jnp.asarray(theta, jnp.float32), jnp.asarray(weights, jnp.float32)
        fresh = jax.random.split(jax.random.fold_in(key, index), keys)
        return np.asarray(run(inputs, point, wanted, fresh)[1], np.float64)

    return at


# ---- local game


class View(NamedTuple):
    """The game around one lever vector; p runs over the levers that someone plays.

    Attributes:
        levers: [p] indices of those levers among all P.
        xi: [p] simultaneous gradient, mean over keys.
        hessian: [p, p] H, mean over keys.
        rotation: |A| / (|S| + |A|), a number, both norms from products of different keys, so that noise does not lengthen
            them; NaN where H is nothing but noise. One key has its own norms.
        rotation_between: the same without the blocks of one player.
        rotation_error: jackknife standard error of `rotation` over keys; NaN for fewer than three.
        rotation_between_error: likewise.
        coupling: [k, k] |H_ij|_F: how far what i wants depends on what j does.
        rightmost: eigenvalue of -H with the largest real part. It says something about stability of simultaneous learning only
            `at_equilibrium`; elsewhere it measures curvature.
        displacement: largest entry of the Newton step H^+ xi, how far the point of rest of the linearised game is, in
            unconstrained units.
        at_equilibrium: whether `displacement` is at most `near`.
        asymmetry: |H_ii - H_ii^T| / |H_ii| over a player's own blocks, 0 in exact arithmetic: the numerical error.
    """

    levers: np.ndarray
    xi: np.ndarray
    hessian: np.ndarray
    rotation: float
    rotation_between: float
    rotation_error: float
    rotation_between_error: float
    coupling: np.ndarray
    rightmost: complex
    displacement: float
    at_equilibrium: bool
    asymmetry: float


def view(
    slopes: Slopes,
    theta: np.ndarray,
    *,
    players: np.ndarray,
    weights: np.ndarray,
    step: float = 0.05,
    near: float = NEAR,
) -> View:
    """Game view by central differences of the gradient, two Jacobians per played lever.

    Args:
        slopes: of R outcomes.
        theta: [P] where.
        players: [P] player of each lever, `NOBODY` for a lever that stays.
        weights: [k, R] each player's loss as a weighted sum of outcomes; their scale is that of xi and H.
        step: of the differences, in unconstrained units.
        near: how far, in unconstrained units, the linearised game's point of rest may be for an equilibrium.

    Raises:
        ValueError: nobody plays.
    """
    theta, weights = np.asarray(theta, np.float64), np.asarray(weights, np.float64)
    played = np.flatnonzero(players != NOBODY)
    if len(played) == 0:
        raise ValueError("nobody plays: no lever belongs to an algorithm with an own metric")
    player = players[played]

    def gradients(point: np.ndarray) -> np.ndarray:
        """[S, p] every player's gradient with respect to its own levers."""
        return np.einsum("pr,srp->sp", weights[player], np.asarray(slopes(point)[1], np.float64)[:, :, played])

    columns = []
    for lever in played:
        away = np.zeros_like(theta)
        away[lever] = step
        columns.append((gradients(theta + away) - gradients(theta - away)) / (2.0 * step))
    each = np.stack(columns, axis=2)  # [S, p, p]
    xi, hessian = gradients(theta).mean(axis=0), each.mean(axis=0)
    between = player[:, None] != player[None, :]
    rotation, rotation_error = _jackknifed(each, np.ones_like(between))
    rotation_between, rotation_between_error = _jackknifed(each, between)
    eigenvalues = np.linalg.eigvals(-hessian)
    displacement = float(np.abs(np.linalg.lstsq(hessian, xi, rcond=None)[0]).max())
    inside = np.where(between, 0.0, hessian)
    member = np.equal.outer(np.arange(len(weights)), player).astype(np.float64)
    own = np.linalg.norm(inside)
    return View(
        levers=played,
        xi=xi,
        hessian=hessian,
        rotation=rotation,
        rotation_between=rotation_between,
        rotation_error=rotation_error,
        rotation_between_error=rotation_between_error,
        coupling=np.sqrt(member @ hessian**2 @ member.T),
        rightmost=complex(eigenvalues[np.argmax(eigenvalues.real)]),
        displacement=displacement,
        at_equilibrium=displacement <= near,
        asymmetry=float(np.linalg.norm(inside - inside.T) / own) if own > 0 else 0.0,
    )


def rotation(hessian: np.ndarray) -> float:
    """Rotation index of a matrix: 0 symmetric (potential), 1 antisymmetric (harmonic), NaN where it vanishes."""
    symmetric = np.linalg.norm(hessian + hessian.T)
    antisymmetric = np.linalg.norm(hessian - hessian.T)
    both = symmetric + antisymmetric
    return float(antisymmetric / both) if both > 0 else float("nan")


def _jackknifed(each: np.ndarray, keep: np.ndarray) -> tuple[float, float]:
    """Rotation index over keys of the entries that are kept, and its jackknife error.

    The norm of a noisy mean is too long, and noise has as much of |A| as of |S|: an index made of such norms tends to 1/2. So
    both squares are averaged over pairs of *different* keys (Hoeffding 1948), which leaves noise out on average.

    Returns:
        The index within [0, 1], and the error of the index that may leave that range: one that was cut off at its end would
        look surer than it is. NaN index where nothing is left of H; NaN error for fewer than three keys.
    """
    kept = np.where(keep, each, 0.0)
    keys = len(kept)
    if keys < 2:
        return rotation(kept.mean(axis=0)), float("nan")
    index = _paired_index(kept)
    reported = float(np.clip(index, 0.0, 1.0))
    if keys < 3:
        return reported, float("nan")
    left = np.array([_paired_index(np.delete(kept, key, axis=0)) for key in range(keys)])
    return reported, float(np.sqrt((keys - 1) / keys * np.sum((left - left.mean()) ** 2)))


def _paired_index(each: np.ndarray) -> float:
    """a / (s + a) with roots of squares that are products of different keys, [S >= 2, p, p].

    Where noise makes a square negative its root keeps the sign, and the index leaves [0, 1]. NaN where both are at most 0.
    """
    turned = each.swapaxes(1, 2)
    symmetric, antisymmetric = (_signed_root(_paired_square(part)) for part in (each + turned, each - turned))
    if symmetric <= 0 and antisymmetric <= 0:
        return float("nan")
    both = abs(symmetric) + abs(antisymmetric)
    return 1.0 - symmetric / both if symmetric < 0 else antisymmetric / both


def _paired_square(each: np.ndarray) -> float:
    """Mean of <M_s, M_r> over pairs of different keys: |E M|^2 without bias."""
    keys = len(each)
    return float((np.sum(each.sum(axis=0) ** 2) - np.sum(each**2)) / (keys * (keys - 1.0)))


def _signed_root(square: float) -> float:
    return float(np.copysign(np.sqrt(abs(square)), square))


# ---- best responses


def minimise(
    descend: Descent,
    theta: np.ndarray,
    *,
    movable: np.ndarray,
    weights: np.ndarray,
    radius: float,
    steps: int,
    centre: np.ndarray | None = None,
    first: int = 0,
) -> np.ndarray:
    """Lowers a weighted sum of outcomes over some levers within a box, the others held: Adam, projected.

    The step size starts at 4 radius / steps and falls to 0 along a cosine, so that any corner of the box is in reach.

    Args:
        descend: gradients.
        theta: [P] where to start.
        movable: [P] bool, levers that may move.
        weights: [R].
        radius: trust region, the largest distance of a lever from `centre` in unconstrained units.
        steps: gradients.
        centre: [P] middle of the box; None takes `theta`.
        first: number of the first step, which tells `descend` which keys are fresh.

    Returns:
        [P] levers.
    """
    point = np.asarray(theta, np.float64)
    middle = point if centre is None else np.asarray(centre, np.float64)
    if not np.any(movable):
        return point
    transform = optax.adam(optax.cosine_decay_schedule(4.0 * radius / steps, steps), *_MEMORY)
    state = transform.init(jnp.zeros(point.shape))
    for index in range(steps):
        slope = np.where(movable, descend(point, np.asarray(weights, np.float64), first + index), 0.0)
        # Adam does not mind the scale, but for the floor under its root.
        change, state = transform.update(jnp.asarray(slope * _LARGE, jnp.float32), state)
        point = np.clip(point + np.where(movable, np.asarray(change), 0.0), middle - radius, middle + radius)
    return point


def best_responses(
    descend: Descent, theta: np.ndarray, *, players: np.ndarray, weights: np.ndarray, radius: float, steps: int
) -> np.ndarray:
    """Each player's best reply to the others' present levers, [k, P]; a player without levers stays.

    Args:
        descend: gradients of R outcomes.
        theta: [P] where everyone is.
        players: [P] player of each lever, `NOBODY` for a lever that stays.
        weights: [k, R] each player's loss as a weighted sum of outcomes.
        radius: trust region of a lever, in unconstrained units.
        steps: gradients per player.
    """
    limits = {"radius": radius, "steps": steps}
    replies = [minimise(descend, theta, movable=players == i, weights=each, **limits) for i, each in enumerate(weights)]
    return np.stack(replies)


class Rest(NamedTuple):
    """Where iterated best responses end.

    Attributes:
        levers: [P].
        moved: largest move of a lever in the last round; a point that has not come to rest is no equilibrium.
    """

    levers: np.ndarray
    moved: float


def nash_like(
    descend: Descent,
    theta: np.ndarray,
    *,
    players: np.ndarray,
    weights: np.ndarray,
    radius: float,
    steps: int,
    rounds: int,
) -> Rest:
    """Rounds of best responses, one player after the other, all within one box around the start.

    Args:
        descend: gradients of R outcomes.
        theta: [P] where everyone starts, the middle of the box.
        players: [P] player of each lever.
        weights: [k, R] each player's loss.
        radius: trust region of a lever over all rounds.
        steps: gradients per player and round.
        rounds: how often everyone replies; at least 1.
    """
    point, before = np.asarray(theta, np.float64), np.asarray(theta, np.float64)
    for turn in range(rounds):
        before = point
        for i, each in enumerate(weights):
            point = minimise(
                descend,
                point,
                movable=players == i,
                weights=each,
                radius=radius,
                steps=steps,
                centre=theta,
                first=turn * steps,
            )
    return Rest(point, float(np.abs(point - before).max()))


# ---- measured on the sampled model


class Coordination(NamedTuple):
    """What teams would gain by moving alone, and what a goal loses when all of them do.

    Attributes:
        gap: [k] best-response gap L_i(theta) - L_i(theta_i*, theta_-i) in % of |L_i|; negative where the reply that the expected
            mode suggests does not pay on the sampled model. A player that plays nothing has gap 0.
        price: U(Nash-like) - U(joint) of the goal without its constraints, weighted relative change; positive where going
            alone costs. The joint levers may break what a goal with constraints keeps.
        alone: U(Nash-like) - U(theta).
        together: U(joint) - U(theta).
        replies: [k, P] best responses.
        nash: Nash-like levers, and whether they came to rest.
        joint: [P] levers of the joint minimisation, given the same number of gradients.
    """

    gap: Estimate
    price: Estimate
    alone: Estimate
    together: Estimate
    replies: np.ndarray
    nash: Rest
    joint: np.ndarray


def coordination(
    descend: Descent,
    measure: Callable[[np.ndarray], np.ndarray],
    theta: np.ndarray,
    *,
    players: np.ndarray,
    weights: np.ndarray,
    goal: np.ndarray,
    radius: float = 1.0,
    steps: int = 15,
    rounds: int = 3,
    confidence: float = 0.95,
) -> Coordination:
    """Best-response gaps and the price of non-coordination.

    Levers are found with `descend` (the expected mode), and judged by `measure` (the sampled mode, fresh keys).

    Args:
        descend: gradients of R outcomes.
        measure: lever vectors [n, P] -> outcomes [n, S, R], the same S keys for each; at least 2.
        theta: [P] present levers, the start and the middle of the box for everyone.
        players: [P] player of each lever, `NOBODY` for levers that stay, in the joint minimisation too.
        weights: [k, R] each player's loss, relative to its level (`loss_weights`).
        goal: [R] weights of the common goal, smaller is better (`goal_weights`).
        radius: trust region of a lever, in unconstrained units.
        steps: gradients per player and round; the joint minimisation gets those of all rounds and players.
        rounds: of best responses.
        confidence: of the intervals, Student t over paired keys.
    """
    limits = {"players": players, "weights": weights, "radius": radius, "steps": steps}
    replies = best_responses(descend, theta, **limits)
    nash = nash_like(descend, theta, rounds=rounds, **limits)
    budget = steps * rounds * max(len(np.setdiff1d(players, [NOBODY])), 1)
    joint = minimise(descend, theta, movable=players != NOBODY, weights=goal, radius=radius, steps=budget)
    points = np.concatenate([np.asarray(theta, np.float64)[None], nash.levers[None], joint[None], replies])
    values = np.asarray(measure(points), np.float64)
    here, nash_values, joint_values = values[:3]
    gap = np.stack([(here - reply) @ each for reply, each in zip(values[3:], weights, strict=True)], axis=1)
    return Coordination(
        gap=estimate(100.0 * gap, confidence),
        price=estimate((nash_values - joint_values) @ goal, confidence),
        alone=estimate((nash_values - here) @ goal, confidence),
        together=estimate((joint_values - here) @ goal, confidence),
        replies=replies,
        nash=nash,
        joint=joint,
    )


def goal_weights(goal: constraints.Goal, value: np.ndarray) -> np.ndarray:
    """A goal's weighted relative change U as weights of the outcomes, [J + A].

    Args:
        goal: from `constraints.goal`, without constraints.
        value: [S, J + A] outcomes at the baseline.

    Raises:
        ValueError: the goal has constraints, which are no weighted sum.
    """
    if len(goal.kept):
        raise ValueError("the price of non-coordination is of a weighted goal: leave the constraints (keep) out")
    level = np.asarray(value, np.float64).mean(axis=0)
    objective = level[: len(goal.weights)]
    slope = constraints.slope(np.zeros(0), objective, goal, multipliers=np.zeros(0), penalty=0.0)
    return np.concatenate([slope, np.zeros(len(level) - len(slope))])


def platform_measure(
    run: Callable[[mem.Members], np.ndarray], ecosystem: eco.Ecosystem, inputs: eco.Inputs, *, keys: Array
) -> Callable[[np.ndarray], np.ndarray]:
    """Outcomes of lever vectors on the sampled model, all on the same keys.

    Args:
        run: members -> [B, J + A], such as `members.in_chunks` over a jitted `jacobian.evaluator`.
        ecosystem: static description.
        inputs: gates and learning switches; its levers give the shape.
        keys: [S] typed keys, others than those the levers were found on.

    Returns:
        `[n, P] -> [n, S, J + A]`.
    """
    restore = vector.unflat(inputs.levers)

    def measure(points: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        each = [
            mem.repeat(
                ecosystem,
                restore(jnp.asarray(point, jnp.float32)),
                keys,
                gates=inputs.gates,
                learning=inputs.learning,
            )
            for point in points
        ]
        return run(mem.join(*each)).reshape(len(each), len(keys), -1)

    return measure
