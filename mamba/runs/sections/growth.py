"""What the growth monitor saw: whether derivatives exploded on their way through time, through whom, and what was done."""

from __future__ import annotations

from typing import Any

import numpy as np

from mamba.meta.growth import EXPLODES
from mamba.runs import folder
from mamba.runs.markup import Column, Html, join, number, series, table, tag
from mamba.runs.sections.shared import View, value_of


def growth_section(view: View) -> Html:
    """A sentence and a table; empty where nothing was watched."""
    rows = [row for row in view.training if any(name.startswith("growth/") for name in row)]
    if not rows:
        return Html("")
    blocks = [name.removeprefix("growth/") for name in rows[-1] if name.startswith("growth/")]
    factors = {block: folder.column(rows, f"growth/{block}") for block in blocks}
    shares = {block: folder.column(rows, f"passing/{block}") for block in blocks}
    steps = [int(row["meta_step"]) for row in rows]
    largest = {block: float(np.nanmax(values)) for block, values in factors.items()}
    closed = [block for block in blocks if value_of(rows[-1], f"passing/{block}") == 0]
    worst = max(blocks, key=lambda block: largest[block])
    if not closed:
        words: Any = (
            f"Derivatives were followed through time; where they were amplified most, in {worst}, it was by a factor of "
            f"{number(largest[worst])} of all that levers had put into that part until then. More than {number(EXPLODES)} is "
            "called an explosion: there was none, and nothing was cut."
        )
    else:
        told = []
        for block in closed:
            first = next((step for step, share in zip(steps, shares[block], strict=True) if share == 0), steps[-1])
            told.append(f"{block} (meta-step {first}: amplified by a factor of {number(largest[block])})")
        words = join(
            [
                "Derivatives no longer pass through ",
                series(told),
                ". What acts only through there is left to the audits on the sampled model. A learner that explodes takes steps "
                "beyond its limit of stability: lower its learning rate.",
            ]
        )
    body = [
        [
            block,
            number(value_of(rows[-1], f"growth/{block}")),
            number(largest[block]),
            "cut" if block in closed else "passes",
        ]
        for block in blocks
    ]
    columns = [
        Column("Part of the state"),
        Column("Last look", numeric=True),
        Column("Largest", numeric=True),
        Column("Derivatives"),
    ]
    return join(
        [
            tag("h3", "Do derivatives explode?"),
            tag("p", words),
            table(
                "Amplification of derivatives: their largest size over the sum of what levers had put in until then.",
                columns,
                [(None, body)],
            ),
        ]
    )
