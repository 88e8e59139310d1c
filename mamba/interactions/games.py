"""Games: what every subset of algorithms is worth, split among algorithms and pairs.

A table v has 2^A entries in bit order: entry S is the outcome with exactly the algorithms in S on (bit i is algorithm i).
Every index here is a linear map [..., 2^A] of the table (`statistics.contrast` applies it within each seed), written in dividends

    a(S) = sum over T in S of (-1)^(|S| - |T|) v(T),        v(S) = sum over T in S of a(T),

    Shapley            phi_i = sum over S with i of a(S) / |S|
    Shapley interaction     I_ij = sum over S with ij of a(S) / (|S| - 1)
    Shapley-Taylor, order 2   T_i = a(i), T_ij = sum over S with ij of a(S) / C(|S|, 2)
    Faith-Shap, order 2    E_i = a(i) - 2/3 sum over S with i, |S| > 2 of a(S) C(|S|-1, 2) / C(|S|+1, 3)
                           E_ij = a(ij) + 1/2 sum over S with ij, |S| > 2 of a(S) C(|S|-1, 2) / C(|S|+1, 4)

Faith-Shap is the quadratic game nearest to v, in least squares weighted by the Shapley kernel and exact on nobody and on
everybody; like Shapley-Taylor it adds up, v(all) - v(none) = sum_i E_i + sum_{i<j} E_ij, which the Shapley interaction does not.
Functional ANOVA splits the variance of v over subsets drawn by fair coins: with coefficients c(S) = mean over T of
v(T) prod_{i in S} (+1 if i in T else -1), the share of S is c(S)^2 over the sum of all c^2 but that of the empty set.

References:
    Harsanyi 1963 (dividends). Shapley 1953. Grabisch and Roubens 1999 (Shapley and Banzhaf interaction). Sundararajan, Dhamdhere
    and Agarwal 2020 (Shapley-Taylor). Tsai, Yeh and Ravikumar 2023 (Faith-Shap). Sobol 1993 (shares and total indices).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from scipy.special import binom

from mamba.interactions.designs import FULL_LIMIT, Index, averages, gates
from mamba.interactions.statistics import Estimate, jackknife

Value = TypeVar("Value", np.ndarray, Estimate)


def players(rows: int) -> int:
    """A from the 2^A rows of a table.

    Raises:
        ValueError: not a power of two.
    """
    if rows < 1 or rows & (rows - 1):
        raise ValueError(f"a value table has 2^A entries, one for every subset of A algorithms; got {rows}")
    return rows.bit_length() - 1


def moebius(table: np.ndarray) -> np.ndarray:
    """Dividends a(S) of a table v(S), by the fast zeta transform in A 2^A steps.

    Args:
        table: [..., 2^A].

    Returns:
        [..., 2^A] float64.
    """
    return _per_bit(table, lambda off, on: (off, on - off))


def zeta(dividends: np.ndarray) -> np.ndarray:
    """The table v(S) of dividends a(S), inverse of `moebius`; [..., 2^A] to [..., 2^A]."""
    return _per_bit(dividends, lambda off, on: (off, on + off))


def walsh(table: np.ndarray) -> np.ndarray:
    """Coefficients c(S) of a table in the products of its signs (on +1, off -1); c(empty) is the mean.

    Args:
        table: [..., 2^A].

    Returns:
        [..., 2^A] float64.
    """
    return _per_bit(table, lambda off, on: ((off + on) / 2, (on - off) / 2))


def moebius_map(n_algorithms: int) -> np.ndarray:
    """`moebius` as a linear map [2^A, 2^A]."""
    return moebius(np.eye(_counted(n_algorithms))).T


def walsh_map(n_algorithms: int) -> np.ndarray:
    """`walsh` as a linear map [2^A, 2^A]."""
    return walsh(np.eye(_counted(n_algorithms))).T


def _per_bit(table: np.ndarray, butterfly: Callable[[np.ndarray, np.ndarray], tuple]) -> np.ndarray:
    """One pass for each bit over the halves of the last axis where it is off and on."""
    table = np.asarray(table, np.float64)
    shape, n = table.shape, players(table.shape[-1])
    for bit in range(n):
        halves = table.reshape(*shape[:-1], -1, 2, 2**bit)
        table = np.stack(butterfly(halves[..., 0, :], halves[..., 1, :]), axis=-2)
    return table.reshape(shape)


def _counted(n_algorithms: int) -> int:
    if not 1 <= n_algorithms <= FULL_LIMIT:
        raise ValueError(
            f"an index of a value table takes 1 to {FULL_LIMIT} algorithms, got {n_algorithms}; group algorithms"
        )
    return 2**n_algorithms


def average(n_algorithms: int) -> Index:
    """Mean effects over all backgrounds of the other algorithms (Banzhaf value and interaction; factorial effects)."""
    _counted(n_algorithms)
    return averages(gates(n_algorithms))


def in_context(n_algorithms: int) -> Index:
    """What switching off today would undo: effects while all other algorithms are on.

    main_i = v(all) - v(all without i), pair_ij = v(all) - v(all without i) - v(all without j) + v(all without both).
    """
    count, n = _counted(n_algorithms), np.arange(n_algorithms)
    main, pair = np.zeros((len(n), count)), np.zeros((len(n), len(n), count))
    main[:, -1] = 1.0
    main[n, count - 1 - 2**n] = -1.0
    i, j = np.nonzero(n[:, None] != n)
    pair[i, j] = main[i]
    pair[i, j, count - 1 - 2**j] = -1.0
    pair[i, j, count - 1 - 2**i - 2**j] = 1.0
    return Index(main, pair)


def shapley(n_algorithms: int) -> np.ndarray:
    """Shapley value, [A, 2^A]: the fair split of v(all) - v(none)."""
    member, size, _ = _subsets(n_algorithms)
    return _on_values(member.T / np.maximum(size, 1))


def faith_shap(n_algorithms: int) -> Index:
    """Faith-Shap of order 2: mains and pairs add up to v(all) - v(none).

    References:
        Tsai, Yeh and Ravikumar 2023 (closed form).
    """
    member, size, both = _subsets(n_algorithms)
    high = size > 2
    # Both branches are evaluated everywhere; the maximum keeps 0 / 0 out of the one that is not taken.
    one = np.where(high, -2 / 3 * binom(size - 1, 2) / np.maximum(binom(size + 1, 3), 1), size == 1)
    two = np.where(high, 1 / 2 * binom(size - 1, 2) / np.maximum(binom(size + 1, 4), 1), size == 2)
    return Index(_on_values(member.T * one), _on_values(both * two))


def shapley_interaction(n_algorithms: int) -> Index:
    """Shapley values and the Shapley interaction of pairs (SII). They do not add up to v(all) - v(none)."""
    _, size, both = _subsets(n_algorithms)
    return Index(shapley(n_algorithms), _on_values(both / np.maximum(size - 1, 1)))


def shapley_taylor(n_algorithms: int) -> Index:
    """Shapley-Taylor of order 2 (STII): each algorithm alone, and pairs that carry everything of higher order."""
    member, size, both = _subsets(n_algorithms)
    return Index(_on_values(member.T * (size == 1)), _on_values(both / np.maximum(binom(size, 2), 1)))


def _subsets(n_algorithms: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Membership [2^A, A], size [2^A], and whether both of a pair are in [A, A, 2^A] with a zero diagonal."""
    _counted(n_algorithms)
    member = gates(n_algorithms).astype(np.float64)
    return member, member.sum(axis=1), _off_diagonal(member.T[:, None] * member.T[None])


def _on_values(weights: np.ndarray) -> np.ndarray:
    """Maps of the table from maps of its dividends: weights times `moebius_map`, without the matrix."""
    return _per_bit(weights, lambda off, on: (off - on, on))


def _off_diagonal(pair: np.ndarray) -> np.ndarray:
    pair = pair.copy()
    pair[np.arange(len(pair)), np.arange(len(pair))] = 0.0
    return pair


class Steps(NamedTuple):
    """Ways to switch on two algorithms, as linear maps [A, A, R]; the diagonals are zero.

    Attributes:
        alone: effect of i while j is off.
        given: effect of i while j is on.
        both: of switching on both; symmetric.
    """

    alone: np.ndarray
    given: np.ndarray
    both: np.ndarray


def steps(main: np.ndarray, pair: np.ndarray, *, share_on: float) -> Steps:
    """Effects of i with and without j against one background, from effects and their interaction.

    Args:
        main: [A, R].
        pair: [A, A, R] given less alone.
        share_on: share of the backgrounds behind `main` in which j is on: 1 for effects in context, 1/2 for averages.
    """
    alone = _off_diagonal(main[:, None] - share_on * pair)
    given = _off_diagonal(main[:, None] + (1.0 - share_on) * pair)
    return Steps(alone, given, given + alone.swapaxes(0, 1))


class Variance(NamedTuple, Generic[Value]):
    """How the outcome varies between platforms, and what share of it is whose; shares are of the variance.

    Where the variance between platforms is not resolved (its interval reaches 0) there is nothing to share: shares are NaN.
    A corrected share has noise on both sides of the truth, so that one near 0 may come out negative.

    Attributes:
        total: [...] variance between platforms, each algorithm on or off by a fair coin.
        subset: [2^A, ...] share of every subset; 0 for the empty one.
        main: [A, ...] share of every algorithm alone.
        with_others: [A, ...] total (Sobol) index: share of all subsets that hold the algorithm.
        interaction: [...] share of all subsets of two and more: how wrong it is to tune each on its own.
    """

    total: Value
    subset: Value
    main: Value
    with_others: Value
    interaction: Value


def anova(table: np.ndarray) -> Variance[np.ndarray]:
    """Functional ANOVA of a table that is known exactly. Noise in it would count as interaction; see `anova_of_seeds`.

    Args:
        table: [2^A, ...].

    Returns:
        Arrays; shares are NaN where all entries are equal.
    """
    square = np.moveaxis(walsh(np.moveaxis(table, 0, -1)), -1, 0) ** 2
    return _split(square, np.asarray(table).min(axis=0) < np.asarray(table).max(axis=0))


def anova_of_seeds(samples: np.ndarray, *, confidence: float) -> Variance[Estimate]:
    """Functional ANOVA of the mean table behind paired seeds, corrected for their noise.

    The square of a mean coefficient is too large by the square of its standard error on average, and there are 2^A
    coefficients to add up; the error is therefore subtracted, which leaves every variance unbiased. Intervals are jackknifed.

    Args:
        samples: [S, 2^A, ...], S at least 3 paired seeds.
        confidence: such as 0.95.

    Returns:
        Estimates.

    Raises:
        ValueError: fewer than three seeds.
    """
    n = len(samples)
    if n < 3:
        raise ValueError(f"shares of variance corrected for noise need at least 3 seeds, got {n}")
    each = np.moveaxis(walsh(np.moveaxis(np.asarray(samples, np.float64), 1, -1)), -1, 1)
    each_square = each**2
    total, square = each.sum(axis=0), each_square.sum(axis=0)
    whole = (total**2 - square) / (n * (n - 1))  # mean of c_s c_r over seeds s != r: mean^2 - error^2
    left_out = ((total - each) ** 2 - (square - each_square)) / ((n - 1) * (n - 2))
    variance = jackknife(_between(whole, axis=0), _between(left_out, axis=1), confidence=confidence)
    resolved = np.asarray(variance.low > 0)
    once = _split(whole, resolved)
    without = [_split(each, resolved) for each in left_out]
    shares = (
        jackknife(value, np.stack([getattr(part, name) for part in without]), confidence=confidence)
        for name, value in zip(Variance._fields[1:], once[1:], strict=True)
    )
    return Variance(variance, *shares)


def _between(square: np.ndarray, *, axis: int) -> np.ndarray:
    """Variance between platforms: all squared coefficients but that of the mean."""
    return square.sum(axis=axis) - square.take(0, axis=axis)


def _split(square: np.ndarray, resolved: np.ndarray) -> Variance[np.ndarray]:
    """Shares from squared coefficients [2^A, ...]."""
    total = _between(square, axis=0)
    share = np.where(resolved, square / np.where(resolved, total, 1.0), np.nan)
    share[0] = np.where(resolved, 0.0, np.nan)
    member = gates(players(len(square))).astype(np.float64)
    return Variance(
        total=total,
        subset=share,
        main=share[2 ** np.arange(member.shape[1])],
        with_others=np.tensordot(member.T, share, axes=1),
        interaction=share[member.sum(axis=1) > 1].sum(axis=0),
    )
