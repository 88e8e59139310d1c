"""Wires a world and a tuple of algorithms into one joint step.

    post -> survive -> candidates -> score -> attend -> engage -> reshare -> user dynamics -> contagion
         -> every algorithm learns -> rewire, churn -> metrics

Algorithms see a `View` and, when they learn, this step's `Log` and the view before the transition. All they can do goes
through the six ports of `mamba.algorithms.base`. Users meet only through items, ties and learners, so the middle of the
step runs over blocks of users where `Sizes.user_block` asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from mamba import policies
from mamba.algorithms.base import Act, Algorithm, blend, gated_product, gated_sum, meaningful
from mamba.algorithms.copies import together
from mamba.storing import stored
from mamba.streams import draw_rows, fold, normals, recycle, row_keys, stream, uniforms
from mamba.sums import inner, total
from mamba.types import (
    ACTIONS,
    COUNTS,
    Array,
    Candidates,
    Creators,
    Footprint,
    Items,
    Learned,
    Levers,
    Log,
    Metrics,
    Mode,
    Outbox,
    Population,
    Sizes,
    Ties,
    Users,
    View,
    World,
    item_column,
)
from mamba.world import actions, contagion, dynamics, measures, posting, response, rewiring
from mamba.world import candidates as pools
from mamba.world.attention import attend, session_length
from mamba.world.mechanisms import Mechanisms
from mamba.world.parameters import WorldParameters, as_arrays
from mamba.world.relax import bern

# Purposes of the draws made for every candidate slot; the other decisions about a candidate recycle them.
_SLOT_DRAWS = ("rank", "exist", "click")
_SCROLL_LOW, _SCROLL_HIGH = 0.05, 0.97
_NO_LEAVES: Any = None  # takes a field out of a tree, so that a map over the tree's leaves passes it by


class Ecosystem(NamedTuple):
    """A world and the algorithms that run on it; everything here is static.

    Attributes:
        sizes: static sizes.
        mechanisms: names of the world's mechanisms.
        names: name of each algorithm, A of them.
        algorithms: the algorithms, in the same order.
        policy: what moves levers from step to step by what the platform sees; None leaves them as they are.
    """

    sizes: Sizes
    mechanisms: Mechanisms
    names: tuple[str, ...]
    algorithms: tuple[Algorithm, ...]
    policy: policies.Policy | None = None


@struct.dataclass
class Inputs:
    """What a rollout depends on and does not change: passed beside the carry.

    Attributes:
        population: who lives here.
        parameters: world parameters, scalars.
        levers: algorithm name -> lever name -> unconstrained value; with a policy also `policy` -> its parameters.
        gates: [A] in [0, 1]; at 0 an algorithm's ports are exactly neutral and it does not learn.
        learning: [A] in [0, 1]; at 0 an algorithm acts on what it knew at the start.
    """

    population: Population
    parameters: WorldParameters
    levers: Levers
    gates: Array
    learning: Array


@struct.dataclass
class State:
    """What the scan carries: the world and every algorithm's learned state."""

    world: World
    learned: tuple[Learned, ...]


def make(
    algorithms: Mapping[str, Algorithm],
    *,
    sizes: Sizes,
    mechanisms: Mechanisms | None = None,
    policy: policies.Policy | None = None,
) -> Ecosystem:
    """Builds an ecosystem.

    Args:
        algorithms: name -> algorithm; the order is the axis A.
        sizes: static sizes.
        mechanisms: names of mechanisms; None takes the defaults.
        policy: moves levers from step to step, see `mamba.policies`; None leaves them as they are.

    Raises:
        ValueError: sizes that contradict each other, a reserved name, or a policy that controls no lever of these algorithms.
    """
    if not 1 <= sizes.creators <= sizes.users:
        raise ValueError(f"sizes.creators = {sizes.creators} must be between 1 and users = {sizes.users}")
    if sizes.recent > sizes.lifetime:
        raise ValueError(f"sizes.recent = {sizes.recent} is beyond the lifetime {sizes.lifetime} of an item")
    if sizes.users * sizes.outbox >= 2**31:
        raise ValueError(f"sizes.users = {sizes.users} times outbox = {sizes.outbox} must be less than 2^31")
    if sizes.user_block < 0 or sizes.log_batch < 1:
        raise ValueError(
            f"sizes.user_block = {sizes.user_block} must be at least 0, log_batch = {sizes.log_batch} at least 1"
        )
    if "ties" in algorithms:
        raise ValueError("an algorithm cannot be called 'ties': that is the name of the in-network candidates")
    if policies.NAME in algorithms:
        raise ValueError(f"an algorithm cannot be called '{policies.NAME}': its levers are the policy's parameters")
    if policy is not None:
        policies.check(policy, algorithms)
    chosen = Mechanisms() if mechanisms is None else mechanisms
    if chosen.candidates == "latest" and sizes.in_network != sizes.followees:
        raise ValueError("candidates: latest reads every tie: set in_network equal to followees")
    return Ecosystem(sizes, chosen, tuple(algorithms), tuple(algorithms.values()), policy)


def default_levers(ecosystem: Ecosystem) -> Levers:
    """Default unconstrained levers of every algorithm and of the policy, as arrays."""
    owners: dict[str, Algorithm | policies.Policy] = dict(zip(ecosystem.names, ecosystem.algorithms, strict=True))
    if ecosystem.policy is not None:
        owners[policies.NAME] = ecosystem.policy
    return {
        name: {lever: jnp.asarray(value, float) for lever, value in each.levers.items()}
        for name, each in owners.items()
    }


def inputs(
    ecosystem: Ecosystem,
    population: Population,
    *,
    parameters: WorldParameters | None = None,
    levers: Levers | None = None,
    gates: Sequence[float] | Array | None = None,
    learning: Sequence[float] | Array | None = None,
) -> Inputs:
    """Inputs with defaults: default parameters and levers, every gate open, everybody learning.

    All numbers are taken in jax's default precision, in which a rollout then runs: float32, or float64 under `jax_enable_x64`.
    """
    ones = jnp.ones(len(ecosystem.names))

    def precise(leaf: Array) -> Array:
        real = jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(ones.dtype) if real and leaf.dtype != ones.dtype else leaf

    return Inputs(
        population=jax.tree.map(precise, population),
        parameters=as_arrays(WorldParameters() if parameters is None else parameters),
        levers=default_levers(ecosystem) if levers is None else levers,
        gates=ones if gates is None else jnp.asarray(gates, float),
        learning=ones if learning is None else jnp.asarray(learning, float),
    )


# ---- start
# -------------------------------------------------------------------------------------------------------------


def init(ecosystem: Ecosystem, inputs: Inputs, key: Array) -> State:
    """State before the first step: users at their innate traits, a ring full of earlier posts, untrained learners.

    Args:
        ecosystem: static description.
        inputs: see `Inputs`.
        key: typed key; consumed.

    Returns:
        The state at step 0.
    """
    sizes, people, parameters = ecosystem.sizes, inputs.population, inputs.parameters
    users = replace(dynamics.newcomers(people, parameters), activity=people.habit)
    creators = Creators(strategy=people.strategy, baseline=jnp.zeros(sizes.creators))
    history = stream(key, "history")

    def earlier(step: Array):
        draws = draw_rows(row_keys(history, _creator_rows(sizes), step=step), sizes.creators)
        return _posts(ecosystem, inputs, users, creators, draws, mode="sampled")

    rows, noise, posted = jax.vmap(earlier)(jnp.arange(sizes.lifetime))
    flat = jax.tree.map(lambda x: x.reshape(sizes.items, *x.shape[2:]), (rows, noise, posted))
    items = Items(table=flat[0], noise=flat[1], posted=flat[2], reward=jnp.zeros(sizes.items))
    ties = Ties(people.followees, people.weight) if ecosystem.mechanisms.rewiring != "none" else None
    footprint = Footprint(
        interest=jnp.zeros((sizes.topics, sizes.users)),
        sessions=people.habit,
        seen=jnp.zeros((sizes.topics, sizes.users)),
        reach=jnp.zeros(sizes.creators),
    )
    world = World(users, creators, items, contagion.empty_outbox(sizes), footprint, ties)
    view = observe(ecosystem, inputs, world, jnp.int32(0), links=jnp.zeros((0, sizes.users), jnp.int32))
    learned = tuple(
        algorithm.init(stream(key, f"{name}/init"), view)
        for name, algorithm in zip(ecosystem.names, ecosystem.algorithms, strict=True)
    )
    return State(world, learned)


def _creator_rows(sizes: Sizes) -> dict[str, int]:
    return {"trial": sizes.topics + 4, "signal": 3, "post": 2}


def _posts(
    ecosystem: Ecosystem, inputs: Inputs, users: Users, creators: Creators, draws: dict[str, Array], *, mode: Mode
):
    """One step's posts: packed rows [N, D + 12], the trials behind them [N, D + 4], existence [N]."""
    sizes = ecosystem.sizes
    # Stored: fused into whoever reads them, they were rounded as suited that loop, so that not every program had the same ones.
    noise = stored(lambda draws: normals(draws).T, draws["trial"])
    rows, posted = posting.post(
        creators,
        inputs.population,
        users,
        noise=noise,
        signal_noise=normals(draws["signal"]).T,
        draws=draws["post"].T,
        parameters=inputs.parameters,
        sizes=sizes,
        mode=mode,
        own_opinion=ecosystem.mechanisms.posting == "opinion",
    )
    return rows, noise, posted


# ---- view
# --------------------------------------------------------------------------------------------------------------


def observe(ecosystem: Ecosystem, inputs: Inputs, world: World, step: Array, *, links: Array) -> View:
    """What the platform may observe of the world at a step; `links` [L, U] are the accounts that could be suggested."""
    sizes = ecosystem.sizes
    slots = jnp.arange(sizes.items)

    def mix(running: Array) -> Array:
        return (running + 1.0 / sizes.topics) / (total(running, axis=0, keepdims=True) + 1.0)

    return View(
        step=step,
        items=pools.observed(world.items.table.T, sizes.topics),
        age=pools.item_age(slots, step, sizes),
        author=slots % sizes.creators,
        followers=inputs.population.followers,
        interest=mix(world.footprint.interest),
        sessions=world.footprint.sessions,
        seen=mix(world.footprint.seen),
        group=inputs.population.group,
        links=links,
    )


def acting_levers(ecosystem: Ecosystem, inputs: Inputs, view: View) -> Levers:
    """Unconstrained levers that the algorithms get in the step of this view: the policy's if there is one."""
    levers = {name: inputs.levers[name] for name in ecosystem.names}
    policy = ecosystem.policy
    return levers if policy is None else policy.act(inputs.levers[policies.NAME], policy.summary(view), levers)


# ---- serving a block of users
# --------------------------------------------------------------------------------------------


@struct.dataclass
class _Block:
    """Rows of the users of one block, and what was decided for them before candidates are drawn."""

    users: Users
    people: Population
    ties: Ties
    interest: Array
    proposed: Array
    existence: Array
    pace: Array
    removed: Array
    present: Array


@struct.dataclass
class _Served:
    """What serving a block of users leaves behind, per user."""

    users: Users
    shared_item: Array
    shared_weight: Array
    engaged_item: Array
    engaged_weight: Array
    active: Array
    clicked_topics: Array
    seen_topics: Array


@struct.dataclass
class _Logged:
    """Interactions of served users as the platform could log them, [C, U]; and what decides the rest of their actions."""

    candidates: Candidates
    examined: Array
    clicked: Array
    reshared: Array
    reported: Array
    columns: dict[str, Array]
    gap: Array


def _serve(
    ecosystem: Ecosystem,
    inputs: Inputs,
    block: _Block,
    *,
    index: Array,
    table: Array,
    outbox: Outbox,
    view: View,
    learned: tuple[Learned, ...],
    levers: Levers,
    keys: dict[str, Array],
    widths: Sequence[tuple[str, int]],
    step: Array,
    mode: Mode,
    cuts: frozenset[str],
    skip_closed: bool,
):
    """Candidates, ranking, attention, engagement and user dynamics of one block of users."""
    sizes, mechanisms, parameters = ecosystem.sizes, ecosystem.mechanisms, inputs.parameters
    n = block.present.shape[0]

    draws = draw_rows({name: keys[name] for name in _serve_rows(sizes, widths, mode)}, n, block=index)
    slots = {
        purpose: jnp.concatenate([draws[f"serve/{source}/{purpose}"] for source, _ in widths])
        for purpose in _slot_draws(mode)
    }

    # candidates
    ids, existence = pools.CANDIDATES[mechanisms.candidates](
        block.ties,
        outbox,
        step=step,
        start_draw=draws["serve/start"][0],
        entry_draw=draws["serve/entry"],
        sizes=sizes,
    )
    ids = jnp.concatenate([ids, block.proposed])
    existence = jnp.concatenate([existence, block.existence])
    planes = pools.gather_planes(table, ids)
    items = pools.observed(planes, sizes.topics)
    hidden = pools.latent(planes, sizes.topics)
    existence = existence * items.alive
    candidates = Candidates(
        users=jnp.minimum(index * n + jnp.arange(n, dtype=jnp.int32), sizes.users - 1),
        ids=ids,
        existence=existence,
        in_network=jnp.concatenate([jnp.full((width, 1), float(source == "ties")) for source, width in widths]),
        age=pools.item_age(ids, step, sizes).astype(float),
        items=items,
        interest=block.interest,
    )

    # ranking
    own = [(levers[name], learned[i], fold(keys[f"rank/{name}"][0], index)) for i, name in enumerate(ecosystem.names)]
    opened = inputs.gates if skip_closed else None
    ranks = together(ecosystem.algorithms, "rank", own, view, candidates, gates=opened)
    score = gated_sum([(inputs.gates[i], rank.score) for i, rank in enumerate(ranks)], ids.shape)
    friction = gated_product([(inputs.gates[i], rank.friction) for i, rank in enumerate(ranks)], ids.shape)

    # attention
    users = block.users
    active_probability = jnp.clip(users.activity + block.pace, 0.0, 1.0) * block.present
    active = bern(active_probability, draws["serve/active"][0], mode)
    load = dynamics.LoadSpread(jnp.zeros(n), jnp.zeros(n))
    if mechanisms.scrolling == "everything":
        attended = existence
    else:
        rested = parameters.scroll * (1.0 - parameters.scroll_fatigue * users.fatigue)
        continuation = jnp.clip(rested + block.pace, _SCROLL_LOW, _SCROLL_HIGH)
        attention_draws = {**slots, "depth": draws["serve/depth"][0]}
        attended = attend(score, existence, continuation, draws=attention_draws, mode=mode, nodes=sizes.nodes)
        if mode == "expected":
            seen, spread, slope = session_length(existence, continuation)
            load = dynamics.LoadSpread(
                variance=active * (spread + (1.0 - active) * seen**2),
                feedback=-active * slope * parameters.scroll * parameters.scroll_fatigue,
            )
    examined = active[None] * attended
    if "exposure" in cuts:
        examined = jax.lax.stop_gradient(examined)

    # engagement
    columns = {**hidden, "glitter": items.glitter}
    value = response.utility(users, items.topics, columns, parameters)
    clicked, share_draw = response.CHOICE[mechanisms.choice](value, examined, slots["click"], mode)
    susceptibility = dynamics.effective_susceptibility(users, block.people)
    share = response.reshare_probability(susceptibility, columns, friction, parameters)
    complaint = response.report_probability(columns, parameters)
    pick_draw = report_draw = slots["click"]
    engage_draw = 1.0 - slots["click"]  # only what is drawn in this mode too needs a stream of its own
    if mode != "expected":
        pick_draw = recycle(share_draw, share)
        report_draw = recycle(slots["exist"], existence)
        engage_draw = recycle(report_draw, complaint)
    reshared = clicked * bern(share, share_draw, mode)
    reported = examined * bern(complaint, report_draw, mode)
    shared_item, shared_weight = contagion.chosen(ids, reshared, draw=pick_draw, mode=mode)
    engaged_item, engaged_weight = contagion.chosen(ids, clicked, draw=engage_draw, mode=mode)

    # people
    clicked_topics = stored(lambda clicked, topics: inner(clicked[None], topics, axis=1), clicked, items.topics)
    experience = dynamics.Experience(
        examined, clicked, items.topics, clicked_topics, columns, friction, block.removed, load
    )
    told = (users, block.people, experience, parameters)
    after = Users(
        opinion=dynamics.OPINION[mechanisms.opinion](*told),
        preference=dynamics.PREFERENCE[mechanisms.preference](*told),
        fatigue=dynamics.FATIGUE[mechanisms.fatigue](*told),
        fatigue_variance=dynamics.FATIGUE_VARIANCE[mechanisms.fatigue](*told),
        wellbeing=dynamics.WELLBEING[mechanisms.wellbeing](*told),
        trust=dynamics.TRUST[mechanisms.trust](*told),
        resilience=dynamics.RESILIENCE[mechanisms.resilience](*told),
        activity=dynamics.ACTIVITY[mechanisms.activity](*told),
    )

    counts = stored(_side_by_side, examined, clicked, reshared, reported)
    sums = measures.served(experience, reshared, reported, block.people.group, block.present, sizes)
    served = _Served(
        users=after,
        shared_item=shared_item,
        shared_weight=shared_weight,
        engaged_item=engaged_item,
        engaged_weight=engaged_weight,
        active=active,
        clicked_topics=clicked_topics,
        seen_topics=inner(examined[None], items.topics, axis=1),
    )
    gap = columns["stance"] - total(items.topics * users.opinion[:, None], axis=0)
    logged = _Logged(candidates, examined, clicked, reshared, reported, columns, gap)
    log_start = jnp.floor(draws["serve/log"][0, 0] * n).astype(jnp.int32)
    return served, (ids, counts), sums, logged, log_start


def _side_by_side(*planes: Array) -> Array:
    """`jnp.stack(planes, axis=-1)` by selection: on a CPU a loop that is vectorised, two to five times faster."""
    place = jnp.arange(len(planes))
    joined = planes[-1][..., None]
    for i, plane in enumerate(planes[:-1]):
        joined = jnp.where(place == i, plane[..., None], joined)
    return joined


def _each_user(change: Callable[[Array], Array], logged: _Logged) -> _Logged:
    """Applies `change` to every leaf that has users; which sources are in-network is the same for all."""
    shared = logged.candidates.in_network
    changed = jax.tree.map(change, replace(logged, candidates=replace(logged.candidates, in_network=_NO_LEAVES)))
    return replace(changed, candidates=replace(changed.candidates, in_network=shared))


def _log_rows(logged: _Logged, start: Array, size: int) -> _Logged:
    """A systematic sample of `size` users of a block: every stride-th one from a random start."""
    n = logged.examined.shape[-1]
    rows = (start + jnp.arange(size) * (n // size)) % n
    return _each_user(lambda leaf: leaf[..., rows], logged)


def _serve_all(ecosystem: Ecosystem, inputs: Inputs, everyone: _Block, **context):
    """Serves all users, in blocks where the sizes ask for it; returns what `_serve` does, for all users."""
    sizes = ecosystem.sizes
    size = sizes.user_block or sizes.users
    blocks = -(-sizes.users // size)
    batch = min(max(sizes.log_batch // blocks, 1), size, sizes.users)

    def one(counts: Array, block: _Block, index: Array):
        served, (ids, seen), sums, logged, start = _serve(ecosystem, inputs, block, index=index, **context)
        sample = _log_rows(logged, start, batch)
        # the one packed scatter: exposures, clicks, reshares and reports back to items
        counts = counts.at[ids].add(seen, mode="promise_in_bounds")
        return counts, (served, sums, sample)

    empty = jnp.zeros((sizes.items, len(COUNTS)))
    if blocks == 1:
        counts, (served, sums, sample) = one(empty, everyone, jnp.int32(0))
        return served, counts, sums, sample
    padding = blocks * size - sizes.users

    def split(leaf: Array) -> Array:
        padded = jnp.pad(leaf, [(0, 0)] * (leaf.ndim - 1) + [(0, padding)])
        return jnp.moveaxis(padded.reshape(*leaf.shape[:-1], blocks, size), -2, 0)

    def split_rows(leaf: Array) -> Array:
        padded = jnp.pad(leaf, [(0, padding)] + [(0, 0)] * (leaf.ndim - 1))
        return padded.reshape(blocks, size, *leaf.shape[1:])

    def join(leaf: Array) -> Array:
        return jnp.moveaxis(leaf, 0, -2).reshape(*leaf.shape[1:-1], -1)

    def body(counts: Array, xs: tuple[_Block, Array]):
        # Rows of a block are copied out first: slices within each loop that reads them keep a CPU's compiler from vectorising it,
        # which cost a fifth of the step.
        block = jax.tree.map(lambda rows: stored(lambda rows: rows, rows), xs[0])
        return one(counts, block, xs[1])

    ties = jax.tree.map(split_rows, everyone.ties)
    pieces = replace(jax.tree.map(split, replace(everyone, ties=_NO_LEAVES)), ties=ties)
    # One block at a time is held in the backward pass, too.
    body = jax.checkpoint(body, prevent_cse=False)
    counts, (served, sums, sample) = jax.lax.scan(body, empty, (pieces, jnp.arange(blocks, dtype=jnp.int32)))
    served = jax.tree.map(lambda x: join(x)[..., : sizes.users], served)
    sample = _each_user(join, sample)
    sample = replace(sample, candidates=replace(sample.candidates, in_network=sample.candidates.in_network[0]))
    return served, counts, jax.tree.map(lambda x: total(x, axis=0), sums), sample


# ---- the joint step
# ------------------------------------------------------------------------------------------------------


def step(
    ecosystem: Ecosystem,
    inputs: Inputs,
    state: State,
    *,
    index: Array,
    key: Array,
    mode: Mode,
    cuts: frozenset[str] = frozenset(),
    skip_closed: bool = False,
) -> tuple[State, Metrics]:
    """One joint step of world and algorithms.

    Args:
        ecosystem: static description.
        inputs: population, parameters, levers, gates, learning switches.
        state: state before the step.
        index: int32 scalar, number of the step.
        key: typed key of the rollout, the same in every step.
        mode: numeric mode of every draw.
        cuts: derivative cuts inside the step, `exposure` and `proposal`; see `mamba.rollout.rollout`.
        skip_closed: do not run algorithms whose gate is 0, see `mamba.rollout.rollout`.

    Returns:
        `(state, metrics)`: the state after the step and what was counted in it, scalars and [G] arrays; with a policy also
        the levers that it moved, meaningful, as `lever/<algorithm>/<lever>`.
    """
    sizes, mechanisms = ecosystem.sizes, ecosystem.mechanisms
    people, parameters, gates = inputs.population, inputs.parameters, inputs.gates
    world = state.world
    names = list(enumerate(ecosystem.names))

    # post
    reward, trial, existed = posting.expiring(world.items, step=index, sizes=sizes)
    creators = posting.ADAPTATION[mechanisms.posting](
        world.creators, people, reward=reward, noise=trial, posted=existed, parameters=parameters
    )
    keys = row_keys(key, _step_rows(ecosystem, rewires=world.ties is not None), step=index)
    trials = draw_rows({name: keys[name] for name in _creator_rows(sizes)}, sizes.creators)
    rows, noise, posted = _posts(ecosystem, inputs, world.users, creators, trials, mode=mode)
    items = posting.put(world.items, rows, noise, posted, step=index, sizes=sizes)
    ties = Ties(people.followees, people.weight) if world.ties is None else world.ties
    links = jnp.zeros((0, sizes.users), jnp.int32)
    draws = draw_rows({name: keys[name] for name in _user_rows(sizes, world.ties is not None)}, sizes.users)
    item_draws = draw_rows({name: keys[name] for name in ("survive", "check")}, sizes.items)
    if world.ties is not None:
        links = rewiring.suggestions(ties, jnp.stack([draws["near"], draws["far"]]), sizes=sizes)
    view = observe(ecosystem, inputs, replace(world, items=items), index, links=links)
    turned = acting_levers(ecosystem, inputs, view)
    levers = {name: meaningful(turned[name], ecosystem.algorithms[i].bounds) for i, name in names}

    # act, survive
    own = [(levers[name], state.learned[i], keys[f"act/{name}"][0]) for i, name in names]
    opened = gates if skip_closed else None
    acts = together(ecosystem.algorithms, "act", own, view, gates=opened)
    alive_column = item_column("alive", sizes.topics)
    before = view.items.alive
    kept = gated_product([(gates[i], act.survive) for i, act in enumerate(acts)], before.shape)
    alive = before * bern(kept, item_draws["survive"][0], mode)
    table = items.table.at[:, alive_column].set(alive)
    hidden = pools.latent(table.T, sizes.topics)
    taken = before - alive
    harmful = posting.violation(hidden["toxicity"], hidden["veracity"], parameters)
    wrong = taken * (1.0 - harmful)
    removed = total(wrong.reshape(sizes.lifetime, sizes.creators), axis=0)

    # candidates, score, attend, engage, reshare, user dynamics
    proposed, existence, widths = _proposals(ecosystem, gates, acts, cuts)
    pace = gated_sum([(gates[i], act.pace) for i, act in enumerate(acts)], (sizes.users,))
    everyone = _Block(
        users=world.users,
        people=replace(
            people, strategy=_NO_LEAVES, skill=_NO_LEAVES, synthetic=_NO_LEAVES, followees=_NO_LEAVES, weight=_NO_LEAVES
        ),
        ties=ties,
        interest=view.interest,
        proposed=proposed,
        existence=existence,
        pace=pace,
        removed=jnp.pad(removed, (0, sizes.users - sizes.creators)),
        present=jnp.ones(sizes.users),
    )
    served, counts, sums, logged = _serve_all(
        ecosystem,
        inputs,
        everyone,
        table=table,
        outbox=world.outbox,
        view=view,
        learned=state.learned,
        levers=levers,
        keys=keys | row_keys(key, _serve_rows(sizes, widths, mode), step=index),
        widths=widths,
        step=index,
        mode=mode,
        cuts=cuts,
        skip_closed=skip_closed,
    )

    # contagion
    outbox = contagion.CONTAGION[mechanisms.contagion](
        world.outbox, served.shared_item, served.shared_weight, step=index, sizes=sizes
    )

    # every algorithm learns
    due = (view.age == jnp.round(parameters.check_delay)) * items.posted
    checked = due * (item_draws["check"][0] < parameters.check_share)
    each_source = [
        uniforms(stream(keys["actions"][0], source), (len(ACTIONS) + 1, width, logged.gap.shape[1]))
        for source, width in widths
    ]
    action_draws = jnp.concatenate(each_source, axis=1)
    acted, asked, rating = actions.taken(
        logged.columns,
        logged.gap,
        examined=logged.examined,
        clicked=logged.clicked,
        draws=action_draws[1:],
        ask_draw=action_draws[0],
        parameters=parameters,
        mode=mode,
    )
    appealed = parameters.appeal_share * taken
    log = Log(
        candidates=logged.candidates,
        examined=logged.examined,
        clicked=logged.clicked,
        reshared=logged.reshared,
        reported=logged.reported,
        actions=acted,
        asked=asked,
        rating=rating,
        engaged=served.engaged_item,
        engaged_weight=served.engaged_weight,
        shared=served.shared_item,
        shared_weight=served.shared_weight,
        counts=counts,
        active=served.active,
        checked=checked,
        verdict=checked * hidden["verdict"],
        taken=taken,
        appealed=appealed,
        judgement=hidden["verdict"],
    )
    learned, losses = [], {}
    own = [(levers[name], state.learned[i], keys[f"learn/{name}"][0]) for i, name in names]
    lessons = together(ecosystem.algorithms, "learn", own, view, log, gates=opened)
    for (i, name), (new, loss) in zip(names, lessons, strict=True):
        kept_state = blend(state.learned[i], new, inputs.learning[i] * gates[i])
        learned.append(kept_state)
        losses[f"loss/{name}"] = jnp.where(gates[i] > 0, loss, 0.0)

    # rewire, churn
    link_score = gated_sum([(gates[i], act.link) for i, act in enumerate(acts)], links.shape)
    if world.ties is None:
        rewired = rewiring.fixed_ties(ties, served.users.opinion, step=index)
    else:
        rewired = rewiring.REWIRING[mechanisms.rewiring](
            ties,
            served.users.opinion,
            step=index,
            links=links,
            link_score=link_score,
            draws=draws["rewire"],
            pick_draw=draws["rewire_pick"],
            parameters=parameters,
            sizes=sizes,
            mode=mode,
        )
    leaves = dynamics.CHURN[mechanisms.churn](served.users, draw=draws["churn"][0], parameters=parameters, mode=mode)
    users = dynamics.replaced(served.users, dynamics.newcomers(people, parameters), leaves)

    # books
    substance_bonus = 1.0 + parameters.payout_substance * hidden["substance"]
    memory, reach_memory = parameters.memory, parameters.reach_memory
    popularity, reports = (item_column(name, sizes.topics) for name in ("popularity", "reports"))
    table = table.at[:, popularity].set(memory * table[:, popularity] + counts[:, COUNTS.index("clicks")])
    table = table.at[:, reports].set(memory * table[:, reports] + counts[:, COUNTS.index("reports")])
    clicks = counts[:, COUNTS.index("clicks")]
    exposures = counts[:, COUNTS.index("exposures")].reshape(sizes.lifetime, sizes.creators)
    person = {
        "interest": memory * world.footprint.interest + served.clicked_topics,
        "sessions": memory * world.footprint.sessions + (1.0 - memory) * served.active,
        "seen": reach_memory * world.footprint.seen + served.seen_topics,
    }
    stranger = {name: jnp.zeros_like(value) for name, value in person.items()} | {"sessions": people.habit}
    footprint = Footprint(
        **dynamics.replaced(person, stranger, leaves),
        reach=reach_memory * world.footprint.reach + total(exposures, axis=0),
    )
    items = replace(items, table=table, reward=items.reward + clicks * substance_bonus)
    world = World(users, creators, items, outbox, footprint, None if world.ties is None else rewired.ties)

    metrics = {
        **sums,
        **measures.states(users, footprint, people, sizes),
        **measures.ties(rewired, served.users.opinion),
        **measures.removals(
            taken,
            wrong,
            appealed,
            hidden["verdict"],
            alive,
            harmful,
            posted,
            posting.violation(
                rows[:, item_column("toxicity", sizes.topics)],
                rows[:, item_column("veracity", sizes.topics)],
                parameters,
            ),
            people,
            sizes,
        ),
        "reviews": gated_sum([(gates[i], act.reviews) for i, act in enumerate(acts)], ()),
        "exposure_disparity": measures.disparity(footprint.reach, alive, hidden["substance"], people, sizes),
        **losses,
        **_moved(ecosystem, levers),
    }
    return State(world, tuple(learned)), metrics


def _moved(ecosystem: Ecosystem, levers: Levers) -> Metrics:
    """The meaningful levers that the policy controls, as metrics `lever/<algorithm>/<lever>`."""
    controls = () if ecosystem.policy is None else ecosystem.policy.controls
    owned = [(control, *control.split("/", 1)) for control in controls]
    return {f"lever/{control}": levers[name][lever] for control, name, lever in owned}


def _user_rows(sizes: Sizes, rewires: bool) -> dict[str, int]:
    rows = {"churn": 1}
    return (
        rows | {"near": sizes.links, "far": sizes.links, "rewire": 2, "rewire_pick": sizes.links} if rewires else rows
    )


def _step_rows(ecosystem: Ecosystem, *, rewires: bool) -> dict[str, int]:
    """Rows of random numbers of everything that is drawn once a step, by purpose."""
    sizes = ecosystem.sizes
    rows = _creator_rows(sizes) | _user_rows(sizes, rewires) | {"survive": 1, "check": 1, "actions": 1}
    return rows | {f"{phase}/{name}": 1 for name in ecosystem.names for phase in ("act", "rank", "learn")}


def _slot_draws(mode: Mode) -> tuple[str, ...]:
    return ("click",) if mode == "expected" else _SLOT_DRAWS


def _serve_rows(sizes: Sizes, widths: Sequence[tuple[str, int]], mode: Mode) -> dict[str, int]:
    """Rows that are drawn for every block of users; each source of candidates has its own, so that adding one leaves
    the others' noise as it was."""
    rows = {"serve/start": 1, "serve/active": 1, "serve/depth": 1, "serve/log": 1, "serve/entry": sizes.in_network}
    # Sources of one purpose side by side: as candidates they are then one slice of what was drawn, not a copy.
    return rows | {f"serve/{source}/{purpose}": width for purpose in _slot_draws(mode) for source, width in widths}


def _proposals(ecosystem: Ecosystem, gates: Array, acts: Sequence[Act], cuts: frozenset[str]):
    """Out-of-network candidates of all algorithms, their gated existence, and the width of every candidate source."""
    sizes = ecosystem.sizes
    ids = [jnp.zeros((0, sizes.users), jnp.int32)]
    existence = [jnp.zeros((0, sizes.users))]
    widths = [("ties", sizes.in_network)]
    for i, (name, act) in enumerate(zip(ecosystem.names, acts, strict=True)):
        if act.propose is not None:
            ids.append(act.propose.ids)
            existence.append(gates[i] * act.propose.existence)
            widths.append((name, act.propose.ids.shape[0]))
    joined = jnp.concatenate(existence)
    if "proposal" in cuts:
        joined = jax.lax.stop_gradient(joined)
    return jnp.concatenate(ids), joined, tuple(widths)
