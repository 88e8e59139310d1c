"""The interaction analysis of a run, made again from the values that were measured, so that sections share one set of numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np

from mamba.interactions import factorial, findings
from mamba.interactions.settings import InteractionsConfig
from mamba.interactions.statistics import Estimate, selected
from mamba.interactions.verdicts import CODES
from mamba.objectives import NAMES
from mamba.runs import folder
from mamba.runs.errors import UserError

ARRAYS = ("names", "objectives", "values", "windows", "learning_pairs", "learning_values")
_NOTHING = 1e-9


class Pair(NamedTuple):
    """Two algorithms on one objective.

    Attributes:
        i: index of one.
        j: index of the other, above i.
        k: number of the objective.
        size: interaction in spreads, the sign as in the objective.
    """

    i: int
    j: int
    k: int
    size: float


class Analysed(NamedTuple):
    """An analysis with what it was made of.

    Attributes:
        analysis: of the value table.
        config: what it was made with.
        level: [J] mean with everything on.
        alone: estimates [A, A, J] of the effect of i while j is off, in the objective's direction, with intervals that allow for
            the pair's having been picked.
        given: the same while j is on.
        interaction: the same of the interaction, estimates [A, A, J].
        told: resolved pairs that are not negligible, the most prominent first.
        learning_pairs: [K, 2] pairs that were run at three levels, (i, j).
        learning_values: [K, S, 9, J].
        windows: [S, R, W, J] values by window, W may be 0.
        digest: of the configuration that was measured; empty where it was not kept.
    """

    analysis: factorial.Analysis
    config: InteractionsConfig
    level: np.ndarray
    alone: Estimate
    given: Estimate
    interaction: Estimate
    told: tuple[Pair, ...]
    learning_pairs: np.ndarray
    learning_values: np.ndarray
    windows: np.ndarray
    digest: str

    @property
    def names(self) -> tuple[str, ...]:
        """A names."""
        return self.analysis.names

    @property
    def tests(self) -> int:
        """Pairs times objectives that were tested: those with values that are finite in every seed."""
        return int(np.isfinite(self.analysis.verdicts.p).sum()) // 2

    @property
    def confirmed(self) -> int:
        """Tests that were passed."""
        return int(self.analysis.confirmed.sum()) // 2

    @property
    def seeds(self) -> int:
        """S."""
        return len(self.analysis.values)


def analysed(run: folder.Run) -> Analysed | None:
    """The analysis of a run; None where interactions were not measured.

    Raises:
        UserError: arrays are missing, or are of other objectives than this version measures.
    """
    arrays = run.interactions
    if arrays is None:
        return None
    path = run.path / folder.INTERACTIONS
    if missing := [name for name in ARRAYS if name not in arrays]:
        raise UserError(f"{path}: lacks {', '.join(missing)}; remove it and run again")
    if arrays["objectives"].tolist() != list(NAMES):
        raise UserError(f"{path}: holds other objectives than this version of mamba measures; remove it and run again")
    config = _config(run.config.get("interactions") or {})
    windows = arrays["windows"]
    try:
        analysis = factorial.analyse(
            [str(name) for name in arrays["names"]],
            arrays["values"],
            config=config,
            windows=windows if windows.ndim == 4 and windows.shape[2] else None,
        )
    except ValueError as error:
        raise UserError(f"{path}: {error}; remove it and run again") from error
    judged, seeds = analysis.verdicts, len(arrays["values"])
    tests, confirmed = int(np.isfinite(judged.p).sum()) // 2, int(analysis.confirmed.sum()) // 2
    picked = {"chosen": confirmed, "among": tests, "confidence": config.confidence}
    alone, given = (_directed(selected(each, seeds, **picked)) for each in (judged.alone, judged.given))
    return Analysed(
        analysis=analysis,
        config=config,
        level=np.asarray(arrays["values"][:, -1], np.float64).mean(axis=0),
        alone=alone,
        given=given,
        interaction=_directed(judged.picked),
        told=_told(analysis),
        learning_pairs=arrays["learning_pairs"],
        learning_values=arrays["learning_values"],
        windows=windows,
        digest=str(arrays.get("digest", "")),
    )


def sentences(of: Analysed) -> list[findings.Finding]:
    """One sentence for each confirmed pair, the strongest first."""
    learning = (of.learning_pairs, of.learning_values) if len(of.learning_pairs) else None
    return findings.pairs(of.analysis, config=of.config, learning=learning)


def strongest(of: Analysed) -> list[Pair]:
    """Each resolved pair once, on the objective where it is strongest; the strongest pair first."""
    found: dict[tuple[int, int], Pair] = {}
    for pair in of.told:
        found.setdefault((pair.i, pair.j), pair)
    return list(found.values())


def _config(told: Mapping[str, Any]) -> InteractionsConfig:
    """Settings a run was made with; one that this version does not know is left out."""
    known = {field.name for field in fields(InteractionsConfig)}
    return InteractionsConfig(**{name: value for name, value in told.items() if name in known})


def _directed(benefit: Estimate) -> Estimate:
    """A benefit [..., J] as a change of the objective."""
    better = factorial.better_signs()
    low, high = better * benefit.low, better * benefit.high
    return Estimate(better * benefit.mean, benefit.error, np.minimum(low, high), np.maximum(low, high), benefit.p)


def _told(analysis: factorial.Analysis) -> tuple[Pair, ...]:
    change = _directed(analysis.verdicts.interaction).mean
    shown = analysis.confirmed & (analysis.verdicts.codes != CODES["none"])
    found = []
    for i, j, k in zip(*np.nonzero(shown), strict=True):
        spread = float(analysis.spread[k])
        if i < j and math.isfinite(spread) and spread > _NOTHING:
            found.append(Pair(int(i), int(j), int(k), float(change[i, j, k]) / spread))
    front = findings.prominence(analysis)
    return tuple(sorted(found, key=lambda pair: -front[pair.i, pair.j, pair.k]))
