"""`demotion`: ranks down what looks harmful, without removing it.

Score: -(toxicity * toxicity signal + falsity * falsity signal), in log-odds. It does not learn.
"""

from __future__ import annotations

from dataclasses import dataclass

from mamba.algorithms.base import Algorithm, Rank, levers_from, positive
from mamba.fields import setting
from mamba.types import Array, Candidates, Learned, View


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the demotion moderator."""

    toxicity: float = setting(1.5, "log-odds lost by an item of full toxicity signal", unit="logits", gt=0)
    falsity: float = setting(1.5, "log-odds lost by an item of full falsity signal", unit="logits", gt=0)


def make(config: Config) -> Algorithm:
    """Builds the algorithm; levers `toxicity` and `falsity` in log-odds."""
    bounds = {"toxicity": positive("logits"), "falsity": positive("logits")}

    def rank(levers: dict[str, Array], learned: Learned, view: View, candidates: Candidates, key: Array) -> Rank:
        del learned, view, key
        items = candidates.items
        return Rank(score=-levers["toxicity"] * items.toxicity_signal - levers["falsity"] * items.falsity_signal)

    levers = levers_from({"toxicity": config.toxicity, "falsity": config.falsity}, bounds)
    return Algorithm("demotion", levers, bounds, rank=rank)
