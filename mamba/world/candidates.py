"""Candidates: what could be put in front of a user in this step.

In-network candidates come from the user's own ties: a tie is drawn uniformly, then one of that account's recent posts
or one entry of its outbox of reshares. Ties are drawn systematically (a random start, then the next ones around the table),
which keeps each draw uniform and never shows the same tie twice while others wait. Out-of-network candidates are
proposed by algorithms. Every candidate has an existence weight, tie strength times entry weight times the item's own existence,
in which attention is linear. One packed gather then fetches the rows of all candidates.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

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


def item_age(ids: Array, step: Array, sizes: Sizes) -> Array:
    """Steps since the item in a slot was posted, int32 of the shape of `ids`, 0 to H - 1."""
    return (step - ids // sizes.creators) % sizes.lifetime


def _outbox_entry(outbox: Outbox, account: Array, entry: Array, step: Array, sizes: Sizes) -> tuple[Array, Array]:
    """Item slot and existence of an outbox entry; the slot may have been recycled since."""
    at = {"mode": "promise_in_bounds"}
    ids = outbox.item.at[account, entry].get(**at)
    current = outbox.birth.at[account, entry].get(**at) == step - item_age(ids, step, sizes)
    return ids, outbox.weight.at[account, entry].get(**at) * current


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
    start = jnp.floor(start_draw * degree).astype(jnp.int32)
    slot = (start[None] + jnp.arange(sizes.in_network, dtype=jnp.int32)[:, None]) % jnp.maximum(degree, 1)[None]
    reader = jnp.arange(degree.shape[0], dtype=jnp.int32)[None]
    account = ties.followees.at[reader, slot].get(mode="promise_in_bounds")
    weight = ties.weight.at[reader, slot].get(mode="promise_in_bounds")
    posts = (entry_draw < 0.5) & (account < sizes.creators)
    fraction = jnp.where(account < sizes.creators, (2.0 * entry_draw) % 1.0, entry_draw)
    age = jnp.floor(fraction * sizes.recent).astype(jnp.int32)
    own = ((step - age) % sizes.lifetime) * sizes.creators + jnp.minimum(account, sizes.creators - 1)
    entry = jnp.floor(fraction * sizes.outbox).astype(jnp.int32)
    shared, shared_weight = _outbox_entry(outbox, account, entry, step, sizes)
    return jnp.where(posts, own, shared), weight * jnp.where(posts, 1.0, shared_weight)


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
    """The one packed gather: columns of the items in `ids [C, ...]` from the table `[M, F]`, as planes `[F, C, ...]`."""

    # Candidate by candidate in a loop, because its planes are stored: otherwise every loop that reads a plane picks its
    # column out of the gathered rows, a cache line for each number.
    def one(carry: None, ids: Array) -> tuple[None, Array]:
        return carry, jnp.moveaxis(table.at[ids].get(mode="promise_in_bounds"), -1, 0)

    return jnp.moveaxis(jax.lax.scan(one, None, ids)[1], 1, 0)


@gather_planes.defjvp
def _gather_planes_derivative(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # One gather, so that the reverse pass is one scatter.
    change = jnp.moveaxis(tangents[0].at[primals[1]].get(mode="promise_in_bounds"), -1, 0)
    return gather_planes(*primals), change


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
