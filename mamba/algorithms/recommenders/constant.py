"""`constant`: bring your own ranker.

The score is a fixed function of what a platform can observe, times the lever `strength`; it does not learn. It can offer
random live items, the plainest supply from outside of a user's own ties. A configuration can only name one of `SCORES`; from
Python any function goes:

    def short_and_sweet(view, candidates):
        return candidates.items.glitter - candidates.age / 24.0  # [C, U], log-odds of being ranked first

    mine = constant.make(constant.Config(strength=2.0), score=short_and_sweet)
    ecosystem.make({"mine": mine}, sizes=sizes)

The function must be traceable by jax. `candidates` belong to a block of users: gather per-user columns of the view with
`candidates.users`, per-item ones with `candidates.ids`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp

from mamba.algorithms import pool
from mamba.algorithms.base import Act, Algorithm, Rank, levers_from, real
from mamba.fields import setting
from mamba.types import Array, Candidates, Learned, View

Score = Callable[[View, Candidates], Array]

SCORES: dict[str, Score] = {
    "freshness": lambda view, candidates: -candidates.age / 24.0,
    "popularity": lambda view, candidates: jnp.log1p(candidates.items.popularity),
    "zero": lambda view, candidates: jnp.zeros_like(candidates.age),
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the constant recommender."""

    score: str = setting("freshness", "fixed score that items are ranked by", choices=tuple(SCORES))
    strength: float = setting(1.0, "log-odds per unit of the score", unit="logits")
    proposals: int = setting(0, "random live items offered to each user", unit="items", ge=0, le=64)


def make(config: Config, score: Score | None = None) -> Algorithm:
    """Builds the algorithm; lever `strength`.

    Args:
        config: settings.
        score: `(view, candidates) -> [C, U]`; None takes the one that the configuration names.

    Raises:
        ValueError: the configuration names none of `SCORES`.
    """
    if score is None and config.score not in SCORES:
        raise ValueError(f"score = {config.score!r} is none of {', '.join(SCORES)}")
    function = SCORES[config.score] if score is None else score
    bounds = {"strength": real("logits")}

    def act(levers: dict[str, Array], learned: Learned, view: View, key: Array) -> Act:
        del levers, learned
        return Act(propose=pool.explore(view, key, config.proposals))

    def rank(levers: dict[str, Array], learned: Learned, view: View, candidates: Candidates, key: Array) -> Rank:
        del learned, key
        return Rank(score=levers["strength"] * function(view, candidates))

    return Algorithm("constant", levers_from({"strength": config.strength}, bounds), bounds, act=act, rank=rank)
