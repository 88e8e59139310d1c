"""Rollouts: segments, continuation, named cuts, modes, probes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    PLAIN,
    SIZES,
    STEPS,
    assert_finite,
    compile,
    everything,
    first,
    inputs,
    key,
    population,
    run,
    small,
)

from mamba import ecosystem as eco
from mamba import objectives, passing
from mamba.rollout import rollout
from mamba.types import item_column
from mamba.unroll import segment_length

# ---- segments and continuation ---------------------------------------------------------------------------------------


def test_segment_length_is_about_the_root():
    for steps in range(1, 400):
        length = segment_length(steps)
        assert 1 <= length <= steps
        assert -(-steps // length) + length <= 1.5 * (2 * np.sqrt(steps) + 1)
    # a divisor near the root is taken, so that there is no shorter last segment to compile
    assert [segment_length(steps) for steps in (36, 65, 100, 256, 1000)] == [6, 5, 10, 16, 25]


@functools.cache
def shorter(segment, steps):
    def body(given, state, seed, first_step):
        return rollout(everything(), given, key=seed, steps=steps, state=state, first_step=first_step, segment=segment)[
            :2
        ]

    return compile(body)  # like the whole: other optimisations round otherwise, and an event may flip


def test_two_halves_are_the_whole():
    # Segments of 2 (the default) against none at all, in two calls: bit for bit.
    whole_state, whole = run("sampled")(inputs(), first(), key())
    half = shorter(0, STEPS // 2)
    state, before = half(inputs(), first(), key(), jnp.int32(0))
    state, after = half(inputs(), state, key(), jnp.int32(STEPS // 2))
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), before, after)
    np.testing.assert_array_equal(joined["exposures"], whole["exposures"])
    for name, value in whole.items():
        # Two compilations may order the sum over users differently: counts are exact, sums of fractions to rounding.
        np.testing.assert_allclose(joined[name], value, rtol=2e-5, atol=1e-6, err_msg=name)
    for name in ("exposures", "clicks", "reshares", "reports", "removed"):
        np.testing.assert_array_equal(joined[name], whole[name], err_msg=name)
    np.testing.assert_allclose(state.world.users.opinion, whole_state.world.users.opinion, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("segment", [0, 1, 4, 6, 99])
def test_segments_change_nothing(segment):
    whole_state, whole = run("sampled")(inputs(), first(), key())
    state, metrics = shorter(segment, STEPS)(inputs(), first(), key(), jnp.int32(0))
    for name in ("exposures", "clicks", "reshares", "reports", "removed"):
        np.testing.assert_array_equal(metrics[name], whole[name], err_msg=name)
    for name, value in whole.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-5, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(state.world.users.opinion, whole_state.world.users.opinion, atol=1e-5)


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "soft"}, "mode 'soft' is unknown; known: sampled, expected, straight_through"),
        ({"cuts": ("learn", "people")}, "cut 'people' is unknown; known: learn, world, exposure, proposal, users"),
        ({"steps": 0}, "steps = 0 must be at least 1"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        rollout(everything(), inputs(), **({"key": key(), "steps": 2} | options))


# ---- cuts ------------------------------------------------------------------------------------------------------------

# One learner that ranks and proposes, in a world without slow variables, for two steps: small enough to compile often.
SOLO = eco.make({"engagement": small("engagement")}, sizes=SIZES._replace(nodes=8, in_network=3), mechanisms=PLAIN)
LEVERS = ("glitter", "sharpness", "weight_click", "weight_reshare")
OUTPUTS = ("exposures", "clicks", "toxic_exposures", "loss/engagement")


@functools.cache
def warm():
    """A state in which something is popular, something is known of everybody, and the learner has learned."""
    given, rng = eco.inputs(SOLO, population()), np.random.default_rng(0)
    state = compile(lambda: eco.init(SOLO, given, key()))()

    def noise(like):
        return jnp.asarray(rng.random(like.shape), like.dtype)

    items, mark, learned = state.world.items, state.world.footprint, state.learned[0]
    popularity = item_column("popularity", SIZES.topics)
    items = items.replace(table=items.table.at[:, popularity].set(3 * noise(items.reward)))
    world = state.world.replace(items=items, footprint=mark.replace(interest=noise(mark.interest)))
    return state.replace(world=world, learned=(learned._replace(weights=learned.weights + noise(learned.weights)),))


def loaded(x):
    """Inputs at `x` [6]: four levers, the gate (0.6 + x) and a world parameter."""
    given = eco.inputs(SOLO, population())
    levers = {name: given.levers["engagement"][name] + x[i] for i, name in enumerate(LEVERS)}
    return given.replace(
        levers={"engagement": levers},
        gates=given.gates * (0.6 + x[4]),
        parameters=given.parameters.replace(click_base=given.parameters.click_base + x[5]),
    )


def rows(metrics):
    return jnp.concatenate([metrics[name] for name in OUTPUTS])  # [4 T]


def differentiated(of):
    """`(values [4 T], jacobian [4 T, 6])`."""

    def body(x):
        def both(x):
            value = of(x)
            return value, value

        slope, value = jax.jacfwd(both, has_aux=True)(x)
        return value, slope

    return tuple(np.asarray(leaf) for leaf in compile(body)(jnp.zeros(6)))


@functools.cache
def with_cuts(*cuts):
    begin = warm()

    def of(x):
        told = {"key": key(), "mode": "expected", "state": begin, "first_step": 5, "segment": 0}
        return rows(rollout(SOLO, loaded(x), steps=2, cuts=cuts, **told)[1])

    return differentiated(of)


@functools.cache
def by_hand(part):
    """The same two steps with the derivative of one part of the state cut between them."""

    begin = warm()

    def of(x):
        given, told = loaded(x), {"key": key(), "mode": "expected", "cuts": frozenset()}
        state, one = eco.step(SOLO, given, begin, index=jnp.int32(5), **told)
        state = state.replace(**{part: jax.lax.stop_gradient(getattr(state, part))})
        _, two = eco.step(SOLO, given, state, index=jnp.int32(6), **told)
        return rows(jax.tree.map(lambda a, b: jnp.stack([a, b]), one, two))

    return differentiated(of)


FIRST = np.arange(len(OUTPUTS)) * 2  # rows of the first step


# Every cut is a program of its own.
CUTS = [
    pytest.param(cut, marks=pytest.mark.slow if cut in passing.WITHIN else ())
    for cut in (*passing.GROUPS, *passing.WITHIN)
]


@pytest.mark.parametrize("cut", CUTS)
def test_cuts_keep_values_and_change_derivatives(cut):
    value, slope = with_cuts()
    cut_value, cut_slope = with_cuts(cut)
    np.testing.assert_allclose(cut_value, value, rtol=1e-6)
    assert np.all(np.isfinite(slope)) and np.all(np.isfinite(cut_slope))
    assert np.max(np.abs(cut_slope - slope) / (np.max(np.abs(slope), axis=0) + 1e-9)) > 1e-4


@pytest.mark.parametrize(
    ("cut", "part"), [("learn", "learned"), pytest.param("world", "world", marks=pytest.mark.slow)]
)
def test_learn_and_world_cut_exactly_what_they_name(cut, part):
    _, slope = with_cuts(cut)
    _, want = by_hand(part)
    np.testing.assert_allclose(slope, want, rtol=1e-4, atol=1e-6)
    # nothing within a step is cut
    np.testing.assert_allclose(slope[FIRST], with_cuts()[1][FIRST], rtol=1e-5, atol=1e-7)


@functools.cache
def with_shares():
    """Jacobians of the same two steps under any shares [B]: one compilation."""
    begin = warm()

    def of(x, shares):
        told = {"key": key(), "mode": "expected", "state": begin, "first_step": 5, "segment": 0}
        return rows(rollout(SOLO, loaded(x), steps=2, passing=shares, **told)[1])

    return compile(lambda shares: jax.jacfwd(of)(jnp.zeros(6), shares))


def test_shares_of_zero_and_one_are_the_cuts():
    slope = with_shares()
    for cuts in ((), ("learn",), ("world",)):
        shares = passing.shares(SOLO, cuts)
        np.testing.assert_allclose(slope(shares), with_cuts(*cuts)[1], rtol=1e-4, atol=1e-6)
    learner, others = passing.shares(SOLO, ["learner/engagement"]), passing.shares(SOLO, ["learn"])
    np.testing.assert_array_equal(learner, others)


def test_a_share_scales_what_passes_and_zero_stops_what_is_not_finite():
    whole, half, none = (with_shares()(share * passing.shares(SOLO)) for share in (1.0, 0.5, 0.0))
    np.testing.assert_allclose(half, (whole + none) / 2, rtol=1e-4, atol=1e-6)  # one border between two steps
    slope = jax.grad(lambda x, share: 1.0 / passing.share_of(x, share))
    assert float(slope(jnp.float32(0.0), jnp.float32(0.0))) == 0.0 and not np.isfinite(slope(0.0, jnp.float32(1.0)))


def test_windows_stop_derivatives_at_their_borders():
    shares = passing.windows(passing.shares(SOLO, ["users"]), steps=5, window=2)
    np.testing.assert_array_equal(shares[:, 0], 0.0)  # what is stopped stays so
    np.testing.assert_array_equal(shares[:, 1], [0, 1, 0, 1, 0])
    with pytest.raises(ValueError, match="window = 0"):
        passing.windows(shares, steps=5, window=0)


def test_exposure_cuts_ranking_and_nothing_else():
    _, slope = with_cuts("exposure")
    seen = slice(0, 2)  # rows of `exposures`
    np.testing.assert_array_equal(slope[seen], 0.0)
    clicks = slice(2, 4)
    np.testing.assert_array_equal(slope[clicks, :5], 0.0)  # levers and gate act on clicks through exposure alone
    assert np.all(slope[clicks, 5] > 0.1)  # what people make of what they see is not cut
    np.testing.assert_allclose(slope[2, 5], with_cuts()[1][2, 5], rtol=1e-5)


def test_proposal_cuts_the_existence_of_proposals_and_nothing_else():
    _, slope = with_cuts("proposal")
    _, whole = with_cuts()
    # in the first step levers reach nothing through proposals; the gate does
    np.testing.assert_allclose(slope[FIRST][:, [0, 1, 2, 3, 5]], whole[FIRST][:, [0, 1, 2, 3, 5]], rtol=1e-5, atol=1e-7)
    assert abs(slope[0, 4] - whole[0, 4]) > 1e-3


# ---- modes and probes ------------------------------------------------------------------------------------------------


def test_straight_through_has_the_values_of_the_sampled_model():
    given = inputs()
    direction = jax.tree.map(jnp.ones_like, given.levers)

    def of(levers, state, seed):
        _, metrics, _ = rollout(
            everything(), given.replace(levers=levers), key=seed, steps=STEPS, mode="straight_through", state=state
        )
        return metrics

    def body(state, seed):
        return jax.jvp(lambda levers: of(levers, state, seed), (given.levers,), (direction,))

    metrics, slope = compile(body)(first(), key())
    hard = run("sampled")(given, first(), key())[1]
    for name in ("exposures", "clicks", "reshares", "reports", "removed"):
        np.testing.assert_array_equal(metrics[name], hard[name], err_msg=name)
    for name, value in hard.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-5, atol=1e-6, err_msg=name)
    assert_finite(slope)
    assert float(jnp.max(jnp.abs(slope["exposures"]))) > 0


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["expected", "straight_through"])
def test_reverse_mode_is_forward_mode(mode):
    given = inputs()

    def of(levers):
        _, metrics, _ = rollout(
            everything(), given.replace(levers=levers), key=key(), steps=STEPS, mode=mode, state=first()
        )
        return objectives.evaluate(metrics, SIZES.users)

    backward, forward = jax.jit(jax.jacrev(of))(given.levers), jax.jit(jax.jacfwd(of))(given.levers)
    assert_finite(backward)
    scale = np.max([np.abs(np.asarray(x)) for x in jax.tree.leaves(forward)], axis=0)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(backward), jax.tree.leaves(forward), strict=True):
        assert np.all(np.abs(np.asarray(a - b)) <= 1e-4 * scale + 1e-7), jax.tree_util.keystr(path)


def test_a_probe_sees_every_step():
    def probe(state, metrics):
        return {"clicks": metrics["clicks"], "opinion": state.world.users.opinion[0, :3]}

    given = eco.inputs(SOLO, population())

    def body(segment):
        return rollout(SOLO, given, key=key(), steps=3, segment=segment, probe=probe)

    state, metrics, probed = compile(lambda: body(2))()  # one whole segment and a shorter one
    assert metrics["clicks"].shape == (3,) and probed["opinion"].shape == (3, 3)
    np.testing.assert_array_equal(probed["clicks"], metrics["clicks"])
    np.testing.assert_array_equal(probed["opinion"][-1], state.world.users.opinion[0, :3])
