"""`sequence`: predicts the next click from the order of a user's last clicks, by self-attention.

The last L items that a user engaged with are kept as content features (slots are recycled), newest first. One block of
self-attention reads them and answers with weights over the features x of a candidate:

    q_u = NextItem(h_1, ..., h_L),   p = sigma(<q_u, (1, x)>),   score = sharpness * p.

A click of weight w (in the expected mode its probability) moves the history by w of a place, h <- (1 - w) h + w shift(h): the
mean of the histories with and without it. Retrieval is the bucketed Boltzmann search of `two_tower`, with odds
exp(exploitation * <q_u, (1, x)>).

Lever: `sharpness`. Own loss: cross-entropy of clicks on the examined candidates of this step's log, given the history before
this step.

References:
    Kang and McAuley 2018 (SASRec).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mamba.algorithms import logistic, nets, pool
from mamba.algorithms.base import Act, Algorithm, Rank, between, levers_from
from mamba.fields import setting
from mamba.streams import uniforms
from mamba.sums import total
from mamba.types import Array, Candidates, Learned, Log, ObservedItems, View


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the sequence recommender."""

    sharpness: float = setting(6.0, "log-odds per unit of predicted click", unit="logits", gt=0, lt=20)
    length: int = setting(8, "engaged items remembered of each user", unit="items", ge=1, le=256)
    width: int = setting(8, "size of a token of the sequence model", unit="dimensions", ge=1, le=256)
    proposals: int = setting(2, "retrieved items offered to each user", unit="items", ge=0, le=64)
    bucket: int = setting(16, "live items searched for each proposal", unit="items", ge=1, le=1024)
    exploitation: float = setting(2.0, "log-odds of retrieval per predicted log-odds of a click", unit="relative", ge=0)
    learning_rate: float = setting(0.01, "step size of the online learner", gt=0, le=0.5)


class State(NamedTuple):
    """Learned state: history [L, F, U] and its weight [L, U], the network's parameters, the optimiser's state."""

    history: Array
    weight: Array
    parameters: Any
    optimiser: Any


def features(items: ObservedItems) -> Array:
    """Content, [D + 3, ...]: constant, centred topic mix, glitter, popularity."""
    topics = items.topics * items.topics.shape[0] - 1.0
    popularity = 0.3 * jnp.log1p(items.popularity)
    planes = [jnp.ones_like(items.glitter)[None], topics, (items.glitter - 0.5)[None], popularity[None]]
    return jnp.concatenate(planes)


def pushed(values: Array, newest: Array, weight: Array) -> Array:
    """History [L, ..., U] moved by `weight` [U] of a place, with `newest` [..., U] put first."""
    shifted = jnp.concatenate([newest[None], values[:-1]])
    return values + jnp.broadcast_to(weight, values.shape) * (shifted - values)


def make(config: Config) -> Algorithm:
    """Builds the algorithm; lever `sharpness`."""
    bounds = {"sharpness": between(0.0, 20.0, "logits")}
    optimiser = logistic.stable_adam(config.learning_rate)

    def network(view: View) -> nets.NextItem:
        return nets.NextItem(config.width, view.items.topics.shape[0] + 3)

    def wants(parameters: Any, view: View, history: Array, weight: Array) -> Array:
        """Weights over item features, [F, U]."""
        return jnp.asarray(network(view).apply(parameters, jnp.moveaxis(history, -1, 0), weight.T)).T

    def init(key: Array, view: View) -> Learned:
        width, users = view.items.topics.shape[0] + 3, view.followers.shape[0]
        history, weight = jnp.zeros((config.length, width, users)), jnp.zeros((config.length, users))
        parameters = network(view).init(key, jnp.zeros((1, config.length, width)), jnp.zeros((1, config.length)))
        return State(history, weight, parameters, optimiser.init(parameters))

    def act(levers: dict[str, Array], learned: Learned, view: View, key: Array) -> Act:
        del levers
        if config.proposals == 0:
            return Act()
        bucket_key, choice_key = jax.random.split(key)
        alive = view.items.alive
        buckets = pool.draw(alive, uniforms(bucket_key, (config.proposals, config.bucket)))
        # Which items are retrieved is an identity; derivatives of retrieval are dropped, those of scoring are kept.
        known, content = jax.lax.stop_gradient((learned, features(view.items)))
        user = wants(known.parameters, view, known.history, known.weight)
        odds = config.exploitation * jnp.einsum("fpb,fu->bpu", content[:, buckets], user)
        chosen = pool.by_odds(odds, uniforms(choice_key, odds.shape[1:]))
        ids = buckets[jnp.arange(config.proposals)[:, None], chosen]
        return Act(propose=pool.propose(view, ids, alive))

    def rank(levers: dict[str, Array], learned: Learned, view: View, candidates: Candidates, key: Array) -> Rank:
        del key
        users = candidates.users
        user = wants(learned.parameters, view, learned.history[..., users], learned.weight[..., users])
        odds = total(user[:, None] * features(candidates.items), axis=0)
        return Rank(score=levers["sharpness"] * jax.nn.sigmoid(odds))

    def learn(levers: dict[str, Array], learned: Learned, view: View, log: Log, key: Array) -> tuple[Learned, Array]:
        del levers, key
        users = log.candidates.users
        before = learned.history[..., users], learned.weight[..., users]
        content = features(log.candidates.items)
        rate = log.clicked / jnp.maximum(log.examined, 1e-6)

        def loss(parameters: Any) -> Array:
            odds = total(wants(parameters, view, *before)[:, None] * content, axis=0)
            return logistic.cross_entropy(odds, rate, log.examined)

        value, slope = jax.value_and_grad(loss)(learned.parameters)
        change, state = optimiser.update(slope, learned.optimiser)
        weight = log.engaged_weight
        return State(
            history=pushed(learned.history, features(view.items)[:, log.engaged], weight),
            weight=pushed(learned.weight, jnp.ones_like(weight), weight),
            parameters=optax.apply_updates(learned.parameters, change),
            optimiser=state,
        ), value

    return Algorithm("sequence", levers_from({"sharpness": config.sharpness}, bounds), bounds, init, act, rank, learn)
