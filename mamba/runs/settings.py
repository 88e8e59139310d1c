"""Settings of the host side: what is compared in the end, what is simulated, logged and kept."""

from __future__ import annotations

from dataclasses import dataclass

from mamba.fields import setting


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """The final comparison on the sampled model."""

    seeds: int = setting(16, "fresh paired seeds of the final comparison", unit="seeds", ge=2)
    transfer: tuple[str, ...] = setting(
        (),
        "other communities (values of `scenario.dataset`) in which the trained levers are compared without more training",
    )


@dataclass(frozen=True, kw_only=True)
class SimulationConfig:
    """`mamba-eco simulate`: the platform as it is, on the sampled model."""

    seeds: int = setting(
        8, "rollouts of the sampled model, the same seeds for every member of a sweep", unit="rollouts", ge=1
    )
    windows: int = setting(
        10,
        "parts of (almost) equal length by which a rollout is also reported; at most one for each step",
        unit="parts",
        ge=1,
    )


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """Weights & Biases; the run folder holds everything without it."""

    wandb: str = setting("offline", "where wandb logs to", choices=("offline", "online", "disabled"))
    project: str = setting("mamba", "wandb project in which runs are logged")
    entity: str | None = setting(None, "wandb user or team; None takes your default")
    group: str | None = setting(None, "wandb group, to find runs that belong together; None groups nothing")
    tags: tuple[str, ...] = setting((), "wandb tags, to find runs")
    member_runs: str = setting(
        "top_k", "members of a sweep that get a run of their own", choices=("none", "top_k", "all")
    )
    top_k: int = setting(
        5,
        "best members of a sweep that are listed, and get a run of their own with member_runs: top_k",
        unit="members",
        ge=1,
    )


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What a run keeps so that it can go on after it was stopped."""

    every: int = setting(5, "meta-steps between checkpoints", unit="meta-steps", ge=1)
    keep: int = setting(3, "newest checkpoints that are kept", unit="checkpoints", ge=1)
