"""The verdict rule on tables whose answer is known, and how often it errs on noisy ones."""

import numpy as np
import pytest

from mamba.interactions import verdicts
from mamba.interactions.statistics import equivalent
from mamba.interactions.verdicts import CODES, VERDICTS


def _judge(first, second, both, *, noise=0.0, seeds=8, rng=None, better=1.0, spread=10.0, **settings):
    """Two algorithms; the effects [J] of the first alone, the second alone and both, with noise on every platform."""
    first, second, both = np.broadcast_arrays(*(np.atleast_1d(np.asarray(x, float)) for x in (first, second, both)))
    means = np.stack([np.stack([np.zeros_like(both), second]), np.stack([first, both])])  # [2, 2, J]
    values = np.broadcast_to(means, (seeds, *means.shape))
    if noise:
        values = values + noise * rng.normal(size=values.shape)
    alone, together = verdicts.from_square(values)
    n = len(both)
    better, spread = np.broadcast_to(better, n), np.broadcast_to(spread, n)
    return verdicts.judge(alone, together, better=better, spread=spread, **settings)


def _names(judged):
    return [VERDICTS[code] for code in judged.codes[0, 1]]


# first alone, second alone, both; the margin is 0.05 * 10 = 0.5
RULES = [
    ("reinforcing", 1.0, 2.0, 5.0),
    ("redundant", 4.0, 3.0, 5.0),
    ("redundant", 4.0, 3.0, 4.0),  # exact substitutes: both do what one does
    ("working_against", 4.0, 3.0, 3.5),
    ("working_against", 4.0, 3.0, -1.0),
    ("compounding_harm", -1.0, -2.0, -5.0),
    ("saturating_harm", -4.0, -3.0, -5.0),
    ("remedy_amplified", 2.0, -4.0, -1.0),
    ("remedy_undermined", 4.0, -2.0, 1.0),
    ("reversing", 2.0, -1.0, -4.0),  # the first hurts by 3 once the second is on
    ("reversing", -2.0, 1.0, 4.0),  # and here it helps by 3
    ("reversing", -4.0, -3.0, 1.0),  # two harms that undo each other
    ("reversing", 2.0, 0.0, -4.0),  # whatever the second does alone
    ("none", 1.0, 2.0, 3.0),
    ("none", 1.0, 2.0, 3.4),  # measurable but within the margin
    ("none", 0.0, 0.0, 0.0),
    ("conditional", 2.0, 0.0, 5.0),
    ("conditional", 0.0, 0.0, -5.0),
]


@pytest.mark.parametrize(("name", "first", "second", "both"), RULES)
def test_every_rule_without_noise(name, first, second, both):
    judged = _judge(first, second, both)
    assert _names(judged) == [name]
    assert _names(_judge(second, first, both)) == [name]
    # the same harm or benefit where less is healthier
    assert _names(_judge(-first, -second, -both, better=-1.0)) == [name]


def test_every_rule_at_once_and_all_verdicts_are_reached():
    judged = _judge(*(np.array([rule[1 + k] for rule in RULES]) for k in range(3)))
    assert _names(judged) == [rule[0] for rule in RULES]
    assert {rule[0] for rule in RULES} == set(VERDICTS) - {"unresolved"}


def test_who_is_reversed():
    first = np.array([2.0, -4.0, 4.0, 4.0, 1.0])
    second = np.array([-1.0, -3.0, 3.0, 1.0, 1.0])
    both = np.array([-4.0, 1.0, 1.0, 3.0, 4.0])
    judged = _judge(first, second, both)
    assert _names(judged) == ["reversing", "reversing", "working_against", "working_against", "reinforcing"]
    np.testing.assert_array_equal(judged.reversed_by[0, 1], [True, True, True, False, False])
    np.testing.assert_array_equal(judged.reversed_by[1, 0], [False, True, True, True, False])


def test_numbers_are_benefits_and_confirmed_negligible_keeps_its_p_value():
    judged = _judge([2.0, 2.0], [1.0, 1.0], [5.0, 3.4], better=[-1.0, 1.0])
    np.testing.assert_allclose(judged.interaction.mean[0, 1], [-2.0, 0.4])
    np.testing.assert_allclose(judged.interaction.mean[1, 0], [-2.0, 0.4])
    np.testing.assert_allclose(judged.alone.mean[0, 1], [-2.0, 2.0])
    np.testing.assert_allclose(judged.alone.mean[1, 0], [-1.0, 1.0])
    np.testing.assert_allclose(judged.given.mean[1, 0], [-3.0, 1.4])
    np.testing.assert_allclose(judged.both.mean[1, 0], [-5.0, 3.4])
    np.testing.assert_allclose(judged.margin, 0.5)
    assert _names(judged) == ["compounding_harm", "none"]
    assert judged.confirmed[0, 1].all() and (judged.p[0, 1] == 0).all()
    assert np.isnan(judged.interaction.mean[0, 0]).all() and (judged.codes[0, 0] == CODES["unresolved"]).all()


def test_many_pairs_are_judged_like_each_alone():
    """Three algorithms: the tensor form against the two by two form of each pair, at one confidence for all."""
    rng = np.random.default_rng(5)
    pairs = [(0, 1), (0, 2), (1, 2)]
    alone, both = np.full((2, 6, 3, 3, 4), np.nan)
    for number, (i, j) in enumerate(pairs):
        alone[:, i, j] = rng.normal([3.0, 3.0, -3.0, 3.0], 0.1, (6, 4))
        alone[:, j, i] = rng.normal([3.0, 3.0, -3.0, -3.0], 0.1, (6, 4))
        both[:, i, j] = rng.normal([8.0 + number, 1.0, -9.0, -6.0], 0.1, (6, 4))
    better, spread = np.ones(4), np.full(4, 10.0)
    judged = verdicts.judge(alone, both, better=better, spread=spread)
    np.testing.assert_array_equal(judged.codes, judged.codes.swapaxes(0, 1))
    for i, j in pairs:
        pick = np.ix_(range(6), [i, j], [i, j])
        single = verdicts.judge(alone[pick], both[pick], better=better, spread=spread)
        np.testing.assert_array_equal(judged.codes[i, j], single.codes[0, 1])
        np.testing.assert_array_equal(judged.reversed_by[j, i], single.reversed_by[1, 0])
        np.testing.assert_allclose(judged.interaction.low[i, j], single.interaction.low[0, 1])
    assert [VERDICTS[c] for c in judged.codes[0, 2]] == [
        "reinforcing",
        "working_against",
        "compounding_harm",
        "reversing",
    ]


def test_degenerate_tables():
    # an objective that nothing moves, one with a value missing, spreads of 0 and NaN
    first, both = np.array([0.0, 1.0, 2.0, 2.0, 2.0]), np.array([0.0, np.nan, 3.0, 5.0, 3.0])
    spread = np.array([0.0, 1.0, 0.0, 0.0, np.nan])
    judged = _judge(first, 1.0 * (first > 0), both, spread=spread)
    assert _names(judged) == ["none", "unresolved", "none", "reinforcing", "none"]
    assert np.isnan(judged.p[0, 1, 1]) and not judged.confirmed[0, 1, 1]
    # a missing value is no test: it does not make the others harder to confirm
    rng = np.random.default_rng(0)
    values = rng.normal(size=(6, 2, 2, 1)) + np.array([[0, 0], [0, 2.0]])[None, :, :, None]
    alone, together = verdicts.from_square(np.concatenate([values, np.full((6, 2, 2, 9), np.nan)], axis=-1))
    judged = verdicts.judge(alone, together, better=np.ones(10), spread=np.ones(10))
    assert 0.01 < judged.p[0, 1, 0] < 0.05 and judged.confirmed[0, 1, 0]


def test_refusals():
    good = np.zeros((3, 2, 2, 1))
    with pytest.raises(ValueError, match=r"one shape \[S, A, A, J\]"):
        verdicts.judge(good, good[:, :1], better=np.ones(1), spread=np.ones(1))
    with pytest.raises(ValueError, match="each of the 1 objectives"):
        verdicts.judge(good, good, better=np.ones(2), spread=np.ones(1))
    with pytest.raises(ValueError, match="resolution = -1"):
        verdicts.judge(good, good, better=np.ones(1), spread=np.ones(1), resolution=-1)
    with pytest.raises(ValueError, match="at least 2 seeds"):
        verdicts.judge(good[:1], good[:1], better=np.ones(1), spread=np.ones(1))
    with pytest.raises(ValueError, match=r"\[S, 2, 2, J\]"):
        verdicts.learning_contrast(good[:, :, :1])


def test_every_verdict_has_words():
    assert {verdicts.words(code) for code in range(len(VERDICTS))} == {verdicts.words(name) for name in VERDICTS}
    assert len({verdicts.words(name) for name in VERDICTS}) == len(VERDICTS)


# ---- operating characteristics: many repetitions of noisy tables, one objective a repetition -----------------------

# Every sign that a verdict speaks of, I included, is at least six of its standard errors from 0; a platform has noise 1, so
# with 16 seeds an effect has standard error 0.35 and an interaction 0.5.
NOISY = {
    "reinforcing": (3, 3, 10),
    "redundant": (6, 6, 8.5),
    "working_against": (6, 5, 2.5),
    "compounding_harm": (-3, -3, -10),
    "saturating_harm": (-6, -6, -8.5),
    "remedy_amplified": (3, -7, 0),
    "remedy_undermined": (7, -3, 0.5),
    "reversing": (3, -3, -6),
}


@pytest.mark.parametrize("name", NOISY)
def test_the_right_verdict_where_effects_stand_out_of_the_noise(name):
    """200 repetitions, each on its own among 20 tests of which 19 are null, so that picking costs what it costs."""
    rng = np.random.default_rng(1)
    effects = np.zeros((3, 20))
    effects[:, 0] = NOISY[name]
    right = 0
    for _ in range(200):
        judged = _judge(*effects, noise=1.0, seeds=16, rng=rng)
        right += judged.codes[0, 1, 0] == CODES[name]
    assert right >= 0.95 * 200


def test_nothing_is_claimed_where_nothing_is():
    """Global null: 28 pairs, 21 objectives, correlated through shared platforms; any claim at all is a family-wise error."""
    rng = np.random.default_rng(2)
    repetitions, claimed, resolved = 200, 0, []
    for _ in range(repetitions):
        start, single, double = (
            rng.normal(size=(8, 1, 1, 1, 21)),
            rng.normal(size=(8, 8, 21)),
            rng.normal(size=(8, 8, 8, 21)),
        )
        alone = np.broadcast_to(single[:, :, None] + 3.0, (8, 8, 8, 21)) - start[:, :, 0]
        both = 6.0 + double - start[:, :, 0]
        judged = verdicts.judge(alone, both, better=np.ones(21), spread=np.full(21, 20.0))
        codes = judged.codes[np.triu_indices(8, 1)]
        claimed += bool(((codes != CODES["unresolved"]) & (codes != CODES["none"])).any())
        resolved.append(np.mean(codes == CODES["none"]))
    assert claimed <= 0.05 * repetitions
    assert np.mean(resolved) < 0.3  # eight seeds are not enough to call these pairs free of interaction


def test_false_none_is_rare_at_the_edge_of_the_margin():
    rng = np.random.default_rng(3)
    judged = _judge(np.full(4000, 3.0), 3.0, 6.5, noise=0.2, seeds=12, rng=rng)  # I = 0.5 = margin
    share = np.mean(judged.codes[0, 1] == CODES["none"])
    assert 0.01 < share < 0.035  # one-sided: half of 1 - confidence


def test_on_the_border_between_two_verdicts_nothing_wrong_is_claimed():
    """b_ij = b_i exactly is redundant: rarely called working against; b_j = 0 exactly leaves the role of j open."""
    rng = np.random.default_rng(4)
    judged = _judge(np.full(2000, 6.0), 4.0, 6.0, noise=1.0, seeds=16, rng=rng)
    names = np.array(_names(judged))
    assert np.mean(names == "working_against") < 0.05
    assert set(names) <= {"working_against", "unresolved", "redundant"}
    judged = _judge(np.full(2000, 6.0), 0.0, 12.0, noise=1.0, seeds=16, rng=rng)
    names = np.array(_names(judged))
    assert np.mean(names == "conditional") > 0.9
    # the wrong ones give j a sign that it has not
    assert set(names) <= {"conditional", "reinforcing", "reversing"}


def test_effects_of_one_while_the_other_is_frozen_and_while_it_learns():
    rng = np.random.default_rng(6)
    values = rng.normal(0.0, 0.1, (12, 2, 2, 2)) + rng.normal(0.0, 5.0, (12, 1, 1, 2))
    values[:, 1, 0] += [-3.0, 1.0]  # while frozen
    values[:, 1, 1] += [-1.0, 1.0]  # while it learns
    values[:, :, 1] += 7.0  # learning itself does something; the contrast is not about that
    contrast = verdicts.learning_contrast(values)
    for each, truth in ((contrast.frozen, [-3, 1]), (contrast.learning, [-1, 1]), (contrast.difference, [2, 0])):
        assert ((each.low < truth) & (truth < each.high)).all()
    assert contrast.difference.p[0] < 1e-6 < 0.05 < contrast.difference.p[1]
    assert list(equivalent(contrast.difference, margin=0.2)) == [False, True]
