"""The section of a simulation: levels of all objectives and of the network's traits, and their course over the rollout."""

from __future__ import annotations

from mamba.interactions.statistics import estimate
from mamba.runs import simulation
from mamba.runs.markup import MISSING, Column, Html, count, join, number, table, tag
from mamba.runs.pictures.bands import Band, bands
from mamba.runs.sections.shared import (
    KEY,
    Figures,
    Objective,
    View,
    grouped,
    interval_words,
    results_of,
    scale_words,
)


def simulated_section(view: View, drawn: Figures) -> Html:
    """What `mamba-eco simulate` found; empty where it was not run."""
    arrays = results_of(view, simulation.FILE, ("values", "hours", "columns"))
    if arrays is None:
        return Html("")
    values, hours = arrays["values"], arrays["hours"]
    levels = estimate(values[:, 0], view.confidence)
    course = estimate(values[:, 1:], view.confidence)
    columns = {name: k for k, name in enumerate(simulation.COLUMNS)}
    groups = [
        *((heading, [(of.name, of) for of in inside if of.name in columns]) for heading, inside in grouped(view)),
        ("The network", list(simulation.TRAITS.items())),
    ]
    pictures, drawings, rows, chosen = [], [], [], 0
    for heading, inside in groups:
        lines = []
        for name, of in inside:
            k = columns[name]
            around = [Band(view.ci, course.low[:, k], course.high[:, k])] if len(values) > 1 else []
            chosen = len(pictures) if name == KEY[0] else chosen
            pictures.append(
                bands(hours, course.mean[:, k], around, named="mean over seeds", y=f"{of.label}, {of.unit}")
            )
            drawings.append((heading, of.label, f"{of.label} over the hours of the rollout."))
            lines.append(
                [
                    of.label,
                    number(levels.mean[k]),
                    interval_words(levels.low[k], levels.high[k], signed=False),
                    scale_words(of.unit),
                    of.better if isinstance(of, Objective) else MISSING,
                ]
            )
        if lines:
            rows.append((heading, lines))
    heads = [
        Column("Objective"),
        Column("Level", numeric=True),
        Column(view.ci, numeric=True),
        Column("Unit"),
        Column("Healthier"),
    ]
    seeds = count(len(values), "seed")
    return join(
        [
            tag(
                "p",
                f"{seeds[0].upper()}{seeds[1:]} of the platform as it is configured: nothing is trained and nothing compared.",
            ),
            drawn.choose(drawings, name="simulated-objective", chosen=chosen),
            drawn.add(
                pictures,
                about=drawings[chosen][2],
                chosen=chosen,
                caption=f"Each point is one of {len(hours)} parts of the rollout, at the hour with which it ends.",
            ),
            table("Objectives of the whole rollout.", heads, rows),
        ]
    )
