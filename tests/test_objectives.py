"""Every objective by hand, and what the table of objectives promises."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_finite

from mamba import objectives
from mamba.types import Sizes
from mamba.world import measures

USERS = 10
METRICS = {
    name: jnp.asarray(values, jnp.float32)
    for name, values in {
        "exposures": [40.0, 60.0],
        "clicks": [10.0, 5.0],
        "toxic_exposures": [4.0, 1.0],
        "false_exposures": [8.0, 12.0],
        "false_reshares": [1.0, 3.0],
        "wellbeing": [0.2, -0.4],
        "trust": [0.7, 0.5],
        "retention": [0.6, 0.5],
        "polarisation": [0.1, 0.3],
        "exposure_diversity": [0.9, 0.8],
        "creator_inequality": [0.4, 0.5],
        "exposure_disparity": [0.2, 0.1],
        "exposures_by_group": [[30.0, 10.0], [20.0, 40.0]],
        "toxic_exposures_by_group": [[4.0, 0.0], [1.0, 0.0]],
        "false_removals": [1.0, 2.0],
        "benign_posts": [20.0, 10.0],
        "false_removals_by_group": [[1.0, 0.0], [0.0, 2.0]],
        "benign_posts_by_group": [[10.0, 10.0], [10.0, 0.0]],
        "violating_posts": [2.0, 3.0],
        "live_violations": [4.0, 11.0],
        "posts": [22.0, 13.0],
        "overturned": [0.0, 1.0],
        "reviews": [5.0, 7.0],
        "ties_looked_at": [10.0, 8.0],
        "opinion_variance": [0.2, 0.4],
        "tie_distances": [1.5, 1.2],
        "ties_replaced": [2.0, 1.0],
    }.items()
}
BY_HAND = {
    "engagement_per_user": 15 / (10 * 2),
    "engagement_per_impression": 15 / 100,
    "retention": 0.5,
    "polarisation": 0.3,
    "exposure_diversity": 0.8,
    "toxic_exposure_per_user": 5 / 20,
    "toxic_exposure_per_impression": 5 / 100,
    "misinformation_exposure_per_user": 20 / 20,
    "misinformation_exposure_per_impression": 20 / 100,
    "misinformation_reshares_per_user": 4 / 20,
    "misinformation_reshares_per_impression": 4 / 100,
    "wellbeing": -0.1,
    "trust": 0.6,
    "creator_inequality": 0.5,
    "exposure_disparity": 0.1,
    "toxic_exposure_gap": 5 / 50 - 0 / 50,
    "false_removal_rate": 3 / 30,
    "false_removal_gap": 2 / 10 - 1 / 20,
    "violation_lifetime": 15 / 5,
    "overturned_appeals": 1 / 35,
    "reviewer_load": 12 / 20,
}


def test_every_objective_is_checked_here():
    assert set(BY_HAND) == set(objectives.NAMES) == set(objectives.OBJECTIVES)


@pytest.mark.parametrize("name", objectives.NAMES)
def test_formula(name):
    got = objectives.OBJECTIVES[name].of(METRICS, USERS)
    assert got.shape == () and got.dtype == jnp.float32
    np.testing.assert_allclose(got, BY_HAND[name], rtol=1e-5, atol=1e-7)


def test_traits_of_the_network():
    by_hand = {"assortativity": 1 - (2.7 / 18) / (2 * 0.3), "ties_replaced": 3 / 20}
    got = objectives.traits(METRICS, USERS)
    np.testing.assert_allclose(got, [by_hand[name] for name in objectives.NETWORK], rtol=1e-5)
    alone = METRICS | {name: jnp.zeros(2) for name in ("ties_looked_at", "tie_distances", "ties_replaced")}
    np.testing.assert_array_equal(objectives.traits(alone, USERS), 0.0)


def test_evaluate_is_in_the_order_of_names():
    values = objectives.evaluate(METRICS, USERS)
    np.testing.assert_allclose(values, [BY_HAND[name] for name in objectives.NAMES], rtol=1e-5, atol=1e-7)
    sign = objectives.benefit_sign()
    assert sign.shape == values.shape
    assert all(
        (objectives.OBJECTIVES[n].better == "higher") == (s == 1) for n, s in zip(objectives.NAMES, sign, strict=True)
    )


def test_nothing_at_all_is_not_a_division_by_zero():
    empty = jax.tree.map(jnp.zeros_like, METRICS)
    assert_finite(objectives.evaluate(empty, USERS))
    assert_finite(jax.jacfwd(lambda m: objectives.evaluate(m, USERS))(empty))


@pytest.mark.parametrize("name", objectives.NAMES)
def test_documentation(name):
    objective = objectives.OBJECTIVES[name]
    for field in ("label", "formula", "unit", "source"):
        assert len(getattr(objective, field)) > 3, field
    assert objective.better in ("lower", "higher")


def test_exposure_objectives_come_in_pairs():
    per_user = {name.removesuffix("_per_user") for name in objectives.NAMES if name.endswith("_per_user")}
    per_impression = {
        name.removesuffix("_per_impression") for name in objectives.NAMES if name.endswith("_per_impression")
    }
    assert per_user == per_impression
    assert {"toxic_exposure", "misinformation_exposure", "misinformation_reshares", "engagement"} <= per_user


@pytest.mark.parametrize(
    ("values", "want"),
    [([1.0, 1.0, 1.0, 1.0], 0.0), ([0.0, 0.0, 0.0, 5.0], 0.75), ([1.0, 2.0, 3.0, 4.0], 0.25), ([0.0, 0.0], 0.0)],
)
def test_gini(values, want):
    np.testing.assert_allclose(measures.gini(jnp.asarray(values)), want, atol=1e-6)
    np.testing.assert_allclose(measures.gini(7.0 * jnp.asarray(values[::-1])), want, atol=1e-6)


def test_normalised_entropy():
    mix = jnp.asarray([[1.0, 1.0, 2.0], [1.0, 0.0, 1.0], [1.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    want = [1.0, 0.0, 1.5 * np.log(2) / np.log(4)]
    np.testing.assert_allclose(measures.normalised_entropy(mix), want, atol=1e-4)
    np.testing.assert_array_equal(measures.normalised_entropy(jnp.ones((1, 3))), 1.0)
    assert_finite(jax.grad(lambda m: jnp.sum(measures.normalised_entropy(m)))(jnp.zeros((4, 3))))


def test_removals_against_the_truth():
    # two creators of two groups, items of two steps; the first creator's items are benign, the second's are not
    sizes = Sizes(users=2, creators=2, lifetime=2, groups=2)
    people = SimpleNamespace(group=jnp.asarray([0, 1], jnp.int32))
    removed, verdict = jnp.asarray([0.5, 1.0, 0.0, 0.5]), jnp.asarray([0.0, 1.0, 0.0, 1.0])
    got = measures.removals(
        removed,
        removed * jnp.asarray([1.0, 0.0, 1.0, 0.0]),
        0.4 * removed,
        verdict,
        jnp.asarray([1.0, 0.5, 1.0, 0.5]),
        jnp.asarray([0.0, 1.0, 0.0, 0.8]),
        jnp.asarray([1.0, 0.5]),
        jnp.asarray([0.0, 1.0]),
        people,
        sizes,
    )
    want = {
        "removed": 2.0,
        "posts": 1.5,
        "false_removals": 0.5,
        "benign_posts": 1.0,
        "violating_posts": 0.5,
    }
    want |= {"appeals": 0.8, "overturned": 0.2, "live_violations": 0.9}
    assert {name: float(value) for name, value in got.items() if not name.endswith("group")} == pytest.approx(want)
    np.testing.assert_allclose(got["false_removals_by_group"], [0.5, 0.0])
    np.testing.assert_allclose(got["benign_posts_by_group"], [1.0, 0.0])
