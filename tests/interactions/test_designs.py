"""Designs: which effects are clear of each other, and maps that find planted effects exactly."""

import itertools

import numpy as np
import pytest

from mamba.interactions import designs, games
from mamba.interactions.designs import FROZEN, LEARNING, OFF


def _pairs(rng, n):
    pair = np.triu(rng.normal(size=(n, n)), 1)
    return pair + pair.T


def _outcomes(gates, main, pair):
    gates = gates.astype(float)
    return 7 + gates @ main + 0.5 * np.einsum("ri,ij,rj->r", gates, pair, gates)


def test_gates_are_the_bits():
    gates = designs.gates(3)
    assert gates.shape == (8, 3)
    np.testing.assert_array_equal(gates[0], 0)
    np.testing.assert_array_equal(gates[5], [1, 0, 1])
    np.testing.assert_array_equal(gates[-1], 1)


def test_a_full_factorial_holds_every_subset():
    design = designs.full(3)
    assert design.kind == "full" and design.gates.dtype == design.learning.dtype == np.float32
    np.testing.assert_array_equal(design.gates, designs.gates(3))
    np.testing.assert_array_equal(design.learning, 1)


@pytest.mark.parametrize("n", range(9, 17))
def test_fractions_keep_means_mains_and_pairs_clear(n):
    """In every four columns all 16 settings come equally often, so no two effects of up to two algorithms mix."""
    design = designs.fractional(n)
    assert design.gates.shape == design.learning.shape == (128 if n < 16 else 256, n)
    assert design.gates.dtype == np.float32 and set(np.unique(design.gates)) == {0, 1}
    np.testing.assert_array_equal(design.gates[-1], 1)
    np.testing.assert_array_equal(design.learning, 1)
    codes = design.gates.astype(int) @ 2 ** np.arange(n)
    assert (np.diff(codes) > 0).all()  # no row twice, in bit order
    for columns in itertools.combinations(range(n), 4):
        counts = np.bincount(design.gates[:, columns].astype(int) @ [1, 2, 4, 8], minlength=16)
        assert (counts == len(design.gates) // 16).all(), columns
    signs = 2 * design.gates.astype(int) - 1
    effects = np.array([signs[:, c].prod(axis=1) for k in range(3) for c in itertools.combinations(range(n), k)])
    np.testing.assert_array_equal(effects @ effects.T, len(signs) * np.eye(len(effects)))


def _leaks(n, **options):
    """Mean product of every pair column with every triple column."""
    signs = 2 * designs.fractional(n, **options).gates.astype(int) - 1
    pairs = np.array([signs[:, c].prod(axis=1) for c in itertools.combinations(range(n), 2)])
    triples = np.array([signs[:, c].prod(axis=1) for c in itertools.combinations(range(n), 3)])
    return pairs @ triples.T / len(signs)


@pytest.mark.parametrize("n", [9, 12, 16])
def test_256_rows_keep_pairs_clear_of_triples(n):
    design = designs.fractional(n, clear_of_triples=True)
    assert design.gates.shape == (256, n) and design.gates[-1].all()
    assert len(np.unique(design.gates, axis=0)) == 256
    assert not _leaks(n, clear_of_triples=True).any()
    designs.averages(design.gates)


def test_128_rows_let_at_most_half_a_triple_into_a_pair():
    leaks = _leaks(15)
    assert set(np.unique(leaks)) == {-0.5, 0.0, 0.5}


@pytest.mark.parametrize("n", [9, 12, 16])
def test_averages_of_a_fraction_are_those_of_the_full_factorial(n):
    """A platform with mains and pairs only: the average effect of i is its own plus half its pairs."""
    rng = np.random.default_rng(n)
    main, pair = rng.normal(size=n), _pairs(rng, n)
    gates = designs.fractional(n).gates
    found_main, found_pair = designs.averages(gates)
    outcomes = _outcomes(gates, main, pair)
    np.testing.assert_allclose(found_main @ outcomes, main + pair.sum(1) / 2, atol=1e-12)
    np.testing.assert_allclose(found_pair @ outcomes, pair, atol=1e-12)
    if n == 9:
        index = games.average(n)
        full = _outcomes(designs.gates(n), main, pair)
        np.testing.assert_allclose(found_main @ outcomes, index.main @ full, atol=1e-12)
        np.testing.assert_allclose(found_pair @ outcomes, index.pair @ full, atol=1e-12)


def test_averages_refuse_rows_that_mix_effects():
    half = designs.gates(3)[designs.gates(3).sum(1) % 2 == 1]  # a = bc
    with pytest.raises(ValueError, match=r"4 rows.*3 algorithms are not clear"):
        designs.averages(half)
    rows = designs.fractional(10).gates
    with pytest.raises(ValueError, match="127 rows"):
        designs.averages(rows[:-1])


@pytest.mark.parametrize("n", [1, 2, 5])
def test_switched_off_finds_the_effects_in_context(n):
    table = np.random.default_rng(n).normal(size=2**n)
    design = designs.switched_off(n)
    assert len(design.gates) == 1 + n + n * (n - 1) // 2
    outcomes = table[design.gates.astype(int) @ 2 ** np.arange(n)]
    for found, known in zip(designs.today(n), games.in_context(n), strict=True):
        np.testing.assert_allclose(found @ outcomes, known @ table, atol=1e-13)


def test_learning_has_nine_rows_around_everything_on():
    design = designs.learning(4, (2, 0))
    assert design.gates.shape == design.learning.shape == (9, 4)
    np.testing.assert_array_equal(design.gates[:, [1, 3]], 1)
    np.testing.assert_array_equal(design.learning[:, [1, 3]], 1)
    for i, j in itertools.product((OFF, FROZEN, LEARNING), repeat=2):
        row = 3 * i + j
        np.testing.assert_array_equal(design.gates[row, [2, 0]], [i != OFF, j != OFF])
        np.testing.assert_array_equal(design.learning[row, [2, 0]], [i == LEARNING, j == LEARNING])


def test_learning_contrasts_find_planted_effects():
    """A filter (i) removes 5; a ranker (j) adds 3 frozen, 4 learning; learning wins back 2 of what the filter removes."""
    outcomes = np.empty(9)
    for i, j in itertools.product(range(3), repeat=2):
        won_back = 2.0 if i != OFF and j == LEARNING else 0.0
        outcomes[3 * i + j] = 50.0 - 5.0 * (i != OFF) + (0.0, 3.0, 4.0)[j] + won_back - 0.5 * (i == LEARNING)
    maps = designs.relearning()
    np.testing.assert_allclose(maps.effect @ outcomes, [[-5, -5, -3], [-5.5, -5.5, -3.5]], atol=1e-12)
    np.testing.assert_allclose(maps.interaction @ outcomes, [[0, 2], [0, 2]], atol=1e-12)
    np.testing.assert_allclose(maps.relearned @ outcomes, [2, 2], atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: designs.full(13), "1 to 12 algorithms, got 13.*`fractional`"),
        (lambda: designs.full(0), "got 0"),
        (lambda: designs.fractional(8), "9 to 16 algorithms, got 8; use `full`"),
        (lambda: designs.fractional(17), "got 17"),
        (lambda: designs.switched_off(0), "at least 1"),
        (lambda: designs.learning(3, (1, 1)), r"got \(1, 1\)"),
        (lambda: designs.learning(3, (0, 3)), "below 3"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
