"""Levers as one vector: the P parameters that estimators and optimisers turn."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from mamba import ecosystem as eco
from mamba.types import Array, Levers

NOBODY = -1  # owner of a lever that belongs to the platform as a whole, such as the weights of a policy


def names(levers: Levers) -> list[str]:
    """`algorithm/lever` for each of the P entries, in the order of `flat`."""
    leaves = jax.tree_util.tree_leaves_with_path(levers)
    result = []
    for path, leaf in leaves:
        name = "/".join(str(part.key) for part in path)
        size = int(np.size(leaf))
        result += [name] if size == 1 else [f"{name}/{i}" for i in range(size)]
    return result


def flat(levers: Levers) -> Array:
    """Levers as one vector, [P]."""
    return ravel_pytree(levers)[0]


def unflat(like: Levers) -> Callable[[Array], Levers]:
    """The function that turns a vector [P] back into levers shaped as `like`."""
    return ravel_pytree(like)[1]


def owner(ecosystem: eco.Ecosystem, levers: Levers) -> np.ndarray:
    """Which algorithm each of the P levers belongs to, [P] indices into `ecosystem.names`; `NOBODY` for those of none."""
    known = {name: index for index, name in enumerate(ecosystem.names)}
    return np.array([known.get(entry.split("/")[0], NOBODY) for entry in names(levers)], np.int64)
