"""Shipped data, the catalogue, parts and popularity."""

import hashlib
import importlib.resources
import re

import numpy as np
import pytest

from mamba import datasets
from mamba.world import network

DATA = importlib.resources.files("mamba.datasets") / "data"


@pytest.fixture(scope="module")
def twitch() -> datasets.Dataset:
    return datasets.load("twitch_engb")


def test_every_entry_loads_and_matches_its_line():
    for entry in datasets.catalogue():
        loaded = datasets.load(entry.name)
        assert (loaded.name, loaded.title, loaded.source) == (entry.name, entry.title, entry.source)
        assert loaded.licence == entry.licence and loaded.attribution == entry.attribution
        numbers = {int(number.replace(",", "")) for number in re.findall(r"[\d,]*\d", entry.size)}
        if entry.kind == "network":
            assert isinstance(loaded, datasets.Dataset)
            assert loaded.features is not None
            n_features = len(np.unique(loaded.features[:, 1]))
            assert numbers == {loaded.n_users, len(loaded.edges), len(loaded.edges) // 2, n_features}
        else:
            assert isinstance(loaded, datasets.Conversation)
            assert numbers == {loaded.n_voters, loaded.n_statements, len(loaded.vote)}


def test_shipped_files_have_a_licence_and_the_digest_in_the_readme():
    readme = (DATA / "README.md").read_text(encoding="utf-8")
    files = [file for file in DATA.iterdir() if file.name.endswith(".npz")]
    assert {file.name[:-4] for file in files} == {entry.name for entry in datasets.catalogue()}
    for file in files:
        line = next(line for line in readme.splitlines() if line.startswith(f"| `{file.name}`"))
        assert hashlib.sha256(file.read_bytes()).hexdigest() in line
        licence = re.search(r"`(LICENSES/[^`]+)`", line)
        assert licence and len((DATA / licence[1]).read_text(encoding="utf-8")) > 1000
    for entry in datasets.catalogue():
        assert entry.attribution
    assert "The Computational Democracy Project" in readme and "Benedek Rozemberczki" in readme


def test_unknown_name_lists_the_nearest_and_all():
    with pytest.raises(
        ValueError, match="'twich_engb'; did you mean 'twitch_engb'\\? known: twitch_engb, twitch_es, polis_vtaiwan"
    ):
        datasets.load("twich_engb")
    with pytest.raises(ValueError, match="'qqq'; known: twitch_engb"):
        datasets.load("qqq")


def test_twitch_is_a_symmetric_connected_graph(twitch):
    assert (twitch.n_users, len(twitch.edges)) == (7126, 70_648)
    np.testing.assert_array_equal(network.check_edges(twitch.edges, twitch.n_users), twitch.edges)
    np.testing.assert_array_equal(network.symmetrise(twitch.edges), twitch.edges)
    assert len(network.largest_component(twitch.edges, twitch.n_users)) == twitch.n_users
    assert network.in_degree(twitch.edges, twitch.n_users).max() == 720
    assert abs(twitch.mature.mean() - 0.546) < 1e-3
    for column in (twitch.mature, twitch.partner, twitch.days, twitch.views):
        assert column.shape == (7126,)
    assert twitch.features[:, 0].max() < 7126 and twitch.features.min() >= 0


@pytest.mark.parametrize("name", ["polis_vtaiwan_uberx", "polis_football_concussions"])
def test_conversation_ids_are_in_range(name):
    talk = datasets.load(name)
    assert talk.voter.min() >= 0 and talk.voter.max() < talk.n_voters
    assert talk.statement.min() >= 0 and talk.statement.max() < talk.n_statements
    assert set(np.unique(talk.vote)) == {-1, 0, 1}
    assert talk.voter_group.shape == (talk.n_voters,) and set(np.unique(talk.voter_group)) == {-1, 0, 1}
    assert talk.statement_author.shape == talk.statement_time_s.shape == (talk.n_statements,)
    assert talk.statement_author.max() < talk.n_voters and talk.time_s.min() >= 0
    assert set(np.unique(talk.statement_moderated)) <= {-9, -1, 0, 1}


def test_part_relabels_every_column(twitch):
    small = datasets.part(twitch, 300, seed=0)
    assert small.n_users == 300 and small.name == twitch.name
    ids = small.original_ids
    original = {tuple(row) for row in twitch.edges.tolist()}
    assert {tuple(row) for row in ids[small.edges].tolist()} <= original
    inside = np.isin(twitch.edges, ids).all(axis=1)
    assert len(small.edges) == inside.sum()
    for column in ("mature", "partner", "days", "views"):
        np.testing.assert_array_equal(getattr(small, column), getattr(twitch, column)[ids])
    user = 17
    mine = set(small.features[small.features[:, 0] == user, 1].tolist())
    assert mine and mine == set(twitch.features[twitch.features[:, 0] == ids[user], 1].tolist())
    assert len(network.largest_component(small.edges, 300)) == 300
    smaller = datasets.part(small, 40, seed=1)
    np.testing.assert_array_equal(smaller.views, twitch.views[smaller.original_ids])


def test_part_without_columns():
    plain = datasets.from_edges(np.array([[0, 1], [1, 2], [2, 3], [5, 6]]))
    small = datasets.part(plain, 100, seed=0)
    np.testing.assert_array_equal(small.original_ids, [0, 1, 2, 3])
    assert small.features is None and small.views is None


def test_popularity_is_views_or_followers_plus_one(twitch):
    np.testing.assert_array_equal(datasets.popularity(twitch), twitch.views)
    plain = datasets.from_edges(np.array([[0, 2], [1, 2], [2, 0]]))
    np.testing.assert_array_equal(datasets.popularity(plain), np.array([2, 1, 3], np.float32))


def test_records_are_frozen(twitch):
    with pytest.raises(AttributeError):
        twitch.n_users = 3
