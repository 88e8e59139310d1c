"""Every kind: its name, what it is for, its configuration class and its constructor.

To add a kind, write one file with a `Config` dataclass and a `make(config) -> Algorithm` function and add one line here:
the conformance tests, the configuration, the help page and the interaction analysis pick it up from this table.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from mamba.algorithms.base import Algorithm
from mamba.algorithms.moderators import demotion, removal
from mamba.algorithms.recommenders import chronological, engagement, notification, popularity, two_tower

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
    "chronological": Kind("recommenders", chronological.Config, chronological.make),
    "popularity": Kind("recommenders", popularity.Config, popularity.make),
    "engagement": Kind("recommenders", engagement.Config, engagement.make),
    "two_tower": Kind("recommenders", two_tower.Config, two_tower.make),
    "notification": Kind("recommenders", notification.Config, notification.make),
    "removal": Kind("moderators", removal.Config, removal.make),
    "demotion": Kind("moderators", demotion.Config, demotion.make),
}


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
    return entry.make(entry.config(**settings))
