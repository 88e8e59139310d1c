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
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mamba import ecosystem as eco
from mamba import members as mem
from mamba.meta import derivatives, evolution, systems, vector
from mamba.meta.estimators import MOST_FORWARD
from mamba.types import Array, Mode


class Jacobian(NamedTuple):
    """Outcomes and their derivatives for every key, so that whatever is made of them has paired intervals.

    Attributes:
        value: [S, J + A] outcomes, see `outcome_names`.
        full: [S, J + A, P] derivative through the dynamics, per unconstrained unit; levers in the order of
            `vector.names`.
        direct: [S, J + A, P] derivative with all carried state held fixed; None where it was not asked for or
            cannot be had (an audit).
    """

    value: Array | np.ndarray
    full: Array | np.ndarray
    direct: Array | np.ndarray | None


def evaluator(
    ecosystem: eco.Ecosystem, *, steps: int, mode: Mode = "sampled", layout: mem.Layout = "loop", warm_up: int = 0
) -> Callable[[eco.Inputs, mem.Members, Array], Array]:
    """Builds the function that measures all outcomes of a chunk of members; the caller jits it.

    Like `members.evaluator`, whose arguments these are, with own losses: `members.in_chunks` calls it.

    Returns:
        `(inputs, members, counts) -> [B, J + A]`.
    """

    measured = functools.partial(systems.outcomes, ecosystem)
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
    n_levers = len(vector.names(eco.default_levers(ecosystem)))
    if n_levers <= MOST_FORWARD:
        return forward(ecosystem, steps=steps, warm_up=warm_up, direct=direct, chunk=chunk)
    return reverse(ecosystem, steps=steps, warm_up=warm_up, direct=direct)


def forward(
    ecosystem: eco.Ecosystem, *, steps: int, warm_up: int = 0, direct: bool = True, chunk: int = 8
) -> Callable[[eco.Inputs, Array], Jacobian]:
    """Forward mode: one run carries `chunk` tangents at a time. Arguments as for `jacobian`."""
    system = systems.platform(ecosystem, warm_up=warm_up)
    along = derivatives.forward(system, steps=steps, chunk=chunk)

    def estimate(inputs: eco.Inputs, keys: Array) -> Jacobian:
        theta = vector.flat(inputs.levers)
        # The same run with and without tangents of the carried state: one compilation for both parts.
        directions = jnp.tile(jnp.eye(theta.size), (1 + direct, 1))
        shares = jnp.repeat(_parts(system, direct), theta.size, axis=0)
        value, columns = along(inputs, theta, directions, shares, keys)
        slopes = columns.reshape(len(keys), 1 + direct, theta.size, -1).swapaxes(2, 3)
        return Jacobian(value, slopes[:, 0], slopes[:, 1] if direct else None)

    return estimate


def reverse(
    ecosystem: eco.Ecosystem, *, steps: int, warm_up: int = 0, direct: bool = True, segment: int | None = None
) -> Callable[[eco.Inputs, Array], Jacobian]:
    """Reverse mode: one backward pass per outcome. `segment` as for `mamba.unroll.unroll`, the rest as for `jacobian`."""
    system = systems.platform(ecosystem, warm_up=warm_up)
    back = derivatives.reverse(system, steps=steps, segment=segment)

    def estimate(inputs: eco.Inputs, keys: Array) -> Jacobian:
        theta, rows = vector.flat(inputs.levers), jnp.eye(len(system.outcomes))
        value, slopes = jax.lax.map(lambda shares: back(inputs, theta, rows, shares, keys), _parts(system, direct))
        return Jacobian(value[0], slopes[0], slopes[1] if direct else None)

    return estimate


def _parts(system: systems.System, direct: bool) -> Array:
    """Shares [1 or 2, B] of the whole derivative, and of that with all carried state held fixed."""
    return jnp.tile(jnp.asarray([[1.0], [0.0]][: 1 + direct]), (1, len(system.blocks)))


def gradient(
    ecosystem: eco.Ecosystem, *, steps: int, warm_up: int = 0, segment: int | None = None
) -> Callable[[eco.Inputs, Array, Array, Array], tuple[Array, Array]]:
    """Gradient of any weighted sum of outcomes through the expected mode, averaged over keys.

    One compilation serves every player of a game and every goal.

    Args:
        ecosystem: static description.
        steps: T, measured steps.
        warm_up: steps before the measured ones, with the levers in `start`; held fixed.
        segment: see `mamba.rollout.rollout`.

    Returns:
        `(inputs, theta [P], weights [J + A], keys [S]) -> (outcomes [J + A], gradient [P])` at levers `theta`; the levers of
        `inputs` are those of the warm-up. The caller jits it.
    """

    system = systems.platform(ecosystem, warm_up=warm_up)
    back = derivatives.reverse(system, steps=steps, segment=segment)

    def estimate(inputs: eco.Inputs, theta: Array, weights: Array, keys: Array) -> tuple[Array, Array]:
        values, slopes = back(inputs, theta, weights[None], jnp.ones(len(system.blocks)), keys)
        return jnp.mean(values, axis=0), jnp.mean(slopes[:, 0], axis=0)

    return estimate


def audited(values: np.ndarray, *, n_levers: int, n_keys: int, pairs: int, sigma: float) -> Jacobian:
    """The Jacobian of the sampled model, from outcomes of `evolution.perturbed` members: never differentiated.

    Args:
        values: [S * R * 2, J + A] of `evaluator`.
        n_levers: P.
        n_keys: S.
        pairs: as given to `evolution.perturbed`.
        sigma: likewise.

    Returns:
        A Jacobian without direct part; `value` averages the perturbed runs of each key.
    """
    found, value = evolution.each_key(values, n_parameters=n_levers, n_keys=n_keys, pairs=pairs, sigma=sigma)
    return Jacobian(value, found, None)


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
