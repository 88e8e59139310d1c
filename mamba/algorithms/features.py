"""Features that several kinds compute from what a platform observes, as lists of planes of one shape.

Planes, not one array: a linear model of them is a sum that the compiler fuses into what reads it, and nothing is stored.
"""

from __future__ import annotations

import jax.numpy as jnp

from mamba.sums import total
from mamba.types import Array, Candidates, ObservedItems


def ranking(candidates: Candidates) -> list[Array]:
    """Seven planes [C, U]: constant, interest match, popularity, glitter, freshness, own tie, synthetic label."""
    items = candidates.items
    match = total(items.topics * candidates.interest[:, None], axis=0) * items.topics.shape[0] - 1.0
    constant = jnp.ones_like(match)
    return [
        constant,
        match,
        jnp.log1p(items.popularity),
        items.glitter - 0.5,
        jnp.exp(-candidates.age / 6.0),
        constant * candidates.in_network,
        items.synthetic,
    ]


def harm(items: ObservedItems) -> list[Array]:
    """Five planes: constant, log-odds of the harm signals (bounded), their worse one, report rate."""

    def logit(signal: Array) -> Array:
        safe = jnp.clip(signal, 0.01, 0.99)
        return 0.5 * (jnp.log(safe) - jnp.log1p(-safe))

    # Reports per click, shrunk to none where few clicked: a bare count grows with an item's audience.
    rate = 5.0 * items.reports / (5.0 + items.popularity)
    toxic, false = logit(items.toxicity_signal), logit(items.falsity_signal)
    return [jnp.ones_like(toxic), toxic, false, jnp.maximum(toxic, false), rate]
