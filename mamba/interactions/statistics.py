"""Statistics over paired seeds: intervals, many tests, equivalence, and what common random numbers gain.

Samples have the seed axis first; a seed's values are one draw of everything behind it, so a contrast is taken within each
seed and only then summarised.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats


class Estimate(NamedTuple):
    """Means over seeds with paired uncertainty; all arrays have one shape.

    Attributes:
        mean: estimate.
        error: standard error over seeds.
        low: lower end of the confidence interval.
        high: upper end.
        p: two-sided p-value of a paired t test against 0 (1 where every seed says exactly 0).
    """

    mean: np.ndarray
    error: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray


def contrast(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Applies a linear map of design rows within every seed.

    Args:
        weights: [..., R].
        values: [S, R, ...], such as [S, R, J] or [S, R, W, J].

    Returns:
        [S, ..., ...] float64: the leading axes of the weights, then the trailing axes of the values.

    Raises:
        ValueError: the numbers of rows differ.
    """
    weights, values = np.asarray(weights, np.float64), np.asarray(values, np.float64)
    if values.ndim < 2 or weights.shape[-1] != values.shape[1]:
        raise ValueError(
            f"weights [..., R] {list(weights.shape)} do not fit values [S, R, ...] {list(values.shape)}; both count design rows"
        )
    return np.moveaxis(np.tensordot(weights, values, axes=(-1, 1)), weights.ndim - 1, 0)


def estimate(samples: np.ndarray, confidence: float) -> Estimate:
    """Student-t summary over the first axis.

    Args:
        samples: [S, ...] one value a seed, S at least 2.
        confidence: such as 0.95.

    Raises:
        ValueError: fewer than two seeds.
    """
    n = len(samples)
    if n < 2:
        raise ValueError(f"an interval needs at least 2 seeds, got {n}")
    values = np.asarray(samples, np.float64)
    return _student(values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(n), seeds=n, confidence=confidence)


def jackknife(whole: np.ndarray, left_out: np.ndarray, *, confidence: float) -> Estimate:
    """Student-t summary of a statistic that is no mean over seeds, such as a ratio of variances.

    Args:
        whole: [...] the statistic of all seeds.
        left_out: [S, ...] the statistic without each seed, S at least 2.
        confidence: such as 0.95.

    Raises:
        ValueError: fewer than two seeds.

    References:
        Efron and Stein 1981 (the error is on average no smaller than the true one).
    """
    n = len(left_out)
    if n < 2:
        raise ValueError(f"an interval needs at least 2 seeds, got {n}")
    replicates = np.asarray(left_out, np.float64)
    error = np.sqrt((n - 1) / n * np.sum((replicates - replicates.mean(axis=0)) ** 2, axis=0))
    return _student(np.asarray(whole, np.float64), error, seeds=n, confidence=confidence)


def _student(mean: np.ndarray, error: np.ndarray, *, seeds: int, confidence: float) -> Estimate:
    reach = stats.t.ppf(0.5 + confidence / 2, seeds - 1) * error
    sure = error == 0
    t = np.where(sure, 0.0, mean / np.where(sure, 1.0, error))
    p = np.where(sure, np.where(mean == 0, 1.0, 0.0), 2.0 * stats.t.sf(np.abs(t), seeds - 1))
    return Estimate(mean, error, mean - reach, mean + reach, p)


def discoveries(p: np.ndarray, level: float) -> np.ndarray:
    """Benjamini-Hochberg: which of many tests are discoveries at a false discovery rate.

    Args:
        p: [...] p-values; NaN is no test.
        level: false discovery rate.

    Returns:
        [...] bool.

    References:
        Benjamini and Hochberg 1995.
    """
    ranked = _ranked(p)
    passing = np.flatnonzero(p.ravel()[ranked] <= level * np.arange(1, len(ranked) + 1) / max(len(ranked), 1))
    return _marked(p.shape, ranked[: passing[-1] + 1] if len(passing) else ranked[:0])


def holm(p: np.ndarray, level: float) -> np.ndarray:
    """Holm: which of many tests are rejected so that a single false rejection has at most probability `level`.

    For the few pairs that were named in advance. Holds under any dependence of the tests.

    Args:
        p: [...] p-values; NaN is no test.
        level: family-wise error rate.

    Returns:
        [...] bool.

    References:
        Holm 1979.
    """
    ranked = _ranked(p)
    failing = np.flatnonzero(p.ravel()[ranked] > level / np.arange(len(ranked), 0, -1))
    return _marked(p.shape, ranked[: failing[0]] if len(failing) else ranked)


def _ranked(p: np.ndarray) -> np.ndarray:
    """Flat indices of the tests, smallest p first."""
    tested = np.flatnonzero(~np.isnan(p))
    return tested[np.argsort(p.ravel()[tested], kind="stable")]


def _marked(shape: tuple[int, ...], chosen: np.ndarray) -> np.ndarray:
    marks = np.zeros(shape, bool)
    marks.ravel()[chosen] = True
    return marks


def equivalent(estimate: Estimate, *, margin: np.ndarray | float) -> np.ndarray:
    """Where the whole interval lies within ± margin: no effect at this resolution.

    Intervals of confidence c make it a pair of one-sided tests, each at level (1 - c) / 2; `equivalence_p` is their p-value.

    Args:
        estimate: with intervals at the wanted confidence.
        margin: not negative, broadcast against the estimate; the smallest effect that matters. NaN is never equivalent.

    Returns:
        Bool, in the shape of the estimate.

    Raises:
        ValueError: a negative margin.

    References:
        Schuirmann 1987 (two one-sided tests).
    """
    margin = _margin(margin)
    return (estimate.low >= -margin) & (estimate.high <= margin)


def equivalence_p(estimate: Estimate, *, seeds: int, margin: np.ndarray | float) -> np.ndarray:
    """P-value of two one-sided t tests: how surprising, if the true effect were ± margin or beyond.

    Args:
        estimate: from `estimate`.
        seeds: S behind it.
        margin: not negative, broadcast against the estimate.

    Returns:
        In the shape of the estimate; without spread, 0 inside the margin and 1 outside.

    Raises:
        ValueError: a negative margin.

    References:
        Schuirmann 1987.
    """
    margin = _margin(margin)
    room = margin - np.abs(estimate.mean)  # the nearer end decides
    sure = estimate.error == 0
    p = stats.t.sf(room / np.where(sure, 1.0, estimate.error), seeds - 1)
    return np.where(sure, np.where(room >= 0, 0.0, 1.0), p)


def _margin(margin: np.ndarray | float) -> np.ndarray:
    margin = np.asarray(margin, np.float64)
    if np.any(margin < 0):
        raise ValueError(f"a margin of equivalence is not negative, got {margin.min()}; give the size of an effect")
    return margin


def variance_ratio(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """What common random numbers gain: variance of a contrast with independent seeds over the paired one.

    With rows r of weight w_r, independent seeds would give sum_r w_r^2 var(y_r); paired seeds give var(sum_r w_r y_r). A ratio
    of 1 says that pairing gains nothing, 50 that it does the work of 50 times as many seeds.

    Args:
        values: [S, R, ...], S at least 2 paired seeds.
        weights: [..., R], contrasts of the rows.

    Returns:
        The leading axes of the weights, then the trailing axes of the values; NaN where no seed shows any difference from
        the next.

    Raises:
        ValueError: fewer than two seeds, or the numbers of rows differ.
    """
    independent, paired = _variances(contrast(weights, values), np.asarray(values, np.float64), weights)
    return _ratio(independent, paired)


def ratio(top: np.ndarray, bottom: np.ndarray, *, confidence: float) -> Estimate:
    """The ratio of the means of two independent samples, with Fieller's interval.

    Args:
        top: [S].
        bottom: [S'].
        confidence: of the interval.

    Returns:
        Estimate of scalars; the interval is unbounded where the mean of `bottom` does not differ from 0, `error` is that of the
        delta method, and `p` tests a ratio of 0.

    Raises:
        ValueError: fewer than two values in either.

    References:
        Fieller 1954.
    """
    top, bottom = np.asarray(top, np.float64), np.asarray(bottom, np.float64)
    if min(len(top), len(bottom)) < 2:
        raise ValueError(f"a ratio needs at least 2 values above and below, got {len(top)} and {len(bottom)}")
    a, b = float(top.mean()), float(bottom.mean())
    va, vb = (float(values.var(ddof=1)) / len(values) for values in (top, bottom))
    freedom = min(len(top), len(bottom)) - 1
    t = float(stats.t.ppf(0.5 + confidence / 2, freedom))
    # (a - r b)^2 <= t^2 (va + r^2 vb), a quadratic in r.
    square, linear, constant = b**2 - t**2 * vb, a * b, a**2 - t**2 * va
    low, high = -np.inf, np.inf
    if square > 0:
        reach = np.sqrt(max(linear**2 - square * constant, 0.0))
        low, high = (linear - reach) / square, (linear + reach) / square
    value = a / b if b != 0 else np.nan
    error = np.sqrt(va + value**2 * vb) / abs(b) if b != 0 else np.inf
    p = 2.0 * stats.t.sf(abs(a) / np.sqrt(va), freedom) if va > 0 else float(a == 0)
    return Estimate(*(np.asarray(x, np.float64) for x in (value, error, low, high, p)))


def variance_ratio_interval(
    values: np.ndarray, weights: np.ndarray, *, confidence: float
) -> tuple[np.ndarray, np.ndarray]:
    """Interval of `variance_ratio`, by the jackknife on its logarithm.

    Args:
        values: [S, R, ...], S at least 3 paired seeds.
        weights: [..., R].
        confidence: such as 0.95.

    Returns:
        `(low, high)`, in the shape of `variance_ratio`; NaN where it is NaN.

    Raises:
        ValueError: fewer than three seeds, or the numbers of rows differ.
    """
    if len(values) < 3:
        raise ValueError(f"the interval of a variance ratio needs at least 3 seeds, got {len(values)}")
    values = np.asarray(values, np.float64)
    samples = contrast(weights, values)
    left_out = [
        _ratio(*_variances(np.delete(samples, s, axis=0), np.delete(values, s, axis=0), weights))
        for s in range(len(values))
    ]
    with np.errstate(invalid="ignore"):  # a ratio of 0 or NaN has no logarithm, and no interval
        whole = np.log(_ratio(*_variances(samples, values, weights)))
        found = jackknife(whole, np.log(np.stack(left_out)), confidence=confidence)
    return np.exp(found.low), np.exp(found.high)


def _variances(samples: np.ndarray, values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if len(values) < 2:
        raise ValueError(f"a variance over seeds needs at least 2, got {len(values)}")
    independent = np.tensordot(np.asarray(weights, np.float64) ** 2, values.var(axis=0, ddof=1), axes=(-1, 0))
    return independent, samples.var(axis=0, ddof=1)


def _ratio(independent: np.ndarray, paired: np.ndarray) -> np.ndarray:
    return np.where(paired > 0, independent / np.where(paired > 0, paired, 1.0), np.nan)


def widened(estimate: Estimate, seeds: int, confidence: float) -> Estimate:
    """The same estimates with intervals at another confidence.

    Args:
        estimate: from `estimate`.
        seeds: S behind it.
        confidence: such as 0.999.
    """
    reach = stats.t.ppf(0.5 + confidence / 2, seeds - 1) * estimate.error
    return estimate._replace(low=estimate.mean - reach, high=estimate.mean + reach)


def selected(estimate: Estimate, seeds: int, *, chosen: int, among: int, confidence: float) -> Estimate:
    """Intervals that hold for estimates that were picked because they passed a test.

    Of m effects the R discoveries get intervals at confidence 1 - R (1 - confidence) / m, so that the expected share of
    them that miss their effect is at most 1 - confidence (false coverage rate).

    Args:
        estimate: all estimates.
        seeds: S behind them.
        chosen: R.
        among: m.
        confidence: such as 0.95.

    References:
        Benjamini and Yekutieli 2005.
    """
    return widened(estimate, seeds, 1.0 - max(chosen, 1) * (1.0 - confidence) / max(among, 1))
