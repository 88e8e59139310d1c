"""What pairs of algorithms do to each other: sentences, heat maps and verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mamba.interactions.statistics import Estimate
from mamba.interactions.verdicts import CODES, VERDICTS, words
from mamba.objectives import NAMES
from mamba.runs import figures
from mamba.runs.analysis import heat_map
from mamba.runs.markup import Column, Html, between, count, join, number, p_value, series, table, tag
from mamba.runs.sections.analysed import Analysed, Pair
from mamba.runs.sections.shared import (
    NOTHING,
    Figures,
    Objective,
    View,
    change_interval,
    change_words,
    grouped,
    scale_words,
    told,
    typeset,
    verdict_of,
)

LISTED = 10  # sentences and rows shown before the rest is folded away
INDEX_WORDS = {
    "faith_shap": "Faith-Shap of order 2 (Tsai, Yeh and Ravikumar 2023)",
    "shapley_interaction": "the Shapley interaction index (Grabisch and Roubens 1999)",
    "shapley_taylor": "Shapley-Taylor of order 2 (Sundararajan, Dhamdhere and Agarwal 2020)",
}
BACKGROUNDS = {"in_context": "while all other algorithms are on", "average": "averaged over the other algorithms"}
LABELS = {name: name.replace("_", " ") for name in VERDICTS} | {"none": "no interaction"}


def in_words(view: View) -> Html:
    """The headline sentence of every confirmed pair, the strongest first."""
    found = [typeset(str(each.get("sentence", ""))) for each in told(view) if each.get("kind") == "interaction"]
    if not found:
        return Html("")
    parts = [tag("h3", "In words"), tag("ol", *[tag("li", sentence) for sentence in found[:LISTED]])]
    if rest := found[LISTED:]:
        more = tag("ol", *[tag("li", sentence) for sentence in rest], start=LISTED + 1)
        parts.append(tag("details", tag("summary", f"Show the other {len(rest)} pairs"), more, class_="printed"))
    return join(parts)


# ---- heat maps -------------------------------------------------------------------------------------------------------


def matrices(view: View, of: Analysed, shown: Sequence[Objective], drawn: Figures) -> Html:
    """One heat map an objective, to choose from; the first is that of the strongest pair."""
    wanted = NAMES[of.told[0].k] if of.told else shown[0].name
    start = next((at for at, each in enumerate(shown) if each.name == wanted), 0)
    variants = [
        figures.matrix(heat_map(of.analysis, NAMES.index(each.name), each.health, _hover(view, of, each)))
        for each in shown
    ]
    about = [f"Heat map of the interactions of {len(of.names)} algorithms on {each.label}." for each in shown]
    chooser = drawn.choose(drawings(view, shown, about), name="matrix-objective", chosen=start)
    resolution = f"{100 * of.config.resolution:g}\N{NO-BREAK SPACE}%"
    index = "the average interaction" if of.analysis.index_pair is None else INDEX_WORDS[of.config.index]
    return tag(
        "div",
        chooser,
        drawn.add(
            variants,
            about=about[start],
            chosen=start,
            caption=(
                f"Elsewhere than on the diagonal: what a pair adds beyond its two algorithms, by {index}. Framed on the "
                "diagonal: one algorithm by itself. In spreads, the standard deviation over all on/off combinations. Struck "
                f"through: shown to be within ±{resolution} of a spread. Grey, in brackets: not resolved, which is not the "
                "same as no interaction. This index is tested by itself; the verdicts below are about one background. Point "
                "at a cell for units and intervals."
            ),
        ),
    )


def drawings(view: View, shown: Sequence[Objective], about: Sequence[str]) -> list[tuple[str, str, str]]:
    """Choices of a figure with one drawing for each objective."""
    headings = {each.name: heading for heading, inside in grouped(view) for each in inside}
    return [(headings[each.name], each.label, text) for each, text in zip(shown, about, strict=True)]


def _hover(view: View, of: Analysed, each: Objective) -> list[list[str]]:
    """Words of every cell of an objective's matrix."""
    a, k, size = of.analysis, NAMES.index(each.name), len(of.names)
    main, pair = a.shown_main, a.shown_pair

    def cell(i: int, j: int) -> str:
        source, at = (main, (i, k)) if i == j else (pair, (i, j, k))
        mean, low, high, p = (float(x[at]) for x in (source.mean, source.low, source.high, source.p))
        size_words = f"{number(mean, signed=True)} ({view.ci} {between(low, high)})\n{scale_words(each.unit)}"
        if i == j:
            state = "interval includes 0" if verdict_of(low, high, 1.0) == "unclear" else "interval leaves out 0"
            return f"{of.names[i]} by itself: {each.label}\n{size_words}\n{p_value(p)}, {state}"
        code = int(a.verdicts.codes[i, j, k])
        today = of.interaction
        context = change_words(of, each, float(today.mean[i, j, k]))
        state = "confirmed" if a.confirmed[i, j, k] else "not confirmed"
        if code == CODES["none"]:
            state += ", negligible"
        return (
            f"{of.names[i]} with {of.names[j]}: {each.label}\n{size_words}, {p_value(p)}\n{LABELS[VERDICTS[code]]}: {context} "
            f"{BACKGROUNDS[of.config.background]}\n{p_value(float(a.verdicts.p[i, j, k]))}, {state}"
        )

    return [[cell(i, j) for j in range(size)] for i in range(size)]


# ---- verdicts --------------------------------------------------------------------------------------------------------


def counts(of: Analysed, shown: Sequence[Objective]) -> Html:
    """How many tests ended in which verdict."""
    upper = np.triu_indices(len(of.names), 1)
    some = [NAMES.index(each.name) for each in shown]
    codes = of.analysis.verdicts.codes[upper][:, some]
    confirmed = of.analysis.confirmed[upper][:, some]
    order = [*VERDICTS[2:], "none", "unresolved"]
    rows = [
        [LABELS[name].capitalize(), words(name), f"{here:,}"]
        for name in order
        if (here := int((codes == CODES[name]).sum())) or name in ("none", "unresolved")
    ]
    caption = f"Verdicts on {count(codes.size, 'pair and objective', 'pairs and objectives')}."
    found = table(
        caption, [Column("Verdict"), Column("What it says", wide=True), Column("Number", numeric=True)], [(None, rows)]
    )
    small = int((confirmed & (codes == CODES["none"])).sum())
    if not small:
        return found
    note = (
        f"{small:,} of those without interaction {'is' if small == 1 else 'are'} measurable all the same: their interval "
        "leaves out 0, yet lies within the resolution."
    )
    return tag("div", found, tag("p", note, class_="note"))


def verdict_table(view: View, of: Analysed, shown: Sequence[Objective]) -> Html:
    """Resolved pairs with the effects behind the verdict, the largest first, and all others by pair."""
    by_name = {each.name: each for each in shown}
    listed = [pair for pair in of.told if NAMES[pair.k] in by_name]
    parts: list[Any] = []
    if listed:
        rows = [_row(of, pair, by_name[NAMES[pair.k]]) for pair in listed]
        columns = [
            Column("Pair"),
            Column("Objective"),
            Column("Verdict"),
            Column("Effect of the first", numeric=True),
            Column("Effect of the second", numeric=True),
            Column("Interaction", numeric=True),
            Column("In spreads", numeric=True),
        ]
        about = (
            f"The first of {count(len(rows), 'resolved interaction')}, in % of the level with everything on, "
            f"{BACKGROUNDS[of.config.background]}. Alone: the other of the pair is off; with it: it is on. "
            f"Intervals ({view.ci}) allow for the pairs' having been picked."
        )
        parts.append(table(about, columns, [(None, rows[:LISTED])], class_="verdicts"))
        if rest := rows[LISTED:]:
            folded = table(f"The other {count(len(rest), 'resolved interaction')}.", columns, [(None, rest)])
            parts.append(tag("details", tag("summary", f"Show the other {len(rest)}"), folded))
    else:
        parts.append(tag("p", "No interaction beyond the resolution was confirmed."))
    parts.append(tag("details", tag("summary", "Every pair, objective by objective"), _by_pair(of, shown)))
    return join(parts)


def _row(of: Analysed, pair: Pair, each: Objective) -> list[Any]:
    i, j, k, size = pair
    a, b = of.names[i], of.names[j]
    better = (size > 0) == (each.health > 0)

    def cell(source: Estimate, at: tuple[int, int, int], before: str = "") -> Html:
        mean, low, high = (float(x[at]) for x in (source.mean, source.low, source.high))
        text = change_words(of, each, mean)
        return join([tag("span", before, class_="unit"), text, " ", change_interval(of, each, low, high)])

    verdict = VERDICTS[int(of.analysis.verdicts.codes[i, j, k])]
    turned = of.analysis.verdicts.reversed_by
    who = [f"{y} turns {x} round" for x, y, at in ((a, b, (i, j, k)), (b, a, (j, i, k))) if turned[at]]
    return [
        f"{a} + {b}",
        each.label,
        join([tag("strong", LABELS[verdict]), tag("div", "; ".join(who), class_="small") if who else None]),
        join([cell(of.alone, (i, j, k), "alone "), cell(of.given, (i, j, k), "with it ")]),
        join([cell(of.alone, (j, i, k), "alone "), cell(of.given, (j, i, k), "with it ")]),
        join(
            [tag("span", _arrow(size, better), class_="better" if better else "worse"), cell(of.interaction, (i, j, k))]
        ),
        number(size, signed=True),
    ]


def _arrow(size: float, better: bool) -> str:
    return f"{'↑' if size > 0 else '↓'} {'healthier' if better else 'worse'} "


def _by_pair(of: Analysed, shown: Sequence[Objective]) -> Html:
    codes = of.analysis.verdicts.codes
    rows = []
    for i in range(len(of.names)):
        for j in range(i + 1, len(of.names)):
            by: dict[str, list[str]] = {name: [] for name in VERDICTS}
            for each in shown:
                by[VERDICTS[int(codes[i, j, NAMES.index(each.name)])]].append(each.label)
            resolved = [
                join([tag("strong", LABELS[name]), ": ", series(labels)])
                for name, labels in by.items()
                if labels and name not in ("none", "unresolved")
            ]
            rows.append(
                [
                    f"{of.names[i]} + {of.names[j]}",
                    join(resolved, "; ") or "–",
                    series(by["none"]) or "–",
                    series(by["unresolved"]) or "–",
                ]
            )
    columns = [
        Column("Pair"),
        Column("Interaction", wide=True),
        Column("No interaction at this resolution", wide=True),
        Column("Unresolved", wide=True),
    ]
    return table("Verdicts of every pair.", columns, [(None, rows)])


def has_scale(of: Analysed, k: int) -> bool:
    """Whether platforms differ on an objective at all."""
    spread = float(of.analysis.spread[k])
    return math.isfinite(spread) and spread > NOTHING
