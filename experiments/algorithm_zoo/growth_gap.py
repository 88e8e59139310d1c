"""What an A/B test on a sample says about shipping, and what shipping does: the gap, per objective.

python experiments/algorithm_zoo/growth_gap.py [--users 2000] [--steps 72] [--seeds 20] [--share 0.2] [--glitter 2.0]

Three worlds with the same noise: nobody has the challenger, a sample has it, everybody has it. Nothing is shipped by the
test itself. For every seed, with arms T (sample) and C (rest) and worlds 0, s, 1,

    A/B estimate    value(T, s) - value(C, s)
    global effect   value(all, 1) - value(all, 0)
    gap             (value(T, s) - value(T, 1)) - (value(C, s) - value(C, 0)).

Sampling makes the mean gap that of A/B estimate minus global effect; comparing each arm with itself removes what users
bring along, so that without interference the gap is exactly 0. Objectives are those that users have of their own.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from mamba import ecosystem as eco
from mamba.algorithms import registry
from mamba.algorithms.base import Algorithm
from mamba.algorithms.recommenders import growth
from mamba.scenarios.populations import generated
from mamba.types import Array, Metrics, Population, Sizes
from mamba.world.measures import normalised_entropy
from mamba.world.mechanisms import Mechanisms
from mamba.world.parameters import WorldParameters

NAME = "growth"
OBJECTIVES = (
    "engagement_per_user",
    "engagement_per_impression",
    "retention",
    "wellbeing",
    "trust",
    "polarisation",
    "exposure_diversity",
    "toxic_exposure_per_user",
    "toxic_exposure_per_impression",
)
_NOBODY, _EVERYBODY = -40.0, 40.0  # unconstrained shares


class Gap(NamedTuple):
    """A/B estimate, global effect and their gap, each [seeds, J] in the order of `OBJECTIVES`."""

    sample: np.ndarray
    total: np.ndarray
    gap: np.ndarray


def _by_arm(after: eco.State, before: eco.State, metrics: Metrics, arms: Array, parameters: WorldParameters) -> Array:
    """[8, 3]: means of one step over the sample, the rest, and all users."""
    heads = jnp.sum(arms, axis=1)
    weight = jnp.concatenate([arms / heads[:, None], jnp.full((1, arms.shape[1]), 1.0 / arms.shape[1])])
    users, footprint, earlier = after.world.users, after.world.footprint, before.world.footprint
    # What the running logs gained in this step.
    clicks = jnp.sum(footprint.interest - parameters.memory * earlier.interest, axis=0)
    seen = jnp.sum(footprint.seen - parameters.reach_memory * earlier.seen, axis=0)
    kept = jnp.sum(footprint.seen, axis=0)
    mean = weight @ users.opinion.T  # [3, D]
    toxic = metrics["toxic_exposures_by_group"][jnp.array([1, 0])]
    return jnp.stack(
        [
            weight @ clicks,
            weight @ seen,
            weight @ users.activity,
            weight @ users.wellbeing,
            weight @ users.trust,
            jnp.mean(weight @ (users.opinion**2).T - mean**2, axis=1),
            (weight @ (kept * normalised_entropy(footprint.seen))) / (weight @ kept + 1e-9),
            jnp.append(toxic / heads, jnp.sum(toxic) / arms.shape[1]),
        ]
    )


def _objectives(path: Array) -> Array:
    """[T, 8, 3] of `_by_arm` to [J, 3]."""
    mean, end = jnp.mean(path, axis=0), path[-1]
    clicks, toxic = mean[0], mean[7]
    safe = jnp.maximum(mean[1], 1e-9)
    return jnp.stack([clicks, clicks / safe, end[2], mean[3], mean[4], end[5], end[6], toxic, toxic / safe])


def measure(
    challenger: Algorithm,
    incumbent: Algorithm,
    population: Population,
    *,
    sizes: Sizes,
    steps: int,
    seeds: int,
    share: float = 0.2,
    mechanisms: Mechanisms | None = None,
    parameters: WorldParameters | None = None,
    learning: bool = True,
    compile: Callable = jax.jit,
) -> Gap:
    """Runs the three worlds of every seed on the sampled model.

    Args:
        challenger: what the sample gets.
        incumbent: what the others have.
        population: users; their groups are replaced by the arms, so that the books of groups are those of the arms.
        sizes: static sizes, with at least two groups.
        steps: length of a rollout.
        seeds: number of paired seeds; each has its own noise and its own sample.
        share: of users in the sample.
        mechanisms: names of mechanisms.
        parameters: world parameters.
        learning: whether both arms learn; from a log that both share, as in the field.
        compile: how to compile, `jax.jit` unless told.

    Returns:
        Estimates per seed.
    """
    # One window, and evidence that is never enough: the arms stay as they are.
    config = growth.Config(window=steps, share=share, alpha=1e-30, softness=1e-4)
    ecosystem = eco.make({NAME: growth.pair(challenger, incumbent, config)}, sizes=sizes, mechanisms=mechanisms)
    base = eco.inputs(ecosystem, population, parameters=parameters, learning=[float(learning)])
    free = float(ecosystem.algorithms[0].levers["share"])

    def one(given: eco.Inputs, key: Array) -> Array:
        begin = eco.init(ecosystem, given, key)
        people = jnp.arange(sizes.users, dtype=jnp.int32)
        inside = jnp.round(growth.sample(begin.learned[0].salt, people, jnp.int32(0), jnp.float32(share), config))
        arms = jnp.stack([inside, 1.0 - inside])
        given = given.replace(population=given.population.replace(group=inside.astype(jnp.int32)))

        def world(unconstrained: Array) -> Array:
            levers = {NAME: given.levers[NAME] | {"share": unconstrained}}
            own = given.replace(levers=levers)

            def step(carry: eco.State, index: Array):
                after, metrics = eco.step(ecosystem, own, carry, index=index, key=key, mode="sampled")
                return after, _by_arm(after, carry, metrics, arms, own.parameters)

            return _objectives(jax.lax.scan(step, begin, jnp.arange(steps, dtype=jnp.int32))[1])

        return jax.lax.map(world, jnp.array([_NOBODY, free, _EVERYBODY]))  # [3, J, 3]

    run = compile(one)
    values = np.stack([np.asarray(run(base, jax.random.key(seed)), np.float64) for seed in range(seeds)])
    none, split, every = values[:, 0], values[:, 1], values[:, 2]
    return Gap(
        sample=split[..., 0] - split[..., 1],
        total=every[..., 2] - none[..., 2],
        gap=(split[..., 0] - every[..., 0]) - (split[..., 1] - none[..., 1]),
    )


def table(gap: Gap) -> str:
    """Means with 95 % intervals as a Markdown table."""

    def cell(values: np.ndarray) -> str:
        reach = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
        return f"{values.mean():+.3g} [{values.mean() - reach:+.3g}, {values.mean() + reach:+.3g}]"

    lines = ["| objective | A/B estimate, 95 % CI | global effect, 95 % CI | gap, 95 % CI |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {cell(gap.sample[:, j])} | {cell(gap.total[:, j])} | {cell(gap.gap[:, j])} |"
        for j, name in enumerate(OBJECTIVES)
    ]
    return "\n".join(lines)


def main() -> None:
    """Measures the gap of one lever of the engagement ranker and prints it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("users", 2000), ("steps", 72), ("seeds", 20), ("share", 0.2), ("glitter", 2.0)):
        parser.add_argument(f"--{name}", type=type(default), default=default)
    asked = parser.parse_args()
    sizes = Sizes(users=asked.users, creators=max(asked.users // 5, 1))
    gap = measure(
        registry.make("engagement", glitter=asked.glitter),
        registry.make("engagement"),
        jax.tree.map(jnp.asarray, generated(sizes)),
        sizes=sizes,
        steps=asked.steps,
        seeds=asked.seeds,
        share=asked.share,
    )
    print(table(gap))


if __name__ == "__main__":
    main()
