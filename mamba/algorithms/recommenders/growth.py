"""`growth`: the platform's A/B machine, which ships what grows.

Two algorithms are deployed at once, an incumbent and a challenger. In a window of steps a sample of users, a share picked
by a hash of their ids, gets the challenger; the rest keep the incumbent. A sequential test compares the growth metric of
the two arms after every step and may stop at any time. Once it is significant the challenger is shipped to everybody and
stays; a window that ends without a decision starts a new test on a new sample. User u gets

    w_u challenger + (1 - w_u) incumbent,   w_u = shipped + (1 - shipped) assigned_u

through every port: a proposal slot is the challenger's with that probability, and what concerns items goes by mean w.

The test is the mixture sequential probability ratio test. With D the difference of the arms' means of user means so far
and V its variance between users, and a half-normal prior of scale tau on effects that are gains,

    log L = log 2 + log(V / (V + tau^2)) / 2 + z^2 / 2 + log Phi(z),   z = D tau / sqrt(V (V + tau^2)),

ship <- ship + (1 - ship) sigma((log L + log alpha) / width). Without an effect L is a martingale of mean 1, hence
P(log L ever exceeds -log alpha) <= alpha in a window, however often it is looked at. (User means share what is
particular to a user, so V has a floor; the increments of D are still independent in information time 1 / V.)

The test assumes that users do not affect one another. On a network they do: the sample's win is not the effect of
shipping; `experiments/algorithm_zoo/growth_gap.py` measures the gap. Both arms train on the whole log, as on platforms
whose teams share data, which is one channel of interference.

Levers: `share`, `alpha`, and those of both algorithms, prefixed `challenger_` and `incumbent_`. Own loss: that of the two,
in proportion to mean w.

References:
    Johari, Koomen, Pekelis and Walsh 2017, 2022 (always valid inference); Robbins 1970 (mixtures); Jennison and Turnbull
    2000 (information time); Eckles, Karrer and Ugander 2017 (interference in network experiments).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mamba.algorithms import membership
from mamba.algorithms.base import Act, Algorithm, Proposal, Rank, between, levers_from
from mamba.fields import setting
from mamba.streams import uniforms
from mamba.types import Array, Candidates, Learned, Log, View

_WIDTH = 0.25  # softness of the decision, in log evidence
_FLOOR = 1e-6  # least probability of a draw whose logarithm is taken
_ARMS = ("challenger", "incumbent")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of growth experiments."""

    challenger: str = setting("engagement", "kind of algorithm that challenges the one in place")
    incumbent: str = setting("engagement", "kind of algorithm that is in place")
    changed: str = setting("glitter", "setting in which the challenger departs from its default; empty for none")
    value: float = setting(1.0, "what the challenger sets `changed` to", unit="that setting's unit")
    proposals: int = setting(
        2, "items that each of the two algorithms offers, where its kind offers any", unit="items", ge=1, le=64
    )
    metric: str = setting(
        "clicks", "metric that decides a test: users with a click, or active users", choices=("clicks", "sessions")
    )
    window: int = setting(24, "length of a test", unit="steps", ge=1)
    share: float = setting(0.2, "share of users in the sample that gets the challenger", unit="0 to 1", gt=0, lt=1)
    softness: float = setting(
        0.05,
        "softness of the edge of the sample that gets the challenger",
        unit="log-odds of a user's rank",
        gt=0,
        le=1,
    )
    alpha: float = setting(
        0.05, "declared probability to ship a challenger that is no better", unit="0 to 1", gt=0, lt=1
    )
    effect: float = setting(
        0.05, "scale of the gains that a test expects beforehand", unit="users per user and step", gt=0
    )


class Trial(NamedTuple):
    """A running test.

    Attributes:
        total: [U] sum of the metric.
        square: [U] its square, as an average over outcomes where the metric is a probability.
        steps: scalar, steps so far.
    """

    total: Array
    square: Array
    steps: Array


class State(NamedTuple):
    """Learned state: both arms', the running test, what is shipped in [0, 1], and the salt of the samples."""

    challenger: Learned
    incumbent: Learned
    trial: Trial
    shipped: Array
    salt: Array


def begin(n_users: int) -> Trial:
    """A test without data."""
    return Trial(jnp.zeros(n_users), jnp.zeros(n_users), jnp.zeros(()))


def observe(trial: Trial, outcome: Array) -> Trial:
    """Adds a step's outcome [U]: 0 or 1, or its probability."""
    # (S + y)^2 with y^2 = y: right for events, and on average for probabilities of independent ones.
    square = trial.square + outcome + 2.0 * outcome * trial.total
    return Trial(trial.total + outcome, square, trial.steps + 1.0)


def evidence(trial: Trial, assigned: Array, effect: float) -> Array:
    """Log likelihood ratio of a gain against none; see the module docstring.

    Args:
        trial: what was observed; at least one step.
        assigned: [U] weight in the sample.
        effect: prior scale tau of the gain per step.

    Returns:
        Scalar.
    """
    n = trial.total.shape[0]
    steps = jnp.maximum(trial.steps, 1.0)
    tested, rest = jnp.maximum(jnp.sum(assigned), 1e-3), jnp.maximum(jnp.sum(1.0 - assigned), 1e-3)
    gain = jnp.sum(assigned * trial.total) / tested - jnp.sum((1.0 - assigned) * trial.total) / rest
    spread = jnp.sum(trial.square) - jnp.sum(trial.total) ** 2 / n
    pooled = jnp.maximum(spread / (n - 1.0), 1e-6) / steps**2
    variance = pooled * (1.0 / tested + 1.0 / rest)
    wide = variance + effect**2
    z = gain / steps * effect / jnp.sqrt(variance * wide)
    return jnp.log(2.0) + 0.5 * jnp.log(variance / wide) + 0.5 * z * z + jax.scipy.special.log_ndtr(z)


def decide(shipped: Array, value: Array, alpha: Array) -> Array:
    """What is shipped after evidence `value` has come in; never less than before."""
    return shipped + (1.0 - shipped) * jax.nn.sigmoid((value + jnp.log(alpha)) / _WIDTH)


def sample(salt: Array, users: Array, step: Array, share: Array, config: Config) -> Array:
    """[U] weight of users, given by their ids, in the sample of the step's window."""
    number = (step // config.window).astype(jnp.uint32)
    return membership.member(membership.hashed(users, salt + number), share, config.softness)


def _mixed(weight: Array, challenger: Array | None, incumbent: Array | None, neutral: float) -> Array | None:
    if challenger is None and incumbent is None:
        return None
    new = neutral if challenger is None else challenger
    old = neutral if incumbent is None else incumbent
    return weight * new + (1.0 - weight) * old


def _offered(weight: Array, challenger: Proposal | None, incumbent: Proposal | None, key: Array) -> Proposal | None:
    """Each slot is filled by the challenger with probability w_u, else by the incumbent.

    Where w_u is 0 or 1, which it is for all but a few, nothing is left to chance. Otherwise which algorithm fills a slot is
    an identity: it is drawn, and the slot's existence carries the likelihood ratio of the draw, of value 1.
    """
    if challenger is None and incumbent is None:
        return None
    nothing = Proposal(jnp.zeros((0, weight.shape[0]), jnp.int32), jnp.zeros((0, weight.shape[0])))
    new, old = (nothing if proposal is None else proposal for proposal in (challenger, incumbent))
    slots = max(new.ids.shape[0], old.ids.shape[0])
    new, old = (jax.tree.map(lambda x: jnp.pad(x, ((0, slots - x.shape[0]), (0, 0))), each) for each in (new, old))
    taken = uniforms(jax.random.fold_in(key, 1), (slots, weight.shape[0])) < weight[None]
    chance = jnp.maximum(jnp.where(taken, weight[None], 1.0 - weight[None]), _FLOOR)
    carried = chance / jax.lax.stop_gradient(chance)
    return Proposal(jnp.where(taken, new.ids, old.ids), carried * jnp.where(taken, new.existence, old.existence))


def pair(challenger: Algorithm, incumbent: Algorithm, config: Config) -> Algorithm:
    """The A/B machine of any two algorithms; of `config` the settings of the test are used."""
    arms = dict(zip(_ARMS, (challenger, incumbent), strict=True))
    inner = {f"{arm}_{name}": bound for arm, each in arms.items() for name, bound in each.bounds.items()}
    bounds = {"share": between(0.0, 1.0, "share of users"), "alpha": between(0.0, 1.0, "probability")} | inner
    own = levers_from({"share": config.share, "alpha": config.alpha}, {n: bounds[n] for n in ("share", "alpha")})
    levers = own | {f"{arm}_{name}": value for arm, each in arms.items() for name, value in each.levers.items()}

    def of(levers: dict[str, Array], arm: str) -> dict[str, Array]:
        return {name: levers[f"{arm}_{name}"] for name in arms[arm].bounds}

    def both(phase: str, levers: dict[str, Array], learned: State, *rest: Any) -> list[Any]:
        return [getattr(each, phase)(of(levers, arm), getattr(learned, arm), *rest) for arm, each in arms.items()]

    def weights(levers: dict[str, Array], learned: State, users: Array, step: Array) -> Array:
        assigned = sample(learned.salt, users, step, levers["share"], config)
        return learned.shipped + (1.0 - learned.shipped) * assigned

    def everyone(view: View) -> Array:
        return jnp.arange(view.followers.shape[0], dtype=jnp.int32)

    def init(key: Array, view: View) -> Learned:
        # One key for both: arms of one kind start alike.
        salt = jax.random.bits(jax.random.fold_in(key, 1), (), "uint32")
        trial = begin(view.followers.shape[0])
        return State(challenger.init(key, view), incumbent.init(key, view), trial, jnp.zeros(()), salt)

    def act(levers: dict[str, Array], learned: State, view: View, key: Array) -> Act:
        new, old = both("act", levers, learned, view, key)
        weight = weights(levers, learned, everyone(view), view.step)
        mean = jnp.mean(weight)
        return Act(
            propose=_offered(weight, new.propose, old.propose, key),
            survive=_mixed(mean, new.survive, old.survive, 1.0),
            pace=_mixed(weight, new.pace, old.pace, 0.0),
            link=_mixed(weight[None], new.link, old.link, 0.0),
            reviews=_mixed(mean, new.reviews, old.reviews, 0.0),
        )

    def rank(levers: dict[str, Array], learned: State, view: View, candidates: Candidates, key: Array) -> Rank:
        new, old = both("rank", levers, learned, view, candidates, key)
        weight = weights(levers, learned, candidates.users, view.step)[None]
        return Rank(
            score=_mixed(weight, new.score, old.score, 0.0), friction=_mixed(weight, new.friction, old.friction, 1.0)
        )

    def learn(levers: dict[str, Array], learned: State, view: View, log: Log, key: Array) -> tuple[Learned, Array]:
        (new, new_loss), (old, old_loss) = both("learn", levers, learned, view, log, key)
        assigned = sample(learned.salt, everyone(view), view.step, levers["share"], config)
        mean = learned.shipped + (1.0 - learned.shipped) * jnp.mean(assigned)
        fresh = view.step % config.window == 0
        before = jax.tree.map(lambda x: jnp.where(fresh, jnp.zeros_like(x), x), learned.trial)
        trial = observe(before, log.active if config.metric == "sessions" else log.engaged_weight)
        shipped = decide(learned.shipped, evidence(trial, assigned, config.effect), levers["alpha"])
        state = State(new, old, trial, shipped, learned.salt)
        return state, mean * new_loss + (1.0 - mean) * old_loss

    return Algorithm("growth", levers, bounds, init, act, rank, learn)


def make(config: Config) -> Algorithm:
    """Builds the algorithm; levers `share`, `alpha`, and `challenger_*`, `incumbent_*` of the two kinds.

    Raises:
        ValueError: a kind is unknown, is `growth` itself, or the challenger has no setting of the name `changed`.
    """
    from mamba.algorithms import registry  # which lists this kind

    def arm(kind: str, **settings: Any) -> Algorithm:
        if kind == "growth":
            raise ValueError("growth compares two other kinds, not growth itself")
        if kind in registry.KINDS and "proposals" in {f.name for f in dataclasses.fields(registry.KINDS[kind].config)}:
            settings = {"proposals": config.proposals} | settings
        return registry.make(kind, **settings)

    changed = {config.changed: config.value} if config.changed else {}
    return pair(arm(config.challenger, **changed), arm(config.incumbent), config)
