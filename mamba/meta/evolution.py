"""Derivatives from perturbed runs: never differentiated, so as true of the sampled model as its outcomes are.

A fold-over Hadamard design perturbs all P parameters at once, theta + sigma h and theta - sigma h with common random numbers.
Its columns are orthogonal, so one design gives the derivative with respect to every parameter without directional noise:

    dJ/dtheta_p = mean_r h_rp (J(theta + sigma h_r) - J(theta - sigma h_r)) / (2 sigma).

References:
    Plackett and Burman 1946 (orthogonal designs); Salimans et al. 2017 (antithetic evolution strategies); Smyth 2004 (variances
    drawn towards a common one).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import hadamard

from mamba import ecosystem as eco
from mamba import members as mem
from mamba.meta import vector
from mamba.types import Array

_PRIOR = 4.0  # keys' worth of the spread of all columns in that of one

# (thetas [B, P], keys [B], samples of worlds [B] or None) -> outcomes [B, J]
Measure = Callable[[np.ndarray, Array, Any], np.ndarray]


def design(n_parameters: int, pairs: int, *, key: int = 0) -> np.ndarray:
    """Orthogonal two-level design.

    Args:
        n_parameters: P.
        pairs: wanted number of antithetic pairs.
        key: number of the key that it is for: each takes other columns of the matrix, so that an effect of three parameters at
            once, which looks like one of a fourth, does so for another one under every key, and shows as noise between keys.

    Returns:
        [R, P] of +1 and -1 with orthogonal columns; R is the power of two that is at least `pairs` and at least P + 4,
        so that a residual of at least four degrees of freedom is left to estimate the error from. The constant column is
        left out.
    """
    rows = 2 ** int(np.ceil(np.log2(max(pairs, n_parameters + 4))))
    columns = 1 + np.random.default_rng(key).permutation(rows - 1)[:n_parameters]
    return hadamard(rows)[:, columns].astype(np.float32)


def points(theta: np.ndarray, keys: Array, *, pairs: int, sigma: float) -> tuple[np.ndarray, Array]:
    """Where an audit looks: plus and minus every row of the design, for every key.

    Args:
        theta: [P] where the derivative is wanted.
        keys: [S] typed keys, each shared by all perturbations (common random numbers).
        pairs: wanted number of antithetic pairs.
        sigma: size of the perturbation.

    Returns:
        `(thetas [S * R * 2, P], keys [S * R * 2])`, sign fastest, then row, then key.
    """
    rows = np.stack([design(len(theta), pairs, key=s) for s in range(len(keys))])  # [S, R, P]
    signed = np.stack([rows, -rows], axis=2).reshape(-1, rows.shape[2])
    return np.asarray(theta)[None] + sigma * signed, jnp.repeat(keys, 2 * rows.shape[1])


def perturbed(inputs: eco.Inputs, keys: Array, *, pairs: int, sigma: float) -> mem.Members:
    """Members of an audit of a platform at the levers of `inputs`; see `points`."""
    return as_members(inputs, *points(np.asarray(vector.flat(inputs.levers)), keys, pairs=pairs, sigma=sigma))


def as_members(inputs: eco.Inputs, thetas: np.ndarray, keys: Array, parameters: Any = None) -> mem.Members:
    """One member for each of the thetas [B, P] and keys [B], with the gates and learning switches of `inputs`; world parameters
    [B] where given."""
    stacked = jax.vmap(vector.unflat(inputs.levers))(jnp.asarray(thetas, jnp.float32))
    gates, learning = (jnp.broadcast_to(each, (len(keys), each.size)) for each in (inputs.gates, inputs.learning))
    return mem.Members(stacked, gates, learning, keys, parameters)


def measure(evaluate: Callable[[mem.Members], np.ndarray], inputs: eco.Inputs) -> Measure:
    """Outcomes of a platform as a function of theta; `evaluate` gives those of members."""
    return lambda thetas, keys, samples=None: evaluate(as_members(inputs, thetas, keys, samples))


class Audit(NamedTuple):
    """Derivatives of every outcome on the sampled model.

    Attributes:
        jacobian: [J, P] of the sigma-smoothed expectation.
        covariance: [P, J, J] of the errors of each parameter's column: outcomes are measured on the same runs.
        value: [J] mean of the perturbed runs.
    """

    jacobian: np.ndarray
    covariance: np.ndarray
    value: np.ndarray

    @property
    def error(self) -> np.ndarray:
        """Standard errors [J, P]."""
        return np.sqrt(np.diagonal(self.covariance, axis1=1, axis2=2)).T


def audit(
    values: np.ndarray,
    *,
    n_parameters: int,
    n_keys: int,
    pairs: int,
    sigma: float,
    weights: np.ndarray | None = None,
) -> Audit:
    """Derivatives from the outcomes at `points`.

    Args:
        values: [S * R * 2, J].
        n_parameters: P.
        n_keys: S.
        pairs: as given to `points`.
        sigma: likewise.
        weights: [S] of the keys, sum 1; None takes all alike.

    Returns:
        The audit, averaged over keys. Its errors come from how the keys' Jacobians differ, which includes what is particular to a
        key; with one key from the residual of its fit, which does not. Few keys say little about the spread of one column, so
        that it is drawn up towards that of all columns, which counts as `_PRIOR` degrees of freedom (Smyth 2004, section 3).
    """
    rows, slope, table = _slopes(values, n_parameters=n_parameters, n_keys=n_keys, pairs=pairs, sigma=sigma)
    count = rows.shape[1]
    jacobian = np.einsum("srp,srj->sjp", rows, slope) / count
    share = np.full(n_keys, 1.0 / n_keys) if weights is None else np.asarray(weights, np.float64)
    mean = np.einsum("s,sjp->jp", share, jacobian)
    if n_keys > 1:
        apart = share[:, None, None] * (jacobian - mean)
        own = np.einsum("sjp,skp->pjk", apart, apart) * n_keys / (n_keys - 1)
        drawn = (_PRIOR * own.mean(axis=0) + (n_keys - 1) * own) / (_PRIOR + n_keys - 1)
        # What is noisier than the rest stays so: drawn towards the others, its error would be too small.
        larger = np.sqrt(np.maximum(np.einsum("pjj->pj", own) / np.maximum(np.einsum("pjj->pj", drawn), 1e-300), 1.0))
        covariance = drawn * larger[:, :, None] * larger[:, None, :]
    else:
        residual = slope - np.einsum("srp,sjp->srj", rows, jacobian)
        # Every column of an orthogonal design carries the same noise.
        every = np.einsum("srj,srk->jk", residual, residual) / ((count - n_parameters) * count)
        covariance = np.broadcast_to(every, (n_parameters, *every.shape)).copy()
    return Audit(mean, covariance, share @ table.mean(axis=(1, 2)))


def each_key(
    values: np.ndarray, *, n_parameters: int, n_keys: int, pairs: int, sigma: float
) -> tuple[np.ndarray, np.ndarray]:
    """Jacobians [S, J, P] and mean outcomes [S, J] of every key by itself, from the outcomes at `points`; as `audit`."""
    rows, slope, table = _slopes(values, n_parameters=n_parameters, n_keys=n_keys, pairs=pairs, sigma=sigma)
    return np.einsum("srp,srj->sjp", rows, slope) / rows.shape[1], table.mean(axis=(1, 2))


def _slopes(
    values: np.ndarray, *, n_parameters: int, n_keys: int, pairs: int, sigma: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Designs [S, R, P], slopes along their rows [S, R, J], and outcomes [S, R, 2, J]."""
    rows = np.stack([design(n_parameters, pairs, key=s) for s in range(n_keys)]).astype(np.float64)
    table = np.asarray(values, np.float64).reshape(n_keys, rows.shape[1], 2, -1)
    return rows, (table[:, :, 0] - table[:, :, 1]) / (2.0 * sigma), table
