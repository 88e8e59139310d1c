"""The stage that looks for tipping points: a lever scanned up and down, the growth of disturbances, a phase diagram.

`emergence.npz` holds what was scanned and what came out. Scan and diagram run the sampled model; growth is that of the
expected mode. All of them start cold, from the population as configured: they look at settings that the platform has never
been at, and no warm-up at another one comes before.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mamba import members as mem
from mamba import objectives
from mamba.interactions import axes, phases, tipping, warning
from mamba.interactions.axes import Axis
from mamba.interactions.findings import Finding, tipping_point
from mamba.interactions.statistics import estimate
from mamba.objectives import NAMES
from mamba.runs import analysis, folder, progress, results, stops
from mamba.runs.errors import UserError
from mamba.runs.job import Job
from mamba.runs.tracking import Tracker
from mamba.streams import stream

STAGE = "emergence"
FILE = "emergence.npz"
_RESULTS = results.of_stage(
    FILE,
    reads={STAGE: results.ALL, analysis.STAGE: ("confidence",)},
    indifferent=("meta", "evaluation"),
)
digest = functools.partial(results.digest, _RESULTS)
is_stale = functools.partial(results.is_stale, _RESULTS)
_GROWTH_SEEDS = 4
_FEWEST = 6  # seeds of a scan: below, the limit of Student's t for all its gaps at once is out of reach
_BENT = 0.05  # p-value of a bend in the growth rates below which nothing is extrapolated
# Few objectives are scanned: every one more takes power from the test of all of them.
WATCHED = (
    *(
        "engagement_per_user",
        "retention",
        "polarisation",
        "toxic_exposure_per_user",
        "misinformation_exposure_per_user",
    ),
    *("wellbeing", "trust", "creator_inequality"),
)
LOGGED = ("retention", "polarisation")  # series that early warnings are looked for in
# The blocks whose joint exponent is followed towards tipping: users come back for items that others' visits bring forth.
# Ties, running counts and learners forget slowly or never, and would hide this loop behind exponents near 0.
_LOOP = ("users.activity", "items")


def check(job: Job) -> None:
    """Refuses axes that do not exist.

    Raises:
        UserError: one line that names the setting.
    """
    config = job.config.emergence
    for setting, place, low, high in (
        ("lever", config.lever, config.low, config.high),
        ("across", config.across, config.across_low, config.across_high),
    ):
        if not place:
            continue
        if not low < high:
            raise UserError(f"emergence.{setting}: a scan from {low:g} to {high:g} goes nowhere; give low below high")
        try:
            axes.coordinates(job.ecosystem, Axis(place), np.linspace(low, high, config.points))
        except ValueError as error:
            raise UserError(f"emergence.{setting}: {error}") from error
    if 0 < config.stationary < 80:
        raise UserError(
            f"emergence.stationary: {config.stationary} runs cannot show a false alarm at the 5 % level; give 0, or at least 80"
        )
    if config.lever and config.seeds < _FEWEST:
        raise UserError(
            f"emergence.seeds: {config.seeds} seeds cannot show hysteresis beyond chance; give at least {_FEWEST}, or scan no lever"
        )
    if config.across and not config.lever:
        raise UserError("emergence.across: a phase diagram needs emergence.lever, too")


def run(job: Job, path: Path, *, tracker: Tracker, stop: Callable[[], bool]) -> dict[str, np.ndarray] | None:
    """Results, from the folder where they are there; None where a stop left something out."""
    known = results.kept(_RESULTS, job, path)
    if known is not None:
        return known
    try:
        arrays = _measured(job, stop)
    except stops.Stopped:
        return None
    folder.write_arrays(path / FILE, arrays)
    row = {
        f"health/growth/{name}": rate for name, rate in zip(arrays["blocks"], arrays["block_rates_mean"], strict=True)
    }
    tracker.log(0, row)
    return arrays


def _measured(job: Job, stop: Callable[[], bool]) -> dict[str, np.ndarray]:
    """Every part that was asked for.

    Raises:
        Stopped: a signal arrived while one was still to be done.
    """
    config, key = job.config.emergence, stream(job.key, STAGE)
    arrays: dict[str, np.ndarray] = {"digest": np.array(digest(job)), "objectives": np.array(NAMES)}
    asked = {
        "growth": (_growth, True),
        "scan": (_scan, bool(config.lever)),
        "warnings": (_warnings, bool(config.lever and config.stationary)),
        "diagram": (_diagram, bool(config.across)),
    }
    for name, (part, wanted) in asked.items():
        if wanted:
            stops.heed(stop)
            arrays |= part(job, stream(key, name), stop)
    return arrays


def _growth(job: Job, key: jax.Array, stop: Callable[[], bool]) -> dict[str, np.ndarray]:
    """How fast a disturbance of each part of the platform dies out by itself, and the way to tipping along the scan."""
    config, ecosystem, steps = job.config.emergence, job.ecosystem, job.config.steps
    axis = Axis(config.lever or f"gates/{ecosystem.names[0]}")
    block_of = axes.block_of(ecosystem)
    keys = jax.random.split(key, _GROWTH_SEEDS)
    # A place to look from where nothing is scanned: a gate that stays open.
    begin = jax.eval_shape(lambda key: axes.begin(ecosystem, job.inputs, keys=key[None]), keys[0])
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), begin)
    blocks = warning.block_names(one, block_of)
    loop = np.isin(blocks, _LOOP).astype(np.float32)

    def rate(inputs, coordinate, key, kept):
        started = jax.tree.map(lambda leaf: leaf[0], axes.begin(ecosystem, inputs, keys=key[None]))
        found = warning.growth(
            axes.advancer(ecosystem, inputs, axis=axis, mode="expected"),
            started,
            lever=coordinate,
            key=key,
            steps=steps,
            discard=steps // 2,
            block_of=block_of,
            kept=kept,
        )
        return found.rates[0]

    compiled = jax.jit(rate)

    def run(*given: Any) -> np.ndarray:
        stops.heed(stop)
        return np.asarray(compiled(job.inputs, *given))

    progress.say(f"growth of disturbances in {len(blocks)} parts of the platform")
    present = axes.present(ecosystem, job.inputs, axis)
    masks = [*np.eye(len(blocks), dtype=np.float32), loop]
    table = np.array([[run(present, each, mask) for mask in masks] for each in keys], np.float64)
    table = np.where(np.isfinite(table), table, np.nan)
    confidence = job.config.interactions.confidence
    told = estimate(table, confidence)
    arrays = {
        "blocks": np.array([*blocks, "+".join(_LOOP)]),
        "block_rates": table,
        "block_rates_mean": told.mean,
        "block_rates_low": told.low,
        "block_rates_high": told.high,
    }
    if not config.lever:
        return arrays
    values = np.linspace(config.low, config.high, config.points)
    at = axes.coordinates(ecosystem, axis, values)
    rates = np.array([[run(np.float32(x), each, loop) for x in at] for each in keys], np.float64)
    arrays |= {"rates_values": values, "rates": rates}
    if np.isfinite(rates).all():
        arrays |= _distance(values, rates, confidence=confidence)
    return arrays


def _distance(values: np.ndarray, rates: np.ndarray, *, confidence: float) -> dict[str, np.ndarray]:
    """Where growth rates [S, G] reach 0, from the upper half of the scan; NaN but for `curvature` where they bend.

    The law of a fold holds near it, and a line through values far from it foretells nothing.
    """
    upper = max(3, -(-len(values) // 2))
    way = warning.distance(values[-upper:], rates[:, -upper:], confidence=confidence)
    if way.curvature < _BENT:
        way = way._replace(tipping=np.nan, low=np.nan, high=np.nan, distance=np.nan)
    told = {f"distance_{name}": np.asarray(getattr(way, name)) for name in way._fields}
    return told | {"distance_from": np.asarray(values[-upper])}


def _scan(job: Job, key: jax.Array, stop: Callable[[], bool]) -> dict[str, np.ndarray]:
    config, ecosystem = job.config.emergence, job.ecosystem
    axis = Axis(config.lever)
    values = np.linspace(config.low, config.high, config.points)
    coordinates = axes.coordinates(ecosystem, axis, values)
    watched = np.array([NAMES.index(name) for name in WATCHED])

    @jax.jit
    def held(inputs, states, levers, keys):
        return tipping.settle(
            axes.advancer(ecosystem, inputs, axis=axis),
            states,
            levers=levers,
            keys=keys,
            hold=config.hold,
            summary=lambda records: objectives.evaluate(records, ecosystem.sizes.users)[watched],
            layout=mem.layout(),
        )

    # Seeds begin from fresh keys and carry their state on from value to value.
    keys = jax.random.split(key, config.seeds)
    begin = jax.jit(lambda inputs, keys: axes.begin(ecosystem, inputs, keys=keys))(job.inputs, keys)
    progress.say(f"scan of {config.lever}: {2 * config.points} values, each held for {config.hold} steps")

    def heeding(*given: Any, **named: Any) -> Any:
        stops.heed(stop)
        return held(job.inputs, *given, **named)

    found = tipping.scan(heeding, begin, levers=coordinates, keys=keys)
    return {
        "scan_axis": np.array(config.lever),
        "scan_unit": np.array(axes.unit(ecosystem, axis)),
        "scan_objectives": np.array(WATCHED),
        "scan_values": values,
        "scan_up": found.up,
        "scan_down": found.down,
        "scan_flagged": found.flagged,
        "scan_gap_mean": found.gap.mean,
        "scan_gap_low": found.gap.low,
        "scan_gap_high": found.gap.high,
        "fold_branches": np.array([fold.branch for fold in found.folds], dtype="U4"),
        "fold_objectives": np.array([fold.objective for fold in found.folds], int),
        "fold_low": np.array([axes.shown(ecosystem, axis, fold.low) for fold in found.folds]).reshape(-1, config.seeds),
        "fold_high": np.array([axes.shown(ecosystem, axis, fold.high) for fold in found.folds]).reshape(
            -1, config.seeds
        ),
    }


def _warnings(job: Job, key: jax.Array, stop: Callable[[], bool]) -> dict[str, np.ndarray]:
    """What the platform's own logs could show on the way up, and how often they would cry wolf."""
    config, ecosystem = job.config.emergence, job.ecosystem
    axis = Axis(config.lever)
    steps = config.points * config.hold
    ends = axes.coordinates(ecosystem, axis, [config.low, config.high])
    low, high = axes.shown(ecosystem, axis, ends)
    # An even way in the lever's own unit, as the scan goes.
    way = axes.coordinates(ecosystem, axis, np.linspace(low, high, steps + 2)[1:-1])

    @jax.jit
    def logged(inputs, levers, keys):
        return warning.drift(
            axes.advancer(ecosystem, inputs, axis=axis),
            axes.begin(ecosystem, inputs, keys=keys),
            levers=levers,
            keys=keys,
            of=lambda metrics: jnp.stack([metrics[name] for name in LOGGED]),
        )

    progress.say(f"early warnings: {config.seeds} drifting and {config.stationary} stationary runs of {steps} steps")
    some = jax.random.split(stream(key, "drift"), config.seeds)
    still = jax.random.split(stream(key, "stationary"), config.stationary)
    # Both settle first: a transient would look like a trend.
    settled = config.hold
    constant = jnp.full(settled + steps, ends[0])
    moving = np.asarray(logged(job.inputs, jnp.concatenate([constant[:settled], jnp.asarray(way)]), some))[:, settled:]
    stops.heed(stop)
    resting = np.asarray(logged(job.inputs, constant, still))[:, settled:]
    window = steps // 2
    found = [warning.warn(moving[..., n], resting[..., n], window=window) for n in range(len(LOGGED))]
    wolf = [warning.false_positives(resting[..., n], window=window) for n in range(len(LOGGED))]
    return {
        "warning_series": np.array(LOGGED),
        "warning_tau": np.stack([each.tau for each in found]),
        "warning_p": np.stack([each.p for each in found]),
        "warning_combined": np.stack([each.combined for each in found]),
        "warning_false_positives": np.stack([each.ranked for each in wolf]),
        "warning_naive_false_positives": np.stack([each.naive for each in wolf]),
        "warning_tried": np.array([each.runs for each in wolf]),
    }


def _median(ends: np.ndarray) -> float:
    """Median over the seeds with a finite end, NaN without."""
    known = ends[np.isfinite(ends)]
    return float(np.median(known)) if len(known) else float("nan")


def _diagram(job: Job, key: jax.Array, stop: Callable[[], bool]) -> dict[str, np.ndarray]:
    config, ecosystem = job.config.emergence, job.ecosystem
    sides = [
        (Axis(place), np.linspace(low, high, config.points))
        for place, low, high in (
            (config.lever, config.low, config.high),
            (config.across, config.across_low, config.across_high),
        )
    ]
    levers = [phases.Lever(axis.place, values, axes.coordinates(ecosystem, axis, values)) for axis, values in sides]

    def value(inputs, first, second, seed):
        return axes.value(
            ecosystem,
            inputs,
            axes=[axis for axis, _ in sides],
            coordinates=[first, second],
            key=seed,
            steps=job.config.steps,
        )

    total = config.seeds * config.points**2
    with progress.progress(total, f"phase diagram: {total} rollouts") as meter:
        found = phases.diagram(
            jax.jit(phases.cells(value, layout=mem.layout())),
            job.inputs,
            first=levers[0],
            second=levers[1],
            keys=jax.random.split(key, config.seeds),
            chunk=job.config.chunk,
            done=stops.counted(meter, stop, total=total),
        )
    return {
        "phase_axes": np.array([config.lever, config.across]),
        "phase_units": np.array([axes.unit(ecosystem, axis) for axis, _ in sides]),
        "phase_first": sides[0][1],
        "phase_second": sides[1][1],
        "phase_mean": found.mean,
        "phase_error": found.error,
        "phase_fast": found.fast,
    }


def findings(job: Job, arrays: dict[str, np.ndarray]) -> list[Finding]:
    """A sentence on what the scan showed; none without a scan."""
    if "scan_axis" not in arrays:
        return []
    ends = zip(*(arrays[f"fold_{part}"] for part in ("branches", "objectives", "low", "high")), strict=True)
    return [
        tipping_point(
            job.config.emergence.lever,
            values=arrays["scan_values"],
            up=arrays["scan_up"],
            down=arrays["scan_down"],
            flagged=arrays["scan_flagged"],
            objectives=WATCHED,
            folds=[(str(branch), int(at), _median(low), _median(high)) for branch, at, low, high in ends],
            resolution=job.config.interactions.resolution,
            confidence=job.config.interactions.confidence,
        )
    ]
