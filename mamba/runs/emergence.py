"""The stage that looks for tipping points: a lever scanned up and down, the growth of disturbances, a phase diagram.

`emergence.npz` holds what was scanned and what came out. Scan and diagram run the sampled model; growth is that of the
expected mode.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from mamba import objectives
from mamba.interactions import axes, phases, tipping, warning
from mamba.interactions.axes import Axis
from mamba.interactions.findings import Finding, tipping_point
from mamba.interactions.statistics import Estimate, estimate
from mamba.objectives import NAMES
from mamba.runs import folder, progress
from mamba.runs.config import config_digest
from mamba.runs.errors import UserError
from mamba.runs.job import Job
from mamba.runs.tracking import Tracker
from mamba.streams import stream

STAGE = "emergence"
FILE = "emergence.npz"
_INDIFFERENT = ("name", "chunk", "meta", "interactions", "sensitivities", "evaluation", "log", "checkpoint")
_GROWTH_SEEDS = 4


def digest(job: Job) -> str:
    """Digest of what decides the results."""
    return config_digest(job.config, without=_INDIFFERENT)


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
    if config.across and not config.lever:
        raise UserError("emergence.across: a phase diagram needs emergence.lever, too")


def run(job: Job, path: Path, *, tracker: Tracker, stop: Callable[[], bool]) -> dict[str, np.ndarray] | None:
    """Results, from the folder where they are there; None after a stop."""
    target = path / FILE
    if target.exists():
        arrays = folder.read_arrays(target)
        if str(arrays.get("digest", "")) == digest(job):
            return arrays
    config, key = job.config.emergence, stream(job.key, STAGE)
    arrays: dict[str, np.ndarray] = {"digest": np.array(digest(job)), "objectives": np.array(NAMES)}
    arrays |= _growth(job, stream(key, "growth"))
    if config.lever and not stop():
        arrays |= _scan(job, stream(key, "scan"))
    if config.across and not stop():
        arrays |= _diagram(job, stream(key, "diagram"))
    if stop():
        return None
    folder.write_arrays(target, arrays)
    row = {
        f"health/growth/{name}": rate for name, rate in zip(arrays["blocks"], arrays["block_rates_mean"], strict=True)
    }
    tracker.log(0, row)
    return arrays


def _growth(job: Job, key: jax.Array) -> dict[str, np.ndarray]:
    """How fast a disturbance of each part of the platform dies out by itself, at the present levers."""
    ecosystem, steps = job.ecosystem, job.config.steps
    axis = Axis(f"gates/{ecosystem.names[0]}")  # stays where it is
    block_of = axes.block_of(ecosystem)
    keys = jax.random.split(key, _GROWTH_SEEDS)

    @jax.jit
    def rates(inputs, key):
        begin = jax.tree.map(lambda leaf: leaf[0], axes.begin(ecosystem, inputs, keys=key[None]))
        advance = axes.advancer(ecosystem, inputs, axis=axis, mode="expected")
        return warning.own_growth(
            advance, begin, lever=inputs.gates[0], key=key, steps=steps, discard=steps // 2, block_of=block_of
        )

    begin = jax.eval_shape(lambda key: axes.begin(ecosystem, job.inputs, keys=key[None]), keys[0])
    blocks = warning.block_names(
        jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), begin), block_of
    )
    progress.say(f"growth of disturbances in {len(blocks)} parts of the platform")
    found = np.stack([np.asarray(rates(job.inputs, each), np.float64) for each in keys])
    told = estimate(np.where(np.isfinite(found), found, np.nan), job.config.interactions.confidence)
    return {
        "blocks": np.array(blocks),
        "block_rates": found,
        "block_rates_mean": told.mean,
        "block_rates_low": told.low,
        "block_rates_high": told.high,
    }


def _scan(job: Job, key: jax.Array) -> dict[str, np.ndarray]:
    config, ecosystem = job.config.emergence, job.ecosystem
    axis = Axis(config.lever)
    values = np.linspace(config.low, config.high, config.points)
    coordinates = axes.coordinates(ecosystem, axis, values)

    @jax.jit
    def settle(states, levers, keys):
        return tipping.settle(
            axes.advancer(ecosystem, job.inputs, axis=axis),
            states,
            levers=levers,
            keys=keys,
            hold=config.hold,
            summary=functools.partial(objectives.evaluate, n_users=ecosystem.sizes.users),
        )

    # Seeds begin from fresh keys and carry their state on from value to value.
    keys = jax.random.split(key, config.seeds)
    begin = jax.jit(lambda keys: axes.begin(ecosystem, job.inputs, keys=keys))(keys)
    progress.say(f"scan of {config.lever}: {2 * config.points} values, each held for {config.hold} steps")
    found = tipping.scan(settle, begin, levers=coordinates, keys=keys)
    folds = [
        (
            fold.branch,
            fold.objective,
            *(np.interp(end, coordinates, values) for end in (_middle(fold.low), _middle(fold.high))),
        )
        for fold in found.folds
    ]
    return {
        "scan_axis": np.array(config.lever),
        "scan_unit": np.array(axes.unit(ecosystem, axis)),
        "scan_values": values,
        "scan_up": found.up,
        "scan_down": found.down,
        "scan_flagged": found.flagged,
        "scan_gap_mean": found.gap.mean,
        "scan_gap_low": found.gap.low,
        "scan_gap_high": found.gap.high,
        "fold_branches": np.array([fold[0] for fold in folds], dtype="U4"),
        "fold_objectives": np.array([fold[1] for fold in folds], int),
        "fold_brackets": np.array([fold[2:] for fold in folds], float).reshape(-1, 2),
    }


def _middle(ends: np.ndarray) -> float:
    """Median over the seeds with a finite end, NaN without."""
    known = ends[np.isfinite(ends)]
    return float(np.median(known)) if len(known) else float("nan")


def _diagram(job: Job, key: jax.Array) -> dict[str, np.ndarray]:
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
        before = 0

        def done(finished: int) -> None:
            nonlocal before
            meter.advance(finished - before)
            before = finished

        layout = "loop" if jax.default_backend() == "cpu" else "vmap"
        found = phases.diagram(
            jax.jit(phases.cells(value, layout=layout)),
            job.inputs,
            first=levers[0],
            second=levers[1],
            keys=jax.random.split(key, config.seeds),
            chunk=job.config.chunk,
            done=done,
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
    gap = Estimate(*(arrays[f"scan_gap_{part}"] for part in ("mean", "mean", "low", "high", "mean")))
    ends = zip(arrays["fold_branches"], arrays["fold_objectives"], arrays["fold_brackets"], strict=True)
    return [
        tipping_point(
            job.config.emergence.lever,
            values=arrays["scan_values"],
            flagged=arrays["scan_flagged"],
            gap=gap,
            folds=[(str(branch), int(at), float(low), float(high)) for branch, at, (low, high) in ends],
        )
    ]
