"""What derivatives pass through from one step to the next: the blocks of a state, and shares of their derivatives.

A rollout's derivative with respect to levers reaches an objective at once and through everything that the scan carries. The
carried state is cut into named blocks: each part of the world, and each algorithm's learned state as `learner/<name>`. A share of
1 lets a block's derivative pass, 0 stops it, and values never change. Shares are traced, so that one compiled gradient serves
the whole derivative (all 1), each team's one-step view (all 0), windows (all 0 at every W-th step), and any block stopped.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mamba import ecosystem as eco
from mamba.types import Array

LEARNER = "learner/"
WITHIN = ("exposure", "proposal")  # cuts inside a step, see `mamba.rollout.rollout`
GROUPS = ("learn", "world")  # cuts of several blocks: all learners, all of the world


def blocks(ecosystem: eco.Ecosystem) -> tuple[str, ...]:
    """Names of the B blocks of the carried state: parts of the world, then `learner/<name>` of each algorithm."""
    ties = () if ecosystem.mechanisms.rewiring == "none" else ("ties",)
    world = ("users", "creators", "items", "outbox", "footprint", *ties)
    return (*world, *(f"{LEARNER}{name}" for name in ecosystem.names))


def parts(ecosystem: eco.Ecosystem, state: eco.State) -> tuple[Any, ...]:
    """The B blocks of a state, in the order of `blocks`."""
    count = len(blocks(ecosystem)) - len(ecosystem.names)
    return (*(getattr(state.world, name) for name in blocks(ecosystem)[:count]), *state.learned)


def joined(ecosystem: eco.Ecosystem, state: eco.State, parts: Sequence[Any]) -> eco.State:
    """`state` with its blocks replaced, the reverse of `parts`."""
    names = blocks(ecosystem)
    count = len(names) - len(ecosystem.names)
    world = replace(state.world, **dict(zip(names[:count], parts[:count], strict=True)))
    return eco.State(world, tuple(parts[count:]))


def scaled(ecosystem: eco.Ecosystem, state: eco.State, shares: Array) -> eco.State:
    """`state`, of whose derivatives a share passes: [B] in [0, 1], in the order of `blocks`."""
    each = parts(ecosystem, state)
    return joined(ecosystem, state, [share_of(part, shares[b]) for b, part in enumerate(each)])


def share_of(tree: Any, share: Array) -> Any:
    """`tree`, of whose derivatives a share passes, a scalar in [0, 1]; at 0 not even one that is not finite does."""

    def one(leaf: Array) -> Array:
        return _scaled(leaf, share) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) else leaf

    return jax.tree.map(one, tree)


def stopped(ecosystem: eco.Ecosystem, state: eco.State, names: Collection[str]) -> eco.State:
    """`state` with no derivative through the named blocks."""
    each = zip(blocks(ecosystem), parts(ecosystem, state), strict=True)
    return joined(ecosystem, state, [jax.lax.stop_gradient(part) if name in names else part for name, part in each])


def known_cuts(ecosystem: eco.Ecosystem) -> tuple[str, ...]:
    """Every name that a cut may have: groups, cuts inside a step, blocks."""
    return (*GROUPS, *WITHIN, *blocks(ecosystem))


def blocks_of(ecosystem: eco.Ecosystem, cuts: Collection[str]) -> frozenset[str]:
    """The blocks that some cuts stop.

    Raises:
        ValueError: an unknown cut.
    """
    known = known_cuts(ecosystem)
    for cut in sorted(cuts):
        if cut not in known:
            raise ValueError(f"cut '{cut}' is unknown; known: {', '.join(known)}")
    learners = {name for name in blocks(ecosystem) if name.startswith(LEARNER)}
    of_group = {"learn": learners, "world": set(blocks(ecosystem)) - learners}
    return frozenset().union(
        set(cuts) & set(blocks(ecosystem)), *(names for group, names in of_group.items() if group in cuts)
    )


def shares(ecosystem: eco.Ecosystem, cuts: Collection[str] = ()) -> np.ndarray:
    """Shares [B] in which the blocks that `cuts` name are 0 and all others 1."""
    closed = blocks_of(ecosystem, cuts)
    return np.array([0.0 if name in closed else 1.0 for name in blocks(ecosystem)], np.float32)


def windows(shares: np.ndarray, *, steps: int, window: int) -> np.ndarray:
    """Shares [T, B] of windows: nothing passes into every `window`-th step; 1 is the one-step view.

    Raises:
        ValueError: a window below 1.
    """
    if window < 1:
        raise ValueError(f"window = {window} must be at least 1 step")
    within = (np.arange(steps) % window != 0).astype(np.float32)
    return within[:, None] * np.asarray(shares, np.float32)


@jax.custom_jvp
def _scaled(x: Array, share: Array) -> Array:
    """`x`; its derivative is `share`."""
    del share
    return x


@_scaled.defjvp
def _scaled_slope(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    x, share = primals
    # Selected first: 0 times a derivative that has overflowed would be NaN.
    return x, share.astype(x.dtype) * jnp.where(share > 0, tangents[0], jnp.zeros_like(tangents[0]))
