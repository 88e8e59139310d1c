"""`trusted_flaggers`: a few vetted reviewers look where exposure and suspicion are, and what they flag goes fast.

With recent exposures e (running, memory `memory`), suspicion s, the worse harm signal to the power `focus`, and the share l of
an item that a flagger has looked at already, the looks of a step fall on items in proportion to e s:

    looked at now = (1 - l) (1 - exp(-flaggers * M * e s / sum (1 - l) e s)).

A flagger answers as the measured disagreement of real moderators says. A flagged item loses `strength` log-odds of rank and
is removed with probability `speed` per step. Every look is paid.

Levers: `flaggers`, `focus`, `strength`, `speed`. Own loss: share of live exposure times suspicion that no flagger has seen.

References:
    The trusted flaggers of the Digital Services Act, article 22; Davidson et al. 2017 (disagreement of raters).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp

from mamba.algorithms import review
from mamba.algorithms.base import Act, Algorithm, Rank, between, levers_from, positive
from mamba.fields import setting
from mamba.types import COUNTS, Array, Candidates, Learned, Log, View


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the trusted flaggers."""

    flaggers: float = setting(0.02, "looks of all flaggers, as a share of item slots", unit="per step", gt=0, lt=1)
    focus: float = setting(2.0, "exponent of suspicion in where flaggers look", gt=0)
    strength: float = setting(3.0, "log-odds that a flagged item loses", unit="logits", gt=0)
    speed: float = setting(0.5, "removal probability of a flagged item", unit="per step", gt=0, lt=1)
    memory: float = setting(0.7, "share of an item's running exposures that stays", unit="per step", ge=0, lt=1)


class State(NamedTuple):
    """Learned state: running exposures, looked-at share and flags [M], looks paid in the last step."""

    exposures: Array
    looked: Array
    flagged: Array
    paid: Array


def make(config: Config) -> Algorithm:
    """Builds the algorithm; levers `flaggers`, `focus`, `strength`, `speed`."""
    bounds = {
        "flaggers": between(0.0, 1.0, "share of item slots per step"),
        "focus": positive("exponent"),
        "strength": positive("logits"),
        "speed": between(0.0, 1.0, "probability per step"),
    }

    def flags(learned: State, view: View) -> Array:
        return jnp.clip(learned.flagged, 0.0, 1.0) * review.standing(view)

    def init(key: Array, view: View) -> Learned:
        del key
        none = jnp.zeros(view.age.shape)
        return State(none, none, none, jnp.zeros(()))

    def act(levers: dict[str, Array], learned: Learned, view: View, key: Array) -> Act:
        del key
        return Act(survive=1.0 - levers["speed"] * flags(learned, view), reviews=learned.paid)

    def rank(levers: dict[str, Array], learned: Learned, view: View, candidates: Candidates, key: Array) -> Rank:
        del key
        return Rank(score=-levers["strength"] * flags(learned, view)[candidates.ids])

    def learn(levers: dict[str, Array], learned: Learned, view: View, log: Log, key: Array) -> tuple[Learned, Array]:
        del key
        kept = review.standing(view)
        alive = view.items.alive - log.taken
        seen = log.counts[:, COUNTS.index("exposures")]
        exposures = config.memory * learned.exposures * kept + (1.0 - config.memory) * seen
        looked, flagged = learned.looked * kept, learned.flagged * kept
        mass = alive * exposures * jnp.maximum(review.harm(view.items), 1e-3) ** levers["focus"]
        waiting = jnp.sum((1.0 - looked) * mass)
        looks = levers["flaggers"] * kept.shape[0] * mass / (waiting + 1e-6)
        now = (1.0 - looked) * -jnp.expm1(-looks)
        left = jnp.sum((1.0 - looked - now) * mass) / (jnp.sum(mass) + 1e-6)
        return State(exposures, looked + now, flagged + now * review.answer(log.judgement), jnp.sum(alive * now)), left

    levers = levers_from({name: getattr(config, name) for name in bounds}, bounds)
    return Algorithm("trusted_flaggers", levers, bounds, init=init, act=act, rank=rank, learn=learn)
