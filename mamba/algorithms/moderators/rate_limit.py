"""`rate_limit`: nobody posts or reshares more than so much per window.

Running counts with the memory 1 - 1 / window,

    n' = (1 - 1 / window) n + posts (or reshares) of the step,

at a steady rate those of one window. A new item of an author above the limit survives with probability
sigma((posts - n) / width); a user above the limit of reshares has every reshare multiplied by sigma((reshares - n) / width).
Attempts count, so a limit cannot be outrun. It reads nothing of what is said and has no loss of
its own.

Levers: `posts`, `reshares`.

References:
    Limits on posting and forwarding as platforms deploy them; de Freitas Melo et al. 2019 (limits on forwarding).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mamba.algorithms import review
from mamba.algorithms.base import Act, Algorithm, Rank, levers_from, positive
from mamba.fields import setting
from mamba.types import Array, Candidates, Learned, Log, View


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the rate limit."""

    posts: float = setting(4.0, "posts that an author is allowed in a window", unit="per window", gt=0)
    reshares: float = setting(2.0, "reshares that a user is allowed in a window", unit="per window", gt=0)
    window: float = setting(12.0, "length of the window in which posts and reshares are counted", unit="steps", ge=1)
    width: float = setting(0.5, "softness of the limits on posts and on reshares", unit="per window", gt=0, le=10)


class State(NamedTuple):
    """Learned state: running posts and reshares of every account, [U]."""

    posts: Array
    reshares: Array


def make(config: Config) -> Algorithm:
    """Builds the algorithm; levers `posts`, `reshares`."""
    bounds = {"posts": positive("posts per window"), "reshares": positive("reshares per window")}
    memory = 1.0 - 1.0 / config.window

    def init(key: Array, view: View) -> Learned:
        del key
        return State(jnp.zeros(view.group.shape), jnp.zeros(view.group.shape))

    def act(levers: dict[str, Array], learned: Learned, view: View, key: Array) -> Act:
        del key
        stopped = jax.nn.sigmoid((learned.posts - levers["posts"]) / config.width)
        return Act(survive=1.0 - stopped[view.author] * (1.0 - review.standing(view)))

    def rank(levers: dict[str, Array], learned: Learned, view: View, candidates: Candidates, key: Array) -> Rank:
        del view, key
        left = jax.nn.sigmoid((levers["reshares"] - learned.reshares[candidates.users]) / config.width)
        return Rank(friction=jnp.broadcast_to(left[None], candidates.ids.shape))

    def learn(levers: dict[str, Array], learned: Learned, view: View, log: Log, key: Array) -> tuple[Learned, Array]:
        del levers, key
        posted = view.items.alive * (1.0 - review.standing(view))
        posts = (memory * learned.posts).at[view.author].add(posted)
        return State(posts, memory * learned.reshares + log.shared_weight), jnp.zeros(())

    levers = levers_from({name: getattr(config, name) for name in bounds}, bounds)
    return Algorithm("rate_limit", levers, bounds, init=init, act=act, rank=rank, learn=learn)
