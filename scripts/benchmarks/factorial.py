"""A full factorial over gates, all rollouts together, against the same rollouts one by one.

Together they are members, spread over all devices (on a CPU every core is one); one by one they run on the first device.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import jax
import numpy as np

from benchmarks.measuring import clock, on_accelerator, table
from mamba import ecosystem as eco
from mamba import members as mem
from mamba import objectives
from mamba.algorithms import registry
from mamba.interactions import factorial as interactions
from mamba.rollout import rollout
from mamba.scenarios.populations import generated
from mamba.types import Array, Sizes

KINDS = ("engagement", "two_tower", "popularity", "notification", "removal", "demotion")
TARGET = 90.0  # seconds on the wall of two CPU cores, after compiling
RATIO_TARGET = 0.8  # of the cost of the same rollouts one by one


@dataclass(frozen=True)
class Factorial:
    """A full factorial over gates, against the same rollouts one by one.

    Attributes:
        algorithms: A.
        seeds: S.
        users: U.
        steps: T.
        rollouts: S 2^A.
        compile_s: seconds to trace and compile.
        wall_s: seconds on the wall of all rollouts, after compiling.
        target: aim for `wall_s` on two CPU cores.
        ratio: seconds (of CPU time, or on the wall of an accelerator) a rollout over those of one by one in a warm process, on one
            device; together they have all.
        wall_ratio: the same on the wall.
        ratio_target: aim for `ratio`.
        ratio_skipping: `ratio` where one by one, too, does not run algorithms that are off (`rollout(skip_closed=True)`): what
            is left is the gain of the batch itself.
        difference: largest difference between the values of both ways.
    """

    algorithms: int
    seeds: int
    users: int
    steps: int
    rollouts: int
    compile_s: float
    wall_s: float
    target: float
    ratio: float
    wall_ratio: float
    ratio_target: float
    ratio_skipping: float
    difference: float


def factorial(users: int = 1000, seeds: int = 8, steps: int = 50) -> Factorial:
    """Measures the factorial of six kinds, without warm-up or windows, and its first seed one by one."""
    built = eco.make(
        {kind: registry.make(kind) for kind in KINDS}, sizes=Sizes(users=users, creators=max(users // 20, 1))
    )
    given = jax.device_put(eco.inputs(built, generated(built.sizes)))
    design = interactions.plan(len(KINDS)).design
    everyone = interactions.members(built, given.levers, jax.random.split(jax.random.key(0), seeds), design=design)
    rows = len(design.gates)
    layout = "vmap" if on_accelerator() else "loop"
    start = clock()
    made = mem.compiled(mem.evaluator(built, steps=steps, layout=layout), given, everyone, chunk=2 * rows)
    compile_s = clock() - start
    mem.in_chunks(made.run, given, jax.tree.map(lambda leaf: leaf[: made.chunk], everyone), chunk=made.chunk)
    start, wall = clock(), time.perf_counter()
    values = mem.in_chunks(made.run, given, everyone, chunk=made.chunk)
    together, wall_s = clock() - start, time.perf_counter() - wall

    def alone(skip_closed: bool) -> tuple[float, float, np.ndarray]:
        """Seconds a rollout, the same on the wall, and values, one by one in a warm process."""

        @jax.jit
        def one(given: eco.Inputs, gates: Array, key: Array) -> Array:
            changed = given.replace(gates=gates)
            _, metrics, _ = rollout(built, changed, key=key, steps=steps, skip_closed=skip_closed)
            return objectives.evaluate(metrics, users)

        np.asarray(one(given, design.gates[0], everyone.keys[0]))
        start, wall = clock(), time.perf_counter()
        found = np.stack([np.asarray(one(given, gates, everyone.keys[0])) for gates in design.gates])
        return (clock() - start) / rows, (time.perf_counter() - wall) / rows, found

    plain, wall_plain, same = alone(False)
    if not np.array_equal(np.isnan(values[:rows]), np.isnan(same)):
        raise AssertionError("an outcome is no number in one way of measuring it only")
    skipping, _, _ = alone(True)
    count = seeds * rows
    return Factorial(
        algorithms=len(KINDS),
        seeds=seeds,
        users=users,
        steps=steps,
        rollouts=count,
        compile_s=compile_s,
        wall_s=wall_s,
        target=TARGET,
        ratio=together / count / plain,
        wall_ratio=wall_s / count / wall_plain,
        ratio_target=RATIO_TARGET,
        ratio_skipping=together / count / skipping,
        difference=float(np.nanmax(np.abs(values[:rows] - same))),
    )


def factorial_table(each: Factorial) -> str:
    """A factorial as text."""
    row = [
        f"2^{each.algorithms} factorial x {each.seeds} seeds",
        f"{each.users:,}",
        str(each.steps),
        f"{each.wall_s:.0f}",
        f"<= {each.target:.0f}",
        f"{each.ratio:.2f}x",
        f"{each.wall_ratio:.2f}x",
        f"<= {each.ratio_target:g}x",
        f"{each.ratio_skipping:.2f}x",
        f"{each.compile_s:.1f}",
    ]
    head = [
        "case",
        "users",
        "steps",
        "wall s",
        "target",
        "of one by one",
        "on the wall",
        "target",
        "if that skips, too",
        "compile s",
    ]
    return table(head, [row])
