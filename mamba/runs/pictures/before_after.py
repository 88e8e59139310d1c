"""Pictures of what training changed."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mamba.runs import figures, markup


class Change(NamedTuple):
    """One line of the plot of changes, in per cent of the level before.

    Attributes:
        name: label of the objective.
        mean: estimate.
        low: lower end of the interval.
        high: upper end.
        verdict: `better`, `worse` or `unclear`.
        hover: words shown on the point.
    """

    name: str
    mean: float
    low: float
    high: float
    verdict: str
    hover: str


def changes(groups: Sequence[tuple[str, Sequence[Change]]]) -> figures.Variant:
    """Relative changes with intervals, grouped, one line an objective."""
    rows = [row for _, inside in groups for row in inside]
    limit = _reach(rows)
    places: list[float] = []
    ticks: list[str] = []
    points: dict[str, list[tuple[float, Change]]] = {verdict: [] for verdict in figures.MARKS}
    place = 0.0
    for heading, inside in groups:
        places.append(place)
        ticks.append(f"<b>{figures.label(heading)}</b>")
        for row in inside:
            place += 1.0
            places.append(place)
            ticks.append(figures.label(row.name))
            points[row.verdict].append((place, row))
        place += 1.25
    figure = figures.blank()
    for verdict, (words, colour, shape) in figures.MARKS.items():
        chosen = points[verdict]
        if not chosen:
            continue
        ends = [[min(max(value, -limit), limit) for value in (r.mean, r.low, r.high)] for _, r in chosen]
        outside = [_edge(r.mean, limit) for _, r in chosen]
        figure.add_scatter(
            x=[end[0] for end in ends],
            y=[at for at, _ in chosen],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [end[2] - end[0] for end in ends],
                "arrayminus": [end[0] - end[1] for end in ends],
                "thickness": 2,
                "width": 0,
            },
            mode="markers+text",
            name=words,
            hoverinfo="text",
            hovertext=[figures.label(r.hover) for _, r in chosen],
            text=[f"{markup.percent(r.mean)} " if edge else "" for (_, r), edge in zip(chosen, outside, strict=True)],
            textposition=["top left" if r.mean > 0 else "top right" for _, r in chosen],
            textfont={"color": colour},
            marker={
                "color": colour,
                "size": 10,
                "symbol": [edge or shape for edge in outside],
                "line": {"width": 2, "color": colour},
            },
        )
        for (at, row), end in zip(chosen, ends, strict=True):
            for value, drawn, arrow in ((row.high, end[2], "triangle-right"), (row.low, end[1], "triangle-left")):
                if abs(value) > limit and abs(row.mean) <= limit:  # the interval goes on beyond the plot
                    figure.add_scatter(
                        x=[drawn],
                        y=[at],
                        mode="markers",
                        hoverinfo="skip",
                        showlegend=False,
                        marker={"color": colour, "size": 9, "symbol": arrow},
                    )
    height = 110 + int(24 * place)
    layout = figures.layout(height)
    figure.update_layout(
        layout,
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.0, "yanchor": "bottom"},
        xaxis={
            "title": {"text": "change in % of the level before"},
            "range": [-1.06 * limit, 1.06 * limit],
            "ticksuffix": " %",
            "zeroline": True,
            "zerolinecolor": figures.INK,
            "zerolinewidth": 1.5,
        },
        yaxis={
            "tickvals": places,
            "ticktext": ticks,
            "range": [place - 0.5, -0.7],
            "automargin": True,
            "ticks": "",
            "griddash": "dot",
        },
        margin={"l": 8, "r": 12, "t": 34, "b": 50},
    )
    short = [tick if tick.startswith("<b>") else figures.label(html.unescape(tick), 17) for tick in ticks]
    return figures.Variant(
        figure,
        {
            "yaxis.ticktext": short,
            "yaxis.tickfont": {"size": 10},
            "xaxis.nticks": 4,
            "xaxis.title.text": "change in %",
            "height": int(height * 1.12),
        },
    )


def _reach(rows: Sequence[Change]) -> float:
    """Half-width of the axis: everything, unless a few intervals would squeeze the rest."""
    sizes = [max(abs(row.mean), abs(row.low), abs(row.high)) for row in rows]
    sizes = [size for size in sizes if math.isfinite(size)]
    if not sizes:
        return 10.0
    usual = max(60.0, 3.0 * float(np.quantile(sizes, 0.75)))  # per cent
    return max(1.0, *[size for size in sizes if size <= usual]) * 1.05


def _edge(mean: float, limit: float) -> str | None:
    return None if abs(mean) <= limit else "triangle-right" if mean > 0 else "triangle-left"
