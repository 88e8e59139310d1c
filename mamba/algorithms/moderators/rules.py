"""`rules`: takes down what exceeds a fixed threshold on a noisy harm signal.

Per step an item survives with probability

    1 - speed * (1 - (1 - a) (1 - b)),   a = sigma((toxicity signal - toxicity) / width), b likewise for falsity:

either rule is enough. It does not learn.

References:
    Gorwa, Binns and Katzenbach 2020 (algorithmic content moderation by matching and thresholds).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax

from mamba.algorithms.base import Act, Algorithm, between, levers_from
from mamba.fields import setting
from mamba.types import Array, Learned, View


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the rules."""

    toxicity: float = setting(0.7, "toxicity signal above which items are removed", unit="0 to 1", gt=0, lt=1)
    falsity: float = setting(0.8, "falsity signal above which items are removed", unit="0 to 1", gt=0, lt=1)
    speed: float = setting(0.5, "removal probability of what breaks a rule", unit="per step", gt=0, lt=1)
    width: float = setting(0.05, "softness of the thresholds on the harm signals", unit="0 to 1", gt=0, le=1)


def make(config: Config) -> Algorithm:
    """Builds the algorithm; levers `toxicity`, `falsity` and `speed`."""
    bounds = {
        "toxicity": between(0.0, 1.0, "signal"),
        "falsity": between(0.0, 1.0, "signal"),
        "speed": between(0.0, 1.0, "probability per step"),
    }

    def act(levers: dict[str, Array], learned: Learned, view: View, key: Array) -> Act:
        del learned, key
        toxic = jax.nn.sigmoid((view.items.toxicity_signal - levers["toxicity"]) / config.width)
        false = jax.nn.sigmoid((view.items.falsity_signal - levers["falsity"]) / config.width)
        return Act(survive=1.0 - levers["speed"] * (1.0 - (1.0 - toxic) * (1.0 - false)))

    levers = levers_from({name: getattr(config, name) for name in bounds}, bounds)
    return Algorithm("rules", levers, bounds, act=act)
