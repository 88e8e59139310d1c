"""What is differentiated: a dynamical system with P parameters and J outcomes, run for T steps.

    s_0 = begin(theta),   (s_{t+1}, r_t) = advance(theta, s_t),   Y = measure(r_0, ..., r_{T-1})

Estimators know nothing else of a system, so that they are tested on systems whose derivatives are known. `platform` makes one of
an ecosystem, whose J + A outcomes are the objectives and each algorithm's own loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mamba import ecosystem as eco
from mamba import members as mem
from mamba import objectives, passing
from mamba.meta import vector
from mamba.rollout import rollout
from mamba.types import Array, Metrics, Mode
from mamba.unroll import unroll


class System(NamedTuple):
    """A dynamical system; all functions are pure and differentiable.

    Attributes:
        begin: `(context, theta [P], key) -> state`; `context` is a pytree of whatever is passed beside the state.
        advance: `(context, theta [P], state, index, key) -> (state, record)`; `index` is the number of the step, `key` that of the
            whole run.
        measure: `records [T, ...] -> [J]`.
        outcomes: J names.
        blocks: B names of the parts of a state; derivatives can be stopped in each of them.
        parts: `state -> B pytrees`.
        scaled: `(state, shares [B]) -> state`, of whose derivatives those shares pass, see `mamba.passing`.
        varied: `(context, sample) -> context` of another world; only robust training asks.
        first: number of the first step.
        at_once: runs that are worth having side by side on this process's devices, see `members.beside`.
    """

    begin: Callable[[Any, Array, Array], Any]
    advance: Callable[[Any, Array, Any, Array, Array], tuple[Any, Any]]
    measure: Callable[[Any], Array]
    outcomes: tuple[str, ...]
    blocks: tuple[str, ...] = ("state",)
    parts: Callable[[Any], tuple[Any, ...]] = lambda state: (state,)
    scaled: Callable[[Any, Array], Any] = lambda state, shares: passing.share_of(state, shares[0])
    varied: Callable[[Any, Any], Any] = lambda context, sample: sample
    first: int = 0
    at_once: int = 1


def run(
    system: System,
    context: Any,
    theta: Array,
    *,
    key: Array,
    steps: int,
    shares: Array | None = None,
    segment: int | None = None,
    state: Any = None,
    first: int | Array | None = None,
) -> tuple[Any, Array]:
    """Runs a system.

    Args:
        system: what to run.
        context: see `System`.
        theta: [P].
        key: typed key.
        steps: T.
        shares: [B] or [T, B] shares of the derivatives that pass into a step; None passes all.
        segment: see `mamba.unroll.unroll`.
        state: where to go on; None begins anew.
        first: number of the first step when `state` is given.

    Returns:
        `(state, outcomes [J])`.
    """
    state = system.begin(context, theta, key) if state is None else state
    each = None if shares is None else jnp.broadcast_to(shares, (steps, len(system.blocks)))

    def one(carry: Any, at: tuple[Array, Array | None]) -> tuple[Any, Any]:
        index, share = at
        return system.advance(context, theta, carry if share is None else system.scaled(carry, share), index, key)

    begun = jnp.asarray(system.first if first is None else first, jnp.int32)
    state, records = unroll(one, state, (begun + jnp.arange(steps, dtype=jnp.int32), each), segment=segment)
    return state, system.measure(records)


def platform(ecosystem: eco.Ecosystem, *, mode: Mode = "expected", warm_up: int = 0) -> System:
    """An ecosystem as a system: `context` is its `Inputs`, theta its unconstrained levers in the order of `vector.names`.

    Args:
        ecosystem: static description.
        mode: numeric mode.
        warm_up: steps before the measured ones under the levers of `context`; the state they lead to is held fixed.
    """

    def begin(context: eco.Inputs, theta: Array, key: Array) -> eco.State:
        del theta  # levers act in steps alone
        state = eco.init(ecosystem, context, key)
        if warm_up:
            state = rollout(ecosystem, context, key=key, steps=warm_up, mode=mode, state=state, segment=0)[0]
        return jax.lax.stop_gradient(state)

    def advance(context: eco.Inputs, theta: Array, state: eco.State, index: Array, key: Array):
        given = replace(context, levers=vector.unflat(context.levers)(theta))
        return eco.step(ecosystem, given, state, index=index, key=key, mode=mode)

    return System(
        begin=begin,
        advance=advance,
        measure=lambda metrics: outcomes(ecosystem, metrics),
        outcomes=outcome_names(ecosystem),
        blocks=passing.blocks(ecosystem),
        parts=lambda state: passing.parts(ecosystem, state),
        scaled=lambda state, shares: passing.scaled(ecosystem, state, shares),
        varied=lambda context, parameters: replace(context, parameters=parameters),
        first=warm_up,
        at_once=mem.beside(ecosystem.sizes.users),
    )


def outcome_names(ecosystem: eco.Ecosystem) -> tuple[str, ...]:
    """Names of the J + A outcomes: the objectives, then `loss/<algorithm>`."""
    return (*objectives.NAMES, *(f"loss/{name}" for name in ecosystem.names))


def outcomes(ecosystem: eco.Ecosystem, metrics: Metrics) -> Array:
    """Outcomes [J + A] of metrics [T]: objectives, then time averages of the own losses."""
    values = objectives.evaluate(metrics, ecosystem.sizes.users)
    losses = [jnp.mean(metrics[f"loss/{name}"]) for name in ecosystem.names]
    return jnp.concatenate([values, jnp.stack(losses)]) if losses else values


def decoupled(
    system: System, context: Any, deployed: Array, theta: Array, *, key: Array, steps: int, segment: int | None = None
) -> Array:
    """Outcomes [J] of theta on the data that `deployed` brings about: every step starts where the deployed platform is.

    The decoupled performative risk DPR(deployed, theta) of Perdomo et al. 2020 (section 2), for a system with a state: theta acts
    within each step, and what it would change of the next one does not count.

    Args:
        system: what to run.
        context: see `System`.
        deployed: [P] parameters that drive the state; no derivative passes.
        theta: [P] parameters that are judged.
        key: typed key.
        steps: T.
        segment: see `mamba.unroll.unroll`.
    """
    deployed = jax.lax.stop_gradient(deployed)
    state = jax.lax.stop_gradient(system.begin(context, deployed, key))

    def one(carry: Any, index: Array) -> tuple[Any, Any]:
        after, _ = system.advance(context, deployed, carry, index, key)
        _, record = system.advance(context, theta, carry, index, key)
        return jax.lax.stop_gradient(after), record

    indices = system.first + jnp.arange(steps, dtype=jnp.int32)
    return system.measure(unroll(one, state, indices, segment=segment)[1])


def everything_passes(system: System) -> np.ndarray:
    """Shares [B] that let every derivative pass."""
    return np.ones(len(system.blocks), np.float32)
