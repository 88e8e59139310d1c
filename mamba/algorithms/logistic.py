"""Online logistic regression: the learner behind every linear kind.

Adam with a floor under its denominator: an inner learner beyond its stability limit is what makes meta-gradients explode,
so the step is normalised and its size is bounded by the learning rate (Metz et al. 2021; Kingma and Ba 2015).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mamba.types import Array


class Logistic(NamedTuple):
    """Learned state: weights [F, heads] and the optimiser's state."""

    weights: Array
    optimiser: optax.OptState


def stable_adam(learning_rate: float) -> optax.GradientTransformation:
    """Adam whose update has a bounded derivative where gradients vanish."""
    return optax.adam(learning_rate, eps=1e-3, eps_root=1e-6)


def start(n_features: int, *, heads: int, bias: float, learning_rate: float) -> Logistic:
    """Weights that predict the logit `bias` for everyone; feature 0 must be the constant 1."""
    weights = jnp.zeros((n_features, heads)).at[0].set(bias)
    return Logistic(weights, stable_adam(learning_rate).init(weights))


def predict(learned: Logistic, features: Array) -> Array:
    """Probabilities, `features [..., F]` to `[..., heads]`."""
    return jax.nn.sigmoid(features @ learned.weights)


def cross_entropy(logits: Array, labels: Array, weight: Array) -> Array:
    """Weighted mean binary cross-entropy in nats; `weight` broadcasts to the shape of `labels`."""
    loss = optax.sigmoid_binary_cross_entropy(logits, labels) * weight
    return jnp.sum(loss) / (1.0 + jnp.sum(jnp.broadcast_to(weight, labels.shape)))


def update(learned: Logistic, features: Array, labels: Array, weight: Array, *, learning_rate: float) -> tuple[Logistic, Array]:
    """One Adam step on the weighted cross-entropy.

    Args:
        learned: present state.
        features: [..., F].
        labels: [..., heads] in [0, 1].
        weight: [..., 1] or [..., heads] example weights.
        learning_rate: step size.

    Returns:
        `(new state, loss before the step)`.
    """
    loss, slope = jax.value_and_grad(lambda w: cross_entropy(features @ w, labels, weight))(learned.weights)
    change, optimiser = stable_adam(learning_rate).update(slope, learned.optimiser)
    return Logistic(learned.weights + change, optimiser), loss
