"""Interests of users: from features where the data has them, from the follow graph where it has not.

With features, users are described by TF-IDF over their features, a truncated singular value decomposition gives D
scores, and a softmax of the standardised scores gives a point on the simplex,

    pi_ud = softmax_d(z_ud / temperature),   mean_u H(pi_u) / log D = 0.7,

where the temperature is solved by bisection so that a typical user cares about several topics but not about all alike.
A user without features is drawn from a Dirichlet law, averaged twice with the neighbours and sharpened to the same mean
entropy, so interests are homophilous either way.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import linalg

from mamba.datasets.base import Dataset
from mamba.world.network import adjacency, symmetrise

MEAN_ENTROPY = 0.7
"""Mean over users of the entropy of interests, as a share of log D."""


def topics(dataset: Dataset, n_topics: int, *, seed: int = 0) -> NDArray[np.float32]:
    """Give every user a mix of interests; the same mix says what the user, as a creator, is about.

    Args:
      dataset: users with or without features.
      n_topics: number of topics D, at least 1.
      seed: seed of the start vector of the decomposition (which does not change its result beyond rounding) and of the
        draw for users without features.

    Returns:
      Interests `[U, D]` float32, rows on the simplex.

    Raises:
      ValueError: D is below 1, or the features have fewer than D independent directions.

    References:
      Deerwester et al. 1990 (latent semantic analysis); McPherson et al. 2001 (homophily).
    """
    if n_topics < 1:
        raise ValueError(f"n_topics = {n_topics}; give at least 1")
    if n_topics == 1:
        return np.ones((dataset.n_users, 1), np.float32)
    rng = np.random.default_rng(seed)
    start = rng.standard_normal(dataset.n_users)
    interests = np.zeros((dataset.n_users, n_topics))
    known = np.zeros(dataset.n_users, bool)
    if dataset.features is not None and len(dataset.features):
        known[dataset.features[:, 0]] = True
        interests[known] = _from_features(dataset, known, n_topics, start)
    if not known.all():
        interests[~known] = _from_graph(dataset, interests, known, rng)
    interests = interests.astype(np.float32)
    return interests / interests.sum(axis=1, keepdims=True)


def _from_features(
    dataset: Dataset, known: NDArray[np.bool_], n_topics: int, start: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Interests of the users that have features, `[known, D]`."""
    assert dataset.features is not None
    users = np.cumsum(known)[dataset.features[:, 0]] - 1
    _, columns = np.unique(dataset.features[:, 1], return_inverse=True)
    counts = sparse.csr_array((np.ones(len(users)), (users, columns)), shape=(int(known.sum()), int(columns.max()) + 1))
    frequency = np.bincount(counts.indices, minlength=counts.shape[1])
    weighted = counts @ sparse.diags_array(np.log1p(counts.shape[0] / frequency))
    norm = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    matrix = sparse.csr_array(sparse.diags_array(1 / norm) @ weighted)
    if n_topics >= min(matrix.shape):  # the sparse solver needs D below both sides
        left, strength, _ = np.linalg.svd(matrix.toarray(), full_matrices=False)
        left, strength = left[:, :n_topics], strength[:n_topics]
    else:
        v0 = start[: min(matrix.shape)]
        left, strength, _ = linalg.svds(matrix, k=n_topics, v0=v0, solver="arpack")
        left, strength = left[:, ::-1], strength[::-1]
    independent = int((strength > 1e-8 * strength[0]).sum())
    if independent < n_topics:
        raise ValueError(
            f"{dataset.name}: the features of its {counts.shape[0]} users have {independent} independent directions, "
            f"fewer than n_topics = {n_topics}; ask for at most {independent} topics, or for a larger part of the data"
        )
    # A singular vector has no sign of its own; a topic points to its heavy tail, the few users who care most.
    centred = left - left.mean(axis=0)
    scores = centred * np.where((centred**3).sum(axis=0) < 0, -1, 1) / (centred.std(axis=0) + 1e-12)
    return _sharpened(lambda temperature: _softmax(scores / temperature))


def _from_graph(
    dataset: Dataset, interests: NDArray[np.float64], known: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Interests of the users without features, `[unknown, D]`: a Dirichlet draw averaged twice with the neighbours."""
    mixed = np.where(known[:, None], interests, rng.dirichlet(np.ones(interests.shape[1]), dataset.n_users))
    step = neighbour_mean(dataset.edges, dataset.n_users)
    for _ in range(2):
        mixed = np.where(known[:, None], interests, (mixed + step @ mixed) / 2)
    logits = np.log(mixed[~known] + 1e-12)
    return _sharpened(lambda temperature: _softmax(logits / temperature))


def neighbour_mean(edges: NDArray[np.int32], n_users: int) -> sparse.csr_array:
    """Build the matrix `[U, U]` that averages over neighbours, whoever follows whom; loners keep their own value."""
    graph = adjacency(symmetrise(edges), n_users)
    degree = np.diff(graph.indptr)
    alone = sparse.diags_array((degree == 0).astype(float))
    return sparse.csr_array(sparse.diags_array(1 / np.maximum(degree, 1)) @ graph + alone)


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def _sharpened(mix: Callable[[float], NDArray[np.float64]]) -> NDArray[np.float64]:
    """Evaluate `mix` at the temperature where the mean normalised entropy is `MEAN_ENTROPY`; entropy rises with it."""
    low, high = -7.0, 7.0  # log temperature
    for _ in range(40):
        middle = (low + high) / 2
        rows = mix(float(np.exp(middle)))
        entropy = -(rows * np.log(rows + 1e-300)).sum(axis=1).mean() / np.log(rows.shape[1])
        low, high = (middle, high) if entropy < MEAN_ENTROPY else (low, middle)
    return mix(float(np.exp((low + high) / 2)))
