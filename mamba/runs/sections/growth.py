"""What the growth monitor saw: whether derivatives exploded on their way through time, through whom, and what was done."""

from __future__ import annotations

from typing import Any

import numpy as np

from mamba.meta.growth import EXPLODES, WINDOW
from mamba.runs import folder
from mamba.runs.markup import Column, Html, count, join, number, series, table, tag
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
            f"Derivatives were followed through time at {count(len(steps), 'meta-step')} or fewer looks; where they grew most, in "
            f"{worst}, they grew by a factor of {number(largest[worst])} in {WINDOW} steps. An explosion is a factor of more than "
            f"{number(EXPLODES)}: there was none, and nothing was cut."
        )
    else:
        told = []
        for block in closed:
            first = next((step for step, share in zip(steps, shares[block], strict=True) if share == 0), steps[-1])
            told.append(f"{block} (meta-step {first}: factor {number(largest[block])} in {WINDOW} steps)")
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
            table(f"Growth of derivatives in {WINDOW} steps, as a factor.", columns, [(None, body)]),
        ]
    )
