"""What attention does to people: opinion, preference, fatigue, wellbeing, trust, resilience, activity, churn.

With `a` examined and `c` clicked weights of a user's candidates, `tau` topic mix, `s` stance, `q` substance, `g` glitter,
`z` toxicity and `v` veracity (subscripts dropped), one step is

    x <- clip(x + eta (1/2 + sus) sum (0.3 a + 0.7 c) tau K(s - x) (s - x) + kappa (x0 - x))
    p <- p + eta_p sum c (tau - softmax p) - delta (p - p0)
    f <- 0.7 f + 0.06 sum a
    w <- w - 0.1 w + 0.05 sum c q - 0.06 sum a z - 0.03 sum a max(0, g - q) - 0.03 (f^2 + Var f)
    r <- r + 0.05 (r0 - r) - 0.02 sum a (1 - v) + 0.003 sum a v - shock of false removals
    res <- res + alpha sum a (1 - v) (1 - friction) (1 - res) - delta res
    act <- act + 0.1 (sigma(0.2 + 0.6 sum c q + 0.8 w + (r - r0) - 0.3 f) - act)

(Var f is 0 where events are drawn; in the expected mode it is that of the draws that f averages, carried from step to step
by the linearised law, Var f <- (0.7 + 0.06 dE[n]/df)^2 Var f + 0.06^2 Var n, with n the number of examined items), and with
the numbers as defaults of `WorldParameters` and the kernel K of `OPINION`. Each line is a mechanism that the
configuration replaces by name; `none` leaves the state where it is.

References:
    Friedkin and Johnsen 1990; DeGroot 1974; Deffuant et al. 2000; Hegselmann and Krause 2002; Jager and Amblard 2004
    (repulsion).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from mamba.storing import stored
from mamba.sums import inner, softmax, total, total_of
from mamba.types import Array, Mode, Population, Users
from mamba.world.parameters import WorldParameters
from mamba.world.relax import bern, soft_step


@struct.dataclass
class LoadSpread:
    """Second-order facts about the number n of examined items of a step, for the expected mode.

    Attributes:
        variance: [U] of n at the user's mean fatigue.
        feedback: [U] derivative of E[n] with respect to fatigue, at most 0: tired users stop earlier.
    """

    variance: Array
    feedback: Array


@struct.dataclass
class Experience:
    """What happened to each served user in a step.

    Attributes:
        examined: [C, U] examined weights, times being active.
        clicked: [C, U] clicked weights.
        topics: [D, C, U] topic mixes of the candidates.
        clicked_topics: [D, U] their sum over what was clicked.
        items: latent and observed columns by name, each [C, U].
        friction: [C, U] combined friction on sharing; below 1 where a label or prompt is shown.
        removed: [U] benign own items removed in this step, as a share of one item.
        load: how far the number of examined items would scatter; zeros where it was drawn.
    """

    examined: Array
    clicked: Array
    topics: Array
    clicked_topics: Array
    items: dict[str, Array]
    friction: Array
    removed: Array
    load: LoadSpread


def effective_susceptibility(users: Users, people: Population) -> Array:
    """Susceptibility that resilience leaves, [U]."""
    return people.susceptibility * (1.0 - users.resilience)


# ---- opinion
# -----------------------------------------------------------------------------------------------------------


def _open_kernel(distance: Array, parameters: WorldParameters) -> Array:
    del parameters
    return jnp.ones_like(distance)


def _bounded_kernel(distance: Array, parameters: WorldParameters) -> Array:
    return soft_step(parameters.confidence - distance, parameters.confidence_width)


# Widths from the middle of a soft step. What is left of it there, 2e-9, is 0 to float32; the fourth power, which a derivative
# divides by, is still finite.
_END_OF_STEP = 20.0


def _repulsive_kernel(distance: Array, parameters: WorldParameters) -> Array:
    # soft_step(confidence - distance) - repulsion soft_step(distance - repulsion_distance), by one division instead of four:
    # this is the one thing that is computed for every user, candidate and topic.
    scale = 1.0 / parameters.confidence_width
    near = 1.0 + jnp.exp(jnp.minimum((distance - parameters.confidence) * scale, _END_OF_STEP))
    far = 1.0 + jnp.exp(jnp.minimum((parameters.repulsion_distance - distance) * scale, _END_OF_STEP))
    return (far - parameters.repulsion * near) / (near * far)


def _persuasion(experience: Experience, parameters: WorldParameters) -> Array:
    share = parameters.examined_share
    return share * experience.examined + (1.0 - share) * experience.clicked


def _drift(kernel):
    def pull(of_candidates: tuple[Array, Array, Array, Array], parameters: WorldParameters) -> Array:
        stance, opinion, topics, persuasion = of_candidates
        gap = stance - opinion
        return persuasion * topics * kernel(jnp.abs(gap), parameters) * gap

    def opinion(users: Users, people: Population, experience: Experience, parameters: WorldParameters) -> Array:
        gain = parameters.opinion_rate * (0.5 + effective_susceptibility(users, people))
        stance, persuasion = experience.items["stance"][None], _persuasion(experience, parameters)[None]
        parts = (stance, users.opinion[:, None], experience.topics, persuasion)
        change = gain[None] * stored(lambda *given: total_of(pull, given, parameters, axis=1), *parts)
        anchor = parameters.opinion_anchor * (people.innate - users.opinion)
        return jnp.clip(users.opinion + change + anchor, -1.0, 1.0)

    return opinion


def _average(kernel):
    def opinion(users: Users, people: Population, experience: Experience, parameters: WorldParameters) -> Array:
        stance = experience.items["stance"][None]
        weight = experience.examined[None] * experience.topics
        weight = weight * kernel(jnp.abs(stance - users.opinion[:, None]), parameters)
        own, innate = parameters.self_weight, parameters.innate_weight
        pull = own * users.opinion + innate * people.innate + total(weight * stance, axis=1)
        mass = own + innate + total(weight, axis=1)
        return jnp.where(mass > 0, pull / jnp.where(mass > 0, mass, 1.0), users.opinion)

    return opinion


def _keep_opinion(users: Users, people: Population, experience: Experience, parameters: WorldParameters) -> Array:
    del people, experience, parameters
    return users.opinion


# The first three differ in the kernel of the drift only; the two averaging rules are the synchronous models of DeGroot,
# Friedkin-Johnsen (innate_weight > 0) and Hegselmann-Krause.
OPINION = {
    "friedkin_johnsen": _drift(_open_kernel),
    "bounded_confidence": _drift(_bounded_kernel),
    "repulsive": _drift(_repulsive_kernel),
    "averaging": _average(_open_kernel),
    "bounded_averaging": _average(_bounded_kernel),
    "none": _keep_opinion,
}


# ---- the other user states; each maps (users, people, experience, parameters) to the new value of one field
# -------------


def _reinforced_preference(
    users: Users, people: Population, experience: Experience, parameters: WorldParameters
) -> Array:
    taste = softmax(users.preference)
    pull = experience.clicked_topics - total(experience.clicked, axis=0)[None] * taste
    decay = parameters.preference_decay * (users.preference - people.interest)
    return users.preference + parameters.preference_rate * pull - decay


def _loaded_fatigue(users: Users, people: Population, experience: Experience, parameters: WorldParameters) -> Array:
    del people
    load = total(experience.examined, axis=0)
    return parameters.fatigue_decay * users.fatigue + parameters.fatigue_load * load


def _fatigue_variance(users: Users, people: Population, experience: Experience, parameters: WorldParameters) -> Array:
    del people
    memory = parameters.fatigue_decay + parameters.fatigue_load * experience.load.feedback
    return memory**2 * users.fatigue_variance + parameters.fatigue_load**2 * experience.load.variance


def _setpoint_wellbeing(users: Users, people: Population, experience: Experience, parameters: WorldParameters) -> Array:
    del people
    items, examined = experience.items, experience.examined
    comparison = jnp.maximum(0.0, items["glitter"] - items["substance"])
    loss = parameters.wellbeing_toxicity * items["toxicity"] + parameters.wellbeing_comparison * comparison
    return (
        (1.0 - parameters.wellbeing_return) * users.wellbeing
        + parameters.wellbeing_substance * inner(experience.clicked, items["substance"])
        - inner(examined, loss)
        - parameters.wellbeing_overuse * (users.fatigue**2 + users.fatigue_variance)
    )


def _experienced_trust(users: Users, people: Population, experience: Experience, parameters: WorldParameters) -> Array:
    del people
    veracity = experience.items["veracity"]
    change = parameters.trust_veracity * veracity - parameters.trust_falsity * (1.0 - veracity)
    back = parameters.trust_return * (parameters.trust_setpoint - users.trust)
    shock = parameters.trust_false_removal * experience.removed
    return jnp.clip(users.trust + back + inner(experience.examined, change) - shock, 0.0, 1.0)


def _learned_resilience(users: Users, people: Population, experience: Experience, parameters: WorldParameters) -> Array:
    del people
    exposed = inner(experience.examined * (1.0 - experience.friction), 1.0 - experience.items["veracity"])
    gain = parameters.resilience_learning * exposed * (1.0 - users.resilience)
    return jnp.clip(users.resilience + gain - parameters.resilience_decay * users.resilience, 0.0, 1.0)


def _habitual_activity(users: Users, people: Population, experience: Experience, parameters: WorldParameters) -> Array:
    del people
    satisfaction = inner(experience.clicked, experience.items["substance"])
    value = (
        parameters.activity_base
        + parameters.activity_satisfaction * satisfaction
        + parameters.activity_wellbeing * users.wellbeing
        + parameters.activity_trust * (users.trust - parameters.trust_setpoint)
        - parameters.activity_fatigue * users.fatigue
    )
    return users.activity + parameters.activity_rate * (jax.nn.sigmoid(value) - users.activity)


def _keep(field: str):
    def same(users: Users, people: Population, experience: Experience, parameters: WorldParameters) -> Array:
        del people, experience, parameters
        return getattr(users, field)

    return same


PREFERENCE = {"reinforced": _reinforced_preference, "none": _keep("preference")}
FATIGUE = {"load": _loaded_fatigue, "none": _keep("fatigue")}
FATIGUE_VARIANCE = {"load": _fatigue_variance, "none": _keep("fatigue_variance")}
WELLBEING = {"setpoint": _setpoint_wellbeing, "none": _keep("wellbeing")}
TRUST = {"experience": _experienced_trust, "none": _keep("trust")}
RESILIENCE = {"labels": _learned_resilience, "none": _keep("resilience")}
ACTIVITY = {"habit": _habitual_activity, "none": _keep("activity")}


# ---- churn
# -------------------------------------------------------------------------------------------------------------


def newcomers(people: Population, parameters: WorldParameters) -> Users:
    """State of a user who has just arrived, for every slot; last axis [U]."""
    zero = jnp.zeros_like(people.susceptibility)
    return Users(
        opinion=people.innate,
        preference=people.interest,
        fatigue=zero,
        fatigue_variance=zero,
        wellbeing=zero,
        trust=zero + parameters.trust_setpoint,
        resilience=zero,
        activity=zero + parameters.arrival_activity,
    )


def departures(users: Users, *, draw: Array, parameters: WorldParameters, mode: Mode) -> Array:
    """Who leaves: a user whose activity has died down may.

    Args:
        users: [U] states.
        draw: [U] uniform draws.
        parameters: world parameters.
        mode: numeric mode; in `expected` mode the probability to leave.

    Returns:
        [U] weights in [0, 1].
    """
    width = 0.2 * parameters.churn_threshold + 1e-6
    return bern(parameters.churn_rate * soft_step(parameters.churn_threshold - users.activity, width), draw, mode)


def no_departures(users: Users, *, draw: Array, parameters: WorldParameters, mode: Mode) -> Array:
    """Nobody leaves."""
    del draw, parameters, mode
    return jnp.zeros_like(users.activity)


def replaced(old: Any, new: Any, leaves: Array) -> Any:
    """Pytree `old` with a share `leaves [U]` of every user's entry replaced by that of `new`; users are the last axis."""

    def mix(before: Array, after: Array) -> Array:
        return before + leaves.reshape((1,) * (before.ndim - 1) + leaves.shape) * (after - before)

    return jax.tree.map(mix, old, new)


# A newcomer with the innate traits of the slot takes the place of who leaves.
CHURN = {"replacement": departures, "none": no_departures}
