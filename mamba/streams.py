"""Named random streams: the common-random-number contract.

Every draw of a rollout is a function of the seed, the step, the purpose by name and the position in the array, and of
nothing else. Two platforms that differ only in their algorithms therefore see the same noise, which is what makes
paired differences precise. Keys are never split in data-dependent order.

Keys of all purposes are derived by one call (`row_keys`) and all draws of one length are made by one call
(`draw_rows`): a row is a stream, and one generator call for a hundred rows is several times cheaper than a hundred calls.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from mamba.storing import stored
from mamba.types import Array


def _code(name: str) -> int:
    return zlib.crc32(name.encode())


def fold(key: Array, number: Array | np.ndarray | int, *, step: Array | int = 0) -> Array:
    """Derives keys by number: `jax.random.fold_in` over an array.

    Args:
        key: typed key; consumed.
        number: integers [...] from 0 to 2^32 - 1.
        step: a second number, a scalar.

    Returns:
        Typed keys [...].
    """
    number = jnp.asarray(number, jnp.uint32)
    stepped = jax.random.fold_in(key, step)
    return jax.vmap(jax.random.fold_in, (None, 0))(stepped, number.ravel()).reshape(number.shape)


def stream(key: Array, name: str) -> Array:
    """Derives the key of the stream called `name`.

    Args:
        key: typed key of the rollout, or of one step of it.
        name: purpose of the draw, such as `"click"`, or the name of an algorithm.

    Returns:
        A typed key that depends only on `key` and `name`.
    """
    return fold(key, _code(name))


def _unit(bits: Array) -> Array:
    # The middle of one of 2^23 cells: exact in float32 and strictly inside (0, 1), so that logarithms are finite.
    return (bits >> 9).astype(float) * 2.0**-23 + 2.0**-24


_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


def _threefry(key: Array, count: Array) -> Array:
    """Threefry-2x32 of the 64-bit counters whose low halves are `count` and whose high halves are 0; both words combined.

    Args:
        key: the two words of a key, uint32 [2].
        count: uint32 [...].

    Returns:
        uint32 [...], the bits that `jax.random.bits` has at those places.

    References:
        Salmon et al. 2011 (Random123), 20 rounds.
    """
    schedule = (key[0], key[1], key[0] ^ key[1] ^ _PARITY)
    high, low = schedule[0], count + schedule[1]
    for group in range(5):
        for turn in _ROTATIONS[group % 2]:
            high = high + low
            low = ((low << turn) | (low >> (32 - turn))) ^ high
        high = high + schedule[(group + 1) % 3]
        low = low + schedule[(group + 2) % 3] + np.uint32(group + 1)
    return high ^ low


def _written_out(key: Array) -> bool:
    # On a CPU jax keeps the rounds of its generator in a loop, and each goes through all numbers in memory: 9 ns of CPU time
    # a number. Written out they are one pass over registers: 1.5 ns.
    return jax.default_backend() == "cpu" and jax.random.key_impl(key) == "threefry2x32"


def uniforms(key: Array, shape: tuple[int, ...]) -> Array:
    """Uniform draws strictly inside (0, 1).

    Args:
        key: typed key; consumed.
        shape: shape of the draw.

    Returns:
        [...] of `shape`, in jax's default precision; the draws are the same in every precision.
    """
    if not _written_out(key) or not shape:
        return _unit(jax.random.bits(key, shape, "uint32"))
    words = jax.random.key_data(key)
    # Counted along each axis, not in one row that takes shape then: devices that an axis is split over count their own.
    place = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        along = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        place = place + along * np.uint32(math.prod(shape[axis + 1 :]) % 2**32)
    return stored(lambda words, place: _unit(_threefry(words, place)), words, place)


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
        purpose -> [rows, length] in (0, 1).
    """
    joined = jax.vmap(jax.random.fold_in, (0, None))(jnp.concatenate(list(keys.values())), block)

    if _written_out(joined):
        words = jax.random.key_data(joined)
        drawn = stored(_rows, words, jnp.arange(length, dtype=jnp.uint32))
    else:
        drawn = _unit(jax.vmap(lambda each: jax.random.bits(each, (length,), "uint32"))(joined))
    return _split_rows(drawn, {name: len(each) for name, each in keys.items()})


def _rows(words: Array, place: Array) -> Array:
    """Draws [rows, length] at the same places `[length]` of the streams whose keys are `words [rows, 2]`."""
    return _unit(_threefry(words.T[..., None], place[None]))


def _split_rows(values: Array, rows: Mapping[str, int]) -> dict[str, Array]:
    edges = np.cumsum([0, *rows.values()])
    return {name: values[edges[i] : edges[i + 1]] for i, name in enumerate(rows)}


def normals(uniform: Array) -> Array:
    """Standard normal draws from uniform ones by inversion."""
    return jnp.sqrt(2.0) * jax.lax.erf_inv(2.0 * uniform - 1.0)


def recycle(uniform: Array, probability: Array) -> Array:
    """A fresh uniform draw from one that has decided an event.

    Given that `uniform < probability` or not, its position within that interval is again uniform on (0, 1) and
    independent of the event. Each use costs as many of the 23 bits as the event had information.

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
