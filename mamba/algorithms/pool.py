"""Pools of live items that recommenders propose from."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mamba import placement
from mamba.algorithms.base import Proposal
from mamba.streams import uniforms
from mamba.sums import largest, total
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
    # A sum in parallel may fall by a rounding error from one item to the next, where both searches must agree.
    below = jax.lax.cummax(jnp.cumsum(jax.lax.stop_gradient(mass)))
    marks = uniform * below[-1]
    # Every round trip to an accelerator costs more than the rounds that it would save, and so does a guide on every device that
    # users are split over.
    guided = jax.default_backend() == "cpu" and not placement.users_are_split()
    search = _guided_search if guided else _search
    return jnp.clip(search(below, marks), 0, mass.shape[0] - 1)


def _search(below: Array, marks: Array) -> Array:
    """How many of the ascending `below [M]` are at most each of `marks`, by bisection of all of them.

    As `jnp.searchsorted`, which makes one row of the marks: then devices that users are split over all search for everybody.
    """
    size = below.shape[0]
    bracket = (jnp.zeros(marks.shape, jnp.int32), jnp.full(marks.shape, size, jnp.int32))
    return jax.lax.fori_loop(0, size.bit_length(), lambda _, bracket: _halve(below, marks, bracket), bracket)[0]


def _halve(below: Array, marks: Array, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
    """One round of a bisection: how many are at most each mark lies between the ends of its bracket."""
    low, high = bracket
    middle = (low + high) >> 1
    later = below[jnp.minimum(middle, below.shape[0] - 1)] <= marks
    wide = low < high
    return jnp.where(wide & later, middle + 1, low), jnp.where(wide & ~later, middle, high)


def _guided_search(below: Array, marks: Array) -> Array:
    """The same numbers, by bisection of what lies in a mark's own one of M cells: few rounds where mass is spread out.

    Items without mass add nothing and are left out before: they come in runs, of which a cell would hold a whole one.

    References:
        Chen and Asau 1974 (guide tables).
    """
    size = below.shape[0]
    scale = size / jnp.maximum(below[-1], jnp.finfo(below.dtype).tiny)

    def cell(value: Array) -> Array:  # ascending in its argument, rounding included, so that no mark leaves its cell
        return jnp.clip(value * scale, 0, size).astype(jnp.int32)

    rises = below > jnp.concatenate([jnp.full_like(below[:1], -1.0), below[:-1]])
    row = jnp.where(rises, jnp.cumsum(rises) - 1, size + 1)  # outside of both tables
    steps = jnp.full(size, jnp.inf, below.dtype).at[row].set(below, mode="drop")
    item = jnp.full(size + 1, size, jnp.int32).at[row].set(jnp.arange(size, dtype=jnp.int32), mode="drop")
    held = jnp.zeros(size + 2, jnp.int32).at[cell(steps) + 1].add(1)
    before = jnp.cumsum(held)  # how many lie in cells before this one
    own = cell(marks)

    def unsettled(bracket: tuple[Array, Array]) -> Array:
        return jnp.any(bracket[0] < bracket[1])

    bracket = (before[own], before[own + 1])
    return item[jax.lax.while_loop(unsettled, lambda bracket: _halve(steps, marks, bracket), bracket)[0]]


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
    alive, drawn_by, everything = held[0][ids], held[1][ids], held[2]
    # mass / alive is the score, whose derivative counts; existence brings its own when it multiplies.
    score = mass[ids] / jnp.maximum(view.items.alive[ids], _ALIVE)
    ratio = (
        score
        / jnp.maximum(drawn_by / jnp.maximum(alive, _ALIVE), 1e-20)
        * (everything / jnp.maximum(jnp.sum(mass), 1e-20))
    )
    return Proposal(ids, jnp.where((alive > _ALIVE) & (drawn_by > 0), ratio / jnp.maximum(alive, _ALIVE), 0.0))


def explore(view: View, key: Array, proposals: int) -> Proposal | None:
    """`proposals` live items for each user, drawn uniformly; None for 0."""
    if proposals == 0:
        return None
    alive = view.items.alive
    return propose(view, draw(alive, uniforms(key, (proposals, view.followers.shape[0]))), alive)


def by_odds(log_odds: Array, uniform: Array) -> Array:
    """Draws one of B alternatives with probability softmax(log_odds), by inversion.

    Args:
        log_odds: [B, ...].
        uniform: [...] uniform draws.

    Returns:
        [...] int32 in 0 .. B - 1.
    """
    mass = jnp.exp(log_odds - largest(log_odds, keepdims=True))
    mark = uniform * total(mass, axis=0)

    def past(carry: tuple[Array, Array], alternative: Array) -> tuple[tuple[Array, Array], None]:
        chosen, below = carry
        below = below + alternative
        return (chosen + (below <= mark), below), None

    begin = jnp.zeros(uniform.shape, jnp.int32), jnp.zeros(uniform.shape)
    return jax.lax.scan(past, begin, mass[:-1])[0][0]
