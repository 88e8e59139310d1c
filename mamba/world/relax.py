"""Relaxation primitives: one source for the sampled model and its mean field.

A mechanism asks for a draw through `bern` or `pick` and never looks at the mode itself. In `sampled` mode a draw is a
hard event; in `expected` mode it is its probability; `straight_through` is the hard value with the derivative of the
expectation.

`pick` draws *which* (an item to reshare, a tie to replace) and lets a weight of value 1 travel with the index. That
weight is p / stop(p), so its derivative is d log p: the score-function gradient restricted to the weight's own future,
exact to first order wherever later use is linear in the weight (local likelihood-ratio carry).

The derivative cuts in this file are part of these identities: without them the values would change. They are tested in
`tests/world/test_relax.py`. Cuts that a user can choose are named arguments of `mamba.rollout.rollout`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mamba.sums import in_pairs
from mamba.types import Array, Mode

_FLOOR = 1e-20  # smallest probability whose logarithm is taken
_FLOOR_OF_TOTAL = 1e-18  # its square, by which the derivative of a quotient divides, is still a float32 number


def hard_with_soft_derivative(hard: Array, soft: Array) -> Array:
    """Value of `hard`, derivative of `soft` (straight-through)."""
    return jax.lax.stop_gradient(hard) + (soft - jax.lax.stop_gradient(soft))


def bern(probability: Array, uniform: Array, mode: Mode) -> Array:
    """A Bernoulli event.

    Args:
        probability: [...] in [0, 1].
        uniform: [...] uniform draws in (0, 1).
        mode: see the module docstring.

    Returns:
        [...]: 0 or 1 in `sampled`, the probability in `expected`.
    """
    if mode == "expected":
        return probability
    hard = (uniform < probability).astype(float)
    return hard if mode == "sampled" else hard_with_soft_derivative(hard, probability)


def carried(probability: Array) -> Array:
    """Weight of value 1 whose derivative is d log p: the local likelihood ratio of an event that was drawn.

    Args:
        probability: [...] probability of the drawn event; where it is 0 the weight is 1 with derivative 0.

    Returns:
        [...] ones.
    """
    safe = jnp.maximum(probability, _FLOOR)
    return safe / jax.lax.stop_gradient(safe)


def drawn(probability: Array, uniform: Array, mode: Mode) -> Array:
    """An event that is drawn in every mode because others must be able to react to whether it happened.

    In the differentiable modes the event's weight carries d log p, so that a use linear in the weight has the exact
    expected derivative: p * d log p = d p.

    Args:
        probability: [...] in [0, 1].
        uniform: [...] uniform draws in (0, 1).
        mode: numeric mode.

    Returns:
        [...] 0 or 1.
    """
    hard = (uniform < probability).astype(float)
    return hard if mode == "sampled" else hard * carried(probability)


def _earlier(one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
    """The `(arrival, place)` of two that arrives first; the first one where both do."""
    later = other[0] < one[0]
    return jnp.where(later, other[0], one[0]), jnp.where(later, other[1], one[1])


def pick(mass: Array, uniform: Array, mode: Mode) -> tuple[Array, Array]:
    """Draws one of C alternatives in proportion to their mass.

    Args:
        mass: [C, ...] non-negative masses; where all are zero, any of them is drawn.
        uniform: [C, ...] uniform draws in (0, 1).
        mode: in `sampled` mode the weight carries no derivative.

    Returns:
        `(index [...] int32, weight [...])`; the weight is 1 and carries d log p of the drawn index.
    """
    # An exponential race: the first arrival has the law of the largest log mass + Gumbel noise.
    held = jnp.maximum(jax.lax.stop_gradient(mass), _FLOOR)
    # Run as a tournament: one fused loop, where a minimum and its place are several passes over all arrivals.
    arrival = -jnp.log(uniform) / held
    runners = [(arrival[c], jnp.full(mass.shape[1:], c, jnp.int32)) for c in range(mass.shape[0])]
    _, index = in_pairs(_earlier, runners)
    if mode == "sampled":
        return index, jnp.ones_like(mass[0])
    total = jnp.maximum(jnp.sum(mass, axis=0), _FLOOR_OF_TOTAL)
    chosen = jnp.take_along_axis(mass, index[None], axis=0)[0]
    return index, carried(chosen / total)


def soft_step(value: Array, width: Array | float) -> Array:
    """Logistic step `sigma(value / width)`: the deployed soft form of a threshold."""
    return jax.nn.sigmoid(value / width)
