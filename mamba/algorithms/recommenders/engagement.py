"""`engagement`: a ranker trained on clicks and reshares.

Two logistic heads predict P(click | examined) and P(reshare | examined) from logged features. The score is the weighted
sum of predicted actions that large platforms publish, in log-odds of being ranked first:

    S = sharpness * (weight_click * p_click + weight_reshare * p_reshare) + glitter * g.

Own loss: cross-entropy of both heads on the examined candidates of this step's log.

References:
    The published ranker of a large platform (twitter/the-algorithm-ml, heavy ranker README): weighted predicted
    actions.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from mamba.algorithms import logistic, pool
from mamba.algorithms.base import Act, Algorithm, Rank, between, levers_from, positive, real
from mamba.fields import setting
from mamba.streams import uniforms
from mamba.sums import total
from mamba.types import Array, Candidates, Learned, Log, View


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the engagement recommender."""

    weight_click: float = setting(1.0, "weight of a predicted click", gt=0)
    weight_reshare: float = setting(1.0, "weight of a predicted reshare", gt=0)
    sharpness: float = setting(6.0, "log-odds per unit of weighted predicted action", unit="logits", gt=0, lt=20)
    glitter: float = setting(0.0, "extra log-odds per unit of glitter", unit="logits")
    learning_rate: float = setting(0.02, "step size of the online learner", gt=0, le=0.5)
    proposals: int = setting(2, "random live items offered to each user (exploration)", unit="items", ge=0, le=64)


def features(candidates: Candidates) -> list[Array]:
    """Seven planes [C, U]: constant, interest match, popularity, glitter, freshness, own tie, synthetic label."""
    items = candidates.items
    match = total(items.topics * candidates.interest[:, None], axis=0) * items.topics.shape[0] - 1.0
    constant = jnp.ones_like(match)
    return [
        constant,
        match,
        jnp.log1p(items.popularity),
        items.glitter - 0.5,
        jnp.exp(-candidates.age / 6.0),
        constant * candidates.in_network,
        items.synthetic,
    ]


def make(config: Config) -> Algorithm:
    """Builds the algorithm; levers `weight_click`, `weight_reshare`, `sharpness`, `glitter`."""
    bounds = {
        "weight_click": positive("relative"),
        "weight_reshare": positive("relative"),
        "sharpness": between(0.0, 20.0, "logits"),
        "glitter": real("logits"),
    }
    levers = levers_from({name: getattr(config, name) for name in bounds}, bounds)

    def init(key: Array, view: View) -> Learned:
        del key, view
        return logistic.start(7, heads=2, bias=-1.0, learning_rate=config.learning_rate)

    def act(levers: dict[str, Array], learned: Learned, view: View, key: Array) -> Act:
        del levers, learned
        if config.proposals == 0:
            return Act()
        alive = view.items.alive
        ids = pool.draw(alive, uniforms(key, (config.proposals, view.followers.shape[0])))
        return Act(propose=pool.propose(view, ids, alive))

    def rank(levers: dict[str, Array], learned: Learned, view: View, candidates: Candidates, key: Array) -> Rank:
        del view, key
        predicted = logistic.predict(learned, features(candidates))
        value = levers["weight_click"] * predicted[0] + levers["weight_reshare"] * predicted[1]
        return Rank(score=levers["sharpness"] * value + levers["glitter"] * candidates.items.glitter)

    def learn(levers: dict[str, Array], learned: Learned, view: View, log: Log, key: Array) -> tuple[Learned, Array]:
        del levers, view, key
        # Clicks are logged per impression; the label of a head is the rate of its action among impressions.
        seen = jnp.maximum(log.examined, 1e-6)
        labels = [log.clicked / seen, log.reshared / seen]
        return logistic.update(
            learned, features(log.candidates), labels, log.examined, learning_rate=config.learning_rate
        )

    return Algorithm("engagement", levers, bounds, init, act, rank, learn)
