"""Pools of live items that recommenders propose from."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mamba.algorithms.base import Proposal
from mamba.types import Array, View

_ALIVE = 1e-3  # existence below which an item counts as gone


def draw(mass: Array, uniform: Array) -> Array:
    """Draws item slots in proportion to mass, by inversion.

    Args:
        mass: [M] non-negative.
        uniform: [...] uniform draws.

    Returns:
        [...] int32 item slots; slot M - 1 when all mass is zero.
    """
    total = jnp.cumsum(jax.lax.stop_gradient(mass))
    slots = jnp.searchsorted(total, uniform.ravel() * total[-1], side="right").reshape(uniform.shape)
    return jnp.minimum(slots, mass.shape[0] - 1).astype(jnp.int32)


def propose(view: View, ids: Array, mass: Array) -> Proposal:
    """Candidates that were drawn in proportion to a mass that is linear in existence.

    The item's own existence multiplies later. The draw has already accounted for its value, so it is divided out here;
    what stays is the likelihood ratio mass / sum(mass) of the draw, of value 1 (see `mamba.world.relax`).

    Args:
        view: the platform's view.
        ids: [C_i, U] drawn item slots.
        mass: [M] what they were drawn by: existence times a score.

    Returns:
        The proposal; an item that is gone keeps existence 0.
    """
    held = jax.lax.stop_gradient((view.items.alive, mass, jnp.sum(mass)))
    alive, drawn_by, total = held[0][ids], held[1][ids], held[2]
    # mass / alive is the score, whose derivative counts; existence brings its own when it multiplies.
    score = mass[ids] / jnp.maximum(view.items.alive[ids], _ALIVE)
    ratio = (
        score / jnp.maximum(drawn_by / jnp.maximum(alive, _ALIVE), 1e-20) * (total / jnp.maximum(jnp.sum(mass), 1e-20))
    )
    return Proposal(ids, jnp.where((alive > _ALIVE) & (drawn_by > 0), ratio / jnp.maximum(alive, _ALIVE), 0.0))
