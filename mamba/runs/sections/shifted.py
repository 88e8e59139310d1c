"""How training shifted who interacts with whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mamba.interactions.verdicts import VERDICTS
from mamba.objectives import NAMES
from mamba.runs import shifts
from mamba.runs.markup import MISSING, Column, Html, between, count, join, number, table, tag
from mamba.runs.pictures import interactions as pictures
from mamba.runs.sections.analysed import Analysed
from mamba.runs.sections.pairs import BACKGROUNDS, LABELS
from mamba.runs.sections.shared import Figures, Objective, View, change_interval, change_words, followed, value_of

LINES = 4  # pairs in the picture
LISTED = 10  # pairs in the table


class Shift(NamedTuple):
    """A pair on one objective; `name` is how its row of `metrics.jsonl` calls it, `size` its shift in spreads."""

    i: int
    j: int
    k: int
    each: Objective
    name: str
    size: float


def shifted(view: View, of: Analysed, shown: Sequence[Objective], drawn: Figures) -> Html:
    """Interactions over meta-steps, and what was confirmed of their change; empty where training was not followed."""
    rows = followed(view)
    if not rows:
        return Html("")
    last = rows[-1]
    tested, confirmed = _confirmed(of, shown, last)
    heading = tag("h3", "What training shifted")
    said = (
        f"After meta-step {last['meta_step']}, {len(confirmed)} of {count(tested, 'interaction')} (pairs on objectives) differ "
        f"from those of the default levers, at a false discovery rate of {100 * of.config.false_discovery_rate:g} %: the same "
        "seeds ran both. These are the levers of that meta-step, before anything of them was taken back."
    )
    if not confirmed:
        return join([heading, tag("p", said)])
    lines = [_course(of, shift, rows) for shift in confirmed[:LINES]]
    picture = drawn.add(
        [
            pictures.courses(
                ["0", *(str(row["meta_step"]) for row in rows)],
                lines,
                x="meta-steps",
                y="interaction in spreads, up is healthier",
            )
        ],
        about=f"Interactions of the {len(lines)} pairs that training shifted most, over meta-steps.",
        caption=(
            "Up: the two together are healthier than the sum of each, down: worse. Spreads are those of the default levers, "
            f"which are meta-step 0. Filled: the {view.ci} leaves out 0; each interval alone."
        ),
    )
    columns = [
        *(
            Column("Pair"),
            Column("Objective"),
            Column("Default levers"),
            Column(f"After meta-step {last['meta_step']}"),
        ),
        Column("Shift", numeric=True),
    ]
    body = []
    for shift in confirmed[:LISTED]:
        i, j, k, each, name, _ = shift
        change, low, high = (value_of(last, f"{part}/{name}") for part in (shifts.STAGE, *_bounds(shifts.STAGE)))
        body.append(
            [
                f"{of.names[i]} + {of.names[j]}",
                each.label,
                LABELS[VERDICTS[of.analysis.verdicts.codes[i, j, k]]],
                LABELS.get(str(last.get(f"verdicts/{name}")), MISSING),
                join([change_words(of, each, change), " ", change_interval(of, each, low, high)]),
            ]
        )
    about = (
        f"The {count(len(body), 'largest confirmed shift')}, in % of the level with everything on and default levers, of the "
        f"interaction that the heat map shows; each interval ({view.ci}) alone. What the two do is judged "
        f"{BACKGROUNDS[of.config.background]}."
    )
    return join([heading, tag("p", said), picture, table(about, columns, [(None, body)])])


def _bounds(stage: str) -> tuple[str, ...]:
    return tuple(f"{stage}_{bound}" for bound in shifts.BOUNDS)


def _confirmed(of: Analysed, shown: Sequence[Objective], last: Mapping[str, Any]) -> tuple[int, list[Shift]]:
    """How many shifts have a number, and those that are confirmed, the largest in spreads first."""
    tested, found = 0, []
    for each in shown:
        k = NAMES.index(each.name)
        for i, a in enumerate(of.names):
            for j in range(i + 1, len(of.names)):
                name = f"{each.name}/{a}__on__{of.names[j]}"
                shift, spread = value_of(last, f"{shifts.STAGE}/{name}"), float(of.analysis.spread[k])
                tested += int(np.isfinite(shift))
                size = shift / spread if spread > 0 else np.nan
                if last.get(f"confirmed/{name}") is True and np.isfinite(size):
                    found.append(Shift(i, j, k, each, name, size))
    return tested, sorted(found, key=lambda shift: -abs(shift.size))


def _course(of: Analysed, shift: Shift, rows: Sequence[Mapping[str, Any]]) -> pictures.Course:
    i, j, k, each, name, _ = shift
    pair = of.analysis.shown_pair
    scale = each.health / float(of.analysis.spread[k])
    parts = [
        scale * np.array([getattr(pair, part)[i, j, k], *(value_of(row, f"{word}/{name}") for row in rows)], np.float64)
        for part, word in zip(("mean", "low", "high"), ("interactions", *_bounds("interactions")), strict=True)
    ]
    mean, low, high = parts[0], np.minimum(parts[1], parts[2]), np.maximum(parts[1], parts[2])
    label = f"{of.names[i]} + {of.names[j]}: {each.label}"
    steps = [0, *(row["meta_step"] for row in rows)]
    hover = [
        f"{label}\nmeta-step {step}: {number(float(m), signed=True)} spreads (CI {between(float(a), float(b))})"
        for step, m, a, b in zip(steps, mean, low, high, strict=True)
    ]
    return pictures.Course(label, mean, low, high, hover)
