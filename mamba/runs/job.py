"""A job: a configuration made ready to run, with its compiled evaluations."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from mamba import ecosystem as eco
from mamba import members as mem
from mamba import placement, policies
from mamba.algorithms import registry
from mamba.meta import systems
from mamba.objectives import NAMES
from mamba.runs import distributed, progress
from mamba.runs.config import RunConfig
from mamba.runs.errors import UserError
from mamba.runs.memory import free_memory, out_of_memory
from mamba.scenarios import populations
from mamba.types import Sizes

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


def devices(config: RunConfig) -> contextlib.AbstractContextManager[None]:
    """The scope in which a configuration is prepared and run: what its devices share out among them."""
    return placement.split_users() if config.shard == "users" else contextlib.nullcontext()


def prepare(config: RunConfig) -> Job:
    """Builds population and ecosystem of a configuration, inside `devices`; evaluations compile when they are first called.

    Raises:
        UserError: the data cannot be used.
    """
    scenario = scenario_of(config)
    ecosystem = platform(config, scenario.sizes)
    people = placement.placed(scenario.population, scenario.sizes.users)
    inputs = eco.inputs(ecosystem, people, parameters=config.parameters)
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


def scenario_of(config: RunConfig) -> populations.Scenario:
    """Population and sizes of a configuration.

    Raises:
        UserError: the data cannot be used.
    """
    try:
        return populations.load(config.scenario, seed=config.seed)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error


def platform(config: RunConfig, sizes: Sizes) -> eco.Ecosystem:
    """Algorithms and policy of a configuration in a world of these sizes.

    Raises:
        UserError: settings that contradict each other.
    """
    count = jax.local_device_count()
    if config.shard == "users" and sizes.users % count:
        fewer = sizes.users // count * count
        remedy = f"--scenario.users={fewer}" if fewer else "--shard=members"
        raise UserError(f"shard: {sizes.users:,} users cannot be split evenly over {count} devices; try {remedy}")
    if config.shard == "users" and sizes.user_block:
        raise UserError("shard: users are split over devices or served in blocks (scenario.user_block), not both")
    try:
        algorithms = {each.name: registry.build(each.kind, each.config) for each in config.algorithms}
        policy = policies.network(config.policy, seed=config.seed) if config.policy.controls else None
        return eco.make(algorithms, sizes=sizes, mechanisms=config.mechanisms, policy=policy)
    except ValueError as error:
        raise UserError(str(error)) from error


def _evaluation(
    ecosystem: eco.Ecosystem, inputs: eco.Inputs, *, steps: int, warm_up: int, windows: int, chunk: int
) -> Evaluate:
    """Outcomes [B, 1 + W, J + A] of members on the sampled model."""
    measured = functools.partial(systems.outcomes, ecosystem)
    evaluate = mem.evaluator(ecosystem, steps=steps, layout=mem.layout(), warm_up=warm_up, windows=windows, of=measured)
    run = Fitted(evaluate, inputs, chunk=chunk)

    def call(members: mem.Members, done: Callable[[int], None] | None = None) -> np.ndarray:
        values = run(members, done)
        return values if windows else values[:, None]

    return call


class Fitted:
    """An evaluator of `members` or `jacobian` that goes in chunks which fit into memory; compiled when it is first needed."""

    def __init__(
        self,
        evaluate: Callable[[eco.Inputs, mem.Members, jax.Array], jax.Array],
        inputs: eco.Inputs,
        *,
        chunk: int,
        remedy: Callable[[int], str] = lambda fewer: f"--chunk={fewer}",
        who: str = "",
    ) -> None:
        """Prepares it.

        Args:
            evaluate: not jitted.
            inputs: population and parameters.
            chunk: most members sent at a time.
            remedy: the option that makes chunks of so many, for the error when memory runs out all the same.
            who: whose rollouts they are, for the same error; nothing where there is but one platform.
        """
        self._evaluate, self._inputs, self._chunk, self._remedy, self._who = evaluate, inputs, chunk, remedy, who
        self._made: dict[Any, mem.Compiled] = {}

    def on(self, inputs: eco.Inputs, *, who: str = "") -> Fitted:
        """The same programs on other inputs of the same shapes, maybe of somebody else."""
        other = Fitted(self._evaluate, inputs, chunk=self._chunk, remedy=self._remedy, who=who or self._who)
        other._made = self._made
        return other

    def compiled(self, members: mem.Members) -> mem.Compiled:
        """The program for members such as these.

        Raises:
            UserError: not even one member a device fits.
        """
        # Members in worlds of their own have more leaves than those in the world of the inputs.
        which = jax.tree.structure(members)
        if which not in self._made:
            limit = _SHARE * free_memory()
            try:
                made = mem.compiled(self._evaluate, self._inputs, members, chunk=self._chunk, limit=limit)
                # Chunks of one size, so that processes meet after each of them.
                if (chunk := int(distributed.least(made.chunk))) < made.chunk:
                    made = mem.compiled(self._evaluate, self._inputs, members, chunk=chunk, limit=limit)
            except ValueError as error:
                raise UserError(f"{self._who}: {error}" if self._who else str(error)) from error
            except jax.errors.JaxRuntimeError as error:
                if not out_of_memory(error):
                    raise
                raise self._told(self._chunk) from error
            self._made[which] = made
            progress.say(
                f"rollouts go in chunks of {made.chunk}; predicted memory {made.bytes / 2**20:,.0f} MiB on "
                f"{jax.local_device_count()} x {jax.devices()[0].device_kind}"
            )
        return self._made[which]

    def __call__(self, members: mem.Members, done: Callable[[int], None] | None = None) -> np.ndarray:
        """Values [B, ...] of members; `done` is told the number of members finished after every chunk.

        Raises:
            UserError: not even one member a device fits, or the device ran out of memory.
        """
        total, own = len(members.keys), distributed.mine(members)
        made = self.compiled(own)
        everyone = total / len(own.keys)

        def told(finished: int) -> None:
            if done is not None:
                done(min(total, round(everyone * finished)))

        try:
            values = mem.in_chunks(made.run, self._inputs, own, chunk=made.chunk, done=told)
        except jax.errors.JaxRuntimeError as error:
            if not out_of_memory(error):
                raise
            raise self._told(made.chunk, made.bytes) from error
        return distributed.gathered(values, total)

    def _told(self, chunk: int, needed: int | None = None) -> UserError:
        """What to raise where a device ran out of memory."""
        needs = "do not fit" if needed is None else f"need about {needed / 2**30:.1f} GiB"
        of = f" of {self._who}" if self._who else ""
        smallest = chunk <= placement.member_devices()
        remedy = "fewer scenario.users" if smallest else self._remedy(chunk // 2)
        return UserError(f"out of memory: {chunk} rollouts at a time{of} {needs}; try {remedy}")
