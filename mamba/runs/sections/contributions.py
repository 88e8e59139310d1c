"""What each algorithm contributes: steps that add up, switch-offs, fair shares, and how much is due to interactions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mamba.interactions import factorial
from mamba.interactions.statistics import Estimate, contrast, discoveries, estimate
from mamba.objectives import NAMES
from mamba.runs.markup import MISSING, Column, Html, between, count, escape, join, number, percent, series, table, tag
from mamba.runs.pictures import interactions as pictures
from mamba.runs.pictures import maps
from mamba.runs.sections.analysed import Analysed
from mamba.runs.sections.pairs import INDEX_WORDS, drawings, has_scale
from mamba.runs.sections.shared import (
    KEY,
    Figures,
    Objective,
    View,
    change_interval,
    change_words,
    grouped,
    interval_words,
    scale_words,
    titled,
)

DRAWN = 8  # pairs of a waterfall with a bar of their own
NAMED = 6  # objectives that a sentence lists by name
SEPARATE = 0.05  # share of the variance below which algorithms may be tuned one by one


def key_objectives(view: View, shown: Sequence[Objective]) -> list[Objective]:
    """Objectives that matter most: what every platform looks at, and what was trained or kept."""
    wanted = {*KEY, *view.minimise, *view.keep}
    return [of for of in shown if of.name in wanted] or list(shown)


# ---- waterfall -------------------------------------------------------------------------------------------------------


def waterfalls(view: View, of: Analysed, shown: Sequence[Objective], drawn: Figures) -> Html:
    """From everything off to everything on, objective by objective."""
    index_main, index_pair = of.analysis.index_main, of.analysis.index_pair
    heading = tag("h3", "From everything off to everything on")
    if index_main is None or index_pair is None:
        text = (
            f"With {len(of.names)} algorithms a fraction of all combinations was run, everything off not among them, so "
            "that there is no sum to draw."
        )
        return join([heading, tag("p", text, class_="note")])
    together = _together(of)
    usable = [each for each in shown if has_scale(of, NAMES.index(each.name))]
    if not usable:
        return Html("")
    wanted = NAMES[of.told[0].k] if of.told else usable[0].name
    start = next((at for at, each in enumerate(usable) if each.name == wanted), 0)
    steps = [steps_of(view, of, each) for each in usable]
    about = [f"Waterfall from everything off to everything on: {each.label}." for each in usable]
    chooser = drawn.choose(drawings(view, usable, about), name="waterfall-objective", chosen=start)
    ends = _ends(of)
    picture = drawn.add(
        [
            pictures.waterfall(
                some,
                start=float(ends[0, NAMES.index(each.name)]),
                end=float(ends[1, NAMES.index(each.name)]),
                health=each.health,
                unit=scale_words(each.unit),
            )
            for each, some in zip(usable, steps, strict=True)
        ],
        about=about[start],
        chosen=start,
        caption=(
            f"Plain: one algorithm. Hatched: what a pair adds, by {INDEX_WORDS[of.config.index]}; dotted: all that has no bar "
            f"of its own. Bars add up exactly. Blue healthier, orange worse, grey: the {view.ci} includes 0. The axis does "
            "not begin at 0."
        ),
    )
    columns = [
        Column("Objective", wide=True),
        Column("Everything off", numeric=True),
        *[Column(name, numeric=True) for name in of.names],
        Column("All pairs and more", numeric=True),
        Column("Everything on", numeric=True),
    ]

    def cell(source: Estimate, at: tuple[int, ...]) -> Html:
        mean, low, high = (float(x[at]) for x in (source.mean, source.low, source.high))
        return join([number(mean, signed=True), " ", interval_words(low, high)])

    def row(each: Objective, main: Estimate) -> list[Any]:
        k = NAMES.index(each.name)
        cells = [*[cell(main, (i, k)) for i in range(len(of.names))], cell(together, (k,))]
        return [titled(view, each), number(float(ends[0, k])), *cells, number(float(ends[1, k]))]

    groups = [
        (title, [row(each, index_main) for each in inside if each in usable])
        for title, inside in grouped(view)
        if any(each in usable for each in inside)
    ]
    told = table(f"The same in numbers ({view.ci}), pairs taken together; rows add up.", columns, groups)
    return join([heading, chooser, picture, tag("details", tag("summary", "Show the numbers"), told)])


def steps_of(view: View, of: Analysed, each: Objective) -> list[pictures.Step]:
    """Bars of an objective's waterfall: algorithms, the largest pairs, and the rest, which makes the sum exact."""
    main, pair, k = of.analysis.index_main, of.analysis.index_pair, NAMES.index(each.name)
    assert main is not None and pair is not None
    ends = _ends(of)[:, k]

    def step(name: str, kind: str, source: Estimate, at: tuple[int, ...]) -> pictures.Step:
        mean, low, high = (float(x[at]) for x in (source.mean, source.low, source.high))
        hover = f"{name}: {number(mean, signed=True)} ({view.ci} {between(low, high)})\n{scale_words(each.unit)}"
        return pictures.Step(name, kind, mean, low, high, hover)

    size = len(of.names)
    alone = [step(of.names[i], "main", main, (i, k)) for i in range(size)]
    both = [
        step(f"{of.names[i]} + {of.names[j]}", "pair", pair, (i, j, k)) for i in range(size) for j in range(i + 1, size)
    ]
    ranked = sorted(both, key=lambda one: -abs(one.mean) if math.isfinite(one.mean) else 0.0)
    drawn = alone + ranked[:DRAWN]
    gap = float(ends[1] - ends[0]) - math.fsum(one.mean for one in drawn)
    lumped = len(ranked) - len(ranked[:DRAWN])
    scale = max(abs(float(ends[1] - ends[0])), *[abs(one.mean) for one in drawn])
    if lumped or abs(gap) > 1e-9 * scale:
        name = count(lumped, "other pair") if lumped else "larger groups"
        rest = _rest(of, [(one.name, one.kind) for one in drawn], k)
        found = Estimate(*(np.array([float(x)]) for x in rest))._replace(mean=np.array([gap]))
        drawn.append(step(name, "rest", found, (0,)))
    return drawn


def _ends(of: Analysed) -> np.ndarray:
    """[2, J] levels with everything off and everything on."""
    return np.asarray(of.analysis.values[:, [0, -1]], np.float64).mean(axis=0)


def _weights(of: Analysed) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Maps of the index, mains [A, R] and pairs [A, A, R], and of everything on less everything off, [R]."""
    index = factorial.INDICES[of.config.index](len(of.names))
    whole = np.zeros(index.main.shape[1])
    whole[0], whole[-1] = -1.0, 1.0
    return index.main, index.pair, whole


def _together(of: Analysed) -> Estimate:
    """What remains of the whole change when the mains are taken off, estimates [J]."""
    main, _, whole = _weights(of)
    return estimate(contrast(whole - main.sum(axis=0), of.analysis.values), of.config.confidence)


def _rest(of: Analysed, drawn: Sequence[tuple[str, str]], k: int) -> Estimate:
    """What remains of the whole change when the bars that are drawn are taken off."""
    main, pair, whole = _weights(of)
    left = whole - main.sum(axis=0)
    names = {f"{a} + {b}": (i, j) for i, a in enumerate(of.names) for j, b in enumerate(of.names) if i < j}
    for name, kind in drawn:
        if kind == "pair":
            left = left - pair[names[name]]
    return estimate(contrast(left, of.analysis.values[..., k]), of.config.confidence)


# ---- switch-off and fair shares --------------------------------------------------------------------------------------


def switch_off(view: View, of: Analysed, shown: Sequence[Objective], drawn: Figures) -> Html:
    """What switching off one algorithm would undo today, and its fair share, as a picture and as tables."""
    tables = [("what switching off would undo", of.analysis.switch_off)]
    if of.analysis.shapley is not None:
        tables.append(("fair share (Shapley)", of.analysis.shapley))
    level = of.config.false_discovery_rate
    found = [(name, each, discoveries(each.p, level)) for name, each in tables]
    about = [f"Heat map of objectives by algorithms: {name}." for name, *_ in found]
    chooser = (
        drawn.choose(
            [("", _upper(name), text) for (name, *_), text in zip(found, about, strict=True)],
            name="contribution-shown",
        )
        if len(found) > 1
        else Html("")
    )
    picture = drawn.add(
        [maps.table_map(_cells(of, shown, each, clear), legend="colour full at 2 spreads") for _, each, clear in found],
        about=about[0],
        caption="In % of the level with everything on (in units where that has no zero). Grey: not resolved.",
    )
    text = (
        "What each algorithm changes while all others run, in % of the level with everything on; switching it off would undo "
        f"it. ▲ healthier, ▼ worse, both at a false discovery rate of {100 * level:g} % over all algorithms and objectives; "
        "grey: not resolved."
    )
    if of.analysis.shapley is not None:
        text += (
            " The fair share (Shapley 1953) is the effect averaged over every order in which algorithms could be switched "
            "on; shares add up to the change from everything off to everything on. Where the two differ, what an algorithm "
            "does depends on who else is there."
        )
    parts: list[Any] = [tag("h3", "What switching one algorithm off would undo"), tag("p", text), chooser, picture]
    key = key_objectives(view, shown)
    for name, each, clear in found:
        caption = f"{_upper(name)}: key objectives ({view.ci})."
        parts.append(_contributions(view, of, [(None, key)], (each, clear), caption))
    if len(key) < len(shown):
        groups = [(h, inside) for h, some in grouped(view) if (inside := [each for each in some if each in shown])]
        folded = [
            _contributions(view, of, groups, (each, clear), f"{_upper(name)}: all objectives ({view.ci}).")
            for name, each, clear in found
        ]
        parts.append(tag("details", tag("summary", f"Show all {len(shown)} objectives"), *folded))
    return join(parts)


def _upper(name: str) -> str:
    return name[:1].upper() + name[1:]


def _cells(of: Analysed, shown: Sequence[Objective], each: Estimate, clear: np.ndarray) -> maps.Cells:
    order = [NAMES.index(objective.name) for objective in shown]
    spread = np.where(of.analysis.spread > 0, of.analysis.spread, np.nan)
    health = np.array([objective.health for objective in shown])
    words = [
        [change_words(of, objective, float(each.mean[i, k])) for i in range(len(of.names))]
        for objective, k in zip(shown, order, strict=True)
    ]
    hover = [
        [
            f"{of.names[i]}: {objective.label}\n{number(float(each.mean[i, k]), signed=True)} (CI "
            f"{between(float(each.low[i, k]), float(each.high[i, k]))})\n{scale_words(objective.unit)}"
            for i in range(len(of.names))
        ]
        for objective, k in zip(shown, order, strict=True)
    ]
    colour = health[:, None] * (each.mean / spread).T[order] / 2.0
    return maps.Cells([o.label for o in shown], of.names, colour, words, hover, clear.T[order])


def _contributions(
    view: View,
    of: Analysed,
    groups: Sequence[tuple[str | None, Sequence[Objective]]],
    found: tuple[Estimate, np.ndarray],
    caption: str,
) -> Html:
    each, clear = found

    def cell(i: int, objective: Objective) -> Html:
        k = NAMES.index(objective.name)
        mean, low, high = (float(x[i, k]) for x in (each.mean, each.low, each.high))
        if not math.isfinite(mean):
            return escape(MISSING)
        verdict = ("better" if (mean > 0) == (objective.health > 0) else "worse") if clear[i, k] and mean else "unclear"
        arrow = "" if verdict == "unclear" else " ▲" if verdict == "better" else " ▼"
        text = change_words(of, objective, mean)
        return join([tag("span", text + arrow, class_=verdict), " ", change_interval(of, objective, low, high)])

    rows = [
        (
            heading,
            [
                [
                    titled(view, objective),
                    number(float(of.level[NAMES.index(objective.name)])),
                    *[cell(i, objective) for i in range(len(of.names))],
                ]
                for objective in some
            ],
        )
        for heading, some in groups
    ]
    columns = [
        Column("Objective", wide=True),
        Column("Everything on", numeric=True),
        *[Column(name, numeric=True) for name in of.names],
    ]
    return table(caption, columns, rows)


# ---- variance --------------------------------------------------------------------------------------------------------


def separable(view: View, of: Analysed, shown: Sequence[Objective], drawn: Figures) -> Html:
    """The share of the variance between platforms that is due to interactions."""
    if of.analysis.anova is None:
        return Html("")
    share = of.analysis.anova.interaction
    assert isinstance(share, Estimate)
    order = [NAMES.index(each.name) for each in shown]
    rows = [
        (each, float(share.mean[k]), float(share.low[k]), float(share.high[k]))
        for each, k in zip(shown, order, strict=True)
    ]
    known = [(each, mean, low, high) for each, mean, low, high in rows if math.isfinite(mean)]
    limit = f"{100 * SEPARATE:g} %"
    unknown = len(rows) - len(known)
    safe = [each for each, _, _, high in known if high <= SEPARATE]
    unsafe = [each for each, _, low, _ in known if low > SEPARATE]
    open_ = len(known) - len(safe) - len(unsafe)
    said: list[Any] = [
        "Were there no interactions, every algorithm could be tuned as if it were alone. Of the variance between on/off "
        f"combinations, interactions make up less than {limit} on {count(len(safe), 'objective')}: there, tuning them one by "
        "one loses little. "
    ]
    if unsafe:
        sizes = [100 * mean for each, mean, *_ in known if each in unsafe]
        which = series([each.label for each in unsafe]) if len(unsafe) <= NAMED else f"of {len(rows)}"
        said.append(
            join(
                [
                    f"On {len(unsafe)} (",
                    which,
                    f") they make up more, {min(sizes):.0f} to {max(sizes):.0f} %: tuning one by one misses that much. ",
                ]
            )
        )
    if open_:
        said.append(f"On {open_} the interval reaches across {limit}: undecided. ")
    if unknown:
        said.append(f"On {unknown} the combinations do not measurably differ, so there is nothing to share.")
    parts: list[Any] = [tag("h3", "Can the algorithms be tuned separately?"), tag("p", join(said))]
    if known:
        series_ = [
            pictures.Dot(
                100 * mean,
                100 * low,
                100 * high,
                f"{each.label}: {percent(100 * mean, signed=False)} (CI "
                f"{between(100 * low, 100 * high, in_percent=True, signed=False)})",
            )
            for each, mean, low, high in known
        ]
        picture = drawn.add(
            [
                pictures.dots(
                    [each.label for each, *_ in known],
                    [("share due to interactions", series_)],
                    x="share of the variance due to interactions",
                    suffix=" %",
                )
            ],
            about="Dot plot of the share of variance that is due to interactions, objective by objective.",
            caption=(
                f"Functional ANOVA over all on/off combinations, corrected for noise ({view.ci} by the jackknife over "
                "seeds); a share near 0 may therefore come out below it."
            ),
        )
        body = [
            [
                each.label,
                join(
                    [
                        percent(100 * mean, signed=mean < 0),
                        " ",
                        interval_words(100 * low, 100 * high, in_percent=True, signed=low < 0),
                    ]
                ),
                "separately" if high <= SEPARATE else "together" if low > SEPARATE else "undecided",
            ]
            for each, mean, low, high in known
        ]
        columns = [Column("Objective"), Column(f"Due to interactions ({view.ci})", numeric=True), Column("Tune")]
        parts.append(picture)
        parts.append(
            tag("details", tag("summary", "Show the numbers"), table("Share of variance.", columns, [(None, body)]))
        )
    return join(parts)
