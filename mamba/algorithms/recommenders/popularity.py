"""`popularity`: what is trending is proposed to everybody and ranked up.

Trend of an item: its running clicks. Items are proposed by a draw in proportion to (trend + 1/10) ** concentration, so
that success breeds success (rich get richer) and a new item still has a chance. Score: strength * log(1 + trend).

References:
    Salganik, Dodds and Watts 2006 (cumulative advantage); Simon 1955; Barabasi and Albert 1999 (proportional
    attachment).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from mamba.algorithms import pool
from mamba.algorithms.base import Act, Algorithm, Rank, levers_from, positive
from mamba.fields import setting
from mamba.streams import uniforms
from mamba.types import Array, Candidates, Learned, View

_FRESH = 0.1  # trend of an item that nobody has clicked yet


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the popularity recommender."""

    strength: float = setting(0.5, "log-odds per unit of log trend", unit="logits", gt=0)
    concentration: float = setting(1.0, "exponent of the trend in the draw of proposals", gt=0, le=4)
    proposals: int = setting(2, "trending items offered to each user", unit="items", ge=0, le=64)


def make(config: Config) -> Algorithm:
    """Builds the algorithm; lever `strength` in log-odds."""
    bounds = {"strength": positive("logits")}

    def act(levers: dict[str, Array], learned: Learned, view: View, key: Array) -> Act:
        del levers, learned
        if config.proposals == 0:
            return Act()
        mass = view.items.alive * (view.items.popularity + _FRESH) ** config.concentration
        ids = pool.draw(mass, uniforms(key, (config.proposals, view.followers.shape[0])))
        return Act(propose=pool.propose(view, ids, mass))

    def rank(levers: dict[str, Array], learned: Learned, view: View, candidates: Candidates, key: Array) -> Rank:
        del learned, view, key
        return Rank(score=levers["strength"] * jnp.log1p(candidates.items.popularity))

    return Algorithm("popularity", levers_from({"strength": config.strength}, bounds), bounds, act=act, rank=rank)
