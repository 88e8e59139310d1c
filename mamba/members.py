"""Members: many configurations x seeds of one ecosystem, evaluated together.

A member differs from its siblings in levers, gates, learning switches and key, which are all traced, so one compilation
serves a factorial design, an evolution strategy and an evaluation alike. Members are spread over the devices; on a
device they run one after the other (`layout="loop"`) or side by side (`layout="vmap"`). A plain vmap turns every gather into a
batched one; on a CPU both ran equally fast (`experiments/first_look`), and one after the other compiles faster.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec

from mamba import ecosystem as eco
from mamba import objectives
from mamba.rollout import rollout
from mamba.types import Array, Levers, Mode

Layout = Literal["loop", "vmap"]


class Members(NamedTuple):
    """A batch of members; every leaf has leading axis [B].

    Attributes:
        levers: algorithm -> lever -> unconstrained values [B, ...].
        gates: [B, A] in [0, 1].
        learning: [B, A] in [0, 1].
        keys: [B] typed keys; members with equal keys see the same noise.
    """

    levers: Levers
    gates: Array
    learning: Array
    keys: Array


def repeat(
    ecosystem: eco.Ecosystem,
    levers: Levers,
    keys: Array,
    *,
    gates: Array | None = None,
    learning: Array | None = None,
) -> Members:
    """Members that share levers: one for each key.

    Args:
        ecosystem: static description.
        levers: one platform's levers, without a member axis.
        keys: [B] typed keys.
        gates: [A] or [B, A]; None opens every gate.
        learning: [A] or [B, A]; None lets everyone learn.

    Returns:
        B members.
    """
    shape = (len(keys), len(ecosystem.names))
    return Members(
        levers=jax.tree.map(lambda x: jnp.broadcast_to(x, (len(keys), *jnp.shape(x))), levers),
        gates=jnp.ones(shape) if gates is None else jnp.broadcast_to(jnp.asarray(gates, jnp.float32), shape),
        learning=jnp.ones(shape) if learning is None else jnp.broadcast_to(jnp.asarray(learning, jnp.float32), shape),
        keys=keys,
    )


def join(*groups: Members) -> Members:
    """One batch from several, in order."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *groups)


def value(ecosystem: eco.Ecosystem, inputs: eco.Inputs, *, key: Array, steps: int, mode: Mode) -> Array:
    """All objectives of one rollout, [J] in the order of `objectives.NAMES`."""
    _, metrics, _ = rollout(ecosystem, inputs, key=key, steps=steps, mode=mode)
    return objectives.evaluate(metrics, ecosystem.sizes.users)


def evaluator(
    ecosystem: eco.Ecosystem, *, steps: int, mode: Mode = "sampled", layout: Layout = "loop"
) -> Callable[[eco.Inputs, Members, Array], Array]:
    """Builds the function that evaluates a chunk of members; the caller jits it and calls it through `in_chunks`.

    Args:
        ecosystem: static description.
        steps: T.
        mode: numeric mode.
        layout: how the members of one device are run.

    Returns:
        `(inputs, members, counts) -> [B, J]`. `inputs` supplies population and world parameters; B is a multiple of the
        number of devices; `counts` [devices] int32 says how many members of each device's block are wanted (the rest
        are zero in the loop layout).
    """

    def one(inputs: eco.Inputs, member: Members) -> Array:
        changed = replace(inputs, levers=member.levers, gates=member.gates, learning=member.learning)
        return value(ecosystem, changed, key=member.keys, steps=steps, mode=mode)

    def block(inputs: eco.Inputs, members: Members, counts: Array) -> Array:
        if layout == "vmap":
            return jax.vmap(one, (None, 0))(inputs, members)

        def fill(index: Array, results: Array) -> Array:
            return results.at[index].set(one(inputs, jax.tree.map(lambda leaf: leaf[index], members)))

        return jax.lax.fori_loop(0, counts[0], fill, jnp.zeros((len(members.keys), len(objectives.NAMES))))

    return over_devices(block, shared=1, split=2)


def over_devices(block: Callable[..., Any], *, shared: int, split: int) -> Callable[..., Any]:
    """A function whose last arguments and results are split over the local devices by their first axis.

    Args:
        block: function of `shared` and then `split` arguments, for one device's part.
        shared: leading arguments that every device gets whole.
        split: arguments that are split; their first axis must be a multiple of the number of devices.

    Returns:
        `block` itself on one device.
    """
    devices = jax.local_device_count()
    if devices == 1:
        return block
    mesh = jax.make_mesh((devices,), ("member",), axis_types=(AxisType.Auto,))
    spread = PartitionSpec("member")
    specs = (PartitionSpec(),) * shared + (spread,) * split
    return jax.shard_map(block, mesh=mesh, in_specs=specs, out_specs=spread, check_vma=False)


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
        [B, J] in the order of the members.
    """
    devices = jax.local_device_count()
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
