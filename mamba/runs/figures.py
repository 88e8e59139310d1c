"""What every figure of the report is made of, and the matrix of interactions: the only file that imports plotly.

A figure is JSON that the page's script draws with the plotly.js beside the page. Colours are chosen for people who see
few of them (Okabe and Ito 2008), always beside a shape or a word, and have a counterpart for dark screens.
Names may hold anything: `label` makes them harmless to plotly, which reads some HTML.
"""

from __future__ import annotations

import html
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.offline import get_plotlyjs

from mamba.runs import markup

POINTS = 1000  # most points of a curve
INK, MUTED, LINE, EMPTY, MIDDLE = "#1b1f24", "#57606a", "#d8dee4", "#e9ecef", "#f7f7f8"
HEALTHIER, WORSE, UNCLEAR, SAMPLED = "#0072b2", "#d55e00", "#6e7781", "#7b4fb5"
CURVES = (HEALTHIER, WORSE, "#009e73", "#b0528a", "#8a6d00", "#3b8fc4", SAMPLED, "#a65628")
DASHES = ("solid", "dash", "dot", "dashdot")
DARK = {
    INK: "#e6e9ed", MUTED: "#a3adb8", LINE: "#363d46", EMPTY: "#2b3138", MIDDLE: "#20252b",
    HEALTHIER: "#5ab1ef", WORSE: "#ff8a3d", UNCLEAR: "#9aa4ae", SAMPLED: "#c5a3f0",
    "#009e73": "#34c79a", "#b0528a": "#e39cc4", "#8a6d00": "#e0c04c", "#3b8fc4": "#8ccaf5", "#a65628": "#d6946c",
}  # fmt: skip

MARKS = {  # verdict -> words, colour, shape
    "better": ("healthier", HEALTHIER, "circle"),
    "worse": ("worse", WORSE, "diamond"),
    "unclear": ("no clear change", UNCLEAR, "circle-open"),
}
SATURATION = 2.0  # spreads at which the colour of a matrix is full; a main effect cannot be larger


class Variant(NamedTuple):
    """One drawing.

    Attributes:
        figure: plotly figure.
        narrow: changes of the layout on a narrow screen, by dotted path.
    """

    figure: go.Figure
    narrow: Mapping[str, Any]


def plotly_js() -> str:
    """The source of plotly.js, to be written beside the page."""
    return get_plotlyjs()


def dump(variants: Sequence[Variant], *, buttons: bool = True) -> str:
    """JSON of a figure with one drawing or several to choose from; `buttons` to zoom and to save it as an image."""
    config = {
        "displaylogo": False,
        "displayModeBar": "hover" if buttons else False,
        "showSendToCloud": False,
        "plotlyServerURL": "",
        "modeBarButtons": [["zoom2d", "resetScale2d", "toImage"]],
        "locale": "en",
    }
    drawn = []
    for figure, narrow in variants:
        tree = json.loads(figure.to_json())  # type: ignore[arg-type]
        drawn.append({"data": tree["data"], "layout": tree["layout"], "narrow": dict(narrow)})
    return json.dumps({"variants": drawn, "config": config}, separators=(",", ":"), allow_nan=False)


def label(text: Any, width: int = 0) -> str:
    """Text that plotly shows as it is; broken into lines of `width` characters if that is given."""
    lines = textwrap.wrap(str(text), width) if width else [str(text)]
    return "<br>".join(html.escape(line, quote=False) for line in lines)


def decimate(length: int, points: int = POINTS) -> NDArray[np.intp]:
    """Indices of at most `points` evenly spaced entries, the first and the last among them."""
    if length <= points:
        return np.arange(length)
    return np.unique(np.round(np.linspace(0, length - 1, points)).astype(np.intp))


# ---- shared by all pictures

SCALE = ((0, WORSE), (0.5, MIDDLE), (1, HEALTHIER))
BAR = {"orientation": "h", "y": -0.02, "yanchor": "top", "thickness": 12, "len": 1.0, "outlinewidth": 0}
FONT = {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, Arial, sans-serif", "size": 13, "color": INK}


def blank() -> go.Figure:
    """A figure with nothing on it."""
    return go.Figure()


def layout(height: int) -> dict[str, Any]:
    """The look that all figures share."""
    axis = {
        "gridcolor": LINE,
        "linecolor": LINE,
        "tickcolor": LINE,
        "zeroline": False,
        "title": {"standoff": 8, "font": {"size": 13}},
        "fixedrange": False,
    }
    clear = "rgba(0,0,0,0)"
    return {
        "template": "none",
        "height": height,
        "autosize": True,
        "paper_bgcolor": clear,
        "plot_bgcolor": clear,
        "font": FONT,
        "dragmode": False,
        "xaxis": axis,
        "yaxis": axis,
        "separators": ".,",
        "modebar": {"bgcolor": clear, "color": MUTED, "activecolor": INK},
        "hoverlabel": {"bgcolor": MIDDLE, "bordercolor": MUTED, "font": {"color": INK}, "align": "left"},
    }


def finite(value: float) -> float | None:
    """The number, None where it is not finite: JSON knows no NaN."""
    return float(value) if math.isfinite(value) else None


def plain(values: NDArray[Any]) -> list[Any]:
    """Nested lists with None where a number is not finite."""
    array = np.asarray(values, np.float64)
    return [plain(row) for row in array] if array.ndim > 1 else [finite(value) for value in array]


def where(shown: NDArray[np.bool_], words: Sequence[Sequence[str]]) -> list[list[str]]:
    """Words [N, M] of the cells that a layer shows; empty elsewhere, which keeps the page small."""
    return [[text if on else "" for text, on in zip(*row, strict=True)] for row in zip(words, shown, strict=True)]


# ---- the matrix, which the tracker draws too


class Matrix(NamedTuple):
    """Interactions of A algorithms on one objective.

    Attributes:
        names: A names.
        effect: [A, A] effects in spreads, main effects on the diagonal.
        health: +1 where more of the objective is healthier, -1 where less is.
        resolved: [A, A] whether an effect was confirmed.
        none: [A, A] whether an interaction was shown to be negligible.
        hover: [A][A] words.
    """

    names: Sequence[str]
    effect: NDArray[np.float64]
    health: float
    resolved: NDArray[np.bool_]
    none: NDArray[np.bool_]
    hover: Sequence[Sequence[str]]


def matrix(of: Matrix) -> Variant:
    """Heat map of interactions: colour says healthier or worse, struck through negligible, grey in brackets not resolved,
    framed the effect of one alone."""
    size = len(of.names)
    known = np.isfinite(of.effect)
    clear = of.resolved & known
    words = [[_cell(of.effect[i, j], bool(clear[i, j] | of.none[i, j])) for j in range(size)] for i in range(size)]
    hover = [[label(text).replace("\n", "<br>") for text in row] for row in of.hover]
    places = list(range(size))
    shared = {"x": places, "y": places, "hoverinfo": "text", "hoverongaps": False, "xgap": 3, "ygap": 3}
    figure = go.Figure()
    figure.add_heatmap(
        z=plain(np.where(clear, np.nan, 0.0)),
        text=where(~clear, words),
        hovertext=where(~clear, hover),
        texttemplate="%{text}",
        showscale=False,
        zmin=0,
        zmax=1,
        colorscale=[[0, EMPTY], [1, EMPTY]],
        textfont={"color": MUTED},
        **shared,
    )
    figure.add_heatmap(
        z=plain(np.where(clear, of.health * of.effect, np.nan)),
        text=where(clear, words),
        hovertext=where(clear, hover),
        texttemplate="%{text}",
        zmin=-SATURATION,
        zmax=SATURATION,
        colorscale=SCALE,
        colorbar={
            **BAR,
            "tickvals": [-2, -1, 0, 1, 2],
            "ticktext": ["2", "1", "0", "1", "2"],
            "title": {"text": "← worse · effect in spreads · healthier →", "side": "bottom", "font": {"size": 12}},
        },
        **shared,
    )
    for i in places:
        figure.add_shape(
            type="rect", x0=i - 0.46, x1=i + 0.46, y0=i - 0.46, y1=i + 0.46, line={"color": INK, "width": 2.5}
        )
    for i, j in zip(*np.nonzero(of.none), strict=True):
        line = {"color": MUTED, "width": 1}
        figure.add_shape(type="line", x0=j - 0.46, x1=j + 0.46, y0=i + 0.46, y1=i - 0.46, line=line, layer="above")
    # Names stand level where there is room for them, else they slant.
    slant, above = size > 6, 30 + 5 * min(max(len(name) for name in of.names), 20)
    height = 150 + max(44 * size, 150) + (above - 60 if slant else 0)
    ticks = [label(name, 14) for name in of.names]
    slanted = [label(name) for name in of.names]
    figure.update_layout(
        layout(height),
        xaxis={
            "tickvals": places,
            "ticktext": slanted if slant else ticks,
            "tickangle": -45 if slant else 0,
            "side": "top",
            "showgrid": False,
            "ticks": "",
            "range": [-0.5, size - 0.5],
        },
        yaxis={
            "tickvals": places,
            "ticktext": ticks,
            "range": [size - 0.5, -0.5],
            "showgrid": False,
            "ticks": "",
            "automargin": True,
        },
        margin={"l": 8, "r": 44 if slant else 8, "t": above if slant else 60, "b": 90},
    )
    small = {"size": 10}
    return Variant(
        figure,
        {
            "xaxis.tickangle": -45,
            "xaxis.ticktext": slanted,
            "margin.r": 34,
            "margin.t": above,
            "xaxis.tickfont": small,
            "yaxis.tickfont": small,
            "font": {**FONT, "size": 11},
        },
    )


def _cell(effect: float, clear: bool) -> str:
    if not math.isfinite(effect):
        return markup.MISSING
    text = "0.00" if abs(effect) < 0.005 else f"{effect:+.2f}".replace("-", "\N{MINUS SIGN}")
    return text if clear else f"({text})"
