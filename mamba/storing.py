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
        operands: its arguments.

    Returns:
        The result of `compute`.
    """
    if jax.default_backend() != "cpu":
        return jax.lax.optimization_barrier(compute(*operands))

    def never(*operands: Array) -> Array:
        made = jax.eval_shape(compute, *operands)
        return jnp.zeros(made.shape, made.dtype)

    # The barrier hides from the compiler which branch is taken; without it the result is the same, but not stored.
    return jax.lax.cond(jax.lax.optimization_barrier(jnp.bool_(True)), compute, never, *operands)
