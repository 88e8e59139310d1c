"""`community_notes`: users attach a note to what raters of opposite camps hold for misleading.

Users who react to an item in the log rate the note "this is misleading": a report or negative feedback is a 1, a like a
0, and who is asked in a survey answers 1 - rating. The model of `mamba.algorithms.notes` gives the note an intercept i_n
that one camp alone, or a brigade, does not raise. The note is shown with weight

    shown = n / (n + 5) sigma((i_n - threshold) / width) sigma((age - delay) / 0.5),

n its ratings, `delay` the hours that writing and agreeing take. Once shown, reshares of the item are multiplied by
`reshares` (friction), and the score loses `demotion`: the default -ln 0.86 lowers views to the measured 86 %. Likes fell to
56 %, which no port can reach other than by views; a demotion of -ln 0.56 matches them instead.

Own loss: squared error of the ratings in this step's log, before learning.

References:
    Wojcik et al. 2022 (Birdwatch), for the scorer; Slaughter et al. 2025, for effects once shown (reshares -46 %, likes -44 %,
    views -14 %) and for how little is left of them after the delay.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax

from mamba.algorithms import notes
from mamba.algorithms.base import Algorithm, Rank, between, levers_from, positive, real
from mamba.fields import setting
from mamba.types import Array, Candidates, Learned, Log, View

_DELAY_WIDTH = 0.5  # softness of the delay, in steps


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of community notes."""

    threshold: float = setting(
        notes.HELPFUL,
        "helpfulness across camps (intercept of the ratings) above which a note is shown",
        unit="rating",
        gt=0,
        lt=1,
    )
    delay: float = setting(6.0, "age of an item before a note can be shown", unit="hours", gt=0)
    reshares: float = setting(0.54, "factor on reshares once a note is shown", unit="0 to 1", gt=0, lt=1)
    demotion: float = setting(0.15, "log-odds that an item with a note loses", unit="logits")
    width: float = setting(0.05, "softness of the threshold on helpfulness", unit="rating", gt=0, le=1)
    typical: float = setting(25.0, "ratings per note that the published penalties are meant for", unit="ratings", gt=0)
    memory: float = setting(0.995, "share of what is known of a rater that is kept", unit="per step", gt=0, le=1)


def ballots(log: Log) -> tuple[Array, Array]:
    """Ratings of "this is misleading" in a log, [C, B]: how many, and the sum of them; both linear in what was logged."""
    against = log.reported + log.actions["negative"]
    return against + log.actions["like"] + log.asked, against + log.asked - log.rating


def make(config: Config) -> Algorithm:
    """Builds the algorithm; levers `threshold`, `delay`, `reshares`, `demotion`."""
    bounds = {
        "threshold": between(0.0, 1.0, "rating"),
        "delay": positive("hours"),
        "reshares": between(0.0, 1.0, "factor"),
        "demotion": real("logits"),
    }

    def init(key: Array, view: View) -> Learned:
        return notes.start(view, key, typical=config.typical)

    def rank(levers: dict[str, Array], learned: Learned, view: View, candidates: Candidates, key: Array) -> Rank:
        del key
        count = notes.ratings(learned.note_precision, typical=config.typical)
        agreed = notes.helpful(learned.note, threshold=levers["threshold"], width=config.width)
        in_time = jax.nn.sigmoid((view.age - levers["delay"]) / _DELAY_WIDTH) * (view.age > 0)
        shown = (notes.soft_enough(count, notes.LEAST_OF_NOTE) * agreed * in_time)[candidates.ids]
        return Rank(score=-levers["demotion"] * shown, friction=1.0 - (1.0 - levers["reshares"]) * shown)

    def learn(levers: dict[str, Array], learned: Learned, view: View, log: Log, key: Array) -> tuple[Learned, Array]:
        del levers, key
        weight, signal = ballots(log)
        return notes.update(
            learned,
            users=log.candidates.users,
            items=log.candidates.ids,
            age=view.age,
            weight=weight,
            signal=signal,
            typical=config.typical,
            memory=config.memory,
        )

    levers = levers_from({name: getattr(config, name) for name in bounds}, bounds)
    return Algorithm("community_notes", levers, bounds, init, rank=rank, learn=learn)
