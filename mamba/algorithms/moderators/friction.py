"""`friction`: one more click before anything can be reshared.

A share `strength` of reshares is given up at the extra click, whatever the item: friction = 1 - strength. It needs no
judgement of content, hence cannot err, and slows true and false items alike. Lever `strength`. It does not learn.

References:
    Jahn, Rendsvig, Flammini, Menczer and Hendricks 2023 (friction interventions against misinformation).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from mamba.algorithms.base import Algorithm, Rank, between, levers_from
from mamba.fields import setting
from mamba.types import Array, Candidates, Learned, View


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of sharing friction."""

    strength: float = setting(0.15, "share of reshares given up at the extra click", unit="probability", gt=0, lt=1)


def make(config: Config) -> Algorithm:
    """Builds the moderator; lever `strength`."""
    bounds = {"strength": between(0.0, 1.0, "probability")}

    def rank(levers: dict[str, Array], learned: Learned, view: View, candidates: Candidates, key: Array) -> Rank:
        del learned, view, key
        return Rank(friction=jnp.broadcast_to(1.0 - levers["strength"], candidates.ids.shape))

    return Algorithm("friction", levers_from({"strength": config.strength}, bounds), bounds, rank=rank)
