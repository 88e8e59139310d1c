"""What several tests share: small ecosystems and one compiled rollout per mode.

Everything in `Inputs` is traced, so one compilation serves every gate, lever, parameter and population. The functions
below are cached: the first test that asks for one pays for it.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np

from mamba import ecosystem as eco
from mamba import objectives
from mamba.algorithms import registry
from mamba.rollout import rollout
from mamba.scenarios.populations import generated
from mamba.types import Population, Sizes
from mamba.world.mechanisms import Mechanisms
from mamba.world.parameters import WorldParameters

# Sums over candidates and topics are unrolled, so few of both keep programs short.
SIZES = Sizes(
    users=60,
    creators=20,
    topics=2,
    lifetime=6,
    followees=8,
    in_network=4,
    recent=3,
    outbox=3,
    links=4,
    groups=2,
    nodes=16,
    log_batch=24,
)
STEPS = 6  # two whole segments of the default length, so that the step is compiled once
KEY = 7

# Everything that changes people, ties or creators is off: what is left is posting, ranking, attention and engagement.
PLAIN = Mechanisms(
    opinion="none",
    preference="none",
    fatigue="none",
    wellbeing="none",
    trust="none",
    resilience="none",
    activity="none",
    churn="none",
    posting="static",
    contagion="none",
    rewiring="none",
)


# Compiling dominates these tests; code that runs for milliseconds need not be optimised.
compile = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
)


def key(seed: int = KEY) -> jax.Array:
    return jax.random.key(seed)


@functools.cache
def population(sizes: Sizes = SIZES, seed: int = 0) -> Population:
    return jax.tree.map(jnp.asarray, generated(sizes, seed=seed))


def small(kind: str):
    """A kind that proposes one item at most."""
    settings = {field.name for field in dataclasses.fields(registry.KINDS[kind].config)}
    return registry.make(kind, **({"proposals": 1} if "proposals" in settings else {}))


def cached(function):
    """`functools.cache` for which `f()` and `f(0)` are the same call."""
    signature = inspect.signature(function)
    keep = functools.cache(function)

    @functools.wraps(function)
    def call(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return keep(*bound.arguments.values())

    return call


# Compiling every kind in one program would take minutes: a few platforms share them out. The first is what most tests run.
CORE = ("chronological", "popularity", "engagement", "two_tower", "notification", "removal", "demotion")
_OTHERS = [kind for kind in registry.KINDS if kind not in CORE]
PLATFORMS = (CORE, *(("engagement", *_OTHERS[i : i + 8]) for i in range(0, len(_OTHERS), 8)))


def platform_with(kind: str) -> int:
    """Number of the first platform of `PLATFORMS` that has this kind."""
    return next(i for i, kinds in enumerate(PLATFORMS) if kind in kinds)


@cached
def everything(platform: int = 0) -> eco.Ecosystem:
    """One algorithm of every kind of a platform, named like its kind."""
    return eco.make({kind: small(kind) for kind in PLATFORMS[platform]}, sizes=SIZES)


def inputs(platform: int = 0, **changes) -> eco.Inputs:
    # A few steps of sixty users see hardly any tie replaced; where suggestions are tested, more must be.
    busy = {} if platform == 0 else {"parameters": WorldParameters(rewire_rate=0.3)}
    return eco.inputs(everything(platform), population(), **(busy | changes))


def gates(platform: int = 0, **closed: float) -> jax.Array:
    """Gates of `everything`, open except for those named."""
    return jnp.asarray([closed.get(name, 1.0) for name in PLATFORMS[platform]], jnp.float32)


@cached
def start(platform: int = 0):
    """Compiled `(inputs, key) -> state` of `everything`."""
    return compile(lambda given, seed: eco.init(everything(platform), given, seed))


@cached
def run(mode: str, platform: int = 0):
    """Compiled `(inputs, state, key) -> (state, metrics)` of `everything` over `STEPS` steps."""

    def body(given, state, seed):
        return rollout(everything(platform), given, key=seed, steps=STEPS, mode=mode, state=state)[:2]

    return compile(body)


@cached
def first(platform: int = 0) -> eco.State:
    return start(platform)(inputs(platform), key())


def values(metrics) -> np.ndarray:
    """Objectives [J] of a rollout of `everything`."""
    return np.asarray(objectives.evaluate(metrics, SIZES.users))


@cached
def jacobian(platform: int = 0):
    """Compiled `(inputs, state, key) -> Levers of [J]` of `everything` in expected mode."""

    def of(levers, given, state, seed):
        given = given.replace(levers=levers)
        metrics = rollout(everything(platform), given, key=seed, steps=STEPS, mode="expected", state=state)[1]
        return objectives.evaluate(metrics, SIZES.users)

    slope = jax.jacfwd(of)  # compiles in half the time of reverse mode
    return compile(lambda given, state, seed: slope(given.levers, given, state, seed))


def assert_same(a, b) -> None:
    """Equal leaf by leaf, bit by bit (NaN equals NaN)."""
    for (path, x), (_, y) in zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree_util.tree_leaves_with_path(b), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y), err_msg=jax.tree_util.keystr(path))


def assert_finite(tree) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        assert np.all(np.isfinite(np.asarray(leaf))), jax.tree_util.keystr(path)
