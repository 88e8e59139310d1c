"""The data shipped with the package: what there is, and how to load it by name.

Files lie in `data/`, next to their licences; `data/README.md` says where each comes from and what was changed.
"""

from __future__ import annotations

import difflib
import importlib.resources
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from mamba.datasets.base import Conversation, Dataset
from mamba.world.network import check_edges, symmetrise

_TWITCH = (
    "Twitch social network, collected by Benedek Rozemberczki, Carl Allen and Rik Sarkar (Multi-Scale Attributed Node "
    "Embedding, Journal of Complex Networks 9(2), 2021). Copyright (c) 2019 Benedek Rozemberczki, MIT licence."
)
_POLIS = (
    "Data was gathered using the Polis software (compdemocracy.org/polis) and is sub-licensed under CC BY 4.0 with "
    "Attribution to The Computational Democracy Project. The data and more information about how the data was "
    "collected can be found at https://github.com/compdemocracy/openData and https://compdemocracy.org/case-studies/."
)


class Entry(NamedTuple):
    """One line of the catalogue.

    Attributes:
      name: what `load` takes.
      title: one line for people.
      kind: `network` (loads as `Dataset`) or `conversation` (loads as `Conversation`).
      size: what it holds, in words.
      licence: SPDX identifier.
      source: where the data comes from.
      attribution: the credit that the licence asks for.
    """

    name: str
    title: str
    kind: Literal["network", "conversation"]
    size: str
    licence: str
    source: str
    attribution: str


_ENTRIES = (
    Entry(
        "twitch_engb",
        "Twitch streamers of England: friendships, games, mature label, views",
        "network",
        "7,126 users, 70,648 directed edges (35,324 friendships), 2,545 features",
        "MIT",
        "https://github.com/benedekrozemberczki/datasets",
        _TWITCH,
    ),
    Entry(
        "twitch_es",
        "Twitch streamers of Spain: friendships, games, mature label, views",
        "network",
        "4,648 users, 118,764 directed edges (59,382 friendships), 2,148 features",
        "MIT",
        "https://github.com/benedekrozemberczki/datasets",
        _TWITCH,
    ),
    Entry(
        "polis_vtaiwan_uberx",
        "Polis conversation of vTaiwan on regulating UberX: two clear opinion groups",
        "conversation",
        "1,921 voters, 197 statements, 49,997 votes",
        "CC-BY-4.0",
        "https://github.com/compdemocracy/openData",
        _POLIS,
    ),
    Entry(
        "polis_football_concussions",
        "Polis conversation on concussions in American football: a case with weak groups",
        "conversation",
        "1,487 voters, 298 statements, 14,924 votes",
        "CC-BY-4.0",
        "https://github.com/compdemocracy/openData",
        _POLIS,
    ),
)


def catalogue() -> tuple[Entry, ...]:
    """List the data sets that `load` knows."""
    return _ENTRIES


@overload
def load(name: Literal["twitch_engb", "twitch_es"]) -> Dataset: ...
@overload
def load(name: Literal["polis_vtaiwan_uberx", "polis_football_concussions"]) -> Conversation: ...
@overload
def load(name: str) -> Dataset | Conversation: ...


def load(name: str) -> Dataset | Conversation:
    """Load a shipped data set.

    Args:
      name: a name from `catalogue()`.

    Returns:
      A `Dataset` for a network, a `Conversation` for a conversation, in fresh arrays.

    Raises:
      ValueError: the name is not in the catalogue; the message names the nearest ones.
    """
    entry = next((entry for entry in _ENTRIES if entry.name == name), None)
    if entry is None:
        known = [entry.name for entry in _ENTRIES]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"no data set named {name!r}; {hint}known: {', '.join(known)}")
    arrays = _read(entry.name)
    about = {
        "name": entry.name,
        "title": entry.title,
        "source": entry.source,
        "licence": entry.licence,
        "attribution": entry.attribution,
    }
    return _network(arrays, about) if entry.kind == "network" else _conversation(arrays, about)


def _read(name: str) -> dict[str, NDArray[Any]]:
    """Read every array of a shipped file; works from a wheel and from a zip."""
    with (importlib.resources.files("mamba.datasets") / "data" / f"{name}.npz").open("rb") as file:
        with np.load(file, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}


def _network(arrays: Mapping[str, NDArray[Any]], about: Mapping[str, Any]) -> Dataset:
    n_users = int(arrays["n"])
    return Dataset(
        **about,
        n_users=n_users,
        edges=symmetrise(check_edges(arrays["edges"], n_users, name=about["name"])),
        mature=arrays["mature"].astype(bool),
        partner=arrays["partner"].astype(bool),
        days=arrays["days"],
        views=arrays["views"],
        features=arrays["user_feature"],
    )


def _conversation(arrays: Mapping[str, NDArray[Any]], about: Mapping[str, Any]) -> Conversation:
    return Conversation(
        **about,
        n_voters=int(arrays["n_users"]),
        n_statements=int(arrays["n_items"]),
        voter=arrays["voter"],
        statement=arrays["item"],
        vote=arrays["vote"],
        time_s=arrays["time_s"],
        voter_group=arrays["voter_group"],
        statement_author=arrays["item_author"],
        statement_moderated=arrays["item_moderated"],
        statement_time_s=arrays["item_time_s"],
    )
