"""The section that compares objectives before and after meta-training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from mamba.objectives import NO_ZERO
from mamba.runs.markup import Column, Html, between, count, escape, join, number, percent, series, table, tag
from mamba.runs.pictures import before_after as pictures
from mamba.runs.sections.shared import (
    NOTHING,
    Figures,
    Objective,
    View,
    grouped,
    interval_words,
    limit_words,
    marks,
    said,
    titled,
    value_of,
    verdict_of,
)


class _Change(NamedTuple):
    of: Objective
    before: float
    after: float
    mean: float
    low: float
    high: float
    share: tuple[float, float, float]  # the last three in % of the level before; NaN where that is 0
    verdict: str


def _changed(of: Objective) -> _Change | None:
    if "change" not in of.level:
        return None
    before, after = (value_of(of.level.get(when, {}), "mean") for when in ("before", "after"))
    mean, low, high = (value_of(of.level["change"], end) for end in ("mean", "low", "high"))
    scale = 100.0 / abs(before) if math.isfinite(before) and abs(before) > NOTHING else math.nan
    share = (mean * scale, low * scale, high * scale)
    return _Change(of, before, after, mean, low, high, share, verdict_of(low, high, of.health))


def change_section(view: View, drawn: Figures) -> Html:
    """Every objective before and after; empty where nothing was evaluated."""
    groups = [(heading, [c for of in inside if (c := _changed(of))]) for heading, inside in grouped(view)]
    groups = [(heading, inside) for heading, inside in groups if inside]
    if not groups:
        return Html("")
    everything = [each for _, inside in groups for each in inside]
    seeds = (view.summary.get("seeds") or {}).get("evaluation")
    lines = [
        (
            heading,
            [
                pictures.Change(
                    name=each.of.label + "".join(f" [{word}]" for word in marks(view, each.of.name)),
                    mean=each.share[0],
                    low=each.share[1],
                    high=each.share[2],
                    verdict=each.verdict,
                    hover=(
                        f"{each.of.label}: {percent(each.share[0])} ({view.ci} "
                        f"{between(*each.share[1:], in_percent=True)})"
                    ),
                )
                for each in inside
                if all(math.isfinite(end) for end in each.share)
            ],
        )
        for heading, inside in groups
    ]
    lines = [(heading, inside) for heading, inside in lines if inside]
    rows = [
        (
            heading,
            [
                [
                    titled(view, each.of),
                    said(each.verdict, each.mean),
                    join([percent(each.share[0]), " ", interval_words(*each.share[1:], in_percent=True)]),
                    number(each.before),
                    number(each.after),
                    join([number(each.mean, signed=True), " ", interval_words(each.low, each.high)]),
                ]
                for each in inside
            ],
        )
        for heading, inside in groups
    ]
    columns = [
        Column("Objective", wide=True),
        Column("Verdict"),
        Column(f"In % of before ({view.ci})", numeric=True),
        Column("Before", numeric=True),
        Column("After", numeric=True),
        Column(f"Change ({view.ci})", numeric=True),
    ]
    where = f"on {seeds} fresh seeds in the sampled model" if seeds else "on fresh seeds in the sampled model"
    parts = [_judged(view, everything)]
    if lines:
        parts.append(
            drawn.add(
                [pictures.changes(lines)],
                about="Dot plot of the relative change of every objective with its confidence interval; the table that "
                "follows holds the same numbers.",
                caption=(
                    f"Change of each objective, paired {where}, with its {view.ci}. Circle: healthier. Diamond: "
                    "worse. Open circle: the interval includes 0. A triangle at the edge means that the value or "
                    "its interval goes on beyond the plot."
                ),
            )
        )
    parts.append(table(f"Levels and paired changes {where}, default levers against trained levers.", columns, rows))
    expected = (1 - view.confidence) * len(everything)
    notes = (
        f"Verdicts take each interval alone: of {len(everything)} objectives, about {expected:.1f} would leave out "
        "0 by chance. Per cents take the level before as given."
    )
    if any(each.of.name in NO_ZERO for each in everything):
        notes += " Wellbeing is measured from a set-point, so its per cents have no natural zero: read its units."
    parts.append(tag("p", notes, class_="note"))
    return join(parts)


def _judged(view: View, everything: Sequence[_Change]) -> Html:
    """What training did, in sentences that follow from the table."""
    by_name = {each.of.name: each for each in everything}
    sentences: list[Any] = []

    def names(some: Sequence[_Change]) -> Html:
        return series([each.of.label for each in some])

    trained = [by_name[name] for name in view.minimise if name in by_name]
    if trained:
        got = []
        for wanted, words in (
            ("lowered", "moved as intended"),
            ("raised", "moved against the goal"),
            ("", "did not clearly change"),
        ):
            chosen = [each for each in trained if _intended(view, each) == wanted]
            if chosen:
                got.append(join([f"{len(chosen)} {words} (", names(chosen), ")"]))
        sentences.append(join([f"Of {count(len(trained), 'trained objective')}, ", series(got), "."]))
    for name, share in view.keep.items():
        if name in by_name:
            sentences.append(_kept(view, by_name[name], float(share)))
    rest = [each for each in everything if each.of.name not in view.minimise and each.of.name not in view.keep]
    better, worse = ([each for each in rest if each.verdict == verdict] for verdict in ("better", "worse"))
    if rest:
        outside = " outside the goal" if view.minimise or view.keep else ""
        said = f"Of the {len(rest)} objectives{outside}, {len(better)} became healthier and {len(worse)} worse"
        sentences.append(join([said, join([": ", names(worse)]) if worse else None, "."]))
    return tag("p", join(sentences, " "), class_="lead")


def _intended(view: View, each: _Change) -> str:
    """`lowered` as the goal wanted, `raised` against it, empty where the interval includes 0."""
    weight = view.minimise[each.of.name]
    if verdict_of(each.low, each.high, 1.0) == "unclear":
        return ""
    return "lowered" if (each.mean < 0) == (weight > 0) else "raised"


def _kept(view: View, each: _Change, share: float) -> Html:
    limit, mean, low, high = 100.0 * (share - 1.0), *each.share
    worst = low if each.of.health > 0 else high
    inside = [each.of.health * (value - limit) >= 0 for value in (mean, worst)]
    state = (
        "was kept"
        if all(inside)
        else "was kept on average, though its interval reaches beyond"
        if inside[0]
        else "was broken"
    )
    if not all(math.isfinite(value) for value in (mean, worst)):
        state = "cannot be judged"
    return escape(
        f"The constraint ({limit_words(view, each.of.name, share)} of its baseline) {state}: {percent(mean)}."
    )
