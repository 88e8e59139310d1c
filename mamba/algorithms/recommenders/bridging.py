"""`bridging`: ranks up what people approve who otherwise disagree.

Approval of an examined item is like - negative feedback. The model of `mamba.algorithms.notes` splits it into mean, user
intercept, item intercept and one factor that separates the camps; the score is

    S = sharpness * i_n - divisiveness * |f_n|,

in which applause from one camp alone, the factor's part, does not count. An item is scored from the step after it was
posted. Own loss: squared error of approval in this step's log, before learning.

References:
    Wojcik et al. 2022 (Birdwatch); Ovadya and Thorburn 2023 (bridging systems).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from mamba.algorithms import notes
from mamba.algorithms.base import Algorithm, Rank, between, levers_from, real
from mamba.fields import setting
from mamba.types import Array, Candidates, Learned, Log, View


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the bridging recommender."""

    sharpness: float = setting(10.0, "log-odds per unit of approval across camps", unit="logits", gt=0, lt=100)
    divisiveness: float = setting(0.0, "log-odds lost per unit of the camps' disagreement", unit="logits")
    typical: float = setting(25.0, "ratings per item that the published penalties are meant for", unit="ratings", gt=0)
    memory: float = setting(0.995, "share of what is known of a rater that is kept", unit="per step", gt=0, le=1)


def make(config: Config) -> Algorithm:
    """Builds the algorithm; levers `sharpness` and `divisiveness`."""
    bounds = {"sharpness": between(0.0, 100.0, "logits"), "divisiveness": real("logits")}

    def init(key: Array, view: View) -> Learned:
        return notes.start(view, key, typical=config.typical)

    def rank(levers: dict[str, Array], learned: Learned, view: View, candidates: Candidates, key: Array) -> Rank:
        del view, key
        intercept, factor = learned.note[0][candidates.ids], learned.note[1][candidates.ids]
        value = levers["sharpness"] * intercept - levers["divisiveness"] * jnp.sqrt(factor**2 + 1e-6)
        return Rank(score=(candidates.age > 0) * value)

    def learn(levers: dict[str, Array], learned: Learned, view: View, log: Log, key: Array) -> tuple[Learned, Array]:
        del levers, key
        return notes.update(
            learned,
            users=log.candidates.users,
            items=log.candidates.ids,
            age=view.age,
            weight=log.examined,
            signal=log.actions["like"] - log.actions["negative"],
            typical=config.typical,
            memory=config.memory,
        )

    levers = levers_from({name: getattr(config, name) for name in bounds}, bounds)
    return Algorithm("bridging", levers, bounds, init, rank=rank, learn=learn)
