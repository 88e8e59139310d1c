"""The platforms that the benchmark runs, the state that it starts from, and their forward pass and gradient.

The state is prepared beforehand, so that the figures are those of steps alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from benchmarks.measuring import on_accelerator
from mamba import ecosystem as eco
from mamba import objectives
from mamba.algorithms import registry
from mamba.rollout import rollout
from mamba.scenarios.populations import generated
from mamba.types import Array, Mode, Sizes

CANDIDATES = 16  # C, in all cases
KINDS = (
    "chronological",
    "popularity",
    "engagement",
    "two_tower",
    "notification",
    "removal",
    "demotion",
    "community_notes",
)
CPU_BLOCK = 1024  # users served at once beyond BLOCK_FROM users: less memory, at a price of 10 to 20 % of the speed
BLOCK_FROM = 131072


def default_block(users: int) -> int:
    """Users served at once: all on an accelerator and up to `BLOCK_FROM`, blocks beyond."""
    return 0 if on_accelerator() or users <= BLOCK_FROM else CPU_BLOCK


def ecosystem(which: str, users: int, block: int, **sizes: int) -> eco.Ecosystem:
    """One engagement recommender (`one`) or all of `KINDS` (`all`), with 16 candidates in all."""
    return of_kinds((), users, block, **sizes) if which == "one" else of_kinds(KINDS, users, block, **sizes)


def of_kinds(kinds: Sequence[str], users: int, block: int, **sizes: int) -> eco.Ecosystem:
    """Algorithms of some kinds, or one engagement recommender where there are none, with 16 candidates in all."""
    if not kinds:
        algorithms, proposed = {"home": registry.make("engagement", proposals=4)}, 4
    else:
        algorithms = {kind: registry.make(kind) for kind in kinds}
        proposed = sum(getattr(registry.KINDS[kind].config(), "proposals", 0) for kind in kinds)
    return eco.make(
        algorithms,
        sizes=Sizes(
            users=users,
            creators=max(users // 20, 1),
            in_network=CANDIDATES - proposed,
            user_block=block,
            **sizes,
        ),
    )


def prepared(built: eco.Ecosystem, steps: int = 8) -> tuple[eco.Inputs, eco.State]:
    """Inputs on the device, and a state some steps after the start."""
    given = jax.device_put(eco.inputs(built, generated(built.sizes)))

    @jax.jit
    def begin(given: eco.Inputs) -> eco.State:
        return rollout(built, given, key=jax.random.key(0), steps=steps)[0]

    return given, jax.block_until_ready(begin(given))


def forward(built: eco.Ecosystem, steps: int, mode: Mode) -> Callable[[eco.Levers, eco.Inputs, eco.State], Array]:
    """All objectives [J] of a rollout from a state."""

    def run(levers: eco.Levers, given: eco.Inputs, state: eco.State) -> Array:
        _, metrics, _ = rollout(
            built,
            given.replace(levers=levers),
            key=jax.random.key(1),
            steps=steps,
            mode=mode,
            state=state,
            first_step=8,
        )
        return objectives.evaluate(metrics, built.sizes.users)

    return run


def gradient(
    built: eco.Ecosystem, steps: int, segment: int | None = None
) -> Callable[[eco.Levers, eco.Inputs, eco.State], eco.Levers]:
    """Gradient with respect to every lever of a weighted sum of the objectives, through the expected mode."""

    def loss(levers: eco.Levers, given: eco.Inputs, state: eco.State) -> Array:
        _, metrics, _ = rollout(
            built,
            given.replace(levers=levers),
            key=jax.random.key(1),
            steps=steps,
            mode="expected",
            state=state,
            first_step=8,
            segment=segment,
        )
        return jnp.sum(objectives.benefit_sign() * objectives.evaluate(metrics, built.sizes.users))

    return jax.grad(loss)
