"""Effects from value tables whose answer is known."""

import numpy as np
import pytest

from mamba.interactions import designs, factorial
from mamba.interactions.settings import InteractionsConfig
from mamba.objectives import NAMES, benefit_sign

SIGNS = np.asarray(benefit_sign())


def _table(function, n, seeds=2):
    """[S, 2^n, J] with the same value for every objective and seed."""
    values = np.array([function(*(2 * row - 1)) for row in designs.gates(n)])
    return np.broadcast_to(values[None, :, None], (seeds, 2**n, len(NAMES))).copy()


def test_two_level_factorial_with_known_coefficients():
    """y = 3 + 2a - b + c/2 + 4ab - 2abc with a, b, c = -1, +1: effects are 2 and 4 times the coefficients."""
    table = _table(lambda a, b, c: 3 + 2 * a - b + 0.5 * c + 4 * a * b - 2 * a * b * c, 3)
    analysis = factorial.analyse("abc", table)
    np.testing.assert_allclose(analysis.main.mean[:, 0], [4.0, -2.0, 1.0], atol=1e-12)
    np.testing.assert_allclose(analysis.pair.mean[0, 1, 0], 16.0, atol=1e-12)
    np.testing.assert_allclose(analysis.pair.mean[0, 2, 0], 0.0, atol=1e-12)  # the three-way term averages out
    np.testing.assert_allclose(analysis.pair.mean[1, 2, 0], 0.0, atol=1e-12)
    np.testing.assert_array_equal(analysis.pair.mean, analysis.pair.mean.swapaxes(0, 1))
    on, off = 3 + 2 - 1 + 0.5 + 4 - 2, 3 - 2 - 1 + 0.5 - 4 + 2
    np.testing.assert_allclose(analysis.switch_off.mean[0, 0], on - off, atol=1e-12)


def test_additive_platforms_have_no_interaction():
    table = _table(lambda a, b: 5 + a + 10 * b, 2)
    analysis = factorial.analyse("ab", table)
    np.testing.assert_allclose(analysis.pair.mean, 0.0, atol=1e-12)
    assert not analysis.confirmed.any()


def test_intervals_cover_and_the_false_discovery_rate_holds():
    """Twelve paired seeds, one planted pair effect on one objective, none elsewhere."""
    rng = np.random.default_rng(0)
    covered, false, found = [], [], []
    for _ in range(400):
        seed_level = rng.normal(0, 5, (12, 1, 1))  # cancels in every contrast
        noise = rng.normal(0, 0.3, (12, 4, len(NAMES)))
        table = seed_level + noise
        table[:, 3, 0] += 1.0
        analysis = factorial.analyse("ab", table)
        pair = analysis.pair
        covered.append((pair.low[0, 1, 0] < 1.0) & (pair.high[0, 1, 0] > 1.0))
        wrong = analysis.confirmed[0, 1, 1:].sum()
        false.append(wrong / max(wrong + analysis.confirmed[0, 1, 0], 1))
        found.append(analysis.confirmed[0, 1, 0])
    assert 0.90 < np.mean(covered) < 0.99
    assert np.mean(found) > 0.9
    assert np.mean(false) < 0.05 + 3 * np.std(false) / np.sqrt(len(false))  # the false discovery rate


def test_backgrounds_agree_where_there_is_no_third_order():
    rng = np.random.default_rng(1)
    table = _table(lambda a, b, c: 1 + a - 2 * b + 3 * c + 0.5 * a * c, 3, seeds=6)
    table = table + rng.normal(0, 0.01, table.shape)
    today = factorial.analyse("abc", table)
    mean = factorial.analyse("abc", table, config=InteractionsConfig(background="average"))
    np.testing.assert_allclose(today.verdicts.interaction.mean[0, 2], mean.verdicts.interaction.mean[0, 2], atol=0.1)
    errors = [each.verdicts.interaction.error[0, 2].mean() for each in (mean, today)]
    np.testing.assert_allclose(errors[0] / errors[1], 0.5**0.5, atol=0.1)  # twice the runs
    np.testing.assert_allclose(today.verdicts.alone.mean[0, 2] * SIGNS, 1.0, atol=0.1)
    np.testing.assert_allclose(today.verdicts.given.mean[0, 2] * SIGNS, 3.0, atol=0.1)
    # and the mains and pairs of the index add up to everything on less everything off, in every seed
    assert today.index_main is not None and today.index_pair is not None
    total = today.index_main.mean.sum(axis=0) + np.triu(today.index_pair.mean.transpose(2, 0, 1), 1).sum(axis=(1, 2))
    np.testing.assert_allclose(total, (table[:, -1] - table[:, 0]).mean(axis=0), rtol=1e-12)


def test_the_index_is_tested_on_its_own_and_not_by_the_verdicts():
    """With -1.5 for all three, the pair of the first two is -0.5 in context and positive over all subsets."""
    rng = np.random.default_rng(8)
    gates = designs.gates(3).astype(np.float64)
    value = gates[:, 0] * gates[:, 1] - 1.5 * gates.prod(axis=1)
    table = value[None, :, None] + rng.normal(0, 0.02, (8, 8, len(NAMES)))
    analysis = factorial.analyse("abc", table)
    np.testing.assert_allclose(analysis.context_pair.mean[0, 1], -0.5, atol=0.1)
    assert np.all(analysis.shown_pair.mean[0, 1] > 0.1)
    assert analysis.index_confirmed[0, 1].all() and not analysis.index_none[0, 1].any()
    assert not analysis.index_none[0, 0].any()  # the diagonal is no pair
    flat = factorial.analyse("abc", gates.sum(axis=1)[None, :, None] + rng.normal(0, 0.001, (8, 8, len(NAMES))))
    assert flat.index_none[0, 1].all()


def test_nine_algorithms_are_told_from_a_fraction_and_todays_switch_offs():
    """Additive but for one pair: both backgrounds find it, and nothing else."""
    rng = np.random.default_rng(2)
    plan = factorial.plan(9)
    np.testing.assert_array_equal(plan.design.gates[-1], 1.0)
    gates = plan.design.gates.astype(np.float64)
    value = gates @ np.arange(1.0, 10.0) - 4.0 * gates[:, 3] * gates[:, 7]
    table = value[None, :, None] + rng.normal(0, 0.05, (6, len(gates), len(NAMES)))
    for background in ("in_context", "average"):
        analysis = factorial.analyse("abcdefghi", table, config=InteractionsConfig(background=background))
        np.testing.assert_allclose(analysis.context_pair.mean[3, 7], -4.0, atol=0.2)
        np.testing.assert_allclose(analysis.pair.mean[3, 7], -4.0, atol=0.1)
        np.testing.assert_allclose(analysis.switch_off.mean[8], 9.0, atol=0.1)
        assert analysis.index_pair is None  # no subset is left out of a Faith-Shap index
        assert analysis.confirmed[3, 7].all()
        upper = np.triu(np.ones((9, 9), bool), 1)
        # 21 true ones among 756 tests: one false one is expected, more than five in a thousandth of such tables
        assert analysis.confirmed[upper].sum() <= len(NAMES) + 5
    everybody, third, nobody = [True] * 9, [name == "d" for name in "abcdefghi"], [False] * 9
    np.testing.assert_array_equal(factorial.learning_pairs(analysis, 1, learns=everybody), [[7, 3]])
    np.testing.assert_array_equal(factorial.learning_pairs(analysis, 1, learns=third), [[7, 3]])
    eighth = [name == "h" for name in "abcdefghi"]
    np.testing.assert_array_equal(
        factorial.learning_pairs(analysis, 1, learns=eighth), [[3, 7]]
    )  # the learner is second
    assert factorial.learning_pairs(analysis, 1, learns=nobody).shape == (0, 2)


def test_every_index_comes_from_the_same_table_with_paired_errors():
    rng = np.random.default_rng(5)
    seed_level = rng.normal(0, 9, (40, 1, 1))  # cancels in every contrast but that of nobody
    game = np.array([0.0, 1.0, 2.0, 7.0])
    table = game[None, :, None] + seed_level + rng.normal(0, 0.1, (40, 4, 2))
    found = factorial.indices(table)
    np.testing.assert_allclose(found["dividend"].mean[1:, 0], [1.0, 2.0, 4.0], atol=0.1)
    assert found["dividend"].error[0, 0] > 1.0 > 0.1 > found["dividend"].error[3, 0]
    np.testing.assert_allclose(found["shapley"].mean[:, 0], [3.0, 4.0], atol=0.1)
    for name in ("in_context", "average", "faith_shap", "shapley_interaction", "shapley_taylor"):
        np.testing.assert_allclose(found[f"{name}_pair"].mean[0, 1], 4.0, atol=0.1)  # two players: all agree
    np.testing.assert_allclose(found["in_context_main"].mean[:, 0], [5.0, 6.0], atol=0.1)


def test_windows_show_when_two_begin_to_work_against_each_other():
    rng = np.random.default_rng(3)
    grid = designs.gates(2).astype(np.float64)
    windows = np.zeros((8, 4, 3, len(NAMES)))
    for w, against in enumerate((0.0, -0.5, -3.0)):
        windows[:, :, w] = (grid @ [1.0, 1.0] + against * grid.prod(axis=1))[None, :, None]
    windows += rng.normal(0, 0.05, windows.shape)
    analysis = factorial.analyse("ab", windows.mean(axis=2), windows=windows)
    assert analysis.windows is not None
    assert np.all(np.abs(analysis.windows.pair.mean[0, 1, 0]) < 0.2)
    np.testing.assert_allclose(analysis.windows.pair.mean[0, 1, 2], -3.0, atol=0.2)
    np.testing.assert_allclose(analysis.windows.main.mean[0, 2], -2.0, atol=0.2)  # while the other is on


def test_the_gain_of_common_random_numbers_is_measured_and_its_loss_noticed():
    rng = np.random.default_rng(4)
    shared = rng.normal(0, 1.0, (16, 1, len(NAMES)))
    paired = factorial.analyse("ab", shared + rng.normal(0, 0.1, (16, 4, len(NAMES))))
    assert np.all(paired.variance_ratio > 10) and not paired.lost
    unpaired = factorial.analyse("ab", rng.normal(0, 1.0, (16, 4, len(NAMES))))
    assert unpaired.lost


def test_refusals():
    with pytest.raises(ValueError, match=r"shape \[S, 4, J\]"):
        factorial.analyse("ab", np.zeros((2, 8, 17)))
    with pytest.raises(ValueError, match=r"shape \[S, 4, W, J\]"):
        factorial.analyse("ab", np.zeros((2, 4, 17)), windows=np.zeros((2, 8, 3, 17)))
    with pytest.raises(ValueError, match="1 to 16 algorithms, got 17"):
        factorial.plan(17)
