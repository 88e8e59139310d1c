"""Meta-training: levers of all algorithms, trained together against an ecosystem goal.

One meta-step is

1. measure the constraints on the *sampled* model, present levers paired with the baseline levers on the same keys;
2. every R steps, audit: the Jacobian of all objectives on the sampled model (`estimators.audit`);
3. pathwise gradient of the augmented Lagrangian through the expected mode;
4. combine it with the audit lever by lever, step with any optax transform inside a trust region, move the multipliers.

`Trainer` is host-side control of jitted pieces; its state is a pytree of arrays, so that it can be checkpointed and a
resumed run is bit-equal to an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mamba import ecosystem as eco
from mamba import members as mem
from mamba.meta import constraints, estimators
from mamba.meta.settings import MetaConfig
from mamba.objectives import NAMES
from mamba.streams import stream
from mamba.types import Array, Levers

Evaluate = Callable[[mem.Members], np.ndarray]

_DOUBT = 4.0  # two standard errors, squared
_SMOOTHING = 0.7  # share of the constraint average that stays from one meta-step to the next


class TrainingState(NamedTuple):
    """State of meta-training; every leaf an array.

    Attributes:
        step: int32, meta-steps done.
        levers: [P] unconstrained.
        optimiser: state of the optax transform.
        multipliers: [K].
        violation: [K] smoothed constraint values.
        bias_squared: [P] smoothed squared bias of the pathwise gradient, for a goal gradient of unit norm.
        jacobian: [J, P] of the last audit.
        jacobian_covariance: [J, J] of the errors of one lever's column.
        audited: int32, 1 once an audit exists.
    """

    step: Array
    levers: Array
    optimiser: Any
    multipliers: Array
    violation: Array
    bias_squared: Array
    jacobian: Array
    jacobian_covariance: Array
    audited: Array


class Trainer(NamedTuple):
    """What meta-training needs besides its state.

    Attributes:
        config: settings.
        goal: what to minimise and keep.
        baseline: default levers, where the baseline is measured.
        inputs: population, parameters, gates.
        gradient: jitted `estimators.pathwise`.
        evaluate: objectives of members on the sampled model.
        transform: optax transform.
        ecosystem: static description.
        key: typed key of the training seeds.
    """

    config: MetaConfig
    goal: constraints.Goal
    baseline: Levers
    inputs: eco.Inputs
    gradient: Callable[..., tuple[Array, estimators.Slope]]
    evaluate: Evaluate
    transform: optax.GradientTransformation
    ecosystem: eco.Ecosystem
    key: Array


def transform(config: MetaConfig) -> optax.GradientTransformation:
    """The optax transform a configuration names, with its step size decayed along a cosine."""
    schedule = optax.cosine_decay_schedule(config.learning_rate, max(config.steps, 1), alpha=config.decay)
    return getattr(optax, config.optimizer)(schedule)


def trainer(
    ecosystem: eco.Ecosystem,
    inputs: eco.Inputs,
    config: MetaConfig,
    *,
    steps: int,
    evaluate: Evaluate,
    key: Array,
    optimiser: optax.GradientTransformation | None = None,
) -> Trainer:
    """Prepares meta-training.

    Args:
        ecosystem: static description.
        inputs: population, parameters and the levers to start from.
        config: settings.
        steps: T, steps of a rollout.
        evaluate: objectives [B, J] of members on the sampled model.
        key: typed key of the training seeds.
        optimiser: any optax transform; None takes the one that `config` names.

    Returns:
        The trainer.

    Raises:
        ValueError: an unknown objective in the goal.
    """
    return Trainer(
        config=config,
        goal=constraints.goal(config.minimise, config.keep),
        baseline=inputs.levers,
        inputs=inputs,
        gradient=jax.jit(estimators.pathwise(ecosystem, steps=steps)),
        evaluate=evaluate,
        transform=transform(config) if optimiser is None else optimiser,
        ecosystem=ecosystem,
        key=key,
    )


def start(trainer: Trainer) -> TrainingState:
    """State before the first meta-step."""
    levers = estimators.flat(trainer.baseline)
    n_levers, kept = levers.size, len(trainer.goal.kept)
    jacobian = jnp.zeros((len(NAMES), n_levers))
    return TrainingState(
        step=jnp.int32(0),
        levers=levers,
        optimiser=trainer.transform.init(levers),
        multipliers=jnp.zeros(kept),
        violation=jnp.zeros(kept),
        bias_squared=jnp.zeros(n_levers),
        jacobian=jacobian,
        jacobian_covariance=jnp.zeros((len(NAMES), len(NAMES))),
        audited=jnp.int32(0),
    )


def levers_of(trainer: Trainer, state: TrainingState) -> Levers:
    """Present levers as a tree."""
    return estimators.unflat(trainer.baseline)(state.levers)


class Report(NamedTuple):
    """Diagnostics of one meta-step.

    Attributes:
        values: [J] objectives on the sampled model before the step.
        baseline: [J] baseline on the same keys.
        utility: weighted relative change.
        violation: [K] constraint values of this step.
        gradient: [P] used.
        pathwise: [P] pathwise gradient of the Lagrangian.
        audited: [P] audited gradient, NaN before the first audit.
        audited_error: [P] its standard errors.
        weight: [P] weight of the pathwise part.
        fresh_audit: whether this step made an audit.
        cosine: cosine between pathwise and audited gradient, NaN before the first audit.
    """

    values: np.ndarray
    baseline: np.ndarray
    utility: float
    violation: np.ndarray
    gradient: np.ndarray
    pathwise: np.ndarray
    audited: np.ndarray
    audited_error: np.ndarray
    weight: np.ndarray
    fresh_audit: bool
    cosine: float


def step(trainer: Trainer, state: TrainingState) -> tuple[TrainingState, Report]:
    """One meta-step; see the module docstring.

    Returns:
        `(state, report)`.
    """
    config, goal, ecosystem = trainer.config, trainer.goal, trainer.ecosystem
    index = int(state.step)
    levers = levers_of(trainer, state)
    key = jax.random.fold_in(trainer.key, index)

    audits = config.audit_every > 0 and index % config.audit_every == 0
    groups = []
    paired = jax.random.split(stream(key, "constraints"), config.constraint_seeds)
    for each in (levers, trainer.baseline):
        groups.append(mem.repeat(ecosystem, each, paired, gates=trainer.inputs.gates, learning=trainer.inputs.learning))
    audit_keys = jax.random.split(stream(key, "audit"), config.audit_seeds)
    if audits:
        here = replace(trainer.inputs, levers=levers)
        groups.append(estimators.perturbed(here, audit_keys, pairs=config.audit_pairs, sigma=config.audit_sigma))
    results = trainer.evaluate(mem.join(*groups))
    n = config.constraint_seeds
    values = results[:n].mean(axis=0, dtype=np.float64)
    baseline = results[n : 2 * n].mean(axis=0, dtype=np.float64)

    violation = constraints.violations(values, baseline, goal)
    kept_share = _SMOOTHING if index > 0 else 0.0
    smooth = kept_share * np.asarray(state.violation, np.float64) + (1.0 - kept_share) * violation
    multipliers = np.asarray(state.multipliers, np.float64)
    weights = constraints.slope(smooth, baseline, goal, multipliers=multipliers, penalty=config.penalty)

    keys = jax.random.split(stream(key, "pathwise"), config.seeds)
    _, path = trainer.gradient(replace(trainer.inputs, levers=levers), jnp.asarray(weights, jnp.float32), keys)
    path_value, path_error = np.asarray(path.value, np.float64), np.asarray(path.error, np.float64)
    path = estimators.Slope(path_value, path_error)

    jacobian = np.asarray(state.jacobian, np.float64)
    covariance = np.asarray(state.jacobian_covariance, np.float64)
    bias_squared = np.asarray(state.bias_squared, np.float64)
    if audits:
        checked = estimators.audit(
            results[2 * n :],
            n_levers=state.levers.size,
            n_keys=config.audit_seeds,
            pairs=config.audit_pairs,
            sigma=config.audit_sigma,
        )
        jacobian, covariance = checked.jacobian, checked.covariance
    gradient, trust = path_value, np.ones_like(path_value)
    audited = np.full_like(path_value, np.nan)
    audited_error = np.full_like(path_value, np.nan)
    agreement = float("nan")
    if audits or int(state.audited):
        audited = weights @ jacobian
        audited_error = np.full_like(path_value, np.sqrt(max(weights @ covariance @ weights, 0.0)))
        slope = estimators.Slope(audited, audited_error)
        norm = max(float(np.linalg.norm(path_value)), 1e-12)
        if audits:
            spread = np.where(np.isfinite(path_error), path_error, 0.0) ** 2 + audited_error**2
            # A difference counts as bias only beyond what noise alone would show: an unlucky audit must not take over.
            seen = np.maximum((audited - path_value) ** 2 - _DOUBT * spread, 0.0) / norm**2
            bias_squared = 0.5 * bias_squared + 0.5 * seen if int(state.audited) else seen
        agreement = estimators.cosine(path_value, audited)
        gradient, trust = estimators.combine(path, slope, bias_squared * norm**2)

    change, optimiser = trainer.transform.update(jnp.asarray(gradient, jnp.float32), state.optimiser, state.levers)
    bounded = jnp.clip(jnp.asarray(change), -config.trust_region, config.trust_region)
    new = TrainingState(
        step=state.step + 1,
        levers=state.levers + bounded,
        optimiser=optimiser,
        multipliers=jnp.asarray(np.maximum(0.0, multipliers + config.dual_rate * smooth), jnp.float32),
        violation=jnp.asarray(smooth, jnp.float32),
        bias_squared=jnp.asarray(bias_squared, jnp.float32),
        jacobian=jnp.asarray(jacobian, jnp.float32),
        jacobian_covariance=jnp.asarray(covariance, jnp.float32),
        audited=jnp.int32(1) if audits else state.audited,
    )
    report = Report(
        values, baseline, constraints.utility(values, baseline, goal), violation, gradient, path_value, audited,
        audited_error, trust, audits, agreement,
    )  # fmt: skip
    return new, report
