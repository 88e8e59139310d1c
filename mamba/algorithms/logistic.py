"""Online logistic regression: the learner behind every linear kind.

Adam with a floor under its denominator. An inner learner beyond its stability limit is what makes meta-gradients explode,
so the step is normalised and its size is bounded by the learning rate (Metz et al. 2021; Kingma and Ba 2015). The floor
keeps the update nearly linear in small gradients: a plain Adam step depends on how noisy its labels are, so that a learner
would learn faster from the averaged labels of the expected mode than from drawn ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mamba.types import Array

_DAMPING = 0.03  # about the size of one step's gradient; a tenth of it doubles the bias of false removals


class Logistic(NamedTuple):
    """Learned state: weights [F, heads] and the optimiser's state."""

    weights: Array
    optimiser: optax.OptState


def stable_adam(learning_rate: float) -> optax.GradientTransformation:
    """Adam with a floor under its denominator, see the module docstring."""
    return optax.adam(learning_rate, eps=_DAMPING, eps_root=1e-6)


def start(n_features: int, *, heads: int, bias: float, learning_rate: float) -> Logistic:
    """Weights that predict the logit `bias` for everyone; feature 0 must be the constant 1."""
    weights = jnp.zeros((n_features, heads)).at[0].set(bias)
    return Logistic(weights, stable_adam(learning_rate).init(weights))


def logits(weights: Array, features: Sequence[Array]) -> list[Array]:
    """Log-odds of every head: F planes of one shape and `weights [F, heads]` to one plane a head.

    A sum over planes, not a matrix product, so that features are computed where they are used and never stored.
    """
    heads = range(weights.shape[1])
    return [sum((weights[f, head] * plane for f, plane in enumerate(features)), jnp.zeros(())) for head in heads]


def predict(learned: Logistic, features: Sequence[Array]) -> list[Array]:
    """Probabilities, one plane a head."""
    return [jax.nn.sigmoid(value) for value in logits(learned.weights, features)]


def cross_entropy(value: Array, label: Array, weight: Array) -> Array:
    """Weighted mean binary cross-entropy of log-odds in nats; all arguments have one shape."""
    loss = optax.sigmoid_binary_cross_entropy(value, label) * weight
    return jnp.sum(loss) / (1.0 + jnp.sum(weight))


def update(
    learned: Logistic, features: Sequence[Array], labels: Sequence[Array], weight: Array, *, learning_rate: float
) -> tuple[Logistic, Array]:
    """One Adam step on the weighted cross-entropy.

    Args:
        learned: present state.
        features: F planes of one shape.
        labels: one plane in [0, 1] for each head.
        weight: example weights, one plane.
        learning_rate: step size.

    Returns:
        `(new state, loss before the step)`.
    """

    def total(weights: Array) -> Array:
        values = logits(weights, features)
        return sum((cross_entropy(v, y, weight) for v, y in zip(values, labels, strict=True)), jnp.zeros(()))

    loss, slope = jax.value_and_grad(total)(learned.weights)
    change, optimiser = stable_adam(learning_rate).update(slope, learned.optimiser)
    return Logistic(learned.weights + jnp.asarray(change), optimiser), loss
