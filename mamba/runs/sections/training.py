"""The section on training: objectives, constraints and levers over meta-steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mamba.runs import figures, folder
from mamba.runs.markup import Column, Html, count, join, number, percent, series, table, tag
from mamba.runs.pictures import training as pictures
from mamba.runs.sections.shared import (
    Figures,
    Objective,
    View,
    grouped,
    is_number,
    label_of,
    limit_words,
    marks,
    value_of,
)


def training_section(view: View, drawn: Figures) -> Html:
    """Curves and levers; empty without training."""
    levers = levers_of(view)
    if not view.training and not levers:
        return Html("")
    parts: list[Any] = []
    if view.training:
        rows = view.training
        steps = folder.column(rows, "meta_step")
        asked = [*view.minimise, *view.keep]
        goal = [view.objectives[name] for name in dict.fromkeys(asked) if name in view.objectives]
        sets = [("What was trained and kept", goal), *grouped(view)]
        lines = [(heading, curves) for heading, some in sets if (curves := _relative(view, some))]
        seeds = (view.run.config.get("meta") or {}).get("constraint_seeds")
        paired = f" on {count(seeds, 'paired seed')}" if is_number(seeds) else ""
        planned = (view.run.config.get("meta") or {}).get("steps")
        done = (
            f"{len(rows)} of {count(planned, 'meta-step')} done. " if is_number(planned) and planned > len(rows) else ""
        )
        broken = int((~np.isfinite(folder.column(rows, "meta/utility"))).sum())
        health = f" {count(broken, 'meta-step')} had a goal that is not finite." if broken else ""
        parts.append(
            tag(
                "p",
                f"{done}Each meta-step measures the levers of that moment against the default levers{paired} of the "
                "sampled model. These curves steer training and are noisy; the result is the comparison "
                f"above.{health}",
            )
        )
        parts.append(_deployed(view))
        thinned = f" Every curve is thinned to {figures.POINTS:,} points." if len(rows) > figures.POINTS else ""
        words = [f"Curves over meta-steps, relative to the default levers: {heading}." for heading, _ in lines]
        left = (
            tag(
                "div",
                *[
                    drawn.choose(
                        [("", heading, text) for (heading, _), text in zip(lines, words, strict=True)],
                        name="curves-shown",
                    ),
                    drawn.add(
                        [pictures.curves(curves, y="change in %", suffix=" %") for _, curves in lines],
                        about=words[0],
                        caption=f"Objectives relative to the default levers.{thinned}",
                    ),
                ],
            )
            if lines
            else Html("")
        )
        broken_by = [
            pictures.Curve(limit_words(view, name, float(share)), steps, values)
            for name, share in view.keep.items()
            if np.isfinite(values := folder.column(rows, f"constraint/{name}")).any()
        ]
        right = (
            drawn.add(
                [pictures.curves(broken_by, y="violation, in units of slack")],
                title="Constraint violation" + (f": {broken_by[0].name}" if len(broken_by) == 1 else ""),
                about="Curves of the constraint violations over meta-steps.",
                caption=(
                    "Constraints: below 0 is kept, above 0 is broken. One unit is the slack that the constraint "
                    "leaves (for “at least 97 %”, 3 % of the baseline)."
                ),
            )
            if broken_by
            else Html("")
        )
        parts.append(tag("div", left, right, class_="columns"))
    if levers:
        parts.append(tag("h3", "Levers"))
        parts.append(_lever_table(view, levers))
        if view.training:
            parts.append(_lever_plots(view, levers, drawn))
    return join(parts)


def _relative(view: View, some: Sequence[Objective]) -> list[pictures.Curve]:
    """Objectives over meta-steps in % of the baseline of the same meta-step; those without a number are left out."""
    steps, found = folder.column(view.training, "meta_step"), []
    for of in some:
        values, baseline = (folder.column(view.training, f"{part}/{of.name}") for part in ("ecosystem", "baseline"))
        with np.errstate(all="ignore"):
            relative = np.where(np.abs(baseline) > 1e-6, 100 * (values - baseline) / np.abs(baseline), np.nan)
        if np.isfinite(relative).any():
            name = of.label + "".join(f" [{word}]" for word in marks(view, of.name))
            found.append(pictures.Curve(name, steps, relative))
    return found


class Lever(NamedTuple):
    """One lever in its meaningful range; a value that is not known is NaN."""

    name: str
    unit: str
    before: float
    after: float


def _deployed(view: View) -> Html:
    """Whether the levers of the last meta-step were deployed, in a sentence; empty where that was not asked."""
    told = view.summary.get("restored") or {}
    share = value_of(told, "share")
    if not math.isfinite(share) or "confidence" not in told:
        return Html("")
    sure = f"{100 * value_of(told, 'confidence'):g}\N{NO-BREAK SPACE}%"
    beyond = _beyond(view, told.get("trained_bound") or {})
    if share == 1.0 and not beyond:
        return tag(
            "p",
            "The levers of the last meta-step keep what they were told to keep, on seeds that no gradient saw "
            f"({sure} confidence, one-sided).",
        )
    left = _beyond(view, told.get("bound") or {})
    end = (
        join([" come nearest to it, and still do not surely keep ", series(left), "."])
        if left
        else ", on the same seeds, and are the ones that are compared above."
    )
    if share == 1.0:
        return tag(
            "p",
            join(["The levers of the last meta-step come nearest to keeping ", series(beyond), ", and do not surely."]),
        )
    way = f"Those that go {percent(100 * share, signed=False)} of the way from the default levers to them"
    does = "" if left else " do"
    intervals = f" (one-sided intervals with {sure} confidence)"
    what = ["The levers of the last meta-step do not surely keep ", series(beyond), f"{intervals}. {way}{does}", end]
    return tag("p", join(what))


def _beyond(view: View, bounds: Mapping[str, Any]) -> list[str]:
    """Objectives of which a limit is not surely kept, also where that is not known."""
    return [label_of(view, name) for name in bounds if not value_of(bounds, name) <= 0]


def levers_of(view: View) -> list[Lever]:
    """Levers in the order of the algorithms; while a run goes on, `after` is where they are now."""
    told = view.summary.get("levers") or {}
    if told:
        found = [
            Lever(name, str(each.get("unit") or ""), value_of(each, "before"), value_of(each, "after"))
            for name, each in told.items()
        ]
    else:
        last = view.training[-1] if view.training else {}
        names = [name.removeprefix("levers/") for name in last if name.startswith("levers/")]
        found = [Lever(name, "", math.nan, value_of(last, f"levers/{name}")) for name in names]
    order = list(view.algorithms)

    def place(lever: Lever) -> tuple[int, str]:
        owner = lever.name.split("/")[0]
        return (order.index(owner) if owner in order else len(order), lever.name)

    return sorted(found, key=place)


def _lever_table(view: View, levers: Sequence[Lever]) -> Html:
    known, rows = any(math.isfinite(each.before) for each in levers), []
    for each in levers:
        change = number(each.after - each.before, signed=True)
        if each.before > 0 and each.after > 0:
            change += f" (× {number(each.after / each.before)})"
        numbers = [number(each.before), number(each.after), change] if known else [number(each.after)]
        rows.append([each.name, tag("span", each.unit, class_="unit"), *numbers])
    titles = ("Before", "After", "Change") if known else ("Now",)
    columns = [Column("Algorithm / lever"), Column("Unit"), *[Column(title, numeric=True) for title in titles]]
    return table("Levers in their meaningful range.", columns, [(None, rows)])


def _lever_plots(view: View, levers: Sequence[Lever], drawn: Figures) -> Html:
    steps = folder.column(view.training, "meta_step") + 1.0  # a row holds the levers after its step
    plots = []
    for each in levers:
        values = folder.column(view.training, f"levers/{each.name}")
        if not np.isfinite(values).any():
            continue
        x, y = steps, values
        if math.isfinite(each.before) and steps[0] == 1.0:
            x, y = np.concatenate([[0.0], x]), np.concatenate([[each.before], y])
        about = f"Lever {each.name} over meta-steps, from {number(float(y[0]))} to {number(float(y[-1]))} {each.unit}."
        title = join([each.name, " ", tag("span", each.unit, class_="unit")])
        plots.append(drawn.add([pictures.lever(each.unit, x, y, each.before)], about=about, title=title, buttons=False))
    if not plots:
        return Html("")
    dotted = " Dotted: the default." if any(math.isfinite(each.before) for each in levers) else ""
    return join(
        [
            tag("p", f"Each lever over meta-steps, in its own unit.{dotted}", class_="note"),
            tag("div", *plots, class_="levers"),
        ]
    )
