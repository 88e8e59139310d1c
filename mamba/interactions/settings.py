"""Settings of the interaction analysis."""

from __future__ import annotations

from dataclasses import dataclass

from mamba.fields import setting


@dataclass(frozen=True, kw_only=True)
class InteractionsConfig:
    """Which algorithms reinforce, cancel or reverse each other: a factorial over gates on the sampled model."""

    seeds: int = setting(8, "paired seeds; 0 skips the analysis, else at least 2 for an interval", ge=0)
    warm_up: int = setting(
        20, "steps that the whole platform runs before algorithms are switched off; what is frozen knows these", unit="steps",
        ge=0,
    )  # fmt: skip
    windows: int = setting(
        4, "parts of the rollout in which interactions are also measured; 0 measures the whole only", ge=0
    )
    confidence: float = setting(0.95, "confidence level of intervals", unit="0 to 1", gt=0.5, lt=1)
    false_discovery_rate: float = setting(0.05, "Benjamini-Hochberg level over all pairs and objectives", gt=0, lt=1)
    resolution: float = setting(
        0.05, "share of the spread between platforms within which an interaction counts as none", ge=0, le=1
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
        ge=0,
    )
