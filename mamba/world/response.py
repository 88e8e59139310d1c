"""Response: what a user does with an item that they look at.

Click log-odds rise with interest match, agreement of stance, glitter, substance, and with toxicity where the user is
involved in the topic. A clicked item may be reshared: glitter, toxicity and, for a susceptible user, falsity raise the
odds (Vosoughi et al. 2018: false news is reshared about 70 % more often); friction multiplies the probability. An
examined item may be reported.

`logit` takes every examined item on its own (examination hypothesis). `multinomial` lets a user take at most one of the
examined items, against an outside option of utility 0 (multinomial logit).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mamba.streams import recycle
from mamba.sums import softmax, total
from mamba.types import Array, Mode, Users
from mamba.world.parameters import WorldParameters
from mamba.world.relax import bern, hard_with_soft_derivative


def utility(users: Users, topics: Array, items: dict[str, Array], parameters: WorldParameters) -> Array:
    """Click log-odds of candidates.

    Args:
        users: states of the served users, last axis [U].
        topics: [D, C, U] topic mixes.
        items: latent and observed columns by name, each [C, U].
        parameters: world parameters.

    Returns:
        [C, U] log-odds.
    """
    taste = softmax(users.preference)
    match = total(topics * taste[:, None], axis=0)
    view = total(topics * users.opinion[:, None], axis=0)
    gap = (items["stance"] - view) / parameters.agreement_width
    return (
        parameters.click_base
        + parameters.click_interest * match
        + parameters.click_agreement * jnp.exp(-gap * gap)
        + parameters.click_glitter * items["glitter"]
        + parameters.click_substance * items["substance"]
        + parameters.click_toxicity * items["toxicity"] * jnp.abs(view)
    )


def logit_choice(value: Array, examined: Array, draw: Array, mode: Mode) -> tuple[Array, Array]:
    """Each examined item is clicked on its own, with probability `sigma(value)`.

    Args:
        value: [C, U] log-odds.
        examined: [C, U] examined weights.
        draw: [C, U] uniform draws.
        mode: numeric mode.

    Returns:
        `(clicked [C, U], spare [C, U])`: clicked weights, and uniform draws that are independent of them.
    """
    chance = jax.nn.sigmoid(value)
    return examined * bern(chance, draw, mode), draw if mode == "expected" else recycle(draw, chance)


def multinomial_choice(value: Array, examined: Array, draw: Array, mode: Mode) -> tuple[Array, Array]:
    """At most one of the examined items is clicked, item k with probability `a_k exp(v_k) / (1 + sum_j a_j exp(v_j))`.

    Same arguments and returns as `logit_choice`; one draw a user decides.
    """
    odds = examined * jnp.exp(jnp.minimum(value, 20.0))
    chance = odds / (1.0 + total(odds, axis=0, keepdims=True))
    if mode == "expected":
        return chance, draw
    high = jnp.cumsum(jax.lax.stop_gradient(chance), axis=0)
    low = jnp.concatenate([jnp.zeros_like(high[:1]), high[:-1]])
    hard = ((low <= draw[:1]) & (draw[:1] < high)).astype(float)
    none = (draw[0] >= high[-1]).astype(float)
    start = total(hard * low, axis=0) + none * high[-1]
    width = total(hard * (high - low), axis=0) + none * (1.0 - high[-1])
    first = jnp.clip((draw[0] - start) / jnp.maximum(width, 1e-6), 1e-6, 1.0 - 1e-6)
    spare = jnp.concatenate([first[None], draw[1:]])
    return hard if mode == "sampled" else hard_with_soft_derivative(hard, chance), spare


def no_choice(value: Array, examined: Array, draw: Array, mode: Mode) -> tuple[Array, Array]:
    """Nobody clicks."""
    del examined, mode
    return jnp.zeros_like(value), draw


CHOICE = {"logit": logit_choice, "multinomial": multinomial_choice, "none": no_choice}


def reshare_probability(
    susceptibility: Array, items: dict[str, Array], friction: Array, parameters: WorldParameters
) -> Array:
    """Probability that a clicked item is reshared.

    Args:
        susceptibility: [U] effective susceptibility, in [0, 1].
        items: columns by name, each [C, U].
        friction: [C, U] multiplier in [0, 1].
        parameters: world parameters.

    Returns:
        [C, U] in [0, 1].
    """
    value = (
        parameters.reshare_base
        + parameters.reshare_glitter * items["glitter"]
        + parameters.reshare_falsity * (1.0 - items["veracity"]) * susceptibility[None]
        + parameters.reshare_toxicity * items["toxicity"]
    )
    return jax.nn.sigmoid(value) * friction


def report_probability(items: dict[str, Array], parameters: WorldParameters) -> Array:
    """Probability that an examined item is reported, [C, U]."""
    return jax.nn.sigmoid(
        parameters.report_base
        + parameters.report_toxicity * items["toxicity"]
        + parameters.report_falsity * (1.0 - items["veracity"])
    )
