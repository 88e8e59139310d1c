"""Coloured grids: a table of effects, and a phase diagram over two levers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mamba.runs import figures, markup


class Cells(NamedTuple):
    """A table as a picture.

    Attributes:
        rows: N names.
        columns: M names.
        colour: [N, M] how much healthier (positive) or worse (negative), in units of full colour.
        words: [N][M] what stands in the cells.
        hover: [N][M] words; the reason where a cell is masked.
        clear: [N, M] whether a cell is resolved; others are grey.
        masked: [N, M] cells that hold nothing, struck through; None masks none.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    colour: NDArray[np.float64]
    words: Sequence[Sequence[str]]
    hover: Sequence[Sequence[str]]
    clear: NDArray[np.bool_]
    masked: NDArray[np.bool_] | None = None


def table_map(of: Cells, *, legend: str) -> figures.Variant:
    """Heat map of a table: colour says healthier or worse, grey not resolved, struck through not to be had.

    Args:
        of: the table.
        legend: what the colour measures.
    """
    rows, columns = len(of.rows), len(of.columns)
    masked = np.zeros((rows, columns), bool) if of.masked is None else of.masked
    clear = of.clear & ~masked & np.isfinite(of.colour)
    hover = [[figures.label(text).replace("\n", "<br>") for text in row] for row in of.hover]
    words = [[figures.label(text) for text in row] for row in of.words]
    shared = {
        "x": list(range(columns)), "y": list(range(rows)), "hoverinfo": "text", "hoverongaps": False, "xgap": 2, "ygap": 2,
    }  # fmt: skip
    figure = figures.blank()
    figure.add_heatmap(
        z=figures.plain(np.where(clear, np.nan, 0.0)),
        text=figures.where(~clear & ~masked, words),
        hovertext=figures.where(~clear, hover),
        texttemplate="%{text}",
        textfont={"color": figures.MUTED},
        showscale=False,
        zmin=0,
        zmax=1,
        colorscale=[[0, figures.EMPTY], [1, figures.EMPTY]],
        **shared,
    )
    figure.add_heatmap(
        z=figures.plain(np.where(clear, of.colour, np.nan)),
        text=figures.where(clear, words),
        hovertext=figures.where(clear, hover),
        texttemplate="%{text}",
        zmin=-1,
        zmax=1,
        colorscale=figures.SCALE,
        colorbar={
            **figures.BAR,
            "tickvals": [-1, 0, 1],
            "ticktext": ["", "0", ""],
            "title": {
                "text": f"← worse · {figures.label(legend)} · healthier →",
                "side": "bottom",
                "font": {"size": 12},
            },
        },
        **shared,
    )
    line = {"color": figures.MUTED, "width": 1}
    for i, j in zip(*np.nonzero(masked), strict=True):
        figure.add_shape(type="line", x0=j - 0.46, x1=j + 0.46, y0=i + 0.4, y1=i - 0.4, line=line, layer="above")
    height = 170 + 28 * rows
    figure.update_layout(
        figures.layout(height),
        xaxis={
            "tickvals": list(range(columns)),
            "ticktext": [figures.label(name, 14) for name in of.columns],
            "side": "top",
            "showgrid": False,
            "ticks": "",
            "range": [-0.5, columns - 0.5],
        },
        yaxis={
            "tickvals": list(range(rows)),
            "ticktext": [figures.label(name) for name in of.rows],
            "range": [rows - 0.5, -0.5],
            "showgrid": False,
            "ticks": "",
            "automargin": True,
        },
        margin={"l": 8, "r": 8, "t": 60, "b": 90},
    )
    small, above = {"size": 10}, 34 + 4 * min(max((len(name) for name in of.columns), default=0), 24)
    return figures.Variant(
        figure,
        {
            "xaxis.tickangle": -50,
            "xaxis.ticktext": [figures.label(name) for name in of.columns],
            "margin.t": above,
            "height": height + above - 60,
            "margin.r": 34,
            "xaxis.tickfont": small,
            "yaxis.tickfont": small,
            "yaxis.ticktext": [figures.label(name, 20) for name in of.rows],
            "font": {**figures.FONT, "size": 9 if columns > 4 else 10},
        },
    )


class Phase(NamedTuple):
    """The mean of one objective over two levers.

    Attributes:
        across: name of the lever that runs to the right.
        across_values: [n1].
        up: name of the lever that runs upwards.
        up_values: [n2].
        mean: [n1, n2]; NaN leaves a cell empty.
        fast: [n1, n2] where the objective changes fast.
        title: objective and unit.
        health: +1 where more is healthier, -1 where less is.
    """

    across: str
    across_values: NDArray[np.float64]
    up: str
    up_values: NDArray[np.float64]
    mean: NDArray[np.float64]
    fast: NDArray[np.bool_]
    title: str
    health: float


def phase_diagram(of: Phase) -> figures.Variant:
    """Levels as colour over two levers, with a line around the cells where they change fast.

    Cells are drawn at even distances whatever the steps of the levers are: each is one platform that was run.
    """
    columns, rows = of.mean.shape
    level = of.mean.T
    sides = [(of.across, of.across_values), (of.up, of.up_values)]
    (x_name, x), (y_name, y) = sides

    def words(i: int, j: int) -> str:
        text = f"{x_name} {x[j]:.4g}\n{y_name} {y[i]:.4g}\n{of.title}: {markup.number(float(level[i, j]))}"
        return figures.label(text + ("\nchanges fast here" if of.fast[j, i] else "")).replace("\n", "<br>")

    scale = figures.SCALE if of.health > 0 else tuple((1 - at, colour) for at, colour in reversed(figures.SCALE))
    places = {"x": list(range(columns)), "y": list(range(rows))}
    figure = figures.blank()
    figure.add_heatmap(
        z=figures.plain(level),
        hovertext=[[words(i, j) for j in range(columns)] for i in range(rows)],
        hoverinfo="text",
        hoverongaps=False,
        colorscale=scale,
        colorbar={
            **figures.BAR,
            "y": -0.2,
            "title": {"text": figures.label(of.title), "side": "bottom", "font": {"size": 12}},
        },
        **places,
    )
    if of.fast.any():
        # A border of cells that are not fast closes the line at the edge of the diagram.
        padded = np.pad(of.fast.T.astype(float), 1)
        figure.add_contour(
            x=list(range(-1, columns + 1)),
            y=list(range(-1, rows + 1)),
            z=figures.plain(padded),
            contours={"start": 0.5, "end": 0.5, "size": 1, "coloring": "none"},
            line={"color": figures.INK, "width": 2.5, "smoothing": 0},
            showscale=False,
            hoverinfo="skip",
        )
    height = 420
    axes = [
        {
            "title": {"text": figures.label(name)},
            "tickvals": ticks,
            "ticktext": [f"{values[at]:.3g}" for at in ticks],
            "range": [-0.5, len(values) - 0.5],
            "showgrid": False,
            "ticks": "",
            "automargin": True,
        }
        for name, values in sides
        for ticks in [figures.decimate(len(values), 8).tolist()]
    ]
    figure.update_layout(
        figures.layout(height), xaxis=axes[0], yaxis=axes[1], margin={"l": 8, "r": 12, "t": 10, "b": 120}
    )
    return figures.Variant(figure, {"xaxis.tickfont": {"size": 10}, "yaxis.tickfont": {"size": 10}})


def reach_of(values: NDArray[np.float64]) -> float:
    """Size at which the colour of a table is full: what nine tenths of its cells stay within; 1 without any."""
    known = np.abs(values[np.isfinite(values)])
    reach = float(np.quantile(known, 0.9)) if len(known) else 0.0
    return reach if reach > 0 and math.isfinite(reach) else 1.0
