"""`diversity`: calibrated re-ranking as a score term.

A calibrated list shows topics in the proportions of the user's interests, p; what the user saw lately has the mix q. The
miscalibration of Steck (2018) is KL(p || q') with q' = (1 - smoothing) q + smoothing p, and his greedy re-ranking adds the
item that lowers it most. The score is this first-order gain of an item with topic mix x,

    S = strength * sum_d p_d / q'_d (x_d - q_d),   p = (1 - breadth) interest + breadth / D,

so that neglected topics rise until the exposed mix is the wanted one. `breadth` moves the goal from the user's own
interests (calibration) to all topics alike (diversity). It does not learn: `View.seen` is its memory.

References:
    Steck 2018 (calibrated recommendations).
"""

from __future__ import annotations

from dataclasses import dataclass

from mamba.algorithms.base import Algorithm, Rank, between, levers_from, real
from mamba.fields import setting
from mamba.sums import total
from mamba.types import Array, Candidates, Learned, View


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the diversity recommender."""

    strength: float = setting(4.0, "log-odds per unit of miscalibration that an item removes", unit="logits")
    breadth: float = setting(
        0.2, "share of a user's wanted mix of topics that is spread over all topics", unit="0 to 1", gt=0, lt=1
    )
    smoothing: float = setting(
        0.1, "share of a user's wanted mix of topics that is mixed into what they saw", unit="0 to 1", gt=0, lt=1
    )


def make(config: Config) -> Algorithm:
    """Builds the algorithm; levers `strength` and `breadth`."""
    bounds = {"strength": real("logits"), "breadth": between(0.0, 1.0, "share")}

    def rank(levers: dict[str, Array], learned: Learned, view: View, candidates: Candidates, key: Array) -> Rank:
        del learned, key
        seen = view.seen[:, candidates.users]
        goal = candidates.interest + levers["breadth"] * (1.0 / seen.shape[0] - candidates.interest)
        pull = goal / ((1.0 - config.smoothing) * seen + config.smoothing * goal)
        gain = total(pull[:, None] * (candidates.items.topics - seen[:, None]), axis=0)
        return Rank(score=levers["strength"] * gain)

    levers = levers_from({name: getattr(config, name) for name in bounds}, bounds)
    return Algorithm("diversity", levers, bounds, rank=rank)
