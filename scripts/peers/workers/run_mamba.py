"""mamba: its joint step, and the same step with everything switched off but what the opinion model needs.

Work `joint`: one engagement recommender in the sampled mode. Creators post; every user is shown 16 candidates (12 of those they
follow, 4 retrieved by the recommender), which the recommender ranks by predicted engagement; the user scrolls, clicks,
reshares and reports; opinions, interests, fatigue, wellbeing, trust, activity and ties move; the recommender learns; all
metrics are kept.
Work `opinions`: Friedkin and Johnsen 1990 as a special case of that step: everybody posts their opinion, reads every
followee's latest post and averages; every other mechanism is `none`, and only opinions are kept.
"""

from __future__ import annotations

import os

os.environ["JAX_PLATFORMS"] = "cpu"  # the peers run there

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jax
import numpy as np
from task import Task, answer, work

from mamba import ecosystem as eco
from mamba.algorithms import registry
from mamba.rollout import rollout
from mamba.scenarios import populations
from mamba.scenarios.settings import ScenarioConfig
from mamba.types import Population, Sizes
from mamba.world import network
from mamba.world.mechanisms import Mechanisms
from mamba.world.parameters import WorldParameters, as_arrays

PROPOSALS = 4
OPINIONS_ONLY = Mechanisms(
    opinion="averaging",
    preference="none",
    fatigue="none",
    wellbeing="none",
    trust="none",
    resilience="none",
    activity="none",
    churn="none",
    choice="none",
    candidates="latest",
    posting="opinion",
    contagion="none",
    rewiring="none",
    scrolling="everything",
)


def joint(task: Task, answers: Path) -> dict[str, object]:
    """Measures the joint step; the task's network is that of this scenario."""
    config = ScenarioConfig(users=task.users, in_network=task.candidates - PROPOSALS, followees=task.followees)
    scenario = populations.load(config, seed=0)
    built = eco.make({"home": registry.make("engagement", proposals=PROPOSALS)}, sizes=scenario.sizes)
    given = jax.device_put(eco.inputs(built, scenario.population))

    @jax.jit
    def run(given: eco.Inputs) -> tuple[jax.Array, object]:
        state, metrics, _ = rollout(built, given, key=jax.random.key(0), steps=task.steps)
        return state.world.users.opinion, metrics

    def call() -> np.ndarray:
        opinion, _ = jax.block_until_ready(run(given))
        return np.asarray(opinion[0])

    return work(task, answers, name="joint", call=call)


def opinions(task: Task, answers: Path) -> dict[str, object]:
    """Measures the opinion model."""
    size = Sizes(
        users=task.users, creators=task.users, topics=1, lifetime=2, followees=task.followees, in_network=task.followees,
        recent=1, outbox=1, links=1, log_batch=1,
    )  # fmt: skip
    built = eco.make({}, sizes=size, mechanisms=OPINIONS_ONLY)
    followees, weight = network.followee_table(task.edges, task.users, task.followees, seed=0)
    zero = np.zeros(task.users, np.float32)
    people = Population(
        innate=np.asarray(task.innate[None], np.float32),
        interest=zero[None],
        susceptibility=zero,
        group=np.zeros(task.users, np.int32),
        habit=zero + np.float32(1),
        strategy=np.zeros((task.users, 5), np.float32),
        skill=zero,
        synthetic=zero,
        followees=followees,
        weight=weight,
        followers=np.asarray(network.in_degree(task.edges, task.users), np.float32),
    )
    parameters = as_arrays(WorldParameters(self_weight=0.0, innate_weight=1.0))
    given = jax.device_put(eco.inputs(built, people, parameters=parameters))

    @jax.jit
    def run(given: eco.Inputs) -> jax.Array:
        state, _, _ = rollout(built, given, key=jax.random.key(0), steps=task.steps)
        return state.world.users.opinion[0]

    return work(task, answers, name="opinions", call=lambda: np.asarray(run(given)))


def measure(task: Task, answers: Path) -> list[dict[str, object]]:
    """Measures both."""
    return [joint(task, answers), opinions(task, answers)]


def own_version() -> str:
    """Version of the installed package, or that it is a checkout."""
    try:
        return version("mamba-ecosystems")
    except PackageNotFoundError:
        return "checkout"


if __name__ == "__main__":
    answer(own_version(), measure)
