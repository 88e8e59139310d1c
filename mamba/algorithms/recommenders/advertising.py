"""`advertising`: an auction that sells positions and paces budgets.

A share of the creators, picked by a hash of their ids, pays for clicks. What an advertiser's item is worth to the platform
when it is shown outside of the author's network is

    value = bid * p_click * pacing,   pacing_a = exp(-mu_a),

with p_click a logistic model of the logged features. Ads are offered in proportion to their mean value and gain

    S = strength * log(value / reserve)

in log-odds, so that money buys positions. A click on the best ad of a user costs second-highest value / p_click, a click
on any other reserve / p_click; nobody pays more than the paced bid. Every advertiser has the same budget per step and a
multiplier that learns to spend it,

    mu_a <- clip(mu_a + rate * (spend_a / budget_a - 1), 0, 8).

Spend is known for the logged batch and scaled up to all users. Levers `strength` and `reserve`. Own loss: minus the
revenue per user and step.

References:
    Edelman, Ostrovsky and Schwarz 2007 (generalised second price); Balseiro and Gur 2019 (adaptive pacing);
    Balseiro, Lu and Mirrokni 2023 (its multiplicative form).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp

from mamba.algorithms import features, logistic, membership, pool
from mamba.algorithms.base import Act, Algorithm, Rank, levers_from, positive
from mamba.fields import setting
from mamba.streams import uniforms
from mamba.sums import total
from mamba.types import Array, Candidates, Learned, Log, View

_CHOSEN, _WORTH = 1, 2  # salts: who advertises, what a click is worth to them
_MOST = 8.0  # largest multiplier
_CAUTIOUS = 4.0  # at the start: spending rises to the budget, whatever demand turns out to be


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of advertising."""

    strength: float = setting(0.5, "log-odds per unit of the log value of an ad", unit="logits", gt=0)
    reserve: float = setting(0.05, "least value of an ad that is worth a position", unit="money per impression", gt=0)
    advertisers: float = setting(0.2, "share of creators that advertise", unit="0 to 1", gt=0, le=1)
    bid: float = setting(
        1.0, "mean bid for a click; bids lie between half and one and a half of that", unit="money", gt=0
    )
    budget: float = setting(0.05, "budget of all advertisers together", unit="money per user and step", gt=0)
    pacing_rate: float = setting(0.05, "step size of the multipliers that pace budgets", unit="per step", gt=0, le=1)
    learning_rate: float = setting(0.02, "step size of the click model", gt=0, le=0.5)
    proposals: int = setting(2, "ads offered to each user", unit="items", ge=1, le=64)


class State(NamedTuple):
    """Learned state: the click model, and the multiplier of every account [U]."""

    clicks: logistic.Logistic
    multiplier: Array


def make(config: Config) -> Algorithm:
    """Builds the algorithm; levers `strength` and `reserve`."""
    bounds = {"strength": positive("logits"), "reserve": positive("money per impression")}

    def bids(accounts: Array) -> Array:
        """Bid of each account; 0 where it does not advertise."""
        buys = membership.hashed(accounts, _CHOSEN) < config.advertisers
        return jnp.where(buys, config.bid * (0.5 + membership.hashed(accounts, _WORTH)), 0.0)

    def auction(learned: State, author: Array, chance: Array) -> tuple[Array, Array]:
        """Paced bid and value of candidates by authors `author` with click probability `chance`."""
        paced = bids(author) * jnp.exp(-learned.multiplier[author])
        return paced, paced * chance

    def init(key: Array, view: View) -> Learned:
        del key
        clicks = logistic.start(7, heads=1, bias=-1.0, learning_rate=config.learning_rate)
        return State(clicks, jnp.full_like(view.followers, _CAUTIOUS))

    def act(levers: dict[str, Array], learned: State, view: View, key: Array) -> Act:
        del levers
        items = view.items
        constant = jnp.ones_like(items.alive)
        # Of a user of average interests, outside of their network.
        fresh = jnp.exp(-view.age.astype(float) / 6.0)
        mean = [constant, 0 * constant, jnp.log1p(items.popularity), items.glitter - 0.5, fresh, 0 * constant]
        chance = logistic.predict(learned.clicks, [*mean, items.synthetic])[0]
        mass = items.alive * auction(learned, view.author, chance)[1]
        ids = pool.draw(mass, uniforms(key, (config.proposals, view.followers.shape[0])))
        return Act(propose=pool.propose(view, ids, mass))

    def rank(levers: dict[str, Array], learned: State, view: View, candidates: Candidates, key: Array) -> Rank:
        del key
        chance = logistic.predict(learned.clicks, features.ranking(candidates))[0]
        value = auction(learned, view.author[candidates.ids], chance)[1]
        bought = (value > 0) * (1.0 - candidates.in_network)
        return Rank(score=bought * levers["strength"] * jnp.log(jnp.where(value > 0, value, 1.0) / levers["reserve"]))

    def learn(levers: dict[str, Array], learned: State, view: View, log: Log, key: Array) -> tuple[Learned, Array]:
        del key
        shown = log.candidates
        author = view.author[shown.ids]
        chance = logistic.predict(learned.clicks, features.ranking(shown))[0]
        paced, value = auction(learned, author, chance)
        value = value * shown.existence * (1.0 - shown.in_network)
        best = jnp.max(value, axis=0, keepdims=True)
        wins = value >= best
        second = jnp.max(jnp.where(wins, 0.0, value), axis=0, keepdims=True)
        second = jnp.where(total(wins.astype(float), axis=0, keepdims=True) > 1, best, second)
        rival = jnp.where(wins, jnp.maximum(second, levers["reserve"]), levers["reserve"])
        price = jnp.where(value > 0, jnp.minimum(rival / chance, paced), 0.0)
        users = view.followers.shape[0]
        paid = price * log.clicked * (users / log.clicked.shape[1])
        spend = jnp.zeros(users).at[author].add(paid)
        buyers = jnp.zeros(users).at[view.author].set((bids(view.author) > 0).astype(float))
        budget = config.budget * users / jnp.maximum(jnp.sum(buyers), 1.0)
        multiplier = learned.multiplier + config.pacing_rate * buyers * (spend / budget - 1.0)
        clicks, _ = logistic.update(
            learned.clicks,
            features.ranking(shown),
            [log.clicked / jnp.maximum(log.examined, 1e-6)],
            log.examined,
            learning_rate=config.learning_rate,
        )
        return State(clicks, jnp.clip(multiplier, 0.0, _MOST)), -jnp.sum(spend) / users

    levers = levers_from({"strength": config.strength, "reserve": config.reserve}, bounds)
    return Algorithm("advertising", levers, bounds, init, act, rank, learn)
