"""Human review: what reviewers answer, and which items a limited number of them should look at.

**Reviewers disagree.** A single reviewer who is asked about an item that violates the rules says so with probability
`SENSITIVITY`, about any other item keeps it with probability `SPECIFICITY`. Both are measured on the public votes of three to
nine raters on each of 24,783 posts, "hate speech" against anything else: with raters of one quality that err independently,
the first three factorial moments of an item's votes are those of a mixture of two coins (Blischke 1962, `two_coins`). Posts
had been sampled by slurs, so that ordinary posts are easier than this specificity says; "hate speech or offensive" against
neither gives 0.975 and 0.879.

**Reviewers are few.** With capacity B an index policy reviews what is worth most. Its soft form reviews an item of log-value
x with probability

    r = sigma((x - lambda) / tau),   lambda such that sum weight r = B,

lambda, the price of a review, found by bisection and differentiated by the implicit function theorem.

Source of the two constants: annotations by Davidson, Warmsley, Macy and Weber 2017, MIT licence, copyright 2017 Tom Davidson.

References:
    Davidson, Warmsley, Macy and Weber 2017; Blischke 1962; Dawid and Skene 1979 (raters without a ground truth).
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp

from mamba.types import Array, ObservedItems, View

SENSITIVITY = 0.422
SPECIFICITY = 0.970

_ROUNDS = 17  # halvings beyond the digits of a number
_REACH = 20.0  # widths beyond the values at which everything, or nothing, is chosen
_FULL = 0.99  # share of the weight that can be chosen, so that the price stays finite


def two_coins(moments: tuple[float, float, float]) -> tuple[float, float, float]:
    """A mixture of two coins from factorial moments: `(low, high, share of the high coin)`.

    Args:
        moments: means of the probability that one, that two and that three votes on the same item are all "yes".
    """
    first, second, third = moments
    spread = second - first * first
    middle = (third - first * second) / (2.0 * spread)
    product = (first * third - second * second) / spread
    half = math.sqrt(middle * middle - product)
    low, high = middle - half, middle + half
    return low, high, (first - low) / (high - low)


def answer(judgement: Array, *, sensitivity: float = SENSITIVITY, specificity: float = SPECIFICITY) -> Array:
    """Probability [M] that a single reviewer finds a violation, from what reviewers agree on."""
    return sensitivity * judgement + (1.0 - specificity) * (1.0 - judgement)


def harm(items: ObservedItems) -> Array:
    """The worse of the two noisy harm signals."""
    return jnp.maximum(items.toxicity_signal, items.falsity_signal)


def standing(view: View) -> Array:
    """[M] 1 where what was known of a slot still holds, 0 where it holds an item posted in this step."""
    return (view.age > 0).astype(float)


def top(values: Array, weight: Array, budget: Array, width: float) -> Array:
    """The soft top-B.

    Args:
        values: [M] log-values.
        weight: [M] what each entry takes of the budget, in [0, 1].
        budget: B, a scalar; at most 99 % of the weight can be taken.
        width: tau, in units of `values`.

    Returns:
        [M] probability of each to be taken.
    """
    most = jnp.minimum(budget, _FULL * jnp.sum(weight))
    return jax.nn.sigmoid((values - price(values, weight, most, width)) / width)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def price(values: Array, weight: Array, budget: Array, width: float) -> Array:
    """The lambda of `top`: solves sum weight sigma((values - lambda) / width) = budget."""
    margin = _REACH * width

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = 0.5 * (low + high)
        too_cheap = jnp.sum(weight * jax.nn.sigmoid((values - middle) / width)) > budget
        return jnp.where(too_cheap, middle, low), jnp.where(too_cheap, high, middle)

    rounds = jnp.finfo(values.dtype).nmant + _ROUNDS
    low, high = jax.lax.fori_loop(0, rounds, halve, (jnp.min(values) - margin, jnp.max(values) + margin))
    return 0.5 * (low + high)


@price.defjvp
def _(width: float, primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    values, weight, budget = primals
    found = price(values, weight, budget, width)
    taken = jax.nn.sigmoid((values - found) / width)
    slope = weight * taken * (1.0 - taken) / width
    change = jnp.sum(slope * tangents[0]) + jnp.sum(taken * tangents[1]) - tangents[2]
    return found, change / jnp.maximum(jnp.sum(slope), 1e-6)
