"""Exact-marginal attention: the formula, the quadrature, its derivatives, and the sampled law it is the mean of."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamba.world import attention
from mamba.world.attention import attend

# Compiled once per shape; called op by op, every call would compile its own loop over the nodes.
expected_attention = jax.jit(attention.expected_attention, static_argnames="nodes")
sampled_attention = jax.jit(attention.sampled_attention)

RNG = np.random.default_rng(11)
C, U = 8, 3
SCORE = jnp.asarray(RNG.normal(0.0, 1.5, (C, U)), jnp.float32)
EXISTENCE = jnp.asarray(RNG.uniform(0.1, 1.0, (C, U)), jnp.float32).at[0].set(1.0).at[3].set(0.0)
CONTINUATION = jnp.asarray([0.3, 0.8, 0.95], jnp.float32)


SLOPES = jax.jit(jax.grad(lambda *x: jnp.sum(attention.expected_attention(*x, nodes=20) ** 2), (0, 1, 2)))


def draws(key, c=C, u=U, n=None):
    shape = (c, u) if n is None else (n, c, u)
    keys = jax.random.split(key, 3)
    depth = shape[:-2] + shape[-1:]
    return {
        "rank_draw": jax.random.uniform(keys[0], shape, minval=1e-7),
        "exist_draw": jax.random.uniform(keys[1], shape),
        "depth_draw": jax.random.uniform(keys[2], depth, minval=1e-7),
    }


def reference(score, existence, continuation):
    """Brute force in float64, [C]: sum over rankings and subsets, each with its Plackett-Luce probability."""
    c = len(score)
    odds = np.exp(np.asarray(score, np.float64))
    out = np.zeros(c)
    for there in itertools.product([0, 1], repeat=c):
        chance = np.prod([e if t else 1 - e for e, t in zip(existence, there, strict=True)])
        present = [i for i in range(c) if there[i]]
        for order in itertools.permutations(present):
            left, p = sum(odds[i] for i in present), 1.0
            for i in order:
                p *= odds[i] / left
                left -= odds[i]
            for rank, i in enumerate(order):
                out[i] += chance * p * continuation**rank
    return out


def integral(score, existence, continuation, nodes=20001):
    """The same number from the integral of the module docstring on a fine grid, float64, [C, U]."""
    score, existence, continuation = (np.asarray(x, np.float64) for x in (score, existence, continuation))
    y = np.linspace(score.min() - 6.0, score.max() + 40.0, nodes)
    out = np.zeros_like(score)
    for u in range(score.shape[1]):
        z = y[:, None] - score[None, :, u]
        law = np.exp(-np.exp(-z))
        passed = 1.0 - existence[None, :, u] * (1.0 - continuation[u]) * (1.0 - law)
        density = np.exp(-z) * law
        for j in range(score.shape[0]):
            out[j, u] = existence[j, u] * np.trapezoid(density[:, j] * np.delete(passed, j, 1).prod(1), y)
    return out


@pytest.mark.parametrize("g", [0.1, 0.5, 0.9])
def test_integral_is_the_sum_over_rankings_and_subsets(g):
    score, existence = np.array([0.7, -0.4, 1.3]), np.array([1.0, 0.6, 0.3])
    exact = reference(score, existence, g)
    np.testing.assert_allclose(integral(score[:, None], existence[:, None], np.array([g]))[:, 0], exact, atol=1e-9)
    got = expected_attention(
        jnp.asarray(score[:, None], jnp.float32),
        jnp.asarray(existence[:, None], jnp.float32),
        jnp.asarray([g], jnp.float32),
        nodes=24,
    )
    np.testing.assert_allclose(got[:, 0], exact, atol=5e-4)


def test_mean_of_a_million_samples():
    expected = expected_attention(SCORE, EXISTENCE, CONTINUATION, nodes=24)
    # 10^6 draws in blocks; independent users would waste draws, so the users differ only in their numbers.
    many = jax.vmap(lambda d: sampled_attention(SCORE, EXISTENCE, CONTINUATION, **d))

    @jax.jit
    def total(key):
        def block(sums, each):
            return sums + jnp.sum(many(draws(each, n=10_000)), axis=0), None

        return jax.lax.scan(block, jnp.zeros((C, U)), jax.random.split(key, 100))[0]

    mean = np.asarray(total(jax.random.key(3)), np.float64) / 1e6
    # Two standard errors of a Bernoulli mean are at most 1e-3.
    np.testing.assert_allclose(mean, integral(SCORE, EXISTENCE, CONTINUATION), atol=1e-3)
    np.testing.assert_allclose(np.asarray(expected), mean, atol=1e-3)
    assert np.all(mean[3] == 0) and np.all(np.asarray(expected)[3] == 0)


@pytest.mark.parametrize(("nodes", "span"), [(20, 11.0), (16, 7.0), (32, 20.0)])
@pytest.mark.parametrize("c", [4, 48])
def test_quadrature_error_is_what_the_docstring_claims(nodes, span, c):
    rng = np.random.default_rng(c)
    score = rng.uniform(0.0, span, (c, 12))
    score[0], score[1] = 0.0, span
    existence = np.where(rng.random((c, 12)) < 0.3, 1.0, rng.random((c, 12)))
    continuation = np.linspace(0.05, 0.97, 12)
    args = [jnp.asarray(x, jnp.float32) for x in (score, existence, continuation)]
    got = expected_attention(*args, nodes=nodes)
    np.testing.assert_allclose(got, integral(score, existence, continuation, nodes=6001), atol=1e-3)


def test_only_differences_of_scores_matter():
    base = expected_attention(SCORE, EXISTENCE, CONTINUATION, nodes=20)
    for shift in (-150.0, -40.0, 90.0, 500.0):
        moved = expected_attention(SCORE + shift, EXISTENCE, CONTINUATION, nodes=20)
        np.testing.assert_allclose(moved, base, atol=2e-4)
        d = draws(jax.random.key(1))
        same = sampled_attention(SCORE + shift, EXISTENCE, CONTINUATION, **d)
        np.testing.assert_array_equal(same, sampled_attention(SCORE, EXISTENCE, CONTINUATION, **d))


def test_limits():
    one = jnp.ones((C, U))
    full = expected_attention(SCORE, one, jnp.full(U, 1.0 - 1e-6), nodes=20)
    np.testing.assert_allclose(full, 1.0, atol=1e-3)
    # Without scrolling the first rank alone is seen: the softmax of the scores.
    top = expected_attention(SCORE, one, jnp.full(U, 1e-6), nodes=24)
    np.testing.assert_allclose(top, jax.nn.softmax(SCORE, axis=0), atol=1e-3)
    # The total is that of a geometric session of n items: (1 - g^n) / (1 - g), whatever the scores.
    total = jnp.sum(expected_attention(SCORE, one, CONTINUATION, nodes=24), axis=0)
    np.testing.assert_allclose(total, (1 - CONTINUATION**C) / (1 - CONTINUATION), rtol=1e-3)


@pytest.mark.parametrize("g", [0.1, 0.5, 0.9])
def test_session_length_is_that_of_all_subsets_and_depths(g):
    existence = np.array([1.0, 0.6, 0.3, 0.0, 0.9])

    def moments(g):
        first, second = 0.0, 0.0
        for there in itertools.product([0, 1], repeat=len(existence)):
            chance = np.prod([e if t else 1 - e for e, t in zip(existence, there, strict=True)])
            longer = g ** np.arange(sum(there))  # probability of more than r items
            first += chance * np.sum(longer)
            second += chance * np.sum((2 * np.arange(sum(there)) + 1) * longer)
        return first, second - first**2

    mean, variance = moments(g)
    slope = (moments(g + 1e-5)[0] - moments(g - 1e-5)[0]) / 2e-5
    got = attention.session_length(jnp.asarray(existence[:, None], jnp.float32), jnp.asarray([g], jnp.float32))
    np.testing.assert_allclose([float(x[0]) for x in got], [mean, variance, slope], rtol=1e-4)


def test_session_length_agrees_with_the_attention_it_belongs_to():
    mean, _, slope = attention.session_length(EXISTENCE, CONTINUATION)
    attended = jnp.sum(expected_attention(SCORE, EXISTENCE, CONTINUATION, nodes=24), axis=0)
    np.testing.assert_allclose(mean, attended, rtol=1e-3)
    more = attention.session_length(EXISTENCE, CONTINUATION + 1e-3)[0]
    np.testing.assert_allclose((more - mean) / 1e-3, slope, rtol=2e-2)


def test_is_linear_in_every_existence():
    with jax.enable_x64(True):
        score, existence, g = (jnp.asarray(np.asarray(x, np.float64)) for x in (SCORE, EXISTENCE, CONTINUATION))
        # Above 0 only: the nodes follow the candidates that exist.
        at = [expected_attention(score, existence.at[2].set(w), g, nodes=20) for w in (0.25, 0.5, 0.75)]
        assert jnp.max(jnp.abs(at[0] - 2 * at[1] + at[2])) < 1e-15
        assert jnp.max(jnp.abs(at[0] - at[2])) > 0.01


def test_permuting_candidates_or_users_permutes_attention():
    order, people = np.random.default_rng(0).permutation(C), np.array([2, 0, 1])
    base = expected_attention(SCORE, EXISTENCE, CONTINUATION, nodes=20)
    np.testing.assert_allclose(
        expected_attention(SCORE[order], EXISTENCE[order], CONTINUATION, nodes=20), base[order], rtol=1e-5, atol=1e-7
    )
    np.testing.assert_allclose(
        expected_attention(SCORE[:, people], EXISTENCE[:, people], CONTINUATION[people], nodes=20),
        base[:, people],
        rtol=1e-6,
    )
    d = draws(jax.random.key(5))
    hard = sampled_attention(SCORE, EXISTENCE, CONTINUATION, **d)
    moved = {"rank_draw": d["rank_draw"][order], "exist_draw": d["exist_draw"][order], "depth_draw": d["depth_draw"]}
    np.testing.assert_array_equal(sampled_attention(SCORE[order], EXISTENCE[order], CONTINUATION, **moved), hard[order])


@pytest.mark.parametrize("score", [-300.0, 0.3, 40.0, 300.0])
def test_a_candidate_that_does_not_exist_changes_nothing(score):
    gone = SCORE.at[3].set(score)
    d = draws(jax.random.key(2))
    expected = expected_attention(gone, EXISTENCE, CONTINUATION, nodes=20)
    np.testing.assert_array_equal(expected, expected_attention(SCORE, EXISTENCE, CONTINUATION, nodes=20))
    np.testing.assert_array_equal(
        sampled_attention(gone, EXISTENCE, CONTINUATION, **d), sampled_attention(SCORE, EXISTENCE, CONTINUATION, **d)
    )
    slopes = SLOPES(gone, EXISTENCE, CONTINUATION)
    assert all(bool(jnp.all(jnp.isfinite(slope))) for slope in slopes)
    assert bool(jnp.all(slopes[0][3] == 0))


def test_nobody_there():
    empty = jnp.zeros((C, U))
    np.testing.assert_array_equal(expected_attention(SCORE, empty, CONTINUATION, nodes=20), 0.0)
    np.testing.assert_array_equal(sampled_attention(SCORE, empty, CONTINUATION, **draws(jax.random.key(0))), 0.0)
    slope = jax.grad(lambda w: jnp.sum(expected_attention(SCORE, w, CONTINUATION, nodes=20)))(empty)
    assert bool(jnp.all(jnp.isfinite(slope)))


def shapes_of(jaxpr):
    """Shapes of every intermediate of a jaxpr and of the jaxprs inside it."""
    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            yield tuple(getattr(variable.aval, "shape", ()))
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else [value]:
                if hasattr(inner, "jaxpr"):
                    inner = inner.jaxpr
                if hasattr(inner, "eqns"):
                    yield from shapes_of(inner)


def test_no_array_of_nodes_by_candidates_by_users_exists():
    c, u, q = 5, 7, 11

    def value(score, existence, g):
        return jnp.sum(jnp.sin(attention.expected_attention(score, existence, g, nodes=q)))

    args = jnp.zeros((c, u)), jnp.ones((c, u)) * 0.5, jnp.full(u, 0.7)
    for function in (value, jax.grad(value, (0, 1, 2))):
        found = list(shapes_of(jax.make_jaxpr(function)(*args).jaxpr))
        assert (c, u) in found  # the walk reaches inside the loops
        assert all(np.prod(shape) < q * c * u for shape in found)


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield tuple(jnp.asarray(np.asarray(x, np.float64)) for x in (SCORE, EXISTENCE.at[3].set(0.4), CONTINUATION))


def test_gradients_are_finite_differences(double):
    target = jnp.asarray(np.random.default_rng(5).normal(size=(C, U)))

    # Two candidates that all but do not exist hold the nodes in place: a finite difference would move them, and a
    # derivative does not.
    ends, ghosts = jnp.asarray([[-6.0] * U, [6.0] * U]), jnp.full((2, U), 1e-30)

    @jax.jit
    def value(score, existence, g):
        seen = expected_attention(jnp.concatenate([score, ends]), jnp.concatenate([existence, ghosts]), g, nodes=20)
        return jnp.sum(target * seen[:C])

    slopes = jax.jit(jax.grad(value, (0, 1, 2)))(*double)
    h = 1e-4
    for i in range(3):
        for place in list(np.ndindex(double[i].shape))[:: 3 if i < 2 else 1]:
            up, down = list(double), list(double)
            up[i], down[i] = double[i].at[place].add(h), double[i].at[place].add(-h)
            difference = (value(*up) - value(*down)) / (2 * h)
            assert abs(difference - slopes[i][place]) < 1e-7 * max(1.0, abs(difference)), (i, place)


def test_forward_mode_is_reverse_mode(double):
    def value(score, existence, g):
        return expected_attention(score, existence, g, nodes=20)

    for i in range(3):
        forward = jax.jit(jax.jacfwd(value, i))(*double)
        backward = jax.jit(jax.jacrev(value, i))(*double)
        np.testing.assert_allclose(forward, backward, rtol=1e-10, atol=1e-13)


def test_modes():
    d = draws(jax.random.key(8))
    told = {"draws": {"rank": d["rank_draw"], "exist": d["exist_draw"], "depth": d["depth_draw"]}, "nodes": 16}

    def total(score, mode):
        return jnp.sum(jnp.arange(C * U, dtype=jnp.float32).reshape(C, U) * attend(
            score, EXISTENCE, CONTINUATION, mode=mode, **told
        ))  # fmt: skip

    hard = attend(SCORE, EXISTENCE, CONTINUATION, mode="sampled", **told)
    soft = attend(SCORE, EXISTENCE, CONTINUATION, mode="straight_through", **told)
    np.testing.assert_array_equal(hard, soft)
    assert set(np.unique(hard)) <= {0.0, 1.0}
    slope = jax.grad(total)(SCORE, "straight_through")
    np.testing.assert_array_equal(slope, jax.grad(total)(SCORE, "expected"))
    assert float(jnp.max(jnp.abs(slope))) > 0.1
