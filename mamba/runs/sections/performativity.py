"""What comes of teams that retrain on the data which they bring about: the naive, the stable and the trained point."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mamba.interactions.statistics import Estimate, estimate
from mamba.meta import vector
from mamba.objectives import NAMES, NO_ZERO
from mamba.runs import performativity
from mamba.runs.markup import MISSING, Column, Html, count, join, number, percent, series, table, tag
from mamba.runs.performativity import DEFAULT, NAIVE, STABLE, TRAINED
from mamba.runs.sections.contributions import key_objectives
from mamba.runs.sections.shared import (
    LEVEL,
    Figures,
    Objective,
    View,
    interval_words,
    label_of,
    results_of,
    titled,
)

_NEEDED = ("points", "values", "meaningful", "levers", "units", "players", "names", "own_row", "own_sign", "objectives")
_MOVED = 8  # levers that are shown at once
_WORDS = {
    DEFAULT: "Default",
    NAIVE: "After one retraining (naive)",
    STABLE: "After all (stable)",
    TRAINED: "Trained through the dynamics",
}


def performativity_section(view: View, _drawn: Figures) -> Html:
    """The three points against the default; empty where nobody retrained.

    Raises:
        UserError: the file is damaged, or lacks arrays.
    """
    arrays = results_of(view, performativity.FILE, _NEEDED)
    if arrays is None:
        return Html("")
    if "path" not in arrays:
        return tag("p", "No team has both levers and a metric of its own, so nobody retrains.", class_="note")
    return join(
        [_read(view, arrays), _promises(view, arrays), _objectives(view, arrays), _levers(arrays), _notes(arrays)]
    )


def _points(arrays: Mapping[str, NDArray[Any]]) -> list[str]:
    return [str(point) for point in arrays["points"]]


def _read(view: View, arrays: Mapping[str, NDArray[Any]]) -> Html:
    """What happened, in sentences."""
    gaps = performativity.goal_gaps(arrays, view.minimise, confidence=view.confidence)
    text: list[Any] = [
        "Each team tunes the levers of its own algorithm for its own metric, on data that the deployed levers of all have brought "
        "about; then everybody deploys, the data change, and it begins again. "
        f"Here the teams {performativity.course(arrays)}. "
    ]
    if view.minimise:
        goal = series([label_of(view, name) for name in view.minimise])
        text += [
            join(["On the goal of training (the weighted sum of relative changes of ", goal, ", less is better), "]),
            join(
                ["the first retraining changes it by ", _goal(gaps[DEFAULT, NAIVE]), ", those that follow by another "]
            ),
            _goal(gaps[NAIVE, STABLE]),
        ]
        if (STABLE, TRAINED) in gaps:
            text += [", and training through the dynamics ends ", _goal(gaps[STABLE, TRAINED]), " from there"]
        text.append(".")
    return tag("p", *text)


def _goal(gap: Estimate) -> Html:
    """A change of the goal from the first to the second point; a gap is first minus second."""
    mean, low, high = -100.0 * float(gap.mean), -100.0 * float(gap.high), -100.0 * float(gap.low)
    return join([percent(mean), " ", interval_words(low, high, in_percent=True)])


def _promises(view: View, arrays: Mapping[str, NDArray[Any]]) -> Html:
    """What the old data promised each team for its own metric, and what it got."""
    names = [str(name) for name in arrays["names"]]
    points = _points(arrays)
    values = dict(zip(points, np.asarray(arrays["values"], np.float64), strict=True))
    shown = [point for point in (NAIVE, STABLE, TRAINED) if point in points]
    rows = []
    for k, i in enumerate(int(each) for each in arrays["playing"]):
        row, sign = int(arrays["own_row"][i]), float(arrays["own_sign"][i])
        level = abs(values[DEFAULT][:, row].mean())
        promised = estimate(100.0 * np.asarray(arrays["promised"], np.float64)[:, k], view.confidence)
        got = [
            estimate(100.0 * sign * (values[DEFAULT][:, row] - values[point][:, row]) / level, view.confidence)
            for point in shown
        ]
        own = label_of(view, NAMES[row]) if row < len(NAMES) else "its own loss"
        rows.append([names[i], own, *[_percents(each) for each in (promised, *got)]])
    columns = [
        Column("Team"),
        Column("Its own metric"),
        Column("Promised by the old data", numeric=True),
        *[Column(_WORDS[point], numeric=True) for point in shown],
    ]
    caption = (
        f"By how much each team's own metric improves, in % of its default level ({view.ci}): what moving alone promised on the "
        "data of the default levers, and what it got once everybody had moved and the data with them."
    )
    return table(caption, columns, [(None, rows)])


def _percents(of: Estimate) -> Html:
    return join([percent(float(of.mean)), " ", interval_words(float(of.low), float(of.high), in_percent=True)])


def _objectives(view: View, arrays: Mapping[str, NDArray[Any]]) -> Html:
    shown = [each for each in view.objectives.values() if each.name in NAMES]
    key = key_objectives(view, shown)
    rest = [each for each in shown if each not in key]
    points = _points(arrays)
    gaps = performativity.gaps(arrays, confidence=view.confidence)
    levels = np.asarray(arrays["values"], np.float64).mean(axis=1)
    heads = {
        (DEFAULT, NAIVE): "Naive less default",
        (NAIVE, STABLE): "Stable less naive",
        (STABLE, TRAINED): "Trained less stable",
    }
    columns = [
        Column("Objective"),
        *[Column(point.capitalize(), numeric=True) for point in points],
        *[Column(heads[pair], numeric=True) for pair in gaps],
    ]

    def rows(some: Sequence[Objective]) -> list[list[Any]]:
        found = []
        for each in some:
            k = NAMES.index(each.name)
            found.append(
                [
                    titled(view, each),
                    *[number(float(level[k])) for level in levels],
                    *[_change(each, float(levels[0, k]), gap, k) for gap in gaps.values()],
                ]
            )
        return found

    seeds = arrays["values"].shape[1]
    caption = (
        f"Objectives at every point, means over {count(seeds, 'fresh seed')} of the sampled model, and paired differences in % of "
        f"the default level, in units where that has no zero ({view.ci})."
    )
    parts = [table(caption, columns, [(None, rows(key))])]
    if rest:
        more = table("The other objectives at every point.", columns, [(None, rows(rest))])
        parts.append(tag("details", tag("summary", "The other objectives"), more))
    return join(parts)


def _change(each: Objective, level: float, gap: Estimate, k: int) -> Html:
    """Second less first point, with its interval; a gap is first minus second."""
    mean, low, high = -float(gap.mean[k]), -float(gap.high[k]), -float(gap.low[k])
    if not math.isfinite(mean):
        return tag("span", MISSING)
    if each.name in NO_ZERO or abs(level) <= LEVEL:
        return join([number(mean, signed=True), " ", interval_words(low, high)])
    scale = 100.0 / abs(level)
    return join([percent(mean * scale), " ", interval_words(low * scale, high * scale, in_percent=True)])


def _levers(arrays: Mapping[str, NDArray[Any]]) -> Html:
    """The levers that moved most, in their meaningful range."""
    points = _points(arrays)
    away = np.abs(arrays["point_levers"] - arrays["point_levers"][0])
    order = np.argsort(-away.max(axis=0), kind="stable")
    order = [int(p) for p in order if away[:, p].max() > 0]
    edge = away >= float(arrays["radius"]) * (1.0 - 1e-6)
    columns = [Column("Lever"), Column("Unit"), *[Column(point.capitalize(), numeric=True) for point in points]]

    def row(p: int) -> list[Any]:
        cells = [
            f"{number(float(arrays['meaningful'][n, p]))}{'*' if edge[n, p] and points[n] in (NAIVE, STABLE) else ''}"
            for n in range(len(points))
        ]
        return [str(arrays["levers"][p]), str(arrays["units"][p]), *cells]

    caption = "Levers that moved most, in their meaningful range. *: at the edge of the box."
    parts = [table(caption, columns, [(None, [row(p) for p in order[:_MOVED]])])]
    if len(order) > _MOVED:
        more = table("The other levers that moved.", columns, [(None, [row(p) for p in order[_MOVED:]])])
        parts.append(tag("details", tag("summary", "The other levers"), more))
    return join(parts)


def _notes(arrays: Mapping[str, NDArray[Any]]) -> Html:
    stable = arrays["point_levers"][_points(arrays).index(STABLE)]
    plays = np.asarray(arrays["players"]) != vector.NOBODY
    pinned = int(np.sum(np.abs(stable - arrays["point_levers"][0])[plays] >= float(arrays["radius"]) * (1.0 - 1e-6)))
    moves = series([number(float(move)) for move in arrays["moves"]])
    left = float(arrays["left"])
    text: list[Any] = [
        f"Levers may move {number(float(arrays['radius']))} unconstrained units from their defaults, and ways are charged "
        f"(performativity.cost); {pinned} of {count(int(plays.sum()), 'lever')} in play ended at the edge, where the box and not "
        "the data says where to stop. Trained levers know neither box nor charge. ",
        join(["Retraining moved the levers by ", moves, " (Euclidean, unconstrained)"]),
    ]
    if math.isfinite(left) and performativity.settled(arrays) != "settled":
        text.append(f"; at that rate {number(left)} would be left")
    text.append(
        ". Teams follow derivatives of the expected mode that reach one step far, the same random numbers in every retraining; all "
        "numbers in the tables are of the sampled model."
    )
    return tag("p", *text, class_="note")
