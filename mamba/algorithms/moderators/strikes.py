"""`strikes`: sanctions accounts, not items.

Every violation costs its author a strike; strikes fade:

    strikes' = memory * strikes + violations - overturned appeals,
    violations = existence that other moderators took from the author + items that a delayed check found in violation.

Above `warning` strikes an account loses up to `reach` log-odds of rank, above `suspension` its new posts stop. Authors appeal
against removals and against suspended posts; human reviewers settle every appeal, and one that is granted takes a strike back.
What the suspension itself takes down is no violation and costs no strike.

Levers: `warning`, `suspension`, `memory`, `reach`. Own loss: share of the removed content that came from accounts no warning
had reached.

References:
    Horta Ribeiro, Cheng and West 2023 (effects of sanctions); Jhaver et al. 2019 (removals and appeals); platforms' published
    strike rules.
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
    """Settings of the strikes."""

    warning: float = setting(1.0, "strikes above which an account's reach is lowered", unit="strikes", gt=0)
    suspension: float = setting(3.0, "strikes above which an account's posts are stopped", unit="strikes", gt=0)
    memory: float = setting(0.98, "share of an account's strikes that stays", unit="per step", gt=0, lt=1)
    reach: float = setting(2.0, "log-odds that a warned account loses", unit="logits", gt=0)
    width: float = setting(0.25, "softness of `warning` and of `suspension`", unit="strikes", gt=0, le=5)


class State(NamedTuple):
    """Learned state: strikes of every account [U], reviews of appeals in the last step."""

    strikes: Array
    paid: Array


def make(config: Config) -> Algorithm:
    """Builds the algorithm; levers `warning`, `suspension`, `memory`, `reach`."""
    bounds = {
        "warning": positive("strikes"),
        "suspension": positive("strikes"),
        "memory": between(0.0, 1.0, "share per step"),
        "reach": positive("logits"),
    }

    def above(strikes: Array, limit: Array) -> Array:
        return jax.nn.sigmoid((strikes - limit) / config.width)

    def suspended(levers: dict[str, Array], learned: State, view: View) -> Array:
        """[M] probability that an item is stopped because its author is suspended: only what is new."""
        return above(learned.strikes, levers["suspension"])[view.author] * (1.0 - review.standing(view))

    def init(key: Array, view: View) -> Learned:
        del key
        return State(jnp.zeros(view.group.shape), jnp.zeros(()))

    def act(levers: dict[str, Array], learned: Learned, view: View, key: Array) -> Act:
        del key
        return Act(survive=1.0 - suspended(levers, learned, view), reviews=learned.paid)

    def rank(levers: dict[str, Array], learned: Learned, view: View, candidates: Candidates, key: Array) -> Rank:
        del key
        warned = above(learned.strikes, levers["warning"])
        return Rank(score=-levers["reach"] * warned[view.author][candidates.ids])

    def learn(levers: dict[str, Array], learned: Learned, view: View, log: Log, key: Array) -> tuple[Learned, Array]:
        del key
        # Linear in what was taken: in expectation exactly the part that others took.
        by_others = log.taken - view.items.alive * suspended(levers, learned, view)
        caught = (view.items.alive - log.taken) * log.checked * log.verdict
        overturned = log.appealed * (1.0 - log.judgement)
        given = jnp.zeros_like(learned.strikes).at[view.author].add(by_others + caught - overturned)
        unwarned = 1.0 - above(learned.strikes, levers["warning"])[view.author]
        loss = jnp.sum(log.taken * unwarned) / (jnp.sum(log.taken) + 1e-6)
        return State(levers["memory"] * learned.strikes + given, jnp.sum(log.appealed)), loss

    levers = levers_from({name: getattr(config, name) for name in bounds}, bounds)
    return Algorithm("strikes", levers, bounds, init=init, act=act, rank=rank, learn=learn)
