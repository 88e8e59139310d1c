"""Systems whose derivatives are known: a linear one with quadratic outcomes, and one whose learner is chaotic."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mamba.meta import systems
from mamba.meta.systems import System
from mamba.passing import share_of
from mamba.streams import stream

# ---- linear: x' = A x + B theta + common noise + noise of its own; outcomes are quadratic in x, averaged over time.
# Every derivative is linear in the noise: its mean is the derivative along the mean path, and estimates are normal.

TRANSITION = np.array([[0.9, -0.2], [0.1, 0.95]])
PUSH = np.array([[0.3, 0.1, 0.0], [0.0, -0.2, 0.4]])
TARGETS = np.array([[0.0, 0.0], [2.0, -1.0]])
METRICS = np.array([[[1.0, 0.3], [0.3, 2.0]], [[2.0, 0.0], [0.0, 0.5]]])
THETA = np.array([0.5, -1.0, 0.3])
STEPS = 20


class Noise(NamedTuple):
    """Standard deviations: of what the sampled and the expected mode share, and of what only the sampled mode has."""

    common: float | jax.Array
    own: float | jax.Array


def _advance(context, theta, state, index, key):
    at = jax.random.fold_in(key, index)
    shocks = (scale * jax.random.normal(stream(at, name), (2,)) for name, scale in context._asdict().items())
    after = jnp.asarray(TRANSITION, theta.dtype) @ state + jnp.asarray(PUSH, theta.dtype) @ theta + sum(shocks)
    return after, after


def _measure(states):
    away = states[:, None] - jnp.asarray(TARGETS, states.dtype)[None]
    return 0.5 * jnp.einsum("tji,jik,tjk->j", away, jnp.asarray(METRICS, states.dtype), away) / len(states)


LINEAR = System(
    begin=lambda context, theta, key: jnp.zeros(2, theta.dtype),
    advance=_advance,
    measure=_measure,
    outcomes=("first", "second"),
    varied=lambda context, sample: context._replace(own=sample),
)


def truth(*, window: int = STEPS, memory: int = STEPS) -> np.ndarray:
    """Derivatives [STEPS / W, J, P] of the outcomes of each window of a life, where influence ends every `memory` steps."""
    state, reached, slopes = np.zeros(2), np.zeros((2, 3)), []
    for t in range(STEPS):
        reached = TRANSITION @ (reached if t % memory else np.zeros((2, 3))) + PUSH
        state = TRANSITION @ state + PUSH @ THETA
        slopes.append(np.einsum("ip,jik,jk->jp", reached, METRICS, state[None] - TARGETS))
    return np.array(slopes).reshape(STEPS // window, window, 2, 3).mean(axis=1)


def measured(system: System, context, *, steps: int):
    """Outcomes of many runs at once, as `estimators.es` asks for them."""
    run = jax.jit(
        jax.vmap(
            lambda theta, key, sample: systems.run(
                system, context if sample is None else system.varied(context, sample), theta, key=key, steps=steps
            )[1]
        )
    )
    return lambda thetas, keys, samples=None: np.asarray(
        run(jnp.asarray(thetas, jnp.result_type(float)), keys, samples)
    )


# ---- chaotic: a society x and a learner f that doubles every difference at every step,
#     f' = frac(2 f + theta_1 + noise),   x' = 0.9 x + theta_0 + f - 1/2.
# The learner stays uniform whatever theta is, so that the true derivative passes by it, while its tangent is 2^t - 1.


def _double(context, theta, state, index, key):
    x, f = state
    shock = jax.random.uniform(jax.random.fold_in(key, index))
    f = 2.0 * f + theta[1] + shock
    f = f - jax.lax.stop_gradient(jnp.floor(f))
    x = 0.9 * x + theta[0] + f - 0.5
    return (x, f), x


CHAOTIC = System(
    begin=lambda context, theta, key: (jnp.zeros(()), jax.random.uniform(stream(key, "begin"))),
    advance=_double,
    measure=lambda x: jnp.mean(x)[None],
    outcomes=("x",),
    blocks=("society", "learner"),
    parts=lambda state: state,
    scaled=lambda state, shares: tuple(share_of(part, share) for part, share in zip(state, shares, strict=True)),
)


def chaotic_truth(steps: int) -> np.ndarray:
    """Derivatives [P] of the mean of x."""
    return np.array([np.mean((1 - 0.9 ** np.arange(1, steps + 1)) / 0.1), 0.0])
