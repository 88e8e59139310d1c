"""The full 2^A factorial over gates, and what follows from its value table.

Every algorithm's gate is 0 or 1. Row `g` of the table holds the objectives of the platform whose open gates are the
bits of `g` (bit i is algorithm i). All quantities below are linear in the table, so paired seeds give their standard errors for
free:

    main_i         = mean over all other gates of J(S + i) - J(S)
    pair_ij        = mean over all other gates of J(S + ij) - J(S + i) - J(S + j) + J(S)
    switch_off_i   = J(all) - J(all without i), what switching i off today would undo

References:
    Box, Hunter and Hunter 2005 (factorial designs). The factor 1/2 that some texts put on a pair effect is left out: a
    pair effect here is the change of one effect when the other gate opens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy import stats

from mamba import ecosystem as eco
from mamba import members as mem
from mamba.types import Array, Levers


def gates(n_algorithms: int) -> np.ndarray:
    """All gate settings, [2^A, A] float32; row `g` opens the bits of `g`."""
    rows = np.arange(2**n_algorithms)[:, None]
    return ((rows >> np.arange(n_algorithms)[None, :]) & 1).astype(np.float32)


def members(ecosystem: eco.Ecosystem, levers: Levers, keys: Array) -> mem.Members:
    """Members of the factorial: every gate setting for every key.

    Args:
        ecosystem: static description, A algorithms.
        levers: the platform's levers.
        keys: [S] typed keys, each shared by all gate settings (common random numbers).

    Returns:
        `S * 2^A` members, gate setting fastest.
    """
    table = gates(len(ecosystem.names))
    repeated = mem.repeat(ecosystem, levers, jnp.repeat(keys, len(table)))
    return repeated._replace(gates=jnp.tile(jnp.asarray(table), (len(keys), 1)))


def contrasts(n_algorithms: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Linear maps from a value table [2^A] to effects.

    Returns:
        `(main [A, 2^A], pair [A, A, 2^A], switch_off [A, 2^A])`; the diagonal of `pair` is zero.
    """
    signs = 2.0 * gates(n_algorithms).astype(np.float64) - 1.0
    count = len(signs)
    main = 2.0 * signs.T / count
    pair = 4.0 * np.einsum("gi,gj->ijg", signs, signs) / count
    pair[np.arange(n_algorithms), np.arange(n_algorithms)] = 0.0
    off = np.zeros((n_algorithms, count))
    off[:, count - 1] = 1.0
    off[np.arange(n_algorithms), count - 1 - 2 ** np.arange(n_algorithms)] = -1.0
    return main, pair, off


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
    mean, error = values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(n)
    reach = stats.t.ppf(0.5 + confidence / 2, n - 1) * error
    sure = error == 0
    t = np.where(sure, 0.0, mean / np.where(sure, 1.0, error))
    p = np.where(sure, np.where(mean == 0, 1.0, 0.0), 2.0 * stats.t.sf(np.abs(t), n - 1))
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
    flat = p.ravel()
    tested = np.flatnonzero(np.isfinite(flat))
    order = tested[np.argsort(flat[tested], kind="stable")]
    limit = level * np.arange(1, len(order) + 1) / max(len(order), 1)
    passing = np.flatnonzero(flat[order] <= limit)
    found = np.zeros(flat.shape, bool)
    if len(passing):
        found[order[: passing[-1] + 1]] = True
    return found.reshape(p.shape)


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


class Analysis(NamedTuple):
    """Interactions of A algorithms on J objectives.

    Attributes:
        names: A algorithm names.
        values: [S, 2^A, J] value table of every seed.
        main: estimates [A, J].
        pair: estimates [A, A, J], symmetric, zero diagonal.
        switch_off: estimates [A, J].
        confirmed: [A, A, J] pairs that survive Benjamini-Hochberg over all pairs and objectives.
        spread: [J] standard deviation of the mean table over platforms: the scale of what policy can change.
        variance_ratio: [J] variance of a switch-off difference with independent seeds over the paired one (median over
            algorithms): what common random numbers gain.
    """

    names: tuple[str, ...]
    values: np.ndarray
    main: Estimate
    pair: Estimate
    switch_off: Estimate
    confirmed: np.ndarray
    spread: np.ndarray
    variance_ratio: np.ndarray


def analyse(
    names: Sequence[str], values: np.ndarray, *, confidence: float = 0.95, false_discovery_rate: float = 0.05
) -> Analysis:
    """Analyses a value table.

    Args:
        names: A algorithm names.
        values: [S, 2^A, J], S at least 2 paired seeds.
        confidence: of the intervals.
        false_discovery_rate: Benjamini-Hochberg level over all pairs and objectives.

    Raises:
        ValueError: the table does not fit the names, or fewer than two seeds.
    """
    count = 2 ** len(names)
    if values.ndim != 3 or values.shape[1] != count:
        raise ValueError(
            f"a value table of {len(names)} algorithms has shape [S, {count}, J], got {list(values.shape)}"
        )
    table = np.asarray(values, np.float64)
    main, pair, off = contrasts(len(names))
    off_samples = np.einsum("ig,sgj->sij", off, table)
    pairs = estimate(np.einsum("ikg,sgj->sikj", pair, table), confidence)
    upper = np.triu(np.ones((len(names), len(names)), bool), 1)[:, :, None]
    found = discoveries(np.where(upper, pairs.p, np.nan), false_discovery_rate)
    last = table[:, -1]
    without = table[:, count - 1 - 2 ** np.arange(len(names))]  # [S, A, J]
    independent = last.var(axis=0, ddof=1)[None] + without.var(axis=0, ddof=1)
    paired = off_samples.var(axis=0, ddof=1)
    ratio = np.where(paired > 0, independent / np.where(paired > 0, paired, 1.0), np.nan)
    with np.errstate(all="ignore"):
        gain = np.array([np.nanmedian(column) if np.isfinite(column).any() else np.nan for column in ratio.T])
    return Analysis(
        names=tuple(names),
        values=values,
        main=estimate(np.einsum("ig,sgj->sij", main, table), confidence),
        pair=pairs,
        switch_off=estimate(off_samples, confidence),
        confirmed=found | found.swapaxes(0, 1),
        spread=table.mean(axis=0).std(axis=0),
        variance_ratio=gain,
    )
