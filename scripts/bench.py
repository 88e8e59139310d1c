"""How fast mamba runs on this machine, beside targets, published peers and the machine's own limit.

    python scripts/bench.py                        everything but peers, half an hour on two CPU cores
    python scripts/bench.py --quick                1,000 users, no memory table: about five minutes
    python scripts/bench.py --cases compile        seconds to trace and to compile, by number of kinds
    python scripts/bench.py --peers                peers from PyPI, each in an environment of its own, on one network
    python scripts/bench.py --users 10000 --json bench.json
    taskset -c 1 python scripts/bench.py           one core: steadier where others use the machine too

The parts, each in a file of `benchmarks/` beside this one:

    a, b, c    user-steps per second of one recommender sampled, of eight kinds sampled and expected      speed.py
    d          the meta-gradient of eight kinds, in forward passes                                        speed.py
    e          a factorial of six kinds, in rollouts one by one                                           factorial.py
    f          a meta-step, in forward rollouts; a Pareto front, in points trained one by one             training.py
    g          many rollouts of few users, against one rollout of as many users in all                    many.py
    memory     memory of the backward pass, by number of steps                                            speed.py
    compile    seconds to trace and to compile, by number of kinds                                        compiling.py

On a CPU the rates of a to c are given on the wall and per CPU-second of this process, all its threads together, g on the wall
and as a ratio of CPU time, e and the compile table in both; other seconds are those of CPU time. On an accelerator seconds are
those on the wall, because that is what one pays for there. Rates and the ratios of d, g and the meta-step are from the fastest
of a few repeats. Figures of different runs on a shared machine differ by tens of percent: compare ratios within one run. Targets
are shown where machine and number of users are those that they are for, and nothing is judged by them.

On a CPU every core is made a JAX device, as the command line does. Members (e, the many of g) and the rollouts of a meta-step
(f) are spread over the devices. Single rollouts and their gradient (a to d, the one of g, one by one in e) run on the first
device, with XLA's own threads on all cores: these are shared by the devices, so that a rollout takes as long with several
devices as with one. The time of each thread says so: 10,000 users, half of the work in either of two threads, with one
device and with two.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax

from mamba.cli import use_all_cores

HERE = str(Path(__file__).resolve().parent)
if HERE not in sys.path:  # it is there where this file is run, but not where it is loaded by its path
    sys.path.insert(0, HERE)
from benchmarks import compiling, factorial, many, measuring, platforms, speed, training  # noqa: E402

PARTS = (*"abcdefg", "memory", "compile")
QUICK_PARTS = (*"abcdg", "compile")
PUBLISHED = {
    "RecSim NG": "44-110k",
    "T-RECS": "0.6-0.9k",
}  # user-steps per CPU-second of a recommender loop on such a CPU


def peers_module() -> Any:
    """The folder `peers` beside this file, imported only where it is asked for."""
    if HERE not in sys.path:  # whoever imported this file may have taken it away again
        sys.path.insert(0, HERE)
    import peers

    return peers


def beside_peers(names: Sequence[str], users: int, steps: int, *, environments: Path | None) -> list[dict[str, Any]]:
    """Measures mamba and peers, prints the table and returns its rows; see `peers/__init__.py`."""
    peers = peers_module()

    def tell(row: Any) -> None:
        print(f"skipped {row.peer}" if row.skipped else f"{row.peer}, {row.work}: done", flush=True)

    rows = peers.compare(names, peers.make_task(users, steps=steps), folder=environments, tell=tell)
    print(f"\n{peers.text(rows, measuring.table)}\n")
    return peers.plain(rows)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; an unknown peer is refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, nargs="+", default=None, help="numbers of users (1000 10000 100000)")
    parser.add_argument("--block", type=int, nargs="+", default=None, help="users served at once; 0 is all")
    parser.add_argument("--cases", nargs="+", choices=PARTS, default=None, help="a part only")
    parser.add_argument(
        "--peers",
        nargs="*",
        metavar="PEER",
        default=None,
        help="measure peers from PyPI beside mamba (all, or some by name), and no other part that --cases does not name",
    )
    parser.add_argument(
        "--environments", type=Path, default=None, help="folder that keeps the peers' environments; else thrown away"
    )
    parser.add_argument("--steps", type=int, default=50, help="steps of one call")
    parser.add_argument("--repeats", type=int, default=5, help="calls, of which the fastest counts")
    parser.add_argument("--quick", action="store_true", help="1,000 users, fewer parts")
    parser.add_argument("--json", type=Path, default=None, help="file for the figures")
    options = parser.parse_args(arguments)
    if options.peers is not None:
        known = tuple(peers_module().PEERS)
        options.peers = options.peers or known
        unknown = sorted(set(options.peers) - set(known))
        if unknown:
            parser.error(f"--peers: no peer is called {', '.join(unknown)}; known: {', '.join(known)}")
    return options


def rollouts(
    parts: Sequence[str], options: argparse.Namespace, bandwidth: float
) -> tuple[list[speed.Speed], list[speed.Slope]]:
    """Measures parts a to d for all numbers of users and prints them."""
    speeds, slopes = [], []
    for count in options.users or ([1000] if options.quick else [1000, 10_000, 100_000]):
        repeats = options.repeats if count <= 10_000 else max(options.repeats // 2, 1)
        for block in options.block or [platforms.default_block(count)]:
            for part, case in zip("abc", speed.CASES, strict=True):
                if part in parts:
                    speeds.append(
                        speed.speed(case, count, block, steps=options.steps, repeats=repeats, bandwidth=bandwidth)
                    )
                    print(speed.speed_table(speeds[-1:]).splitlines()[-1], flush=True)
            if "d" in parts:
                slopes.append(speed.slope(count, block, repeats=max(repeats // 2, 1)))
                print(speed.slope_table(slopes[-1:]).splitlines()[-1], flush=True)
    print()
    if speeds:
        print(speed.speed_table(speeds), "\n")
    if slopes:
        print(speed.slope_table(slopes), "\n", flush=True)
    return speeds, slopes


def programs(*, quick: bool) -> list[compiling.Compile]:
    """Measures the part `compile` and prints it."""
    found: list[compiling.Compile] = []
    for count in compiling.QUICK_COUNTS if quick else compiling.COUNTS:
        found += compiling.compiling(count)
        print("\n".join(compiling.compile_table(found[-2:]).splitlines()[-2:]), flush=True)
    print()
    print(compiling.compile_table(found), "\n", flush=True)
    return found


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the benchmark, prints it and returns what `--json` writes."""
    options = parsed(arguments)
    # Times of compilation are those of a first run.
    jax.config.update("jax_enable_compilation_cache", False)
    use_all_cores()  # members are spread over them; a single rollout is no slower for it, see above

    parts = options.cases or (QUICK_PARTS if options.quick else PARTS)
    if options.peers is not None and options.cases is None:
        parts = ()
    facts = measuring.machine()
    for name, value in facts.items():
        print(f"{name:10s} {value}")
    bandwidth = measuring.copy_bandwidth()
    floor = speed.FLOOR_BYTES
    print(f"{'copy':10s} {bandwidth / 1e9:.1f} GB/s read and written; {floor / 1e3:g} kB a user-step at least")
    print(
        f"{'peers':10s} {'; '.join(f'{name} {rate} user-steps per CPU-second' for name, rate in PUBLISHED.items())}\n"
    )

    speeds, slopes = rollouts(parts, options, bandwidth)
    few = max(options.repeats // 2, 1)
    crossed = factorial.factorial() if "e" in parts else None
    if crossed is not None:
        print(factorial.factorial_table(crossed), "\n", flush=True)
    stepped = training.meta_step(repeats=few) if "f" in parts else None
    if stepped is not None:
        print(training.meta_table(stepped), "\n", flush=True)
    together = training.front() if "f" in parts else None
    if together is not None:
        print(training.front_table(together), "\n", flush=True)
    several = many.many(*many.size(quick=options.quick), repeats=few) if "g" in parts else None
    if several is not None:
        print(many.many_table(several), "\n", flush=True)
    kept = speed.memory() if "memory" in parts else []
    if kept:
        print(speed.memory_table(kept), "\n", flush=True)
    compiled = programs(quick=options.quick) if "compile" in parts else []
    beside = []
    if options.peers is not None:
        whole = 0
        if options.users is not None or options.quick:
            whole = options.users[0] if options.users else 1000
        beside = beside_peers(options.peers, whole, options.steps, environments=options.environments)
    result = {
        "machine": facts,
        "copy_bytes_per_s": bandwidth,
        "floor_bytes": floor,
        "peers": PUBLISHED,
        "speeds": [asdict(each) for each in speeds],
        "gradients": [asdict(each) for each in slopes],
        "factorial": None if crossed is None else asdict(crossed),
        "meta_step": None if stepped is None else asdict(stepped),
        "front": None if together is None else asdict(together),
        "many": None if several is None else asdict(several),
        "memory": kept,
        "compile": [asdict(each) for each in compiled],
        "beside_peers": beside,
    }
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
        print(f"wrote {options.json}")
    return result


if __name__ == "__main__":
    main()
