"""Sums and extremes over short axes.

Candidates and topics are short axes (4 to 64 long) in front of a long axis of users. Combining their slices keeps the
reduction inside the surrounding fused loop; a reduction is handed to a separate library on CPU and was measured to be about
1.3 times slower for the whole step. Long axes keep the ordinary reduction.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from mamba.types import Array

T = TypeVar("T")
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
    return in_pairs(jnp.add, _slices(values, axis, keepdims))


@_total.defjvp
def _total_derivative(axis: int, keepdims: bool, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # Of an ordinary sum: the reverse pass then broadcasts, where that of the slices above pads and adds every one.
    return _total(*primals, axis, keepdims), jnp.sum(tangents[0], axis=axis, keepdims=keepdims)


def inner(first: Array, second: Array, axis: int = 0) -> Array:
    """Sum of products over one axis: `total(first * second, axis)` without the products in memory.

    Args:
        first: [...], broadcast against `second`; both have all of the axis.
        second: [...].
        axis: a non-negative axis.

    Returns:
        The sum, without that axis.
    """
    if not 0 < first.shape[axis] <= _SHORT:
        return jnp.sum(first * second, axis=axis)
    return _inner(first, second, axis)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _inner(first: Array, second: Array, axis: int) -> Array:
    # Slices of the factors: the compiler stores what is sliced many times, which must not be the products.
    pairs = zip(_slices(first, axis, False), _slices(second, axis, False), strict=True)
    return in_pairs(jnp.add, [a * b for a, b in pairs])


@_inner.defjvp
def _inner_derivative(axis: int, primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (first, second), (of_first, of_second) = primals, tangents
    return _inner(first, second, axis), jnp.sum(of_first * second + first * of_second, axis=axis)


def total_of(function: Callable[..., Array], parts: Sequence[Array], whole: Any, *, axis: int = 0) -> Array:
    """Sum over one axis of an elementwise function: `total(function(parts, whole), axis)` with none of its values in memory.

    Args:
        function: `(parts, whole)` to an array of the parts' broadcast shape; elementwise along the axis, and pure.
        parts: arrays of one rank, broadcast against each other, all with that axis, on which each is as long as the others or 1.
        whole: a tree of arrays that the function gets as they are, such as scalars.
        axis: a non-negative axis.

    Returns:
        The sum, without that axis.
    """
    length = jnp.broadcast_shapes(*(part.shape for part in parts))[axis]
    if not 0 < length <= _SHORT:
        return jnp.sum(function(parts, whole), axis=axis)
    return _total_of(function, axis, tuple(parts), whole)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _total_of(function: Callable[..., Array], axis: int, parts: tuple[Array, ...], whole: Any) -> Array:
    length = jnp.broadcast_shapes(*(part.shape for part in parts))[axis]
    cut = [_slices(part, axis, True) * (length if part.shape[axis] == 1 else 1) for part in parts]
    return jnp.squeeze(in_pairs(jnp.add, [function(each, whole) for each in zip(*cut, strict=True)]), axis)


@_total_of.defjvp
def _total_of_derivative(
    function: Callable[..., Array], axis: int, primals: tuple[Any, Any], tangents: tuple[Any, Any]
) -> tuple[Array, Array]:
    # Computed again in the reverse pass: what a function is made of is as long as its values.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def plain(parts: Any, whole: Any) -> Array:
        return jnp.sum(function(parts, whole), axis=axis)

    _, change = jax.jvp(plain, primals, tangents)
    return _total_of(function, axis, *primals), change


def largest(values: Array, axis: int = 0, *, keepdims: bool = False) -> Array:
    """Largest value over one axis: `jnp.max(values, axis)`; arguments as of `total`."""
    if not 0 < values.shape[axis] <= _SHORT:
        return jnp.max(values, axis=axis, keepdims=keepdims)
    return in_pairs(jnp.maximum, _slices(values, axis, keepdims))


def softmax(values: Array, axis: int = 0) -> Array:
    """`jax.nn.softmax` over one axis, of the shape of `values`."""
    # Of no consequence for the value, hence for no derivative.
    highest = jax.lax.stop_gradient(largest(values, axis, keepdims=True))
    mass = jnp.exp(values - highest)
    return mass / total(mass, axis, keepdims=True)


def in_pairs(combine: Callable[[T, T], T], parts: Sequence[T]) -> T:
    """Combines the parts two by two until one is left; `combine` gets the earlier one first."""
    while len(parts) > 1:
        pairs = [combine(a, b) for a, b in zip(parts[::2], parts[1::2], strict=False)]
        parts = [*pairs, parts[-1]] if len(parts) % 2 else pairs
    return parts[0]


def _slices(values: Array, axis: int, keepdims: bool) -> list[Array]:
    return [jax.lax.index_in_dim(values, i, axis, keepdims=keepdims) for i in range(values.shape[axis])]
