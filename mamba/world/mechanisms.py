"""Which mechanism plays each part: the names that a configuration may choose, and what they resolve to.

The literature's models are special cases. Friedkin-Johnsen on a graph, for instance, is `candidates: latest` (read
every tie's latest post), `posting: opinion` (post what you think), `scrolling: everything`, `choice: none` and
`opinion: averaging`; see `tests/world/test_special_cases.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from mamba.fields import setting
from mamba.world.candidates import CANDIDATES
from mamba.world.contagion import CONTAGION
from mamba.world.dynamics import ACTIVITY, CHURN, FATIGUE, OPINION, PREFERENCE, RESILIENCE, TRUST, WELLBEING
from mamba.world.posting import ADAPTATION
from mamba.world.response import CHOICE
from mamba.world.rewiring import REWIRING

TABLES = {
    "opinion": OPINION,
    "preference": PREFERENCE,
    "fatigue": FATIGUE,
    "wellbeing": WELLBEING,
    "trust": TRUST,
    "resilience": RESILIENCE,
    "activity": ACTIVITY,
    "churn": CHURN,
    "choice": CHOICE,
    "candidates": CANDIDATES,
    "posting": ADAPTATION,
    "contagion": CONTAGION,
    "rewiring": REWIRING,
    "scrolling": {"geometric": None, "everything": None},
}


def _named(part: str, default: str, help: str):
    return setting(default, help, choices=tuple(TABLES[part]))


@dataclass(frozen=True, kw_only=True)
class Mechanisms:
    """Names of the mechanisms; static, hence hashable."""

    opinion: str = _named("opinion", "repulsive", "how attended items move opinions")
    preference: str = _named("preference", "reinforced", "how clicks move interests")
    fatigue: str = _named("fatigue", "load", "how a session tires")
    wellbeing: str = _named("wellbeing", "setpoint", "how attention changes wellbeing")
    trust: str = _named("trust", "experience", "how trust in the platform moves")
    resilience: str = _named("resilience", "labels", "how users learn to resist misinformation")
    activity: str = _named("activity", "habit", "how the habit of coming back forms")
    churn: str = _named("churn", "replacement", "who leaves and who takes the slot")
    choice: str = _named("choice", "logit", "how examined items are chosen")
    candidates: str = _named("candidates", "sampled", "where in-network candidates come from")
    posting: str = _named("posting", "adaptive", "how creators decide what to post")
    contagion: str = _named("contagion", "outbox", "how reshares travel")
    rewiring: str = _named("rewiring", "homophily", "how ties change")
    scrolling: str = _named("scrolling", "geometric", "how deep users look: geometric scrolling, or everything")
