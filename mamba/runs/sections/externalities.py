"""What one team's progress does to everybody else, and how teams that each follow their own metric move."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mamba.interactions.statistics import discoveries
from mamba.objectives import NAMES
from mamba.runs import sensitivities
from mamba.runs.markup import MISSING, Column, Html, between, count, join, number, table, tag
from mamba.runs.pictures import maps
from mamba.runs.sections.contributions import key_objectives
from mamba.runs.sections.shared import Figures, Objective, View, grouped, interval_words, label_of, required

_NEEDED = (
    *("names", "objectives", "own_row", "reasons", "conflict_mean", "conflict_low", "conflict_high"),
    *(
        f"externality_{name}_{part}"
        for name in ("objective", "algorithm", "direct", "mediated")
        for part in ("mean", "low", "high", "p")
    ),
)
AUDITED = (
    *("audited_reasons", "audited_t"),
    *(f"audited_{name}_{part}" for name in ("objective", "algorithm") for part in ("mean", "low", "high", "p")),
)
_CHOICES = {
    "objective": "the whole effect",
    "direct": "within a step, all that is carried over held fixed",
    "mediated": "through what is carried over: state, feedback, learning",
}


def externalities_section(view: View, drawn: Figures) -> Html:
    """Externalities, conflicts between objectives, and the game between teams; empty without derivatives."""
    arrays = view.sensitivities
    if arrays is None:
        return Html("")
    told = sensitivities.source(arrays)
    required(view.run.path / sensitivities.FILE, arrays, _NEEDED + (AUDITED if told == "audited" else ()))
    names = [str(name) for name in arrays["names"]]
    reasons = reasons_of(arrays, told)
    shown = [each for each in view.objectives.values() if each.name in NAMES]
    own = [_own(view, int(row)) for row in arrays["own_row"]]
    stand = [j for j, reason in enumerate(reasons) if not reason]
    parts: list[Any] = [
        tag(
            "p",
            "Suppose that one team tunes the levers of its own algorithm, towards its own metric and along its own gradient. For "
            "each 1 % that this metric improves, the table says by how many per cent everything else changes. "
            f"{_measured(arrays, told)} They are local, and say nothing about large steps.",
        )
    ]
    absent = [f"{names[j]}: {reason}" for j, reason in enumerate(reasons) if reason]
    if stand:
        parts += _externalities(view, arrays, names, shown, own, drawn)
    if absent:
        where = " on the sampled model" if told == "audited" else ""
        parts.append(tag("p", f"Without a column, because nothing can be said per 1 %{where}:", class_="note"))
        parts.append(tag("ul", *[tag("li", text) for text in absent], class_="note"))
    parts += _conflicts(view, arrays, shown, drawn)
    parts += _stability(view, arrays, names)
    return join(parts)


def reasons_of(arrays: Mapping[str, NDArray[Any]], told: str) -> list[str]:
    """Why a team has no column, empty where it has one; `told` from `sensitivities.source`."""
    return [str(reason) for reason in arrays["audited_reasons" if told == "audited" else "reasons"]]


def _measured(arrays: Mapping[str, NDArray[Any]], told: str) -> str:
    """Which model the numbers are of, and from where on."""
    warm_up = int(arrays.get("warm_up", 0))
    start = f"after {count(warm_up, 'step')} of warm-up of the whole platform" if warm_up else "from the first step on"
    if told == "audited":
        return (
            f"The numbers are finite differences on the sampled model around the default levers, {start}. What lies within a step "
            "and what is carried over only derivatives can tell apart; those are of the expected mode."
        )
    return f"Derivatives are those of the expected mode at the default levers, {start}."


def _own(view: View, row: int) -> str:
    return label_of(view, NAMES[row]) if row < len(NAMES) else "its own loss"


def _estimate(arrays: Mapping[str, NDArray[Any]], name: str) -> tuple[NDArray[np.float64], ...]:
    return tuple(np.asarray(arrays[f"{name}_{part}"], np.float64) for part in ("mean", "low", "high"))


def _externalities(
    view: View,
    arrays: Mapping[str, NDArray[Any]],
    names: Sequence[str],
    shown: Sequence[Objective],
    own: Sequence[str],
    drawn: Figures,
) -> list[Any]:
    rate = float((view.run.config.get("interactions") or {}).get("false_discovery_rate") or 0.05)
    order = [NAMES.index(each.name) for each in shown]
    health = np.array([each.health for each in shown])[:, None]
    told = sensitivities.source(arrays)
    reach = maps.reach_of(_estimate(arrays, f"{told}_objective")[0])
    columns = [f"{name}: {metric}" for name, metric in zip(names, own, strict=True)]

    def cells(name: str) -> maps.Cells:
        of = told if name == "objective" else "externality"
        mean, low, high = (each[order] for each in _estimate(arrays, f"{of}_{name}"))
        clear = _passes(arrays, f"{of}_{name}", rate)[order]
        reasons = reasons_of(arrays, of)
        there = np.isfinite(mean)
        hover = [
            [
                f"For each 1 % that {names[j]} improves {own[j]}:\n{each.label} {number(float(mean[i, j]), signed=True)} % "
                f"({view.ci} {between(float(low[i, j]), float(high[i, j]))})"
                if there[i, j]
                else f"{names[j]} on {each.label}: {reasons[j] or 'the level is not clearly different from 0'}"
                for j in range(len(names))
            ]
            for i, each in enumerate(shown)
        ]
        words = [[_size(value) for value in row] for row in mean]
        return maps.Cells([each.label for each in shown], names, health * mean / reach, words, hover, clear, ~there)

    choices = dict(_CHOICES)
    if told == "audited":
        choices = {name: f"{words} ({'sampled model' if name == 'objective' else 'expected mode'})"
                   for name, words in _CHOICES.items()}  # fmt: skip
    about = [f"Heat map of externalities, objectives by teams: {words}." for words in choices.values()]
    chooser = drawn.choose(
        [("", words[:1].upper() + words[1:], text) for words, text in zip(choices.values(), about, strict=True)],
        name="externality-shown",
    )
    legend = f"% per 1 %, full at {_size(reach).lstrip('+')}"
    picture = drawn.add(
        [maps.table_map(cells(name), legend=legend) for name in _CHOICES],
        about=about[0],
        caption=(
            f"Columns: the team that improves its own metric ({'; '.join(columns)}). Grey: not resolved at a false discovery "
            f"rate of {100 * rate:g} %, or a team on its own metric. Struck through: nothing can be said, the "
            "reason is under the pointer and below."
        ),
    )
    mean, low, high = _estimate(arrays, f"{told}_objective")
    expected = np.asarray(arrays["externality_objective_mean"], np.float64)
    mediated = np.asarray(arrays["externality_mediated_mean"], np.float64)
    clear = _passes(arrays, f"{told}_objective", rate)
    stand = [j for j, reason in enumerate(reasons_of(arrays, told)) if not reason]

    def cell(k: int, j: int, each: Objective) -> Html:
        if not math.isfinite(mean[k, j]):
            return Html(MISSING)
        verdict = ("better" if (mean[k, j] > 0) == (each.health > 0) else "worse") if clear[k, j] else "unclear"
        text = [
            tag("span", f"{_size(mean[k, j])} %", class_=verdict),
            interval_words(float(low[k, j]), float(high[k, j])),
        ]
        through = tag("div", f"carried over {_size(mediated[k, j])} %", class_="unit")
        if told == "audited":
            words = f"expected mode {_size(expected[k, j])} %, of which carried over {_size(mediated[k, j])} %"
            through = tag("div", words if math.isfinite(expected[k, j]) else "expected mode not told", class_="unit")
        return join([text[0], " ", text[1], through])

    groups = [
        (heading, [[each.label, *[cell(NAMES.index(each.name), j, each) for j in stand]] for each in inside])
        for heading, some in grouped(view)
        if (inside := [each for each in some if each in shown])
    ]
    numbers = table(
        f"Change in % of each objective for each 1 % that a team improves its own metric ({view.ci}, jackknife over rollouts); "
        f"{'below, what the expected mode gives, and' if told == 'audited' else 'and'} the part of it that comes through what is "
        "carried over from step to step.",
        [Column("Objective"), *[Column(columns[j], numeric=True) for j in stand]],
        groups,
    )
    across, low_a, high_a = _estimate(arrays, f"{told}_algorithm")
    row_of = [int(row) for row in arrays["own_row"]]

    def team(i: int, j: int) -> Html | str:
        if i == j:
            return MISSING
        if row_of[i] == row_of[j]:
            return "the same metric"
        if not math.isfinite(across[i, j]):
            return MISSING
        beside = float(arrays["externality_algorithm_mean"][i, j])
        below = [tag("div", f"expected mode {_size(beside)} %", class_="unit")] if told == "audited" else []
        return join([f"{_size(across[i, j])} %", " ", interval_words(float(low_a[i, j]), float(high_a[i, j])), *below])

    body = [[f"{names[i]}: {own[i]}", *[team(i, j) for j in stand]] for i in range(len(names))]
    between_teams = table(
        f"Team on team: improvement in % of the metric of the row for each 1 % that the team of the column improves its own "
        f"({view.ci}); negative: one team's progress is the other's loss.",
        [Column("Metric of"), *[Column(names[j], numeric=True) for j in stand]],
        [(None, body)],
    )
    return [chooser, picture, tag("details", tag("summary", "Show the numbers"), numbers), between_teams]


def _passes(arrays: Mapping[str, NDArray[Any]], name: str, rate: float) -> NDArray[np.bool_]:
    """[J, A] effects that pass; what a team does to the objective it is measured by is 1 % by construction, and no test."""
    p = np.array(arrays[f"{name}_p"], np.float64)
    for team, row in enumerate(arrays["own_row"]):
        if int(row) < len(p):
            p[int(row), team] = np.nan
    return discoveries(p, rate)


def _size(value: float) -> str:
    if not math.isfinite(value):
        return MISSING
    if abs(value) < 0.005:
        return "0.00"
    text = f"{value:+.2f}" if abs(value) < 99.5 else f"{value:+,.0f}"
    return text.replace("-", "\N{MINUS SIGN}")


def _conflicts(view: View, arrays: Mapping[str, NDArray[Any]], shown: Sequence[Objective], drawn: Figures) -> list[Any]:
    some = key_objectives(view, shown)
    order = [NAMES.index(each.name) for each in some]
    mean, low, high = (each[np.ix_(order, order)] for each in _estimate(arrays, "conflict"))
    if len(some) < 2 or not np.isfinite(mean).any():
        return []
    clear = (low > 0) | (high < 0)
    labels = [each.label for each in some]
    hover = [
        [
            f"{a} and {b}: cosine {_size(mean[i, j])} (CI {_size(low[i, j])} to {_size(high[i, j])})"
            for j, b in enumerate(labels)
        ]
        for i, a in enumerate(labels)
    ]
    words = [[_size(value) for value in row] for row in mean]
    picture = drawn.add(
        [maps.table_map(maps.Cells(labels, labels, mean, words, hover, clear, ~np.isfinite(mean)), legend="cosine")],
        about="Heat map of the cosines between the gradients of the key objectives.",
        caption=(
            "Expected mode. +1: the same change of levers makes both healthier; −1: what makes one healthier harms the other. "
            "Grey: the interval (bootstrap over rollouts) includes 0. A lever's step is one unconstrained unit (a factor e, or one "
            "logit): in other units the angles are others."
        ),
    )
    body = [
        [f"{labels[i]} and {labels[j]}", join([_size(mean[i, j]), " ", _brackets(low[i, j], high[i, j])])]
        for i in range(len(labels))
        for j in range(i + 1, len(labels))
    ]
    told = table("Cosines.", [Column("Objectives"), Column(f"Cosine ({view.ci})", numeric=True)], [(None, body)])
    return [
        tag("h3", "Which goals pull the levers apart"),
        picture,
        tag("details", tag("summary", "Show the numbers"), told),
    ]


def _brackets(low: float, high: float) -> Html:
    if not (math.isfinite(low) and math.isfinite(high)):
        return Html("")
    return tag("span", f"({_size(low)} to {_size(high)})", class_="interval")


def _stability(view: View, arrays: Mapping[str, NDArray[Any]], names: Sequence[str]) -> list[Any]:
    """The strip that says whether teams that each follow their own metric come to rest, and what that costs."""
    rows: list[list[Any]] = []

    def scalar(name: str) -> float:
        return float(arrays[name]) if name in arrays else math.nan

    for name, what, reading in (
        ("rotation", "Rotation index", "0: a joint metric exists, all could follow it; near 1: teams chase each other"),
        ("rotation_between", "Rotation index between teams", "the same without what each team does to itself"),
    ):
        if math.isfinite(scalar(name)):
            error = scalar(f"{name}_error")
            words = f" ± {number(error)} (s.e.)" if math.isfinite(error) else ""
            rows.append([what, f"{number(scalar(name))}{words}", reading])
    if "rightmost" in arrays:
        real, imaginary = (float(x) for x in arrays["rightmost"])
        if bool(arrays.get("at_equilibrium", False)):
            text = f"{number(real, signed=True)} {'±' if imaginary else ''} {number(abs(imaginary)) + ' i' if imaginary else ''}"
            reading = "negative: teams that all move come to rest; positive: they drift apart"
        else:
            text = MISSING
            reading = (
                f"not told: the levers are no point of rest (it is {number(scalar('displacement'))} unconstrained units away), "
                "where this would measure curvature and not stability"
            )
        rows.append(["Rightmost eigenvalue of simultaneous learning", text, reading])
    if "gap_mean" in arrays:
        mean, low, high = _estimate(arrays, "gap")
        for i, name in enumerate(names):
            if str(arrays["reasons"][i]) and mean[i] == 0:
                continue  # plays nothing
            gains = "gains by moving alone" if low[i] > 0 else "loses by it" if high[i] < 0 else "not resolved"
            size = join([f"{_size(mean[i])} %", " ", _brackets(low[i], high[i])])
            rows.append([f"Best-response gap of {name}", size, gains])
    for name, what, reading in (
        ("alone", "Goal when every team follows its own metric", "against today, in %; less is better"),
        ("together", "Goal when all levers are tuned together", "against today, in %; less is better"),
        ("price", "Price of non-coordination", "the first less the second; of the goal without its constraints"),
    ):
        if math.isfinite(scalar(f"{name}_mean")):
            mean, low, high = (100 * scalar(f"{name}_{part}") for part in ("mean", "low", "high"))
            rows.append([what, join([f"{_size(mean)} %", " ", _brackets(low, high)]), reading])
    if not rows:
        return []
    columns = [Column("Quantity"), Column(f"Value ({view.ci})", numeric=True), Column("Reading", wide=True)]
    return [
        tag("h3", "If every team follows its own metric"),
        table(
            "The game between teams at the default levers; gaps and prices on the sampled model. The goal here is what is "
            "minimised, without the constraints on what is to be kept: tuned together, the levers may break those.",
            columns,
            [(None, rows)],
        ),
    ]
