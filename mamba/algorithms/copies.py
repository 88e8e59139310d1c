"""Copies of one algorithm: mapped side by side, so that they are traced and compiled once however many there are.

Algorithms are copies when their functions are the same objects; `registry.build` returns the same functions for the same
settings. Levers, learned states and keys are what differs between copies.
"""

from __future__ import annotations

from collections.abc import Sequence
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
) -> list[Any]:
    """Calls one phase of all algorithms.

    Args:
        algorithms: A of them.
        phase: which function.
        own: A tuples of meaningful levers, learned state and key.
        *shared: what that phase is told besides: the view, and the candidates or the log.

    Returns:
        A results, in the order of the algorithms.
    """
    results: list[Any] = [None] * len(algorithms)
    for places in groups(algorithms):
        function = getattr(algorithms[places[0]], phase)

        def call(levers: Any, learned: Any, key: jax.Array, function: Any = function) -> Any:
            return function(levers, learned, *shared, key)

        if len(places) == 1:
            results[places[0]] = call(*own[places[0]])
            continue
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(own[place] for place in places))
        made = jax.vmap(call)(*stacked)
        for number, place in enumerate(places):
            results[place] = jax.tree.map(lambda leaf, number=number: leaf[number], made)
    return results
