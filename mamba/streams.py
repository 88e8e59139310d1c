"""Named random streams: the common-random-number contract.

Every draw of a rollout is a function of the seed, the step, the purpose by name and the position in the array, and of
nothing else. Two platforms that differ only in their algorithms therefore see the same noise, which is what makes paired
differences precise. Keys are never split in data-dependent order.

Keys of all purposes are derived by one call (`row_keys`) and all draws of one length are made by one call (`draw_rows`): a
row is a stream, and one generator call for a hundred rows is several times cheaper than a hundred calls.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from mamba.types import Array


_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def _code(name: str) -> int:
    return zlib.crc32(name.encode())


def _hash(key: tuple[Array, Array], left: Array, right: Array) -> tuple[Array, Array]:
    """Threefry-2x32 with 20 rounds (Salmon et al. 2011) of two words under a key of two words, as in `jax.random`.

    Written out, because there the rounds are a loop whose overhead is a fifth of a step of 1,000 users on CPU.
    """
    schedule = (*key, key[0] ^ key[1] ^ np.uint32(0x1BD11BDA))
    left, right = left + schedule[0], right + schedule[1]
    for group in range(5):
        for turn in _ROTATIONS[group % 2]:
            left = left + right
            right = left ^ ((right << np.uint32(turn)) | (right >> np.uint32(32 - turn)))
        left = left + schedule[(group + 1) % 3]
        right = right + schedule[(group + 2) % 3] + np.uint32(group + 1)
    return left, right


def _words(keys: Array) -> tuple[Array, Array]:
    data = jax.random.key_data(keys)
    return data[..., 0], data[..., 1]


def fold(key: Array, number: Array | int, *, step: Array | int = 0) -> Array:
    """Derives keys by number, like `jax.random.fold_in`.

    Args:
        key: typed key; consumed.
        number: integers [...] from 0 to 2^32 - 1.
        step: a second number, a scalar.

    Returns:
        Typed threefry keys [...].
    """
    number = jnp.asarray(number, jnp.uint32)
    high = jnp.broadcast_to(jnp.asarray(step).astype(jnp.uint32), number.shape)
    key = tuple(jnp.broadcast_to(word, number.shape) for word in _words(key))
    return jax.random.wrap_key_data(jnp.stack(_hash(key, high, number), axis=-1), impl="threefry2x32")


def stream(key: Array, name: str) -> Array:
    """Derives the key of the stream called `name`.

    Args:
        key: typed key of the rollout, or of one step of it.
        name: purpose of the draw, such as `"click"`, or the name of an algorithm.

    Returns:
        A typed key that depends only on `key` and `name`.
    """
    return fold(key, _code(name))


def _unit(keys: Array, first: Array, length: int, block: Array | int) -> Array:
    """Uniform draws [rows, length]: positions `first [rows]` and following of the streams of typed keys [rows]."""
    rows = len(first)
    wide = jnp.stack([*_words(keys), first], axis=-1)
    halves = jnp.concatenate([wide, wide[: rows % 2]]).reshape(2, -1, 3)
    block = jnp.asarray(block).astype(jnp.uint32)

    def half(carry: Array, wide: Array) -> tuple[Array, Array]:
        shape = (wide.shape[0], length)
        column = [jnp.broadcast_to(wide[:, i : i + 1], shape) for i in range(3)]
        position = column[2] + jax.lax.broadcasted_iota(jnp.uint32, shape, 1)
        left, right = _hash((column[0], column[1]), jnp.broadcast_to(carry, shape), position)
        return carry, left ^ right

    # A loop of two rounds, because its result is stored: otherwise every loop that reads a row repeats the hash.
    bits = jax.lax.scan(half, block, halves)[1].reshape(-1, length)[:rows]
    # The middle of one of 2^23 cells: exact in float32 and strictly inside (0, 1), so that logarithms are finite.
    return (bits >> 9).astype(jnp.float32) * jnp.float32(2.0**-23) + jnp.float32(2.0**-24)


def uniforms(key: Array, shape: tuple[int, ...]) -> Array:
    """Uniform draws strictly inside (0, 1).

    Args:
        key: typed key; consumed.
        shape: shape of the draw.

    Returns:
        float32 array of `shape`.
    """
    size = math.prod(shape)
    half = -(-size // 2)
    first = jnp.asarray([0, half], jnp.uint32)
    return _unit(jnp.broadcast_to(key, 2), first, half, 0).reshape(-1)[:size].reshape(shape)


def row_keys(key: Array, rows: Mapping[str, int], *, step: Array | int = 0) -> dict[str, Array]:
    """Keys for several purposes in one call.

    Args:
        key: typed key; consumed.
        rows: number of rows for each purpose; row `j` of a purpose is a stream of its own, so adding rows or purposes
            changes none of the others.
        step: number of the step; every step has keys of its own.

    Returns:
        purpose -> typed keys [rows].
    """
    codes = np.array([_code(f"{name}/{row}") for name, count in rows.items() for row in range(count)], np.uint32)
    return _split_rows(fold(key, codes, step=step), rows)


def draw_rows(keys: Mapping[str, Array], length: int, *, block: Array | int = 0) -> dict[str, Array]:
    """Uniform draws for several purposes in one call.

    Args:
        keys: purpose -> typed keys [rows], from `row_keys`; consumed.
        length: draws per row.
        block: number of the block of users; every block has draws of its own.

    Returns:
        purpose -> float32 [rows, length] in (0, 1).
    """
    joined = jnp.concatenate(list(keys.values()))
    drawn = _unit(joined, jnp.zeros(len(joined), jnp.uint32), length, block)
    return _split_rows(drawn, {name: len(each) for name, each in keys.items()})


def _split_rows(values: Array, rows: Mapping[str, int]) -> dict[str, Array]:
    edges = np.cumsum([0, *rows.values()])
    return {name: values[edges[i] : edges[i + 1]] for i, name in enumerate(rows)}


def normals(uniform: Array) -> Array:
    """Standard normal draws from uniform ones by inversion."""
    return jnp.sqrt(2.0) * jax.lax.erf_inv(2.0 * uniform - 1.0)


def recycle(uniform: Array, probability: Array) -> Array:
    """A fresh uniform draw from one that has decided an event.

    Given that `uniform < probability` or not, its position within that interval is again uniform on (0, 1) and independent
    of the event. Each use costs as many of the 23 bits as the event had information.

    Args:
        uniform: [...] in (0, 1), compared with `probability` by `<`.
        probability: [...] in [0, 1].

    Returns:
        [...] in (0, 1); carries no derivative.
    """
    probability = jax.lax.stop_gradient(probability)
    inside = uniform < probability
    low = jnp.where(inside, 0.0, probability)
    width = jnp.where(inside, probability, 1.0 - probability)
    return jnp.clip((uniform - low) / width, 2.0**-24, 1.0 - 2.0**-24)
