"""The final comparison: gains, what of them survives elsewhere, and how the page tells it."""

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from pages import level, make, row_of, summary, training_row, written

from mamba.interactions import findings, statistics
from mamba.meta import constraints
from mamba.objectives import NAMES
from mamba.runs import evaluation, stops

TOXIC = NAMES.index("toxic_exposure_per_user")
GOAL = constraints.goal({"toxic_exposure_per_user": 1.0}, {})


def _runs(before: float, after: float, *, spread: float = 0.0, seeds: int = 6) -> dict[str, np.ndarray]:
    noise = spread * np.linspace(-1, 1, seeds)
    values = {"before": np.ones((seeds, len(NAMES))), "after": np.ones((seeds, len(NAMES)))}
    values["before"][:, TOXIC] = before
    values["after"][:, TOXIC] = after + noise
    return values


def test_a_gain_is_the_fall_of_the_goal_relative_to_the_baseline():
    runs = _runs(0.5, 0.4)
    np.testing.assert_allclose(evaluation.gains(runs["before"], runs["after"], GOAL), 0.2)


def test_the_share_that_survives_and_its_interval():
    here, there = _runs(0.5, 0.4, spread=0.005), _runs(0.8, 0.72, spread=0.008)
    told = evaluation.told(there, here, GOAL, confidence=0.95)
    assert told["share"]["mean"] == pytest.approx(0.5)
    assert told["share"]["low"] < 0.5 < told["share"]["high"]
    assert told["objectives"]["toxic_exposure_per_user"]["change"]["mean"] == pytest.approx(-0.08)
    json.dumps(told, allow_nan=False)
    none = evaluation.told(there, _runs(0.5, 0.5, spread=0.1), GOAL, confidence=0.95)  # nothing was gained at home
    assert none["share"]["low"] is None and none["share"]["high"] is None
    json.dumps(none, allow_nan=False)


def test_fieller_covers_the_ratio():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(1000):
        found = statistics.ratio(rng.normal(1.0, 1.0, 16), rng.normal(2.0, 1.0, 16), confidence=0.9)
        covered += found.low <= 0.5 <= found.high
    assert 0.88 < covered / 1000 < 0.94
    with pytest.raises(ValueError, match="at least 2 values"):
        statistics.ratio(np.ones(1), np.ones(5), confidence=0.9)


def test_a_signal_is_heard_between_two_chunks():
    def evaluate(members, done):
        done(4)  # of twelve
        raise AssertionError("went on after a signal")

    ecosystem = SimpleNamespace(names=("a",))
    job = SimpleNamespace(
        config=SimpleNamespace(evaluation=SimpleNamespace(seeds=6)), key=jax.random.key(0), ecosystem=ecosystem,
        evaluate=evaluate,
    )  # fmt: skip
    platforms = {"before": {"a": {"x": np.float32(0)}}, "after": {"a": {"x": np.float32(1)}}}
    with pytest.raises(stops.Stopped):
        evaluation.compared(job, platforms, stop=lambda: True)


def test_a_constraint_is_broken_elsewhere_only_beyond_its_interval():
    goal = constraints.goal({"toxic_exposure_per_user": 1.0}, {"engagement_per_user": 0.97, "false_removal_rate": 1.5})
    engagement, removals = (NAMES.index(name) for name in ("engagement_per_user", "false_removal_rate"))
    before = np.ones((8, len(NAMES)))
    noise = 0.01 * np.array([1, -1, 2, -2, 1, -1, 0.5, -0.5])
    after = before.copy()
    after[:, engagement] = 0.94 + noise
    after[:, removals] = 1.505 + noise
    found = evaluation.broken({"before": before, "after": after}, goal, confidence=0.95)
    assert found == {"engagement_per_user": pytest.approx(-6.0)}


def test_the_page_tells_what_survives(tmp_path: Path) -> None:
    told = summary()
    there = {"before": level(0.5, 0.01), "after": level(0.4, 0.01), "change": level(-0.1, 0.02)}
    told["transfer"] = {
        "twitch_es": {
            "objectives": {"toxic_exposure_per_user": there},
            "share": {"mean": 0.5, "low": 0.4, "high": 0.6},
            "home": {"mean": 0.2, "low": 0.1, "high": 0.3},
        }
    }
    share = statistics.Estimate(*(np.asarray(x) for x in (0.5, 0.05, 0.4, 0.6, 0.0)))
    home = statistics.Estimate(*(np.asarray(x) for x in (0.2, 0.02, 0.1, 0.3, 0.0)))
    told["findings"].append(findings.transfer(share, home, where="twitch_es", confidence=0.95)._asdict())
    nothing = findings.transfer(share, home._replace(low=np.asarray(-0.1)), where="twitch_es", confidence=0.95)
    assert "Nothing that could survive" in nothing.sentence
    lost = findings.transfer(share, home, where="x", confidence=0.95, broken={"engagement_per_user": -5.4})
    assert lost.sentence.endswith("There they do not keep what they were told to keep: engagement (-5.4 %).")
    source, page = written(make(tmp_path, summary=told))
    assert "In twitch_es, the gain is 50.0 % of that where the levers were trained" in page.text.replace(
        "\N{NO-BREAK SPACE}", " "
    )
    assert "Without more training, the gain in twitch_es is 50 % (" in page.text
    elsewhere = source[source.index("Elsewhere, without more training") :]
    toxic = row_of(elsewhere, "toxic exposure ")
    assert "-20.0 % (-24.0 to -16.0)" in toxic and "-40.0 % (-42.0 to -38.0)" in toxic  # there, and at home
    assert "healthier" in toxic


@pytest.mark.parametrize(
    ("factor", "share", "words"),
    [
        (1.3, 1.0, "there was none, and nothing was cut"),
        (40.0, 0.0, "Derivatives no longer pass through learner/home (meta-step 1: amplified by a factor of 40"),
    ],
)
def test_the_page_tells_whether_derivatives_explode(tmp_path: Path, factor, share, words) -> None:
    rows = [training_row(step) for step in range(3)]
    for step, row in enumerate(rows):
        late = step >= 1
        row |= {"growth/users": 1.1, "growth/learner/home": factor if late else 1.0}
        row |= {"passing/users": 1.0, "passing/learner/home": share if late else 1.0}
    _, page = written(make(tmp_path, rows=rows))
    assert "Do derivatives explode?" in page.text and words in page.text


def test_worlds_tell_the_mean_and_the_worst_share():
    before, after = _runs(0.5, 0.5)["before"], _runs(0.5, 0.5)["after"]
    after[:, TOXIC] = 0.5 * (1.0 + np.array([-0.4, -0.3, -0.2, -0.1, 0.0, 0.1]))
    told = evaluation.over_worlds({"before": before, "after": after}, GOAL, level=2 / 3, confidence=0.9)
    assert told["mean"]["mean"] == pytest.approx(-0.15) and told["tail"]["mean"] == pytest.approx(0.05)
    assert told["tail"]["low"] < told["tail"]["mean"] < told["tail"]["high"] <= 0.1 + 1e-9
    sentence = findings.worlds(told, seeds=6, confidence=0.9).sentence
    assert "-15.0 points" in sentence and "+5.0 points" in sentence and "worst 33 %" in sentence


def test_a_world_that_left_the_finite_numbers_is_told_in_words():
    runs = _runs(0.5, 0.4)
    runs["after"][2, TOXIC] = np.nan
    told = evaluation.over_worlds(runs, GOAL, level=2 / 3, confidence=0.9)
    assert np.isnan(told["tail"]["mean"]) and np.isnan(told["mean"]["mean"])
    sentence = findings.worlds(told, seeds=6, confidence=0.9).sentence
    assert "outcomes left the finite numbers" in sentence and "nan" not in sentence
