"""The supplements of the report on derivatives and tipping points: splits, conflicts, corners, early warnings."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import HOSTILE, Reader, make, row_of
from scipy import stats

from mamba.interactions.statistics import discoveries
from mamba.objectives import NAMES, OBJECTIVES
from mamba.runs import folder
from mamba.runs.errors import UserError
from mamba.runs.markup import Html, number
from mamba.runs.sections import shared
from mamba.runs.sections.corners import corners_section
from mamba.runs.sections.sensitivities import confirmed, sensitivities_section
from mamba.runs.sections.warnings import warnings_section

J = len(NAMES)
ENGAGED, TOXIC, TRUST, LOAD = (
    NAMES.index(name) for name in ("engagement_per_user", "toxic_exposure_per_user", "trust", "reviewer_load")
)
Section = Callable[[shared.View, shared.Figures], Html]


def estimates(name: str, mean: np.ndarray, reach: float) -> dict[str, np.ndarray]:
    p = np.where(np.isfinite(mean), np.where(np.abs(mean) > reach, 1e-6, 0.5), np.nan)
    return {f"{name}_mean": mean, f"{name}_low": mean - reach, f"{name}_high": mean + reach, f"{name}_p": p}


def derivatives(first: str = "home", **changed: Any) -> dict[str, Any]:
    """The first team harms toxic exposure, mostly through what is carried over, and trust, against its one-step effect."""
    whole, direct = np.zeros((J, 3)), np.zeros((J, 3))
    whole[TOXIC, 0], direct[TOXIC, 0] = 0.5, 0.1
    whole[TRUST, 0], direct[TRUST, 0] = -0.2, 0.1
    whole[ENGAGED, 0] = direct[ENGAGED, 0] = 1.0  # its own metric: 1 % by construction
    whole[:, 2] = direct[:, 2] = whole[LOAD] = direct[LOAD] = np.nan
    between = np.array([[1.0, 0.01, np.nan], [-0.3, 1.0, np.nan], [np.nan] * 3])
    cosine = np.where(np.eye(J) > 0, 1.0, -0.1)
    cosine[ENGAGED, TOXIC] = cosine[TOXIC, ENGAGED] = -0.75
    found = {
        "names": np.array([first, "filter", "labels"]),
        "objectives": np.array(NAMES),
        "own_row": np.array([ENGAGED, TOXIC, J + 2]),
        "own_sign": np.array([-1.0, 1.0, 1.0]),
        "reasons": np.array(["", "", "it has no own metric"]),
        "conflict_mean": cosine,
        "conflict_low": np.maximum(cosine - 0.2, -1.0),
        "conflict_high": np.minimum(cosine + 0.2, 1.0),
        **{f"price_{part}": np.array(value) for part, value in (("mean", 0.02), ("low", 0.01), ("high", 0.03))},
        "coupling": np.array([[9.0, 0.5, 0.0], [0.25, 9.0, 0.0], [0.0, 0.0, 0.0]]),
        **estimates("externality_objective", whole, 0.05),
        **estimates("externality_direct", direct, 0.05),
        **estimates("externality_mediated", whole - direct, 0.05),
        **estimates("externality_algorithm", between, 0.05),
    }
    return found | changed


def diagram(**changed: Any) -> dict[str, Any]:
    """A diagram of 3 x 4 cells, and a series that warns on all 8 drifting runs beside one that never does."""
    found = {
        "objectives": np.array(NAMES),
        "blocks": np.array(["users.trust"]),
        **{f"block_rates_{part}": np.array([-0.5]) for part in ("mean", "low", "high")},
        "scan_axis": np.array("levers/home/sharpness"),
        "phase_axes": np.array(["levers/home/sharpness", "world/confidence"]),
        "phase_units": np.array(["logits", ""]),
        "phase_first": np.linspace(1, 3, 3),
        "phase_second": np.linspace(0, 0.75, 4),
        "phase_mean": np.arange(12.0 * J).reshape(3, 4, J),
        "phase_error": np.full((3, 4, J), 0.5),
        "phase_fast": np.zeros((3, 4, J), bool),
        "warning_series": np.array(["retention", "polarisation"]),
        "warning_tau": np.stack([np.full((8, 2), 0.75), np.full((8, 2), -0.25)]),
        "warning_p": np.full((2, 8, 2), 0.02),
        "warning_combined": np.stack([np.full(8, 0.04), np.full(8, 0.5)]),
        "warning_false_positives": np.array([[0.025, 0.05, 0.05], [0.0, 0.0, 0.0]]),
        "warning_naive_false_positives": np.array([[0.5, 0.45], [0.4, 0.6]]),
        "warning_tried": np.array([40, 40]),
    }
    return found | changed


def drawn(
    section: Section,
    path: Path,
    *,
    file: str = "sensitivities",
    arrays: Any = None,
    more: str = "",
    first: str = "home",
) -> tuple[str, str, list[Any]]:
    """Markup, text and figures of one section."""
    make(path, parts="summary", first=first)
    if more:
        config = path / folder.CONFIG
        folder.write_text(config, config.read_text(encoding="utf-8") + more)
    if arrays is not None:
        folder.write_arrays(path / f"{file}.npz", arrays)
    figures = shared.Figures()
    source = section(shared.read(folder.load_run(path), []), figures)
    drawings = [
        json.loads(re.sub("</?script[^>]*>", "", script), parse_constant=pytest.fail) for script in figures.scripts
    ]
    return source, Reader(source).text.replace("\N{NO-BREAK SPACE}", " "), drawings


@pytest.mark.parametrize("section", [sensitivities_section, corners_section, warnings_section])
def test_nothing_is_shown_without_a_file(section: Section, tmp_path: Path) -> None:
    assert drawn(section, tmp_path) == ("", "", [])


@pytest.mark.parametrize("section", [corners_section, warnings_section])
def test_nothing_is_shown_without_a_diagram_or_warnings(section: Section, tmp_path: Path) -> None:
    some = {name: array for name, array in diagram().items() if not name.startswith(("phase", "warning"))}
    assert drawn(section, tmp_path, file="emergence", arrays=some) == ("", "", [])


@pytest.mark.parametrize(
    ("section", "file", "made", "lost"),
    [
        (sensitivities_section, "sensitivities", derivatives, "conflict_low"),
        (corners_section, "emergence", diagram, "phase_error"),
        (warnings_section, "emergence", diagram, "warning_tried"),
    ],
)
def test_damaged_files_are_refused_by_name(section: Section, file: str, made: Any, lost: str, tmp_path: Path) -> None:
    found = made()
    del found[lost]
    with pytest.raises(UserError, match=rf"{file}\.npz: lacks {lost}"):
        drawn(section, tmp_path, file=file, arrays=found)


# ---- externalities


def test_parts_of_an_externality_equal_the_arrays(tmp_path: Path) -> None:
    source, text, (figure,) = drawn(sensitivities_section, tmp_path, arrays=derivatives())
    row = row_of(source, "home: toxic exposure").replace("\N{NO-BREAK SPACE}", " ")
    for part in (
        "+0.500 % (+0.450 to +0.550) ▼ worse",
        "+0.100 % (+0.0500 to +0.150)",
        "+0.400 % (+0.350 to +0.450)",
        "80.0 %",
    ):
        assert part in row
    row = row_of(source, "home: trust").replace("\N{NO-BREAK SPACE}", " ")
    assert "-0.200 % (-0.250 to -0.150) ▼ worse" in row and "the other way" in row and "75.0 %" in row
    tests = 2 * J - 2 - 2  # two teams, without their own metric and without the objective that has no level
    assert f"2 of {tests} externalities pass" in text
    assert "That unseen part is 77.5 % of the two parts together (median), and more than half in 2 of 2" in text
    assert "In 1 of 2 the one-step view has the wrong sign" in text
    within, carried = figure["variants"][0]["data"]
    rows = figure["variants"][0]["layout"]["yaxis"]["ticktext"]
    at = rows.index("home: toxic exposure")
    assert math.isclose(within["x"][at], 0.1) and math.isclose(carried["x"][at], 0.4)
    assert math.isclose(within["error_x"]["array"][at], 0.05)


def test_own_metrics_do_not_loosen_the_test_of_the_others(tmp_path: Path) -> None:
    """A trivial p of 0 would lift the Benjamini-Hochberg line for everything else."""
    found = derivatives()
    p = np.where(np.isfinite(found["externality_objective_mean"]), 0.9, np.nan)
    p[ENGAGED, 0] = p[TOXIC, 1] = 0.0  # own metrics
    p[TRUST, 0] = 3 * 0.05 / (2 * J - 2) * 0.99  # passes as third of all, not as first of the rest
    found["externality_objective_p"] = p
    assert discoveries(p, 0.05)[TRUST, 0]
    make(tmp_path, parts="summary")
    folder.write_arrays(tmp_path / "sensitivities.npz", found)
    view = shared.read(folder.load_run(tmp_path), [])
    assert confirmed(view, found, list(view.objectives.values()))[0] == []
    assert "is split up" in Reader(sensitivities_section(view, shared.Figures())).text


def test_suppressed_teams_make_no_claim(tmp_path: Path) -> None:
    found = derivatives()
    nothing = {name: np.full_like(array, np.nan) for name, array in found.items() if name.startswith("externality")}
    source, text, figures = drawn(sensitivities_section, tmp_path, arrays=found | nothing)
    assert not figures and "What a one-step view misses" not in text and "hinders" not in text
    source, text, _ = drawn(sensitivities_section, tmp_path / "some", arrays=found)
    assert "labels:" not in text and "labels" not in source.split("<details")[0]


def test_what_is_confirmed_is_confirmed_on_the_sampled_model(tmp_path: Path) -> None:
    whole = np.zeros((J, 3))
    whole[TOXIC, 0] = -0.4
    between = np.array([[1.0, 0.2, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    sampled = {
        "audited_reasons": np.array([""] * 3),
        "audited_t": np.array([9.0] * 3),
        **estimates("audited_objective", whole, 0.05),
        **estimates("audited_algorithm", between, 0.05),
    }
    source, text, _ = drawn(sensitivities_section, tmp_path, arrays=derivatives(**sampled))
    assert "on the sampled model, and what is split up is the expected mode" in text and "home: trust" not in text
    row = row_of(source, "home: toxic exposure")
    assert "-0.400 % (-0.450 to -0.350) ▲ healthier" in row and "+0.500 % (+0.450 to +0.550)" in row
    assert "filter helps home" in text and "home hinders filter" not in text


def test_teams_hinder_each_other_only_where_confirmed(tmp_path: Path) -> None:
    _, text, _ = drawn(sensitivities_section, tmp_path, arrays=derivatives())
    assert (
        "home hinders filter: for each 1 % that home improves engagement, the metric of filter (toxic exposure) gets "
        "0.300 % worse (-0.350 to -0.250)."
    ) in text
    assert "1 of 2 effects" in text and "filter helps" not in text


def test_teams_with_one_metric_are_not_tested_on_each_other(tmp_path: Path) -> None:
    between = np.where(np.isnan(derivatives()["externality_algorithm_mean"]), np.nan, 1.0)
    same = derivatives(own_row=np.array([ENGAGED, ENGAGED, J + 2]), **estimates("externality_algorithm", between, 0.0))
    assert "Who helps" not in drawn(sensitivities_section, tmp_path, arrays=same)[1]


def test_the_strongest_conflict_leaves_out_zero(tmp_path: Path) -> None:
    source, text, _ = drawn(sensitivities_section, tmp_path, arrays=derivatives())
    assert "between key objectives is that of engagement and toxic exposure" in text
    assert "(cosine -0.75, 95 % CI -0.95 to -0.55)" in text and f"1 of {J * (J - 1) // 2} pairs" in text
    assert row_of(source, "engagement and toxic exposure").endswith("-0.75 (-0.95 to -0.55) ")
    wide = derivatives(conflict_high=np.full((J, J), 0.1))
    assert "no interval leaves out 0" in drawn(sensitivities_section, tmp_path / "wide", arrays=wide)[1]


def test_a_pair_on_one_lever_is_no_conflict(tmp_path: Path) -> None:
    slopes = np.ones((4, J, 3))
    slopes[:, [ENGAGED, TOXIC]] = [1.0, 0.0, 0.0]
    _, text, _ = drawn(sensitivities_section, tmp_path, arrays=derivatives(jacobian=slopes))
    assert "no interval leaves out 0" in text and "1 further pair hangs on one and the same lever" in text


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.01, 0.03, "Going alone costs the goal of the run (+2.00 %, 95 % CI +1.00 to +3.00)"),
        (-0.01, 0.05, "Whether going alone costs the goal of the run is not resolved"),
        (-0.05, -0.01, "Going alone ends better"),
    ],
)
def test_the_price_is_told_with_its_radius(low: float, high: float, words: str, tmp_path: Path) -> None:
    found = derivatives(price_low=np.array(low), price_high=np.array(high))
    settings = "sensitivities: {radius: 0.5, rounds: 2, steps: 8}\n"
    source, text, _ = drawn(sensitivities_section, tmp_path, arrays=found, more=settings)
    assert (
        words in text
        and "without its constraints" in text
        and "within 0.500 of where they are" in text
        and "2 rounds of 8 gradient steps" in text
    )
    assert row_of(source[source.index("per unconstrained unit squared") :], "home").split() == [
        "home",
        "–",
        "0.500",
        "0",
    ]


def test_odd_names_stay_text(tmp_path: Path) -> None:
    source, text, figures = drawn(sensitivities_section, tmp_path, arrays=derivatives(first=HOSTILE), first=HOSTILE)
    assert "<img" not in source and "<img src=x" in text
    assert all("<img" not in json.dumps(figure) for figure in figures)


# ---- emergence


def test_corners_equal_the_arrays(tmp_path: Path) -> None:
    found = diagram()
    source, text, _ = drawn(corners_section, tmp_path, file="emergence", arrays=found)
    row = row_of(source, "engagement")
    mean = found["phase_mean"]
    ends = [mean[i, j, ENGAGED] for i, j in ((0, 0), (-1, 0), (0, -1), (-1, -1))]
    assert re.findall(r"([\d.]+) ± 0\.500", row) == [number(level) for level in ends]
    assert "home/sharpness 3" in text and "confidence 0.75" in text
    rows = len(re.findall(r'<th scope="row"', source))
    assert rows == len(OBJECTIVES)


def test_warnings_are_weighed_against_false_alarms(tmp_path: Path) -> None:
    source, text, _ = drawn(warnings_section, tmp_path, file="emergence", arrays=diagram())
    assert "While home/sharpness drifts upwards, retention warns more often than at rest" in text
    row = row_of(source, "retention").replace("\N{NO-BREAK SPACE}", " ")
    interval = stats.binomtest(2, 40).proportion_ci()
    assert f"8 of 8 5.0 % of 40 runs ({100 * interval.low:.1f} to {100 * interval.high:.1f})" in row
    assert "p < 0.001" in row and "+0.750 +0.750" in row and "50.0 % and 45.0 %" in row
    assert "0 of 8 0.0 % of 40 runs" in row_of(source, "polarisation").replace("\N{NO-BREAK SPACE}", " ")
    assert "found no hysteresis" in text
    tipped = diagram(scan_flagged=np.ones((2, 2), bool))
    assert (
        "there is something to announce" in drawn(warnings_section, tmp_path / "t", file="emergence", arrays=tipped)[1]
    )


def test_as_many_false_alarms_as_warnings_announce_nothing(tmp_path: Path) -> None:
    same = diagram(warning_false_positives=np.full((2, 3), 0.9))
    _, text, _ = drawn(warnings_section, tmp_path, file="emergence", arrays=same)
    assert "no series warns surely more often" in text
