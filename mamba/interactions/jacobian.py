"""The Jacobian of a whole platform: objectives and own losses with respect to every lever, through the dynamics.

A rollout has J + A outcomes: the objectives, then each algorithm's own loss averaged over the measured steps. With x_t all
state that is carried from one step to the next (world and learners) and theta the levers,

    dY/dtheta = direct + mediated,   direct: every x_t held fixed, mediated: what reaches Y through x_t.

The direct part is the one-step view of a team that takes today's users, items and models as given; its share says
how much of an effect that view misses. Forward mode pushes every lever through the scan beside the one run, in memory that does
not grow with T; with many levers reverse mode pulls every outcome back instead.

References:
    Griewank and Walther 2008, chapters 3 and 4 (cost of the forward and reverse modes).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mamba import ecosystem as eco
from mamba import members as mem
from mamba import objectives
from mamba.meta import estimators
from mamba.rollout import rollout
from mamba.types import Array, Levers, Metrics, Mode

MOST_FORWARD = 32  # levers up to which forward mode is the cheaper one for the J + A outcomes
_NO_CUTS, _ONE_STEP = (), ("learn", "world")  # together these two cut everything that the scan carries


class Jacobian(NamedTuple):
    """Outcomes and their derivatives for every key, so that whatever is made of them has paired intervals.

    Attributes:
        value: [S, J + A] outcomes, see `outcome_names`.
        full: [S, J + A, P] derivative through the dynamics, per unconstrained unit; levers in the order of
            `estimators.names`.
        direct: [S, J + A, P] derivative with all carried state held fixed; None where it was not asked for or
            cannot be had (an audit).
    """

    value: Array | np.ndarray
    full: Array | np.ndarray
    direct: Array | np.ndarray | None


def outcome_names(ecosystem: eco.Ecosystem) -> tuple[str, ...]:
    """Names of the J + A outcomes: the objectives, then `loss/<algorithm>`."""
    return (*objectives.NAMES, *(f"loss/{name}" for name in ecosystem.names))


def outcomes(ecosystem: eco.Ecosystem, metrics: Metrics) -> Array:
    """Outcomes [J + A] of metrics [T]: objectives, then time averages of the own losses."""
    losses = [jnp.mean(metrics[f"loss/{name}"]) for name in ecosystem.names]
    return jnp.concatenate([objectives.evaluate(metrics, ecosystem.sizes.users), jnp.stack(losses)])


def lever_owner(ecosystem: eco.Ecosystem, levers: Levers) -> np.ndarray:
    """Which algorithm each of the P levers belongs to, [P] indices into `ecosystem.names`."""
    owners = [estimators.names({name: levers[name]}) for name in levers]
    index = {entry: ecosystem.names.index(name) for name, each in zip(levers, owners, strict=True) for entry in each}
    return np.array([index[entry] for entry in estimators.names(levers)], np.int64)


def evaluator(
    ecosystem: eco.Ecosystem, *, steps: int, mode: Mode = "sampled", layout: mem.Layout = "loop", warm_up: int = 0
) -> Callable[[eco.Inputs, mem.Members, Array], Array]:
    """Builds the function that measures all outcomes of a chunk of members; the caller jits it.

    Like `members.evaluator`, whose arguments these are, with own losses: `members.in_chunks` calls it.

    Returns:
        `(inputs, members, counts) -> [B, J + A]`.
    """

    measured = functools.partial(outcomes, ecosystem)
    return mem.evaluator(ecosystem, steps=steps, mode=mode, layout=layout, warm_up=warm_up, of=measured)


def jacobian(
    ecosystem: eco.Ecosystem, *, steps: int, warm_up: int = 0, direct: bool = True, chunk: int = 8
) -> Callable[[eco.Inputs, Array], Jacobian]:
    """The Jacobian of the expected mode, in forward mode up to `MOST_FORWARD` levers and in reverse mode beyond.

    Args:
        ecosystem: static description.
        steps: T, measured steps.
        warm_up: steps before the measured ones with the same levers; the state they lead to is held fixed.
        direct: whether to split off the direct part, at twice the tangents (forward) or a second backward pass (reverse).
        chunk: tangents that run side by side in forward mode.

    Returns:
        `(inputs, keys [S]) -> Jacobian`; the caller jits it.
    """
    n_levers = sum(int(np.size(value)) for algorithm in ecosystem.algorithms for value in algorithm.levers.values())
    if n_levers <= MOST_FORWARD:
        return forward(ecosystem, steps=steps, warm_up=warm_up, direct=direct, chunk=chunk)
    return reverse(ecosystem, steps=steps, warm_up=warm_up, direct=direct)


def forward(
    ecosystem: eco.Ecosystem, *, steps: int, warm_up: int = 0, direct: bool = True, chunk: int = 8
) -> Callable[[eco.Inputs, Array], Jacobian]:
    """Forward mode: one run carries `chunk` tangents at a time. Arguments as for `jacobian`."""

    def one(inputs: eco.Inputs, key: Array) -> tuple[Array, Array]:
        begin = _begin(ecosystem, inputs, key=key, warm_up=warm_up, mode="expected")
        theta, restore = estimators.flat(inputs.levers), estimators.unflat(inputs.levers)
        levers = theta.size

        def run(moved: Array, share: Array) -> Array:
            given = replace(inputs, levers=restore(moved))

            def one_step(carry: eco.State, index: Array) -> tuple[eco.State, Metrics]:
                taken = jax.tree.map(lambda leaf: _passing(leaf, share), carry)
                return eco.step(ecosystem, given, taken, index=index, key=key, mode="expected")

            _, metrics = jax.lax.scan(one_step, begin, warm_up + jnp.arange(steps, dtype=jnp.int32))
            return outcomes(ecosystem, metrics)

        def column(direction: Array, share: Array) -> tuple[Array, Array]:
            return jax.jvp(lambda moved: run(moved, share), (theta,), (direction,))

        # The same run with and without tangents of the carried state: one compilation for both parts.
        directions = jnp.tile(jnp.eye(levers), (1 + direct, 1))
        shares = jnp.repeat(jnp.asarray([1.0, 0.0][: 1 + direct]), levers)
        width = min(chunk, len(shares))
        whole = -(-len(shares) // width)
        index = jnp.minimum(jnp.arange(whole * width), len(shares) - 1).reshape(whole, width)

        def some(rows: Array) -> tuple[Array, Array]:
            return jax.vmap(column, out_axes=(None, 0))(directions[rows], shares[rows])

        value, columns = jax.lax.map(some, index)
        columns = columns.reshape(whole * width, -1)[: len(shares)]
        return value[0], columns.reshape(1 + direct, levers, -1).swapaxes(1, 2)

    return _over_keys(one, direct=direct)


def reverse(
    ecosystem: eco.Ecosystem, *, steps: int, warm_up: int = 0, direct: bool = True, segment: int | None = None
) -> Callable[[eco.Inputs, Array], Jacobian]:
    """Reverse mode: one backward pass per outcome. `segment` as for `mamba.rollout.rollout`, the rest as for `jacobian`."""

    def one(inputs: eco.Inputs, key: Array) -> tuple[Array, Array]:
        begin = _begin(ecosystem, inputs, key=key, warm_up=warm_up, mode="expected")

        def rows(cuts: tuple[str, ...]) -> tuple[Array, Array]:
            def run(levers: Levers) -> Array:
                _, metrics, _ = rollout(
                    ecosystem,
                    replace(inputs, levers=levers),
                    key=key,
                    steps=steps,
                    mode="expected",
                    state=begin,
                    first_step=warm_up,
                    segment=segment,
                    cuts=cuts,
                )
                return outcomes(ecosystem, metrics)

            value, pull = jax.vjp(run, inputs.levers)
            return value, jax.lax.map(lambda row: estimators.flat(pull(row)[0]), jnp.eye(value.size))

        value, full = rows(_NO_CUTS)
        return value, jnp.stack([full, rows(_ONE_STEP)[1]] if direct else [full])

    return _over_keys(one, direct=direct)


def gradient(
    ecosystem: eco.Ecosystem, *, steps: int, warm_up: int = 0, segment: int | None = None
) -> Callable[[eco.Inputs, Array, Array, Array], tuple[Array, Array]]:
    """Gradient of any weighted sum of outcomes through the expected mode, averaged over keys.

    `estimators.pathwise` for objectives *and* own losses: one compilation serves every player of a game and every goal.

    Args:
        ecosystem: static description.
        steps: T, measured steps.
        warm_up: steps before the measured ones, with the levers in `start`; held fixed.
        segment: see `mamba.rollout.rollout`.

    Returns:
        `(inputs, theta [P], weights [J + A], keys [S]) -> (outcomes [J + A], gradient [P])` at levers `theta`; the levers of
        `inputs` are those of the warm-up. The caller jits it.
    """

    def estimate(inputs: eco.Inputs, theta: Array, weights: Array, keys: Array) -> tuple[Array, Array]:
        restore = estimators.unflat(inputs.levers)

        def one(key: Array) -> tuple[Array, Array]:
            begin = _begin(ecosystem, inputs, key=key, warm_up=warm_up, mode="expected")

            def scalar(moved: Array) -> tuple[Array, Array]:
                _, metrics, _ = rollout(
                    ecosystem,
                    replace(inputs, levers=restore(moved)),
                    key=key,
                    steps=steps,
                    mode="expected",
                    state=begin,
                    first_step=warm_up,
                    segment=segment,
                )
                value = outcomes(ecosystem, metrics)
                return jnp.sum(weights * value), value

            (_, value), slope = jax.value_and_grad(scalar, has_aux=True)(theta)
            return value, slope

        values, slopes = jax.lax.map(one, keys)
        return jnp.mean(values, axis=0), jnp.mean(slopes, axis=0)

    return estimate


def audited(values: np.ndarray, *, n_levers: int, n_keys: int, pairs: int, sigma: float) -> Jacobian:
    """The Jacobian of the sampled model, from outcomes of `estimators.perturbed` members: never differentiated.

    Args:
        values: [S * R * 2, J + A] of `evaluator`.
        n_levers: P.
        n_keys: S.
        pairs: as given to `estimators.perturbed`.
        sigma: likewise.

    Returns:
        A Jacobian without direct part; `value` averages the perturbed runs of each key.
    """
    table = np.asarray(values, np.float64).reshape(n_keys, -1, values.shape[-1])
    each = [estimators.audit(rows, n_levers=n_levers, n_keys=1, pairs=pairs, sigma=sigma) for rows in table]
    return Jacobian(np.stack([one.value for one in each]), np.stack([one.jacobian for one in each]), None)


def mediated_share(jacobian: Jacobian) -> np.ndarray:
    """Share of a derivative that goes through carried state, |mediated| / (|direct| + |mediated|) of the means over keys.

    Returns:
        [J + A, P] in [0, 1]; 0 is a purely direct effect, 1/2 may also be two parts that cancel; NaN where both parts are 0.

    Raises:
        ValueError: the Jacobian has no direct part.
    """
    if jacobian.direct is None:
        raise ValueError("this Jacobian has no direct part: build it with direct=True (an audit has none)")
    direct = np.asarray(jacobian.direct, np.float64).mean(axis=0)
    through = np.abs(np.asarray(jacobian.full, np.float64).mean(axis=0) - direct)
    whole = np.abs(direct) + through
    return np.where(whole > 0, through / np.where(whole > 0, whole, 1.0), np.nan)


# ---- parts


def _begin(ecosystem: eco.Ecosystem, inputs: eco.Inputs, *, key: Array, warm_up: int, mode: Mode) -> eco.State:
    """State before the measured steps."""
    state = eco.init(ecosystem, inputs, key)
    if warm_up:
        state = rollout(ecosystem, inputs, key=key, steps=warm_up, mode=mode, state=state, segment=0)[0]
    return jax.lax.stop_gradient(state)


def _passing(leaf: Any, share: Array) -> Any:
    return _scaled(leaf, share) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf


@jax.custom_jvp
def _scaled(x: Array, share: Array) -> Array:
    """`x`; its derivative is `share`."""
    del share
    return x


@_scaled.defjvp
def _scaled_slope(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return primals[0], primals[1] * tangents[0]


def _over_keys(
    one: Callable[[eco.Inputs, Array], tuple[Array, Array]], *, direct: bool
) -> Callable[[eco.Inputs, Array], Jacobian]:
    """Maps `one`, `(inputs, key) -> ([J + A], [1 or 2, J + A, P])`, over keys, shared out over the devices."""

    def estimate(inputs: eco.Inputs, keys: Array) -> Jacobian:
        def some(inputs: eco.Inputs, keys: Array) -> tuple[Array, Array]:
            return jax.lax.map(lambda key: one(inputs, key), keys)

        if len(keys) % jax.local_device_count() == 0:
            some = mem.over_devices(some, shared=1, split=1)
        value, slopes = some(inputs, keys)
        return Jacobian(value, slopes[:, 0], slopes[:, 1] if direct else None)

    return estimate
