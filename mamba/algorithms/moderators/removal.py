"""`removal`: takes down what a classifier holds for a violation.

A logistic classifier reads noisy harm signals and user reports; it is trained on the verdicts of delayed reviews. Per
step an item survives with probability

    1 - hazard,   hazard = speed * sigma((p_violation - threshold) / width),

the deployed soft policy. Own loss: cross-entropy on the reviewed items of this step.

References:
    Schneider and Rizoiu 2023 (removal delay against harm).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from mamba.algorithms import features, logistic
from mamba.algorithms.base import Act, Algorithm, between, levers_from
from mamba.fields import setting
from mamba.types import Array, Learned, Log, View

# Trained before it is deployed, as such classifiers are: a logistic regression of verdicts on the features of 3,100 live
# items of the default world, rounded, with half the weight on reports, which are few and noisy. At the default levers
# violations then stay up for 20 hours instead of 23, and 3 % of the benign posts go (generated network, 1,000 users).
_PRIOR = (-0.9, 0.25, 0.25, 1.3, 0.5)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the removal moderator."""

    threshold: float = setting(
        0.6, "predicted probability of a violation above which items are removed", unit="0 to 1", gt=0, lt=1
    )
    speed: float = setting(0.5, "removal probability of a certain violation", unit="per step", gt=0, lt=1)
    width: float = setting(0.05, "softness of the threshold on the predicted probability", unit="0 to 1", gt=0, le=1)
    learning_rate: float = setting(0.02, "step size of the online learner", gt=0, le=0.5)


def make(config: Config) -> Algorithm:
    """Builds the algorithm; levers `threshold` and `speed`."""
    bounds = {"threshold": between(0.0, 1.0, "probability"), "speed": between(0.0, 1.0, "probability per step")}

    def init(key: Array, view: View) -> Learned:
        del key, view
        learned = logistic.start(5, heads=1, bias=_PRIOR[0], learning_rate=config.learning_rate)
        return learned._replace(weights=jnp.asarray(_PRIOR, float)[:, None])

    def act(levers: dict[str, Array], learned: Learned, view: View, key: Array) -> Act:
        del key
        violation = logistic.predict(learned, features.harm(view.items))[0]
        hazard = levers["speed"] * jax.nn.sigmoid((violation - levers["threshold"]) / config.width)
        return Act(survive=1.0 - hazard)

    def learn(levers: dict[str, Array], learned: Learned, view: View, log: Log, key: Array) -> tuple[Learned, Array]:
        del levers, key
        return logistic.update(
            learned,
            features.harm(view.items),
            [log.verdict],
            log.checked,
            learning_rate=config.learning_rate,
        )

    levers = levers_from({"threshold": config.threshold, "speed": config.speed}, bounds)
    return Algorithm("removal", levers, bounds, init=init, act=act, learn=learn)
