"""Figures of the report: the only file that imports plotly.

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


# ---------------------------------------------------------------------------------------------------------------------
# Figures


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


def changes(groups: Sequence[tuple[str, Sequence[Change]]]) -> Variant:
    """Relative changes with intervals, grouped, one line an objective."""
    rows = [row for _, inside in groups for row in inside]
    limit = _reach(rows)
    places: list[float] = []
    ticks: list[str] = []
    points: dict[str, list[tuple[float, Change]]] = {verdict: [] for verdict in MARKS}
    place = 0.0
    for heading, inside in groups:
        places.append(place)
        ticks.append(f"<b>{label(heading)}</b>")
        for row in inside:
            place += 1.0
            places.append(place)
            ticks.append(label(row.name))
            points[row.verdict].append((place, row))
        place += 1.25
    figure = go.Figure()
    for verdict, (words, colour, shape) in MARKS.items():
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
            hovertext=[label(r.hover) for _, r in chosen],
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
    layout = _layout(height)
    figure.update_layout(
        layout,
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.0, "yanchor": "bottom"},
        xaxis={
            "title": {"text": "change in % of the level before"},
            "range": [-1.06 * limit, 1.06 * limit],
            "ticksuffix": " %",
            "zeroline": True,
            "zerolinecolor": INK,
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
    short = [tick if tick.startswith("<b>") else label(html.unescape(tick), 17) for tick in ticks]
    return Variant(
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
    shared = {"x": places, "y": places, "hoverinfo": "text", "xgap": 3, "ygap": 3, "texttemplate": "%{text}"}
    figure = go.Figure()
    figure.add_heatmap(
        z=_plain(np.where(clear, np.nan, 0.0)),
        text=words,
        hovertext=hover,
        showscale=False,
        zmin=0,
        zmax=1,
        colorscale=[[0, EMPTY], [1, EMPTY]],
        textfont={"color": MUTED},
        **shared,
    )
    figure.add_heatmap(
        z=_plain(np.where(clear, of.health * of.effect, np.nan)),
        text=words,
        hovertext=hover,
        zmin=-SATURATION,
        zmax=SATURATION,
        colorscale=[[0, WORSE], [0.5, MIDDLE], [1, HEALTHIER]],
        colorbar={
            "orientation": "h",
            "y": -0.02,
            "yanchor": "top",
            "thickness": 12,
            "len": 1.0,
            "outlinewidth": 0,
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
    height = 150 + max(44 * size, 150)
    ticks = [label(name, 14) for name in of.names]
    figure.update_layout(
        _layout(height),
        xaxis={
            "tickvals": places,
            "ticktext": ticks,
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
        margin={"l": 8, "r": 8, "t": 60, "b": 90},
    )
    small = {"size": 10}
    return Variant(
        figure,
        {
            "xaxis.tickangle": -40,
            "margin.r": 34,
            "xaxis.tickfont": small,
            "yaxis.tickfont": small,
            "font": {**_FONT, "size": 11},
        },
    )


def _cell(effect: float, clear: bool) -> str:
    if not math.isfinite(effect):
        return markup.MISSING
    text = "0.00" if abs(effect) < 0.005 else f"{effect:+.2f}".replace("-", "\N{MINUS SIGN}")
    return text if clear else f"({text})"


class Curve(NamedTuple):
    """A line of a plot.

    Attributes:
        name: what it shows.
        x: [N].
        y: [N]; NaN is a gap.
        marked: [N] points with a marker; None marks none.
    """

    name: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    marked: NDArray[np.bool_] | None = None


def curves(
    lines: Sequence[Curve],
    *,
    y: str,
    suffix: str = "",
    height: int = 300,
    zero: bool = True,
    span: Sequence[float] | None = None,
) -> Variant:
    """Curves over meta-steps."""
    figure = go.Figure()
    for at, line in enumerate(lines):
        kept = decimate(len(line.x))
        colour, dash = CURVES[at % len(CURVES)], DASHES[(at // len(CURVES) + at) % len(DASHES)]
        values = line.y[kept]
        figure.add_scatter(
            x=_plain(line.x[kept]),
            y=_plain(values),
            name=label(line.name),
            mode="lines" if len(kept) > 1 else "markers",
            line={"color": colour, "dash": dash, "width": 2},
            hoverinfo="text",
            hovertext=[
                f"{label(line.name)}, meta-step {x:g}: {markup.number(v, signed=zero)}{suffix}"
                for x, v in zip(line.x[kept], values, strict=True)
            ],
        )
        if line.marked is not None and line.marked.any():
            chosen = np.flatnonzero(line.marked)
            chosen = chosen[decimate(len(chosen))]
            figure.add_scatter(
                x=_plain(line.x[chosen]),
                y=_plain(line.y[chosen]),
                name="new audit",
                mode="markers",
                hoverinfo="skip",
                marker={"color": colour, "size": 9, "symbol": "diamond"},
            )
    axis: dict[str, Any] = {
        "title": {"text": y},
        "ticksuffix": suffix,
        "automargin": True,
        "zeroline": zero,
        "zerolinecolor": INK,
    }
    if span is not None:
        axis["range"] = list(span)
    figure.update_layout(
        _layout(height + (20 * len(lines) if len(lines) > 1 else 0)),
        xaxis={"title": {"text": "meta-step"}, "rangemode": "tozero"},
        yaxis=axis,
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 12}},
        showlegend=len(figure.data) > 1,
        margin={"l": 8, "r": 12, "t": 24, "b": 48},
        hovermode="closest",
    )
    return Variant(figure, {"xaxis.nticks": 5})


def lever(unit: str, x: NDArray[np.float64], y: NDArray[np.float64], default: float) -> Variant:
    """A small plot of one lever; the dotted line is where it started."""
    kept = decimate(len(x))
    figure = go.Figure()
    figure.add_scatter(
        x=_plain(x[kept]),
        y=_plain(y[kept]),
        mode="lines" if len(kept) > 1 else "markers",
        line={"color": HEALTHIER, "width": 2},
        hoverinfo="text",
        hovertext=[f"meta-step {a:g}: {markup.number(b)} {label(unit)}" for a, b in zip(x[kept], y[kept], strict=True)],
    )
    if math.isfinite(default):
        figure.add_hline(y=default, line={"color": MUTED, "dash": "dot", "width": 1})
    values = [v for v in (*y[np.isfinite(y)].tolist(), default) if math.isfinite(v)]
    axis: dict[str, Any] = {"nticks": 4, "automargin": True}
    if values:
        low, high = min(values), max(values)
        # A lever that hardly moves must look like one.
        room = max(0.6 * (high - low), 0.05 * max(abs(low), abs(high)), 1e-6)
        axis["range"] = [low - room * 0.3, high + room * 0.3]
    figure.update_layout(
        _layout(112), xaxis={"nticks": 4}, yaxis=axis, showlegend=False, margin={"l": 8, "r": 8, "t": 6, "b": 22}
    )
    return Variant(figure, {})


class Audited(NamedTuple):
    """Two estimates of one lever's derivative.

    Attributes:
        name: lever.
        pathwise: through the mean field.
        sampled: measured on the sampled model.
        error: standard error of the latter.
        apart: whether the two are more than two standard errors apart.
    """

    name: str
    pathwise: float
    sampled: float
    error: float
    apart: bool


def audit(levers: Sequence[Audited]) -> Variant:
    """Pathwise and sampled derivatives, lever by lever."""
    size = len(levers)
    figure = go.Figure()
    hover = [
        label(
            f"{each.name}: pathwise {markup.number(each.pathwise, signed=True)}, sampled "
            f"{markup.number(each.sampled, signed=True)} ± {markup.number(2 * each.error)} (2 standard errors)"
        )
        for each in levers
    ]
    figure.add_scatter(
        x=[_finite(each.sampled) for each in levers],
        y=[at + 0.14 for at in range(size)],
        name="sampled model ± 2 standard errors",
        mode="markers",
        marker={"color": SAMPLED, "size": 10, "symbol": "diamond-open", "line": {"width": 2, "color": SAMPLED}},
        error_x={
            "type": "data",
            "array": [_finite(2 * each.error) for each in levers],
            "thickness": 1.8,
            "width": 4,
            "color": SAMPLED,
        },
        hoverinfo="text",
        hovertext=hover,
    )
    figure.add_scatter(
        x=[_finite(each.pathwise) for each in levers],
        y=[at - 0.14 for at in range(size)],
        name="pathwise",
        mode="markers",
        marker={"color": INK, "size": 10, "symbol": "circle"},
        hoverinfo="text",
        hovertext=hover,
    )
    height = 120 + 34 * size
    figure.update_layout(
        _layout(height),
        xaxis={"title": {"text": "derivative of the training goal"}, "zeroline": True, "zerolinecolor": INK},
        yaxis={
            "tickvals": list(range(size)),
            "range": [size - 0.5, -0.5],
            "automargin": True,
            "ticks": "",
            "ticktext": [f"<b>{label(each.name)} ≠</b>" if each.apart else label(each.name) for each in levers],
        },
        legend={"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "traceorder": "reversed"},
        margin={"l": 8, "r": 12, "t": 40, "b": 50},
    )
    return Variant(figure, {"yaxis.tickfont": {"size": 10}, "xaxis.nticks": 5})


def weights(levers: Sequence[str], steps: Sequence[int], weight: NDArray[np.float64]) -> Variant:
    """Heat map [P, N] of the weight of the pathwise part at each audit."""
    kept = decimate(len(steps), 60)
    chosen = weight[:, kept]
    text = [[f"{w:.2f}" if math.isfinite(w) else markup.MISSING for w in row] for row in chosen]
    hover = [
        [f"{label(name)}, meta-step {steps[at]}: weight {value}" for at, value in zip(kept, row, strict=True)]
        for name, row in zip(levers, text, strict=True)
    ]
    figure = go.Figure()
    figure.add_heatmap(
        z=_plain(chosen),
        x=[str(steps[at]) for at in kept],
        y=list(range(len(levers))),
        text=text,
        texttemplate="%{text}" if len(kept) <= 8 else "",
        hovertext=hover,
        hoverinfo="text",
        zmin=0,
        zmax=1,
        xgap=2,
        ygap=2,
        colorscale=[[0, SAMPLED], [0.5, MIDDLE], [1, UNCLEAR]],
        showscale=False,
    )
    height = 90 + 26 * len(levers)
    figure.update_layout(
        _layout(height),
        xaxis={"type": "category", "title": {"text": "meta-step of the audit"}, "showgrid": False},
        yaxis={
            "tickvals": list(range(len(levers))),
            "ticktext": [label(name) for name in levers],
            "showgrid": False,
            "range": [len(levers) - 0.5, -0.5],
            "automargin": True,
            "ticks": "",
        },
        margin={"l": 8, "r": 8, "t": 32, "b": 50},
    )
    return Variant(figure, {"yaxis.tickfont": {"size": 10}})


# ---------------------------------------------------------------------------------------------------------------------

_FONT = {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, Arial, sans-serif", "size": 13, "color": INK}


def _layout(height: int) -> dict[str, Any]:
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
        "font": _FONT,
        "dragmode": False,
        "xaxis": axis,
        "yaxis": axis,
        "separators": ".,",
        "modebar": {"bgcolor": clear, "color": MUTED, "activecolor": INK},
        "hoverlabel": {"bgcolor": MIDDLE, "bordercolor": MUTED, "font": {"color": INK}, "align": "left"},
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _plain(values: NDArray[Any]) -> list[Any]:
    """Nested lists with None where a number is not finite."""
    array = np.asarray(values, np.float64)
    return [_plain(row) for row in array] if array.ndim > 1 else [_finite(value) for value in array]
