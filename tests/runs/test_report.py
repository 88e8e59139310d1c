"""The report page: what it says, that nothing in a run can break it, and that it asks the network for nothing."""

import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pages import (
    HOSTILE,
    LEVERS,
    SENTENCE,
    arrays,
    level,
    make,
    measured,
    pictures,
    row_of,
    summary,
    training_row,
    written,
)

from mamba.objectives import NAMES, OBJECTIVES
from mamba.runs import figures, folder, markup, report
from mamba.runs.errors import UserError
from mamba.runs.pages import SCRIPT


def test_a_finished_run_is_told_in_full(tmp_path: Path) -> None:
    source, page = written(make(tmp_path))
    assert SENTENCE in page.text
    assert "not calibrated" in page.text.replace("nothing here is calibrated", "not calibrated")
    assert "1 moved as intended (toxic exposure) and 1 moved against the goal (opinion polarisation)" in page.text
    assert "The constraint (engagement at least 97 % of its baseline) was kept" in page.text
    assert "2 objectives outside" not in page.text and "1 worse: trust" in page.text
    for of in OBJECTIVES.values():
        assert of.label in page.text and of.formula in page.text
    for title in (
        "Headline findings",
        "Before and after",
        "Who interacts",
        "Training",
        "Gradient audit",
        "How to repeat",
    ):
        assert title in page.text
    toxic = row_of(source, "toxic exposure ")
    assert "trained" in toxic and "↓ healthier" in toxic and "-40.0 % (-42.0 to -38.0)" in toxic
    assert "↑ worse" in row_of(source, "opinion polarisation ")
    assert "no clear change" in row_of(source, "retention ")
    assert "mamba-eco run tiny.yaml" in page.text and "with uncommitted changes" in page.text and "d1935" in page.text
    assert "not finished" not in page.text


def test_the_page_says_what_was_lowered_what_was_raised_and_within_which_limits(tmp_path: Path) -> None:
    """A limit is a floor where more is healthier, and a ceiling where less is."""
    told = summary()
    told["minimise"] = {"toxic_exposure_per_user": 1.0, "wellbeing": -0.5, "polarisation": 2.0}
    told["keep"] = {"engagement_per_user": 0.97, "false_removal_rate": 1.5}
    row = training_row(0) | {"constraint/false_removal_rate": -1.0}
    source, page = written(make(tmp_path, summary=told, rows=[row]))
    assert (
        "trained their levers together to lower opinion polarisation and toxic exposure and to raise wellbeing, with "
        "engagement at least 97 % and false removals at most 150 % of before." in page.text
    )
    assert "The constraint (false removals at most 150 % of its baseline) was kept" in page.text
    drawn = [trace.get("name") for variants in pictures(source) for trace in variants[0]["data"]]
    assert {"engagement at least 97 %", "false removals at most 150 %"} <= set(drawn)
    assert "keep 150 %" not in source and "150 % of false removals" not in page.text


def test_teams_that_train_for_themselves_have_no_goal_in_common(tmp_path: Path) -> None:
    path = make(tmp_path, parts="training")
    settings = (path / folder.CONFIG).read_text(encoding="utf-8").replace("  steps: 4", "  steps: 4\n  goal: own")
    folder.write_text(path / folder.CONFIG, settings)
    _, page = written(path)
    assert "4 meta-steps trained their levers, each team its own for its own metric." in page.text
    assert "together to lower" not in page.text
    # Nor is anything judged by a goal or by limits that steered nothing.
    path = make(tmp_path / "whole")
    folder.write_text(
        path / folder.CONFIG, (path / folder.CONFIG).read_text().replace("  steps: 4", "  steps: 4\n  goal: own")
    )
    _, page = written(path)
    assert "each team its own for its own metric" in page.text
    assert f"Of the {len(NAMES)} objectives, " in page.text
    for word in ("trained objective", "outside the goal", "The constraint", "[trained]", "What was trained and kept"):
        assert word not in page.text, word


def test_interactions_say_what_was_tested(tmp_path: Path) -> None:
    source, page = written(make(tmp_path))
    tests = len(NAMES)  # one pair
    assert f"1 pair on {tests} objectives make {tests} tests" in page.text
    assert "home + filter" in page.text and "false discovery rate of 5 %" in page.text
    figure = next(
        json.loads(text) for text in re.findall(r'id="figure-\d+">(.*?)</script>', source) if "heatmap" in text
    )
    assert len(figure["variants"]) == len(NAMES)
    for variant in figure["variants"]:
        low, high = variant["layout"]["yaxis"]["range"]
        assert low > high  # first algorithm on top
    chosen = figure["variants"][NAMES.index("toxic_exposure_per_user")]
    assert any(
        "confirmed" in cell and "CI" in cell for trace in chosen["data"] for row in trace["hovertext"] for cell in row
    )


def test_the_audit_is_judged_from_its_numbers(tmp_path: Path) -> None:
    _, page = written(make(tmp_path))
    assert (
        "In the last audit (meta-step 2) the two estimates differ by more than 2 standard errors in 1 of 2 levers"
        in page.text
    )
    assert "(home/sharpness)" in page.text
    assert "For 1 of 2 the audit is itself too noisy to tell the sign" in page.text
    assert "Of the 1 lever it can tell, the sign agrees in 1." in page.text


@pytest.mark.parametrize(
    ("parts", "said", "unsaid"),
    [
        ("interactions", "Who interacts with whom", "Before and after meta-training"),
        ("training", "4 meta-steps trained", "Who interacts with whom"),
        ("summary", "Before and after meta-training", "Gradient audit"),
        ("interactions training", "Gradient audit", "Before and after meta-training"),
    ],
)
def test_half_a_run_shows_what_there_is(tmp_path: Path, parts: str, said: str, unsaid: str) -> None:
    _, page = written(make(tmp_path, parts=parts))
    assert said in page.text and unsaid not in page.text
    assert ("This run is not finished" in page.text) == ("summary" not in parts)


@pytest.mark.parametrize(
    ("share", "violation", "said"),
    [
        (
            1.0,
            -0.5,
            "The levers of the last meta-step keep what they were told to keep, on seeds that no gradient saw (95 % confidence",
        ),
        (
            0.625,
            -0.1,
            "do not surely keep engagement (one-sided intervals with 95 % confidence). Those that go 62.5 % of the way from "
            "the default levers to them do, on the",
        ),
        (
            0.125,
            0.4,
            "12.5 % of the way from the default levers to them come nearest to it, and still do not surely keep engagement.",
        ),
    ],
)
def test_the_page_says_which_levers_are_deployed(tmp_path: Path, share: float, violation: float, said: str) -> None:
    name = "engagement_per_user"
    trained = {name: violation if share == 1.0 else 0.6}
    told = {"share": share, "confidence": 0.95, "bound": {name: violation}, "trained_bound": trained}
    _, page = written(make(tmp_path, summary=summary() | {"restored": told}))
    assert said in page.text.replace("\N{NO-BREAK SPACE}", " ")


def test_nothing_to_report_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to report yet"):
        report.write_report(make(tmp_path / "new", parts=""))
    with pytest.raises(UserError, match="does not exist"):
        report.write_report(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no config\.yaml"):
        report.write_report(tmp_path / "empty")
    found = arrays()
    del found["values"]
    with pytest.raises(UserError, match="lacks values"):
        report.write_report(make(tmp_path / "damaged", arrays=found))


def test_numbers_that_are_not_finite_are_dashes(tmp_path: Path) -> None:
    found = arrays()
    found["values"][1] = np.nan
    rows = [training_row(step) for step in range(3)]
    rows[1] = {name: math.nan if isinstance(value, float) else value for name, value in rows[1].items()}
    rows[2] = {name: math.nan if isinstance(value, float) else value for name, value in rows[2].items()}
    told = summary()
    for each in told["objectives"].values():
        each["before"] = each["change"] = level(math.nan, 0.0)
    told["levers"][LEVERS[0]]["after"] = math.inf
    source, page = written(make(tmp_path, arrays=found, rows=rows, summary=told))
    assert not re.search(r"\b(nan|inf|None)\b", page.text, re.I)
    assert markup.MISSING in row_of(source, "engagement ")
    assert "2 meta-steps had a goal that is not finite" in page.text
    assert "4 rollouts of 16 ended in numbers that are not finite" in page.text
    for text in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', source):
        json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def test_names_cannot_break_the_page(tmp_path: Path) -> None:
    told = summary(HOSTILE)
    told |= {"name": HOSTILE, "algorithms": {HOSTILE: "engagement"}, "story": {"network": HOSTILE, HOSTILE: HOSTILE}}
    told["provenance"]["command"] = HOSTILE
    told["levers"] = {f"{HOSTILE}/sharpness": {"unit": HOSTILE, "before": 1.0, "after": 2.0}}
    told["findings"][0]["kind"] = '" onclick="x'
    told["objectives"][HOSTILE] = {**told["objectives"]["trust"], "label": HOSTILE, "unit": HOSTILE}
    row = training_row(0) | {f"levers/{HOSTILE}/sharpness": 1.0, f"audit/{HOSTILE}/sharpness/sampled": 1.0}
    source, page = written(make(tmp_path, first=HOSTILE, summary=told, rows=[row]))
    assert HOSTILE in page.text
    assert not [name for name, _ in page.elements if name in ("img", "iframe", "object")]
    assert not [attributes for _, attributes in page.elements for name in attributes if name.startswith("on")]
    drawn = "".join(re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', source))
    assert "onerror" in drawn and "<" not in drawn
    assert "<img" not in json.dumps(
        [json.loads(text) for text in re.findall(r'id="figure-\d+">(.*?)</script>', source)]
    )


def test_the_page_needs_nothing_but_the_script_beside_it(tmp_path: Path) -> None:
    source, page = written(make(tmp_path))
    fetching = ("src", "href", "action", "srcset", "poster")
    links = [attributes.get(name) for _, attributes in page.elements for name in fetching]
    for link in filter(None, links):
        assert link == SCRIPT or link.startswith("#") or link == "data:,", link
    style = source[source.index("<style>") : source.index("</style>")]
    assert "url(" not in style and "@import" not in style
    assert "connect-src 'none'" in source and "sendChartToCloud" not in source
    assert len(source) < 1_000_000
    script = tmp_path / "report" / SCRIPT
    assert script.stat().st_size > 1_000_000
    before = script.stat().st_mtime_ns
    report.write_report(tmp_path)
    assert script.stat().st_mtime_ns == before  # written once


def test_the_page_can_be_read_without_seeing_it(tmp_path: Path) -> None:
    source, page = written(make(tmp_path))
    named = [dict(attributes) for name, attributes in page.elements if name == "div" and "data-figure" in attributes]
    assert named and all(each.get("role") == "img" and each.get("aria-label") for each in named)
    tags = [name for name, _ in page.elements]
    assert tags.count("table") == tags.count("caption") and tags.count("h1") == 1 and tags.count("main") == 1
    assert len({a["id"] for _, a in page.elements if "id" in a}) == sum("id" in a for _, a in page.elements)
    anchors = {attributes.get("href", "")[1:] for name, attributes in page.elements if name == "a"}
    assert anchors <= {attributes.get("id") for _, attributes in page.elements}
    assert '<html lang="en">' in source and "prefers-color-scheme: dark" in source and "@media print" in source


def test_long_curves_are_thinned(tmp_path: Path) -> None:
    kept = figures.decimate(54_321)
    assert len(kept) == figures.POINTS and kept[0] == 0 and kept[-1] == 54_320
    assert np.array_equal(figures.decimate(10), np.arange(10))
    rows = [training_row(step) for step in range(1500)]
    source, page = written(make(tmp_path, parts="training", rows=rows))
    assert "thinned to 1,000 points" in page.text
    for text in re.findall(r'id="figure-\d+">(.*?)</script>', source):
        for variant in json.loads(text)["variants"]:
            assert all(len(trace.get("x") or ()) <= figures.POINTS for trace in variant["data"])


def test_one_algorithm_and_one_objective(tmp_path: Path) -> None:
    found = arrays()
    found = measured(("home",), found["values"][:, :2])
    _, page = written(make(tmp_path, parts="interactions", arrays=found))
    assert "nobody to interact with" in page.text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (1234567.0, "1.23 × 10⁶"), (12345.6, "12,346"), (0.99961, "1.00"), (-0.0123456, "−0.0123"),
        (0.000218, "0.000218"), (3.2e-6, "3.20 × 10⁻⁶"), (math.nan, "–"), (math.inf, "–"), (None, "–"),
    ],
)  # fmt: skip
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    assert markup.number(value).replace("\N{NO-BREAK SPACE}", " ") == text


def test_per_cents_and_words() -> None:
    assert markup.percent(-0.04) == "0.0\N{NO-BREAK SPACE}%" and markup.percent(1234.0) == "+1,234\N{NO-BREAK SPACE}%"
    assert markup.p_value(0.0004) == "p < 0.001" and markup.p_value(math.nan) == "p not known"
    assert markup.series(["a", "<b>", "c"]) == "a, &lt;b&gt; and c"
    assert markup.tag("p", "<", markup.Html("<br>"), class_='"') == '<p class="&quot;">&lt;<br></p>'


@pytest.mark.slow
def test_a_browser_draws_every_figure_without_complaint(tmp_path: Path) -> None:
    """Names that attack plotly's own HTML too; the network is out of reach, so that any request would fail loudly."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("needs chromium or google-chrome")
    told = summary()
    told["levers"] = {f"{HOSTILE}/sharpness": {"unit": "logits", "before": 1.0, "after": 2.0}}
    row = {**training_row(0), f"levers/{HOSTILE}/sharpness": 1.0}
    page = report.write_report(make(tmp_path / "run", first=HOSTILE, summary=told, rows=[row]))
    try:
        done = subprocess.run(
            [
                browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--v=0",
                "--virtual-time-budget=10000", "--window-size=1280,2000",
                f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri(),
            ],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        pytest.skip("the browser did not answer within two minutes")
    if "<body" not in done.stdout:
        pytest.skip(f"the browser did not start: {done.stderr[-300:]}")
    assert "CONSOLE" not in done.stderr, done.stderr
    figures_asked = len(re.findall(r'data-figure="', page.read_text(encoding="utf-8")))
    plots = re.findall(r'class="plot js-plotly-plot"', done.stdout)
    assert len(plots) == figures_asked > 5
    assert 'onerror="' not in done.stdout and "<img" not in done.stdout
    assert all(link.startswith("data:") for link in re.findall(r'xlink:href="(.*?)"', done.stdout))
