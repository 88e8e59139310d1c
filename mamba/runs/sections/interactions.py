"""The section that says who interacts with whom."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mamba.interactions.statistics import discoveries
from mamba.runs import figures
from mamba.runs.markup import MISSING, Column, Html, between, count, escape, join, number, p_value, percent, table, tag
from mamba.runs.sections.shared import (
    NOTHING,
    Figures,
    Objective,
    View,
    grouped,
    interval_words,
    said,
    scale_words,
    titled,
    verdict_of,
)

KEY = ("engagement_per_user", "retention", "toxic_exposure_per_user", "misinformation_exposure_per_user", "wellbeing")
_LISTED = 10  # pairs shown before the rest is folded away


def interactions_section(view: View, drawn: Figures) -> Html:
    """Matrix, confirmed pairs and switch-off table; empty without an interaction analysis."""
    if view.arrays is None:
        return Html("")
    arrays = view.arrays
    names = [str(name) for name in arrays["names"]]
    order = {str(name): k for k, name in enumerate(arrays["objectives"])}
    shown = [of for of in view.objectives.values() if of.name in order]
    if len(names) < 2 or not shown:
        return tag("p", "One algorithm alone has nobody to interact with.")
    found = [each for each in view.summary.get("findings") or [] if each.get("kind") == "interaction"]
    wanted = (
        str(found[0].get("objective"))
        if found
        else max((of.name for of in shown), key=lambda name: int(arrays["confirmed"][:, :, order[name]].sum()))
    )
    start = next((at for at, of in enumerate(shown) if of.name == wanted), 0)
    variants = [_matrix(view, names, of, order[of.name]) for of in shown]
    about = [f"Heat map of the interactions of {len(names)} algorithms on {of.label}." for of in shown]
    headings = {of.name: heading for heading, inside in grouped(view) for of in inside}
    drawings = [(headings[of.name], of.label, words) for of, words in zip(shown, about, strict=True)]
    chooser = drawn.choose(drawings, name="matrix-objective", chosen=start)
    heat = drawn.add(
        variants,
        about=about[start],
        chosen=start,
        caption=(
            "Framed on the diagonal: the average effect of one algorithm. Elsewhere: by how much the effect of one "
            "grows when the other is on. In spreads, the standard deviation over all on/off combinations. Grey, in "
            "brackets: not confirmed. Point at a cell for units and intervals."
        ),
    )
    return join(
        [
            _tested(view, names, len(shown)),
            tag("div", tag("div", chooser, heat), _pairs(view, names, shown, order), class_="columns wide-right"),
            tag("h3", "What switching one algorithm off would undo"),
            _switch_off(view, names, shown, order),
        ]
    )


def _tested(view: View, names: Sequence[str], objectives: int) -> Html:
    assert view.arrays is not None
    pairs = len(names) * (len(names) - 1) // 2
    confirmed = int(view.arrays["confirmed"].sum()) // 2
    level = (view.run.config.get("interactions") or {}).get("false_discovery_rate", 0.05)
    gain = view.arrays["variance_ratio"]
    gain = gain[np.isfinite(gain)]
    text = (
        f"{count(pairs, 'pair')} on {count(objectives, 'objective')} make {count(pairs * objectives, 'test')}; "
        f"{confirmed} {'is' if confirmed == 1 else 'are'} confirmed at a false discovery rate of "
        f"{100 * float(level):g} % (Benjamini and Hochberg)."
    )
    if len(gain):
        text += (
            " Giving every combination the same random numbers made a switch-off comparison as precise as "
            f"{np.median(gain):.1f} times as many seeds would (median over objectives, {gain.min():.1f} to "
            f"{gain.max():.1f})."
        )
    broken = int((~np.isfinite(view.arrays["values"]).all(axis=2)).sum())
    if broken:
        ran = view.arrays["values"][:, :, 0].size
        text += f" {count(broken, 'rollout')} of {ran:,} ended in numbers that are not finite."
    return tag("p", text)


def _matrix(view: View, names: Sequence[str], of: Objective, k: int) -> figures.Variant:
    assert view.arrays is not None
    a, size = view.arrays, len(names)
    spread = float(a["spread"][k])
    scale = 1.0 / spread if math.isfinite(spread) and spread > NOTHING else math.nan
    effect = np.array(a["pair_mean"][:, :, k], np.float64)
    resolved = np.array(a["confirmed"][:, :, k], bool)
    hover = []
    for i in range(size):
        row = []
        for j in range(size):
            source, index = ("main", (i, k)) if i == j else ("pair", (i, j, k))
            mean, low, high, p = (float(a[f"{source}_{part}"][index]) for part in ("mean", "low", "high", "p"))
            if i == j:
                effect[i, i], resolved[i, i] = mean, verdict_of(low, high, 1.0) != "unclear"
                state = "interval leaves out 0" if resolved[i, i] else "interval includes 0"
                title = f"{names[i]} alone, on average"
            else:
                state = "confirmed" if resolved[i, j] else "not confirmed"
                title = f"{names[i]} with {names[j]}"
            row.append(
                f"{title}: {of.label}\n{number(mean, signed=True)} ({view.ci} "
                f"{between(low, high)})\n{scale_words(of.unit)}\n{p_value(p)}, {state}"
            )
        hover.append(row)
    return figures.matrix(figures.Matrix(names, effect * scale, of.health, resolved, np.zeros_like(resolved), hover))


def _pairs(view: View, names: Sequence[str], shown: Sequence[Objective], order: Mapping[str, int]) -> Html:
    """Confirmed pairs, the largest first."""
    assert view.arrays is not None
    a, rows = view.arrays, []
    for of in shown:
        k = order[of.name]
        spread = float(a["spread"][k])
        if not (math.isfinite(spread) and spread > NOTHING):
            continue
        for i in range(len(names)):
            for j in range(i + 1, len(names)):
                if a["confirmed"][i, j, k]:
                    rows.append((abs(float(a["pair_mean"][i, j, k])) / spread, i, j, k, of))
    if not rows:
        return tag("p", "No pair was confirmed: what one algorithm does did not measurably depend on another.")
    rows.sort(key=lambda row: -row[0])
    columns = [
        Column("Pair"),
        Column("Objective"),
        Column("In spreads", numeric=True),
        Column(f"In units ({view.ci})", numeric=True),
        Column("Together"),
    ]

    def cells(row: tuple[float, int, int, int, Objective]) -> list[Any]:
        size, i, j, k, of = row
        mean, low, high = (float(a[f"pair_{part}"][i, j, k]) for part in ("mean", "low", "high"))
        return [
            f"{names[i]} + {names[j]}",
            of.label,
            number(math.copysign(size, mean), signed=True),
            join([number(mean, signed=True), " ", interval_words(low, high)]),
            said("better" if (mean > 0) == (of.health > 0) else "worse", mean),
        ]

    listed = [cells(row) for row in rows]
    first = table(
        f"The largest of {count(len(rows), 'confirmed interaction')}: what a pair adds to the sum of its separate "
        "effects.",
        columns,
        [(None, listed[:_LISTED])],
    )
    if len(listed) <= _LISTED:
        return tag("div", first)
    rest = table(f"The other {len(listed) - _LISTED} confirmed interactions.", columns, [(None, listed[_LISTED:])])
    return tag("div", first, tag("details", tag("summary", f"Show the other {len(listed) - _LISTED}"), rest))


def _switch_off(view: View, names: Sequence[str], shown: Sequence[Objective], order: Mapping[str, int]) -> Html:
    assert view.arrays is not None
    a = view.arrays
    level = float((view.run.config.get("interactions") or {}).get("false_discovery_rate", 0.05))
    clear = discoveries(np.asarray(a["switch_off_p"], np.float64), level)
    with np.errstate(all="ignore"):
        full = np.asarray(a["values"][:, -1], np.float64).mean(axis=0)  # every gate open

    def cell(i: int, of: Objective) -> Html:
        k = order[of.name]
        mean, low, high = (float(a[f"switch_off_{part}"][i, k]) for part in ("mean", "low", "high"))
        if not math.isfinite(mean):
            return escape(MISSING)
        verdict = ("better" if (mean > 0) == (of.health > 0) else "worse") if clear[i, k] and mean else "unclear"
        arrow = "" if verdict == "unclear" else " ▲" if verdict == "better" else " ▼"
        if math.isfinite(full[k]) and abs(full[k]) > 1e-6:
            scale = 100.0 / abs(full[k])
            text, reach = percent(mean * scale), interval_words(low * scale, high * scale, in_percent=True)
        else:
            text, reach = number(mean, signed=True), interval_words(low, high)
        return join([tag("span", text + arrow, class_=verdict), " ", reach])

    def rows(some: Sequence[Objective]) -> list[list[Any]]:
        return [
            [titled(view, of), number(float(full[order[of.name]])), *[cell(i, of) for i in range(len(names))]]
            for of in some
        ]

    columns = [
        Column("Objective", wide=True),
        Column("Everything on", numeric=True),
        *[Column(n, numeric=True) for n in names],
    ]
    wanted = {*KEY, *view.minimise, *view.keep}
    key = [of for of in shown if of.name in wanted] or list(shown)
    parts = [
        tag(
            "p",
            "What each algorithm changes while all others run, in % of the level with everything on; switching it "
            f"off would undo it. ▲ healthier, ▼ worse, both at a false discovery rate of {100 * level:g} % over all "
            "algorithms and objectives; grey: not resolved.",
        ),
        table(f"Contribution of each algorithm to the key objectives ({view.ci}).", columns, [(None, rows(key))]),
    ]
    if len(key) < len(shown):
        wanted_groups = [
            (h, rows(inside)) for h, some in grouped(view) if (inside := [of for of in some if of in shown])
        ]
        everything = table(f"Contribution of each algorithm to all objectives ({view.ci}).", columns, wanted_groups)
        parts.append(tag("details", tag("summary", f"Show all {len(shown)} objectives"), everything))
    return join(parts)
