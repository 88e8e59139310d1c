"""`labels`: warns on items that look false, and leaves them where they are.

An item carries a label with weight sigma((falsity signal - threshold) / width); a labelled item is reshared less,

    friction = 1 - strength * label,

is ranked as before, and an item without a label is not touched. The default strength is the mean effect on sharing of
the studies that were reviewed. Levers `threshold` and `strength`. It does not learn.

References:
    Martel and Rand 2023 (review of warning labels); Martel and Rand 2024 (mean effect: a quarter fewer shares of false
    headlines).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax

from mamba.algorithms.base import Algorithm, Rank, between, levers_from
from mamba.fields import setting
from mamba.types import Array, Candidates, Learned, View


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of warning labels."""

    threshold: float = setting(0.6, "falsity signal above which an item is labelled", unit="0 to 1", gt=0, lt=1)
    strength: float = setting(0.25, "share of reshares that a label prevents", unit="0 to 1", gt=0, lt=1)
    width: float = setting(0.02, "softness of the threshold on the falsity signal", unit="0 to 1", gt=0, le=1)


def make(config: Config) -> Algorithm:
    """Builds the moderator; levers `threshold` and `strength`."""
    bounds = {"threshold": between(0.0, 1.0, "falsity signal"), "strength": between(0.0, 1.0, "probability")}

    def rank(levers: dict[str, Array], learned: Learned, view: View, candidates: Candidates, key: Array) -> Rank:
        del learned, view, key
        label = jax.nn.sigmoid((candidates.items.falsity_signal - levers["threshold"]) / config.width)
        return Rank(friction=1.0 - levers["strength"] * label)

    levers = levers_from({"threshold": config.threshold, "strength": config.strength}, bounds)
    return Algorithm("labels", levers, bounds, rank=rank)
