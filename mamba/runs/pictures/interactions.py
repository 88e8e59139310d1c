"""Pictures of interactions: steps that add up, estimates side by side, and effects over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mamba.runs import figures, markup

_SHAPES = ("circle", "diamond", "square", "triangle-up")
_SERIES = (figures.INK, figures.SAMPLED, figures.HEALTHIER, figures.CURVES[2])


class Step(NamedTuple):
    """One bar of a waterfall, in the unit of the objective.

    Attributes:
        name: what is switched on.
        kind: `main`, `pair` or `rest`; the last two are hatched.
        mean: change.
        low: lower end of its interval.
        high: upper end.
        hover: words.
    """

    name: str
    kind: str
    mean: float
    low: float
    high: float
    hover: str


def waterfall(steps: Sequence[Step], *, start: float, end: float, health: float, unit: str) -> figures.Variant:
    """Bars from everything off to everything on; each begins where the one before ended, so that they add up.

    Args:
        steps: bars, whose means add up to `end - start`.
        start: level with everything off.
        end: level with everything on.
        health: +1 where more is healthier, -1 where less is.
        unit: of the level.
    """
    ends = start + np.cumsum([step.mean for step in steps])
    begins = [start, *ends[:-1].tolist()]
    size, hatched = len(steps), {"main": "", "pair": "/", "rest": "."}
    figure = figures.blank()
    colours = [_colour(step, health) for step in steps]
    figure.add_bar(
        orientation="h",
        y=list(range(1, size + 1)),
        x=[figures.finite(step.mean) for step in steps],
        base=[figures.finite(begin) for begin in begins],
        marker={
            "color": colours,
            "line": {"color": colours, "width": 1},
            "pattern": {"shape": [hatched[step.kind] for step in steps], "size": 6, "solidity": 0.35},
        },
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [figures.finite(step.high - step.mean) for step in steps],
            "arrayminus": [figures.finite(step.mean - step.low) for step in steps],
            "color": figures.MUTED,
            "thickness": 1.2,
            "width": 3,
        },
        hoverinfo="text",
        hovertext=[figures.label(step.hover).replace("\n", "<br>") for step in steps],
    )
    # Where a bar ends the next begins.
    figure.add_scatter(
        x=[figures.finite(value) for at in (start, *ends) for value in (at, at, math.nan)],
        y=[place for at in range(size + 1) for place in (at, at + 1, None)],
        mode="lines",
        line={"color": figures.MUTED, "width": 1, "dash": "dot"},
        hoverinfo="skip",
    )
    levels = [("everything off", start), ("everything on", end)]
    figure.add_scatter(
        x=[figures.finite(value) for _, value in levels],
        y=[0, size + 1],
        mode="markers",
        marker={"color": figures.INK, "size": 11, "symbol": "diamond"},
        hoverinfo="text",
        hovertext=[f"{name}: {markup.number(value)} {figures.label(unit)}" for name, value in levels],
    )
    inside = [value for value in (start, end, *ends, *_reaches(steps, begins)) if math.isfinite(value)]
    room = 0.04 * (max(inside) - min(inside)) if inside else 0.0
    height = 90 + 24 * (size + 2)
    ticks = [f"<b>{levels[0][0]}</b>", *[figures.label(step.name) for step in steps], f"<b>{levels[1][0]}</b>"]
    short = [levels[0][0], *[figures.label(step.name, 18) for step in steps], levels[1][0]]
    figure.update_layout(
        figures.layout(height),
        # Bars would pull the axis to 0, where the steps cannot be told apart.
        xaxis={
            "title": {"text": figures.label(unit)},
            **({"range": [min(inside) - room, max(inside) + room]} if room else {}),
        },
        yaxis={
            "tickvals": list(range(size + 2)),
            "ticktext": ticks,
            "range": [size + 1.6, -0.6],
            "automargin": True,
            "ticks": "",
            "showgrid": False,
        },
        bargap=0.3,
        showlegend=False,
        margin={"l": 8, "r": 16, "t": 10, "b": 50},
    )
    narrow = {"yaxis.ticktext": short, "yaxis.tickfont": {"size": 10}, "xaxis.nticks": 4}
    return figures.Variant(figure, {**narrow, "height": 90 + 32 * (size + 2)})


def _reaches(steps: Sequence[Step], begins: Sequence[float]) -> list[float]:
    return [begin + value for step, begin in zip(steps, begins, strict=True) for value in (step.low, step.high)]


def _colour(step: Step, health: float) -> str:
    if not (step.low > 0 or step.high < 0):
        return figures.UNCLEAR
    return figures.HEALTHIER if (step.mean > 0) == (health > 0) else figures.WORSE


class Dot(NamedTuple):
    """An estimate with its interval.

    Attributes:
        mean: estimate.
        low: lower end.
        high: upper end.
        hover: words.
    """

    mean: float
    low: float
    high: float
    hover: str


def dots(
    rows: Sequence[str], series: Sequence[tuple[str, Sequence[Dot | None]]], *, x: str, suffix: str = ""
) -> figures.Variant:
    """Estimates side by side, a line for each row and a shape for each series.

    Args:
        rows: N names.
        series: `(name, N dots)`; None leaves a place empty.
        x: title of the axis.
        suffix: of its numbers.
    """
    size, count = len(rows), len(series)
    figure = figures.blank()
    for at, (name, some) in enumerate(series):
        colour = _SERIES[at % len(_SERIES)]
        offset = 0.22 * (at - (count - 1) / 2)
        placed = [(row + offset, dot) for row, dot in enumerate(some) if dot is not None and math.isfinite(dot.mean)]
        figure.add_scatter(
            x=[dot.mean for _, dot in placed],
            y=[place for place, _ in placed],
            name=figures.label(name),
            mode="markers",
            marker={"color": colour, "size": 9, "symbol": _SHAPES[at % len(_SHAPES)]},
            error_x=_reach([dot for _, dot in placed], colour),
            hoverinfo="text",
            hovertext=[figures.label(dot.hover).replace("\n", "<br>") for _, dot in placed],
        )
    height = 96 + (22 if count == 1 else 34) * size + (24 if count > 1 else 0)
    figure.update_layout(
        figures.layout(height),
        xaxis={"title": {"text": x}, "ticksuffix": suffix, "zeroline": True, "zerolinecolor": figures.INK},
        yaxis={
            "tickvals": list(range(size)),
            "ticktext": [figures.label(row) for row in rows],
            "range": [size - 0.4, -0.6],
            "automargin": True,
            "ticks": "",
            "griddash": "dot",
        },
        showlegend=count > 1,
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.0, "yanchor": "bottom"},
        margin={"l": 8, "r": 14, "t": 34 if count > 1 else 10, "b": 50},
    )
    short = [figures.label(row, 20) for row in rows]
    narrow = {"yaxis.ticktext": short, "yaxis.tickfont": {"size": 10}, "xaxis.nticks": 4}
    return figures.Variant(figure, {**narrow, "height": int(1.25 * height)})


def _reach(some: Sequence[Dot], colour: str) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [figures.finite(dot.high - dot.mean) for dot in some],
        "arrayminus": [figures.finite(dot.mean - dot.low) for dot in some],
        "color": colour,
        "thickness": 1.8,
        "width": 0,
    }


class Course(NamedTuple):
    """An effect by part of the rollout.

    Attributes:
        name: what it shows.
        mean: [W].
        low: [W] lower ends.
        high: [W] upper ends.
        hover: W words.
    """

    name: str
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    hover: Sequence[str]


def courses(parts: Sequence[str], lines: Sequence[Course], *, x: str, y: str) -> figures.Variant:
    """Effects over W parts of the rollout with intervals; a filled mark where the interval leaves out 0.

    Args:
        parts: W words.
        lines: one for each effect.
        x: title of the horizontal axis.
        y: title of the vertical axis.
    """
    size, count = len(parts), len(lines)
    figure = figures.blank()
    for at, line in enumerate(lines):
        colour, shape = figures.CURVES[at % len(figures.CURVES)], _SHAPES[at % len(_SHAPES)]
        clear = (line.low > 0) | (line.high < 0)
        figure.add_scatter(
            x=[part + 0.07 * (at - (count - 1) / 2) for part in range(size)],
            y=figures.plain(line.mean),
            name=figures.label(line.name),
            mode="lines+markers",
            line={"color": colour, "width": 2, "dash": figures.DASHES[at % len(figures.DASHES)]},
            marker={
                "color": colour,
                "size": 10,
                "symbol": [shape if on else f"{shape}-open" for on in clear.tolist()],
                "line": {"width": 2, "color": colour},
            },
            error_y={
                "type": "data",
                "symmetric": False,
                "array": figures.plain(line.high - line.mean),
                "arrayminus": figures.plain(line.mean - line.low),
                "color": colour,
                "thickness": 1.5,
                "width": 0,
            },
            hoverinfo="text",
            hovertext=[figures.label(text).replace("\n", "<br>") for text in line.hover],
        )
    height = 300 + 20 * count
    figure.update_layout(
        figures.layout(height),
        xaxis={"title": {"text": x}, "tickvals": list(range(size)), "ticktext": [figures.label(p) for p in parts]},
        yaxis={"title": {"text": y}, "automargin": True, "zeroline": True, "zerolinecolor": figures.INK},
        showlegend=True,
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 12}},
        margin={"l": 8, "r": 12, "t": 24, "b": 48},
    )
    return figures.Variant(figure, {"legend.font": {"size": 11}, "height": height + 20 * count})
