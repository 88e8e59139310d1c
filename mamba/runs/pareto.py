"""The stage of the Pareto front: platforms for every way to weigh some objectives, and what they jointly gain.

Points are trained wave by wave; after each, `pareto.part.npz` keeps what is done, so that a stopped front goes on where it
was. Which points stand out is decided on some seeds of the sampled model and measured on others, those of the final
evaluation, so that one report has one number for one thing. The volume is that between the front and the baseline: what is
gained in all objectives at once. Levers of meta-training, once there are any, are measured and added.

Whether a point is Pareto-stationary is told by the common descent direction of its objectives and of the constraints that
bind there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mamba import members as mem
from mamba import passing
from mamba.interactions.findings import Finding
from mamba.interactions.statistics import Estimate, estimate
from mamba.meta import constraints, descent, fronts, pareto, vector
from mamba.meta.settings import ParetoConfig
from mamba.objectives import NAMES, OBJECTIVES
from mamba.runs import evaluation, folder, progress, results, stops, training
from mamba.runs.errors import UserError
from mamba.runs.job import Job
from mamba.runs.pictures import fronts as pictures
from mamba.runs.tracking import Tracker
from mamba.streams import stream
from mamba.types import Levers

STAGE = "pareto"
FILE, PART = "pareto.npz", "pareto.part.npz"
BASELINE, EVEN, TRAINED = "baseline", "even", "trained"
# Of the interaction analysis it shares the confidence.
_RESULTS = results.of_stage(
    FILE,
    reads={STAGE: results.ALL, "interactions": ("confidence",)},
    indifferent=(
        "evaluation.transfer",
        *(f"meta.{name}" for name in ("steps", "minimise", "goal", "spread", "worlds", "level")),
    ),
)
digest = functools.partial(results.digest, _RESULTS)
is_stale = functools.partial(results.is_stale, _RESULTS)
_KEYS = 8  # rollouts of a certificate, rounded up to a multiple of `meta.seeds`
_BINDS = -0.25  # slacks: a constraint above counts as one that binds


def check(job: Job) -> None:
    """Refuses objectives that do not exist, and settings that train no front.

    Raises:
        UserError: one line that names the setting.
    """
    if job.config.pareto.divisions:
        _search(job)


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
    search = _search(job)

    def extend(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        (path / PART).unlink(missing_ok=True)  # the whole is written
        return (
            arrays
            if trained is None
            else _with(job, search, arrays, np.asarray(vector.flat(trained), np.float64), stop)
        )

    try:
        arrays, added = results.completed(
            _RESULTS, job, path, measure=lambda: _found(job, search, path, stop), extend=extend
        )
    except stops.Stopped:
        return None
    if added:
        _log(job, arrays, tracker)
    return arrays


def _search(job: Job) -> pareto.Search:
    config: ParetoConfig = job.config.pareto
    try:
        return pareto.search(
            job.ecosystem,
            job.inputs,
            job.config.meta,
            objectives=config.objectives,
            divisions=config.divisions,
            smoothing=config.smoothing,
            steps=job.config.steps,
            evaluate=job.evaluate,
            key=stream(job.key, STAGE),
            layout=mem.layout(),
        )
    except ValueError as error:
        section = STAGE if str(error).startswith("objectives") else "meta"
        raise UserError(f"{section}.{error}") from error


# ---- training


def _found(job: Job, search: pareto.Search, path: Path, stop: Callable[[], bool]) -> dict[str, np.ndarray]:
    """The front, and what was measured of it.

    Raises:
        Stopped: a signal arrived while something was still to be done.
    """
    config: ParetoConfig = job.config.pareto
    order = pareto.waves(search.grid)
    dropped = [name for name in job.config.meta.keep if name in config.objectives]
    points, scale = _part(job, path / PART, search)
    done = 0 if points is None else sum(not np.isnan(points.levers[wave]).any() for wave in order)
    lengths = [config.steps if number < 2 else config.warm_steps for number in range(len(order))]
    freed = (
        f"; {', '.join(dropped)} {'is' if len(dropped) == 1 else 'are'} traded off here, not kept" if dropped else ""
    )
    progress.say(f"{len(search.grid.weights)} platforms between {' and '.join(config.objectives)}{freed}")
    with progress.progress(sum(lengths), "front, meta-step", done=sum(lengths[:done])) as meter:

        def told(index: int, utilities: np.ndarray) -> None:
            del index, utilities
            meter.advance()
            stops.heed(stop)

        def kept(points: pareto.Points, scale: pareto.Scale) -> None:
            folder.write_arrays(path / PART, {"digest": np.array(digest(job)), **points._asdict(), **scale._asdict()})

        if done < len(order):
            stops.heed(stop)
        points, scale = pareto.front(
            search,
            steps=config.steps,
            warm_steps=config.warm_steps,
            seeds=config.seeds,
            key=stream(job.key, STAGE),
            known=points,
            scaled=scale,
            done=kept,
            told=told,
        )
    theta = np.asarray(vector.flat(job.inputs.levers), np.float64)
    platforms = np.concatenate([theta[None], points.levers])
    units = training.lever_units(job)
    arrays: dict[str, np.ndarray] = {
        "digest": np.array(digest(job)),
        "names": np.array(job.ecosystem.names),
        "objectives": np.array(NAMES),
        "traded": np.array(config.objectives),
        "dropped": np.array(dropped, str),
        "kept": search.trainer.goal.kept,
        "kept_share": search.trainer.goal.share,
        "levers": np.array(vector.names(job.inputs.levers)),
        "units": np.array([units[name] for name in vector.names(job.inputs.levers)]),
        "weights": search.grid.weights,
        "parent": search.grid.parent,
        "wave": search.grid.wave,
        **scale._asdict(),
        "point_levers": points.levers,
        "multipliers": points.multipliers,
        "shares": points.shares,
        "blocks": np.array(passing.blocks(job.ecosystem)),
        "start_levers": theta,
        "default": _meaningful(job, theta),
        "meaningful": np.stack([_meaningful(job, each) for each in points.levers]),
        "selection": _measured(job, search, platforms, stop, fresh=False),
        "fresh": _measured(job, search, platforms, stop, fresh=True),
    }
    arrays |= _judged(job, search, arrays)
    first = int(order[1][0]) if len(order) > 1 else int(order[0][0])
    for name, at, which in ((BASELINE, theta, 0), (EVEN, points.levers[first], 1 + first)):
        passed = search.shares if name == BASELINE else points.shares[first]
        found = _certified(job, search, at, arrays["fresh"][which], arrays["fresh"][0], passed, stop)
        arrays |= {f"{part}_{name}": value for part, value in found.items()}
    return arrays | {"even": np.array(first)}


def _part(job: Job, target: Path, search: pareto.Search) -> tuple[pareto.Points | None, pareto.Scale | None]:
    """What a stopped process trained; nothing where it is of another configuration."""
    if not target.exists():
        return None, None
    arrays = folder.read_arrays(target)
    wanted = (*pareto.Points._fields, *pareto.Scale._fields)
    if missing := [name for name in ("digest", *wanted) if name not in arrays]:
        raise UserError(f"{target}: lacks {', '.join(missing)}; remove it and run again")
    if str(arrays["digest"]) != digest(job) or len(arrays["levers"]) != len(search.grid.weights):
        return None, None
    points = pareto.Points(*(arrays[name] for name in pareto.Points._fields))
    return points, pareto.Scale(*(arrays[name] for name in pareto.Scale._fields))


def _meaningful(job: Job, theta: np.ndarray) -> np.ndarray:
    """Levers in their meaningful range, [P]."""
    told = training.meaningful_levers(job, vector.unflat(job.inputs.levers)(jnp.asarray(theta, jnp.float32)))
    return np.array([told[name] for name in vector.names(job.inputs.levers)])


# ---- measuring


def _measured(
    job: Job, search: pareto.Search, thetas: np.ndarray, stop: Callable[[], bool], *, fresh: bool
) -> np.ndarray:
    """Outcomes [N, S, J + A] of platforms on the sampled model, on the seeds of the evaluation or on others."""
    if fresh:
        keys = jax.random.split(stream(job.key, evaluation.STAGE), job.config.evaluation.seeds)
    else:
        keys = jax.random.split(stream(stream(job.key, STAGE), "selection"), job.config.pareto.seeds)
    total = len(thetas) * len(keys)
    label = f"front: {total:,} rollouts on {'fresh seeds' if fresh else 'seeds to choose by'}"
    stops.heed(stop)
    with progress.progress(total, label) as meter:

        def evaluate(members):
            return job.evaluate(members, stops.counted(meter, stop, total=total))

        return pareto.measured(search.trainer._replace(evaluate=evaluate), thetas, keys)


def relative(values: np.ndarray, baseline: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Relative worsening of some objectives on every seed, paired with the baseline, [..., S, m].

    The difference is taken within a seed and divided by the mean level of the baseline.

    Args:
        values: [..., S, >= J].
        baseline: [S, >= J].
        index: [m] of the objectives.
    """
    level = np.broadcast_to(baseline.mean(axis=0), baseline.shape)
    return constraints.harms(values, level, index) - constraints.harms(baseline, level, index)


def changes(arrays: Mapping[str, np.ndarray], index: np.ndarray, *, confidence: float) -> Estimate:
    """Change of some objectives against the baseline, in shares of its level and with its own sign, [F, m]; fresh seeds."""
    fresh = np.asarray(arrays["fresh"], np.float64)
    worse = constraints.harm_sign(index) * relative(fresh[1:], fresh[0], index)
    return estimate(np.moveaxis(worse, 1, 0), confidence)


def _violations(values: np.ndarray, baseline: np.ndarray, goal: constraints.Goal, confidence: float) -> Estimate:
    """Constraint values [N, K] in slacks, positive is violated, from outcomes [N, S, >= J] and [S, >= J]; paired."""
    level = baseline[:, : len(NAMES)].mean(axis=0)
    away = values[..., : len(NAMES)] - baseline[:, : len(NAMES)]
    table = np.array([[constraints.violations(level + one, level, goal) for one in platform] for platform in away])
    return estimate(np.moveaxis(table, 1, 0), confidence)


def _judged(job: Job, search: pareto.Search, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Which points hold their constraints and stand out, and what they jointly gain."""
    confidence, goal, index = job.config.interactions.confidence, search.trainer.goal, search.objectives
    chosen_by, fresh = arrays["selection"], arrays["fresh"]
    seen = _violations(chosen_by[1:], chosen_by[0], goal, confidence)
    after = _violations(fresh[1:], fresh[0], goal, confidence)
    allowed = ~np.any(seen.low > 0, axis=1)
    volume = fronts.measured(
        relative(chosen_by[1:], chosen_by[0], index)[allowed],
        relative(fresh[1:], fresh[0], index)[allowed],
        reference=np.zeros(len(index)),
        confidence=confidence,
    )
    chosen = np.zeros(len(allowed), bool)
    chosen[np.flatnonzero(allowed)[volume.chosen]] = True
    told = {f"volume_{name}": np.array(getattr(volume, name)) for name in volume._fields if name != "chosen"}
    parts = {f"violation_{part}": getattr(after, part) for part in ("mean", "low", "high")}
    return told | parts | {"allowed": allowed, "chosen": chosen, "violates": np.any(after.low > 0, axis=1)}


def _certified(
    job: Job,
    search: pareto.Search,
    theta: np.ndarray,
    values: np.ndarray,
    baseline: np.ndarray,
    shares: np.ndarray,
    stop: Callable[[], bool],
) -> dict[str, np.ndarray]:
    """The common descent direction of the objectives and of the constraints that bind, from rollouts of their own."""
    stops.heed(stop)
    goal, level = search.trainer.goal, baseline.mean(axis=0)
    violation = constraints.violations(values.mean(axis=0)[: len(NAMES)], level[: len(NAMES)], goal)
    index = np.concatenate([search.objectives, goal.kept[violation > _BINDS]])
    rows = np.zeros((len(index), len(level)))
    rows[:, : len(NAMES)] = [constraints.of_harms(each, level[: len(NAMES)], index) for each in np.eye(len(index))]
    seeds = job.config.meta.seeds
    keys = jax.random.split(stream(stream(job.key, STAGE), "certificate"), -(-_KEYS // seeds) * seeds)
    slopes = pareto.certificate_slopes(search, theta, rows, shares, keys)
    nan = float("nan")
    found = descent.Certificate(nan, nan, nan, nan, nan, np.full(len(rows), nan))
    if np.all(np.isfinite(slopes)):  # where derivatives explode there is nothing to certify, and the front stays
        found = descent.certificate(slopes, confidence=job.config.interactions.confidence)
    return {
        **{f"certificate_{name}": np.array(getattr(found, name)) for name in found._fields},
        "certificate_objectives": index,
    }


def _with(
    job: Job, search: pareto.Search, arrays: dict[str, np.ndarray], theta: np.ndarray, stop: Callable[[], bool]
) -> dict[str, np.ndarray]:
    """The results with the trained platform, the very same where it is there already."""
    if "trained_levers" in arrays and np.array_equal(arrays["trained_levers"], theta):
        return arrays
    values = _measured(job, search, theta[None], stop, fresh=True)[0]
    found = _certified(job, search, theta, values, arrays["fresh"][0], search.shares, stop)
    return {
        **arrays,
        "trained_levers": theta,
        "trained_fresh": values,
        **{f"{part}_{TRAINED}": value for part, value in found.items()},
    }


# ---- telling


def picture(arrays: Mapping[str, np.ndarray], *, confidence: float) -> pictures.Front:
    """The front in the first two objectives, for the page and for the tracker."""
    index = np.array([NAMES.index(str(name)) for name in arrays["traded"]])[:2]
    told = changes(arrays, index, confidence=confidence)
    points = [
        pictures.Point(
            words=_weighed(arrays, f),
            mean=100.0 * told.mean[f],
            low=100.0 * told.low[f],
            high=100.0 * told.high[f],
            kind="violates"
            if arrays["violates"][f] or not arrays["allowed"][f]
            else "chosen"
            if arrays["chosen"][f]
            else "beaten",
        )
        for f in range(len(arrays["weights"]))
    ]
    if "trained_fresh" in arrays:
        fresh = np.asarray(arrays["fresh"], np.float64)[0]
        change = constraints.harm_sign(index) * relative(np.asarray(arrays["trained_fresh"]), fresh, index)
        one = estimate(change, confidence)
        points.append(
            pictures.Point("trained for the goal of the run", 100 * one.mean, 100 * one.low, 100 * one.high, "trained")
        )
    about = [OBJECTIVES[NAMES[i]] for i in index]
    return pictures.Front([each.label for each in about], [each.better for each in about], points)


def _weighed(arrays: Mapping[str, np.ndarray], f: int) -> str:
    labels = [OBJECTIVES[str(name)].label for name in arrays["traded"]]
    return ", ".join(f"{100 * share:.3g} % {label}" for label, share in zip(labels, arrays["weights"][f], strict=True))


def _log(job: Job, arrays: Mapping[str, np.ndarray], tracker: Tracker) -> None:
    confidence = job.config.interactions.confidence
    index = np.array([NAMES.index(str(name)) for name in arrays["traded"]])
    told = changes(arrays, index, confidence=confidence)
    row = {
        f"{STAGE}/hypervolume{name}": float(arrays[f"volume_{part}"])
        for name, part in (("", "value"), ("_low", "low"), ("_high", "high"), ("_curse", "curse"))
    }
    row |= {f"{STAGE}/points": int(arrays["chosen"].sum())}
    row |= {
        f"{STAGE}/certificate/{place}": float(arrays[f"certificate_squared_{place}"])
        for place in (BASELINE, EVEN, TRAINED)
        if f"certificate_squared_{place}" in arrays
    }
    tracker.log(0, row)
    tracker.log_figure(0, f"{STAGE}/front", pictures.front(picture(arrays, confidence=confidence)).figure)
    columns = ["chosen", "violates"]
    columns += [f"{part}/{name}" for name in arrays["traded"] for part in ("weight", "change", "low", "high")]
    rows = [
        [bool(arrays["chosen"][f]), bool(arrays["violates"][f])]
        + [
            float(each)
            for m in range(len(index))
            for each in (arrays["weights"][f, m], told.mean[f, m], told.low[f, m], told.high[f, m])
        ]
        for f in range(len(arrays["weights"]))
    ]
    tracker.log_table(0, f"{STAGE}/points_table", columns, rows)


def findings(job: Job, arrays: Mapping[str, np.ndarray]) -> list[Finding]:
    """How far apart the ends of the front are, and what its points gain at once."""
    confidence = job.config.interactions.confidence
    index = np.array([NAMES.index(str(name)) for name in arrays["traded"]])
    told = changes(arrays, index, confidence=confidence)
    allowed = np.flatnonzero(~np.asarray(arrays["violates"]))
    # Ends are picked on the seeds of the selection and told on fresh ones: what was luck in picking is not in what is told.
    level = arrays["selection"][0].mean(axis=0)
    worse = constraints.harms(arrays["selection"][1:].mean(axis=1), level, index)
    if len(allowed) == 0:
        return []
    parts = []
    labels = [OBJECTIVES[NAMES[i]].label for i in index]
    for m in range(len(index)):
        f = allowed[worse[allowed, m].argmin()]
        ends = f"{100 * told.low[f, m]:+.1f} to {100 * told.high[f, m]:+.1f}"
        others = [f"{labels[n]} {100 * told.mean[f, n]:+.1f} %" for n in range(len(index)) if n != m]
        size = f"{100 * told.mean[f, m]:+.1f} % ({100 * confidence:g} % CI {ends})"
        parts.append(f"{labels[m]} reaches {size} with {', '.join(others)}")
    value, low, high = (float(arrays[f"volume_{part}"]) for part in ("value", "low", "high"))
    if low > 0:
        joint = (
            f"{int(np.sum(arrays['chosen']))} of {len(worse)} platforms stand out, and some improve all of them at once"
        )
    else:
        joint = "that any of them improves all at once is not resolved"
    sentence = f"Along the front, {', and '.join(parts)}; {joint} (fresh seeds, sampled model)."
    return [Finding(STAGE, sentence, "", value, low, high)]
