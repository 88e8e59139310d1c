"""The stage of derivatives through the dynamics: externalities, conflicts, the game between teams.

`sensitivities.npz` holds the Jacobian of every key and what follows from it. Derivatives are those of the expected mode at the
default levers; an audit measures the same externalities on the sampled model by finite differences, and what teams gain by moving
alone is measured there, too. Everything starts after the warm-up of the interaction analysis, so that one report speaks of one
state.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np

from mamba import members as mem
from mamba.interactions import externalities, game, jacobian
from mamba.interactions.findings import Finding, externality
from mamba.interactions.statistics import Estimate
from mamba.meta import constraints, evolution, players, vector
from mamba.objectives import NAMES, OBJECTIVES, benefit_sign
from mamba.runs import analysis, folder, progress, results, stops
from mamba.runs.errors import UserError
from mamba.runs.job import Fitted, Job
from mamba.runs.tracking import Tracker
from mamba.streams import stream

STAGE = "sensitivities"
FILE = "sensitivities.npz"
# Of the interaction analysis it shares the confidence and the warm-up.
_RESULTS = results.of_stage(
    FILE,
    reads={STAGE: results.ALL, analysis.STAGE: ("confidence", "warm_up")},
    indifferent=("evaluation.transfer",),
)
digest = functools.partial(results.digest, _RESULTS)
is_stale = functools.partial(results.is_stale, _RESULTS)
_AUDIT_PAIRS = 16  # antithetic pairs of a key
_AUDIT_SIGMA = 0.3  # unconstrained units
_FEWEST = 4  # keys below which an own effect of pure noise passes its test too often
_ESTIMATE = ("mean", "error", "low", "high", "p")


def check(job: Job) -> None:
    """Refuses own metrics that do not exist, and too few rollouts.

    Raises:
        UserError: one line that names the setting.
    """
    config = job.config.sensitivities
    for name, seeds in (("seeds", config.seeds), ("audit_seeds", config.audit_seeds)):
        if 0 < seeds < _FEWEST:
            raise UserError(
                f"sensitivities.{name}: {seeds} rollouts do not tell an effect from noise; give 0, or at least {_FEWEST}"
            )
    try:
        players.own_metrics(job.ecosystem, config.own)
    except ValueError as error:
        raise UserError(f"sensitivities.{error}") from error


def run(job: Job, path: Path, *, tracker: Tracker, stop: Callable[[], bool]) -> dict[str, np.ndarray] | None:
    """Results, from the folder where they are there; None where a stop left something out.

    Raises:
        UserError: the file is damaged.
    """
    known = results.kept(_RESULTS, job, path)
    if known is not None:
        return known
    try:
        arrays = _measured(job, stop)
    except stops.Stopped:
        return None
    folder.write_arrays(path / FILE, arrays)
    told = f"{source(arrays)}_objective_mean"
    row = {
        f"externalities/{objective}/{name}": arrays[told][k, j]
        for k, objective in enumerate(NAMES)
        for j, name in enumerate(job.ecosystem.names)
        if np.isfinite(arrays[told][k, j])
    }
    row |= {f"game/{name}": float(arrays[name]) for name in ("rotation", "rotation_between") if name in arrays}
    tracker.log(0, row)
    return arrays


def source(arrays: Mapping[str, np.ndarray]) -> str:
    """Which externalities are reported: those of the `audited` sampled model, else the pathwise ones (`externality`)."""
    return "audited" if "audited_objective_mean" in arrays else "externality"


def _measured(job: Job, stop: Callable[[], bool]) -> dict[str, np.ndarray]:
    """Every part that was asked for.

    Raises:
        Stopped: a signal arrived while one was still to be done.
    """
    config, ecosystem = job.config.sensitivities, job.ecosystem
    interval = job.config.interactions.confidence
    own = players.own_metrics(ecosystem, config.own)
    owner = vector.owner(ecosystem, job.inputs.levers)
    key = stream(job.key, STAGE)
    progress.say(f"derivatives of {len(NAMES) + len(ecosystem.names)} outcomes with respect to {len(owner)} levers")
    derive = jax.jit(jacobian.jacobian(ecosystem, steps=job.config.steps, warm_up=_warm_up(job)))
    found = _apart(derive, job, stream(key, "jacobian"), config.seeds, stop)
    others = externalities.externalities(found, owner=owner, own=own, confidence=interval)
    wanted = np.asarray(found.full)[:, : len(NAMES)]
    conflict = externalities.conflict(wanted, sign=np.asarray(benefit_sign()), confidence=interval)
    arrays: dict[str, np.ndarray] = {
        "digest": np.array(digest(job)),
        "names": np.array(ecosystem.names),
        "objectives": np.array(NAMES),
        "levers": np.array(vector.names(job.inputs.levers)),
        "owner": owner,
        "own_row": own.row,
        "own_sign": own.sign,
        "warm_up": np.array(_warm_up(job)),
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
        arrays |= _parts(f"externality_{name}", getattr(others, name))
    outcomes = _sampled(job, stop)
    if config.audit_seeds:
        stops.heed(stop)
        audited = _audited(job, outcomes, stream(key, "audit"))
        others = externalities.externalities(audited, owner=owner, own=own, confidence=interval)
        arrays |= {
            "audited_jacobian": np.asarray(audited.full),
            "audited_t": others.t,
            "audited_reasons": np.array(others.reasons),
            **_parts("audited_objective", others.objective),
            **_parts("audited_algorithm", others.algorithm),
        }
    weights = players.loss_weights(own, np.asarray(found.value))
    turner = players.players_of(owner, weights)
    plays = bool(np.any(turner != vector.NOBODY))
    if config.game_seeds and plays:
        stops.heed(stop)
        arrays |= _game(job, turner, weights, stream(key, "game"), stop)
    if config.rounds and plays:
        stops.heed(stop)
        arrays |= _coordination(
            job,
            outcomes,
            players=turner,
            weights=weights,
            value=np.asarray(found.value),
            key=stream(key, "coordination"),
            stop=stop,
        )
    return arrays


def _warm_up(job: Job) -> int:
    return job.config.interactions.warm_up


def _parts(name: str, estimate: Estimate) -> dict[str, np.ndarray]:
    return {f"{name}_{part}": getattr(estimate, part) for part in _ESTIMATE}


def _apart(
    run: Callable[..., jacobian.Jacobian], job: Job, key: jax.Array, seeds: int, stop: Callable[[], bool]
) -> jacobian.Jacobian:
    """The Jacobian of every key, one key at a time, so that a signal is heard between two."""
    each = []
    with progress.progress(seeds, "derivatives") as meter:
        for one in jax.random.split(key, seeds):
            stops.heed(stop)
            each.append(jax.tree.map(np.asarray, run(job.inputs, one[None])))
            meter.advance()
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *each)


def _sampled(job: Job, stop: Callable[[], bool]) -> Callable[[mem.Members, str], np.ndarray]:
    """Outcomes [B, J + A] of members on the sampled model; one program serves audit and coordination."""
    evaluate = jacobian.evaluator(job.ecosystem, steps=job.config.steps, layout=mem.layout(), warm_up=_warm_up(job))
    run = Fitted(evaluate, job.inputs, chunk=job.config.chunk)

    def outcomes(members: mem.Members, label: str) -> np.ndarray:
        total = len(members.keys)
        with progress.progress(total, label) as meter:
            return run(members, stops.counted(meter, stop, total=total))

    return outcomes


def _audited(job: Job, outcomes: Callable[[mem.Members, str], np.ndarray], key: jax.Array) -> jacobian.Jacobian:
    """The Jacobian of the sampled model by antithetic finite differences around the default levers."""
    seeds = job.config.sensitivities.audit_seeds
    members = evolution.perturbed(job.inputs, jax.random.split(key, seeds), pairs=_AUDIT_PAIRS, sigma=_AUDIT_SIGMA)
    values = outcomes(members, f"audit on the sampled model: {len(members.keys):,} rollouts")
    count = int(vector.flat(job.inputs.levers).size)
    return jacobian.audited(values, n_levers=count, n_keys=seeds, pairs=_AUDIT_PAIRS, sigma=_AUDIT_SIGMA)


def _game(
    job: Job, players: np.ndarray, weights: np.ndarray, key: jax.Array, stop: Callable[[], bool]
) -> dict[str, np.ndarray]:
    """The game Hessian at the present levers."""
    run = jax.jit(jacobian.jacobian(job.ecosystem, steps=job.config.steps, warm_up=_warm_up(job), direct=False))
    keys = jax.random.split(key, job.config.sensitivities.game_seeds)
    slopes = game.platform_slopes(run, job.inputs, keys=keys)

    def heeding(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        stops.heed(stop)
        return slopes(theta)

    progress.say(f"second derivatives: {2 * int(np.sum(players != vector.NOBODY))} Jacobians of {len(keys)} rollouts")
    seen = game.view(heeding, np.asarray(vector.flat(job.inputs.levers)), players=players, weights=weights)
    names = ("xi", "hessian", "rotation", "rotation_between", "rotation_error", "rotation_between_error", "coupling")
    return {name: np.asarray(getattr(seen, name)) for name in names} | {
        "game_levers": seen.levers,
        "rightmost": np.asarray([seen.rightmost.real, seen.rightmost.imag]),
        "displacement": np.asarray(seen.displacement),
        "at_equilibrium": np.asarray(seen.at_equilibrium),
    }


def _coordination(
    job: Job,
    outcomes: Callable[[mem.Members, str], np.ndarray],
    *,
    players: np.ndarray,
    weights: np.ndarray,
    value: np.ndarray,
    key: jax.Array,
    stop: Callable[[], bool],
) -> dict[str, np.ndarray]:
    """Best-response gaps and the price of non-coordination, measured on fresh seeds of the sampled model.

    The price is of the goal without its constraints, which are no weighted sum.
    """
    config, ecosystem = job.config.sensitivities, job.ecosystem
    goal = constraints.goal(job.config.meta.minimise, {})
    slopes = jax.jit(jacobian.gradient(ecosystem, steps=job.config.steps, warm_up=_warm_up(job)))
    descend = game.platform_gradient(slopes, job.inputs, key=stream(key, "descent"), keys=2)

    def heeding(theta: np.ndarray, wanted: np.ndarray, index: int) -> np.ndarray:
        stops.heed(stop)
        return descend(theta, wanted, index)

    def measured(members: mem.Members) -> np.ndarray:
        stops.heed(stop)
        return outcomes(members, f"what teams gain: {len(members.keys):,} rollouts")

    progress.say("best responses of the teams, and the joint search")
    fresh = jax.random.split(stream(key, "fresh"), job.config.evaluation.seeds)
    found = game.coordination(
        heeding,
        game.platform_measure(measured, ecosystem, job.inputs, keys=fresh),
        np.asarray(vector.flat(job.inputs.levers)),
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
    """The strongest externality in a sentence, on the sampled model where that was audited; none where none is resolved."""
    told = source(arrays)
    audited = told == "audited"
    config = job.config.sensitivities
    sentence = externality(
        job.ecosystem.names,
        Estimate(*(arrays[f"{told}_objective_{part}"] for part in _ESTIMATE)),
        own=[_own_label(job, int(row)) for row in arrays["own_row"]],
        own_row=arrays["own_row"].tolist(),
        seeds=config.audit_seeds if audited else config.seeds,
        source="sampled model, default levers" if audited else "derivative of the expected mode, default levers",
        false_discovery_rate=job.config.interactions.false_discovery_rate,
        confidence=job.config.interactions.confidence,
    )
    return [] if sentence is None else [sentence]


def _own_label(job: Job, row: int) -> str:
    return OBJECTIVES[NAMES[row]].label if row < len(NAMES) else "its own loss"
