"""How much of a derivative is second-order, and through whom it passes.

A platform's outcomes hang on its levers at once and through all that is carried from one step to the next: users, creators, what
algorithms learn. The derivative with everything passing is compared with *variants* that hold parts of it back, by shares of one
compiled derivative (`mamba.passing`):

    full         everything passes
    window/W     nothing passes into every W-th step; window/1 is the one-step view: today's world is taken as given
    stopped/b    nothing passes through block b, or through the blocks of a group

    second-order share of a variant v:   |g_full - g_v| / |g_full|
    first-order gain of lever p:         -1/2 (l_p(theta_0) + l_p(theta_1)) (theta_1 - theta_0)_p,   l the one-step derivative
    effect of lever p:                    1/2 (g_p(theta_0) + g_p(theta_1)) (theta_1 - theta_0)_p    (trapezoidal rule)

Gradients are means over few keys, so every squared length |g|^2 holds the squared length of its noise as well. That is taken out
(|mean|^2 - tr C / n is unbiased for |E g|^2), and intervals follow the noise of both sides.

References:
    Foerster et al. 2018 (differentiating through what others learn); Spearman 1904 (correlations between noisy measurements);
    Efron and Tibshirani 1993, chapter 6 (parametric resampling).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from mamba import passing
from mamba.meta import derivatives
from mamba.meta.systems import System
from mamba.meta.vector import NOBODY
from mamba.types import Array

WINDOWS = (50, 25, 10, 5, 1)
FULL, MYOPIC, LEARN, WORLD = "full", "window/1", "stopped/learn", "stopped/world"
CHUNK = 8  # derivatives that share one run
_DRAWS = 4000
_Kernel = Callable[[Any, Array, Array, Array, Array], tuple[Array, Array]]


class Variant(NamedTuple):
    """One way to hold derivatives back.

    Attributes:
        name: `full`, `window/W` or `stopped/<block or group>`.
        shares: [T, B] shares that pass into each step.
    """

    name: str
    shares: np.ndarray


def variants(
    blocks: Sequence[str],
    *,
    steps: int,
    windows: Sequence[int] = WINDOWS,
    groups: Mapping[str, Collection[str]] | None = None,
    among: Collection[str] | None = None,
) -> tuple[Variant, ...]:
    """Everything, windows shorter than the run, each block stopped, each group of several blocks stopped.

    Args:
        blocks: B names.
        steps: T.
        windows: in steps.
        groups: name -> blocks.
        among: blocks that a derivative can pass through at all, see `differentiable`; None takes all.

    Raises:
        ValueError: a group of a block that does not exist.
    """
    everything = np.ones(len(blocks), np.float32)
    live = [block for block in blocks if among is None or block in among]
    found = [Variant(FULL, passing.windows(everything, steps=steps, window=steps))]
    found += [
        Variant(f"window/{width}", passing.windows(everything, steps=steps, window=width))
        for width in windows
        if width < steps
    ]
    stops: dict[str, Collection[str]] = {}
    for group, members in (groups or {}).items():
        if unknown := sorted(set(members) - set(blocks)):
            raise ValueError(f"group '{group}': no block is called '{unknown[0]}'; known: {', '.join(blocks)}")
        if inside := [block for block in members if block in live]:
            stops[group] = inside
    stops |= {block: (block,) for block in live}
    for name, closed in stops.items():
        open_ = np.array([block not in closed for block in blocks], np.float32)
        found.append(Variant(f"stopped/{name}", np.broadcast_to(open_, (steps, len(blocks)))))
    return tuple(found)


def platform_groups(blocks: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Groups of a platform's blocks: all learners, all of the world."""
    learners = tuple(block for block in blocks if block.startswith(passing.LEARNER))
    return {"learn": learners, "world": tuple(block for block in blocks if block not in learners)}


def differentiable(system: System, context: Any, theta: Array) -> tuple[str, ...]:
    """Blocks that hold floating-point numbers: no derivative passes through others, such as an algorithm that learns nothing."""
    state = jax.eval_shape(system.begin, context, theta, jax.random.key(0))
    return tuple(
        block
        for block, part in zip(system.blocks, system.parts(state), strict=True)
        if any(jnp.issubdtype(leaf.dtype, jnp.inexact) and leaf.size for leaf in jax.tree.leaves(part))
    )


# ---- derivatives


def kernel(system: System, *, steps: int, segment: int | None = None) -> _Kernel:
    """Derivatives of N weighted sums of outcomes, each with shares of its own; one run is shared by all; callers jit.

    Args:
        system: what to differentiate.
        steps: T.
        segment: see `mamba.unroll.unroll`.

    Returns:
        `(context, theta [P], rows [N, J], shares [N, T, B], key) -> (outcomes [J], slopes [N, P])`.
    """
    # Values do not depend on shares, so that the run, and what is recomputed of it, is not repeated for every row.
    each = jax.vmap(derivatives.reverse(system, steps=steps, segment=segment), (None, None, 0, 0, None))

    def slopes(context: Any, theta: Array, rows: Array, shares: Array, key: Array) -> tuple[Array, Array]:
        values, found = each(context, theta, rows[:, None], shares, key[None])
        return values[0, 0], found[:, 0, 0]

    return slopes


class Tasks(NamedTuple):
    """Derivatives that are wanted.

    Attributes:
        rows: [N, J] weighted sums of outcomes.
        shares: [N, T, B].
    """

    rows: np.ndarray
    shares: np.ndarray


def tasks(rows: np.ndarray, chosen: Sequence[Variant]) -> Tasks:
    """Every variant for every row [R, J], variant slowest: N = V * R."""
    rows = np.asarray(rows, np.float32)
    return Tasks(
        np.tile(rows, (len(chosen), 1)), np.repeat(np.stack([variant.shares for variant in chosen]), len(rows), axis=0)
    )


def joined(*some: Tasks) -> Tasks:
    """Several tasks one after the other."""
    return Tasks(*(np.concatenate(parts) for parts in zip(*some, strict=True)))


def measured(
    run: _Kernel,
    context: Any,
    theta: np.ndarray,
    *,
    tasks: Tasks,
    keys: Array,
    chunk: int = CHUNK,
    heed: Callable[[], None] = lambda: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Runs a jitted `kernel`, some tasks and one key at a time.

    Args:
        run: jitted.
        context: see `System`.
        theta: [P].
        tasks: what is wanted.
        keys: S.
        chunk: derivatives that share one run.
        heed: called before each run; may raise.

    Returns:
        `(outcomes [S, J], slopes [S, N, P])`.
    """
    count = len(tasks.rows)
    # The last run is filled up with a task that is there already: another width would be another compilation.
    at = np.minimum(np.arange(-(-count // chunk) * chunk), count - 1).reshape(-1, chunk)
    point = jnp.asarray(theta, jnp.result_type(float))
    values, slopes = [], []
    for key in keys:
        parts = []
        for some in at:
            heed()
            value, part = run(context, point, jnp.asarray(tasks.rows[some]), jnp.asarray(tasks.shares[some]), key)
            parts.append(np.asarray(part, np.float64))
        values.append(np.asarray(value, np.float64))
        slopes.append(np.concatenate(parts)[:count])
    return np.stack(values), np.stack(slopes)


# ---- how close two gradients are


class Closeness(NamedTuple):
    """How close a gradient comes to a reference; NaN where noise leaves nothing to compare.

    Attributes:
        measured: cosine of the two means as they are; noise pulls it towards 0.
        ceiling: the cosine that the truth would show, on average, against a reference with this much noise.
        cosine: cosine with the noise of both taken out, in [-1, 1].
        cosine_low: lower end of its interval.
        cosine_high: upper end.
        error: |g - s| / |s| with the noise of both taken out.
        error_low: lower end of its interval.
        error_high: upper end.
    """

    measured: float
    ceiling: float
    cosine: float
    cosine_low: float
    cosine_high: float
    error: float
    error_low: float
    error_high: float


def closeness(
    found: np.ndarray, reference: np.ndarray, *, paired: bool, confidence: float = 0.95, seed: int = 0
) -> Closeness:
    """Compares two gradients that are known on several keys.

    Intervals are percentiles over redrawn means: each side's mean moves with its spread over keys, by a multivariate t with as many
    degrees of freedom as that spread has.

    Args:
        found: [K, P] one gradient a key.
        reference: [S, P]; with `paired` the same keys as `found`.
        paired: whether the two share their noise.
        confidence: of the intervals.
        seed: of the redrawn means.

    Raises:
        ValueError: fewer than two keys on a side, or pairs that do not match.
    """
    found, reference = np.asarray(found, np.float64), np.asarray(reference, np.float64)
    if min(len(found), len(reference)) < 2:
        raise ValueError(f"{min(len(found), len(reference))} key tells nothing of noise: take at least 2")
    if paired and found.shape != reference.shape:
        raise ValueError(f"pairs of {len(found)} and {len(reference)} keys do not match: use the same keys")
    if not (np.isfinite(found).all() and np.isfinite(reference).all()):
        return Closeness(*[np.nan] * 8)
    rng = np.random.default_rng(seed)
    if paired:
        both = np.concatenate([found, reference], axis=1)
        mean, drawn = _redrawn(both, rng)
        (f, r), (fs, rs) = np.split(mean, 2), np.split(drawn, 2, axis=1)
    else:
        (f, fs), (r, rs) = _redrawn(found, rng), _redrawn(reference, rng)
    noise_f, noise_r = _noise(found), _noise(reference)
    noise_d = _noise(found - reference) if paired else noise_f + noise_r
    # What keys share belongs to both sides: the noise of their product.
    noise_fr = (noise_f + noise_r - noise_d) / 2.0
    noises = np.array([noise_f, noise_r, noise_d, noise_fr])
    cosine, error = _corrected(f, r, noises)
    # Redrawn means hold the noise twice: their own, and that of the means they are drawn around.
    cosines, errors = _corrected(fs, rs, 2.0 * noises)
    ends = (0.5 - confidence / 2, 0.5 + confidence / 2)

    def interval(point: float, some: np.ndarray) -> tuple[float, float]:
        if not np.isfinite(point):
            return np.nan, np.nan
        low, high = (float(end) for end in np.quantile(some, ends, method="nearest"))
        return min(low, point), max(high, point)

    lengths = float(np.linalg.norm(f)), float(np.linalg.norm(r))
    raw = float(f @ r) / (lengths[0] * lengths[1]) if min(lengths) > 0 else np.nan
    ceiling = _ceiling(reference)
    # Of a draw in which a side is all noise nothing is known: its cosine may be anything, and its error has no upper end.
    unknown = np.isnan(cosines)
    low, _ = interval(float(cosine), np.where(unknown, -1.0, cosines))
    _, high = interval(float(cosine), np.where(unknown, 1.0, cosines))
    reach = interval(float(error), np.where(np.isnan(errors), np.inf, errors))
    return Closeness(raw, ceiling, float(cosine), low, high, float(error), *reach)


def _noise(samples: np.ndarray) -> float:
    """Expected squared length of the noise of a mean over keys, tr C / n."""
    return float(samples.var(axis=0, ddof=1).sum() / len(samples))


def _ceiling(samples: np.ndarray) -> float:
    """Cosine between the truth and a noisy mean of it: noise along the truth turns nothing, what lies across it does."""
    mean, noise = samples.mean(axis=0), _noise(samples)
    squared = float(mean @ mean) - noise
    if squared <= 0:
        return 0.0 if noise > 0 else np.nan
    along = float((samples @ mean).var(ddof=1) / (mean @ mean) / len(samples))
    return float(1.0 / np.sqrt(1.0 + max(noise - along, 0.0) / squared))


def _redrawn(samples: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Mean [M] over keys, and draws [N, M] of it that keep the covariance between entries."""
    count = len(samples)
    mean = samples.mean(axis=0)
    weights = rng.normal(size=(_DRAWS, count)) / np.sqrt(rng.chisquare(count - 1, (_DRAWS, 1)) / (count - 1))
    return mean, mean + weights @ (samples - mean) / np.sqrt(count * (count - 1))


def _corrected(f: np.ndarray, r: np.ndarray, noises: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and relative error of [..., P] and [..., P] with the noise of their lengths and of their product taken out."""
    ff, rr = np.sum(f * f, axis=-1) - noises[0], np.sum(r * r, axis=-1) - noises[1]
    apart, product = np.sum((f - r) ** 2, axis=-1) - noises[2], np.sum(f * r, axis=-1) - noises[3]
    with np.errstate(all="ignore"):
        cosine = np.where((ff > 0) & (rr > 0), np.clip(product / np.sqrt(ff * rr), -1.0, 1.0), np.nan)
        error = np.where(rr > 0, np.sqrt(np.maximum(apart, 0.0) / rr), np.nan)
    return cosine, error


# ---- levers


class Signs(NamedTuple):
    """Levers whose one-step derivative has the other sign.

    Attributes:
        p: [P] that both derivatives have the signs they show; 1 where the signs agree.
        flipped: [P] bool, discoveries among the levers (Benjamini and Hochberg 1995).
    """

    p: np.ndarray
    flipped: np.ndarray


def signs(full: np.ndarray, myopic: np.ndarray, *, level: float = 0.05) -> Signs:
    """Where two derivatives [S, P] surely have opposite signs: the weaker of both t tests decides (Berger 1982).

    Args:
        full: [S, P], S at least 2.
        myopic: [S, P].
        level: false discovery rate.
    """
    worst = np.zeros(full.shape[1])
    for each in (full, myopic):
        samples = np.asarray(each, np.float64)
        mean, error = samples.mean(axis=0), samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
        with np.errstate(all="ignore"):
            one = np.where(error > 0, 2.0 * stats.t.sf(np.abs(mean) / error, len(samples) - 1), mean == 0)
        worst = np.maximum(worst, np.nan_to_num(one, nan=1.0))
    opposite = np.asarray(full).mean(axis=0) * np.asarray(myopic).mean(axis=0) < 0
    p = np.where(opposite, worst, 1.0)
    return Signs(p, stats.false_discovery_control(p) <= level)


def trapezoid(before: np.ndarray, after: np.ndarray, move: np.ndarray) -> np.ndarray:
    """Change along a move of levers, one part a lever: 1/2 (before + after) * move, [..., P]."""
    return 0.5 * (np.asarray(before, np.float64) + np.asarray(after, np.float64)) * np.asarray(move, np.float64)


def shaping_gap(
    full: np.ndarray, held: np.ndarray, *, owner: np.ndarray, confidence: float = 0.95
) -> list[Closeness | None]:
    """What each team gets wrong of the gradient of its own metric with respect to its own levers when something is held.

    Args:
        full: [S, A, P] derivatives of each algorithm's own loss.
        held: [S, A, P] the same, with parts stopped.
        owner: [P] algorithm of each lever.
        confidence: of the intervals.

    Returns:
        One comparison an algorithm (its `error` is the gap); None for an algorithm without levers or with a derivative of 0.
    """
    found: list[Closeness | None] = []
    for index in range(full.shape[1]):
        mine = (owner == index) & (owner != NOBODY)
        whole, part = full[:, index, mine], held[:, index, mine]
        found.append(closeness(part, whole, paired=True, confidence=confidence) if whole.any() else None)
    return found
