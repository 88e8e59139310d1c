"""Sentences say what the numbers say, and nothing where there is nothing."""

import numpy as np

from mamba.interactions import designs, factorial, findings, statistics
from mamba.interactions.settings import InteractionsConfig
from mamba.objectives import NAMES

TOXIC, ENGAGEMENT = NAMES.index("toxic_exposure_per_user"), NAMES.index("engagement_per_user")


def _analysis(*, pair=0.0, harm=0.0, other=0.0):
    rng = np.random.default_rng(0)
    gates = designs.gates(2)
    table = 1.0 + rng.normal(0, 0.001, (6, 4, len(NAMES)))
    table[:, :, TOXIC] += pair * gates.prod(axis=1) + harm * gates[:, 0] + other * gates[:, 1]
    table[:, :, ENGAGEMENT] += 0.05 * gates[:, 0]
    return factorial.analyse(("ranker", "filter"), table)


def test_a_confirmed_pair_is_told_with_its_intervals_and_its_verdict():
    told = findings.pairs(_analysis(pair=-0.2, harm=-0.3, other=-0.3), config=InteractionsConfig())
    assert [each.objective for each in told] == ["toxic_exposure_per_user"]
    assert told[0].sentence.startswith("Turning on filter while ranker runs changes toxic exposure by -")
    assert "without ranker (with all others on). They reinforce each other." in told[0].sentence
    assert "Engagement changes by" in told[0].sentence
    assert told[0].low < -0.2 + 0.01 < told[0].high + 0.02


def test_what_is_lost_because_the_other_learns_is_told():
    """The filter takes 0.5 off while the ranker is frozen, 0.3 while it learns."""
    rng = np.random.default_rng(1)
    values = 1.0 + rng.normal(0, 0.001, (1, 6, 9, len(NAMES)))
    row = {(a, b): 3 * a + b for a in range(3) for b in range(3)}
    for on in (designs.FROZEN, designs.LEARNING):
        values[0, :, row[on, designs.FROZEN], TOXIC] -= 0.5
        values[0, :, row[on, designs.LEARNING], TOXIC] -= 0.3
    analysis, asked = _analysis(pair=-0.2, harm=-0.3, other=-0.3), InteractionsConfig()
    (told,) = findings.pairs(analysis, config=asked, learning=(np.array([[1, 0]]), values))
    assert "is lost because ranker re-learns" in told.sentence
    (told,) = findings.pairs(analysis, config=asked, learning=(np.array([[1, 0]]), 1.0 + 0.01 * (values - 1.0)))
    assert "makes no difference at this resolution" in told.sentence
    (told,) = findings.pairs(analysis, config=asked, learning=(np.array([[0, 1]]), values))
    assert "learn" not in told.sentence  # the other order was not run


def test_silence_where_nothing_survives():
    assert findings.pairs(_analysis(), config=InteractionsConfig()) == []
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


def _externality(**effects):
    """Estimates [J, 2] that are 0 but for `objective=(algorithm, effect)`."""
    mean = np.zeros((len(NAMES), 2))
    for name, (j, effect) in effects.items():
        mean[NAMES.index(name), j] = effect
    p = np.where(mean == 0, 0.9, 1e-6)
    return statistics.Estimate(mean, 0.1 + 0 * mean, mean - 0.2, mean + 0.2, p)


def test_the_largest_harm_to_others_is_told_and_no_team_is_its_own_externality():
    settings = {
        "own": ("engagement", "toxic exposure"),
        "own_row": [ENGAGEMENT, TOXIC],
        "confidence": 0.95,
        "false_discovery_rate": 0.05,
    }
    effect = _externality(
        toxic_exposure_per_user=(0, 0.7), polarisation=(0, -3.0), wellbeing=(0, -9.0), engagement_per_user=(0, 1.0)
    )
    found = findings.externality(("ranker", "filter"), effect, **settings)
    assert found is not None and found.objective == "toxic_exposure_per_user"
    assert found.sentence.startswith("For each 1 % that ranker improves engagement, toxic exposure changes by +0.70 %")
    assert (
        findings.externality(("ranker", "filter"), _externality(toxic_exposure_per_user=(1, 5.0)), **settings) is None
    )


def test_a_scan_tells_hysteresis_with_its_folds_or_its_absence():
    values = np.linspace(0.0, 1.0, 5)
    mean = np.zeros((5, 2))
    mean[2, 1] = -0.6
    gap = statistics.Estimate(mean, mean, mean - 0.1, mean + 0.1, mean)
    watched = ("retention", "trust")
    calm = findings.tipping_point(
        "gates/home", values=values, objectives=watched, flagged=np.zeros((5, 2), bool), gap=gap, folds=[]
    )
    assert "showed no hysteresis on any of 2 objectives" in calm.sentence
    told = findings.tipping_point(
        "gates/home",
        values=values,
        objectives=watched,
        flagged=mean != 0,
        gap=gap,
        folds=[("up", 1, 0.8, 0.75), ("down", 1, np.nan, np.inf)],
    )
    assert told.objective == "trust" and told.mean == -0.6
    assert (
        "at 0.5 it differs by -0.6" in told.sentence and "it tips on the way up between 0.75 and 0.8." in told.sentence
    )
