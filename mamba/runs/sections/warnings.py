"""Early warnings: what the platform's own logs announce while a lever drifts, and how often they cry wolf."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from mamba.interactions.statistics import holm
from mamba.runs import emergence
from mamba.runs.markup import Column, Html, count, join, number, p_value, percent, series, table, tag
from mamba.runs.sections.shared import Figures, View, interval_words, required

LEVEL = 0.05  # a p-value at most this warns
_NEEDED = (
    *("warning_tau", "warning_p", "warning_combined", "warning_false_positives"),
    *("warning_naive_false_positives", "warning_tried", "scan_axis"),
)


def warnings_section(view: View, _drawn: Figures) -> Html:
    """Early warnings on the way up; empty where none were looked for.

    Raises:
        UserError: the file lacks arrays.
    """
    arrays = view.emergence
    if arrays is None or "warning_series" not in arrays:
        return Html("")
    required(view.run.path / emergence.FILE, arrays, _NEEDED)
    names = [str(name).replace("_", " ") for name in arrays["warning_series"]]
    combined = np.asarray(arrays["warning_combined"], np.float64)  # [K, S]
    hits = (combined <= LEVEL).sum(axis=1)
    tried = np.asarray(arrays["warning_tried"], np.int64)
    wolf = np.rint(np.asarray(arrays["warning_false_positives"], np.float64)[:, 2] * tried).astype(np.int64)
    # Drifting runs are ranked among all runs at rest, those at rest among half of them: both warn at one level.
    p = np.array(
        [
            stats.fisher_exact([[hit, combined.shape[1] - hit], [false, many - false]], alternative="greater").pvalue
            for hit, false, many in zip(hits, wolf, tried, strict=True)
        ]
    )
    told = holm(p, LEVEL)
    lever = str(arrays["scan_axis"]).removeprefix("levers/").removeprefix("world/")
    announced = [name for name, on in zip(names, told, strict=True) if on]
    if announced:
        verdict = join(
            [
                f"While {lever} drifts upwards, ",
                series(announced),
                " warns more often than at rest: autocorrelation or variance rises.",
            ]
        )
    else:
        verdict = join(
            [
                f"While {lever} drifts upwards, no series warns surely more often than the same platform at rest (",
                series(names),
                ").",
            ]
        )
    tipped = bool(np.asarray(arrays.get("scan_flagged", False)).any())
    meaning = (
        "The scan found hysteresis, so that there is something to announce."
        if tipped
        else "The scan found no hysteresis: a warning here would announce nothing that the scan can see."
    )
    rows = [_row(arrays, k, name, (hits, wolf, tried), p) for k, name in enumerate(names)]
    # Headings in two lines keep the table within a screen.
    titles = (
        ("Drifting runs", "that warn"),
        ("False alarms", "at rest (95 % CI)"),
        ("More often", "than at rest"),
        ("Median tau", "of autocorrelation"),
        ("Median tau", "of variance"),
        ("Textbook", "false alarms"),
    )
    columns = [Column("Series"), *[Column(join(tag("div", line) for line in lines), numeric=True) for lines in titles]]
    caption = (
        f"Early warnings at the {100 * LEVEL:g} % level from lag-1 autocorrelation or variance (Scheffer et al. 2009): "
        "Kendall's tau in sliding windows, ranked among runs at rest. More often: Fisher's exact test, Holm over the series."
    )
    return join(
        [
            tag("h3", "What the platform's own logs announce"),
            tag("p", verdict, " ", meaning),
            table(caption, columns, [(None, rows)]),
            tag(
                "p",
                "The textbook p-value of tau takes overlapping windows for independent ones: the last column counts its false "
                "alarms, of autocorrelation and of variance.",
                class_="note",
            ),
        ]
    )


def _row(
    arrays: Mapping[str, NDArray[Any]],
    k: int,
    name: str,
    counts: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    p: NDArray[np.float64],
) -> list[Any]:
    hits, wolf, tried = (int(each[k]) for each in counts)
    interval = stats.binomtest(wolf, tried).proportion_ci(0.95)
    false = join(
        [
            f"{percent(100 * wolf / tried, signed=False)} of {count(tried, 'run')} ",
            interval_words(100 * interval.low, 100 * interval.high, in_percent=True, signed=False),
        ]
    )
    tau = np.asarray(arrays["warning_tau"], np.float64)[k]  # [S, 2]
    naive = np.asarray(arrays["warning_naive_false_positives"], np.float64)[k]  # [2]
    textbook = " and ".join(percent(100 * float(each), signed=False) for each in naive)
    medians = [number(float(np.median(tau[:, at])), signed=True) for at in range(2)]
    return [name, f"{hits} of {len(tau)}", false, p_value(float(p[k])), *medians, textbook]
