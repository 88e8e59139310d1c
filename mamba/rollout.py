"""A rollout: the joint step scanned over T steps, in segments, with rematerialisation, named cuts and probes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import jax.numpy as jnp

from mamba import ecosystem as eco
from mamba import passing as derivatives
from mamba import placement
from mamba.types import MODES, Array, Metrics, Mode
from mamba.unroll import unroll

Probe = Callable[[eco.State, Metrics], Any]


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
    passing: Array | None = None,
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
        segment: steps per rematerialised segment, see `mamba.unroll.unroll`.
        cuts: derivative cuts, none by default. `learn`: derivatives do not pass through what algorithms learn; `world`:
            nor through the world from one step to the next (both together: each team's myopic view); the name of one block of
            `mamba.passing.blocks`, such as `users` or `learner/home`: nor through that; `exposure`: nor from exposure to
            ranking; `proposal`: nor through the existence of proposed candidates. Values never change.
        passing: [B] or [T, B] shares of the derivatives that pass through each block into a step; the same cuts without
            another compilation, see `mamba.passing`.
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
    if steps < 1:
        raise ValueError(f"steps = {steps} must be at least 1")
    closed = derivatives.blocks_of(ecosystem, cuts)
    within = frozenset(cuts) & set(derivatives.WITHIN)
    users = ecosystem.sizes.users
    begin = placement.by_users(eco.init(ecosystem, inputs, key) if state is None else state, users)
    shares = None if passing is None else jnp.broadcast_to(passing, (steps, len(derivatives.blocks(ecosystem))))

    def one(carry: eco.State, each: tuple[Array, Array | None]):
        index, share = each
        taken = derivatives.stopped(ecosystem, carry, closed) if closed else carry
        taken = taken if share is None else derivatives.scaled(ecosystem, taken, share)
        after, metrics = eco.step(
            ecosystem, inputs, taken, index=index, key=key, mode=mode, cuts=within, skip_closed=skip_closed
        )
        return placement.by_users(after, users), (metrics, None if probe is None else probe(after, metrics))

    indices = jnp.asarray(first_step, jnp.int32) + jnp.arange(steps, dtype=jnp.int32)
    final, (metrics, probed) = unroll(one, begin, (indices, shares), segment=segment)
    return final, metrics, probed
