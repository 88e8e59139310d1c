"""Settings of the interaction analysis, and of what `mamba-eco analyse` adds to it."""

from __future__ import annotations

from dataclasses import dataclass

from mamba.fields import setting


@dataclass(frozen=True, kw_only=True)
class InteractionsConfig:
    """Which algorithms reinforce, cancel or reverse each other: a factorial over gates on the sampled model."""

    seeds: int = setting(
        8, "paired seeds of the analysis; 0 skips it, else at least 2 for an interval", unit="seeds", ge=0
    )
    warm_up: int = setting(
        20,
        "steps that the whole platform runs before algorithms are switched off; an algorithm that is frozen learned from these",
        unit="steps",
        ge=0,
    )
    every: int = setting(
        0,
        "meta-steps after which `mamba-eco run` analyses the levers as they are then, besides the default ones: the whole "
        "factorial again after the same warm-up, also after the last meta-step; 0 does not",
        unit="meta-steps",
        ge=0,
    )
    windows: int = setting(
        4, "parts of the rollout in which interactions are also measured; 0 measures the whole only", unit="parts", ge=0
    )
    confidence: float = setting(0.95, "confidence level of intervals", unit="0 to 1", gt=0.5, lt=1)
    false_discovery_rate: float = setting(
        0.05, "Benjamini-Hochberg level over all pairs and objectives", unit="0 to 1", gt=0, lt=1
    )
    resolution: float = setting(
        0.05,
        "share of the spread between platforms within which an interaction counts as none",
        unit="0 to 1",
        ge=0,
        le=1,
    )
    background: str = setting(
        "in_context",
        "what a pair is judged against: in_context, all others on; average, over all on/off combinations of the others",
        choices=("in_context", "average"),
    )
    index: str = setting(
        "faith_shap",
        "interaction index of the heat map and the waterfall",
        choices=("faith_shap", "shapley_interaction", "shapley_taylor"),
    )
    learning_pairs: int = setting(
        3,
        "confirmed pairs, the strongest first, that are run again with the second algorithm off, frozen and learning",
        unit="pairs",
        ge=0,
    )


@dataclass(frozen=True, kw_only=True)
class SensitivitiesConfig:
    """Derivatives through the dynamics: what one team's progress does to everybody else (`mamba-eco analyse`)."""

    seeds: int = setting(
        8, "rollouts behind derivatives in the expected mode; 0 skips them, else at least 4", unit="rollouts", ge=0
    )
    audit_seeds: int = setting(
        8,
        "keys on which externalities are measured again on the sampled model; 0 skips the audit, else at least 4",
        unit="keys",
        ge=0,
    )
    own: dict[str, str] = setting(
        {}, "algorithm -> objective that its team is measured by; otherwise its own loss, and none where it has no loss"
    )
    game_seeds: int = setting(
        4,
        "rollouts behind the second derivatives of the teams' own metrics (the dearest part); 0 skips them",
        unit="rollouts",
        ge=0,
    )
    rounds: int = setting(
        2, "rounds of best responses of all teams in turn; 0 skips the price of non-coordination", unit="rounds", ge=0
    )
    steps: int = setting(8, "gradient steps of each team in one round of best responses", unit="steps", ge=1)
    radius: float = setting(
        1.0, "how far best responses may move a lever from where it is", unit="unconstrained", gt=0, le=5
    )


@dataclass(frozen=True, kw_only=True)
class EmergenceConfig:
    """Tipping points and phases of the platform (`mamba-eco analyse`)."""

    lever: str = setting(
        "",
        "what is scanned up and down for tipping points: levers/<algorithm>/<lever>, world/<parameter> or gates/<algorithm>; "
        "empty skips the scan",
    )
    low: float = setting(
        0.0,
        "value of `emergence.lever` where the scan begins, and its lower end in a phase diagram",
        unit="the lever's unit",
    )
    high: float = setting(
        1.0,
        "value of `emergence.lever` where the scan turns, and its upper end in a phase diagram",
        unit="the lever's unit",
    )
    points: int = setting(
        9,
        "values of a scan on the way up, and again on the way down; and each way of a phase diagram",
        unit="values",
        ge=3,
        le=64,
    )
    hold: int = setting(
        40, "steps that a scan holds each value for; the second half of them is measured", unit="steps", ge=4
    )
    seeds: int = setting(
        8, "paired seeds of the scan and the phase diagram, at least 6 where a lever is scanned", unit="seeds", ge=3
    )
    stationary: int = setting(
        0,
        "runs at `emergence.low` that early warnings along the scan are ranked among, and their false alarms are counted on; 0 "
        "looks for none, else at least 80",
        unit="runs",
        ge=0,
    )
    across: str = setting("", "second lever of a phase diagram, with `emergence.lever`; empty draws none")
    across_low: float = setting(0.0, "lower end of `emergence.across`", unit="the lever's unit")
    across_high: float = setting(1.0, "upper end of `emergence.across`", unit="the lever's unit")
