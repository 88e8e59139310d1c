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

    steps: int = setting(30, "length of the training; 0 trains nothing", unit="meta-steps", ge=0)
    optimizer: str = setting("adam", "optax optimiser (the library takes any optax transform)", choices=OPTIMIZERS)
    learning_rate: float = setting(
        0.1, "step size of the optimiser at the first meta-step", unit="unconstrained", gt=0, le=10
    )
    decay: float = setting(
        0.1, "share of the learning rate that is left at the last meta-step", unit="0 to 1", gt=0, le=1
    )
    estimator: str = setting(
        "hybrid",
        "how gradients are estimated: pathwise (through the whole rollout), hybrid (pathwise with audits on the sampled model), "
        "forward (few levers), truncated and pes (a window at a time), es (perturbed runs of the sampled model), "
        "control_variate (those less the same of the expected mode, plus pathwise)",
        choices=ESTIMATORS,
    )
    seeds: int = setting(4, "rollouts averaged in each pathwise gradient", unit="rollouts", ge=1)
    window: int = setting(
        10, "steps that the estimators truncated and pes look at in one meta-step", unit="steps", ge=1
    )
    through: dict[str, bool] = setting(
        {}, "algorithm -> false: stops derivatives through what it learns; its levers keep their direct effect"
    )
    only: tuple[str, ...] = setting((), "algorithms whose levers are trained, the others stay; none named trains all")
    monitor_every: int = setting(
        10,
        "meta-steps from one look at the growth of derivatives to the next (hybrid and pathwise); 0 never looks",
        unit="meta-steps",
        ge=0,
    )
    goal: str = setting(
        "ecosystem",
        "who trains for what: ecosystem (all levers for what `meta.minimise` weighs) or own (each team its own levers for "
        "its own metric, `sensitivities.own`)",
        choices=GOALS,
    )
    minimise: dict[str, float] = setting(
        {"toxic_exposure_per_user": 1.0, "misinformation_exposure_per_user": 1.0, "polarisation": 1.0},
        "weight of the relative change of each objective in the scalar that is minimised; negative weights maximise",
        unit="relative",
    )
    keep: dict[str, float] = setting(
        {"engagement_per_user": 0.97},
        "constraints: share of its baseline that each objective must stay above (where more is healthier) or below (where less "
        "is): 0.97 keeps 97 % of engagement, 1.5 allows half as many false removals again",
    )
    # U is a sum of relative changes, a few tenths in all, and a slack of 3 % in engagement is worth about 0.05 of it. Penalties
    # and rates far above that size never settle: levers swing from one side of a limit to the other.
    penalty: float = setting(
        0.2,
        "quadratic penalty of the augmented Lagrangian, for a limit of `keep` that is passed by as much as its slack",
        ge=0,
    )
    dual_rate: float = setting(
        0.003,
        "what a limit of `keep` that is passed by as much as its slack adds to its multiplier in one meta-step",
        ge=0,
    )
    constraint_seeds: int = setting(4, "paired sampled rollouts that measure the constraints", unit="rollouts", ge=1)
    restore: bool = setting(
        True, "where the trained levers pass a limit of `keep`, deploys as much of the way to them as keeps every limit"
    )
    trust_region: float = setting(0.2, "largest move of one lever in one meta-step", unit="unconstrained", gt=0)
    audit_every: int = setting(
        10, "meta-steps from one audit on the sampled model to the next; 0 audits never", unit="meta-steps", ge=0
    )
    audit_pairs: int = setting(
        16,
        "antithetic pairs of an audit, rounded up to a power of two that is at least the number of levers plus four (the weights "
        "of a policy count); the estimator pes takes them as given",
        unit="pairs",
        ge=2,
    )
    audit_seeds: int = setting(
        2,
        "common-random-number seeds of every pair of an audit; one would say nothing of the noise between seeds",
        unit="seeds",
        ge=2,
    )
    audit_sigma: float = setting(
        0.3,
        "size of the perturbations of levers in audits, and by the estimators es, pes and control_variate",
        unit="unconstrained",
        gt=0,
        le=2,
    )
    spread: dict[str, float] = setting(
        {}, "robust training: world parameter -> relative standard deviation of the worlds that levers must do well in"
    )
    worlds: int = setting(8, "worlds sampled in a meta-step of robust training", unit="worlds", ge=1)
    level: float = setting(
        0.75,
        "robust training: share of the better worlds that the conditional value at risk leaves out",
        unit="0 to 1",
        ge=0,
        lt=1,
    )


@dataclass(frozen=True, kw_only=True)
class PerformativityConfig:
    """What comes of teams that retrain, each for its own metric (`sensitivities.own`), on the data that they all bring about."""

    rounds: int = setting(0, "most retrainings of all teams; 0 retrains none", unit="rounds", ge=0)
    steps: int = setting(10, "gradient steps of each team in one retraining", unit="steps", ge=1)
    radius: float = setting(
        1.0, "how far retraining may move a lever from where it is", unit="unconstrained", gt=0, le=5
    )
    cost: float = setting(
        0.005,
        "what a lever that moved by the full `radius` costs its team, as a share of its own metric; half the way costs a quarter; "
        "0 charges nothing, and levers that always improve a metric go all the way",
        unit="share of the metric",
        ge=0,
    )
    seeds: int = setting(4, "rollouts averaged in each gradient", unit="rollouts", ge=1)


@dataclass(frozen=True, kw_only=True)
class SecondOrderConfig:
    """What a training run finds out about its own gradient: how much of it is second-order, and through whom."""

    seeds: int = setting(
        4,
        "rollouts of each derivative with parts held back; 0 leaves the stage out, else at least 2",
        unit="rollouts",
        ge=0,
    )
    audit_seeds: int = setting(
        8,
        "common-random-number seeds of the sampled gradient that all derivatives are compared with; 0 compares with none, else at "
        "least 4",
        unit="seeds",
        ge=0,
    )
    audit_pairs: int = setting(
        16,
        "antithetic pairs of each seed of the sampled gradient, rounded up to a power of two that is at least the number of levers "
        "plus four (the weights of a policy count)",
        unit="pairs",
        ge=2,
    )


@dataclass(frozen=True, kw_only=True)
class ParetoConfig:
    """A front of platforms, one for each way to weigh some objectives, trained together as `meta` says."""

    divisions: int = setting(
        0,
        "steps of the grid of weights; two objectives give one point more; 0 trains no front",
        unit="steps of the grid",
        ge=0,
        le=100,
    )
    objectives: tuple[str, ...] = setting(
        ("toxic_exposure_per_user", "engagement_per_user"),
        "objectives that are traded off, at least two; one that `meta.keep` names is not kept here",
    )
    steps: int = setting(30, "meta-steps of the ends of the front and of its first point", unit="meta-steps", ge=1)
    warm_steps: int = setting(
        6, "meta-steps of every other point of the front, from its neighbour", unit="meta-steps", ge=1
    )
    smoothing: float = setting(
        0.05,
        "smoothing of the largest weighted distance from the ideal, which a point of the front makes least",
        unit="share of the range of an objective",
        gt=0,
        le=10,
    )
    seeds: int = setting(
        16,
        "sampled rollouts of each point of the front that decide which points stand out; these are measured on those of "
        "`evaluation`",
        unit="rollouts",
        ge=2,
    )
