"""Players: each algorithm's team, the metric it is paid for, and the levers it turns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from mamba import ecosystem as eco
from mamba.meta.systems import outcome_names
from mamba.meta.vector import NOBODY
from mamba.objectives import NAMES, OBJECTIVES


class Own(NamedTuple):
    """Each algorithm's own metric among the outcomes.

    Attributes:
        row: [A] index of the outcome.
        sign: [A] +1 where less of it is what the algorithm wants, -1 where more is.
    """

    row: np.ndarray
    sign: np.ndarray


def own_metrics(ecosystem: eco.Ecosystem, own: Mapping[str, str] | None = None) -> Own:
    """The own metrics: an algorithm's own loss, unless an objective stands in for it.

    Args:
        ecosystem: static description.
        own: algorithm -> objective that its team is measured by. Many kinds have no own loss, and the loss of a
            predictor (how well it predicts clicks) is not what its team is paid for.

    Raises:
        ValueError: an unknown algorithm or objective.
    """
    given = dict(own or {})
    for name, objective in given.items():
        if name not in ecosystem.names:
            raise ValueError(f"own: no algorithm is called '{name}'. Known: {', '.join(ecosystem.names)}")
        if objective not in OBJECTIVES:
            raise ValueError(f"own: {name}: no objective is called '{objective}'. Known: {', '.join(NAMES)}")
    rows = outcome_names(ecosystem)
    row = [rows.index(given.get(name, f"loss/{name}")) for name in ecosystem.names]
    more = [name in given and OBJECTIVES[given[name]].better == "higher" for name in ecosystem.names]
    return Own(np.array(row, np.int64), np.where(more, -1.0, 1.0))


def loss_weights(own: Own, value: np.ndarray) -> np.ndarray:
    """Each algorithm's own loss as weights of the outcomes, relative to its level: L_i / |L_i|, so that blocks compare.

    Args:
        own: own metrics.
        value: [S, J + A] outcomes where the game is looked at.

    Returns:
        [A, J + A]; a row of zeros where an algorithm has no own metric.
    """
    level = np.abs(np.asarray(value, np.float64).mean(axis=0))[own.row]
    weights = np.zeros((len(own.row), value.shape[1]))
    weights[np.arange(len(own.row)), own.row] = np.where(level > 1e-9, own.sign / np.maximum(level, 1e-9), 0.0)
    return weights


def players_of(owner: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Player of each lever [P]: its algorithm, or `NOBODY` where that has no own loss (a row of zero weights), or there is none."""
    plays = np.any(weights != 0, axis=1)
    return np.where((owner != NOBODY) & plays[owner], owner, NOBODY)
