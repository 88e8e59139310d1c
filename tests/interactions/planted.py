"""Planted ecosystems: small algorithms on the real engine whose verdict follows from theory.

One platform holds all of them, closed except for the pair of a case, so that one compilation serves every case. Users meet
neither through reshares nor through what they do to items (no contagion, no learner, creators do not adapt), hence

* lifts for disjoint groups of users add up exactly in everything that is a sum over users: independent;
* two removals of the same items: the product of their survivals removes less than the sum of both, more than either: redundant;
* proposals bring items, most of them irrelevant, and a ranking that knows what is relevant has little to rank without them:
  reinforcing;
* wellbeing rises with what is read and falls with the square of fatigue, an inverted U in session length: two lifts that each
  reach its top overshoot together (working against), and a lift that helps hurts once a flood has passed the top (reversing);
* a learner that measures by how much toxic items are looked at less than they are on offer, and lifts them in return, has
  nothing to measure until somebody demotes them: frozen it does not interact with a demotion, learning it undoes it; with
  the other sign it joins in; and if it serves other users it makes no difference.

Sizes were set once, on other seeds than those of the tests, so that what theory calls a gain or a loss is several standard
errors of `SEEDS` seeds.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import helpers
import jax
import jax.numpy as jnp
import numpy as np

from mamba import ecosystem as eco
from mamba import members as mem
from mamba import objectives
from mamba.algorithms.base import Act, Algorithm, Proposal, Rank, real
from mamba.interactions import verdicts
from mamba.objectives import NAMES, benefit_sign
from mamba.rollout import rollout
from mamba.streams import fold
from mamba.types import Sizes
from mamba.world.parameters import WorldParameters

SIZES = Sizes(
    users=100, creators=40, topics=2, lifetime=4, followees=8, in_network=6, recent=3, outbox=1, links=1, groups=2, nodes=2,
    log_batch=100,
)  # fmt: skip
STEPS = 8
PHASE = 12  # steps of the warm-up and of what is measured after it
SEEDS = 12
EVERYONE = -1.0
PROPOSED = 4

MECHANISMS = replace(helpers.PLAIN, fatigue="load", wellbeing="setpoint")
# About half of the creators post in every step. Wellbeing is an inverted U in session length and nothing else; its two rates put
# the top where a lift of 0.3 gets to, about nine standard errors of twelve seeds above where it starts.
PARAMETERS = WorldParameters(
    posting_rate=1.0,
    scroll=0.3,
    click_base=-4.0,
    click_glitter=4.0,
    fatigue_load=0.1,
    wellbeing_substance=0.1,
    wellbeing_toxicity=0.0,
    wellbeing_comparison=0.0,
    wellbeing_overuse=0.37,
)


def _among(group, whom):
    """1 for users of the group `whom`, for all if that is `EVERYONE`."""
    return jnp.where(whom < 0, 1.0, (group == whom).astype(jnp.float32))


def lift_sessions(levers, learned, view, key):
    del learned, key
    return Act(pace=levers["size"] * _among(view.group, levers["whom"]))


def remove_toxic(levers, learned, view, key):
    del learned, key
    return Act(survive=1.0 - levers["share"] * (view.items.toxicity_signal > levers["above"]))


def propose_live(levers, learned, view, key):
    """The same live items to everyone, drawn at random."""
    del levers, learned
    noise = jax.random.uniform(key, view.items.alive.shape)
    slots = jnp.argsort(noise - view.items.alive)[:PROPOSED].astype(jnp.int32)
    shape = (PROPOSED, len(view.sessions))
    return Act(propose=Proposal(*(jnp.broadcast_to(x[:, None], shape) for x in (slots, view.items.alive[slots]))))


def rank_relevant(levers, learned, view, candidates, key):
    del learned, view, key
    match = jnp.sum(candidates.items.topics * candidates.interest[:, None], axis=0)
    return Rank(score=levers["weight"] * (match + 2.0 * candidates.items.glitter))


def _levers(**values):
    return {"levers": {name: np.float32(x) for name, x in values.items()}, "bounds": {name: real() for name in values}}


_LIFT = Algorithm(kind="lift", act=lift_sessions, **_levers(size=0.1, whom=EVERYONE))
_REMOVAL = Algorithm(kind="removal", act=remove_toxic, **_levers(share=0.5, above=0.15))
ALGORITHMS = {
    "lift_one": _LIFT,
    "lift_two": _LIFT,
    "removal_one": _REMOVAL,
    "removal_two": _REMOVAL._replace(**_levers(share=0.6, above=0.15)),
    "proposals": Algorithm(kind="proposals", act=propose_live, **_levers()),
    "ranking": Algorithm(kind="ranking", rank=rank_relevant, **_levers(weight=4.0)),
}
ECOSYSTEM = eco.make(ALGORITHMS, sizes=SIZES, mechanisms=MECHANISMS)


class Case(NamedTuple):
    """Two algorithms, what they are set to, and the verdict that theory demands on an objective."""

    first: str
    second: str
    objective: str
    verdict: str
    levers: dict[str, dict[str, float]]


def _lifts(one, two, *, objective, verdict, whom=(EVERYONE, EVERYONE)):
    levers = {"lift_one": {"size": one, "whom": whom[0]}, "lift_two": {"size": two, "whom": whom[1]}}
    return Case("lift_one", "lift_two", objective, verdict, levers)


CASES = {
    "independent": _lifts(0.2, 0.2, objective="engagement_per_user", verdict="none", whom=(0.0, 1.0)),
    "substitutes": Case("removal_one", "removal_two", "toxic_exposure_per_user", "redundant", {}),
    "complements": Case("proposals", "ranking", "engagement_per_user", "reinforcing", {}),
    "overshoot": _lifts(0.31, 0.31, objective="wellbeing", verdict="working_against"),
    "reversal": _lifts(0.11, 0.65, objective="wellbeing", verdict="reversing"),
}
# Sums over users, and what nothing here moves. Ratios of sums are not additive; nor are diversity, inequality, disparity.
ADDITIVE = (
    "engagement_per_user", "retention", "polarisation", "toxic_exposure_per_user", "misinformation_exposure_per_user",
    "misinformation_reshares_per_user", "wellbeing", "trust", "false_removal_rate", "false_removal_gap",
    "violation_lifetime", "overturned_appeals", "reviewer_load",
)  # fmt: skip


@functools.cache
def inputs():
    return eco.inputs(ECOSYSTEM, helpers.population(SIZES), parameters=PARAMETERS)


@functools.cache
def _run():
    return jax.jit(mem.evaluator(ECOSYSTEM, steps=STEPS))


def keys(number: int, *, seed: int) -> jax.Array:
    return fold(jax.random.key(seed), np.arange(number))


def evaluate(platforms, given) -> np.ndarray:
    """Values [R, K, J] of R platforms, each `(open algorithms, levers)`, under keys [R, K] or [K]."""
    given = jnp.broadcast_to(given, (len(platforms), given.shape[-1]))
    count = given.shape[-1]
    levers = {}
    for name, algorithm in ALGORITHMS.items():
        levers[name] = {
            lever: jnp.repeat(
                jnp.asarray([row[1].get(name, {}).get(lever, x) for row in platforms], jnp.float32), count
            )
            for lever, x in algorithm.levers.items()
        }
    gates = np.array([[name in row[0] for name in ALGORITHMS] for row in platforms], np.float32)
    members = mem.Members(
        levers=levers, gates=jnp.repeat(jnp.asarray(gates), count, axis=0), keys=given.reshape(-1),
        learning=jnp.ones((len(platforms) * count, len(ALGORITHMS))),
    )  # fmt: skip
    values = mem.in_chunks(_run(), inputs(), members, chunk=512)
    return values.reshape(len(platforms), count, len(NAMES))


def rows(name: str) -> list:
    """The four platforms of a case, `(open algorithms, levers)`: neither, the second, the first, both."""
    first, second, _, _, levers = CASES[name]
    return [(opened, levers) for opened in ((), (second,), (first,), (first, second))]


def tables(names, given) -> dict[str, np.ndarray]:
    """Values [4, K, J] of the four platforms of each case. The closed one is the same in all, whatever the levers."""
    values = evaluate(rows(names[0])[:1] + [row for name in names for row in rows(name)[1:]], given)
    return {name: values[[0, 3 * n + 1, 3 * n + 2, 3 * n + 3]] for n, name in enumerate(names)}


def squares(values: np.ndarray, repetitions: int) -> np.ndarray:
    """Four platforms' values [4, repetitions * SEEDS, J] as [repetitions, SEEDS, 2, 2, J]."""
    return np.moveaxis(values.reshape(2, 2, repetitions, SEEDS, -1), (2, 3), (0, 1))


def judge(square: np.ndarray, objectives: Sequence[str] = NAMES) -> verdicts.Verdicts:
    """Verdicts of one repetition [SEEDS, 2, 2, J] on some objectives, everything estimated from it alone."""
    which = [NAMES.index(name) for name in objectives]
    alone, both = verdicts.from_square(square[..., which])
    spread = square[..., which].mean(axis=0).reshape(4, -1).std(axis=0)
    return verdicts.judge(alone, both, better=np.asarray(benefit_sign())[which], spread=spread)


# ---- learning ------------------------------------------------------------------------------------------------------


def _signal(candidates, group, whom):
    return candidates.items.toxicity_signal * _among(group[candidates.users], whom)[None]


def demote_toxic(levers, learned, view, candidates, key):
    del learned, key
    return Rank(score=-levers["weight"] * _signal(candidates, view.group, levers["whom"]))


def restore_toxic(levers, learned, view, candidates, key):
    """Lifts toxic items in proportion to what it believes that they lack, once that is beyond its tolerance."""
    del key
    lacking = jnp.maximum(learned - levers["tolerance"], 0.0)
    return Rank(score=levers["gain"] * lacking * _signal(candidates, view.group, levers["whom"]))


def learn_lack(levers, learned, view, log, key):
    """Running mean of the toxicity signal of what is on offer minus that of what is looked at: 0 where nothing sorts it."""
    del key
    candidates = log.candidates
    mask = _among(view.group[candidates.users], levers["whom"])[None]

    def mean(weight):
        return jnp.sum(weight * candidates.items.toxicity_signal) / jnp.maximum(jnp.sum(weight), 1.0)

    lack = mean(candidates.existence * log.active[candidates.users][None] * mask) - mean(log.examined * mask)
    return learned + levers["rate"] * (lack - learned), lack


LEARNING = eco.make(
    {
        "demotion": Algorithm(kind="demotion", rank=demote_toxic, **_levers(weight=4.0, whom=EVERYONE)),
        "restorer": Algorithm(
            kind="restorer", init=lambda key, view: jnp.float32(0.0), rank=restore_toxic, learn=learn_lack,
            **_levers(gain=400.0, tolerance=0.025, rate=0.25, whom=EVERYONE),
        ),
    },
    sizes=SIZES,
    mechanisms=replace(helpers.PLAIN, posting="opinion"),  # everybody posts in every step: there is much to choose from
)  # fmt: skip
PHASES = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0))  # gate and learning switch of the learner: off, frozen, learning


@functools.cache
def _phase():
    """Compiled `(inputs, states, keys, first step) -> (states, values)` of platforms with leading axis [B]."""

    def one(given, start, key, first):
        state, metrics, _ = rollout(LEARNING, given, key=key, steps=PHASE, state=start, first_step=first)
        return state, objectives.evaluate(metrics, SIZES.users)

    def all_(gates, learning, levers, starts, seeds, first):
        given = eco.inputs(LEARNING, helpers.population(SIZES), parameters=PARAMETERS)
        return jax.lax.map(
            lambda x: one(given.replace(gates=x[0], learning=x[1], levers=levers), x[2], x[3], first),
            (gates, learning, starts, seeds),
        )

    return jax.jit(all_)


@functools.cache
def _start():
    given = eco.inputs(LEARNING, helpers.population(SIZES), parameters=PARAMETERS)
    return jax.jit(lambda seeds: jax.lax.map(lambda key: eco.init(LEARNING, given, key), seeds))


def while_learning(given, *, gain: float = 400.0, whom: tuple[float, float] = (EVERYONE, EVERYONE)) -> np.ndarray:
    """Values [K, 2, 3, J]: demotion off or on; the learner off, frozen, learning. `whom` says for whom each of them acts.

    A positive gain undoes what demotion does, a negative one joins in.
    All platforms of a key start from one warm-up, in which the learner learns and nobody demotes.
    """
    count = len(given)
    levers = eco.default_levers(LEARNING)
    levers["restorer"]["gain"] = jnp.float32(gain)
    levers["demotion"]["whom"], levers["restorer"]["whom"] = (jnp.float32(x) for x in whom)
    ones = jnp.ones((count, 2))
    warm = ones.at[:, 0].set(0.0)
    states, _ = _phase()(warm, warm, levers, _start()(given), given, jnp.int32(0))
    values = []
    for demotes in (0.0, 1.0):
        for gate, learns in PHASES:
            gates, learning = ones * jnp.asarray([[demotes, gate]]), ones * jnp.asarray([[0.0, learns]])
            values.append(_phase()(gates, learning, levers, states, given, jnp.int32(PHASE))[1])
    return np.moveaxis(np.stack(values), 0, 1).reshape(count, 2, len(PHASES), -1)
