"""The engine in double precision: derivatives against finite differences, reverse against forward mode, exact enumeration.

In the expected mode a rollout is a smooth function of levers and parameters but for what it holds constant on purpose, by
`jax.lax.stop_gradient`: the denominators of likelihood ratios p / stop(p) of what is drawn in every mode (who posts, what is
retrieved, reshared, followed), which items a retrieval finds, and the places of quadrature nodes. Three kinds of test follow.

* Whole platforms, everything on: those constants are recorded at one point and held there while levers move. This is the
  function whose ordinary derivative the engine's must be.
* Smooth platforms, nothing drawn that levers could move: the rollout itself moves, quadrature nodes alone are held.
  So a constant that hides a derivative it must not hide is found out.
* Likelihood ratios, one mechanism at a time: every outcome is enumerated, and the mean of the estimator's derivative is the
  derivative of the mean.

Every comparison of a draw with its probability, every rank and every clip is constant but at points that finite differences of this
width do not meet here (they would fail loudly); `check_delay` is rounded and `check_share` only ever compared, so neither has a
derivative.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from mamba import ecosystem as eco
from mamba import objectives
from mamba.algorithms import pool, registry
from mamba.algorithms.base import Proposal
from mamba.algorithms.recommenders import growth
from mamba.rollout import rollout
from mamba.types import Ties
from mamba.world import contagion, rewiring
from mamba.world.mechanisms import Mechanisms
from mamba.world.parameters import WorldParameters
from mamba.world.relax import drawn, pick
from tests import helpers

STEPS = 6
WIDTH = 3e-5  # of a finite difference, in unconstrained levers and in parameters
ROUNDING = 3e-11  # of a difference quotient of numbers of size 1; measured: at most 1.4e-11
PARAMETERS = (
    "click_interest",
    "opinion_rate",
    "fatigue_load",
    "wellbeing_overuse",
    "trust_falsity",
    "activity_rate",
    "churn_threshold",
    "posting_rate",
    "creator_rate",
    "reshare_base",
    "memory",
    "harm_threshold",
    "rewire_rate",
)
# Levers that hardly move anything within a few steps: below 1e-5 of every objective, where rounding is what limits the check.
WEAK = {
    "[0]['friend_suggestion']['similarity']",
    "[0]['growth']['alpha']",
}
# Meaningful values at which levers matter within a few steps.
LIVELY = {"community_notes": {"delay": 1.0, "threshold": 0.02}, "prebunking": {"reach": 0.5}}


@pytest.fixture(autouse=True)
def double():
    """Double precision within one test; what is made in it must not be kept for others."""
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("mode", ["sampled", "expected"])
@pytest.mark.parametrize("platform", range(len(helpers.PLATFORMS)))
def test_no_number_is_rounded_on_its_way(platform, mode):
    """Every kind and mechanism traces, and single precision occurs nowhere in the program."""
    ecosystem = helpers.everything(platform)
    given = eco.inputs(ecosystem, helpers.population())

    def run(given, seed):
        return rollout(ecosystem, given, key=seed, steps=2, mode=mode)

    program = str(jax.make_jaxpr(run)(given, helpers.key()))
    assert program.count("f64[") > 1000
    assert "f32[" not in program


# ---- whole rollouts
# -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def constants(give, where: str):
    """Lets `give` say what `jax.lax.stop_gradient` returns to modules whose names start with `where`."""
    plain = jax.lax.stop_gradient

    def stop(value):
        called = sys._getframe(1).f_globals["__name__"].startswith(where)
        return give(plain(value)) if called else plain(value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.lax, "stop_gradient", stop)
        yield


def at(given: eco.Inputs, theta) -> eco.Inputs:
    """Inputs at a point, `(levers, some world parameters)`."""
    return given.replace(levers=theta[0], parameters=given.parameters.replace(**theta[1]))


# Enough of sixty users say what they think within a few steps for notes and filters to matter.
TALKATIVE = {"survey_share": 1.0, "report_base": 1.0, "negative_base": 1.0}


def case(ecosystem: eco.Ecosystem, names=PARAMETERS, **world: float):
    """Inputs, the state before the first step, and the point at which derivatives are taken."""
    # Of sixty users some then leave or turn elsewhere.
    lively = WorldParameters(rewire_rate=0.3, churn_threshold=0.3, **world)
    given = eco.inputs(ecosystem, helpers.population(), parameters=lively)
    for name, algorithm in zip(ecosystem.names, ecosystem.algorithms, strict=True):
        for lever, value in LIVELY.get(name, {}).items():
            given.levers[name][lever] = jnp.asarray(algorithm.bounds[lever].inverse(value), float)
    state = helpers.compile(lambda given, seed: eco.init(ecosystem, given, seed))(given, helpers.key())
    return given, state, (given.levers, {name: getattr(given.parameters, name) for name in names})


def outcome(ecosystem: eco.Ecosystem, theta, given, state, seed):
    """Objectives [J] of a rollout."""
    metrics = rollout(ecosystem, at(given, theta), key=seed, steps=STEPS, mode="expected", state=state)[1]
    return objectives.evaluate(metrics, ecosystem.sizes.users)


def differences(ecosystem: eco.Ecosystem, directions, theta, given, state, seed, *, held: str):
    """Objectives [J] and central differences of fourth order along directions [n, P], [J, n]; constants of modules held.

    Step by step from the host, so that constants can be taken out of one run and put into others.
    """

    def advance(theta, state, index, constant, frozen):
        seen = []

        def give(value):
            if constant is not None:
                value = jax.tree.map(lambda new, old: jnp.where(frozen, old, new), value, constant[len(seen)])
            seen.append(value)
            return value

        with constants(give, held):
            after, metrics = eco.step(ecosystem, at(given, theta), state, index=index, key=seed, mode="expected")
        return after, metrics, seen

    shapes = jax.eval_shape(lambda: advance(theta, state, jnp.int32(0), None, False))[2]
    assert shapes, "nothing to hold"
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    compiled = helpers.compile(advance)
    evaluate = helpers.compile(lambda rows: objectives.evaluate(rows, ecosystem.sizes.users))
    flat, back = ravel_pytree(theta)

    def run(point, constant):
        now, rows, seen = state, [], []
        for t in range(STEPS):
            taken = nothing if constant is None else constant[t]
            now, row, each = compiled(back(point), now, jnp.int32(t), taken, constant is not None)
            rows.append(row)
            seen.append(each)
        return np.asarray(evaluate(jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows))), seen

    value, constant = run(flat, None)

    def slope(direction):
        def moved(by: float):
            return run(flat + by * direction, constant)[0]

        near, far = ((moved(by) - moved(-by)) / (2 * by) for by in (WIDTH, 2 * WIDTH))
        return (4 * near - far) / 3

    return value, np.stack([slope(direction) for direction in directions], axis=1)


def check(ecosystem: eco.Ecosystem, theta, given, state, *, held: str, directions=None, idle=WEAK) -> None:
    """Every objective's derivative along every direction agrees to 1e-5; each but the `idle` moves some objective.

    Directions [n, P]; None takes every lever and every parameter on its own.
    """
    flat, back = ravel_pytree(theta)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(theta)]
    if directions is None:
        directions = np.eye(len(flat))
    else:
        names = [f"direction {i}" for i in range(len(directions))]

    @helpers.compile
    def slopes(given, state, seed):
        def along(direction):
            return jax.jvp(lambda x: outcome(ecosystem, back(x), given, state, seed), (flat,), (direction,))[1]

        return jax.vmap(along, out_axes=1)(jnp.asarray(directions))

    slope = np.asarray(slopes(given, state, helpers.key()))
    assert slope.dtype == np.float64
    value, difference = differences(ecosystem, directions, theta, given, state, helpers.key(), held=held)
    size = np.maximum(1.0, np.abs(value))[:, None]
    largest = dict(zip(names, np.max(np.abs(slope) / size, axis=0), strict=True))
    error = np.abs(difference - slope)
    wrong = [
        f"{objectives.NAMES[j]} by {names[i]}: {slope[j, i]:.9g}, differences {difference[j, i]:.9g}"
        for j, i in np.argwhere(error > 1e-5 * np.abs(slope) + ROUNDING * size)
    ]
    assert not wrong, "\n".join(wrong)
    assert {name for name, most in largest.items() if most < 1e-5} <= idle


FEW = ("engagement", "notification", "removal")


@pytest.mark.slow
def test_derivatives_of_a_small_platform():
    """Every mechanism on, along random directions in levers and parameters: what runs by default."""
    ecosystem = eco.make({kind: helpers.small(kind) for kind in FEW}, sizes=helpers.SIZES)
    given, state, theta = case(ecosystem)
    directions = np.random.default_rng(3).normal(size=(2, len(jax.tree.leaves(theta))))
    check(ecosystem, theta, given, state, held="mamba.", directions=directions)


@pytest.mark.slow
@pytest.mark.parametrize("platform", range(len(helpers.PLATFORMS)))
def test_derivatives_of_whole_platforms(platform):
    """Every kind, every lever and every mechanism, drawn identities included."""
    ecosystem = helpers.everything(platform)
    given, state, theta = case(ecosystem, **TALKATIVE)
    check(ecosystem, theta, given, state, held="mamba.")


# What draws identities with a probability that levers move is off: who posts (activity and churn move it), what is reshared and
# followed. Proposals that are drawn by a mass that levers move are off, too: `proposals=0`, and no kind that must propose, nor
# one that learns from which item somebody reshared (`circuit_breaker`).
STATIC = Mechanisms(activity="none", contagion="none", rewiring="none")
OPINION = Mechanisms(posting="opinion", contagion="none", rewiring="none")
BOUND_TO_DRAW = ("two_tower", "advertising", "friend_suggestion", "circuit_breaker")
SMOOTH = [kind for kind in registry.KINDS if kind not in BOUND_TO_DRAW]


def smooth(kind: str):
    settings = {field.name for field in dataclasses.fields(registry.KINDS[kind].config)}
    if kind == "growth":  # of two arms that propose nothing
        return registry.make(
            kind, challenger="stated_preference", incumbent="stated_preference", changed="engagement", value=1.0
        )
    return registry.make(kind, **({"proposals": 0} if "proposals" in settings else {}))


def smooth_platform(kinds, mechanisms: Mechanisms, without):
    ecosystem = eco.make({kind: smooth(kind) for kind in kinds}, sizes=helpers.SIZES, mechanisms=mechanisms)
    return ecosystem, *case(ecosystem, [name for name in PARAMETERS if name not in without], **TALKATIVE)


UNMOVED = ("posting_rate", "activity_rate", "churn_threshold", "rewire_rate")


def idle(parameters: str = "", **levers: str) -> frozenset[str]:
    """Paths in a point of some levers of some algorithms and of some parameters."""
    paths = {f"[0]['{kind}']['{lever}']" for kind, some in levers.items() for lever in some.split()}
    return frozenset(paths | {f"[1]['{name}']" for name in parameters.split()})


# What moves nothing within these steps where nobody proposes, reshares or follows anything. On whole platforms, above, each of
# these must move something (but for `WEAK`).
IDLE = (
    idle("memory", constant="strength", diversity="breadth strength"),
    idle(chronological="half_life", strikes="memory reach", trusted_flaggers="strength"),
    idle(
        "memory",
        bridging="divisiveness sharpness",
        community_notes="delay demotion reshares threshold",
        growth="alpha challenger_engagement challenger_sharpness share",
        personal_filters="mutes",
        popularity="strength",
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kinds", "mechanisms", "without", "idle"),
    [
        pytest.param(FEW, OPINION, ("posting_rate", "creator_rate", "rewire_rate"), frozenset(), id="opinion"),
        *(pytest.param(SMOOTH[i::3], STATIC, UNMOVED, IDLE[i], id=f"static-{i}") for i in range(3)),
    ],
)
def test_derivatives_of_smooth_platforms(kinds, mechanisms, without, idle):
    """The rollout itself moves with the levers: no constant but the places of quadrature nodes is held."""
    ecosystem, given, state, theta = smooth_platform(kinds, mechanisms, without)
    check(ecosystem, theta, given, state, held="mamba.world.attention", idle=idle)


@pytest.mark.slow
@pytest.mark.parametrize("platform", range(len(helpers.PLATFORMS)))
def test_reverse_mode_is_forward_mode(platform):
    ecosystem = helpers.everything(platform)
    given, state, theta = case(ecosystem)
    weight = jnp.asarray(np.random.default_rng(0).normal(size=len(objectives.NAMES)))

    def weighted(theta, given, state, seed):
        return weight @ outcome(ecosystem, theta, given, state, seed)

    arguments = theta, given, state, helpers.key()
    forward = helpers.compile(jax.jacfwd(weighted))(*arguments)
    reverse = helpers.compile(jax.grad(weighted))(*arguments)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(forward), jax.tree.leaves(reverse), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-12, err_msg=jax.tree_util.keystr(path))


# ---- likelihood ratios, by enumeration of what is drawn
# -------------------------------------------------------------------------------------------------------------


def differenced(law, theta, width: float = 1e-3) -> np.ndarray:
    """Derivative [P] of a scalar by central differences of fourth order."""

    def slope(axis):
        near, far = ((law(theta + by * axis) - law(theta - by * axis)) / (2 * by) for by in (width, 2 * width))
        return float(4 * near - far) / 3

    return np.array([slope(axis) for axis in np.eye(len(theta))])


def assert_exact(law, estimates, theta) -> None:
    """The mean of what is differentiated, over outcomes, is the derivative of the mean.

    Args:
        law: theta to the expectation, written down.
        estimates: `(probability, estimate)` of every outcome at theta; `estimate` maps theta to what the engine counts then.
        theta: [P].
    """
    law = helpers.compile(law)
    found = [(chance, *helpers.compile(jax.value_and_grad(estimate))(theta)) for chance, estimate in estimates]
    mean = sum(chance * slope for chance, _, slope in found)
    np.testing.assert_allclose(sum(chance for chance, *_ in found), 1.0, rtol=1e-12)
    np.testing.assert_allclose(sum(chance * value for chance, value, _ in found), law(theta), rtol=1e-12)
    np.testing.assert_allclose(mean, differenced(law, theta), rtol=1e-9)
    assert np.min(np.abs(mean)) > 1e-3


def forced(count: int, which: int):
    """Uniform draws [C, 1] of the exponential race that `which` wins."""
    return jnp.full((count, 1), 0.5).at[which].set(1.0 - 1e-12)


def test_events_drawn_in_every_mode():
    theta = jnp.asarray([0.3, -0.8, 1.1])

    def use(events, theta):  # each weight at most once in a product, and a part that depends on theta itself
        a, b, c = events
        return (a + 2.0 * a * b - 3.0 * b * c + a * b * c) * jnp.exp(0.3 * theta[0]) + theta[2] ** 2

    def chance(outcome, theta):
        p = jax.nn.sigmoid(theta)
        return jnp.prod(jnp.where(jnp.asarray(outcome), p, 1.0 - p))

    def estimate(outcome):
        p = jax.nn.sigmoid(theta)
        draw = jnp.where(jnp.asarray(outcome), 0.5 * p, 0.5 * (1.0 + p))
        return lambda theta: use(drawn(jax.nn.sigmoid(theta), draw, "expected"), theta)

    outcomes = list(itertools.product([False, True], repeat=3))
    assert_exact(
        lambda theta: sum(chance(o, theta) * use(jnp.asarray(o, float), theta) for o in outcomes),
        [(float(chance(o, theta)), estimate(o)) for o in outcomes],
        theta,
    )


def test_the_square_of_a_drawn_weight_counts_twice():
    """The limit of the method: w^2 = w for an event, but 2 w dw is twice dw. Only uses linear in each weight are exact."""
    p = jnp.asarray([0.3])
    slope = p[0] * jax.grad(lambda p: drawn(p, 0.5 * p, "expected")[0] ** 2)(p)
    np.testing.assert_allclose(slope, 2.0, rtol=1e-12)


def test_one_of_several_picked():
    theta = jnp.asarray([0.1, 0.7, -0.5, -1.2])
    worth = jnp.asarray([3.0, -1.0, 5.0, 0.5])

    def law(theta):
        mass = jnp.exp(theta)
        return jnp.sum(mass * worth * jnp.cosh(theta[0])) / jnp.sum(mass)

    def estimate(which):
        def counted(theta):
            index, weight = pick(jnp.exp(theta)[:, None], forced(4, which), "expected")
            return weight[0] * worth[index[0]] * jnp.cosh(theta[0])

        return counted

    share = np.asarray(jax.nn.softmax(theta))
    assert_exact(law, [(share[k], estimate(k)) for k in range(4)], theta)


def test_items_retrieved_from_the_pool():
    theta = jnp.asarray([0.2, -0.4, 1.5, 0.3, -0.7, 0.4])  # three log-odds to be alive, three log scores
    worth = jnp.asarray([3.0, -1.0, 5.0])

    def mass_of(theta):
        alive = jax.nn.sigmoid(theta[:3])
        return alive, alive * jnp.exp(theta[3:])

    def law(theta):
        mass = mass_of(theta)[1]
        return jnp.sum(mass * worth) / jnp.sum(mass)

    def estimate(which):
        def counted(theta):
            alive, mass = mass_of(theta)
            view = SimpleNamespace(items=SimpleNamespace(alive=alive))
            offered = pool.propose(view, jnp.asarray([[which]]), mass)
            return offered.existence[0, 0] * alive[which] * worth[which]  # as served: times the item's own existence

        return counted

    mass = np.asarray(mass_of(theta)[1])
    assert_exact(law, [(mass[m] / mass.sum(), estimate(m)) for m in range(3)], theta)


def test_the_reshare_that_reaches_the_outbox():
    theta = jnp.asarray([0.2, -0.4, -1.5])
    worth = jnp.asarray([3.0, -1.0, 5.0])

    def law(theta):
        events = jax.nn.sigmoid(theta)
        return (1.0 - jnp.prod(1.0 - events)) * jnp.sum(events * worth) / jnp.sum(events)

    def estimate(which):
        def counted(theta):
            events = jax.nn.sigmoid(theta)[:, None]
            item, weight = contagion.chosen(jnp.arange(3)[:, None], events, draw=forced(3, which), mode="expected")
            return weight[0] * worth[item[0]]

        return counted

    events = np.asarray(jax.nn.sigmoid(theta))
    assert_exact(law, [(events[k] / events.sum(), estimate(k)) for k in range(3)], theta)


def test_the_tie_that_is_replaced():
    sizes = helpers.SIZES._replace(users=5, creators=5, topics=2, followees=2, links=2)
    parameters = jax.tree.map(lambda x: jnp.asarray(x, float), WorldParameters(rewire_rate=0.6))
    # User 0 follows 1 and 2 and looks at the first of these ties; 3 and 4 are suggested. Nobody else follows anybody.
    ties = Ties(
        jnp.zeros((5, 2), jnp.int32).at[0].set(jnp.asarray([1, 2], jnp.int32)), jnp.zeros((5, 2)).at[0].set(0.7)
    )
    others = jnp.asarray([[0.9, -0.2, 0.4, -0.6], [-0.5, 0.1, 0.8, 0.3]])
    worth = jnp.asarray([0.0, 2.0, -1.0, 3.0, -4.0])
    theta = jnp.asarray([-0.1, 0.2, 0.4, -0.3])  # opinion of user 0, scores of both suggestions

    def drop(theta):
        distance = jnp.sqrt(jnp.mean((theta[:2] - others[:, 0]) ** 2) + 1e-9)
        return 0.6 * jax.nn.sigmoid((distance - parameters.rewire_distance) / parameters.rewire_width)

    def law(theta):
        replaced = jnp.sum(jax.nn.softmax(theta[2:]) * worth[3:])
        return drop(theta) * replaced + (1.0 - drop(theta)) * 0.7 * worth[1] + 0.7 * worth[2]

    def estimate(dropped, which):
        p = drop(theta)
        draws = jnp.stack([jnp.full(5, 0.1), jnp.full(5, 0.5 * p if dropped else 0.5 * (1.0 + p))])

        def counted(theta):
            after = rewiring.rewire(
                ties,
                jnp.concatenate([theta[:2, None], others], axis=1),
                step=jnp.int32(0),
                links=jnp.broadcast_to(jnp.asarray([[3], [4]], jnp.int32), (2, 5)),
                link_score=jnp.broadcast_to(theta[2:, None], (2, 5)),
                draws=draws,
                pick_draw=jnp.broadcast_to(forced(2, which), (2, 5)),
                parameters=parameters,
                sizes=sizes,
                mode="expected",
            ).ties
            return jnp.sum(after.weight[0] * worth[after.followees[0]])

        return counted

    p, share = float(drop(theta)), np.asarray(jax.nn.softmax(theta[2:]))
    outcomes = [(1.0 - p, estimate(False, 0)), *((p * share[k], estimate(True, k)) for k in range(2))]
    assert_exact(law, outcomes, theta)


def test_the_arm_that_fills_a_slot(monkeypatch):
    theta = jnp.asarray([0.4, -0.3, 0.9])  # log-odds of the challenger, and of both items' existence
    worth = jnp.asarray([3.0, -1.0])

    def law(theta):
        p = jax.nn.sigmoid(theta[0])
        exists = jax.nn.sigmoid(theta[1:])
        return p * exists[0] * worth[0] + (1.0 - p) * exists[1] * worth[1]

    def estimate(draw):
        def counted(theta):
            monkeypatch.setattr(growth, "uniforms", lambda key, shape: jnp.full(shape, draw))
            exists = jax.nn.sigmoid(theta[1:])
            new, old = (Proposal(jnp.full((1, 1), i, jnp.int32), exists[i][None, None]) for i in range(2))
            offered = growth._offered(jax.nn.sigmoid(theta[:1]), new, old, jax.random.key(0))
            return offered.existence[0, 0] * worth[offered.ids[0, 0]]

        return counted

    p = float(jax.nn.sigmoid(theta[0]))
    assert_exact(law, [(p, estimate(0.5 * p)), (1.0 - p, estimate(0.5 * (1.0 + p)))], theta)
