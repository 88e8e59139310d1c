"""User dynamics: bounds, fixed points, directions, equivariance, and that every mechanism fits into the step."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SIZES, assert_finite, key, population

from mamba import ecosystem as eco
from mamba.types import Population, Users
from mamba.world import dynamics, mechanisms
from mamba.world.dynamics import Experience, LoadSpread
from mamba.world.mechanisms import TABLES, Mechanisms
from mamba.world.parameters import WorldParameters, as_arrays

D, C, U = 3, 5, 9
PARAMETERS = as_arrays(WorldParameters())
FIELDS = {
    "opinion": dynamics.OPINION,
    "preference": dynamics.PREFERENCE,
    "fatigue": dynamics.FATIGUE,
    "fatigue_variance": dynamics.FATIGUE_VARIANCE,
    "wellbeing": dynamics.WELLBEING,
    "trust": dynamics.TRUST,
    "resilience": dynamics.RESILIENCE,
    "activity": dynamics.ACTIVITY,
}
DEFAULT = {field: next(iter(table.values())) for field, table in FIELDS.items()}
CASES = [(field, name) for field, table in FIELDS.items() for name in table]


def someone(seed=0, scale=1.0):
    """Users, their population and an experience; `scale` multiplies what they examine."""
    rng = np.random.default_rng(seed)

    def unit(*shape):
        return jnp.asarray(rng.random(shape), jnp.float32)

    users = Users(
        opinion=2 * unit(D, U) - 1,
        preference=4 * unit(D, U) - 2,
        fatigue=2 * unit(U),
        fatigue_variance=0.1 * unit(U),
        wellbeing=4 * unit(U) - 2,
        trust=unit(U),
        resilience=unit(U),
        activity=unit(U),
    )
    people = Population(
        innate=2 * unit(D, U) - 1,
        interest=unit(D, U),
        susceptibility=unit(U),
        group=jnp.zeros(U, jnp.int32),
        habit=unit(U),
        strategy=None,
        skill=None,
        synthetic=None,
        followees=None,
        weight=None,
        followers=None,
    )
    examined = scale * unit(C, U)
    topics = unit(D, C, U)
    topics = topics / jnp.sum(topics, axis=0, keepdims=True)
    clicked = examined * unit(C, U)
    experience = Experience(
        examined=examined,
        clicked=clicked,
        topics=topics,
        clicked_topics=jnp.sum(clicked[None] * topics, axis=1),
        items={name: unit(C, U) for name in ("glitter", "substance", "toxicity", "veracity")}
        | {"stance": 2 * unit(C, U) - 1},
        friction=unit(C, U),
        removed=unit(U),
        load=LoadSpread(variance=10 * scale * unit(U), feedback=-2 * unit(U)),
    )
    return users, people, experience


def nothing_seen(experience):
    zero = jnp.zeros_like(experience.examined)
    certain = LoadSpread(variance=jnp.zeros(U), feedback=jnp.zeros(U))
    topics = jnp.zeros_like(experience.clicked_topics)
    return experience.replace(examined=zero, clicked=zero, clicked_topics=topics, removed=jnp.zeros(U), load=certain)


@pytest.mark.parametrize(("field", "name"), CASES)
def test_bounds_and_equivariance(field, name):
    for scale in (1.0, 40.0):
        users, people, experience = someone(3, scale)
        after = FIELDS[field][name](users, people, experience, PARAMETERS)
        before = getattr(users, field)
        assert after.shape == before.shape and after.dtype == before.dtype
        assert_finite(after)
        if field in ("trust", "resilience", "activity"):
            assert float(after.min()) >= 0 and float(after.max()) <= 1
        if field == "opinion":
            assert float(jnp.max(jnp.abs(after))) <= 1
        if field in ("fatigue", "fatigue_variance"):
            assert float(after.min()) >= 0
        order = np.random.default_rng(1).permutation(U)
        moved = jax.tree.map(lambda x: x[..., order], (users, people, experience))  # noqa: B023
        np.testing.assert_array_equal(FIELDS[field][name](*moved, PARAMETERS), after[..., order])


@pytest.mark.parametrize("field", FIELDS)
def test_none_keeps_the_field(field):
    users, people, experience = someone()
    np.testing.assert_array_equal(FIELDS[field]["none"](users, people, experience, PARAMETERS), getattr(users, field))


@pytest.mark.parametrize("name", dynamics.OPINION)
def test_consensus_is_a_fixed_point(name):
    users, people, experience = someone()
    agreed = jnp.full((D, U), 0.37)
    items = experience.items | {"stance": jnp.full((C, U), 0.37)}
    after = dynamics.OPINION[name](
        users.replace(opinion=agreed), people.replace(innate=agreed), experience.replace(items=items), PARAMETERS
    )
    np.testing.assert_allclose(after, agreed, atol=1e-6)


def one_item(opinion, stance, **changes):
    """Opinion of one user after examining and clicking one item of one topic, without anchor."""
    users, people, experience = someone()
    parameters = PARAMETERS.replace(opinion_anchor=jnp.float32(changes.pop("anchor", 0.0)))
    users = users.replace(opinion=jnp.full((D, U), opinion))
    one = jnp.ones((1, U))
    topics = jnp.zeros((D, 1, U)).at[0].set(1.0)
    experience = experience.replace(
        examined=one, clicked=one, topics=topics, items={"stance": jnp.full((1, U), stance)}
    )
    return dynamics.OPINION[changes.pop("name")](users, people.replace(**changes), experience, parameters)


def test_bounded_confidence_ignores_and_repulsion_repels_what_is_far():
    assert float(jnp.min(one_item(-0.2, 0.3, name="bounded_confidence")[0])) > -0.2
    np.testing.assert_allclose(one_item(-0.9, 0.9, name="bounded_confidence")[0], -0.9, atol=1e-4)
    assert float(jnp.min(one_item(-0.2, 0.3, name="repulsive")[0])) > -0.2
    assert float(jnp.max(one_item(-0.9, 0.9, name="repulsive")[0])) < -0.9
    assert float(jnp.min(one_item(-0.9, 0.9, name="friedkin_johnsen")[0])) > -0.9
    # topics that the item is not about stay
    np.testing.assert_array_equal(one_item(-0.2, 0.3, name="repulsive")[1:], jnp.float32(-0.2))


@pytest.mark.parametrize("width", [1e-3, 0.05, 2.0])
def test_the_repulsive_kernel_is_two_soft_steps_also_where_they_are_steep(width):
    distance = jnp.linspace(0.0, 2.0, 401)
    parameters = replace(PARAMETERS, confidence_width=width)

    def plain(distance):
        near = jax.nn.sigmoid((parameters.confidence - distance) / width)
        return near - parameters.repulsion * jax.nn.sigmoid((distance - parameters.repulsion_distance) / width)

    kernel = functools.partial(dynamics._repulsive_kernel, parameters=parameters)
    rounding = 3e-7 * (1.0 + 1.0 / width)  # of a distance in widths
    np.testing.assert_allclose(kernel(distance), plain(distance), atol=rounding)
    mine, theirs = (jax.vmap(jax.grad(function))(distance) for function in (kernel, plain))
    np.testing.assert_allclose(mine, theirs, atol=rounding / width)


def test_formula_of_the_opinion_drift():
    users, people, experience = someone(5)
    got = dynamics.OPINION["repulsive"](users, people, experience, PARAMETERS)
    x, sus = np.asarray(users.opinion, float), np.asarray(people.susceptibility * (1 - users.resilience), float)
    seen = experience.examined, experience.clicked, experience.topics, experience.items["stance"]
    a, c, tau, s = (np.asarray(plane, float) for plane in seen)
    want = x.copy()
    for u in range(U):
        for d in range(D):
            gap = s[:, u] - x[d, u]
            kernel = 1 / (1 + np.exp(-(0.8 - abs(gap)) / 0.1)) - 0.25 / (1 + np.exp(-(abs(gap) - 1.2) / 0.1))
            pull = np.sum((0.3 * a[:, u] + 0.7 * c[:, u]) * tau[d, :, u] * kernel * gap)
            want[d, u] += 0.08 * (0.5 + sus[u]) * pull + 0.02 * (float(people.innate[d, u]) - x[d, u])
    np.testing.assert_allclose(got, np.clip(want, -1, 1), atol=1e-5)


def test_anchor_pulls_back():
    users, people, experience = someone()
    after = dynamics.OPINION["friedkin_johnsen"](users, people, nothing_seen(experience), PARAMETERS)
    np.testing.assert_allclose(after - users.opinion, 0.02 * (people.innate - users.opinion), atol=1e-6)


def test_without_exposure_everything_returns():
    users, people, experience = someone()
    idle = nothing_seen(experience)

    @jax.jit
    def step(users):
        return users.replace(**{field: DEFAULT[field](users, people, idle, PARAMETERS) for field in FIELDS})

    for _ in range(600):
        users = step(users)
    np.testing.assert_allclose(users.wellbeing, 0.0, atol=1e-4)
    np.testing.assert_allclose(users.fatigue, 0.0, atol=1e-6)
    np.testing.assert_allclose(users.fatigue_variance, 0.0, atol=1e-6)
    np.testing.assert_allclose(users.trust, 0.7, atol=1e-4)
    np.testing.assert_allclose(users.opinion, people.innate, atol=1e-4)
    np.testing.assert_allclose(users.preference, people.interest, atol=1e-2)
    assert float(users.resilience.max()) < 0.06
    np.testing.assert_allclose(users.activity, jax.nn.sigmoid(0.2), atol=1e-3)


@pytest.mark.parametrize(
    ("field", "item", "direction"),
    [
        ("wellbeing", "toxicity", -1),
        ("wellbeing", "substance", 1),
        ("wellbeing", "glitter", -1),
        ("trust", "veracity", 1),
        ("resilience", "veracity", -1),
        ("activity", "substance", 1),
    ],
)
def test_directions(field, item, direction):
    users, people, experience = someone()
    rule = DEFAULT[field]

    def with_level(level):
        items = experience.items | {item: jnp.full((C, U), level)}
        return rule(users, people, experience.replace(items=items), PARAMETERS)

    change = direction * (with_level(0.95) - with_level(0.1))
    assert float(jnp.min(change)) >= 0 and float(jnp.max(change)) > 1e-4


def test_clicks_reinforce_the_preference_for_their_topic():
    users, people, experience = someone()
    topics = jnp.zeros((D, C, U)).at[1].set(1.0)
    users = users.replace(preference=people.interest)
    clicked_topics = jnp.sum(experience.clicked[None] * topics, axis=1)
    experience = experience.replace(topics=topics, clicked_topics=clicked_topics)
    after = dynamics.PREFERENCE["reinforced"](users, people, experience, PARAMETERS)
    gain = after - users.preference
    assert float(jnp.min(gain[1])) > 0 and float(jnp.max(gain[0])) < 0
    np.testing.assert_allclose(jnp.sum(gain, axis=0), 0.0, atol=1e-6)


def test_churn_replaces_only_those_whose_activity_died():
    users, people, _ = someone()
    users = users.replace(activity=jnp.asarray([0.0] * 4 + [0.5] * 5))
    parameters = PARAMETERS.replace(churn_rate=jnp.float32(1.0))
    draw = jnp.full(U, 0.5)
    fresh = dynamics.newcomers(people, parameters)
    leaves = dynamics.CHURN["replacement"](users, draw=draw, parameters=parameters, mode="sampled")
    np.testing.assert_array_equal(leaves, [1.0] * 4 + [0.0] * 5)
    after = dynamics.replaced(users, fresh, leaves)
    np.testing.assert_allclose(after.opinion[:, :4], people.innate[:, :4], atol=1e-6)
    np.testing.assert_allclose(after.activity[:4], 0.3)
    np.testing.assert_array_equal(after.opinion[:, 4:], users.opinion[:, 4:])
    soft = dynamics.CHURN["replacement"](users, draw=draw, parameters=parameters, mode="expected")
    assert bool(jnp.all((soft[:4] > 0.8) & (soft[:4] <= 1.0))) and float(soft[4:].max()) < 1e-3
    stays = dynamics.CHURN["none"](users, draw=draw, parameters=parameters, mode="sampled")
    np.testing.assert_array_equal(stays, 0.0)


def test_every_table_is_a_choice_of_the_configuration():
    fields = {field.name: field for field in mechanisms.Mechanisms.__dataclass_fields__.values()}
    assert set(fields) == set(TABLES)
    for part, field in fields.items():
        assert field.default in TABLES[part] and tuple(field.metadata["choices"]) == tuple(TABLES[part])
        assert field.metadata["help"]


ALTERNATIVES = [
    (part, name)
    for part, table in TABLES.items()
    for name in table
    if name != Mechanisms.__dataclass_fields__[part].default
]


def world_of(part, name):
    sizes = SIZES._replace(in_network=SIZES.followees) if name == "latest" else SIZES
    ecosystem = eco.make({}, sizes=sizes, mechanisms=Mechanisms(**{part: name}))
    return ecosystem, eco.inputs(ecosystem, population())


@pytest.mark.parametrize(("part", "name"), ALTERNATIVES)
def test_state_keeps_its_structure_under_every_mechanism(part, name):
    ecosystem, given = world_of(part, name)
    state = jax.eval_shape(lambda: eco.init(ecosystem, given, key()))

    def one(state):
        return eco.step(ecosystem, given, state, index=jnp.int32(0), key=key(), mode="sampled")[0]

    after = jax.eval_shape(one, state)
    assert jax.tree.structure(state) == jax.tree.structure(after)
    described = [[(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(tree)] for tree in (state, after)]
    assert described[0] == described[1]


@pytest.mark.slow
@pytest.mark.parametrize(("part", "name"), ALTERNATIVES)
@pytest.mark.parametrize("mode", ["sampled", "expected"])
def test_every_mechanism_runs(part, name, mode):
    ecosystem, given = world_of(part, name)

    @jax.jit
    def two(given):
        state = eco.init(ecosystem, given, key())
        for index in range(2):
            state, metrics = eco.step(ecosystem, given, state, index=jnp.int32(index), key=key(), mode=mode)
        return state, metrics

    assert_finite(two(given))
