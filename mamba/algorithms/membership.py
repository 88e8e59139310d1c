"""Who belongs to a sample: a hash of ids, and a soft step at the sample's share.

A hash, not a draw: the members of a sample stay the same from step to step without being stored, and samples under
different salts are independent.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mamba.types import Array


def hashed(ids: Array, salt: Array | int) -> Array:
    """Uniform numbers strictly inside (0, 1), one per id.

    Args:
        ids: [...] integers of at least 0.
        salt: integer scalar; another salt gives independent numbers.

    Returns:
        [...] in jax's default precision.
    """
    bits = ids.astype(jnp.uint32) ^ (jnp.asarray(salt).astype(jnp.uint32) * jnp.uint32(0x9E3779B9))
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 0x9E3779B1), (15, 0x85EBCA6B)):
        bits = (bits ^ (bits >> shift)) * jnp.uint32(factor)
    bits = bits ^ (bits >> 16)
    return (bits >> 9).astype(float) * 2.0**-23 + 2.0**-24


def member(uniform: Array, share: Array, width: float = 0.05) -> Array:
    """Whether (softly) a uniform number lies below `share`.

    sigma((logit(share) - logit(uniform)) / width): nobody at share 0, everybody at share 1, finite derivatives between.
    At the default width the mean over ids is within 0.2 % of the share.

    Args:
        uniform: [...] in (0, 1).
        share: scalar in [0, 1].
        width: softness of the step, in log-odds.

    Returns:
        [...] in [0, 1].
    """
    safe = jnp.clip(share, 1e-7, 1.0 - 1e-7)
    return jax.nn.sigmoid((jnp.log(safe) - jnp.log1p(-safe) - jnp.log(uniform) + jnp.log1p(-uniform)) / width)
