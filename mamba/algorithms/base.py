"""The one abstraction: an algorithm is a few pure functions that act on the world through six ports.

Each port has a neutral element and a commutative rule of combination, so that "off" is exact, order does not matter,
and on/off, Shapley and ablation need no special code:

| port      | shape                       | combined by                     | neutral     |
|-----------|-----------------------------|---------------------------------|-------------|
| propose   | ids, existence [C_i, U]     | concatenation, existence x gate | existence 0 |
| score     | [C, U] log-odds             | sum of gate x score             | 0           |
| survive   | [M] survival per step       | product of 1 - gate (1 - s)     | 1           |
| pace      | [U] lift                    | sum of gate x lift              | 0           |
| friction  | [C, U] multiplier           | product of 1 - gate (1 - f)     | 1           |
| link      | [L, U] log-odds             | sum of gate x score             | 0           |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mamba.types import Array, Candidates, Learned, Log, View


class Bound(NamedTuple):
    """Maps an unconstrained lever to its meaningful range, and back.

    Attributes:
        forward: unconstrained array to the meaningful value.
        inverse: meaningful value to the unconstrained number, on the host (building an algorithm touches no device).
        low: smallest meaningful value (may be -inf).
        high: largest meaningful value (may be inf).
        unit: unit of the meaningful value in words.
    """

    forward: Callable[[Array], Array]
    inverse: Callable[[float], float]
    low: float
    high: float
    unit: str


def real(unit: str = "logits", *, scale: float = 1.0) -> Bound:
    """Identity bound: any real number, in steps of `scale`."""
    return Bound(lambda x: scale * x, lambda y: y / scale, -jnp.inf, jnp.inf, unit)


def positive(unit: str) -> Bound:
    """Positive numbers through the exponential."""
    return Bound(jnp.exp, np.log, 0.0, jnp.inf, unit)


def between(low: float, high: float, unit: str) -> Bound:
    """Numbers strictly between `low` and `high` through the logistic function."""
    width = high - low

    def inverse(value: float) -> float:
        share = (value - low) / width
        return np.log(share) - np.log1p(-share)

    return Bound(lambda x: low + width * jax.nn.sigmoid(x), inverse, low, high, unit)


class Proposal(NamedTuple):
    """Out-of-network candidates.

    Attributes:
        ids: [C_i, U] int32 item slots in 0 .. M - 1.
        existence: [C_i, U] in [0, 1].
    """

    ids: Array
    existence: Array


class Act(NamedTuple):
    """What an algorithm does before candidates are drawn; None is neutral.

    `reviews`, a scalar, is no port: the human reviews that the algorithm has paid for in this step, for the books.
    """

    propose: Proposal | None = None
    survive: Array | None = None
    pace: Array | None = None
    link: Array | None = None
    reviews: Array | None = None


class Rank(NamedTuple):
    """What an algorithm does once candidates are drawn; None is neutral."""

    score: Array | None = None
    friction: Array | None = None


def nothing_learned(key: Array, view: View) -> Learned:
    """`init` of an algorithm without learned state."""
    del key, view
    return ()


def neutral_act(levers: dict[str, Array], learned: Learned, view: View, key: Array) -> Act:
    """`act` of an algorithm that does nothing before candidates are drawn."""
    del levers, learned, view, key
    return Act()


def neutral_rank(levers: dict[str, Array], learned: Learned, view: View, candidates: Candidates, key: Array) -> Rank:
    """`rank` of an algorithm that does not rank."""
    del levers, learned, view, candidates, key
    return Rank()


def no_learning(levers: dict[str, Array], learned: Learned, view: View, log: Log, key: Array) -> tuple[Learned, Array]:
    """`learn` of an algorithm that does not learn; its own loss is 0."""
    del levers, view, log, key
    return learned, jnp.zeros(())


class Algorithm(NamedTuple):
    """One deployed algorithm.

    `levers` reach the functions in their meaningful range: the ecosystem applies `bounds` first.

    Attributes:
        kind: registered name of the kind.
        levers: name -> default *unconstrained* float32 value, what a meta-optimiser turns.
        bounds: name -> `Bound` to the meaningful range; same names as `levers`.
        init: `(key, view) -> learned state`, a pytree, maybe empty.
        act: `(levers, learned, view, key) -> Act`.
        rank: `(levers, learned, view, candidates, key) -> Rank`; sees a block of users: `candidates` are theirs.
        learn: `(levers, learned, view, log, key) -> (learned, own loss)`; sees this step's log and the view before the
            transition. The own loss is a scalar, smaller is better for this algorithm's team.
    """

    kind: str
    levers: Mapping[str, np.float32]
    bounds: dict[str, Bound]
    init: Callable[[Array, View], Learned] = nothing_learned
    act: Callable[..., Act] = neutral_act
    rank: Callable[..., Rank] = neutral_rank
    learn: Callable[..., tuple[Learned, Array]] = no_learning


def levers_from(values: dict[str, float], bounds: dict[str, Bound]) -> dict[str, np.float32]:
    """Unconstrained default levers of meaningful values.

    Raises:
        ValueError: a value is outside the open range of its bound, or names differ.
    """
    if values.keys() != bounds.keys():
        raise ValueError(f"levers {sorted(values)} and bounds {sorted(bounds)} must have the same names")
    for name, value in values.items():
        if not bounds[name].low < value < bounds[name].high:
            raise ValueError(
                f"lever {name} = {value} must lie strictly between {bounds[name].low:g} and {bounds[name].high:g}"
            )
    return {name: np.float32(bounds[name].inverse(value)) for name, value in values.items()}


def meaningful(levers: dict[str, Array], bounds: dict[str, Bound]) -> dict[str, Array]:
    """Levers in their meaningful range, same names and shapes."""
    return {name: bounds[name].forward(value) for name, value in levers.items()}


def gated_sum(values: Sequence[tuple[Array, Array | None]], shape: tuple[int, ...]) -> Array:
    """Sum of gate x value over `(gate, value)`; a closed gate contributes an exact zero."""
    total = jnp.zeros(shape)
    for gate, value in values:
        if value is not None:
            total = total + gate * value
    return total


def gated_product(values: Sequence[tuple[Array, Array | None]], shape: tuple[int, ...]) -> Array:
    """Product of 1 - gate (1 - value) over `(gate, value)`; a closed gate contributes an exact one."""
    total = jnp.ones(shape)
    for gate, value in values:
        if value is not None:
            total = total * (1.0 - gate * (1.0 - value))
    return total


def blend(old: Any, new: Any, rate: Array) -> Any:
    """Learned state after an update taken at `rate` 0 to 1; integer leaves (counters) move when the rate is positive."""

    def mix(before: Array, after: Array) -> Array:
        if jnp.issubdtype(before.dtype, jnp.inexact):
            # Selected, not only multiplied: what an algorithm would learn that does not learn may be anything.
            return jnp.where(rate > 0, before + rate * (after - before), before)
        return jnp.where(rate > 0, after, before)

    return jax.tree.map(mix, old, new)
