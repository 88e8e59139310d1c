"""Settings of meta-training."""

from __future__ import annotations

from dataclasses import dataclass

from mamba.fields import setting

ESTIMATORS = ("hybrid", "pathwise", "forward", "truncated", "es", "control_variate", "pes")
GOALS = ("ecosystem", "own")
OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop", "lion", "adabelief")


@dataclass(frozen=True, kw_only=True)
class MetaConfig:
    """How levers are trained."""

    steps: int = setting(30, "meta-steps; 0 trains nothing", unit="steps", ge=0)
    optimizer: str = setting("adam", "optax optimiser (the library takes any optax transform)", choices=OPTIMIZERS)
    learning_rate: float = setting(0.1, "step size in unconstrained lever units", gt=0, le=10)
    decay: float = setting(0.1, "share of the step size that is left at the end", unit="0 to 1", gt=0, le=1)
    estimator: str = setting(
        "hybrid",
        "how gradients are estimated: pathwise (through the whole rollout), hybrid (pathwise with audits on the sampled model), "
        "forward (few levers), truncated and pes (a window at a time), es (perturbed runs of the sampled model), "
        "control_variate (those less the same of the expected mode, plus pathwise)",
        choices=ESTIMATORS,
    )
    seeds: int = setting(4, "rollouts averaged in each pathwise gradient", ge=1)
    window: int = setting(10, "window of the estimators truncated and pes", unit="steps", ge=1)
    through: dict[str, bool] = setting(
        {}, "algorithm: false stops derivatives through what that algorithm learns; its levers keep their direct effect"
    )
    only: tuple[str, ...] = setting((), "algorithms whose levers are trained, the others stay; none named trains all")
    monitor_every: int = setting(
        10,
        "meta-steps from one look at the growth of derivatives to the next (hybrid and pathwise); 0 never looks",
        ge=0,
    )
    goal: str = setting(
        "ecosystem",
        "who trains for what: ecosystem (all levers for the goal below) or own (each team its own levers for its own metric, "
        "`sensitivities.own`)",
        choices=GOALS,
    )
    minimise: dict[str, float] = setting(
        {"toxic_exposure_per_user": 1.0, "misinformation_exposure_per_user": 1.0, "polarisation": 1.0},
        "weight of the relative change of each objective in the scalar that is minimised; negative weights maximise",
    )
    keep: dict[str, float] = setting(
        {"engagement_per_user": 0.97},
        "constraints: share of its baseline that each objective must stay above (where more is healthier) or below (where less "
        "is): 0.97 keeps 97 % of engagement, 1.5 allows half as many false removals again",
    )
    # U is a sum of relative changes, a few tenths in all, and a slack of 3 % in engagement is worth about 0.05 of it. Penalties
    # and rates far above that size never settle: levers swing from one side of a limit to the other.
    penalty: float = setting(
        0.2, "quadratic penalty of the augmented Lagrangian, for a limit that is passed by as much as its slack", ge=0
    )
    dual_rate: float = setting(0.003, "what such a limit adds to its multiplier in one meta-step", ge=0)
    constraint_seeds: int = setting(4, "paired sampled rollouts that measure the constraints", ge=1)
    restore: bool = setting(
        True, "where the trained levers pass a limit of `keep`, deploy as much of the way to them as keeps every limit"
    )
    trust_region: float = setting(0.2, "largest move of one lever in one meta-step", unit="unconstrained", gt=0)
    audit_every: int = setting(10, "meta-steps between audits on the sampled model; 0 audits never", ge=0)
    audit_pairs: int = setting(
        16,
        "antithetic pairs of an audit, rounded up to a power of two that is at least the number of levers plus four (the weights "
        "of a policy count)",
        ge=2,
    )
    audit_seeds: int = setting(
        2, "common-random-number seeds of every pair; one would say nothing of the noise between seeds", ge=2
    )
    audit_sigma: float = setting(0.3, "perturbation of the audit", unit="unconstrained", gt=0, le=2)
    spread: dict[str, float] = setting(
        {}, "robust training: world parameter -> relative standard deviation of the worlds that levers must do well in"
    )
    worlds: int = setting(8, "worlds sampled in a meta-step of robust training", ge=1)
    level: float = setting(
        0.75, "conditional value at risk: the share of better worlds that is left out of account", ge=0, lt=1
    )


@dataclass(frozen=True, kw_only=True)
class PerformativityConfig:
    """What comes of teams that retrain, each for its own metric (`sensitivities.own`), on the data that they all bring about."""

    rounds: int = setting(0, "most retrainings of all teams; 0 skips them", ge=0)
    steps: int = setting(10, "gradient steps of each team and retraining", ge=1)
    radius: float = setting(1.0, "how far levers may move from where they are", unit="unconstrained", gt=0, le=5)
    cost: float = setting(
        0.005,
        "what a lever at full `radius` costs its team, as a share of its own metric; half the way costs a quarter; "
        "0 charges nothing, and levers that always improve a metric go all the way",
        ge=0,
    )
    seeds: int = setting(4, "rollouts averaged in each gradient", ge=1)


@dataclass(frozen=True, kw_only=True)
class SecondOrderConfig:
    """What a training run finds out about its own gradient: how much of it is second-order, and through whom."""

    seeds: int = setting(
        4, "rollouts of each derivative with parts held back; 0 leaves the stage out, else at least 2", ge=0
    )
    audit_seeds: int = setting(
        8, "common-random-number seeds of the sampled gradient that all are compared with; 0 compares with none", ge=0
    )
    audit_pairs: int = setting(16, "antithetic pairs of each of those seeds, rounded up to the next power of two", ge=2)


@dataclass(frozen=True, kw_only=True)
class ParetoConfig:
    """A front of platforms, one for each way to weigh some objectives, trained together as `meta` says."""

    divisions: int = setting(
        0, "of the grid of weights: one more than this many points for two objectives; 0 trains no front", ge=0, le=100
    )
    objectives: tuple[str, ...] = setting(
        ("toxic_exposure_per_user", "engagement_per_user"),
        "objectives that are traded off, at least two; where `meta.keep` names one, it is not kept here",
    )
    steps: int = setting(30, "meta-steps of the ends of the front and of its first point", ge=1)
    warm_steps: int = setting(6, "meta-steps of every other point, from its neighbour", ge=1)
    smoothing: float = setting(
        0.05, "of the largest weighted distance from the ideal", unit="share of the range of an objective", gt=0, le=10
    )
    seeds: int = setting(
        16,
        "sampled rollouts of each point that decide which points stand out; they are measured on those of `evaluation`",
        ge=2,
    )
