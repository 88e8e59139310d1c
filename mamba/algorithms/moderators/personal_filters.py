"""`personal_filters`: users' own mutes.

Every user has a threshold T = start + shift on the toxicity signal x. In that user's feed alone an item loses

    strength * sigma((x - T) / width)   log-odds.

The user's own feedback moves it: with q = sigma((x - T) / breadth) a complaint (report or negative feedback) pulls T down by
1 - q, a like pulls it up by q,

    shift' = shift + mutes * pull,   pull = (sum like q - complaint_weight sum complaint (1 - q)) / (1 + all votes).

Nobody else's feed changes, and nothing is taken down.

Levers: `start`, `strength`, `mutes`. Own loss: mean over logged users of pull^2, feedback that the filter does not yet obey.

References:
    Jhaver et al. 2023 (personal content moderation); Jhaver et al. 2022 (word filters).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from mamba.algorithms.base import Algorithm, Rank, between, levers_from, positive
from mamba.fields import setting
from mamba.sums import total
from mamba.types import Array, Candidates, Learned, Log, View


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the personal filters."""

    start: float = setting(0.6, "toxicity signal above which a new user's filter hides", unit="0 to 1", gt=0, lt=1)
    strength: float = setting(3.0, "log-odds that a hidden item loses", unit="logits", gt=0)
    mutes: float = setting(0.1, "how fast feedback moves a user's threshold", unit="per step", gt=0, lt=0.5)
    complaint_weight: float = setting(5.0, "likes that one complaint outweighs", unit="likes", gt=0)
    width: float = setting(0.1, "softness of the threshold above which a filter hides", unit="0 to 1", gt=0, le=1)
    breadth: float = setting(
        0.15, "distance from a threshold over which the weight of feedback fades", unit="0 to 1", gt=0, le=1
    )


def make(config: Config) -> Algorithm:
    """Builds the algorithm; levers `start`, `strength`, `mutes`."""
    bounds = {
        "start": between(0.0, 1.0, "signal"),
        "strength": positive("logits"),
        "mutes": between(0.0, 0.5, "signal per step"),
    }

    def init(key: Array, view: View) -> Learned:
        del key
        return jnp.zeros(view.group.shape)

    def rank(levers: dict[str, Array], learned: Learned, view: View, candidates: Candidates, key: Array) -> Rank:
        del view, key
        threshold = (levers["start"] + learned)[candidates.users]
        hidden = jax.nn.sigmoid((candidates.items.toxicity_signal - threshold[None]) / config.width)
        return Rank(score=-levers["strength"] * hidden)

    def learn(levers: dict[str, Array], learned: Learned, view: View, log: Log, key: Array) -> tuple[Learned, Array]:
        del view, key
        users = log.candidates.users
        threshold = (levers["start"] + learned)[users]
        hidden = jax.nn.sigmoid((log.candidates.items.toxicity_signal - threshold[None]) / config.breadth)
        like = log.actions["like"]
        complaint = config.complaint_weight * (log.reported + log.actions["negative"])
        pull = total(like * hidden - complaint * (1.0 - hidden)) / (1.0 + total(like + complaint))
        return learned.at[users].add(levers["mutes"] * pull), jnp.mean(pull * pull)

    levers = levers_from({name: getattr(config, name) for name in bounds}, bounds)
    return Algorithm("personal_filters", levers, bounds, init=init, rank=rank, learn=learn)
