"""What a data set is: a follow graph with its users' columns, or a conversation with its votes.

Both are plain records of numpy arrays on the host. Nothing here reads files; see `catalogue.py` and `edges.py`.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from mamba.world.network import connected_part, in_degree, relabel


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A follow graph and what is known about its users. Columns that the source does not have are `None`.

    Attributes:
      name: identifier, as in `load(name)`.
      title: one line for people.
      source: where the data comes from.
      licence: SPDX identifier, `NOASSERTION` when the user brought the data.
      attribution: the credit that the licence asks for; empty when none is known.
      n_users: number of users U.
      edges: directed follows `[E, 2]` int32, rows (reader, source), sorted, distinct, without self-loops; a friendship
        stands both ways.
      mature: whether the user declares content for adults, `[U]` bool.
      partner: whether the platform shares revenue with the user, `[U]` bool.
      days: age of the account, days, `[U]` float32.
      views: views of the user's channel, count, `[U]` float32.
      features: pairs (user, feature id), `[F, 2]` int32, e.g. games that a user plays and likes.
      original_ids: id of each user in the source or in the data set this one is a part of, `[U]` int64.
    """

    name: str
    title: str
    source: str
    licence: str
    attribution: str
    n_users: int
    edges: NDArray[np.int32]
    mature: NDArray[np.bool_] | None = None
    partner: NDArray[np.bool_] | None = None
    days: NDArray[np.float32] | None = None
    views: NDArray[np.float32] | None = None
    features: NDArray[np.int32] | None = None
    original_ids: NDArray[np.int64] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Conversation:
    """Votes of people on each other's statements in one Polis conversation.

    Attributes:
      name: identifier, as in `load(name)`.
      title: one line for people.
      source: where the data comes from.
      licence: SPDX identifier.
      attribution: the credit that the licence asks for.
      n_voters: number of voters V.
      n_statements: number of statements S.
      voter: who voted, `[N]` int32 in [0, V).
      statement: on what, `[N]` int32 in [0, S).
      vote: +1 agree, -1 disagree, 0 pass, `[N]` int8; the last vote of a (voter, statement) pair counts.
      time_s: seconds since the first event of the conversation, `[N]` int32.
      voter_group: opinion group that Polis assigned, `[V]` int8, -1 for none.
      statement_author: who wrote it, `[S]` int32 in [0, V).
      statement_moderated: 1 accepted, 0 not moderated, -1 moderated out, -9 unknown, `[S]` int8.
      statement_time_s: seconds since the first event, `[S]` int32.
    """

    name: str
    title: str
    source: str
    licence: str
    attribution: str
    n_voters: int
    n_statements: int
    voter: NDArray[np.int32]
    statement: NDArray[np.int32]
    vote: NDArray[np.int8]
    time_s: NDArray[np.int32]
    voter_group: NDArray[np.int8]
    statement_author: NDArray[np.int32]
    statement_moderated: NDArray[np.int8]
    statement_time_s: NDArray[np.int32]


def part(dataset: Dataset, size: int, *, seed: int) -> Dataset:
    """Restrict a data set to a connected part of its graph and renumber every column.

    Args:
      dataset: what to take a part of.
      size: users wanted; the whole largest component when it is no larger.
      seed: seed of the snowball, see `mamba.world.network.connected_part`.

    Returns:
      A data set of `min(size, component)` users; user i is `original_ids[i]` of the source. Feature ids stay the same.
    """
    keep = connected_part(dataset.edges, dataset.n_users, size, seed=seed)
    features = dataset.features
    if features is not None:
        new = np.full(dataset.n_users, -1, np.int32)
        new[keep] = np.arange(len(keep), dtype=np.int32)
        features = np.stack([new[features[:, 0]], features[:, 1]], axis=1)
        features = features[features[:, 0] >= 0]
    return dataclasses.replace(
        dataset,
        n_users=len(keep),
        edges=relabel(dataset.edges, keep),
        mature=None if dataset.mature is None else dataset.mature[keep],
        partner=None if dataset.partner is None else dataset.partner[keep],
        days=None if dataset.days is None else dataset.days[keep],
        views=None if dataset.views is None else dataset.views[keep],
        features=features,
        original_ids=keep if dataset.original_ids is None else dataset.original_ids[keep],
    )


def popularity(dataset: Dataset) -> NDArray[np.float32]:
    """Return how widely each user is watched, `[U]` float32 above 0: views, or followers + 1 where they are unknown."""
    if dataset.views is not None:
        return np.maximum(dataset.views, 1).astype(np.float32)
    return (in_degree(dataset.edges, dataset.n_users) + 1).astype(np.float32)
