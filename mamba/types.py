"""The pytrees that cross rooms.

Axis letters (fixed everywhere): `U` users, `N` creators (the first N users), `M = H N` item slots (lifetime H), `C`
candidates, `K` followees kept per user, `D` topics, `B` users of a log batch, `G` groups, `L` link candidates.

Layout: people and items are the *last* axis (`score [C, U]`, `opinion [D, U]`), because the minor axis is the one that
compilers vectorise: on a CPU the opinion update runs about 20 times faster than with candidates last. Tables whose rows
are gathered by index are the exception: the item table [M, F], ties [U, K] and outboxes [U, O].

Two kinds of fact are kept apart by type. What a *platform* may observe is in `View`, `Candidates` and `Log`; latent
truth (veracity, toxicity, substance, stance, opinion, wellbeing, trust) lives in `World` alone and never crosses. What
*changes* is in `World`, which the scan carries; what does not is in `Population`, which is passed beside it.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
from flax import struct

Array = jax.Array
Mode = Literal["sampled", "expected", "straight_through"]
MODES: tuple[Mode, ...] = ("sampled", "expected", "straight_through")

# The packed item table: topic mix first, then what a platform can observe, then latent truth. Observed columns are
# contiguous so that a view is a slice; with D = 4 a row is 16 float32 numbers, one cache line.
OBSERVED = ("glitter", "synthetic", "toxicity_signal", "falsity_signal", "popularity", "reports", "alive")
LATENT = ("stance", "substance", "toxicity", "veracity", "verdict")
ITEM_COLUMNS = OBSERVED + LATENT

# Columns of the one packed scatter from users back to items.
COUNTS = ("exposures", "clicks", "reshares", "reports")


# What users do besides clicking, resharing and reporting; see `mamba.world.actions`.
ACTIONS = ("like", "reply", "reply_engaged", "good_click", "profile_click", "video", "negative")


def item_width(n_topics: int) -> int:
    """Number of columns of the packed item table, `D + 12`."""
    return n_topics + len(ITEM_COLUMNS)


def item_column(name: str, n_topics: int) -> int:
    """Column of the packed item table that holds `name`.

    Raises:
        ValueError: `name` is not one of `ITEM_COLUMNS`.
    """
    return n_topics + ITEM_COLUMNS.index(name)


@struct.dataclass
class Population:
    """What does not change during a rollout: the people, their ties, what they start from.

    Attributes:
        innate: [D, U] innate opinions in [-1, 1], the anchors of Friedkin and Johnsen (1990).
        interest: [D, U] initial preference logits.
        susceptibility: [U] in [0, 1].
        group: [U] int32, stakeholder or fairness group, 0 to G - 1.
        habit: [U] initial probability of being active in a step, in [0, 1].
        strategy: [N, D + 4] initial creator strategies: topic logits, then stance, glitter, toxicity and falsity before
            their squashing functions.
        skill: [N] substance that a creator can reach, in [0, 1].
        synthetic: [N] 1 where a creator posts synthetic media, else 0.
        followees: [U, K] int32, whom each user reads; filled slots come first, padding holds the reader's own id.
        weight: [U, K] tie strength in [0, 1]; 0 marks padding.
        followers: [U] number of followers (in-degree).
    """

    innate: Array
    interest: Array
    susceptibility: Array
    group: Array
    habit: Array
    strategy: Array
    skill: Array
    synthetic: Array
    followees: Array
    weight: Array
    followers: Array


@struct.dataclass
class Users:
    """Latent state of the users.

    Attributes:
        opinion: [D, U] in [-1, 1].
        preference: [D, U] logits; softmax gives the interest mix.
        fatigue: [U] at least 0; 1 is about one full session's load.
        fatigue_variance: [U] variance of fatigue over outcomes that the expected mode averages; 0 where events are
            drawn.
        wellbeing: [U] in standard deviations around a personal set-point.
        trust: [U] trust in the platform, in [0, 1].
        resilience: [U] learned resistance to misinformation, in [0, 1].
        activity: [U] probability of being active in a step, in [0, 1].
    """

    opinion: Array
    preference: Array
    fatigue: Array
    fatigue_variance: Array
    wellbeing: Array
    trust: Array
    resilience: Array
    activity: Array


@struct.dataclass
class Creators:
    """State of the creators, who adapt by trial and error.

    Attributes:
        strategy: [N, D + 4] present strategies (see `Population.strategy`).
        baseline: [N] running mean of the reward of an expired item.
    """

    strategy: Array
    baseline: Array


@struct.dataclass
class Items:
    """The ring of live items; slot `(t mod H) N + c` holds what creator `c` posted at step `t`.

    Attributes:
        table: [M, D + 12] packed columns: topic mix (simplex), then `ITEM_COLUMNS`.
        noise: [M, D + 4] posting noise in units of its standard deviation: the creator's trial.
        reward: [M] reward gathered so far, in clicks.
        posted: [M] whether (expected mode: how probably) the creator posted at all; removal does not change it.
    """

    table: Array
    noise: Array
    reward: Array
    posted: Array


@struct.dataclass
class Outbox:
    """The last reshares of every user, one slot a step, `O` slots.

    Attributes:
        item: [U, O] int32 item slot.
        birth: [U, O] int32 step at which that item was posted; tells a recycled slot.
        weight: [U, O] existence in [0, 1]; carries derivatives.
    """

    item: Array
    birth: Array
    weight: Array


@struct.dataclass
class Ties:
    """The follow table when it changes: followees [U, K] int32, weight [U, K] in [0, 1]; see `Population`."""

    followees: Array
    weight: Array


@struct.dataclass
class Footprint:
    """What the platform's logs remember of a user and of a creator.

    Attributes:
        interest: [D, U] running clicks by topic (unnormalised).
        sessions: [U] running share of steps in which the user was active.
        seen: [D, U] running topic mix of what the user examined (unnormalised).
        reach: [N] running exposures of each creator per step.
    """

    interest: Array
    sessions: Array
    seen: Array
    reach: Array


@struct.dataclass
class World:
    """State of the network dynamics: everything that the scan carries except learned states.

    `ties` is None when the configuration rewires nothing: the fixed table of `Population` is used and stays out of the
    carry.
    """

    users: Users
    creators: Creators
    items: Items
    outbox: Outbox
    footprint: Footprint
    ties: Ties | None


@struct.dataclass
class ObservedItems:
    """What a platform can observe of items; trailing axes `...` are [M], [C, U] or [C, B].

    Attributes:
        topics: [D, ...] topic mix from the platform's content embedding, on the simplex.
        glitter: [...] attention-grabbing packaging, 0 to 1.
        synthetic: [...] 1 where provenance marks the item as synthetic.
        toxicity_signal: [...] noisy harm signal, 0 to 1.
        falsity_signal: [...] noisy falsity signal, 0 to 1.
        popularity: [...] running clicks.
        reports: [...] running user reports.
        alive: [...] existence in [0, 1]: posted and not removed.
    """

    topics: Array
    glitter: Array
    synthetic: Array
    toxicity_signal: Array
    falsity_signal: Array
    popularity: Array
    reports: Array
    alive: Array


@struct.dataclass
class View:
    """What the platform may observe before candidates are drawn.

    Attributes:
        step: int32 scalar.
        items: `ObservedItems` with trailing axis [M].
        age: [M] int32 steps since posting.
        author: [M] int32 creator id.
        followers: [U] follower counts.
        interest: [D, U] topic mix of the user's logged clicks, on the simplex.
        sessions: [U] running share of active steps.
        seen: [D, U] topic mix of what the user examined lately, on the simplex.
        group: [U] int32 community of each account, 0 to G - 1.
        links: [L, U] int32 accounts that could be suggested to each user; L = 0 where nothing is rewired.
    """

    step: Array
    items: ObservedItems
    age: Array
    author: Array
    followers: Array
    interest: Array
    sessions: Array
    seen: Array
    group: Array
    links: Array


@struct.dataclass
class Candidates:
    """The candidates of some users, as a platform sees them.

    Attributes:
        users: [U] int32 ids of these users; of a block, or of a logged batch.
        ids: [C, U] int32 item slots.
        existence: [C, U] probability that the candidate is really there.
        in_network: [C, 1] 1 for candidates that come from the user's own ties.
        age: [C, U] steps since posting, float32.
        items: `ObservedItems` with trailing axes [C, U].
        interest: [D, U] columns of `View.interest` that belong to these users.
    """

    users: Array
    ids: Array
    existence: Array
    in_network: Array
    age: Array
    items: ObservedItems
    interest: Array


@struct.dataclass
class Log:
    """What a platform logs in a step: a batch of users' interactions, item totals, and labels that have come in.

    Attributes:
        candidates: `Candidates` of the logged batch of users, [C, B]; `candidates.users` [B] are their ids.
        examined: [C, B] whether (expected mode: how probably) each was looked at.
        clicked: [C, B] likewise clicked.
        reshared: [C, B] likewise reshared.
        reported: [C, B] likewise reported.
        actions: action of `ACTIONS` -> [C, B] likewise.
        asked: [C, B] whether the user was asked what the item was worth.
        rating: [C, B] what they answered, 0 to 1; 0 where not asked.
        engaged: [U] int32 slot of one item that each user clicked in this step, drawn among them.
        engaged_weight: [U] whether they clicked any.
        shared: [U] int32 slot of the item that each user passed on.
        shared_weight: [U] whether they passed any on.
        counts: [M, 4] totals over all users, columns `COUNTS`.
        active: [U] whether each user was active.
        checked: [M] 1 where a delayed review came in this step.
        verdict: [M] its outcome, 1 = violates the rules; 0 where not checked.
        taken: [M] existence that moderation took away in this step.
        appealed: [M] the part of it that its author appealed against.
        judgement: [M] what a human reviewer would answer, 1 = violates. An algorithm may use it only for items whose
            review it pays for, by counting them in `Act.reviews`.
    """

    candidates: Candidates
    examined: Array
    clicked: Array
    reshared: Array
    reported: Array
    actions: dict[str, Array]
    asked: Array
    rating: Array
    engaged: Array
    engaged_weight: Array
    shared: Array
    shared_weight: Array
    counts: Array
    active: Array
    checked: Array
    verdict: Array
    taken: Array
    appealed: Array
    judgement: Array


Metrics = dict[str, Array]
Learned = Any
Levers = dict[str, dict[str, Array]]


class Sizes(NamedTuple):
    """Static sizes of a world; hashable, so it can be a compile-time constant.

    Attributes:
        users: U.
        creators: N, at most U; creator c is user c.
        topics: D.
        lifetime: H, steps an item lives.
        followees: K.
        in_network: candidate slots filled from the user's own ties.
        recent: the latest steps whose posts can be drawn as in-network candidates.
        outbox: reshares kept per user, one a step.
        links: L, link candidates per user and step.
        groups: G.
        nodes: quadrature nodes of the expected attention.
        log_batch: B, users whose interactions the platform logs in a step (at most U).
        user_block: users served at once; 0 serves all in one block.
    """

    users: int
    creators: int
    topics: int = 4
    lifetime: int = 24
    followees: int = 16
    in_network: int = 12
    recent: int = 6
    outbox: int = 4
    links: int = 8
    groups: int = 2
    nodes: int = 20
    log_batch: int = 256
    user_block: int = 0

    @property
    def items(self) -> int:
        """Number of item slots, M = H N."""
        return self.lifetime * self.creators
