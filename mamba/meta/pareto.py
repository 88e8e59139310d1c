"""A Pareto front of platforms: one lever vector for each way to weigh the objectives, trained together.

    U_w(h) = mu log sum_m exp(w_m (h_m - ideal_m) / (span_m mu)),   h_m relative worsening of objective m

The smooth Chebyshev scalarisation reaches every part of a front, also where that is not convex. The corners, where one
objective is nearly all that counts, are trained first: they show the ideal, and the span between the best and the worst of
each objective, which makes objectives comparable. The rest grows outwards from the most even weights, every point from the
levers and multipliers of its neighbour, so that it needs few steps, and small ones. What all points share is computed once:
one compiled gradient, the same keys, and one measurement of the baseline. Constraints hold for every point, which goes back
towards the baseline as far as that takes.

References:
    Das and Dennis 1998 (weights); Miettinen 1999, section 2.4 (payoff table); Lin et al. 2024 (smooth Chebyshev scalarisation).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mamba import ecosystem as eco
from mamba import members as mem
from mamba import passing
from mamba.meta import (
    constraints,
    derivatives,
    estimators,
    evolution,
    growth,
    optimise,
    restore,
    scalarise,
    systems,
    vector,
)
from mamba.meta.settings import MetaConfig
from mamba.objectives import NAMES, OBJECTIVES
from mamba.streams import stream
from mamba.types import Array

# (thetas [W, P], rows [W, R, J + A], shares [W, B], keys [S]) -> (outcomes [W, S, J + A], slopes [W, S, R, P])
Slopes = Callable[[np.ndarray, np.ndarray, np.ndarray, Array], tuple[np.ndarray, np.ndarray]]
# (theta [P], shares [B], key) -> shares [B] without those through which derivatives explode
Look = Callable[[np.ndarray, np.ndarray, Array], np.ndarray]

ESTIMATORS = ("pathwise", "hybrid")
_CORNER = 1e-9  # weights that differ from 1 by less are all on one objective
_SIDE = 0.05  # weight that a corner leaves to all objectives alike: indifferent, it would be only weakly Pareto-optimal
_LEAST_SPAN = 1e-3  # relative change


class Search(NamedTuple):
    """What the training of a front needs.

    Attributes:
        trainer: of a single point; its settings, constraints and baseline are those of all.
        slopes: gradients of many points at once.
        look: the growth monitor; None never looks.
        shares: [B] shares of the derivatives that pass at the start.
        objectives: [m] indices of the objectives that are traded off.
        grid: weights [F, m] and which point starts from which.
        smoothing: mu of the scalarisation, in shares of a span.
    """

    trainer: optimise.Trainer
    slopes: Slopes
    look: Look | None
    shares: np.ndarray
    objectives: np.ndarray
    grid: scalarise.Grid
    smoothing: float


class Points(NamedTuple):
    """Where points are; NaN where they are not trained.

    Attributes:
        levers: [F, P] unconstrained.
        multipliers: [F, K] of the constraints.
        shares: [F, B] shares of the derivatives that pass.
    """

    levers: np.ndarray
    multipliers: np.ndarray
    shares: np.ndarray


class Scale(NamedTuple):
    """What the corners say of each objective, in relative worsening.

    Attributes:
        ideal: [m] best of the corners.
        span: [m] worst of the corners less the best.
    """

    ideal: np.ndarray
    span: np.ndarray


def search(
    ecosystem: eco.Ecosystem,
    inputs: eco.Inputs,
    config: MetaConfig,
    *,
    objectives: Sequence[str],
    divisions: int,
    smoothing: float,
    steps: int,
    evaluate: optimise.Evaluate,
    key: Array,
    layout: mem.Layout = "loop",
) -> Search:
    """Prepares the training of a front.

    Args:
        ecosystem: static description.
        inputs: population, parameters, and the levers to start from.
        config: settings of every point's training. `minimise`, `goal`, worlds and `steps` do not count; `keep` does, but for the
            objectives that are traded off.
        objectives: names of m objectives, at least two.
        divisions: of the grid of weights: `divisions + 1` points for two objectives.
        smoothing: mu.
        steps: T.
        evaluate: outcomes [B, J + A] of members on the sampled model.
        key: typed key of the training seeds.
        layout: how the points of a wave are differentiated: one after the other, or side by side.

    Raises:
        ValueError: unknown objectives, too few of them, or an estimator that a front has not.
    """
    for name in objectives:
        if name not in OBJECTIVES:
            raise ValueError(f"objectives: no objective is called '{name}'. Known: {', '.join(NAMES)}")
    if len(set(objectives)) < 2 or len(set(objectives)) < len(objectives):
        raise ValueError(f"objectives: a front trades off at least two different objectives, got {list(objectives)}")
    if config.estimator not in ESTIMATORS:
        raise ValueError(f"estimator {config.estimator} cannot train a front: use {' or '.join(ESTIMATORS)}")
    for name in config.through:
        if name not in ecosystem.names:
            raise ValueError(f"through: no algorithm is called '{name}'. Known: {', '.join(ecosystem.names)}")
    kept = {name: share for name, share in config.keep.items() if name not in objectives}
    each = dataclasses.replace(config, spread={}, goal="ecosystem", minimise={}, keep=kept)
    nothing = estimators.Estimator(lambda theta: (), _unasked)  # each point gets its own when it is trained
    index = np.array([NAMES.index(name) for name in objectives])
    system = systems.platform(ecosystem)
    return Search(
        trainer=optimise.trainer(ecosystem, inputs, each, steps=steps, evaluate=evaluate, key=key, estimator=nothing),
        slopes=_slopes(system, inputs, steps=steps, layout=layout, width=max(len(index), 2)),
        look=None if config.monitor_every == 0 else _look(system, inputs, steps=steps),
        shares=passing.shares(ecosystem, [f"{passing.LEARNER}{n}" for n, open_ in config.through.items() if not open_]),
        objectives=index,
        grid=scalarise.das_dennis(len(index), divisions),
        smoothing=smoothing,
    )


def _unasked(key: Array, theta: np.ndarray, state: Any, rows: Any = None, worlds: Any = None):
    raise ValueError("the trainer of a front has no estimator of its own: train points with `pareto.train`")


def _slopes(system: systems.System, inputs: eco.Inputs, *, steps: int, layout: mem.Layout, width: int) -> Slopes:
    if layout == "loop":
        # One program for waves of any width; side by side, a CPU would gain nothing.
        run = jax.jit(derivatives.reverse(system, steps=steps))
    else:
        few = system._replace(at_once=max(1, system.at_once // width))
        run = jax.jit(jax.vmap(derivatives.reverse(few, steps=steps), in_axes=(None, 0, 0, 0, None)))

    def slopes(thetas: np.ndarray, rows: np.ndarray, shares: np.ndarray, keys: Array) -> tuple[np.ndarray, np.ndarray]:
        given = [jnp.asarray(each, jnp.result_type(float)) for each in (thetas, rows, shares)]
        if layout == "loop":
            found = [run(inputs, *each, keys) for each in zip(*given, strict=True)]
        else:
            count = len(thetas)
            parts = []
            for begin in range(0, count, width):
                some = np.minimum(np.arange(begin, begin + width), count - 1)  # filled up: one program for all waves
                part = run(inputs, *(each[some] for each in given), keys)
                parts.append([each[: min(width, count - begin)] for each in part])
            found = [pair for part in parts for pair in zip(*part, strict=True)]
        return np.stack([np.asarray(value) for value, _ in found]), np.stack([np.asarray(slope) for _, slope in found])

    return slopes


def _look(system: systems.System, inputs: eco.Inputs, *, steps: int) -> Look:
    follow = jax.jit(growth.tangents(system, steps=steps))

    def look(theta: np.ndarray, shares: np.ndarray, key: Array) -> np.ndarray:
        point = jnp.asarray(theta, jnp.result_type(float))
        directions = jax.random.rademacher(key, (2, len(theta)), point.dtype)

        def norms(passed: np.ndarray) -> np.ndarray:
            return np.asarray(follow(inputs, point, directions, jnp.asarray(passed, point.dtype), key))

        return growth.inspect(norms, system.blocks, shares).shares

    return look


def corners(grid: scalarise.Grid) -> np.ndarray:
    """Which points [F] have all their weight on one objective."""
    return grid.weights.max(axis=1) > 1.0 - _CORNER


def waves(grid: scalarise.Grid) -> list[np.ndarray]:
    """The points [F] in the order of training: the corners, then outwards from the most even weights."""
    corner = corners(grid)
    rest = [np.flatnonzero(~corner & (grid.wave == depth)) for depth in range(int(grid.wave.max()) + 1)]
    return [np.flatnonzero(corner), *(points for points in rest if len(points))]


def untrained(search: Search) -> Points:
    """A front of which nothing is trained yet."""
    count = len(search.grid.weights)
    widths = (vector.flat(search.trainer.baseline).size, len(search.trainer.goal.kept), len(search.shares))
    return Points(*(np.full((count, width), np.nan) for width in widths))


def starts(search: Search, points: np.ndarray, known: Points) -> Points:
    """Where the points [W] of a wave start: at their neighbours where these are trained, else at the baseline."""
    default = Points(
        np.asarray(vector.flat(search.trainer.baseline), np.float64),
        np.zeros(known.multipliers.shape[1]),
        search.shares,
    )
    parents = search.grid.parent[points]
    fresh = (parents < 0) | np.isnan(known.levers[np.maximum(parents, 0)]).any(axis=1)
    return Points(
        *(
            np.where(fresh[:, None], other, each[np.maximum(parents, 0)])
            for each, other in zip(known, default, strict=True)
        )
    )


def scale(search: Search, values: np.ndarray, baseline: np.ndarray) -> Scale:
    """The ideal and the span of each objective, from the outcomes [C, >= J] of the corners and of the baseline [>= J]."""
    harms = constraints.harms(values, baseline, search.objectives)
    ideal = harms.min(axis=0)
    return Scale(ideal, np.maximum(harms.max(axis=0) - ideal, _LEAST_SPAN))


def train(
    search: Search,
    begin: Points,
    weights: np.ndarray,
    *,
    scale: Scale | None,
    steps: int,
    key: Array,
    rate: float = 1.0,
    told: Callable[[int, np.ndarray], None] = lambda index, utilities: None,
) -> Points:
    """Trains the points of a wave together.

    Args:
        search: see `Search`.
        begin: [W] where they start.
        weights: [W, m].
        scale: of the objectives; corners need none.
        steps: meta-steps.
        key: typed key of the wave.
        rate: factor of the step size.
        told: called after every meta-step with its number and the utilities [W].

    Returns:
        [W] where they end.

    Raises:
        ValueError: points that are no corners, without a scale.
    """
    config = search.trainer.config
    config = dataclasses.replace(config, steps=steps, learning_rate=rate * config.learning_rate)
    base = search.trainer._replace(config=config, transform=optimise.transform(config), key=key)
    ready: dict[int, estimators.Gradient] = {}
    each, states, shares = [], [], np.array(begin.shares)
    for w, weight in enumerate(weights):
        trainer = base._replace(estimator=_estimator(base, ready, w), scalar=_scalar(search, weight, scale))
        point = jnp.asarray(begin.levers[w], jnp.result_type(float))
        state = optimise.start(trainer)._replace(
            levers=point,
            optimiser=trainer.transform.init(point),
            multipliers=jnp.asarray(begin.multipliers[w], jnp.result_type(float)),
        )
        each.append(trainer)
        states.append(state)
    for index in range(steps):
        seed = jax.random.fold_in(key, index)
        present = np.stack([np.asarray(state.levers) for state in states])
        if search.look is not None and index % config.monitor_every == 0:
            shares = np.stack([search.look(*at, stream(seed, "growth")) for at in zip(present, shares, strict=True)])
        table = measured(
            base, _with_baseline(base, present), jax.random.split(stream(seed, "constraints"), config.constraint_seeds)
        )
        values, baseline = table[:-1].mean(axis=1), table[-1].mean(axis=0)
        aims = [
            optimise.aimed(trainer, state, value, baseline)
            for trainer, state, value in zip(each, states, values, strict=True)
        ]
        keys = jax.random.split(stream(seed, "pathwise"), config.seeds)
        outcomes, slopes = search.slopes(present, np.stack([aim.rows for aim in aims]), shares, keys)
        ready.update(enumerate(map(estimators.averaged, outcomes, slopes)))
        utilities = []
        for w, (trainer, state, aim) in enumerate(zip(each, states, aims, strict=True)):
            found, inner = trainer.estimator.estimate(stream(seed, "gradient"), present[w], state.estimator, aim.rows)
            states[w], report = optimise.moved(trainer, state, aim, found, inner)
            utilities.append(report.utility)
        told(index, np.array(utilities))
    levers, multipliers = (
        np.stack([np.asarray(getattr(state, name), np.float64) for state in states])
        for name in ("levers", "multipliers")
    )
    return Points(levers, multipliers, shares)


def front(
    search: Search,
    *,
    steps: int,
    warm_steps: int,
    seeds: int,
    key: Array,
    known: Points | None = None,
    scaled: Scale | None = None,
    done: Callable[[Points, Scale], None] = lambda points, scale: None,
    told: Callable[[int, np.ndarray], None] = lambda index, utilities: None,
) -> tuple[Points, Scale]:
    """Trains a front wave by wave.

    Args:
        search: see `Search`.
        steps: meta-steps of the corners and of the first point.
        warm_steps: meta-steps of points that start from a neighbour; their step size is less by sqrt(warm_steps / steps), or the
            first steps of an adaptive optimiser would lead far away from where they start.
        seeds: rollouts of each corner that its place is measured with, and of each point that has to keep something.
        key: typed key.
        known: points that are trained already, as `done` was told; None has none.
        scaled: with them.
        done: called after every wave with what is trained so far.
        told: see `train`.

    Returns:
        All points, and the scale of the objectives.
    """
    points = untrained(search) if known is None else Points(*map(np.array, known))
    order = waves(search.grid)
    for number, wave in enumerate(order):
        if number == 0 and scaled is not None:
            continue
        if not np.isnan(points.levers[wave]).any():
            continue
        found = train(
            search,
            starts(search, wave, points),
            search.grid.weights[wave],
            scale=scaled,
            steps=steps if number < 2 else warm_steps,
            rate=1.0 if number < 2 else min(1.0, (warm_steps / steps) ** 0.5),
            key=jax.random.fold_in(stream(key, "waves"), number),
            told=told,
        )
        found = keeping(search, found, seeds=seeds, key=stream(key, "restoration"))
        for all_, some in zip(points, found, strict=True):
            all_[wave] = some
        if scaled is None:
            table = measured(
                search.trainer,
                _with_baseline(search.trainer, found.levers),
                jax.random.split(stream(key, "corners"), seeds),
            )
            scaled = scale(search, table[:-1].mean(axis=1), table[-1].mean(axis=0))
        done(points, scaled)
    assert scaled is not None
    return points, scaled


def keeping(search: Search, points: Points, *, seeds: int, key: Array) -> Points:
    """Points [W] that keep every constraint: as much of the way to each from the baseline as does, see `mamba.meta.restore`."""
    trainer = search.trainer
    if not (trainer.config.restore and len(trainer.goal.kept)):
        return points
    begin, levers = optimise.start(trainer), []
    for theta in points.levers:
        state = begin._replace(levers=jnp.asarray(theta, begin.levers.dtype))
        levers.append(np.asarray(restore.restored(trainer, state, seeds=seeds, key=key).levers, np.float64))
    return points._replace(levers=np.stack(levers))


def _estimator(trainer: optimise.Trainer, ready: dict[int, estimators.Gradient], w: int) -> estimators.Estimator:
    """The estimator of one point: its part of a gradient that was computed for all, audited where the settings say so."""

    def take(key: Array, theta: np.ndarray, state: Any, rows: Any = None, worlds: Any = None):
        del key, theta, rows, worlds
        return ready[w], state

    path, config = estimators.Estimator(lambda theta: (), take), trainer.config
    if config.audit_every == 0 or config.estimator == "pathwise":
        return path
    return estimators.hybrid(
        path,
        evolution.measure(trainer.evaluate, trainer.inputs),
        every=config.audit_every,
        outcomes=len(systems.outcome_names(trainer.ecosystem)),
        pairs=config.audit_pairs,
        sigma=config.audit_sigma,
        keys=config.audit_seeds,
    )


def _scalar(search: Search, weights: np.ndarray, scale: Scale | None) -> optimise.Scalar:
    corner = weights.max() > 1.0 - _CORNER
    if scale is None and not corner:
        raise ValueError(f"weights {weights.tolist()} need the scale of the objectives: train the corners first")

    def of(values: np.ndarray, baseline: np.ndarray) -> tuple[float, np.ndarray]:
        harms = constraints.harms(values, baseline, search.objectives)
        if corner or scale is None:  # nothing to balance, and no ideal is known yet
            value, slope = scalarise.linear(harms, (1.0 - _SIDE) * weights + _SIDE / len(weights))
        else:
            value, slope = scalarise.chebyshev(
                harms / scale.span, weights, ideal=scale.ideal / scale.span, smoothing=search.smoothing
            )
            slope = slope / scale.span
        return float(value), constraints.of_harms(slope, baseline, search.objectives)

    return of


def _with_baseline(trainer: optimise.Trainer, thetas: np.ndarray) -> np.ndarray:
    return np.concatenate([thetas, np.asarray(vector.flat(trainer.baseline))[None]])


def measured(trainer: optimise.Trainer, thetas: np.ndarray, keys: Array) -> np.ndarray:
    """Outcomes [N, S, J + A] of platforms with levers [N, P] on the sampled model, all on the same keys [S]."""
    members = evolution.as_members(trainer.inputs, np.repeat(thetas, len(keys), axis=0), jnp.tile(keys, len(thetas)))
    return np.asarray(trainer.evaluate(members), np.float64).reshape(len(thetas), len(keys), -1)


def certificate_slopes(
    search: Search, theta: np.ndarray, rows: np.ndarray, shares: np.ndarray, keys: Array
) -> np.ndarray:
    """Derivatives [S, R, P] of weighted sums of outcomes at one point, for `descent.certificate`.

    A row and a few keys at a time: the program is that of the training.

    Args:
        search: see `Search`.
        theta: [P].
        rows: [R, J + A].
        shares: [B].
        keys: [S], a multiple of the training's seeds.
    """
    some = search.trainer.config.seeds
    if len(keys) % some:
        raise ValueError(f"{len(keys)} keys are no multiple of the {some} of a gradient (meta.seeds)")
    parts = [
        [
            search.slopes(theta[None], row[None, None], shares[None], keys[begin : begin + some])[1][0]
            for begin in range(0, len(keys), some)
        ]
        for row in rows
    ]
    return np.concatenate([np.concatenate(each) for each in parts], axis=1)
