"""Actions: what users do to an item besides clicking and resharing it, and what they say of it when asked.

Platforms train rankers on many predicted actions. Given that an item is clicked, and with `agree` = exp(-gap^2) of its
stance, `g` glitter, `q` substance, `z` toxicity,

    like              sigma(like_base + like_agreement agree + like_substance q)
    reply             sigma(reply_base + reply_disagreement (1 - agree) + reply_toxicity z)
    reply_engaged     reply x reply_answered         (the author answers)
    good_click        sigma(8 (q - dwell_substance)) (stays on it)
    profile_click     profile_share q                (looks at the author)
    video             video_share g                  (plays half of it)

and, of an examined item, negative feedback ("not interested", mute, block) sigma(negative_base + negative_toxicity z +
negative_disagreement (1 - agree)). A user who is asked about an examined item states its value to them on reflection,
sigma(4 (q - rating_toxicity z - rating_falsity (1 - v) - rating_neutral)): what people say they value is not what they click.

Only the logged batch of users is evaluated: these actions are seen by learners and change nothing in the world.

References:
    The published ranker of a large platform (twitter/the-algorithm-ml, heavy ranker README) for the list of actions;
    Milli et al. 2023 (engagement against stated preferences). The numbers are structural hypotheses.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mamba.types import ACTIONS, Array, Mode
from mamba.world.parameters import WorldParameters
from mamba.world.relax import bern


def probabilities(items: dict[str, Array], gap: Array, parameters: WorldParameters) -> dict[str, Array]:
    """Probability of every action of `ACTIONS`, given a click (negative feedback: given a look).

    Args:
        items: latent and observed columns by name, each [C, B].
        gap: [C, B] distance between the item's stance and the user's opinion on its topics.
        parameters: world parameters.

    Returns:
        Action -> [C, B] in [0, 1].
    """
    scaled = gap / parameters.agreement_width
    agree = jnp.exp(-scaled * scaled)
    glitter, substance, toxicity = items["glitter"], items["substance"], items["toxicity"]
    reply = jax.nn.sigmoid(
        parameters.reply_base + parameters.reply_disagreement * (1.0 - agree) + parameters.reply_toxicity * toxicity
    )
    found = {
        "like": jax.nn.sigmoid(
            parameters.like_base + parameters.like_agreement * agree + parameters.like_substance * substance
        ),
        "reply": reply,
        "reply_engaged": reply * parameters.reply_answered,
        "good_click": jax.nn.sigmoid(8.0 * (substance - parameters.dwell_substance)),
        "profile_click": parameters.profile_share * substance,
        "video": parameters.video_share * glitter,
        "negative": jax.nn.sigmoid(
            parameters.negative_base
            + parameters.negative_toxicity * toxicity
            + parameters.negative_disagreement * (1.0 - agree)
        ),
    }
    return {name: found[name] for name in ACTIONS}


def stated_value(items: dict[str, Array], parameters: WorldParameters) -> Array:
    """What a user who is asked says an item was worth, [C, B] in [0, 1]."""
    return jax.nn.sigmoid(
        4.0
        * (
            items["substance"]
            - parameters.rating_toxicity * items["toxicity"]
            - parameters.rating_falsity * (1.0 - items["veracity"])
            - parameters.rating_neutral
        )
    )


def taken(
    items: dict[str, Array],
    gap: Array,
    *,
    examined: Array,
    clicked: Array,
    draws: Array,
    ask_draw: Array,
    parameters: WorldParameters,
    mode: Mode,
) -> tuple[dict[str, Array], Array, Array]:
    """Actions of the logged batch.

    Args:
        items: columns by name, each [C, B].
        gap: [C, B] see `probabilities`.
        examined: [C, B] examined weights.
        clicked: [C, B] clicked weights.
        draws: [len(ACTIONS), C, B] uniform draws behind the actions.
        ask_draw: [C, B] uniform draws behind who is asked.
        parameters: world parameters.
        mode: numeric mode.

    Returns:
        `(actions, asked, rating)`: action -> [C, B] weights; asked [C, B] weights; rating [C, B], 0 where not asked.
    """
    chances = probabilities(items, gap, parameters)
    actions = {
        name: (examined if name == "negative" else clicked) * bern(chance, draws[i], mode)
        for i, (name, chance) in enumerate(chances.items())
    }
    asked = examined * bern(jnp.broadcast_to(parameters.survey_share, gap.shape), ask_draw, mode)
    return actions, asked, asked * stated_value(items, parameters)
