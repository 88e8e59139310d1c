"""The final comparison: default against trained levers on fresh seeds of the sampled model, here and in other communities."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from mamba import members as mem
from mamba.interactions import statistics
from mamba.meta import constraints, robust
from mamba.objectives import NAMES
from mamba.runs import progress, stops
from mamba.runs.errors import UserError
from mamba.runs.job import Job, prepare
from mamba.streams import stream
from mamba.types import Levers
from mamba.world.parameters import WorldParameters

STAGE = "evaluation"
IN_WORLDS = " in sampled worlds"  # where robust training is judged, too


def compared(
    job: Job,
    platforms: Mapping[str, Levers],
    *,
    stop: Callable[[], bool],
    where: str = "",
    worlds: WorldParameters | None = None,
) -> dict[str, np.ndarray]:
    """Objectives of several platforms on the same fresh seeds, name -> [S, J].

    Args:
        job: the job.
        platforms: name -> levers.
        stop: whether a signal asks to stop.
        where: words for the progress bar; other words, other seeds.
        worlds: leaves [S], the world of every seed; None takes that of the job.

    Raises:
        Stopped: a signal arrived.
    """
    everyone = fresh(job, platforms, where=where, worlds=worlds)
    total = len(everyone.keys)
    with progress.progress(total, f"evaluation{where}: {total} rollouts on fresh seeds") as meter:
        values = job.evaluate(everyone, stops.counted(meter, stop, total=total))
    return dict(zip(platforms, by_platform(values, len(platforms)), strict=True))


def fresh(
    job: Job, platforms: Mapping[str, Levers], *, where: str = "", worlds: WorldParameters | None = None
) -> mem.Members:
    """The members that `compared` compares: every platform on the same fresh seeds, one platform after the other."""
    # Other communities, other seeds: their means are independent.
    keys = jax.random.split(stream(job.key, STAGE + where), job.config.evaluation.seeds)
    return mem.join(*(mem.repeat(job.ecosystem, levers, keys, parameters=worlds) for levers in platforms.values()))


def by_platform(values: np.ndarray, count: int) -> np.ndarray:
    """Objectives [count, S, J] of the members of `fresh`, from their outcomes [count S, J + A]."""
    return np.asarray(values, np.float64)[:, : len(NAMES)].reshape(count, -1, len(NAMES))


def row(
    here: Mapping[str, np.ndarray], goal: constraints.Goal, *, worlds: Mapping[str, Any] | None = None
) -> dict[str, float]:
    """What is logged of a comparison.

    Args:
        here: `compared` of the platforms `before` and `after`.
        goal: what was minimised.
        worlds: `over_worlds`; None where training was not robust.
    """
    told = {
        f"{STAGE}/{when}/{name}": float(values[:, k].mean())
        for when, values in here.items()
        for k, name in enumerate(NAMES)
    }
    told[f"{STAGE}/utility"] = -float(gains(here["before"], here["after"], goal).mean())
    return told if worlds is None else told | {f"worlds/{part}": worlds[part]["mean"] for part in ("mean", "tail")}


def elsewhere(config: Any, dataset: str) -> Job:
    """The same platform in another community.

    Raises:
        UserError: the data cannot be used.
    """
    scenario = dataclasses.replace(config.scenario, dataset=dataset)
    try:
        return prepare(dataclasses.replace(config, scenario=scenario))
    except UserError as error:
        raise UserError(f"evaluation.transfer: {str(error).removeprefix('scenario.dataset: ')}") from error


def sampled_worlds(job: Job) -> WorldParameters:
    """The worlds that robust training is judged in: one for every fresh seed, none of them trained in."""
    config = job.config
    key = stream(stream(job.key, STAGE), "worlds")
    return robust.parameter_samples(
        key, job.inputs.parameters, spread=config.meta.spread, count=config.evaluation.seeds
    )


def over_worlds(
    runs: Mapping[str, np.ndarray], goal: constraints.Goal, *, level: float, confidence: float
) -> dict[str, Any]:
    """What training changed in sampled worlds, for the summary.

    Args:
        runs: `compared` of the platforms `before` and `after`, every seed in a world of its own.
        goal: what was minimised.
        level: of the conditional value at risk.
        confidence: of the intervals.

    Returns:
        `mean` change of the goal, and `tail`: its mean in the worst share 1 - level of the worlds, picked by the same runs, so
        that it also holds the luck of the seeds and is, if anything, too pessimistic. Intervals are percentiles of a bootstrap
        over worlds. All are NaN where the goal is in one of the worlds.
    """
    before, after = runs["before"], runs["after"]
    change = -gains(before, after, goal)
    again = change[np.random.default_rng(0).integers(0, len(change), (2000, len(change)))]
    ends = [50.0 * (1.0 - confidence), 50.0 * (1.0 + confidence)]

    def stated(value: float, samples: np.ndarray) -> dict[str, float]:
        low, high = np.percentile(samples, ends)
        return {"mean": float(value), "low": float(low), "high": float(high)}

    tail = float(robust.cvar(change, level)[0])
    return {
        "level": level,
        "mean": stated(float(change.mean()), again.mean(axis=1)),
        "tail": stated(tail, robust.cvar(again, level)[0]),
    }


def gains(before: np.ndarray, after: np.ndarray, goal: constraints.Goal) -> np.ndarray:
    """What training gained on every seed, [S]: the fall of the goal's utility, relative to the mean baseline."""
    baseline = before.mean(axis=0)
    return np.array(
        [
            constraints.utility(b, baseline, goal) - constraints.utility(a, baseline, goal)
            for b, a in zip(before, after, strict=True)
        ]
    )


def surviving(
    there: Mapping[str, np.ndarray], here: Mapping[str, np.ndarray], goal: constraints.Goal, *, confidence: float
) -> tuple[statistics.Estimate, statistics.Estimate]:
    """The share of the gain at home that survives there, and the gain at home; scalars, arguments as for `told`."""
    away, home = (gains(each["before"], each["after"], goal) for each in (there, here))
    of_home = statistics.estimate(home[:, None], confidence)
    return statistics.ratio(away, home, confidence=confidence), statistics.Estimate(*(part[0] for part in of_home))


def broken(there: Mapping[str, np.ndarray], goal: constraints.Goal, *, confidence: float) -> dict[str, float]:
    """Kept objectives that are beyond their limit in another community with their whole interval, and their change in per cent."""
    pairs = zip(there["after"], there["before"], strict=True)
    over = statistics.estimate(np.array([constraints.violations(*pair, goal) for pair in pairs]), confidence)
    before, after = (there[when].mean(axis=0)[goal.kept] for when in ("before", "after"))
    changes = 100.0 * (after - before) / np.abs(before)
    beyond = over.low > 0
    return {NAMES[k]: float(change) for k, change, is_ in zip(goal.kept, changes, beyond, strict=True) if is_}


def told(
    there: Mapping[str, np.ndarray], here: Mapping[str, np.ndarray], goal: constraints.Goal, *, confidence: float
) -> dict[str, Any]:
    """A comparison in another community, for the summary.

    Args:
        there: `compared` of the platforms `before` and `after`.
        here: the same where the levers were trained.
        goal: what was minimised.
        confidence: of the intervals.

    Returns:
        `objectives` (before, after and change, each with its interval), `share` of the gain that survives, and the gain at
        `home`.
    """
    before, after = there["before"], there["after"]
    levels = {when: statistics.estimate(values, confidence) for when, values in there.items()}
    levels["change"] = statistics.estimate(after - before, confidence)
    share, home = surviving(there, here, goal, confidence=confidence)
    return {
        "objectives": {
            name: {when: interval(level, k) for when, level in levels.items()} for k, name in enumerate(NAMES)
        },
        "share": interval(share),
        "home": interval(home),
    }


def interval(estimate: statistics.Estimate, *index: int) -> dict[str, float | None]:
    """One entry of an estimate, for the summary; None where an end is unbounded."""
    parts = {part: float(getattr(estimate, part)[index]) for part in ("mean", "low", "high")}
    return {part: value if np.isfinite(value) else None for part, value in parts.items()}
