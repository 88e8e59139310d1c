"""Held-out ranking on MovieLens (ml-latest-small): the cores of `matrix_factorisation` and `two_tower` against popularity.

    python experiments/algorithm_zoo/held_out_ranking.py RATINGS.npz [--seed 0] [--starts 3]

RATINGS.npz holds `user`, `item` and `rating` [n], `item_genre` [k, 2] pairs, `n_users` and `n_items`; the data are GroupLens's
and not part of this project. A film rated 4 or more is liked. A fifth of every user's likes, drawn at random, is held out
(users with 5 likes or more); all films that a user has not liked in the rest are ranked. Settings were chosen on a further
split of the training part. Alternating least squares of the package `implicit` is added where that is installed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mamba.algorithms import factors, nets
from mamba.streams import normals, uniforms
from mamba.types import Array

LIKED = 4.0
SHARE = 0.2
FEWEST = 5
START = 0.1  # standard deviation of id embeddings at the start
QUIET = 0.03  # share of the usual start that the last layer of a tower begins with: at first the ids speak
FACTORISATION = {"width": 64, "confidence": 4.0, "decay": 60.0, "learning_rate": 0.05, "steps": 100}
TOWERS = {
    "hidden": 32,
    "width": 64,
    "scale": 4.0,
    "confidence": 4.0,
    "penalty": 30.0,
    "learning_rate": 0.006,
    "batch": 122,
    "epochs": 80,
}
LIBRARY = {"factors": 64, "regularization": 30.0, "alpha": 4.0, "iterations": 15}


class Split(NamedTuple):
    """Likes to learn from and likes held out, bool [M, U]; genres [M, G] of the films."""

    train: np.ndarray
    test: np.ndarray
    genres: np.ndarray


class Quality(NamedTuple):
    """Mean over users with held-out likes."""

    ndcg_10: float
    recall_20: float


def held_out(liked: np.ndarray, seed: int) -> np.ndarray:
    """A random `SHARE` of every user's likes, bool [M, U], of users with at least `FEWEST`."""
    rng = np.random.default_rng(seed)
    out = np.zeros_like(liked)
    for user in range(liked.shape[1]):
        mine = np.flatnonzero(liked[:, user])
        if len(mine) >= FEWEST:
            out[rng.permutation(mine)[: round(SHARE * len(mine))], user] = True
    return out


def load(path: Path, seed: int = 0) -> Split:
    """Reads the ratings and splits them."""
    data = np.load(path)
    liked = np.zeros((int(data["n_items"]), int(data["n_users"])), bool)
    keep = data["rating"] >= LIKED
    liked[data["item"][keep], data["user"][keep]] = True
    item, genre = data["item_genre"].T
    genres = np.zeros((len(liked), int(genre.max()) + 1), np.float32)
    genres[item, genre] = 1.0
    test = held_out(liked, seed)
    return Split(liked & ~test, test, genres)


def quality(score: np.ndarray, split: Split) -> Quality:
    """NDCG@10 and recall@20 of scores [M, U], every film that is not liked in training being ranked."""
    users = split.test.any(axis=0)
    score = np.where(split.train, -np.inf, score)[:, users]
    wanted = split.test[:, users]
    top = np.argsort(-score, axis=0, kind="stable")[:20]
    hit = np.take_along_axis(wanted, top, axis=0)
    count = wanted.sum(axis=0)
    gain = 1.0 / np.log2(np.arange(2, 12))
    ideal = np.cumsum(gain)[np.minimum(count, 10) - 1]
    return Quality(float((gain @ hit[:10] / ideal).mean()), float((hit.sum(axis=0) / count).mean()))


def popularity(split: Split) -> np.ndarray:
    """Scores [M, U]: likes in training."""
    return np.repeat(split.train.sum(axis=1, dtype=np.float32)[:, None], split.train.shape[1], axis=1)


def factorisation(split: Split, seed: int = 0, **settings: Any) -> np.ndarray:
    """Scores [M, U] of the core of `matrix_factorisation`."""
    liked = jnp.asarray(split.train, jnp.float32)
    fitted, _ = factors.fit(liked, jax.random.key(seed), **FACTORISATION | settings)
    return np.asarray(factors.affinities(fitted))


def towers(split: Split, seed: int = 0, **settings: Any) -> np.ndarray:
    """Scores [M, U] of two `nets.Tower`s with a residual path from their id embeddings.

    The user tower reads an embedding of the user's id and the summed id embeddings of the films liked, over the root of their
    number; the item tower an embedding of the film's id, its genres and its popularity. The loss is that of `factors`, with
    its penalty on the towers' outputs, by Adam on batches of users and all their films. Films without a like in training
    are ranked last. Beside the user's id the history adds nothing: validation without it is the same.
    """
    chosen = TOWERS | settings
    known = np.flatnonzero(split.train.any(axis=1))
    liked = jnp.asarray(split.train[known].T, jnp.float32)
    users, items = liked.shape
    width, batch, epochs = (int(chosen[name]) for name in ("width", "batch", "epochs"))
    batch = min(batch, users)
    popular = jnp.log1p(jnp.sum(liked, axis=0))[:, None]
    content = jnp.concatenate([jnp.asarray(split.genres[known]), popular / jnp.max(popular)], axis=1)
    tower = nets.Tower(int(chosen["hidden"]), width, residual=True)
    item_id_key, user_id_key, item_key, user_key, order_key = jax.random.split(jax.random.key(seed), 5)

    def quiet(key: Array, features: int) -> Any:
        begin = tower.init(key, jnp.zeros((1, features)))["params"]
        return {"params": begin | {"Dense_1": jax.tree.map(lambda x: QUIET * x, begin["Dense_1"])}}

    begin = {
        "item_id": START * normals(uniforms(item_id_key, (items, width))),
        "user_id": START * normals(uniforms(user_id_key, (users, width))),
        "item": quiet(item_key, width + content.shape[1]),
        "user": quiet(user_key, 2 * width),
    }

    def outputs(parameters: Any, who: Array) -> tuple[Array, Array]:
        mine = liked[who]
        history = mine @ parameters["item_id"] / jnp.sqrt(1.0 + jnp.sum(mine, axis=1, keepdims=True))
        user = tower.apply(parameters["user"], jnp.concatenate([parameters["user_id"][who], history], axis=1))
        item = tower.apply(parameters["item"], jnp.concatenate([parameters["item_id"], content], axis=1))
        return jnp.sqrt(chosen["scale"]) * jnp.asarray(user), jnp.sqrt(chosen["scale"]) * jnp.asarray(item)

    def loss(parameters: Any, who: Array) -> Array:
        user, item = outputs(parameters, who)
        mine = liked[who]
        penalty = chosen["penalty"] * (jnp.sum(user * user) + jnp.sum(item * item) * len(who) / users)
        return (factors.loss(user @ item.T, mine, 1.0 - mine, chosen["confidence"]) + penalty) / jnp.sum(mine)

    per_epoch = users // batch
    optimiser = optax.adam(optax.cosine_decay_schedule(chosen["learning_rate"], epochs * per_epoch))

    @jax.jit
    def trained(parameters: Any) -> Array:
        def one(carry: tuple[Any, Any], who: Array) -> tuple[tuple[Any, Any], None]:
            parameters, state = carry
            change, state = optimiser.update(jax.grad(loss)(parameters, who), state, parameters)
            return (optax.apply_updates(parameters, change), state), None

        # every user once an epoch, but for those left over from whole batches
        order = jnp.argsort(uniforms(order_key, (epochs, users)), axis=1)
        order = order[:, : per_epoch * batch].reshape(-1, batch)
        (parameters, _), _ = jax.lax.scan(one, (parameters, optimiser.init(parameters)), order)
        user, item = outputs(parameters, jnp.arange(users))
        return item @ user.T

    scores = np.full(split.train.shape, np.finfo(np.float32).min)
    scores[known] = np.asarray(trained(begin))
    return scores


def library(split: Split, seed: int = 0) -> np.ndarray:
    """Scores [M, U] of the package `implicit`; an ImportError where it is not installed."""
    from implicit.als import AlternatingLeastSquares
    from scipy import sparse

    model = AlternatingLeastSquares(**LIBRARY, random_state=seed, use_gpu=False, num_threads=1)
    model.fit(sparse.csr_matrix(split.train.T.astype(np.float32)), show_progress=False)
    return model.item_factors @ model.user_factors.T


def main() -> None:
    """Prints a table: held-out quality of every method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ratings", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    parser.add_argument("--starts", type=int, default=3, help="random starts that each method is averaged over")
    given = parser.parse_args()
    split = load(given.ratings, given.seed)
    print("| method | NDCG@10 | recall@20 |\n|---|---|---|")
    methods = {
        "popularity": lambda split, seed: popularity(split),
        "matrix_factorisation": factorisation,
        "two_tower": towers,
        "implicit, ALS": library,
    }
    for name, scores in methods.items():
        try:
            found = np.mean([quality(scores(split, start), split) for start in range(given.starts)], axis=0)
        except ImportError as error:
            print(f"| {name} | {error} | |")
            continue
        print(f"| {name} | {found[0]:.4f} | {found[1]:.4f} |", flush=True)


if __name__ == "__main__":
    main()
