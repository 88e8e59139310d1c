"""Every objective by hand, and what the table of objectives promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_finite

from mamba import objectives
from mamba.world import measures
from mamba.world.parameters import WorldParameters, as_arrays

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
}


def test_every_objective_is_checked_here():
    assert set(BY_HAND) == set(objectives.NAMES) == set(objectives.OBJECTIVES)


@pytest.mark.parametrize("name", objectives.NAMES)
def test_formula(name):
    got = objectives.OBJECTIVES[name].of(METRICS, USERS)
    assert got.shape == () and got.dtype == jnp.float32
    np.testing.assert_allclose(got, BY_HAND[name], rtol=1e-5, atol=1e-7)


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
    parameters = as_arrays(WorldParameters(harm_width=0.001))
    toxicity, veracity = jnp.asarray([0.9, 0.1, 0.1]), jnp.asarray([0.9, 0.9, 0.2])
    got = measures.removals(
        jnp.asarray([1.0, 1.0, 0.5]), toxicity, veracity, jnp.asarray([1.0, 0.5, 1.0]), toxicity, veracity, parameters
    )
    want = {"removed": 2.5, "false_removals": 1.0, "benign_posts": 0.5, "violating_posts": 2.0}
    assert {name: float(value) for name, value in got.items()} == pytest.approx(want)
