"""Findings: what an analysis says, in sentences with intervals.

A sentence about algorithms is written only for what survived its test, with intervals that allow for its having been picked
(`statistics.selected`); the sentence about training tells what was asked for, whatever came of it. Sizes are given relative to the
level of the platform with every algorithm on, because a raw number of toxic impressions means little to a reader.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mamba.interactions import designs, verdicts
from mamba.interactions.factorial import Analysis
from mamba.interactions.settings import InteractionsConfig
from mamba.interactions.statistics import Estimate, contrast, discoveries, estimate, selected
from mamba.objectives import MODERATION, NAMES, NO_ZERO, OBJECTIVES

_LEVEL = 1e-6  # levels below this are nothing to be relative to
_SPREAD = 1e-9
_CLICKS = NAMES.index("engagement_per_user")


class Finding(NamedTuple):
    """One finding.

    Attributes:
        kind: `interaction`, `side_effect`, `externality`, `emergence`, `training`, `transfer` or `worlds`.
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
    places = 1 if max(map(abs, ends)) >= 1.0 else 3
    return f"{mean * scale:+.{places}f} % (95 % CI {ends[0]:+.{places}f} to {ends[1]:+.{places}f})"


def _relative(objective: str, level: float) -> bool:
    """Whether changes of an objective are told in per cent of a level."""
    return objective not in NO_ZERO and abs(level) > _LEVEL


def _sized(estimate: Estimate, index: tuple[int, ...], level: float, objective: str, confidence: float) -> str:
    """An effect with its interval, in % of a level where that means something; the sentence says once what it is of."""
    mean, low, high = (float(x[index]) for x in (estimate.mean, estimate.low, estimate.high))
    if _relative(objective, level):
        return _percent(mean, low, high, abs(level)).replace("95 %", f"{100 * confidence:g} %")
    return f"{mean:+.3g} {OBJECTIVES[objective].unit} ({100 * confidence:g} % CI {low:+.3g} to {high:+.3g})"


def _sign(objective: str) -> float:
    """+1 where more is healthier."""
    return 1.0 if OBJECTIVES[objective].better == "higher" else -1.0


def prominence(analysis: Analysis) -> np.ndarray:
    """How far to the front a pair belongs, [A, A, J]; 0 where nothing is confirmed or it is negligible.

    What has a definite verdict goes before what only interacts, and that before what is confirmed but of no resolved kind; among
    equals the larger interaction in spreads goes first.
    """
    scale = np.where(analysis.spread > _SPREAD, analysis.spread, np.inf)
    judged = analysis.confirmed & (analysis.verdicts.codes != verdicts.CODES["none"])
    size = np.abs(np.nan_to_num(analysis.verdicts.interaction.mean)) / scale
    known = np.select(
        [analysis.verdicts.codes == verdicts.CODES[name] for name in ("unresolved", "conditional")], [0, 1], 2
    )
    return np.where(judged & (size > 0), 1 + known + size / (1 + size), 0.0)


def pairs(
    analysis: Analysis, *, config: InteractionsConfig, learning: tuple[np.ndarray, np.ndarray] | None = None
) -> list[Finding]:
    """One sentence for each confirmed pair, on its most prominent objective; the most prominent pair first.

    Args:
        analysis: of a value table.
        config: what it was made with.
        learning: `(pairs [K, 2], values [K, S, 9, J])` of pairs that were run at the levels off, frozen and learning.
    """
    order = prominence(analysis)
    best = order.argmax(axis=-1)
    upper = zip(*np.triu_indices(len(analysis.names), 1), strict=True)
    told = [(int(i), int(j), int(best[i, j])) for j, i in upper if order[i, j, best[i, j]] > 0]
    told.sort(key=lambda at: -order[at])
    # Of all tests so many are told, each as the largest of its pair.
    wide = {
        "seeds": len(analysis.values),
        "chosen": len(told),
        "among": int(np.isfinite(analysis.verdicts.p).sum()) // 2,
        "confidence": config.confidence,
    }
    parts = {name: selected(getattr(analysis.verdicts, name), **wide) for name in ("alone", "given", "interaction")}
    run = (
        {}
        if learning is None
        else {tuple(pair): values for pair, values in zip(learning[0].tolist(), learning[1], strict=True)}
    )
    return [_pair(analysis, at, parts, run, config) for at in told]


def _pair(
    analysis: Analysis,
    at: tuple[int, int, int],
    parts: dict[str, Estimate],
    run: dict[tuple[int, int], np.ndarray],
    config: InteractionsConfig,
) -> Finding:
    """The sentence on one pair and objective; the first algorithm is the one that is on or off."""
    i, j, k = at
    if (j, i) in run:
        i, j = j, i
    others = "with all others on" if config.background == "in_context" else "averaged over the others"
    base = _base(analysis, k)
    a, b = analysis.names[i], analysis.names[j]

    def sized(of: Estimate, objective: int) -> str:
        better = _sign(NAMES[objective])
        mean, low, high = (better * float(x[i, j, objective]) for x in (of.mean, of.low, of.high))
        return _words(mean, *sorted((low, high)), objective=objective, analysis=analysis, confidence=config.confidence)

    sentence = (
        f"Having {a} on rather than off changes {OBJECTIVES[NAMES[k]].label} by {sized(parts['given'], k)} while {b} runs, and by "
        f"{sized(parts['alone'], k)} without {b} ({others}{base and ', in %' + base}). {_clause(analysis.verdicts.codes[i, j, k])}."
    )
    if config.background == "in_context" and (i, j) in run:
        sentence += _relearned(analysis, (i, j, k), run[i, j], tried=len(run), config=config)
    if k != _CLICKS:
        engagement = sized(parts["given"], _CLICKS) + _base(analysis, k, _CLICKS)
        sentence += f" While {b} runs, {a} changes engagement by {engagement}."
    better, found = _sign(NAMES[k]), parts["interaction"]
    mean, *ends = (better * float(x[i, j, k]) for x in (found.mean, found.low, found.high))
    return Finding("interaction", sentence, NAMES[k], mean, *sorted(ends))


def _words(mean: float, low: float, high: float, *, objective: int, analysis: Analysis, confidence: float) -> str:
    """A change with its interval, in % of the level with everything on where there is one."""
    one = Estimate(*(np.array([x]) for x in (mean, np.nan, low, high, np.nan)))
    return _sized(one, (0,), _level(analysis, objective), NAMES[objective], confidence)


def _level(analysis: Analysis, objective: int) -> float:
    """Mean with everything on."""
    return float(analysis.values[:, -1, objective].mean(dtype=np.float64))


def _base(analysis: Analysis, *objectives: int) -> str:
    """What the per cents of the last objective are of; empty where it has none, or those of one before it have said it."""
    *told, last = (_relative(NAMES[at], _level(analysis, at)) for at in objectives)
    return " of its level with everything on" if last and not any(told) else ""


def _clause(code: np.int8) -> str:
    """A verdict as a clause of its own."""
    if code == verdicts.CODES["unresolved"]:
        return "They interact; what kind of interaction it is, is not resolved at this number of seeds"
    words = verdicts.words(code)
    return words[0].upper() + words[1:] if words.startswith("the ") else f"They {words}"


def _relearned(
    analysis: Analysis, at: tuple[int, int, int], values: np.ndarray, *, tried: int, config: InteractionsConfig
) -> str:
    """What of the effect of i is lost or added because j re-learns; empty where that is not resolved.

    Args:
        analysis: of the value table.
        at: i, j and the number of the objective.
        values: [S, 9, J] of the pair.
        tried: pairs for which this was asked; intervals allow for that (Bonferroni).
        config: of the analysis.
    """
    _, j, k = at
    maps = designs.relearning()
    confidence = 1.0 - (1.0 - config.confidence) / max(tried, 1)
    change = estimate(contrast(maps.relearned[1], values[..., k]), confidence)
    frozen = float(contrast(maps.effect[1, designs.FROZEN], values[..., k]).mean())
    mean, low, high = (float(x) for x in (change.mean, change.low, change.high))
    if mean == 0 and low == high:  # it has nothing to learn
        return ""
    other, margin = analysis.names[j], float(analysis.verdicts.margin[k])
    size = _words(mean, low, high, objective=k, analysis=analysis, confidence=config.confidence)
    if low >= -margin and high <= margin:
        return f" Whether {other} learns or is frozen makes no difference at this resolution ({size})."
    if low > 0 or high < 0:
        if mean * frozen > 0:
            return f" Of the effect while {other} learns, {size} is added because it re-learns."
        if abs(mean) < abs(frozen):
            return f" While {other} is frozen the effect is larger: {size} of it is lost because {other} re-learns."
        return f" While {other} is frozen the effect has the other sign: {other}'s learning changes it by {size}."
    return ""


def strongest_side_effect(analysis: Analysis, *, confidence: float, false_discovery_rate: float) -> Finding | None:
    """The largest harm that switching one algorithm off would surely undo, None if there is none."""
    sign = np.array([_sign(name) for name in NAMES])
    found = discoveries(analysis.switch_off.p, false_discovery_rate)
    spread = np.where(analysis.spread > 1e-9, analysis.spread, np.inf)
    harm = -analysis.switch_off.mean * sign[None]
    # Engagement is the platform's own metric and false removals are moderation's own error: a side effect is elsewhere.
    other = np.array([not (name.startswith("engagement") or name in MODERATION) for name in NAMES])
    # One is told, the largest of all; an interval that allows for this and includes 0 shows no harm.
    effect = selected(analysis.switch_off, len(analysis.values), chosen=1, among=found.size, confidence=confidence)
    sure = found & (effect.low * effect.high > 0)
    size = np.where(sure & other[None] & (harm > 0), harm / spread, 0.0)
    if not size.any():
        return None
    i, k = (int(x) for x in np.unravel_index(int(np.argmax(size)), size.shape))
    name = NAMES[k]
    harmed = _sized(effect, (i, k), _level(analysis, k), name, confidence) + _base(analysis, k)
    engagement = _sized(effect, (i, _CLICKS), _level(analysis, _CLICKS), NAMES[_CLICKS], confidence)
    sentence = (
        f"With everything else running, {analysis.names[i]} changes {OBJECTIVES[name].label} by {harmed}, a harm, while it changes "
        f"engagement by {engagement}{_base(analysis, k, _CLICKS)}."
    )
    return Finding("side_effect", sentence, name, *(float(x[i, k]) for x in (effect.mean, effect.low, effect.high)))


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
    seeds: int,
    source: str,
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
        seeds: S keys behind the estimates.
        source: where the derivatives come from, put in brackets at the end.
        confidence: of the interval, which allows for its being the largest of all.
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
    among = int(np.isfinite(np.where(tested, effect.p, np.nan)).sum())
    wide = selected(effect, seeds, chosen=1, among=among, confidence=confidence)
    mean, low, high = (float(x[k, j]) for x in (wide.mean, wide.low, wide.high))
    sentence = (
        f"For each 1 % that {names[j]} improves {own[j]}, {OBJECTIVES[NAMES[k]].label} changes by {mean:+.2f} % "
        f"({100 * confidence:g} % CI {low:+.2f} to {high:+.2f}), a harm ({source})."
    )
    return Finding("externality", sentence, NAMES[k], mean, low, high)


def tipping_point(
    lever: str,
    *,
    values: np.ndarray,
    objectives: Sequence[str],
    up: np.ndarray,
    down: np.ndarray,
    flagged: np.ndarray,
    folds: Sequence[tuple[str, int, float, float]],
    resolution: float,
    confidence: float,
) -> Finding:
    """What a scan up and down showed: hysteresis, none at a resolution, or nothing that is resolved.

    Args:
        lever: what was scanned.
        values: [G] its values.
        objectives: names of the K objectives that were scanned.
        up: [S, G, K] values on the way up.
        down: [S, G, K] values on the way down.
        flagged: [G, K] hysteresis.
        folds: branch, number of the objective, and the bracket of each fold (NaN where it was not left).
        resolution: share of an objective's range within which a gap counts as none.
        confidence: of the intervals, which allow for all G K gaps (Bonferroni).
    """
    gap = estimate(up - down, 1.0 - (1.0 - confidence) / flagged.size)
    reach = np.concatenate([up, down], axis=1).mean(axis=0)
    spread = np.maximum(reach.max(axis=0) - reach.min(axis=0), 1e-12)
    size = np.abs(gap.mean) / spread * (flagged if flagged.any() else 1.0)
    g, k = (int(x) for x in np.unravel_index(int(np.argmax(size)), size.shape))
    span, label = f"between {values[0]:g} and {values[-1]:g}, up and down again", OBJECTIVES[objectives[k]].label
    mean, low, high = (float(x[g, k]) for x in (gap.mean, gap.low, gap.high))
    largest = f"at {values[g]:.3g} it differs by {mean:+.3g} ({100 * confidence:g} % CI {low:+.3g} to {high:+.3g})"
    if flagged.any():
        told = [
            f"on the way {branch} between {min(ends):.3g} and {max(ends):.3g}"
            for branch, at, *ends in folds
            if at == k and np.isfinite(ends).all()
        ]
        sentence = (
            f"Scanning {lever} {span}, {label} depends on the way it came: {largest}"
            + (f"; it tips {' and '.join(told)}" if told else "")
            + "."
        )
    elif np.all((gap.low >= -resolution * spread) & (gap.high <= resolution * spread)):
        sentence = (
            f"Scanning {lever} {span}, the platform goes back to where it was: no gap beyond {100 * resolution:g} % of the range "
            f"on any of {len(objectives)} objectives."
        )
    else:
        sentence = (
            f"Scanning {lever} {span}, resolved no hysteresis on any of {len(objectives)} objectives, and does not rule it out; "
            f"the largest gap is that of {label}: {largest}."
        )
    return Finding("emergence", sentence, objectives[k], mean, low, high)


def training(
    change: Estimate,
    baseline: np.ndarray,
    *,
    wanted: Mapping[str, float],
    kept: list[str],
    confidence: float,
    own: bool = False,
) -> Finding | None:
    """What meta-training changed on fresh seeds, None if nothing was minimised.

    Args:
        change: paired estimates [J], after minus before.
        baseline: [J] mean before.
        wanted: objective -> weight in the goal; a negative one was to rise.
        kept: names of the constrained objectives.
        confidence: of the intervals.
        own: whether every team trained for its own metric, so that nothing was wanted of these, nor kept.
    """
    minimised = [name for name, weight in wanted.items() if weight]
    if not minimised:
        return None

    def part(name: str) -> str:
        k = NAMES.index(name)
        return f"{OBJECTIVES[name].label} by {_sized(change, (k,), float(baseline[k]), name, confidence)}"

    def worse(name: str) -> float:
        k = NAMES.index(name)
        return float(np.sign(wanted[name]) * change.mean[k] / max(abs(baseline[k]), 1e-9))

    best = min(minimised, key=worse)
    order = [best, *[name for name in minimised if name != best]]
    how = "of every algorithm for its own metric" if own else "of all algorithms together"
    sentence = f"Training the levers {how} changed {', '.join(part(name) for name in order)}"
    if kept and not own:
        sentence += f"; it changed what it had to keep, {', '.join(part(name) for name in kept)}"
    price = _price(change, baseline, set(minimised) | set(kept))
    if price is not None:
        sentence += f"; the price was {part(price)}"
    k = NAMES.index(best)
    return Finding(
        "training", sentence + " (fresh seeds, sampled model).", best,
        *(float(x[k]) for x in (change.mean, change.low, change.high)),
    )  # fmt: skip


def transfer(
    share: Estimate, home: Estimate, *, where: str, confidence: float, broken: Mapping[str, float] | None = None
) -> Finding:
    """What the trained levers gain in another community, as a share of their gain at home.

    Args:
        share: scalar estimate, the gain there over that at home.
        home: scalar estimate, the gain at home, in relative changes.
        where: name of the community.
        confidence: of the intervals.
        broken: kept objectives that are beyond their limit there -> their change in per cent.
    """
    mean, low, high = (100.0 * float(x) for x in (share.mean, share.low, share.high))
    of_home = (
        f"{100 * float(home.mean):.1f} points of the goal ({100 * confidence:g} % CI {100 * float(home.low):.1f} to "
    )
    of_home += f"{100 * float(home.high):.1f})"
    if not np.isfinite(float(home.mean)):
        sentence = (
            f"What survives in {where} is not known: outcomes left the finite numbers where the levers were trained."
        )
        return Finding("transfer", sentence, "", float("nan"), float("nan"), float("nan"))
    if float(home.low) <= 0:
        sentence = f"Nothing that could survive in {where} was clearly gained where the levers were trained: {of_home}."
        return Finding("transfer", sentence, "", float("nan"), float("nan"), float("nan"))
    if np.isnan(mean):
        sentence = f"What survives in {where} is not known: outcomes left the finite numbers there."
        return Finding("transfer", sentence, "", float("nan"), float("nan"), float("nan"))
    sentence = (
        f"Without more training, the gain in {where} is {mean:.0f} % ({100 * confidence:g} % CI {low:.0f} to {high:.0f}) of that "
        f"where the levers were trained, {of_home} (fresh seeds, sampled model)."
    )
    if broken:
        parts = [f"{OBJECTIVES[name].label} ({change:+.1f} %)" for name, change in broken.items()]
        sentence += f" There they do not keep what they were told to keep: {', '.join(parts)}."
    return Finding("transfer", sentence, "", mean / 100.0, low / 100.0, high / 100.0)


def worlds(told: Mapping[str, Any], *, seeds: int, confidence: float) -> Finding:
    """What training changed in worlds that were sampled, on average and in the worst of them.

    Args:
        told: `mamba.runs.evaluation.over_worlds`.
        seeds: number of worlds.
        confidence: of the intervals.
    """

    def words(part: str) -> str:
        mean, low, high = (100.0 * told[part][end] for end in ("mean", "low", "high"))
        return f"{mean:+.1f} points ({100 * confidence:g} % CI {low:+.1f} to {high:+.1f})"

    if not np.isfinite(told["tail"]["mean"]):
        sentence = (
            f"In at least one of {seeds} sampled worlds that nothing was trained in, outcomes left the finite numbers."
        )
        return Finding("worlds", sentence, "", np.nan, np.nan, np.nan)
    sentence = (
        f"In {seeds} sampled worlds that nothing was trained in, the goal changed by {words('mean')} on average and by "
        f"{words('tail')} in the worst {100 * (1 - told['level']):.0f} % of them; less is better (sampled model)."
    )
    return Finding("worlds", sentence, "", *(told["tail"][end] for end in ("mean", "low", "high")))
