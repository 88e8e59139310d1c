"""Sentences say what the numbers say, and nothing where there is nothing."""

import numpy as np

from mamba.interactions import designs, factorial, findings, statistics
from mamba.objectives import NAMES

TOXIC, ENGAGEMENT = NAMES.index("toxic_exposure_per_user"), NAMES.index("engagement_per_user")


def _analysis(*, pair=0.0, harm=0.0):
    rng = np.random.default_rng(0)
    gates = designs.gates(2)
    table = 1.0 + rng.normal(0, 0.001, (6, 4, len(NAMES)))
    table[:, :, TOXIC] += pair * gates.prod(axis=1) + harm * gates[:, 0]
    table[:, :, ENGAGEMENT] += 0.05 * gates[:, 0]
    return factorial.analyse(("ranker", "filter"), table)


def test_a_confirmed_pair_is_told_with_its_interval():
    found = findings.strongest_pair(_analysis(pair=-0.2), confidence=0.95)
    assert found is not None
    assert found.objective == "toxic_exposure_per_user"
    assert "ranker and filter interact on toxic exposure" in found.sentence
    assert "which helps" in found.sentence
    assert found.low < -0.2 + 0.01 < found.high + 0.02


def test_silence_where_nothing_survives():
    assert findings.strongest_pair(_analysis(), confidence=0.95) is None
    nothing = findings.strongest_side_effect(_analysis(), confidence=0.95, false_discovery_rate=0.05)
    assert nothing is None


def test_the_harm_of_an_algorithm_is_told_with_what_it_buys():
    found = findings.strongest_side_effect(_analysis(harm=0.3), confidence=0.95, false_discovery_rate=0.05)
    assert found is not None
    assert "ranker changes toxic exposure by +2" in found.sentence
    assert "engagement by +" in found.sentence


def test_training_is_told_for_better_and_for_worse():
    samples = np.linspace(-0.11, -0.09, 9)[:, None] * np.ones(len(NAMES))
    change = statistics.estimate(samples, 0.95)
    found = findings.training(
        change,
        np.ones(len(NAMES)),
        minimised=["toxic_exposure_per_user"],
        kept=["engagement_per_user"],
        confidence=0.95,
    )
    assert found is not None
    assert "toxic exposure by -10.0 %" in found.sentence
    assert "had to keep, engagement by -10.0 %" in found.sentence
    # everything fell by a tenth: of what was not in the goal, that harms where more is healthier
    assert "; the price was click-through rate by -10.0 %" in found.sentence
    assert findings.training(change, np.ones(len(NAMES)), minimised=[], kept=[], confidence=0.95) is None
