"""`review_queue`: few human reviewers, who look first at what would do most harm.

Live items that nobody has reviewed wait in a queue. Their value is the harm that acting now prevents,

    V = P(violation) * severity * expected exposures,
    severity = toxicity * toxicity signal + falsity signal,
    expected exposures = horizon * softplus(x + horizon / 2 * dx/dt) + prior,

with x the running exposures per step and dx/dt their growth: n (e^{v h} - 1) / v to second order in h, linear in counts.
`capacity` reviews a step go to the top of log V (`mamba.algorithms.review.top`). A reviewer answers as the measured
disagreement of real moderators says; what is found to violate is removed at the start of the next step, once. P(violation)
is a logistic classifier trained on these answers and on the delayed random checks.

Levers: `capacity`, `horizon`, `toxicity`. Own loss: share of the live items' preventable harm that nobody has reviewed.

References:
    Schneider and Rizoiu 2023 (delay and half-life); Whittle 1988 (index policies); Davidson et al. 2017 (disagreement).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mamba.algorithms import features, logistic, review
from mamba.algorithms.base import Act, Algorithm, between, levers_from, positive
from mamba.fields import setting
from mamba.types import COUNTS, Array, Learned, Log, ObservedItems, View

_PRIOR = 0.5  # exposures that an item without history is expected to get


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the review queue."""

    capacity: float = setting(0.02, "reviews, as a share of item slots", unit="per step", gt=0, lt=1)
    horizon: float = setting(6.0, "how far ahead harm is counted", unit="steps", gt=0, lt=48)
    toxicity: float = setting(1.0, "severity of full toxicity against full falsity", unit="relative", gt=0)
    width: float = setting(
        0.25, "softness of the cut between what is reviewed and what waits", unit="log-harm", gt=0, le=5
    )
    memory: float = setting(0.7, "share of an item's running exposures that stays", unit="per step", ge=0, lt=1)
    sensitivity: float = setting(
        review.SENSITIVITY, "probability that a reviewer finds a violation", unit="0 to 1", ge=0, le=1
    )
    specificity: float = setting(
        review.SPECIFICITY, "probability that a reviewer keeps a harmless item", unit="0 to 1", ge=0, le=1
    )
    learning_rate: float = setting(0.02, "step size of the online learner", gt=0, le=0.5)


class State(NamedTuple):
    """Learned state: the classifier, running exposures and growth [M], reviewed [M], verdicts to act on [M], reviews."""

    classifier: logistic.Logistic
    exposures: Array
    growth: Array
    reviewed: Array
    guilty: Array
    paid: Array


def preventable(levers: dict[str, Array], learned: State, items: ObservedItems) -> Array:
    """Expected preventable harm V of every item, [M]."""
    violation = logistic.predict(learned.classifier, features.harm(items))[0]
    severity = levers["toxicity"] * items.toxicity_signal + items.falsity_signal
    ahead = jax.nn.softplus(learned.exposures + 0.5 * levers["horizon"] * learned.growth)
    return violation * severity * (levers["horizon"] * ahead + _PRIOR)


def make(config: Config) -> Algorithm:
    """Builds the algorithm; levers `capacity`, `horizon`, `toxicity`."""
    bounds = {
        "capacity": between(0.0, 1.0, "share of item slots per step"),
        "horizon": between(0.0, 48.0, "steps"),
        "toxicity": positive("relative"),
    }

    def init(key: Array, view: View) -> Learned:
        del key
        classifier = logistic.start(5, heads=1, bias=-2.0, learning_rate=config.learning_rate)
        classifier = classifier._replace(weights=classifier.weights.at[1:4, 0].set(0.5))
        none = jnp.zeros(view.age.shape)
        return State(classifier, none, none, none, none, jnp.zeros(()))

    def act(levers: dict[str, Array], learned: Learned, view: View, key: Array) -> Act:
        del levers, key
        return Act(survive=1.0 - jnp.clip(learned.guilty, 0.0, 1.0) * review.standing(view), reviews=learned.paid)

    def learn(levers: dict[str, Array], learned: Learned, view: View, log: Log, key: Array) -> tuple[Learned, Array]:
        del key
        kept = review.standing(view)
        alive = view.items.alive - log.taken
        before = learned.exposures * kept
        exposures = config.memory * before + (1.0 - config.memory) * log.counts[:, COUNTS.index("exposures")]
        # The step in which an item appears tells its level, not its growth.
        growth = config.memory * learned.growth * kept + (1.0 - config.memory) * (exposures - before) * kept
        reviewed = learned.reviewed * kept
        learned = learned._replace(exposures=exposures, growth=growth)

        value = preventable(levers, learned, view.items)
        waiting = alive * (1.0 - reviewed)
        chance = review.top(jnp.log(value + 1e-6), waiting, levers["capacity"] * kept.shape[0], config.width)
        looked = (1.0 - reviewed) * chance
        found = review.answer(log.judgement, sensitivity=config.sensitivity, specificity=config.specificity)
        reviewed = reviewed + looked
        left = jnp.sum(alive * (1.0 - reviewed) * value) / (jnp.sum(alive * value) + 1e-6)

        paid = alive * looked
        weight = paid + log.checked
        label = (paid * found + log.checked * log.verdict) / jnp.maximum(weight, 1e-6)
        classifier, _ = logistic.update(
            learned.classifier, features.harm(view.items), [label], weight, learning_rate=config.learning_rate
        )
        return State(classifier, exposures, growth, reviewed, looked * found, jnp.sum(paid)), left

    levers = levers_from({name: getattr(config, name) for name in bounds}, bounds)
    return Algorithm("review_queue", levers, bounds, init=init, act=act, learn=learn)
