"""The joint step: closed gates, common random numbers, books that balance, blocks of users."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    CORE,
    KEY,
    SIZES,
    STEPS,
    assert_finite,
    assert_same,
    compile,
    everything,
    first,
    gates,
    inputs,
    key,
    platform_with,
    population,
    run,
    small,
    values,
)

from mamba import ecosystem as eco
from mamba import objectives
from mamba.algorithms import registry
from mamba.rollout import rollout
from mamba.types import item_column
from mamba.world.parameters import WorldParameters, as_arrays

KINDS = tuple(registry.KINDS)
MODES = ("sampled", "expected")


def nudged(tree, seed=0, size=0.7):
    """A pytree with every inexact leaf moved at random."""
    rng = np.random.default_rng(seed)

    def move(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return leaf
        return leaf + jnp.asarray(size * rng.normal(size=leaf.shape), leaf.dtype)

    return jax.tree.map(move, tree)


@functools.cache
def closed(kind, mode):
    at = platform_with(kind)
    return values(run(mode, at)(inputs(at, gates=gates(at, **{kind: 0.0})), first(at), key())[1])


# Every platform is a program of its own in every mode: beyond the first two, and the first in the mean field, these are slow tests.
GATES = [
    pytest.param(kind, mode, marks=pytest.mark.slow if platform_with(kind) > (mode != "expected") else ())
    for mode in MODES
    for kind in KINDS
]


@pytest.mark.parametrize(("kind", "mode"), GATES)
def test_a_closed_gate_is_exactly_neutral(kind, mode):
    # With other levers and another learned state, hence other scores, proposals and hazards: nothing changes by a bit.
    at = platform_with(kind)
    place = everything(at).names.index(kind)
    state = first(at)
    learned = list(state.learned)
    learned[place] = nudged(learned[place])
    given = inputs(at, gates=gates(at, **{kind: 0.0}))
    given = given.replace(levers=given.levers | {kind: nudged(given.levers[kind])})
    after, metrics = run(mode, at)(given, state.replace(learned=tuple(learned)), key())
    np.testing.assert_array_equal(values(metrics), closed(kind, mode))
    assert_same(after.learned[place], learned[place])  # nor does it learn
    if mode == "sampled":
        return  # in so small a world a change of scores may flip no event
    # with the gate open the same change does matter
    changed = values(run(mode, at)(given.replace(gates=gates(at)), state.replace(learned=tuple(learned)), key())[1])
    assert not np.array_equal(changed, values(run(mode, at)(inputs(at), first(at), key())[1]))


@functools.cache
def platform(*kinds, mode="expected", prefix=""):
    """Objectives of a platform that has only these kinds."""
    ecosystem = eco.make({prefix + kind: small(kind) for kind in kinds}, sizes=SIZES)
    given = eco.inputs(ecosystem, population())

    def body(given, seed):
        return rollout(ecosystem, given, key=seed, steps=STEPS, mode=mode, segment=0)[1]

    return functools.partial(compile(body), given)


def only(*kinds):
    return inputs(gates=gates(**{kind: float(kind in kinds) for kind in CORE}))


@pytest.mark.parametrize("kinds", [(), ("engagement",)], ids=["none", "engagement"])
def test_a_closed_gate_is_a_platform_built_without(kinds):
    # The same noise, whatever else is deployed: five of seven or all seven algorithms are there with closed gates.
    with_gates = values(run("expected")(only(*kinds), first(), key())[1])
    without = values(platform(*kinds)(key()))
    np.testing.assert_allclose(with_gates, without, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CORE)
def test_each_closed_gate_is_a_platform_built_without(kind):
    rest = tuple(other for other in CORE if other != kind)
    np.testing.assert_allclose(closed(kind, "expected"), values(platform(*rest)(key())), rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_the_own_randomness_of_closed_algorithms_does_not_matter(mode):
    # Streams are named after algorithms, so other names are other randomness.
    ecosystem = eco.make({f"other {kind}": small(kind) for kind in CORE}, sizes=SIZES)
    given = eco.inputs(ecosystem, population(), gates=jnp.zeros(len(CORE)))

    def body(given, state, seed):
        return rollout(ecosystem, given, key=seed, steps=STEPS, mode=mode, state=state)[:2]

    want = values(run(mode)(only(), first(), key())[1])
    np.testing.assert_array_equal(values(compile(body)(given, first(), key())[1]), want)


@pytest.mark.slow
def test_platforms_that_differ_in_algorithms_see_the_same_sampled_noise():
    with_gates = run("sampled")(only("engagement"), first(), key())[1]
    without = platform("engagement", mode="sampled")(key())
    np.testing.assert_array_equal(with_gates["exposures"], without["exposures"])
    np.testing.assert_allclose(values(with_gates), values(without), rtol=1e-5, atol=1e-7)


def test_common_noise_makes_differences_precise():
    stronger = inputs()
    levers = stronger.levers | {"demotion": {n: v + 0.7 for n, v in stronger.levers["demotion"].items()}}
    stronger = stronger.replace(levers=levers)
    j = objectives.NAMES.index("toxic_exposure_per_impression")
    base = np.array([values(run("sampled")(inputs(), first(), key(s))[1])[j] for s in range(24)])
    other = np.array([values(run("sampled")(stronger, first(), key(s))[1])[j] for s in range(24)])
    assert np.var(other - base) < 0.5 * (np.var(base) + np.var(other))
    assert np.mean(other - base) < 0


def test_a_key_decides_everything_and_another_key_something_else():
    again = run("sampled")(inputs(), first(), key())
    assert_same(run("sampled")(inputs(), first(), key()), again)
    assert not np.array_equal(values(again[1]), values(run("sampled")(inputs(), first(), key(KEY + 1))[1]))


def test_a_half_open_gate_is_between():
    half = np.array([0.0, 0.5, 1.0])
    removed = [
        float(jnp.sum(run("expected")(inputs(gates=gates(removal=g)), first(), key())[1]["removed"])) for g in half
    ]
    assert removed[0] == 0 and 0 < removed[1] < removed[2]


def test_an_algorithm_that_does_not_learn_keeps_what_it_knows():
    given = inputs(learning=jnp.zeros(len(CORE)))
    for mode in MODES:
        assert_same(run(mode)(given, first(), key())[0].learned, first().learned)
    learned = run("sampled")(inputs(), first(), key())[0].learned
    assert not np.array_equal(learned[CORE.index("engagement")].weights, first().learned[2].weights)


@pytest.mark.parametrize("mode", MODES)
def test_the_books_balance(mode):
    state, metrics = run(mode)(inputs(), first(), key())
    memory, reach_memory = 0.9, 0.97
    ages = np.arange(STEPS)[::-1]

    def running(name, decay):
        return np.sum(decay**ages * np.asarray(metrics[name], np.float64))

    mark = state.world.footprint
    # every exposure and click reaches a creator, a user's footprint and the item, through gathers and scatters
    np.testing.assert_allclose(jnp.sum(mark.reach), running("exposures", reach_memory), rtol=1e-4)
    np.testing.assert_allclose(jnp.sum(mark.seen), running("exposures", reach_memory), rtol=1e-4)
    np.testing.assert_allclose(jnp.sum(mark.interest), running("clicks", memory), rtol=1e-4)
    np.testing.assert_allclose(jnp.sum(metrics["exposures_by_group"], axis=1), metrics["exposures"], rtol=1e-5)
    np.testing.assert_allclose(
        jnp.sum(metrics["toxic_exposures_by_group"], axis=1), metrics["toxic_exposures"], rtol=1e-5
    )
    assert np.all(np.asarray(metrics["clicks"]) <= np.asarray(metrics["exposures"]))
    assert np.all(np.asarray(metrics["reshares"]) <= np.asarray(metrics["clicks"]))
    assert np.all(np.asarray(metrics["toxic_exposures"]) <= np.asarray(metrics["exposures"]))
    assert np.all(np.asarray(metrics["false_reshares"]) <= np.asarray(metrics["reshares"]))
    if mode == "sampled":
        for name in ("exposures", "clicks", "reshares", "reports", "removed"):
            np.testing.assert_array_equal(metrics[name], np.round(metrics[name]), err_msg=name)


@pytest.mark.parametrize("mode", MODES)
def test_states_stay_in_their_ranges(mode):
    state, metrics = run(mode)(inputs(), first(), key())
    assert_finite((state.world, state.learned, metrics))
    users, items, ties = state.world.users, state.world.items, state.world.ties
    assert float(jnp.max(jnp.abs(users.opinion))) <= 1
    for name in ("trust", "resilience", "activity"):
        assert 0 <= float(getattr(users, name).min()) and float(getattr(users, name).max()) <= 1, name
    alive = items.table[:, item_column("alive", SIZES.topics)]
    assert float(alive.min()) >= 0 and bool(jnp.all(alive <= items.posted))
    np.testing.assert_allclose(jnp.sum(items.table[:, : SIZES.topics], axis=1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(ties.weight, population().weight)
    assert 0 <= float(state.world.outbox.weight.min()) and float(state.world.outbox.weight.max()) <= 1
    assert int(state.world.outbox.item.max()) < SIZES.items
    before, after = (jax.tree.leaves(s) for s in (first(), state))
    assert [(x.shape, x.dtype, x.weak_type) for x in before] == [(x.shape, x.dtype, x.weak_type) for x in after]


def test_numbers_do_not_recompile():
    for mode in MODES:
        run(mode)(inputs(), first(), key())
        before = run(mode)._cache_size()
        given = inputs(gates=gates(demotion=0.3), parameters=WorldParameters(scroll=0.6))
        given = given.replace(levers=nudged(given.levers, 3))
        state, _ = run(mode)(given, first(), key(5))
        run(mode)(given.replace(parameters=as_arrays(WorldParameters(click_base=-2.0))), state, key(6))
        assert run(mode)._cache_size() == before == 1


def test_parameters_matter():
    calm = run("expected")(inputs(parameters=WorldParameters(scroll=0.3)), first(), key())[1]
    keen = run("expected")(inputs(parameters=WorldParameters(scroll=0.9)), first(), key())[1]
    assert float(jnp.sum(keen["exposures"])) > 1.5 * float(jnp.sum(calm["exposures"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"creators": 61}, "sizes.creators = 61 must be between 1 and users = 60"),
        ({"recent": 7}, "sizes.recent = 7 is beyond the lifetime 6"),
        ({"outbox": 2**27}, "times outbox = 134217728 must be less than 2\\^31"),
        ({"user_block": -1}, "user_block = -1 must be at least 0"),
    ],
)
def test_contradicting_sizes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        eco.make({}, sizes=SIZES._replace(**change))


# ---- blocks of users -------------------------------------------------------------------------------------------------

BLOCK_KINDS = ("engagement",)


@functools.cache
def blocked(user_block):
    """Compiled `(levers, seed) -> (objectives, metrics, state, slopes)` where 60 users are served in blocks."""
    ecosystem = eco.make({kind: small(kind) for kind in BLOCK_KINDS}, sizes=SIZES._replace(user_block=user_block))
    given = eco.inputs(ecosystem, population())

    def of(levers, seed):
        state, metrics, _ = rollout(
            ecosystem, given.replace(levers=levers), key=seed, steps=STEPS, mode="expected", segment=0
        )
        return objectives.evaluate(metrics, SIZES.users), (metrics, state)

    def body(levers, seed):
        direction = jax.tree.map(jnp.ones_like, levers)
        value, slope, aux = jax.jvp(lambda x: of(x, seed), (levers,), (direction,), has_aux=True)
        return value, slope, *aux

    return functools.partial(compile(body), given.levers)


BLOCKS = [pytest.param(30, marks=pytest.mark.slow), 25]  # 25: three blocks, the last with 15 rows of padding


@pytest.mark.parametrize("user_block", BLOCKS)
def test_serving_in_blocks_is_the_same_in_law(user_block):
    seeds = range(16)
    whole = np.array([values(platform(*BLOCK_KINDS)(key(s))) for s in seeds])
    parts = np.array([np.asarray(blocked(user_block)(key(s))[0]) for s in seeds])
    gap = parts - whole
    error = gap.std(axis=0, ddof=1) / np.sqrt(len(gap)) + 1e-7
    worst = np.abs(gap.mean(axis=0)) / error
    assert np.all(worst < 4), dict(zip(objectives.NAMES, worst.round(1), strict=True))


@pytest.mark.parametrize("user_block", BLOCKS)
def test_padding_contributes_nothing(user_block):
    value, slope, metrics, state = blocked(user_block)(key())
    assert_finite((value, slope, metrics, state))
    assert float(jnp.max(jnp.abs(slope))) > 0
    assert state.world.users.activity.shape == (SIZES.users,)
    exposures = np.asarray(metrics["exposures"], np.float64)
    running = np.sum(0.97 ** np.arange(STEPS)[::-1] * exposures)
    np.testing.assert_allclose(jnp.sum(state.world.footprint.reach), running, rtol=1e-4)
    np.testing.assert_allclose(jnp.sum(state.world.footprint.seen), running, rtol=1e-4)
