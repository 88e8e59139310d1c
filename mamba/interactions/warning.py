"""Early warnings of a tipping point: how fast a disturbance dies out, and what a platform's own logs can show of it.

*From the model*, the default. Tangents v of a run obey v' = (d step / d state) v; renormalised at every step, the mean logarithm
of their growth is the leading exponent lambda_1 per step (Benettin et al. 1980). Close to a tipping point the recovery
from a disturbance slows down: lambda_1 rises to 0 and the relaxation time 1 / |lambda_1| diverges. The lever at which
the extrapolated lambda_1 is 0 is the distance to tipping (`distance`):

    linear   lambda_1 ~ r - r*          exchange of stability (transcritical, pitchfork, oscillation)
    sqrt     lambda_1 ~ -sqrt(r* - r)   fold: lambda_1^2 is linear in the lever. Taken for linear, a fold seems twice as far away

Two cautions. The expected mode averages events that a user's habit reacts to, and can hold a regime that the sampled mode
loses (or has none of): scan the sampled mode before a distance is believed. And in a small world chance ends a regime
before its exponent reaches 0, at a lever of its own for every seed.

*From logs*. Slowing down shows as rising lag-1 autocorrelation and variance in sliding windows (Scheffer et al. 2009),
summed up by Kendall's tau. The windows overlap, so the textbook p-value of tau is far too small; here tau is ranked
among the taus of stationary runs of the same system (`warn`), and `false_positives` measures what either p-value is worth.

References:
    Benettin et al. 1980 (exponents); Scheffer et al. 2009, Dakos et al. 2008 (early warnings); Kuehn 2011 (scaling laws);
    Fieller 1954 (interval of a ratio).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage, stats

from mamba.interactions.tipping import Advance
from mamba.types import Array

Law = Literal["linear", "sqrt"]


# ---- from the model
# -------------------------------------------------------------------------------------------------


class Growth(NamedTuple):
    """Growth of tangents along one run.

    Attributes:
        rates: [K] exponents per step, largest first (K = 1: lambda_1); -inf where a disturbance vanishes in finite time.
        steps: [T, K] logarithmic growth of every step, the discarded ones included.
        blocks: [T, B] logarithm of the norm of the leading tangent in every block, since the start; its slope over, say, 10
            steps is the monitor of where derivatives grow.
    """

    rates: Array
    steps: Array
    blocks: Array


def block_names(state: Any, block_of: Callable[[str], str] | None = None) -> tuple[str, ...]:
    """Names of the blocks of a state's float leaves, B of them, in the order of the leaves.

    Args:
        state: pytree.
        block_of: path of a leaf (`jax.tree_util.keystr`) to the name of its block; None puts all into one, "state".
    """
    return tuple(dict.fromkeys(_labels(state, block_of)))


def _labels(state: Any, block_of: Callable[[str], str] | None) -> list[str]:
    leaves = jax.tree_util.tree_leaves_with_path(state)
    floats = [path for path, leaf in leaves if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
    return ["state" if block_of is None else block_of(jax.tree_util.keystr(path)) for path in floats]


def growth(
    advance: Advance,
    state: Any,
    *,
    lever: Array,
    key: Array,
    steps: int,
    discard: int,
    vectors: int = 1,
    block_of: Callable[[str], str] | None = None,
    kept: Array | None = None,
) -> Growth:
    """Growth of tangents along a run; the caller jits it.

    The noise of the run is the same with and without the disturbance: exponents are those of the noise-driven flow. Integer
    and bool leaves carry no tangent. The exponent is that of whatever forgets most slowly, and that is often a memory with
    a constant of its own: a counter or a flat direction of a learner (0), creators (the log of 1 - `creator_anchor`), the
    platform's ledgers (the log of `reach_memory`). `kept` restricts tangents to the loop that could tip, such as users'
    activity and items, while everything slower follows the run: the fast subsystem of Kuehn 2011. `own_growth` shows which
    blocks have to go; `vectors` above 1 shows the exponents behind the first.

    Args:
        advance: one differentiable step, `(state, lever, key) -> (state, record)`.
        state: pytree, where the run starts; let it settle first.
        lever: scalar.
        key: typed key; consumed.
        steps: T, of which the first `discard` align the tangents and are not counted.
        discard: steps before counting.
        vectors: K leading exponents, by orthogonalising K tangents at every step.
        block_of: see `block_names`.
        kept: [B] of 0 and 1; blocks at 0 follow the run undisturbed (their tangents are cut). None keeps all.

    Returns:
        See `Growth`.

    Raises:
        ValueError: nothing to count, or more vectors than float numbers in the state.
    """
    if not 0 <= discard < steps:
        raise ValueError(f"discard = {discard} must be at least 0 and below steps = {steps}")
    leaves, treedef = jax.tree.flatten(state)
    moving = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
    labels = _labels(state, block_of)
    names = tuple(dict.fromkeys(labels))
    members = [names.index(label) for label in labels]
    sizes = [int(np.size(leaves[i])) for i in moving]
    if not 1 <= vectors <= sum(sizes):
        raise ValueError(f"vectors = {vectors} must be between 1 and the {sum(sizes)} float numbers of the state")
    weights = jnp.ones(len(names)) if kept is None else jnp.asarray(kept, jnp.float32)
    edges = np.cumsum([0, *sizes])

    def split(flat: Array) -> list[Array]:
        pieces = [flat[edges[n] : edges[n + 1]].reshape(jnp.shape(leaves[i])) for n, i in enumerate(moving)]
        return [weights[block] * piece for block, piece in zip(members, pieces, strict=True)]

    def join(pieces: list[Array]) -> Array:
        return jnp.concatenate(
            [weights[block] * jnp.ravel(piece) for block, piece in zip(members, pieces, strict=True)]
        )

    def one(carry: tuple[list[Any], Array], t: Array):
        values, tangents = carry

        def move(floats: list[Array]):
            full = list(values)
            for i, leaf in zip(moving, floats, strict=True):
                full[i] = leaf
            after = jax.tree.leaves(advance(jax.tree.unflatten(treedef, full), lever, jax.random.fold_in(key, t))[0])
            return [after[i] for i in moving], after

        def push(flat: Array):
            floats = [values[i] for i in moving]
            _, pushed, after = jax.jvp(move, (floats,), (split(flat),), has_aux=True)
            return join(pushed), after

        pushed, after = jax.vmap(push, out_axes=(0, None))(tangents)  # the run itself is computed once
        if vectors == 1:
            size = jnp.linalg.norm(pushed, axis=1)
            turned = pushed / jnp.where(size > 0, size, 1.0)[:, None]
        else:
            q, r = jnp.linalg.qr(pushed.T)
            size, turned = jnp.abs(jnp.diagonal(r)), q.T
        lead = [jnp.sum(turned[0, edges[n] : edges[n + 1]] ** 2) for n in range(len(moving))]
        share = jnp.stack([sum(x for x, m in zip(lead, members, strict=True) if m == b) for b in range(len(names))])
        return (after, turned), (jnp.log(size), 0.5 * jnp.log(share))

    begin = jax.random.normal(jax.random.fold_in(key, steps), (vectors, sum(sizes)))
    (_, _), (logs, shares) = jax.lax.scan(one, (leaves, begin), jnp.arange(steps))
    return Growth(rates=jnp.mean(logs[discard:], axis=0), steps=logs, blocks=shares + jnp.cumsum(logs[:, 0])[:, None])


def own_growth(
    advance: Advance,
    state: Any,
    *,
    lever: Array,
    key: Array,
    steps: int,
    discard: int,
    block_of: Callable[[str], str] | None = None,
) -> Array:
    """Exponent of every block by itself, the others following the run undisturbed: which part is close to instability.

    Args: as for `growth`.

    Returns:
        [B] in the order of `block_names`.
    """
    count = len(block_names(state, block_of))

    def one(kept: Array) -> Array:
        found = growth(advance, state, lever=lever, key=key, steps=steps, discard=discard, block_of=block_of, kept=kept)
        return found.rates[0]

    return jax.lax.map(one, jnp.eye(count))


def relaxation_time(rates: np.ndarray) -> np.ndarray:
    """Steps after which a disturbance has shrunk by a factor e, [...]; infinite where it does not shrink."""
    rates = np.asarray(rates, np.float64)
    return np.where(rates < 0, 1.0 / np.where(rates < 0, -rates, 1.0), np.inf)


class Distance(NamedTuple):
    """Where an extrapolated exponent reaches 0.

    Attributes:
        tipping: lever value; NaN where the exponent does not move towards 0.
        low: lower end of the interval over seeds, maybe -inf.
        high: upper end, maybe inf.
        distance: tipping minus the last lever.
        curvature: p-value of a bend that the law leaves in the rates; small: take the other law, or fewer points. NaN with
            fewer than three levers.
    """

    tipping: float
    low: float
    high: float
    distance: float
    curvature: float


def distance(levers: np.ndarray, rates: np.ndarray, *, law: Law = "linear", confidence: float = 0.95) -> Distance:
    """Extrapolates leading exponents to 0.

    A line is fitted for every seed to lambda_1 (`linear`) or to lambda_1 |lambda_1| (`sqrt`); the interval holds all levers at
    which the mean line does not differ from 0 over seeds (Fieller 1954), and is unbounded where the slope is unresolved.

    Args:
        levers: [G] values near the tipping point, in the order in which it is approached; at least two.
        rates: [S, G] exponents, at least two seeds.
        law: see the module docstring.
        confidence: of the interval.

    Raises:
        ValueError: shapes that do not fit, or rates that are not finite.
    """
    grid, table = np.asarray(levers, np.float64), np.asarray(rates, np.float64)
    if table.ndim != 2 or table.shape[1] != len(grid) or len(grid) < 2 or len(table) < 2:
        raise ValueError(f"rates {list(table.shape)} must be [S >= 2, G >= 2] with G = {len(grid)} levers")
    if not np.all(np.isfinite(table)):
        raise ValueError("rates are not finite: a disturbance vanished or exploded; keep other blocks or fewer steps")
    seeds = len(table)
    if law == "sqrt":
        table = table * np.abs(table)
    centre = grid.mean()
    x = grid - centre
    level, slope = table.mean(axis=1), table @ x / (x @ x)
    a, b = level.mean(), slope.mean()
    t = stats.t.ppf(0.5 + confidence / 2, seeds - 1)
    covariance = np.cov(np.stack([level, slope])) / seeds * t**2
    # (a + b r)^2 <= t^2 var(a + b r), a quadratic in r.
    square, linear, constant = b**2 - covariance[1, 1], a * b - covariance[0, 1], a**2 - covariance[0, 0]
    reach = linear**2 - square * constant
    low, high = -np.inf, np.inf
    if square > 0:
        low, high = (-linear - np.sqrt(max(reach, 0.0))) / square, (-linear + np.sqrt(max(reach, 0.0))) / square
    approaching = b * np.sign(grid[-1] - grid[0]) > 0
    tipping = centre - a / b if approaching else np.nan
    bend = np.nan
    if len(grid) > 2:
        basis = np.stack([np.ones_like(x), x, x**2], 1)
        curve = np.linalg.lstsq(basis, table.T, rcond=None)[0][2]
        spread = curve.std(ddof=1) / np.sqrt(seeds)
        if spread > 0:
            bend = float(2.0 * stats.t.sf(abs(curve.mean()) / spread, seeds - 1))
    return Distance(float(tipping), float(centre + low), float(centre + high), float(tipping - grid[-1]), bend)


# ---- from logs
# ------------------------------------------------------------------------------------------------------


def drift(
    advance: Advance, states: Any, *, levers: Array, keys: Array, of: Callable[[Any], Array] | None = None
) -> Array:
    """Series of runs whose lever drifts, or stays: the same compilation makes the stationary runs of `warn`.

    Args:
        advance: one step, `(state, lever, key) -> (state, record)`.
        states: leaves [S, ...].
        levers: [T] lever of every step.
        keys: [S] typed keys; consumed.
        of: what of the record is logged; None takes the record.

    Returns:
        [S, T, ...].
    """

    def one(each: tuple[Any, Array]) -> Array:
        state, key = each

        def step(carry: Any, at: tuple[Array, Array]):
            t, lever = at
            after, record = advance(carry, lever, jax.random.fold_in(key, t))
            return after, record if of is None else of(record)

        return jax.lax.scan(step, state, (jnp.arange(len(levers)), levers))[1]

    return jax.lax.map(one, (states, keys))


class Indicators(NamedTuple):
    """Early-warning indicators in sliding windows.

    Attributes:
        autocorrelation: [..., W] lag-1 autocorrelation.
        variance: [..., W].
    """

    autocorrelation: np.ndarray
    variance: np.ndarray


def indicators(series: np.ndarray, *, window: int, bandwidth: float | None = None) -> Indicators:
    """Lag-1 autocorrelation and variance in all windows of a series.

    Args:
        series: [..., T].
        window: steps in a window, at least 4; usually half of T.
        bandwidth: standard deviation, in steps, of the Gaussian kernel whose running mean is taken off first, so that a trend of
            the level is not taken for autocorrelation (Dakos et al. 2008); None takes a fifth of the window, 0 nothing.

    Returns:
        Indicators with W = T - window + 1.

    Raises:
        ValueError: a window that does not fit.
    """
    values = np.asarray(series, np.float64)
    if not 4 <= window < values.shape[-1]:
        raise ValueError(f"window = {window} must be at least 4 and below the {values.shape[-1]} steps of the series")
    width = window / 5.0 if bandwidth is None else bandwidth
    if width > 0:
        values = values - ndimage.gaussian_filter1d(values, width, axis=-1, mode="nearest")
    pieces = np.lib.stride_tricks.sliding_window_view(values, window, axis=-1)
    centred = pieces - pieces.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1)
    together = (centred[..., 1:] * centred[..., :-1]).sum(axis=-1)
    return Indicators(together / np.where(variance > 0, variance * window, 1.0), variance)


class Trend(NamedTuple):
    """Kendall's tau of each indicator against time.

    Attributes:
        autocorrelation: [...] in [-1, 1]; near 1 where it rises throughout.
        variance: [...].
        naive: [..., 2] one-sided textbook p-values of both, which take overlapping windows for independent ones.
    """

    autocorrelation: np.ndarray
    variance: np.ndarray
    naive: np.ndarray


def trend(series: np.ndarray, *, window: int, bandwidth: float | None = None) -> Trend:
    """Trend of the indicators of every series [..., T]; see `indicators` for the arguments."""
    found = indicators(series, window=window, bandwidth=bandwidth)
    shape = found.variance.shape[:-1]
    time = np.arange(found.variance.shape[-1])

    def tau(rows: np.ndarray) -> np.ndarray:
        each = [stats.kendalltau(time, row, alternative="greater") for row in rows.reshape(-1, len(time))]
        both = np.array([[test.statistic, test.pvalue] for test in each]).reshape(*shape, 2)
        # An indicator that does not move has no tau: no warning.
        return np.where(np.isfinite(both), both, [0.0, 1.0])

    autocorrelation, variance = tau(found.autocorrelation), tau(found.variance)
    return Trend(
        autocorrelation[..., 0], variance[..., 0], np.stack([autocorrelation[..., 1], variance[..., 1]], axis=-1)
    )


class Alarm(NamedTuple):
    """Warnings of several series.

    Attributes:
        tau: [N, 2] Kendall's tau of autocorrelation and variance.
        p: [N, 2] share of stationary runs, this one counted among them, with at least this tau.
        combined: [N] p-value of either indicator: twice the smaller one, at most 1.
    """

    tau: np.ndarray
    p: np.ndarray
    combined: np.ndarray


def _ranked(found: Trend, null: Trend) -> Alarm:
    def rank(tau: np.ndarray, among: np.ndarray) -> np.ndarray:
        return (1.0 + (among[None, :] >= tau[:, None]).sum(axis=1)) / (1.0 + len(among))

    p = np.stack([rank(found.autocorrelation, null.autocorrelation), rank(found.variance, null.variance)], axis=1)
    return Alarm(np.stack([found.autocorrelation, found.variance], axis=1), p, np.minimum(2.0 * p.min(axis=1), 1.0))


def warn(series: np.ndarray, stationary: np.ndarray, *, window: int, bandwidth: float | None = None) -> Alarm:
    """Ranks the trends of series among those of stationary runs of the same length.

    Args:
        series: [N, T].
        stationary: [M, T] runs of the same system at a constant lever; the smallest p-value is 1 / (M + 1).
        window: see `indicators`.
        bandwidth: see `indicators`.

    Raises:
        ValueError: series and stationary runs of different lengths, whose taus cannot be compared.
    """
    if series.shape[-1] != stationary.shape[-1]:
        raise ValueError(
            f"series of {series.shape[-1]} steps cannot be ranked among stationary runs of {stationary.shape[-1]}: "
            "run both for the same number of steps"
        )
    return _ranked(
        trend(series, window=window, bandwidth=bandwidth), trend(stationary, window=window, bandwidth=bandwidth)
    )


class FalsePositives(NamedTuple):
    """How often stationary runs raise a warning.

    Attributes:
        ranked: [3] for autocorrelation, variance, and either of them, with the other half of the runs as reference.
        naive: [2] with the textbook p-value of tau.
        runs: number of runs that were tried.
    """

    ranked: np.ndarray
    naive: np.ndarray
    runs: int


def false_positives(
    stationary: np.ndarray, *, window: int, bandwidth: float | None = None, level: float = 0.05
) -> FalsePositives:
    """Measures the false-positive rate of the warnings: the second half of the runs is ranked among the first.

    Args:
        stationary: [M, T] runs at a constant lever.
        window: see `indicators`.
        bandwidth: see `indicators`.
        level: at which a p-value warns.

    Raises:
        ValueError: too few runs for a p-value of `level` to occur.
    """
    half = len(stationary) // 2
    if 2.0 / (half + 1) > level:  # the smallest combined p-value
        raise ValueError(
            f"{len(stationary)} stationary runs cannot reach level {level:g}: make at least {4 / level:.0f}"
        )
    found = trend(stationary, window=window, bandwidth=bandwidth)
    null, tried = (Trend(*(leaf[part] for leaf in found)) for part in (slice(half), slice(half, None)))
    ranked = _ranked(tried, null)
    hits = np.concatenate([ranked.p, ranked.combined[:, None]], axis=1) <= level
    return FalsePositives(hits.mean(axis=0), (tried.naive <= level).mean(axis=0), len(ranked.p))
