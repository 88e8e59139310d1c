"""Populations: what a configuration asks for is what comes out, and the null model keeps degrees and nothing else."""

from dataclasses import replace

import chex
import numpy as np
import pytest

from mamba import datasets
from mamba.scenarios import populations
from mamba.scenarios.settings import ScenarioConfig

SMALL = ScenarioConfig(users=300)


@pytest.fixture(scope="module")
def real():
    return populations.load(SMALL, seed=3)


def test_sizes_and_ranges(real):
    people, sizes = real.population, real.sizes
    assert (sizes.users, sizes.creators) == (300, 60)
    assert people.innate.shape == (sizes.topics, 300) and np.abs(people.innate).max() <= 1
    assert people.strategy.shape == (60, sizes.topics + 4)
    assert people.followees.min() >= 0 and people.followees.max() < 300
    assert np.all(np.diff(people.followers[:60]) <= 0) or people.followers[:60].mean() > people.followers[60:].mean()
    # a padded row holds the followees first; nobody follows themselves
    assert not np.any((people.followees == np.arange(300)[:, None]) & (people.weight > 0))


def test_the_same_seed_is_the_same_population(real):
    again = populations.load(SMALL, seed=3)
    chex.assert_trees_all_equal(real.population, again.population)


def test_rewired_ties_keep_degrees_and_lose_who_knows_whom(real):
    null = populations.load(replace(SMALL, ties="rewired"), seed=3)
    assert null.sizes == real.sizes and "same degrees" in null.story["network"]
    np.testing.assert_array_equal(np.sort(null.population.followers), np.sort(real.population.followers))

    def pairs(people):
        reader, slot = np.nonzero(people.weight > 0)
        return {(int(u), int(people.followees[u, k])) for u, k in zip(reader, slot, strict=True)}

    def mutual(people):
        ties = pairs(people)
        return np.mean([(b, a) in ties for a, b in ties])

    # friendships stand both ways; ties drawn anew seldom do
    assert mutual(real.population) > 2 * mutual(null.population)


def test_a_conversation_is_not_a_network():
    with pytest.raises(ValueError, match="is a conversation, not a network"):
        populations.load(ScenarioConfig(dataset="polis_vtaiwan_uberx"), seed=0)
    with pytest.raises(ValueError, match="is a network, not a conversation"):
        populations.load(ScenarioConfig(users=100, opinions="twitch_engb"), seed=0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"users": 1}, "scenario.users: 1 leaves nobody to follow; give at least 2, or 0 for everyone"),
        (
            {"dataset": "twitch_engbb"},
            "scenario.dataset: no network is called 'twitch_engbb'. Did you mean 'twitch_engb'? Known: twitch_engb",
        ),
        ({"dataset": "twitch"}, ", or the path of a file such as follows.csv"),
        (
            {"opinions": "gausian", "users": 50},
            "scenario.opinions: no conversation is called 'gausian'. Did you mean 'gaussian'? Known: gaussian, polis",
        ),
        ({"topics": 64, "users": 50}, "scenario.topics: "),
        ({"dataset": "polis_vtaiwan_uberx"}, "scenario.dataset: polis_vtaiwan_uberx is a conversation"),
    ],
)
def test_what_cannot_be_used_names_the_setting(changed, message):
    with pytest.raises(ValueError) as error:
        populations.load(replace(SMALL, **changed), seed=0)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_edge_lists_are_read_and_cleaned_from_a_configuration(tmp_path):
    path = tmp_path / "follows.csv"
    path.write_text("who,whom\n5,9000\n7,5\n7,7\n9000,7\n", encoding="utf-8")
    mine = replace(SMALL, dataset=str(path), opinions="gaussian", users=0)
    with pytest.raises(
        ValueError, match=r"^scenario\.dataset: .*scenario\.reader_column=\.\.\. and scenario\.source_column"
    ):
        populations.load(mine, seed=0)
    named = replace(mine, reader_column="who", source_column="whom")
    with pytest.raises(ValueError, match=r"ids are sparse.*scenario\.clean_edges=true"):
        populations.load(named, seed=0)
    scenario = populations.load(replace(named, clean_edges=True), seed=0)
    assert scenario.sizes.users == 3 and "3 follow edges" in scenario.story["network"]
    path.write_text("0,1\n1,1\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"self-loop.*scenario\.clean_edges=true"):
        populations.load(mine, seed=0)
    path.write_text("1,1\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"no edges; give at least one"):
        populations.load(replace(mine, clean_edges=True), seed=0)
    with pytest.raises(FileNotFoundError, match=r"^scenario\.dataset: .*no such file"):
        populations.load(replace(mine, dataset=str(tmp_path / "absent.csv")), seed=0)


def test_a_network_of_ones_own_gives_what_its_file_gives(tmp_path):
    path = tmp_path / "follows.csv"
    edges = datasets.load("twitch_es").edges
    np.savetxt(path, edges, fmt="%d", delimiter=",", header="reader,source", comments="")
    for config in (replace(SMALL, users=0), SMALL, replace(SMALL, ties="rewired")):
        there = populations.load(replace(config, dataset=str(path)), seed=3)
        for mine in (datasets.from_edges(path), datasets.from_edges(edges)):
            # what the configuration names is not looked at
            given = populations.load(replace(config, dataset="absent.csv"), seed=3, dataset=mine)
            chex.assert_trees_all_equal(given.population, there.population)
            assert given.sizes == there.sizes


def test_a_packaged_network_given_is_the_one_named(real):
    given = populations.load(SMALL, seed=3, dataset=datasets.load("twitch_engb"))
    chex.assert_trees_all_equal(given.population, real.population)
    assert given.story == real.story and given.sizes == real.sizes


def test_what_is_given_must_be_a_network():
    with pytest.raises(ValueError, match=r"^dataset: Conversation is not a network; give a Dataset"):
        populations.load(SMALL, seed=0, dataset=datasets.load("polis_vtaiwan_uberx"))
    broken = replace(datasets.from_edges([(0, 1), (1, 2)]), n_users=2)
    with pytest.raises(ValueError, match=r"^dataset\.edges: .*n_users = 2"):
        populations.load(SMALL, seed=0, dataset=broken)


def test_a_generated_network_needs_no_data():
    config = ScenarioConfig(dataset="generated", users=90, mean_degree=4)
    made = populations.load(config, seed=3)
    assert made.sizes.users == 90
    assert made.story["network"] == "a generated network: all users, 344 follow edges"  # 4 by each but the first 4
    chex.assert_trees_all_equal(made.population, populations.load(config, seed=3).population)
    with pytest.raises(ValueError, match=r"scenario.users to be more than scenario.mean_degree \(10\), got 0"):
        populations.load(ScenarioConfig(dataset="generated"), seed=0)
