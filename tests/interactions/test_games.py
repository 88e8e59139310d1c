"""Indices and shares on games whose answer is known, and against independent computations."""

import itertools
import math

import numpy as np
import pytest

from mamba.interactions import designs, games
from mamba.interactions.statistics import contrast

INDICES = {
    "average": games.average,
    "in_context": games.in_context,
    "faith_shap": games.faith_shap,
    "shapley_interaction": games.shapley_interaction,
    "shapley_taylor": games.shapley_taylor,
}


def _table(function, n):
    """[2^n] of a function of gates; `function` takes one bool an algorithm."""
    return np.array([function(*(row > 0)) for row in designs.gates(n)], float)


GLOVE = _table(lambda left, one, two: left and (one or two), 3)
UNANIMITY = _table(lambda a, b, c, d, e: a and b and c, 5)
AIRPORT = _table(lambda *on: max((c for c, here in zip((1, 2, 3, 6), on, strict=True) if here), default=0), 4)
MAJORITY = _table(lambda *on: np.dot((4, 3, 2, 1), on) >= 6, 4)


def _sign(x):
    return 2.0 * x - 1.0


def _two_level(a, b, c):
    a, b, c = _sign(a), _sign(b), _sign(c)
    return 3 + 2 * a - b + 0.5 * c + 4 * a * b - 2 * a * b * c


TWO_LEVEL = _table(_two_level, 3)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (GLOVE, np.array([4, 1, 1]) / 6),
        (UNANIMITY, np.array([1, 1, 1, 0, 0]) / 3),
        (AIRPORT, np.array([3, 7, 13, 49]) / 12),
        (MAJORITY, np.array([5, 3, 3, 1]) / 12),
        (TWO_LEVEL, np.array([8, -10, -1]) / 3),
    ],
    ids=["glove", "unanimity", "airport", "majority", "two_level"],
)
def test_shapley_values_of_known_games(table, expected):
    np.testing.assert_allclose(games.shapley(len(expected)) @ table, expected, atol=1e-14)


def test_shapley_values_are_means_over_orders_of_arrival():
    table = np.random.default_rng(0).normal(size=32)
    expected = np.zeros(5)
    for order in itertools.permutations(range(5)):
        here = 0
        for i in order:
            expected[i] += (table[here | 1 << i] - table[here]) / math.factorial(5)
            here |= 1 << i
    np.testing.assert_allclose(games.shapley(5) @ table, expected, atol=1e-13)


def test_shapley_interactions_of_known_games():
    glove = games.shapley_interaction(3).pair @ GLOVE
    np.testing.assert_allclose(glove, [[0, 0.5, 0.5], [0.5, 0, -0.5], [0.5, -0.5, 0]], atol=1e-14)
    unanimity = games.shapley_interaction(5).pair @ UNANIMITY
    np.testing.assert_allclose(unanimity[[0, 0], [1, 3]], [0.5, 0.0], atol=1e-14)
    two_level = games.shapley_interaction(3).pair @ TWO_LEVEL
    np.testing.assert_allclose(two_level[[0, 0, 1], [1, 2, 2]], [16, 0, 0], atol=1e-13)


def test_shapley_interactions_weigh_backgrounds_as_defined():
    """Grabisch and Roubens 1999: differences of differences, weighted by t! (n - t - 2)! / (n - 1)!."""
    n, table = 5, np.random.default_rng(1).normal(size=32)
    expected = np.zeros((n, n))
    for i, j in itertools.permutations(range(n), 2):
        for here in (s for s in range(2**n) if not s >> i & 1 and not s >> j & 1):
            t = here.bit_count()
            change = table[here | 1 << i | 1 << j] - table[here | 1 << i] - table[here | 1 << j] + table[here]
            expected[i, j] += math.factorial(t) * math.factorial(n - t - 2) / math.factorial(n - 1) * change
    np.testing.assert_allclose(games.shapley_interaction(n).pair @ table, expected, atol=1e-13)


def test_shapley_taylor_weighs_backgrounds_as_defined():
    """Sundararajan, Dhamdhere and Agarwal 2020: mains are single changes, pairs weigh 2 / n / C(n - 1, t)."""
    n, table = 5, np.random.default_rng(2).normal(size=32)
    index = games.shapley_taylor(n)
    np.testing.assert_allclose(index.main @ table, table[2 ** np.arange(n)] - table[0], atol=1e-13)
    expected = np.zeros((n, n))
    for i, j in itertools.permutations(range(n), 2):
        for here in (s for s in range(2**n) if not s >> i & 1 and not s >> j & 1):
            change = table[here | 1 << i | 1 << j] - table[here | 1 << i] - table[here | 1 << j] + table[here]
            expected[i, j] += 2 / n / math.comb(n - 1, here.bit_count()) * change
    np.testing.assert_allclose(index.pair @ table, expected, atol=1e-13)


def _nearest_quadratic(table, n):
    """Quadratic game nearest to a table: constrained least squares with the Shapley kernel, by its normal equations."""
    gates = designs.gates(n).astype(float)
    pairs = list(itertools.combinations(range(n), 2))
    terms = np.column_stack([np.ones(2**n), gates, *(gates[:, i] * gates[:, j] for i, j in pairs)])
    size = gates.sum(1).astype(int)
    inner = (size > 0) & (size < n)
    weight = np.array([1 / (math.comb(n, s) * s * (n - s)) for s in size[inner]])
    exact = terms[[0, -1]]
    system = np.block([[terms[inner].T * weight @ terms[inner], exact.T], [exact, np.zeros((2, 2))]])
    right = np.concatenate([terms[inner].T * weight @ table[inner], table[[0, -1]]])
    found = np.linalg.solve(system, right)
    pair = np.zeros((n, n))
    for value, (i, j) in zip(found[1 + n : -2], pairs, strict=True):
        pair[i, j] = pair[j, i] = value
    return found[1 : 1 + n], pair


@pytest.mark.parametrize("n", [3, 5, 6])
def test_faith_shap_is_the_nearest_quadratic_game(n):
    index = games.faith_shap(n)
    for seed in range(5):
        table = np.random.default_rng(seed).normal(size=2**n)
        main, pair = _nearest_quadratic(table, n)
        np.testing.assert_allclose(index.main @ table, main, atol=1e-10, rtol=0)
        np.testing.assert_allclose(index.pair @ table, pair, atol=1e-10, rtol=0)


@pytest.mark.parametrize("index", [games.faith_shap, games.shapley_taylor])
@pytest.mark.parametrize("n", [1, 2, 3, 6, 8, 12])
def test_mains_and_pairs_add_up(index, n):
    table = np.random.default_rng(n).normal(size=2**n)
    main, pair = index(n)
    gap = table[0] + (main @ table).sum() + np.triu(pair @ table).sum() - table[-1]
    assert abs(gap) < 1e-12 * np.abs(table).max()


@pytest.mark.parametrize("name", INDICES)
def test_a_quadratic_game_is_told_as_it_is(name):
    """No third order: every index finds the same pairs; they differ in what a main effect is."""
    rng = np.random.default_rng(4)
    gates, main, pair = designs.gates(5).astype(float), rng.normal(size=5), np.triu(rng.normal(size=(5, 5)), 1)
    table = 7 + gates @ main + np.einsum("gi,ij,gj->g", gates, pair, gates)
    pair = pair + pair.T
    found = INDICES[name](5)
    np.testing.assert_allclose(found.pair @ table, pair, atol=1e-12)
    background = {"in_context": 1.0, "average": 0.5, "shapley_interaction": 0.5}.get(name, 0.0)
    np.testing.assert_allclose(found.main @ table, main + background * pair.sum(1), atol=1e-12)


@pytest.mark.parametrize("name", INDICES)
def test_indices_treat_algorithms_alike(name):
    """Renaming algorithms renames the index; an algorithm that does nothing has none of it."""
    n, table = 4, np.random.default_rng(5).normal(size=16)
    index, order = INDICES[name](n), np.array([2, 0, 3, 1])
    shuffled = table[(designs.gates(n)[:, order].astype(int) @ 2 ** np.arange(n))]
    where = np.argsort(order)
    np.testing.assert_allclose(index.main @ shuffled, (index.main @ table)[where], atol=1e-13)
    np.testing.assert_allclose(index.pair @ shuffled, (index.pair @ table)[np.ix_(where, where)], atol=1e-13)
    idle = np.concatenate([table, table])  # algorithm 4 changes nothing
    found = INDICES[name](5)
    np.testing.assert_allclose(found.main[4] @ idle, 0, atol=1e-13)
    np.testing.assert_allclose(found.pair[4] @ idle, 0, atol=1e-13)
    np.testing.assert_array_equal(found.pair, found.pair.swapaxes(0, 1))
    assert not found.pair[np.arange(5), np.arange(5)].any()


def test_dividends_are_alternating_sums_and_their_zeta_is_the_table():
    table = np.random.default_rng(6).normal(size=(2, 16))
    expected = np.zeros((2, 16))
    for s in range(16):
        for t in (t for t in range(16) if t & ~s == 0):
            expected[:, s] += (-1) ** (s.bit_count() - t.bit_count()) * table[:, t]
    np.testing.assert_allclose(games.moebius(table), expected, atol=1e-13)
    np.testing.assert_allclose(games.zeta(games.moebius(table)), table, atol=1e-13)
    np.testing.assert_allclose(table @ games.moebius_map(4).T, expected, atol=1e-13)


def test_two_level_effects_coefficients_and_shares():
    np.testing.assert_allclose(games.walsh(TWO_LEVEL), [3, 2, -1, 4, 0.5, 0, 0, -2], atol=1e-14)
    np.testing.assert_allclose(games.walsh_map(3) @ TWO_LEVEL, games.walsh(TWO_LEVEL), atol=1e-14)
    main, pair = games.average(3)
    np.testing.assert_allclose(main @ TWO_LEVEL, [4, -2, 1], atol=1e-13)
    np.testing.assert_allclose((pair @ TWO_LEVEL)[[0, 0, 1], [1, 2, 2]], [16, 0, 0], atol=1e-13)
    found = games.anova(TWO_LEVEL)
    squares = np.array([0, 4, 1, 16, 0.25, 0, 0, 4])
    assert found.total == pytest.approx(25.25, abs=1e-12)
    np.testing.assert_allclose(found.subset, squares / 25.25, atol=1e-14)
    np.testing.assert_allclose(np.round(found.subset, 4), [0, 0.1584, 0.0396, 0.6337, 0.0099, 0, 0, 0.1584])
    np.testing.assert_allclose(found.main, squares[[1, 2, 4]] / 25.25, atol=1e-14)
    np.testing.assert_allclose(found.with_others, np.array([24, 21, 4.25]) / 25.25, atol=1e-14)
    assert found.interaction == pytest.approx(20 / 25.25, abs=1e-14)


def test_effects_in_context():
    main, pair = games.in_context(3)
    table = np.random.default_rng(7).normal(size=8)
    for i in range(3):
        assert main[i] @ table == pytest.approx(table[7] - table[7 & ~(1 << i)])
    assert pair[0, 2] @ table == pytest.approx(table[7] - table[6] - table[3] + table[2])


@pytest.mark.parametrize(("index", "share_on"), [(games.in_context, 1.0), (games.average, 0.5)])
def test_steps_are_the_platforms_they_say(index, share_on):
    n, table = 4, np.random.default_rng(8).normal(size=16)
    alone, given, both = games.steps(*index(n), share_on=share_on)
    i, j = 1, 3
    backgrounds = [0b0101] if share_on == 1.0 else [s for s in range(16) if not s & 0b1010]
    expected = np.mean(
        [
            (
                table[s | 2] - table[s],
                table[s | 8 | 2] - table[s | 8],
                table[s | 8 | 2] - table[s],
                table[s | 8] - table[s],
            )
            for s in backgrounds
        ],
        axis=0,
    )
    found = [alone[i, j] @ table, given[i, j] @ table, both[i, j] @ table, alone[j, i] @ table]
    np.testing.assert_allclose(found, expected, atol=1e-13)
    assert not alone[0, 0].any() and not given[0, 0].any() and not both[0, 0].any()


def test_shares_of_a_noiseless_table_are_the_exact_ones():
    table = np.random.default_rng(9).normal(size=(8, 2))
    found = games.anova_of_seeds(np.broadcast_to(table, (3, 8, 2)), confidence=0.95)
    exact = games.anova(table)
    for part, known in zip(found, exact, strict=True):
        np.testing.assert_allclose(part.mean, known, atol=1e-12)
        np.testing.assert_allclose(part.error, 0, atol=1e-12)


@pytest.mark.parametrize("pair", [0.0, 0.8], ids=["additive", "one_pair"])
def test_noise_makes_interactions_up_and_the_correction_removes_them(pair):
    """Four algorithms, 16 seeds, noise of half an effect; 4,000 tables stand on the axis of objectives."""
    count = 4000
    rng = np.random.default_rng(10)
    gates = designs.gates(4).astype(float)
    table = gates @ [1.0, 0.5, 0.3, 0.0] + pair * gates[:, 0] * gates[:, 1]
    truth = games.anova(table)
    samples = table[:, None] + rng.normal(0, 0.5, (16, 16, count))
    found = games.anova_of_seeds(samples, confidence=0.95)
    share, total = found.interaction, found.total
    error = share.mean.std() / np.sqrt(count)
    assert abs(share.mean.mean() - truth.interaction) < 4 * error
    assert games.anova(samples.mean(0)).interaction.mean() - truth.interaction > 30 * error
    # Where there is no interaction the jackknife errs on the wide side.
    assert 0.93 < np.mean((share.low <= truth.interaction) & (truth.interaction <= share.high))
    assert abs(total.mean.mean() - truth.total) < 4 * total.mean.std() / np.sqrt(count)
    assert 0.93 < np.mean((total.low <= truth.total) & (truth.total <= total.high)) < 0.97


def test_there_is_nothing_to_share_where_nothing_differs():
    rng = np.random.default_rng(11)
    assert np.isnan(games.anova(np.full(8, 2.0)).interaction)
    samples = np.stack([rng.normal(size=(12, 8)), rng.normal(size=(12, 8)) + np.arange(8)], axis=-1)
    found = games.anova_of_seeds(samples, confidence=0.95)
    assert found.total.low[0] <= 0 and np.isnan(found.interaction.mean[0]) and np.isnan(found.subset.low[:, 0]).all()
    assert (
        found.total.low[1] > 0 and np.isfinite(found.interaction.mean[1]) and np.isfinite(found.subset.low[:, 1]).all()
    )


def test_shares_keep_the_axes_of_objectives_and_windows():
    samples = np.random.default_rng(12).normal(size=(5, 8, 2, 3)) + np.arange(8)[None, :, None, None]
    found = games.anova_of_seeds(samples, confidence=0.9)
    assert found.total.mean.shape == (2, 3) and found.subset.mean.shape == (8, 2, 3)
    assert found.main.mean.shape == found.with_others.mean.shape == (3, 2, 3) and found.interaction.mean.shape == (2, 3)
    one = games.anova_of_seeds(samples[..., 1, 2], confidence=0.9)
    np.testing.assert_allclose(found.main.low[:, 1, 2], one.main.low, atol=1e-12)


def test_pairs_of_a_table_of_seeds():
    table = np.random.default_rng(13).normal(size=(3, 8, 2))
    found = contrast(games.faith_shap(3).pair, table)
    assert found.shape == (3, 3, 3, 2)
    np.testing.assert_allclose(found[1, 0, 2, 1], games.faith_shap(3).pair[0, 2] @ table[1, :, 1], atol=1e-13)


def test_refusals():
    with pytest.raises(ValueError, match=r"2\^A entries.*got 6"):
        games.moebius(np.zeros(6))
    with pytest.raises(ValueError, match="1 to 12 algorithms, got 13"):
        games.faith_shap(13)
    with pytest.raises(ValueError, match="at least 3 seeds, got 2"):
        games.anova_of_seeds(np.zeros((2, 4)), confidence=0.95)


@pytest.mark.parametrize("n", [3, 5])
def test_indices_agree_with_shapiq(n):
    shapiq = pytest.importorskip("shapiq", reason="shapiq is optional; it needs Python 3.12")
    table = np.random.default_rng(14 + n).normal(size=2**n)

    def game(coalitions):
        return table[np.asarray(coalitions, int) @ 2 ** np.arange(n)]

    exact = shapiq.ExactComputer(n_players=n, game=game)
    ours = {
        "FSII": games.faith_shap(n),
        "STII": games.shapley_taylor(n),
        "BII": games.average(n),
        "SII": games.shapley_interaction(n),
    }
    for name, index in ours.items():
        theirs = exact(name, 2)
        main = np.array([theirs[(i,)] for i in range(n)])
        close = 1e-8 if name == "FSII" else 1e-12  # theirs weighs the two constraints by a large number
        np.testing.assert_allclose(index.main @ table, main, atol=close, rtol=0, err_msg=name)
        for i, j in itertools.combinations(range(n), 2):
            np.testing.assert_allclose(index.pair[i, j] @ table, theirs[(i, j)], atol=close, rtol=0, err_msg=name)
