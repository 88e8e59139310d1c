"""Findings: what an analysis says, in sentences with intervals.

A sentence about algorithms is written only for what survived its test, with intervals that allow for its having been picked
(`statistics.selected`); the sentence about training tells what was asked for, whatever came of it. Sizes are given relative to the
level of the platform with every algorithm on, because a raw number of toxic impressions means little to a reader.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mamba.interactions import designs, verdicts
from mamba.interactions.factorial import Analysis
from mamba.interactions.settings import InteractionsConfig
from mamba.interactions.statistics import Estimate, contrast, discoveries, estimate, selected
from mamba.objectives import MODERATION, NAMES, NO_ZERO, OBJECTIVES

_LEVEL = 1e-6  # levels below this are nothing to be relative to
_SPREAD = 1e-9


class Finding(NamedTuple):
    """One finding.

    Attributes:
        kind: `interaction`, `side_effect`, `externality`, `emergence` or `training`.
        sentence: for people.
        objective: objective name.
        mean: effect in the objective's unit.
        low: lower end of the interval.
        high: upper end.
    """

    kind: str
    sentence: str
    objective: str
    mean: float
    low: float
    high: float


def _percent(mean: float, low: float, high: float, level: float) -> str:
    scale = 100.0 / level
    ends = sorted((low * scale, high * scale))
    return f"{mean * scale:+.1f} % (95 % CI {ends[0]:+.1f} to {ends[1]:+.1f})"


def _sized(estimate: Estimate, index: tuple[int, ...], level: float, unit: str, confidence: float) -> str:
    mean, low, high = (float(x[index]) for x in (estimate.mean, estimate.low, estimate.high))
    if abs(level) > _LEVEL:
        text = _percent(mean, low, high, abs(level))
        return text.replace("95 %", f"{100 * confidence:g} %") + " of its level with everything on"
    return f"{mean:+.3g} {unit} ({100 * confidence:g} % CI {low:+.3g} to {high:+.3g})"


def _sign(objective: str) -> float:
    """+1 where more is healthier."""
    return 1.0 if OBJECTIVES[objective].better == "higher" else -1.0


def pairs(
    analysis: Analysis, *, config: InteractionsConfig, learning: tuple[np.ndarray, np.ndarray] | None = None
) -> list[Finding]:
    """One sentence for each confirmed pair, on the objective where it is largest in spreads; the largest pair first.

    Args:
        analysis: of a value table.
        config: what it was made with.
        learning: `(pairs [K, 2], values [K, S, 9, J])` of pairs that were run at the levels off, frozen and learning.
    """
    found = []
    scale = np.where(analysis.spread > _SPREAD, analysis.spread, np.inf)
    judged = analysis.confirmed & (analysis.verdicts.codes != verdicts.CODES["none"])
    size = np.where(judged, np.abs(np.nan_to_num(analysis.verdicts.interaction.mean)) / scale, 0.0)
    seeds, algorithms = len(analysis.values), len(analysis.names)
    picked = {
        "seeds": seeds,
        "chosen": int(analysis.confirmed.sum()) // 2,
        "among": int(np.isfinite(analysis.verdicts.p).sum()) // 2,
        "confidence": config.confidence,
    }
    alone, given = (selected(each, **picked) for each in (analysis.verdicts.alone, analysis.verdicts.given))
    others = "with all others on" if config.background == "in_context" else "averaged over the others"
    for j in range(algorithms):
        for i in range(j + 1, algorithms):
            k = int(np.argmax(size[i, j]))
            if size[i, j, k] == 0:
                continue
            name = NAMES[k]
            better = _sign(name)
            level = float(analysis.values[:, -1, k].mean(dtype=np.float64))

            def sized(of: Estimate, at: tuple[int, int, int], better=better, level=level, name=name) -> str:
                ends = sorted((better * float(of.low[at]), better * float(of.high[at])))
                raw = Estimate(*(np.array([x]) for x in (better * float(of.mean[at]), np.nan, *ends, np.nan)))
                return _sized(raw, (0,), level, OBJECTIVES[name].unit, config.confidence).split(" of its")[0]

            a, b = analysis.names[i], analysis.names[j]
            sentence = (
                f"Turning on {a} while {b} runs changes {OBJECTIVES[name].label} by {sized(given, (i, j, k))}, and by "
                f"{sized(alone, (i, j, k))} without {b} ({others}). {_clause(analysis.verdicts.codes[i, j, k])}."
            )
            sentence += _relearned(analysis, (i, j, k), learning, config)
            clicks = NAMES.index("engagement_per_user")
            if k != clicks:
                change = _sign(NAMES[clicks]) * float(analysis.verdicts.given.mean[i, j, clicks])
                sentence += f" Engagement changes by {_alone(change, float(analysis.values[:, -1, clicks].mean()))}."
            interaction = analysis.verdicts.picked
            ends = sorted(better * float(x[i, j, k]) for x in (interaction.low, interaction.high))
            mean = better * float(interaction.mean[i, j, k])
            found.append((float(size[i, j, k]), Finding("interaction", sentence, name, mean, *ends)))
    return [finding for _, finding in sorted(found, key=lambda each: -each[0])]


def _clause(code: np.int8) -> str:
    """A verdict as a clause of its own."""
    words = verdicts.words(code)
    return words[0].upper() + words[1:] if words.startswith("the ") else f"They {words}"


def _relearned(
    analysis: Analysis,
    at: tuple[int, int, int],
    learning: tuple[np.ndarray, np.ndarray] | None,
    config: InteractionsConfig,
) -> str:
    """What of the effect of i is lost or added because j re-learns; empty where that was not measured or not resolved."""
    if learning is None:
        return ""
    i, j, k = at
    for pair, values in zip(*learning, strict=True):
        if tuple(pair.tolist()) != (i, j):
            continue
        maps = designs.relearning()
        change = estimate(contrast(maps.relearned[1], values[..., k]), config.confidence)
        frozen = estimate(contrast(maps.effect[1, designs.FROZEN], values[..., k]), config.confidence)
        other, margin = analysis.names[j], float(analysis.verdicts.margin[k])
        level = float(analysis.values[:, -1, k].mean(dtype=np.float64))
        size = _sized(
            Estimate(*(np.atleast_1d(x) for x in change)), (0,), level, OBJECTIVES[NAMES[k]].unit, config.confidence
        )
        size = size.split(" of its")[0]
        if change.mean == 0 and change.error == 0:  # it has nothing to learn
            return ""
        if change.low >= -margin and change.high <= margin:
            return f" Whether {other} learns or is frozen makes no difference at this resolution ({size})."
        if change.low > 0 or change.high < 0:
            lost = float(change.mean) * float(frozen.mean) < 0
            return f" Of this, {size} is {'lost' if lost else 'added'} because {other} re-learns."
    return ""


def strongest_side_effect(analysis: Analysis, *, confidence: float, false_discovery_rate: float) -> Finding | None:
    """The largest significant harm that switching one algorithm off would undo, None if there is none."""
    sign = np.array([_sign(name) for name in NAMES])
    found = discoveries(analysis.switch_off.p, false_discovery_rate)
    spread = np.where(analysis.spread > 1e-9, analysis.spread, np.inf)
    harm = -analysis.switch_off.mean * sign[None]
    # Engagement is the platform's own metric and false removals are moderation's own error: a side effect is elsewhere.
    other = np.array([not (name.startswith("engagement") or name in MODERATION) for name in NAMES])
    size = np.where(found & other[None] & (harm > 0), harm / spread, 0.0)
    if not size.any():
        return None
    i, k = (int(x) for x in np.unravel_index(int(np.argmax(size)), size.shape))
    name = NAMES[k]
    level = float(analysis.values[:, -1, k].mean())
    effect = selected(
        analysis.switch_off, len(analysis.values), chosen=int(found.sum()), among=found.size, confidence=confidence
    )
    clicks = NAMES.index("engagement_per_user")
    click_level = float(analysis.values[:, -1, clicks].mean())
    sentence = (
        f"With everything else running, {analysis.names[i]} changes {OBJECTIVES[name].label} by "
        f"{_sized(effect, (i, k), level, OBJECTIVES[name].unit, confidence)}, a harm, while it changes "
        f"engagement by {_sized(effect, (i, clicks), click_level, '', confidence).split(' of its')[0]}."
    )
    return Finding("side_effect", sentence, name, *(float(x[i, k]) for x in (effect.mean, effect.low, effect.high)))


def _alone(effect: float, level: float) -> str:
    return f"{100 * effect / abs(level):+.1f} %" if abs(level) > _LEVEL else f"{effect:+.3g}"


def _price(change: Estimate, baseline: np.ndarray, told: set[str]) -> str | None:
    """The objective outside the goal that got worse by most, relative to its level; None where none surely did."""
    worse = {}
    found = discoveries(change.p, 0.05)
    for k, name in enumerate(NAMES):
        sign = _sign(name)
        surely = found[k] and sign * change.mean[k] < 0
        if surely and name not in told and abs(baseline[k]) > _LEVEL:
            worse[name] = -sign * change.mean[k] / abs(baseline[k])
    return max(worse, key=lambda name: worse[name], default=None)


def externality(
    names: Sequence[str],
    effect: Estimate,
    *,
    own: Sequence[str],
    own_row: Sequence[int],
    confidence: float,
    false_discovery_rate: float,
) -> Finding | None:
    """The largest externality that surely harms, None if there is none.

    What a team is measured by is no externality of that team, and a per cent of wellbeing has no natural zero.

    Args:
        names: A algorithms.
        effect: [J, A] % change of each objective for 1 % that an algorithm improves its own metric; NaN is no test.
        own: A labels of those metrics.
        own_row: A numbers of the objectives that are those metrics; others stand for own losses.
        confidence: of the intervals.
        false_discovery_rate: Benjamini-Hochberg level.
    """
    tested = np.arange(len(NAMES))[:, None] != np.asarray(own_row)[None]
    found = discoveries(np.where(tested, effect.p, np.nan), false_discovery_rate)
    sign = np.array([_sign(name) for name in NAMES])[:, None]
    other = np.array([not (name.startswith("engagement") or name in (*MODERATION, *NO_ZERO)) for name in NAMES])[
        :, None
    ]
    size = np.where(found & other & (effect.mean * sign < 0), np.abs(effect.mean), 0.0)
    if not np.nan_to_num(size).any():
        return None
    k, j = (int(x) for x in np.unravel_index(int(np.nanargmax(size)), size.shape))
    mean, low, high = (float(x[k, j]) for x in (effect.mean, effect.low, effect.high))
    sentence = (
        f"For each 1 % that {names[j]} improves {own[j]}, {OBJECTIVES[NAMES[k]].label} changes by {mean:+.2f} % "
        f"({100 * confidence:g} % CI {low:+.2f} to {high:+.2f}), a harm (derivative of the expected mode at the default levers)."
    )
    return Finding("externality", sentence, NAMES[k], mean, low, high)


def tipping_point(
    lever: str,
    *,
    values: np.ndarray,
    objectives: Sequence[str],
    flagged: np.ndarray,
    gap: Estimate,
    folds: Sequence[tuple[str, int, float, float]],
) -> Finding:
    """What a scan up and down showed.

    Args:
        lever: what was scanned.
        values: [G] its values.
        objectives: names of the K objectives that were scanned.
        flagged: [G, K] hysteresis.
        gap: [G, K] up less down.
        folds: branch, number of the objective, and the bracket of each fold (NaN where it was not left).
    """
    span = f"between {values[0]:g} and {values[-1]:g}"
    size = np.where(flagged, np.abs(gap.mean), 0.0) if flagged.any() else np.abs(gap.mean)
    share = size / np.maximum(np.abs(gap.mean).max(axis=0), 1e-12)
    g, k = (int(x) for x in np.unravel_index(int(np.argmax(share)), share.shape))
    if not flagged.any():
        sentence = (
            f"Scanning {lever} {span}, up and down again, showed no hysteresis on any of {len(objectives)} objectives: the "
            "platform goes back to where it was."
        )
    else:
        told = [
            f"on the way {branch} between {min(low, high):.3g} and {max(low, high):.3g}"
            for branch, at, low, high in folds
            if at == k and np.isfinite(low + high)
        ]
        sentence = (
            f"Scanning {lever} {span}, {OBJECTIVES[objectives[k]].label} depends on the way it came: at {values[g]:.3g} it "
            f"differs by {float(gap.mean[g, k]):+.3g} between the way up and the way down"
            + (f"; it tips {' and '.join(told)}" if told else "")
            + "."
        )
    return Finding("emergence", sentence, objectives[k], *(float(x[g, k]) for x in (gap.mean, gap.low, gap.high)))


def training(
    change: Estimate, baseline: np.ndarray, *, minimised: list[str], kept: list[str], confidence: float
) -> Finding | None:
    """What meta-training changed on fresh seeds, None if nothing was minimised.

    Args:
        change: paired estimates [J], after minus before.
        baseline: [J] mean before.
        minimised: names of the objectives that were trained.
        kept: names of the constrained objectives.
        confidence: of the intervals.
    """
    if not minimised:
        return None

    def part(name: str) -> str:
        k = NAMES.index(name)
        text = _sized(change, (k,), float(baseline[k]), OBJECTIVES[name].unit, confidence)
        return f"{OBJECTIVES[name].label} by {text.split(' of its')[0]}"

    best = min(minimised, key=lambda name: change.mean[NAMES.index(name)] / max(abs(baseline[NAMES.index(name)]), 1e-9))
    order = [best, *[name for name in minimised if name != best]]
    sentence = f"Training the levers of all algorithms together changed {', '.join(part(name) for name in order)}"
    if kept:
        sentence += f"; it changed what it had to keep, {', '.join(part(name) for name in kept)}"
    price = _price(change, baseline, set(minimised) | set(kept))
    if price is not None:
        sentence += f"; the price was {part(price)}"
    k = NAMES.index(best)
    return Finding(
        "training", sentence + " (fresh seeds, sampled model).", best,
        *(float(x[k]) for x in (change.mean, change.low, change.high)),
    )  # fmt: skip
