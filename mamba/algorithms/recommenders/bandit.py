"""`bandit`: a ranker that explores on purpose.

A linear bandit (`mamba.algorithms.linear_bandit`) predicts clicks of examined items from the features of other rankers,
x. With policy `thompson` the score is that of a draw of the posterior, made anew every step for each of `draws` shares of
users; with `ucb` that of the upper confidence bound:

    S = sharpness * (x . (mean + exploration * R z)),   or   S = sharpness * (x . mean + exploration * |R^T x|).

Own loss: squared error of the mean prediction on the examined candidates of this step's log, before learning.

References:
    Li et al. 2010 (LinUCB); Agrawal and Goyal 2013 (linear Thompson sampling); Chapelle and Li 2011.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp

from mamba.algorithms import features, linear_bandit, pool
from mamba.algorithms.base import Act, Algorithm, Rank, between, levers_from, positive
from mamba.fields import setting
from mamba.types import Array, Candidates, Learned, Log, View

_FEATURES = 7


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the bandit recommender."""

    policy: str = setting(
        "thompson",
        "how the ranker explores: by posterior draws, or by upper confidence bounds",
        choices=("thompson", "ucb"),
    )
    sharpness: float = setting(6.0, "log-odds per unit of predicted click", unit="logits", gt=0, lt=20)
    exploration: float = setting(
        0.5, "how many standard deviations of its prediction the ranker explores", unit="standard deviations", gt=0
    )
    memory: float = setting(0.99, "share of the evidence on clicks that is kept", unit="per step", gt=0, le=1)
    ridge: float = setting(1.0, "precision of the prior, in examples that it counts for", unit="examples", gt=0)
    draws: int = setting(8, "shares of users that get a posterior draw of their own", unit="draws", ge=1, le=1024)
    proposals: int = setting(2, "random live items offered to each user (exploration)", unit="items", ge=0, le=64)


class State(NamedTuple):
    """Learned state: the posterior, its mean and root, and this step's draws around the mean, [F, draws]."""

    posterior: linear_bandit.Posterior
    belief: linear_bandit.Belief
    deviations: Array


def make(config: Config) -> Algorithm:
    """Builds the algorithm; levers `sharpness` and `exploration`."""
    bounds = {"sharpness": between(0.0, 20.0, "logits"), "exploration": positive("standard deviations")}

    def known(posterior: linear_bandit.Posterior, key: Array) -> State:
        belief = linear_bandit.belief(posterior, ridge=config.ridge)
        return State(posterior, belief, linear_bandit.deviations(belief, key, config.draws))

    def init(key: Array, view: View) -> Learned:
        del view
        return known(linear_bandit.start(_FEATURES, ridge=config.ridge), key)

    def act(levers: dict[str, Array], learned: Learned, view: View, key: Array) -> Act:
        del levers, learned
        return Act(propose=pool.explore(view, key, config.proposals))

    def rank(levers: dict[str, Array], learned: Learned, view: View, candidates: Candidates, key: Array) -> Rank:
        del view, key
        planes = features.ranking(candidates)
        mean = learned.belief.mean
        if config.policy == "ucb":
            bonus = linear_bandit.deviation(learned.belief.root, planes)
            return Rank(score=levers["sharpness"] * (linear_bandit.inner(mean, planes) + levers["exploration"] * bonus))
        drawn = mean[:, None] + levers["exploration"] * learned.deviations
        return Rank(score=levers["sharpness"] * linear_bandit.inner(drawn[:, candidates.users % config.draws], planes))

    def learn(levers: dict[str, Array], learned: Learned, view: View, log: Log, key: Array) -> tuple[Learned, Array]:
        del levers, view
        planes = features.ranking(log.candidates)
        error = log.clicked / jnp.maximum(log.examined, 1e-6) - linear_bandit.inner(learned.belief.mean, planes)
        loss = jnp.sum(log.examined * error**2) / (1.0 + jnp.sum(log.examined))
        posterior = linear_bandit.update(
            learned.posterior,
            jnp.stack(planes),
            log.clicked,
            log.examined,
            memory=config.memory,
            ridge=config.ridge,
        )
        return known(posterior, key), loss

    levers = levers_from({name: getattr(config, name) for name in bounds}, bounds)
    return Algorithm("bandit", levers, bounds, init, act, rank, learn)
