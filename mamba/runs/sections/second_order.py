"""The section on second-order effects: what a one-step view misses of the goal, through whom it passes, and what each lever did."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mamba.meta.second_order import FULL, MYOPIC
from mamba.objectives import NAMES
from mamba.runs import second_order
from mamba.runs.markup import MISSING, Column, Html, count, join, number, percent, series, table, tag
from mamba.runs.pictures import interactions as pictures
from mamba.runs.sections.shared import Figures, View, interval_words, label_of, required, results_of

_CLOSE = ("cosine", "cosine_low", "cosine_high", "error", "error_low", "error_high")
_NEEDED = (
    *(
        "variants",
        "objectives",
        "outcomes",
        "levers",
        "owner",
        "names",
        "own_row",
        "flipped",
        "trained",
        "default",
        "closed",
    ),
    *(f"full_{part}" for part in _CLOSE),
    *("slopes", "goal_weights", "objective_error", "step_gap_error", "learn_gap_error"),
    *(f"{name}_{part}" for name in ("own_gain", "effect", "promised") for part in ("mean", "low", "high")),
)
_AUDITED = ("sampled_jacobian", *(f"sampled_{part}" for part in ("ceiling", "measured", *_CLOSE)))
ROWS = 12  # levers shown before the rest is folded
_MOVED = 1e-6


def second_order_section(view: View, drawn: Figures) -> Html:
    """What is second-order of the goal's gradient; empty where that was not measured.

    Raises:
        UserError: the file is damaged or lacks arrays.
    """
    arrays = results_of(view, second_order.FILE, _NEEDED)
    if arrays is None:
        asked = (view.run.config.get("second_order") or {}).get("seeds")
        if asked != 0 or not view.training:
            return Html("")
        told = "Not measured in this run, which saves about a minute of compiling. With "
        return tag("p", told, tag("code", "--second_order.seeds=4"), " the same command adds it.", class_="note")
    if "sampled_cosine" in arrays:
        required(view.run.path / second_order.FILE, arrays, _AUDITED)
    parts = [*_share(view, arrays), *_through(view, arrays, drawn), *_gradients(view, arrays)]
    return join([*parts, *_objectives(view, arrays), *_teams(view, arrays), *_levers(view, arrays)])


# ---- the goal's gradient ---------------------------------------------------------------------------------------------


def _share(view: View, arrays: Mapping[str, NDArray[Any]]) -> list[Html]:
    names = arrays["variants"].tolist()
    share, low, high = _triple(arrays, "full_error", names.index(MYOPIC))
    goal = series(
        [label_of(view, str(name)) for name, w in zip(arrays["outcomes"], arrays["goal_weights"], strict=True) if w]
    )
    text = [
        "Training follows the gradient of the goal: how much ", goal,
        " would change, in % of the default platform, with a small turn of each lever. A lever acts at once, within one step. "
        "It acts again later, because users, creators and algorithms react, and what they become is the world of the next step: "
        "these are its second-order effects. Here the same gradient is computed with parts of that feedback held back "
        "(default levers, smooth expected mode, ",
        f"{count(arrays['slopes'].shape[0], 'rollout')}). ",
    ]  # fmt: skip
    if len(arrays["closed"]):
        text.append(
            join(["No derivative passes through ", series([tag("strong", str(name)) for name in arrays["closed"]]),
                  ", which training had closed: the whole gradient is what is left without it. "])
        )  # fmt: skip
    if math.isfinite(share):
        text.append(
            join(
                [
                    "A view of one step, in which each team takes the world of today as given, misses ",
                    tag("strong", percent(100 * share, signed=False)),
                    " of the gradient ",
                    _in_percent(low, high),
                    ".",
                ]
            )
        )
        if share > 1:
            text.append(" More than 100 % means that what it misses is larger than what is left of both in the end.")
        flipped = [str(name) for name, turned in zip(arrays["levers"], arrays["flipped"], strict=True) if turned]
        if flipped:
            text.append(
                join(
                    [
                        f" For {len(flipped)} of {count(len(arrays['levers']), 'lever')} it has the wrong sign: ",
                        series([tag("strong", name) for name in flipped]),
                        ".",
                    ]
                )
            )
    else:
        text.append("The gradient is too noisy, or not finite, so that no share can be told.")
    return [tag("p", *text)]


def _through(view: View, arrays: Mapping[str, NDArray[Any]], drawn: Figures) -> list[Html]:
    """Picture of what is lost with each block stopped."""
    names = arrays["variants"].tolist()
    blocks = [v for v in second_order.blocks_of(names) if math.isfinite(arrays["full_error"][v])]
    if not blocks:
        return []
    blocks.sort(key=lambda v: -arrays["full_error"][v])
    rows = [second_order.spoken(names[v].removeprefix("stopped/")) for v in blocks]
    found = []
    for row, v in zip(rows, blocks, strict=True):
        mean, low, high = (100 * end for end in _triple(arrays, "full_error", v))
        hover = f"{row}\n{number(mean)} % ({view.ci} {number(low)} to {number(high)})"
        found.append(pictures.Dot(mean, low, high, hover))
    return [
        tag("h3", "Through whom it passes"),
        drawn.add(
            [pictures.dots(rows, [("lost when stopped", found)], x="part of the gradient that is lost", suffix=" %")],
            about="Dot plot: how much of the goal's gradient is lost when no derivative passes through one part of the platform.",
            caption=(
                "Each part alone is held fixed from one step to the next. Parts work through each other (creators "
                "react to users who react to creators), so that the losses need not add up."
            ),
        ),
    ]


def _gradients(view: View, arrays: Mapping[str, NDArray[Any]]) -> list[Html]:
    """The table of gradients: each variant against the whole and against the sampled model."""
    names = arrays["variants"].tolist()
    audited = "sampled_cosine" in arrays
    columns = [
        Column("What is held back", wide=True),
        Column("Missed", numeric=True),
        Column("Cosine to whole", numeric=True),
        *([Column("Cosine to sampled", numeric=True)] if audited else []),
        *([Column("Distance to sampled", numeric=True)] if audited else []),
    ]

    def line(v: int) -> list[Any]:
        whole = names[v] == FULL
        cells = [_variant(names[v]), MISSING if whole else _cell(arrays, "full_error", v, 100)]
        cells.append(MISSING if whole else _cell(arrays, "full_cosine", v))
        if audited:
            cells += [_cell(arrays, "sampled_cosine", v), _cell(arrays, "sampled_error", v, 100)]
        return cells

    groups = [
        (None, [line(v) for v, name in enumerate(names) if name == FULL]),
        ("Feedback within windows only", [line(v) for v, name in enumerate(names) if name.startswith("window/")]),
        ("Parts held fixed", [line(v) for v, name in enumerate(names) if name.startswith("stopped/")]),
    ]
    caption = f"The gradient of the goal with parts held back ({view.ci}; noise of both sides taken out)."
    note = (
        "Missed: length of the difference over that of the whole gradient. Cosine 1: the same direction; 0: unrelated; "
        "−1: opposite."
    )
    if audited:
        whole = names.index(FULL)
        ceiling, raw = float(arrays["sampled_ceiling"][whole]), float(arrays["sampled_measured"][whole])
        note += (
            " Distance: length of the difference over that of the sampled gradient. "
            f"The sampled model is measured by finite differences on {count(arrays['sampled_jacobian'].shape[0], 'key')} "
            f"and noisy: taken as it is, the truth itself would show a cosine of {number(ceiling)} against it "
            f"(the whole gradient shows {number(raw)}). The table takes that noise out, and its intervals allow for it."
        )
    return [
        tag("h3", "Held back, piece by piece"),
        table(caption, columns, [(heading, rows) for heading, rows in groups if rows]),
        tag("p", note, class_="note"),
    ]


def _variant(name: str) -> str:
    kind, _, what = name.partition("/")
    if name == FULL:
        return "nothing: the whole gradient"
    if name == MYOPIC:
        return "all that is carried over: the one-step view"
    if kind == "window":
        return f"all that takes longer than windows of {what} steps"
    return second_order.spoken(what)


def _objectives(view: View, arrays: Mapping[str, NDArray[Any]]) -> list[Html]:
    """What the one-step view misses of each objective's own gradient."""
    columns = [Column("Objective", wide=True), Column(f"Missed by the one-step view ({view.ci})", numeric=True)]
    rows = [
        [label_of(view, str(name)), _cell(arrays, "objective_error", g, 100)]
        for g, name in enumerate(arrays["outcomes"].tolist())
    ]
    return [
        tag(
            "details",
            tag("summary", "Objective by objective"),
            table(
                "Share of the whole gradient of each objective that the one-step view misses.", columns, [(None, rows)]
            ),
        )
    ]


# ---- teams -----------------------------------------------------------------------------------------------------------


def _teams(view: View, arrays: Mapping[str, NDArray[Any]]) -> list[Html]:
    rows = []
    for team, name in enumerate(arrays["names"].tolist()):
        if not math.isfinite(arrays["step_gap_error"][team]):
            continue
        row = int(arrays["own_row"][team])
        own = label_of(view, NAMES[row]) if row < len(NAMES) else "its own loss"
        rows.append(
            [name, own, _cell(arrays, "step_gap_error", team, 100), _cell(arrays, "learn_gap_error", team, 100)]
        )
    if not rows:
        return []
    columns = [
        Column("Team"),
        Column("Measured by"),
        Column("Missed with one step in view", numeric=True),
        Column("Missed with learning taken as given", numeric=True),
    ]
    text = (
        "The same question for each team and what it is measured by: which part of the gradient of its own metric, with respect to "
        "its own levers, it gets wrong when it looks one step ahead, or when it takes everything that algorithms learn as given."
    )
    caption = f"What each team misses of its own gradient ({view.ci})."
    return [
        tag("h3", "What each team misses of its own metric"),
        tag("p", text),
        table(caption, columns, [(None, rows)]),
    ]


# ---- levers ----------------------------------------------------------------------------------------------------------


def _levers(view: View, arrays: Mapping[str, NDArray[Any]]) -> list[Html]:
    move = np.asarray(arrays["trained"], np.float64) - np.asarray(arrays["default"], np.float64)
    moved = [p for p in np.argsort(-np.abs(arrays["effect_mean"]), kind="stable").tolist() if abs(move[p]) > _MOVED]
    if not moved:
        return []
    columns = [
        Column("Lever"),
        Column("Own team's metric, at once", numeric=True),
        Column("Goal, in the end", numeric=True),
        Column("Goal, as one step promises", numeric=True),
        Column("Reading"),
    ]
    lines = [_lever(arrays, p) for p in moved]
    totals = [
        ["All levers together", MISSING, _sized(arrays, "effect_total"), _sized(arrays, "promised_total"), ""],
        [
            "Expected mode, before and after",
            MISSING,
            _sized(arrays, "expected_change"),
            MISSING,
            "check of the line above",
        ],
        ["Sampled model, on fresh seeds", MISSING, _sized(arrays, "measured_change"), MISSING, "what was measured"],
    ]
    text = (
        "What the move of each lever, from its default to where training left it, brought. First-order: what its own team would "
        "see at once on its own metric. In the end: what it did to the goal with all feedback. Both follow from the derivatives "
        "at the two ends of the move (their mean times the move), so that large moves are approximated. The goal is the weighted "
        "sum of relative changes: less is better."
    )
    caption = f"First-order gain of the own team against the effect on the ecosystem ({view.ci}), in %."
    found = [
        tag("h3", "What each lever gained its team, and what it did to everybody"),
        tag("p", text),
        table(caption, columns, [(None, lines[:ROWS]), ("Check", totals)]),
    ]
    if lines[ROWS:]:
        more = table("The other levers.", columns, [(None, lines[ROWS:])])
        found.append(tag("details", tag("summary", f"{len(lines) - ROWS} more"), more))
    return found


def _lever(arrays: Mapping[str, NDArray[Any]], p: int) -> list[Any]:
    own, effect = (_triple(arrays, name, p, ("mean", "low", "high")) for name in ("own_gain", "effect"))
    gains, harms = _way(own), _way(effect)
    if not math.isfinite(own[0]):
        reading = Html("no metric of its own")
    elif gains > 0 and harms > 0:
        reading = tag("span", "team gains, goal pays", class_="worse")
    elif gains < 0 and harms < 0:
        reading = tag("span", "team pays, goal gains", class_="better")
    elif gains > 0 and harms < 0:
        reading = tag("span", "both gain", class_="better")
    elif gains < 0 and harms > 0:
        reading = tag("span", "both lose", class_="worse")
    elif not gains and harms and own[0] == 0:
        reading = Html("its team sees nothing at once")
    else:
        reading = tag("span", "not resolved", class_="unclear")
    if arrays["flipped"][p]:
        reading = join([reading, tag("div", "one step: wrong sign", class_="unit")])
    return [
        str(arrays["levers"][p]),
        _sized(arrays, "own_gain", p, scale=1.0),
        _sized(arrays, "effect", p),
        _sized(arrays, "promised", p),
        reading,
    ]


# ---- words -----------------------------------------------------------------------------------------------------------


def _triple(
    arrays: Mapping[str, NDArray[Any]], name: str, at: int, parts: tuple[str, str, str] = ("", "low", "high")
) -> tuple[float, float, float]:
    mean, low, high = (float(arrays[f"{name}_{part}".rstrip("_")][at]) for part in parts)
    return mean, low, high


def _cell(arrays: Mapping[str, NDArray[Any]], name: str, at: int, scale: float = 1.0) -> Html:
    """An estimate with its interval; in % where scaled."""
    mean, low, high = _triple(arrays, name, at)
    if not math.isfinite(mean):
        return Html(MISSING)
    if (scale == 1.0 and low <= -1.0 and high >= 1.0) or (scale != 1.0 and low <= 0 and high == math.inf):
        return tag("span", "not resolved", class_="unclear")
    if scale == 1.0:
        inside = f"({_cosine(low)} to {_cosine(high)})"
        return join([_cosine(mean), " ", tag("span", inside, class_="interval")])
    return join([percent(scale * mean, signed=False), " ", _in_percent(low, high)])


def _cosine(cosine: float) -> str:
    """A cosine with two decimals."""
    return f"{cosine:.2f}".replace("-", "\N{MINUS SIGN}")


def _in_percent(low: float, high: float) -> Html:
    if math.isfinite(low) and not math.isfinite(high):
        return tag("span", f"(at least {percent(100 * low, signed=False)})", class_="interval")
    return interval_words(100 * low, 100 * high, in_percent=True, signed=False)


def _sized(arrays: Mapping[str, NDArray[Any]], name: str, at: int | None = None, *, scale: float = 100.0) -> Html:
    """A signed change in % with its interval."""
    mean, low, high = (
        scale * float(arrays[f"{name}_{part}"] if at is None else arrays[f"{name}_{part}"][at])
        for part in ("mean", "low", "high")
    )
    if not math.isfinite(mean):
        return Html(MISSING)
    return join([f"{number(mean, signed=True)} %", " ", interval_words(low, high)])


def _way(of: tuple[float, float, float]) -> int:
    """Sign of an estimate whose interval leaves out 0, else 0."""
    return 1 if of[1] > 0 else -1 if of[2] < 0 else 0
