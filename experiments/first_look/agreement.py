"""How far the expected mode agrees with the sampled model: levels, and derivatives against an evolution strategy.

    python experiments/first_look/agreement.py [--regime default|sharp] [--seeds 32] [--users 1000] [--steps 30]

Prints the tables of this folder's README as Markdown. Levels are compared on the same keys (paired). Derivatives: the
pathwise Jacobian [J, P] of the expected mode against an antithetic Hadamard design on the sampled model, rows scaled by the
objective's standard deviation over seeds; `ceiling` is the cosine that the reference's own noise allows a perfect estimate.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mamba import ecosystem as eco
from mamba import members as mem
from mamba import objectives
from mamba.algorithms import registry
from mamba.cli import use_all_cores, use_compilation_cache
from mamba.meta import estimators, evolution, vector
from mamba.rollout import rollout
from mamba.runs.config import find_config, load_config
from mamba.scenarios import populations
from mamba.world.parameters import WorldParameters

PAIRS, SIGMA, PATHS = 16, 0.25, 10
SHARP = {"home": {"sharpness": 18.0, "learning_rate": 0.1}, "discovery": {"sharpness": 12.0}}


def main() -> None:
    """Runs the comparison and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--regime", choices=["default", "sharp"], default="default")
    parser.add_argument("--seeds", type=int, default=32)
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=30)
    asked = parser.parse_args()
    use_compilation_cache()
    use_all_cores()

    config = load_config(find_config("quickstart"))
    sharp = SHARP if asked.regime == "sharp" else {}
    algorithms = {
        each.name: registry.build(each.kind, replace(each.config, **sharp.get(each.name, {})))
        for each in config.algorithms
    }
    scenario = populations.load(replace(config.scenario, users=asked.users), seed=0)
    parameters = WorldParameters(opinion_rate=0.24) if sharp else WorldParameters()
    ecosystem = eco.make(algorithms, sizes=scenario.sizes._replace(nodes=32 if sharp else scenario.sizes.nodes))
    inputs = eco.inputs(ecosystem, jax.device_put(scenario.population), parameters=parameters)
    sampled, expected = (
        jax.jit(mem.evaluator(ecosystem, steps=asked.steps, mode=mode)) for mode in ("sampled", "expected")
    )
    keys = jax.random.split(jax.random.key(5), asked.seeds)
    each_seed = mem.repeat(ecosystem, inputs.levers, keys)
    hard = mem.in_chunks(sampled, inputs, each_seed, chunk=32).astype(np.float64)
    soft = mem.in_chunks(expected, inputs, each_seed, chunk=32).astype(np.float64)
    levels(hard, soft)

    count = len(vector.names(inputs.levers))
    moved = evolution.perturbed(inputs, keys, pairs=PAIRS, sigma=SIGMA)
    values = mem.in_chunks(sampled, inputs, moved, chunk=64)
    audit = evolution.audit(values, n_parameters=count, n_keys=asked.seeds, pairs=PAIRS, sigma=SIGMA)

    def jacobian(levers: Any, key: jax.Array) -> jax.Array:
        def all_objectives(at: Any) -> jax.Array:
            _, metrics, _ = rollout(ecosystem, replace(inputs, levers=at), key=key, steps=asked.steps, mode="expected")
            return objectives.evaluate(metrics, asked.users)

        _, back = jax.vjp(all_objectives, levers)
        return jax.lax.map(lambda row: vector.flat(back(row)[0]), jnp.eye(len(objectives.NAMES)))

    one = jax.jit(jacobian)
    path = np.mean([one(inputs.levers, key) for key in keys[:PATHS]], axis=0)
    derivatives(path, audit, hard.std(axis=0, ddof=1), vector.names(inputs.levers))


def levels(hard: np.ndarray, soft: np.ndarray) -> None:
    """Prints objectives of both modes and whether they agree within 3 % or 2 standard errors."""
    gap = soft - hard
    error = gap.std(axis=0, ddof=1) / len(gap) ** 0.5
    print(
        "| objective | sampled | expected | difference | standard errors | within 3 % or 2 SE |\n|---|---|---|---|---|---|"
    )
    for k, name in enumerate(objectives.NAMES):
        level, mean = hard[:, k].mean(), gap[:, k].mean()
        relative, z = abs(mean) / max(abs(level), 1e-9), mean / max(error[k], 1e-12)
        fits = "yes" if relative <= 0.03 or abs(z) <= 2 else "**no**"
        print(
            f"| {name} | {level:.4f} | {soft[:, k].mean():.4f} | {100 * mean / max(abs(level), 1e-9):+.1f} % | {z:+.1f} | {fits} |"
        )


def derivatives(path: np.ndarray, audit: evolution.Audit, spread: np.ndarray, names: list[str]) -> None:
    """Prints the cosine of both Jacobians, overall, by objective and by lever."""
    scale = np.where(spread > 1e-9, spread, np.inf)[:, None]
    ours, reference, noise = path / scale, audit.jacobian / scale, audit.error / scale

    def row(label: str, at: Any) -> None:
        a, b = ours[at].ravel(), reference[at].ravel()
        ceiling = np.sqrt(max(0.0, 1.0 - np.sum(noise[at] ** 2) / max(np.sum(b**2), 1e-30)))
        length = np.linalg.norm(a) / max(np.linalg.norm(b), 1e-30)
        print(f"| {label} | {estimators.cosine(a, b):.3f} | {ceiling:.3f} | {length:.2f} |")

    print("\n| Jacobian | cosine | ceiling | length, ours / reference |\n|---|---|---|---|")
    row("**all**", np.s_[:, :])
    for k, name in enumerate(objectives.NAMES):
        row(name, np.s_[k : k + 1, :])
    for p, name in enumerate(names):
        row(f"lever {name}", np.s_[:, p : p + 1])


if __name__ == "__main__":
    main()
