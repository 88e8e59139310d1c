"""Follow networks on the host: checks, the padded followee table, generators and connected parts.

A follow graph is an array of directed edges `[E, 2]`, one row `(reader, source)`: the reader follows the source, so
posts travel from column 1 to column 0. The joint step never sees edges; it sees the padded reader-to-source table of
`followee_table`. Everything here is numpy and scipy, runs once before a rollout, and is reproducible from an integer
seed.

In-degree is the number of followers of a user, out-degree the number of users that the user follows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.sparse import csgraph

__all__ = [
    "adjacency",
    "check_edges",
    "configuration_model",
    "connected_part",
    "edge_list",
    "erdos_renyi",
    "followee_table",
    "in_degree",
    "largest_component",
    "out_degree",
    "preferential_attachment",
    "random_regular",
    "relabel",
    "stochastic_block_model",
    "switched",
    "symmetrise",
]

Edges = NDArray[np.int32]

_MOST_USERS = np.iinfo(np.int32).max


# --- checks -----------------------------------------------------------------------------------------------------------


def check_edges(
    edges: ArrayLike,
    n_users: int | None = None,
    *,
    drop_self_loops: bool = False,
    merge_duplicates: bool = True,
    allow_empty: bool = False,
    name: str = "edges",
) -> Edges:
    """Refuse a malformed edge array with one clear line, or return it sorted and without duplicates.

    Args:
      edges: directed edges `[E, 2]`, rows (reader, source), any integer dtype.
      n_users: number of users; ids must lie in [0, n_users). `None` accepts every id that fits int32.
      drop_self_loops: drop rows whose reader is its own source instead of refusing them.
      merge_duplicates: merge repeated rows; when false they are refused.
      allow_empty: accept a graph without edges.
      name: what to call the array in messages, e.g. a file name.

    Returns:
      Edges `[E', 2]` int32, sorted by (reader, source), without duplicates.

    Raises:
      ValueError: wrong shape, not integers, NaN, ids outside the range, self-loops, refused duplicates, or no edges.
    """
    array = _as_integer_rows(edges, name)
    if n_users is not None:
        _check_size(n_users, "n_users")
    below = array < 0
    if below.any():
        raise ValueError(f"{name}: {_offenders(array, below, 'negative id')}; ids count from 0")
    limit = _MOST_USERS if n_users is None else n_users
    above = array >= limit
    if above.any():
        if n_users is None:
            problem, remedy = (
                "id too large for int32",
                "relabel the users 0..n_users-1 (from_edges: compact_ids=True; command line: scenario.clean_edges=true)",
            )
        else:
            problem = f"id not below n_users = {n_users}"
            remedy = f"pass n_users={int(array.max()) + 1} or more, or relabel the users 0..n_users-1"
        raise ValueError(f"{name}: {_offenders(array, above, problem)}; {remedy}")
    loops = array[:, 0] == array[:, 1]
    if loops.any():
        if not drop_self_loops:
            raise ValueError(
                f"{name}: {_count(int(loops.sum()), 'self-loop')}, first in row {int(np.argmax(loops))} "
                f"(user {int(array[np.argmax(loops), 0])} follows itself); pass drop_self_loops=True "
                "(on the command line scenario.clean_edges=true) to drop them"
            )
        array = array[~loops]
    merged = _sorted_unique(array)
    if not merge_duplicates and len(merged) < len(array):
        raise ValueError(
            f"{name}: {_count(len(array) - len(merged), 'duplicate row')}; pass merge_duplicates=True to merge them"
        )
    if not len(merged) and not allow_empty:
        raise ValueError(
            f"{name}: the graph has no edges; give at least one (reader, source) row "
            "(check_edges and followee_table take allow_empty=True where users shall follow nobody)"
        )
    return merged


def _as_integer_rows(edges: ArrayLike, name: str) -> NDArray[Any]:
    """Array `[E, 2]` of an integer dtype, or one clear line."""
    try:
        array = np.asarray(edges)
    except ValueError:
        raise ValueError(f"{name}: rows of unequal length; every row must be (reader, source)") from None
    if array.size == 0 and (array.ndim == 1 or array.shape[1:] == (2,)):
        return np.zeros((0, 2), np.int64)  # an empty list has a float dtype and no columns, and nothing to refuse
    if array.ndim != 2 or array.shape[1] != 2:
        remedy = "transpose it" if array.ndim == 2 and array.shape[0] == 2 else "every row must be (reader, source)"
        raise ValueError(f"{name}: shape {array.shape} is not [E, 2]; {remedy}")
    if np.issubdtype(array.dtype, np.integer):
        return array
    if np.issubdtype(array.dtype, np.floating):
        for bad, problem, remedy in (
            (np.isnan(array), "NaN", "drop these rows"),
            (np.isinf(array), "infinite value", "drop these rows"),
            (array != np.round(array), "value that is not a whole number", "ids must be whole numbers from 0"),
        ):
            if bad.any():
                raise ValueError(f"{name}: {_offenders(array, bad, problem)}; {remedy}")
        raise ValueError(
            f"{name}: ids have dtype {array.dtype}, not an integer dtype; convert them with edges.astype(np.int64)"
        )
    raise ValueError(
        f"{name}: ids have dtype {array.dtype} (row 0 is {array[0].tolist()!r}), not an integer dtype; "
        "number the users 0..n_users-1, e.g. with np.unique(ids, return_inverse=True)"
    )


def _offenders(array: NDArray[Any], bad: NDArray[np.bool_], problem: str) -> str:
    """Say how many entries are bad, where the first stands, and the first few values."""
    rows = np.flatnonzero(bad.any(axis=1))
    values = list(dict.fromkeys(array[bad][:100].tolist()))[:3]
    shown = ", ".join(str(value) for value in values)
    return f"{_count(int(bad.sum()), problem)}, first in row {int(rows[0])} (e.g. {shown})"


def _count(number: int, what: str) -> str:
    """Write `1 self-loop`, or `3 x self-loop`."""
    return f"1 {what}" if number == 1 else f"{number} x {what}"


def _check_size(value: int, name: str, least: int = 1) -> None:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
        raise ValueError(f"{name} = {value!r} is not an integer; give a whole number of at least {least}")
    if not least <= value <= _MOST_USERS:
        raise ValueError(f"{name} = {value} is outside [{least}, {_MOST_USERS}]; give a whole number in that range")


def _sorted_unique(edges: NDArray[Any]) -> Edges:
    """Sort by (reader, source) and merge duplicates; ids must be non-negative and fit int32."""
    if not len(edges):
        return np.zeros((0, 2), np.int32)
    keys = _unique((edges[:, 0].astype(np.int64) << 32) | edges[:, 1].astype(np.int64))
    merged = np.empty((len(keys), 2), np.int32)
    merged[:, 0] = keys >> 32
    merged[:, 1] = keys & 0xFFFFFFFF
    return merged


def _unique(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sort and merge; several times faster than np.unique, which hashes first, and ten times than its axis=0."""
    keys = np.sort(keys)
    fresh = np.ones(len(keys), bool)
    fresh[1:] = keys[1:] != keys[:-1]
    return keys[fresh]


# --- tables and degrees -----------------------------------------------------------------------------------------------


def followee_table(
    edges: ArrayLike, n_users: int, max_followees: int, *, seed: int, allow_empty: bool = False
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Pad a follow graph into the reader-to-source table that the joint step gathers from.

    A reader with more than K followees keeps a uniform sample of K of them, without replacement. A feed draws slots
    uniformly, and a followee out of d is kept with probability K/d and then drawn with probability 1/K, so every
    followee is still drawn with probability 1/d: expected exposure is that of the full graph, and only its spread over
    rollouts with one fixed table is wider. Rows are sorted by source, padding last.

    Args:
      edges: directed edges `[E, 2]`, rows (reader, source); duplicates are merged.
      n_users: number of users U.
      max_followees: slots a reader, K.
      seed: seed of the sample of readers with more than K followees.
      allow_empty: accept a graph without edges, where the table is all padding.

    Returns:
      followees: source ids `[U, K]` int32; padding holds the reader's own id, so a gather stays in range.
      weights: `[U, K]` float32, 1 for a follow and 0 for padding.

    Raises:
      ValueError: bad sizes, or edges that `check_edges` refuses.
    """
    _check_size(n_users, "n_users")
    _check_size(max_followees, "max_followees")
    edges = check_edges(edges, n_users, allow_empty=allow_empty)
    readers = edges[:, 0].astype(np.int64)
    degree = np.bincount(readers, minlength=n_users)
    first = np.cumsum(degree) - degree
    crowded = np.flatnonzero(degree[readers] > max_followees)
    keep = np.ones(len(edges), bool)
    if len(crowded):
        rng = np.random.default_rng(seed)
        # A random low half of the key shuffles each reader's rows; the high half keeps the readers together and in
        # order.
        shuffled = np.argsort((readers[crowded] << 32) | rng.integers(0, 1 << 32, len(crowded)))
        crowded_degree = degree[degree > max_followees]
        rank = np.arange(len(crowded)) - np.repeat(np.cumsum(crowded_degree) - crowded_degree, crowded_degree)
        keep[crowded[shuffled[rank >= max_followees]]] = False
    kept_before = np.concatenate([[0], np.cumsum(keep)])
    rows = readers[keep]
    slots = np.arange(len(rows)) - kept_before[first[rows]]
    followees = np.repeat(np.arange(n_users, dtype=np.int32)[:, None], max_followees, axis=1)
    weights = np.zeros((n_users, max_followees), np.float32)
    followees[rows, slots] = edges[keep, 1]
    weights[rows, slots] = 1.0
    return followees, weights


def edge_list(followees: ArrayLike, weights: ArrayLike) -> Edges:
    """Return the follows in a followee table as edges, for analysis.

    Args:
      followees: source ids `[U, K]`.
      weights: follow weights `[U, K]`; a slot counts when its weight is above 0.

    Returns:
      Edges `[E, 2]` int32, sorted by (reader, source); two slots with the same source give one edge.

    Raises:
      ValueError: the two tables differ in shape.
    """
    table, weight = np.asarray(followees), np.asarray(weights)
    if table.ndim != 2 or table.shape != weight.shape:
        raise ValueError(f"followees {table.shape} and weights {weight.shape} must both be [U, K]; pass them as a pair")
    readers, slots = np.nonzero(weight > 0)
    return _sorted_unique(np.stack([readers, table[readers, slots]], axis=1))


def in_degree(edges: ArrayLike, n_users: int) -> NDArray[np.int64]:
    """Count the followers of each user, `[U]`, from edges `[E, 2]` (reader, source)."""
    return np.bincount(np.asarray(edges)[:, 1], minlength=n_users)


def out_degree(edges: ArrayLike, n_users: int) -> NDArray[np.int64]:
    """Count the followees of each user, `[U]`, from edges `[E, 2]` (reader, source)."""
    return np.bincount(np.asarray(edges)[:, 0], minlength=n_users)


def adjacency(edges: ArrayLike, n_users: int) -> sparse.csr_array:
    """Build the sparse matrix `[U, U]` with a one at (reader, source) for each of the edges `[E, 2]`."""
    pairs = np.asarray(edges)
    return sparse.csr_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n_users, n_users))


# --- generators -------------------------------------------------------------------------------------------------------


def erdos_renyi(n_users: int, mean_degree: float, *, seed: int, directed: bool = True) -> Edges:
    """Draw G(n, p) with p = mean_degree / (n - 1).

    Args:
      n_users: number of users, at least 2.
      mean_degree: expected followees a user, in [0, n - 1].
      seed: integer seed.
      directed: when false every friendship is drawn once and returned both ways; `mean_degree` then counts neighbours.

    Returns:
      Edges `[E, 2]` int32, sorted by (reader, source).

    Raises:
      ValueError: sizes outside their range.

    References:
      Erdős and Rényi 1959; Gilbert 1959.
    """
    _check_size(n_users, "n_users", 2)
    if not 0 <= mean_degree <= n_users - 1:
        raise ValueError(
            f"mean_degree = {mean_degree} is outside [0, n_users - 1 = {n_users - 1}]; give fewer followees"
        )
    rng = np.random.default_rng(seed)
    return _finish(_block_edges(n_users, mean_degree / (n_users - 1), rng, directed=directed), directed)


def stochastic_block_model(
    block_sizes: ArrayLike, probabilities: ArrayLike, *, seed: int, directed: bool = True
) -> Edges:
    """Draw a stochastic block model; users are numbered block by block.

    Args:
      block_sizes: users in each block, `[B]`.
      probabilities: `[B, B]`, the probability that a user of block i (reader) follows one of block j (source).
      seed: integer seed.
      directed: when false every friendship is drawn once and returned both ways; `probabilities` must be symmetric.

    Returns:
      Edges `[E, 2]` int32, sorted by (reader, source).

    Raises:
      ValueError: shapes disagree, a probability lies outside [0, 1], or an undirected model is not symmetric.

    References:
      Holland, Laskey and Leinhardt 1983.
    """
    sizes = _degrees(block_sizes, "block_sizes")
    matrix = np.asarray(probabilities, float)
    if matrix.shape != (len(sizes), len(sizes)):
        raise ValueError(f"probabilities has shape {matrix.shape}, not [B, B] = {(len(sizes),) * 2}; one row a block")
    if not np.all((matrix >= 0) & (matrix <= 1)):
        raise ValueError("probabilities has a value outside [0, 1] or NaN; give probabilities, not degrees")
    if not directed and not np.array_equal(matrix, matrix.T):
        raise ValueError("probabilities is not symmetric; make it so, or pass directed=True")
    rng = np.random.default_rng(seed)
    starts = np.cumsum(sizes) - sizes
    parts = []
    for i in range(len(sizes)):
        parts.append(starts[i] + _block_edges(int(sizes[i]), matrix[i, i], rng, directed=directed))
        for j in range(0 if directed else i + 1, len(sizes)):
            if i == j:
                continue
            possible = int(sizes[i] * sizes[j])
            cells = _distinct(rng.binomial(possible, matrix[i, j]), possible, rng)
            parts.append(np.stack([starts[i] + cells // sizes[j], starts[j] + cells % sizes[j]], axis=1))
    return _finish(np.concatenate(parts), directed)


def switched(edges: Edges, n_users: int, *, seed: int, rounds: int = 20) -> Edges:
    """Exchange the sources of pairs of edges until only the degrees are left of the graph.

    In every round the edges are paired at random, and (a, b), (c, d) become (a, d), (c, b) unless that would make a
    self-loop or a repeated edge. In- and out-degrees are kept exactly, also where a hub knows nearly everybody and the
    configuration model would lose most of its edges.

    Args:
      edges: `[E, 2]` int32, distinct, without self-loops.
      n_users: U.
      seed: integer seed.
      rounds: how often each edge is offered an exchange.

    Returns:
      Edges `[E, 2]` int32, sorted by (reader, source).

    References:
      Maslov and Sneppen 2002 (rewiring that preserves degrees).
    """
    rng = np.random.default_rng(seed)
    reader, source = np.asarray(edges, np.int64).T.copy()
    half = len(reader) // 2
    for _ in range(rounds):
        order = rng.permutation(len(reader))
        one, other = order[:half], order[half : 2 * half]
        new = np.stack([reader[one] * n_users + source[other], reader[other] * n_users + source[one]])
        taken = np.isin(new, reader * n_users + source)
        _, place, times = np.unique(new, return_inverse=True, return_counts=True)
        taken |= (times[place] > 1).reshape(new.shape)
        loops = (reader[one] == source[other]) | (reader[other] == source[one])
        go = ~(taken.any(axis=0) | loops)
        one, other = one[go], other[go]
        source[one], source[other] = source[other], source[one]
    rows = np.stack([reader, source], axis=1).astype(np.int32)
    return rows[np.lexsort((rows[:, 1], rows[:, 0]))]


def configuration_model(out_degrees: ArrayLike, in_degrees: ArrayLike, *, seed: int) -> Edges:
    """Draw a directed graph with given degrees by matching stubs; self-loops and repeats are erased.

    Erasing loses a few edges of the largest hubs: the realised degrees are at most the requested ones, and the share of
    edges lost vanishes with size when degrees have a finite second moment.

    Args:
      out_degrees: followees of each user, `[U]`.
      in_degrees: followers of each user, `[U]`, with the same sum.
      seed: integer seed.

    Returns:
      Edges `[E, 2]` int32, sorted by (reader, source).

    Raises:
      ValueError: lengths or sums differ, or a degree is negative or not an integer.

    References:
      Molloy and Reed 1995; Britton, Deijfen and Martin-Löf 2006 (erased model).
    """
    out, into = _degrees(out_degrees, "out_degrees"), _degrees(in_degrees, "in_degrees")
    if len(out) != len(into):
        raise ValueError(f"out_degrees has {len(out)} users and in_degrees {len(into)}; give one of each a user")
    if out.sum() != into.sum():
        raise ValueError(
            f"out_degrees sum to {out.sum()} and in_degrees to {into.sum()}; every follow has one reader and one "
            "source, so raise or lower some degrees until the sums agree"
        )
    rng = np.random.default_rng(seed)
    readers = np.repeat(np.arange(len(out)), out)
    sources = rng.permutation(np.repeat(np.arange(len(into)), into))
    edges = np.stack([readers, sources], axis=1)
    return _sorted_unique(edges[readers != sources])


def preferential_attachment(n_users: int, m: int, *, seed: int) -> Edges:
    """Grow a graph in which every newcomer follows m distinct earlier users, in proportion to their degree.

    It starts from a star in which users 1..m follow user 0. Degree counts both directions, so `symmetrise` of the
    result is the Barabási-Albert graph; in-degrees have a tail of exponent 3.

    Args:
      n_users: number of users, above m.
      m: followees of each newcomer, at least 1.
      seed: integer seed.

    Returns:
      Edges `[m (n - m), 2]` int32, sorted by (reader, source); a reader's id is above its sources'.

    Raises:
      ValueError: sizes outside their range.

    References:
      Barabási and Albert 1999.
    """
    _check_size(m, "m")
    _check_size(n_users, "n_users", m + 1)
    rng = np.random.default_rng(seed)
    # Every endpoint of every edge once: a uniform draw from this list is a draw in proportion to degree. The process is
    # sequential (each newcomer changes the law of the next), so this is the one loop over users in the file.
    endpoints = [0] * m + list(range(1, m + 1))
    sources = [0] * m
    uniforms: list[float] = []
    for newcomer in range(m + 1, n_users):
        chosen: dict[int, None] = {}
        size = len(endpoints)
        while len(chosen) < m:
            if not uniforms:
                uniforms = rng.random(1 << 16).tolist()
            chosen[endpoints[int(uniforms.pop() * size)]] = None
        sources.extend(chosen)
        endpoints.extend(chosen)
        endpoints.extend([newcomer] * m)
    readers = np.concatenate([np.arange(1, m + 1), np.repeat(np.arange(m + 1, n_users), m)])
    return _sorted_unique(np.stack([readers, np.asarray(sources)], axis=1))


def random_regular(n_users: int, k: int, *, seed: int) -> Edges:
    """Draw a graph in which every user has exactly k friends, both ways.

    Stubs are paired at random; pairs that are loops or repeats are repaired by swapping ends with random other pairs.
    The law is uniform up to a bias that vanishes as n grows for fixed k.

    Args:
      n_users: number of users, above k.
      k: friends of each user, at least 1; n * k must be even.
      seed: integer seed.

    Returns:
      Edges `[n k, 2]` int32, sorted by (reader, source), symmetric.

    Raises:
      ValueError: sizes outside their range, or n * k odd.

    References:
      Bollobás 1980; McKay and Wormald 1990 (switchings).
    """
    _check_size(k, "k")
    _check_size(n_users, "n_users", k + 1)
    if n_users * k % 2:
        raise ValueError(f"n_users * k = {n_users} * {k} is odd, so no such graph exists; make one of them even")
    if k == n_users - 1:
        return _finish(_block_edges(n_users, 1.0, np.random.default_rng(seed), directed=True), True)
    if k > n_users // 2:  # dense: repairs would rarely succeed, but the complement is sparse
        absent = random_regular(n_users, n_users - 1 - k, seed=seed).astype(np.int64)
        present = np.ones(n_users * n_users, bool)
        present[absent[:, 0] * n_users + absent[:, 1]] = False
        present[:: n_users + 1] = False
        cells = np.flatnonzero(present)
        return np.stack([cells // n_users, cells % n_users], axis=1).astype(np.int32)
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(np.repeat(np.arange(n_users), k)).reshape(-1, 2)
    bad = _bad_pairs(pairs)
    while len(bad):
        partners = rng.choice(len(pairs), size=len(bad), replace=False)
        # One swap at a time where swaps overlap would be lost in a vectorised assignment, so keep disjoint ones only.
        free = ~np.isin(partners, bad)
        if len(bad) == len(pairs):  # nothing sound to swap with: possible only in tiny graphs
            pairs = rng.permutation(pairs.ravel()).reshape(-1, 2)
        left, right = bad[free], partners[free]
        ends = rng.integers(0, 2, len(left))
        pairs[left, 1], pairs[right, ends] = pairs[right, ends].copy(), pairs[left, 1].copy()
        bad = _bad_pairs(pairs)
    return _finish(pairs, False)


def _bad_pairs(pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows that are self-loops or repeat an earlier undirected pair."""
    keys = (pairs.min(axis=1) << 32) | pairs.max(axis=1)
    bad = np.ones(len(keys), bool)
    bad[np.unique(keys, return_index=True)[1]] = False
    return np.flatnonzero(bad | (pairs[:, 0] == pairs[:, 1]))


def _finish(edges: NDArray[Any], directed: bool) -> Edges:
    return _sorted_unique(edges) if directed else symmetrise(edges)


def _degrees(values: ArrayLike, name: str) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1 or not len(array) or not np.issubdtype(array.dtype, np.integer) or (array < 0).any():
        raise ValueError(
            f"{name} must be a non-empty one-dimensional array of integers from 0; got {array.dtype} "
            f"of shape {array.shape}" + (f" with minimum {array.min()}" if array.size else "")
        )
    return array.astype(np.int64)


def _block_edges(size: int, probability: float, rng: np.random.Generator, *, directed: bool) -> NDArray[np.int64]:
    """Every ordered (or unordered) pair of `size` users independently with `probability`, without self-loops."""
    if directed:
        cells = _distinct(rng.binomial(size * (size - 1), probability), size * (size - 1), rng)
        readers, others = np.divmod(cells, max(size - 1, 1))
        return np.stack([readers, others + (others >= readers)], axis=1)
    total = size * (size - 1) // 2
    cells = _distinct(rng.binomial(total, probability), total, rng)
    high = ((1 + np.sqrt(1 + 8 * cells)) / 2).astype(np.int64)
    high -= high * (high - 1) // 2 > cells  # the root may round up across a row boundary
    high += (high + 1) * high // 2 <= cells
    return np.stack([high, cells - high * (high - 1) // 2], axis=1)


def _distinct(count: int, total: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw `count` distinct integers of [0, total) uniformly, in memory proportional to `count`."""
    if total <= 4 * count:
        return rng.permutation(total)[:count].astype(np.int64)
    drawn = np.zeros(0, np.int64)
    while len(drawn) < count:
        missing = count - len(drawn)
        drawn = _unique(np.concatenate([drawn, rng.integers(0, total, missing + missing // 8 + 8)]))
    # A uniform subset of a uniform set of distinct values is uniform, so dropping the surplus at random adds no bias.
    return rng.permutation(drawn)[:count]


# --- parts ------------------------------------------------------------------------------------------------------------


def symmetrise(edges: ArrayLike) -> Edges:
    """Make every follow mutual: edges `[E, 2]` and their reverses, sorted, without duplicates."""
    pairs = np.asarray(edges)
    return _sorted_unique(np.concatenate([pairs, pairs[:, ::-1]]))


def largest_component(edges: ArrayLike, n_users: int) -> NDArray[np.int64]:
    """Return the sorted ids `[U']` of the largest weakly connected component (the first of several as large)."""
    _, label = csgraph.connected_components(adjacency(edges, n_users), directed=True, connection="weak")
    return np.flatnonzero(label == np.argmax(np.bincount(label)))


def connected_part(edges: ArrayLike, n_users: int, size: int, *, seed: int) -> NDArray[np.int64]:
    """Choose a weakly connected part of the graph by breadth-first snowball.

    The snowball starts in the largest component, at a user drawn in proportion to degree, and takes whole layers of
    neighbours; of the last layer it takes a uniform sample that fills the part. Snowballs over-represent the
    surroundings of hubs, so degree laws of a small part differ from those of the graph.

    Args:
      edges: directed edges `[E, 2]`; direction is ignored.
      n_users: number of users U.
      size: users wanted; when the largest component is no larger, the whole component is returned.
      seed: integer seed of the start and of the last layer.

    Returns:
      Sorted user ids `[min(size, component)]` int64.

    Raises:
      ValueError: bad sizes, or edges that `check_edges` refuses.
    """
    _check_size(size, "size")
    pairs = check_edges(edges, n_users, drop_self_loops=True)
    component = largest_component(pairs, n_users)
    if size >= len(component):
        return component
    graph = adjacency(symmetrise(pairs), n_users)
    rng = np.random.default_rng(seed)
    degree = np.diff(graph.indptr)[component]
    frontier = rng.choice(component, size=1, p=degree / degree.sum())
    taken = np.zeros(n_users, bool)
    taken[frontier] = True
    found = 1
    while found < size:
        layer = np.unique(graph[frontier].indices)
        layer = layer[~taken[layer]]
        if found + len(layer) > size:
            layer = rng.permutation(layer)[: size - found]
        taken[layer] = True
        found += len(layer)
        frontier = layer
    return np.flatnonzero(taken)


def relabel(edges: ArrayLike, keep: ArrayLike) -> Edges:
    """Restrict edges to the users in `keep` and number those by their position in it.

    Args:
      edges: directed edges `[E, 2]`.
      keep: distinct user ids `[U']`; `keep[i]` becomes user i.

    Returns:
      Edges among the kept users `[E', 2]` int32, sorted by (reader, source); may be empty.

    Raises:
      ValueError: an id in `keep` is negative or repeated.
    """
    pairs, ids = np.asarray(edges), np.asarray(keep, np.int64)
    if (ids < 0).any() or len(np.unique(ids)) < len(ids):
        raise ValueError("keep holds a negative or a repeated user id; give distinct ids, e.g. np.unique(keep)")
    new = np.full(max(int(pairs.max(initial=0)), int(ids.max(initial=0))) + 1, -1, np.int64)
    new[ids] = np.arange(len(ids))
    mapped = new[pairs]
    return _sorted_unique(mapped[(mapped >= 0).all(axis=1)])
