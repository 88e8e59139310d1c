"""Measures speed and memory on this machine and prints a table.

    python scripts/bench.py [--users 1000 10000 100000] [--steps 50] [--quick] [--json PATH]

Rows: (a) one recommender, sampled; (b) every registered kind jointly, sampled; (c) the same, expected mode; (d) its
meta-gradient as a multiple of its forward pass; compile seconds of each; memory of the backward pass against the number
of steps; copy bandwidth and the share of the roofline (3 kB must move per user-step at C = 16). C = 16 throughout.

On a CPU the unit is user-steps per CPU-second (process time over all threads, best of several repeats: shared machines are
noisy); on an accelerator it is wall seconds. Pin the process to one core for the steadiest figures.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mamba import ecosystem as eco
from mamba import objectives
from mamba.algorithms import registry
from mamba.rollout import rollout
from mamba.runs.progress import print_table, say
from mamba.scenarios.populations import generated
from mamba.types import Mode, Sizes

BYTES_PER_USER_STEP = 3_000  # candidate rows, state in and out, random bits; see the docstring
BLOCK = 1024  # users served at once where the whole population would fall out of the cache
BLOCK_FROM = 4_096
REFERENCE = {"a": "at least 500", "b": "at least 150", "d": "at most 6"}


def clock() -> float:
    """Seconds that count: of the processor on a CPU, of the wall on an accelerator."""
    return time.process_time() if jax.default_backend() == "cpu" else time.perf_counter()


def best(call: Callable[[], Any], repeats: int) -> float:
    """Seconds of the fastest of several calls."""
    times = []
    for _ in range(repeats):
        begin = clock()
        jax.block_until_ready(call())
        times.append(clock() - begin)
    return min(times)


def platform_of(which: str, users: int) -> tuple[eco.Ecosystem, eco.Inputs]:
    """One recommender or every kind, 16 candidates, on a generated network with one creator in twenty."""
    block = BLOCK if users > BLOCK_FROM and jax.default_backend() == "cpu" else 0
    if which == "one":
        algorithms, own = {"home": registry.make("engagement", proposals=4)}, 12
    else:
        algorithms, own = {kind: registry.make(kind) for kind in registry.KINDS}, 9
    sizes = Sizes(users=users, creators=max(users // 20, 1), in_network=own, user_block=block)
    ecosystem = eco.make(algorithms, sizes=sizes)
    return ecosystem, eco.inputs(ecosystem, jax.device_put(generated(sizes)))


def measure(which: str, users: int, steps: int, mode: Mode, *, gradient: bool, repeats: int) -> dict[str, float]:
    """Forward speed and compile time, and those of the gradient where asked."""
    ecosystem, inputs = platform_of(which, users)
    state = jax.jit(lambda key: eco.init(ecosystem, inputs, key))(jax.random.key(0))

    def values(levers: Any, key: jax.Array) -> jax.Array:
        changed = replace(inputs, levers=levers)
        _, metrics, _ = rollout(ecosystem, changed, key=key, steps=steps, mode=mode, state=state)
        return objectives.evaluate(metrics, users)

    def compiled(function: Callable[..., Any]) -> tuple[Any, float]:
        begin = time.process_time()
        made = jax.jit(function).lower(inputs.levers, jax.random.key(1)).compile()
        return made, time.process_time() - begin

    forward, seconds = compiled(values)
    took = best(lambda: forward(inputs.levers, jax.random.key(1)), repeats)
    result = {"thousand_user_steps_per_second": users * steps / took / 1e3, "compile_seconds": seconds}
    if gradient:
        backward, seconds = compiled(lambda levers, key: jax.grad(lambda x: jnp.sum(values(x, key)))(levers))
        both = best(lambda: backward(inputs.levers, jax.random.key(1)), max(repeats // 2, 2))
        result |= {"gradient_multiple": both / took, "gradient_compile_seconds": seconds}
    return result


def backward_memory(users: int, steps: int, segment: int | None) -> float:
    """Temporary MB of the compiled gradient of one recommender."""
    ecosystem, inputs = platform_of("one", users)

    def scalar(levers: Any, key: jax.Array) -> jax.Array:
        changed = replace(inputs, levers=levers)
        _, metrics, _ = rollout(ecosystem, changed, key=key, steps=steps, mode="expected", segment=segment)
        return jnp.sum(objectives.evaluate(metrics, users))

    analysis = jax.jit(jax.grad(scalar)).lower(inputs.levers, jax.random.key(1)).compile().memory_analysis()
    return analysis.temp_size_in_bytes / 1e6


def bandwidth() -> float:
    """Copy bandwidth in GB/s, read and write, best of ten."""
    source = np.ones(16_000_000, np.float32)
    target = np.empty_like(source)
    times = []
    for _ in range(10):
        begin = time.perf_counter()
        np.copyto(target, source)
        times.append(time.perf_counter() - begin)
    return 2 * source.nbytes / min(times) / 1e9


def machine() -> dict[str, Any]:
    """What was measured on; no names of machines."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        model = named[0] if named else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": model,
        "cores": cores,
        "device": jax.devices()[0].device_kind,
        "backend": jax.default_backend(),
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def main() -> None:
    """Runs the benchmark and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory-users", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="200 users, few steps: to see that it works")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    asked = parser.parse_args()
    if asked.quick:
        asked.users, asked.steps, asked.repeats, asked.memory_users = [200], 10, 2, 50

    facts = machine()
    say(", ".join(f"{name} {value}" for name, value in facts.items()))
    speed = bandwidth()
    say(f"copy bandwidth {speed:.1f} GB/s")
    floor = speed * 1e9 / BYTES_PER_USER_STEP / 1e3  # thousand user-steps per second
    rows, figures = [], []
    cases = (
        ("a", "one recommender, sampled", "one", "sampled", False),
        ("b", "every kind, sampled", "all", "sampled", False),
        ("c", "every kind, expected", "all", "expected", True),
    )
    for users in asked.users:
        steps = asked.steps if users <= 20_000 else max(asked.steps // 5, 2)
        for letter, label, which, mode, gradient in cases:
            got = measure(which, users, steps, mode, gradient=gradient, repeats=asked.repeats)
            figures.append({"row": letter, "users": users, "steps": steps, **got})
            rate = got["thousand_user_steps_per_second"]
            share = f"{100 * rate / floor:.1f} %"
            rows.append([f"({letter}) {label}", f"{users:,}", f"{rate:.0f} k/s", f"{got['compile_seconds']:.0f} s", share,
                         REFERENCE.get(letter, "")])  # fmt: skip
            if gradient:
                rows.append(["(d) its gradient / forward", f"{users:,}", f"{got['gradient_multiple']:.1f} x",
                             f"{got['gradient_compile_seconds']:.0f} s", "", REFERENCE["d"]])  # fmt: skip
            say(f"{label}, {users:,} users: {rate:.0f} thousand user-steps/s")
    unit = "CPU-second" if jax.default_backend() == "cpu" else "second"
    print_table(f"user-steps per {unit}", ["what", "users", "measured", "compile", "roofline", "target (k/s, x)"], rows)
    print("For comparison, one recommender on such a CPU: RecSim NG 44-110 k/s, T-RECS 0.6-0.9 k/s.")

    memory = []
    for steps in (16, 64, 144, 256) if not asked.quick else (4, 16):
        each, whole = (backward_memory(asked.memory_users, steps, segment) for segment in (1, None))
        memory.append({"steps": steps, "per_step_mb": each, "default_mb": whole})
    table = [[f"{m['steps']}", f"{m['per_step_mb']:.1f}", f"{m['default_mb']:.1f}"] for m in memory]
    title = f"temporary memory of the backward pass, MB, {asked.memory_users} users"
    print_table(title, ["steps T", "state of every step kept", "default (segments of about sqrt(T) beyond 64)"], table)
    if asked.json is not None:
        asked.json.write_text(json.dumps({"machine": facts, "speed": figures, "memory": memory}, indent=2) + "\n")


if __name__ == "__main__":
    main()
