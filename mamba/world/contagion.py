"""Contagion: one reshare a user and step goes to the outbox, from where followers can draw it as a candidate.

Which item is drawn by mass; the weight that travels with it, the probability that anything was reshared at all, carries
the likelihood ratio of that draw (`relax.pick`). The outbox is a ring over steps: an entry lives `O` steps, in every
mode.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mamba.types import Array, Mode, Outbox, Sizes
from mamba.world.candidates import item_age
from mamba.world.relax import pick


def empty_outbox(sizes: Sizes) -> Outbox:
    """Outboxes with nothing in them."""
    shape = (sizes.users, sizes.outbox)
    return Outbox(
        item=jnp.zeros(shape, jnp.int32), birth=jnp.full(shape, -1 - sizes.lifetime, jnp.int32), weight=jnp.zeros(shape)
    )


@jax.custom_jvp
def _none_of(probability: Array) -> Array:
    """Probability that none of independent events happens, over the first axis; see the derivative below."""
    return jnp.prod(1.0 - probability, axis=0)


@_none_of.defjvp
def _none_of_derivative(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # The derivative of `jnp.prod` builds a tree of partial products. A logarithmic one has no place for events that are
    # certain: where there is one, only its own factor has a derivative, and where there are two, none has.
    (probability,), (change,) = primals, tangents
    factor = 1.0 - probability
    certain = factor <= 0.0
    rest = jnp.where(certain, 1.0, factor)
    product, count = jnp.prod(rest, axis=0), jnp.sum(certain, axis=0)
    others = jnp.where(certain, (count == 1)[None], (count == 0)[None]) * product[None] / rest
    return _none_of(probability), -jnp.sum(others * change, axis=0)


def chosen(ids: Array, events: Array, *, draw: Array, mode: Mode) -> tuple[Array, Array]:
    """One of the candidates to which something happened: the reshare that becomes the outbox entry, for one.

    Args:
        ids: [C, U] item slots.
        events: [C, U] weights in [0, 1] of what happened.
        draw: [C, U] uniform draws.
        mode: numeric mode.

    Returns:
        `(item [U] int32, weight [U])`; the weight is the probability of at least one event.
    """
    which, carry = pick(events, draw, mode)
    item = jnp.take_along_axis(ids, which[None], axis=0)[0]
    return item, carry * (1.0 - _none_of(events))


def share(outbox: Outbox, item: Array, weight: Array, *, step: Array, sizes: Sizes) -> Outbox:
    """Writes this step's entries, `item [U]` and `weight [U]`, over the oldest ones."""
    slot = step % sizes.outbox
    birth = step - item_age(item, step, sizes)

    def write(ring: Array, value: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(ring, value[:, None].astype(ring.dtype), slot, 1)

    return Outbox(item=write(outbox.item, item), birth=write(outbox.birth, birth), weight=write(outbox.weight, weight))


def no_sharing(outbox: Outbox, item: Array, weight: Array, *, step: Array, sizes: Sizes) -> Outbox:
    """Outboxes stay as they are."""
    del item, weight, step, sizes
    return outbox


CONTAGION = {"outbox": share, "none": no_sharing}
