"""`stated_preference`: ranks by what users say they value, not by what they click.

A few users are asked what an item they looked at was worth to them. A logistic head predicts the answer from logged
features and from the platform's harm signals; the score is

    S = sharpness * p_rating + engagement * p_click,

with `engagement` the part, 0 by default, that a platform keeps of its ranking by clicks (a second head). Own loss:
cross-entropy of the predicted answers on the items that users were asked about in this step.

References:
    Milli et al. 2023 (engagement, user satisfaction, and the amplification of divisive content).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp

from mamba.algorithms import features, logistic
from mamba.algorithms.base import Algorithm, Rank, between, levers_from, real
from mamba.fields import setting
from mamba.types import Array, Candidates, Learned, Log, View


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the stated-preference recommender."""

    sharpness: float = setting(6.0, "log-odds per unit of predicted rating", unit="logits", gt=0, lt=20)
    engagement: float = setting(0.0, "log-odds per unit of predicted click", unit="logits")
    learning_rate: float = setting(0.02, "step size of the online learner", gt=0, le=0.5)


class State(NamedTuple):
    """Learned state: one learner for answers, one for clicks."""

    rating: logistic.Logistic
    click: logistic.Logistic


def ranking_and_harm(candidates: Candidates) -> list[Array]:
    """Nine planes [C, U]: those of other rankers, then both harm signals."""
    items = candidates.items
    return [*features.ranking(candidates), items.toxicity_signal - 0.5, items.falsity_signal - 0.5]


def make(config: Config) -> Algorithm:
    """Builds the algorithm; levers `sharpness` and `engagement`."""
    bounds = {"sharpness": between(0.0, 20.0, "logits"), "engagement": real("logits")}
    rate = config.learning_rate

    def init(key: Array, view: View) -> Learned:
        del key, view
        return State(*(logistic.start(9, heads=1, bias=bias, learning_rate=rate) for bias in (0.0, -1.0)))

    def rank(levers: dict[str, Array], learned: Learned, view: View, candidates: Candidates, key: Array) -> Rank:
        del view, key
        planes = ranking_and_harm(candidates)
        rating, click = logistic.predict(learned.rating, planes)[0], logistic.predict(learned.click, planes)[0]
        return Rank(score=levers["sharpness"] * rating + levers["engagement"] * click)

    def learn(levers: dict[str, Array], learned: Learned, view: View, log: Log, key: Array) -> tuple[Learned, Array]:
        del levers, view, key
        planes = ranking_and_harm(log.candidates)
        answer = log.rating / jnp.maximum(log.asked, 1e-6)
        rating, loss = logistic.update(learned.rating, planes, [answer], log.asked, learning_rate=rate)
        clicked = log.clicked / jnp.maximum(log.examined, 1e-6)
        click, _ = logistic.update(learned.click, planes, [clicked], log.examined, learning_rate=rate)
        return State(rating, click), loss

    levers = levers_from({name: getattr(config, name) for name in bounds}, bounds)
    return Algorithm("stated_preference", levers, bounds, init, rank=rank, learn=learn)
