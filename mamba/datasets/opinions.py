"""Opinions: positions of real voters from their votes, and innate opinions of network users with the same law.

A conversation is a sparse vote matrix. Centred by statement, its truncated singular value decomposition gives each
voter a position on D factors. `assign_opinions` gives a network of any size opinions whose law on every topic is
exactly the empirical one, arranged so that neighbours agree: users are ranked by a Gaussian field that was smoothed
over the follow graph.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.sparse import linalg

from mamba.datasets.base import Conversation
from mamba.datasets.topics import neighbour_mean
from mamba.world.network import check_edges

LEAST_VOTES = 7
"""Votes on different statements that a voter needs to be placed; Polis uses the same number."""

_PROBES = 32


def opinions(
    conversation: Conversation, n_topics: int, *, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Place the voters of a conversation on its main axes of disagreement.

    Votes are +1, 0 and -1; the last vote of a (voter, statement) pair counts (the later row within a second), and an
    unseen statement counts as its mean vote, which is 0 once statements are centred. Voters with fewer than 7 votes are
    left out. Unseen statements pull the rest towards the middle, so that those who vote more would look more extreme;
    Polis' correction, a factor sqrt(statements / votes of the voter), takes part of that back. Each factor is then
    divided by its 99th percentile of absolute values and clipped. Factors come in order of explained variance; the sign
    of each, which votes do not determine, is that of its sum of cubes.

    Args:
      conversation: who voted what.
      n_topics: number of factors D, at least 1.
      seed: seed of the start vector of the decomposition, which does not change its result beyond rounding.

    Returns:
      positions: `[V', D]` float32 in [-1, 1], for the V' voters with at least 7 votes, in the order of their ids.
      groups: opinion group of each, `[V']` int8, -1 for none.

    Raises:
      ValueError: D is below 1 or not below the numbers of voters and statements.

    References:
      Small et al. 2021 (Polis: scaling deliberation by mapping high dimensional opinion spaces).
    """
    order = np.argsort(conversation.time_s, kind="stable")
    pair = conversation.voter[order].astype(np.int64) * conversation.n_statements + conversation.statement[order]
    last, backwards = np.unique(pair[::-1], return_index=True)
    vote = conversation.vote[order][::-1][backwards].astype(float)
    voter, statement = np.divmod(last, conversation.n_statements)
    seen = np.bincount(statement, minlength=conversation.n_statements)
    mean = np.bincount(statement, vote, conversation.n_statements) / np.maximum(seen, 1)
    votes = np.bincount(voter, minlength=conversation.n_voters)
    kept = np.flatnonzero(votes >= LEAST_VOTES)
    most = min(len(kept), conversation.n_statements) - 1
    if not 1 <= n_topics <= most:
        raise ValueError(
            f"{conversation.name}: n_topics = {n_topics} is outside [1, {most}] for {len(kept)} voters with at least "
            f"{LEAST_VOTES} votes and {conversation.n_statements} statements; ask for another number"
        )
    shape = (conversation.n_voters, conversation.n_statements)
    matrix = sparse.csr_array((vote - mean[statement], (voter, statement)), shape=shape)[kept]
    v0 = np.random.default_rng(seed).standard_normal(min(matrix.shape))
    left, strength, _ = linalg.svds(matrix, k=n_topics, v0=v0, solver="arpack")
    scores = (left * strength)[:, ::-1] * np.sqrt(conversation.n_statements / votes[kept])[:, None]
    scores = scores * np.where((scores**3).sum(axis=0) < 0, -1, 1)
    scale = np.maximum(np.quantile(np.abs(scores), 0.99, axis=0), 1e-12)
    return np.clip(scores / scale, -1, 1).astype(np.float32), conversation.voter_group[kept]


def assign_opinions(
    positions: ArrayLike, edges: ArrayLike, n_users: int, *, homophily: float, seed: int, rounds: int = 4
) -> NDArray[np.float32]:
    """Give network users innate opinions with the law of `positions`, arranged so that neighbours tend to agree.

    On each topic the values are the U mid-quantiles of the column, (i + 1/2) / U, so the law is matched exactly,
    whatever the graph and `homophily`. They are handed out by rank of the field

        sqrt(homophily) * smooth + sqrt(1 - homophily) * noise,

    where `noise` is white and `smooth` is white noise averaged `rounds` times, half with oneself and half with the mean
    of the neighbours, then divided by its standard deviation at each user. Without that division hubs, who average over
    many, would all be moderates. The correlation of opinions over edges rises with `homophily` from 0 to the graph's
    most. Topics are arranged independently of each other: only marginal laws are kept, not the dependence between
    topics.

    Args:
      positions: opinions to imitate, `[V, D]` in [-1, 1], e.g. from `opinions`.
      edges: directed follows `[E, 2]`, rows (reader, source); both directions count as neighbours.
      n_users: number of users U.
      homophily: 0 arranges at random, 1 by the smoothed field alone.
      seed: integer seed of the fields.
      rounds: how often the field is smoothed; more rounds give wider regions of agreement.

    Returns:
      Innate opinions `[U, D]` float32 within the range of `positions`.

    Raises:
      ValueError: positions are not a finite `[V, D]`, homophily lies outside [0, 1], rounds is below 1, or edges that
        `check_edges` refuses.
    """
    law = np.asarray(positions, float)
    if law.ndim != 2 or not law.size or not np.isfinite(law).all():
        raise ValueError(
            f"positions of shape {law.shape} must be a non-empty [V, D] of finite numbers; drop other rows"
        )
    if not 0 <= homophily <= 1:
        raise ValueError(f"homophily = {homophily} is outside [0, 1]; 0 is random, 1 follows the network alone")
    if rounds < 1:
        raise ValueError(f"rounds = {rounds}; give at least 1, and homophily=0 for no smoothing")
    graph = check_edges(edges, n_users, drop_self_loops=True, allow_empty=True)
    n_topics = law.shape[1]
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((n_users, n_topics))
    # The standard deviation at each user has no cheap closed form; extra fields estimate it to within about an eighth.
    fields = rng.standard_normal((n_users, n_topics + _PROBES), dtype=np.float32)
    step = neighbour_mean(graph, n_users).astype(np.float32)
    for _ in range(rounds):
        fields = (fields + step @ fields) / 2
    smooth = fields[:, :n_topics] / np.sqrt((fields[:, n_topics:] ** 2).mean(axis=1, keepdims=True))
    field = np.sqrt(homophily) * smooth + np.sqrt(1 - homophily) * noise
    levels = np.quantile(law, (np.arange(n_users) + 0.5) / n_users, axis=0)
    rank = np.argsort(np.argsort(field, axis=0, kind="stable"), axis=0)
    return np.take_along_axis(levels, rank, axis=0).astype(np.float32)
