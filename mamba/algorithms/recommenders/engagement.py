"""`engagement`: a ranker trained on what users do, clicks and reshares unless told otherwise.

A logistic head for every action of non-zero weight predicts P(action | examined) from logged features. The score is the
weighted sum of predicted actions that large platforms publish, in log-odds of being ranked first:

    S = sharpness * sum_a weight_a p_a / scale + glitter * g.

Preset `x_like` takes the published weights of a large platform instead of the settings: like 0.5, reshare 1, reply 27,
reply engaged by author 75, good click 11, profile click 12, video 0.005, negative feedback -74, report -369, and none for
a plain click. Their actions are rare, so heads start at rates as low; the sum is divided by the scale 3, with which it
spreads over items about as widely as predicted clicks do (standard deviation 0.5 after 600 hours of a generated world).

Own loss: cross-entropy of all heads on the examined candidates of this step's log.

References:
    The published ranker of a large platform (twitter/the-algorithm-ml, heavy ranker README): weighted predicted
    actions.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from mamba.algorithms import features, logistic, pool
from mamba.algorithms.base import Act, Algorithm, Rank, between, levers_from, positive, real
from mamba.fields import setting
from mamba.types import ACTIONS, Array, Candidates, Learned, Log, View

HEADS = ("click", "reshare", *ACTIONS, "report")
X_WEIGHTS = {
    "like": 0.5,
    "reshare": 1.0,
    "reply": 27.0,
    "reply_engaged": 75.0,
    "good_click": 11.0,
    "profile_click": 12.0,
    "video": 0.005,
    "negative": -74.0,
    "report": -369.0,
}
X_SCALE = 3.0

# Log-odds that heads start from; those of rare actions would take long to come down from -1.
_BIAS = {
    "reply": -5.0,
    "reply_engaged": -6.0,
    "negative": -4.0,
    "report": -5.0,
    "profile_click": -4.0,
    "good_click": -2.0,
}
_BIAS |= {"like": -2.0, "video": -2.0}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the engagement recommender."""

    preset: str = setting(
        "custom",
        "weights of actions: custom takes the settings weight_*, x_like those that a platform published",
        choices=("custom", "x_like"),
    )
    weight_click: float = setting(1.0, "weight of a predicted click", unit="relative", gt=0)
    weight_reshare: float = setting(1.0, "weight of a predicted reshare", unit="relative", gt=0)
    weight_like: float = setting(0.0, "weight of a predicted like", unit="relative")
    weight_reply: float = setting(0.0, "weight of a predicted reply", unit="relative")
    weight_reply_engaged: float = setting(0.0, "weight of a predicted reply that the author answers", unit="relative")
    weight_good_click: float = setting(0.0, "weight of a predicted click that the user stays on", unit="relative")
    weight_profile_click: float = setting(0.0, "weight of a predicted visit to the author's profile", unit="relative")
    weight_video: float = setting(0.0, "weight of a predicted playback of half a video", unit="relative")
    weight_negative: float = setting(0.0, "weight of predicted negative feedback", unit="relative")
    weight_report: float = setting(0.0, "weight of a predicted report", unit="relative")
    sharpness: float = setting(6.0, "log-odds per unit of weighted predicted action", unit="logits", gt=0, lt=20)
    glitter: float = setting(0.0, "extra log-odds per unit of glitter", unit="logits")
    learning_rate: float = setting(0.02, "step size of the online learner", gt=0, le=0.5)
    proposals: int = setting(2, "random live items offered to each user (exploration)", unit="items", ge=0, le=64)


def weights(config: Config) -> dict[str, float]:
    """Action -> weight, for the actions that count."""
    if config.preset == "x_like":
        return X_WEIGHTS
    every = {name: getattr(config, f"weight_{name}") for name in HEADS}
    return {name: weight for name, weight in every.items() if weight}


def make(config: Config) -> Algorithm:
    """Builds the algorithm; levers `weight_<action>` of every action that counts, `sharpness`, `glitter`."""
    weight = weights(config)
    scale = X_SCALE if config.preset == "x_like" else 1.0
    bounds = {
        f"weight_{name}": positive("relative") if value > 0 else real("relative", scale=-value)
        for name, value in weight.items()
    }
    bounds |= {"sharpness": between(0.0, 20.0, "logits"), "glitter": real("logits")}
    values = {f"weight_{name}": value for name, value in weight.items()}
    levers = levers_from(values | {"sharpness": config.sharpness, "glitter": config.glitter}, bounds)

    def init(key: Array, view: View) -> Learned:
        del key, view
        learned = logistic.start(7, heads=len(weight), bias=-1.0, learning_rate=config.learning_rate)
        if not weight.keys() & _BIAS.keys():
            return learned
        bias = jnp.asarray([_BIAS.get(name, -1.0) for name in weight], float)
        return learned._replace(weights=learned.weights.at[0].set(bias))

    def act(levers: dict[str, Array], learned: Learned, view: View, key: Array) -> Act:
        del levers, learned
        return Act(propose=pool.explore(view, key, config.proposals))

    def rank(levers: dict[str, Array], learned: Learned, view: View, candidates: Candidates, key: Array) -> Rank:
        del view, key
        predicted = dict(zip(weight, logistic.predict(learned, features.ranking(candidates)), strict=True))
        first, *rest = (levers[f"weight_{name}"] * chance for name, chance in predicted.items())
        value = sum(rest, first)
        sharpness = levers["sharpness"] if scale == 1.0 else levers["sharpness"] / scale
        return Rank(score=sharpness * value + levers["glitter"] * candidates.items.glitter)

    def learn(levers: dict[str, Array], learned: Learned, view: View, log: Log, key: Array) -> tuple[Learned, Array]:
        del levers, view, key
        # Actions are logged per impression; the label of a head is the rate of its action among impressions.
        seen = jnp.maximum(log.examined, 1e-6)
        done = {"click": log.clicked, "reshare": log.reshared, **log.actions, "report": log.reported}
        labels = [done[name] / seen for name in weight]
        return logistic.update(
            learned, features.ranking(log.candidates), labels, log.examined, learning_rate=config.learning_rate
        )

    return Algorithm("engagement", levers, bounds, init, act, rank, learn)
