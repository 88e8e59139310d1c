"""What every registered kind must satisfy; a new kind is picked up from the registry."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    PLATFORMS,
    SIZES,
    assert_finite,
    assert_same,
    compile,
    everything,
    first,
    inputs,
    jacobian,
    key,
    platform_with,
    run,
)

from mamba import ecosystem as eco
from mamba import objectives
from mamba.algorithms import base, registry
from mamba.types import ACTIONS, Candidates, Log, ObservedItems, View, item_column

KINDS = tuple(registry.KINDS)
D, C, U, N, M, L, B = 3, 7, 12, 5, 40, 4, 9


def observed_items(rng, *shape, extreme=False):
    def unit():
        values = rng.random(shape)
        return jnp.asarray(np.round(values) if extreme else values, jnp.float32)

    topics = rng.random((D, *shape)) ** (40 if extreme else 1) + 1e-30
    scale = 1e6 if extreme else 5.0
    return ObservedItems(
        topics=jnp.asarray(topics / topics.sum(axis=0), jnp.float32),
        glitter=unit(),
        synthetic=jnp.asarray(rng.random(shape) < 0.3, jnp.float32),
        toxicity_signal=unit(),
        falsity_signal=unit(),
        popularity=scale * unit(),
        reports=scale * unit(),
        alive=jnp.asarray(rng.random(shape) < 0.7, jnp.float32),
    )


def observation(seed=0, *, extreme=False):
    """A view, candidates of all users and a log, with sizes unlike one another."""
    rng = np.random.default_rng(seed)
    items = observed_items(rng, M, extreme=extreme)
    interest = rng.random((D, U))
    view = View(
        step=jnp.int32(3),
        items=items,
        age=jnp.asarray(rng.integers(0, 8, M), jnp.int32),
        author=jnp.asarray(np.arange(M) % N, jnp.int32),
        followers=jnp.asarray(rng.integers(0, 9, U), jnp.float32),
        interest=jnp.asarray(interest / interest.sum(axis=0), jnp.float32),
        sessions=jnp.asarray(np.round(rng.random(U)) if extreme else rng.random(U), jnp.float32),
        seen=jnp.asarray(interest[:, ::-1] / interest[:, ::-1].sum(axis=0), jnp.float32),
        group=jnp.asarray(np.arange(U) % 2, jnp.int32),
        links=jnp.asarray(rng.integers(0, U, (L, U)), jnp.int32),
    )
    ids = jnp.asarray(rng.integers(0, M, (C, U)), jnp.int32)

    def of(users):
        at = ids[:, users]
        planes = {f.name: getattr(items, f.name)[..., at] for f in dataclasses.fields(items)}
        return Candidates(
            users=users,
            ids=at,
            existence=planes["alive"],
            in_network=jnp.ones((C, 1)).at[-2:].set(0.0),
            age=view.age[at].astype(jnp.float32),
            items=ObservedItems(**planes),
            interest=view.interest[:, users],
        )

    users = jnp.arange(B, dtype=jnp.int32)
    examined = jnp.asarray(rng.random((C, B)) < 0.5, jnp.float32)
    clicked = examined * jnp.asarray(rng.random((C, B)) < 0.4)
    checked = jnp.asarray(rng.random(M) < 0.5, jnp.float32)

    def some(mass, chance):
        return mass * jnp.asarray(rng.random(mass.shape) < chance, jnp.float32)

    taken, asked = some(items.alive, 0.2), some(examined, 0.3)
    log = Log(
        candidates=of(users),
        examined=examined,
        clicked=clicked,
        reshared=some(clicked, 0.3),
        reported=some(examined, 0.2),
        actions={name: some(examined if name == "negative" else clicked, 0.3) for name in ACTIONS},
        asked=asked,
        rating=some(asked, 0.5),
        engaged=ids[0],
        engaged_weight=some(jnp.ones(U), 0.5),
        shared=ids[1],
        shared_weight=some(jnp.ones(U), 0.2),
        counts=jnp.asarray(rng.integers(0, 4, (M, 4)), jnp.float32),
        active=jnp.asarray(rng.random(U) < 0.5, jnp.float32),
        checked=checked,
        verdict=some(checked, 0.4),
        taken=taken,
        appealed=some(taken, 0.3),
        judgement=some(jnp.ones(M), 0.4),
    )
    return view, of(jnp.arange(U)), log


@functools.cache
def outcome(kind, extreme=False):
    """What one algorithm does and learns from an observation, by one compiled call."""
    algorithm = registry.make(kind)

    @jax.jit
    def all_phases(levers, view, candidates, log):
        levers = base.meaningful(levers, algorithm.bounds)
        learned = algorithm.init(key(1), view)
        act = algorithm.act(levers, learned, view, key(2))
        rank = algorithm.rank(levers, learned, view, candidates, key(3))
        new, loss = algorithm.learn(levers, learned, view, log, key(4))
        return learned, act, rank, new, loss

    levers = {name: jnp.float32(value) for name, value in algorithm.levers.items()}
    return all_phases(levers, *observation(extreme=extreme))


@pytest.mark.parametrize("kind", KINDS)
def test_levers_and_bounds(kind):
    algorithm = registry.make(kind)
    assert algorithm.kind == kind
    assert algorithm.levers.keys() == algorithm.bounds.keys() and algorithm.levers
    for name, value in algorithm.levers.items():
        bound = algorithm.bounds[name]
        assert np.asarray(value).dtype == np.float32 and np.isfinite(value) and np.shape(value) == ()
        assert bound.unit
        meaning = bound.forward(jnp.float32(value))
        assert bound.low < float(meaning) < bound.high
        np.testing.assert_allclose(bound.inverse(float(meaning)), value, rtol=1e-4, atol=1e-5)
        default = getattr(registry.KINDS[kind].config(), name, None)
        if default is not None:
            np.testing.assert_allclose(meaning, default, rtol=1e-5, atol=1e-6)
        for far in (-5.0, 5.0):
            assert bound.low <= float(bound.forward(jnp.float32(far))) <= bound.high


@pytest.mark.parametrize("kind", KINDS)
def test_configuration_documents_and_bounds_itself(kind):
    config = registry.KINDS[kind].config
    assert dataclasses.is_dataclass(config) and config.__dataclass_params__.frozen
    for field in dataclasses.fields(config):
        assert field.metadata["help"], field.name
        for bound, fits in (("ge", float.__ge__), ("gt", float.__gt__), ("le", float.__le__), ("lt", float.__lt__)):
            if field.metadata[bound] is not None:
                assert fits(float(field.default), float(field.metadata[bound])), (field.name, bound)


def test_unknown_kinds_and_settings_are_named():
    with pytest.raises(ValueError, match="Did you mean 'removal'"):
        registry.make("removall")
    with pytest.raises(ValueError, match=r"has no setting 'speeed'\. Known: .*speed"):
        registry.make("removal", speeed=1.0)
    with pytest.raises(ValueError, match=r"lever threshold = 1\.5 must lie strictly between 0 and 1"):
        registry.make("removal", threshold=1.5)


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_ports(kind, extreme):
    learned, act, rank, _, _ = outcome(kind, extreme)
    assert isinstance(act, base.Act) and isinstance(rank, base.Rank)
    assert_finite((learned, act, rank))
    shapes = {"survive": (M,), "pace": (U,), "link": (L, U), "score": (C, U), "friction": (C, U)}
    for name, shape in shapes.items():
        value = getattr(act if hasattr(act, name) else rank, name)
        if value is not None:
            assert value.shape == shape and value.dtype == jnp.float32, name
            if name in ("survive", "friction"):
                assert bool(jnp.all((value >= 0) & (value <= 1))), name
    if act.propose is not None:
        ids, existence = act.propose
        assert ids.dtype == jnp.int32 and existence.dtype == jnp.float32
        assert ids.shape == existence.shape == (ids.shape[0], U)
        assert bool(jnp.all((ids >= 0) & (ids < M)))
        assert bool(jnp.all((existence >= 0) & (existence <= 1)))
        dead = observation(extreme=extreme)[0].items.alive[ids] == 0
        assert bool(jnp.all(jnp.where(dead, existence, 0) == 0))


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_learning_keeps_the_shape_of_what_is_learned(kind, extreme):
    learned, _, _, new, loss = outcome(kind, extreme)
    assert jax.tree.structure(learned) == jax.tree.structure(new)
    for before, after in zip(jax.tree.leaves(learned), jax.tree.leaves(new), strict=True):
        assert before.shape == after.shape and before.dtype == after.dtype
        assert not before.weak_type and not after.weak_type
    assert loss.shape == () and loss.dtype == jnp.float32 and bool(jnp.isfinite(loss))
    assert_finite(new)


@pytest.mark.parametrize("kind", [k for k in KINDS if registry.make(k).learn is not base.no_learning])
def test_learning_reduces_the_own_loss_on_a_stationary_stream(kind):
    algorithm = registry.make(kind)
    levers = base.meaningful({n: jnp.float32(v) for n, v in algorithm.levers.items()}, algorithm.bounds)
    view, _, log = observation(5)
    # Labels that what is observed explains: people click what matches, harm is where the signals say, habits persist.
    match = jnp.sum(log.candidates.items.topics * log.candidates.interest[:, None], axis=0)
    glitter = log.candidates.items.glitter
    clicked = log.examined * (match + 0.5 * glitter > jnp.median(match + 0.5 * glitter))
    harm = jnp.maximum(view.items.toxicity_signal, view.items.falsity_signal)
    log = log.replace(
        clicked=clicked,
        reshared=clicked * (glitter > 0.5),
        active=(view.sessions > 0.4).astype(jnp.float32),
        verdict=log.checked * (harm > 0.6),
    )

    @jax.jit
    def losses():
        def one(learned, _):
            return algorithm.learn(levers, learned, view, log, key(4))

        return jax.lax.scan(one, algorithm.init(key(1), view), None, length=200)[1]

    path = np.asarray(losses())
    assert np.all(np.isfinite(path))
    if np.any(path):  # some keep books without a loss of their own
        assert path[-20:].mean() < path[0] - 0.15 * abs(path[0])


@functools.cache
def slopes_of_everything(platform):
    # From a state that has run for a while: what is learned and what is popular are zero at the start.
    state, _ = run("expected", platform)(inputs(platform), first(platform), key())
    return jacobian(platform)(inputs(platform), state, key())


# Each platform's derivatives take half a minute to compile: those of the second half are left to the slow tests.
SLOPES = [pytest.param(kind, marks=pytest.mark.slow if platform_with(kind) > 1 else ()) for kind in KINDS]


@pytest.mark.parametrize("kind", SLOPES)
def test_objectives_have_finite_gradients_with_respect_to_every_lever(kind):
    slopes = slopes_of_everything(platform_with(kind))[kind]
    assert slopes.keys() == registry.make(kind).levers.keys()
    for name, slope in slopes.items():
        assert slope.shape == (len(objectives.NAMES),)
        assert_finite(slope)
        assert float(jnp.max(jnp.abs(slope))) > 0, name


@pytest.mark.parametrize("platform", range(len(PLATFORMS)))
def test_latent_truth_does_not_reach_any_port(platform):
    # Every algorithm's `act` and `rank` in a real step, with the world's latent truth replaced by noise.
    kept = []

    def spy(function):
        def watched(*args):
            kept.append(function(*args))
            return kept[-1]

        return watched

    all_of_it = everything(platform)
    watched = all_of_it._replace(
        algorithms=tuple(a._replace(act=spy(a.act), rank=spy(a.rank)) for a in all_of_it.algorithms)
    )

    @compile
    def ports(state):
        kept.clear()
        eco.step(watched, inputs(platform), state, index=jnp.int32(SIZES.lifetime), key=key(), mode="sampled")
        return list(kept)

    state, _ = run("sampled", platform)(inputs(platform), first(platform), key())
    world, rng = state.world, np.random.default_rng(0)

    def noise(like):
        return jnp.asarray(rng.random(like.shape), like.dtype)

    table = world.items.table
    for name in ("stance", "substance", "toxicity", "veracity", "verdict"):
        column = item_column(name, SIZES.topics)
        table = table.at[:, column].set(noise(table[:, column]))
    hidden = {name: noise(getattr(world.users, name)) for name in LATENT_STATES}
    other = state.replace(
        world=world.replace(items=world.items.replace(table=table), users=world.users.replace(**hidden))
    )
    plain, perturbed = ports(state), ports(other)
    assert len(plain) == 2 * len(all_of_it.names)
    assert_same(plain, perturbed)
    # the spy sees what it should: an observed column does reach a port
    seen = table.at[:, item_column("glitter", SIZES.topics)].set(0.5)
    observed = state.replace(world=world.replace(items=world.items.replace(table=seen)))
    leaves = zip(jax.tree.leaves(plain), jax.tree.leaves(ports(observed)), strict=True)
    assert any(not np.array_equal(a, b) for a, b in leaves)


LATENT_STATES = ("opinion", "preference", "fatigue", "wellbeing", "trust", "resilience")
