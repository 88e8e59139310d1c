"""The section that says who interacts with whom; what it shows comes from the files beside it."""

from __future__ import annotations

import numpy as np

from mamba.objectives import NAMES
from mamba.runs.markup import Html, count, join, tag
from mamba.runs.sections import contributions, course, pairs, provenance, shifted
from mamba.runs.sections.analysed import Analysed
from mamba.runs.sections.shared import Figures, View


def interactions_section(view: View, drawn: Figures) -> Html:
    """Everything the interaction analysis of a run says; empty without one."""
    of = view.analysed
    if of is None:
        return Html("")
    shown = [each for each in view.objectives.values() if each.name in NAMES]
    if len(of.names) < 2 or not shown:
        return tag("p", "One algorithm alone has nobody to interact with.")
    return join(
        [
            _tested(of),
            provenance.alarm(of),
            pairs.in_words(view),
            tag("h3", "Pair by pair"),
            tag("div", pairs.matrices(view, of, shown, drawn), pairs.counts(of, shown), class_="columns wide-right"),
            pairs.verdict_table(view, of, shown),
            contributions.waterfalls(view, of, shown, drawn),
            course.over_time(view, of, shown, drawn),
            course.while_it_learns(view, of, shown, drawn),
            shifted.shifted(view, of, shown, drawn),
            contributions.separable(view, of, shown, drawn),
            contributions.switch_off(view, of, shown, drawn),
            provenance.provenance(view, of),
        ]
    )


def _tested(of: Analysed) -> Html:
    number_of_pairs = len(of.names) * (len(of.names) - 1) // 2
    objectives = of.analysis.values.shape[2]
    text = (
        f"{count(number_of_pairs, 'pair')} on {count(objectives, 'objective')} make {count(of.tests, 'test')}; "
        f"{of.confirmed} {'is' if of.confirmed == 1 else 'are'} confirmed at a false discovery rate of "
        f"{100 * of.config.false_discovery_rate:g} % (Benjamini and Hochberg)."
    )
    gain = of.analysis.variance_ratio[np.isfinite(of.analysis.variance_ratio)]
    if len(gain):
        text += (
            " Giving every combination the same random numbers made a switch-off comparison as precise as "
            f"{np.median(gain):.1f} times as many seeds would (median over objectives, {gain.min():.1f} to "
            f"{gain.max():.1f})."
        )
    broken = int((~np.isfinite(of.analysis.values).all(axis=2)).sum())
    if broken:
        ran = of.analysis.values[:, :, 0].size
        text += f" {count(broken, 'rollout')} of {ran:,} ended in numbers that are not finite."
    return tag("p", text)
