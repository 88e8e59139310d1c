"""The training stage: meta-steps with checkpoints, a row of `metrics.jsonl` for each, and levers in words."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mamba import passing, placement, policies
from mamba.meta import growth, optimise, players, vector
from mamba.objectives import NAMES
from mamba.runs import checkpoint, folder, progress, stops
from mamba.runs.config import RunConfig, to_mapping
from mamba.runs.errors import UserError
from mamba.runs.job import Job
from mamba.runs.memory import out_of_memory
from mamba.runs.tracking import Tracker
from mamba.streams import stream
from mamba.types import Levers

STAGE = "training"


def trainer_of(
    job: Job, *, kernels: optimise.Kernels | None = None, stop: Callable[[], bool] | None = None
) -> optimise.Trainer:
    """The trainer that a configuration asks for.

    Args:
        job: the configuration, ready to run.
        kernels: derivatives that it shares with others.
        stop: whether a signal asks to stop; then evaluations are left between two chunks, with `Stopped`.

    Raises:
        UserError: settings that contradict each other.
    """
    try:
        return optimise.trainer(
            job.ecosystem,
            job.inputs,
            job.config.meta,
            steps=job.config.steps,
            evaluate=job.evaluate if stop is None else stops.between_chunks(job.evaluate, stop),
            key=stream(job.key, STAGE),
            own=players.own_metrics(job.ecosystem, job.config.sensitivities.own),
            kernels=kernels,
        )
    except ValueError as error:
        raise UserError(f"meta.{error}") from error


def begun(job: Job, trainer: optimise.Trainer) -> optimise.TrainingState:
    """The state before the first meta-step; lives that an estimator follows are split where users are, and after a resume, too."""
    state = optimise.start(trainer)
    if not placement.users_are_split():
        return state
    users = job.ecosystem.sizes.users
    return jax.tree.map(lambda leaf: placement.placed(leaf, users) if users in np.shape(leaf) else leaf, state)


def save(config: RunConfig, state: optimise.TrainingState, path: Path) -> None:
    """Saves the state of a training among the checkpoints of its run folder, under the meta-step that comes next."""
    checkpoint.save(
        path / folder.CHECKPOINTS,
        int(state.step),
        state,
        {"name": config.name, "config": to_mapping(config)},
        keep=config.checkpoint.keep,
        run_id=folder.run_id(path),
    )


def train(
    job: Job,
    trainer: optimise.Trainer,
    state: optimise.TrainingState,
    *,
    path: Path,
    metrics: folder.MetricsLog,
    tracker: Tracker,
    stop: Callable[[], bool],
    visit: Callable[[optimise.TrainingState], None] = lambda state: None,
) -> optimise.TrainingState:
    """Meta-steps until all are done or a signal asks to stop; every state that is left behind is saved.

    A meta-step that a signal ends between two chunks of its evaluations is lost; the state before it is saved.

    Args:
        job: the job.
        trainer: from `trainer_of`.
        state: where to go on.
        path: run folder.
        metrics: the open `metrics.jsonl`.
        tracker: where to log.
        stop: whether a signal asks to stop.
        visit: called with the state before every meta-step; may raise `Stopped`.
    """
    config = job.config
    total, begun = config.meta.steps, int(state.step)
    if begun >= total:
        return state
    open_blocks = _passing(job, shares_of(state))
    with progress.progress(total, "training", done=begun) as meter:
        while int(state.step) < total:
            index = int(state.step)
            passed = open_blocks
            try:
                stops.heed(stop)
                visit(state)
            except stops.Stopped:
                return _left(config, state, path, begun)
            try:
                clock = time.perf_counter()
                state, told = optimise.step(trainer, state)
            except stops.Stopped:
                return _left(config, state, path, begun)
            except ValueError as error:
                raise UserError(f"meta: {error}") from error
            except jax.errors.JaxRuntimeError as error:
                if not out_of_memory(error):
                    raise
                raise UserError(_too_large(job, index)) from error
            if told.told["skipped"]:
                progress.say(f"meta-step {index}: the gradient is not finite, so no lever moves in this step")
            open_blocks = _open_blocks(job, told, passed)
            if passed and passed != open_blocks:
                closed = [name for name in passed if name not in open_blocks]
                progress.say(
                    f"meta-step {index}: derivatives explode through {', '.join(closed)} (amplified more than "
                    f"{growth.EXPLODES:g}-fold), so none passes there from now on; the audits tell what is lost"
                )
            logged = row(job, state, told)
            metrics.append({"stage": STAGE, "meta_step": index, **folder.plain(logged)})
            tracker.log(index, {**logged, "perf/seconds_per_meta_step": time.perf_counter() - clock})
            if index + 1 == total or (index + 1) % config.checkpoint.every == 0:
                save(config, state, path)
            meter.advance(1, utility=told.utility)
    return state


def _left(config: RunConfig, state: optimise.TrainingState, path: Path, begun: int) -> optimise.TrainingState:
    """The state that a signal leaves, saved where it was not."""
    index = int(state.step)
    if index > begun and index % config.checkpoint.every:
        save(config, state, path)
    return state


def _too_large(job: Job, index: int) -> str:
    """What to say of a gradient for which memory does not do; evaluations say so themselves."""
    seeds, users = job.config.meta.seeds, job.ecosystem.sizes.users
    fewer = f"--meta.seeds={seeds // 2}, " if seeds > 1 else ""
    return (
        f"meta: out of memory in meta-step {index}: a gradient through {seeds} rollouts of {job.config.steps} steps with "
        f"{users} users does not fit; try {fewer}fewer scenario.users, or --meta.estimator=es"
    )


def shares_of(state: optimise.TrainingState) -> np.ndarray | None:
    """Shares [B] of derivatives that pass at the end of training; None where the estimator watches none."""
    for held in (state.estimator, getattr(state.estimator, "path", None)):
        if isinstance(held, growth.Guarded):
            return np.asarray(held.shares)
    return None


def _passing(job: Job, shares: np.ndarray | None) -> list[str]:
    names = passing.blocks(job.ecosystem)
    return list(names) if shares is None else [name for name, share in zip(names, shares, strict=True) if share > 0]


def _open_blocks(job: Job, told: optimise.Report, before: list[str]) -> list[str]:
    """Blocks that derivatives pass; those before where the estimator does not say."""
    if "passing" not in told.told:
        return before
    return _passing(job, told.told["passing"])


def row(job: Job, state: optimise.TrainingState, told: optimise.Report) -> dict[str, Any]:
    """What is logged of a meta-step: the state after it, and what it had to say."""
    labels = vector.names(job.inputs.levers)
    found: dict[str, Any] = {
        "meta/utility": told.utility,
        "meta/audited": int(told.told.get("fresh", 0)),
        "meta/skipped": told.told["skipped"],
        "meta/cosine": told.told.get("cosine", math.nan),
    }
    nothing = np.full(len(labels), math.nan)
    pathwise, sampled, error, weight = (
        told.told.get(name, nothing) for name in ("pathwise", "audited", "audited_error", "weight")
    )
    for b, block in enumerate(passing.blocks(job.ecosystem)):
        if "growth" in told.told:
            found[f"growth/{block}"] = told.told["growth"][b]
            found[f"passing/{block}"] = told.told["passing"][b]
    for k, name in enumerate(NAMES):
        found[f"ecosystem/{name}"] = told.values[k]
        found[f"baseline/{name}"] = told.baseline[k]
    for c, name in enumerate(job.config.meta.keep):
        found[f"constraint/{name}"] = told.violation[c]
        found[f"multiplier/{name}"] = float(state.multipliers[c])
    values = np.asarray(state.levers)
    meaningful = meaningful_levers(job, vector.unflat(job.inputs.levers)(state.levers))
    for p, label in enumerate(labels):
        found[f"levers/{label}"] = meaningful[label]
        found[f"levers_unconstrained/{label}"] = values[p]
        found[f"gradient/{label}"] = told.gradient[p]
        found[f"gradient_error/{label}"] = told.error[p]
        found[f"audit/{label}/pathwise"] = pathwise[p]
        found[f"audit/{label}/sampled"] = sampled[p]
        found[f"audit/{label}/error"] = error[p]
        found[f"audit/{label}/weight"] = weight[p]
    return found


def meaningful_levers(job: Job, levers: Levers) -> dict[str, float]:
    """Levers in their meaningful range, by the names of `vector.names`; the weights of a policy as they are."""
    result = {}
    for name, algorithm in zip(job.ecosystem.names, job.ecosystem.algorithms, strict=True):
        for lever, value in levers[name].items():
            entries = np.asarray(algorithm.bounds[lever].forward(value)).ravel()
            result |= zip(_entries(f"{name}/{lever}", entries.size), map(float, entries), strict=True)
    for layer, value in levers.get(policies.NAME, {}).items():
        entries = np.asarray(value).ravel()
        result |= zip(_entries(f"{policies.NAME}/{layer}", entries.size), map(float, entries), strict=True)
    return result


def lever_units(job: Job) -> dict[str, str]:
    """Units of the levers, by the names of `meaningful_levers`."""
    units = {
        entry: algorithm.bounds[lever].unit
        for name, algorithm in zip(job.ecosystem.names, job.ecosystem.algorithms, strict=True)
        for lever, value in algorithm.levers.items()
        for entry in _entries(f"{name}/{lever}", np.size(value))
    }
    network = job.inputs.levers.get(policies.NAME, {})
    return units | dict.fromkeys(vector.names({policies.NAME: network}), "network weight")


def _entries(name: str, size: int) -> list[str]:
    """Names of the entries of a lever, as `vector.names` gives them."""
    return [name] if size == 1 else [f"{name}/{i}" for i in range(size)]
