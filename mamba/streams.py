"""Named random streams: the common-random-number contract.

Every draw of a rollout comes from `stream(key, name)` folded with the step, so that its value depends on the seed, the
purpose, the step and the position in the array, and on nothing else. Two platforms that differ only in their algorithms
therefore see the same noise, which is what makes paired differences precise. Keys are never split in data-dependent order.
"""

from __future__ import annotations

import zlib

import jax
import jax.numpy as jnp

from mamba.types import Array

# 2^-24: the spacing of float32 just below 1, and half a step away from 0, so that log and logit stay finite.
_TINY = 2.0**-25


def stream(key: Array, name: str) -> Array:
    """Derives the key of the stream called `name`.

    Args:
        key: typed key of the rollout.
        name: purpose of the draw, such as `"click"`, or the name of an algorithm.

    Returns:
        A typed key that depends only on `key` and `name`.
    """
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def uniforms(key: Array, shape: tuple[int, ...]) -> Array:
    """Uniform draws strictly inside (0, 1), so that logarithms of them are finite.

    Args:
        key: typed key; consumed.
        shape: shape of the draw.

    Returns:
        float32 array of `shape`.
    """
    bits = jax.random.bits(key, shape, "uint32")
    return (bits >> 8).astype(jnp.float32) * jnp.float32(2.0**-24) + jnp.float32(_TINY)
