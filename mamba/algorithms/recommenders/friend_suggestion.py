"""`friend_suggestion`: accounts you may want to follow (link port).

The score of account v for user u, where the world offers v as a suggestion, is

    S = similarity * (a + b m_uv) + popularity * log(1 + followers_v),   m_uv = D <interest_u, interest_v> - 1,

m the match of both accounts' logged interests. a + b m is a logistic model's log-odds that u engages with v; it is
trained on whom people engaged with in this step against accounts drawn at random. Levers `similarity` and `popularity`.
Own loss: cross-entropy of that prediction.

References:
    Liben-Nowell and Kleinberg 2007 (link prediction); Su, Sharma and Goel 2016 (who-to-follow and popularity);
    Santos, Lelkes and Levin 2021 (link recommendation and polarisation).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from mamba.algorithms import logistic
from mamba.algorithms.base import Act, Algorithm, levers_from, positive
from mamba.fields import setting
from mamba.streams import uniforms
from mamba.sums import total
from mamba.types import Array, Learned, Log, View

_NEGATIVES = 4  # random accounts for each one that a user engaged with


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of friend suggestion."""

    similarity: float = setting(1.0, "weight of the predicted log-odds to engage", unit="relative", gt=0)
    popularity: float = setting(0.3, "log-odds per unit of log followers", unit="logits", gt=0)
    learning_rate: float = setting(0.02, "step size of the online learner", gt=0, le=0.5)


def features(view: View, accounts: Array) -> list[Array]:
    """Two planes [L, U]: constant, match of interests of users and accounts [L, U]."""
    interest = view.interest
    match = total(interest[:, accounts] * interest[:, None], axis=0) * interest.shape[0] - 1.0
    return [jnp.ones_like(match), match]


def make(config: Config) -> Algorithm:
    """Builds the algorithm; levers `similarity` and `popularity`."""
    bounds = {"similarity": positive("relative"), "popularity": positive("logits")}

    def init(key: Array, view: View) -> Learned:
        del key, view
        # Before anything is learned: alike people like each other's posts.
        learned = logistic.start(2, heads=1, bias=0.0, learning_rate=config.learning_rate)
        return learned._replace(weights=learned.weights.at[1, 0].set(1.0))

    def act(levers: dict[str, Array], learned: Learned, view: View, key: Array) -> Act:
        del key
        engaging = logistic.logits(learned.weights, features(view, view.links))[0]
        known = jnp.log1p(view.followers)[view.links]
        return Act(link=levers["similarity"] * engaging + levers["popularity"] * known)

    def learn(levers: dict[str, Array], learned: Learned, view: View, log: Log, key: Array) -> tuple[Learned, Array]:
        del levers
        slots = view.age.shape[0]
        draws = uniforms(key, (_NEGATIVES, view.followers.shape[0]))
        drawn = view.author[jnp.floor(draws * slots).astype(jnp.int32)]
        accounts = jnp.concatenate([view.author[log.engaged][None], drawn])
        label = jnp.zeros(accounts.shape).at[0].set(1.0)
        weight = jnp.broadcast_to(log.engaged_weight[None], accounts.shape)
        return logistic.update(learned, features(view, accounts), [label], weight, learning_rate=config.learning_rate)

    levers = levers_from({"similarity": config.similarity, "popularity": config.popularity}, bounds)
    return Algorithm("friend_suggestion", levers, bounds, init=init, act=act, learn=learn)
