"""Phase diagrams of known functions, and of a platform."""

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamba import ecosystem as eco
from mamba import objectives
from mamba.interactions import axes, phases
from mamba.rollout import rollout

_A = phases.Lever("a", np.linspace(0, 1, 11), np.linspace(0, 1, 11))
_B = phases.Lever("b", np.linspace(0, 2, 6), np.linspace(0, 2, 6))


def _diagram(function, *, noise=0.0, chunk=64, layout="loop"):
    def value(scale, a, b, key):
        return scale * function(a, b) + noise * jax.random.normal(key, (1,))

    run = helpers.compile(phases.cells(value, layout=layout))
    return phases.diagram(
        run, jnp.float32(1), first=_A, second=_B, keys=jax.random.split(helpers.key(), 6), chunk=chunk
    )


@pytest.mark.parametrize(("chunk", "layout"), [(64, "loop"), (7, "vmap"), (1000, "vmap")])
def test_cells_land_where_their_levers_are(chunk, layout):
    found = _diagram(lambda a, b: jnp.stack([a + 10 * b]), chunk=chunk, layout=layout)
    expected = _A.values[:, None] + 10 * _B.values[None]
    assert found.values.shape == (6, 11, 6, 1)
    np.testing.assert_allclose(found.mean[..., 0], expected, rtol=1e-6)
    np.testing.assert_allclose(found.error, 0.0, atol=1e-12)
    assert not found.fast.any()  # an even slope has no ridge


def test_regimes_meet_at_a_ridge():
    """tanh of 20 (a - 0.55) changes between the cells 5 and 6 of a, for every b."""
    found = _diagram(lambda a, b: jnp.stack([jnp.tanh(20 * (a - 0.55)) + 0.01 * b]), noise=0.02)
    expected = np.zeros((11, 6), bool)
    expected[5:7] = True
    assert found.fast[expected, 0].mean() > 0.4  # the ridge is two cells wide, and noise decides which is the higher
    assert found.fast[..., 0][5:7].any(axis=0).all()
    assert not found.fast[~expected].any()


def test_noise_alone_has_no_ridge():
    rng = np.random.default_rng(0)
    hits = [phases.fast_change(rng.normal(size=(6, 8, 8, 2)))[1].any() for _ in range(200)]
    assert np.mean(hits) <= 0.05


def test_a_diagram_needs_seeds():
    with pytest.raises(ValueError, match="at least 2 seeds"):
        phases.diagram(lambda *_: None, None, first=_A, second=_B, keys=jax.random.split(helpers.key(), 1))


# ---- platforms


def test_coordinates_and_values_are_inverse_and_the_present_is_found():
    ecosystem, given = helpers.everything(), helpers.inputs()
    for place, values in (
        ("levers/notification/strength", [0.1, 0.25, 0.4]),
        ("world/scroll", [0.5, 0.7]),
        ("gates/popularity", [0.0, 1.0]),
    ):
        axis = axes.Axis(place)
        there = axes.coordinates(ecosystem, axis, values)
        np.testing.assert_allclose(axes.shown(ecosystem, axis, there), values, rtol=1e-5)
        moved = axes.moved(ecosystem, given, axis=axis, coordinate=jnp.float32(there[0]))
        assert float(axes.present(ecosystem, moved, axis)) == there[0]
    assert np.isnan(axes.shown(ecosystem, axes.Axis("levers/notification/strength"), np.array([np.nan]))[0])


def test_axes_name_their_place_and_range():
    ecosystem = helpers.everything()
    found = axes.coordinates(ecosystem, axes.Axis("levers/notification/strength"), [0.1, 0.25])
    np.testing.assert_allclose(0.5 * jax.nn.sigmoid(found), [0.1, 0.25], rtol=1e-6)
    np.testing.assert_array_equal(
        axes.coordinates(ecosystem, axes.Axis("levers/notification/strength", unconstrained=True), [3.0]), [3.0]
    )
    assert axes.unit(ecosystem, axes.Axis("levers/notification/strength")) == "probability"
    for place, values, message in (
        ("levers/notification/strenght", [0.1], "did you mean 'strength'"),
        ("levers/notification/strength", [0.5], "strictly between 0 and 0.5"),
        ("world/scrol", [0.1], "did you mean 'scroll'"),
        ("world/scroll", [1.0], "< 1"),
        ("gates/engagement", [1.5], "<= 1"),
        ("gates/nobody", [1.0], "algorithm 'nobody'"),
        ("scroll", [1.0], "must read"),
    ):
        with pytest.raises(ValueError, match=message):
            axes.coordinates(ecosystem, axes.Axis(place), values)


def test_a_diagram_of_a_platform_is_its_rollouts():
    """One compilation for a gate and a world parameter; the cell at the platform's own values is its own rollout."""
    ecosystem = eco.make({"popularity": helpers.small("popularity")}, sizes=helpers.SIZES, mechanisms=helpers.PLAIN)
    given = eco.inputs(ecosystem, helpers.population())
    scanned = (axes.Axis("gates/popularity"), axes.Axis("world/scroll"))

    def value(given, first, second, key):
        return axes.value(ecosystem, given, axes=scanned, coordinates=(first, second), key=key, steps=3)

    levers = [
        phases.Lever(axis.place, np.array(values), axes.coordinates(ecosystem, axis, values))
        for axis, values in zip(scanned, ([0.0, 1.0], [0.3, 0.8]), strict=True)
    ]
    keys = jax.random.split(helpers.key(), 2)
    run = helpers.compile(phases.cells(value))
    found = phases.diagram(run, given, first=levers[0], second=levers[1], keys=keys, chunk=4)
    assert found.mean.shape == (2, 2, len(objectives.NAMES))

    def rolled(given, key):
        return objectives.evaluate(rollout(ecosystem, given, key=key, steps=3)[1], helpers.SIZES.users)

    own = helpers.compile(rolled)
    np.testing.assert_allclose(found.values[1, 1, 1], own(given, keys[1]), rtol=1e-5, atol=1e-6)
    clicks = objectives.NAMES.index("engagement_per_user")
    assert np.all(found.mean[:, 1, clicks] > found.mean[:, 0, clicks])  # who scrolls on sees more


def test_every_kind_of_axis_moves_its_number_alone():
    ecosystem, given = helpers.everything(), helpers.inputs()
    for place in ("levers/notification/strength", "world/scroll", "gates/removal"):
        moved = axes.moved(ecosystem, given, axis=axes.Axis(place), coordinate=jnp.float32(0.125))
        changed = [
            jax.tree_util.keystr(path)
            for (path, a), (_, b) in zip(
                jax.tree_util.tree_leaves_with_path(moved), jax.tree_util.tree_leaves_with_path(given), strict=True
            )
            if not np.array_equal(a, b)
        ]
        assert len(changed) == 1, place
    assert eco.inputs(ecosystem, helpers.population()).gates[ecosystem.names.index("removal")] == 1
