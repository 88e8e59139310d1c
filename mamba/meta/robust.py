"""Robustness against what calibration leaves open: samples of the world's parameters, and the mean of the worst.

    CVaR_a(U) = min_v v + E[max(0, U - v)] / (1 - a)

is the mean of the worst share 1 - a of the outcomes U (larger is worse). Its gradient is the average of the samples'
gradients with the weights of that mean.

References:
    Rockafellar and Uryasev 2000 and 2002 (tails that hold a fraction of a sample).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mamba.streams import stream
from mamba.types import Array
from mamba.world.parameters import WorldParameters

_FIELDS = {field.name: field for field in dataclasses.fields(WorldParameters)}


def cvar(values: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the worst share 1 - level of equally likely samples, exact for tails that hold a fraction of a sample.

    Args:
        values: [..., N] outcomes U, larger is worse, and NaN worst of all.
        level: a in [0, 1]; 0 is the mean, 1 the maximum, and so is anything from 1 - 1 / N on.

    Returns:
        `(CVaR [...], weights [..., N])` float64. Weights sum to 1, equal outcomes have equal weights. CVaR is the weighted
        average of the values, NaN where one of them is; its gradient is that of their gradients, unless several values tie at
        the edge of the tail.

    Raises:
        ValueError: no samples, or a level outside [0, 1].

    References:
        Rockafellar and Uryasev 2002, proposition 8.
    """
    values = np.asarray(values, np.float64)
    if not 0.0 <= level <= 1.0:
        raise ValueError(f"the level of CVaR is from 0 (mean) to 1 (maximum), got {level}")
    if values.ndim < 1 or values.shape[-1] < 1:
        raise ValueError(f"CVaR needs at least 1 sample, got {values.shape}")
    ranked = np.where(np.isnan(values), np.inf, values)
    count = values.shape[-1]
    tail = max((1.0 - level) * count, 1.0)  # samples in the tail; less than one is the maximum
    edge = np.sort(ranked, axis=-1)[..., ::-1][..., min(int(tail), count - 1), None]
    above = ranked > edge
    there = ranked == edge
    # What the samples beyond the edge leave of the tail is shared by those on it.
    left = np.maximum(1.0 - above.sum(axis=-1, keepdims=True) / tail, 0.0)
    weights = above / tail + left * there / there.sum(axis=-1, keepdims=True)
    return np.sum(np.where(weights > 0, weights * values, 0.0), axis=-1), weights


def parameter_samples(
    key: Array, parameters: WorldParameters, *, spread: Mapping[str, float], count: int
) -> WorldParameters:
    """Worlds around the present one, within the declared bounds of `WorldParameters`.

    The present value is the median of every parameter, and `spread` its relative standard deviation r:

    - positive parameters are log-normal: log x has standard deviation s = sqrt(log(1 + r^2)), so that sd(x) / mean(x) = r;
    - parameters in [0, 1] are logit-normal: r is that of the odds x / (1 - x), hence of x near 0 and of 1 - x near 1;
    - parameters without bounds are normal with standard deviation r |x|.

    A parameter's draws depend on its name and the key only, so that naming another leaves them as they are.

    Args:
        key: typed key; consumed.
        parameters: the present world, scalars.
        spread: parameter -> r, not negative.
        count: N.

    Returns:
        Parameters with leaves [N] of the default float type; those not named repeat their present value.

    Raises:
        ValueError: an unknown parameter, a spread that is negative or not finite, a present value at the edge of its
            bounds (or a 0 without bounds), around which a relative spread is none, or no samples.
    """
    if count < 1:
        raise ValueError(f"a robust goal needs at least 1 sampled world, got {count}")
    sampled: dict[str, Any] = {}
    for name, relative in spread.items():
        if name not in _FIELDS:
            raise ValueError(f"spread: no world parameter is called '{name}'. Known: {', '.join(_FIELDS)}")
        if not (math.isfinite(relative) and relative >= 0):
            raise ValueError(f"spread: that of '{name}' is a number from 0 up, got {relative}")
        draws = jax.random.normal(stream(key, name), (count,))
        sampled[name] = _around(name, float(np.asarray(getattr(parameters, name))), relative=relative, draws=draws)
    repeated = jax.tree.map(lambda value: jnp.full((count,), value, float), parameters)
    return replace(repeated, **sampled)


def _around(name: str, value: float, *, relative: float, draws: Array) -> Array:
    """Values [N] around one, from standard normal draws [N]."""
    bounds = _FIELDS[name].metadata
    low = bounds["ge"] if bounds["gt"] is None else bounds["gt"]
    high = bounds["le"] if bounds["lt"] is None else bounds["lt"]
    if value == (low or 0.0) or value == high:
        raise ValueError(
            f"'{name}' is {value:g}, where a relative spread is none; leave it out of the spread or move its value"
        )
    width = math.sqrt(math.log1p(relative**2))
    if low is None and high is None:
        return value * (1.0 + relative * draws)
    if low == 0 and high is None:
        return value * jnp.exp(width * draws)
    if low == 0 and high == 1:
        return jax.nn.sigmoid(math.log(value / (1.0 - value)) + width * draws)
    raise ValueError(f"spread: '{name}' has bounds from {low} to {high}, which no spread is defined for; leave it out")
