"""What is counted in every step: sums and state averages from which `mamba.objectives` builds its ratios.

Everything here reads latent truth and is for the analyst, never for a platform.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mamba.sums import inner, total
from mamba.types import Array, Footprint, Metrics, Population, Sizes, Users
from mamba.world.dynamics import Experience
from mamba.world.rewiring import Rewired


def gini(values: Array) -> Array:
    """Gini coefficient of non-negative values, `[N]` to a scalar in [0, 1); 0 when all are zero.

    Formula: sum_i (2 i - N - 1) x_(i) / (N sum x) over values in ascending order (Gini 1912).
    """
    ordered = jnp.sort(values)
    n = values.shape[0]
    rank = 2.0 * jnp.arange(1, n + 1, dtype=values.dtype) - n - 1.0
    return jnp.sum(rank * ordered) / (n * jnp.sum(ordered) + 1e-9)


def normalised_entropy(mix: Array) -> Array:
    """Shannon entropy of the first axis over log D, `[D, ...]` non-negative to `[...]` in [0, 1] (1 when D = 1)."""
    n = mix.shape[0]
    share = (mix + 1e-6) / total(mix + 1e-6, axis=0, keepdims=True)
    if n == 1:
        return jnp.ones(mix.shape[1:])
    return -total(share * jnp.log(share), axis=0) / jnp.log(float(n))


def served(
    experience: Experience, reshared: Array, reported: Array, group: Array, present: Array, sizes: Sizes
) -> Metrics:
    """Sums over a block of served users.

    Args:
        experience: what they saw and clicked.
        reshared: [C, U] reshare weights.
        reported: [C, U] report weights.
        group: [U] int32.
        present: [U] 1 for real users, 0 for padding.
        sizes: static sizes.

    Returns:
        Scalars, and `[G]` arrays whose name ends in `_by_group`.
    """
    items, examined = experience.items, experience.examined * present[None]
    toxic = inner(examined, items["toxicity"])
    seen = total(examined, axis=0)
    member = jax.nn.one_hot(group, sizes.groups, axis=0)
    false = 1.0 - items["veracity"]
    return {
        "exposures": jnp.sum(seen),
        "clicks": jnp.sum(experience.clicked),
        "reshares": jnp.sum(reshared),
        "reports": jnp.sum(reported),
        "toxic_exposures": jnp.sum(toxic),
        "false_exposures": jnp.sum(examined * false),
        "false_reshares": jnp.sum(reshared * false),
        "exposures_by_group": member @ seen,
        "toxic_exposures_by_group": member @ toxic,
    }


def states(users: Users, footprint: Footprint, people: Population, sizes: Sizes) -> Metrics:
    """State averages after the transition; scalars."""
    seen = total(footprint.seen, axis=0)
    diversity = normalised_entropy(footprint.seen)
    return {
        "polarisation": polarisation(users.opinion),
        "wellbeing": jnp.mean(users.wellbeing),
        "trust": jnp.mean(users.trust),
        "resilience": jnp.mean(users.resilience),
        "retention": jnp.mean(users.activity),
        "exposure_diversity": jnp.sum(seen * diversity) / (jnp.sum(seen) + 1e-9),
        "creator_inequality": gini(footprint.reach),
    }


def polarisation(opinion: Array) -> Array:
    """Mean over topics of the variance of opinions [D, U] over users."""
    return jnp.mean((opinion - jnp.mean(opinion, axis=1, keepdims=True)) ** 2)


def ties(rewired: Rewired, opinion: Array) -> Metrics:
    """Sums over the tie that each user looked at, and the variance of the opinions [D, U] that met there; scalars."""
    return {
        "opinion_variance": polarisation(opinion),
        "ties_looked_at": jnp.sum(rewired.looked),
        "tie_distances": jnp.sum(rewired.apart),
        "ties_replaced": jnp.sum(rewired.replaced),
    }


def disparity(reach: Array, alive: Array, substance: Array, people: Population, sizes: Sizes) -> Array:
    """Total variation between each group's share of exposure and its share of live substance, in [0, 1].

    Args:
        reach: [N] running exposures of each creator.
        alive: [M] existence of items.
        substance: [M] substance of items.
        people: groups of the creators are those of the first N users.
        sizes: static sizes.

    References:
        Singh and Joachims 2018 (exposure in proportion to merit).
    """
    member = jax.nn.one_hot(people.group[: sizes.creators], sizes.groups)
    merit = jnp.sum((alive * substance).reshape(sizes.lifetime, sizes.creators), axis=0) @ member
    exposure = reach @ member
    gap = exposure / (jnp.sum(exposure) + 1e-9) - merit / (jnp.sum(merit) + 1e-9)
    return 0.5 * jnp.sum(jnp.abs(gap))


def removals(
    removed: Array,
    wrong: Array,
    appealed: Array,
    verdict: Array,
    alive: Array,
    harmful: Array,
    posted: Array,
    bad: Array,
    people: Population,
    sizes: Sizes,
) -> Metrics:
    """What moderation took down in a step, against the truth.

    Args:
        removed: [M] existence taken away.
        wrong: [M] the part of it that was benign.
        appealed: [M] the part of it that authors appealed against.
        verdict: [M] what a reviewer of the appeal answers, 1 = violates.
        alive: [M] existence after removal.
        harmful: [M] degree to which items violate the rules.
        posted: [N] existence of this step's posts.
        bad: [N] degree to which they violate the rules.
        people: groups of the creators are those of the first N users.
        sizes: static sizes.

    Returns:
        Scalars `removed`, `false_removals`, `posts`, `benign_posts`, `violating_posts`, `live_violations`, `appeals`,
        `overturned`, and [G] arrays `false_removals_by_group`, `benign_posts_by_group`.
    """
    member = jax.nn.one_hot(people.group[: sizes.creators], sizes.groups)
    benign = posted * (1.0 - bad)
    return {
        "removed": jnp.sum(removed),
        "false_removals": jnp.sum(wrong),
        "posts": jnp.sum(posted),
        "benign_posts": jnp.sum(benign),
        "violating_posts": jnp.sum(posted * bad),
        "appeals": jnp.sum(appealed),
        "overturned": jnp.sum(appealed * (1.0 - verdict)),
        "live_violations": jnp.sum(alive * harmful),
        "false_removals_by_group": jnp.sum(wrong.reshape(sizes.lifetime, sizes.creators), axis=0) @ member,
        "benign_posts_by_group": benign @ member,
    }
