"""A rollout: the joint step scanned over T steps, in segments, with rematerialisation, named cuts and probes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp

from mamba import ecosystem as eco
from mamba.types import MODES, Array, Metrics, Mode

Probe = Callable[[eco.State, Metrics], Any]

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


def rollout(
    ecosystem: eco.Ecosystem,
    inputs: eco.Inputs,
    *,
    key: Array,
    steps: int,
    mode: Mode = "sampled",
    state: eco.State | None = None,
    first_step: int | Array = 0,
    segment: int | None = None,
    cuts: Collection[str] = (),
    probe: Probe | None = None,
    skip_closed: bool = False,
) -> tuple[eco.State, Metrics, Any]:
    """Runs an ecosystem for `steps` steps.

    Args:
        ecosystem: static description.
        inputs: population, parameters, levers, gates, learning switches; differentiable.
        key: typed key of this rollout. Rollouts with one key see the same noise whatever their algorithms are.
        steps: T.
        mode: `sampled` (the model that is reported), `expected` (mean field, differentiable) or `straight_through`.
        state: state to start from; None starts anew from the population with the same key.
        first_step: number of the first step, when `state` is the result of an earlier rollout.
        segment: steps per rematerialised segment; the backward pass holds the states at segment borders and those
            within one segment. None takes 1 up to 64 steps and about sqrt(T) beyond; 0 stores everything and recomputes
            nothing.
        cuts: derivative cuts, none by default. `learn`: derivatives do not pass through what algorithms learn; `world`:
            nor through the world from one step to the next (each team's myopic view); `exposure`: nor from exposure to
            ranking; `proposal`: nor through the existence of proposed candidates. Values never change.
        probe: `(state, metrics) -> pytree` recorded after every step.
        skip_closed: branch around algorithms whose gate is 0 instead of computing what the gate makes neutral. Worth
            it where many gates are closed and members run one after the other: half of a factorial's work. The program
            is another one, so results are equal to rounding, not bit by bit.

    Returns:
        `(state, metrics, probed)`: the final state, metrics with leading axis [T], and the probe's output with leading
        axis [T] (None without a probe).

    Raises:
        ValueError: unknown mode or cut, or steps below 1.
    """
    if mode not in MODES:
        raise ValueError(f"mode '{mode}' is unknown; known: {', '.join(MODES)}")
    unknown = set(cuts) - set(eco.CUTS)
    if unknown:
        raise ValueError(f"cut '{sorted(unknown)[0]}' is unknown; known: {', '.join(eco.CUTS)}")
    if steps < 1:
        raise ValueError(f"steps = {steps} must be at least 1")
    begin = eco.init(ecosystem, inputs, key) if state is None else state
    named = frozenset(cuts)

    def one(carry: eco.State, index: Array):
        after, metrics = eco.step(
            ecosystem, inputs, carry, index=index, key=key, mode=mode, cuts=named, skip_closed=skip_closed
        )
        return after, (metrics, None if probe is None else probe(after, metrics))

    indices = jnp.asarray(first_step, jnp.int32) + jnp.arange(steps, dtype=jnp.int32)
    if segment == 0:
        final, (metrics, probed) = jax.lax.scan(one, begin, indices)
        return final, metrics, probed

    stepwise = jax.checkpoint(one, prevent_cse=False)
    if segment is None:
        length = 1 if steps <= _SHORT else segment_length(steps)
    else:
        length = min(segment, steps)
    if length == 1:
        final, (metrics, probed) = jax.lax.scan(stepwise, begin, indices)
        return final, metrics, probed
    whole = steps // length

    def segmented(carry: eco.State, block: Array):
        return jax.lax.scan(stepwise, carry, block)

    split = indices[: whole * length].reshape(whole, length)
    state, recorded = jax.lax.scan(jax.checkpoint(segmented, prevent_cse=False), begin, split)
    recorded = jax.tree.map(lambda x: x.reshape(whole * length, *x.shape[2:]), recorded)
    if whole * length < steps:
        # A shorter last segment costs a second compilation; `segment_length` avoids it where a divisor is near.
        state, tail = segmented(state, indices[whole * length :])
        recorded = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), recorded, tail)
    return state, recorded[0], recorded[1]
