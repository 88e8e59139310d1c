"""The stage of derivatives through the dynamics: externalities, conflicts, the game between teams.

`sensitivities.npz` holds the Jacobian of every key and what follows from it. Derivatives are those of the expected mode at the
default levers; what teams gain by moving alone is measured on the sampled model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from mamba import members as mem
from mamba.interactions import externalities, game, jacobian
from mamba.interactions.findings import Finding, externality
from mamba.interactions.statistics import Estimate
from mamba.meta import constraints, estimators
from mamba.objectives import NAMES, OBJECTIVES, benefit_sign
from mamba.runs import analysis, folder, progress
from mamba.runs.config import config_digest
from mamba.runs.errors import UserError
from mamba.runs.job import Job
from mamba.runs.tracking import Tracker
from mamba.streams import stream

STAGE = "sensitivities"
FILE = "sensitivities.npz"
_INDIFFERENT = ("name", "chunk", *analysis.ALL_BUT_CONFIDENCE, "emergence", "log", "checkpoint")


def digest(job: Job) -> str:
    """Digest of what decides the results."""
    return config_digest(job.config, without=_INDIFFERENT)


def is_stale(job: Job, path: Path) -> bool:
    """Whether the folder holds results of another configuration.

    Raises:
        UserError: the file is damaged.
    """
    target = path / FILE
    return target.exists() and str(folder.read_arrays(target).get("digest", "")) != digest(job)


def check(job: Job) -> None:
    """Refuses own metrics that do not exist.

    Raises:
        UserError: one line that names the setting.
    """
    try:
        externalities.own_metrics(job.ecosystem, job.config.sensitivities.own)
    except ValueError as error:
        raise UserError(f"sensitivities.{error}") from error


def run(job: Job, path: Path, *, tracker: Tracker, stop: Callable[[], bool]) -> dict[str, np.ndarray] | None:
    """Results, from the folder where they are there; None after a stop.

    Raises:
        UserError: the file is damaged.
    """
    target = path / FILE
    if target.exists() and not is_stale(job, path):
        return folder.read_arrays(target)
    config, ecosystem = job.config.sensitivities, job.ecosystem
    interval = job.config.interactions.confidence
    own = externalities.own_metrics(ecosystem, config.own)
    owner = jacobian.lever_owner(ecosystem, job.inputs.levers)
    key = stream(job.key, STAGE)
    steps = job.config.steps
    progress.say(f"derivatives of {len(NAMES) + len(ecosystem.names)} outcomes with respect to {len(owner)} levers")
    found = _apart(jax.jit(jacobian.jacobian(ecosystem, steps=steps)), job, stream(key, "jacobian"), config.seeds, stop)
    if found is None:
        return None
    others = externalities.externalities(found, owner=owner, own=own, confidence=interval)
    wanted = np.asarray(found.full)[:, : len(NAMES)]
    conflict = externalities.conflict(wanted, sign=np.asarray(benefit_sign()), confidence=interval)
    arrays: dict[str, np.ndarray] = {
        "digest": np.array(digest(job)),
        "names": np.array(ecosystem.names),
        "objectives": np.array(NAMES),
        "levers": np.array(estimators.names(job.inputs.levers)),
        "owner": owner,
        "own_row": own.row,
        "own_sign": own.sign,
        "value": np.asarray(found.value),
        "jacobian": np.asarray(found.full),
        "jacobian_direct": np.asarray(found.direct),
        "mediated_share": jacobian.mediated_share(found),
        "own_t": others.t,
        "reasons": np.array(others.reasons),
        "conflict_mean": conflict.cosine,
        "conflict_low": conflict.low,
        "conflict_high": conflict.high,
    }
    for name in ("objective", "algorithm", "direct", "mediated"):
        estimate = getattr(others, name)
        arrays |= {f"externality_{name}_{part}": getattr(estimate, part) for part in ("mean", "low", "high", "p")}
    weights = game.loss_weights(own, np.asarray(found.value))
    players = game.players_of(owner, weights)
    if config.game_seeds and not stop() and np.any(players != game.NOBODY):
        arrays |= _game(job, players, weights, stream(key, "game"))
    if config.rounds and not stop() and np.any(players != game.NOBODY):
        arrays |= _coordination(job, players, weights, np.asarray(found.value), stream(key, "coordination"))
    if stop():
        return None
    folder.write_arrays(target, arrays)
    row = {
        f"externalities/{objective}/{name}": arrays["externality_objective_mean"][k, j]
        for k, objective in enumerate(NAMES)
        for j, name in enumerate(ecosystem.names)
        if np.isfinite(arrays["externality_objective_mean"][k, j])
    }
    row |= {f"game/{name}": float(arrays[name]) for name in ("rotation", "rotation_between") if name in arrays}
    tracker.log(0, row)
    return arrays


def _apart(
    run: Callable[..., jacobian.Jacobian], job: Job, key: jax.Array, seeds: int, stop: Callable[[], bool]
) -> jacobian.Jacobian | None:
    """The Jacobian of every key, one key at a time, so that a signal is heard between two."""
    each = []
    with progress.progress(seeds, "derivatives") as meter:
        for one in jax.random.split(key, seeds):
            each.append(jax.tree.map(np.asarray, run(job.inputs, one[None])))
            meter.advance()
            if stop():
                return None
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *each)


def _game(job: Job, players: np.ndarray, weights: np.ndarray, key: jax.Array) -> dict[str, np.ndarray]:
    """The game Hessian at the present levers."""
    run = jax.jit(jacobian.jacobian(job.ecosystem, steps=job.config.steps, direct=False))
    keys = jax.random.split(key, job.config.sensitivities.game_seeds)
    slopes = game.platform_slopes(run, job.inputs, keys=keys)
    progress.say(f"second derivatives: {2 * int(np.sum(players != game.NOBODY))} Jacobians of {len(keys)} rollouts")
    seen = game.view(slopes, np.asarray(estimators.flat(job.inputs.levers)), players=players, weights=weights)
    names = ("xi", "hessian", "rotation", "rotation_between", "rotation_error", "rotation_between_error", "coupling")
    return {name: np.asarray(getattr(seen, name)) for name in names} | {
        "game_levers": seen.levers,
        "rightmost": np.asarray([seen.rightmost.real, seen.rightmost.imag]),
        "displacement": np.asarray(seen.displacement),
        "at_equilibrium": np.asarray(seen.at_equilibrium),
    }


def _coordination(
    job: Job, players: np.ndarray, weights: np.ndarray, value: np.ndarray, key: jax.Array
) -> dict[str, np.ndarray]:
    """Best-response gaps and the price of non-coordination, measured on fresh seeds of the sampled model."""
    config, ecosystem = job.config.sensitivities, job.ecosystem
    goal = constraints.goal(job.config.meta.minimise, {})
    slopes = jax.jit(jacobian.gradient(ecosystem, steps=job.config.steps))
    descend = game.platform_gradient(slopes, job.inputs, key=stream(key, "descent"), keys=2)
    compiled = jax.jit(jacobian.evaluator(ecosystem, steps=job.config.steps))

    def outcomes(members: mem.Members) -> np.ndarray:
        return mem.in_chunks(compiled, job.inputs, members, chunk=job.config.chunk)

    fresh = jax.random.split(stream(key, "fresh"), job.config.evaluation.seeds)
    found = game.coordination(
        descend,
        game.platform_measure(outcomes, ecosystem, job.inputs, keys=fresh),
        np.asarray(estimators.flat(job.inputs.levers)),
        players=players,
        weights=weights,
        goal=game.goal_weights(goal, value),
        radius=config.radius,
        steps=config.steps,
        rounds=config.rounds,
        confidence=job.config.interactions.confidence,
    )
    parts = {
        f"{name}_{part}": getattr(getattr(found, name), part)
        for name in ("gap", "price", "alone", "together")
        for part in ("mean", "low", "high", "p")
    }
    levers = {"nash_levers": found.nash.levers, "nash_moved": np.asarray(found.nash.moved), "joint_levers": found.joint}
    return parts | levers


def findings(job: Job, arrays: dict[str, np.ndarray]) -> list[Finding]:
    """The strongest externality in a sentence; none where none is resolved."""
    sentence = externality(
        job.ecosystem.names,
        Estimate(*(arrays[f"externality_objective_{part}"] for part in ("mean", "mean", "low", "high", "p"))),
        own=[_own_label(job, int(row)) for row in arrays["own_row"]],
        own_row=arrays["own_row"].tolist(),
        false_discovery_rate=job.config.interactions.false_discovery_rate,
        confidence=job.config.interactions.confidence,
    )
    return [] if sentence is None else [sentence]


def _own_label(job: Job, row: int) -> str:
    return OBJECTIVES[NAMES[row]].label if row < len(NAMES) else "its own loss"
