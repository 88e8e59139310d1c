"""Settings of the interaction analysis."""

from __future__ import annotations

from dataclasses import dataclass

from mamba.fields import setting


@dataclass(frozen=True, kw_only=True)
class InteractionsConfig:
    """The factorial over gates on the sampled model."""

    seeds: int = setting(8, "paired seeds; 0 skips the analysis, else at least 2 for an interval", ge=0)
    confidence: float = setting(0.95, "confidence level of intervals", unit="0 to 1", gt=0.5, lt=1)
    false_discovery_rate: float = setting(0.05, "Benjamini-Hochberg level over all pairs and objectives", gt=0, lt=1)
