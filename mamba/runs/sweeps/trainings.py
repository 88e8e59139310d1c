"""Trains the members of a group in step, a batch at a time.

Every member is trained, held to its limits and evaluated as `mamba-eco train` does it alone; what all ask of the devices is
answered together (`mamba.meta.lockstep`). Each has the run folder that it would have alone, so that it goes on there however the
sweep was stopped, in step or as a process of its own.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mamba import ecosystem as eco
from mamba import members as mem
from mamba import passing, placement
from mamba.meta import constraints, derivatives, growth, lockstep, optimise, systems, vector
from mamba.runs import checkpoint, distributed, evaluation, folder, restoration, stops, training
from mamba.runs.config import SERVICES, RunConfig, dump_yaml
from mamba.runs.errors import UserError
from mamba.runs.job import Fitted, Job, platform
from mamba.runs.memory import out_of_memory
from mamba.runs.sweeps import batches, outcomes
from mamba.runs.sweeps.groups import Group
from mamba.runs.sweeps.outcomes import Member, Outcome
from mamba.types import Array, Population, Sizes
from mamba.world.parameters import WorldParameters

IN_STEP = ("hybrid", "pathwise", "es")  # estimators whose derivatives several trainings can share
_NOBODY: Any = None  # the population of a job whose members say where they are at home
# stage: setting that asks for it
_LEFT_OUT = {"second_order": "seeds", "performativity": "rounds", "pareto": "divisions"}


def apart(job: str, config: RunConfig) -> str | None:
    """Why a member of a sweep must be a process of its own, in words; None where it can be trained in step."""
    if job != "train":
        return f"members that {job} are processes of their own"
    if config.meta.estimator not in IN_STEP:
        return f"meta.estimator={config.meta.estimator} follows lives of its own"
    if config.shard == "users":
        return "shard=users gives all devices to one training"
    if config.evaluation.transfer:
        return "evaluation.transfer takes every member to other communities"
    return None


def left_out(config: RunConfig) -> list[str]:
    """Stages that a configuration asks for and that are left to member runs."""
    return [stage for stage, setting in _LEFT_OUT.items() if getattr(getattr(config, stage), setting)]


def per_batch(config: RunConfig) -> int:
    """Trainings in step: as many as have `chunk` rollouts when they measure their constraints."""
    return max(1, config.chunk // (2 * config.meta.constraint_seeds))


# What was compiled, for groups to come: one at a time, as its populations are on the device.
Programs = dict[Any, "_Shared"]


def run(
    group: Group,
    places: Mapping[int, Path],
    *,
    size: int,
    keep: Callable[[Mapping[int, Outcome]], None],
    told: Callable[[int], None],
    stop: Callable[[], bool],
    named: Callable[[Member], RunConfig],
    programs: Programs,
) -> bool:
    """Trains members of a group.

    Args:
        group: the members that are still to be done, and those that are.
        places: run folders by number, of those that are still to be done.
        size: trainings in step.
        keep: called with the outcomes of a batch as soon as it is done.
        told: called with how many meta-steps were done, or need not be.
        stop: whether a signal asks to stop.
        named: the configuration that the run folder of a member has.
        programs: compiled before; what is compiled here takes their place.

    Returns:
        Whether all were trained; after a stop, every member is saved.

    Raises:
        UserError: a folder cannot be used, or the device ran out of memory.
    """
    waiting = [at for at, member in enumerate(group.members) if member.number in places]
    parts = [waiting[begin : begin + size] for begin in range(0, len(waiting), size)]
    if not parts:
        return True
    shared = _shared(group, size=size, homes=_most_homes(group, parts), programs=programs, stop=stop)
    for part in parts:
        if stop():
            return False
        some = [group.members[at] for at in part]
        homes = shared.settle([int(group.homes[at]) for at in part])
        with contextlib.ExitStack() as files:
            at_work = []
            for member, home in zip(some, homes, strict=True):
                config, place = named(member), places[member.number]
                # The same member may be at work elsewhere, in a part of the sweep.
                held = files.enter_context(folder.open_folder(place, dump_yaml(config), allow_config_change=True))
                if any(re.split("[.:]", line)[0] not in SERVICES for line in held.changes):
                    _begin_anew(place)
                held.claim()
                at_work.append(_opened(config, shared, home, place))
                files.callback(at_work[-1].metrics.close)
                told(int(at_work[-1].state.step))
            found = _trained(at_work, told=told, stop=stop)
        if found is None:
            return False
        keep(dict(zip((member.number for member in some), found, strict=True)))
    return True


def _most_homes(group: Group, parts: Sequence[Sequence[int]]) -> int:
    """Most populations of any batch: one program serves all of them."""
    return max(len({int(group.homes[at]) for at in part}) for part in parts)


def check(group: Group) -> None:
    """Refuses members whose settings contradict each other, all at once, before anything is trained.

    Raises:
        UserError: every error, with the number of members that have it.
    """
    errors: dict[str, int] = {}
    for member in group.members:
        job = _job(member.config, group.ecosystem.sizes, _unasked)
        try:
            training.trainer_of(job, kernels=optimise.Kernels(_unasked, _unasked))
        except UserError as error:
            errors[str(error)] = errors.get(str(error), 0) + 1
    if errors:
        lines = (f"{error} (in {count} of {len(group.members)} members)" for error, count in errors.items())
        raise UserError("\n".join(lines))


def predicted(group: Group, *, size: int) -> int:
    """Predicted peak memory in bytes of a batch: of the derivatives (in one world) or of the rollouts, whichever is more.

    Both are compiled. The tangents that the growth monitor follows are not: theirs is a few states, however many steps there
    are, and the reverse pass keeps more.
    """
    parts = [range(begin, min(begin + size, len(group.members))) for begin in range(0, len(group.members), size)]
    some = parts[0]
    shared = _Shared(group, size=size, homes=_most_homes(group, parts))
    homes = shared.settle([int(group.homes[at]) for at in some])
    return shared.bytes([(group.members[at].config, home) for at, home in zip(some, homes, strict=True)])


# ---------------------------------------------------------------------------------------------------------------------
# What is shared


class _Shared:
    """What the trainings of a group share: compiled programs, and the populations of the present batch.

    Attributes:
        ecosystem: static description.
    """

    def __init__(self, group: Group, *, size: int, homes: int) -> None:
        """Prepares it.

        Args:
            group: whose members are trained.
            size: trainings in step.
            homes: most populations of a batch: one program serves all batches.
        """
        config, self.ecosystem = group.members[0].config, group.ecosystem
        self._group, self._homes = group, homes
        self._stop: Callable[[], bool] = lambda: False
        system, steps, how = systems.platform(self.ecosystem), config.steps, mem.layout()
        system = system._replace(at_once=max(1, system.at_once // size))

        def beside(kernel: Callable[..., Any]) -> lockstep.SideBySide:
            """Beside each other in the populations of a batch, which are passed once."""

            def at_home(population: Population, home: Array, inputs: eco.Inputs, *rest: Any) -> Any:
                people = population if homes == 1 else jax.tree.map(lambda leaf: leaf[home], population)
                return kernel(replace(inputs, population=people), *rest)

            return lockstep.SideBySide(
                at_home, layout=how, width=size, common=1, between=lambda: stops.heed(self._stop)
            )

        self._slope = beside(derivatives.reverse(system, steps=steps, spread=False))
        self._follow = beside(growth.tangents(system, steps=steps))
        measured = functools.partial(systems.outcomes, self.ecosystem)
        rollouts = mem.evaluator(self.ecosystem, steps=steps, layout=how, of=measured)
        self._rollouts = Fitted(rollouts, _NOBODY, chunk=config.chunk)
        self._fitted: Fitted | None = None
        self._population: Population | None = None
        # In the order of a meta-step: audits come last.
        self._ask_follow = lockstep.asking(self._answer(self._follow), order=0)
        self._ask_slope = lockstep.asking(self._answer(self._slope), order=1)
        self._ask_rollouts = lockstep.asking(self._evaluated, order=2)

    def serve(self, group: Group, stop: Callable[[], bool]) -> None:
        """From now on the members of another group of the same program; what they ask for heeds `stop` between chunks."""
        self._group, self._stop = group, stop

    def settle(self, homes: Sequence[int]) -> list[int]:
        """Brings the populations of a batch to the device; gives the place of each of `homes` among them."""
        which = list(dict.fromkeys(homes))
        filled = which + [which[-1]] * (self._homes - len(which))
        self._population = self._fitted = None  # one slab on the device at a time
        slab = batches.on_device(self._group, filled)
        self._fitted = self._rollouts.on(slab, who=batches.who(self._group))
        alone = self._homes == 1
        self._population = jax.tree.map(lambda leaf: leaf[0], slab.population) if alone else slab.population
        return [which.index(home) for home in homes]

    def kernels(self, home: int) -> optimise.Kernels:
        """Derivatives in a population of the present batch, asked for together."""
        place = jnp.int32(home)

        def at(ask: Callable[..., Any]) -> Callable[..., Any]:
            return lambda inputs, *rest: ask(self._population, place, inputs, *rest)

        return optimise.Kernels(slope=at(self._ask_slope), follow=at(self._ask_follow))

    def evaluate(self, members: mem.Members, home: int, parameters: WorldParameters) -> np.ndarray:
        """Outcomes [B, J + A] of members of one training, in its population, and in its world where they have none of their own."""
        count = len(members.keys)
        world = _each(parameters, count) if members.parameters is None else members.parameters
        return self._ask_rollouts(members._replace(parameters=world, home=jnp.full(count, home, jnp.int32)))

    def bytes(self, members: Sequence[tuple[RunConfig, int]]) -> int:
        """Predicted peak memory of a batch of members, each with its place among the populations."""
        calls = []
        for config, home in members:
            inputs = eco.inputs(self.ecosystem, _NOBODY, parameters=config.parameters)
            players = len(self.ecosystem.names) if config.meta.goal == "own" else 1
            rows = jnp.zeros((players, len(systems.outcome_names(self.ecosystem))))
            shares = jnp.ones(len(passing.blocks(self.ecosystem)))
            keys = jax.random.split(jax.random.key(config.seed), config.meta.seeds)
            given = (inputs, vector.flat(inputs.levers), rows, shares, keys, None)
            calls.append((self._population, jnp.int32(home), *given))
        levers, parameters = calls[0][2].levers, calls[0][2].parameters
        one = mem.repeat(self.ecosystem, levers, jax.random.split(jax.random.key(0), 1))
        one = one._replace(home=jnp.zeros(1, jnp.int32), parameters=_each(parameters, 1))
        assert self._fitted is not None
        derived = any(config.meta.estimator != "es" for config, _ in members)
        return max(self._slope.bytes(calls) if derived else 0, self._fitted.compiled(one).bytes)

    def _evaluated(self, calls: list[tuple[Any, ...]]) -> list[np.ndarray]:
        groups = [members for (members,) in calls]
        ends = np.cumsum([len(members.keys) for members in groups])[:-1]
        assert self._fitted is not None
        return np.split(stops.between_chunks(self._fitted, self._stop)(mem.join(*groups)), ends)

    def _answer(self, kernel: lockstep.SideBySide) -> lockstep.Answer:
        """The answers of a kernel, shared out over the processes; out of memory, it says what to do."""

        def answer(calls: list[tuple[Any, ...]]) -> list[Any]:
            alike = len({lockstep.shapes(arguments) for arguments in calls}) == 1
            try:
                return distributed.shared_out(kernel, calls) if alike else kernel(calls)
            except jax.errors.JaxRuntimeError as error:
                if not out_of_memory(error):
                    raise
                width, least = kernel.width, placement.member_devices()
                fewer = (
                    f"--members-per-batch={width // 2}"
                    if width > least
                    else "--meta.estimator=es, or fewer scenario.users"
                )
                count = f"{width} training{'s' * (width > 1)} at a time"
                raise UserError(
                    f"out of memory: gradients of {count} of {batches.who(self._group)} do not fit; try {fewer}"
                ) from error

        return answer


def _shared(group: Group, *, size: int, homes: int, programs: Programs, stop: Callable[[], bool]) -> _Shared:
    """What the members of a group share, compiled before where it can be; `stop` says whether a signal asks to stop."""
    which = (group.program, size, homes)
    if which not in programs:
        programs.clear()
        gc.collect()  # what asks refers to whom it asks
        programs[which] = _Shared(group, size=size, homes=homes)
    programs[which].serve(group, stop)
    return programs[which]


def _each(parameters: WorldParameters, count: int) -> WorldParameters:
    """World parameters for so many members."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count,)), parameters)


# ---------------------------------------------------------------------------------------------------------------------
# One batch


class _Member:
    """A member at work in its run folder."""

    def __init__(
        self, job: Job, trainer: optimise.Trainer, state: optimise.TrainingState, path: Path, metrics: folder.MetricsLog
    ) -> None:
        self.job, self.trainer, self.state, self.path, self.metrics = job, trainer, state, path, metrics
        self.lost: str | None = None  # why it counts nowhere

    @property
    def busy(self) -> bool:
        """Whether meta-steps are left."""
        return self.lost is None and int(self.state.step) < self.job.config.meta.steps

    def lose(self, error: Exception) -> int:
        """Counts nowhere from now on, because of an error of its own; gives how many meta-steps are not taken.

        Raises:
            Exception: it is no error of the member.
        """
        if not isinstance(error, constraints.ZeroBaseline):
            raise error
        self.lost = str(error)
        return self.job.config.meta.steps - int(self.state.step)

    def judged(self) -> list[tuple[str, dict[str, Any]]]:
        """What comes after the last meta-step: rows to log, with their stages."""
        job, trainer, rows = self.job, self.trainer, []
        state, told = restoration.restored(job, trainer, self.state)
        if told is not None:
            rows.append((restoration.STAGE, restoration.row(told)))
        platforms = {"before": trainer.baseline, "after": optimise.levers_of(trainer, state)}
        values = evaluation.by_platform(job.evaluate(evaluation.fresh(job, platforms)), len(platforms))
        worlds = None
        if job.config.meta.spread:
            samples = evaluation.sampled_worlds(job)
            members = evaluation.fresh(job, platforms, where=evaluation.IN_WORLDS, worlds=samples)
            varied = evaluation.by_platform(job.evaluate(members), len(platforms))
            worlds = evaluation.over_worlds(
                dict(zip(platforms, varied, strict=True)),
                trainer.goal,
                level=job.config.meta.level,
                confidence=job.config.interactions.confidence,
            )
        here = dict(zip(platforms, values, strict=True))
        return [*rows, (evaluation.STAGE, evaluation.row(here, trainer.goal, worlds=worlds))]

    def outcome(self) -> Outcome:
        """What came of it."""
        found = outcomes.of_rows("train", folder.read_metrics(self.path / folder.METRICS))
        return found if self.lost is None else found._replace(frozen=True, why=self.lost)

    def log(self, stage: str, step: int, row: Mapping[str, Any]) -> None:
        self.metrics.append({"stage": stage, "meta_step": step, **folder.plain(row)})

    def save(self) -> None:
        training.save(self.job.config, self.state, self.path)


def _unasked(*given: Any) -> Any:
    raise AssertionError("nothing is asked of the devices before members are trained")


def _job(config: RunConfig, sizes: Sizes, evaluate: Callable[..., np.ndarray]) -> Job:
    """A member as a job; its population is where it is evaluated."""
    ecosystem = platform(config, sizes)
    inputs = eco.inputs(ecosystem, _NOBODY, parameters=config.parameters)
    return Job(config, ecosystem, inputs, {}, evaluate, evaluate, jax.random.key(config.seed))


def _opened(config: RunConfig, shared: _Shared, home: int, path: Path) -> _Member:
    """A member in its run folder, which is open, from its newest checkpoint on.

    Raises:
        UserError: the folder cannot be used, or settings contradict each other.
    """

    def evaluate(members: mem.Members, done: Callable[[int], None] | None = None) -> np.ndarray:
        del done
        return shared.evaluate(members, home, job.inputs.parameters)

    job = _job(config, shared.ecosystem.sizes, evaluate)
    trainer = training.trainer_of(job, kernels=shared.kernels(home))
    state = training.begun(job, trainer)
    restored = checkpoint.latest(path / folder.CHECKPOINTS, state)
    state = state if restored is None else restored.tree
    done = int(state.step)

    def stays(row: Mapping[str, Any]) -> bool:
        return row.get("stage") == training.STAGE and row.get("meta_step", done) < done

    return _Member(job, trainer, state, path, folder.open_metrics(path / folder.METRICS, keep=stays))


def _begin_anew(place: Path) -> None:
    """Removes what a run of other settings left."""
    shutil.rmtree(place / folder.CHECKPOINTS, ignore_errors=True)
    for name in (folder.METRICS, folder.SUMMARY):
        (place / name).unlink(missing_ok=True)


def _trained(
    members: Sequence[_Member], *, told: Callable[[int], None], stop: Callable[[], bool]
) -> list[Outcome] | None:
    """Trains, restores and evaluates members in step; None after a stop, with everything saved."""
    try:
        return _to_the_end(members, told=told, stop=stop)
    except stops.Stopped:
        for each in members:
            each.save()
        return None


def _to_the_end(members: Sequence[_Member], *, told: Callable[[int], None], stop: Callable[[], bool]) -> list[Outcome]:
    """Trains, restores and evaluates members in step.

    Raises:
        Stopped: a signal arrived; a meta-step or evaluation that it ended between two chunks is lost.
    """
    while busy := [each for each in members if each.busy]:
        stops.heed(stop)
        steps = [functools.partial(optimise.step, each.trainer, each.state) for each in busy]
        for each, found in zip(busy, lockstep.together(steps), strict=True):
            if isinstance(found, Exception):
                told(each.lose(found))
                continue
            before = int(each.state.step)
            each.state, report = found
            each.log(training.STAGE, before, training.row(each.job, each.state, report))
            if not each.busy or (before + 1) % each.job.config.checkpoint.every == 0:
                each.save()
            told(1)
    alive = [each for each in members if each.lost is None]
    for each, found in zip(alive, lockstep.together([each.judged for each in alive]), strict=True):
        if isinstance(found, Exception):
            each.lose(found)
            continue
        for stage, row in found:
            each.log(stage, int(each.state.step), row)
    return [each.outcome() for each in members]
