"""Interactions over time, and what is lost or added because the other algorithm learns."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mamba.interactions import designs, factorial, games
from mamba.interactions.statistics import Estimate, contrast, estimate, selected
from mamba.objectives import NAMES, OBJECTIVES
from mamba.runs.markup import Column, Html, between, count, join, number, table, tag
from mamba.runs.pictures import interactions as pictures
from mamba.runs.sections.analysed import Analysed, Pair, strongest
from mamba.runs.sections.contributions import key_objectives
from mamba.runs.sections.shared import (
    Figures,
    Objective,
    View,
    change_interval,
    change_words,
    in_percent_of,
)

LINES = 4  # pairs in the picture
LISTED = 10  # pairs in the table


def over_time(view: View, of: Analysed, shown: Sequence[Objective], drawn: Figures) -> Html:
    """Interactions of the strongest pairs by part of the rollout."""
    if of.analysis.windows is None:
        return Html("")
    by_name = {each.name: each for each in shown}
    pairs = [pair for pair in strongest(of) if NAMES[pair.k] in by_name][:LISTED]
    heading = tag("h3", "When two algorithms begin to interact")
    if not pairs:
        return join(
            [
                heading,
                tag(
                    "p",
                    "No interaction beyond the resolution was confirmed, so there is none to follow over time.",
                    class_="note",
                ),
            ]
        )
    parts = _parts(view, of)
    change = _by_window(of)
    lines = [_course(of, pair, by_name[NAMES[pair.k]], change, parts) for pair in pairs]
    picture = drawn.add(
        [pictures.courses(parts, lines[:LINES], x=_unit(view), y="interaction in spreads, up is healthier")],
        about=f"Interactions of the {len(lines[:LINES])} strongest pairs over {len(parts)} parts of the rollout.",
        caption=(
            "Up: the two together are healthier than the sum of each, down: worse. Filled: the interval leaves out 0. Spreads "
            f"are those of the whole rollout. Intervals hold at {100 * of.config.confidence:g} % over all {len(parts)} parts at "
            "once (Bonferroni) and allow for the pairs' having been picked."
        ),
    )
    columns = [
        Column("Pair"),
        Column("Objective"),
        Column("When", wide=True),
        *[Column(part, numeric=True) for part in parts],
    ]
    body = []
    for pair in pairs:
        i, j, k, _ = pair
        each = by_name[NAMES[k]]
        cells = []
        for w in range(len(parts)):
            mean, low, high = (float(x[i, j, w, k]) for x in (change.mean, change.low, change.high))
            cells.append(join([change_words(of, each, mean), " ", change_interval(of, each, low, high)]))
        low, high = change.low[i, j, :, k], change.high[i, j, :, k]
        body.append([f"{of.names[i]} + {of.names[j]}", each.label, begins(parts, low, high, each.health), *cells])
    about = (
        f"Interaction by part of the rollout, in {_unit(view)}, in % of the level of the whole rollout with everything on; the "
        f"{count(len(pairs), 'strongest pair')}, each on the objective where it is strongest."
    )
    return join([heading, _against(view, of, parts), picture, table(about, columns, [(None, body)])])


def _against(view: View, of: Analysed, parts: Sequence[str]) -> Html:
    """Since when one algorithm turns the effect of another round, for the pairs in which one does."""
    turning = of.analysis.verdicts.reversed_by
    found = []
    for i, j, k, _ in of.told:
        for who, other in ((i, j), (j, i)):
            if turning[who, other, k] and NAMES[k] in view.objectives:
                found.append(turns(of, (who, other, k), parts))
    if not found:
        text = (
            "No pair of this run works against each other or turns an effect round; what follows is when the strongest "
            "interactions are first seen."
        )
        return tag("p", text)
    said = tag("ul", *[tag("li", text) for text in found[:LISTED]])
    rest = found[LISTED:]
    if not rest:
        return said
    more = tag("ul", *[tag("li", text) for text in rest])
    return join([said, tag("details", tag("summary", f"Show the other {len(rest)}"), more)])


def turns(of: Analysed, at: tuple[int, int, int], parts: Sequence[str]) -> str:
    """Since when one algorithm does the opposite while another is on, in a sentence.

    Args:
        of: the analysis, with windows.
        at: `(who, other, number of the objective)`.
        parts: W words.
    """
    who, other, k = at
    plan, in_context = of.analysis.plan, of.config.background == "in_context"
    base = plan.context if in_context else plan.average
    maps = games.steps(base.main, base.pair, share_on=1.0 if in_context else 0.5)
    health = float(factorial.better_signs()[k])
    signs = []
    for weights in (maps.alone[who, other], maps.given[who, other]):
        effect = estimate(health * contrast(weights, of.windows[..., k]), of.config.confidence)
        wide = _simultaneous(of, effect, len(parts))
        signs.append((wide.low > 0).astype(int) - (wide.high < 0))
    label = OBJECTIVES[NAMES[k]].label
    does = ("helps", "harms") if of.alone.mean[at] * health > 0 else ("harms", "helps")
    text = f"{of.names[who]} {does[0]} {label} alone and {does[1]} it while {of.names[other]} is on"
    clear = np.flatnonzero(signs[0] * signs[1] < 0)
    if len(clear):
        return f"{text}: first seen in {parts[int(clear[0])]}."
    return f"{text}: seen over the whole rollout, in no part of it by itself."


def begins(parts: Sequence[str], low: np.ndarray, high: np.ndarray, health: float) -> str:
    """In words, when an interaction is first resolved, and whether it turns.

    Args:
        parts: W words.
        low: [W] lower ends of the intervals.
        high: [W] upper ends.
        health: +1 where more is healthier, -1 where less is.
    """
    signs = health * ((low > 0).astype(float) - (high < 0))
    clear = np.flatnonzero(signs)
    if not len(clear):
        return "resolved over the whole rollout only, in no part of it"
    words = {1.0: "healthier together than the sum", -1.0: "worse together than the sum"}
    first = int(clear[0])
    if first == 0:
        text = f"from the start ({parts[0]}): {words[float(signs[0])]}"
    else:
        text = f"first seen in {parts[first]}: {words[float(signs[first])]}"
    turned = [at for at in clear.tolist() if signs[at] != signs[first]]
    if turned:
        text += f"; the other way round in {parts[turned[0]]}"
    elif signs[-1] == 0:
        text += f"; last seen in {parts[int(clear[-1])]}"
    return text


def _course(of: Analysed, pair: Pair, each: Objective, change: Estimate, parts: Sequence[str]) -> pictures.Course:
    i, j, k, _ = pair
    scale = each.health / float(of.analysis.spread[k])
    mean, low, high = (scale * x[i, j, :, k] for x in (change.mean, change.low, change.high))
    low, high = np.minimum(low, high), np.maximum(low, high)
    name = f"{of.names[i]} + {of.names[j]}: {each.label}"
    hover = [
        f"{name}\n{part}: {number(float(m), signed=True)} spreads (CI {between(float(a), float(b))})"
        for part, m, a, b in zip(parts, mean, low, high, strict=True)
    ]
    return pictures.Course(name, mean, low, high, hover)


def _by_window(of: Analysed) -> Estimate:
    """Interactions [A, A, W, J], with intervals that hold over all windows at once and for pairs that were picked."""
    assert of.analysis.windows is not None
    pair = of.analysis.windows.pair
    return _simultaneous(of, pair, pair.mean.shape[2])


def _simultaneous(of: Analysed, each: Estimate, windows: int) -> Estimate:
    level = 1.0 - (1.0 - of.config.confidence) / windows
    return selected(each, of.seeds, chosen=of.confirmed, among=of.tests, confidence=level)


def _parts(view: View, of: Analysed) -> list[str]:
    """Words for the windows: steps where the length of a rollout is known."""
    count_, steps = of.windows.shape[2], view.run.config.get("steps")
    if not isinstance(steps, int) or steps < count_:
        return [f"part {w + 1}" for w in range(count_)]
    borders = [steps * w // count_ for w in range(count_ + 1)]
    return [f"{a + 1} to {b}" if b > a + 1 else f"{b}" for a, b in itertools.pairwise(borders)]


def _unit(view: View) -> str:
    return "hours of the rollout" if isinstance(view.run.config.get("steps"), int) else "parts of the rollout"


# ---- learning --------------------------------------------------------------------------------------------------------


def while_it_learns(view: View, of: Analysed, shown: Sequence[Objective], drawn: Figures) -> Html:
    """The effect of one algorithm while the other is off, frozen and learning."""
    if not len(of.learning_pairs):
        return Html("")
    by_name = {each.name: each for each in shown}
    top = {frozenset((pair.i, pair.j)): NAMES[pair.k] for pair in strongest(of)}
    maps, confidence = designs.relearning(), of.config.confidence
    groups, drawings, variants = [], [], []
    for pair, values in zip(of.learning_pairs.tolist(), of.learning_values, strict=True):
        i, j = pair
        most = by_name.get(top.get(frozenset(pair), ""))
        key = key_objectives(view, shown)
        some = key if most is None else [most, *[each for each in key if each.name != most.name]]
        effects = estimate(contrast(maps.effect[1], values), confidence)  # [3, J]
        change = estimate(contrast(maps.relearned[1], values), confidence)  # [J]
        rows, lines = [], []
        for each in some:
            k = NAMES.index(each.name)
            margin = float(of.analysis.verdicts.margin[k])
            rows.append(
                [
                    each.label,
                    *[_cell(of, each, effects, (level, k)) for level in range(3)],
                    _cell(of, each, change, (k,)),
                    relearned(
                        (float(effects.low[designs.FROZEN, k]), float(effects.high[designs.FROZEN, k])),
                        *(float(x[k]) for x in (change.low, change.high)),
                        margin=margin,
                    ),
                ]
            )
            lines.append((each, effects, k))
        a, b = of.names[i], of.names[j]
        groups.append((f"Effect of {a}, by what {b} does", rows))
        drawings.append(
            ("", f"{a} by what {b} does", f"Dot plot of the effect of {a} while {b} is off, frozen and learning.")
        )
        variants.append(_levels(of, lines, b))
    chooser = drawn.choose(drawings, name="learning-pair") if len(variants) > 1 else Html("")
    title = None if len(variants) > 1 else drawings[0][1]
    picture = drawn.add(
        variants,
        about=drawings[0][2],
        title=title,
        caption="In % of the level with everything on; all others on and learning. Objectives without such a level are in the "
        "table only.",
    )
    columns = [
        Column("Objective"),
        Column("Other off", numeric=True),
        Column("Other frozen", numeric=True),
        Column("Other learning", numeric=True),
        Column("Because it re-learns", numeric=True),
        Column("Reading"),
    ]
    frozen = (
        "frozen at what its warm-up had taught it" if of.config.warm_up else "frozen untrained (there was no warm-up)"
    )
    text = (
        f"The strongest pairs were run again with the second algorithm off, on but {frozen}, and on and learning. The difference "
        "between the last two is what is lost (opposite sign) or added (same sign) because it re-learns: both its answer to "
        "the first and its being better trained, which are not told apart here."
    )
    about = (
        f"Effects in % of the level with everything on ({view.ci}, paired; each interval alone). No difference: the interval "
        f"lies within ±{100 * of.config.resolution:g} % of the spread between platforms."
    )
    parts: list[Any] = [tag("h3", "While the other one learns"), tag("p", text), chooser, picture]
    parts.append(table(about, columns, groups[:1]))
    if rest := groups[1:]:
        folded = table(f"The same for {count(len(rest), 'other pair')}.", columns, rest)
        parts.append(tag("details", tag("summary", f"Show {count(len(rest), 'other pair')}"), folded))
    return join(parts)


def relearned(frozen: tuple[float, float], low: float, high: float, *, margin: float) -> str:
    """What re-learning does to an effect, in words.

    Args:
        frozen: interval of the effect while the other is frozen.
        low: lower end of the difference that learning makes.
        high: upper end.
        margin: differences within ± margin are none.
    """
    if low >= -margin and high <= margin:
        return "no difference at this resolution"
    if low > 0 or high < 0:
        if frozen[0] <= 0 <= frozen[1]:
            return "changed: there was no clear effect before"
        return "added" if (low > 0) == (frozen[0] > 0) else "lost"
    return "not resolved"


def _cell(of: Analysed, each: Objective, source: Estimate, at: tuple[int, ...]) -> Html:
    mean, low, high = (float(x[at]) for x in (source.mean, source.low, source.high))
    return join([change_words(of, each, mean), " ", change_interval(of, each, low, high)])


def _levels(of: Analysed, lines: Sequence[tuple[Objective, Estimate, int]], other: str) -> Any:
    names, columns = [], [[], [], []]
    for each, effects, k in lines:
        scale = in_percent_of(of, each)
        if not math.isfinite(scale):
            continue
        names.append(each.label)
        for level, (column, state) in enumerate(zip(columns, ("off", "frozen", "learning"), strict=True)):
            mean, low, high = (float(x[level, k]) for x in (effects.mean, effects.low, effects.high))
            hover = f"{each.label}, {other} {state}\n{change_words(of, each, mean)} {_bare(of, each, low, high)}"
            column.append(pictures.Dot(scale * mean, scale * low, scale * high, hover))
    states = [f"{other} {state}" for state in ("off", "frozen", "learning")]
    return pictures.dots(names, list(zip(states, columns, strict=True)), x="effect in % of the level", suffix=" %")


def _bare(of: Analysed, each: Objective, low: float, high: float) -> str:
    scale = in_percent_of(of, each)
    return f"(CI {between(scale * low, scale * high, in_percent=True)})"
