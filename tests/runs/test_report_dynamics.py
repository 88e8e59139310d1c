"""What the report says about derivatives through the dynamics and about tipping points."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import make, pictures, row_of, written

from mamba.objectives import NAMES
from mamba.runs import folder
from mamba.runs.errors import UserError
from mamba.runs.pages import PAGE

J = len(NAMES)
TOXIC, LOAD = NAMES.index("toxic_exposure_per_user"), NAMES.index("reviewer_load")


def estimates(name: str, mean: np.ndarray, reach: float) -> dict[str, np.ndarray]:
    p = np.where(np.isfinite(mean), np.where(np.abs(mean) > reach, 1e-6, 0.5), np.nan)
    return {f"{name}_mean": mean, f"{name}_low": mean - reach, f"{name}_high": mean + reach, f"{name}_p": p}


def derivatives(**changed: Any) -> dict[str, Any]:
    """Home's progress harms toxic exposure, mostly through what is carried over; the filter has no own metric."""
    whole, direct = np.zeros((J, 2)), np.zeros((J, 2))
    whole[TOXIC, 0], direct[TOXIC, 0] = 0.5, 0.1
    whole[0, 0] = direct[0, 0] = 1.0  # its own metric
    whole[:, 1] = direct[:, 1] = whole[LOAD] = direct[LOAD] = np.nan
    between = np.array([[1.0, np.nan], [-0.3, np.nan]])
    found = {
        "names": np.array(["home", "filter"]),
        "objectives": np.array(NAMES),
        "own_row": np.array([0, J + 1]),
        "own_sign": np.array([-1.0, 1.0]),
        "reasons": np.array(["", "it has no own metric: name an objective"]),
        "conflict_mean": np.where(np.eye(J) > 0, 1.0, -0.5),
        "conflict_low": np.where(np.eye(J) > 0, 1.0, -0.8),
        "conflict_high": np.where(np.eye(J) > 0, 1.0, 0.2),
        "rotation": np.array(0.1),
        "rotation_error": np.array(0.02),
        "rightmost": np.array([-0.3, 0.0]),
        "at_equilibrium": np.array(False),
        "displacement": np.array(12.0),
        "price_mean": np.array(0.02),
        "price_low": np.array(0.01),
        "price_high": np.array(0.03),
        **estimates("externality_objective", whole, 0.05),
        **estimates("externality_direct", direct, 0.05),
        **estimates("externality_mediated", whole - direct, 0.05),
        **estimates("externality_algorithm", between, 0.05),
        **estimates("gap", np.array([2.0, 0.0]), 0.5),
    }
    return found | changed


def tipping(**changed: Any) -> dict[str, Any]:
    """Toxic exposure depends on the way between 0.4 and 0.6; seeds leave at 0.65 and 0.35."""
    levers, seeds = np.linspace(0, 1, 6), 4
    noise = 0.001 * np.arange(seeds)[:, None, None]
    up = np.stack([levers > 0.65, np.zeros(6)], axis=-1)[None] + noise
    down = np.stack([levers > 0.35, np.zeros(6)], axis=-1)[None] - noise
    flagged = np.zeros((6, 2), bool)
    flagged[2:4, 0] = True
    gap = (up - down).mean(axis=0)
    found = {
        "objectives": np.array(NAMES),
        "blocks": np.array(["users.trust", "home"]),
        **{k: v for k, v in estimates("block_rates", np.array([-0.5, 0.2]), 0.1).items() if not k.endswith("_p")},
        "scan_axis": np.array("levers/home/sharpness"),
        "scan_unit": np.array("logits"),
        "scan_objectives": np.array(["toxic_exposure_per_user", "trust"]),
        "scan_values": levers,
        "scan_up": up,
        "scan_down": down,
        "scan_flagged": flagged,
        "scan_gap_mean": gap,
        "scan_gap_low": gap - 0.1,
        "scan_gap_high": gap + 0.1,
        "fold_branches": np.array(["up", "down"]),
        "fold_objectives": np.array([0, 0]),
        "fold_low": np.array([[0.6, 0.6, 0.6, math.inf], [0.4, 0.4, 0.4, 0.4]]),
        "fold_high": np.array([[0.7, 0.7, 0.7, math.inf], [0.3, 0.3, 0.3, 0.3]]),  # a bracket may be told backwards
        "distance_tipping": np.array(0.75),
        "distance_low": np.array(0.7),
        "distance_high": np.array(0.8),
        "distance_curvature": np.array(0.5),
        "phase_axes": np.array(["levers/home/sharpness", "world/confidence"]),
        "phase_units": np.array(["logits", ""]),
        "phase_first": np.linspace(0, 1, 3),
        "phase_second": np.linspace(0, 1, 4),
        "phase_mean": np.arange(12.0 * J).reshape(3, 4, J),
        "phase_error": np.ones((3, 4, J)),
        "phase_fast": np.ones((3, 4, J), bool),
    }
    return found | changed


def page_of(path: Path, **files: dict[str, Any]) -> tuple[str, Any]:
    make(path, parts="summary")
    for name, arrays in files.items():
        folder.write_arrays(path / f"{name}.npz", arrays)
    return written(path)


def test_externalities_say_who_pays(tmp_path: Path) -> None:
    source, page = page_of(tmp_path, sensitivities=derivatives())
    section = source[source.index('<section id="externalities"') :]
    row = row_of(section[section.index("Change in % of each objective") :], "toxic exposure")
    assert "+0.50 % (+0.450 to +0.550)" in row and "carried over +0.40 %" in row
    assert "filter: it has no own metric: name an objective" in page.text
    assert row_of(section, "filter: its own loss").endswith("-0.30 % (-0.350 to -0.250) ")
    table = next(v for v in pictures(source) if len(v) == 3)
    colour = table[0]["data"][1]
    rows = table[0]["layout"]["yaxis"]["ticktext"]
    at = rows.index("toxic exposure")
    assert colour["z"][at][0] < 0  # more is worse
    assert table[1]["data"][1]["text"][at][0] == "+0.10" and table[2]["data"][1]["text"][at][0] == "+0.40"
    own = rows.index("engagement")
    assert colour["z"][own][0] is None and table[0]["data"][0]["text"][own][0] == "+1.00"  # 1 % of 1 % is no finding
    load = rows.index("reviewer load")
    assert "not clearly different from 0" in table[0]["data"][0]["hovertext"][load][0]
    assert "no own metric" in table[0]["data"][0]["hovertext"][at][1]
    assert len(table[0]["layout"]["shapes"]) == J + 1  # the filter's column, and one objective without a level


def test_stability_is_told_only_at_a_point_of_rest(tmp_path: Path) -> None:
    source, page = page_of(tmp_path / "away", sensitivities=derivatives())
    assert "the levers are no point of rest (it is 12.0" in page.text and "-0.300" not in row_of(source, "Rightmost")
    assert "+2.00 % (+1.50 to +2.50) gains by moving alone" in row_of(source, "Best-response gap of home")
    assert "Best-response gap of filter" not in page.text
    assert "+2.00 % (+1.00 to +3.00)" in row_of(source, "Price of non-coordination")
    source, _ = page_of(tmp_path / "rest", sensitivities=derivatives(at_equilibrium=np.array(True)))
    assert "-0.300" in row_of(source, "Rightmost")


def test_a_platform_without_metrics_of_its_own_says_so(tmp_path: Path) -> None:
    nothing = {
        name: np.full_like(array, np.nan)
        for name, array in derivatives().items()
        if name.startswith(("externality", "conflict"))
    }
    _, page = page_of(tmp_path, sensitivities=derivatives(reasons=np.array(["it has no levers"] * 2), **nothing))
    assert "home: it has no levers" in page.text and "Which goals pull" not in page.text


def test_hysteresis_is_told_with_the_place_where_regimes_end(tmp_path: Path) -> None:
    source, page = page_of(tmp_path, emergence=tipping())
    assert "The way matters for toxic exposure: the same setting has two states" in page.text
    section = source[source.index('<section id="emergence"') :]
    row = row_of(section[section.index("Scan of home/sharpness (logits); each") :], "toxic exposure")
    assert "end of the way up at 0.650; end of the way down at 0.350" in row and "2 of 6" in row
    assert "reaches 0 at 0.750 (95 % CI 0.700 to 0.800)" in page.text.replace("\N{NO-BREAK SPACE}", " ")
    scan = next(v for v in pictures(source) if any(t.get("fill") == "toself" for t in v[0]["data"]))
    assert len(scan) == 2
    marked = next(variant for variant in scan if variant["layout"].get("shapes"))
    assert [shape["x0"] for shape in marked["layout"]["shapes"] if shape["type"] == "rect"] == [0.6, 0.3]
    assert sum(bool(variant["layout"].get("shapes")) for variant in scan) == 1
    assert "A small disturbance grows in home" in page.text
    assert "by a factor e in 2.00 hours" in row_of(source, "users.trust")
    assert "12 of 12" in row_of(section[section.index("Range over") :], "toxic exposure")


def test_what_is_not_resolved_is_not_foretold(tmp_path: Path) -> None:
    found = tipping(distance_low=np.array(-math.inf), scan_flagged=np.zeros((6, 2), bool))
    _, page = page_of(tmp_path, emergence=found)
    assert "is not resolved, so that no tipping point is foretold" in page.text and "reaches 0" not in page.text
    assert "On none of 2 objectives was hysteresis found" in page.text


def test_rates_that_bend_are_not_extrapolated(tmp_path: Path) -> None:
    nothing = {f"distance_{name}": np.array(math.nan) for name in ("tipping", "low", "high")}
    _, page = page_of(tmp_path / "bent", emergence=tipping(distance_curvature=np.array(0.01), **nothing))
    assert "bend along home/sharpness (logits)" in page.text and "nothing is extrapolated" in page.text
    assert "reaches 0" not in page.text
    _, page = page_of(tmp_path / "even", emergence=tipping(distance_from=np.array(0.6)))
    assert "bend along" not in page.text and ", from 0.600 on, the growth rate" in page.text


def test_scans_are_not_set_off_from_a_warm_up_that_there_is_not(tmp_path: Path) -> None:
    path = make(tmp_path, parts="summary", more=", warm_up: 0")
    folder.write_arrays(path / "emergence.npz", tipping())
    _, page = written(path)
    assert "All of this starts cold, from the population as configured: a scan" in page.text
    assert "warm-up" not in page.text


def test_the_page_says_where_scans_start_and_ends_with_the_diagram(tmp_path: Path) -> None:
    _, page = page_of(tmp_path / "alone", emergence=tipping())
    assert "All of this starts cold, from the population as configured: a scan" in page.text
    folder.write_arrays(make(tmp_path / "both") / "emergence.npz", tipping())  # beside an analysis that has a warm-up
    _, page = written(tmp_path / "both")
    assert (
        "from the population as configured and not after the warm-up of the interaction analysis: a scan" in page.text
    )
    headings = (
        "Up and down again",
        "How fast a disturbance dies out",
        "against confidence",
        "Where both levers are at an end",
    )
    places = [page.text.index(heading) for heading in headings]
    assert places == sorted(places)


def audited() -> dict[str, Any]:
    """On the sampled model home does toxic exposure good, and the filter has a column."""
    whole = np.zeros((J, 2))
    whole[TOXIC, 0], whole[TOXIC, 1] = -0.4, 0.3
    between = np.array([[1.0, 0.2], [0.1, 1.0]])
    return {
        "audited_reasons": np.array(["", ""]),
        "audited_t": np.array([9.0, 8.0]),
        "warm_up": np.array(20),
        **estimates("audited_objective", whole, 0.05),
        **estimates("audited_algorithm", between, 0.05),
    }


def test_numbers_are_those_of_the_sampled_model_where_it_was_audited(tmp_path: Path) -> None:
    source, page = page_of(tmp_path / "audited", sensitivities=derivatives(**audited()))
    section = source[source.index('<section id="externalities"') :]
    row = row_of(section[section.index("Change in % of each objective") :], "toxic exposure")
    assert "-0.40 % (-0.450 to -0.350)" in row and "+0.30 % (+0.250 to +0.350)" in row
    assert "expected mode +0.50 %, of which carried over +0.40 %" in row and "expected mode not told" in row
    assert "finite differences on the sampled model around the default levers, after 20 steps of warm-up" in page.text
    assert "filter: it has no own metric" not in page.text
    row = row_of(section, "filter: its own loss")
    assert "+0.10 % (+0.0500 to +0.150)" in row and "expected mode -0.30 %" in row
    drawings = next(v for v in pictures(source) if len(v) == 3)
    at = drawings[0]["layout"]["yaxis"]["ticktext"].index("toxic exposure")
    assert drawings[0]["data"][1]["z"][at][0] > 0 and drawings[1]["data"][1]["text"][at][0] == "+0.10"
    _, page = page_of(tmp_path / "not", sensitivities=derivatives())
    assert "Derivatives are those of the expected mode at the default levers, from the first step on" in page.text
    lost = audited()
    del lost["audited_algorithm_p"]
    with pytest.raises(UserError, match=r"sensitivities\.npz: lacks audited_algorithm_p"):
        page_of(tmp_path / "lost", sensitivities=derivatives(**lost))


def test_teams_with_one_metric_are_marked(tmp_path: Path) -> None:
    between = estimates("externality_algorithm", np.ones((2, 2)), 0.0)
    found = derivatives(own_row=np.array([0, 0]), reasons=np.array(["", ""]), **between)
    source, _ = page_of(tmp_path, sensitivities=found)
    section = source[source.index("Team on team") :]
    assert "the same metric" in row_of(section, "filter: engagement") and "1.00" not in row_of(
        section, "filter: engagement"
    )


def test_prices_and_angles_say_what_they_hang_on(tmp_path: Path) -> None:
    source, page = page_of(tmp_path, sensitivities=derivatives(rotation_error=np.array(math.nan)))
    assert "of the goal without its constraints" in row_of(source, "Price of non-coordination")
    assert "one unconstrained unit (a factor e, or one logit)" in page.text
    assert "s.e." not in row_of(source, "Rotation index")  # too few rollouts for an error


def test_growth_alone_is_shown(tmp_path: Path) -> None:
    growth = {
        name: array for name, array in tipping().items() if not name.startswith(("scan", "fold", "dist", "phase"))
    }
    _, page = page_of(tmp_path, emergence=growth)
    assert "How fast a disturbance dies out" in page.text and "Up and down again" not in page.text


@pytest.mark.parametrize(
    ("file", "made", "lost"), [("sensitivities", derivatives, "reasons"), ("emergence", tipping, "fold_low")]
)
def test_damaged_files_are_refused_by_name(tmp_path: Path, file: str, made: Any, lost: str) -> None:
    found = made()
    del found[lost]
    with pytest.raises(UserError, match=rf"{file}\.npz: lacks {lost}"):
        page_of(tmp_path / "lost", **{file: found})
    with pytest.raises(UserError, match=rf"{file}\.npz: holds other objectives"):
        page_of(tmp_path / "other", **{file: made(objectives=np.array(NAMES[::-1]))})
    assert not (tmp_path / "other" / "report" / PAGE).exists()
