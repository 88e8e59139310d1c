"""Linear bandits: a ridge posterior of rewards, and the two classic ways to explore with it.

With features x and reward r, the precision A = ridge I + sum w x x^T and the moment b = sum w r x are closed forms;
the estimate is A^-1 b and the variance of a prediction x^T A^-1 x, in units of the reward noise. What was learned
decays by `memory` a step towards the prior. Thompson sampling acts on a draw A^-1 b + nu R z with R R^T = A^-1 and
z standard normal; upper confidence bounds act on x^T A^-1 b + alpha |R^T x|.

References:
    Li et al. 2010 (LinUCB); Agrawal and Goyal 2013 (linear Thompson sampling).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mamba.streams import normals, uniforms
from mamba.types import Array


class Posterior(NamedTuple):
    """Precision [F, F] and moment [F]."""

    precision: Array
    moment: Array


class Belief(NamedTuple):
    """What a posterior says: mean [F], and root [F, F], whose product with its transpose is the covariance."""

    mean: Array
    root: Array


def start(n_features: int, *, ridge: float) -> Posterior:
    """The prior: mean 0, precision `ridge`."""
    return Posterior(ridge * jnp.eye(n_features), jnp.zeros(n_features))


def update(
    posterior: Posterior, features: Array, reward: Array, weight: Array, *, memory: float, ridge: float
) -> Posterior:
    """The posterior after more examples.

    Args:
        posterior: present state.
        features: [F, ...].
        reward: [...] weight x reward.
        weight: [...] example weights.
        memory: share of earlier evidence that is kept.
        ridge: precision of the prior.

    Returns:
        The new state.
    """
    planes = features.reshape(features.shape[0], -1)
    prior = ridge * jnp.eye(planes.shape[0])
    evidence = (planes * weight.ravel()[None]) @ planes.T
    precision = prior + memory * (posterior.precision - prior) + evidence
    return Posterior(precision, memory * posterior.moment + planes @ reward.ravel())


def _cholesky(matrix: Array, least: float) -> Array:
    """Lower triangular factor [F, F] whose squared pivots are at least `least`: finite for every finite matrix."""
    places = jnp.arange(matrix.shape[0])

    def column(rest: Array, place: Array) -> tuple[Array, Array]:
        root = jnp.sqrt(jnp.maximum(rest[place, place], least))
        found = jnp.where(places > place, rest[:, place] / root, jnp.where(places == place, root, 0.0))
        return rest - found[:, None] * found[None], found

    return jax.lax.scan(column, matrix, places)[1].T


def belief(posterior: Posterior, *, ridge: float) -> Belief:
    """Mean and root of the covariance.

    The precision is at least that of the prior, `ridge`; pivots are kept above half of it, which only rounding crosses.
    """
    lower = _cholesky(posterior.precision, 0.5 * ridge)
    root = jax.scipy.linalg.solve_triangular(lower, jnp.eye(lower.shape[0]), lower=True).T
    return Belief(root @ (root.T @ posterior.moment), root)


def deviations(belief: Belief, key: Array, draws: int) -> Array:
    """Thompson draws around the mean, [F, draws]; `key` is consumed."""
    return belief.root @ normals(uniforms(key, (belief.mean.shape[0], draws)))


def inner(weights: Array, planes: Sequence[Array]) -> Array:
    """Sum of F planes of one shape; `weights` is [F], or [F, U] where every user has weights of their own."""
    each = [weight if weight.ndim == 0 else weight[None] for weight in weights]
    return sum((weight * plane for weight, plane in zip(each, planes, strict=True)), jnp.zeros(()))


def deviation(root: Array, planes: Sequence[Array]) -> Array:
    """Standard deviation of predictions, one plane: |R^T x| (R is upper triangular)."""
    squares = sum((inner(root[: k + 1, k], planes[: k + 1]) ** 2 for k in range(len(planes))), jnp.zeros(()))
    return jnp.sqrt(squares + 1e-12)


def propensities(belief: Belief, arms: Array, key: Array, *, exploration: float, draws: int) -> Array:
    """How often Thompson sampling picks each of the arms `[F, K]`, [K], by Monte Carlo over its draws."""
    weights = belief.mean[:, None] + exploration * deviations(belief, key, draws)
    return jnp.bincount(jnp.argmax(weights.T @ arms, axis=1), length=arms.shape[1]) / draws
