"""Wires a world and a tuple of algorithms into one joint step.

    post -> survive -> candidates -> score -> attend -> engage -> reshare -> user dynamics -> contagion
         -> every algorithm learns -> rewire, churn -> metrics

Algorithms see a `View` and, when they learn, this step's `Log` and the view before the transition. All they can do goes
through the six ports of `mamba.algorithms.base`. Users meet only through items, ties and learners, so the middle of the
step runs over blocks of users where `Sizes.user_block` asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from mamba.algorithms.base import Act, Algorithm, blend, gated_product, gated_sum, meaningful
from mamba.streams import stream, uniforms
from mamba.types import (
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
from mamba.world import candidates as pools
from mamba.world import contagion, dynamics, measures, posting, response, rewiring
from mamba.world.attention import attend
from mamba.world.mechanisms import Mechanisms
from mamba.world.parameters import WorldParameters, as_arrays
from mamba.world.relax import bern

CUTS = ("learn", "world", "exposure", "proposal")

# Purposes of the draws made once a step, and of those made for every candidate source; see `mamba.streams`.
_STEP_DRAWS = (
    "post", "survive", "check", "churn", "links", "rewire", "rewire_pick", "log",
    "start", "entry", "active", "depth",
)  # fmt: skip
_SLOT_DRAWS = ("rank", "exist", "click", "reshare", "report", "pick")
_SCROLL_LOW, _SCROLL_HIGH = 0.05, 0.97


class Ecosystem(NamedTuple):
    """A world and the algorithms that run on it; everything here is static.

    Attributes:
        sizes: static sizes.
        mechanisms: names of the world's mechanisms.
        names: name of each algorithm, A of them.
        algorithms: the algorithms, in the same order.
    """

    sizes: Sizes
    mechanisms: Mechanisms
    names: tuple[str, ...]
    algorithms: tuple[Algorithm, ...]


@struct.dataclass
class Inputs:
    """What a rollout depends on and does not change: passed beside the carry.

    Attributes:
        population: who lives here.
        parameters: world parameters, float32 scalars.
        levers: algorithm name -> lever name -> unconstrained value.
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


class Streams(NamedTuple):
    """Random streams of a rollout: purposes by name and one key for each, folded with the step when used."""

    names: tuple[str, ...]
    keys: Array

    def at(self, step: Array) -> dict[str, Array]:
        """Keys of one step by purpose."""
        folded = jax.vmap(jax.random.fold_in, (0, None))(self.keys, step)
        return {name: folded[i] for i, name in enumerate(self.names)}


def make(algorithms: Mapping[str, Algorithm], *, sizes: Sizes, mechanisms: Mechanisms | None = None) -> Ecosystem:
    """Builds an ecosystem.

    Args:
        algorithms: name -> algorithm; the order is the axis A.
        sizes: static sizes.
        mechanisms: names of mechanisms; None takes the defaults.

    Raises:
        ValueError: sizes that contradict each other.
    """
    if not 1 <= sizes.creators <= sizes.users:
        raise ValueError(f"sizes.creators = {sizes.creators} must be between 1 and users = {sizes.users}")
    if sizes.recent > sizes.lifetime:
        raise ValueError(f"sizes.recent = {sizes.recent} is beyond the lifetime {sizes.lifetime} of an item")
    if sizes.user_block < 0 or sizes.log_batch < 1:
        raise ValueError(f"sizes.user_block = {sizes.user_block} must be at least 0, log_batch = {sizes.log_batch} at least 1")
    chosen = Mechanisms() if mechanisms is None else mechanisms
    if chosen.candidates == "latest" and sizes.in_network != sizes.followees:
        raise ValueError("candidates: latest reads every tie: set in_network equal to followees")
    return Ecosystem(sizes, chosen, tuple(algorithms), tuple(algorithms.values()))


def default_levers(ecosystem: Ecosystem) -> Levers:
    """Every algorithm's default unconstrained levers, as float32 arrays."""
    return {
        name: {lever: jnp.float32(value) for lever, value in algorithm.levers.items()}
        for name, algorithm in zip(ecosystem.names, ecosystem.algorithms, strict=True)
    }


def inputs(ecosystem: Ecosystem, population: Population, *, parameters: WorldParameters | None = None,
           levers: Levers | None = None, gates: Sequence[float] | Array | None = None,
           learning: Sequence[float] | Array | None = None) -> Inputs:
    """Inputs with defaults: default parameters and levers, every gate open, everybody learning."""
    ones = jnp.ones(len(ecosystem.names))
    return Inputs(
        population=population,
        parameters=as_arrays(WorldParameters() if parameters is None else parameters),
        levers=default_levers(ecosystem) if levers is None else levers,
        gates=ones if gates is None else jnp.asarray(gates, jnp.float32),
        learning=ones if learning is None else jnp.asarray(learning, jnp.float32),
    )


def streams(ecosystem: Ecosystem, key: Array) -> Streams:
    """The random streams of a rollout with this key."""
    names = list(_STEP_DRAWS)
    for source in ("ties", *ecosystem.names):
        names += [f"{source}/{purpose}" for purpose in _SLOT_DRAWS]
    for name in ecosystem.names:
        names += [f"{name}/act", f"{name}/rank", f"{name}/learn"]
    return Streams(tuple(names), jnp.stack([stream(key, name) for name in names]))


# ---- start -------------------------------------------------------------------------------------------------------------


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
    users = dynamics.newcomers(people, parameters).replace(activity=people.habit)
    creators = Creators(strategy=people.strategy, baseline=jnp.zeros(sizes.creators))
    rows, noise, posted = _posts(
        ecosystem, inputs, users, creators, _fold_all(stream(key, "history"), sizes.lifetime), mode="sampled"
    )
    flat = jax.tree.map(lambda x: x.reshape(sizes.items, *x.shape[2:]), (rows, noise, posted))
    items = Items(table=flat[0], noise=flat[1], posted=flat[2], reward=jnp.zeros(sizes.items))
    ties = Ties(people.followees, people.weight) if ecosystem.mechanisms.rewiring != "none" else None
    footprint = Footprint(
        interest=jnp.zeros((sizes.users, sizes.topics)),
        sessions=people.habit,
        seen=jnp.zeros((sizes.users, sizes.topics)),
        reach=jnp.zeros(sizes.creators),
    )
    world = World(users, creators, items, contagion.empty_outbox(sizes), footprint, ties)
    view = observe(ecosystem, inputs, world, jnp.int32(0), links=jnp.zeros((sizes.users, 0), jnp.int32))
    learned = tuple(
        algorithm.init(stream(key, f"{name}/init"), view)
        for name, algorithm in zip(ecosystem.names, ecosystem.algorithms, strict=True)
    )
    return State(world, learned)


def _fold_all(key: Array, n: int) -> Array:
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(n))


def _posts(ecosystem: Ecosystem, inputs: Inputs, users: Users, creators: Creators, keys: Array, *, mode: Mode):
    """Posts of several steps at once, leading axis of `keys`; one step is a length-1 axis."""
    sizes = ecosystem.sizes

    def once(key: Array):
        trial, signal, draw = (jax.random.fold_in(key, i) for i in range(3))
        noise = jax.random.normal(trial, (sizes.creators, sizes.topics + 4))
        rows, posted = posting.post(
            creators,
            inputs.population,
            users,
            noise=noise,
            signal_noise=jax.random.normal(signal, (sizes.creators, 3)),
            draws=uniforms(draw, (sizes.creators, 2)),
            parameters=inputs.parameters,
            sizes=sizes,
            mode=mode,
            own_opinion=ecosystem.mechanisms.posting == "opinion",
        )
        return rows, noise, posted

    return jax.vmap(once)(keys)


# ---- view --------------------------------------------------------------------------------------------------------------


def observe(ecosystem: Ecosystem, inputs: Inputs, world: World, step: Array, *, links: Array) -> View:
    """What the platform may observe of the world at a step; `links` [U, L] are the accounts that could be suggested."""
    sizes = ecosystem.sizes
    slots = jnp.arange(sizes.items)
    raw = world.footprint.interest
    return View(
        step=step,
        items=pools.observed(world.items.table, sizes.topics),
        age=pools.item_age(slots, step, sizes),
        author=slots % sizes.creators,
        followers=inputs.population.followers,
        interest=(raw + 1.0 / sizes.topics) / (jnp.sum(raw, axis=-1, keepdims=True) + 1.0),
        sessions=world.footprint.sessions,
        links=links,
    )


# ---- serving a block of users --------------------------------------------------------------------------------------------


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
    active: Array
    clicked_topics: Array
    seen_topics: Array


def _slot_draws(keys: dict[str, Array], widths: Sequence[tuple[str, int]], users: int, purposes: Sequence[str],
                block: Array) -> dict[str, Array]:
    """Uniform draws [U, C] for each purpose; every source of candidates has its own streams."""
    parts = []
    for source, width in widths:
        stacked = jnp.stack([keys[f"{source}/{purpose}"] for purpose in purposes])
        stacked = jax.vmap(jax.random.fold_in, (0, None))(stacked, block)
        parts.append(jax.vmap(lambda key, width=width: uniforms(key, (users, width)))(stacked))
    joined = jnp.concatenate(parts, axis=-1)
    return {purpose: joined[i] for i, purpose in enumerate(purposes)}


def _serve(ecosystem: Ecosystem, inputs: Inputs, block: _Block, *, index: Array, table: Array, outbox: Outbox, view: View,
           learned: tuple[Learned, ...], levers: Levers, keys: dict[str, Array], widths: Sequence[tuple[str, int]], step: Array,
           mode: Mode, cuts: frozenset[str]):
    """Candidates, ranking, attention, engagement and user dynamics of one block of users."""
    sizes, mechanisms, parameters = ecosystem.sizes, ecosystem.mechanisms, inputs.parameters
    n = block.present.shape[0]

    def draw(purpose: str, shape: tuple[int, ...]) -> Array:
        return uniforms(jax.random.fold_in(keys[purpose], index), shape)

    purposes = _SLOT_DRAWS if mode != "expected" else ("pick",)
    slots = _slot_draws(keys, widths, n, purposes, index)

    # candidates
    ids, existence = pools.CANDIDATES[mechanisms.candidates](
        block.ties,
        outbox,
        step=step,
        start_draw=draw("start", (n,)),
        entry_draw=draw("entry", (n, sizes.in_network)),
        sizes=sizes,
    )
    ids = jnp.concatenate([ids, block.proposed], axis=-1)
    existence = jnp.concatenate([existence, block.existence], axis=-1)
    rows = pools.gather_rows(table, ids)
    items = pools.observed(rows, sizes.topics)
    hidden = pools.latent(rows, sizes.topics)
    existence = existence * items.alive
    candidates = Candidates(
        ids=ids,
        existence=existence,
        in_network=jnp.concatenate([jnp.full((1, width), float(source == "ties")) for source, width in widths], axis=-1),
        age=pools.item_age(ids, step, sizes).astype(jnp.float32),
        items=items,
        interest=block.interest,
    )

    # ranking
    ranks = [
        algorithm.rank(levers[name], learned[i], view, candidates, jax.random.fold_in(keys[f"{name}/rank"], index))
        for i, (name, algorithm) in enumerate(zip(ecosystem.names, ecosystem.algorithms, strict=True))
    ]
    score = gated_sum([(inputs.gates[i], rank.score) for i, rank in enumerate(ranks)], ids.shape)
    friction = gated_product([(inputs.gates[i], rank.friction) for i, rank in enumerate(ranks)], ids.shape)

    # attention
    users = block.users
    active_probability = jnp.clip(users.activity + block.pace, 0.0, 1.0) * block.present
    active = bern(active_probability, draw("active", (n,)), mode)
    if mechanisms.scrolling == "everything":
        attended = existence
    else:
        rested = parameters.scroll * (1.0 - parameters.scroll_fatigue * users.fatigue)
        continuation = jnp.clip(rested + block.pace, _SCROLL_LOW, _SCROLL_HIGH)
        draws = {} if mode == "expected" else {**slots, "depth": draw("depth", (n,))}
        attended = attend(score, existence, continuation, draws=draws, mode=mode, nodes=sizes.nodes)
    examined = active[:, None] * attended
    if "exposure" in cuts:
        examined = jax.lax.stop_gradient(examined)

    # engagement
    columns = {**hidden, "glitter": items.glitter}
    value = response.utility(users, items.topics, columns, parameters)
    clicked = examined * _event(response.CHOICE[mechanisms.choice](value, examined), slots, "click", mode)
    susceptibility = dynamics.effective_susceptibility(users, block.people)
    share = response.reshare_probability(susceptibility, columns, friction, parameters)
    reshared = clicked * _event(share, slots, "reshare", mode)
    reported = examined * _event(response.report_probability(columns, parameters), slots, "report", mode)
    shared_item, shared_weight = contagion.chosen_reshare(ids, reshared, draw=slots["pick"], mode=mode)

    # people
    experience = dynamics.Experience(examined, clicked, items.topics, columns, friction, block.removed)
    told = (users, block.people, experience, parameters)
    after = Users(
        opinion=dynamics.OPINION[mechanisms.opinion](*told),
        preference=dynamics.PREFERENCE[mechanisms.preference](*told),
        fatigue=dynamics.FATIGUE[mechanisms.fatigue](*told),
        wellbeing=dynamics.WELLBEING[mechanisms.wellbeing](*told),
        trust=dynamics.TRUST[mechanisms.trust](*told),
        resilience=dynamics.RESILIENCE[mechanisms.resilience](*told),
        activity=dynamics.ACTIVITY[mechanisms.activity](*told),
    )

    counts = jnp.stack([examined, clicked, reshared, reported], axis=-1)
    sums = measures.served(experience, reshared, reported, block.people.group, block.present, sizes)
    served = _Served(
        users=after,
        shared_item=shared_item,
        shared_weight=shared_weight,
        active=active,
        clicked_topics=jnp.sum(clicked[..., None] * items.topics, axis=1),
        seen_topics=jnp.sum(examined[..., None] * items.topics, axis=1),
    )
    logged = (candidates, examined, clicked, reshared)
    return served, (ids, counts), sums, logged


def _event(probability: Array, slots: dict[str, Array], purpose: str, mode: Mode) -> Array:
    return probability if mode == "expected" else bern(probability, slots[purpose], mode)


def _log_rows(logged, start: Array, size: int):
    """A systematic sample of `size` users of a block: every stride-th one from a random start; candidates stay whole."""
    candidates, *arrays = logged
    n = candidates.ids.shape[0]
    rows = (start + jnp.arange(size) * (n // size)) % n
    sampled = jax.tree.map(lambda x: x[rows], (candidates.replace(in_network=None), *arrays))
    return rows, (sampled[0].replace(in_network=candidates.in_network), *sampled[1:])


def _serve_all(ecosystem: Ecosystem, inputs: Inputs, everyone: _Block, **context):
    """Serves all users, in blocks where the sizes ask for it; returns what `_serve` does, for all users."""
    sizes = ecosystem.sizes
    keys, step = context["keys"], context["step"]
    size = sizes.user_block or sizes.users
    blocks = -(-sizes.users // size)
    batch = min(max(sizes.log_batch // blocks, 1), size, sizes.users)
    starts = jnp.floor(uniforms(keys["log"], (blocks,)) * size).astype(jnp.int32)

    def one(counts: Array, block: _Block, index: Array):
        served, (ids, seen), sums, logged = _serve(ecosystem, inputs, block, index=index, **context)
        rows, sample = _log_rows(logged, starts[index], batch)
        # the one packed scatter: exposures, clicks, reshares and reports back to items
        counts = counts.at[ids].add(seen, mode="promise_in_bounds")
        return counts, (served, sums, rows + index * size, sample)

    empty = jnp.zeros((sizes.items, len(COUNTS)))
    if blocks == 1:
        counts, (served, sums, rows, sample) = one(empty, everyone, jnp.int32(0))
        return served, counts, sums, rows, sample
    padding = blocks * size - sizes.users

    def split(leaf: Array) -> Array:
        padded = jnp.pad(leaf, [(0, padding)] + [(0, 0)] * (leaf.ndim - 1))
        return padded.reshape(blocks, size, *leaf.shape[1:])

    def body(counts: Array, xs: tuple[_Block, Array]):
        return one(counts, *xs)

    counts, (served, sums, rows, sample) = jax.lax.scan(
        body, empty, (jax.tree.map(split, everyone), jnp.arange(blocks, dtype=jnp.int32))
    )
    served = jax.tree.map(lambda x: x.reshape(blocks * size, *x.shape[2:])[: sizes.users], served)
    in_network = sample[0].in_network[0]
    sample = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (sample[0].replace(in_network=None), *sample[1:]))
    sample = (sample[0].replace(in_network=in_network), *sample[1:])
    # Padding rows of the last block were inactive; their ids must still be those of real users.
    rows = jnp.minimum(rows.reshape(-1), sizes.users - 1)
    return served, counts, jax.tree.map(lambda x: jnp.sum(x, axis=0), sums), rows, sample


# ---- the joint step ------------------------------------------------------------------------------------------------------


def step(ecosystem: Ecosystem, inputs: Inputs, state: State, *, index: Array, randomness: Streams, mode: Mode,
         cuts: frozenset[str] = frozenset()) -> tuple[State, Metrics]:
    """One joint step of world and algorithms.

    Args:
        ecosystem: static description.
        inputs: population, parameters, levers, gates, learning switches.
        state: state before the step.
        index: int32 scalar, number of the step.
        randomness: from `streams`.
        mode: numeric mode of every draw.
        cuts: names of derivative cuts, see `mamba.rollout.rollout`.

    Returns:
        `(state, metrics)`: the state after the step and what was counted in it, scalars and [G] arrays.
    """
    sizes, mechanisms = ecosystem.sizes, ecosystem.mechanisms
    people, parameters, gates = inputs.population, inputs.parameters, inputs.gates
    world = state.world
    keys = randomness.at(index)
    names = list(enumerate(ecosystem.names))
    levers = {name: meaningful(inputs.levers[name], ecosystem.algorithms[i].bounds) for i, name in names}

    # post
    reward, trial, existed = posting.expiring(world.items, step=index, sizes=sizes)
    creators = posting.ADAPTATION[mechanisms.posting](
        world.creators, people, reward=reward, noise=trial, posted=existed, parameters=parameters
    )
    rows, noise, posted = (x[0] for x in _posts(ecosystem, inputs, world.users, creators, keys["post"][None], mode=mode))
    items = posting.put(world.items, rows, noise, posted, step=index, sizes=sizes)
    ties = Ties(people.followees, people.weight) if world.ties is None else world.ties
    links = jnp.zeros((sizes.users, 0), jnp.int32)
    if world.ties is not None:
        links = rewiring.suggestions(ties, uniforms(keys["links"], (sizes.users, sizes.links, 2)), sizes=sizes)
    view = observe(ecosystem, inputs, world.replace(items=items), index, links=links)

    # act, survive
    acts = [
        ecosystem.algorithms[i].act(levers[name], state.learned[i], view, keys[f"{name}/act"]) for i, name in names
    ]
    alive_column = item_column("alive", sizes.topics)
    before = view.items.alive
    kept = gated_product([(gates[i], act.survive) for i, act in enumerate(acts)], before.shape)
    alive = before * bern(kept, uniforms(keys["survive"], kept.shape), mode)
    table = items.table.at[:, alive_column].set(alive)
    hidden = pools.latent(table, sizes.topics)
    taken = before - alive
    wrong = taken * (1.0 - posting.violation(hidden["toxicity"], hidden["veracity"], parameters))
    removed = jnp.sum(wrong.reshape(sizes.lifetime, sizes.creators), axis=0)

    # candidates, score, attend, engage, reshare, user dynamics
    proposed, existence, widths = _proposals(ecosystem, gates, acts, cuts)
    pace = gated_sum([(gates[i], act.pace) for i, act in enumerate(acts)], (sizes.users,))
    everyone = _Block(
        users=world.users,
        people=people.replace(strategy=None, skill=None, synthetic=None, followees=None, weight=None),
        ties=ties,
        interest=view.interest,
        proposed=proposed,
        existence=existence,
        pace=pace,
        removed=jnp.pad(removed, (0, sizes.users - sizes.creators)),
        present=jnp.ones(sizes.users),
    )
    served, counts, sums, log_users, logged = _serve_all(
        ecosystem,
        inputs,
        everyone,
        table=table,
        outbox=world.outbox,
        view=view,
        learned=state.learned,
        levers=levers,
        keys=keys,
        widths=widths,
        step=index,
        mode=mode,
        cuts=cuts,
    )

    # contagion
    outbox = contagion.CONTAGION[mechanisms.contagion](
        world.outbox, served.shared_item, served.shared_weight, step=index, sizes=sizes
    )

    # every algorithm learns
    due = (view.age == parameters.check_delay) * items.posted
    checked = due * (uniforms(keys["check"], due.shape) < parameters.check_share)
    log = Log(
        users=log_users,
        candidates=logged[0],
        examined=logged[1],
        clicked=logged[2],
        reshared=logged[3],
        counts=counts,
        active=served.active,
        checked=checked,
        verdict=checked * hidden["verdict"],
    )
    learned, losses = [], {}
    for i, name in names:
        new, loss = ecosystem.algorithms[i].learn(levers[name], state.learned[i], view, log, keys[f"{name}/learn"])
        kept_state = blend(state.learned[i], new, inputs.learning[i] * gates[i])
        learned.append(jax.lax.stop_gradient(kept_state) if "learn" in cuts else kept_state)
        losses[f"loss/{name}"] = loss

    # rewire, churn
    link_score = gated_sum([(gates[i], act.link) for i, act in enumerate(acts)], links.shape)
    new_ties = world.ties
    if world.ties is not None:
        new_ties = rewiring.REWIRING[mechanisms.rewiring](
            ties,
            served.users.opinion,
            links=links,
            link_score=link_score,
            draws=uniforms(keys["rewire"], (sizes.users, 2)),
            pick_draw=uniforms(keys["rewire_pick"], links.shape),
            parameters=parameters,
            sizes=sizes,
            mode=mode,
        )
    users = dynamics.CHURN[mechanisms.churn](
        served.users, people, draw=uniforms(keys["churn"], (sizes.users,)), parameters=parameters, mode=mode
    )

    # books
    substance_bonus = 1.0 + parameters.payout_substance * hidden["substance"]
    memory, reach_memory = parameters.memory, parameters.reach_memory
    popularity, reports = (item_column(name, sizes.topics) for name in ("popularity", "reports"))
    table = table.at[:, popularity].set(memory * table[:, popularity] + counts[:, COUNTS.index("clicks")])
    table = table.at[:, reports].set(memory * table[:, reports] + counts[:, COUNTS.index("reports")])
    clicks = counts[:, COUNTS.index("clicks")]
    exposures = counts[:, COUNTS.index("exposures")].reshape(sizes.lifetime, sizes.creators)
    footprint = Footprint(
        interest=memory * world.footprint.interest + served.clicked_topics,
        sessions=memory * world.footprint.sessions + (1.0 - memory) * served.active,
        seen=reach_memory * world.footprint.seen + served.seen_topics,
        reach=reach_memory * world.footprint.reach + jnp.sum(exposures, axis=0),
    )
    items = items.replace(table=table, reward=items.reward + clicks * substance_bonus)
    world = World(users, creators, items, outbox, footprint, new_ties)
    if "world" in cuts:
        world = jax.lax.stop_gradient(world)

    metrics = {
        **sums,
        **measures.states(users, footprint, people, sizes),
        **measures.removals(
            taken,
            hidden["toxicity"],
            hidden["veracity"],
            posted,
            rows[:, item_column("toxicity", sizes.topics)],
            rows[:, item_column("veracity", sizes.topics)],
            parameters,
        ),
        "exposure_disparity": measures.disparity(footprint.reach, alive, hidden["substance"], people, sizes),
        **losses,
    }
    return State(world, tuple(learned)), metrics


def _proposals(ecosystem: Ecosystem, gates: Array, acts: Sequence[Act], cuts: frozenset[str]):
    """Out-of-network candidates of all algorithms, their gated existence, and the width of every candidate source."""
    sizes = ecosystem.sizes
    ids = [jnp.zeros((sizes.users, 0), jnp.int32)]
    existence = [jnp.zeros((sizes.users, 0))]
    widths = [("ties", sizes.in_network)]
    for i, (name, act) in enumerate(zip(ecosystem.names, acts, strict=True)):
        if act.propose is not None:
            ids.append(act.propose.ids)
            existence.append(jnp.where(gates[i] > 0, gates[i] * act.propose.existence, 0.0))
            widths.append((name, act.propose.ids.shape[-1]))
    joined = jnp.concatenate(existence, axis=-1)
    if "proposal" in cuts:
        joined = jax.lax.stop_gradient(joined)
    return jnp.concatenate(ids, axis=-1), joined, tuple(widths)
