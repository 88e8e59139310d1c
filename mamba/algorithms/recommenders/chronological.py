"""`chronological`: newest first. The reference against which platforms are usually compared.

Score: -ln 2 / half_life * age, so an item loses one bit of log-odds a half-life.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from mamba.algorithms.base import Algorithm, Rank, levers_from, positive
from mamba.fields import setting
from mamba.types import Array, Candidates, Learned, View


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the chronological recommender."""

    half_life: float = setting(2.0, "age at which an item has lost a factor two of its odds", unit="steps", gt=0)


def make(config: Config) -> Algorithm:
    """Builds the algorithm; lever `half_life` in steps."""
    bounds = {"half_life": positive("steps")}

    def rank(levers: dict[str, Array], learned: Learned, view: View, candidates: Candidates, key: Array) -> Rank:
        del learned, view, key
        return Rank(score=-jnp.log(2.0) / levers["half_life"] * candidates.age)

    return Algorithm("chronological", levers_from({"half_life": config.half_life}, bounds), bounds, rank=rank)
