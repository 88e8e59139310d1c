"""The stage of performativity: what comes of teams that each retrain for their own metric.

Three points and the default are compared on the same fresh seeds of the sampled model, the seeds of the final evaluation: `naive`
after one retraining on the data of the default levers, `stable` where repeated retraining ended, and `trained`, the levers of
meta-training, once there are any. Retraining follows one-step derivatives of the expected mode; every one starts at the default
levers, inside a box around them, so that it depends on the data alone. What a team's metric gains must pay for moving the levers,
too: without a cost whatever always improves it goes to the edge of the box, and naive and stable are one corner.

`performativity.npz` holds the points and what was measured there. Trained levers that come later, or others, are measured and
added.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mamba import members as mem
from mamba.algorithms import base
from mamba.interactions.findings import Finding
from mamba.interactions.statistics import Estimate, estimate
from mamba.meta import constraints, performative, players, systems, vector
from mamba.meta.settings import PerformativityConfig
from mamba.objectives import NAMES
from mamba.runs import evaluation, progress, results, stops
from mamba.runs.errors import UserError
from mamba.runs.job import Job
from mamba.runs.tracking import Tracker
from mamba.streams import stream
from mamba.types import Levers

STAGE = "performativity"
FILE = "performativity.npz"
DEFAULT, NAIVE, STABLE, TRAINED = POINTS = ("default", "naive", "stable", "trained")
_RESULTS = results.of_stage(
    FILE,
    reads={STAGE: results.ALL, "interactions": ("confidence",), "sensitivities": ("own",)},
    indifferent=("evaluation.transfer",),
)
digest = functools.partial(results.digest, _RESULTS)
is_stale = functools.partial(results.is_stale, _RESULTS)
_STILL = 0.02  # of the radius: a move of the levers that counts as none


def check(job: Job) -> None:
    """Refuses own metrics that do not exist.

    Raises:
        UserError: one line that names the setting.
    """
    try:
        players.own_metrics(job.ecosystem, job.config.sensitivities.own)
    except ValueError as error:
        raise UserError(f"sensitivities.{error}") from error


def run(
    job: Job, path: Path, *, trained: Levers | None, tracker: Tracker, stop: Callable[[], bool]
) -> dict[str, np.ndarray] | None:
    """Results, from the folder where they are there; None where a stop left something out.

    Args:
        job: the job.
        path: run folder.
        trained: levers of meta-training; None where there are none (yet).
        tracker: where to log.
        stop: whether a signal asks to stop.

    Raises:
        UserError: the file is damaged.
    """

    def extend(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return arrays if trained is None else _with(job, arrays, np.asarray(vector.flat(trained), np.float64), stop)

    try:
        arrays, added = results.completed(_RESULTS, job, path, measure=lambda: _measured(job, stop), extend=extend)
    except stops.Stopped:
        return None
    if added:
        tracker.log(0, _row(job, arrays))
    return arrays


def gaps(arrays: Mapping[str, np.ndarray], *, confidence: float) -> dict[tuple[str, str], Estimate]:
    """Paired gaps of all outcomes [J + A] between neighbouring points, first minus second."""
    values = dict(zip(map(str, arrays["points"]), np.asarray(arrays["values"], np.float64), strict=True))
    return {(a, b): estimate(values[a] - values[b], confidence) for a, b in _pairs(arrays)}


def _pairs(arrays: Mapping[str, np.ndarray]) -> list[tuple[str, str]]:
    """Neighbouring points that are there."""
    there = [str(point) for point in arrays["points"]]
    return [pair for pair in pairwise(POINTS) if set(pair) <= set(there)]


def goal_gaps(
    arrays: Mapping[str, np.ndarray], minimise: Mapping[str, float], *, confidence: float
) -> dict[tuple[str, str], Estimate]:
    """As `gaps`, of the goal's weighted relative change against the default (without its constraints); scalars."""
    goal = constraints.goal(minimise, {})
    values = np.asarray(arrays["values"], np.float64)[..., : len(NAMES)]
    baseline = values[0].mean(axis=0)
    utilities = {
        str(point): np.array([constraints.utility(each, baseline, goal) for each in some])
        for point, some in zip(arrays["points"], values, strict=True)
    }
    return {(a, b): estimate(utilities[a] - utilities[b], confidence) for a, b in _pairs(arrays)}


def _measured(job: Job, stop: Callable[[], bool]) -> dict[str, np.ndarray]:
    """Naive and stable points of whoever plays, and what they bring about.

    Raises:
        Stopped: a signal arrived while something was still to be done.
    """
    config: PerformativityConfig = job.config.performativity
    own = players.own_metrics(job.ecosystem, job.config.sensitivities.own)
    owner = vector.owner(job.ecosystem, job.inputs.levers)
    start = np.asarray(vector.flat(job.inputs.levers), np.float64)
    key = stream(job.key, STAGE)
    default = _evaluated(job, {DEFAULT: start}, stop)
    weights = players.loss_weights(own, default[0])
    turner = players.players_of(owner, weights)
    arrays: dict[str, np.ndarray] = {
        "digest": np.array(digest(job)),
        "names": np.array(job.ecosystem.names),
        "objectives": np.array(NAMES),
        "levers": np.array(vector.names(job.inputs.levers)),
        "units": np.array(_units(job)),
        "own_row": own.row,
        "own_sign": own.sign,
        "players": turner,
        "radius": np.array(config.radius),
        "still": np.array(_STILL * config.radius),
    }
    playing = np.unique(turner[turner != vector.NOBODY])
    if len(playing) == 0:
        return arrays | _points(job, {DEFAULT: start}, default)
    # Whoever has nothing to turn, or nothing to turn it for, need not be differentiated.
    compact = np.where(turner == vector.NOBODY, vector.NOBODY, np.searchsorted(playing, turner))
    expected = systems.platform(job.ecosystem)
    slopes = jax.jit(performative.slopes(expected, steps=job.config.steps))
    what = {"players": compact, "weights": weights[playing]}
    slope = performative.slope(slopes, job.inputs, **what, key=stream(key, "retraining"), keys=config.seeds)
    price = 2.0 * config.cost / config.radius**2
    slope = performative.charged(slope, start, players=turner, price=price)

    stops.heed(stop)
    progress.say(f"retraining of {len(playing)} teams on their own data, {config.rounds} rounds at most")
    with progress.progress(config.rounds * config.steps, "retraining") as meter:

        def heeding(deployed: np.ndarray, theta: np.ndarray, index: int) -> np.ndarray:
            stops.heed(stop)
            found = slope(deployed, theta, index)
            meter.advance()
            return found

        found = performative.stable(
            heeding,
            start,
            solver=performative.adam(radius=config.radius, steps=config.steps, centre=start),
            rounds=config.rounds,
            tolerance=_STILL * config.radius,
            anew=True,
        )
    stops.heed(stop)
    naive, stable = found.path[1], found.levers
    values = _evaluated(job, {NAIVE: naive, STABLE: stable}, stop)
    stops.heed(stop)
    progress.say("what the first retraining promised each team")
    return {
        **arrays,
        **_points(job, {DEFAULT: start, NAIVE: naive, STABLE: stable}, np.concatenate([default, values])),
        "playing": playing,
        "promised": _promised(job, start, naive, what),
        "path": found.path,
        "moves": found.moves,
        "ratios": found.ratios,
        **{name: np.array(getattr(found, name)) for name in ("rate", "left", "converged", "diverges")},
    }


def _promised(job: Job, start: np.ndarray, naive: np.ndarray, what: Mapping[str, np.ndarray]) -> np.ndarray:
    """By what share its own loss would fall on the data of the default levers, on the sampled model, [S, k]; paired."""
    sampled = systems.platform(job.ecosystem, mode="sampled")
    run = jax.jit(performative.risks(sampled, steps=job.config.steps))
    here = jnp.asarray(start, jnp.float32)
    turner, weights = jnp.asarray(what["players"]), jnp.asarray(what["weights"], jnp.float32)
    keys = _keys(job)
    before, after = (
        np.asarray(run(job.inputs, here, jnp.asarray(theta, jnp.float32), turner, weights, keys), np.float64)
        for theta in (start, naive)
    )
    return before - after


def _keys(job: Job) -> jax.Array:
    """Those of the final evaluation, so that one report has one number for one thing."""
    return jax.random.split(stream(job.key, evaluation.STAGE), job.config.evaluation.seeds)


def _evaluated(job: Job, points: Mapping[str, np.ndarray], stop: Callable[[], bool]) -> np.ndarray:
    """Outcomes of some lever vectors on the fresh seeds of the sampled model, [N, S, J + A]."""
    keys, restore = _keys(job), vector.unflat(job.inputs.levers)
    everyone = mem.join(
        *(mem.repeat(job.ecosystem, restore(jnp.asarray(each, jnp.float32)), keys) for each in points.values())
    )
    total = len(everyone.keys)
    with progress.progress(total, f"{' and '.join(points)} levers: {total:,} rollouts on fresh seeds") as meter:
        values = job.evaluate(everyone, stops.counted(meter, stop, total=total))
    return np.asarray(values, np.float64).reshape(len(points), len(keys), -1)


def _points(job: Job, points: Mapping[str, np.ndarray], values: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "points": np.array(list(points)),
        "point_levers": np.stack(list(points.values())),
        "meaningful": np.stack([_meaningful(job, each) for each in points.values()]),
        "values": values,
    }


def _with(
    job: Job, arrays: dict[str, np.ndarray], trained: np.ndarray, stop: Callable[[], bool]
) -> dict[str, np.ndarray]:
    """The results with the trained point, the very same where it is there already."""
    points = dict(zip((str(each) for each in arrays["points"]), arrays["point_levers"], strict=True))
    if TRAINED in points and np.array_equal(points[TRAINED], trained):
        return arrays
    values = [each for point, each in zip(points, arrays["values"], strict=True) if point != TRAINED]
    points = {point: each for point, each in points.items() if point != TRAINED} | {TRAINED: trained}
    fresh = _evaluated(job, {TRAINED: trained}, stop)
    return {**arrays, **_points(job, points, np.concatenate([np.stack(values), fresh]))}


def _meaningful(job: Job, theta: np.ndarray) -> np.ndarray:
    """Levers in their meaningful range, [P]; those of a policy as they are."""
    levers = dict(vector.unflat(job.inputs.levers)(jnp.asarray(theta, jnp.float32)))
    for name, algorithm in zip(job.ecosystem.names, job.ecosystem.algorithms, strict=True):
        if name in levers:
            levers[name] = base.meaningful(levers[name], algorithm.bounds)
    return np.asarray(vector.flat(levers), np.float64)


def _units(job: Job) -> list[str]:
    bounds = {name: each.bounds for name, each in zip(job.ecosystem.names, job.ecosystem.algorithms, strict=True)}
    parts = ((*name.split("/"), "") for name in vector.names(job.inputs.levers))
    return [bounds[first][second].unit if first in bounds else "" for first, second, *_ in parts]


def _row(job: Job, arrays: Mapping[str, np.ndarray]) -> dict[str, float]:
    """What is tracked: the means of the objectives at every point, and how retraining went."""
    mean = np.asarray(arrays["values"]).mean(axis=1)
    row = {
        f"{STAGE}/{point}/{name}": float(mean[n, k])
        for n, point in enumerate(arrays["points"])
        for k, name in enumerate(NAMES)
    }
    return row | {f"{STAGE}/{name}": float(arrays[name]) for name in ("rate", "converged") if name in arrays}


# ---- in words


def settled(arrays: Mapping[str, np.ndarray]) -> str:
    """How repeated retraining ended: `settled`, `grew` (moves grew), or `unsettled` (rounds were over before)."""
    if bool(arrays["converged"]):
        return "settled"
    return "grew" if bool(arrays["diverges"]) else "unsettled"


def course(arrays: Mapping[str, np.ndarray]) -> str:
    """How repeated retraining went, as the predicate of `teams`."""
    rounds, rate = len(arrays["moves"]), float(arrays["rate"])
    each = f", each moving the levers {rate:.2f} times as far as the one before" if math.isfinite(rate) else ""
    times = f"{rounds} retraining{'' if rounds == 1 else 's'}"
    how = settled(arrays)
    if how == "settled":
        return f"came to rest after {times}{each}"
    if how == "grew":
        return f"moved further and further over {times}{each}"
    return f"had not come to rest after {times}{each}"


def findings(job: Job, arrays: Mapping[str, np.ndarray]) -> list[Finding]:
    """What repeated retraining, and training through the dynamics, did to the goal; none where nobody plays, or for nothing."""
    if "path" not in arrays or not job.config.meta.minimise:
        return []
    confidence = job.config.interactions.confidence
    found = goal_gaps(arrays, job.config.meta.minimise, confidence=confidence)

    def sized(pair: tuple[str, str]) -> str:
        mean, low, high = (-100.0 * float(getattr(found[pair], part)) for part in ("mean", "high", "low"))
        return f"{mean:+.1f} % ({100 * confidence:g} % CI {low:+.1f} to {high:+.1f})"

    # A gap is first minus second: retraining changes the goal by its negative, and less of the goal is better.
    last = "where they came to rest" if settled(arrays) == "settled" else "where they were then"
    sentence = (
        f"Teams that each retrained for their own metric on their own data {course(arrays)}; the first retraining changed the "
        f"ecosystem goal by {sized((DEFAULT, NAIVE))} and the others by another {sized((NAIVE, STABLE))}"
    )
    told = found[NAIVE, STABLE]
    if (STABLE, TRAINED) in found:
        sentence += f"; training through the dynamics ends {sized((STABLE, TRAINED))} from {last}"
        told = found[STABLE, TRAINED]
    sizes = (float(each) for each in (told.mean, told.low, told.high))
    return [Finding(STAGE, f"{sentence} (fresh seeds, sampled model).", "", *sizes)]
