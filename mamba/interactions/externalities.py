"""What one team's progress does to everybody else, from a Jacobian: externalities and conflicts of gradients.

Algorithm j improves its own metric along g_j = -grad_{theta_j} L_j, over its own levers. Per 1 % that it improves,

    X[m, j] = [dJ_m/dtheta_j . g_j / |J_m|] / [-dL_j/dtheta_j . g_j / |L_j|]     % change of objective m
    E[i, j] = [-dL_i/dtheta_j . g_j / |L_i|] / [-dL_j/dtheta_j . g_j / |L_j|]    % improvement of i; E[j, j] = 1

A direction that is estimated on the keys it is judged on looks better than it is: |mean grad|^2 > 0 even where the gradient
is nothing but noise. So every product of two gradients is averaged over pairs of *different* keys (a U-statistic), and an
algorithm whose own effect is not clearly positive (t below 3) has no row. Pure noise still passes that rule in 1 to 3 % of
cases with 8 keys or more, in 5 % with 6 and in 10 % with 4, whatever the number of levers.

References:
    Hoeffding 1948 (U-statistics); Quenouille 1956, Tukey 1958 (jackknife); Yu et al. 2020 (conflicting gradients).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats

from mamba.interactions.factorial import Estimate
from mamba.interactions.jacobian import Jacobian
from mamba.meta.players import Own

SURE = 3.0  # standard errors that an own effect, and a level that percent are taken of, must be away from 0


class Externalities(NamedTuple):
    """What follows when algorithm j improves its own metric by 1 %; NaN where a row is suppressed.

    Attributes:
        objective: [J, A] change of objective m, in % of its level.
        algorithm: [A, A] improvement of algorithm i's own metric, in % of its level; the diagonal is 1.
        direct: [J, A] part of `objective` that holds all carried state fixed; None without a direct Jacobian.
        mediated: [J, A] the rest, `objective` = `direct` + `mediated`.
        t: [A] own effect of each algorithm over its standard error.
        reasons: A texts, empty where the row stands.
    """

    objective: Estimate
    algorithm: Estimate
    direct: Estimate | None
    mediated: Estimate | None
    t: np.ndarray
    reasons: tuple[str, ...]


def externalities(
    jacobian: Jacobian, *, owner: np.ndarray, own: Own, confidence: float = 0.95, sure: float = SURE
) -> Externalities:
    """Externalities of A algorithms on J objectives and on each other.

    Args:
        jacobian: S keys, of the expected mode or audited on the sampled one.
        owner: [P] algorithm of each lever, see `vector.owner`.
        own: own metrics.
        confidence: of the intervals: Student t around the ratio with the delete-one-key jackknife's standard error, which
            includes the noise of directions and levels.
        sure: standard errors below which an own effect or a level counts as none.

    Raises:
        ValueError: fewer than three keys.
    """
    value, full = np.asarray(jacobian.value, np.float64), np.asarray(jacobian.full, np.float64)
    keys, n_outcomes, _ = full.shape
    if keys < 3:
        raise ValueError(f"externalities need at least 3 keys (a direction, what it does, an error), got {keys}")
    algorithms, n_objectives = len(own.row), n_outcomes - len(own.row)
    level, level_error = value.mean(axis=0), value.std(axis=0, ddof=1) / np.sqrt(keys)
    there = np.abs(level) > np.maximum(sure * level_error, 1e-9)

    t = np.full(algorithms, np.nan)
    parts = {"objective": full[:, :n_objectives], "algorithm": full[:, own.row] * -own.sign[:, None]}
    if jacobian.direct is not None:
        direct = np.asarray(jacobian.direct, np.float64)[:, :n_objectives]
        parts |= {"direct": direct, "mediated": parts["objective"] - direct}
    rows = {name: np.arange(n_objectives) if name != "algorithm" else own.row for name in parts}
    results = {name: np.full((5, slopes.shape[1], algorithms), np.nan) for name, slopes in parts.items()}
    reasons = []
    for j in range(algorithms):
        wish = -own.sign[j] * full[:, own.row[j]][:, owner == j]  # [S, P_j] improving direction of each key
        t[j] = _own_t(wish)
        reasons.append(_reason(wish, value[:, own.row[j]], t[j], there[own.row[j]], sure))
        if reasons[-1]:
            continue
        gain = _relative(_products(wish[:, None], wish), value[:, own.row[j], None])
        for name, slopes in parts.items():
            change = _relative(_products(slopes[:, :, owner == j], wish), value[:, rows[name]])
            with np.errstate(all="ignore"):
                entry = _jackknife(change / gain, confidence)
            entry = np.stack(entry)
            results[name][:, :, j] = np.where(there[rows[name]], entry, np.nan)
    made = {name: Estimate(*result) for name, result in results.items()}
    return Externalities(
        made["objective"], made["algorithm"], made.get("direct"), made.get("mediated"), t, tuple(reasons)
    )


class Conflict(NamedTuple):
    """Cosines between gradients of R outcomes, all [R, R]; NaN where a gradient vanishes.

    Attributes:
        cosine: of the means over keys; +1 one lever move serves both, -1 what helps one harms the other.
        low: lower end of the bootstrap interval.
        high: upper end.
    """

    cosine: np.ndarray
    low: np.ndarray
    high: np.ndarray


def conflict(
    slopes: np.ndarray,
    *,
    step: np.ndarray | None = None,
    sign: np.ndarray | None = None,
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Conflict:
    """Gradient-conflict matrix over the levers.

    Args:
        slopes: [S, R, P] gradients per key, such as the first J rows of `Jacobian.full`.
        step: [P] a natural step of each lever in unconstrained units; None takes 1. Without a common unit of levers
            an angle means nothing.
        sign: [R] +1 where more is better, such as `objectives.benefit_sign`; None leaves the gradients as they are.
        confidence: of the percentile bootstrap over keys.
        draws: bootstrap resamples.
        seed: of the resampling.
    """
    table = np.asarray(slopes, np.float64) * (1.0 if step is None else np.asarray(step, np.float64))
    if sign is not None:
        table = table * np.asarray(sign, np.float64)[:, None]
    keys = len(table)
    counts = np.random.default_rng(seed).multinomial(keys, np.full(keys, 1.0 / keys), size=draws)
    # Sums of one resample at a time: with thousands of levers all of them together would not fit.
    resampled = np.stack([_cosines(np.tensordot(count / keys, table, 1)) for count in counts])
    there = np.isfinite(cosine := _cosines(table.mean(axis=0)))
    low, high = np.nanquantile(np.where(there, resampled, 0.0), [0.5 - confidence / 2, 0.5 + confidence / 2], axis=0)
    return Conflict(cosine, np.where(there, low, np.nan), np.where(there, high, np.nan))


# ---- parts


def _products(slopes: np.ndarray, wish: np.ndarray) -> np.ndarray:
    """Mean of slopes_s . wish_r over pairs of different keys: of all keys, then with each key left out, [1 + S, R].

    Args:
        slopes: [S, R, P_j].
        wish: [S, P_j].
    """
    keys = len(wish)
    own = np.einsum("srp,sp->sr", slopes, wish)
    # row 0 leaves out nothing
    left = np.concatenate([np.zeros((1, keys)), np.eye(keys)])
    a = slopes.sum(axis=0) - np.einsum("ks,srp->krp", left, slopes)
    b = wish.sum(axis=0) - left @ wish
    count = keys - left.sum(axis=1)
    cross = np.einsum("krp,kp->kr", a, b) - (own.sum(axis=0) - left @ own)
    return cross / (count * (count - 1.0))[:, None]


def _relative(change: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Changes [1 + S, R] over the levels of the same keys; value [S, R]."""
    keys = len(value)
    total = value.sum(axis=0)
    level = np.concatenate([total[None] / keys, (total - value) / (keys - 1.0)])
    with np.errstate(all="ignore"):
        return change / np.abs(level)


def _jackknife(statistic: np.ndarray, confidence: float) -> Estimate:
    """Student t around the statistic of all keys (row 0), error from the delete-one statistics (the other rows)."""
    keys = len(statistic) - 1
    mean, left = statistic[0], statistic[1:]
    error = np.sqrt((keys - 1) / keys * ((left - left.mean(axis=0)) ** 2).sum(axis=0))
    reach = stats.t.ppf(0.5 + confidence / 2, keys - 1) * error
    sure = error == 0
    t = np.where(sure, 0.0, mean / np.where(sure, 1.0, error))
    p = np.where(sure, np.where(mean == 0, 1.0, 0.0), 2.0 * stats.t.sf(np.abs(t), keys - 1))
    return Estimate(mean, error, mean - reach, mean + reach, p)


def _own_t(wish: np.ndarray) -> float:
    """Own effect over its standard error: each key judged along the mean direction of the others."""
    keys = len(wish)
    others = (wish.sum(axis=0) - wish) / (keys - 1.0)
    effect = np.sum(wish * others, axis=1)
    mean, error = effect.mean(), effect.std(ddof=1) / np.sqrt(keys)
    if error == 0:
        return float(np.inf) if mean > 0 else 0.0
    return float(mean / error)


def _reason(wish: np.ndarray, value: np.ndarray, t: float, level_there: bool, sure: float) -> str:
    """Why an algorithm has no row; empty where it has one."""
    if wish.shape[1] == 0:
        return "it has no levers"
    if not value.any():
        return "it has no own metric: name an objective that its team is measured by"
    if not wish.any():
        return "its levers do not move its own metric"
    if not level_there:
        return f"the level of its own metric is not clearly different from 0 ({value.mean():.2g})"
    if not t >= sure:
        return f"its levers hardly move its own metric (t = {t:.1f}, at least {sure:g} is needed)"
    return ""


def _cosines(gradients: np.ndarray) -> np.ndarray:
    """Cosines [R, R] between the rows of [R, P]."""
    norm = np.linalg.norm(gradients, axis=1, keepdims=True)
    unit = np.where(norm > 0, gradients / np.where(norm > 0, norm, 1.0), np.nan)
    cosine = np.clip(unit @ unit.T, -1.0, 1.0)
    np.fill_diagonal(cosine, np.where(norm[:, 0] > 0, 1.0, np.nan))
    return cosine
