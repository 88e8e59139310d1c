"""A platform with an inner learner beyond its limit of stability: plain gradient descent with steps that are too long."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from helpers import SIZES, population

from mamba import ecosystem as eco
from mamba.algorithms import features, logistic, registry
from mamba.algorithms.base import Algorithm, Rank, between, levers_from, real
from mamba.world.mechanisms import Mechanisms

NAME = "descent"
UNSTABLE = 40.0  # a stable rate is 0.3; 12 explodes in one run of sixteen


def descent(rate: float) -> Algorithm:
    """A ranker by predicted clicks, of a logistic model that takes plain gradient steps on this step's log.

    Steps beyond 2 / curvature overshoot, and every difference between two runs grows.
    """
    bounds = {"sharpness": between(0.0, 20.0, "logits"), "glitter": real("logits")}

    def init(key, view):
        del key, view
        return jnp.zeros((7, 1)).at[0].set(-1.0)

    def rank(levers, learned, view, candidates, key):
        del view, key
        (value,) = logistic.logits(learned, features.ranking(candidates))
        return Rank(score=levers["sharpness"] * jax.nn.sigmoid(value) + levers["glitter"] * candidates.items.glitter)

    def learn(levers, learned, view, log, key):
        del levers, view, key
        label = log.clicked / jnp.maximum(log.examined, 1e-6)

        def loss(weights):
            (value,) = logistic.logits(weights, features.ranking(log.candidates))
            return logistic.cross_entropy(value, label, log.examined)

        value, slope = jax.value_and_grad(loss)(learned)
        return learned - rate * slope, value

    return Algorithm(
        "engagement", levers_from({"sharpness": 6.0, "glitter": 0.0}, bounds), bounds, init, rank=rank, learn=learn
    )


def platform(rate: float) -> eco.Ecosystem:
    """The ranker beside stable kinds."""
    return eco.make(
        {
            NAME: descent(rate),
            "popularity": registry.make("popularity", proposals=0),
            "removal": registry.make("removal"),
        },
        sizes=SIZES,
        mechanisms=Mechanisms(contagion="none", rewiring="none"),
    )


def inputs(ecosystem: eco.Ecosystem) -> eco.Inputs:
    return eco.inputs(ecosystem, population())
