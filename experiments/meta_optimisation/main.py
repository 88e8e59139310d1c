"""Tuned jointly, tuned one team at a time, and each team for itself: what non-coordination costs.

    mamba-eco train experiments/meta_optimisation/config.yaml --run_dir runs/joint
    python experiments/meta_optimisation/main.py tables runs/joint
    python experiments/meta_optimisation/main.py teams --scenario.users=500 --steps=50

`tables` prints what the run folder holds as the Markdown of this folder's README: the trained platform on fresh seeds, in its own
community and in another. `teams` trains the same platform in four ways, from the same settings: all levers for the ecosystem goal
(joint: once with as many meta-steps as all teams together, once with those of one team); each team its own levers for that same
goal with the others as they are today, then everything deployed at once (apart); the same, but one team after the other, each
knowing what those before it did (in turn); and every team its own levers for its own metric, all at the same time (own). All are
compared on the same fresh seeds of the sampled model.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mamba.cli import use_all_cores, use_compilation_cache
from mamba.interactions.statistics import Estimate, estimate
from mamba.meta import constraints, optimise, players, vector
from mamba.objectives import NAMES, OBJECTIVES
from mamba.runs import evaluation
from mamba.runs.config import load_config
from mamba.runs.folder import load_run
from mamba.runs.job import Job, prepare
from mamba.streams import stream
from mamba.types import Levers

HERE = Path(__file__).parent
CONFIDENCE = 0.95


def main() -> None:
    """Runs one part of the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    tables = parts.add_parser("tables", help="what a run folder of `mamba-eco train` found")
    tables.add_argument("run_dir", type=Path)
    parts.add_parser("teams", help="joint against one team at a time; settings as for mamba-eco")
    asked, overrides = parser.parse_known_args()
    if asked.part == "tables":
        if overrides:
            parser.error(f"unknown arguments: {' '.join(overrides)}")
        print("\n".join(trained(asked.run_dir)))
        return
    use_compilation_cache()
    use_all_cores()
    print("\n".join(teams(prepare(load_config(HERE / "config.yaml", overrides)))))


# ---- the trained platform


def trained(path: Path) -> list[str]:
    """Tables of a finished run."""
    run = load_run(path)
    if run.summary is None or "levers" not in run.summary:
        raise SystemExit(f"{path} is not finished; run mamba-eco train on it first")
    told, goal = run.summary, list(dict.fromkeys([*run.summary["minimise"], *run.summary["keep"]]))
    places = {"here": told["objectives"]} | {name: each["objectives"] for name, each in told["transfer"].items()}
    lines = [f"| objective | wanted | {' | '.join(places)} |", f"|---|---|{'---|' * len(places)}"]
    for name in [*goal, *(name for name in NAMES if name not in goal)]:
        wanted = "better" if name in told["minimise"] else ""
        if name in told["keep"]:
            limit = f"{'at least' if better(name) > 0 else 'at most'} {100 * told['keep'][name]:g} %"
            wanted = f"{wanted}, {limit}" if wanted else limit
        cells = [change(place[name]) for place in places.values()]
        lines.append(f"| {OBJECTIVES[name].label} | {wanted} | {' | '.join(cells)} |")
    lines += [
        "",
        *(f"- {each['sentence']}" for each in told["findings"]),
        "",
        "| lever | unit | before | after |",
        "|---|---|---|---|",
    ]
    for name, lever in told["levers"].items():
        lines.append(f"| {name} | {lever['unit']} | {lever['before']:.3g} | {lever['after']:.3g} |")
    return lines


def change(of: dict[str, Any]) -> str:
    """A change in % of the level before with its interval; in the objective's unit where that level is 0."""
    level = abs(of["before"]["mean"])
    scale, unit = (100.0 / level, " %") if level > 1e-6 else (1.0, "")
    mean, low, high = (scale * of["change"][end] for end in ("mean", "low", "high"))
    sure = "**" if low * high > 0 else ""
    return f"{sure}{mean:+.1f}{unit}{sure} ({low:+.1f} to {high:+.1f})"


def better(name: str) -> float:
    """+1 where more of an objective is healthier."""
    return 1.0 if OBJECTIVES[name].better == "higher" else -1.0


# ---- teams


def teams(job: Job) -> list[str]:
    """Four ways to train one platform, on the same fresh seeds."""
    names, default = job.ecosystem.names, job.inputs.levers
    shared = optimise.estimator_of(
        job.ecosystem, job.inputs, job.config.meta, steps=job.config.steps, evaluate=job.evaluate, key=job.key
    )
    steps = job.config.meta.steps
    platforms: dict[str, Levers] = {"today": default, "joint": tuned(job, default, shared, steps=steps * len(names))}
    say("joint")
    platforms["joint, in brief"] = tuned(job, default, shared)
    say("joint, in brief")
    alone = {}
    for name in names:
        alone[name] = tuned(job, default, shared, only=(name,))[name]
        say(f"{name} alone")
    platforms["apart"] = alone
    turned = default
    for name in names:
        turned = tuned(job, turned, shared, only=(name,))
        say(f"{name} in turn")
    platforms["in turn"] = turned
    platforms["own"] = tuned(job, default, None, goal="own")
    say("own")
    values = evaluation.compared(job, platforms, stop=lambda: False)
    return compared(job, platforms, values)


def tuned(job: Job, start: Levers, estimator: Any, **settings: Any) -> Levers:
    """Levers after training from `start`; the baseline of goal and constraints stays today's platform."""
    config = dataclasses.replace(job.config.meta, **settings)
    trainer = optimise.trainer(
        job.ecosystem,
        job.inputs,
        config,
        steps=job.config.steps,
        evaluate=job.evaluate,
        key=stream(job.key, "teams"),
        own=players.own_metrics(job.ecosystem, job.config.sensitivities.own),
        estimator=estimator,
    )
    state = optimise.start(trainer)._replace(levers=vector.flat(start))
    for _ in range(config.steps):
        state, _ = optimise.step(trainer, state)
    return optimise.levers_of(trainer, state)


def compared(job: Job, platforms: dict[str, Levers], values: dict[str, np.ndarray]) -> list[str]:
    """Tables of the platforms against today's, and of what coordination is worth."""
    goal = constraints.goal(job.config.meta.minimise, job.config.meta.keep)
    before, others = values["today"], [name for name in platforms if name != "today"]
    level = before.mean(axis=0)
    wanted = list(dict.fromkeys([*job.config.meta.minimise, *job.config.meta.keep]))
    lines = [f"| in % of today | {' | '.join(others)} |", f"|---|{'---|' * len(others)}"]
    for name in wanted:
        k = NAMES.index(name)
        cells = [
            words(estimate(100.0 * (values[other][:, [k]] - before[:, [k]]) / abs(level[k]), CONFIDENCE))
            for other in others
        ]
        lines.append(f"| {OBJECTIVES[name].label} | {' | '.join(cells)} |")
    gain = {name: evaluation.gains(before, values[name], goal) for name in others}
    lines.append(
        "| **goal** (sum of the relative changes, smaller is better) | "
        + " | ".join(words(estimate(-100.0 * gain[name][:, None], CONFIDENCE)) for name in others)
        + " |"
    )
    broken = {name: violated(job, before, values[name], goal) for name in others}
    lines.append(
        f"| constraints broken (beyond the interval) | {' | '.join(broken[name] or 'none' for name in others)} |"
    )
    steps, count = job.config.meta.steps, len(job.ecosystem.names)
    budget = dict.fromkeys(("joint", "apart", "in turn"), steps * count) | dict.fromkeys(
        ("joint, in brief", "own"), steps
    )
    lines.append(f"| meta-steps, all trainings together | {' | '.join(str(budget[name]) for name in others)} |")
    lines += [
        "",
        "Price of non-coordination: points of the goal that joint training gains more (paired; positive is a price):",
        "",
    ]
    for name in others[1:]:
        price = words(estimate(100.0 * (gain["joint"] - gain[name])[:, None], CONFIDENCE))
        lines.append(f"- {name}: {price}" + (f"; no price, it breaks {broken[name]}" if broken[name] else ""))
    labels = vector.names(platforms["today"])
    table = {name: np.asarray(vector.flat(levers)) for name, levers in platforms.items()}
    lines += ["", f"| lever, moved in unconstrained units | {' | '.join(others)} |", f"|---|{'---|' * len(others)}"]
    for p, label in enumerate(labels):
        moves = [f"{table[name][p] - table['today'][p]:+.2f}" for name in others]
        lines.append(f"| {label} | {' | '.join(moves)} |")
    return lines


def violated(job: Job, before: np.ndarray, after: np.ndarray, goal: constraints.Goal) -> str:
    """Constraints that are broken even at the better end of their interval."""
    level = before.mean(axis=0)
    each = np.array([constraints.violations(level + a - b, level, goal) for a, b in zip(after, before, strict=True)])
    low = estimate(each, CONFIDENCE).low
    return ", ".join(OBJECTIVES[key].label for key, end in zip(job.config.meta.keep, low, strict=True) if end > 0)


def words(found: Estimate) -> str:
    """An estimate of one number with its interval, bold where that leaves out 0."""
    mean, low, high = (float(x[0]) for x in (found.mean, found.low, found.high))
    sure = "**" if low * high > 0 else ""
    return f"{sure}{mean:+.1f}{sure} ({low:+.1f} to {high:+.1f})"


def say(text: str) -> None:
    """Progress."""
    print(f"trained: {text} ({len(jax.devices())} devices)", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
