"""Tipping points: growth of disturbances, a lever scanned up and down, a phase diagram."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mamba.interactions.settings import InteractionsConfig
from mamba.interactions.statistics import Estimate, estimate
from mamba.objectives import NAMES
from mamba.runs import emergence
from mamba.runs.markup import MISSING, Column, Html, between, count, join, number, p_value, series, table, tag
from mamba.runs.pictures import interactions as pictures
from mamba.runs.pictures import maps, scans
from mamba.runs.sections.contributions import key_objectives
from mamba.runs.sections.shared import Figures, Objective, View, grouped, interval_words, required, scale_words

_GROWTH = ("blocks", "block_rates_mean", "block_rates_low", "block_rates_high")
_SCAN = (
    *("scan_axis", "scan_unit", "scan_objectives", "scan_values", "scan_up", "scan_down", "scan_flagged"),
    *("scan_gap_mean", "scan_gap_low", "scan_gap_high", "fold_branches", "fold_objectives", "fold_low", "fold_high"),
)
_PHASE = ("phase_axes", "phase_units", "phase_first", "phase_second", "phase_mean", "phase_error", "phase_fast")


def emergence_section(view: View, drawn: Figures) -> Html:
    """What was looked for and what was found; empty where nothing was."""
    arrays = view.emergence
    if arrays is None:
        return Html("")
    path = view.run.path / emergence.FILE
    required(path, arrays, _GROWTH)
    warm_up = (view.run.config.get("interactions") or {}).get("warm_up", InteractionsConfig.warm_up)
    after = " and not after the warm-up of the interaction analysis" if warm_up and view.analysed is not None else ""
    cold = (
        f"All of this starts cold, from the population as configured{after}: a scan carries its state on from value to value, "
        "every cell of a phase diagram is a rollout of its own from the first step on, and growth is measured after the "
        "first half of a rollout."
    )
    parts: list[Any] = [tag("p", cold, class_="note")]
    if "scan_axis" in arrays:
        required(path, arrays, _SCAN)
        parts += _scan(view, arrays, drawn)
    parts += _growth(view, arrays, drawn)
    if "phase_axes" in arrays:
        required(path, arrays, _PHASE)
        parts += _phases(view, arrays, drawn)
    return join(parts)  # last what the corners of the diagram follow


# ---- scan ------------------------------------------------------------------------------------------------------------


def _scan(view: View, arrays: Mapping[str, NDArray[Any]], drawn: Figures) -> list[Any]:
    lever = _named(str(arrays["scan_axis"]), str(arrays["scan_unit"]))
    levers = np.asarray(arrays["scan_values"], np.float64)
    up, down = (estimate(np.asarray(arrays[f"scan_{way}"]), view.confidence) for way in ("up", "down"))  # [G, K]
    flagged = np.asarray(arrays["scan_flagged"], bool)
    watched = [view.objectives[str(name)] for name in arrays["scan_objectives"] if str(name) in view.objectives]
    numbers = [k for k, name in enumerate(arrays["scan_objectives"]) if str(name) in view.objectives]
    marks = {k: _folds(arrays, k) for k in numbers}
    tipping = _foretold(view, arrays, lever)
    gap = _gap(arrays)
    variants = [
        scans.scan(
            scans.Scan(
                lever,
                levers,
                f"{each.label}, {scale_words(each.unit)}",
                _branch(up, k),
                _branch(down, k),
                flagged[:, k],
                marks[k],
            )
        )
        for each, k in zip(watched, numbers, strict=True)
    ]
    about = [f"Continuation scan of {lever}, up and down: {each.label}." for each in watched]
    start = next((at for at, k in enumerate(numbers) if flagged[:, k].any()), 0)
    headings = {each.name: heading for heading, inside in grouped(view) for each in inside}
    chooser = drawn.choose(
        [(headings[each.name], each.label, text) for each, text in zip(watched, about, strict=True)],
        name="scan-objective",
        chosen=start,
    )
    picture = drawn.add(
        variants,
        about=about[start],
        chosen=start,
        caption=(
            f"The platform starts cold and carries its state along while {lever} goes up, then down. Bands: {view.ci} over "
            "seeds. Filled: the two ways differ beyond chance, by more than a twentieth of the range, and still do after a longer "
            "hold. Vertical: where a regime ends."
        ),
    )
    tipped = [each.label for each, k in zip(watched, numbers, strict=True) if flagged[:, k].any()]
    text = (
        join(["The way matters for ", series(tipped), ": the same setting has two states (hysteresis)."])
        if tipped
        else f"On none of {count(len(watched), 'objective')} was hysteresis found: no gap between the ways passed all tests."
    )
    rows = []
    for each, k in zip(watched, numbers, strict=True):
        known = np.isfinite(gap.mean[:, k])
        shown = known & flagged[:, k] if flagged[:, k].any() else known
        g = int(np.argmax(np.where(shown, np.abs(gap.mean[:, k]), -1.0)))
        ends = "; ".join(f"{mark.words} at {number(mark.place)}" for mark in marks[k]) or MISSING
        rows.append(
            [
                each.label,
                number(float(levers[g])),
                join(
                    [
                        number(float(gap.mean[g, k]), signed=True),
                        " ",
                        interval_words(float(gap.low[g, k]), float(gap.high[g, k])),
                    ]
                ),
                f"{int(flagged[:, k].sum())} of {len(levers)}",
                ends,
            ]
        )
    columns = [
        Column("Objective"),
        Column("Where the ways differ most (with hysteresis, if any)", numeric=True),
        Column(f"Up less down ({view.ci})", numeric=True),
        Column("Values with hysteresis", numeric=True),
        Column("Regimes end"),
    ]
    told = table(f"Scan of {lever}; each interval alone.", columns, [(None, rows)])
    return [
        tag("h3", f"Up and down again: {lever}"),
        tag("p", text),
        chooser,
        picture,
        told,
        *([tag("p", tipping)] if tipping else []),
    ]


def _named(axis: str, unit: str) -> str:
    place = axis.removeprefix("levers/").removeprefix("world/")
    return f"{place} ({unit})" if unit else place


def _branch(way: Estimate, k: int) -> scans.Branch:
    return scans.Branch(way.mean[:, k], way.low[:, k], way.high[:, k])


def _gap(arrays: Mapping[str, NDArray[Any]]) -> Estimate:
    mean, low, high = (np.asarray(arrays[f"scan_gap_{part}"], np.float64) for part in ("mean", "low", "high"))
    return Estimate(mean, np.full_like(mean, np.nan), low, high, np.full_like(mean, np.nan))


def _folds(arrays: Mapping[str, NDArray[Any]], k: int) -> list[scans.Mark]:
    """Folds of an objective: median over the seeds that left, and the span of their brackets."""
    found = []
    for branch, objective, low, high in zip(
        *(arrays[f"fold_{part}"] for part in ("branches", "objectives", "low", "high")), strict=True
    ):
        left = np.isfinite(low) & np.isfinite(high)
        if int(objective) != k or not left.any():
            continue
        ends = np.stack([low[left], high[left]])
        place = float(np.median(ends.mean(axis=0)))
        found.append(scans.Mark(f"end of the way {branch}", place, float(ends.min()), float(ends.max())))
    return found


def _foretold(view: View, arrays: Mapping[str, NDArray[Any]], lever: str) -> str:
    """Where growth rates, extrapolated, reach 0; empty without them."""
    if "distance_tipping" not in arrays:
        return ""
    place, low, high = (float(arrays[f"distance_{part}"]) for part in ("tipping", "low", "high"))
    bend = float(arrays.get("distance_curvature", math.nan))
    if bend < 0.05:
        return (
            f"The growth rates of disturbances bend along {lever} ({p_value(bend)}), so that nothing is extrapolated and no "
            "tipping point is foretold."
        )
    if not math.isfinite(place):
        return f"The growth rate of disturbances does not move towards 0 as {lever} rises, so that no tipping point is foretold."
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"How the growth rate of disturbances changes with {lever} is not resolved, so that no tipping point is foretold."
    ci = f"{view.ci} {between(low, high, signed=False)}"
    begin = f", from {number(float(arrays['distance_from']))} on" if "distance_from" in arrays else ""
    return f"Extrapolated along {lever}{begin}, the growth rate of disturbances reaches 0 at {number(place)} ({ci})."


# ---- phase diagram ---------------------------------------------------------------------------------------------------


def _phases(view: View, arrays: Mapping[str, NDArray[Any]], drawn: Figures) -> list[Any]:
    across, up = (
        _named(str(axis), str(unit)) for axis, unit in zip(arrays["phase_axes"], arrays["phase_units"], strict=True)
    )
    mean, fast = np.asarray(arrays["phase_mean"], np.float64), np.asarray(arrays["phase_fast"], bool)
    shown = [each for each in view.objectives.values() if each.name in NAMES]
    first, second = (np.asarray(arrays[f"phase_{side}"], np.float64) for side in ("first", "second"))
    variants = [
        maps.phase_diagram(
            maps.Phase(
                across,
                first,
                up,
                second,
                mean[..., NAMES.index(each.name)],
                fast[..., NAMES.index(each.name)],
                f"{each.label}, {scale_words(each.unit)}",
                each.health,
            )
        )
        for each in shown
    ]
    about = [f"Phase diagram over {across} and {up}: {each.label}." for each in shown]
    key = key_objectives(view, shown)
    start = shown.index(key[0])
    headings = {each.name: heading for heading, inside in grouped(view) for each in inside}
    chooser = drawn.choose(
        [(headings[each.name], each.label, text) for each, text in zip(shown, about, strict=True)],
        name="phase-objective",
        chosen=start,
    )
    picture = drawn.add(
        variants,
        about=about[start],
        chosen=start,
        caption="Mean over seeds, each rollout from its first step on; blue healthier, orange worse within the diagram. "
        "Lined: cells where regimes meet, that is a ridge of slopes beyond chance and several times the usual one.",
    )
    rows = [_phase_row(each, mean[..., NAMES.index(each.name)], fast[..., NAMES.index(each.name)]) for each in shown]
    columns = [
        Column("Objective"),
        Column("Lowest", numeric=True),
        Column("Highest", numeric=True),
        Column("Cells that change fast", numeric=True),
    ]
    told = table(f"Range over {across} and {up}.", columns, [(None, rows)])
    return [
        tag("h3", f"{across} against {up}"),
        chooser,
        picture,
        tag("details", tag("summary", "Show the numbers"), told),
    ]


def _phase_row(each: Objective, mean: NDArray[np.float64], fast: NDArray[np.bool_]) -> list[Any]:
    known = mean[np.isfinite(mean)]
    ends = (float(known.min()), float(known.max())) if len(known) else (math.nan, math.nan)
    return [each.label, number(ends[0]), number(ends[1]), f"{int(fast.sum())} of {fast.size}"]


# ---- growth ----------------------------------------------------------------------------------------------------------


def _growth(view: View, arrays: Mapping[str, NDArray[Any]], drawn: Figures) -> list[Any]:
    names: Sequence[str] = [str(name) for name in arrays["blocks"]]
    mean, low, high = (np.asarray(arrays[f"block_rates_{part}"], np.float64) for part in ("mean", "low", "high"))
    known = [at for at in range(len(names)) if math.isfinite(mean[at])]
    if not known:
        return []
    dots = [
        pictures.Dot(
            float(mean[at]),
            float(low[at]),
            float(high[at]),
            f"{names[at]}: {number(float(mean[at]), signed=True)} per hour (CI {between(float(low[at]), float(high[at]))})",
        )
        for at in known
    ]
    picture = drawn.add(
        [pictures.dots([names[at] for at in known], [("growth rate", dots)], x="growth rate per hour")],
        about="Dot plot of the growth rate of a disturbance of each part of the platform.",
        caption="Expected mode, second half of a rollout, each part by itself, the others held. Left of 0: a disturbance dies out.",
    )
    rows = [
        [names[at], _interval(mean[at], low[at], high[at]), _relaxation(mean[at], low[at], high[at])] for at in known
    ]
    columns = [Column("Part"), Column(f"Growth per hour ({view.ci})", numeric=True), Column("Reading")]
    grows = [names[at] for at in known if low[at] > 0]
    text = (
        join(["A small disturbance grows in ", series(grows), "; elsewhere it does not surely grow."])
        if grows
        else "In no part of the platform does a small disturbance surely grow."
    )
    return [
        tag("h3", "How fast a disturbance dies out"),
        tag("p", text),
        picture,
        tag("details", tag("summary", "Show the numbers"), table("Growth rates.", columns, [(None, rows)])),
    ]


def _interval(mean: float, low: float, high: float) -> Html:
    return join([number(float(mean), signed=True), " ", interval_words(float(low), float(high))])


def _relaxation(mean: float, low: float, high: float) -> str:
    if high < 0:
        return f"dies out, by a factor e in {number(-1.0 / float(mean))} hours"
    return "grows" if low > 0 else "not resolved"
