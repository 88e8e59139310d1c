"""A job: a configuration made ready to run, with its compiled evaluations."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from mamba import ecosystem as eco
from mamba import members as mem
from mamba import policies
from mamba.algorithms import registry
from mamba.meta import systems
from mamba.objectives import NAMES
from mamba.runs import progress
from mamba.runs.config import RunConfig
from mamba.runs.errors import UserError
from mamba.scenarios import populations

_SHARE = 0.9  # of the free memory that evaluations may be predicted to take


class Evaluate(Protocol):
    """Values of members."""

    def __call__(self, members: mem.Members, done: Callable[[int], None] | None = None) -> np.ndarray:
        """Evaluates members; `done` is told the number of members finished after every chunk."""
        ...


class Job(NamedTuple):
    """A configuration made ready to run.

    Attributes:
        config: what was asked for.
        ecosystem: static description.
        inputs: population on the device, parameters, default levers.
        story: where the population comes from, in words.
        evaluate: outcomes [B, J + A] of members on the sampled model, from the first step on: objectives, then own losses.
        measure: objectives after the warm-up of the interaction analysis, [B, 1 + W, J]: whole rollout, then its windows.
        key: root key.
    """

    config: RunConfig
    ecosystem: eco.Ecosystem
    inputs: eco.Inputs
    story: dict[str, str]
    evaluate: Evaluate
    measure: Evaluate
    key: jax.Array


def prepare(config: RunConfig) -> Job:
    """Builds population and ecosystem of a configuration; evaluations compile when they are first called.

    Raises:
        UserError: the data cannot be used.
    """
    try:
        scenario = populations.load(config.scenario, seed=config.seed)
        algorithms = {each.name: registry.build(each.kind, each.config) for each in config.algorithms}
        policy = policies.network(config.policy, seed=config.seed) if config.policy.controls else None
        ecosystem = eco.make(algorithms, sizes=scenario.sizes, mechanisms=config.mechanisms, policy=policy)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    inputs = eco.inputs(ecosystem, jax.device_put(scenario.population), parameters=config.parameters)
    interactions = config.interactions
    evaluator = functools.partial(
        _evaluation,
        ecosystem,
        inputs,
        steps=config.steps,
        chunk=config.chunk,
        windows=interactions.windows if interactions.seeds else 0,
    )
    warm = evaluator(warm_up=interactions.warm_up)
    # One program serves both where they differ in nothing but the windows.
    cold = warm if interactions.warm_up == 0 and interactions.seeds else evaluator(warm_up=0, windows=0)

    def evaluate(members: mem.Members, done: Callable[[int], None] | None = None) -> np.ndarray:
        return cold(members, done)[:, 0]

    def measure(members: mem.Members, done: Callable[[int], None] | None = None) -> np.ndarray:
        return warm(members, done)[..., : len(NAMES)]

    return Job(config, ecosystem, inputs, scenario.story, evaluate, measure, jax.random.key(config.seed))


def _evaluation(
    ecosystem: eco.Ecosystem, inputs: eco.Inputs, *, steps: int, warm_up: int, windows: int, chunk: int
) -> Evaluate:
    """Outcomes [B, 1 + W, J + A] of members on the sampled model."""
    measured = functools.partial(systems.outcomes, ecosystem)
    evaluate = mem.evaluator(ecosystem, steps=steps, layout=layout(), warm_up=warm_up, windows=windows, of=measured)
    run = fitted(evaluate, inputs, chunk=chunk)

    def call(members: mem.Members, done: Callable[[int], None] | None = None) -> np.ndarray:
        values = run(members, done)
        return values if windows else values[:, None]

    return call


def layout() -> mem.Layout:
    """How members are run where this process runs: one after the other on a CPU, side by side elsewhere."""
    return "loop" if jax.default_backend() == "cpu" else "vmap"


def fitted(
    evaluate: Callable[[eco.Inputs, mem.Members, jax.Array], jax.Array], inputs: eco.Inputs, *, chunk: int
) -> Evaluate:
    """Runs an evaluator of `members` or `jacobian` in chunks that fit into memory; it is compiled when it is first called.

    Args:
        evaluate: not jitted.
        inputs: population and parameters.
        chunk: most members sent at a time.

    Returns:
        `(members, done=None) -> values [B, ...]`; raises UserError where not even one member a device fits.
    """
    made: dict[Any, mem.Compiled] = {}

    def call(members: mem.Members, done: Callable[[int], None] | None = None) -> np.ndarray:
        # Members in worlds of their own have more leaves than those in the world of the inputs.
        which = jax.tree.structure(members)
        if which not in made:
            try:
                made[which] = mem.compiled(evaluate, inputs, members, chunk=chunk, limit=_SHARE * free_memory())
            except ValueError as error:
                raise UserError(str(error)) from error
            progress.say(
                f"rollouts go in chunks of {made[which].chunk}; predicted memory {made[which].bytes / 2**20:,.0f} MiB on "
                f"{jax.local_device_count()} x {jax.devices()[0].device_kind}"
            )
        return mem.in_chunks(made[which].run, inputs, members, chunk=made[which].chunk, done=done)

    return call


def free_memory() -> float:
    """Bytes that computations may take, over all local devices; infinite where nobody says."""
    told = [device.memory_stats() for device in jax.local_devices()]
    if all(each and "bytes_limit" in each for each in told):
        return float(sum(each["bytes_limit"] - each.get("bytes_in_use", 0) for each in told if each))
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            facts = dict(line.split(":", 1) for line in file)
        return 1024.0 * float(facts["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        pass
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return float("inf")
