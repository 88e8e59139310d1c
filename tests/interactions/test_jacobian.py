"""The Jacobian of a small platform against finite differences, and what is made of it."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SIZES, cached, compile, key, population

from mamba import ecosystem as eco
from mamba import members as mem
from mamba import objectives
from mamba.algorithms import registry
from mamba.interactions import game, jacobian
from mamba.interactions.externalities import externalities
from mamba.meta import constraints, evolution, players, systems, vector
from mamba.meta.players import own_metrics
from mamba.world.mechanisms import Mechanisms

STEPS = 5
KEYS = 6
OWN = {"popularity": "engagement_per_user", "notification": "retention", "removal": "toxic_exposure_per_user"}
# Without the draws that stay hard in expected mode (who posts, what is proposed and reshared, which tie is replaced)
# outcomes are smooth on every key, so that differences of outcomes must give derivatives.
ECOSYSTEM = eco.make(
    {
        "popularity": registry.make("popularity", proposals=0),
        "notification": registry.make("notification"),
        "removal": registry.make("removal"),
    },
    sizes=SIZES,
    mechanisms=Mechanisms(contagion="none", rewiring="none", posting="opinion"),
)
# Ranks, distances and extremes have kinks, where a difference is no derivative.
KINKED = ("creator_inequality", "exposure_disparity", "toxic_exposure_gap", "false_removal_gap")
ROWS = systems.outcome_names(ECOSYSTEM)


SMOOTH = np.array([name not in KINKED for name in ROWS])


def _inputs(**changes) -> eco.Inputs:
    return eco.inputs(ECOSYSTEM, population(), **changes)


def _keys() -> jax.Array:
    return jax.random.split(key(), KEYS)


def _owner() -> np.ndarray:
    return vector.owner(ECOSYSTEM, _inputs().levers)


@cached
def _run(warm_up: int = 0):
    # 8 tangents in chunks of 5: the last chunk is not full.
    return compile(jacobian.forward(ECOSYSTEM, steps=STEPS, warm_up=warm_up, chunk=5))


@cached
def _seen() -> jacobian.Jacobian:
    return jax.tree.map(np.asarray, _run()(_inputs(), _keys()))


@cached
def _evaluate():
    run = compile(jacobian.evaluator(ECOSYSTEM, steps=STEPS, mode="expected"))
    return lambda members: mem.in_chunks(run, _inputs(), members, chunk=16)


@cached
def _held():
    """Compiled `(levers that move the state, levers that are measured, key) -> outcomes [J + A]`."""

    def run(moving, measured, seed):
        given = _inputs()
        pair = jax.tree.map(lambda *x: jnp.stack(x), moving, measured)

        def one(carry, index):
            def step(levers):
                changed = replace(given, levers=levers)
                return eco.step(ECOSYSTEM, changed, carry, index=index, key=seed, mode="expected")

            after, metrics = jax.vmap(step)(pair)
            return jax.tree.map(lambda x: x[0], after), jax.tree.map(lambda x: x[1], metrics)

        _, metrics = jax.lax.scan(one, eco.init(ECOSYSTEM, given, seed), jnp.arange(STEPS, dtype=jnp.int32))
        return systems.outcomes(ECOSYSTEM, metrics)

    return compile(run)


def test_full_and_direct_are_the_slopes_of_outcomes_with_and_without_the_state_held():
    """Fourth-order differences in float32 (steps 0.1 and 0.2), one key, all levers and outcomes."""
    seen, centre = _seen(), np.asarray(vector.flat(_inputs().levers), np.float64)
    restore, seed = vector.unflat(_inputs().levers), _keys()[1]
    here = restore(jnp.asarray(centre, jnp.float32))

    def at(lever: int, away: float, moves: bool) -> np.ndarray:
        point = centre.copy()
        point[lever] += away
        levers = restore(jnp.asarray(point, jnp.float32))
        return np.asarray(_held()(levers if moves else here, levers, seed), np.float64)

    for moves, slopes in ((True, seen.full[1]), (False, seen.direct[1])):
        difference = np.stack(
            [
                (8 * (at(p, 0.1, moves) - at(p, -0.1, moves)) - (at(p, 0.2, moves) - at(p, -0.2, moves))) / 1.2
                for p in range(len(centre))
            ],
            axis=1,
        )
        # Rounding of a value by 1e-7 of its size moves a difference by ten times as much.
        noise = 3e-6 * np.maximum(np.abs(seen.value[1]), 1e-3)
        error = np.abs(difference - slopes)[SMOOTH]
        np.testing.assert_array_less(error, (noise[:, None] + 2e-3 * np.abs(slopes))[SMOOTH])
    assert np.abs(seen.full - seen.direct).max() > 0.1


def test_rows_and_levers_are_named():
    assert ROWS == (*objectives.NAMES, "loss/popularity", "loss/notification", "loss/removal")
    names = vector.names(_inputs().levers)
    assert [name.split("/")[0] for name in names] == [ECOSYSTEM.names[i] for i in _owner()]
    seen = _seen()
    assert seen.full.shape == seen.direct.shape == (KEYS, len(ROWS), len(names))
    members = mem.repeat(ECOSYSTEM, _inputs().levers, _keys())
    np.testing.assert_allclose(_evaluate()(members), seen.value, rtol=2e-6, atol=1e-7)


def test_a_closed_gate_leaves_no_derivative():
    given = _inputs(gates=[1.0, 1.0, 0.0])
    closed = jax.tree.map(np.asarray, _run()(given, _keys()))
    np.testing.assert_array_equal(closed.full[:, :, _owner() == 2], 0.0)
    np.testing.assert_array_equal(closed.direct[:, :, _owner() == 2], 0.0)
    assert np.any(closed.full[:, :, _owner() == 0] != 0)
    seen = externalities(closed, owner=_owner(), own=own_metrics(ECOSYSTEM, OWN))
    assert "do not move" in seen.reasons[2]


def test_mediated_share():
    share = jacobian.mediated_share(_seen())
    names = vector.names(_inputs().levers)
    there = np.isfinite(share)
    assert ((share >= 0) & (share <= 1))[there].all()
    # What a classifier loses depends on a threshold only through who is still there to be classified.
    np.testing.assert_array_equal(share[ROWS.index("loss/notification"), names.index("removal/speed")], 1.0)
    assert np.isnan(share[ROWS.index("reviewer_load")]).all()  # nobody reviews here
    with pytest.raises(ValueError, match="no direct part"):
        jacobian.mediated_share(_seen()._replace(direct=None))


def test_an_audit_of_the_same_model_agrees():
    """Hadamard design on the expected mode, sigma 0.1: what is left is curvature of third order and rounding."""
    settings = {"pairs": 8, "sigma": 0.1}
    values = _evaluate()(evolution.perturbed(_inputs(), _keys(), **settings))
    audit = jacobian.audited(values, n_levers=len(_owner()), n_keys=KEYS, **settings)
    assert audit.direct is None
    scale = np.abs(_seen().full).max(axis=(0, 2), keepdims=True) + 1e-4
    np.testing.assert_allclose((audit.full / scale)[:, SMOOTH], (_seen().full / scale)[:, SMOOTH], atol=0.03)
    np.testing.assert_allclose(audit.full.mean(axis=0), evolution.audit(
        values, n_parameters=len(_owner()), n_keys=KEYS, **settings
    ).jacobian, atol=1e-12)  # fmt: skip


def test_externalities_of_a_platform():
    own = own_metrics(ECOSYSTEM, OWN)
    seen = externalities(_seen(), owner=_owner(), own=own)
    assert "hardly" in seen.reasons[0]  # the trend of five steps says little about what people will click
    assert seen.reasons[1:] == ("", "")
    np.testing.assert_array_equal(np.diag(seen.algorithm.mean)[1:], 1.0)
    assert seen.objective.mean[objectives.NAMES.index("toxic_exposure_per_user"), 2] == -1.0
    rest = seen.direct.mean + seen.mediated.mean - seen.objective.mean
    np.testing.assert_allclose(rest[np.isfinite(rest)], 0.0, atol=1e-9)
    # A popularity ranker has no loss of its own, and that of the predictor behind notifications is moved by its lever.
    reasons = externalities(_seen(), owner=_owner(), own=own_metrics(ECOSYSTEM)).reasons
    assert "no own metric" in reasons[0]
    assert reasons[1] == ""


def test_the_game_of_a_platform():
    """Blocks of one player are Hessians of its loss, so they must come out symmetric."""
    slopes = game.platform_slopes(_run(), _inputs(), keys=_keys())
    theta = np.asarray(vector.flat(_inputs().levers), np.float64)
    weights = players.loss_weights(own_metrics(ECOSYSTEM, OWN), _seen().value)
    seen = game.view(slopes, theta, players=players.players_of(_owner(), weights), weights=weights)
    own_slopes = np.einsum("kr,srp->kp", weights, _seen().full) / KEYS
    np.testing.assert_allclose(seen.xi, own_slopes[_owner(), np.arange(len(theta))], rtol=1e-4, atol=1e-8)
    assert seen.asymmetry < 0.01
    assert 0 < seen.rotation < 1
    assert 0 < seen.rotation_error < 0.5
    assert not seen.at_equilibrium
    assert seen.coupling.shape == (3, 3)


def test_going_alone_on_a_platform():
    """Judged on the model and the keys they were found on, replies cannot hurt whoever replies, nor the joint move the goal."""
    slopes = game.platform_slopes(_run(), _inputs(), keys=_keys())
    theta = np.asarray(vector.flat(_inputs().levers), np.float64)
    weights = players.loss_weights(own_metrics(ECOSYSTEM, OWN), _seen().value)
    goal = constraints.goal({"toxic_exposure_per_user": 1.0, "retention": -1.0}, {})
    result = game.coordination(
        game.descent(slopes),
        game.platform_measure(_evaluate(), ECOSYSTEM, _inputs(), keys=_keys()),
        theta,
        players=players.players_of(_owner(), weights),
        weights=weights,
        goal=game.goal_weights(goal, _seen().value),
        radius=0.5,
        steps=3,
        rounds=1,
    )
    assert (result.gap.mean > 0).all()
    assert result.together.mean < 0
    assert result.price.mean == pytest.approx(result.alone.mean - result.together.mean)
    for point in (*result.replies, result.nash.levers, result.joint):
        assert np.abs(point - theta).max() <= 0.5 + 1e-6
    np.testing.assert_array_equal(result.replies[1][_owner() != 1], theta[_owner() != 1])


@pytest.mark.slow
def test_reverse_is_forward():
    """Also that the cuts `learn` and `world` are together the state held fixed, which forward mode does by itself."""
    back = jax.tree.map(np.asarray, compile(jacobian.reverse(ECOSYSTEM, steps=STEPS))(_inputs(), _keys()))
    for a, b in zip(back, _seen(), strict=True):
        scale = np.abs(b).max(axis=(0, 2) if b.ndim == 3 else 0, keepdims=True) + 1e-7
        np.testing.assert_allclose(a / scale, b / scale, atol=3e-5)
    weights = np.random.default_rng(0).normal(size=len(ROWS)).astype(np.float32)
    run = compile(jacobian.gradient(ECOSYSTEM, steps=STEPS))
    value, slope = run(_inputs(), vector.flat(_inputs().levers), jnp.asarray(weights), _keys())
    value = weights @ np.asarray(value)
    assert value == pytest.approx(weights @ _seen().value.mean(axis=0), rel=1e-5)
    expected = weights @ _seen().full.mean(axis=0)
    np.testing.assert_allclose(slope, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
def test_a_warm_start_is_held_fixed():
    """Differences of the evaluator, whose warm-up keeps the levers it was given, in the same fourth-order scheme."""
    run = compile(jacobian.evaluator(ECOSYSTEM, steps=STEPS, mode="expected", warm_up=3))
    seen = jax.tree.map(np.asarray, _run(3)(_inputs(), _keys()))
    lever = vector.names(_inputs().levers).index("removal/threshold")
    offsets = np.array([0.2, 0.1, 0.0, -0.1, -0.2])
    theta = vector.flat(_inputs().levers)
    moved = jnp.stack([theta.at[lever].add(offset) for offset in offsets])
    members = mem.repeat(ECOSYSTEM, _inputs().levers, jnp.repeat(_keys()[:1], len(offsets)))
    members = members._replace(levers=jax.vmap(vector.unflat(_inputs().levers))(moved))
    values = np.asarray(mem.in_chunks(run, _inputs(), members, chunk=5), np.float64)
    np.testing.assert_allclose(values[2], seen.value[0], rtol=2e-6, atol=1e-7)
    difference = (8 * (values[1] - values[3]) - (values[0] - values[4])) / 1.2
    noise = 3e-6 * np.maximum(np.abs(values[2]), 1e-3)
    slopes = seen.full[0, :, lever]
    np.testing.assert_array_less(np.abs(difference - slopes)[SMOOTH], (noise + 2e-3 * np.abs(slopes))[SMOOTH])
    assert np.abs(seen.value - _seen().value).max() > 1e-3
