"""Curves with bands: the middle of many values over the hours of a rollout, and where most of them are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from numpy.typing import NDArray

from mamba.runs import figures, markup

_CLEAR = (0.14, 0.26, 0.4)  # opacity of bands, the outermost first


class Band(NamedTuple):
    """Where values are.

    Attributes:
        name: what the band is, in words.
        low: [N].
        high: [N].
    """

    name: str
    low: NDArray
    high: NDArray


def bands(
    hours: NDArray, middle: NDArray, around: Sequence[Band], *, named: str, y: str, x: str = "hour", height: int = 320
) -> figures.Variant:
    """A curve with bands.

    Args:
        hours: [N] ends of the parts of a rollout.
        middle: [N] the curve.
        around: bands, the widest first.
        named: what the curve is, in words.
        y: title of the vertical axis.
        x: what the points are counted by.
        height: of the picture.
    """
    figure = figures.blank()
    few = len(hours) == 1
    for band, clear in zip(around, _CLEAR, strict=False):
        colour = f"rgba({','.join(str(int(figures.HEALTHIER[i : i + 2], 16)) for i in (1, 3, 5))},{clear})"
        if few:  # a band of one point has no width
            figure.add_scatter(
                x=figures.plain(hours),
                y=figures.plain(middle),
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": figures.plain(band.high - middle),
                    "arrayminus": figures.plain(middle - band.low),
                    "color": figures.HEALTHIER,
                },
                mode="markers",
                marker={"color": figures.HEALTHIER},
                name=figures.label(band.name),
                hoverinfo="skip",
            )
            continue
        edge = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
        figure.add_scatter(x=figures.plain(hours), y=figures.plain(band.low), showlegend=False, **edge)
        figure.add_scatter(
            x=figures.plain(hours),
            y=figures.plain(band.high),
            fill="tonexty",
            fillcolor=colour,
            name=figures.label(band.name),
            **edge,
        )
    words = [
        ", ".join(
            [
                f"{x} {hour:g}: {markup.number(value)}",
                *(f"{band.name} {markup.number(band.low[n])} to {markup.number(band.high[n])}" for band in around),
            ]
        )
        for n, (hour, value) in enumerate(zip(hours, middle, strict=True))
    ]
    figure.add_scatter(
        x=figures.plain(hours),
        y=figures.plain(middle),
        mode="lines+markers",
        line={"color": figures.HEALTHIER, "width": 2.5},
        name=figures.label(named),
        hoverinfo="text",
        hovertext=[figures.label(text) for text in words],
    )
    figure.update_layout(
        figures.layout(height),
        xaxis={"title": {"text": "hour of the rollout" if x == "hour" else x}, "rangemode": "tozero"},
        yaxis={"title": {"text": figures.label(y)}, "automargin": True},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 12}},
        margin={"l": 8, "r": 12, "t": 24, "b": 48},
    )
    return figures.Variant(figure, {"xaxis.nticks": 5})
