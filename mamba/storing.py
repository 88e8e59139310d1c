"""What is worth storing: a result that many loops read, computed once instead of once in each of them.

XLA puts what is computed into the loop that reads it, also where six loops read it. On a CPU a scan keeps its results
apart, but fills them with zeros first and runs on one core; a branch does neither.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from mamba.types import Array


def stored(compute: Callable[..., Array], *operands: Array) -> Array:
    """`compute(*operands)`, stored before anything reads it, as are the operands.

    Args:
        compute: a pure function with one array as its result; differentiable where it is.
        operands: its arguments. One element of the first is looked at: where users are split over devices (`mamba.placement`),
            let it be one that every device has.

    Returns:
        The result of `compute`.
    """
    if jax.default_backend() != "cpu":
        return jax.lax.optimization_barrier(compute(*operands))

    def never(*operands: Array) -> Array:
        made = jax.eval_shape(compute, *operands)
        return jnp.zeros(made.shape, made.dtype)

    return jax.lax.cond(_true(operands[0]), compute, never, *operands)


def _true(array: Array) -> Array:
    """True, by a condition that the compiler cannot tell beforehand; where it can, the branch only goes."""
    first = array[(0,) * array.ndim]
    bits = first if jnp.issubdtype(first.dtype, jnp.integer) else jax.lax.bitcast_convert_type(first, jnp.int32)
    return (bits.ravel()[0] & 1) < 2
