"""mamba: its joint step with one engagement recommender, in the sampled mode.

Work `joint`: creators post; every user is shown 16 candidates (12 of those they follow, 4 retrieved by the recommender), which
the recommender ranks by predicted engagement; the user scrolls, clicks, reshares and reports; opinions, interests, fatigue,
wellbeing, trust and activity move; the recommender learns. Every other work here is a part of that, or another model.
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

PROPOSALS = 4


def measure(task: Task, answers: Path) -> list[dict[str, object]]:
    """Measures the joint step on the same part of the same network."""
    config = ScenarioConfig(dataset=task.dataset, users=task.users, in_network=task.candidates - PROPOSALS)
    scenario = populations.load(config, seed=0)
    built = eco.make({"home": registry.make("engagement", proposals=PROPOSALS)}, sizes=scenario.sizes)
    given = jax.device_put(eco.inputs(built, scenario.population))

    @jax.jit
    def run(given: eco.Inputs) -> tuple[jax.Array, object]:
        state, metrics, _ = rollout(built, given, key=jax.random.key(0), steps=task.steps)
        return state.world.users.opinion, metrics  # all of it: what nobody reads is not computed

    def call() -> np.ndarray:
        opinion, _ = jax.block_until_ready(run(given))
        return np.asarray(opinion[0])

    return [work(task, answers, name="joint", call=call)]


def own_version() -> str:
    """Version of the installed package, or that it is a checkout."""
    try:
        return version("mamba-ecosystems")
    except PackageNotFoundError:
        return "checkout"


if __name__ == "__main__":
    answer(own_version(), measure)
