"""Sentences say what the numbers say, and nothing where there is nothing."""

import re

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
    assert told[0].sentence.startswith("Having filter on rather than off changes toxic exposure by -")
    said = "without ranker (with all others on, in % of its level with everything on). They reinforce each other."
    assert said in told[0].sentence
    assert "While ranker runs, filter changes engagement by" in told[0].sentence
    assert told[0].low < -0.2 + 0.01 < told[0].high + 0.02


def test_what_per_cents_are_of_is_said_once():
    """Also where only the second objective has a level that there are per cents of."""
    base = "of its level with everything on"
    rng = np.random.default_rng(5)
    gates = designs.gates(2)
    table = 1.0 + rng.normal(0, 0.001, (6, 4, len(NAMES)))
    table[:, :, TOXIC] += 0.3 * gates[:, 0] + 0.5 * gates.prod(axis=1)
    without = table.copy()
    without[:, :, TOXIC] -= table[:, -1, TOXIC].mean()
    for values, has_level in ((table, True), (without, False)):
        analysis = factorial.analyse(("ranker", "filter"), values)
        (pair,) = findings.pairs(analysis, config=InteractionsConfig())
        harm = findings.strongest_side_effect(analysis, confidence=0.95, false_discovery_rate=0.05)
        assert harm is not None
        for told in (pair, harm):
            assert told.objective == "toxic_exposure_per_user" and told.sentence.count(base) == 1
            assert (told.sentence.index(base) < told.sentence.index("engagement")) == has_level, told.sentence


def test_per_cents_are_of_the_level_with_everything_on():
    """The filter takes nine tenths of the toxicity away: more than 100 % of what is left."""
    (told,) = findings.pairs(_analysis(pair=-0.9), config=InteractionsConfig())
    found = re.search(r"by (-[\d.]+) % .* while ranker runs", told.sentence)
    assert found and -920.0 < float(found[1]) < -880.0


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
    assert "While ranker is frozen the effect is larger" in told.sentence
    assert "is lost because ranker re-learns" in told.sentence
    turned = 1.0 + (values - 1.0) * np.where(np.arange(9) % 3 == designs.LEARNING, -1.0, 1.0)[:, None]
    (told,) = findings.pairs(analysis, config=asked, learning=(np.array([[1, 0]]), turned))
    assert "has the other sign: ranker's learning changes it by" in told.sentence
    (told,) = findings.pairs(analysis, config=asked, learning=(np.array([[1, 0]]), 1.0 + 0.01 * (values - 1.0)))
    assert "makes no difference at this resolution" in told.sentence
    # A pair that was run in the other order is told in that order; averages over the others are not what was run.
    (told,) = findings.pairs(analysis, config=asked, learning=(np.array([[0, 1]]), values))
    assert told.sentence.startswith("Having ranker on rather than off")
    (told,) = findings.pairs(
        analysis, config=InteractionsConfig(background="average"), learning=(np.array([[1, 0]]), values)
    )
    assert "learn" not in told.sentence


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
        wanted={"toxic_exposure_per_user": 1.0},
        kept=["engagement_per_user"],
        confidence=0.95,
    )
    assert found is not None
    assert "toxic exposure by -10.0 %" in found.sentence
    assert "had to keep, engagement by -10.0 %" in found.sentence
    # everything fell by a tenth: of what was not in the goal, that harms where more is healthier
    assert "; the price was click-through rate by -10.0 %" in found.sentence
    assert findings.training(change, np.ones(len(NAMES)), wanted={}, kept=[], confidence=0.95) is None


def test_teams_for_themselves_trained_for_nothing_in_common():
    change = statistics.estimate(np.linspace(-0.11, -0.09, 9)[:, None] * np.ones(len(NAMES)), 0.95)
    given = {"wanted": {"polarisation": 1.0}, "kept": ["engagement_per_user"], "confidence": 0.95}
    sentence = findings.training(change, np.ones(len(NAMES)), **given, own=True).sentence
    assert sentence.startswith(
        "Training the levers of every algorithm for its own metric changed opinion polarisation by -10.0 %"
    )
    assert "had to keep" not in sentence


def test_a_gain_that_is_no_number_is_told_in_words():
    known = statistics.Estimate(*(np.float64(x) for x in (0.5, 0.1, 0.3, 0.7, 0.01)))
    lost = statistics.Estimate(*(np.float64(np.nan) for _ in range(5)))
    for share, home in ((lost, lost), (known, lost), (lost, known)):
        sentence = findings.transfer(share, home, where="twitch_es", confidence=0.95).sentence
        assert "is not known" in sentence and "nan" not in sentence


def test_what_has_no_natural_zero_is_told_in_its_unit():
    change = statistics.estimate(np.linspace(-0.11, -0.09, 9)[:, None] * np.ones(len(NAMES)), 0.95)
    found = findings.training(change, np.full(len(NAMES), -0.5), wanted={"wellbeing": -1.0}, kept=[], confidence=0.95)
    assert "changed wellbeing by -0.1 standard deviations from the set-point (95 % CI -0.105" in found.sentence


def _externality(**effects):
    """Estimates [J, 2] that are 0 but for `objective=(algorithm, effect)`."""
    mean = np.zeros((len(NAMES), 2))
    for name, (j, effect) in effects.items():
        mean[NAMES.index(name), j] = effect
    p = np.where(mean == 0, 0.9, 1e-6)
    return statistics.Estimate(mean, 0.05 + 0 * mean, mean - 0.1, mean + 0.1, p)


def test_the_largest_harm_to_others_is_told_and_no_team_is_its_own_externality():
    settings = {
        "own": ("engagement", "toxic exposure"),
        "own_row": [ENGAGEMENT, TOXIC],
        "seeds": 8,
        "source": "sampled model, default levers",
        "confidence": 0.95,
        "false_discovery_rate": 0.05,
    }
    effect = _externality(
        toxic_exposure_per_user=(0, 0.7), polarisation=(0, -3.0), wellbeing=(0, -9.0), engagement_per_user=(0, 1.0)
    )
    found = findings.externality(("ranker", "filter"), effect, **settings)
    assert found is not None and found.objective == "toxic_exposure_per_user"
    assert found.sentence.startswith("For each 1 % that ranker improves engagement, toxic exposure changes by +0.70 %")
    assert found.sentence.endswith("a harm (sampled model, default levers).")
    assert found.high - found.low > 0.2  # wider than of one that was named beforehand
    assert (
        findings.externality(("ranker", "filter"), _externality(toxic_exposure_per_user=(1, 5.0)), **settings) is None
    )


def _scan(gap, *, noise=0.001, flagged=False):
    """A response that rises along the scan, and on one objective a gap between the two ways."""
    rng = np.random.default_rng(2)
    values = np.linspace(0.0, 1.0, 5)
    up, down = (values[None, :, None] + rng.normal(0, noise, (8, 5, 2)) for _ in range(2))
    up[:, 2, 1] += gap
    marks = np.zeros((5, 2), bool)
    marks[2, 1] = flagged
    settings = {"resolution": 0.05, "confidence": 0.95, "objectives": ("retention", "trust")}
    folds = [("up", 1, 0.8, 0.75), ("down", 1, np.nan, np.inf)]
    return findings.tipping_point("gates/home", values=values, up=up, down=down, flagged=marks, folds=folds, **settings)


def test_a_scan_tells_hysteresis_with_its_folds():
    told = _scan(-0.6, flagged=True)
    assert told.objective == "trust" and told.low < -0.6 + 0.01 < told.high + 0.02
    assert (
        "at 0.5 it differs by -0.6" in told.sentence and "it tips on the way up between 0.75 and 0.8." in told.sentence
    )


def test_a_scan_claims_a_way_back_only_where_gaps_are_shown_to_be_small():
    assert "goes back to where it was: no gap beyond 5 % of the range on any of 2 objectives" in _scan(0.0).sentence
    assert "does not rule it out; the largest gap is that of trust: at 0.5 it differs by -0." in _scan(-0.3).sentence
    assert "does not rule it out" in _scan(0.0, noise=0.3).sentence


def test_intervals_of_what_is_told_cover_although_it_was_picked():
    """Equal true effects on all objectives; of each pair the objective that looks largest is told."""
    rng = np.random.default_rng(7)
    gates = designs.gates(3).astype(np.float64)
    truth = -0.5 * gates[:, 0] * gates[:, 1] - 0.5 * gates[:, 1] * gates[:, 2] - 0.5 * gates[:, 0] * gates[:, 2]
    missed = {"interaction": 0, "side_effect": 0}
    count = {"interaction": 0, "side_effect": 0}
    for _ in range(80):
        table = (truth + gates @ [-0.6, -0.6, -0.6])[None, :, None] + rng.normal(0, 0.3, (16, 8, len(NAMES)))
        analysis = factorial.analyse("abc", table)
        told = findings.pairs(analysis, config=InteractionsConfig())
        harm = findings.strongest_side_effect(analysis, confidence=0.95, false_discovery_rate=0.05)
        for each in [*told, *([] if harm is None else [harm])]:
            true = -0.5 if each.kind == "interaction" else -1.6
            count[each.kind] += 1
            missed[each.kind] += not each.low <= true <= each.high
    assert min(count.values()) >= 75
    for kind, of in count.items():
        assert missed[kind] <= 0.05 * of + 3 * np.sqrt(0.05 * 0.95 * of), (kind, missed, count)


def test_a_harm_is_told_only_where_its_interval_leaves_out_0():
    """What the false discovery rate lets through may be too little for the interval of the largest of many."""
    rng = np.random.default_rng(3)
    told = 0
    for _ in range(40):
        table = 1.0 + rng.normal(0, 0.1, (6, 4, len(NAMES))) + 0.2 * designs.gates(2)[:, :1]
        analysis = factorial.analyse(("ranker", "filter"), table)
        found = findings.strongest_side_effect(analysis, confidence=0.95, false_discovery_rate=0.05)
        told += found is not None
        assert found is None or found.low > 0 or found.high < 0
    assert 0 < told < 40


def test_a_definite_verdict_is_told_before_a_larger_one_of_no_resolved_kind():
    """Toxic exposure: a smaller interaction of two that help. Polarisation: a larger one, of which nothing alone is resolved."""
    rng = np.random.default_rng(4)
    gates = designs.gates(2)
    table = 1.0 + rng.normal(0, 0.01, (8, 4, len(NAMES)))
    table[:, :, TOXIC] -= 0.3 * gates.sum(axis=1) + 0.15 * gates.prod(axis=1)
    table[:, :, NAMES.index("polarisation")] += 0.6 * gates.prod(axis=1)
    analysis = factorial.analyse(("ranker", "filter"), table)
    size = np.abs(analysis.verdicts.interaction.mean[0, 1]) / analysis.spread
    assert size[NAMES.index("polarisation")] > size[TOXIC]
    (told,) = findings.pairs(analysis, config=InteractionsConfig())
    assert told.objective == "toxic_exposure_per_user" and "They reinforce each other" in told.sentence
