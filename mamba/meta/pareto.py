"""A Pareto front of platforms: one lever vector for each way to weigh the objectives, trained together.

    U_w(h) = mu log sum_m exp(w_m (h_m - ideal_m) / mu),   h_m relative worsening of objective m

The smooth Chebyshev scalarisation reaches every part of a front, also where that is not convex. The corners, where one objective is all that
counts, are trained first: they show the ideal. The rest grows outwards from the most even weights, every point from the
levers of its neighbour, so that it needs few steps. What all points share is computed once: one compiled gradient,
mapped or vmapped over the points of a wave, the same keys, and one measurement of the baseline. Constraints hold for every point.

References:
    Das and Dennis 1998 (weights); Lin et al. 2024 (smooth Chebyshev scalarisation).
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
from mamba.meta import constraints, derivatives, estimators, evolution, optimise, scalarise, systems, vector
from mamba.meta.settings import MetaConfig
from mamba.objectives import NAMES, OBJECTIVES
from mamba.streams import stream
from mamba.types import Array

# (thetas [F, P], rows [F, R, J + A], keys [S]) -> (outcomes [F, S, J + A], slopes [F, S, R, P])
Slopes = Callable[[np.ndarray, np.ndarray, Array], tuple[np.ndarray, np.ndarray]]

_CORNER = 1e-9  # weights that differ from 1 by less are all on one objective


class Search(NamedTuple):
    """What the training of a front needs.

    Attributes:
        trainer: of a single point; its settings, constraints and baseline are those of all.
        slopes: gradients of many points at once.
        objectives: [m] indices of the objectives that are traded off.
        grid: weights [F, m] and which point starts from which.
        smoothing: mu of the scalarisation, in relative change.
    """

    trainer: optimise.Trainer
    slopes: Slopes
    objectives: np.ndarray
    grid: scalarise.Grid
    smoothing: float


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
        config: settings of every point's training; `minimise` does not count, `keep` does.
        objectives: names of m objectives, at least two.
        divisions: of the grid of weights: `divisions + 1` points for two objectives.
        smoothing: mu.
        steps: T.
        evaluate: outcomes [B, J + A] of members on the sampled model.
        key: typed key of the training seeds.
        layout: how the points of a wave are differentiated: one after the other, or side by side.

    Raises:
        ValueError: unknown objectives, too few of them, or some that are kept as well.
    """
    for name in objectives:
        if name not in OBJECTIVES:
            raise ValueError(f"objectives: no objective is called '{name}'. Known: {', '.join(NAMES)}")
        if name in config.keep:
            raise ValueError(
                f"objectives: '{name}' is kept (meta.keep), so it cannot be traded off; leave one of the two out"
            )
    if len(set(objectives)) < 2 or len(set(objectives)) < len(objectives):
        raise ValueError(f"objectives: a front trades off at least two different objectives, got {list(objectives)}")
    trainer = optimise.trainer(
        ecosystem, inputs, dataclasses.replace(config, spread={}), steps=steps, evaluate=evaluate, key=key
    )
    kernel = derivatives.reverse(systems.platform(ecosystem), steps=steps)
    shares = jnp.ones(len(systems.platform(ecosystem).blocks))

    def many(inputs: eco.Inputs, thetas: Array, rows: Array, keys: Array) -> tuple[Array, Array]:
        def one(theta: Array, row: Array) -> tuple[Array, Array]:
            return kernel(inputs, theta, row, shares, keys)

        return jax.vmap(one)(thetas, rows) if layout == "vmap" else jax.lax.map(lambda each: one(*each), (thetas, rows))

    run = jax.jit(many)

    def slopes(thetas: np.ndarray, rows: np.ndarray, keys: Array) -> tuple[np.ndarray, np.ndarray]:
        values, found = run(inputs, jnp.asarray(thetas, jnp.float32), jnp.asarray(rows, jnp.float32), keys)
        return np.asarray(values), np.asarray(found)

    index = np.array([NAMES.index(name) for name in objectives])
    return Search(trainer, slopes, index, scalarise.das_dennis(len(index), divisions), smoothing)


def waves(grid: scalarise.Grid) -> list[np.ndarray]:
    """The points [F] in the order of training: the corners, then outwards from the most even weights."""
    corner = grid.weights.max(axis=1) > 1.0 - _CORNER
    rest = [np.flatnonzero(~corner & (grid.wave == depth)) for depth in range(int(grid.wave.max()) + 1)]
    return [np.flatnonzero(corner), *(points for points in rest if len(points))]


def starts(search: Search, points: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Levers that points start from, [W, P]: those of their neighbours where these are known, else the baseline's.

    Args:
        search: see `Search`.
        points: [W] of a wave.
        known: [F, P] levers that are trained, NaN where they are not.
    """
    default = np.asarray(vector.flat(search.trainer.baseline), np.float64)
    parents = search.grid.parent[points]
    before = np.where(parents[:, None] >= 0, known[np.maximum(parents, 0)], np.nan)
    return np.where(np.isnan(before), default, before)


def ideal(search: Search, values: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """The best of each objective among some points, [m] relative worsening: what the scalarisation measures distance from.

    Args:
        search: see `Search`.
        values: [F, J] of the corners.
        baseline: [J].
    """
    return constraints.harms(values, baseline, search.objectives).min(axis=0)


def train(
    search: Search,
    thetas: np.ndarray,
    weights: np.ndarray,
    *,
    ideal: np.ndarray,
    steps: int,
    key: Array,
    told: Callable[[int, np.ndarray], None] = lambda index, utilities: None,
) -> np.ndarray:
    """Trains the points of a wave together.

    Args:
        search: see `Search`.
        thetas: [W, P] levers to start from.
        weights: [W, m].
        ideal: [m], see `ideal`.
        steps: meta-steps.
        key: typed key of the wave.
        told: called after every meta-step with its number and the utilities [W].

    Returns:
        [W, P] levers.
    """
    config = dataclasses.replace(search.trainer.config, steps=steps)
    base = search.trainer._replace(config=config, transform=optimise.transform(config), key=key)
    ready: dict[int, estimators.Gradient] = {}
    each, states = [], []
    for w, theta in enumerate(thetas):
        trainer = base._replace(estimator=_estimator(base, ready, w), scalar=_scalar(search, weights[w], ideal))
        state = optimise.start(trainer)
        point = jnp.asarray(theta, jnp.float32)
        each.append(trainer)
        states.append(state._replace(levers=point, optimiser=trainer.transform.init(point)))
    for index in range(steps):
        seed = jax.random.fold_in(key, index)
        values, baseline = _measured(base, states, seed)
        aims = [
            optimise.aimed(*both, value, baseline)
            for both, value in zip(zip(each, states, strict=True), values, strict=True)
        ]
        keys = jax.random.split(stream(seed, "pathwise"), config.seeds)
        present = np.stack([np.asarray(state.levers) for state in states])
        outcomes, slopes = search.slopes(present, np.stack([aim.rows for aim in aims]), keys)
        ready.update(enumerate(map(estimators.averaged, outcomes, slopes)))
        utilities = []
        for w, (trainer, state, aim) in enumerate(zip(each, states, aims, strict=True)):
            found, inner = trainer.estimator.estimate(
                stream(seed, "gradient"), np.asarray(state.levers), state.estimator, aim.rows
            )
            states[w], report = optimise.moved(trainer, state, aim, found, inner)
            utilities.append(report.utility)
        told(index, np.array(utilities))
    return np.stack([np.asarray(state.levers, np.float64) for state in states])


def _estimator(trainer: optimise.Trainer, ready: dict[int, estimators.Gradient], w: int) -> estimators.Estimator:
    """The estimator of one point: its part of a gradient that was computed for all, audited where the settings say so."""

    def take(key: Array, theta: np.ndarray, state: Any, rows: Any = None, worlds: Any = None):
        del key, theta, rows, worlds
        return ready[w], state

    path, config = estimators.Estimator(lambda theta: (), take), trainer.config
    if config.audit_every == 0:
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


def _scalar(search: Search, weights: np.ndarray, ideal: np.ndarray) -> optimise.Scalar:
    def of(values: np.ndarray, baseline: np.ndarray) -> tuple[float, np.ndarray]:
        harms = constraints.harms(values, baseline, search.objectives)
        if weights.max() > 1.0 - _CORNER:  # nothing to balance, and no ideal is known yet
            value, slope = scalarise.linear(harms, weights)
        else:
            value, slope = scalarise.chebyshev(harms, weights, ideal=ideal, smoothing=search.smoothing)
        return float(value), constraints.of_harms(slope, baseline, search.objectives)

    return of


def _measured(
    trainer: optimise.Trainer, states: Sequence[optimise.TrainingState], key: Array
) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes of all points [W, J + A] and of the baseline [J + A], all on the same keys."""
    keys = jax.random.split(stream(key, "constraints"), trainer.config.constraint_seeds)
    platforms = [*(optimise.levers_of(trainer, state) for state in states), trainer.baseline]
    table = measured(trainer, platforms, keys).mean(axis=1)
    return table[:-1], table[-1]


def measured(trainer: optimise.Trainer, platforms: Sequence[Any], keys: Array) -> np.ndarray:
    """Outcomes [N, S, J + A] of N platforms on the sampled model, on the same keys [S]."""
    gates = {"gates": trainer.inputs.gates, "learning": trainer.inputs.learning}
    members = mem.join(*(mem.repeat(trainer.ecosystem, levers, keys, **gates) for levers in platforms))
    return np.asarray(trainer.evaluate(members), np.float64).reshape(len(platforms), len(keys), -1)
