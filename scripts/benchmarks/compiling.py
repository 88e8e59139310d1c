"""Seconds to trace and to compile, by number of kinds, with nothing compiled before and from the persistent cache."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from benchmarks.measuring import persistent_cache, table, timed
from benchmarks.platforms import KINDS, forward, gradient, of_kinds
from mamba import ecosystem as eco
from mamba.rollout import rollout
from mamba.scenarios.populations import generated

COUNTS = (1, 2, 4, 8)  # of kinds
QUICK_COUNTS = (1, 2)
STEPS = 16


@dataclass(frozen=True)
class Compile:
    """What it takes until a program of some kinds can run: the first k of `platforms.KINDS`.

    Attributes:
        program: `forward, sampled` or `gradient` (of the expected mode).
        kinds: k.
        users: U.
        steps: T, which the program's size does not depend on.
        trace_cpu_s: CPU-seconds to trace and lower, with nothing traced before.
        trace_wall_s: likewise on the wall.
        compile_cpu_s: CPU-seconds to compile, all threads, with nothing compiled before.
        compile_wall_s: likewise on the wall.
        warm_cpu_s: CPU-seconds instead of `compile_cpu_s` where the persistent cache has the program. It is traced all the same.
        warm_wall_s: likewise on the wall.
        instructions: of the compiled program's HLO, those within fusions and loops included.
    """

    program: str
    kinds: int
    users: int
    steps: int
    trace_cpu_s: float
    trace_wall_s: float
    compile_cpu_s: float
    compile_wall_s: float
    warm_cpu_s: float
    warm_wall_s: float
    instructions: int


def compiling(kinds: int, *, users: int = 1000, steps: int = STEPS) -> list[Compile]:
    """Measures tracing and compiling of the forward pass and of the gradient of the first kinds."""
    built = of_kinds(KINDS[:kinds], users, 0)
    given = eco.inputs(built, generated(built.sizes))
    # Shapes are enough to compile, and a state of the right shape needs no program of its own.
    state = jax.eval_shape(lambda given: rollout(built, given, key=jax.random.key(0), steps=1)[0], given)
    programs = {"forward, sampled": forward(built, steps, "sampled"), "gradient": gradient(built, steps)}
    rows = []
    for name, program in programs.items():

        def trace(program: Callable[..., Any] = program) -> jax.stages.Lowered:
            jax.clear_caches()  # nothing of an earlier trace or program is left
            return jax.jit(program).lower(given.levers, given, state)

        with persistent_cache(None):
            lowered, trace_s = timed(trace)
            made, compile_s = timed(lowered.compile)
        with tempfile.TemporaryDirectory() as folder, persistent_cache(folder):
            trace().compile()  # fills the cache
            _, warm_s = timed(trace().compile)
        instructions = sum(" = " in line for line in made.as_text().splitlines())
        rows.append(
            Compile(
                name,
                kinds,
                users,
                steps,
                trace_s.cpu,
                trace_s.wall,
                compile_s.cpu,
                compile_s.wall,
                warm_s.cpu,
                warm_s.wall,
                instructions,
            )
        )
    return rows


def compile_table(rows: Sequence[Compile]) -> str:
    """Tracing and compiling as text; seconds are those of CPU time, then on the wall."""

    def both(cpu: float, wall: float) -> str:
        return f"{cpu:.1f} / {wall:.1f}"

    head = ["program", "kinds", "HLO instructions", "trace s, cpu / wall", "compile s", "from the cache s"]
    body = [
        [
            each.program,
            str(each.kinds),
            f"{each.instructions:,}",
            both(each.trace_cpu_s, each.trace_wall_s),
            both(each.compile_cpu_s, each.compile_wall_s),
            both(each.warm_cpu_s, each.warm_wall_s),
        ]
        for each in sorted(rows, key=lambda each: (each.program, each.kinds))
    ]
    return table(head, body)
