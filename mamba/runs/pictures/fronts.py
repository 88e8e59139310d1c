"""A Pareto front: platforms by what they change of two objectives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mamba.runs import figures, markup

# Kind of a point -> words, colour, shape
KINDS = {
    "chosen": ("on the front", figures.HEALTHIER, "circle"),
    "beaten": ("beaten by another", figures.UNCLEAR, "circle-open"),
    "violates": ("breaks a constraint", figures.WORSE, "x"),
    "trained": ("trained for the goal of the run", figures.SAMPLED, "star"),
}


class Point(NamedTuple):
    """One platform.

    Attributes:
        words: how its objectives were weighed.
        mean: [2] change in per cent of the baseline.
        low: [2] lower ends of the intervals.
        high: [2] upper ends.
        kind: a key of `KINDS`.
    """

    words: str
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    kind: str


class Front(NamedTuple):
    """Platforms in two objectives.

    Attributes:
        labels: of the two objectives.
        better: `lower` or `higher`, for each.
        points: the platforms.
    """

    labels: Sequence[str]
    better: Sequence[str]
    points: Sequence[Point]


def front(of: Front) -> figures.Variant:
    """Points with intervals in both objectives; a line joins those on the front, lines through 0 mark the baseline."""
    figure = figures.blank()
    along = sorted((point for point in of.points if point.kind == "chosen"), key=lambda point: float(point.mean[0]))
    if len(along) > 1:
        figure.add_scatter(
            x=[figures.finite(point.mean[0]) for point in along],
            y=[figures.finite(point.mean[1]) for point in along],
            mode="lines",
            line={"color": figures.HEALTHIER, "width": 1.5, "dash": "dot"},
            hoverinfo="skip",
            showlegend=False,
        )
    for kind, (words, colour, shape) in KINDS.items():
        some = [point for point in of.points if point.kind == kind]
        if not some:
            continue
        figure.add_scatter(
            x=[figures.finite(point.mean[0]) for point in some],
            y=[figures.finite(point.mean[1]) for point in some],
            error_x=_bars(some, 0, colour),
            error_y=_bars(some, 1, colour),
            mode="markers",
            name=words,
            hoverinfo="text",
            hovertext=[_hover(of, point) for point in some],
            marker={
                "color": colour,
                "size": 14 if kind == "trained" else 9,
                "symbol": shape,
                "line": {"width": 2, "color": colour},
            },
        )
    figure.add_scatter(
        x=[0],
        y=[0],
        mode="markers",
        name="baseline",
        hoverinfo="text",
        hovertext=["baseline: default levers"],
        marker={"color": figures.INK, "size": 11, "symbol": "square"},
    )
    zero = {"zeroline": True, "zerolinecolor": figures.INK, "zerolinewidth": 1, "ticksuffix": " %"}
    figure.update_layout(
        figures.layout(460),
        xaxis={"title": {"text": _axis(of, 0)}, **zero},
        yaxis={"title": {"text": _axis(of, 1)}, "automargin": True, **zero},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        margin={"l": 8, "r": 12, "t": 46, "b": 52},
    )
    return figures.Variant(figure, {"xaxis.nticks": 4, "height": 420, "margin.t": 84})


def _axis(of: Front, k: int) -> str:
    left = of.better[k] == "lower"
    arrow = ("← healthier", "") if left else ("", "healthier →")
    return figures.label(" ".join(word for word in (arrow[0], f"change of {of.labels[k]} in %", arrow[1]) if word))


def _bars(points: Sequence[Point], k: int, colour: str) -> dict[str, object]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [figures.finite(point.high[k] - point.mean[k]) for point in points],
        "arrayminus": [figures.finite(point.mean[k] - point.low[k]) for point in points],
        "thickness": 1.2,
        "width": 0,
        "color": colour,
    }


def _hover(of: Front, point: Point) -> str:
    lines = [point.words] + [
        f"{label} {markup.percent(point.mean[k])} ({markup.between(point.low[k], point.high[k], in_percent=True)})"
        for k, label in enumerate(of.labels)
    ]
    return "<br>".join(figures.label(line) for line in lines)
