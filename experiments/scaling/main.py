"""How mamba scales: throughput against users, members and devices, memory against steps, and
what sweeps of trainings cost; tables and a page of pictures.

python experiments/scaling/main.py [FOLDER] [--quick]

Every figure is taken in a process of its own, because devices are counted once, when JAX starts. On a CPU a device is a core
(`--devices`): rollouts, or the users of each rollout, are shared out over them. Results are kept in FOLDER/results.json, and
what is there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mamba import ecosystem as eco
from mamba import members as mem
from mamba import placement
from mamba.rollout import rollout
from mamba.scenarios.populations import generated

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
from benchmarks import measuring, platforms, speed  # noqa: E402  # the same platforms and units as the benchmark

USERS = (1_000, 10_000, 100_000, 1_000_000)
MEMBERS = (1, 4, 16, 64, 256)
STEPS = (16, 64, 256, 1024)
MEMBER_USERS, MEMBER_STEPS = 1_000, 20
SPLIT_USERS, SPLIT_STEPS = 100_000, 8
LONG_USERS, LONG_STEPS = 1_000_000, 100
MEMORY_USERS = 1_000
TRAININGS = 4
TRAINING = ("--second_order.seeds=0", "--log.wandb=disabled", "--log.member_runs=none")
WORK = (
    2_000_000  # user-steps of one call, so that what is done once a call (memory to be found, for one) does not count
)
REPEATS = 4

Task = dict[str, Any]


# ---- what a worker measures


def users(task: Task) -> Task:
    """One rollout: user-steps per second, and the share of the roofline."""
    built = platforms.ecosystem(task["which"], task["users"], 0)
    steps = max(2, WORK // task["users"])
    given, state = platforms.prepared(built)
    run, compile_s = measuring.compiled(platforms.forward(built, steps, "sampled"), given.levers, given, state)
    seconds = measuring.fastest(lambda: run(given.levers, given, state), REPEATS)
    done = task["users"] * steps
    share = speed.roofline(done, seconds, measuring.copy_bandwidth())
    rates = {"wall_rate": done / seconds.wall, "cpu_rate": done / seconds.cpu}
    return {**rates, "roofline": share, "compile_s": compile_s}


def members(task: Task) -> Task:
    """Many rollouts: user-steps per second of all together."""
    built = platforms.ecosystem("one", MEMBER_USERS, 0)
    given, _ = platforms.prepared(built)
    layout = "loop" if jax.default_backend() == "cpu" else "vmap"
    count = -(-task["members"] // jax.local_device_count()) * jax.local_device_count()
    some = mem.repeat(built, given.levers, jax.random.split(jax.random.key(0), count))
    made = mem.compiled(mem.evaluator(built, steps=MEMBER_STEPS, layout=layout), given, some, chunk=count)
    wall, cpu = measuring.fastest(lambda: mem.in_chunks(made.run, given, some, chunk=made.chunk), REPEATS)
    done = count * MEMBER_USERS * MEMBER_STEPS
    return {"wall_rate": done / wall, "cpu_rate": done / cpu, "rollouts": count, "bytes": made.bytes}


def split(task: Task) -> Task:
    """One rollout whose users are split over the devices."""
    built = platforms.ecosystem(task["which"], SPLIT_USERS, 0)
    with placement.split_users():
        given = eco.inputs(built, placement.placed(generated(built.sizes), SPLIT_USERS))
        run = jax.jit(lambda given, key: rollout(built, given, key=key, steps=SPLIT_STEPS)[1])
        program = run.lower(given, jax.random.key(0)).compile()
        wall, cpu = measuring.fastest(lambda: program(given, jax.random.key(0)), REPEATS)
    done = SPLIT_USERS * SPLIT_STEPS
    bytes_ = program.memory_analysis().temp_size_in_bytes
    return {"wall_rate": done / wall, "cpu_rate": done / cpu, "bytes_a_device": int(bytes_)}


def memory(task: Task) -> Task:
    """Predicted temporary memory of a rollout and of its gradient, bytes a user."""
    built = platforms.ecosystem("one", MEMORY_USERS, 0)
    given, state = platforms.prepared(built)
    found = {}
    for name, function in (
        ("forward", platforms.forward(built, task["steps"], "expected")),
        ("backward", platforms.gradient(built, task["steps"])),
    ):
        made, _ = measuring.compiled(function, given.levers, given, state, xla_backend_optimization_level=0)
        found[name] = made.memory_analysis().temp_size_in_bytes / MEMORY_USERS
    return found


def long(task: Task) -> Task:
    """A million users for a hundred steps: seconds, and the largest memory of the whole process."""
    built = platforms.ecosystem(task["which"], LONG_USERS, 0)
    given = jax.device_put(eco.inputs(built, generated(built.sizes)))
    run = jax.jit(lambda given, key: rollout(built, given, key=key, steps=LONG_STEPS)[1])
    program = run.lower(given, jax.random.key(0)).compile()
    wall, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(program(given, jax.random.key(0)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    told = {"wall_s": wall, "cpu_s": cpu, "peak_bytes": peak}
    return told | {"predicted_bytes": int(program.memory_analysis().temp_size_in_bytes)}


def trainings(task: Task) -> Task:
    """A sweep over step sizes, from nothing compiled to its tables: trainings in step, or processes of their own."""
    rates = [round(0.02 * 2**k, 3) for k in range(task["members"])]
    command = ["${env}", "mamba-eco", "train", "smoke", *TRAINING, "${args}"]
    swept = {"method": "grid", "parameters": {"meta.learning_rate": {"values": rates}}, "command": command}
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "rates.yaml").write_text(json.dumps(swept))
        apart = [f"--processes={task['processes']}"] if task["processes"] else []
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": f"{place}/cache"}
        environment.pop("XLA_FLAGS", None)  # the command takes the devices that it finds
        words = [sys.executable, "-m", "mamba", "sweep", "rates.yaml", "--run_dir", "out", *apart]
        clock = time.perf_counter()
        subprocess.run(words, cwd=place, env=environment, check=True, capture_output=True)
        wall, spent = time.perf_counter() - clock, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"wall_s": wall, "cpu_s": spent.ru_utime + spent.ru_stime, "peak_bytes": 1024 * spent.ru_maxrss}


WORKERS = {each.__name__: each for each in (users, members, split, memory, long, trainings)}


# ---- all of them


def tasks(*, quick: bool) -> list[Task]:
    """Every figure, cheap ones first."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    devices = sorted({1, cores})
    most = USERS[-2] if quick else USERS[-1]
    found = [
        {"of": "users", "which": which, "users": count, "devices": 1}
        for count in USERS
        if count <= most
        for which in ("one", "all")
    ]
    found += [
        {"of": "members", "members": count, "devices": over}
        for over in devices
        for count in (MEMBERS[:3] if quick else MEMBERS)
    ]
    found += [{"of": "split", "which": which, "devices": over} for which in ("one", "all") for over in devices]
    found += [{"of": "memory", "steps": steps, "devices": 1} for steps in (STEPS[:2] if quick else STEPS)]
    found += [{"of": "trainings", "members": TRAININGS, "processes": apart, "devices": 1} for apart in (0, cores)]
    if not quick:
        found += [{"of": "long", "which": "one", "devices": 1}]
    return found


def measured(task: Task) -> Task | None:
    """The figures of a task, from a process of its own; None where that fails."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={task['devices']}"
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, __file__, "--worker", json.dumps(task)]
    result = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    return None if result.returncode else json.loads(result.stdout.splitlines()[-1])


def tables(results: Sequence[Task]) -> str:
    """All figures as Markdown."""

    def rows(of: str) -> list[Task]:
        return [each for each in results if each["of"] == of]

    def thousands(value: float) -> str:
        return f"{value / 1e3:,.0f}"

    lines = [
        "| platform | users | thousand user-steps a second | a CPU-second | of roofline |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {each['which']} | {each['users']:,} | {thousands(each['wall_rate'])} | {thousands(each['cpu_rate'])} | "
        f"{each['roofline']:.1%} |"
        for each in rows("users")
    ]
    lines += ["", "| members | devices | thousand user-steps a second | a CPU-second |", "|---|---|---|---|"]
    lines += [
        f"| {each['rollouts']} | {each['devices']} | {thousands(each['wall_rate'])} | {thousands(each['cpu_rate'])} |"
        for each in rows("members")
    ]
    lines += [
        "",
        f"| platform, its {SPLIT_USERS:,} users split | devices | thousand user-steps a second | a CPU-second | MB a device |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {each['which']} | {each['devices']} | {thousands(each['wall_rate'])} | {thousands(each['cpu_rate'])} | "
        f"{each['bytes_a_device'] / 1e6:,.0f} |"
        for each in rows("split")
    ]
    lines += ["", "| steps | rollout, kB a user | its gradient, kB a user |", "|---|---|---|"]
    lines += [
        f"| {each['steps']} | {each['forward'] / 1e3:.1f} | {each['backward'] / 1e3:.1f} |" for each in rows("memory")
    ]
    lines += ["", "| trainings | how | seconds | CPU-seconds | largest process, MB |", "|---|---|---|---|---|"]
    lines += [
        f"| {each['members']} | {str(each['processes']) + ' processes' if each['processes'] else 'in step'} | "
        f"{each['wall_s']:,.0f} | {each['cpu_s']:,.0f} | {each['peak_bytes'] / 1e6:,.0f} |"
        for each in rows("trainings")
    ]
    for each in rows("long"):
        lines += [
            "",
            f"{LONG_USERS:,} users, {LONG_STEPS} steps, {each['which']}: {each['wall_s']:,.0f} s ({each['cpu_s']:,.0f} s of CPU "
            f"time), {each['peak_bytes'] / 1e9:.2f} GB at most in the whole process.",
        ]
    return "\n".join(lines)


def pictures(results: Sequence[Task], path: Path) -> None:
    """Throughput and memory as one page of plots."""
    titles = ("against users", "against members", "users split over devices", "memory against steps")
    figure = make_subplots(2, 2, subplot_titles=titles, vertical_spacing=0.16, horizontal_spacing=0.1)
    dashes = {1: "solid", 2: "dash"}

    def line(rows: Sequence[Task], name: str, x: str, y: str, scale: float, row: int, column: int, dash: str) -> None:
        figure.add_trace(
            go.Scatter(
                x=[each[x] for each in rows],
                y=[each[y] / scale for each in rows],
                name=name,
                mode="lines+markers",
                line={"dash": dash},
            ),
            row,
            column,
        )

    for which, said in (("one", "one recommender"), ("all", "eight kinds")):
        of = [each for each in results if each["of"] == "users" and each["which"] == which]
        line(of, said, "users", "wall_rate", 1e3, 1, 1, "solid")
        of = [each for each in results if each["of"] == "split" and each["which"] == which]
        line(of, f"{said}, {SPLIT_USERS:,} users", "devices", "wall_rate", 1e3, 2, 1, "dot")
    for count in sorted({each["devices"] for each in results if each["of"] == "members"}):
        of = [each for each in results if each["of"] == "members" and each["devices"] == count]
        said = f"members of {MEMBER_USERS:,} users, {count} device{'s' * (count > 1)}"
        line(of, said, "rollouts", "wall_rate", 1e3, 1, 2, dashes.get(count, "dot"))
    of = [each for each in results if each["of"] == "memory"]
    for part, said in (("forward", "rollout"), ("backward", "gradient")):
        line(of, said, "steps", part, 1e3, 2, 2, "solid")
    for row, column, x, y in (
        (1, 1, "users", "thousand user-steps a second"),
        (1, 2, "members", "thousand user-steps a second"),
        (2, 1, "devices", "thousand user-steps a second"),
        (2, 2, "steps", "kB a user"),
    ):
        shape = {"dtick": 1} if x == "devices" else {"type": "log"}
        figure.update_xaxes(title=x, **shape, row=row, col=column)
        figure.update_yaxes(title=y, rangemode="tozero", row=row, col=column)
    figure.update_layout(template="plotly_white", width=1150, height=800, legend={"orientation": "h", "y": -0.12})
    figure.write_html(path, include_plotlyjs=True, config={"displayModeBar": False})


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures what is not known yet, prints the tables, writes the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/scaling"))
    parser.add_argument("--quick", action="store_true", help="up to 100,000 users and 16 members")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.worker:
        task = json.loads(given.worker)
        print(json.dumps(task | WORKERS[task["of"]](task)))
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    kept = given.folder / "results.json"
    results: list[Task] = json.loads(kept.read_text()) if kept.exists() else []
    wanted = tasks(quick=given.quick)
    for task in wanted:
        if any(task.items() <= each.items() for each in results):
            continue
        print(f"{task} ...", file=sys.stderr, flush=True)
        told = measured(task)
        if told is None:
            print(f"{task} failed: it is tried again next time", file=sys.stderr, flush=True)
            continue
        results.append(task | told)
        kept.write_text(json.dumps(results, indent=1))
    shown = [each for task in wanted for each in results if task.items() <= each.items()]
    pictures(shown, given.folder / "pictures.html")
    print(tables(shown))


if __name__ == "__main__":
    main()
