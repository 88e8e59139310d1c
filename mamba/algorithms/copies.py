"""Copies of one algorithm: mapped side by side, so that they are traced and compiled once however many there are.

Algorithms are copies when their functions are the same objects; `registry.build` returns the same functions for the same
settings. Levers, learned states and keys are what differs between copies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from mamba.algorithms.base import Algorithm


def groups(algorithms: Sequence[Algorithm]) -> list[list[int]]:
    """Places of algorithms that are copies of each other, in order of the first of each."""
    found: dict[tuple[int, ...], list[int]] = {}
    for place, each in enumerate(algorithms):
        found.setdefault(tuple(map(id, (each.act, each.rank, each.learn))), []).append(place)
    return list(found.values())


def together(
    algorithms: Sequence[Algorithm],
    phase: Literal["act", "rank", "learn"],
    own: Sequence[tuple[Any, Any, Any]],
    *shared: Any,
    gates: jax.Array | None = None,
) -> list[Any]:
    """Calls one phase of all algorithms.

    Args:
        algorithms: A of them.
        phase: which function.
        own: A tuples of meaningful levers, learned state and key.
        *shared: what that phase is told besides: the view, and the candidates or the log.
        gates: [A]; an algorithm whose gate is 0 is not run and its result is zeros, which the gate makes neutral. None
            runs all of them. (Mapped over gates there is no branch to skip: both sides are run.)

    Returns:
        A results, in the order of the algorithms.
    """
    results: list[Any] = [None] * len(algorithms)
    for places in groups(algorithms):
        function = getattr(algorithms[places[0]], phase)

        def call(levers: Any, learned: Any, key: jax.Array, function: Any = function) -> Any:
            return function(levers, learned, *shared, key)

        if len(places) == 1:
            results[places[0]] = _where_open(call, gates, places)(*own[places[0]])
            continue
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(own[place] for place in places))
        made = _where_open(jax.vmap(call), gates, places)(*stacked)
        for number, place in enumerate(places):
            results[place] = jax.tree.map(lambda leaf, number=number: leaf[number], made)
    return results


def _where_open(call: Callable[..., Any], gates: jax.Array | None, places: Sequence[int]) -> Callable[..., Any]:
    """`call`, run only where one of the gates at `places` is open; else zeros of the same shapes."""
    if gates is None:
        return call
    opened = jnp.any(gates[jnp.asarray(places)] > 0)

    def guarded(*arguments: Any) -> Any:
        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(call, *arguments))
        return jax.lax.cond(opened, call, lambda *_: nothing, *arguments)

    return guarded
