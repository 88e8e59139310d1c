"""Games whose Hessian, best responses and prices are known."""

import jax.numpy as jnp
import numpy as np
import pytest

from mamba.interactions import game
from mamba.meta import constraints, players, vector
from mamba.meta.players import Own
from mamba.objectives import NAMES

TWO = np.array([0, 1])
ALONE = np.eye(2)


def _bilinear(turn: float, *, bowl: float = 0.0, pull: float = 0.0):
    """L_0 = bowl x^2 / 2 + (pull + turn) x y, L_1 = bowl y^2 / 2 + (pull - turn) x y."""

    def losses(theta):
        x, y = theta[0], theta[1]
        return jnp.stack([bowl * x**2 / 2 + (pull + turn) * x * y, bowl * y**2 / 2 + (pull - turn) * x * y])

    return losses


@pytest.mark.parametrize(
    ("bowl", "pull", "turn", "rotation", "between"),
    [
        (0.0, 0.0, 1.0, 1.0, 1.0),  # matching pennies: harmonic
        (0.0, 1.0, 0.0, 0.0, 0.0),  # one product for both: potential
        (1.0, 0.0, 1.0, 0.5, 1.0),  # |S| = |A| = sqrt 2
        (0.0, 3.0, 1.0, 0.25, 0.25),
    ],
)
def test_rotation_and_eigenvalues_of_known_games(bowl, pull, turn, rotation, between):
    slopes = game.plain_slopes(_bilinear(turn, bowl=bowl, pull=pull))
    seen = game.view(slopes, np.zeros(2), players=TWO, weights=ALONE)
    np.testing.assert_allclose(seen.hessian, [[bowl, pull + turn], [pull - turn, bowl]], atol=1e-6)
    assert seen.rotation == pytest.approx(rotation, abs=1e-6)
    assert seen.rotation_between == pytest.approx(between, abs=1e-6)
    # -H has eigenvalues -bowl +- sqrt(pull^2 - turn^2)
    expected = max((-bowl + s * np.sqrt(complex(pull**2 - turn**2)) for s in (1, -1)), key=lambda z: z.real)
    assert seen.rightmost.real == pytest.approx(expected.real, abs=1e-6)
    assert abs(seen.rightmost.imag) == pytest.approx(abs(expected.imag), abs=1e-6)
    np.testing.assert_allclose(seen.coupling, [[bowl, abs(pull + turn)], [abs(pull - turn), bowl]], atol=1e-6)
    assert seen.at_equilibrium
    assert seen.asymmetry < 1e-6


def test_displacement_is_the_distance_to_the_point_of_rest():
    """In a bowl the Newton step leads home: 0.05 away is an equilibrium, 0.5 away is not."""
    slopes = game.plain_slopes(_bilinear(0.3, bowl=2.0))
    for away, at_rest in ((0.05, True), (0.5, False)):
        seen = game.view(slopes, np.array([away, -away / 2]), players=TWO, weights=ALONE)
        assert seen.displacement == pytest.approx(away, rel=1e-4)
        assert seen.at_equilibrium is at_rest


def test_a_player_with_several_levers_and_levers_of_nobody():
    """Three levers of one player, one of another, one nobody's; a random quadratic each, so H is known."""
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(2, 5, 5))
    forms = raw + raw.swapaxes(1, 2)

    def losses(theta):
        return jnp.einsum("p,kpq,q->k", theta, jnp.asarray(forms, jnp.float32), theta) / 2

    players = np.array([0, 1, 0, vector.NOBODY, 0])
    point = rng.normal(size=5)
    weights = np.array([[2.0, 0.0], [0.0, 1.0]])
    seen = game.view(game.plain_slopes(losses), point, players=players, weights=weights)
    kept = np.array([0, 1, 2, 4])
    hessian = np.stack([(2.0 if players[p] == 0 else 1.0) * forms[players[p], p][kept] for p in kept])
    np.testing.assert_array_equal(seen.levers, kept)
    np.testing.assert_allclose(seen.hessian, hessian, atol=2e-4)  # float32 differences of gradients of order 10
    np.testing.assert_allclose(
        seen.xi, [(2.0 if players[p] == 0 else 1.0) * forms[players[p], p] @ point for p in kept], rtol=1e-5
    )
    mine = hessian[np.ix_([0, 2, 3], [0, 2, 3])]
    assert seen.coupling[0, 0] == pytest.approx(np.linalg.norm(mine), rel=1e-4)
    assert seen.coupling[0, 1] == pytest.approx(np.linalg.norm(hessian[[0, 2, 3], 1]), rel=1e-4)
    assert seen.coupling[1, 0] == pytest.approx(np.linalg.norm(hessian[1, [0, 2, 3]]), rel=1e-4)
    assert seen.rotation == pytest.approx(game.rotation(hessian), abs=1e-4)
    assert seen.asymmetry < 1e-4


def test_rotation_error_covers_keys_that_differ():
    """H of each key is [[0, 3 + e], [3 + f, 0]] + [[0, 1], [-1, 0]]: the index of the mean is 1/4 but for noise."""
    covered = []
    for seed in range(300):
        noise = np.random.default_rng(seed).normal(0, 0.5, (10, 2))

        def slopes(theta, noise=noise):
            x, y = theta
            table = np.zeros((10, 2, 2))
            table[:, 0, 0] = (4 + noise[:, 0]) * y
            table[:, 1, 1] = (2 + noise[:, 1]) * x
            return np.ones((10, 2)), table

        seen = game.view(slopes, np.zeros(2), players=TWO, weights=ALONE)
        covered.append(abs(seen.rotation - 0.25) < 2.262 * seen.rotation_error)  # t of 9 degrees of freedom, 95 %
    assert 0.91 < np.mean(covered) < 0.985


@pytest.mark.parametrize("noise", [0.25, 0.5])
def test_noise_is_no_rotation(noise):
    """A potential game of eight levers, seen through four noisy keys: norms of the mean said 0.18 and 0.29, and were sure."""
    seen = []
    for seed in range(200):
        tables = np.eye(8) + np.random.default_rng(seed).normal(0, noise, (4, 8, 8))

        def slopes(theta, tables=tables):
            return np.ones((4, 8)), (tables @ theta)[:, :, None] * np.eye(8)

        seen.append(game.view(slopes, np.zeros(8), players=np.arange(8), weights=np.eye(8)))
    index = np.array([each.rotation for each in seen])
    error = np.array([each.rotation_error for each in seen])
    assert np.median(index) < 0.02 and index.mean() < 0.2 * noise
    assert np.mean(index <= 3.182 * error) > 0.9  # t of 3 degrees of freedom, 95 %


def test_keys_that_agree_have_the_index_of_their_matrix():
    hessian = np.array([[1.0, 2.0, 0.0], [0.5, 1.0, -1.0], [0.0, 3.0, 2.0]])

    def slopes(theta):
        return np.ones((4, 3)), np.tile(np.diag(hessian @ theta), (4, 1, 1))

    seen = game.view(slopes, np.zeros(3), players=np.arange(3), weights=np.eye(3))
    assert seen.rotation == pytest.approx(game.rotation(hessian), abs=1e-9)
    assert seen.rotation_error == pytest.approx(0.0, abs=1e-9)


def _prisoners(players: int, share: float):
    """Effort x_i costs x_i^2 / 2 and gives everyone `share`: alone x_i = share, together x_i = players * share."""

    def slopes(theta):
        return (theta**2 / 2 - share * np.sum(theta))[None], (np.diag(theta) - share * np.ones((players, players)))[
            None
        ]

    return slopes


def test_best_responses_on_a_quadratic_are_exact():
    """L_0 = (x - y - 1)^2, L_1 = (y + x / 2)^2: replies to (0.2, 0.4) are 1.4 and -0.1."""

    def slopes(theta, weights, index):
        del index
        a, b = theta[0] - theta[1] - 1, theta[1] + theta[0] / 2
        return weights @ np.array([[2 * a, -2 * a], [b, 2 * b]])

    given = {"players": TWO, "weights": ALONE, "steps": 40}
    start = np.array([0.2, 0.4])
    replies = game.best_responses(slopes, start, radius=2.0, **given)
    np.testing.assert_allclose(replies, [[1.4, 0.4], [0.2, -0.1]], atol=1e-4)
    bounded = game.best_responses(slopes, start, radius=0.3, **given)
    np.testing.assert_allclose(bounded, [[0.5, 0.4], [0.2, 0.1]], atol=1e-6)
    # Each round halves the distance of y from the only equilibrium (2/3, -1/3) and turns it round; x follows one behind.
    rest = game.nash_like(slopes, start, radius=2.0, rounds=7, **given)
    away = (0.4 + 1 / 3) / 2**7
    np.testing.assert_allclose(rest.levers, [2 / 3 + 2 * away, -1 / 3 - away], atol=2e-4)
    assert rest.moved == pytest.approx(6 * away, abs=4e-4)


def test_replies_in_a_harmonic_game_do_not_come_to_rest():
    """L_0 = x y, L_1 = -x y in a box: corners chase each other, and the result says so."""
    rest = game.nash_like(
        game.descent(game.plain_slopes(_bilinear(1.0))),
        np.array([0.3, 0.2]),
        players=TWO,
        weights=ALONE,
        radius=1.0,
        steps=20,
        rounds=3,
    )
    assert rest.moved > 1.0


def test_price_of_non_coordination_of_prisoners():
    """Three players, share 1/2: losses sum to 3 b^2 (1/2 - 3) alone and to -9 * 3 b^2 / 2 together."""
    n, b = 3, 0.5
    slopes = _prisoners(n, b)
    keys = np.array([-0.1, 0.0, 0.2])  # what a key adds to every loss cancels in pairs

    def measure(points):
        return np.stack([slopes(point)[0] + keys[:, None] for point in points])

    result = game.coordination(
        game.descent(slopes),
        measure,
        np.zeros(n),
        players=np.arange(n),
        weights=np.eye(n),
        goal=np.ones(n),
        radius=4.0,
        steps=40,
        rounds=2,
    )
    np.testing.assert_allclose(result.nash.levers, b, atol=1e-4)
    np.testing.assert_allclose(result.joint, n * b, atol=1e-4)
    assert result.price.mean == pytest.approx(n * b**2 * (n - 1) ** 2 / 2, rel=1e-3)
    assert result.alone.mean == pytest.approx(n * b**2 * (0.5 - n), rel=1e-3)
    assert result.price.error == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_allclose(result.gap.mean, 100 * b**2 / 2, rtol=1e-4)  # from 0 to b against others at 0
    assert result.nash.moved < 1e-4


def test_a_joint_metric_costs_nothing_to_play_for():
    """Where every player minimises the goal itself the price is 0."""

    def bowl(theta):
        away = theta - 0.5
        return np.array([[away @ away + 0.4 * theta[0] * theta[1]]]), (2 * away + 0.4 * theta[::-1])[None, None]

    result = game.coordination(
        game.descent(bowl),
        lambda points: np.stack([np.repeat(bowl(point)[0], 2, axis=0) for point in points]),
        np.zeros(2),
        players=TWO,
        weights=np.ones((2, 1)),
        goal=np.ones(1),
        steps=30,
        rounds=6,
    )
    assert result.price.mean == pytest.approx(0.0, abs=1e-5)
    assert result.together.mean < -0.1


def test_weights_are_relative_to_levels_and_leave_out_who_has_no_metric():
    value = np.array([[4.0, -2.0, 0.0], [4.0, -2.0, 0.0]])
    weights = players.loss_weights(Own(np.array([0, 1, 2]), np.array([-1.0, 1.0, 1.0])), value)
    np.testing.assert_allclose(weights, [[-0.25, 0, 0], [0, 0.5, 0], [0, 0, 0]])
    np.testing.assert_array_equal(players.players_of(np.array([0, 2, 1, 0]), weights), [0, vector.NOBODY, 1, 0])
    with pytest.raises(ValueError, match="nobody plays"):
        game.view(
            lambda theta: (np.ones((1, 3)), np.ones((1, 3, 1))), np.zeros(1), players=np.array([-1]), weights=weights
        )


def test_goal_weights_are_the_utility_of_meta_training():
    rng = np.random.default_rng(3)
    goal = constraints.goal({"polarisation": 1.0, "trust": -2.0}, {})
    baseline, other = rng.uniform(0.5, 2.0, (2, len(NAMES)))
    weights = game.goal_weights(goal, np.concatenate([baseline, [7.0]])[None])
    change = np.concatenate([other - baseline, [3.0]]) @ weights
    assert change == pytest.approx(constraints.utility(other, baseline, goal))
    with pytest.raises(ValueError, match="keep"):
        game.goal_weights(constraints.goal({}, {"trust": 0.97}), baseline[None])
