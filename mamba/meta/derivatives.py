"""Derivatives of a system's outcomes with respect to its parameters, key by key; callers jit.

`reverse` pulls R weighted sums of outcomes back through the run, at a cost of about 2 R forward runs and memory that grows with
sqrt(T); `forward` pushes all P parameters through it, at a cost of about 2 P and in memory that does not grow with T.
Both take traced `shares` (`mamba.passing`), so one compilation gives the whole derivative, windows, and stopped blocks.

References:
    Griewank and Walther 2008, chapters 3 and 4 (cost of the forward and reverse modes).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mamba import members as mem
from mamba import placement
from mamba.meta import systems
from mamba.meta.systems import System
from mamba.types import Array


def reverse(
    system: System, *, steps: int, segment: int | None = None, spread: bool = True
) -> Callable[[Any, Array, Array, Array, Array], tuple[Array, Array]]:
    """Reverse mode.

    Args:
        system: what to differentiate.
        steps: T.
        segment: see `mamba.unroll.unroll`.
        spread: False keeps all keys on one device, for callers that split something else.

    Returns:
        `(context, theta [P], rows [R, J], shares [B] or [T, B], keys [S], samples=None) -> (outcomes [S, J], slopes
        [S, R, P])`: derivatives of `rows @ outcomes`. Each key runs in the world of its own sample, leaves [S, ...], where
        samples are given. Keys are shared out over the devices where their number is a multiple of that of the devices.
    """

    def one(context: Any, theta: Array, rows: Array, shares: Array, key: Array) -> tuple[Array, Array]:
        def values(theta: Array) -> Array:
            return systems.run(system, context, theta, key=key, steps=steps, shares=shares, segment=segment)[1]

        value, pull = jax.vjp(values, theta)
        return value, jax.lax.map(lambda row: pull(row.astype(value.dtype))[0], rows)

    return _over_keys(system, one, spread=spread)


def forward(
    system: System, *, steps: int, chunk: int = 8
) -> Callable[[Any, Array, Array, Array, Array], tuple[Array, Array]]:
    """Forward mode.

    Args:
        system: what to differentiate.
        steps: T.
        chunk: tangents that run side by side.

    Returns:
        `(context, theta [P], directions [N, P], shares [N, B] or [N, T, B], keys [S], samples=None) -> (outcomes [S, J],
        slopes [S, N, J])`: derivatives along each direction, with shares of its own; the run itself is shared by the directions
        of a chunk. Keys and samples as in `reverse`.
    """

    def one(context: Any, theta: Array, directions: Array, shares: Array, key: Array) -> tuple[Array, Array]:
        def column(direction: Array, share: Array) -> tuple[Array, Array]:
            def values(theta: Array) -> Array:
                return systems.run(system, context, theta, key=key, steps=steps, shares=share, segment=0)[1]

            return jax.jvp(values, (theta,), (direction,))

        count = len(directions)
        width = min(chunk, count)
        whole = -(-count // width)
        index = jnp.minimum(jnp.arange(whole * width), count - 1).reshape(whole, width)

        def some(rows: Array) -> tuple[Array, Array]:
            return jax.vmap(column, out_axes=(None, 0))(directions[rows], shares[rows])

        value, columns = jax.lax.map(some, index)
        return value[0], columns.reshape(whole * width, -1)[:count]

    return _over_keys(system, one)


def _over_keys(
    system: System, one: Callable[..., tuple[Array, Array]], *, spread: bool = True
) -> Callable[..., tuple[Array, Array]]:
    """Maps `one`, whose first argument is the context and whose last a key, over keys, shared out over the devices."""

    def estimate(
        context: Any, theta: Array, what: Array, shares: Array, keys: Array, samples: Any = None
    ) -> tuple[Array, Array]:
        def some(context: Any, theta: Array, what: Array, shares: Array, each: Any) -> tuple[Array, Array]:
            def under(each: Any) -> tuple[Array, Array]:
                key, sample = each
                return one(context if sample is None else system.varied(context, sample), theta, what, shares, key)

            return mem.mapped(under, each, at_once=system.at_once)

        if spread and len(keys) % placement.member_devices() == 0:
            some = mem.over_devices(some, shared=4, split=1)
        return some(context, theta, what, shares, (keys, samples))

    return estimate
