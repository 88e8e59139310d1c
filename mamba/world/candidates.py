"""Candidates: what could be put in front of a user in this step.

In-network candidates come from the user's own ties: a tie is drawn uniformly, then one of that account's recent posts
or one entry of its outbox of reshares. Ties are drawn systematically (a random start, then the next ones around the table),
which keeps each draw uniform and never shows the same tie twice while others wait. Out-of-network candidates are
proposed by algorithms. Every candidate has an existence weight, tie strength times entry weight times the item's own existence,
in which attention is linear. One packed gather then fetches the rows of all candidates.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from mamba import placement
from mamba.storing import stored
from mamba.types import (
    ITEM_COLUMNS,
    LATENT,
    OBSERVED,
    Array,
    ObservedItems,
    Outbox,
    Sizes,
    Ties,
)

_INT32 = jnp.iinfo(jnp.int32).max


def item_age(ids: Array, step: Array, sizes: Sizes) -> Array:
    """Steps since the item in a slot was posted, int32 of the shape of `ids`, 0 to H - 1."""
    # Both are at least 0, which spares two divisions that round down.
    age = step % sizes.lifetime - jax.lax.div(ids, jnp.full_like(ids, sizes.creators))
    return jnp.where(age < 0, age + sizes.lifetime, age)


def at_pairs(tables: Sequence[Array], rows: Array, columns: Array) -> list[Array]:
    """`table[rows, columns]` of each of some tables [U, K] of one shape, for indices within them."""
    height, width = tables[0].shape
    # The compiler sees what stays on a device in pairs of indices only, and a place in the table must be an int32.
    if placement.users_are_split() or height * width > _INT32:
        return [table.at[rows, columns].get(mode="promise_in_bounds") for table in tables]
    place = stored(lambda rows, columns: rows * width + columns, *jnp.broadcast_arrays(rows, columns))
    return [_plane(table.ravel(), place) for table in tables]


def _at_places(tables: Sequence[Array], place: Array) -> list[Array]:
    """What stands at some places of each of some tables [U, K] of one shape, counted along their rows, as an int32."""
    width = tables[0].shape[1]
    if placement.users_are_split():
        row = jax.lax.div(place, jnp.full_like(place, width))
        return at_pairs(tables, row, place - row * width)
    return [_plane(table.ravel(), place) for table in tables]


def around(start: Array, degree: Array, *, count: int) -> Array:
    """Places around a table of ties, from each user's start on.

    Args:
        start: [U] whole numbers, at least 0.
        degree: [U] int32, at least 1.
        count: how many places.

    Returns:
        `(start + c) % degree` for c from 0 to `count` - 1, [U, C] int32.
    """
    # In floating point, because a CPU divides integers one by one. A compiler may multiply by a reciprocal instead, and miss by
    # one turn, which is put right.
    length = degree.astype(float)[:, None]
    place = start.astype(float)[:, None] + jnp.arange(count, dtype=float)[None]
    turned = place - length * jnp.floor(place / length)
    turned = jnp.where(turned >= length, turned - length, turned)
    return jnp.where(turned < 0, turned + length, turned).astype(jnp.int32)


def sampled_ties(
    ties: Ties, outbox: Outbox, *, step: Array, start_draw: Array, entry_draw: Array, sizes: Sizes
) -> tuple[Array, Array]:
    """Draws in-network candidates: a tie, then a recent post or a reshare of that account, each half the time.

    Args:
        ties: rows of the follow table of the served users, [U, K].
        outbox: all outboxes, [U, O].
        step: int32 scalar.
        start_draw: [U] uniform draws.
        entry_draw: [C, U] uniform draws.
        sizes: static sizes; C = `sizes.in_network`.

    Returns:
        `(ids [C, U] int32, existence [C, U])` before the item's own existence.
    """
    degree = jnp.sum(ties.weight > 0, axis=-1)
    start = jnp.floor(start_draw * degree)
    account, weight = _around_own(ties, start, jnp.maximum(degree, 1), count=sizes.in_network)

    def found(account: Array, draw: Array, step: Array) -> Array:
        posts = account < sizes.creators
        own = posts & (draw < 0.5)
        rest = jnp.where(draw < 0.5, 2.0 * draw, 2.0 * draw - 1.0)
        fraction = jnp.where(posts, rest, draw)
        row = step % sizes.lifetime - jnp.floor(fraction * sizes.recent).astype(jnp.int32)
        row = jnp.where(row < 0, row + sizes.lifetime, row)
        entry = account * sizes.outbox + jnp.floor(fraction * sizes.outbox).astype(jnp.int32)
        return jnp.where(own, row * sizes.creators + account, ~entry)

    # One number says which item or, with its bits turned, which entry of an outbox. Accounts lie user by user, so that reading
    # them candidate by candidate is slow: it is done once.
    source = stored(found, account, entry_draw, step)
    own = source >= 0
    # A slot may have been recycled since. Told for every entry before readers pick, because there are fewer entries than picks.
    current = outbox.birth == step - item_age(outbox.item, step, sizes)
    live = stored(jnp.multiply, outbox.weight, current.astype(outbox.weight.dtype))
    shared, there = _at_places((outbox.item, live), jnp.where(own, 0, ~source))
    existence = stored(lambda own, tie, there: tie * jnp.where(own, 1.0, there), own, weight, there)
    return jnp.where(own, source, shared), existence


def _around_own(ties: Ties, start: Array, degree: Array, *, count: int) -> tuple[Array, Array]:
    """Account and weight of `count` ties of every user, each [C, U], from `start` [U] on around the first `degree` [U]."""
    users, width = ties.weight.shape
    if placement.users_are_split() or users * width > _INT32:
        place = around(start, degree, count=count).T
        account, weight = at_pairs((ties.followees, ties.weight), jnp.arange(users, dtype=jnp.int32)[None], place)
        return account, weight

    def places(start: Array, degree: Array) -> Array:
        return (jnp.arange(users, dtype=jnp.int32) * width)[:, None] + around(start, degree, count=count)

    # User by user, because the ties of one lie in a cache line or two: candidate by candidate, every tie would fetch it again.
    place = stored(places, start, degree)
    account, weight = (stored(_plane, table.ravel(), place).T for table in (ties.followees, ties.weight))
    return account, weight


def latest_posts(
    ties: Ties, outbox: Outbox, *, step: Array, start_draw: Array, entry_draw: Array, sizes: Sizes
) -> tuple[Array, Array]:
    """Every tie's latest post, in table order: the deterministic neighbourhood of the opinion-dynamics literature.

    Same arguments and returns as `sampled_ties`; C = K and no draw is used. Accounts that do not post contribute
    existence 0.
    """
    del outbox, start_draw, entry_draw
    account = ties.followees.T
    ids = (step % sizes.lifetime) * sizes.creators + jnp.minimum(account, sizes.creators - 1)
    return ids, ties.weight.T * (account < sizes.creators)


CANDIDATES = {"sampled": sampled_ties, "latest": latest_posts}


@jax.custom_jvp
def gather_planes(table: Array, ids: Array) -> Array:
    """The one packed gather: columns of the items in `ids [C, ...]` from the table `[M, D + 12]`, as planes `[D + 12, C, ...]`.

    The planes are stored: otherwise every loop that reads one picks it out of gathered rows, a cache line for each number.
    """
    if jax.default_backend() != "cpu":
        return stored(_planes, table, ids)
    # Column by column, because a column stays in a core's cache where the whole table does not; those that nobody reads go.
    if placement.users_are_split():
        # One at a time: the devices that users are split over do not have room for another table.
        columns = [stored(functools.partial(_column, at=at), table) for at in range(table.shape[1])]
    else:
        columns = list(stored(jnp.transpose, table))
    topics = len(columns) - len(ITEM_COLUMNS)
    if placement.users_are_split() or topics * table.shape[0] > _INT32:
        return jnp.stack([stored(_plane, column, ids) for column in columns])
    # All topics at once: they are read together, and a stack of single planes is another copy of them.
    mixes = stored(_planes_of, jnp.stack(columns[:topics]), ids)
    return jnp.concatenate([mixes, *(stored(_plane, column, ids)[None] for column in columns[topics:])])


def _column(table: Array, *, at: int) -> Array:
    return table[:, at]


def _planes(table: Array, ids: Array) -> Array:
    return jnp.moveaxis(table.at[ids].get(mode="promise_in_bounds"), -1, 0)


def _planes_of(columns: Array, ids: Array) -> Array:
    """`columns[:, ids]` in one loop over its results."""
    first = (jnp.arange(columns.shape[0], dtype=ids.dtype) * columns.shape[1]).reshape(-1, *(1,) * ids.ndim)
    return columns.ravel().at[first + ids[None]].get(mode="promise_in_bounds")


def _plane(column: Array, ids: Array) -> Array:
    return column.at[ids].get(mode="promise_in_bounds")


@gather_planes.defjvp
def _gather_planes_derivative(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # One gather, so that the reverse pass is one scatter.
    return gather_planes(*primals), _planes(tangents[0], primals[1])


def observed(planes: Array, n_topics: int) -> ObservedItems:
    """The planes that a platform can observe, `[D + 12, ...]` to `ObservedItems` of `[...]`."""
    # Split, not sliced: the reverse pass then joins the planes, where that of slices pads and adds every one.
    topics, *values, _ = jax.lax.split(planes, (n_topics, *(1 for _ in OBSERVED), len(LATENT)))
    return ObservedItems(topics=topics, **{name: value[0] for name, value in zip(OBSERVED, values, strict=True)})


def latent(planes: Array, n_topics: int) -> dict[str, Array]:
    """The latent planes by name; for the world's own mechanisms and objectives only."""
    _, *values = jax.lax.split(planes, (n_topics + len(OBSERVED), *(1 for _ in LATENT)))
    return {name: value[0] for name, value in zip(LATENT, values, strict=True)}


def pack(topics: Array, columns: dict[str, Array]) -> Array:
    """Packs `topics [..., D]` and one `[...]` array for each of `ITEM_COLUMNS` into rows `[..., D + 12]`."""
    return jnp.concatenate([topics, jnp.stack([columns[name] for name in ITEM_COLUMNS], axis=-1)], axis=-1)
