"""`two_tower`: retrieval and scoring by the inner product of a user and an item embedding.

Embeddings are flax encoders of the user's logged interests and of item content; score = sharpness * <user, item>.
Retrieval is bucketed inner product search: live items are drawn into as many buckets as there are proposals (the
approximate top-k of Chern et al. 2022), and from each bucket one item is drawn with odds exp(exploitation * <user, item>), a
Boltzmann policy. The larger `exploitation`, the closer to the best of the bucket; an argmax would make what a user sees
jump with the last click that was logged.

Own loss: cross-entropy of clicks on the examined candidates of this step's log.

References:
    Covington, Adams and Sargin 2016; Yi et al. 2019 (two-tower retrieval); Chern et al. 2022 (TPU-KNN).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mamba.algorithms import logistic, nets, pool
from mamba.algorithms.base import Act, Algorithm, Rank, between, levers_from
from mamba.fields import setting
from mamba.streams import uniforms
from mamba.sums import total
from mamba.types import Array, Learned, Log, ObservedItems, View
from mamba.types import Candidates as CandidateSet

_LOGIT_SCALE = 6.0  # inner products lie in (-1, 1); this makes them log-odds of a click


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the two-tower recommender."""

    sharpness: float = setting(3.0, "log-odds per unit of inner product", unit="logits", gt=0, lt=20)
    proposals: int = setting(3, "retrieved items offered to each user", unit="items", ge=1, le=64)
    bucket: int = setting(16, "live items searched for each proposal", unit="items", ge=1, le=1024)
    exploitation: float = setting(12.0, "log-odds of retrieval per unit of inner product", unit="logits", ge=0)
    width: int = setting(8, "size of the embeddings of users and items", unit="dimensions", ge=1, le=256)
    hidden: int = setting(16, "hidden units of each tower", unit="units", ge=1, le=1024)
    learning_rate: float = setting(0.01, "step size of the online learner", gt=0, le=0.5)
    batch: int = setting(64, "logged users a training step uses", unit="users", ge=1)


class State(NamedTuple):
    """Learned state: parameters of both towers and the click bias, the optimiser's state."""

    parameters: Any
    optimiser: Any


def item_features(items: ObservedItems) -> Array:
    """Content features, [..., D + 2]: centred topic mix, glitter, popularity."""
    topics = items.topics * items.topics.shape[0] - 1.0
    planes = jnp.concatenate([topics, (items.glitter - 0.5)[None], jnp.log1p(items.popularity)[None]])
    return jnp.moveaxis(planes, 0, -1)


def user_features(interest: Array) -> Array:
    """User features, [U, D], from logged interest [D, U]: centred."""
    return interest.T * interest.shape[0] - 1.0


def make(config: Config) -> Algorithm:
    """Builds the algorithm; lever `sharpness`."""
    bounds = {"sharpness": between(0.0, 20.0, "logits")}
    tower = nets.Tower(config.hidden, config.width)
    optimiser = logistic.stable_adam(config.learning_rate)

    def init(key: Array, view: View) -> Learned:
        user_key, item_key = jax.random.split(key)
        parameters = {
            "user": tower.init(user_key, user_features(view.interest[:, :1])),
            "item": tower.init(item_key, item_features(view.items)[:1]),
            "bias": jnp.asarray(-1.0, float),
        }
        return State(parameters, optimiser.init(parameters))

    def embedded(parameters: Any, view: View) -> Array:
        # Of all items, in `act` and again in `rank`: the compiler sees that it is the same.
        return jnp.asarray(tower.apply(parameters["item"], item_features(view.items)))

    def act(levers: dict[str, Array], learned: Learned, view: View, key: Array) -> Act:
        del levers
        alive = view.items.alive
        bucket_key, choice_key = jax.random.split(key)
        buckets = pool.draw(alive, uniforms(bucket_key, (config.proposals, config.bucket)))
        # Which items are retrieved is an identity; derivatives of retrieval are dropped, those of scoring are kept.
        codes = jax.lax.stop_gradient(embedded(learned.parameters, view))[buckets]
        user = tower.apply(jax.lax.stop_gradient(learned.parameters["user"]), user_features(view.interest))
        match = jnp.einsum("pbe,ue->bpu", codes, jax.lax.stop_gradient(user))
        chosen = pool.by_odds(config.exploitation * match, uniforms(choice_key, match.shape[1:]))
        ids = buckets[jnp.arange(config.proposals)[:, None], chosen]
        return Act(propose=pool.propose(view, ids, alive))

    def rank(levers: dict[str, Array], learned: Learned, view: View, candidates: CandidateSet, key: Array) -> Rank:
        del key
        user = tower.apply(learned.parameters["user"], user_features(candidates.interest))
        item = jnp.moveaxis(embedded(learned.parameters, view)[candidates.ids], -1, 0)
        return Rank(score=levers["sharpness"] * total(jnp.asarray(user).T[:, None] * item, axis=0))

    def learn(levers: dict[str, Array], learned: Learned, view: View, log: Log, key: Array) -> tuple[Learned, Array]:
        del levers, view, key
        # Spread over the log, whose order is that of blocks of users.
        logged = log.examined.shape[-1]
        kept = np.arange(min(config.batch, logged)) * logged // min(config.batch, logged)
        batch = jax.tree.map(
            lambda x: x[..., kept], (log.candidates.interest, log.candidates.items, log.examined, log.clicked)
        )
        interest, items, examined, clicked = batch

        def loss(parameters: Any) -> Array:
            user = jnp.asarray(tower.apply(parameters["user"], user_features(interest)))
            item = jnp.asarray(tower.apply(parameters["item"], item_features(items)))
            logits = _LOGIT_SCALE * jnp.sum(user[None] * item, axis=-1) + parameters["bias"]
            return logistic.cross_entropy(logits, clicked / jnp.maximum(examined, 1e-6), examined)

        value, slope = jax.value_and_grad(loss)(learned.parameters)
        change, state = optimiser.update(slope, learned.optimiser)
        parameters = jax.tree.map(jnp.add, learned.parameters, change)
        return State(parameters, state), value

    return Algorithm("two_tower", levers_from({"sharpness": config.sharpness}, bounds), bounds, init, act, rank, learn)
