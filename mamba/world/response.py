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

from mamba.sums import total
from mamba.types import Array, Users
from mamba.world.parameters import WorldParameters


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
    taste = jax.nn.softmax(users.preference, axis=0)
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


def logit_choice(value: Array, examined: Array) -> Array:
    """Each examined item is clicked on its own: `sigma(value)`, [C, U]; `examined` is not used."""
    del examined
    return jax.nn.sigmoid(value)


def multinomial_choice(value: Array, examined: Array) -> Array:
    """At most one of the examined items in expectation: `exp(v) / (1 + sum_k a_k exp(v_k))`, [C, U]."""
    odds = jnp.exp(jnp.minimum(value, 20.0))
    return odds / (1.0 + total(examined * odds, axis=0, keepdims=True))


def no_choice(value: Array, examined: Array) -> Array:
    """Nobody clicks."""
    del examined
    return jnp.zeros_like(value)


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
