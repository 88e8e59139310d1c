"""Meta-training: levers of all algorithms, trained together against an ecosystem goal.

One meta-step is

1. measure the constraints on the *sampled* model, present levers paired with the baseline levers on the same keys;
2. estimate the gradient of the augmented Lagrangian (by default differentiated through the expected mode and audited on the sampled
   model every R steps, `estimators.hybrid`);
3. step with any optax transform inside a trust region, move the multipliers.

Robust training measures in several worlds and looks at the worst of them; players that train for themselves each follow their own
metric over their own levers, and nothing is summed. `Trainer` is host-side control of jitted pieces; its state is a pytree of
arrays, so that it can be checkpointed and a resumed run is bit-equal to an uninterrupted one.

References:
    Rockafellar and Uryasev 2000 (conditional value at risk); Rosen 1965 (simultaneous gradients of several players).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mamba import ecosystem as eco
from mamba import members as mem
from mamba import passing, policies
from mamba.meta import constraints, estimators, evolution, growth, players, robust, systems, vector
from mamba.meta.estimators import Estimator
from mamba.meta.settings import MetaConfig
from mamba.objectives import NAMES
from mamba.streams import stream
from mamba.types import Array, Levers

Evaluate = Callable[[mem.Members], np.ndarray]
# (objectives [J], baseline [J]) -> (what is minimised, its derivative [J])
Scalar = Callable[[np.ndarray, np.ndarray], tuple[float, np.ndarray]]

_CHUNK = 16  # members of the expected mode that are run at a time
_SMOOTHING = 0.7  # share of the constraint average that stays from one meta-step to the next


class TrainingState(NamedTuple):
    """State of meta-training; every leaf an array.

    Attributes:
        step: int32, meta-steps done.
        levers: [P] unconstrained.
        optimiser: state of the optax transform.
        multipliers: [K].
        violation: [K] smoothed constraint values.
        estimator: state of the estimator.
    """

    step: Array
    levers: Array
    optimiser: Any
    multipliers: Array
    violation: Array
    estimator: Any


class Kernels(NamedTuple):
    """Compiled derivatives of a platform, that several trainings may share.

    Attributes:
        slope: of `derivatives.reverse`.
        follow: of `growth.tangents`.
    """

    slope: Callable[..., Any]
    follow: Callable[..., Any]


class Trainer(NamedTuple):
    """What meta-training needs besides its state.

    Attributes:
        config: settings.
        goal: what to minimise and keep.
        own: each algorithm's own metric, where every team trains for itself; None trains for the goal.
        baseline: default levers, where the baseline is measured.
        inputs: population, parameters, gates.
        estimator: of gradients of outcomes.
        evaluate: outcomes [B, J + A] of members on the sampled model.
        transform: optax transform.
        ecosystem: static description.
        key: typed key of the training seeds.
        scalar: what is minimised instead of the goal's weighted sum; None minimises that.
    """

    config: MetaConfig
    goal: constraints.Goal
    own: players.Own | None
    baseline: Levers
    inputs: eco.Inputs
    estimator: Estimator
    evaluate: Evaluate
    transform: optax.GradientTransformation
    ecosystem: eco.Ecosystem
    key: Array
    scalar: Scalar | None = None


def transform(config: MetaConfig) -> optax.GradientTransformation:
    """The optax transform a configuration names, with its step size decayed along a cosine."""
    schedule = optax.cosine_decay_schedule(config.learning_rate, max(config.steps, 1), alpha=config.decay)
    return getattr(optax, config.optimizer)(schedule)


def estimator_of(
    ecosystem: eco.Ecosystem,
    inputs: eco.Inputs,
    config: MetaConfig,
    *,
    steps: int,
    evaluate: Evaluate,
    key: Array,
    kernels: Kernels | None = None,
) -> Estimator:
    """The estimator that a configuration names.

    Args:
        ecosystem: static description.
        inputs: population, parameters, gates.
        config: settings.
        steps: T.
        evaluate: outcomes [B, J + A] of members on the sampled model.
        key: typed key of lives that go on from estimate to estimate.
        kernels: compiled derivatives of the same platform, for `hybrid` and `pathwise`; None compiles them.

    Raises:
        ValueError: settings that contradict each other.
    """
    expected = systems.platform(ecosystem)
    closed = [f"{passing.LEARNER}{name}" for name, open_ in config.through.items() if not open_]
    for name in config.through:
        if name not in ecosystem.names:
            raise ValueError(f"through: no algorithm is called '{name}'. Known: {', '.join(ecosystem.names)}")
    known = passing.shares(ecosystem, closed)
    design = {"pairs": config.audit_pairs, "sigma": config.audit_sigma, "keys": config.audit_seeds}
    measure = evolution.measure(evaluate, inputs)
    watched = growth.guarded(
        estimators.pathwise(
            expected, inputs, steps=steps, keys=config.seeds, slope=None if kernels is None else kernels.slope
        ),
        expected,
        inputs,
        steps=steps,
        every=config.monitor_every,
        shares=known,
        follow=None if kernels is None else kernels.follow,
    )
    if config.estimator in ("pathwise", "hybrid"):
        if config.estimator == "pathwise" or config.audit_every == 0:
            return watched
        rows = len(ecosystem.names) if config.goal == "own" else 1
        count = len(expected.outcomes)
        return estimators.hybrid(watched, measure, every=config.audit_every, outcomes=count, n_rows=rows, **design)
    if closed:
        raise ValueError(f"through: estimator {config.estimator} cannot stop derivatives: use hybrid or pathwise")
    if config.estimator == "control_variate":
        path = estimators.pathwise(expected, inputs, steps=steps, keys=config.seeds)
        return estimators.control_variate(measure, _expected(ecosystem, inputs, steps=steps), path, **design)
    if config.estimator == "es":
        return estimators.es(measure, **design)
    if config.estimator == "forward":
        return estimators.forward(expected, inputs, steps=steps, keys=config.seeds)
    if steps % config.window:
        raise ValueError(
            f"window = {config.window} must divide the {steps} steps of a rollout, which is how long a life is"
        )
    life = {"window": config.window, "horizon": steps, "key": key}
    if config.estimator == "truncated":
        return estimators.truncated(expected, inputs, keys=config.seeds, **life)
    sampled = systems.platform(ecosystem, mode="sampled")
    return estimators.pes(sampled, inputs, sigma=config.audit_sigma, pairs=config.audit_pairs, **life)


def _expected(ecosystem: eco.Ecosystem, inputs: eco.Inputs, *, steps: int) -> evolution.Measure:
    """Outcomes of the expected mode, on the perturbations and keys of the sampled one."""
    measured = functools.partial(systems.outcomes, ecosystem)
    run = jax.jit(mem.evaluator(ecosystem, steps=steps, mode="expected", layout=mem.layout(), of=measured))
    return evolution.measure(lambda members: mem.in_chunks(run, inputs, members, chunk=_CHUNK), inputs)


def trainer(
    ecosystem: eco.Ecosystem,
    inputs: eco.Inputs,
    config: MetaConfig,
    *,
    steps: int,
    evaluate: Evaluate,
    key: Array,
    own: players.Own | None = None,
    optimiser: optax.GradientTransformation | None = None,
    estimator: Estimator | None = None,
    kernels: Kernels | None = None,
) -> Trainer:
    """Prepares meta-training.

    Args:
        ecosystem: static description.
        inputs: population, parameters and the levers to start from.
        config: settings.
        steps: T, steps of a rollout.
        evaluate: outcomes [B, J + A] of members on the sampled model.
        key: typed key of the training seeds.
        own: each algorithm's own metric, for `config.goal = "own"`; None takes own losses.
        optimiser: any optax transform; None takes the one that `config` names.
        estimator: any estimator of gradients; None takes the one that `config` names.
        kernels: see `estimator_of`.

    Returns:
        The trainer.

    Raises:
        ValueError: an unknown objective in the goal, or settings that contradict each other.
    """
    if estimator is None:
        lives = stream(key, "lives")
        estimator = estimator_of(ecosystem, inputs, config, steps=steps, evaluate=evaluate, key=lives, kernels=kernels)
    for name in config.only:
        known = (*ecosystem.names, *([] if ecosystem.policy is None else [policies.NAME]))
        if name not in known:
            raise ValueError(f"only: no algorithm is called '{name}'. Known: {', '.join(known)}")
    if config.goal != "own":
        own = None
    elif own is None:
        own = players.own_metrics(ecosystem)
    if config.spread and config.estimator in ("truncated", "pes"):
        raise ValueError(
            f"spread: estimator {config.estimator} follows one long life, in one world: use hybrid, pathwise, forward or es"
        )
    if config.spread:
        robust.parameter_samples(key, inputs.parameters, spread=config.spread, count=1)  # refuses what cannot be varied
    return Trainer(
        config=config,
        goal=constraints.goal(config.minimise, config.keep),
        own=own,
        baseline=inputs.levers,
        inputs=inputs,
        estimator=estimator,
        evaluate=evaluate,
        transform=transform(config) if optimiser is None else optimiser,
        ecosystem=ecosystem,
        key=key,
    )


def start(trainer: Trainer) -> TrainingState:
    """State before the first meta-step."""
    point, kept = vector.flat(trainer.baseline), len(trainer.goal.kept)
    return TrainingState(
        step=jnp.int32(0),
        levers=point,
        optimiser=trainer.transform.init(point),
        multipliers=jnp.zeros(kept),
        violation=jnp.zeros(kept),
        estimator=trainer.estimator.init(np.asarray(point)),
    )


def levers_of(trainer: Trainer, state: TrainingState) -> Levers:
    """Present levers as a tree."""
    return vector.unflat(trainer.baseline)(state.levers)


class Report(NamedTuple):
    """Diagnostics of one meta-step.

    Attributes:
        values: [J] objectives on the sampled model before the step, in the worst worlds where training is robust.
        baseline: [J] baseline on the same keys.
        utility: weighted relative change.
        violation: [K] constraint values of this step.
        gradient: [P] used.
        error: [P] its standard errors.
        told: what the estimator had to say; what it says of every row is that of each lever's own row here, [P].
    """

    values: np.ndarray
    baseline: np.ndarray
    utility: float
    violation: np.ndarray
    gradient: np.ndarray
    error: np.ndarray
    told: dict[str, Any]


def step(trainer: Trainer, state: TrainingState) -> tuple[TrainingState, Report]:
    """One meta-step; see the module docstring.

    Returns:
        `(state, report)`.
    """
    key = jax.random.fold_in(trainer.key, int(state.step))
    seen = measured(trainer, state, key)
    aim = aimed(trainer, state, seen.values, seen.baseline, violation=seen.violation)
    seed = stream(key, "gradient")
    found, inner = trainer.estimator.estimate(seed, np.asarray(state.levers), state.estimator, aim.rows, seen.worlds)
    return moved(trainer, state, aim, found, inner)


class Aim(NamedTuple):
    """What a meta-step wants.

    Attributes:
        values: [J + A] outcomes of the present levers.
        baseline: [J + A] outcomes of the baseline.
        violation: [K] constraint values of this step.
        smooth: [K] with those of the steps before.
        rows: [R, J + A] weights of outcomes to be differentiated: one row for the goal, or one for every player.
        player: [P] row that each lever follows; `vector.NOBODY` for levers that stay.
    """

    values: np.ndarray
    baseline: np.ndarray
    violation: np.ndarray
    smooth: np.ndarray
    rows: np.ndarray
    player: np.ndarray


def aimed(
    trainer: Trainer,
    state: TrainingState,
    values: np.ndarray,
    baseline: np.ndarray,
    *,
    violation: np.ndarray | None = None,
) -> Aim:
    """The direction of a meta-step in the space of outcomes.

    Args:
        trainer: see `Trainer`.
        state: before the step.
        values: [J + A] outcomes of the present levers.
        baseline: [J + A] outcomes of the baseline on the same keys.
        violation: [K] constraint values; None takes those of these outcomes.

    Raises:
        ZeroBaseline: an objective is 0 at the baseline, so that a share of it cannot be kept nor a relative change be minimised.
    """
    config, goal = trainer.config, trainer.goal
    before = baseline[: len(NAMES)]
    constraints.check(before, goal)
    if violation is None:
        violation = constraints.violations(values[: len(NAMES)], before, goal)
    share = _SMOOTHING if int(state.step) > 0 else 0.0
    remembered = np.asarray(state.violation, np.float64)
    # One that is not finite would stay in the average, and in the multipliers, for good.
    smooth = np.where(np.isfinite(violation), share * remembered + (1.0 - share) * violation, remembered)
    owner = vector.owner(trainer.ecosystem, trainer.baseline)
    stays = np.zeros(len(owner), bool)
    if config.only:
        stays = ~np.isin(owner, [_owner(trainer.ecosystem, name) for name in config.only])
    player = np.where(stays, vector.NOBODY, 0)
    if trainer.own is not None:
        rows = players.loss_weights(trainer.own, baseline[None])
        player = np.where(stays, vector.NOBODY, players.players_of(owner, rows))
        return Aim(values, baseline, violation, smooth, rows, player)
    rows = np.zeros((1, len(baseline)))
    rows[0, : len(NAMES)] = constraints.slope(
        smooth,
        before,
        goal,
        multipliers=np.asarray(state.multipliers, np.float64),
        penalty=config.penalty,
        utility=None if trainer.scalar is None else trainer.scalar(values[: len(NAMES)], before)[1],
    )
    return Aim(values, baseline, violation, smooth, rows, player)


def _owner(ecosystem: eco.Ecosystem, name: str) -> int:
    return vector.NOBODY if name == policies.NAME else ecosystem.names.index(name)


def moved(
    trainer: Trainer, state: TrainingState, aim: Aim, found: estimators.Gradient, inner: Any
) -> tuple[TrainingState, Report]:
    """The step itself: levers by the optax transform inside the trust region, multipliers by the constraint values.

    Args:
        trainer: see `Trainer`.
        state: before.
        aim: of this step.
        found: gradient of `aim.rows`.
        inner: the estimator's state after it.
    """
    config = trainer.config
    entries, stays = np.arange(len(aim.player)), aim.player == vector.NOBODY
    gradient = np.where(stays, 0.0, found.jacobian[aim.player, entries])

    def own(value: np.ndarray) -> np.ndarray:
        return np.where(stays, np.nan, value[aim.player, entries])

    shape = found.jacobian.shape
    told = {name: own(value) if np.shape(value) == shape else value for name, value in found.told.items()}
    if "audited" in told:
        told["cosine"] = estimators.cosine(told["pathwise"][~stays], told["audited"][~stays])
    told["skipped"] = int(not np.all(np.isfinite(gradient)))
    change, optimiser = jnp.zeros_like(state.levers), state.optimiser
    if not told["skipped"]:  # one derivative that is not finite would stay in the optimiser's averages for good
        change, optimiser = trainer.transform.update(jnp.asarray(gradient, jnp.float32), optimiser, state.levers)
    bounded = jnp.clip(jnp.asarray(change), -config.trust_region, config.trust_region)
    bounded = jnp.where(stays, 0.0, bounded)  # some transforms move what has no gradient, too
    multipliers = np.asarray(state.multipliers, np.float64)
    new = TrainingState(
        step=state.step + 1,
        levers=state.levers + bounded,
        optimiser=optimiser,
        multipliers=jnp.asarray(np.maximum(0.0, multipliers + config.dual_rate * aim.smooth), jnp.float32),
        violation=jnp.asarray(aim.smooth, jnp.float32),
        estimator=inner,
    )
    seen, before = aim.values[: len(NAMES)], aim.baseline[: len(NAMES)]
    error = own(found.error)
    return new, Report(seen, before, utility(trainer, seen, before), aim.violation, gradient, error, told)


def utility(trainer: Trainer, values: np.ndarray, baseline: np.ndarray) -> float:
    """What is minimised, of objectives [J]."""
    if trainer.scalar is not None:
        return trainer.scalar(values, baseline)[0]
    return constraints.utility(values, baseline, trainer.goal)


class Measured(NamedTuple):
    """What a meta-step measured on the sampled model.

    Attributes:
        values: [J + A] outcomes of the present levers; in robust training those of the worst worlds.
        baseline: [J + A] outcomes of the baseline on the same keys.
        violation: [K] constraint values; in robust training the conditional value at risk of each over all worlds.
        error: [K] their standard errors, by the jackknife over paired seeds; 0 where one seed leaves nothing to compare.
        worlds: those to differentiate in; None for that of the inputs.
    """

    values: np.ndarray
    baseline: np.ndarray
    violation: np.ndarray
    error: np.ndarray
    worlds: estimators.Worlds | None


def measured(trainer: Trainer, state: TrainingState, key: Array) -> Measured:
    """Outcomes of the present levers and of the baseline.

    Robust training measures in `worlds` samples of the world's parameters and goes on with the worst of them, by what the present
    levers change there. Constraints are those of their own worst worlds; their derivative is taken in the former.
    """
    config = trainer.config
    count = config.worlds if config.spread else 1
    paired = jax.random.split(stream(key, "constraints"), config.constraint_seeds)
    keys = jnp.tile(paired, count)
    samples = each = None
    if config.spread:
        parameters = trainer.inputs.parameters
        samples = robust.parameter_samples(stream(key, "worlds"), parameters, spread=config.spread, count=count)
        each = jax.tree.map(lambda leaf: jnp.repeat(leaf, config.constraint_seeds), samples)
    groups = [
        mem.repeat(
            trainer.ecosystem,
            which,
            keys,
            gates=trainer.inputs.gates,
            learning=trainer.inputs.learning,
            parameters=each,
        )
        for which in (levers_of(trainer, state), trainer.baseline)
    ]
    results = np.asarray(trainer.evaluate(mem.join(*groups)), np.float64)
    each_seed = results.reshape(2, count, config.constraint_seeds, -1)
    table = each_seed.mean(axis=2)
    violation, error = _violations(trainer, each_seed[..., : len(NAMES)])
    if samples is None:
        return Measured(table[0, 0], table[1, 0], violation, error, None)
    common, changed = _around(table)
    before = common[: len(NAMES)]
    utilities = np.array([utility(trainer, each, before) for each in changed[:, : len(NAMES)]])
    weights = robust.cvar(utilities, config.level)[1]
    worst = np.flatnonzero(weights > 0)
    chosen = estimators.Worlds(jax.tree.map(lambda leaf: leaf[worst], samples), weights[worst])
    return Measured(weights @ changed, common, violation, error, chosen)


def _around(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes [2, W, J] of present and baseline levers as one baseline [J] and changes in every world around it, [W, J].

    Then the scale of relative changes, and so what is differentiated, is the same.
    """
    common = table[1].mean(axis=0)
    return common, common + table[0] - table[1]


def _violations(trainer: Trainer, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Constraint values [K] of present against baseline levers, [2, W, S, J], and their standard errors."""

    def of(table: np.ndarray) -> np.ndarray:
        if not trainer.config.spread:
            return constraints.violations(table[0, 0], table[1, 0], trainer.goal)
        before, changed = _around(table)
        each = np.array([constraints.violations(one, before, trainer.goal) for one in changed])  # [W, K]
        return np.array([robust.cvar(column, trainer.config.level)[0] for column in each.T])

    count, mean = values.shape[2], values.mean(axis=2)
    whole = of(mean)
    if count == 1:
        return whole, np.zeros_like(whole)
    without = np.stack([of((count * mean - values[:, :, s]) / (count - 1)) for s in range(count)])
    return whole, np.sqrt((count - 1) * without.var(axis=0))
