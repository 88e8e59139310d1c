"""Many rollouts of few users against one rollout of as many users in all: the same user-steps, so the same work.

The many are members, run as the library runs them: spread over all devices (on a CPU every core is one), side by side on an
accelerator and one after the other on a CPU. They share one network. The one runs on the first device; where that is a CPU,
XLA's own threads share its work out over the cores.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax

from benchmarks.measuring import clock, compiled, fastest, on_accelerator, table
from benchmarks.platforms import default_block, ecosystem
from mamba import ecosystem as eco
from mamba import members as mem
from mamba import objectives
from mamba.rollout import rollout
from mamba.scenarios.populations import generated
from mamba.types import Array

# Rollouts B and users U of each.
ACCELERATOR = (256, 10_000)
CPU = (64, 1_000)
QUICK = (8, 500)
STEPS = 20
TARGET = 1.5  # times the seconds of the one, on an accelerator


@dataclass(frozen=True)
class Many:
    """B rollouts of U users against one of B U users, one engagement recommender, sampled mode.

    Attributes:
        members: B.
        users: U, of each of the many.
        steps: T.
        compile_s: seconds to trace and compile the many.
        many_s: seconds on the wall of all B together.
        one_s: seconds on the wall of the one.
        ratio: of the two.
        cpu_ratio: the same of CPU-seconds; None on an accelerator.
        target: aim for `ratio`; None where it is for another machine or size.
    """

    members: int
    users: int
    steps: int
    compile_s: float
    many_s: float
    one_s: float
    ratio: float
    cpu_ratio: float | None
    target: float | None


def size(*, quick: bool = False) -> tuple[int, int]:
    """Rollouts and users of each, as this machine can bear them."""
    if quick:
        return QUICK
    return ACCELERATOR if on_accelerator() else CPU


def many(members: int, users: int, *, steps: int = STEPS, repeats: int = 3) -> Many:
    """Measures B rollouts of U users, and one of B U users; each from the start of a rollout to its objectives."""
    built = ecosystem("one", users, 0)
    given = jax.device_put(eco.inputs(built, generated(built.sizes)))
    everyone = mem.repeat(built, given.levers, jax.random.split(jax.random.key(0), members))
    layout = "vmap" if on_accelerator() else "loop"
    start = clock()
    made = mem.compiled(mem.evaluator(built, steps=steps, layout=layout), given, everyone, chunk=members)
    compile_s = clock() - start
    together = fastest(lambda: mem.in_chunks(made.run, given, everyone, chunk=made.chunk), repeats)

    total = members * users
    whole = ecosystem("one", total, default_block(total))
    inputs = jax.device_put(eco.inputs(whole, generated(whole.sizes)))

    def one(inputs: eco.Inputs, key: Array) -> Array:
        _, metrics, _ = rollout(whole, inputs, key=key, steps=steps)
        return objectives.evaluate(metrics, total)

    run, _ = compiled(one, inputs, jax.random.key(0))
    alone = fastest(lambda: run(inputs, jax.random.key(0)), repeats)
    return Many(
        members=members,
        users=users,
        steps=steps,
        compile_s=compile_s,
        many_s=together.wall,
        one_s=alone.wall,
        ratio=together.wall / alone.wall,
        cpu_ratio=None if on_accelerator() else together.cpu / alone.cpu,
        target=TARGET if on_accelerator() and (members, users) == ACCELERATOR else None,
    )


def many_table(each: Many) -> str:
    """Many against one as text."""
    row = [
        f"{each.members:,} rollouts of {each.users:,} users",
        f"{each.members * each.users:,}",
        str(each.steps),
        f"{each.many_s:.2f}",
        f"{each.one_s:.2f}",
        f"{each.ratio:.2f}x",
        "" if each.target is None else f"<= {each.target:g}x",
        "" if each.cpu_ratio is None else f"{each.cpu_ratio:.2f}x",
        f"{each.compile_s:.1f}",
    ]
    head = ["case", "users in all", "steps", "many s", "one s", "ratio", "target", "of CPU time", "compile s"]
    return table(head, [row])
