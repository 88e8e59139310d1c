"""Parallel coordinates: every member of a sweep as a line through what was chosen for it and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mamba.runs import figures

_TICKS = 5
_APART = 20.0  # a positive axis whose ends differ by more than this factor is logarithmic


class Axis(NamedTuple):
    """One axis.

    Attributes:
        name: what it shows.
        values: [N] numbers, or texts where the setting is no number.
    """

    name: str
    values: Sequence[Any]


def parallel(axes: Sequence[Axis], colour: NDArray[np.float64], *, lower_is_better: bool) -> figures.Variant:
    """Lines of N members.

    Args:
        axes: from left to right.
        colour: [N] what decides the colour of a line.
        lower_is_better: which end of it gets the colour of what is healthier.
    """
    figure = figures.blank()
    shades = (figures.HEALTHIER, figures.UNCLEAR, figures.WORSE)
    scale = list(zip((0.0, 0.5, 1.0), shades if lower_is_better else shades[::-1], strict=True))
    figure.add_parcoords(
        dimensions=[_dimension(axis) for axis in axes],
        line={"color": figures.plain(colour), "colorscale": scale, "showscale": False},
        labelfont={"size": 12, "color": figures.INK},
        tickfont={"size": 11, "color": figures.INK},
        rangefont={"size": 1, "color": "rgba(0,0,0,0)"},
        labelangle=-20 if len(axes) > 3 else 0,
    )
    figure.update_layout(figures.layout(430), margin={"l": 70, "r": 80, "t": 110 if len(axes) > 3 else 60, "b": 24})
    return figures.Variant(figure, {})


def _dimension(axis: Axis) -> dict[str, Any]:
    label = figures.label(axis.name.replace("/", " / "), 22)
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in axis.values):
        texts = list(dict.fromkeys(str(value) for value in axis.values))
        return {
            "label": label,
            "values": [texts.index(str(value)) for value in axis.values],
            "tickvals": list(range(len(texts))),
            "ticktext": [figures.label(text) for text in texts],
        }
    values = np.asarray(axis.values, np.float64)
    known = values[np.isfinite(values)]
    if len(known) and known.min() > 0 and known.max() > _APART * known.min():
        ticks = np.geomspace(known.min(), known.max(), _TICKS)
        return {
            "label": label,
            "values": figures.plain(np.log10(values)),
            "tickvals": figures.plain(np.log10(ticks)),
            "ticktext": [f"{tick:.3g}" for tick in ticks],
        }
    if len(set(known.tolist())) <= _TICKS:
        ticks = np.unique(known)
    else:
        ticks = np.linspace(known.min(), known.max(), _TICKS)
    return {
        "label": label,
        "values": figures.plain(values),
        "tickvals": figures.plain(ticks),
        "ticktext": [f"{tick:.3g}" for tick in ticks],
    }
