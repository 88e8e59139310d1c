"""`circuit_breaker`: holds what spreads fast from several communities at once, until a random review clears it.

Running counts n_s of each item's reshares by source community s, memory `memory`, give a growth that is summed over
communities,

    v = (1 + entry * communities newly entered) * sum over s of max(0, change of log(1 + n_s / prior)).

A post that one crowd passes on grows in one term; a claim that is seeded in many places grows in all. An item that is free
trips with probability sigma((v - threshold) / width). Held items lose `strength` log-odds of rank and the share `friction` of
their reshares; nothing is taken down. A share `review` of them is reviewed in each step: those found to violate stay held,
the others are cleared and do not trip again. Communities are accounts' groups, told apart up to `communities`; with
`communities` = 1 this is the usual rule on total growth.

Levers: `threshold`, `entry`, `strength`, `friction`, `review`. Own loss: growth of live items that is not held.

References:
    Goel, Anderson, Hofman and Watts 2016 (structural virality); Truong et al. 2025 (speed against errors); Bak-Coleman et
    al. 2022 (virality circuit breakers).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mamba.algorithms import review
from mamba.algorithms.base import Act, Algorithm, Rank, between, levers_from, positive
from mamba.fields import setting
from mamba.types import Array, Candidates, Learned, Log, View


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the circuit breaker."""

    threshold: float = setting(1.5, "growth per step above which items are held", unit="log-counts", gt=0)
    entry: float = setting(0.1, "weight of every community that an item newly enters", unit="relative", gt=0)
    strength: float = setting(3.0, "log-odds lost by a held item", unit="logits", gt=0)
    friction: float = setting(0.7, "share of a held item's reshares that is suppressed", unit="0 to 1", gt=0, lt=1)
    review: float = setting(0.2, "share of held items that are reviewed", unit="per step", gt=0, lt=1)
    communities: int = setting(
        8, "communities that are told apart; more of them share a count", unit="communities", ge=1, le=256
    )
    prior: float = setting(1.0, "reshares by a community below which growth says little", unit="reshares", gt=0)
    memory: float = setting(0.9, "share of the running counts of reshares that stays", unit="per step", ge=0, lt=1)
    width: float = setting(0.25, "softness of the threshold on growth", unit="log-counts", gt=0, le=5)


class State(NamedTuple):
    """Learned state: running reshares by source [M, S]; held, upheld and cleared [M], parts of one; reviews."""

    counts: Array
    held: Array
    upheld: Array
    cleared: Array
    paid: Array


def make(config: Config) -> Algorithm:
    """Builds the algorithm; levers `threshold`, `entry`, `strength`, `friction`, `review`."""
    bounds = {
        "threshold": positive("log-counts per step"),
        "entry": positive("relative"),
        "strength": positive("logits"),
        "friction": between(0.0, 1.0, "share of reshares"),
        "review": between(0.0, 1.0, "share of held items per step"),
    }

    def init(key: Array, view: View) -> Learned:
        del key
        none = jnp.zeros(view.age.shape)
        return State(jnp.zeros((*view.age.shape, config.communities)), none, none, none, jnp.zeros(()))

    def act(levers: dict[str, Array], learned: Learned, view: View, key: Array) -> Act:
        del levers, view, key
        return Act(reviews=learned.paid)

    def rank(levers: dict[str, Array], learned: Learned, view: View, candidates: Candidates, key: Array) -> Rank:
        del key
        hold = (jnp.clip(learned.held + learned.upheld, 0.0, 1.0) * review.standing(view))[candidates.ids]
        return Rank(score=-levers["strength"] * hold, friction=1.0 - levers["friction"] * hold)

    def learn(levers: dict[str, Array], learned: Learned, view: View, log: Log, key: Array) -> tuple[Learned, Array]:
        del key
        kept = review.standing(view)
        held, upheld, cleared = (kept * part for part in (learned.held, learned.upheld, learned.cleared))
        before = learned.counts * kept[:, None]
        fresh = jnp.zeros_like(before).at[log.shared, view.group % config.communities].add(log.shared_weight)
        counts = config.memory * before + fresh
        change = jnp.log1p(counts / config.prior) - jnp.log1p(before / config.prior)
        entered = jnp.sum(-jnp.expm1(-fresh) * jnp.exp(-before), axis=1)
        growth = (1.0 + levers["entry"] * entered) * jnp.sum(jnp.maximum(change, 0.0), axis=1)

        tripped = (1.0 - held - upheld - cleared) * jax.nn.sigmoid((growth - levers["threshold"]) / config.width)
        reviewed = levers["review"] * held
        found = review.answer(log.judgement)
        alive = view.items.alive - log.taken
        at_large = jnp.sum(alive * growth * (1.0 - held - upheld)) / (jnp.sum(alive) + 1e-6)
        state = State(
            counts,
            held + tripped - reviewed,
            upheld + reviewed * found,
            cleared + reviewed * (1.0 - found),
            jnp.sum(alive * reviewed),
        )
        return state, at_large

    levers = levers_from({name: getattr(config, name) for name in bounds}, bounds)
    return Algorithm("circuit_breaker", levers, bounds, init=init, act=act, rank=rank, learn=learn)
