"""A scan over steps in rematerialised segments: what rollouts and every other dynamical system here are run by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# So many states (0.5 kB a user) weigh no more than what one step holds in its backward pass (30 kB a user): segments
# would save nothing, and would cost a third forward pass, at run time and in compilation.
_SHORT = 64


def segment_length(steps: int) -> int:
    """Steps per segment: the length at which segments plus length is least, about sqrt(steps).

    A length that does not divide the steps leaves a shorter last segment, which is compiled on its own: it must save half.
    """

    def cost(length: int) -> tuple[float, int]:
        whole, rest = divmod(steps, length)
        return (whole + length if rest == 0 else 1.5 * (whole + 1 + length), length)

    return min(range(1, steps + 1), key=cost)


def unroll(
    advance: Callable[[Any, Any], tuple[Any, Any]], state: Any, each: Any, *, segment: int | None = None
) -> tuple[Any, Any]:
    """`jax.lax.scan`, whose backward pass holds the states at segment borders and those within one segment.

    Args:
        advance: `(state, each_t) -> (state, record)`.
        state: where to start.
        each: pytree whose leaves have leading axis [T]: what differs from step to step.
        segment: steps per rematerialised segment. None takes 1 up to 64 steps and about sqrt(T) beyond; 0 stores everything and
            recomputes nothing.

    Returns:
        `(state, records [T, ...])`.
    """
    steps = len(jax.tree.leaves(each)[0])
    if segment == 0:
        return jax.lax.scan(advance, state, each)
    stepwise = jax.checkpoint(advance, prevent_cse=False)
    if segment is None:
        length = 1 if steps <= _SHORT else segment_length(steps)
    else:
        length = min(segment, steps)
    if length == 1:
        return jax.lax.scan(stepwise, state, each)
    whole = steps // length

    def segmented(carry: Any, block: Any):
        return jax.lax.scan(stepwise, carry, block)

    split = jax.tree.map(lambda x: x[: whole * length].reshape(whole, length, *x.shape[1:]), each)
    state, recorded = jax.lax.scan(jax.checkpoint(segmented, prevent_cse=False), state, split)
    recorded = jax.tree.map(lambda x: x.reshape(whole * length, *x.shape[2:]), recorded)
    if whole * length < steps:
        # A shorter last segment costs a second compilation; `segment_length` avoids it where a divisor is near.
        state, tail = segmented(state, jax.tree.map(lambda x: x[whole * length :], each))
        recorded = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), recorded, tail)
    return state, recorded
