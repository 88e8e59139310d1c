"""What training costs: a meta-step against a forward rollout, and a Pareto front trained together against its points one by one.

The rollouts of a meta-step are spread over all devices (on a CPU every core is one), those that it is compared with likewise.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np

from benchmarks.measuring import clock, compiled, counted, fastest, on_accelerator, table
from benchmarks.platforms import ecosystem
from mamba import ecosystem as eco
from mamba import members as mem
from mamba.meta import constraints, fronts, optimise, pareto, systems, vector
from mamba.meta.settings import MetaConfig
from mamba.scenarios.populations import generated
from mamba.types import Array

META_TARGET = 8.0  # times a forward rollout of the same seeds
POINTS = 32  # of a front
RATIO_TARGET = 0.8  # of the cost of the same points one by one
OBJECTIVES = ("toxic_exposure_per_user", "engagement_per_user")
SEEDS = 16  # fresh rollouts that every point of a front is measured with


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
    forward_s = counted(fastest(lambda: plain(given, theta, keys), repeats))
    state = optimise.start(trainer)
    start = clock()
    optimise.step(trainer, state)
    first = clock() - start
    step_s = counted(fastest(lambda: optimise.step(trainer, state)[0], repeats))
    rows = np.ones((1, len(system.outcomes)))
    path = trainer.estimator
    inner = path.init(np.asarray(theta))
    gradient_s = counted(fastest(lambda: path.estimate(keys[0], np.asarray(theta), inner, rows)[0].jacobian, repeats))
    return MetaStep(users, steps, seeds, first - step_s, step_s, gradient_s, forward_s, step_s / forward_s, META_TARGET)


def front(
    points: int = POINTS,
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
        objectives=OBJECTIVES,
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
        jax.random.split(jax.random.key(2), 2 * SEEDS),
    )
    level = np.broadcast_to(fresh[0].mean(axis=0), fresh[0].shape)
    harms = 100.0 * (
        constraints.harms(fresh[1:], level, search.objectives) - constraints.harms(fresh[0], level, search.objectives)
    )
    reference = harms.mean(axis=1).max(axis=0)
    # Chosen on one half of the seeds, measured on the other.
    volumes = [
        fronts.measured(some[:, :SEEDS], some[:, SEEDS:], reference=reference)
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
        ratio_target=RATIO_TARGET,
        volume=volumes[0].value,
        volume_error=volumes[0].error,
        volume_apart=volumes[1].value,
        volume_apart_error=volumes[1].error,
    )


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
