"""Simulation: rollouts of the sampled model with the levers as they are configured, by parts of the rollout.

Members are rollouts of one compiled program, so a sweep runs many configurations at once and `mamba-eco simulate` a single
one; both make the same members, and a member of a sweep gives the numbers that its own command gives.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mamba import ecosystem as eco
from mamba import members as mem
from mamba.meta import systems
from mamba.objectives import NAMES
from mamba.runs import distributed, folder, progress, results, stops
from mamba.runs.config import RunConfig
from mamba.runs.job import Fitted, Job
from mamba.streams import stream
from mamba.world.parameters import as_arrays

STAGE = "simulation"
FILE = "simulation.npz"
PART_FILE = "simulation.part.npz"  # the rollouts that are done, until all are
WHOLE, PART = "simulation", "ecosystem"  # before the names of objectives: of the whole rollout, of a part of it


def windows(config: RunConfig) -> int:
    """Parts of a rollout."""
    return min(config.simulation.windows, config.steps)


def hours(config: RunConfig) -> np.ndarray:
    """The step [W] with which each part ends."""
    return config.steps * np.arange(1, windows(config) + 1) // windows(config)


def evaluator(ecosystem: eco.Ecosystem, inputs: eco.Inputs, config: RunConfig, *, chunk: int, **more: Any) -> Fitted:
    """Outcomes [B, 1 + W, J + A] of members on the sampled model, the whole rollout first.

    Args:
        ecosystem: static description.
        inputs: populations with a leading axis, in which members are at home; parameters.
        config: steps and windows.
        chunk: most members sent at a time.
        **more: see `mamba.runs.job.Fitted`.
    """
    measured = functools.partial(systems.outcomes, ecosystem)
    parts = windows(config)
    evaluate = mem.evaluator(ecosystem, steps=config.steps, layout=mem.layout(), windows=parts, of=measured)
    return Fitted(evaluate, inputs, chunk=chunk, **more)


def members(ecosystem: eco.Ecosystem, config: RunConfig, *, home: int = 0) -> mem.Members:
    """The S rollouts of one configuration, one for each seed.

    Args:
        ecosystem: its own, with its default levers.
        config: seed and world parameters.
        home: which population of the evaluator's inputs is that of this configuration.
    """
    seeds = config.simulation.seeds
    keys = jax.random.split(stream(jax.random.key(config.seed), STAGE), seeds)
    world = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (seeds,)), as_arrays(config.parameters))
    return mem.repeat(
        ecosystem, eco.default_levers(ecosystem), keys, parameters=world, home=jnp.full(seeds, home, jnp.int32)
    )


def at_home(inputs: eco.Inputs) -> eco.Inputs:
    """Inputs whose one population has the leading axis of the populations that members are at home in."""
    return replace(inputs, population=jax.tree.map(lambda leaf: leaf[None], inputs.population))


# ---------------------------------------------------------------------------------------------------------------------
# The stage of a run


_RESULTS = results.of_stage(FILE, reads={STAGE: results.ALL}, indifferent=("meta", "evaluation"))
_PART = results.of_stage(PART_FILE, reads={STAGE: results.ALL}, indifferent=("meta", "evaluation"))
is_stale = functools.partial(results.is_stale, _RESULTS)


def kept(config: RunConfig, values: np.ndarray) -> dict[str, np.ndarray]:
    """What `simulation.npz` holds of the objectives [S, 1 + W, J] of a configuration."""
    digest = np.array(results.digest_of(_RESULTS, config))
    return {"values": values, "hours": hours(config), "objectives": np.array(NAMES), "digest": digest}


def check(job: Job) -> None:
    """Nothing can be wrong that reading the configuration has not found."""
    del job


def run(job: Job, path: Path, *, stop: Callable[[], bool]) -> dict[str, np.ndarray]:
    """Simulates, or reads what was simulated before; what a stopped process has simulated is kept, chunk by chunk.

    Returns:
        `values` [S, 1 + W, J] and `hours` [W], as `simulation.npz` holds them.

    Raises:
        Stopped: a signal arrived.
    """

    def measure() -> dict[str, np.ndarray]:
        evaluate = evaluator(job.ecosystem, at_home(job.inputs), job.config, chunk=job.config.chunk)
        everyone, total = members(job.ecosystem, job.config), job.config.simulation.seeds
        done = results.kept(_PART, job, path)
        values = [] if done is None else list(done["values"])
        size = distributed.of_all(evaluate.compiled(distributed.mine(everyone)).chunk)
        with progress.progress(total, f"simulation: {total} rollouts", done=len(values)) as meter:
            while (begin := len(values)) < total:
                stops.heed(stop)
                some = jax.tree.map(lambda leaf, at=begin: leaf[at : at + size], everyone)
                values += list(np.asarray(evaluate(some), np.float64)[..., : len(NAMES)])
                if len(values) < total:
                    folder.write_arrays(path / PART_FILE, kept(job.config, np.stack(values)))
                meter.advance(len(values) - begin)
        return kept(job.config, np.stack(values))

    arrays = results.completed(_RESULTS, job, path, measure=measure, extend=lambda known: known)[0]
    (path / PART_FILE).unlink(missing_ok=True)
    return arrays


def rows(arrays: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """What is logged: a row for each part of the rollout with its objectives, then one with those of the whole."""
    means = np.asarray(arrays["values"], np.float64).mean(axis=0)
    parts = [
        {"hour": int(hour), **{f"{PART}/{name}": float(means[1 + w, k]) for k, name in enumerate(NAMES)}}
        for w, hour in enumerate(arrays["hours"])
    ]
    whole = {f"{WHOLE}/{name}": float(means[0, k]) for k, name in enumerate(NAMES)}
    parts[-1] |= whole
    return parts
