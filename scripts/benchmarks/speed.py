"""User-steps per second of single rollouts, their share of the machine's own limit, the meta-gradient, and its memory.

A single rollout runs on one device. Where that is a CPU, XLA's own threads share its work out over the cores, however many
devices the cores have been made: the device count only says where members go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.measuring import Seconds, compiled, cores, counted, fastest, on_accelerator, table
from benchmarks.platforms import ecosystem, forward, gradient, prepared
from mamba.types import Mode

CASES: dict[str, tuple[str, Mode]] = {
    "one recommender, sampled": ("one", "sampled"),
    "eight kinds, sampled": ("all", "sampled"),
    "eight kinds, expected": ("all", "expected"),
}
# User-steps per second on the wall, of two CPU cores from so many users on, and of an accelerator at so many.
CPU_TARGETS = {"one recommender, sampled": 1e6, "eight kinds, sampled": 250e3}
CPU_TARGET_CORES = 2
CPU_TARGET_FROM = 100_000
ACCELERATOR_TARGETS = {"one recommender, sampled": 100e6, "eight kinds, sampled": 30e6}
ACCELERATOR_TARGET_USERS = 1_000_000
FLOOR_BYTES = 3000  # what must move for one user-step: 16 candidate rows, the user's state in and out, random bits
ROOFLINE_TARGET = 0.25
GRADIENT_STEPS = 16
GRADIENT_TARGET = 6.0  # times the expected forward pass
COMPILE_TARGET = 60.0  # seconds for the gradient
MEMORY_STEPS = (16, 64, 256)


@dataclass(frozen=True)
class Speed:
    """One forward case.

    Attributes:
        case: key of `CASES`.
        users: U.
        block: users served at once; 0 is all.
        steps: steps of one call.
        compile_s: seconds to trace and compile.
        wall_rate: users times steps over the seconds on the wall of the fastest call.
        cpu_rate: likewise over CPU-seconds, those of the call that took the least; None on an accelerator.
        target: aim for `wall_rate`, None where there is none for this case, machine and number of users.
        roofline: share of the copy bandwidth that the least traffic of these steps needs, see `roofline`.
        roofline_target: aim for `roofline`, None in the expected mode, which the least traffic is not counted for.
    """

    case: str
    users: int
    block: int
    steps: int
    compile_s: float
    wall_rate: float
    cpu_rate: float | None
    target: float | None
    roofline: float
    roofline_target: float | None


@dataclass(frozen=True)
class Slope:
    """The meta-gradient of eight kinds.

    Attributes:
        users: U.
        block: users served at once; 0 is all.
        steps: T.
        compile_s: seconds to trace and compile.
        multiple: its seconds over those of the expected forward pass over the same steps.
        target: aim for `multiple`.
    """

    users: int
    block: int
    steps: int
    compile_s: float
    multiple: float
    target: float


def rate_target(case: str, users: int) -> float | None:
    """Aim for user-steps per second on the wall; None where there is none for this case, machine and number of users."""
    if on_accelerator():
        return ACCELERATOR_TARGETS.get(case) if users == ACCELERATOR_TARGET_USERS else None
    return CPU_TARGETS.get(case) if users >= CPU_TARGET_FROM and cores() == CPU_TARGET_CORES else None


def roofline(user_steps: int, seconds: Seconds, bandwidth: float) -> float:
    """The rate times `FLOOR_BYTES` over the measured copy bandwidth.

    Args:
        user_steps: users times steps.
        seconds: that these took. On a CPU those of CPU time count, because the copy uses one core; on an accelerator those
            on the wall.
        bandwidth: from `copy_bandwidth`, bytes a second.

    Returns:
        The share of the machine's own limit.
    """
    return user_steps / counted(seconds) * FLOOR_BYTES / bandwidth


def speed(case: str, users: int, block: int, *, steps: int, repeats: int, bandwidth: float) -> Speed:
    """Measures one case of `CASES`, on one device."""
    which, mode = CASES[case]
    built = ecosystem(which, users, block)
    given, state = prepared(built)
    run, compile_s = compiled(forward(built, steps, mode), given.levers, given, state)
    seconds = fastest(lambda: run(given.levers, given, state), repeats)
    done = users * steps
    return Speed(
        case=case,
        users=users,
        block=block,
        steps=steps,
        compile_s=compile_s,
        wall_rate=done / seconds.wall,
        cpu_rate=None if on_accelerator() else done / seconds.cpu,
        target=rate_target(case, users),
        roofline=roofline(done, seconds, bandwidth),
        roofline_target=ROOFLINE_TARGET if mode == "sampled" else None,
    )


def slope(users: int, block: int, *, repeats: int, steps: int = GRADIENT_STEPS) -> Slope:
    """Measures the meta-gradient of eight kinds against the forward pass over the same steps."""
    built = ecosystem("all", users, block)
    given, state = prepared(built)
    plain, _ = compiled(forward(built, steps, "expected"), given.levers, given, state)
    run, compile_s = compiled(gradient(built, steps), given.levers, given, state)
    below = counted(fastest(lambda: plain(given.levers, given, state), repeats))
    above = counted(fastest(lambda: run(given.levers, given, state), repeats))
    return Slope(users, block, steps, compile_s, above / below, GRADIENT_TARGET)


def memory(steps: Sequence[int] = MEMORY_STEPS, users: int = 256) -> list[dict[str, float | int | str]]:
    """Temporary memory of the gradient's backward pass for several T and ways of keeping states."""
    built = ecosystem("one", users, 0, log_batch=64)
    given, state = prepared(built)
    ways: dict[str, int | None] = {"default": None, "a state a step": 1, "everything": 0}
    rows = []
    for name, segment in ways.items():
        for length in steps:
            made, _ = compiled(
                gradient(built, length, segment),
                given.levers,
                given,
                state,
                xla_backend_optimization_level=0,  # only memory is looked at, and that is planned before
            )
            size = made.memory_analysis().temp_size_in_bytes
            rows.append({"kept": name, "steps": length, "users": users, "bytes": size, "bytes_per_user": size / users})
    return rows


def _block(size: int) -> str:
    return "all" if size == 0 else f"{size:,}"


def _thousands(rate: float) -> str:
    return f"{rate / 1e3:,.0f}k"


def speed_table(speeds: Sequence[Speed]) -> str:
    """Forward cases as text; on an accelerator only seconds on the wall count, and the column of CPU-seconds is empty."""
    rows = [
        [
            each.case,
            f"{each.users:,}",
            _block(each.block),
            _thousands(each.wall_rate),
            "" if each.target is None else f">= {_thousands(each.target)}",
            f"{1e6 / each.wall_rate:.2f}",
            "" if each.cpu_rate is None else _thousands(each.cpu_rate),
            f"{each.roofline:.1%}",
            "" if each.roofline_target is None else f">= {each.roofline_target:.0%}",
            f"{each.compile_s:.1f}",
        ]
        for each in speeds
    ]
    head = [
        "case",
        "users",
        "block",
        "user-steps/s",
        "target",
        "us each",
        "a CPU-second",
        "of roofline",
        "target",
        "compile s",
    ]
    return table(head, rows)


def slope_table(slopes: Sequence[Slope]) -> str:
    """Gradients as text."""
    rows = [
        [
            "meta-gradient, eight kinds",
            f"{each.users:,}",
            _block(each.block),
            str(each.steps),
            f"{each.multiple:.1f}x",
            f"<= {each.target:g}x",
            f"{each.compile_s:.1f}",
            f"<= {COMPILE_TARGET:g}",
        ]
        for each in slopes
    ]
    return table(["case", "users", "block", "steps", "of forward", "target", "compile s", "target"], rows)


def memory_table(rows: Sequence[dict[str, Any]]) -> str:
    """Memory of the backward pass as text."""
    steps = sorted({row["steps"] for row in rows})
    kept = list(dict.fromkeys(row["kept"] for row in rows))
    size = {(row["kept"], row["steps"]): row["bytes_per_user"] for row in rows}
    body = [[name, *(f"{size[name, length] / 1e3:,.0f} kB" for length in steps)] for name in kept]
    return table(["kept, per user", *(f"T = {length}" for length in steps)], body)
