"""The growth monitor: where derivatives explode on their way through time, and what is done about it.

With s_t the carried state and d a direction of the parameters, the tangent ds_t/dtheta . d is injected anew at every step and
grows or dies out as the dynamics have it. Societies forget; an algorithm whose inner learner takes steps beyond its limit of
stability does not, and multiplies every derivative that passes through it by some factor at every step. Its norm in each block of
the state is followed, and a block through which it explodes is named and closed: the derivative no longer passes it, and an audit
(`mamba.meta.estimators.hybrid`) says what is lost. Clipping and truncation do not repair such a gradient: its direction is wrong.

The tangent of the parameters is followed and not the leading exponent alone: it can grow where the exponent is negative.

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

WINDOW = 10  # steps over which growth is stated
EXPLODES = 10.0  # times as large after a window


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


def factors(norms: np.ndarray) -> np.ndarray:
    """Growth per `WINDOW` steps in each block, over the second half of the run, where it no longer is that of the start.

    Args:
        norms: [N, T, B].

    Returns:
        [B] largest factor over the N directions, from a line through the logarithms; infinite where a norm is not finite, 0 in a
        block that no derivative enters.
    """
    table = np.asarray(norms, np.float64)
    half = table[:, table.shape[1] // 2 :]
    time = np.arange(half.shape[1]) - (half.shape[1] - 1) / 2.0
    entered = np.all(half > 0, axis=1)  # [N, B]
    finite = np.all(np.isfinite(table), axis=1)
    logs = np.log(np.where((half > 0) & np.isfinite(half), half, 1.0))
    slope = np.einsum("t,ntb->nb", time, logs) / max(float(time @ time), 1e-12)
    each = np.where(entered, np.exp(np.minimum(WINDOW * slope, 700.0)), 0.0)
    return np.where(finite, each, np.inf).max(axis=0)


class Growth(NamedTuple):
    """What the monitor found.

    Attributes:
        factors: [B] growth per `WINDOW` steps of the derivative as it was, with nothing newly closed.
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

    A derivative that explodes shows in every block it reaches. To blame are the blocks that explode by themselves, all others
    closed; where none does, a loop of several is to blame, and the one whose closing leaves least growth goes first.

    Args:
        norms: `shares [B] -> norms [N, T, B]`, from `tangents`.
        blocks: B names.
        shares: [B] shares that pass now.
        limit: factor per `WINDOW` steps that counts as an explosion.
    """
    passed = np.asarray(shares, np.float32).copy()
    first = seen = factors(norms(passed))
    closed: list[str] = []
    while np.any(seen > limit) and np.any(passed > 0):
        open_blocks = np.flatnonzero(passed > 0)
        alone = {}
        for b in open_blocks:
            only = np.zeros_like(passed)
            only[b] = passed[b]
            alone[b] = factors(norms(only))[b]
        guilty = [b for b in open_blocks if alone[b] > limit]
        if not guilty:
            left = {}
            for b in open_blocks:
                without = passed.copy()
                without[b] = 0.0
                left[b] = factors(norms(without)).max()
            guilty = [min(open_blocks, key=lambda b: left[b])]
        for b in sorted(guilty, key=lambda b: -alone[b]):
            passed[b] = 0.0
            closed.append(blocks[b])
        seen = factors(norms(passed))
    return Growth(first, passed, tuple(closed))


class Guarded(NamedTuple):
    """State of `guarded`.

    Attributes:
        index: int32, estimates made.
        shares: [B] shares of derivatives that pass: the state of `estimators.pathwise`.
        factors: [B] what the monitor last found.
    """

    index: Array
    shares: Array
    factors: Array


def guarded(path: Estimator, system: System, context: Any, *, steps: int, every: int, shares: np.ndarray) -> Estimator:
    """`estimators.pathwise` that watches its own derivatives and closes the blocks through which they explode.

    `told`: `growth` [B] and `passing` [B].

    Args:
        path: `estimators.pathwise`, whose state is the shares.
        system: what is differentiated.
        context: see `System`.
        steps: T.
        every: estimates from one look to the next; 0 never looks.
        shares: [B] shares that pass at the start.
    """
    follow = jax.jit(tangents(system, steps=steps))

    def estimate(key: Array, theta: np.ndarray, state: Guarded, rows: Any = None, worlds: Worlds | None = None):
        if every > 0 and int(state.index) % every == 0:
            seed = stream(key, "growth")
            point = jnp.asarray(theta, jnp.result_type(float))
            directions = jax.random.rademacher(seed, (2, len(theta)), point.dtype)

            def norms(shares: np.ndarray) -> np.ndarray:
                return np.asarray(follow(context, point, directions, jnp.asarray(shares), seed))

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
