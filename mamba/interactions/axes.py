"""What is scanned: one lever, one world parameter or one gate of a platform, as a number that is traced.

An `Axis` names a place in `ecosystem.Inputs`; everything there is traced, so one compilation serves a whole grid:

| place                  | scanned                                | values                                   |
|------------------------|----------------------------------------|------------------------------------------|
| `levers/ranker/weight` | lever `weight` of the algorithm `ranker` | the lever's unit, or unconstrained     |
| `world/scroll`         | world parameter `scroll`               | the parameter's unit, within its bounds  |
| `gates/ranker`         | how far the algorithm is switched on   | 0 to 1                                   |

A value in a lever's unit becomes its unconstrained coordinate on the host (`coordinates`), because bounds are inverted
there; traced functions see coordinates only.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from mamba import ecosystem as eco
from mamba import objectives
from mamba.rollout import rollout
from mamba.types import Array, Metrics, Mode
from mamba.world.parameters import WorldParameters

_SETTINGS = {field.name: field.metadata for field in dataclasses.fields(WorldParameters)}


class Axis(NamedTuple):
    """One scanned quantity.

    Attributes:
        place: `levers/<algorithm>/<lever>`, `world/<parameter>` or `gates/<algorithm>`.
        unconstrained: whether values of a lever are unconstrained coordinates instead of its unit.
    """

    place: str
    unconstrained: bool = False


@struct.dataclass
class Moment:
    """A platform on its way: what a scan carries from one value of an axis to the next.

    Attributes:
        state: see `ecosystem.State`.
        index: int32 scalar, number of the next step.
    """

    state: eco.State
    index: Array


def _known(name: str, names: Sequence[str], what: str, place: str) -> str:
    if name not in names:
        close = difflib.get_close_matches(name, names, 1)
        raise ValueError(
            f"axis '{place}': {what} '{name}' is unknown; "
            + (f"did you mean '{close[0]}'?" if close else f"known: {', '.join(names) or 'none'}")
        )
    return name


def parts(ecosystem: eco.Ecosystem, axis: Axis) -> tuple[str, ...]:
    """The checked parts of an axis's place.

    Raises:
        ValueError: the place does not exist.
    """
    match axis.place.split("/"):
        case ["levers", name, lever]:
            _known(name, ecosystem.names, "algorithm", axis.place)
            known = tuple(ecosystem.algorithms[ecosystem.names.index(name)].levers)
            return "levers", name, _known(lever, known, "lever", axis.place)
        case ["world", parameter]:
            return "world", _known(parameter, tuple(_SETTINGS), "world parameter", axis.place)
        case ["gates", name]:
            return "gates", _known(name, ecosystem.names, "algorithm", axis.place)
    raise ValueError(
        f"axis '{axis.place}' must read levers/<algorithm>/<lever>, world/<parameter> or gates/<algorithm>"
    )


def unit(ecosystem: eco.Ecosystem, axis: Axis) -> str:
    """Unit of an axis's values in words."""
    match parts(ecosystem, axis):
        case "levers", name, lever:
            bound = ecosystem.algorithms[ecosystem.names.index(name)].bounds[lever]
            return "unconstrained" if axis.unconstrained else bound.unit
        case "world", parameter:
            return _SETTINGS[parameter]["unit"]
    return "0 to 1"


def coordinates(ecosystem: eco.Ecosystem, axis: Axis, values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Traced coordinates of values of an axis.

    Args:
        ecosystem: static description.
        axis: what is scanned.
        values: [...] in the axis's unit.

    Returns:
        [...] float32.

    Raises:
        ValueError: the place does not exist, or a value lies outside its range.
    """
    place = parts(ecosystem, axis)
    given = np.asarray(values, np.float64)

    def check(fits: np.ndarray, range: str) -> None:
        if not np.all(fits):
            raise ValueError(f"axis '{axis.place}': {given[~fits].flat[0]:g} is outside its range; keep it {range}")

    if place[0] == "levers":
        bound = ecosystem.algorithms[ecosystem.names.index(place[1])].bounds[place[2]]
        if axis.unconstrained:
            check(np.isfinite(given), "finite")
            return given.astype(np.float32)
        check((given > bound.low) & (given < bound.high), f"strictly between {bound.low:g} and {bound.high:g}")
        return np.vectorize(bound.inverse, otypes=[np.float32])(given)
    limits = {"ge": 0.0, "le": 1.0} if place[0] == "gates" else _SETTINGS[place[1]]
    tests = {"ge": (np.greater_equal, ">="), "gt": (np.greater, ">"), "le": (np.less_equal, "<="), "lt": (np.less, "<")}
    check(np.isfinite(given), "finite")
    for name, (holds, sign) in tests.items():
        if limits.get(name) is not None:
            check(holds(given, limits[name]), f"{sign} {limits[name]:g}")
    return given.astype(np.float32)


def shown(ecosystem: eco.Ecosystem, axis: Axis, coordinates: np.ndarray) -> np.ndarray:
    """Values of traced coordinates, inverse of `coordinates`; not finite ones stay."""
    match parts(ecosystem, axis):
        case "levers", name, lever if not axis.unconstrained:
            bound = ecosystem.algorithms[ecosystem.names.index(name)].bounds[lever]
            table = np.asarray(coordinates, np.float64)
            known = np.isfinite(table)
            return np.where(known, np.asarray(bound.forward(jnp.asarray(np.where(known, table, 0.0)))), table)
        case _:
            return np.asarray(coordinates, np.float64)


def present(ecosystem: eco.Ecosystem, inputs: eco.Inputs, axis: Axis) -> Array:
    """Coordinate at which an axis stands in some inputs, a scalar; the first entry of a lever that is an array."""
    match parts(ecosystem, axis):
        case "levers", name, lever:
            return jnp.ravel(inputs.levers[name][lever])[0]
        case "world", parameter:
            return getattr(inputs.parameters, parameter)
        case _, name:
            return inputs.gates[ecosystem.names.index(name)]
    raise AssertionError("every place is matched above")


def moved(ecosystem: eco.Ecosystem, inputs: eco.Inputs, *, axis: Axis, coordinate: Array) -> eco.Inputs:
    """Inputs with one axis set to a coordinate (a traced scalar)."""
    match parts(ecosystem, axis):
        case "levers", name, lever:
            changed = {**inputs.levers[name], lever: jnp.broadcast_to(coordinate, inputs.levers[name][lever].shape)}
            return replace(inputs, levers={**inputs.levers, name: changed})
        case "world", parameter:
            changed: dict[str, Any] = {parameter: coordinate}
            return replace(inputs, parameters=replace(inputs.parameters, **changed))
        case _, name:
            return replace(inputs, gates=inputs.gates.at[ecosystem.names.index(name)].set(coordinate))
    raise AssertionError("every place is matched above")


def begin(ecosystem: eco.Ecosystem, inputs: eco.Inputs, *, keys: Array) -> Moment:
    """Platforms before their first step, one for each key; every leaf has leading axis [S]."""
    states = jax.lax.map(lambda key: eco.init(ecosystem, inputs, key), keys)
    return Moment(states, jnp.zeros(len(keys), jnp.int32))


def advancer(
    ecosystem: eco.Ecosystem, inputs: eco.Inputs, *, axis: Axis, mode: Mode = "sampled"
) -> Callable[[Moment, Array, Array], tuple[Moment, Metrics]]:
    """One step of a platform as a function of one axis.

    Args:
        ecosystem: static description.
        inputs: everything that is not scanned; traced, so build the function inside what is compiled.
        axis: what is scanned.
        mode: numeric mode.

    Returns:
        `(moment, coordinate, key) -> (moment, metrics)`.
    """

    def advance(moment: Moment, coordinate: Array, key: Array) -> tuple[Moment, Metrics]:
        given = moved(ecosystem, inputs, axis=axis, coordinate=coordinate)
        state, metrics = eco.step(ecosystem, given, moment.state, index=moment.index, key=key, mode=mode)
        return Moment(state, moment.index + 1), metrics

    return advance


def value(
    ecosystem: eco.Ecosystem,
    inputs: eco.Inputs,
    *,
    axes: Sequence[Axis],
    coordinates: Sequence[Array],
    key: Array,
    steps: int,
    mode: Mode = "sampled",
) -> Array:
    """All objectives [J] of one rollout with several axes set to coordinates."""
    for axis, coordinate in zip(axes, coordinates, strict=True):
        inputs = moved(ecosystem, inputs, axis=axis, coordinate=coordinate)
    _, metrics, _ = rollout(ecosystem, inputs, key=key, steps=steps, mode=mode)
    return objectives.evaluate(metrics, ecosystem.sizes.users)


def block_of(ecosystem: eco.Ecosystem) -> Callable[[str], str]:
    """Which block a leaf of a `Moment` belongs to, by its path.

    Blocks are the fields of users (`users.opinion`, `users.activity`, ...), the other parts of the world (`creators`, `items`,
    `outbox`, `footprint`, `ties`), and the algorithms by name.
    """

    def block(path: str) -> str:
        world, learned = ".state.world.", ".state.learned["
        if path.startswith(world):
            part, *rest = path.removeprefix(world).split(".")
            return f"users.{rest[0]}" if part == "users" else part
        return ecosystem.names[int(path.removeprefix(learned).split("]")[0])]

    return block
