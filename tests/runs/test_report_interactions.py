"""What the report says about interactions: planted effects come out in words, in tables and in pictures."""

import html
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import SENTENCE, arrays, config, level, make, measured, pictures, row_of, summary, training_row, written

from mamba.interactions import designs, factorial
from mamba.interactions.verdicts import VERDICTS
from mamba.objectives import NAMES
from mamba.runs import figures, folder, report
from mamba.runs.errors import UserError
from mamba.runs.sections import course
from mamba.runs.sections.analysed import analysed, sentences, strongest
from mamba.runs.sections.contributions import DRAWN

PEOPLE = ("home", "search", "filter")
TOXIC = NAMES.index("toxic_exposure_per_user")
WINDOWS, STEPS = 4, 12


def planted(seeds: int = 8) -> dict[str, Any]:
    """Home and search each lower toxic exposure; from the third window on they undo each other. All else is noise of a seed."""
    rng = np.random.default_rng(1)
    gates = designs.gates(len(PEOPLE)).astype(np.float64)  # [R, A]
    shared = rng.normal(scale=0.1, size=(seeds, 1, 1, len(NAMES)))
    own = rng.normal(scale=0.004, size=(seeds, len(gates), WINDOWS, len(NAMES)))
    windows = 2.0 + shared + own
    both = gates[:, 0] * gates[:, 1]
    late = np.array([0.0, 0.0, 0.8, 0.8])
    windows[..., TOXIC] += -0.2 * (gates[:, 0] + gates[:, 1])[:, None] + both[:, None] * late
    learning = 2.0 + shared[:, 0] + rng.normal(scale=0.004, size=(seeds, 9, len(NAMES)))
    effect = np.zeros((3, 3))
    effect[designs.FROZEN :] = [-0.4, -0.2, -0.1]  # of search, while home is off, frozen, learning
    learning[..., TOXIC] += effect.ravel()
    return measured(PEOPLE, windows.mean(axis=2), windows=windows, pairs=np.array([[1, 0]]), learning=learning[None])


@pytest.fixture(scope="module")
def planted_page(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    return written(make(tmp_path_factory.mktemp("planted"), arrays=planted()))


def words_of(source: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub("<[^>]+>", " ", source))).replace("\N{MINUS SIGN}", "-")


def test_a_planted_conflict_is_told_everywhere(planted_page: tuple[str, Any]) -> None:
    source, page = planted_page
    row = row_of(source, "home + search")
    assert "toxic exposure" in row and "working against" in row
    assert "search turns home round; home turns search round" in row
    # -0.2 of 2.0 alone; 0.4 - 0.2 together, of a level of 2.0 with everything on
    assert re.search(r"alone -(9\.\d|10\.\d) %", row), row
    assert re.search(r"with it \+(9\.\d|10\.\d) %", row), row
    assert re.search(r"↑ worse \+(19|20)\.\d %", row), row
    assert "first seen in 7 to 9: worse together than the sum" in page.text
    assert "home helps toxic exposure alone and harms it while search is on: first seen in 7 to 9." in page.text
    # the finding stands in the section, not only among the headlines
    assert page.text.count(SENTENCE) == 2


def test_the_page_says_what_per_cents_are_of(planted_page: tuple[str, Any], tmp_path: Path) -> None:
    said = "Per cents of interactions and side effects are of an objective's level with every algorithm on. Beyond -100 % says"
    assert said in planted_page[1].text
    _, page = written(make(tmp_path, parts="training summary"))
    assert "level with every algorithm on" not in page.text


def test_every_test_is_counted_once(planted_page: tuple[str, Any]) -> None:
    source, _ = planted_page
    labels = [name.replace("_", " ") for name in VERDICTS if name != "none"] + ["no interaction"]
    start = source.index("Verdicts on 63 pairs and objectives.")
    body = source[start : source.index("</table>", start)]
    rows = re.findall(r'<tr><th scope="row">([^<]*)</th>.*?<td class="number">([\d,]+)</td></tr>', body)
    assert {name.lower() for name, _ in rows} <= set(labels)
    assert sum(int(number.replace(",", "")) for _, number in rows) == 3 * len(NAMES)
    assert dict(rows)["Working against"] == "1"


def test_relearning_is_read_off_the_three_levels(planted_page: tuple[str, Any]) -> None:
    source, _ = planted_page
    start = source.index("Effect of search, by what home does")
    row = row_of(source[start:], "toxic exposure")
    assert "lost" in row and re.search(r"-(19|20)\.\d", row) and re.search(r"\+(4\.[89]|5\.[012])", row), row
    assert "no difference at this resolution" in source[start:] or "not resolved" in source[start:]


@pytest.mark.parametrize(
    ("frozen", "low", "high", "said"),
    [
        ((-3.0, -2.0), 0.2, 0.4, "lost"),
        ((2.0, 3.0), 0.2, 0.4, "added"),
        ((2.0, 3.0), -0.4, -0.2, "lost"),
        ((-1.0, 1.0), 0.2, 0.4, "changed: there was no clear effect before"),
        ((2.0, 3.0), -0.05, 0.09, "no difference at this resolution"),
        ((2.0, 3.0), 0.01, 0.09, "no difference at this resolution"),
        ((2.0, 3.0), -0.5, 0.5, "not resolved"),
        ((2.0, 3.0), math.nan, math.nan, "not resolved"),
    ],
)
def test_words_for_relearning(frozen: tuple[float, float], low: float, high: float, said: str) -> None:
    assert course.relearned(frozen, low, high, margin=0.1) == said


@pytest.mark.parametrize(
    ("signs", "health", "said"),
    [
        ([0, 0, 0], 1.0, "resolved over the whole rollout only, in no part of it"),
        ([1, 1, 1], 1.0, "from the start (a): healthier together than the sum"),
        ([1, 1, 1], -1.0, "from the start (a): worse together than the sum"),
        ([0, -1, -1], 1.0, "first seen in b: worse together than the sum"),
        ([0, -1, 0], 1.0, "first seen in b: worse together than the sum; last seen in b"),
        ([1, 0, -1], 1.0, "from the start (a): healthier together than the sum; the other way round in c"),
    ],
)
def test_words_for_beginnings(signs: list[int], health: float, said: str) -> None:
    low, high = (np.array([sign + reach for sign in signs], float) for reach in (-0.5, 0.5))
    assert course.begins(["a", "b", "c"], low, high, health) == said


def values(algorithms: int, seeds: int = 4) -> np.ndarray:
    rng = np.random.default_rng(2)
    rows = len(factorial.plan(algorithms).design.gates)
    return 1.0 + rng.normal(scale=0.1, size=(seeds, rows, len(NAMES)))


@pytest.mark.parametrize(("algorithms", "index"), [(3, "faith_shap"), (5, "faith_shap"), (3, "shapley_interaction")])
def test_waterfalls_add_up_exactly(tmp_path: Path, algorithms: int, index: str) -> None:
    names = tuple("abcdefgh"[:algorithms])
    found = measured(names, values(algorithms))
    source, _ = written(make(tmp_path, arrays=found, more=f", index: {index}", parts="interactions"))
    drawn = [variants for variants in pictures(source) if "base" in variants[0]["data"][0]]
    assert len(drawn) == 1 and len(drawn[0]) == len(NAMES)
    ends = found["values"][:, [0, -1]].mean(axis=0)  # [2, J]
    order = [NAMES.index(of) for of in shown(tmp_path)]
    for variant, k in zip(drawn[0], order, strict=True):
        bars, _, levels = variant["data"]
        assert math.isclose(math.fsum(bars["x"]), ends[1, k] - ends[0, k], rel_tol=1e-9)
        assert np.allclose(levels["x"], ends[:, k], rtol=1e-12)
        ahead = np.array(bars["base"]) + np.array(bars["x"])
        assert np.allclose(ahead, [*bars["base"][1:], ends[1, k]], rtol=1e-9)
        ticks = variant["layout"]["yaxis"]["ticktext"]
        assert len(ticks) == len(bars["x"]) + 2
        pairs = algorithms * (algorithms - 1) // 2
        if pairs > DRAWN:
            assert f"{pairs - DRAWN} other pairs" in ticks
        assert ("larger groups" in ticks) == (index == "shapley_interaction")


def shown(path: Path) -> list[str]:
    return list(report.read(folder.load_run(path), []).objectives)


def test_a_fraction_has_no_sum_to_draw(tmp_path: Path) -> None:
    found = measured(tuple("abcdefghi"), values(9))
    source, page = written(make(tmp_path, arrays=found, parts="interactions"))
    assert "everything off not among them" in page.text
    assert "a fraction of the on/off combinations of 9 algorithms" in page.text
    assert "Fair share" not in page.text and "tuned separately" not in page.text
    assert not [variants for variants in pictures(source) if "base" in variants[0]["data"][0]]
    assert "36 pairs on 21 objectives make 756 tests" in page.text


def test_lost_pairing_raises_an_alarm_and_working_pairing_does_not(tmp_path: Path, planted_page: Any) -> None:
    _, noisy = written(make(tmp_path, arrays=arrays(), parts="interactions"))
    assert "Common random numbers gain little here" in noisy.text
    assert "Common random numbers gain little here" not in planted_page[1].text


def test_provenance_names_what_the_numbers_hang_on(planted_page: tuple[str, Any]) -> None:
    source, page = planted_page
    assert "all on/off combinations of 3 algorithms: 8 platforms, 8 seeds each, 64 rollouts" in page.text
    assert row_of(source, "Digest of what decides the values").endswith("d1b2 ")
    assert "63 (pairs by objectives)" in row_of(source, "Tests")
    assert "20 hours" in row_of(source, "Warm-up") and "4 parts" in row_of(source, "Parts of the rollout")
    assert "Not varied in this analysis:" in page.text


def test_without_a_warm_up_nothing_is_said_of_one(planted_page: tuple[str, Any], tmp_path: Path) -> None:
    """Then every platform starts cold, and an algorithm that is frozen has learned nothing."""
    assert "12 hours after the warm-up" in row_of(planted_page[0], "Length")
    assert "frozen at what its warm-up had taught it" in planted_page[1].text
    assert "The warm-up: every platform starts where all algorithms had run" in planted_page[1].text
    source, page = written(make(tmp_path, arrays=planted(), more=", warm_up: 0", parts="interactions"))
    assert row_of(source, "Length").strip().endswith("12 hours")
    assert "none: every platform starts cold" in row_of(source, "Warm-up")
    assert "on but frozen untrained (there was no warm-up)" in page.text
    assert "The start: there was no warm-up, so every platform starts cold" in page.text
    for said in ("had taught it", "had run", "after the warm-up"):
        assert said not in page.text


def test_levers_that_training_reached_are_said_to_be_analysed_too(
    planted_page: tuple[str, Any], tmp_path: Path
) -> None:
    again = "and its combinations once more at those of some meta-steps (“What training shifted”)"
    apart = "what training shifted is told apart, with the same combinations"
    assert again not in planted_page[1].text and apart not in planted_page[1].text
    _, page = written(make(tmp_path, arrays=planted(), rows=[training_row(0), {"stage": "shifts", "meta_step": 1}]))
    assert again in page.text and apart in page.text and "What training shiftedAfter meta-step 1" in page.text


def test_all_pairs_are_told_and_many_are_folded(tmp_path: Path) -> None:
    told = summary()
    told["findings"] = [
        {"kind": "interaction", "sentence": f"sentence {n}.", "objective": "trust", **level(0.5, 0.1)}
        for n in range(12)
    ] + [{"kind": "training", "sentence": "trained.", "objective": "trust", **level(0.5, 0.1)}]
    source, page = written(make(tmp_path, summary=told))
    cards = re.findall(r'<article class="card (\w+)">', source)
    assert cards == ["interaction"] * 3 + ["training"]
    assert "9 more confirmed pairs" in page.text and "Show the other 2 pairs" in page.text
    section = source[source.index('<section id="interactions"') :]
    assert [words_of(item).strip() for item in re.findall(r"<li>(sentence .*?)</li>", section)] == [
        f"sentence {n}." for n in range(12)
    ]


def test_sentences_are_written_before_the_run_ends(tmp_path: Path) -> None:
    path = make(tmp_path, arrays=planted(), parts="interactions")
    of = analysed(folder.load_run(path))
    assert of is not None
    expected = sentences(of)
    assert expected[0].objective == "toxic_exposure_per_user"
    assert (strongest(of)[0].i, strongest(of)[0].j) == (0, 1)
    _, page = written(path)
    assert "work against each other" in page.text and "Having search on rather than off" in page.text


def test_the_page_tells_what_the_analysis_of_the_run_found(tmp_path: Path) -> None:
    """Settings of the run decide, not the defaults; one that this version does not know does no harm."""
    more = ", index: shapley_taylor, background: average, resolution: 0.3, forgotten: 1"
    path = make(tmp_path, arrays=planted(), more=more, parts="interactions")
    of = analysed(folder.load_run(path))
    assert of is not None
    assert (of.config.index, of.config.background, of.config.resolution) == ("shapley_taylor", "average", 0.3)
    _, page = written(path)
    assert "Shapley-Taylor of order 2" in page.text and "averaged over the other algorithms" in page.text


def test_arrays_of_another_version_are_refused(tmp_path: Path) -> None:
    found = planted()
    found["objectives"] = found["objectives"][::-1]
    with pytest.raises(UserError, match="other objectives"):
        report.write_report(make(tmp_path / "objectives", arrays=found))
    found = planted()
    found["values"] = found["values"][:, :5]
    with pytest.raises(UserError, match="remove it and run again"):
        report.write_report(make(tmp_path / "rows", arrays=found))


def test_drawings_are_json_and_say_what_colours_say(planted_page: tuple[str, Any]) -> None:
    source, _ = planted_page
    for text in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', source):
        json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    known = {*figures.DARK, "rgba(0,0,0,0)"}
    used = set(re.findall(r"#[0-9a-f]{6}\b", "".join(re.findall(r'id="figure-\d+">(.*?)</script>', source))))
    assert used <= known, used - known  # every colour has a counterpart on dark screens


def test_the_heat_map_shows_the_index(planted_page: tuple[str, Any], tmp_path: Path) -> None:
    source, _ = planted_page
    drawn = next(v for v in pictures(source) if v[0]["data"][0]["type"] == "heatmap" and len(v) == len(NAMES))
    found = planted()
    analysis = factorial.analyse(PEOPLE, found["values"])
    assert analysis.index_pair is not None
    order = shown(make(tmp_path, arrays=found, parts="interactions"))
    layer = drawn[order.index("toxic_exposure_per_user")]["data"][1]
    shown_pair = -analysis.index_pair.mean[0, 1, TOXIC] / analysis.spread[TOXIC]  # less is healthier
    assert layer["z"][0][1] == pytest.approx(shown_pair, rel=1e-9)
    assert "working against" in layer["hovertext"][0][1] and "confirmed" in layer["hovertext"][0][1]
    assert layer["z"][0][2] is None and layer["hovertext"][0][2] == ""


def test_config_of_the_tests_is_the_library_s(tmp_path: Path) -> None:
    folder.write_text(tmp_path / folder.CONFIG, config())
    assert folder.load_run(tmp_path).config["interactions"]["false_discovery_rate"] == 0.05
