"""The corners of a phase diagram in numbers: what the platform is where both levers are at an end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mamba.objectives import NAMES
from mamba.runs import emergence
from mamba.runs.markup import MISSING, Column, Html, join, number, table, tag
from mamba.runs.sections.contributions import key_objectives
from mamba.runs.sections.shared import Figures, Objective, View, required, titled

_NEEDED = ("objectives", "phase_units", "phase_first", "phase_second", "phase_mean", "phase_error")
_ENDS = ((0, 0), (-1, 0), (0, -1), (-1, -1))


def corners_section(view: View, _drawn: Figures) -> Html:
    """Means and standard errors at the four corners; empty without a phase diagram.

    Raises:
        UserError: the file lacks arrays.
    """
    arrays = view.emergence
    if arrays is None or "phase_axes" not in arrays:
        return Html("")
    required(view.run.path / emergence.FILE, arrays, _NEEDED)
    mean, error = (np.asarray(arrays[f"phase_{part}"], np.float64) for part in ("mean", "error"))
    names = [str(axis).removeprefix("levers/").removeprefix("world/") for axis in arrays["phase_axes"]]
    sides = [np.asarray(arrays[f"phase_{side}"], np.float64) for side in ("first", "second")]
    columns = [Column("Objective")] + [
        Column(
            join(tag("div", f"{name} {float(side[at]):.3g}") for name, side, at in zip(names, sides, end, strict=True)),
            numeric=True,
        )
        for end in _ENDS
    ]
    shown = [each for each in view.objectives.values() if each.name in NAMES]
    key = key_objectives(view, shown)
    rest = [each for each in shown if each not in key]
    units = [str(unit) or "no unit" for unit in arrays["phase_units"]]
    caption = f"Corners of the phase diagram, mean ± standard error over seeds ({names[0]}: {units[0]}; {names[1]}: {units[1]})."
    parts: list[Any] = [
        tag("h3", "Where both levers are at an end"),
        table(caption, columns, [(None, _rows(view, key, mean, error))]),
    ]
    if rest:
        more = table("Corners: the other objectives.", columns, [(None, _rows(view, rest, mean, error))])
        parts.append(tag("details", tag("summary", "The other objectives"), more))
    return join(parts)


def _rows(
    view: View, some: Sequence[Objective], mean: NDArray[np.float64], error: NDArray[np.float64]
) -> list[list[Any]]:
    def cell(at: tuple[int, int], each: Objective) -> str:
        k = NAMES.index(each.name)
        level, spread = float(mean[at][k]), float(error[at][k])
        if not np.isfinite(level):
            return MISSING
        return f"{number(level)} ± {number(spread)}" if np.isfinite(spread) else number(level)

    return [[titled(view, each), *[cell(at, each) for at in _ENDS]] for each in some]
