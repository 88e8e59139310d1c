"""Simulates the members of a group, a batch at a time, and keeps every batch as soon as it is done."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mamba import ecosystem as eco
from mamba import members as mem
from mamba import placement
from mamba.runs import distributed, simulation, stops
from mamba.runs.errors import UserError
from mamba.runs.job import Fitted, devices, platform
from mamba.runs.memory import free_memory, out_of_memory
from mamba.runs.sweeps.groups import Group, stacked
from mamba.runs.sweeps.outcomes import Member

_POPULATIONS = 0.2  # of the free memory that the populations of one slab may take
_NOTHING: Any = None
_SHOWN = 8  # members of a group that an error lists


class Batch(NamedTuple):
    """Members that are run together.

    Attributes:
        members: at most so many as were asked for.
        slab: number of the slab of populations that they live in.
        homes: [N] which population of the slab.
    """

    members: tuple[Member, ...]
    slab: int
    homes: np.ndarray


class Plan(NamedTuple):
    """How a group is run.

    Attributes:
        group: the group.
        slabs: populations that are on the device together, [K] each; all slabs have one size, so that one program serves them.
        batches: in the order in which they are run.
    """

    group: Group
    slabs: tuple[tuple[int, ...], ...]
    batches: tuple[Batch, ...]


def plan(group: Group, *, per_batch: int, done: frozenset[int] = frozenset()) -> Plan:
    """Batches of the members of a group that are still to be done.

    Args:
        group: the group.
        per_batch: most members that are run together.
        done: numbers of members that are left out.
    """
    bytes_ = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(group.populations[0]))
    # A power of two: then groups with a few populations more or less share a program.
    several = 2 ** math.ceil(math.log2(len(group.populations)))
    free = distributed.least(free_memory())
    room = max(1, int(min(several, _POPULATIONS * free / max(bytes_, 1))))
    slabs = []
    for begin in range(0, len(group.populations), room):
        some = list(range(begin, min(begin + room, len(group.populations))))
        slabs.append(tuple(some + [some[-1]] * (room - len(some))))
    batches = []
    for number in range(len(slabs)):
        inside = [
            at
            for at, (member, home) in enumerate(zip(group.members, group.homes, strict=True))
            if home // room == number and member.number not in done
        ]
        for begin in range(0, len(inside), per_batch):
            some = inside[begin : begin + per_batch]
            homes = np.array([group.homes[at] - number * room for at in some])
            batches.append(Batch(tuple(group.members[at] for at in some), number, homes))
    return Plan(group, tuple(slabs), tuple(batches))


def predicted(of: Plan, *, per_batch: int) -> tuple[int, int]:
    """Rollouts at a time, and predicted peak memory in bytes, of a plan with at least one batch; the program is compiled for it.

    Raises:
        UserError: not even one rollout fits.
    """
    with devices(of.group.members[0].config):
        evaluate = evaluator(of, per_batch=per_batch)
        made = evaluate(of.batches[0].slab).compiled(joined(of.batches[0], of.group))
    return made.chunk, made.bytes


Programs = dict[Any, Fitted]  # what was compiled, for plans to come


def evaluator(of: Plan, *, per_batch: int, programs: Programs | None = None) -> Callable[[int], Fitted]:
    """`slab -> evaluate`; one compiled program runs the members of all slabs, and of other plans that it fits."""
    config = of.group.members[0].config
    seeds = config.simulation.seeds

    def inputs(slab: int) -> eco.Inputs:
        return on_device(of.group, of.slabs[slab])

    def remedy(fewer: int) -> str:
        if per_batch > 1:
            return f"--members-per-batch={max(1, min(per_batch // 2, fewer // seeds))}"
        return f"--simulation.seeds={fewer}, or fewer scenario.users: no batch is smaller than one member"

    which = (of.group.program, len(of.slabs[0]), per_batch)
    if programs is not None and which in programs:
        made = programs[which].on(inputs(0), who=who(of.group))
    else:
        made = simulation.evaluator(
            of.group.ecosystem,
            inputs(0),
            config,
            chunk=per_batch * seeds,
            remedy=remedy,
            who=who(of.group),
        )
        if programs is not None:
            programs[which] = made.on(_NOTHING)  # their populations leave the device with the group
    held = {0: made}

    def of_slab(slab: int) -> Fitted:
        if slab not in held:
            held.clear()  # one slab on the device at a time
            held[slab] = made.on(inputs(slab))
        return held[slab]

    return of_slab


def on_device(group: Group, homes: Sequence[int]) -> eco.Inputs:
    """Populations of a group as inputs with a leading axis, on the device.

    Raises:
        UserError: they do not fit.
    """
    people = stacked([group.populations[home] for home in homes])
    try:
        return eco.inputs(group.ecosystem, placement.placed(people, group.ecosystem.sizes.users))
    except jax.errors.JaxRuntimeError as error:
        if not out_of_memory(error):
            raise
        several = len(homes) > 1
        remedy = "--members-per-batch=1, or fewer scenario.users" if several else "fewer scenario.users"
        what = f"{len(homes)} populations do" if several else "the population does"
        raise UserError(f"out of memory: {what} not fit, of {who(group)}; try {remedy}") from error


def who(group: Group) -> str:
    """A compile group in words: who is in it, as a dry run lists them."""
    numbers = [member.number for member in group.members]
    shown = ", ".join(map(str, numbers[:_SHOWN])) + (", ..." if len(numbers) > _SHOWN else "")
    members = f"member {shown}" if len(numbers) == 1 else f"members {shown}"
    return f"the compile group of {members} ({len(numbers)} in all, {group.ecosystem.sizes.users} users)"


def joined(batch: Batch, group: Group) -> mem.Members:
    """The rollouts of all members of a batch."""
    sizes = group.ecosystem.sizes
    return mem.join(
        *(
            simulation.members(platform(member.config, sizes), member.config, home=int(home))
            for member, home in zip(batch.members, batch.homes, strict=True)
        )
    )


def run(
    of: Plan,
    *,
    per_batch: int,
    keep: Callable[[Sequence[Member], np.ndarray], None],
    stop: Callable[[], bool],
    programs: Programs | None = None,
) -> bool:
    """Runs all batches of a plan.

    Args:
        of: the plan.
        per_batch: as for the plan.
        keep: called with members and their values [N, S, 1 + W, C] as soon as these are done: those of a batch, or as many as
            go to the devices at a time where memory does not do for all of them.
        stop: whether a signal asks to stop; what is half done then is lost.
        programs: compiled before; what is compiled here is added.

    Returns:
        Whether all batches were run.
    """
    with devices(of.group.members[0].config):
        evaluate = evaluator(of, per_batch=per_batch, programs=programs)
        for batch in of.batches:
            rollouts, seeds = joined(batch, of.group), batch.members[0].config.simulation.seeds
            fitted = evaluate(batch.slab)
            at_a_time = max(1, distributed.of_all(fitted.compiled(distributed.mine(rollouts)).chunk) // seeds)
            for begin in range(0, len(batch.members), at_a_time):
                if stop():
                    return False
                some = slice(begin * seeds, (begin + at_a_time) * seeds)
                part = jax.tree.map(lambda leaf, some=some: leaf[some], rollouts)
                try:
                    values = stops.between_chunks(fitted, stop)(part)
                except stops.Stopped:
                    return False
                table = np.asarray(values, np.float64)
                keep(batch.members[begin : begin + at_a_time], table.reshape(-1, seeds, *table.shape[1:]))
    return True
