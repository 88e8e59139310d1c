"""How fast mamba runs on this machine, beside targets, published peers and the machine's own limit.

    python scripts/bench.py                        everything but peers, half an hour on two CPU cores
    python scripts/bench.py --quick                1,000 users, no memory table: about five minutes
    python scripts/bench.py --cases compile        seconds to trace and to compile, by number of kinds
    python scripts/bench.py --peers                peers from PyPI, each in an environment of its own, on one network
    python scripts/bench.py --users 10000 --json bench.json
    taskset -c 1 python scripts/bench.py           one core: steadier where others use the machine too

On a CPU the unit of time is a CPU-second of this process, all its threads together, and every figure is the least of a
few repeats; on an accelerator it is a second on the wall, because that is what one pays for there. Figures of different
runs on a shared machine differ by tens of percent: compare ratios within one run.

The state is prepared beforehand, so that the figures are those of steps alone.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from mamba import ecosystem as eco
from mamba import members as mem
from mamba import objectives
from mamba.algorithms import registry
from mamba.cli import use_all_cores
from mamba.interactions import factorial as interactions
from mamba.meta import constraints, fronts, optimise, pareto, systems, vector
from mamba.meta.settings import MetaConfig
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
FACTORIAL_KINDS = ("engagement", "two_tower", "popularity", "notification", "removal", "demotion")
FACTORIAL_TARGET = 90.0  # seconds on the wall of two CPU cores, after compiling
FACTORIAL_RATIO = 0.8  # of the cost of the same rollouts one by one
META_TARGET = 8.0  # times a forward rollout of the same seeds
FRONT_POINTS = 32
FRONT_RATIO = 0.8  # of the cost of the same points one by one
FRONT_OBJECTIVES = ("toxic_exposure_per_user", "engagement_per_user")
FRONT_SEEDS = 16  # fresh rollouts that every point of a front is measured with
FLOOR_BYTES = 3000  # what must move for one user-step: 16 candidate rows, the user's state in and out, random bits
CPU_BLOCK = 1024  # users served at once beyond BLOCK_FROM users: less memory, at a price of 10 to 20 % of the speed
BLOCK_FROM = 131072
GRADIENT_STEPS = 16
MEMORY_STEPS = (16, 64, 256)
COMPILE_KINDS = (1, 2, 4, 8)
QUICK_COMPILE_KINDS = (1, 2)

CASES: dict[str, tuple[str, Mode]] = {
    "one recommender, sampled": ("one", "sampled"),
    "eight kinds, sampled": ("all", "sampled"),
    "eight kinds, expected": ("all", "expected"),
}
TARGETS = {"one recommender, sampled": 500e3, "eight kinds, sampled": 150e3}
GRADIENT_TARGET = 6.0  # times the expected forward pass
COMPILE_TARGET = 60.0  # seconds for the gradient
PUBLISHED = {
    "RecSim NG": "44-110k",
    "T-RECS": "0.6-0.9k",
}  # user-steps per CPU-second of a recommender loop on such a CPU


@dataclass(frozen=True)
class Speed:
    """One forward case.

    Attributes:
        case: key of `CASES`.
        users: U.
        block: users served at once; 0 is all.
        steps: steps of one call.
        compile_s: seconds to trace and compile.
        user_steps_per_s: users times steps over the seconds of the fastest call.
        target: aim for `user_steps_per_s`, None without one.
        roofline: share of the copy bandwidth that the least traffic of these steps needs.
    """

    case: str
    users: int
    block: int
    steps: int
    compile_s: float
    user_steps_per_s: float
    target: float | None
    roofline: float


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


@dataclass(frozen=True)
class MetaStep:
    """One meta-step of eight kinds: a pathwise gradient, and constraints measured on the sampled model; no audit, no monitor.

    Attributes:
        users: U.
        steps: T.
        seeds: rollouts of the gradient, and of present and default levers each for the constraints.
        compile_s: seconds to trace and compile.
        step_s: seconds of the whole meta-step.
        gradient_s: of which the gradient.
        forward_s: seconds of a rollout of the same seeds in the expected mode.
        multiple: of the whole meta-step.
        target: aim for `multiple`.
    """

    users: int
    steps: int
    seeds: int
    compile_s: float
    step_s: float
    gradient_s: float
    forward_s: float
    multiple: float
    target: float


@dataclass(frozen=True)
class Front:
    """A Pareto front trained together, against every point trained by itself from the default levers.

    Attributes:
        points: F.
        users: U.
        steps: T.
        meta_steps: of a point by itself, of the corners and of the first point.
        warm_steps: of every other point of the front.
        compile_s: seconds to trace and compile, counted once for either way.
        together_s: seconds of the front.
        apart_s: seconds of the points one by one.
        ratio: of the two, after compiling.
        ratio_compiled: of the two with `compile_s` in both.
        ratio_target: aim for both.
        volume: hypervolume of the front on fresh seeds in the sampled model, in square per cent; the reference is the worst of
            both ways in each objective.
        volume_error: bootstrap standard error of it.
        volume_apart: likewise, one by one.
        volume_apart_error: likewise.
    """

    points: int
    users: int
    steps: int
    meta_steps: int
    warm_steps: int
    compile_s: float
    together_s: float
    apart_s: float
    ratio: float
    ratio_compiled: float
    ratio_target: float
    volume: float
    volume_error: float
    volume_apart: float
    volume_apart_error: float


@dataclass(frozen=True)
class Compile:
    """What it takes until a program of some kinds can run: the first k of `KINDS`.

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


def machine() -> dict[str, str | int]:
    """Facts about the machine and the versions."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "processor": model,
        "cores": cores,
        "device": jax.devices()[0].device_kind,
        "backend": jax.default_backend(),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "seconds": "on the wall" if on_accelerator() else "of CPU time",
    }


def on_accelerator() -> bool:
    """Whether computations run elsewhere than on the CPU."""
    return jax.default_backend() != "cpu"


def clock() -> float:
    """Seconds of CPU time of this process, or on the wall for an accelerator."""
    return time.perf_counter() if on_accelerator() else time.process_time()


def fastest(call: Callable[[], Any], repeats: int) -> float:
    """Seconds of the fastest of some calls, each until its results are there; the first call is not counted."""
    jax.block_until_ready(call())
    seconds = []
    for _ in range(repeats):
        start = clock()
        jax.block_until_ready(call())
        seconds.append(clock() - start)
    return min(seconds)


def copy_bandwidth(megabytes: int = 256, repeats: int = 5) -> float:
    """Bytes read and written per second by a plain copy of a large array."""
    size = megabytes * 2**20 // 4
    if on_accelerator():
        values = jnp.zeros(size, jnp.float32)
        copy = jax.jit(lambda x: x + 1.0)
        return 2 * values.nbytes / fastest(lambda: copy(values), repeats)
    source, sink = np.ones(size, np.float32), np.ones(size, np.float32)  # written to, hence really there
    return 2 * source.nbytes / fastest(lambda: np.copyto(sink, source), repeats)


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


def compiled(function: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[jax.stages.Compiled, float]:
    """The compiled function and the seconds that took; `options` go to the compiler."""
    start = clock()
    made = jax.jit(function).lower(*arguments).compile(options or None)
    return made, clock() - start


def speed(case: str, users: int, block: int, *, steps: int, repeats: int, bandwidth: float) -> Speed:
    """Measures one case of `CASES`."""
    which, mode = CASES[case]
    built = ecosystem(which, users, block)
    given, state = prepared(built)
    run, compile_s = compiled(forward(built, steps, mode), given.levers, given, state)
    rate = users * steps / fastest(lambda: run(given.levers, given, state), repeats)
    return Speed(case, users, block, steps, compile_s, rate, TARGETS.get(case), rate * FLOOR_BYTES / bandwidth)


def slope(users: int, block: int, *, repeats: int, steps: int = GRADIENT_STEPS) -> Slope:
    """Measures the meta-gradient of eight kinds against the forward pass over the same steps."""
    built = ecosystem("all", users, block)
    given, state = prepared(built)
    plain, _ = compiled(forward(built, steps, "expected"), given.levers, given, state)
    run, compile_s = compiled(gradient(built, steps), given.levers, given, state)
    below = fastest(lambda: plain(given.levers, given, state), repeats)
    above = fastest(lambda: run(given.levers, given, state), repeats)
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


def timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """The result of a call, its CPU-seconds and its seconds on the wall."""
    start, wall = time.process_time(), time.perf_counter()
    result = call()
    return result, time.process_time() - start, time.perf_counter() - wall


def compiling(kinds: int, *, users: int = 1000, steps: int = GRADIENT_STEPS) -> list[Compile]:
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
            lowered, trace_cpu_s, trace_wall_s = timed(trace)
            made, cpu_s, wall_s = timed(lowered.compile)
        with tempfile.TemporaryDirectory() as folder, persistent_cache(folder):
            trace().compile()  # fills the cache
            _, warm_cpu_s, warm_wall_s = timed(trace().compile)
        instructions = sum(" = " in line for line in made.as_text().splitlines())
        rows.append(
            Compile(
                name,
                kinds,
                users,
                steps,
                trace_cpu_s,
                trace_wall_s,
                cpu_s,
                wall_s,
                warm_cpu_s,
                warm_wall_s,
                instructions,
            )
        )
    return rows


def factorial(users: int = 1000, seeds: int = 8, steps: int = 50) -> Factorial:
    """Measures the factorial of six kinds, without warm-up or windows, and its first seed one by one."""
    built = eco.make(
        {kind: registry.make(kind) for kind in FACTORIAL_KINDS}, sizes=Sizes(users=users, creators=max(users // 20, 1))
    )
    given = jax.device_put(eco.inputs(built, generated(built.sizes)))
    design = interactions.plan(len(FACTORIAL_KINDS)).design
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
        algorithms=len(FACTORIAL_KINDS),
        seeds=seeds,
        users=users,
        steps=steps,
        rollouts=count,
        compile_s=compile_s,
        wall_s=wall_s,
        target=FACTORIAL_TARGET,
        ratio=together / count / plain,
        wall_ratio=wall_s / count / wall_plain,
        ratio_target=FACTORIAL_RATIO,
        ratio_skipping=together / count / skipping,
        difference=float(np.nanmax(np.abs(values[:rows] - same))),
    )


def evaluation(built: eco.Ecosystem, given: eco.Inputs, steps: int) -> Callable[[mem.Members], np.ndarray]:
    """Outcomes of members on the sampled model, as a run evaluates them."""
    made: list[mem.Compiled] = []
    layout = "vmap" if on_accelerator() else "loop"
    of = mem.evaluator(built, steps=steps, layout=layout, of=lambda metrics: systems.outcomes(built, metrics))

    def evaluate(members: mem.Members) -> np.ndarray:
        if not made:
            made.append(mem.compiled(of, given, members, chunk=16))
        return mem.in_chunks(made[0].run, given, members, chunk=made[0].chunk)

    return evaluate


def meta_step(users: int = 1000, steps: int = 50, seeds: int = 4, repeats: int = 3) -> MetaStep:
    """Measures a meta-step of eight kinds against a forward rollout of the same seeds."""
    built = ecosystem("all", users, 0)
    given = jax.device_put(eco.inputs(built, generated(built.sizes)))
    config = MetaConfig(estimator="pathwise", seeds=seeds, constraint_seeds=seeds, monitor_every=0, audit_every=0)
    trainer = optimise.trainer(
        built, given, config, steps=steps, evaluate=evaluation(built, given, steps), key=jax.random.key(0)
    )
    system, theta = systems.platform(built), vector.flat(given.levers)
    keys = jax.random.split(jax.random.key(1), seeds)

    def run(given: eco.Inputs, theta: Array, keys: Array) -> Array:
        return jax.lax.map(lambda key: systems.run(system, given, theta, key=key, steps=steps)[1], keys)

    if seeds % jax.local_device_count() == 0:  # as the gradient does
        run = mem.over_devices(run, shared=2, split=1)
    plain, _ = compiled(run, given, theta, keys)
    forward_s = fastest(lambda: plain(given, theta, keys), repeats)
    state = optimise.start(trainer)
    start = clock()
    optimise.step(trainer, state)
    first = clock() - start
    step_s = fastest(lambda: optimise.step(trainer, state)[0], repeats)
    rows = np.ones((1, len(system.outcomes)))
    path = trainer.estimator
    inner = path.init(np.asarray(theta))
    gradient_s = fastest(lambda: path.estimate(keys[0], np.asarray(theta), inner, rows)[0].jacobian, repeats)
    return MetaStep(users, steps, seeds, first - step_s, step_s, gradient_s, forward_s, step_s / forward_s, META_TARGET)


def front(
    points: int = FRONT_POINTS,
    users: int = 300,
    steps: int = 20,
    *,
    meta_steps: int = 15,
    warm_steps: int = 5,
    seeds: int = 2,
) -> Front:
    """Measures a front of eight kinds, and its points one by one: the same training, each from the default levers."""
    built = ecosystem("all", users, 0)
    given = jax.device_put(eco.inputs(built, generated(built.sizes)))
    config = MetaConfig(estimator="pathwise", seeds=seeds, constraint_seeds=seeds, monitor_every=0, keep={})
    key = jax.random.key(0)
    prepared_search = functools.partial(
        pareto.search,
        built,
        given,
        config,
        objectives=FRONT_OBJECTIVES,
        divisions=points - 1,
        smoothing=0.05,
        steps=steps,
        evaluate=evaluation(built, given, steps),
        key=key,
    )
    # Side by side, a single point would be charged for a whole chunk of them.
    single = prepared_search(layout="loop")
    search = prepared_search(layout="vmap") if on_accelerator() else single
    order = pareto.waves(search.grid)
    nothing = pareto.untrained(search)

    def trained(way: pareto.Search, wave: np.ndarray, scale: pareto.Scale | None, length: int) -> pareto.Points:
        begin, weights = pareto.starts(way, wave, nothing), way.grid.weights[wave]
        return pareto.train(way, begin, weights, scale=scale, steps=length, key=key)

    start = clock()
    trained(search, order[0], None, 1)
    first = clock() - start
    start = clock()
    trained(search, order[0], None, 1)
    compile_s = first - (clock() - start)
    if single is not search:
        trained(single, order[0], None, 1)
    start = clock()
    whole, _ = pareto.front(search, steps=meta_steps, warm_steps=warm_steps, seeds=4 * seeds, key=key)
    together_s = clock() - start
    start = clock()
    levers, scale = np.array(nothing.levers), None
    for wave in order:
        for f in wave:  # the scale comes from the corners, as in the front
            levers[f] = trained(single, np.array([f]), scale, meta_steps).levers[0]
        if scale is None:
            theta = np.asarray(vector.flat(given.levers))[None]
            table = pareto.measured(
                search.trainer, np.concatenate([levers[wave], theta]), jax.random.split(jax.random.key(1), 4 * seeds)
            )
            scale = pareto.scale(search, table[:-1].mean(axis=1), table[-1].mean(axis=0))
    apart_s = clock() - start
    theta = np.asarray(vector.flat(given.levers))[None]
    fresh = pareto.measured(
        search.trainer,
        np.concatenate([theta, whole.levers, levers]),
        jax.random.split(jax.random.key(2), 2 * FRONT_SEEDS),
    )
    level = np.broadcast_to(fresh[0].mean(axis=0), fresh[0].shape)
    harms = 100.0 * (
        constraints.harms(fresh[1:], level, search.objectives) - constraints.harms(fresh[0], level, search.objectives)
    )
    reference = harms.mean(axis=1).max(axis=0)
    # Chosen on one half of the seeds, measured on the other.
    volumes = [
        fronts.measured(some[:, :FRONT_SEEDS], some[:, FRONT_SEEDS:], reference=reference)
        for some in (harms[:points], harms[points:])
    ]
    return Front(
        points=points,
        users=users,
        steps=steps,
        meta_steps=meta_steps,
        warm_steps=warm_steps,
        compile_s=compile_s,
        together_s=together_s,
        apart_s=apart_s,
        ratio=together_s / apart_s,
        ratio_compiled=(together_s + compile_s) / (apart_s + compile_s),
        ratio_target=FRONT_RATIO,
        volume=volumes[0].value,
        volume_error=volumes[0].error,
        volume_apart=volumes[1].value,
        volume_apart_error=volumes[1].error,
    )


# ---- printing
# ------------------------------------------------------------------------------------------------------------


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


def _block(size: int) -> str:
    return "all" if size == 0 else f"{size:,}"


def speed_table(speeds: Sequence[Speed]) -> str:
    """Forward cases as text."""
    rows = [
        [
            each.case,
            f"{each.users:,}",
            _block(each.block),
            f"{each.user_steps_per_s / 1e3:,.0f}k",
            "" if each.target is None else f">= {each.target / 1e3:.0f}k",
            f"{1e6 / each.user_steps_per_s:.2f}",
            f"{each.roofline:.1%}",
            f"{each.compile_s:.1f}",
        ]
        for each in speeds
    ]
    return table(
        ["case", "users", "block", "user-steps/s", "target", "us each", "of roofline", "compile s"],
        rows,
    )


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


def meta_table(each: MetaStep) -> str:
    """A meta-step as text."""
    row = [
        f"meta-step, eight kinds, {each.seeds} seeds",
        f"{each.users:,}",
        str(each.steps),
        f"{each.step_s:.2f}",
        f"{each.multiple:.1f}x",
        f"<= {each.target:g}x",
        f"{each.gradient_s / each.forward_s:.1f}x",
        f"{each.forward_s:.2f}",
        f"{each.compile_s:.1f}",
    ]
    head = ["case", "users", "steps", "seconds", "of forward", "target", "gradient alone", "forward s", "compile s"]
    return table(head, [row])


def front_table(each: Front) -> str:
    """A front as text."""
    row = [
        f"front of {each.points} points",
        f"{each.users:,}",
        str(each.steps),
        f"{each.meta_steps}, {each.warm_steps}",
        f"{each.together_s:.0f}",
        f"{each.apart_s:.0f}",
        f"{each.ratio:.2f}x",
        f"{each.ratio_compiled:.2f}x",
        f"<= {each.ratio_target:g}x",
        f"{each.volume:.1f} ± {each.volume_error:.1f}",
        f"{each.volume_apart:.1f} ± {each.volume_apart_error:.1f}",
        f"{each.compile_s:.1f}",
    ]
    head = [
        "case",
        "users",
        "steps",
        "meta-steps",
        "together s",
        "one by one s",
        "ratio",
        "with compiling",
        "target",
        "volume",
        "one by one",
        "compile s",
    ]
    return table(head, [row])


def memory_table(rows: Sequence[dict[str, Any]]) -> str:
    """Memory of the backward pass as text."""
    steps = sorted({row["steps"] for row in rows})
    kept = list(dict.fromkeys(row["kept"] for row in rows))
    size = {(row["kept"], row["steps"]): row["bytes_per_user"] for row in rows}
    body = [[name, *(f"{size[name, length] / 1e3:,.0f} kB" for length in steps)] for name in kept]
    return table(["kept, per user", *(f"T = {length}" for length in steps)], body)


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


def peers_module() -> Any:
    """The folder `peers` beside this file, imported only where it is asked for."""
    folder = str(Path(__file__).resolve().parent)
    if folder not in sys.path:  # it is there where this file is run, but not where it is loaded by its path
        sys.path.insert(0, folder)
    import peers

    return peers


def beside_peers(names: Sequence[str], users: int, steps: int, *, environments: Path | None) -> list[dict[str, Any]]:
    """Measures mamba and peers, prints the table and returns its rows; see `peers/__init__.py`."""
    peers = peers_module()

    def tell(row: Any) -> None:
        print(f"skipped {row.peer}" if row.skipped else f"{row.peer}, {row.work}: done", flush=True)

    rows = peers.compare(names, peers.make_task(users, steps=steps), folder=environments, tell=tell)
    print(f"\n{peers.text(rows, table)}\n")
    return peers.plain(rows)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the benchmark, prints it and returns what `--json` writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, nargs="+", default=None, help="numbers of users (1000 10000 100000)")
    parser.add_argument("--block", type=int, nargs="+", default=None, help="users served at once; 0 is all")
    parser.add_argument(
        "--cases", nargs="+", choices=[*"abcdef", "memory", "compile"], default=None, help="a part only"
    )
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
    # Times of compilation are those of a first run.
    jax.config.update("jax_enable_compilation_cache", False)
    use_all_cores()  # the factorial is spread over them; everything else runs on the first

    users = options.users or ([1000] if options.quick else [1000, 10_000, 100_000])
    parts = options.cases or ([*"abcd", "compile"] if options.quick else [*"abcdef", "memory", "compile"])
    if options.peers is not None and options.cases is None:
        parts = []
    facts = machine()
    for name, value in facts.items():
        print(f"{name:10s} {value}")
    bandwidth = copy_bandwidth()
    print(f"{'copy':10s} {bandwidth / 1e9:.1f} GB/s read and written; {FLOOR_BYTES / 1e3:g} kB a user-step at least")
    print(
        f"{'peers':10s} {'; '.join(f'{name} {rate} user-steps per CPU-second' for name, rate in PUBLISHED.items())}\n"
    )

    speeds, slopes = [], []
    for count in users:
        repeats = options.repeats if count <= 10_000 else max(options.repeats // 2, 1)
        for block in options.block or [default_block(count)]:
            for part, case in zip("abc", CASES, strict=True):
                if part in parts:
                    speeds.append(speed(case, count, block, steps=options.steps, repeats=repeats, bandwidth=bandwidth))
                    print(speed_table(speeds[-1:]).splitlines()[-1], flush=True)
            if "d" in parts:
                slopes.append(slope(count, block, repeats=max(repeats // 2, 1)))
                print(slope_table(slopes[-1:]).splitlines()[-1], flush=True)
    print()
    if speeds:
        print(speed_table(speeds), "\n")
    if slopes:
        print(slope_table(slopes), "\n")
    crossed = factorial() if "e" in parts else None
    if crossed is not None:
        print(factorial_table(crossed), "\n")
    stepped = meta_step(repeats=max(options.repeats // 2, 1)) if "f" in parts else None
    if stepped is not None:
        print(meta_table(stepped), "\n", flush=True)
    together = front() if "f" in parts else None
    if together is not None:
        print(front_table(together), "\n")
    kept = memory() if "memory" in parts else []
    if kept:
        print(memory_table(kept), "\n")
    programs = []
    if "compile" in parts:
        for count in QUICK_COMPILE_KINDS if options.quick else COMPILE_KINDS:
            programs += compiling(count)
            print("\n".join(compile_table(programs[-2:]).splitlines()[-2:]), flush=True)
        print()
        print(compile_table(programs), "\n", flush=True)
    beside = []
    if options.peers is not None:
        whole = 0 if options.users is None and not options.quick else users[0]
        beside = beside_peers(options.peers, whole, options.steps, environments=options.environments)
    result = {
        "machine": facts,
        "copy_bytes_per_s": bandwidth,
        "floor_bytes": FLOOR_BYTES,
        "peers": PUBLISHED,
        "speeds": [asdict(each) for each in speeds],
        "gradients": [asdict(each) for each in slopes],
        "factorial": None if crossed is None else asdict(crossed),
        "meta_step": None if stepped is None else asdict(stepped),
        "front": None if together is None else asdict(together),
        "memory": kept,
        "compile": [asdict(each) for each in programs],
        "beside_peers": beside,
    }
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
        print(f"wrote {options.json}")
    return result


if __name__ == "__main__":
    main()
