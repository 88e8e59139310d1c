"""Phase diagrams: the objectives over two levers, and where they change fast.

Every cell of an n1 x n2 grid is run for the same S seeds, all through one compilation. Between cells that are neighbours the
same seeds differ by the lever alone, so the slope of every seed is a paired difference and carries its own standard error.

*Fast change* is where regimes meet: the slope is beyond chance (Bonferroni over cells, directions and objectives), several
times the diagram's typical slope, and a ridge: no neighbour along the steepest axis is steeper. A diagram that rises
evenly has none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from mamba import placement
from mamba.interactions.statistics import estimate
from mamba.members import Layout, over_devices
from mamba.types import Array

Value = Callable[[Any, Array, Array, Array], Array]
Run = Callable[[Any, Array, Array, Array], Array]


class Lever(NamedTuple):
    """One side of a diagram.

    Attributes:
        label: for people.
        values: [n] as they are shown.
        coordinates: [n] as they are traced; the same as `values` unless a bound lies between them.
    """

    label: str
    values: np.ndarray
    coordinates: np.ndarray


class Phases(NamedTuple):
    """A phase diagram.

    Attributes:
        first: lever along the first axis, n1 values.
        second: lever along the second axis, n2 values.
        values: [S, n1, n2, J].
        mean: [n1, n2, J].
        error: [n1, n2, J] standard error over seeds.
        steepness: [n1, n2, J] length of the slope per cell, without what noise adds to it.
        fast: [n1, n2, J] where regimes meet.
    """

    first: Lever
    second: Lever
    values: np.ndarray
    mean: np.ndarray
    error: np.ndarray
    steepness: np.ndarray
    fast: np.ndarray


def cells(value: Value, *, layout: Layout = "loop") -> Run:
    """Builds the function that runs a batch of cells; the caller jits it.

    Args:
        value: `(context, first, second, key) -> [J]`, such as `axes.value` of a platform with its inputs as context.
        layout: cells of one device one after the other, or side by side.

    Returns:
        `(context, first [B], second [B], keys [B]) -> [B, J]`; B is a multiple of the number of devices.
    """

    def block(context: Any, first: Array, second: Array, keys: Array) -> Array:
        if layout == "vmap":
            return jax.vmap(value, (None, 0, 0, 0))(context, first, second, keys)
        return jax.lax.map(lambda each: value(context, *each), (first, second, keys))

    return over_devices(block, shared=1, split=3)


def diagram(
    run: Run,
    context: Any,
    *,
    first: Lever,
    second: Lever,
    keys: Array,
    chunk: int = 64,
    done: Callable[[int], None] | None = None,
    steep: float = 3.0,
    level: float = 0.05,
) -> Phases:
    """Runs the grid, in chunks of one size.

    Args:
        run: a jitted `cells`.
        context: passed on to every cell.
        first: lever of n1 >= 2 values.
        second: lever of n2 >= 2 values.
        keys: [S] typed keys, shared by all cells; at least two.
        chunk: runs sent at a time; rounded up to a multiple of the number of devices.
        done: called with the number of runs finished after every chunk.
        steep: see `fast_change`.
        level: see `fast_change`.

    Raises:
        ValueError: fewer than two seeds, or a lever with fewer than two values.
    """
    shape = (len(keys), len(first.values), len(second.values))
    if min(shape) < 2:
        raise ValueError(f"a diagram needs at least 2 seeds and 2 values of each lever, got {shape}")
    devices = placement.member_devices()
    total = int(np.prod(shape))
    size = -(-min(chunk, total) // devices) * devices
    seed, row, column = (jnp.asarray(axis) for axis in np.unravel_index(np.arange(total), shape))
    across = jnp.asarray(first.coordinates, jnp.float32)[row]
    along = jnp.asarray(second.coordinates, jnp.float32)[column]
    parts = []
    for begin in range(0, total, size):
        index = jnp.minimum(begin + jnp.arange(size), total - 1)  # a last chunk that is not full repeats its last cell
        wanted = min(size, total - begin)
        parts.append(np.asarray(run(context, across[index], along[index], keys[seed[index]]))[:wanted])
        if done is not None:
            done(begin + wanted)
    values = np.concatenate(parts).astype(np.float64).reshape(*shape, -1)
    summary = estimate(values, 0.95)
    steepness, fast = fast_change(values, steep=steep, level=level)
    return Phases(first, second, values, summary.mean, summary.error, steepness, fast)


def fast_change(values: np.ndarray, *, steep: float = 3.0, level: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Where a diagram changes fast.

    Slopes are central differences per cell (one-sided at the border).

    Args:
        values: [S, n1, n2, J].
        steep: how many times the median slope of its objective a cell's slope must be.
        level: family-wise error of the claim that a cell slopes at all.

    Returns:
        `(steepness [n1, n2, J], fast [n1, n2, J])`.
    """
    seeds = len(values)
    slopes = estimate(np.stack(np.gradient(values, axis=(1, 2)), axis=1), 0.95)  # [2, n1, n2, J]
    steepness = np.sqrt(np.maximum((slopes.mean**2 - slopes.error**2).sum(axis=0), 0.0))
    limit = stats.t.ppf(1.0 - level / (2.0 * slopes.mean.size), seeds - 1)
    certain = (np.abs(slopes.mean) > limit * slopes.error).any(axis=0)
    typical = np.median(steepness, axis=(0, 1))
    ridge = np.zeros(steepness.shape, bool)
    along = np.abs(slopes.mean).argmax(axis=0)
    for axis in (0, 1):
        padded = np.pad(steepness, [(1, 1) if a == axis else (0, 0) for a in range(3)])
        before, after = (np.take(padded, np.arange(k, k + steepness.shape[axis]), axis=axis) for k in (0, 2))
        ridge |= (along == axis) & (steepness >= before) & (steepness >= after)
    return steepness, certain & ridge & (steepness > steep * typical)
