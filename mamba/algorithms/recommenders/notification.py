"""`notification`: reminders that bring people back and keep them scrolling (pace port).

A logistic model predicts whether a user is active from their running share of sessions. Those it expects to stay away
are reminded most: lift = strength * (1 - p_active). Own loss: cross-entropy of that prediction on who was active.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from mamba.algorithms import logistic
from mamba.algorithms.base import Act, Algorithm, between, levers_from
from mamba.fields import setting
from mamba.types import Array, Learned, Log, View


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the notification algorithm."""

    strength: float = setting(
        0.1, "lift of the activity and the scrolling of a user who is surely away", unit="probability", gt=0, lt=0.5
    )
    learning_rate: float = setting(0.02, "step size of the online learner", gt=0, le=0.5)


def features(view: View) -> list[Array]:
    """Two planes [U]: constant and centred share of active steps."""
    return [jnp.ones_like(view.sessions), 2.0 * view.sessions - 1.0]


def make(config: Config) -> Algorithm:
    """Builds the algorithm; lever `strength` in probability."""
    bounds = {"strength": between(0.0, 0.5, "probability")}

    def init(key: Array, view: View) -> Learned:
        del key, view
        return logistic.start(2, heads=1, bias=0.0, learning_rate=config.learning_rate)

    def act(levers: dict[str, Array], learned: Learned, view: View, key: Array) -> Act:
        del key
        away = 1.0 - logistic.predict(learned, features(view))[0]
        return Act(pace=levers["strength"] * away)

    def learn(levers: dict[str, Array], learned: Learned, view: View, log: Log, key: Array) -> tuple[Learned, Array]:
        del levers, key
        return logistic.update(
            learned, features(view), [log.active], jnp.ones_like(log.active), learning_rate=config.learning_rate
        )

    return Algorithm(
        "notification", levers_from({"strength": config.strength}, bounds), bounds, init=init, act=act, learn=learn
    )
