"""Bridging matrix factorisation: what raters of opposite camps agree on.

A rating y of note n (here: any item) by rater u is modelled as

    y = mu + i_u + i_n + f_u f_n,

one factor, squared loss, penalties `LAMBDA_INTERCEPT` on the intercepts and `LAMBDA_FACTOR` on the factors, as averages
over raters and over notes. The factor takes up what the camps disagree on, so that the intercept i_n keeps what they
agree on. A note is helpful if i_n > 0.40 and not helpful if i_n < -0.05 - 0.8 |f_n|; raters need 10 ratings and notes 5.

`fit` is the offline form: alternating least squares on all ratings. `Online` is the same model as a warm-started inner
learner: in a step every note and then every rater takes one Newton step on the new ratings (recursive least squares),
whose size their precision bounds. Numbers of ratings are soft there, n / (n + least), and everything is close to linear in
the ratings.

References:
    Wojcik et al. 2022 (Birdwatch: bridging-based ranking) and the published scorer (twitter/communitynotes), for model
    and constants.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mamba.streams import normals, uniforms
from mamba.sums import total
from mamba.types import Array, View

LAMBDA_FACTOR = 0.03
LAMBDA_INTERCEPT = 0.15
HELPFUL = 0.40
UNHELPFUL, UNHELPFUL_FACTOR = -0.05, -0.8
LEAST_OF_RATER, LEAST_OF_NOTE = 10.0, 5.0

_SPREAD = 0.5  # standard deviation of the raters' factors at the start: at exactly 0 no factor would ever be found


class Fit(NamedTuple):
    """A fitted model: mean, then rows (intercept, factor) of the raters [2, V] and of the notes [2, S]."""

    mean: Array
    rater: Array
    note: Array


class Online(NamedTuple):
    """Learned state: a model, and how sure it is of every row.

    Attributes:
        mean: scalar mu.
        mean_weight: scalar, ratings behind it.
        rater: [2, U] intercept and factor.
        rater_precision: [3, U] precision matrix of these two, entries 00, 01, 11.
        note: [2, M] likewise.
        note_precision: [3, M] likewise.
    """

    mean: Array
    mean_weight: Array
    rater: Array
    rater_precision: Array
    note: Array
    note_precision: Array


def _prior(ratings: Array | float) -> Array:
    """Precision [3] before any rating of who has `ratings` on average."""
    return jnp.stack([LAMBDA_INTERCEPT * ratings, 0.0 * ratings, LAMBDA_FACTOR * ratings]).astype(float)


def _solve(precision: Array, slope: Array, least: Array) -> Array:
    """Solves 2 x 2 systems `precision [3, ...]`, `slope [2, ...]`; `least` bounds the Schur complement from below."""
    schur = jnp.maximum(precision[2] - precision[1] ** 2 / precision[0], least)
    factor = (slope[1] - precision[1] / precision[0] * slope[0]) / schur
    return jnp.stack([(slope[0] - precision[1] * factor) / precision[0], factor])


def _sums(weight: Array, error: Array, factor: Array) -> Array:
    """What a rating adds, [5, ...]: precision (3) and slope (2), given the other side's factor."""
    return jnp.stack([weight, weight * factor, weight * factor**2, error, error * factor])


def fit(
    rater: Array,
    note: Array,
    rating: Array,
    *,
    raters: int,
    notes: int,
    key: Array,
    rounds: int = 40,
    least_of_rater: float = LEAST_OF_RATER,
    least_of_note: float = LEAST_OF_NOTE,
) -> Fit:
    """Fits the model offline by alternating least squares.

    Args:
        rater: [R] int32, who rated.
        note: [R] int32, what.
        rating: [R] in [0, 1].
        raters: number of raters V.
        notes: number of notes S.
        key: typed key of the factors' start; consumed.
        rounds: alternations.
        least_of_rater: raters with fewer ratings are left out.
        least_of_note: notes with fewer ratings are left out.

    Returns:
        The model; who is left out has intercept and factor 0.
    """
    enough = [
        jnp.bincount(rater, length=raters) >= least_of_rater,
        jnp.bincount(note, length=notes) >= least_of_note,
    ]
    weight = (enough[0][rater] & enough[1][note]).astype(float)
    priors = [_prior(jnp.sum(weight) / jnp.maximum(jnp.sum(kept), 1)) for kept in enough]

    def refit(who: Array, size: int, prior: Array, rows: Array, whom: Array, mean: Array) -> Array:
        """Rows (intercept, factor) [2, size] of one side, given those of the other."""
        error = weight * (rating - mean - rows[0][whom])
        sums = jax.ops.segment_sum(_sums(weight, error, rows[1][whom]).T, who, size).T
        return _solve(prior[:, None] + sums[:3], sums[3:], prior[2])

    def once(model: Fit, _: None) -> tuple[Fit, None]:
        found = refit(note, notes, priors[1], model.rater, rater, model.mean)
        people = refit(rater, raters, priors[0], found, note, model.mean)
        rest = rating - people[0][rater] - found[0][note] - people[1][rater] * found[1][note]
        mean = jnp.sum(weight * rest) / jnp.maximum(jnp.sum(weight), 1.0) / (1.0 + LAMBDA_INTERCEPT)
        return Fit(mean, people, found), None

    factor = _SPREAD * normals(uniforms(key, (raters,)))
    mean = jnp.sum(weight * rating) / jnp.maximum(jnp.sum(weight), 1.0)
    begin = Fit(mean, jnp.stack([jnp.zeros(raters), factor]), jnp.zeros((2, notes)))
    return jax.lax.scan(once, begin, None, length=rounds)[0]


def start(view: View, key: Array, *, typical: float) -> Online:
    """A model without ratings.

    Args:
        view: for the numbers of users and item slots.
        key: typed key of the raters' factors; consumed.
        typical: ratings per rater and per note that turn the averaged penalties into precisions.
    """
    users, items = view.followers.shape[0], view.age.shape[0]
    prior = _prior(typical)[:, None]
    factor = _SPREAD * normals(uniforms(key, (users,)))
    return Online(
        mean=jnp.zeros(()),
        mean_weight=jnp.ones(()),
        rater=jnp.stack([jnp.zeros(users), factor]),
        rater_precision=jnp.broadcast_to(prior, (3, users)),
        note=jnp.zeros((2, items)),
        note_precision=jnp.broadcast_to(prior, (3, items)),
    )


def ratings(precision: Array, *, typical: float) -> Array:
    """Number of ratings behind precisions [3, ...]."""
    return jnp.maximum(precision[0] - LAMBDA_INTERCEPT * typical, 0.0)


def soft_enough(count: Array, least: float) -> Array:
    """Soft form of "at least `least` ratings": count / (count + least)."""
    return count / (count + least)


def update(
    model: Online,
    *,
    users: Array,
    items: Array,
    age: Array,
    weight: Array,
    signal: Array,
    typical: float,
    memory: float,
    least_of_rater: float = LEAST_OF_RATER,
) -> tuple[Online, Array]:
    """One step on new ratings: notes first, then raters, then the mean.

    Args:
        model: present state.
        users: [B] int32, raters.
        items: [C, B] int32, what they rated.
        age: [M] steps since posting; a slot of age 0 holds a new item, of which nothing is known.
        weight: [C, B] how many ratings each is.
        signal: [C, B] weight x rating.
        typical: see `start`.
        memory: share of what is known of raters, and of the mean, that a step keeps.
        least_of_rater: ratings at which a rater's voice counts half.

    Returns:
        `(new state, mean squared error of the new ratings before the step)`.
    """
    prior = _prior(typical)
    old = (age > 0)[None]
    note = jnp.where(old, model.note, 0.0)
    note_precision = jnp.where(old, model.note_precision, prior[:, None])
    rater = model.rater[:, users]

    def predicted(mean: Array, rater: Array, rows: Array) -> Array:
        return mean + rater[0][None] + rows[0] + rater[1][None] * rows[1]

    # notes, by raters whose voice counts
    guess = predicted(model.mean, rater, note[:, items])
    loss = jnp.sum(weight * (signal / jnp.maximum(weight, 1e-6) - guess) ** 2) / (1.0 + jnp.sum(weight))
    voice = soft_enough(ratings(model.rater_precision[:, users], typical=typical), least_of_rater)[None]
    factors = jnp.broadcast_to(rater[1][None], weight.shape)
    sums = _sums(voice * weight, voice * (signal - weight * guess), factors)
    empty = jnp.zeros((note.shape[1], 5))
    gathered = empty.at[items].add(jnp.moveaxis(sums, 0, -1), mode="promise_in_bounds").T
    note_precision = note_precision + gathered[:3]
    note = note + _solve(note_precision, gathered[3:], 0.5 * prior[2])

    # raters
    error = signal - weight * predicted(model.mean, rater, note[:, items])
    sums = total(_sums(weight, error, note[1][items]), axis=1)
    precision = prior[:, None] + memory * (model.rater_precision - prior[:, None])
    precision = precision.at[:, users].add(sums[:3])
    moved = model.rater.at[:, users].add(_solve(precision[:, users], sums[3:], 0.5 * prior[2]))

    # mean
    rest = signal - weight * predicted(model.mean, moved[:, users], note[:, items])
    mean_weight = memory * model.mean_weight + jnp.sum(weight)
    mean = model.mean + jnp.sum(rest) / (1.0 + mean_weight)
    return Online(mean, mean_weight, moved, precision, note, note_precision), loss


def helpful(note: Array, *, threshold: Array | float = HELPFUL, width: float) -> Array:
    """Soft status "helpful" of notes with rows (intercept, factor) [2, ...]: 1 well above the threshold."""
    return jax.nn.sigmoid((note[0] - threshold) / width)


def unhelpful(note: Array, *, width: float) -> Array:
    """Soft status "not helpful": 1 where the intercept is well below -0.05 - 0.8 |factor|."""
    return jax.nn.sigmoid((UNHELPFUL + UNHELPFUL_FACTOR * jnp.abs(note[1]) - note[0]) / width)
