"""The section on the Pareto front: what can be had of some objectives at once, and what one costs in the other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mamba.interactions.statistics import Estimate
from mamba.meta import constraints
from mamba.objectives import NAMES, OBJECTIVES
from mamba.runs import pareto
from mamba.runs.markup import MISSING, Column, Html, between, count, join, number, percent, series, table, tag
from mamba.runs.pictures import fronts as pictures
from mamba.runs.sections.shared import Figures, View, interval_words, label_of, limit_words, results_of

_NEEDED = (
    *(
        "objectives",
        "traded",
        "dropped",
        "kept",
        "weights",
        "fresh",
        "allowed",
        "violates",
        "chosen",
        "levers",
        "units",
    ),
    *(
        "default",
        "meaningful",
        "start_levers",
        "point_levers",
        "violation_low",
        "volume_value",
        "volume_low",
        "volume_high",
    ),
    *(
        "volume_curse",
        f"certificate_squared_{pareto.BASELINE}",
        f"certificate_squared_{pareto.EVEN}",
        "shares",
        "blocks",
    ),
)
_MOVED = 3  # levers told of each point
_PLACES = {
    pareto.BASELINE: "Baseline",
    pareto.EVEN: "Point of the most even weights",
    pareto.TRAINED: "Levers trained for the goal of the run",
}


def pareto_section(view: View, drawn: Figures) -> Html:
    """The front, its points and how far from stationary they are; empty where none was trained.

    Raises:
        UserError: the file is damaged, or lacks arrays.
    """
    arrays = results_of(view, pareto.FILE, _NEEDED)
    if arrays is None:
        return Html("")
    index = np.array([NAMES.index(str(name)) for name in arrays["traded"]])
    told = pareto.changes(arrays, index, confidence=view.confidence)
    labels = [label_of(view, NAMES[i]) for i in index]
    parts: list[Any] = [
        tag("p", _read(view, arrays, labels), class_="lead"),
        tag("p", *_volume(view, arrays, told, index, labels)),
        drawn.add(
            [pictures.front(pareto.picture(arrays, confidence=view.confidence))],
            title=f"What can be had at once of {' and '.join(labels[:2])}",
            about=f"Scatter plot of the platforms of the front: change of {labels[0]} against change of {labels[1]}.",
            caption=(
                f"Each point is one platform, on fresh seeds of the sampled model; bars: {view.ci}. The dotted line joins what "
                "stands out; it is no promise about what lies between."
                + ("" if len(index) == 2 else f" The other objectives ({', '.join(labels[2:])}) stand in the table.")
            ),
        ),
        _points(view, arrays, told, index, labels),
        *_certificates(view, arrays),
        _notes(arrays),
    ]
    return join(parts)


def _read(view: View, arrays: Mapping[str, NDArray[Any]], labels: Sequence[str]) -> Html:
    kept = [NAMES[int(i)] for i in arrays["kept"]]
    shares = [float(share) for share in arrays.get("kept_share", [view.keep.get(name, math.nan) for name in kept])]
    said = [
        f"{count(len(arrays['weights']), 'platform')} {'was' if len(arrays['weights']) == 1 else 'were'} trained together, each "
        "for another way to weigh ",
        series(labels),
        ". ",
    ]
    if kept:
        limits = [limit_words(view, name, share) for name, share in zip(kept, shares, strict=True)]
        said += ["All of them were trained with ", series(limits), " of the baseline. "]
    if len(arrays["dropped"]):
        freed = [label_of(view, str(name)) for name in arrays["dropped"]]
        said += ["What the run otherwise keeps is traded off here: ", series(freed), ". "]
    return join(said)


def _volume(
    view: View, arrays: Mapping[str, NDArray[Any]], told: Estimate, index: NDArray[np.int64], labels: Sequence[str]
) -> list[Any]:
    """What is gained jointly, in words."""
    value, low, high = (1e4 * float(arrays[f"volume_{part}"]) / _unit(index) for part in ("value", "low", "high"))
    curse = 1e4 * float(arrays["volume_curse"]) / _unit(index)
    worse = constraints.harm_sign(index)
    ends = np.where(worse < 0, told.low, told.high)  # the less healthy ends
    sure = np.asarray(arrays["chosen"]) & ~np.asarray(arrays["violates"]) & np.all(worse * ends < 0, axis=1)
    unit = "square per cent" if len(index) == 2 else f"per cent to the power of {len(index)}"
    said: list[Any] = [
        f"{int(np.sum(arrays['chosen']))} of {count(len(arrays['weights']), 'point')} "
        f"{'stands' if int(np.sum(arrays['chosen'])) == 1 else 'stand'} out: no other is as healthy in {_all(labels)}. "
    ]
    if low > 0:
        said.append("The front improves on the baseline in all of them at once: ")
    else:
        said.append("Whether anything improves on the baseline in all of them at once is not resolved: ")
    said += [
        f"the volume between front and baseline is {number(value)} ",
        interval_words(low, high, signed=False),
        f" {unit} of the baseline's levels ({view.ci}; 0 where one can only gain at the cost of the other). ",
    ]
    if sure.any():
        said.append(
            f"{count(int(sure.sum()), 'point')} {'is' if sure.sum() == 1 else 'are'} healthier in {_all(labels)} with every "
            "interval on the healthy side. "
        )
    said.append(
        f"On the seeds that the points were chosen by, the volume would have looked {number(abs(curse))} "
        f"{'larger' if curse > 0 else 'smaller'} (what the optimiser's curse adds, and what seeds differ by)."
    )
    return said


def _unit(index: NDArray[np.int64]) -> float:
    """Turns a volume of shares, times 10,000, into one of per cent."""
    return 100.0 ** (2 - len(index))


def _all(labels: Sequence[str]) -> str:
    return f"both {labels[0]} and {labels[1]}" if len(labels) == 2 else f"all {len(labels)} objectives"


def _points(
    view: View, arrays: Mapping[str, NDArray[Any]], told: Estimate, index: NDArray[np.int64], labels: Sequence[str]
) -> Html:
    rows = []
    for f in np.lexsort(np.asarray(arrays["weights"]).T[::-1])[::-1]:
        cells: list[Any] = [" / ".join(f"{100 * share:.3g}" for share in arrays["weights"][f])]
        for m in range(len(index)):
            mean, low, high = (100.0 * float(getattr(told, part)[f, m]) for part in ("mean", "low", "high"))
            cells.append(join([percent(mean), " ", interval_words(low, high, in_percent=True)]))
        rows.append([*cells, _standing(arrays, int(f)), _moved(arrays, int(f))])
    columns = [
        Column(f"Weights in % ({', '.join(labels)})"),
        *[Column(f"Change of {label}", numeric=True) for label in labels],
        Column("Standing"),
        Column("Levers moved most", wide=True),
    ]
    caption = (
        f"Platforms of the front: change against the baseline in % of its level ({view.ci}, fresh seeds, sampled model), and the "
        f"{_MOVED} levers that moved most in unconstrained units."
    )
    return table(caption, columns, [(None, rows)])


def _standing(arrays: Mapping[str, NDArray[Any]], f: int) -> Html:
    names = [OBJECTIVES[NAMES[int(i)]].label for i in arrays["kept"]]
    broken = [name for name, low in zip(names, np.atleast_1d(arrays["violation_low"][f]), strict=True) if low > 0]
    if broken:
        return tag("span", f"breaks a constraint: {', '.join(broken)}", class_="worse")
    if not arrays["allowed"][f]:
        return tag("span", "broke a constraint on the seeds to choose by", class_="worse")
    return (
        tag("span", "stands out", class_="better") if arrays["chosen"][f] else tag("span", "beaten", class_="unclear")
    )


def _moved(arrays: Mapping[str, NDArray[Any]], f: int) -> Html:
    names, units = ([str(each) for each in arrays[name]] for name in ("levers", "units"))
    moved = np.abs(np.asarray(arrays["point_levers"][f]) - np.asarray(arrays["start_levers"]))
    most = [int(p) for p in np.argsort(-moved)[:_MOVED] if moved[p] > 0]
    words = [
        f"{names[p]} {number(float(arrays['default'][p]))} → {number(float(arrays['meaningful'][f, p]))}"
        f"{f' {units[p]}' if units[p] else ''}"
        for p in most
    ]
    return join(words, "; ")


def _certificates(view: View, arrays: Mapping[str, NDArray[Any]]) -> list[Any]:
    """Whether anything is left that would help all objectives at once, in words."""
    rows = []
    for place, words in _PLACES.items():
        if f"certificate_squared_{place}" not in arrays:
            continue
        squared, low, high = (float(arrays[f"certificate_{part}_{place}"]) for part in ("squared", "low", "high"))
        at = [OBJECTIVES[NAMES[int(i)]].label for i in arrays[f"certificate_objectives_{place}"]]
        if not math.isfinite(squared):
            rows.append([words, join(at, ", "), MISSING, "derivatives explode there, so there is no slope to judge"])
            continue
        ends = [100.0 * math.sqrt(max(end, 0.0)) for end in (squared, low, high)]
        reading = "a direction that helps all of them is left" if low > 0 else "no such direction is resolved"
        rows.append(
            [words, join(at, ", "), f"{number(ends[0])} % ({between(ends[1], ends[2], signed=False)})", reading]
        )
    columns = [Column("Where"), Column("Of"), Column(f"Slope ({view.ci})", numeric=True), Column("Reading", wide=True)]
    text = (
        "A point is Pareto-stationary where no small move of the levers helps all objectives at once. The steepest direction that "
        "helps all of them alike is the shortest mix of their gradients; its length says by how much each would at least improve "
        "for one unconstrained unit. Constraints that bind count as objectives. Gradients are those of the expected mode, and "
        "products are taken between different seeds only, so that noise does not look like a slope."
    )
    caption = "Common descent direction: fall of every objective in % of the baseline's level per unconstrained unit."
    return [
        tag("h3", "Is there anything left that helps all?"),
        tag("p", text),
        table(caption, columns, [(None, rows)]),
    ]


def _notes(arrays: Mapping[str, NDArray[Any]]) -> Html:
    closed = np.flatnonzero(np.any(np.asarray(arrays["shares"]) == 0, axis=0))
    if len(closed) == 0:
        return Html("")
    blocks = series([str(arrays["blocks"][b]) for b in closed])
    return tag(
        "p",
        "Derivatives did not pass through ",
        blocks,
        " at some points: they were closed, or exploded there.",
        class_="note",
    )
