"""Where the numbers of an interaction analysis come from, and what was not varied."""

from __future__ import annotations

from typing import Any

import numpy as np

from mamba.interactions.factorial import LOST
from mamba.runs.markup import Column, Html, count, join, number, table, tag
from mamba.runs.sections.analysed import Analysed
from mamba.runs.sections.pairs import BACKGROUNDS, INDEX_WORDS
from mamba.runs.sections.shared import View, followed


def alarm(of: Analysed) -> Html:
    """A notice where common random numbers gain less than they should."""
    if not of.analysis.lost:
        return Html("")
    gain = of.analysis.variance_ratio
    return tag(
        "p",
        tag("strong", "Common random numbers gain little here. "),
        f"A paired comparison is worth {number(float(np.nanmedian(gain)))} unpaired ones (median over objectives; below "
        f"{LOST:g} raises this alarm): a random draw may depend on what algorithms do. Intervals are honest but wide.",
        class_="notice unfinished",
        role="note",
    )


def gain_words(of: Analysed) -> str:
    """What common random numbers gain; empty where no ratio is finite."""
    gain = of.analysis.variance_ratio[np.isfinite(of.analysis.variance_ratio)]
    if not len(gain):
        return ""
    return f"{np.median(gain):.1f} (median over objectives; {gain.min():.1f} to {gain.max():.1f})"


def provenance(view: View, of: Analysed) -> Html:
    """Table of what the analysis was made with, and the list of what it held fixed."""
    seeds, rows = of.analysis.values.shape[:2]
    config, steps = of.config, view.run.config.get("steps")
    broken = int((~np.isfinite(of.analysis.values).all(axis=2)).sum())
    full = of.analysis.plan.kind == "full"
    windows = of.windows.shape[2] if of.windows.ndim == 4 else 0
    warm = config.warm_up > 0
    length = f"{count(steps, 'hour')}{' after the warm-up' if warm else ''}" if isinstance(steps, int) else "not known"
    warm_up = f"{count(config.warm_up, 'hour')} with every algorithm on, shared by all platforms of a seed"
    cold = "none: every platform starts cold, from the population as configured, and an algorithm that is frozen acts untrained"
    facts: list[list[Any]] = [
        [
            "Design",
            f"{'all' if full else 'a fraction of the'} on/off combinations of {count(len(of.names), 'algorithm')}: {rows:,} "
            f"platforms, {count(seeds, 'seed')} each, {seeds * rows:,} rollouts of the sampled model",
        ],
        ["Length", length],
        ["Warm-up", warm_up if warm else cold],
        ["Parts of the rollout", count(windows, "part") if windows else "not measured"],
        ["Common random numbers", f"a switch-off comparison gains a factor of {gain_words(of) or 'unknown size'}"],
        [
            "Tests",
            f"{of.tests:,} (pairs by objectives), {of.confirmed:,} confirmed at a false discovery rate of "
            f"{100 * config.false_discovery_rate:g} % (Benjamini and Hochberg 1995)",
        ],
        [
            "Resolution",
            f"interactions within ±{100 * config.resolution:g} % of the spread between platforms count as no interaction",
        ],
        ["Verdicts compare", BACKGROUNDS[config.background]],
        ["Heat map and waterfall", INDEX_WORDS[config.index] if full else "average interactions of the fraction"],
        ["Confidence", f"{100 * config.confidence:g} %, paired over seeds"],
        ["Pairs run off, frozen and learning", f"{len(of.learning_pairs)}"],
        ["Rollouts that ended in numbers that are not finite", f"{broken:,} of {seeds * rows:,}"],
    ]
    if of.digest:
        facts.append(["Digest of what decides the values", tag("code", of.digest)])
    fixed = [
        "Levers: all at the levels of the configuration, nothing between on and off"
        + ("; what training shifted is told apart, with the same combinations." if followed(view) else "."),
        "People: one network with one draw of people; seeds vary what happens to them.",
        "The world: its mechanisms and parameters.",
        "The warm-up: every platform starts where all algorithms had run; a platform that never had one of them may differ."
        if warm
        else "The start: there was no warm-up, so every platform starts cold; one whose algorithms have learned may differ.",
    ]
    if not full:
        fixed.append(
            "Combinations of three and more algorithms: a fraction does not tell them from pairs in every case."
        )
    lists = tag("ul", *[tag("li", text) for text in fixed])
    found = table("What the analysis was made with.", [Column("What"), Column("Value", wide=True)], [(None, facts)])
    return join(
        [
            tag("h3", "Where these numbers come from"),
            found,
            tag("p", tag("strong", "Not varied in this analysis:")),
            lists,
        ]
    )
