"""`prebunking`: inoculates people against manipulation before they meet it.

A campaign of short videos reaches a random share `reach` of the active users in a step. Inoculation I_u in [0, 1] is
full after a video, decays with a half-life, and holds back the sharing of what looks false:

    I_u <- d I_u + reached_u (1 - d I_u),   d = 2^(-1 / half_life),
    friction = 1 - strength * sigma((falsity signal - 1/2) / width) * I_u.

Levers `reach` and `strength`. It keeps books of who is inoculated and has no loss of its own.

References:
    Roozenbeek et al. 2022 (psychological inoculation by videos on a platform); Maertens et al. 2021 (its decay).
    The size of `strength` is a structural hypothesis.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from mamba.algorithms import membership
from mamba.algorithms.base import Algorithm, Rank, between, levers_from
from mamba.fields import setting
from mamba.streams import uniforms
from mamba.types import Array, Candidates, Learned, Log, View


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of prebunking campaigns."""

    reach: float = setting(0.02, "share of active users that see a video", unit="per step", gt=0, lt=1)
    strength: float = setting(
        0.15, "share of reshares of plain falsity that fresh inoculation prevents", unit="0 to 1", gt=0, lt=1
    )
    half_life: float = setting(240.0, "time after which half of the inoculation is left", unit="steps", gt=0)
    width: float = setting(
        0.1, "softness of the falsity signal at which the inoculated take an item for false", unit="0 to 1", gt=0, le=1
    )


def make(config: Config) -> Algorithm:
    """Builds the moderator; levers `reach` and `strength`."""
    bounds = {"reach": between(0.0, 1.0, "share per step"), "strength": between(0.0, 1.0, "probability")}
    kept = 0.5 ** (1.0 / config.half_life)

    def init(key: Array, view: View) -> Learned:
        del key
        return jnp.zeros_like(view.sessions)

    def rank(levers: dict[str, Array], learned: Learned, view: View, candidates: Candidates, key: Array) -> Rank:
        del view, key
        plain = jax.nn.sigmoid((candidates.items.falsity_signal - 0.5) / config.width)
        return Rank(friction=1.0 - levers["strength"] * learned[candidates.users][None] * plain)

    def learn(levers: dict[str, Array], learned: Learned, view: View, log: Log, key: Array) -> tuple[Learned, Array]:
        del view
        reached = membership.member(uniforms(key, learned.shape), levers["reach"]) * log.active
        left = kept * learned
        return left + reached * (1.0 - left), jnp.zeros(())

    levers = levers_from({"reach": config.reach, "strength": config.strength}, bounds)
    return Algorithm("prebunking", levers, bounds, init=init, rank=rank, learn=learn)
