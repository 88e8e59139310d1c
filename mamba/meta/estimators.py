"""Estimators of meta-gradients, and the audit of one by another.

`pathwise` differentiates the mean field through the whole rollout, learners included. `audit` never differentiates: it
perturbs levers in a fold-over Hadamard design and runs the *sampled* model at theta + sigma h and theta - sigma h with
common random numbers. Rows of a Hadamard matrix are orthogonal, so one design gives the derivative with respect to
every lever without directional noise:

    dJ/dtheta_p = mean_r h_rp (J(theta + sigma h_r) - J(theta - sigma h_r)) / (2 sigma).

Where the relaxation lies, `combine` leans on the audit: each lever's weight is the inverse of its mean squared error,
with the bias of the pathwise derivative estimated by its distance from the audit.

References:
    Plackett and Burman 1946 (orthogonal designs); Salimans et al. 2017 (antithetic evolution strategies);
    Parmas et al. 2018 and Suh et al. 2022 (inverse-variance combination).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.linalg import hadamard

from mamba import ecosystem as eco
from mamba import members as mem
from mamba import objectives
from mamba.rollout import rollout
from mamba.types import Array, Levers


class Slope(NamedTuple):
    """A gradient with its uncertainty.

    Attributes:
        value: [P] mean.
        error: [P] standard error.
    """

    value: Array | np.ndarray
    error: Array | np.ndarray


def names(levers: Levers) -> list[str]:
    """`algorithm/lever` for each of the P entries, in the order of `flat`."""
    leaves = jax.tree_util.tree_leaves_with_path(levers)
    result = []
    for path, leaf in leaves:
        name = "/".join(str(part.key) for part in path)
        size = int(np.size(leaf))
        result += [name] if size == 1 else [f"{name}/{i}" for i in range(size)]
    return result


def flat(levers: Levers) -> Array:
    """Levers as one vector, [P]."""
    return ravel_pytree(levers)[0]


def unflat(like: Levers) -> Callable[[Array], Levers]:
    """The function that turns a vector [P] back into levers shaped as `like`."""
    return ravel_pytree(like)[1]


def pathwise(
    ecosystem: eco.Ecosystem, *, steps: int, cuts: Collection[str] = (), segment: int | None = None
) -> Callable[[eco.Inputs, Array, Array], tuple[Array, Slope]]:
    """Gradient of a weighted sum of objectives through the expected mode.

    Args:
        ecosystem: static description.
        steps: T.
        cuts: named derivative cuts, see `mamba.rollout.rollout`.
        segment: steps per rematerialised segment, see `mamba.rollout.rollout`.

    Returns:
        `(inputs, weights [J], keys [S]) -> (objectives [J], Slope)`: objectives and gradient averaged over the keys;
        the error is the standard error over keys (infinite for one key). Keys are shared out over the devices where their
        number is a multiple of that of the devices. The caller jits it.
    """

    def one(inputs: eco.Inputs, weights: Array, key: Array) -> tuple[Array, Array]:
        def scalar(levers: Levers) -> tuple[Array, Array]:
            _, metrics, _ = rollout(
                ecosystem,
                replace(inputs, levers=levers),
                key=key,
                steps=steps,
                mode="expected",
                cuts=cuts,
                segment=segment,
            )
            values = objectives.evaluate(metrics, ecosystem.sizes.users)
            return jnp.sum(weights * values), values

        (_, values), slope = jax.value_and_grad(scalar, has_aux=True)(inputs.levers)
        return values, flat(slope)

    def estimate(inputs: eco.Inputs, weights: Array, keys: Array) -> tuple[Array, Slope]:
        def some(inputs: eco.Inputs, weights: Array, keys: Array) -> tuple[Array, Array]:
            return jax.lax.map(lambda key: one(inputs, weights, key), keys)

        n = len(keys)
        if n % jax.local_device_count() == 0:
            some = mem.over_devices(some, shared=2, split=1)
        values, slopes = some(inputs, weights, keys)
        error = jnp.std(slopes, axis=0, ddof=1) / n**0.5 if n > 1 else jnp.full(slopes.shape[1:], jnp.inf)
        return jnp.mean(values, axis=0), Slope(jnp.mean(slopes, axis=0), error)

    return estimate


def design(n_levers: int, pairs: int) -> np.ndarray:
    """Orthogonal two-level design.

    Args:
        n_levers: P.
        pairs: wanted number of antithetic pairs.

    Returns:
        [R, P] of +1 and -1 with orthogonal columns; R is the power of two that is at least `pairs` and at least P + 4,
        so that a residual of at least four degrees of freedom is left to estimate the error from. The constant column is
        left out.
    """
    rows = 2 ** int(np.ceil(np.log2(max(pairs, n_levers + 4))))
    return hadamard(rows)[:, 1 : n_levers + 1].astype(np.float32)


class Audit(NamedTuple):
    """Derivatives of every objective on the sampled model.

    Attributes:
        jacobian: [J, P] of the sigma-smoothed expectation.
        covariance: [J, J] of the errors of one lever's column: objectives are measured on the same runs.
        value: [J] mean of the perturbed runs.
    """

    jacobian: np.ndarray
    covariance: np.ndarray
    value: np.ndarray

    @property
    def error(self) -> np.ndarray:
        """Standard errors [J, P]."""
        one = np.sqrt(np.diagonal(self.covariance))
        return np.broadcast_to(one[:, None], self.jacobian.shape).copy()


def perturbed(inputs: eco.Inputs, keys: Array, *, pairs: int, sigma: float) -> mem.Members:
    """Members of an audit: plus and minus every row of the design, for every key.

    Args:
        inputs: where the derivative is wanted; its gates and learning switches are those of every member.
        keys: [S] typed keys, each shared by all perturbations (common random numbers).
        pairs: wanted number of antithetic pairs.
        sigma: size of the perturbation in unconstrained units.

    Returns:
        `S * R * 2` members, sign fastest, then row, then key.
    """
    centre = flat(inputs.levers)
    rows = design(centre.size, pairs)
    signed = np.stack([rows, -rows], axis=1).reshape(-1, rows.shape[1])
    moved = centre[None] + sigma * jnp.asarray(signed)
    stacked = jax.vmap(unflat(inputs.levers))(jnp.tile(moved, (len(keys), 1)))
    count = len(signed) * len(keys)
    gates, learning = (jnp.broadcast_to(each, (count, each.size)) for each in (inputs.gates, inputs.learning))
    return mem.Members(stacked, gates, learning, jnp.repeat(keys, len(signed)))


def audit(values: np.ndarray, *, n_levers: int, n_keys: int, pairs: int, sigma: float) -> Audit:
    """Derivatives from the objectives of `perturbed` members.

    Args:
        values: [S * R * 2, J].
        n_levers: P.
        n_keys: S.
        pairs: as given to `perturbed`.
        sigma: likewise.

    Returns:
        The audit, averaged over keys. Its errors come from how the keys' Jacobians differ, pooled over levers, which
        includes what is particular to a key; with one key from the residual of its fit, which does not.
    """
    rows = design(n_levers, pairs).astype(np.float64)
    count = len(rows)
    table = np.asarray(values, np.float64).reshape(n_keys, count, 2, -1)
    slope = (table[:, :, 0] - table[:, :, 1]) / (2.0 * sigma)  # [S, R, J]
    jacobian = np.einsum("rp,srj->sjp", rows, slope) / count
    mean = jacobian.mean(axis=0)
    if n_keys > 1:
        apart = jacobian - mean
        covariance = np.einsum("sjp,skp->jk", apart, apart) / (n_levers * (n_keys - 1) * n_keys)
    else:
        residual = slope - np.einsum("rp,sjp->srj", rows, jacobian)
        covariance = np.einsum("srj,srk->jk", residual, residual) / ((count - n_levers) * count)
    return Audit(mean, covariance, table.mean(axis=(0, 1, 2)))


def combine(path: Slope, checked: Slope, bias_squared: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inverse mean-squared-error combination of a pathwise and an audited gradient.

    Args:
        path: pathwise gradient [P].
        checked: audited gradient [P].
        bias_squared: [P] estimated squared bias of the pathwise gradient.

    Returns:
        `(gradient [P], weight [P])`: the weight of the pathwise part, in [0, 1].
    """
    path_error = np.asarray(path.error, np.float64)
    # One key leaves no spread to measure; then the audit's own error stands in for it.
    path_variance = np.where(np.isfinite(path_error), path_error, np.asarray(checked.error)) ** 2
    checked_variance = np.asarray(checked.error, np.float64) ** 2
    weight = checked_variance / (checked_variance + path_variance + bias_squared + 1e-30)
    return weight * np.asarray(path.value) + (1.0 - weight) * np.asarray(checked.value), weight


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of the angle between two vectors; 0 where either vanishes."""
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.dot(a, b)) / norm if norm > 0 else 0.0
