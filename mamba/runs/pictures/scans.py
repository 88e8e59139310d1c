"""Continuation scans: an objective while a lever goes up and down again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mamba.runs import figures, markup


class Branch(NamedTuple):
    """One way of a scan.

    Attributes:
        mean: [G].
        low: [G] lower ends of the intervals.
        high: [G] upper ends.
    """

    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


class Mark(NamedTuple):
    """A fold, or a tipping point that was foretold.

    Attributes:
        words: what it is.
        place: lever value.
        low: lower end of its interval; NaN without.
        high: upper end.
    """

    words: str
    place: float
    low: float
    high: float


class Scan(NamedTuple):
    """A scan of one objective.

    Attributes:
        lever: name of the lever.
        levers: [G] ascending values.
        title: objective and unit.
        up: on the way up.
        down: on the way down.
        flagged: [G] values with hysteresis.
        marks: where regimes end.
    """

    lever: str
    levers: NDArray[np.float64]
    title: str
    up: Branch
    down: Branch
    flagged: NDArray[np.bool_]
    marks: Sequence[Mark] = ()


def scan(of: Scan) -> figures.Variant:
    """Both ways with bands; filled marks where they differ for good, vertical lines where a regime ends."""
    figure = figures.blank()
    ways = (("on the way up", of.up, figures.HEALTHIER, "solid", "triangle-right"),
            ("on the way down", of.down, figures.WORSE, "dash", "triangle-left"))  # fmt: skip
    for name, way, colour, dash, shape in ways:
        known = np.isfinite(way.low) & np.isfinite(way.high)
        x = of.levers[known]
        figure.add_scatter(
            x=figures.plain(np.concatenate([x, x[::-1]])),
            y=figures.plain(np.concatenate([way.high[known], way.low[known][::-1]])),
            fill="toself",
            fillcolor=colour,
            opacity=0.2,
            mode="none",
            hoverinfo="skip",
            showlegend=False,
        )
        figure.add_scatter(
            x=figures.plain(of.levers),
            y=figures.plain(way.mean),
            name=name,
            mode="lines+markers",
            line={"color": colour, "width": 2, "dash": dash},
            marker={
                "color": colour,
                "size": 9,
                "symbol": [shape if on else f"{shape}-open" for on in of.flagged.tolist()],
                "line": {"width": 2, "color": colour},
            },
            hoverinfo="text",
            hovertext=[
                figures.label(f"{of.lever} {at:.4g}, {name}: {markup.number(value)}{', hysteresis' if on else ''}")
                for at, value, on in zip(of.levers, way.mean, of.flagged, strict=True)
            ],
        )
    for mark in of.marks:
        if np.isfinite(mark.low) and np.isfinite(mark.high):
            figure.add_vrect(x0=mark.low, x1=mark.high, fillcolor=figures.MUTED, opacity=0.15, line_width=0)
        if np.isfinite(mark.place):
            figure.add_vline(
                x=mark.place,
                line={"color": figures.INK, "width": 1.5, "dash": "dot"},
                annotation={"text": figures.label(mark.words, 18), "font": {"size": 11}, "textangle": 0},
            )
    figure.update_layout(
        figures.layout(340),
        xaxis={"title": {"text": figures.label(of.lever)}},
        yaxis={"title": {"text": figures.label(of.title)}, "automargin": True},
        legend={"orientation": "h", "x": 0, "y": 1.06, "yanchor": "bottom"},
        margin={"l": 8, "r": 12, "t": 40, "b": 48},
    )
    return figures.Variant(figure, {"xaxis.nticks": 5})
