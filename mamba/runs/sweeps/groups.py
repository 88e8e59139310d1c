"""Members that one compiled program serves: they differ in numbers only.

Levers, world parameters and the seed are traced, so members that differ in nothing else form a group; everything else (kinds,
sizes, steps, step sizes of learners) decides the program. What a member's levers are is asked of its algorithms: a setting of an
algorithm that has a lever of that name does nothing but set it (`tests/runs/sweeps/test_sweep.py` holds every kind to that).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mamba import ecosystem as eco
from mamba.algorithms import registry
from mamba.runs.config import APART, SERVICES, RunConfig, to_mapping
from mamba.runs.job import platform, scenario_of
from mamba.runs.sweeps.outcomes import Member
from mamba.types import Population

_LEVER = "(lever)"


class Group(NamedTuple):
    """Members of one program.

    Attributes:
        program: equal for groups that one program serves, if their batches and slabs are equally large.
        members: in the order of the sweep.
        ecosystem: static description that all share.
        populations: different ones, each on the host.
        homes: [N] which of them each member lives in.
    """

    program: tuple[Any, ...]
    members: tuple[Member, ...]
    ecosystem: eco.Ecosystem
    populations: tuple[Population, ...]
    homes: np.ndarray


def program_of(config: RunConfig, job: str = "simulate") -> str:
    """Digest of what decides the program of a job of a configuration, the data apart."""
    mapping = to_mapping(config)
    # How levers are trained is decided on the host; calls of other shapes are told apart when they are made.
    stages = [part for part in APART if (part, job) != ("simulation", "simulate")]
    for name in (*SERVICES, *stages, "meta", "evaluation", "parameters", "seed"):
        del mapping[name]
    for family in ("recommenders", "moderators"):
        for each in getattr(config, family).values():
            settings = mapping[family][each.name]
            for lever in registry.build(each.kind, each.config).levers:
                if lever in settings:
                    settings[lever] = _LEVER
    # Not sorted: the order of algorithms counts.
    return hashlib.sha256(json.dumps(mapping, default=str).encode()).hexdigest()


def grouped(members: Sequence[Member], job: str = "simulate") -> list[Group]:
    """Members by the program of their job; groups in the order of their first members.

    Raises:
        UserError: the data of a member cannot be used, or its settings contradict each other.
    """
    alike: dict[str, list[Member]] = {}
    for member in members:
        alike.setdefault(program_of(member.config, job), []).append(member)
    return [group for digest, some in alike.items() for group in _by_shape(digest, some)]


def _by_shape(digest: str, members: Sequence[Member]) -> list[Group]:
    """Members with one digest, apart where another seed gives a population of another shape."""
    loaded: dict[int, Any] = {}
    shapes: dict[Any, list[Member]] = {}
    for member in members:
        seed = member.config.seed
        if seed not in loaded:
            loaded[seed] = scenario_of(member.config)
        scenario = loaded[seed]
        told = tuple((leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(scenario.population))
        shapes.setdefault((scenario.sizes, told), []).append(member)
    groups = []
    for (sizes, told), some in shapes.items():
        seeds = list(dict.fromkeys(member.config.seed for member in some))
        homes = np.array([seeds.index(member.config.seed) for member in some])
        people = tuple(loaded[seed].population for seed in seeds)
        groups.append(Group((digest, sizes, told), tuple(some), platform(some[0].config, sizes), people, homes))
    return groups


def stacked(populations: Sequence[Population]) -> Population:
    """Populations with a leading axis, on the host."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *populations)
