"""The host side of the follow graph: what it refuses, what it keeps, and whether the generators have the right laws."""

import time

import numpy as np
import pytest
from scipy import stats

from mamba.world import network

EDGES = np.array([[0, 1], [0, 2], [0, 3], [2, 0], [3, 0], [3, 2]])


# --- check_edges ------------------------------------------------------------------------------------------------------


def test_check_sorts_merges_and_returns_int32():
    checked = network.check_edges([[2, 1], [0, 1], [2, 1], [2, 0]], 3)
    assert checked.dtype == np.int32
    np.testing.assert_array_equal(checked, [[0, 1], [2, 0], [2, 1]])


@pytest.mark.parametrize(
    ("edges", "options", "message"),
    [
        ([[0.0, 1.0]], {}, r"dtype float64, not an integer dtype; convert them with edges.astype\(np.int64\)"),
        ([[0, 1], [np.nan, 1], [np.nan, 2]], {}, r"2 x NaN, first in row 1 \(e.g. nan.*drop these rows"),
        ([[0, 1], [np.inf, 1]], {}, r"1 infinite value, first in row 1"),
        ([[0, 1], [2.5, 1]], {}, r"not a whole number, first in row 1 \(e.g. 2.5\)"),
        ([["ann", "bob"]], {}, r"row 0 is \['ann', 'bob'\].*np.unique"),
        ([[True, False]], {}, "dtype bool"),
        ([[0, 1], [1]], {}, "unequal length"),
        ([0, 1, 2], {}, r"shape \(3,\) is not \[E, 2\]"),
        ([[0, 1, 2], [1, 2, 3]], {}, r"shape \(2, 3\) is not \[E, 2\]; transpose it"),
        ([[0, 1], [1, -3], [-3, -4]], {}, r"3 x negative id, first in row 1 \(e.g. -3, -4\)"),
        (
            [[0, 1], [9, 7]],
            {"n_users": 5},
            r"2 x id not below n_users = 5, first in row 1 \(e.g. 9, 7\); pass n_users=10",
        ),
        ([[0, 2**40]], {}, "1 id too large for int32.*compact_ids=True"),
        ([[0, 1], [4, 4]], {}, r"1 self-loop, first in row 1 \(user 4 follows itself\); pass drop_self_loops=True"),
        ([[0, 1], [0, 1]], {"merge_duplicates": False}, "1 duplicate row; pass merge_duplicates=True"),
        (np.zeros((0, 2), int), {}, "no edges.*allow_empty=True"),
        ([], {}, "no edges"),
        ([[1, 1]], {"drop_self_loops": True}, "no edges"),
        ([[0, 1]], {"n_users": 0}, "n_users = 0 is outside"),
        ([[0, 1]], {"n_users": 2.0}, "n_users = 2.0 is not an integer"),
    ],
)
def test_check_refuses_in_one_line(edges, options, message):
    with pytest.raises(ValueError, match=message) as error:
        network.check_edges(edges, **options, name="my graph")
    assert "\n" not in str(error.value)


def test_check_names_the_array():
    with pytest.raises(ValueError, match=r"^my graph: "):
        network.check_edges([[-1, 0]], name="my graph")


def test_check_drops_self_loops_and_accepts_empty_on_request():
    np.testing.assert_array_equal(network.check_edges([[1, 1], [0, 1]], drop_self_loops=True), [[0, 1]])
    assert network.check_edges([], 3, allow_empty=True).shape == (0, 2)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint64])
def test_check_accepts_every_integer_dtype(dtype):
    np.testing.assert_array_equal(network.check_edges(EDGES.astype(dtype)), EDGES)


# --- table ------------------------------------------------------------------------------------------------------------


def test_table_pads_with_the_reader_and_round_trips():
    followees, weights = network.followee_table(EDGES[::-1], 5, 4, seed=0)
    np.testing.assert_array_equal(followees, [[1, 2, 3, 0], [1, 1, 1, 1], [0, 2, 2, 2], [0, 2, 3, 3], [4, 4, 4, 4]])
    np.testing.assert_array_equal(weights.sum(axis=1), [3, 0, 1, 2, 0])
    assert followees.dtype == np.int32 and weights.dtype == np.float32
    np.testing.assert_array_equal(network.edge_list(followees, weights), EDGES)


def test_table_samples_crowded_readers_without_replacement_and_without_bias():
    edges = np.array([[0, source] for source in range(1, 8)] + [[3, 0], [3, 5]])
    counts = np.zeros(8)
    draws = 4000
    for seed in range(draws):
        followees, weights = network.followee_table(edges, 8, 3, seed=seed)
        assert len(set(followees[0])) == 3 and weights[0].sum() == 3
        assert set(followees[3][weights[3] > 0]) == {0, 5}
        counts[followees[0]] += 1
    assert counts[0] == 0
    # Inclusion has variance p (1 - p) with p = 3/7, below the Poisson variance, so the usual chi-square is
    # conservative.
    assert stats.chisquare(counts[1:]).pvalue > 1e-3


def test_table_is_reproducible_and_depends_on_the_seed():
    edges = network.erdos_renyi(300, 20, seed=0)
    first, again, other = (network.followee_table(edges, 300, 8, seed=seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_table_keeps_only_follows_that_exist():
    edges = network.erdos_renyi(300, 20, seed=0)
    kept = network.edge_list(*network.followee_table(edges, 300, 8, seed=1))
    assert {tuple(row) for row in kept.tolist()} <= {tuple(row) for row in edges.tolist()}
    np.testing.assert_array_equal(network.out_degree(kept, 300), np.minimum(network.out_degree(edges, 300), 8))


def test_table_without_edges_is_padding_on_request():
    with pytest.raises(ValueError, match="no edges"):
        network.followee_table([], 3, 2, seed=0)
    followees, weights = network.followee_table([], 3, 2, seed=0, allow_empty=True)
    np.testing.assert_array_equal(followees, [[0, 0], [1, 1], [2, 2]])
    assert not weights.any()


@pytest.mark.parametrize(("users", "slots", "message"), [(0, 2, "n_users = 0"), (4, 0, "max_followees = 0")])
def test_table_refuses_bad_sizes(users, slots, message):
    with pytest.raises(ValueError, match=message):
        network.followee_table(EDGES, users, slots, seed=0)


def test_edge_list_ignores_zero_weights_and_merges_slots():
    edges = network.edge_list([[1, 1, 2], [0, 1, 2]], [[0.5, 1.0, 0.0], [0.1, 0.0, 1.0]])
    np.testing.assert_array_equal(edges, [[0, 1], [1, 0], [1, 2]])
    with pytest.raises(ValueError, match="must both be"):
        network.edge_list([[1, 1]], [[1.0]])


def test_degrees_count_followers_and_followees():
    np.testing.assert_array_equal(network.in_degree(EDGES, 5), [2, 1, 2, 1, 0])
    np.testing.assert_array_equal(network.out_degree(EDGES, 5), [3, 0, 1, 2, 0])


def test_large_table_is_quick():
    edges = network.erdos_renyi(100_000, 20, seed=0)
    started = time.perf_counter()
    followees, weights = network.followee_table(edges, 100_000, 16, seed=0)
    assert time.perf_counter() - started < 5  # about 0.4 s on an idle core; a loop over users takes far longer
    expected = np.minimum(network.out_degree(edges, 100_000), 16)
    np.testing.assert_array_equal(weights.sum(axis=1), expected)
    assert followees.min() >= 0 and followees.max() < 100_000


# --- generators -------------------------------------------------------------------------------------------------------

GENERATORS = {
    "erdos_renyi": lambda seed: (network.erdos_renyi(500, 6, seed=seed), 500),
    "erdos_renyi both ways": lambda seed: (network.erdos_renyi(500, 6, seed=seed, directed=False), 500),
    "configuration_model": lambda seed: (
        network.configuration_model(np.full(500, 6), np.repeat([2, 10], 250), seed=seed),
        500,
    ),
    "preferential_attachment": lambda seed: (network.preferential_attachment(500, 6, seed=seed), 500),
    "stochastic_block_model": lambda seed: (
        network.stochastic_block_model([300, 200], [[0.02, 0.001], [0.003, 0.03]], seed=seed),
        500,
    ),
    "random_regular": lambda seed: (network.random_regular(500, 6, seed=seed), 500),
}


@pytest.mark.parametrize("name", GENERATORS)
def test_generators_return_checked_edges_and_obey_the_seed(name):
    edges, n_users = GENERATORS[name](3)
    np.testing.assert_array_equal(network.check_edges(edges, n_users, merge_duplicates=False), edges)
    assert edges.dtype == np.int32
    np.testing.assert_array_equal(edges, GENERATORS[name](3)[0])
    assert not np.array_equal(edges, GENERATORS[name](4)[0])


@pytest.mark.parametrize("directed", [True, False])
def test_erdos_renyi_has_its_mean_and_variance(directed):
    degrees = network.out_degree(network.erdos_renyi(20_000, 8, seed=0, directed=directed), 20_000)
    assert abs(degrees.mean() - 8) < 0.1
    assert abs(degrees.var() / 8 - 1) < 0.05  # Poisson


def test_erdos_renyi_reaches_every_pair():
    total = np.zeros((6, 6))
    for seed in range(2000):
        edges = network.erdos_renyi(6, 2, seed=seed)
        total[edges[:, 0], edges[:, 1]] += 1
    off = total[~np.eye(6, dtype=bool)] / 2000
    assert np.trace(total) == 0
    assert np.abs(off - 0.4).max() < 4.5 * np.sqrt(0.24 / 2000)
    assert len(network.erdos_renyi(6, 5, seed=0)) == 30
    assert len(network.erdos_renyi(6, 5, seed=0, directed=False)) == 30
    assert len(network.erdos_renyi(6, 0, seed=0)) == 0


def test_undirected_pairs_decode_exactly():
    edges = network.erdos_renyi(400, 399, seed=0, directed=False)
    assert len(edges) == 400 * 399


def test_block_model_has_its_densities():
    matrix = np.array([[0.02, 0.001], [0.004, 0.03]])
    sizes = np.array([2000, 1000])
    edges = network.stochastic_block_model(sizes, matrix, seed=0)
    blocks = (edges >= 2000).astype(int)
    counts = np.zeros((2, 2))
    np.add.at(counts, (blocks[:, 0], blocks[:, 1]), 1)
    possible = np.outer(sizes, sizes) - np.diag(sizes)
    spread = np.sqrt(possible * matrix * (1 - matrix))
    assert (np.abs(counts - possible * matrix) < 4.5 * spread).all()


def test_undirected_block_model_is_symmetric():
    edges = network.stochastic_block_model([60, 40], [[0.2, 0.05], [0.05, 0.3]], seed=0, directed=False)
    np.testing.assert_array_equal(network.symmetrise(edges), edges)


def test_configuration_model_keeps_nearly_all_degrees():
    out, into = np.full(20_000, 10), np.repeat([5, 15], 10_000)
    edges = network.configuration_model(out, into, seed=0)
    realised = network.in_degree(edges, 20_000)
    assert (realised <= into).all() and (network.out_degree(edges, 20_000) <= out).all()
    assert len(edges) > 0.998 * out.sum()


def test_preferential_attachment_is_barabasi_albert():
    edges = network.preferential_attachment(20_000, 4, seed=0)
    assert len(edges) == 4 * (20_000 - 4)
    assert (edges[:, 0] > edges[:, 1]).all()
    degree = network.out_degree(network.symmetrise(edges), 20_000)
    # P(degree = k) = 2 m (m + 1) / (k (k + 1) (k + 2)): 1/3 and 4/21 of users at k = m and m + 1 for m = 4.
    assert abs((degree == 4).mean() - 1 / 3) < 0.015
    assert abs((degree == 5).mean() - 4 / 21) < 0.015
    assert degree.max() > 150


@pytest.mark.parametrize(
    ("n", "k"), [(2000, 4), (2000, 10), (20, 3), (10, 5), (10, 8), (10, 9), (4, 2), (3, 2), (2, 1)]
)
def test_random_regular_is_regular_and_mutual(n, k):
    edges = network.random_regular(n, k, seed=0)
    np.testing.assert_array_equal(network.check_edges(edges, n), edges)
    np.testing.assert_array_equal(network.symmetrise(edges), edges)
    np.testing.assert_array_equal(network.out_degree(edges, n), k)


def test_random_regular_is_close_to_uniform():
    # Six labelled vertices carry 70 cubic graphs: 10 bipartite K(3,3) and 60 prisms, told apart by triangles.
    prisms = 0
    for seed in range(600):
        matrix = network.adjacency(network.random_regular(6, 3, seed=seed), 6).toarray()
        prisms += np.trace(matrix @ matrix @ matrix) > 0
    assert 0.75 < prisms / 600 < 0.95


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: network.erdos_renyi(5, 5, seed=0), r"mean_degree = 5 is outside \[0, n_users - 1 = 4\]"),
        (lambda: network.erdos_renyi(5, float("nan"), seed=0), "mean_degree = nan"),
        (lambda: network.erdos_renyi(1, 0, seed=0), "n_users = 1"),
        (lambda: network.configuration_model([1, 1], [1, 2], seed=0), "sum to 2 and in_degrees to 3"),
        (lambda: network.configuration_model([1, 1], [2], seed=0), "2 users and in_degrees 1"),
        (lambda: network.configuration_model([1.5], [1], seed=0), "out_degrees must be"),
        (lambda: network.configuration_model([1], [-1], seed=0), "in_degrees must be.*minimum -1"),
        (lambda: network.preferential_attachment(5, 5, seed=0), "n_users = 5 is outside"),
        (lambda: network.stochastic_block_model([3, 3], [[0.1]], seed=0), r"shape \(1, 1\), not \[B, B\]"),
        (lambda: network.stochastic_block_model([3], [[1.1]], seed=0), r"outside \[0, 1\]"),
        (
            lambda: network.stochastic_block_model([3, 3], [[0, 0.1], [0.2, 0]], seed=0, directed=False),
            "not symmetric",
        ),
        (lambda: network.random_regular(5, 3, seed=0), "5 . 3 is odd"),
        (lambda: network.random_regular(5, 6, seed=0), "n_users = 5 is outside"),
        (lambda: network.relabel(EDGES, [0, 0]), "repeated user id"),
        (lambda: network.connected_part(EDGES, 5, 0, seed=0), "size = 0"),
    ],
)
def test_bad_sizes_are_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


# --- parts ------------------------------------------------------------------------------------------------------------


def test_largest_component_is_weak():
    edges = np.array([[0, 1], [2, 1], [3, 2], [5, 6]])
    np.testing.assert_array_equal(network.largest_component(edges, 8), [0, 1, 2, 3])


@pytest.mark.parametrize("size", [1, 2, 17, 150])
def test_connected_part_has_its_size_and_is_connected(size):
    edges = network.erdos_renyi(400, 3, seed=0)
    keep = network.connected_part(edges, 400, size, seed=1)
    assert len(keep) == size and (np.diff(keep) > 0).all()
    inside = network.relabel(edges, keep)
    assert len(network.largest_component(inside, size)) == size


def test_connected_part_is_seeded_and_stops_at_the_component():
    edges = network.erdos_renyi(400, 3, seed=0)
    first, again, other = (network.connected_part(edges, 400, 50, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    whole = network.largest_component(edges, 400)
    np.testing.assert_array_equal(network.connected_part(edges, 400, 10_000, seed=1), whole)


def test_connected_part_starts_in_proportion_to_degree():
    star = np.array([[leaf, 0] for leaf in range(1, 9)])
    starts = [int(network.connected_part(star, 9, 1, seed=seed)[0]) for seed in range(400)]
    assert abs(np.mean(np.array(starts) == 0) - 0.5) < 0.1


def test_relabel_numbers_by_position():
    np.testing.assert_array_equal(network.relabel(EDGES, [3, 0]), [[0, 1], [1, 0]])
    assert network.relabel(EDGES, [1, 7]).shape == (0, 2)


def test_symmetrise_is_idempotent():
    both = network.symmetrise(EDGES)
    np.testing.assert_array_equal(both, both[np.lexsort((both[:, 1], both[:, 0]))])
    np.testing.assert_array_equal(network.symmetrise(both), both)
    assert len(both) == 8


def test_switching_keeps_degrees_exactly_and_mixes():
    edges = network.preferential_attachment(200, 5, seed=2)
    mixed = network.switched(edges, 200, seed=4)
    for count in (network.in_degree, network.out_degree):
        np.testing.assert_array_equal(count(mixed, 200), count(edges, 200))
    np.testing.assert_array_equal(network.check_edges(mixed, 200, merge_duplicates=False), mixed)
    shared = len(set(map(tuple, mixed.tolist())) & set(map(tuple, edges.tolist())))
    assert shared < 4 * len(edges) ** 2 / 200**2  # by chance E^2 / U^2 in a graph without hubs
    np.testing.assert_array_equal(network.switched(edges, 200, seed=4), mixed)
