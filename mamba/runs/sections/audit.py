"""The section on the gradient audit: where the gradient of the relaxation can be trusted, and where nobody can tell."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mamba.runs import folder
from mamba.runs.markup import MISSING, Column, Html, count, join, number, series, table, tag
from mamba.runs.pictures import training as pictures
from mamba.runs.sections.shared import Figures, View, value_of
from mamba.runs.sections.training import levers_of


def audit_section(view: View, drawn: Figures) -> Html:
    """Audits, what they say and where they cannot say it; empty without an audit."""
    rows = [row for row in view.training if row.get("meta/audited") == 1]
    if not rows:
        return Html("")
    names = [name[len("audit/") : -len("/sampled")] for name in rows[-1] if re.fullmatch(r"audit/.+/sampled", name)]
    ordered = [each.name for each in levers_of(view) if each.name in names]
    names = [*ordered, *[name for name in names if name not in ordered]]
    audits = [[_audited(row, name) for name in names] for row in rows]
    weight = np.array([[value_of(row, f"audit/{name}/weight") for row in rows] for name in names])
    steps = [int(row["meta_step"]) for row in rows]
    last = audits[-1]
    columns = [
        Column("Lever"),
        Column("Pathwise", numeric=True),
        Column("Sampled ± 1 s.e.", numeric=True),
        Column("Weight of pathwise", numeric=True),
        Column("Reading"),
    ]
    body = [
        [
            each.name,
            number(each.pathwise, signed=True),
            f"{number(each.sampled, signed=True)} ± {number(each.error)}",
            share_words(weight[at, -1]),
            _reading_of(each),
        ]
        for at, each in enumerate(last)
    ]
    cosines = folder.column(view.training, "meta/cosine")
    where = folder.column(view.training, "meta_step")
    history = table(
        "Every audit: cosine of the whole gradient, levers where the two differ by more than 2 standard errors, "
        "levers whose sampled derivative is within 2 standard errors of 0, and median weight of the pathwise part.",
        [
            Column("Meta-step"),
            Column("Cosine", numeric=True),
            Column("Differ", numeric=True),
            Column("Too noisy for a sign", numeric=True),
            Column("Median weight", numeric=True),
        ],
        [
            (
                None,
                [
                    [
                        step,
                        number(value_of(row, "meta/cosine"), signed=True),
                        f"{sum(each.apart for each in some)} of {len(some)}",
                        f"{sum(not _resolved(each) for each in some)} of {len(some)}",
                        share_words(_median(weight[:, at])),
                    ]
                    for at, (step, row, some) in enumerate(zip(steps, rows, audits, strict=True))
                ],
            )
        ],
    )
    parts = [
        tag(
            "p",
            "The gradient that trains the levers runs through a smooth mean-field model (pathwise). An audit "
            "measures the same derivative without differentiating: it perturbs the levers and runs the sampled "
            "model (antithetic evolution strategies with common random numbers). Where the two disagree, training "
            "leans on the audit.",
        ),
        tag("p", _audit_verdict(steps[-1], last, rows[-1]), class_="lead"),
        tag(
            "div",
            drawn.add(
                [pictures.audit(last)],
                title=f"Last audit, meta-step {steps[-1]}",
                about="Dot plot of pathwise and sampled derivatives of the last audit, lever by lever.",
                caption=(
                    "Bars: ± 2 standard errors of the sampled estimate. ≠ in bold: the two differ by more than that."
                ),
            ),
            drawn.add(
                [pictures.weights(names, steps, weight)],
                title="Weight of the pathwise part",
                about="Heat map of the weight of the pathwise gradient, lever by audit.",
                caption="In the gradient that was used: 1 trusts the relaxation, 0 trusts the audit.",
            ),
            class_="columns",
        ),
        table(
            f"Last audit, meta-step {steps[-1]}: derivatives of the training goal by unconstrained lever. s.e.: "
            "standard error.",
            columns,
            [(None, body)],
        ),
        tag(
            "div",
            drawn.add(
                [
                    pictures.curves(
                        [
                            pictures.Curve(
                                "cosine", where, cosines, marked=folder.column(view.training, "meta/audited") == 1
                            )
                        ],
                        y="cosine",
                        height=260,
                        span=[-1.05, 1.05],
                    )
                ],
                title="Agreement of the two gradients over training",
                about="Cosine between pathwise and audited gradient over meta-steps.",
                caption=(
                    "Cosine: 1 same direction, 0 unrelated, −1 opposite. Diamonds: new audits; in between, the "
                    "last audit is compared with the gradient of the moment."
                ),
            ),
            history,
            class_="columns",
        ),
        tag(
            "p",
            "The standard error is that of the sampled estimate; the spread of the pathwise gradient over its own "
            "seeds is not recorded, so a difference may be a little less certain than it looks.",
            class_="note",
        ),
    ]
    return join(parts)


def share_words(value: float) -> str:
    """A share of 1 with two decimals."""
    return f"{value:.2f}" if math.isfinite(value) else MISSING


def _median(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else math.nan


def _audited(row: Mapping[str, Any], name: str) -> pictures.Audited:
    pathwise, sampled, error = (value_of(row, f"audit/{name}/{part}") for part in ("pathwise", "sampled", "error"))
    return pictures.Audited(name, pathwise, sampled, error, abs(pathwise - sampled) > 2 * error)  # NaN is never apart


def _resolved(each: pictures.Audited) -> bool:
    return abs(each.sampled) > 2 * each.error


def _reading_of(each: pictures.Audited) -> Html:
    if not all(math.isfinite(value) for value in (each.pathwise, each.sampled, each.error)):
        return tag("span", "not finite", class_="worse")
    if not _resolved(each):
        return tag(
            "span", "audit too noisy for the sign" + (", yet they differ" if each.apart else ""), class_="unclear"
        )
    if each.pathwise * each.sampled < 0:
        return tag("span", "opposite sign", class_="worse")
    return (
        tag("span", "same sign, size differs", class_="worse") if each.apart else tag("span", "agree", class_="better")
    )


def _audit_verdict(step: int, last: Sequence[pictures.Audited], row: Mapping[str, Any]) -> Html:
    """What the last audit says, and where it cannot say it."""
    apart = [each.name for each in last if each.apart]
    noisy = [each.name for each in last if not _resolved(each)]
    clear = [each for each in last if _resolved(each)]
    same = sum(each.pathwise * each.sampled > 0 for each in clear)
    said: list[Any] = [
        f"In the last audit (meta-step {step}) the two estimates differ by more than 2 standard errors in "
        f"{len(apart)} of {count(len(last), 'lever')}"
    ]
    said.append(join([" (", series(apart), ")."]) if apart else ".")
    if noisy:
        said.append(
            f" For {len(noisy)} of {len(last)} the audit is itself too noisy to tell the sign (within 2 standard "
            "errors of 0), so there it neither confirms nor contradicts."
        )
    if clear:
        said.append(f" Of the {count(len(clear), 'lever')} it can tell, the sign agrees in {same}.")
    cosine = value_of(row, "meta/cosine")
    if math.isfinite(cosine):
        said.append(f" Cosine of the whole gradient: {number(cosine, signed=True)}.")
    return join(said)
