"""Populations: what a configuration asks for is what comes out, and the null model keeps degrees and nothing else."""

from dataclasses import replace

import jax
import numpy as np
import pytest

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
    for one, other in zip(jax.tree.leaves(real.population), jax.tree.leaves(again.population), strict=True):
        np.testing.assert_array_equal(one, other)


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
