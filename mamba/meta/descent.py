"""Is there a direction in which all objectives fall? The common descent direction, and its norm as a certificate.

The shortest vector d* = sum_m alpha_m g_m of the convex hull of the gradients g_m satisfies g_m . d* >= |d*|^2 for
every objective, so that -d* lowers all of them; where it vanishes, the point is Pareto-stationary: no objective can gain
to first order without another losing.

Measured gradients are noisy, and |d*|^2 of their mean is the truth plus the noise: it never reaches 0. `certificate`
multiplies gradients of *different* keys instead, whose noise is independent.

Gradients are compared as they are: in which units objectives count, and levers are moved, decides the direction and the
norm, but not where it vanishes.

References:
    Désidéri 2012 (multiple-gradient descent); Sener and Koltun 2018; Fliege and Svaiter 2000 (Pareto stationarity);
    Hoeffding 1948 (U-statistics); Chernozhukov et al. 2018 (cross-fitting); Efron and Stein 1981 (jackknife).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import optimize, stats


class Descent(NamedTuple):
    """The common descent direction. m objectives, P levers.

    Attributes:
        weights: [m] alpha, not negative, sum 1; not unique where gradients are affinely dependent.
        direction: [P] -d*: a small step along it lowers every objective at a rate of at least norm^2.
        norm: |d*|; 0 is Pareto-stationary.
    """

    weights: np.ndarray
    direction: np.ndarray
    norm: float


class Certificate(NamedTuple):
    """How far from Pareto-stationary a point is, from noisy gradients.

    Attributes:
        squared: estimate of |d*|^2, free of noise to second order in the errors of the weights; may be negative.
        error: jackknife standard error over keys; on average not below the true one.
        low: lower end of the confidence interval, not below 0. Above 0, a direction that lowers every objective is left.
        high: upper end, not below 0: the most that is left.
        naive: |d*|^2 of the mean gradients, noise included.
        weights: [m] alpha of the mean gradients.
    """

    squared: float
    error: float
    low: float
    high: float
    naive: float
    weights: np.ndarray


def common_descent(jacobian: np.ndarray) -> Descent:
    """Shortest vector in the convex hull of gradients.

    Non-negative least squares of (sum_m b_m g_m = 0, sum_m b_m = 1) solves it exactly: for b = s alpha with alpha on the
    simplex the residual is s^2 |sum alpha g|^2 + (s - 1)^2 c^2, whose minimum over s grows with |sum alpha g|.

    Args:
        jacobian: [m, P] gradients of harms (smaller is better).

    Returns:
        Weights, direction and norm.

    Raises:
        ValueError: no gradients, or some not finite.

    References:
        Désidéri 2012; Lawson and Hanson 1974, chapter 23 (active sets).
    """
    gradients = np.asarray(jacobian, np.float64)
    if gradients.ndim != 2 or 0 in gradients.shape or not np.isfinite(gradients).all():
        raise ValueError(f"a common direction needs finite gradients [m, P], at least 1 by 1, got {gradients.shape}")
    weights = _shortest(gradients)
    shortest = weights @ gradients
    return Descent(weights, -shortest, float(np.linalg.norm(shortest)))


def certificate(jacobians: np.ndarray, *, confidence: float = 0.95) -> Certificate:
    """Squared norm of the common descent direction of the expected gradients, from the gradients of each key.

    With g_s [m, P] the gradients of key s, the estimate is the mean over pairs s != t of

        1/2 (alpha_st g_s) . (alpha_st g_t) + 1/2 (alpha g_s) . (alpha g_t),

    alpha_st from the keys other than s and t, alpha from all. Neither product has the noise of a square. The first is too
    large by what weights lose by their errors on other data, the second too small by what they gain on their own: to
    second order the same amount, which their mean is free of. The jackknife holds the weights fixed (at the minimum, their
    errors matter to second order only).

    Args:
        jacobians: [S, m, P] for S keys, at least 4.
        confidence: such as 0.95.

    Returns:
        The certificate.

    Raises:
        ValueError: fewer than four keys, or gradients that are not finite.
    """
    gradients = np.asarray(jacobians, np.float64)
    if gradients.ndim != 3 or len(gradients) < 4 or not np.isfinite(gradients).all():
        raise ValueError(f"a certificate needs finite gradients [S, m, P] of at least 4 keys, got {gradients.shape}")
    keys, objectives, _ = gradients.shape
    flat = gradients.reshape(keys * objectives, -1)
    # Only inner products matter: as many coordinates as gradients hold them all.
    if flat.shape[1] > flat.shape[0]:
        gradients = _triangle(flat.T).T.reshape(keys, objectives, -1)
    total = gradients.sum(axis=0)
    everywhere = common_descent(total / keys)
    alone = everywhere.weights @ gradients  # [S, P]
    products = 0.5 * alone @ alone.T
    for s in range(keys):
        for t in range(s + 1, keys):
            weights = _shortest((total - gradients[s] - gradients[t]) / (keys - 2))
            products[s, t] += 0.5 * (weights @ gradients[s]) @ (weights @ gradients[t])
            products[t, s] = products[s, t]
    np.fill_diagonal(products, 0.0)
    whole = products.sum()
    squared = whole / (keys * (keys - 1))
    left_out = (whole - 2.0 * products.sum(axis=1)) / ((keys - 1) * (keys - 2))
    error = float(np.sqrt((keys - 1) / keys * np.sum((left_out - left_out.mean()) ** 2)))
    reach = float(stats.t.ppf(0.5 + confidence / 2, keys - 1)) * error
    low, high = max(squared - reach, 0.0), max(squared + reach, 0.0)
    return Certificate(float(squared), error, float(low), float(high), everywhere.norm**2, everywhere.weights)


def _shortest(gradients: np.ndarray) -> np.ndarray:
    """Weights [m] on the simplex of the shortest vector in the hull of gradients [m, P]."""
    norms = np.linalg.norm(gradients, axis=1)
    shortest = norms.min()
    if shortest == 0:
        return (norms == 0) / np.sum(norms == 0)
    # Scaled by the shortest gradient, which bounds the answer: precise even where gradients differ 10,000-fold.
    system = np.vstack([gradients.T / shortest, np.ones(len(gradients))])
    target = np.zeros(len(system))
    target[-1] = 1.0
    if len(system) > len(gradients):
        triangle = _triangle(np.column_stack([system, target]))
        system, target = triangle[:, :-1], triangle[:, -1]
    weights, _ = optimize.nnls(system, target)
    return weights / weights.sum()


def _triangle(columns: np.ndarray) -> np.ndarray:
    """The factor R of a QR factorisation: as few rows as its columns [n, k] need for the same inner products."""
    return np.asarray(np.linalg.qr(columns, mode="r"))
