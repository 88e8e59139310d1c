"""Matrix factorisation of implicit feedback: one core, trained online from a log or offline on an interaction matrix.

A user's affinity to an item is z = <p, q>, with a bias b_q of the item where it is learned from a log. Of every pair the
platform knows a mass of liking and a mass of passing by (in the expected mode both are probabilities), and the loss is the
confidence-weighted square of Hu, Koren and Volinsky (2008),

    sum of liked (1 + confidence) (1 - z)^2 + passed z^2,

over all pairs that count: every item in an interaction matrix; what was examined, or drawn as a contrast, in a log. It is
linear in both masses, so that drawn and averaged labels teach the same on average; on held-out films it also ranked better
than the logistic loss of Johnson (2014) and than a softmax over films. The step is Adam on the slope of a row divided by
1 + the mass it was liked with: a rare user learns as fast as a frequent one.

References:
    Hu, Koren and Volinsky 2008; Johnson 2014; Rendle et al. 2009 (items not engaged with, drawn as contrasts).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mamba.algorithms import logistic
from mamba.streams import normals, uniforms
from mamba.sums import total
from mamba.types import Array

_START = 0.1  # standard deviation of factors at the start; all zero is a saddle


class Factors(NamedTuple):
    """Factors: user [E, U], item [M, E]."""

    user: Array
    item: Array


def start(key: Array, *, users: int, items: int, width: int) -> Factors:
    """Small random factors."""
    user_key, item_key = jax.random.split(key)
    return Factors(
        user=_START * normals(uniforms(user_key, (width, users))),
        item=_START * normals(uniforms(item_key, (items, width))),
    )


def match(user: Array, rows: Array) -> tuple[Array, Array]:
    """Inner product and bias, each [K, U], of users [E, U] and K item rows each, [K, U, E + 1] with the bias last."""
    planes = jnp.moveaxis(rows, -1, 0)
    return total(planes[:-1] * user[:, None], axis=0), planes[-1]


def affinities(factors: Factors) -> Array:
    """Affinity of every item to every user, [M, U]."""
    return factors.item @ factors.user


def loss(value: Array, liked: Array, passed: Array, confidence: float) -> Array:
    """The summed loss of affinities `value`; `liked` and `passed` are masses of the same shape."""
    return jnp.sum((1.0 + confidence) * liked * (1.0 - value) ** 2 + passed * value**2)


def descend(
    objective: Callable[[Any], Array], parameters: Any, optimiser: Any, mass: Any, *, decay: float, learning_rate: float
) -> tuple[Any, Any, Array]:
    """One step on a summed loss plus `decay` times half the squared parameters.

    Args:
        objective: parameters to the summed loss.
        parameters: pytree of tables.
        optimiser: state of `logistic.stable_adam`.
        mass: same tree; liked mass of every row, broadcastable to its table.
        decay: regularisation of a row, in units of the loss.
        learning_rate: step size.

    Returns:
        `(parameters, optimiser, loss before the step)`.
    """
    value, slope = jax.value_and_grad(objective)(parameters)
    scaled = jax.tree.map(lambda g, x, m: (g + decay * x) / (1.0 + m), slope, parameters, mass)
    change, optimiser = logistic.stable_adam(learning_rate).update(scaled, optimiser)
    return optax.apply_updates(parameters, change), optimiser, value


@functools.partial(jax.jit, static_argnames=("width", "confidence", "decay", "learning_rate", "steps"))
def fit(
    liked: Array, key: Array, *, width: int, confidence: float, decay: float, learning_rate: float, steps: int
) -> tuple[Factors, Array]:
    """Factorises an interaction matrix by full-batch descent; every pair not liked was passed by.

    Args:
        liked: [M, U] in [0, 1].
        key: typed key; consumed.
        width: size of the factors, E.
        confidence: extra weight of a liked pair.
        decay: regularisation of a row.
        learning_rate: step size.
        steps: number of steps.

    Returns:
        `(factors, losses [steps])`.
    """
    items, users = liked.shape
    mass = Factors(jnp.sum(liked, axis=0)[None], jnp.sum(liked, axis=1)[:, None])
    begin = start(key, users=users, items=items, width=width)

    def objective(factors: Factors) -> Array:
        return loss(affinities(factors), liked, 1.0 - liked, confidence)

    def one(carry: tuple[Factors, Any], _: None) -> tuple[tuple[Factors, Any], Array]:
        *new, value = descend(objective, *carry, mass, decay=decay, learning_rate=learning_rate)
        return tuple(new), value

    (factors, _), losses = jax.lax.scan(
        one, (begin, logistic.stable_adam(learning_rate).init(begin)), None, length=steps
    )
    return factors, losses
