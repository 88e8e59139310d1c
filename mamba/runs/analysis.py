"""The interaction stage of a run: measures the value table, analyses it, keeps and logs what comes out.

`interactions.npz` holds the raw values and everything derived from them. While the table is being measured, finished seeds
are kept in `interactions.part.npz`, so that a stopped analysis goes on where it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mamba.algorithms.base import no_learning
from mamba.interactions import designs, factorial
from mamba.interactions.statistics import Estimate
from mamba.interactions.verdicts import VERDICTS
from mamba.objectives import NAMES, OBJECTIVES
from mamba.runs import figures, folder, progress
from mamba.runs.config import APART, SERVICES, RunConfig, config_digest
from mamba.runs.errors import UserError
from mamba.runs.job import Job
from mamba.runs.stops import Stopped, between_chunks, counted, heed
from mamba.runs.tracking import Tracker
from mamba.streams import stream
from mamba.types import Levers

STAGE = "interactions"
PART = "interactions.part.npz"
# What the values of the factorial do not depend on.
_INDIFFERENT = (
    *(*SERVICES, *(section for section in APART if section != STAGE), "meta", "evaluation"),
    *(
        f"interactions.{name}"
        for name in (
            "every",
            "confidence",
            "false_discovery_rate",
            "resolution",
            "background",
            "index",
            "learning_pairs",
        )
    ),
)
_ESTIMATES = ("main", "pair", "switch_off", "context_pair")


class Measured(NamedTuple):
    """What was measured.

    Attributes:
        values: [S, R, J] objectives of the whole rollout.
        windows: [S, R, W, J] objectives by window; W may be 0.
        pairs: [K, 2] indices of the pairs that were run at three levels.
        learning: [K, S, 9, J] their values, rows as in `designs.learning`.
    """

    values: np.ndarray
    windows: np.ndarray
    pairs: np.ndarray
    learning: np.ndarray


class Results(NamedTuple):
    """Analysis of a run: what was measured, and what follows from it."""

    measured: Measured
    analysis: factorial.Analysis


def rollouts_digest(config: RunConfig) -> str:
    """Digest of what decides the values of the factorial: not how levers are trained, nor what is logged or kept."""
    return config_digest(config, without=_INDIFFERENT)


def kept(job: Job, path: Path) -> Measured | None:
    """What an earlier process measured; None where there is nothing of this configuration.

    Raises:
        UserError: the file is damaged.
    """
    target = path / folder.INTERACTIONS
    if not target.exists():
        return None
    arrays = folder.read_arrays(target)
    wanted = ("names", "objectives", "values", "windows", "learning_pairs", "learning_values")
    if missing := [name for name in wanted if name not in arrays]:
        raise UserError(f"{target}: lacks {', '.join(missing)}; remove it and run again")
    if not _is_mine(job, arrays):
        return None
    found = Measured(*(arrays[name] for name in wanted[2:]))
    seeds, rows, count = _shape(job)
    shapes = {
        "values": (found.values, (seeds, rows, count)),
        "windows": (found.windows, (seeds, rows, job.config.interactions.windows, count)),
        "learning_values": (found.learning, (len(found.pairs), seeds, 9, count)),
    }
    for name, (array, shape) in shapes.items():
        if array.shape != shape:
            raise UserError(f"{target}: {name} has shape {array.shape}, not {shape}; remove it and run again")
    return found


def _shape(job: Job) -> tuple[int, int, int]:
    rows = len(factorial.plan(len(job.ecosystem.names)).design.gates)
    return job.config.interactions.seeds, rows, len(NAMES)


def _is_mine(job: Job, arrays: Mapping[str, np.ndarray]) -> bool:
    told = (str(arrays.get("digest", "")), arrays["names"].tolist(), arrays["objectives"].tolist())
    return told == (rollouts_digest(job.config), list(job.ecosystem.names), list(NAMES))


def run(job: Job, path: Path, before: Measured | None, *, tracker: Tracker, stop: Callable[[], bool]) -> Results | None:
    """Measures what is missing, analyses, and writes `interactions.npz`.

    Args:
        job: the job.
        path: run folder.
        before: from `kept`.
        tracker: where to log.
        stop: whether a signal asks to stop.

    Returns:
        The results; None after a stop, with finished seeds kept.
    """
    config, names = job.config.interactions, job.ecosystem.names
    if before is None:
        table = _table(job, path, stop)
        if table is None:
            return None
        nothing = np.zeros((0, 2), int), np.zeros((0, len(table), 9, len(NAMES)))
        measured = Measured(table[:, :, 0], table[:, :, 1:], *nothing)
    else:
        measured = before
    analysis = analysed(job, measured)
    learns = [algorithm.learn is not no_learning for algorithm in job.ecosystem.algorithms]
    pairs = factorial.learning_pairs(analysis, config.learning_pairs, learns=learns)
    stopped = False
    if pairs.tolist() != measured.pairs.tolist():
        learning = _learning(job, pairs, measured, stop)
        stopped = len(learning) < len(pairs)
        measured = measured._replace(pairs=pairs[: len(learning)], learning=learning)
    _write(job, path, measured, analysis)
    (path / PART).unlink(missing_ok=True)
    if stopped:
        return None
    _log(names, analysis, tracker)
    if analysis.lost:
        progress.warn(
            "common random numbers gain little here (a paired comparison is worth "
            f"{np.nanmedian(analysis.variance_ratio):.1f} unpaired ones, median over objectives): a draw may depend on what "
            "algorithms do; intervals are honest but wide"
        )
    return Results(measured, analysis)


def analysed(job: Job, measured: Measured) -> factorial.Analysis:
    """What follows from the values, with the present settings."""
    windows = measured.windows if measured.windows.shape[2] else None
    return factorial.analyse(job.ecosystem.names, measured.values, config=job.config.interactions, windows=windows)


def _table(job: Job, path: Path, stop: Callable[[], bool]) -> np.ndarray | None:
    """The value table [S, R, 1 + W, J]; None after a stop."""
    seeds, rows, count = _shape(job)
    wide = 1 + job.config.interactions.windows
    keys = jax.random.split(stream(job.key, STAGE), seeds)
    design = factorial.plan(len(job.ecosystem.names)).design
    table = _part(job, path, (rows, wide, count))
    # As many seeds at once as fill a chunk: a chunk that is not full leaves devices idle.
    batch = max(1, job.config.chunk // rows)
    with progress.progress(seeds * rows, f"interactions: {seeds * rows:,} rollouts", done=len(table) * rows) as meter:
        while len(table) < seeds:
            some = keys[len(table) : len(table) + batch]
            members = factorial.members(job.ecosystem, job.inputs.levers, some, design=design)
            try:
                heed(stop)
                values = job.measure(members, counted(meter, stop, total=len(members.keys)))
            except Stopped:
                return None
            table = np.concatenate([table, values.reshape(len(some), rows, wide, count)])
            if len(table) < seeds:
                told = {"digest": np.array(rollouts_digest(job.config)), "names": np.array(job.ecosystem.names)}
                folder.write_arrays(path / PART, {**told, "objectives": np.array(NAMES), "values": table})
    return table


def table_of(job: Job, levers: Levers, *, stop: Callable[[], bool]) -> np.ndarray:
    """The value table [S, R, 1 + W, J] of other levers than the default ones, on the same seeds and after the same warm-up.

    Args:
        job: the job.
        levers: one platform's, from the end of the warm-up on, which the default ones run.
        stop: whether a signal asks to stop.

    Raises:
        Stopped: a signal arrived between two chunks.
    """
    keys = jax.random.split(stream(job.key, STAGE), job.config.interactions.seeds)
    design = factorial.plan(len(job.ecosystem.names)).design
    everyone = factorial.members(job.ecosystem, levers, keys, design=design)
    values = between_chunks(job.measure, stop)(everyone)
    return values.reshape(len(keys), len(design.gates), *values.shape[1:])


def _part(job: Job, path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Seeds [s, R, 1 + W, J] that a stopped process finished; none where they are of another configuration."""
    target = path / PART
    nothing = np.zeros((0, *shape), np.float32)
    if not target.exists():
        return nothing
    arrays = folder.read_arrays(target)
    if missing := [name for name in ("names", "objectives", "values") if name not in arrays]:
        raise UserError(f"{target}: lacks {', '.join(missing)}; remove it and run again")
    mine = _is_mine(job, arrays) and arrays["values"].shape[1:] == shape
    return arrays["values"] if mine else nothing


def _learning(job: Job, pairs: np.ndarray, measured: Measured, stop: Callable[[], bool]) -> np.ndarray:
    """Values [K, S, 9, J] of pairs at the levels off, frozen and learning; of the first of them only after a stop."""
    seeds, count = len(measured.values), len(NAMES)
    keys = jax.random.split(stream(job.key, STAGE), seeds)
    known = {tuple(pair): values for pair, values in zip(measured.pairs.tolist(), measured.learning, strict=True)}
    found = []
    with progress.progress(len(pairs) * seeds * 9, "off, frozen and learning") as meter:
        for pair in map(tuple, pairs.tolist()):
            if pair in known:
                found.append(known[pair])
                meter.advance(seeds * 9)
                continue
            design = designs.learning(len(job.ecosystem.names), pair)
            members = factorial.members(job.ecosystem, job.inputs.levers, keys, design=design)
            try:
                heed(stop)
                values = job.measure(members, counted(meter, stop, total=len(members.keys)))
                found.append(values[:, 0].reshape(seeds, 9, count))
            except Stopped:
                break
    return np.array(found).reshape(len(found), seeds, 9, count)


def _write(job: Job, path: Path, measured: Measured, analysis: factorial.Analysis) -> None:
    """`interactions.npz`, also where the values were kept: intervals and verdicts may be asked for at other levels."""
    arrays = {
        "digest": np.array(rollouts_digest(job.config)),
        "names": np.array(analysis.names),
        "objectives": np.array(NAMES),
        "gates": analysis.plan.design.gates,
        "values": measured.values,
        "windows": measured.windows,
        "learning_pairs": measured.pairs,
        "learning_values": measured.learning,
        "spread": analysis.spread,
        "variance_ratio": analysis.variance_ratio,
        "confirmed": analysis.confirmed,
        "verdict_names": np.array(VERDICTS),
        "verdicts": analysis.verdicts.codes,
        "reversed_by": analysis.verdicts.reversed_by,
        "margin": analysis.verdicts.margin,
    }
    for name in _ESTIMATES:
        arrays |= _parts(name, getattr(analysis, name))
    if analysis.plan.table is not None:
        every = factorial.indices(measured.values, confidence=job.config.interactions.confidence)
        for name, estimate in every.items():
            # Those in context and the averages are there as `switch_off`, `context_pair`, `main` and `pair`.
            if not name.startswith(("in_context", "average")):
                arrays |= _parts(name, estimate)
    if analysis.windows is not None:
        arrays |= _parts("window_main", analysis.windows.main) | _parts("window_pair", analysis.windows.pair)
    if analysis.anova is not None and isinstance(analysis.anova.interaction, Estimate):
        arrays |= _parts("interaction_share", analysis.anova.interaction)
    folder.write_arrays(path / folder.INTERACTIONS, arrays)


def _parts(name: str, estimate: Estimate | None) -> dict[str, np.ndarray]:
    if estimate is None:
        return {}
    return {f"{name}_{part}": getattr(estimate, part) for part in ("mean", "low", "high", "p")}


def row(analysis: factorial.Analysis) -> dict[str, Any]:
    """Scalars of an analysis by name.

    `interactions/<objective>/<a>`: what switching a off would undo; `interactions/<objective>/<a>__on__<b>`: the pair in the
    shown index; `verdicts/<objective>/<a>__on__<b>`: the word for what they do against the background of the verdicts.
    """
    result: dict[str, Any] = {}
    names = analysis.names
    for k, objective in enumerate(NAMES):
        for i, a in enumerate(names):
            result[f"{STAGE}/{objective}/{a}"] = analysis.switch_off.mean[i, k]
            for j in range(i + 1, len(names)):
                result[f"{STAGE}/{objective}/{a}__on__{names[j]}"] = analysis.shown_pair.mean[i, j, k]
                code = analysis.verdicts.codes[i, j, k]
                result[f"verdicts/{objective}/{a}__on__{names[j]}"] = VERDICTS[code]
    return result


def log_matrices(step: int, analysis: factorial.Analysis, tracker: Tracker) -> None:
    """The matrix of every objective, as scalars of pairs and as a heat map, under a meta-step."""
    for k, (objective, about) in enumerate(OBJECTIVES.items()):
        tracker.log_matrix(step, f"{STAGE}/{objective}", analysis.names, analysis.shown_pair.mean[:, :, k])
        health = 1.0 if about.better == "higher" else -1.0
        tracker.log_figure(step, f"{STAGE}/{objective}/matrix", figures.matrix(heat_map(analysis, k, health)).figure)


def _log(names: tuple[str, ...], analysis: factorial.Analysis, tracker: Tracker) -> None:
    log_matrices(0, analysis, tracker)
    shown, parts = analysis.shown_pair, ("mean", "low", "high", "p")
    judged = analysis.verdicts.interaction  # of benefits: positive is healthier
    everything = [
        (
            objective,
            a,
            b,
            VERDICTS[analysis.verdicts.codes[i, j, k]],
            *(getattr(judged, part)[i, j, k] for part in parts),
            *(getattr(shown, part)[i, j, k] for part in parts),
        )
        for k, objective in enumerate(NAMES)
        for i, a in enumerate(names)
        for j, b in enumerate(names)
        if i < j
    ]
    columns = (
        "objective",
        "one",
        "other",
        "verdict",
        *(f"benefit_{part}" for part in parts),
        *(f"index_{part}" for part in parts),
    )
    tracker.log_table(0, f"{STAGE}/all", columns, everything)


def heat_map(
    analysis: factorial.Analysis, k: int, health: float, hover: list[list[str]] | None = None
) -> figures.Matrix:
    """The matrix of objective k in spreads: pairs of the index with the index's own tests, its mains on the diagonal.

    Cells that are neither confirmed nor shown to be negligible are not resolved.

    Args:
        analysis: of the value table.
        k: number of the objective.
        health: +1 where more is healthier.
        hover: words for every cell, None without.
    """
    main, pair = analysis.shown_main, analysis.shown_pair
    size, spread = len(analysis.names), float(analysis.spread[k])
    scale = 1.0 / spread if math.isfinite(spread) and spread > 0 else math.nan
    effect, resolved = np.array(pair.mean[:, :, k]), np.array(analysis.index_confirmed[:, :, k])
    diagonal = np.arange(size)
    effect[diagonal, diagonal] = main.mean[:, k]
    resolved[diagonal, diagonal] = (main.low[:, k] > 0) | (main.high[:, k] < 0)
    none = analysis.index_none[:, :, k]
    words = [[""] * size] * size if hover is None else hover
    return figures.Matrix(analysis.names, effect * scale, health, resolved & ~none, none, words)
