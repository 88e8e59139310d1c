"""Pools of live items that recommenders propose from."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mamba.types import Array, View


def certain(view: View, ids: Array) -> Array:
    """Existence of a proposal that was drawn among live items, `ids [...]` to `[...]`.

    Later the existence of the item itself multiplies this. The draw has already accounted for its value, so it is divided
    out and only its derivative stays (local likelihood ratio); a dead item keeps existence 0.
    """
    alive = jax.lax.stop_gradient(view.items.alive[ids])
    return jnp.where(alive > 1e-3, 1.0 / jnp.maximum(alive, 1e-3), 0.0)


def draw_live(view: View, uniform: Array) -> Array:
    """Draws live items uniformly.

    Args:
        view: the platform's view.
        uniform: [...] uniform draws.

    Returns:
        [...] int32 item slots; slot 0 when nothing is alive (its existence is then 0).
    """
    mass = jnp.cumsum(jax.lax.stop_gradient(view.items.alive))
    ids = jnp.searchsorted(mass, uniform.ravel() * mass[-1], side="right").reshape(uniform.shape)
    return jnp.minimum(ids, mass.shape[0] - 1).astype(jnp.int32)
