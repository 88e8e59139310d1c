"""`accuracy_prompt`: asks people to think about accuracy before they share.

A prompt shifts attention to accuracy, so that less of what looks false is passed on and what looks true hardly suffers.
A share `frequency` of sessions opens with one; its pull on a user wears off with the prompts they have seen:

    friction = 1 - effect * frequency * sigma((falsity signal - 1/2) / width) * (1 - F_u),
    F_u <- (1 - recovery) F_u + habituation * frequency * active_u * (1 - F_u).

The default effect is the measured one: about a tenth fewer intentions to share false headlines, little change for true
ones. Levers `effect` and `frequency`. It keeps books of prompt fatigue and has no loss of its own.

References:
    Pennycook and Rand 2022 (accuracy prompts: -10 % sharing of false headlines; habituation is a structural hypothesis).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from mamba.algorithms.base import Algorithm, Rank, between, levers_from
from mamba.fields import setting
from mamba.types import Array, Candidates, Learned, Log, View


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of accuracy prompts."""

    effect: float = setting(
        0.1, "share of reshares that a fresh prompt prevents where falsity is plain", unit="0 to 1", gt=0, lt=1
    )
    frequency: float = setting(0.9, "share of sessions that open with a prompt", unit="per session", gt=0, lt=1)
    width: float = setting(
        0.1, "softness of the falsity signal at which people take an item for false", unit="0 to 1", gt=0, le=1
    )
    habituation: float = setting(0.02, "share of the effect that one prompt uses up", unit="per prompt", ge=0, le=0.5)
    recovery: float = setting(0.01, "share of prompt fatigue that fades", unit="per step", ge=0, le=0.5)


def make(config: Config) -> Algorithm:
    """Builds the moderator; levers `effect` and `frequency`."""
    bounds = {"effect": between(0.0, 1.0, "probability"), "frequency": between(0.0, 1.0, "share of sessions")}

    def init(key: Array, view: View) -> Learned:
        del key
        return jnp.zeros_like(view.sessions)

    def rank(levers: dict[str, Array], learned: Learned, view: View, candidates: Candidates, key: Array) -> Rank:
        del view, key
        plain = jax.nn.sigmoid((candidates.items.falsity_signal - 0.5) / config.width)
        heeded = levers["effect"] * levers["frequency"] * (1.0 - learned[candidates.users])
        return Rank(friction=1.0 - heeded[None] * plain)

    def learn(levers: dict[str, Array], learned: Learned, view: View, log: Log, key: Array) -> tuple[Learned, Array]:
        del view, key
        prompted = levers["frequency"] * log.active
        tired = (1.0 - config.recovery) * learned + config.habituation * prompted * (1.0 - learned)
        return tired, jnp.zeros(())

    levers = levers_from({"effect": config.effect, "frequency": config.frequency}, bounds)
    return Algorithm("accuracy_prompt", levers, bounds, init=init, rank=rank, learn=learn)
