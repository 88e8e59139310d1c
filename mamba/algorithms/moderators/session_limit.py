"""`session_limit`: a brake for heavy users, like a screen-time reminder.

Users whose running share of active steps exceeds a budget are slowed (pace port), both in coming back and in scrolling:

    pace = -strength * sigma((sessions - limit) / width).

Levers `limit` and `strength`. It does not learn.

References:
    Allcott, Gentzkow and Song 2022 (limits cut use where self-control is short); the numbers are structural hypotheses.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax

from mamba.algorithms.base import Act, Algorithm, between, levers_from
from mamba.fields import setting
from mamba.types import Array, Learned, View


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the session limit."""

    limit: float = setting(0.6, "running share of active steps above which a user is slowed", unit="0 to 1", gt=0, lt=1)
    strength: float = setting(0.1, "activity and scrolling that a heavy user loses", unit="probability", gt=0, lt=0.5)
    width: float = setting(0.05, "softness of the limit on the share of active steps", unit="0 to 1", gt=0, le=1)


def make(config: Config) -> Algorithm:
    """Builds the moderator; levers `limit` and `strength`."""
    bounds = {"limit": between(0.0, 1.0, "share of steps"), "strength": between(0.0, 0.5, "probability")}

    def act(levers: dict[str, Array], learned: Learned, view: View, key: Array) -> Act:
        del learned, key
        heavy = jax.nn.sigmoid((view.sessions - levers["limit"]) / config.width)
        return Act(pace=-levers["strength"] * heavy)

    levers = levers_from({"limit": config.limit, "strength": config.strength}, bounds)
    return Algorithm("session_limit", levers, bounds, act=act)
