"""Creators: posting, and adaptation by trial and error.

A creator posts attributes h(s + sigma e): topic mix (softmax), stance (tanh), glitter, toxicity and falsity (logistic).
Substance trades off with glitter, q = (1 - 0.6 g) skill. When a slot expires with reward R the creator moves along the
trial that earned it, a one-point evolution strategy,

    s <- s + eta (R - base) / (1 + |base|) e / sigma,

which is what people who see analytics, and no gradients, can do. It drifts towards whatever is rewarded. Dividing by
the baseline makes the speed independent of how many followers a creator has.

`opinion` lets creators say what they think: stance is the author's present opinion on the topic, without noise; this is
the posting rule under which the literature's opinion models are special cases.

References:
    Hron et al. 2022; Jagadeesan et al. 2022; Yao et al. 2023 (strategic creators).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mamba.types import Array, Creators, Items, Mode, Population, Sizes, Users
from mamba.world.candidates import pack
from mamba.world.parameters import WorldParameters
from mamba.world.relax import bern, drawn, soft_step

_LIMIT = 6.0  # strategies stay where the squashing functions still have a slope
_SURPRISE = 3.0  # one viral item moves a creator by at most three ordinary surprises


def violation(toxicity: Array, veracity: Array, parameters: WorldParameters) -> Array:
    """Degree to which an item really violates the rules, in [0, 1]: a soft threshold on its worse harm."""
    harm = jnp.maximum(toxicity, 1.0 - veracity)
    return soft_step(harm - parameters.harm_threshold, parameters.harm_width)


def attributes(
    strategy: Array, skill: Array, n_topics: int, parameters: WorldParameters
) -> tuple[Array, dict[str, Array]]:
    """Item attributes of a strategy.

    Args:
        strategy: [..., D + 4]; skill: [...].
        skill: [...] substance that can be reached.
        n_topics: D.
        parameters: world parameters.

    Returns:
        `(topics [..., D], columns)` with stance, glitter, toxicity, veracity and substance, each [...].
    """
    stance, glitter, toxicity, falsity = (strategy[..., n_topics + i] for i in range(4))
    shine = jax.nn.sigmoid(glitter)
    columns = {
        "stance": jnp.tanh(stance),
        "glitter": shine,
        "toxicity": jax.nn.sigmoid(toxicity),
        "veracity": jax.nn.sigmoid(-falsity),
        "substance": (1.0 - parameters.glitter_cost * shine) * skill,
    }
    return jax.nn.softmax(strategy[..., :n_topics], axis=-1), columns


def post(
    creators: Creators,
    people: Population,
    users: Users,
    *,
    noise: Array,
    signal_noise: Array,
    draws: Array,
    parameters: WorldParameters,
    sizes: Sizes,
    mode: Mode,
    own_opinion: bool,
) -> tuple[Array, Array]:
    """One step's posts.

    Args:
        creators: strategies [N, D + 4].
        people: fixed facts about the creators.
        users: states of all users; the first N are the creators.
        noise: [N, D + 4] trials in units of their standard deviation.
        signal_noise: [N, 3] noise of the toxicity signal, the falsity signal and the verdict.
        draws: [N, 2] uniform draws behind posting and the verdict.
        parameters: world parameters.
        sizes: static sizes.
        mode: numeric mode.
        own_opinion: whether stance is the author's opinion.

    Returns:
        `(rows [N, D + 12], posted [N])`: packed rows and whether each exists.
    """
    n, d = sizes.creators, sizes.topics
    tried = creators.strategy + parameters.posting_noise * noise
    topics, columns = attributes(tried, people.skill, d, parameters)
    if own_opinion:
        columns["stance"] = jnp.sum(topics * users.opinion[:, :n].T, axis=-1)
        posted = jnp.ones_like(people.skill)
    else:
        posted = drawn(parameters.posting_rate * users.activity[:n], draws[:, 0], mode)
    truth = jnp.maximum(columns["toxicity"], 1.0 - columns["veracity"]) - parameters.harm_threshold
    judged = jax.nn.sigmoid(truth / parameters.harm_width + parameters.verdict_noise * signal_noise[:, 2])
    columns |= {
        "synthetic": people.synthetic,
        "toxicity_signal": jax.nn.sigmoid(tried[:, d + 2] + parameters.signal_noise * signal_noise[:, 0]),
        "falsity_signal": jax.nn.sigmoid(tried[:, d + 3] + parameters.signal_noise * signal_noise[:, 1]),
        "popularity": jnp.zeros_like(posted),
        "reports": jnp.zeros_like(posted),
        "alive": posted,
        "verdict": bern(judged, draws[:, 1], mode),
    }
    return pack(topics, columns), posted


def trial_and_error(
    creators: Creators, people: Population, *, reward: Array, noise: Array, posted: Array, parameters: WorldParameters
) -> Creators:
    """Learning from the items that expire in this step.

    Args:
        creators: present strategies.
        people: initial strategies, the anchor.
        reward: [N] reward of the expiring items.
        noise: [N, D + 4] their trials.
        posted: [N] whether they existed.
        parameters: world parameters.

    Returns:
        New strategies and baselines.
    """
    surprise = (reward - creators.baseline) / (1.0 + jnp.abs(creators.baseline))
    surprise = posted * jnp.clip(surprise, -_SURPRISE, _SURPRISE)
    move = parameters.creator_rate * surprise[:, None] * noise / parameters.posting_noise
    anchor = parameters.creator_anchor * (people.strategy - creators.strategy)
    return Creators(
        strategy=jnp.clip(creators.strategy + move + anchor, -_LIMIT, _LIMIT),
        baseline=creators.baseline + parameters.baseline_rate * posted * (reward - creators.baseline),
    )


def no_adaptation(
    creators: Creators, people: Population, *, reward: Array, noise: Array, posted: Array, parameters: WorldParameters
) -> Creators:
    """Creators keep their strategies."""
    del people, reward, noise, posted, parameters
    return creators


ADAPTATION = {"adaptive": trial_and_error, "static": no_adaptation, "opinion": no_adaptation}


def put(items: Items, rows: Array, noise: Array, posted: Array, *, step: Array, sizes: Sizes) -> Items:
    """Writes this step's posts over the slots that expire; see `Items` for the shapes."""
    start = (step % sizes.lifetime) * sizes.creators
    return Items(
        table=jax.lax.dynamic_update_slice_in_dim(items.table, rows, start, 0),
        noise=jax.lax.dynamic_update_slice_in_dim(items.noise, noise, start, 0),
        reward=jax.lax.dynamic_update_slice_in_dim(items.reward, jnp.zeros_like(posted), start, 0),
        posted=jax.lax.dynamic_update_slice_in_dim(items.posted, posted, start, 0),
    )


def expiring(items: Items, *, step: Array, sizes: Sizes) -> tuple[Array, Array, Array]:
    """Reward [N], trial [N, D + 4] and existence [N] of the items whose slots are reused in this step."""
    start = (step % sizes.lifetime) * sizes.creators
    take = [
        jax.lax.dynamic_slice_in_dim(leaf, start, sizes.creators, 0)
        for leaf in (items.reward, items.noise, items.posted)
    ]
    return take[0], take[1], take[2]
