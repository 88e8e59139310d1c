"""Simulation: rollouts of the sampled model with the levers as they are configured, by parts of the rollout.

Members are rollouts of one compiled program, so a sweep runs many configurations at once and `mamba-eco simulate` a single
one; both make the same members, and a member of a sweep gives the numbers that its own command gives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mamba import ecosystem as eco
from mamba import members as mem
from mamba.objectives import NAMES, NETWORK, evaluate, traits
from mamba.runs import distributed, folder, progress, results, stops
from mamba.runs.config import RunConfig
from mamba.runs.job import Fitted, Job
from mamba.streams import stream
from mamba.types import Array, Metrics
from mamba.world.parameters import as_arrays

STAGE = "simulation"
FILE = "simulation.npz"
PART_FILE = "simulation.part.npz"  # the rollouts that are done, until all are
# Names begin with these: what is of the whole rollout, of a part of it, of its network.
WHOLE, PART, NET = "simulation", "ecosystem", "network"
TRAITS = {f"{NET}/{name}": trait for name, trait in NETWORK.items()}
COLUMNS = (*NAMES, *TRAITS)  # what is measured


def windows(config: RunConfig) -> int:
    """Parts of a rollout."""
    return min(config.simulation.windows, config.steps)


def hours(config: RunConfig) -> np.ndarray:
    """The step [W] with which each part ends."""
    return config.steps * np.arange(1, windows(config) + 1) // windows(config)


def evaluator(ecosystem: eco.Ecosystem, inputs: eco.Inputs, config: RunConfig, *, chunk: int, **more: Any) -> Fitted:
    """What is measured of members on the sampled model, [B, 1 + W, C] in the order of `COLUMNS`, the whole rollout first.

    Args:
        ecosystem: static description.
        inputs: populations with a leading axis, in which members are at home; parameters.
        config: steps and windows.
        chunk: most members sent at a time.
        **more: see `mamba.runs.job.Fitted`.
    """

    def measured(metrics: Metrics) -> Array:
        return jnp.concatenate([of(metrics, ecosystem.sizes.users) for of in (evaluate, traits)])

    run = mem.evaluator(ecosystem, steps=config.steps, layout=mem.layout(), windows=windows(config), of=measured)
    return Fitted(run, inputs, chunk=chunk, **more)


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


def is_stale(job: Job, path: Path) -> bool:
    """Whether a run folder holds a simulation of another configuration, or of other columns."""
    return (path / FILE).exists() and _known(_RESULTS, job, path) is None


def _known(of: results.Results, job: Job, path: Path) -> dict[str, np.ndarray] | None:
    """What there is of this configuration and these columns."""
    arrays = results.kept(of, job, path)
    mine = arrays is not None and arrays.get("columns", np.array([])).tolist() == list(COLUMNS)
    return arrays if mine else None


def kept(config: RunConfig, values: np.ndarray) -> dict[str, np.ndarray]:
    """What `simulation.npz` holds of the values [S, 1 + W, C] of a configuration."""
    digest = np.array(results.digest_of(_RESULTS, config))
    return {"values": values, "hours": hours(config), "columns": np.array(COLUMNS), "digest": digest}


def check(job: Job) -> None:
    """Nothing can be wrong that reading the configuration has not found."""
    del job


def run(job: Job, path: Path, *, stop: Callable[[], bool]) -> dict[str, np.ndarray]:
    """Simulates, or reads what was simulated before; what a stopped process has simulated is kept, chunk by chunk.

    Returns:
        `values` [S, 1 + W, C] and `hours` [W], as `simulation.npz` holds them.

    Raises:
        Stopped: a signal arrived.
    """

    def measure() -> dict[str, np.ndarray]:
        simulate = evaluator(job.ecosystem, at_home(job.inputs), job.config, chunk=job.config.chunk)
        everyone, total = members(job.ecosystem, job.config), job.config.simulation.seeds
        done = _known(_PART, job, path)
        values = [] if done is None else list(done["values"])
        size = distributed.of_all(simulate.compiled(distributed.mine(everyone)).chunk)
        with progress.progress(total, f"simulation: {total} rollouts", done=len(values)) as meter:
            while (begin := len(values)) < total:
                stops.heed(stop)
                some = jax.tree.map(lambda leaf, at=begin: leaf[at : at + size], everyone)
                values += list(np.asarray(simulate(some), np.float64))
                if len(values) < total:
                    folder.write_arrays(path / PART_FILE, kept(job.config, np.stack(values)))
                meter.advance(len(values) - begin)
        return kept(job.config, np.stack(values))

    arrays = results.completed(_RESULTS, job, path, measure=measure, extend=lambda known: known)[0]
    (path / PART_FILE).unlink(missing_ok=True)
    return arrays


def rows(arrays: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """What is logged: a row for each part of the rollout with what was measured in it, then one with that of the whole."""
    means = np.asarray(arrays["values"], np.float64).mean(axis=0)
    names = [*(f"{PART}/{name}" for name in NAMES), *TRAITS]
    parts = [
        {"hour": int(hour), **{name: float(value) for name, value in zip(names, means[1 + w], strict=True)}}
        for w, hour in enumerate(arrays["hours"])
    ]
    parts[-1] |= {f"{WHOLE}/{name}": float(value) for name, value in zip(COLUMNS, means[0], strict=True)}
    return parts
