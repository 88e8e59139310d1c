"""Pictures of training: curves over meta-steps, levers, and the audit of gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mamba.runs import figures, markup


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
) -> figures.Variant:
    """Curves over meta-steps."""
    figure = figures.blank()
    for at, line in enumerate(lines):
        kept = figures.decimate(len(line.x))
        colour, dash = (
            figures.CURVES[at % len(figures.CURVES)],
            figures.DASHES[(at // len(figures.CURVES) + at) % len(figures.DASHES)],
        )
        values = line.y[kept]
        figure.add_scatter(
            x=figures.plain(line.x[kept]),
            y=figures.plain(values),
            name=figures.label(line.name),
            mode="lines" if len(kept) > 1 else "markers",
            line={"color": colour, "dash": dash, "width": 2},
            hoverinfo="text",
            hovertext=[
                f"{figures.label(line.name)}, meta-step {x:g}: {markup.number(v, signed=zero)}{suffix}"
                for x, v in zip(line.x[kept], values, strict=True)
            ],
        )
        if line.marked is not None and line.marked.any():
            chosen = np.flatnonzero(line.marked)
            chosen = chosen[figures.decimate(len(chosen))]
            figure.add_scatter(
                x=figures.plain(line.x[chosen]),
                y=figures.plain(line.y[chosen]),
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
        "zerolinecolor": figures.INK,
    }
    if span is not None:
        axis["range"] = list(span)
    figure.update_layout(
        figures.layout(height + (20 * len(lines) if len(lines) > 1 else 0)),
        xaxis={"title": {"text": "meta-step"}, "rangemode": "tozero"},
        yaxis=axis,
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 12}},
        showlegend=len(figure.data) > 1,
        margin={"l": 8, "r": 12, "t": 24, "b": 48},
        hovermode="closest",
    )
    return figures.Variant(figure, {"xaxis.nticks": 5})


def lever(unit: str, x: NDArray[np.float64], y: NDArray[np.float64], default: float) -> figures.Variant:
    """A small plot of one lever; the dotted line is where it started."""
    kept = figures.decimate(len(x))
    figure = figures.blank()
    figure.add_scatter(
        x=figures.plain(x[kept]),
        y=figures.plain(y[kept]),
        mode="lines" if len(kept) > 1 else "markers",
        line={"color": figures.HEALTHIER, "width": 2},
        hoverinfo="text",
        hovertext=[
            f"meta-step {a:g}: {markup.number(b)} {figures.label(unit)}" for a, b in zip(x[kept], y[kept], strict=True)
        ],
    )
    if math.isfinite(default):
        figure.add_hline(y=default, line={"color": figures.MUTED, "dash": "dot", "width": 1})
    values = [v for v in (*y[np.isfinite(y)].tolist(), default) if math.isfinite(v)]
    axis: dict[str, Any] = {"nticks": 4, "automargin": True}
    if values:
        low, high = min(values), max(values)
        # A lever that hardly moves must look like one.
        room = max(0.6 * (high - low), 0.05 * max(abs(low), abs(high)), 1e-6)
        axis["range"] = [low - room * 0.3, high + room * 0.3]
    figure.update_layout(
        figures.layout(112), xaxis={"nticks": 4}, yaxis=axis, showlegend=False, margin={"l": 8, "r": 8, "t": 6, "b": 22}
    )
    return figures.Variant(figure, {})


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


def audit(levers: Sequence[Audited]) -> figures.Variant:
    """Pathwise and sampled derivatives, lever by lever."""
    size = len(levers)
    figure = figures.blank()
    hover = [
        figures.label(
            f"{each.name}: pathwise {markup.number(each.pathwise, signed=True)}, sampled "
            f"{markup.number(each.sampled, signed=True)} ± {markup.number(2 * each.error)} (2 standard errors)"
        )
        for each in levers
    ]
    figure.add_scatter(
        x=[figures.finite(each.sampled) for each in levers],
        y=[at + 0.14 for at in range(size)],
        name="sampled model ± 2 standard errors",
        mode="markers",
        marker={
            "color": figures.SAMPLED,
            "size": 10,
            "symbol": "diamond-open",
            "line": {"width": 2, "color": figures.SAMPLED},
        },
        error_x={
            "type": "data",
            "array": [figures.finite(2 * each.error) for each in levers],
            "thickness": 1.8,
            "width": 4,
            "color": figures.SAMPLED,
        },
        hoverinfo="text",
        hovertext=hover,
    )
    figure.add_scatter(
        x=[figures.finite(each.pathwise) for each in levers],
        y=[at - 0.14 for at in range(size)],
        name="pathwise",
        mode="markers",
        marker={"color": figures.INK, "size": 10, "symbol": "circle"},
        hoverinfo="text",
        hovertext=hover,
    )
    height = 120 + 34 * size
    figure.update_layout(
        figures.layout(height),
        xaxis={"title": {"text": "derivative of the training goal"}, "zeroline": True, "zerolinecolor": figures.INK},
        yaxis={
            "tickvals": list(range(size)),
            "range": [size - 0.5, -0.5],
            "automargin": True,
            "ticks": "",
            "ticktext": [
                f"<b>{figures.label(each.name)} ≠</b>" if each.apart else figures.label(each.name) for each in levers
            ],
        },
        legend={"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "traceorder": "reversed"},
        margin={"l": 8, "r": 12, "t": 40, "b": 50},
    )
    return figures.Variant(figure, {"yaxis.tickfont": {"size": 10}, "xaxis.nticks": 5})


def weights(levers: Sequence[str], steps: Sequence[int], weight: NDArray[np.float64]) -> figures.Variant:
    """Heat map [P, N] of the weight of the pathwise part at each audit."""
    kept = figures.decimate(len(steps), 60)
    chosen = weight[:, kept]
    text = [[f"{w:.2f}" if math.isfinite(w) else markup.MISSING for w in row] for row in chosen]
    hover = [
        [f"{figures.label(name)}, meta-step {steps[at]}: weight {value}" for at, value in zip(kept, row, strict=True)]
        for name, row in zip(levers, text, strict=True)
    ]
    figure = figures.blank()
    figure.add_heatmap(
        z=figures.plain(chosen),
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
        colorscale=[[0, figures.SAMPLED], [0.5, figures.MIDDLE], [1, figures.UNCLEAR]],
        showscale=False,
    )
    height = 90 + 26 * len(levers)
    figure.update_layout(
        figures.layout(height),
        xaxis={"type": "category", "title": {"text": "meta-step of the audit"}, "showgrid": False},
        yaxis={
            "tickvals": list(range(len(levers))),
            "ticktext": [figures.label(name) for name in levers],
            "showgrid": False,
            "range": [len(levers) - 0.5, -0.5],
            "automargin": True,
            "ticks": "",
        },
        margin={"l": 8, "r": 8, "t": 32, "b": 50},
    )
    return figures.Variant(figure, {"yaxis.tickfont": {"size": 10}})
