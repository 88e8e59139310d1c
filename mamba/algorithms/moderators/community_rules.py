"""`community_rules`: every community removes by its own threshold, which its own members vote.

An item belongs to the community of its author. With harm x, the worse of the two signals, and threshold

    T = start + shift of its community,

it survives a step with probability 1 - speed * sigma((x - T) / width). There is no threshold for the platform as a whole.
Feedback of members on items of their own community is a vote: with q = sigma((x - T) / breadth), the degree to which T
forbids the item, a like pulls T up by q and a complaint (report or negative feedback) pulls it down by 1 - q, so that votes
that the rule already satisfies weigh nothing:

    shift' = shift + votes * pull,   pull = (sum like q - complaint_weight sum complaint (1 - q)) / (1 + all votes).

T rests where both sides balance: the logistic boundary between what members like and what they complain about.

Levers: `start`, `votes`, `complaint_weight`, `speed`. Own loss: mean over communities of pull^2, how far rules are from
what members vote for.

References:
    Ostrom 1990 (rules set by those they bind); Chandrasekharan et al. 2018 (norms of communities); Fan and Zhang 2020.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from mamba.algorithms import review
from mamba.algorithms.base import Act, Algorithm, between, levers_from, positive
from mamba.fields import setting
from mamba.types import Array, Learned, Log, View


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the community rules."""

    start: float = setting(
        0.8, "threshold on the harm signals above which items are removed, before any vote", unit="0 to 1", gt=0, lt=1
    )
    votes: float = setting(0.03, "how fast votes move a community's threshold", unit="per step", gt=0, lt=0.5)
    complaint_weight: float = setting(5.0, "likes that one complaint outweighs", unit="likes", gt=0)
    speed: float = setting(
        0.3, "removal probability of an item above its community's threshold", unit="per step", gt=0, lt=1
    )
    communities: int = setting(
        8, "communities that are told apart; more of them share a rule", unit="communities", ge=1, le=256
    )
    width: float = setting(0.03, "softness of the threshold above which items are removed", unit="0 to 1", gt=0, le=1)
    breadth: float = setting(
        0.1, "distance from a threshold over which the weight of votes fades", unit="0 to 1", gt=0, le=1
    )


def make(config: Config) -> Algorithm:
    """Builds the algorithm; levers `start`, `votes`, `complaint_weight`, `speed`."""
    bounds = {
        "start": between(0.0, 1.0, "signal"),
        "votes": between(0.0, 0.5, "signal per step"),
        "complaint_weight": positive("likes"),
        "speed": between(0.0, 1.0, "probability per step"),
    }

    def init(key: Array, view: View) -> Learned:
        del key, view
        return jnp.zeros(config.communities)

    def act(levers: dict[str, Array], learned: Learned, view: View, key: Array) -> Act:
        del key
        community = view.group[view.author] % config.communities
        threshold = (levers["start"] + learned)[community]
        hazard = levers["speed"] * jax.nn.sigmoid((review.harm(view.items) - threshold) / config.width)
        return Act(survive=1.0 - hazard)

    def learn(levers: dict[str, Array], learned: Learned, view: View, log: Log, key: Array) -> tuple[Learned, Array]:
        del key
        community = view.group[view.author[log.candidates.ids]] % config.communities
        member = community == (view.group[log.candidates.users] % config.communities)[None]
        forbidden = jax.nn.sigmoid(
            (review.harm(log.candidates.items) - (levers["start"] + learned)[community]) / config.breadth
        )
        like = member * log.actions["like"]
        complaint = member * levers["complaint_weight"] * (log.reported + log.actions["negative"])

        def of_each(votes: Array) -> Array:
            return jnp.zeros_like(learned).at[community].add(votes)

        pull = of_each(like * forbidden - complaint * (1.0 - forbidden)) / (1.0 + of_each(like + complaint))
        return learned + levers["votes"] * pull, jnp.mean(pull * pull)

    levers = levers_from({name: getattr(config, name) for name in bounds}, bounds)
    return Algorithm("community_rules", levers, bounds, init=init, act=act, learn=learn)
