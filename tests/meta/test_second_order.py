"""What is second-order of a gradient, on a system of two blocks whose shares and gaps are known in closed form."""

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamba import ecosystem as eco
from mamba import passing
from mamba.meta import second_order, systems, vector
from mamba.meta.systems import System
from mamba.objectives import NAMES

STEPS, LEVERS = 12, 3
KEEPS = np.array([0.9, 0.6])  # of each block's state from one step to the next
ENTERS = np.array([[1.0, -0.5, 0.0], [0.3, 0.0, 2.0]])  # levers into each block
DIRECT = np.array([[-2.0, 1.0, 0.0], [0.0, 0.4, 1.0]])  # levers into each outcome
GOAL = np.array([1.0, -0.5])


def _system(noise: float = 0.0) -> System:
    """Two blocks that keep a share of themselves; outcome j is block j and a direct effect, averaged over steps."""

    def begin(context, theta, key):
        # Each key has a wording of its own of how levers act.
        return jnp.zeros(()), jnp.zeros(())

    def advance(context, theta, state, index, key):
        own = 1.0 + noise * jax.random.normal(key, (2, LEVERS))
        after = tuple(KEEPS[b] * state[b] + (ENTERS[b] * own[b]) @ theta for b in range(2))
        return after, jnp.stack(after) + DIRECT @ theta

    return System(
        begin=begin,
        advance=advance,
        measure=lambda records: records.mean(axis=0),
        outcomes=("first", "second"),
        blocks=("a", "b"),
        parts=lambda state: state,
        scaled=lambda state, shares: tuple(passing.share_of(part, shares[b]) for b, part in enumerate(state)),
    )


def _slopes(window: int = STEPS, stopped: str = "") -> np.ndarray:
    """[2, P]: the geometric series of what is carried within a window."""
    return np.stack(
        [
            DIRECT[b]
            + ENTERS[b] * np.mean([np.sum(KEEPS[b] ** np.arange(1 + (t % window) * (name not in stopped))) for t in range(STEPS)])
            for b, name in enumerate("ab")
        ]
    )  # fmt: skip


@pytest.fixture(scope="module")
def compiled():
    return jax.jit(second_order.kernel(_system(0.05), steps=STEPS))


def _of(variant: str) -> np.ndarray:
    kind, _, what = variant.partition("/")
    if kind == "full":
        return _slopes()
    return _slopes(window=int(what)) if kind == "window" else _slopes(stopped={"both": "ab"}.get(what, what))


def test_every_variant_is_the_series_that_it_lets_pass(compiled):
    chosen = second_order.variants(("a", "b"), steps=STEPS, groups={"both": ("a", "b")})
    assert [each.name for each in chosen] == [
        "full", "window/10", "window/5", "window/1", "stopped/both", "stopped/a", "stopped/b",
    ]  # fmt: skip
    asked = second_order.tasks(np.eye(2), chosen)
    run = jax.jit(second_order.kernel(_system(), steps=STEPS))
    theta = np.array([0.3, -1.0, 2.0])
    values, found = second_order.measured(run, None, theta, tasks=asked, keys=jax.random.split(jax.random.key(0), 2))
    np.testing.assert_allclose(values, np.tile(_slopes() @ theta, (2, 1)), rtol=1e-5)
    for v, each in enumerate(chosen):
        np.testing.assert_allclose(found[:, 2 * v : 2 * v + 2], np.stack([_of(each.name)] * 2), rtol=1e-5, atol=1e-6)
    # The one-step view, and everything stopped, are the same thing.
    np.testing.assert_array_equal(found[:, 6:8], found[:, 8:10])


def test_shares_are_those_of_the_closed_form(compiled):
    chosen = second_order.variants(("a", "b"), steps=STEPS, groups={"both": ("a", "b")})
    keys = jax.random.split(jax.random.key(1), 16)
    asked = second_order.tasks(GOAL[None], chosen)
    _, found = second_order.measured(compiled, None, np.zeros(LEVERS), tasks=asked, keys=keys)
    whole = GOAL @ _slopes()
    for v, each in enumerate(chosen[1:], 1):
        held = GOAL @ _of(each.name)
        near = second_order.closeness(found[:, v], found[:, 0], paired=True)
        share = np.linalg.norm(whole - held) / np.linalg.norm(whole)
        assert near.error == pytest.approx(share, rel=0.05)
        assert near.error_low <= share <= near.error_high
        cosine = whole @ held / np.linalg.norm(whole) / np.linalg.norm(held)
        assert near.cosine_low - 1e-9 <= cosine <= near.cosine_high + 1e-9
    flipped = second_order.signs(found[:, 0], found[:, chosen.index(next(c for c in chosen if c.name == "window/1"))])
    # -2 + 1 at once, -2 + 5.4 in the end; the other levers keep their signs.
    expected = whole * (GOAL @ _slopes(window=1)) < 0
    np.testing.assert_array_equal(flipped.flipped, expected)
    assert expected.any() and not expected.all()


def test_tasks_that_do_not_fill_the_last_run_are_not_repeated(compiled):
    (chosen,) = second_order.variants(("a", "b"), steps=STEPS, windows=(), among=())
    three = second_order.tasks(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), [chosen])
    keys = jax.random.split(jax.random.key(0), 1)
    heard = []
    _, found = second_order.measured(
        compiled, None, np.zeros(LEVERS), tasks=three, keys=keys, chunk=2, heed=lambda: heard.append(1)
    )
    assert found.shape == (1, 3, LEVERS) and len(heard) == 2
    np.testing.assert_allclose(found[:, 2], found[:, 0] + found[:, 1], rtol=1e-5)


def test_the_gap_of_a_team_is_about_its_own_levers(compiled):
    chosen = second_order.variants(("a", "b"), steps=STEPS, windows=(1,))
    _, found = second_order.measured(
        compiled,
        None,
        np.zeros(LEVERS),
        tasks=second_order.tasks(np.eye(2), chosen),
        keys=jax.random.split(jax.random.key(2), 8),
    )
    each = found.reshape(8, len(chosen), 2, LEVERS)
    owner = np.array([0, 0, 1])
    first, second, none = second_order.shaping_gap(
        np.concatenate([each[:, 0], np.zeros((8, 1, LEVERS))], axis=1),
        np.concatenate([each[:, 1], np.zeros((8, 1, LEVERS))], axis=1),
        owner=owner,
    )
    gap = (_slopes() - _slopes(window=1)) / np.array([[np.linalg.norm(_slopes()[0, :2])], [_slopes()[1, 2]]])
    assert none is None
    assert first.error == pytest.approx(np.linalg.norm(gap[0, :2]), rel=0.05)
    assert second.error == pytest.approx(abs(gap[1, 2]), rel=0.05)


def test_a_move_is_split_up_without_a_rest_where_outcomes_are_quadratic():
    rng = np.random.default_rng(0)
    curve, begin, move = rng.normal(size=(4, 4)), rng.normal(size=4), rng.normal(size=4)
    curve = curve + curve.T
    parts = second_order.trapezoid(curve @ begin, curve @ (begin + move), move)
    end = begin + move
    assert parts.sum() == pytest.approx(0.5 * (end @ curve @ end - begin @ curve @ begin))


# ---- noise


def _noisy(rng, mean, spread, count):
    return mean + spread * rng.normal(size=(count, len(mean)))


@pytest.mark.parametrize(("share", "spread"), [(0.0, 0.3), (0.5, 0.1), (0.8, 0.5), (1.5, 0.3)])
def test_intervals_know_the_noise_of_both_sides(share, spread):
    """Four and eight keys; the truth is where 95 % intervals say, in at least 85 % of repetitions even of so few."""
    rng = np.random.default_rng(3)
    reference = rng.normal(size=10)
    across = rng.normal(size=10)
    across -= (across @ reference) / (reference @ reference) * reference
    size = np.linalg.norm(reference)
    truth = reference * (1.0 - share / 2**0.5) + across / np.linalg.norm(across) * size * share / 2**0.5
    cosine = truth @ reference / np.linalg.norm(truth) / size
    found = [
        second_order.closeness(
            _noisy(rng, truth, 0.1, 4), _noisy(rng, reference, spread * size / 10**0.5, 8), paired=False, seed=i
        )
        for i in range(100)
    ]
    assert np.mean([each.error_low <= share + 1e-12 and share <= each.error_high for each in found]) > 0.85
    assert np.mean([each.cosine_low <= cosine + 1e-12 and cosine <= each.cosine_high for each in found]) > 0.85
    if share >= 0.5:  # near 0 the root of a square cannot be unbiased
        assert np.median([each.error for each in found]) == pytest.approx(share, rel=0.1)
    measured = np.mean([each.measured for each in found])
    assert measured == pytest.approx(cosine * np.mean([each.ceiling for each in found]), abs=0.02)


def test_a_reference_that_is_all_noise_says_nothing():
    rng = np.random.default_rng(4)
    found = [
        second_order.closeness(
            _noisy(rng, np.ones(10), 0.01, 4), _noisy(rng, np.zeros(10), 1.0, 8), paired=False, seed=i
        )
        for i in range(100)
    ]
    # Either nothing, or an interval that has no upper end worth the name.
    assert np.mean([not each.error_high < np.inf for each in found]) > 0.9
    assert np.median([each.ceiling for each in found]) < 0.5


def test_what_is_not_finite_or_known_once_is_not_compared():
    nothing = second_order.closeness(np.full((2, 3), np.inf), np.ones((2, 3)), paired=True)
    assert np.isnan(nothing.error) and np.isnan(nothing.cosine)
    with pytest.raises(ValueError, match="1 key tells nothing of noise"):
        second_order.closeness(np.ones((1, 3)), np.ones((2, 3)), paired=False)
    with pytest.raises(ValueError, match="use the same keys"):
        second_order.closeness(np.ones((4, 3)), np.ones((2, 3)), paired=True)


def test_signs_are_told_only_where_both_are_sure():
    rng = np.random.default_rng(5)
    full = _noisy(rng, np.array([1.0, 1.0, 1.0, 0.02]), 0.1, 6)
    myopic = _noisy(rng, np.array([-1.0, 1.0, -0.02, -1.0]), 0.1, 6)
    np.testing.assert_array_equal(second_order.signs(full, myopic).flipped, [True, False, False, False])


def test_a_block_that_holds_no_numbers_is_left_out():
    system = _system()
    with_counter = system._replace(
        begin=lambda context, theta, key: (*system.begin(context, theta, key), jnp.int32(0)),
        blocks=("a", "b", "counter"),
        parts=lambda state: state,
    )
    live = second_order.differentiable(with_counter, None, jnp.zeros(LEVERS))
    assert live == ("a", "b")
    names = [each.name for each in second_order.variants(with_counter.blocks, steps=2, windows=(1,), among=live)]
    assert names == ["full", "window/1", "stopped/a", "stopped/b"]
    with pytest.raises(ValueError, match="no block is called 'c'"):
        second_order.variants(("a", "b"), steps=2, groups={"of": ("a", "c")})


@pytest.mark.slow
def test_on_a_platform_the_whole_derivative_is_that_of_finite_differences_and_one_step_is_not():
    """Removal acts on tomorrow's posts: those that are out today are seen before it gets to them."""
    algorithms = {"home": helpers.small("chronological"), "takedown": helpers.small("removal")}
    ecosystem = eco.make(algorithms, sizes=helpers.SIZES, mechanisms=helpers.PLAIN)
    inputs = eco.inputs(ecosystem, helpers.population())
    system, steps = systems.platform(ecosystem), helpers.STEPS
    theta = np.asarray(vector.flat(inputs.levers), np.float64)
    live = second_order.differentiable(system, inputs, vector.flat(inputs.levers))
    assert "items" in live and "learner/home" not in live
    chosen = second_order.variants(
        system.blocks, steps=steps, groups=second_order.platform_groups(system.blocks), among=live
    )
    names = [each.name for each in chosen]
    toxic = NAMES.index("toxic_exposure_per_user")
    run = helpers.compile(second_order.kernel(system, steps=steps))
    keys = jax.random.split(helpers.key(), 1)

    def at(point: np.ndarray) -> tuple[float, np.ndarray]:
        asked = second_order.tasks(np.eye(len(system.outcomes))[[toxic]], chosen)
        values, slopes = second_order.measured(run, inputs, point, tasks=asked, keys=keys)
        return float(values[0, toxic]), slopes[0]

    _, slopes = at(theta)
    whole, one = slopes[names.index("full")], slopes[names.index("window/1")]
    way = whole / np.linalg.norm(whole)
    found = (at(theta + 0.05 * way)[0] - at(theta - 0.05 * way)[0]) / 0.1
    assert found == pytest.approx(np.linalg.norm(whole), rel=0.02)
    assert abs(one @ way) < 0.9 * found
    # What passes does so through posts.
    lost = {name: np.linalg.norm(whole - slopes[v]) for v, name in enumerate(names)}
    assert lost["stopped/items"] > 0.1 * found and lost["stopped/items"] == max(
        value for name, value in lost.items() if name.startswith("stopped/") and name != "stopped/world"
    )
    np.testing.assert_allclose(slopes[names.index("stopped/footprint")], whole, rtol=1e-3)
