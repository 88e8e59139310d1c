"""Attention: which candidates a user looks at.

Candidates are ranked by a Plackett-Luce law (Gumbel noise on the scores is the platform's exploration). Candidate `k`
exists independently with weight `w_k`; the user starts at the top and goes on to the next rank with probability `g`.
For perturbed scores `y`, the events "k exists and stands above y" are independent, so the probability that `j` is
examined is

    a_j = E[g^rank_j 1{j exists}] = w_j  Integral f(y - s_j)  Prod_{k != j} [1 - w_k (1 - g)(1 - F(y - s_k))]  dy,

with F(z) = exp(-exp(-z)) and f = F'. It is exact, needs no temperature and no sort, and is linear in every `w_k`.

The integral is a trapezoidal sum over Q nodes. The integrand is analytic in a strip of half-width pi/2, so the sum
converges like exp(-pi^2 / h) in the node distance h; what is left is truncation. To the right of the last node the
integrand is exp(-z) to first order, and the geometric series of the nodes beyond it is added in closed form to the last
weight. Nodes are visited by a loop whose body is rematerialised: no array of shape [Q, C, U] exists in either pass, and
forward and reverse differentiation both work.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mamba.storing import stored
from mamba.sums import largest, total
from mamba.types import Array, Mode
from mamba.world.relax import hard_with_soft_derivative

_LEFT = 2.3  # F(-2.3) = 5e-5: nothing of f is left of the lowest score minus this
_RIGHT = 6.0  # right of the highest score plus this the integrand is geometric to exp(-2 * 6)


@jax.custom_jvp
def _product(factors: Array) -> Array:
    """Product over the first axis of positive factors; the derivative of `jnp.prod` builds a tree of partial products."""
    return jnp.prod(factors, axis=0)


@_product.defjvp
def _product_derivative(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (factors,), (change,) = primals, tangents
    value = _product(factors)
    return value, value * jnp.sum(change / factors, axis=0)


def expected_attention(score: Array, existence: Array, continuation: Array, *, nodes: int) -> Array:
    """Exact-marginal examination probabilities.

    Args:
        score: [C, U] log-odds; only differences matter.
        existence: [C, U] in [0, 1].
        continuation: [U] probability to scroll on, in (0, 1).
        nodes: Q; 20 nodes err by less than 1e-3 while the scores of a user span less than 11, 16 while they span
            less than 7, 32 while they span less than 20 (measured, C = 4 to 48).

    Returns:
        [C, U] probability that the candidate exists and is examined.

    References:
        Plackett 1975; Luce 1959; geometric examination as in Moffat and Zobel 2008 (rank-biased precision).
    """
    # The nodes are numerical: moving them does not change the integral, so no derivative passes through them.
    held, exists = jax.lax.stop_gradient(score), jax.lax.stop_gradient(existence) > 0
    anyone = largest(exists)
    high = jnp.where(anyone, largest(jnp.where(exists, held, -jnp.inf)), 0.0)
    low = jnp.where(anyone, -largest(jnp.where(exists, -held, -jnp.inf)), 0.0)
    low = jnp.maximum(low, high - 60.0)
    left = low - _LEFT
    distance = (high + _RIGHT - left) / (nodes - 1)
    # exp(score - y) = rise * fall with rise <= 1: one exponential a candidate here and one a node below. Only a
    # candidate that does not exist can stand above `high`; it must not overflow.
    rise = jnp.exp(jnp.minimum(score - high[None], 20.0))
    stop = existence * (1.0 - continuation)[None]

    def node(partial: Array, index: Array) -> tuple[Array, None]:
        fall = jnp.exp(high - (left + distance * index))
        rate = rise * fall[None]
        below = jnp.exp(-rate)  # F(y - s)
        passed = 1.0 - stop * (1.0 - below)  # at least `continuation`, hence safe to divide by
        weight = jnp.where(index == nodes - 1, distance / (1.0 - jnp.exp(-distance)), distance)
        product = weight * _product(passed)
        return partial + rate * below * (product[None] / passed), None

    body = jax.checkpoint(node, prevent_cse=False)
    integral, _ = jax.lax.scan(body, jnp.zeros_like(score), jnp.arange(nodes, dtype=score.dtype))
    return existence * integral


def session_length(existence: Array, continuation: Array) -> tuple[Array, Array, Array]:
    """Mean and variance of the number of items a session examines, and the slope of the mean in `continuation`.

    The session ends at rank n = min(E, G), with E the number of candidates that exist and P(G > r) = g^r. With
    P = E[g^E] = prod_k (1 - w_k (1 - g)), whose factors also give E[E g^E], the sums over ranks close:

        E[n] = (1 - P) / (1 - g),    E[n^2] = (1 + g - E[g^E ((2 E + 1) - (2 E - 1) g)]) / (1 - g)^2.

    Args:
        existence: [C, U] in [0, 1].
        continuation: [U] g in (0, 1).

    Returns:
        `(mean [U], variance [U], slope [U])`, exact for independent existence.
    """
    stop = 1.0 - continuation
    passed = 1.0 - existence * stop[None]
    none = _product(passed)  # E[g^E]
    count = none * continuation * total(existence / passed, axis=0)  # E[E g^E]
    mean = (1.0 - none) / stop
    square = (1.0 + continuation - 2.0 * stop * count - (1.0 + continuation) * none) / stop**2
    slope = (mean - count / continuation) / stop
    variance = square - mean**2
    # Where nothing is left to chance, rounding decides on which side of 0 it falls; its derivative must not depend on that.
    return mean, hard_with_soft_derivative(jnp.maximum(variance, 0.0), variance), slope


def _ranks(arrival: Array) -> Array:
    """How many candidates arrived earlier, [C, U]."""
    # One candidate at a time, because comparing all pairs at once stores [C, C, U].
    above = jnp.zeros_like(arrival)
    for each in range(arrival.shape[0]):
        above = above + (arrival[each : each + 1] < arrival)
    return above


def sampled_attention(
    score: Array, existence: Array, continuation: Array, *, rank_draw: Array, exist_draw: Array, depth_draw: Array
) -> Array:
    """One draw of who is examined; its mean is `expected_attention`.

    Args:
        score: [C, U] log-odds.
        existence: [C, U] in [0, 1].
        continuation: [U] in (0, 1).
        rank_draw: [C, U] uniform draws behind the Gumbel ranking.
        exist_draw: [C, U] uniform draws behind existence.
        depth_draw: [U] uniform draws behind the depth of the session.

    Returns:
        [C, U], 1 where the candidate exists and is examined.
    """
    exists = exist_draw < existence
    # An exponential race: ordering arrivals is ordering score + Gumbel noise, at one logarithm instead of two.
    top = largest(jnp.where(exists, score, -jnp.inf), keepdims=True)
    arrival = jnp.where(exists, -jnp.log(rank_draw) * jnp.exp(jnp.minimum(top - score, 80.0)), jnp.inf)
    depth = jnp.log(depth_draw) / jnp.log(continuation)  # P(depth >= r) = continuation ** r

    def examined(exists: Array, arrival: Array, depth: Array) -> Array:
        return exists & (_ranks(arrival) <= depth[None])

    # As truth values, a byte each: a dozen loops read them.
    return stored(examined, exists, arrival, depth).astype(float)


def attend(
    score: Array, existence: Array, continuation: Array, *, draws: dict[str, Array], mode: Mode, nodes: int
) -> Array:
    """Examination of candidates in any mode; see the module docstring.

    Args:
        score: [C, U] log-odds.
        existence: [C, U] in [0, 1].
        continuation: [U] in (0, 1).
        draws: `rank` and `exist` [C, U], `depth` [U]: uniform draws, unused in `expected` mode.
        mode: numeric mode.
        nodes: quadrature nodes of the expectation.

    Returns:
        [C, U] examined weight.
    """
    if mode == "expected":
        return expected_attention(score, existence, continuation, nodes=nodes)
    hard = sampled_attention(
        score, existence, continuation, rank_draw=draws["rank"], exist_draw=draws["exist"], depth_draw=draws["depth"]
    )
    if mode == "sampled":
        return hard
    return hard_with_soft_derivative(hard, expected_attention(score, existence, continuation, nodes=nodes))
