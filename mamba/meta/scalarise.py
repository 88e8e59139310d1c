"""From m harms to one number: weights on a simplex grid and the smooth Chebyshev scalarisation of each.

    U_w(J) = mu log sum_m exp(w_m (J_m - ideal_m) / mu),     dU_w/dJ_m = w_m softmax(w (J - ideal) / mu)_m

is within mu log m above max_m w_m (J_m - ideal_m), whose minimisers reach every part of a Pareto front; a weighted sum
reaches convex parts only. J is in units of harm: smaller is better, such as the relative change to the baseline.

References:
    Das and Dennis 1998 (simplex grid); Steuer and Choo 1983 (Chebyshev scalarisation); Lin, Zhang, Yang, Liu, Wang and
    Zhang 2024 (smooth Tchebycheff scalarisation, ICML); Klingsberg 1982 (compositions in an order of single moves).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp


class Grid(NamedTuple):
    """Weights on the simplex and how to warm-start along them. F points, m objectives.

    Neighbours differ by one move of 1 / divisions (before the floor) from one objective to another.

    Attributes:
        weights: [F, m] not negative, rows sum to 1. Row i + 1 is a neighbour of row i: trained one after another, each
            point starts from the row before.
        parent: [F] index of the neighbour that is one move nearer to even weights; -1 for the root.
        wave: [F] moves from the root. Trained side by side, all points of a wave start from their parents, which are of
            the wave before.
    """

    weights: np.ndarray
    parent: np.ndarray
    wave: np.ndarray


def das_dennis(n_objectives: int, divisions: int, *, smallest: float = 0.0) -> Grid:
    """All weights that are multiples of 1 / divisions, in an order to walk along.

    Args:
        n_objectives: m.
        divisions: of each edge of the simplex; F = (divisions + m - 1)! / (divisions! (m - 1)!).
        smallest: floor of every weight, in [0, 1 / m): the grid is shrunk towards even weights. At 0 an objective of
            weight 0 is free, and minimisers may be only weakly Pareto-optimal.

    Returns:
        The grid.

    Raises:
        ValueError: fewer than one objective or division, or a floor that leaves no room.

    References:
        Das and Dennis 1998; Klingsberg 1982.
    """
    if n_objectives < 1 or divisions < 1:
        raise ValueError(
            f"a simplex grid needs at least 1 objective and 1 division, got {n_objectives} and {divisions}"
        )
    if not 0.0 <= smallest < 1.0 / n_objectives:
        raise ValueError(
            f"{n_objectives} weights that sum to 1 have a floor from 0 to below {1.0 / n_objectives:.3g}, got {smallest}"
        )
    parts = np.array(list(_compositions(divisions, n_objectives)), np.int64)
    parent, wave = _tree(parts)
    return Grid(smallest + (1.0 - n_objectives * smallest) * parts / divisions, parent, wave)


def chebyshev(
    values: np.ndarray, weights: np.ndarray, *, ideal: np.ndarray | float, smoothing: float
) -> tuple[np.ndarray, np.ndarray]:
    """Smooth Chebyshev scalarisation and its slope, in float64 and without overflow.

    As smoothing grows, m (U_w - smoothing log m) tends to the weighted sum of `linear`; as it falls, U_w tends to the
    largest weighted harm.

    Args:
        values: [..., m] harms J.
        weights: [..., m], broadcast against the values.
        ideal: [m] or scalar, harms that none is expected to fall below; below it the formula still holds.
        smoothing: mu, in the units of w J; a hundredth of the range of w J is nearly the maximum.

    Returns:
        `(U [...], dU/dJ [..., m])`. The slope is the weight vector of the next gradient of a weighted sum of objectives.

    Raises:
        ValueError: a smoothing that is not positive.

    References:
        Lin et al. 2024.
    """
    if not smoothing > 0:
        raise ValueError(f"the smoothing of a maximum is positive, got {smoothing}; 0.01 is nearly the maximum itself")
    weights = np.asarray(weights, np.float64)
    exponent = weights * (np.asarray(values, np.float64) - ideal) / smoothing
    whole = logsumexp(exponent, axis=-1, keepdims=True)
    return smoothing * whole[..., 0], weights * np.exp(exponent - whole)


def linear(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted sum and its slope, the other end of `chebyshev`. Misses concave parts of a front.

    Args:
        values: [..., m] harms J.
        weights: [..., m], broadcast against the values.

    Returns:
        `(U [...], dU/dJ [..., m])`.
    """
    weights, values = np.broadcast_arrays(np.asarray(weights, np.float64), np.asarray(values, np.float64))
    return np.sum(weights * values, axis=-1), weights.copy()


def _compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Compositions of `total`, each a single move from the last, from (0, ..., total) to (total, ..., 0)."""
    if parts == 1:
        yield (total,)
        return
    for first in range(total + 1):
        rest = _compositions(total - first, parts - 1)
        # Every other block runs backwards, so that it begins where the block before it ended.
        for tail in rest if first % 2 == 0 else reversed(list(rest)):
            yield (first, *tail)


def _tree(parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Parents and depths [F] of compositions [F, m]: a move mends the largest excess and lack against the root."""
    index = {tuple(row): i for i, row in enumerate(parts.tolist())}
    parent = np.full(len(parts), -1, np.int64)
    even = int(np.argmin(np.sum(parts**2, axis=1)))  # the first of the most even
    wave = np.zeros(len(parts), np.int64)
    towards = parts[even]
    for i, row in enumerate(parts):
        if i == even:
            continue
        nearer = row.copy()
        nearer[np.argmax(row - towards)] -= 1
        nearer[np.argmin(row - towards)] += 1
        parent[i] = index[tuple(nearer.tolist())]
        wave[i] = np.abs(row - towards).sum() // 2
    return parent, wave
