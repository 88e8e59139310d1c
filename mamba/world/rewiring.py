"""Rewiring: people drop ties to those they disagree with and pick up suggested ones.

In each step a user looks at one tie, drawn uniformly, and drops it with a probability that rises with opinion distance.
The replacement is drawn by softmax over link scores, which is the port of friend-suggestion algorithms; without one it
is uniform over the suggestions. The tie that is looked at is also what is measured of the network: a uniform draw of each user's
ties costs nothing more. Both draws are hard in every mode (an identity cannot be averaged); the weight of the tie
carries their likelihood ratios, so that derivatives with respect to link scores and opinions are kept to first order.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from mamba.storing import stored
from mamba.sums import softmax, total
from mamba.types import Array, Mode, Sizes, Ties
from mamba.world.candidates import at_pairs
from mamba.world.parameters import WorldParameters
from mamba.world.relax import carried, pick, soft_step


class Rewired(NamedTuple):
    """Ties after a step, and what was seen of those before it.

    Attributes:
        ties: follow table, [U, K].
        looked: [U] 1 for users who have a tie.
        apart: [U] squared opinion distance over the tie that each looked at, mean over topics; 0 without a tie.
        replaced: [U] whether it was replaced.
    """

    ties: Ties
    looked: Array
    apart: Array
    replaced: Array


def suggestions(ties: Ties, draws: Array, *, sizes: Sizes) -> Array:
    """Accounts that could be suggested: half followees of followees, half creators at random.

    Args:
        ties: follow table, [U, K].
        draws: [2, L, U] uniform draws.
        sizes: static sizes.

    Returns:
        [L, U] int32 account ids; may contain the user or present followees, which `rewire` refuses.
    """
    degree = jnp.maximum(jnp.sum(ties.weight > 0, axis=-1), 1)
    first = jnp.floor(draws[0] * degree[None]).astype(jnp.int32)
    (friend,) = at_pairs([ties.followees], jnp.arange(sizes.users)[None], first)
    second = jnp.floor(draws[1] * degree[friend]).astype(jnp.int32)
    (near,) = at_pairs([ties.followees], friend, second)
    anyone = jnp.floor(draws[1] * sizes.creators).astype(jnp.int32)
    return jnp.where(jnp.arange(sizes.links)[:, None] % 2 == 0, near, anyone)


def rewire(
    ties: Ties,
    opinion: Array,
    *,
    step: Array,
    links: Array,
    link_score: Array,
    draws: Array,
    pick_draw: Array,
    parameters: WorldParameters,
    sizes: Sizes,
    mode: Mode,
) -> Rewired:
    """One step of rewiring.

    Args:
        ties: follow table, [U, K].
        opinion: [D, U].
        step: number of the step; draws decide here.
        links: [L, U] suggested accounts.
        link_score: [L, U] combined log-odds of the link port.
        draws: [2, U] uniform draws: which tie, whether it is dropped.
        pick_draw: [L, U] uniform draws behind the choice of the replacement.
        parameters: world parameters.
        sizes: static sizes.
        mode: numeric mode.

    Returns:
        The new table, in which a user keeps their number of ties, and what was looked at.
    """
    del step
    readers = jnp.arange(sizes.users)
    degree = jnp.sum(ties.weight > 0, axis=-1)
    slot = jnp.floor(draws[0] * degree).astype(jnp.int32)
    account, old = at_pairs((ties.followees, ties.weight), readers, slot)
    apart = _apart(opinion, account)
    distance = jnp.sqrt(apart + 1e-9)
    drop = parameters.rewire_rate * soft_step(distance - parameters.rewire_distance, parameters.rewire_width)
    drop = drop * (degree > 0)
    dropped = draws[1] < drop
    # User by user, as the table lies in memory.
    followed = stored(
        lambda links, table: jnp.any(links[..., None] == table[:, None], axis=-1), links.T, ties.followees
    )
    taken = followed.T | (links == readers[None])
    mass = jnp.where(taken, 0.0, softmax(jnp.where(taken, -1e9, link_score)))
    chosen, carry = pick(mass, pick_draw, mode)
    replaced = dropped & ~jnp.all(taken, axis=0)
    fresh = jnp.where(replaced, jnp.take_along_axis(links, chosen[None], axis=0)[0], account)
    if mode == "sampled":
        weight = jnp.where(replaced, jnp.ones_like(old), old)
    else:
        weight = jnp.where(replaced, carried(drop) * carry, old * carried(1.0 - drop))
    after = Ties(ties.followees.at[readers, slot].set(fresh), ties.weight.at[readers, slot].set(weight))
    looked = (degree > 0).astype(opinion.dtype)
    return Rewired(after, looked, looked * apart, replaced.astype(opinion.dtype))


def fixed_ties(ties: Ties, opinion: Array, *, step: Array, **unused: object) -> Rewired:
    """The follow table stays as it is; takes the arguments of `rewire`, and looks at every user's ties in turn."""
    del unused
    readers = jnp.arange(opinion.shape[1])
    degree = jnp.sum(ties.weight > 0, axis=-1)
    (account,) = at_pairs([ties.followees], readers, (step + readers) % jnp.maximum(degree, 1))
    looked = (degree > 0).astype(opinion.dtype)
    return Rewired(ties, looked, looked * _apart(opinion, account), jnp.zeros_like(looked))


def _apart(opinion: Array, account: Array) -> Array:
    """Squared opinion distance [U] of every user [D, U] to an account [U], mean over topics."""
    # Opinions are stored before they are gathered: fused into the gather, all they are made of was read in random order,
    # which took a sixth of a step of 100,000 users on a CPU.
    theirs = jnp.stack([stored(lambda plane, account: plane[account], plane, account) for plane in opinion])
    return total((opinion - theirs) ** 2) / opinion.shape[0]


REWIRING = {"homophily": rewire, "none": fixed_ties}
