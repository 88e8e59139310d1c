"""Members: many configurations x seeds of one ecosystem, evaluated together.

A member differs from its siblings in levers, gates, learning switches and key, which are all traced, so one compilation
serves a factorial design, an evolution strategy and an evaluation alike. Members are spread over the devices; on a
device they run one after the other (`layout="loop"`) or side by side (`layout="vmap"`). On a CPU one after the other is faster
where gates are closed: there an algorithm that is off can be branched around, which no vmap can do (`experiments/interactions`).
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec

from mamba import ecosystem as eco
from mamba import objectives, placement
from mamba.rollout import rollout
from mamba.types import Array, Levers, Metrics, Mode
from mamba.world.parameters import WorldParameters

Layout = Literal["loop", "vmap"]
# Users at once that keep a large accelerator busy: an H100 has 132 multiprocessors of 2,048 threads. More only take memory.
BUSY = 2**18


def layout() -> Layout:
    """How members are run where this process runs: one after the other on a CPU, side by side elsewhere."""
    return "loop" if jax.default_backend() == "cpu" else "vmap"


def beside(users: int) -> int:
    """Runs of so many users that are worth having side by side where this process runs."""
    return 1 if layout() == "loop" else max(1, BUSY // users)


def mapped(one: Callable[[Any], Any], each: Any, *, at_once: int) -> Any:
    """`jax.lax.map(one, each)`, so many at a time side by side."""
    size = min(at_once, jax.tree.leaves(each)[0].shape[0])
    # jax would make a batch of one, too, and then no branch of `one` could be left out.
    return jax.lax.map(one, each, batch_size=size if size > 1 else None)


class Members(NamedTuple):
    """A batch of members; every leaf has leading axis [B].

    Attributes:
        levers: algorithm -> lever -> unconstrained values [B, ...].
        gates: [B, A] in [0, 1].
        learning: [B, A] in [0, 1].
        keys: [B] typed keys; members with equal keys see the same noise.
        parameters: world parameters, leaves [B]; None takes those of the inputs.
        home: [B] int32, population that each lives in, where those of the inputs have a leading axis; None where they are one.
    """

    levers: Levers
    gates: Array
    learning: Array
    keys: Array
    parameters: WorldParameters | None = None
    home: Array | None = None


def repeat(
    ecosystem: eco.Ecosystem,
    levers: Levers,
    keys: Array,
    *,
    gates: Array | None = None,
    learning: Array | None = None,
    parameters: WorldParameters | None = None,
    home: Array | None = None,
) -> Members:
    """Members that share levers: one for each key.

    Args:
        ecosystem: static description.
        levers: one platform's levers, without a member axis.
        keys: [B] typed keys.
        gates: [A] or [B, A]; None opens every gate.
        learning: [A] or [B, A]; None lets everyone learn.
        parameters: leaves [B]; None takes those of the inputs.
        home: [B] populations, see `Members`.

    Returns:
        B members.
    """
    shape = (len(keys), len(ecosystem.names))
    return Members(
        levers=jax.tree.map(lambda x: jnp.broadcast_to(x, (len(keys), *jnp.shape(x))), levers),
        gates=jnp.ones(shape) if gates is None else jnp.broadcast_to(jnp.asarray(gates, jnp.float32), shape),
        learning=jnp.ones(shape) if learning is None else jnp.broadcast_to(jnp.asarray(learning, jnp.float32), shape),
        keys=keys,
        parameters=parameters,
        home=home,
    )


def join(*groups: Members) -> Members:
    """One batch from several, in order."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *groups)


def evaluator(
    ecosystem: eco.Ecosystem,
    *,
    steps: int,
    mode: Mode = "sampled",
    layout: Layout = "loop",
    warm_up: int = 0,
    windows: int = 0,
    of: Callable[[Metrics], Array] | None = None,
) -> Callable[[eco.Inputs, Members, Array], Array]:
    """Builds the function that evaluates a chunk of members; the caller jits it and calls it through `in_chunks`.

    Args:
        ecosystem: static description.
        steps: T.
        mode: numeric mode.
        layout: how the members of one device are run.
        warm_up: steps before these T in which the platform of `inputs` runs, the same for all members of a key: levers,
            gates and learning switches of a member count from then on. What is measured is a change to a running platform.
        windows: W, parts of (almost) equal length into which the T steps are also cut.
        of: what is measured of the metrics [T] of a rollout, a vector; None takes the J objectives.

    Returns:
        `(inputs, members, counts) -> [B, J]`, with windows `[B, 1 + W, J]`, the whole rollout first. `inputs` supplies
        population and world parameters; B is a multiple of the number of devices; `counts` [devices] int32 says how many
        members of each device's block are wanted (the rest are zero in the loop layout). In that layout members that follow
        each other and have one key share its warm-up, and closed algorithms are not run.

    Raises:
        ValueError: more windows than steps.
    """
    if windows > steps:
        raise ValueError(f"windows = {windows} cannot be more than steps = {steps}")
    loops = layout == "loop"
    measured = functools.partial(objectives.evaluate, n_users=ecosystem.sizes.users) if of is None else of

    def warmed(inputs: eco.Inputs, member: Members) -> eco.State:
        return rollout(ecosystem, _world(inputs, member), key=member.keys, steps=warm_up, mode=mode)[0]

    def one(inputs: eco.Inputs, member: Members, state: eco.State | None) -> Array:
        _, metrics, _ = rollout(
            ecosystem,
            replace(_world(inputs, member), levers=member.levers, gates=member.gates, learning=member.learning),
            key=member.keys,
            steps=steps,
            mode=mode,
            state=state,
            first_step=warm_up,
            skip_closed=loops,
        )
        return _windowed(measured, metrics, windows)

    def block(inputs: eco.Inputs, members: Members, counts: Array) -> Array:
        if not loops:
            # No key twice in a warm-up would take knowing on the device which keys are equal.
            start = None if warm_up == 0 else jax.vmap(warmed, (None, 0))(inputs, members)
            return jax.vmap(one, (None, 0, None if start is None else 0))(inputs, members, start)

        def fill(index: Array, carry: tuple[Array, Any]) -> tuple[Array, Any]:
            results, start = carry
            member = jax.tree.map(lambda leaf: leaf[index], members)
            if warm_up:
                before = jnp.maximum(index - 1, 0)
                # Whoever has the key and the world of the one before has its warm-up.
                one_before = jax.tree.map(lambda leaf: leaf[before], (members.keys, members.parameters, members.home))
                mine = (member.keys, member.parameters, member.home)
                same = jax.tree.map(lambda a, b: jnp.all(_plain(a) == _plain(b)), mine, one_before)
                known = functools.reduce(operator.and_, jax.tree.leaves(same), index > 0)
                start = jax.lax.cond(known, lambda: start, lambda: warmed(inputs, member))
            return results.at[index].set(one(inputs, member, start)), start

        first, start = jax.tree.map(lambda leaf: leaf[0], members), None
        if warm_up:
            like = jax.eval_shape(warmed, inputs, first)
            start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
        shape = jax.eval_shape(one, inputs, first, start).shape
        return jax.lax.fori_loop(0, counts[0], fill, (jnp.zeros((len(members.keys), *shape)), start))[0]

    return over_devices(block, shared=1, split=2)


def _world(inputs: eco.Inputs, member: Members) -> eco.Inputs:
    if member.home is not None:
        inputs = replace(inputs, population=jax.tree.map(lambda leaf: leaf[member.home], inputs.population))
    return inputs if member.parameters is None else replace(inputs, parameters=member.parameters)


def _plain(leaf: Array) -> Array:
    """A leaf, a typed key as its numbers."""
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _windowed(of: Callable[[Metrics], Array], metrics: Metrics, windows: int) -> Array:
    """What is measured of a rollout [J]; with windows [1 + W, J], the whole first."""
    if not windows:
        return of(metrics)
    steps = jax.tree.leaves(metrics)[0].shape[0]
    borders = pairwise(steps * part // windows for part in range(windows + 1))
    return jnp.stack([of(metrics), *(of(jax.tree.map(operator.itemgetter(slice(*ends)), metrics)) for ends in borders)])


def over_devices(block: Callable[..., Any], *, shared: int, split: int) -> Callable[..., Any]:
    """A function whose last arguments and results are split over the local devices by their first axis.

    Args:
        block: function of `shared` and then `split` arguments, for one device's part.
        shared: leading arguments that every device gets whole.
        split: arguments that are split; their first axis must be a multiple of the number of devices.

    Returns:
        `block` itself on one device, and where users are split (`mamba.placement`).
    """
    devices = placement.member_devices()
    if devices == 1:
        return block
    mesh = jax.make_mesh((devices,), ("member",), axis_types=(AxisType.Auto,), devices=jax.local_devices())
    spread = PartitionSpec("member")
    specs = (PartitionSpec(),) * shared + (spread,) * split
    return jax.shard_map(block, mesh=mesh, in_specs=specs, out_specs=spread, check_vma=False)


class Compiled(NamedTuple):
    """A compiled `evaluator`.

    Attributes:
        run: `(inputs, members, counts) -> results`, for chunks of `chunk` members.
        chunk: members sent at a time.
        bytes: predicted peak memory of a call, over all devices: arguments, results and temporaries.
    """

    run: Callable[[eco.Inputs, Members, Array], Array]
    chunk: int
    bytes: int


def compiled(
    evaluate: Callable[[eco.Inputs, Members, Array], Array],
    inputs: eco.Inputs,
    members: Members,
    *,
    chunk: int,
    limit: float = float("inf"),
) -> Compiled:
    """Compiles an `evaluator` for the largest chunk whose predicted memory fits; `chunk` is halved until it does.

    Args:
        evaluate: from `evaluator`, not jitted.
        inputs: as it will be called.
        members: members such as it will be called with; only their shapes count.
        chunk: most members sent at a time.
        limit: bytes there are.

    Raises:
        ValueError: not even one member a device fits.
    """
    devices = placement.member_devices()
    size = -(-max(chunk, 1) // devices) * devices
    while True:
        some = jax.tree.map(lambda leaf, size=size: jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype), members)
        counts = jax.ShapeDtypeStruct((devices,), jnp.int32)
        run = jax.jit(evaluate).lower(inputs, some, counts).compile()
        needed = predicted_bytes(run)
        if needed <= limit:  # where the back end does not say, nothing is refused
            return Compiled(run, size, needed)
        if size == devices:
            apart = not placement.users_are_split()
            more = "fewer devices, users over devices (shard: users), or users in blocks (scenario.user_block)"
            raise ValueError(
                f"one rollout on {'each of ' if apart else 'all '}{jax.local_device_count()} devices needs "
                f"{needed / 2**30:.1f} GiB, and there are {limit / 2**30:.1f}; use fewer users, "
                + (more if apart else "or more devices")
            )
        size = max(devices, size // 2 // devices * devices)


def predicted_bytes(program: Any) -> int:
    """Predicted peak memory of a call of a compiled program, over all devices: arguments, results and temporaries.

    0 where the back end does not say.
    """
    told = program.memory_analysis()
    parts = ("argument_size_in_bytes", "output_size_in_bytes", "temp_size_in_bytes")
    return jax.local_device_count() * sum(int(getattr(told, part, 0) or 0) for part in parts)


def in_chunks(
    run: Callable[[eco.Inputs, Members, Array], Array],
    inputs: eco.Inputs,
    members: Members,
    *,
    chunk: int,
    done: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Evaluates members in chunks of one size, so that memory is bounded and one compilation serves every batch.

    Args:
        run: a jitted `evaluator`.
        inputs: population and parameters.
        members: B members.
        chunk: members sent at a time; rounded up to a multiple of the number of devices.
        done: called with the number of members finished after every chunk.

    Returns:
        [B, ...] what `run` gives, in the order of the members.
    """
    devices = placement.member_devices()
    size = -(-chunk // devices) * devices
    # Dealt out like cards: every device gets its share of a chunk that is not full.
    dealt = np.arange(size).reshape(-1, devices).T.ravel()
    back = np.argsort(dealt)
    total = len(members.keys)
    results = []
    for start in range(0, total, size):
        wanted = min(size, total - start)
        counts = jnp.asarray([len(range(device, wanted, devices)) for device in range(devices)], jnp.int32)
        index = jnp.asarray(np.minimum(start + dealt, total - 1))
        part = run(inputs, jax.tree.map(lambda leaf, index=index: leaf[index], members), counts)
        results.append(np.asarray(part)[back][:wanted])
        if done is not None:
            done(start + wanted)
    return np.concatenate(results)
