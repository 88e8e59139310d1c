"""Sums over short axes.

Candidates and topics are short axes (4 to 64 long) in front of a long axis of users. Adding their slices keeps the sum
inside the surrounding fused loop; a reduction is handed to a separate library on CPU and was measured to be about 1.3
times slower for the whole step. Long axes keep the ordinary reduction.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from mamba.types import Array

_SHORT = 64


def total(values: Array, axis: int = 0, *, keepdims: bool = False) -> Array:
    """Sum over one axis, in pairs: `jnp.sum(values, axis)` in a fixed order.

    Args:
        values: [...].
        axis: a non-negative axis.
        keepdims: keep the axis with length 1.

    Returns:
        The sum, without (or with) that axis.
    """
    if not 0 < values.shape[axis] <= _SHORT:
        return jnp.sum(values, axis=axis, keepdims=keepdims)
    return _total(values, axis, keepdims)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _total(values: Array, axis: int, keepdims: bool) -> Array:
    parts = [jax.lax.index_in_dim(values, i, axis, keepdims=keepdims) for i in range(values.shape[axis])]
    while len(parts) > 1:
        pairs = [a + b for a, b in zip(parts[::2], parts[1::2], strict=False)]
        parts = pairs + ([parts[-1]] if len(parts) % 2 else [])
    return parts[0]


@_total.defjvp
def _total_derivative(axis: int, keepdims: bool, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # Of an ordinary sum: the reverse pass then broadcasts, where that of the slices above pads and adds every one.
    return _total(*primals, axis, keepdims), jnp.sum(tangents[0], axis=axis, keepdims=keepdims)
