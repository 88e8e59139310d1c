"""How the benchmark measures: facts about the machine, seconds on the wall and of CPU time, compiling, copying, plain tables."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache


class Seconds(NamedTuple):
    """How long something took.

    Attributes:
        wall: seconds on the wall.
        cpu: CPU-seconds of this process, all its threads together; of little meaning on an accelerator.
    """

    wall: float
    cpu: float


def on_accelerator() -> bool:
    """Whether computations run elsewhere than on the CPU."""
    return jax.default_backend() != "cpu"


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, str | int]:
    """Facts about the machine and the versions."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return {
        "processor": model,
        "cores": cores(),
        "device": jax.devices()[0].device_kind,
        "backend": jax.default_backend(),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "seconds": "on the wall" if on_accelerator() else "of CPU time",
    }


def clock() -> float:
    """Seconds of CPU time of this process, or on the wall for an accelerator."""
    return time.perf_counter() if on_accelerator() else time.process_time()


def counted(seconds: Seconds) -> float:
    """The seconds that `clock` counts: of CPU time, or on the wall for an accelerator."""
    return seconds.wall if on_accelerator() else seconds.cpu


def timed(call: Callable[[], Any]) -> tuple[Any, Seconds]:
    """The result of a call, once it is there, and what that took."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = jax.block_until_ready(call())
    return result, Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def fastest(call: Callable[[], Any], repeats: int) -> Seconds:
    """The least seconds of some calls, on the wall and of CPU time each by itself; the first call is not counted."""
    jax.block_until_ready(call())
    found = [timed(call)[1] for _ in range(repeats)]
    return Seconds(min(each.wall for each in found), min(each.cpu for each in found))


def compiled(function: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[jax.stages.Compiled, float]:
    """The compiled function and the seconds that took; `options` go to the compiler."""
    start = clock()
    made = jax.jit(function).lower(*arguments).compile(options or None)
    return made, clock() - start


def copy_bandwidth(megabytes: int = 256, repeats: int = 5) -> float:
    """Bytes read and written per second by a plain copy of a large array; on a CPU by one core."""
    size = megabytes * 2**20 // 4
    if on_accelerator():
        values = jnp.zeros(size, jnp.float32)
        copy = jax.jit(lambda x: x + 1.0)
        return 2 * values.nbytes / counted(fastest(lambda: copy(values), repeats))
    source, sink = np.ones(size, np.float32), np.ones(size, np.float32)  # written to, hence really there
    return 2 * source.nbytes / counted(fastest(lambda: np.copyto(sink, source), repeats))


@contextmanager
def persistent_cache(folder: str | None) -> Iterator[None]:
    """Programs are kept in a folder, whatever they took to compile, or nowhere."""
    names = (
        "jax_enable_compilation_cache",
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
    )
    before = [getattr(jax.config, name) for name in names]

    def use(values: Sequence[Any]) -> None:
        for name, value in zip(names, values, strict=True):
            jax.config.update(name, value)
        compilation_cache.reset_cache()  # it reads the folder's name once

    use((folder is not None, folder, 0.0, -1))
    try:
        yield
    finally:
        use(before)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Plain text table; the first column to the left, the rest to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in [head, ["-" * width for width in widths], *rows]
    ]
    return "\n".join(lines)
