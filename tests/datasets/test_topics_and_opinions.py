"""Interests and opinions: laws, homophily, and agreement with the groups that Polis found."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from mamba import datasets
from mamba.world import network


def edge_correlation(values, edges):
    return np.corrcoef(values[edges[:, 0]], values[edges[:, 1]])[0, 1]


def auc(score, group):
    """Probability that a member of group 1 scores above one of group 0, whichever way the axis points."""
    ones, zeros = score[group == 1], score[group == 0]
    value = stats.mannwhitneyu(ones, zeros).statistic / (len(ones) * len(zeros))
    return max(value, 1 - value)


def normalised_entropy(mix):
    return stats.entropy(mix, axis=1) / np.log(mix.shape[1])


@pytest.fixture(scope="module")
def twitch():
    return datasets.load("twitch_engb")


@pytest.fixture(scope="module")
def vtaiwan():
    return datasets.load("polis_vtaiwan_uberx")


# --- topics -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_topics", [2, 8])
@pytest.mark.parametrize("with_features", [True, False])
def test_topics_are_interests_of_the_stated_entropy(twitch, n_topics, with_features):
    data = twitch if with_features else dataclasses.replace(twitch, features=None)
    mix = datasets.topics(data, n_topics)
    assert mix.shape == (twitch.n_users, n_topics) and mix.dtype == np.float32
    assert mix.min() >= 0
    np.testing.assert_allclose(mix.sum(axis=1), 1, atol=1e-6)
    assert abs(normalised_entropy(mix).mean() - 0.7) < 1e-3
    np.testing.assert_array_equal(mix, datasets.topics(data, n_topics))
    assert mix.mean(axis=0).min() > 0.4 / n_topics  # no topic is nobody's


def test_topics_from_features_do_not_depend_on_the_seed(twitch):
    np.testing.assert_allclose(datasets.topics(twitch, 6), datasets.topics(twitch, 6, seed=9), atol=1e-5)


def test_topics_recover_planted_tastes():
    rng = np.random.default_rng(0)
    taste = rng.integers(0, 3, 600)
    liked = 40 * taste[:, None] + rng.integers(0, 40, (600, 12))
    noise = rng.integers(0, 120, (600, 2))
    users = np.repeat(np.arange(600), 14)
    features = np.unique(np.stack([users, np.concatenate([liked, noise], axis=1).ravel()], axis=1), axis=0)
    plain = datasets.from_edges(network.erdos_renyi(600, 4, seed=0), n_users=600)
    mix = datasets.topics(dataclasses.replace(plain, features=features.astype(np.int32)), 3)
    centres = np.stack([mix[taste == k].mean(axis=0) for k in range(3)])
    nearest = ((mix[:, None] - centres) ** 2).sum(axis=-1).argmin(axis=1)
    assert (nearest == taste).mean() > 0.95


def test_topics_without_features_are_homophilous_and_seeded(twitch):
    plain = dataclasses.replace(twitch, features=None)
    mix = datasets.topics(plain, 5, seed=1)
    assert min(edge_correlation(mix[:, d], twitch.edges) for d in range(5)) > 0.15
    assert np.abs(mix - datasets.topics(plain, 5, seed=2)).max() > 0.1


def test_users_without_features_take_after_their_neighbours(twitch):
    bare = np.arange(0, twitch.n_users, 5)
    features = twitch.features[~np.isin(twitch.features[:, 0], bare)]
    mix = datasets.topics(dataclasses.replace(twitch, features=features), 4)
    crossing = twitch.edges[np.isin(twitch.edges[:, 0], bare) & ~np.isin(twitch.edges[:, 1], bare)]
    assert min(edge_correlation(mix[:, d], crossing) for d in range(4)) > 0.15
    assert abs(normalised_entropy(mix[bare]).mean() - 0.7) < 1e-3


def test_topics_of_a_part_and_at_the_limits(twitch):
    small = datasets.part(twitch, 30, seed=0)
    assert datasets.topics(small, 8).shape == (30, 8)
    np.testing.assert_array_equal(datasets.topics(small, 1), np.ones((30, 1)))
    with pytest.raises(
        ValueError, match=r"features of its 30 users have 30 independent.*n_topics = 31; ask for at most 30"
    ):
        datasets.topics(small, 31)
    with pytest.raises(ValueError, match="n_topics = 0; give at least 1"):
        datasets.topics(small, 0)
    with pytest.raises(ValueError, match="n_topics = 0; give at least 1"):
        datasets.topics(dataclasses.replace(small, features=None), 0)


# --- opinions ---------------------------------------------------------------------------------------------------------


def test_first_factor_separates_the_groups(vtaiwan):
    positions, groups = datasets.opinions(vtaiwan, 3)
    assert positions.shape == (1218, 3) and groups.shape == (1218,) and positions.dtype == np.float32
    assert auc(positions[:, 0], groups) >= 0.9
    hard = datasets.load("polis_football_concussions")
    assert auc(datasets.opinions(hard, 1)[0][:, 0], datasets.opinions(hard, 1)[1]) > 0.7


def test_positions_fill_the_range_and_ignore_the_seed(vtaiwan):
    positions, _ = datasets.opinions(vtaiwan, 3)
    assert np.abs(positions).max() == 1
    clipped = (np.abs(positions) == 1).mean(axis=0)
    assert (clipped > 0.005).all() and (clipped < 0.015).all()
    np.testing.assert_allclose(positions, datasets.opinions(vtaiwan, 3, seed=8)[0], atol=1e-5)
    np.testing.assert_allclose(positions[:, :2], datasets.opinions(vtaiwan, 2)[0], atol=1e-5)


def test_the_last_vote_of_a_pair_counts(vtaiwan):
    # A contrary copy of every vote, put last but cast earlier, must change nothing.
    columns = ("voter", "statement", "vote", "time_s")
    doubled = {name: np.concatenate([getattr(vtaiwan, name)] * 2) for name in columns}
    half = len(vtaiwan.vote)
    doubled["vote"][half:] *= -1
    doubled["time_s"][half:] -= 2 * 10**8
    same = dataclasses.replace(vtaiwan, **doubled)
    np.testing.assert_allclose(datasets.opinions(same, 2)[0], datasets.opinions(vtaiwan, 2)[0], atol=1e-5)


def test_opinions_refuse_too_many_factors(vtaiwan):
    for n_topics in (0, 197):
        with pytest.raises(ValueError, match=rf"n_topics = {n_topics} is outside \[1, 196\]"):
            datasets.opinions(vtaiwan, n_topics)


@pytest.mark.parametrize("homophily", [0.0, 0.5, 1.0])
def test_assigned_opinions_have_exactly_the_source_law(vtaiwan, twitch, homophily):
    positions, _ = datasets.opinions(vtaiwan, 2)
    assigned = datasets.assign_opinions(positions, twitch.edges, twitch.n_users, homophily=homophily, seed=0)
    assert assigned.shape == (twitch.n_users, 2) and assigned.dtype == np.float32
    levels = (np.arange(twitch.n_users) + 0.5) / twitch.n_users
    np.testing.assert_allclose(np.sort(assigned, axis=0), np.quantile(positions, levels, axis=0), atol=1e-6)
    for topic in range(2):
        assert stats.ks_2samp(assigned[:, topic], positions[:, topic]).statistic < 0.002


def test_edge_correlation_rises_with_homophily(vtaiwan, twitch):
    positions, _ = datasets.opinions(vtaiwan, 2)
    correlations = np.array(
        [
            [
                edge_correlation(column, twitch.edges)
                for column in datasets.assign_opinions(
                    positions, twitch.edges, twitch.n_users, homophily=homophily, seed=0
                ).T
            ]
            for homophily in (0.0, 0.25, 0.5, 0.75, 1.0)
        ]
    )
    assert np.abs(correlations[0]).max() < 0.03
    assert (np.diff(correlations, axis=0) > 0.04).all()
    assert correlations[-1].min() > 0.3


def test_hubs_are_as_extreme_as_others(twitch):
    uniform = np.linspace(-1, 1, 201)[:, None].repeat(20, axis=1)
    assigned = datasets.assign_opinions(uniform, twitch.edges, twitch.n_users, homophily=0.5, seed=0)
    degree = network.out_degree(twitch.edges, twitch.n_users)
    assert 0.9 < assigned[degree > 50].std() / assigned[degree < 5].std() < 1.1


def test_assigned_opinions_need_no_edges_and_obey_the_seed():
    source = np.linspace(-1, 1, 11)[:, None]
    first = datasets.assign_opinions(source, [], 50, homophily=1.0, seed=0)
    np.testing.assert_array_equal(first, datasets.assign_opinions(source, [], 50, homophily=1.0, seed=0))
    assert not np.array_equal(first, datasets.assign_opinions(source, [], 50, homophily=1.0, seed=1))


@pytest.mark.parametrize(
    ("positions", "options", "message"),
    [
        ([0.0, 1.0], {}, r"positions of shape \(2,\) must be"),
        ([[np.nan]], {}, "finite numbers"),
        ([[0.5]], {"homophily": 1.5}, r"homophily = 1.5 is outside \[0, 1\]"),
        ([[0.5]], {"rounds": 0}, "rounds = 0; give at least 1"),
        ([[0.5]], {"edges": [[0, 9]]}, "id not below n_users = 3"),
    ],
)
def test_assign_refuses_bad_input(positions, options, message):
    arguments = {"edges": [[0, 1]], "homophily": 0.5, "seed": 0} | options
    with pytest.raises(ValueError, match=message):
        datasets.assign_opinions(positions, arguments.pop("edges"), 3, **arguments)
