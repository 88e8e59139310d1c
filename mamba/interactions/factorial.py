"""Interaction analysis: a value table of on/off platforms, and everything that follows from it.

Up to `FULL` algorithms every subset is run; beyond, a fractional design and the rows that tell what switching off today would
do (`designs`). All indices are linear maps of the table, applied within every seed, so that paired seeds give the errors:

    average     effects over all backgrounds of the other algorithms
    in context  effects while all others are on: what switching off today would undo
    index       Faith-Shap of order 2 (or another of `games`), which adds up from nobody to everybody
    windows     interactions in parts of the rollout: when two algorithms begin to work against each other

The verdict on a pair (`verdicts`) compares effects against one background, by default today's: everybody else on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from mamba import ecosystem as eco
from mamba import members as mem
from mamba.interactions import designs, games, verdicts
from mamba.interactions.settings import InteractionsConfig
from mamba.interactions.statistics import Estimate, contrast, discoveries, equivalent, estimate, variance_ratio
from mamba.objectives import benefit_sign
from mamba.types import Array, Levers

FULL = 8  # algorithms; 2^8 runs a seed
MOST = 16
INDICES = {
    "faith_shap": games.faith_shap,
    "shapley_interaction": games.shapley_interaction,
    "shapley_taylor": games.shapley_taylor,
}
LOST = 2.0  # a variance ratio below this says that common random numbers no longer gain what they should


class Plan(NamedTuple):
    """Which platforms are run, and how effects are read from them.

    Attributes:
        design: gates and learning switches of R rows; the last is everything on.
        kind: `full` or `fractional`.
        average: maps of average effects.
        context: maps of effects in context.
        table: rows [2^A] in bit order where every subset is run, else None.
        sampled: rows that stand for all platforms when their spread is measured.
    """

    design: designs.Design
    kind: str
    average: games.Index
    context: games.Index
    table: np.ndarray | None
    sampled: np.ndarray


def plan(n_algorithms: int) -> Plan:
    """The design for A algorithms: every subset up to `FULL` of them, a fraction and today's switch-offs up to `MOST`.

    Raises:
        ValueError: fewer than 1 or more than `MOST` algorithms.
    """
    if not 1 <= n_algorithms <= MOST:
        raise ValueError(f"an interaction analysis takes 1 to {MOST} algorithms, got {n_algorithms}; group algorithms")
    if n_algorithms <= FULL:
        design = designs.full(n_algorithms)
        rows = np.arange(len(design.gates))
        return Plan(design, "full", games.average(n_algorithms), games.in_context(n_algorithms), rows, rows)
    fraction, off = designs.fractional(n_algorithms), designs.switched_off(n_algorithms)
    size, more = len(fraction.gates), len(off.gates)
    order = [*range(size, size + more)[::-1]]  # everything on comes last
    design = designs.Design(
        np.concatenate([fraction.gates, off.gates[::-1]]),
        np.concatenate([fraction.learning, off.learning[::-1]]),
        "fractional",
    )
    main, pair = designs.averages(fraction.gates)
    today = designs.today(n_algorithms)

    def placed(weights: np.ndarray, at: Sequence[int]) -> np.ndarray:
        wide = np.zeros((*weights.shape[:-1], size + more))
        wide[..., at] = weights
        return wide

    return Plan(
        design,
        "fractional",
        games.Index(placed(main, range(size)), placed(pair, range(size))),
        games.Index(placed(today.main, order), placed(today.pair, order)),
        None,
        np.arange(size),
    )


def members(ecosystem: eco.Ecosystem, levers: Levers, keys: Array, *, design: designs.Design) -> mem.Members:
    """Members of a design: every row for every key.

    Args:
        ecosystem: static description, A algorithms.
        levers: the platform's levers.
        keys: [S] typed keys, each shared by all rows (common random numbers).
        design: R rows.

    Returns:
        `S * R` members, row fastest.
    """
    rows = len(design.gates)
    repeated = mem.repeat(ecosystem, levers, jnp.repeat(keys, rows))
    gates, learning = (jnp.tile(jnp.asarray(each), (len(keys), 1)) for each in (design.gates, design.learning))
    return repeated._replace(gates=gates, learning=learning)


class Windows(NamedTuple):
    """Effects in W consecutive parts of the rollout, against the background of the verdicts.

    Attributes:
        main: estimates [A, W, J].
        pair: estimates [A, A, W, J].
    """

    main: Estimate
    pair: Estimate


class Analysis(NamedTuple):
    """Interactions of A algorithms on J objectives.

    Attributes:
        names: A algorithm names.
        plan: which platforms were run.
        values: [S, R, J] of every seed and platform.
        main: average effects, estimates [A, J].
        pair: average interactions, estimates [A, A, J], symmetric, zero diagonal.
        switch_off: effects in context, estimates [A, J].
        context_pair: interactions in context, estimates [A, A, J].
        index_main: mains of the chosen index, estimates [A, J]; None without every subset.
        index_pair: pairs of the chosen index, estimates [A, A, J]; None without every subset.
        index_confirmed: [A, A, J] pairs of the shown index (`shown_pair`) that survive Benjamini-Hochberg; they need not be
            those of the verdicts, which are about one background.
        index_none: [A, A, J] pairs of the shown index whose interval lies within the margin.
        shapley: estimates [A, J]; None without every subset.
        anova: functional ANOVA corrected for noise; None without every subset or with fewer than three seeds.
        verdicts: what each pair does together, see `verdicts.judge`.
        windows: effects by window; None without windows.
        spread: [J] standard deviation of the mean table over platforms: the scale of what policy can change.
        variance_ratio: [J] what common random numbers gain in a switch-off comparison, median over algorithms.
    """

    names: tuple[str, ...]
    plan: Plan
    values: np.ndarray
    main: Estimate
    pair: Estimate
    switch_off: Estimate
    context_pair: Estimate
    index_main: Estimate | None
    index_pair: Estimate | None
    index_confirmed: np.ndarray
    index_none: np.ndarray
    shapley: Estimate | None
    anova: games.Variance | None
    verdicts: verdicts.Verdicts
    windows: Windows | None
    spread: np.ndarray
    variance_ratio: np.ndarray

    @property
    def confirmed(self) -> np.ndarray:
        """[A, A, J] pairs whose interaction survives Benjamini-Hochberg over all pairs and objectives."""
        return self.verdicts.confirmed

    @property
    def shown_main(self) -> Estimate:
        """Mains of the chosen index, of the average effects where it needs subsets that were not run."""
        return self.main if self.index_main is None else self.index_main

    @property
    def shown_pair(self) -> Estimate:
        """Pairs of the chosen index, of the average interactions where it needs subsets that were not run."""
        return self.pair if self.index_pair is None else self.index_pair

    @property
    def lost(self) -> bool:
        """Whether common random numbers gain less than they should: paired comparisons are then as noisy as unpaired."""
        known = self.variance_ratio[np.isfinite(self.variance_ratio)]
        return bool(len(known) and np.median(known) < LOST)


def better_signs() -> np.ndarray:
    """[J] float64, +1 where more is healthier, -1 where less is."""
    return np.asarray(benefit_sign(), np.float64)


def _negligible(shown: Estimate, margin: np.ndarray) -> np.ndarray:
    """[A, A, J] pairs of estimates whose interval lies within the margins [J]."""
    wide = margin * (1.0 - np.eye(shown.mean.shape[0]))[:, :, None]  # the diagonal is no pair
    return equivalent(shown, margin=wide) & (wide > 0)


def on_scale_of(found: Analysis, other: Analysis) -> Analysis:
    """An analysis with the spread of another, and with its margin for the shown index: so that their matrices have one unit."""
    none = _negligible(found.shown_pair, other.verdicts.margin)
    return found._replace(spread=other.spread, index_none=none)


def analyse(
    names: Sequence[str],
    values: np.ndarray,
    *,
    config: InteractionsConfig | None = None,
    windows: np.ndarray | None = None,
) -> Analysis:
    """Analyses a value table.

    Args:
        names: A algorithm names.
        values: [S, R, J], S at least 2 paired seeds, rows as in `plan(A).design`.
        config: confidence, false discovery rate, resolution, background and index; None takes the defaults.
        windows: [S, R, W, J] the same by window, None where it was not measured.

    Raises:
        ValueError: the table does not fit the names, or fewer than two seeds.
    """
    config = InteractionsConfig() if config is None else config
    made = plan(len(names))
    rows = len(made.design.gates)
    if values.ndim != 3 or values.shape[1] != rows:
        raise ValueError(f"a value table of {len(names)} algorithms has shape [S, {rows}, J], got {list(values.shape)}")
    if windows is not None and (windows.ndim != 4 or windows.shape[:2] != values.shape[:2]):
        raise ValueError(f"values by window have shape [S, {rows}, W, J], got {list(windows.shape)}")
    table = np.asarray(values, np.float64)

    def of(weights: np.ndarray, samples: np.ndarray = table) -> Estimate:
        return estimate(contrast(weights, samples), config.confidence)

    in_context = config.background == "in_context"
    base = made.context if in_context else made.average
    steps = games.steps(base.main, base.pair, share_on=1.0 if in_context else 0.5)
    spread = table[:, made.sampled].mean(axis=0).std(axis=0)
    judged = verdicts.judge(
        contrast(steps.alone, table),
        contrast(steps.both, table),
        better=better_signs(),
        spread=spread,
        confidence=config.confidence,
        false_discovery_rate=config.false_discovery_rate,
        resolution=config.resolution,
    )
    index = None if made.table is None else INDICES[config.index](len(names))
    average = of(made.average.pair)
    shown = average if index is None else of(index.pair)
    upper = np.triu(np.ones((len(names), len(names)), bool), 1)[:, :, None]
    found = discoveries(np.where(upper, shown.p, np.nan), config.false_discovery_rate)
    gain = variance_ratio(table, made.context.main)  # [A, J]
    known = np.asarray(np.isfinite(gain).any(axis=0))
    return Analysis(
        names=tuple(names),
        plan=made,
        values=values,
        main=of(made.average.main),
        pair=average,
        switch_off=of(made.context.main),
        context_pair=of(made.context.pair),
        index_main=None if index is None else of(index.main),
        index_pair=None if index is None else shown,
        index_confirmed=found | found.swapaxes(0, 1),
        index_none=_negligible(shown, judged.margin),
        shapley=None if index is None else of(games.shapley(len(names))),
        anova=games.anova_of_seeds(table, confidence=config.confidence)
        if index is not None and len(table) > 2
        else None,
        verdicts=judged,
        windows=None if windows is None else Windows(of(base.main, windows), of(base.pair, windows)),
        spread=spread,
        variance_ratio=np.array(
            [np.nanmedian(column) if there else np.nan for column, there in zip(gain.T, known, strict=True)]
        ),
    )


def indices(values: np.ndarray, *, confidence: float = 0.95) -> dict[str, Estimate]:
    """Every index of a full factorial, each with paired errors: one value table, many ways to split it.

    Args:
        values: [S, 2^A, ...], rows in bit order.
        confidence: of the intervals.

    Returns:
        `dividend` (Moebius, of every subset) [2^A, ...]; `shapley` [A, ...]; and for each of `in_context`, `average` (Banzhaf),
        `faith_shap`, `shapley_interaction` and `shapley_taylor` the estimates `<name>_main` [A, ...] and `<name>_pair`
        [A, A, ...].

    Raises:
        ValueError: the number of rows is not a power of two, or fewer than two seeds.
    """
    count = games.players(values.shape[1])

    def of(weights: np.ndarray) -> Estimate:
        return estimate(contrast(weights, values), confidence)

    found = {"dividend": of(games.moebius_map(count)), "shapley": of(games.shapley(count))}
    for name, index in {"in_context": games.in_context, "average": games.average, **INDICES}.items():
        made = index(count)
        found |= {f"{name}_main": of(made.main), f"{name}_pair": of(made.pair)}
    return found


def learning_pairs(analysis: Analysis, count: int, *, learns: Sequence[bool]) -> np.ndarray:
    """The strongest confirmed pairs, to be run again at the levels off, frozen and learning.

    Strength is the largest interaction on any objective, in spreads, that is confirmed and not negligible.

    Args:
        analysis: of the value table.
        count: most pairs wanted.
        learns: [A] whether an algorithm learns at all; a pair of two that do not has nothing to freeze.

    Returns:
        [K, 2] indices, K at most `count`; the second of a pair learns, the first is what is switched on while the second is
        off, frozen or learning: the later in the platform's order, where moderators follow recommenders, if both learn.
    """
    scale = np.where(analysis.spread > 0, analysis.spread, np.inf)
    judged = analysis.confirmed & (analysis.verdicts.codes != verdicts.CODES["none"])
    size = np.where(judged, np.abs(np.nan_to_num(analysis.verdicts.interaction.mean)) / scale, 0.0).max(axis=-1)
    pairs = []
    for i in range(len(analysis.names)):
        for j in range(i + 1, len(analysis.names)):
            if (learns[i] or learns[j]) and size[i, j] > 0:
                pairs.append((j, i) if learns[i] else (i, j))
    return np.array(sorted(pairs, key=lambda pair: -size[pair])[:count], int).reshape(-1, 2)
