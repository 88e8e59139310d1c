"""Every kind: its name, what it is for, its configuration class and its constructor.

To add a kind, write one file with a `Config` dataclass and a `make(config) -> Algorithm` function and add one line here:
the conformance tests, the configuration, the help page and the interaction analysis pick it up from this table.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from mamba.algorithms.base import Algorithm
from mamba.algorithms.moderators import (
    accuracy_prompt,
    circuit_breaker,
    community_notes,
    community_rules,
    demotion,
    friction,
    labels,
    personal_filters,
    prebunking,
    rate_limit,
    removal,
    review_queue,
    rules,
    session_limit,
    strikes,
    trusted_flaggers,
)
from mamba.algorithms.recommenders import (
    advertising,
    bandit,
    bridging,
    chronological,
    constant,
    diversity,
    engagement,
    friend_suggestion,
    growth,
    matrix_factorisation,
    notification,
    popularity,
    sequence,
    stated_preference,
    two_tower,
)

Family = Literal["recommenders", "moderators"]


class Kind(NamedTuple):
    """One registered kind.

    Attributes:
        family: where a configuration lists it.
        config: frozen dataclass of its settings.
        make: constructor.
    """

    family: Family
    config: type[Any]
    make: Callable[[Any], Algorithm]


KINDS: dict[str, Kind] = {
    "constant": Kind("recommenders", constant.Config, constant.make),
    "chronological": Kind("recommenders", chronological.Config, chronological.make),
    "popularity": Kind("recommenders", popularity.Config, popularity.make),
    "engagement": Kind("recommenders", engagement.Config, engagement.make),
    "matrix_factorisation": Kind("recommenders", matrix_factorisation.Config, matrix_factorisation.make),
    "two_tower": Kind("recommenders", two_tower.Config, two_tower.make),
    "sequence": Kind("recommenders", sequence.Config, sequence.make),
    "bandit": Kind("recommenders", bandit.Config, bandit.make),
    "stated_preference": Kind("recommenders", stated_preference.Config, stated_preference.make),
    "bridging": Kind("recommenders", bridging.Config, bridging.make),
    "diversity": Kind("recommenders", diversity.Config, diversity.make),
    "friend_suggestion": Kind("recommenders", friend_suggestion.Config, friend_suggestion.make),
    "notification": Kind("recommenders", notification.Config, notification.make),
    "advertising": Kind("recommenders", advertising.Config, advertising.make),
    "growth": Kind("recommenders", growth.Config, growth.make),
    "rules": Kind("moderators", rules.Config, rules.make),
    "removal": Kind("moderators", removal.Config, removal.make),
    "demotion": Kind("moderators", demotion.Config, demotion.make),
    "review_queue": Kind("moderators", review_queue.Config, review_queue.make),
    "strikes": Kind("moderators", strikes.Config, strikes.make),
    "circuit_breaker": Kind("moderators", circuit_breaker.Config, circuit_breaker.make),
    "rate_limit": Kind("moderators", rate_limit.Config, rate_limit.make),
    "accuracy_prompt": Kind("moderators", accuracy_prompt.Config, accuracy_prompt.make),
    "prebunking": Kind("moderators", prebunking.Config, prebunking.make),
    "labels": Kind("moderators", labels.Config, labels.make),
    "friction": Kind("moderators", friction.Config, friction.make),
    "session_limit": Kind("moderators", session_limit.Config, session_limit.make),
    "community_notes": Kind("moderators", community_notes.Config, community_notes.make),
    "community_rules": Kind("moderators", community_rules.Config, community_rules.make),
    "trusted_flaggers": Kind("moderators", trusted_flaggers.Config, trusted_flaggers.make),
    "personal_filters": Kind("moderators", personal_filters.Config, personal_filters.make),
}


@functools.cache
def build(kind: str, config: Any) -> Algorithm:
    """The algorithm of a kind and its configuration; the same one for the same settings, see `mamba.algorithms.copies`."""
    return KINDS[kind].make(config)


def make(kind: str, **settings: Any) -> Algorithm:
    """Builds an algorithm by the name of its kind.

    Args:
        kind: a key of `KINDS`.
        **settings: fields of that kind's configuration; the rest keep their defaults.

    Raises:
        ValueError: unknown kind or setting; the message names the nearest known ones.
    """
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"no kind is called '{kind}'.{hint} Known: {', '.join(KINDS)}")
    entry = KINDS[kind]
    known = [field.name for field in dataclasses.fields(entry.config)]
    for name in settings:
        if name not in known:
            raise ValueError(f"kind '{kind}' has no setting '{name}'. Known: {', '.join(known)}")
    return build(kind, entry.config(**settings))
