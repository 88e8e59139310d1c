"""Ecosystem objectives: quantities of a whole rollout, each with formula, unit, direction and source.

Metrics of a rollout are sums and averages per step, [T]; an objective is a ratio of sums, a time average, or the value
at the end. Every objective of exposure is reported per user and step *and* per impression: more activity must not hide as
more harm, nor less activity as less. Gaps between groups compare rates.

U users, T steps; a examined, m reshared; z toxicity, v veracity; sums run over users, candidates and steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax.numpy as jnp

from mamba.types import Array, Metrics

Direction = Literal["lower", "higher"]


class Objective(NamedTuple):
    """One ecosystem objective.

    Attributes:
        label: words for people.
        formula: what is computed.
        unit: unit or range.
        better: which direction is healthier.
        source: where the notion comes from.
        of: `(metrics [T, ...], number of users) -> scalar`.
    """

    label: str
    formula: str
    unit: str
    better: Direction
    source: str
    of: Callable[[Metrics, int], Array]


_EPSILON = 1e-9


def _per_user(name: str) -> Callable[[Metrics, int], Array]:
    return lambda metrics, users: jnp.mean(metrics[name]) / users


def _ratio(top: str, bottom: str) -> Callable[[Metrics, int], Array]:
    return lambda metrics, users: jnp.sum(metrics[top]) / (jnp.sum(metrics[bottom]) + _EPSILON)


def _mean(name: str) -> Callable[[Metrics, int], Array]:
    return lambda metrics, users: jnp.mean(metrics[name])


def _end(name: str) -> Callable[[Metrics, int], Array]:
    return lambda metrics, users: metrics[name][-1]


def _group_gap(top: str, bottom: str) -> Callable[[Metrics, int], Array]:
    """Largest difference between groups in a ratio of sums."""

    def gap(metrics: Metrics, users: int) -> Array:
        del users
        mass = jnp.sum(metrics[f"{bottom}_by_group"], axis=0)
        there = mass > _EPSILON  # a group without mass has no rate
        rate = jnp.sum(metrics[f"{top}_by_group"], axis=0) / jnp.where(there, mass, 1.0)
        high = jnp.max(rate, where=there, initial=-jnp.inf)
        low = jnp.min(rate, where=there, initial=jnp.inf)
        return jnp.where(jnp.any(there), high - low, 0.0)

    return gap


OBJECTIVES: dict[str, Objective] = {
    "engagement_per_user": Objective(
        "engagement", "sum of clicks / (U T)", "clicks per user and hour", "higher", "platform practice",
        _per_user("clicks"),
    ),
    "engagement_per_impression": Objective(
        "click-through rate", "sum of clicks / sum a", "clicks per impression", "higher", "platform practice",
        _ratio("clicks", "exposures"),
    ),
    "retention": Objective(
        "retention", "mean over users of the probability to be active, at the end", "0 to 1", "higher",
        "platform practice (daily active share)", _end("retention"),
    ),
    "polarisation": Objective(
        "opinion polarisation", "mean over topics of the variance of opinions over users, at the end", "opinion squared",
        "lower", "Musco, Musco and Tsourakakis 2018", _end("polarisation"),
    ),
    "exposure_diversity": Objective(
        "exposure diversity", "entropy of the topics a user saw (running), over log D; exposure-weighted mean, at the end",
        "0 to 1", "higher", "Shannon entropy; Helberger 2019 on exposure diversity", _end("exposure_diversity"),
    ),
    "toxic_exposure_per_user": Objective(
        "toxic exposure", "sum a z / (U T)", "toxic impressions per user and hour", "lower",
        "Schneider and Rizoiu 2023", _per_user("toxic_exposures"),
    ),
    "toxic_exposure_per_impression": Objective(
        "toxic share of impressions", "sum a z / sum a", "0 to 1", "lower", "Schneider and Rizoiu 2023",
        _ratio("toxic_exposures", "exposures"),
    ),
    "misinformation_exposure_per_user": Objective(
        "misinformation exposure", "sum a (1 - v) / (U T)", "false impressions per user and hour", "lower",
        "Vosoughi, Roy and Aral 2018", _per_user("false_exposures"),
    ),
    "misinformation_exposure_per_impression": Objective(
        "false share of impressions", "sum a (1 - v) / sum a", "0 to 1", "lower", "Vosoughi, Roy and Aral 2018",
        _ratio("false_exposures", "exposures"),
    ),
    "misinformation_reshares_per_user": Objective(
        "misinformation reshares", "sum m (1 - v) / (U T)", "false reshares per user and hour", "lower",
        "Pennycook and Rand 2022", _per_user("false_reshares"),
    ),
    "misinformation_reshares_per_impression": Objective(
        "false reshares per impression", "sum m (1 - v) / sum a", "0 to 1", "lower", "Pennycook and Rand 2022",
        _ratio("false_reshares", "exposures"),
    ),
    "wellbeing": Objective(
        "wellbeing", "mean over users and steps of w", "standard deviations from the set-point", "higher",
        "Allcott et al. 2020 (scale)", _mean("wellbeing"),
    ),
    "trust": Objective(
        "trust", "mean over users and steps of r", "0 to 1", "higher", "structural hypothesis (world.dynamics)", _mean("trust"),
    ),
    "creator_inequality": Objective(
        "creator inequality", "Gini coefficient of running exposures over creators, at the end", "0 to 1", "lower",
        "Gini 1912", _end("creator_inequality"),
    ),
    "exposure_disparity": Objective(
        "exposure disparity of groups",
        "total variation between groups' shares of exposure and of live substance, at the end", "0 to 1", "lower",
        "Singh and Joachims 2018", _end("exposure_disparity"),
    ),
    "toxic_exposure_gap": Objective(
        "toxic exposure gap of groups", "largest difference between user groups in sum a z / sum a", "0 to 1", "lower",
        "group fairness, demographic parity of harm", _group_gap("toxic_exposures", "exposures"),
    ),
    "false_removal_rate": Objective(
        "false removals", "benign items removed / benign items posted", "0 to 1", "lower",
        "false-positive rate of moderation", _ratio("false_removals", "benign_posts"),
    ),
    "false_removal_gap": Objective(
        "false-removal gap of groups", "largest difference between creator groups in false removals", "0 to 1", "lower",
        "group fairness, equality of opportunity", _group_gap("false_removals", "benign_posts"),
    ),
    "violation_lifetime": Objective(
        "time to action", "hours that violating items were up / violating items posted", "hours", "lower",
        "Schneider and Rizoiu 2023 (removal delay)", _ratio("live_violations", "violating_posts"),
    ),
    "overturned_appeals": Objective(
        "overturned appeals", "appeals that a reviewer grants / items posted", "0 to 1", "lower",
        "Santa Clara Principles 2.0 (2021)", _ratio("overturned", "posts"),
    ),
    "reviewer_load": Objective(
        "reviewer load", "human reviews / (U T)", "reviews per user and hour", "lower",
        "platform practice", _per_user("reviews"),
    ),
}  # fmt: skip

NAMES = tuple(OBJECTIVES)
# What moderation does, as against what comes of it.
MODERATION = ("false_removal_rate", "false_removal_gap", "violation_lifetime", "overturned_appeals", "reviewer_load")
NO_ZERO = ("wellbeing",)  # levels around a set-point: a per cent of them has no natural zero


class Trait(NamedTuple):
    """A quantity of the network itself, which is told and not optimised: no direction of it is healthier as such.

    Attributes:
        label: words for people.
        formula: what is computed.
        unit: unit or range.
        source: where the notion comes from.
        of: `(metrics [T, ...], number of users) -> scalar`.
    """

    label: str
    formula: str
    unit: str
    source: str
    of: Callable[[Metrics, int], Array]


def _assortativity(metrics: Metrics, users: int) -> Array:
    del users
    looked = jnp.sum(metrics["ties_looked_at"])
    apart = jnp.sum(metrics["tie_distances"]) / (looked + _EPSILON)
    return jnp.where(looked > 0, 1.0 - apart / (2.0 * jnp.mean(metrics["opinion_variance"]) + _EPSILON), 0.0)


NETWORK: dict[str, Trait] = {
    "assortativity": Trait(
        "assortativity of ties by opinion",
        "1 - mean squared opinion distance over ties / that of two users drawn at random; every user counts once in a step, with "
        "a tie that is drawn, or taken in turn where ties are fixed; 0 without ties",
        "0 as at random, 1 in full agreement",
        "Newman 2003 (numeric assortativity)", _assortativity,
    ),
    "ties_replaced": Trait(
        "ties replaced", "ties that users dropped for a suggested account / (U T)", "ties per user and hour",
        "McPherson, Smith-Lovin and Cook 2001 (homophily)", _per_user("ties_replaced"),
    ),
}  # fmt: skip


def evaluate(metrics: Metrics, n_users: int) -> Array:
    """All objectives of a rollout.

    Args:
        metrics: of `mamba.rollout.rollout`, leading axis [T].
        n_users: U.

    Returns:
        [J] in the order of `NAMES`, in the precision of the metrics.
    """
    return jnp.stack([objective.of(metrics, n_users) for objective in OBJECTIVES.values()])


def traits(metrics: Metrics, n_users: int) -> Array:
    """Quantities of the network in a rollout, in the order of `NETWORK`; arguments and precision as for `evaluate`."""
    return jnp.stack([trait.of(metrics, n_users) for trait in NETWORK.values()])


def benefit_sign() -> Array:
    """[J]: +1 where more is healthier, -1 where less is."""
    return jnp.asarray([1.0 if objective.better == "higher" else -1.0 for objective in OBJECTIVES.values()])
