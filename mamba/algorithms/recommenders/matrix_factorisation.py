"""`matrix_factorisation`: collaborative filtering on implicit feedback, online.

Users and accounts have learned factors, items have learned deviations from their author's: with author a(m),

    q_m = author_a(m) + deviation_m,   z = <p_u, q_m> + b_m,   score = sharpness * (<p_u, q_m> + appeal * b_m).

A new item in a recycled slot starts from its author's factor. The loss is the confidence-weighted square of
`mamba.algorithms.factors`, the core that also factorises an interaction matrix. It counts the examined candidates of the
logged batch (clicked: liked, else passed) and, for every user, the item that they engaged with against a live item drawn at
random. Content is not used: what is learned is who clicks on whose posts.

Retrieval is the bucketed Boltzmann search of `two_tower`. Levers: `sharpness`; `appeal`, how much the general appeal of an
item counts next to its match with the user (0 removes the popularity part). Own loss: the mean of that loss.

References:
    Hu, Koren and Volinsky 2008 (confidence-weighted factorisation of implicit feedback); Rendle et al. 2009 (engaged items
    against drawn ones); Johnson 2014.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mamba.algorithms import factors, logistic, pool
from mamba.algorithms.base import Act, Algorithm, Rank, between, levers_from, positive
from mamba.fields import setting
from mamba.streams import uniforms
from mamba.types import Array, Candidates, Learned, Log, View


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the matrix-factorisation recommender."""

    sharpness: float = setting(4.0, "log-odds per unit of affinity", unit="logits", gt=0, lt=20)
    appeal: float = setting(1.0, "weight of an item's general appeal", unit="relative", gt=0)
    proposals: int = setting(2, "retrieved items offered to each user", unit="items", ge=0, le=64)
    bucket: int = setting(16, "live items searched for each proposal", unit="items", ge=1, le=1024)
    exploitation: float = setting(12.0, "log-odds of retrieval per unit of affinity", unit="logits", ge=0)
    width: int = setting(8, "size of the factors of users and items", unit="dimensions", ge=1, le=256)
    confidence: float = setting(
        4.0,
        "weight of a click in the loss beyond that of an item passed by",
        unit="relative to an item passed by",
        ge=0,
    )
    decay: float = setting(0.01, "L2 regularisation of every row of factors in a step", unit="loss", ge=0)
    learning_rate: float = setting(0.02, "step size of the online learner", gt=0, le=0.5)


class Tables(NamedTuple):
    """Factors: user [E, U], author [U, E + 1] (accounts), item [M, E + 1] (deviations); the last column is the bias."""

    user: Array
    author: Array
    item: Array


class State(NamedTuple):
    """Learned state: the tables and the optimiser's state."""

    tables: Tables
    optimiser: Any


def renewed(tables: Tables, age: Array) -> Tables:
    """Tables in which items posted in this step deviate by nothing from their authors."""
    return tables._replace(item=jnp.where((age > 0)[:, None], tables.item, 0.0))


def make(config: Config) -> Algorithm:
    """Builds the algorithm; levers `sharpness` and `appeal`."""
    bounds = {"sharpness": between(0.0, 20.0, "logits"), "appeal": positive("relative")}
    levers = levers_from({"sharpness": config.sharpness, "appeal": config.appeal}, bounds)

    def item_rows(tables: Tables, view: View) -> Array:
        return tables.author[view.author] + renewed(tables, view.age).item

    def affinity(user: Array, rows: Array, appeal: Array) -> Array:
        match, bias = factors.match(user, rows)
        return match + appeal * bias

    def init(key: Array, view: View) -> Learned:
        users, items = view.followers.shape[0], view.age.shape[0]
        begin = factors.start(key, users=users, items=users, width=config.width)  # authors are accounts
        tables = Tables(begin.user, jnp.pad(begin.item, ((0, 0), (0, 1))), jnp.zeros((items, config.width + 1)))
        return State(tables, logistic.stable_adam(config.learning_rate).init(tables))

    def act(levers: dict[str, Array], learned: Learned, view: View, key: Array) -> Act:
        if config.proposals == 0:
            return Act()
        bucket_key, choice_key = jax.random.split(key)
        alive = view.items.alive
        buckets = pool.draw(alive, uniforms(bucket_key, (config.proposals, config.bucket)))
        # Which items are retrieved is an identity; derivatives of retrieval are dropped, those of scoring are kept.
        tables, appeal = jax.lax.stop_gradient((learned.tables, levers["appeal"]))
        rows = item_rows(tables, view)[buckets]
        match = jnp.einsum("pbe,eu->bpu", rows[..., :-1], tables.user)
        odds = config.exploitation * (match + appeal * rows[..., -1].T[..., None])
        chosen = pool.by_odds(odds, uniforms(choice_key, odds.shape[1:]))
        ids = buckets[jnp.arange(config.proposals)[:, None], chosen]
        return Act(propose=pool.propose(view, ids, alive))

    def rank(levers: dict[str, Array], learned: Learned, view: View, candidates: Candidates, key: Array) -> Rank:
        del key
        rows = item_rows(learned.tables, view)[candidates.ids]
        value = affinity(learned.tables.user[:, candidates.users], rows, levers["appeal"])
        return Rank(score=levers["sharpness"] * value)

    def learn(levers: dict[str, Array], learned: Learned, view: View, log: Log, key: Array) -> tuple[Learned, Array]:
        del levers
        moments, *rest = learned.optimiser
        moments = moments._replace(mu=renewed(moments.mu, view.age), nu=renewed(moments.nu, view.age))
        users, ids, weight = log.candidates.users, log.candidates.ids, log.engaged_weight
        contrast = pool.draw(view.items.alive, uniforms(key, weight.shape))
        pairs = jnp.stack([log.engaged, contrast])
        liked, passed = jnp.stack([weight, 0.0 * weight]), jnp.stack([0.0 * weight, weight])

        def objective(tables: Tables) -> Array:
            rows = item_rows(tables, view)
            seen = affinity(tables.user[:, users], rows[ids], jnp.ones(()))
            every = affinity(tables.user, rows[pairs], jnp.ones(()))
            logged = factors.loss(seen, log.clicked, log.examined - log.clicked, config.confidence)
            return logged + factors.loss(every, liked, passed, config.confidence)

        items = jnp.zeros(view.age.shape).at[ids].add(log.clicked).at[log.engaged].add(weight)
        mass = Tables(
            user=weight.at[users].add(jnp.sum(log.clicked, axis=0))[None],
            author=jnp.zeros(weight.shape).at[view.author].add(items)[:, None],
            item=items[:, None],
        )
        tables, optimiser, value = factors.descend(
            objective,
            renewed(learned.tables, view.age),
            (moments, *rest),
            mass,
            decay=config.decay,
            learning_rate=config.learning_rate,
        )
        return State(tables, optimiser), value / (1.0 + jnp.sum(log.examined) + 2.0 * jnp.sum(weight))

    return Algorithm("matrix_factorisation", levers, bounds, init, act, rank, learn)
