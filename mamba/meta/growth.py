"""The growth monitor: where derivatives explode on their way through time, and what is done about it.

With s_t the carried state and d a direction of the parameters, the tangent ds_t/dtheta . d is injected anew at every step and
grows or dies out as the dynamics have it. Societies forget; an algorithm whose inner learner takes steps beyond its limit of
stability does not, and multiplies every derivative that passes through it. Its norm n_t in each block of the state is held
against the sum of what was injected into that block until then,

    amplification a_t = n_t / sum_{s <= t} |dF_s/dtheta . d|,

which a block left to itself that lets nothing grow keeps at 1 or below, however late it is reached. A block through which
derivatives explode is named and closed: they no longer pass it, and an audit (`mamba.meta.estimators.hybrid`) says what is
lost. Clipping and truncation do not repair such a gradient: its direction is wrong.

Neither the leading exponent nor a rate of growth late in the run would do: a learner beyond its limit can multiply tangents by
1e6 within twenty steps and then hold them there.

References:
    Metz et al. 2021 (chaotic unrolls); Benettin et al. 1980 (growth of tangents).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mamba.meta.estimators import Estimator, Worlds
from mamba.meta.systems import System
from mamba.streams import stream
from mamba.types import Array

WINDOW = 10  # steps over which a loop of several blocks must not grow tenfold
RUNS = 4  # runs that `guarded` looks at
EXPLODES = 10.0  # amplification that is called an explosion


def tangents(system: System, *, steps: int) -> Callable[[Any, Array, Array, Array, Array], Array]:
    """Norms of the parameters' tangent in every block; the caller jits it.

    Args:
        system: what is differentiated.
        steps: T.

    Returns:
        `(context, theta [P], directions [N, P], shares [B], key) -> norms [N, T, B]` after each step, in memory that does
        not grow with T.
    """

    def along(context: Any, theta: Array, direction: Array, shares: Array, key: Array) -> Array:
        state = system.begin(context, theta, key)
        leaves, treedef = jax.tree.flatten(state)
        moving = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]

        def one(carry: tuple[list[Any], list[Array]], t: Array):
            values, pushed = carry

            def move(theta: Array, floats: list[Array]) -> tuple[list[Array], list[Any]]:
                full = list(values)
                for i, leaf in zip(moving, floats, strict=True):
                    full[i] = leaf
                state = system.scaled(jax.tree.unflatten(treedef, full), shares)
                after = jax.tree.leaves(system.advance(context, theta, state, t, key)[0])
                return [after[i] for i in moving], after

            floats = [values[i] for i in moving]
            _, pushed, after = jax.jvp(move, (theta, floats), (direction, pushed), has_aux=True)
            seen = [jnp.zeros(())] * len(leaves)
            for i, leaf in zip(moving, pushed, strict=True):
                seen[i] = jnp.sum(leaf * leaf)
            blocks = system.parts(jax.tree.unflatten(treedef, seen))
            norms = jnp.sqrt(jnp.stack([sum(jax.tree.leaves(block), start=jnp.zeros(())) for block in blocks]))
            return (after, pushed), norms

        still = [jnp.zeros_like(leaves[i]) for i in moving]
        indices = system.first + jnp.arange(steps, dtype=jnp.int32)
        return jax.lax.scan(one, (leaves, still), indices)[1]

    def several(context: Any, theta: Array, directions: Array, shares: Array, key: Array) -> Array:
        return jax.lax.map(lambda direction: along(context, theta, direction, shares, key), directions)

    return several


def amplification(norms: np.ndarray, injected: np.ndarray) -> np.ndarray:
    """Tangents as multiples of what was injected until then, [N, T, B].

    Args:
        norms: [N, T, B] of `tangents`.
        injected: [N, T, B] of the same directions with all blocks closed. A block into which nothing is injected within a step
            takes the largest norm of its first `WINDOW` steps for it.

    Returns:
        Multiples; 0 where no derivative is, infinite from where a norm is not finite.
    """
    table, parts = np.asarray(norms, np.float64), np.asarray(injected, np.float64)
    reached = np.cumsum(np.maximum(parts, 0.0), axis=1)
    entered = table != 0  # NaN has entered too
    since = np.cumsum(np.cumsum(entered, axis=1) > 0, axis=1)  # steps since a block was first reached
    early = np.where(since <= WINDOW, np.where(np.isfinite(table), table, 0.0), 0.0).max(axis=1, keepdims=True)
    total = np.where(reached[:, -1:] > 0, reached, early * since)
    # Within rounding of nothing: what came before the first injection has no measure.
    safe = np.where(total > 0, total, np.inf)
    broken = np.cumsum(~np.isfinite(table), axis=1) > 0
    with np.errstate(invalid="ignore"):
        multiple = np.where(entered, table / safe, 0.0)
    return np.where(broken, np.inf, multiple)


def factors(multiples: np.ndarray) -> np.ndarray:
    """Largest amplification of each block, [B], of `amplification` [N, T, B]."""
    return np.asarray(multiples).max(axis=(0, 1))


def rising(multiples: np.ndarray) -> np.ndarray:
    """Largest growth of each block within `WINDOW` steps beyond whatever it had been before, [B]; at least 1 is taken for that.

    The first two windows are left out, in which derivatives spread from block to block: a run shorter than that has 0.
    """
    table = np.asarray(multiples)
    if table.shape[1] <= 2 * WINDOW:
        return np.zeros(table.shape[2])
    before = np.maximum(np.maximum.accumulate(table, axis=1)[:, WINDOW:-WINDOW], 1.0)
    later = table[:, 2 * WINDOW :]
    with np.errstate(invalid="ignore"):
        grown = np.where(np.isinf(later), np.inf, later / before)
    return grown.max(axis=(0, 1))


class Growth(NamedTuple):
    """What the monitor found.

    Attributes:
        factors: [B] amplification of the derivative as it was, with nothing newly closed.
        shares: [B] shares that pass from now on.
        closed: names of the blocks that were closed, in the order in which they were.
    """

    factors: np.ndarray
    shares: np.ndarray
    closed: tuple[str, ...]


def inspect(
    norms: Callable[[np.ndarray], np.ndarray], blocks: tuple[str, ...], shares: np.ndarray, *, limit: float = EXPLODES
) -> Growth:
    """Finds the blocks that make derivatives explode, and closes them.

    A derivative that explodes shows in every block it reaches. To blame are the blocks that amplify by themselves, all others
    closed. If derivatives still rise, a loop of several is to blame, or a block that only others reach: of those that rise, the
    one whose closing leaves least goes first.

    Args:
        norms: `shares [B] -> norms [N, T, B]`, from `tangents`.
        blocks: B names.
        shares: [B] shares that pass now.
        limit: amplification that counts as an explosion, and growth within `WINDOW` steps that counts as one of a loop.
    """
    passed = np.asarray(shares, np.float32).copy()
    injected = norms(np.zeros_like(passed))
    closed: list[str] = []

    def look(shares: np.ndarray) -> np.ndarray:
        return amplification(norms(shares), injected)

    def close(block: int) -> None:
        passed[block] = 0.0
        closed.append(blocks[block])

    seen = look(passed)
    first = factors(seen)
    alone = {}
    for b in np.flatnonzero((passed > 0) & (first > limit)):
        only = np.zeros_like(passed)
        only[b] = passed[b]
        alone[b] = factors(look(only))[b]
    for b in sorted(alone, key=lambda b: -alone[b]):
        if alone[b] > limit:
            close(int(b))
    seen = look(passed) if closed else seen
    while len(suspects := np.flatnonzero((passed > 0) & (rising(seen) > limit))):
        left = {}
        for b in suspects:
            without = passed.copy()
            without[b] = 0.0
            left[b] = factors(look(without)).max()
        close(int(min(suspects, key=lambda b: left[b])))
        seen = look(passed)
    return Growth(first, passed, tuple(closed))


class Guarded(NamedTuple):
    """State of `guarded`.

    Attributes:
        index: int32, estimates made.
        shares: [B] shares of derivatives that pass: the state of `estimators.pathwise`.
        factors: [B] amplification that the monitor last found.
    """

    index: Array
    shares: Array
    factors: Array


def guarded(
    path: Estimator,
    system: System,
    context: Any,
    *,
    steps: int,
    every: int,
    shares: np.ndarray,
    follow: Callable[..., Any] | None = None,
) -> Estimator:
    """`estimators.pathwise` that watches its own derivatives and closes the blocks through which they explode.

    `told`: `growth` [B], the amplification of each block, and `passing` [B].

    Args:
        path: `estimators.pathwise`, whose state is the shares.
        system: what is differentiated.
        context: see `System`.
        steps: T.
        every: estimates from one look to the next; 0 never looks.
        shares: [B] shares that pass at the start.
        follow: what `tangents` gives, compiled, for estimators that share it; None compiles one.
    """
    if follow is None:
        follow = jax.jit(tangents(system, steps=steps))

    def estimate(key: Array, theta: np.ndarray, state: Guarded, rows: Any = None, worlds: Worlds | None = None):
        if every > 0 and int(state.index) % every == 0:
            seed = stream(key, "growth")
            point = jnp.asarray(theta, jnp.result_type(float))
            # Bursts are rare: runs differ by more than directions do.
            runs = jax.random.split(seed, RUNS)
            directions = jax.random.rademacher(stream(seed, "directions"), (RUNS, 1, len(theta)), point.dtype)

            def norms(shares: np.ndarray) -> np.ndarray:
                given = jnp.asarray(shares)
                each = [follow(context, point, d, given, run) for d, run in zip(directions, runs, strict=True)]
                return np.concatenate([np.asarray(norm) for norm in each])

            found = inspect(norms, system.blocks, np.asarray(state.shares))
            largest = np.minimum(found.factors, np.finfo(np.float32).max)
            state = state._replace(shares=jnp.asarray(found.shares), factors=jnp.asarray(largest, jnp.float32))
        gradient, _ = path.estimate(key, theta, state.shares, rows, worlds)
        told = {**gradient.told, "growth": np.asarray(state.factors), "passing": np.asarray(state.shares)}
        return gradient._replace(told=told), state._replace(index=state.index + 1)

    def init(theta: np.ndarray) -> Guarded:
        del theta
        return Guarded(jnp.int32(0), jnp.asarray(shares, jnp.float32), jnp.zeros(len(system.blocks)))

    return Estimator(init, estimate)
