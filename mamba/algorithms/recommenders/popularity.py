"""`popularity`: what is trending is proposed to everybody and ranked up.

Trend of an item: log(1 + running clicks), as seen when items were last counted. Score: strength * trend. The `pool` most
popular live items are proposed, a few to each user at random, so that everybody draws from the same short list
(rich get richer; Salganik, Dodds and Watts 2006).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from mamba.algorithms.base import Act, Algorithm, Proposal, Rank, levers_from, positive
from mamba.algorithms.pool import certain
from mamba.fields import setting
from mamba.streams import uniforms
from mamba.types import Array, Candidates, Learned, View


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the popularity recommender."""

    strength: float = setting(0.5, "log-odds per unit of trend", unit="logits", gt=0)
    proposals: int = setting(2, "trending items offered to each user", unit="items", ge=0, le=64)
    pool: int = setting(32, "length of the trending list", unit="items", ge=1, le=4096)


def make(config: Config) -> Algorithm:
    """Builds the algorithm; lever `strength` in log-odds."""
    bounds = {"strength": positive("logits")}

    def act(levers: dict[str, Array], learned: Learned, view: View, key: Array) -> Act:
        del levers, learned
        if config.proposals == 0:
            return Act()
        # Which items trend is an identity, hence hard in every mode.
        trend = jax.lax.stop_gradient(view.items.popularity * view.items.alive)
        _, top = jax.lax.top_k(trend, min(config.pool, trend.shape[0]))
        draw = uniforms(key, (config.proposals, view.followers.shape[0]))
        ids = top[jnp.floor(draw * top.shape[0]).astype(jnp.int32)]
        return Act(propose=Proposal(ids, certain(view, ids)))

    def rank(levers: dict[str, Array], learned: Learned, view: View, candidates: Candidates, key: Array) -> Rank:
        del learned, view, key
        return Rank(score=levers["strength"] * jnp.log1p(candidates.items.popularity))

    return Algorithm("popularity", levers_from({"strength": config.strength}, bounds), bounds, act=act, rank=rank)
