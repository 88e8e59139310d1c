"""Builders of pictures: valid JSON whatever they are given, and marks where the numbers say so."""

import json
import math
from typing import Any

import numpy as np
import pytest

from mamba.runs import figures
from mamba.runs.pictures import interactions, maps, scans

HOSTILE = "<img src=x onerror=alert(1)>"


def drawn(variant: figures.Variant) -> dict[str, Any]:
    """The drawing as a browser reads it."""
    text = figures.dump([variant])
    tree = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert "<img" not in text
    return tree["variants"][0]


def table(**changed: Any) -> maps.Cells:
    given: dict[str, Any] = {
        "rows": [HOSTILE, "search"],
        "columns": ["a", "b", HOSTILE],
        "colour": np.array([[1.0, -0.5, 0.1], [math.nan, 0.2, 3.0]]),
        "words": [["+1", "-5", HOSTILE], ["x", "y", "z"]],
        "hover": [[HOSTILE] * 3, ["why not"] * 3],
        "clear": np.array([[True, True, False], [True, True, True]]),
    }
    return maps.Cells(**(given | changed))


def test_a_table_shows_what_is_clear_in_colour_and_the_rest_in_grey() -> None:
    grey, colour = drawn(maps.table_map(table(), legend=HOSTILE))["data"]
    assert colour["z"] == [[1.0, -0.5, None], [None, 0.2, 3.0]]
    assert grey["z"] == [[None, None, 0.0], [0.0, None, None]]
    assert colour["text"][0][:2] == ["+1", "-5"] and colour["text"][0][2] == "" and grey["text"][1][0] == "x"


def test_masked_cells_are_struck_through_and_say_why() -> None:
    masked = np.array([[False, False, False], [False, True, True]])
    shown = drawn(maps.table_map(table(masked=masked), legend="effect"))
    grey, colour = shown["data"]
    assert len(shown["layout"]["shapes"]) == 2
    assert colour["z"][1] == [None, None, None] and grey["text"][1][1:] == ["", ""]
    assert grey["hovertext"][1][1] == "why not"


def phase(**changed: Any) -> maps.Phase:
    fast = np.zeros((3, 4), bool)
    fast[1] = True
    given: dict[str, Any] = {
        "across": HOSTILE,
        "across_values": np.array([0.1, 1.0, 10.0]),
        "up": "strength",
        "up_values": np.linspace(0, 3, 4),
        "mean": np.arange(12.0).reshape(3, 4),
        "fast": fast,
        "title": "toxic exposure",
        "health": -1.0,
    }
    return maps.Phase(**(given | changed))


def test_a_phase_diagram_lines_cells_that_change_fast() -> None:
    heat, line = drawn(maps.phase_diagram(phase()))["data"]
    assert np.array(heat["z"]).shape == (4, 3) and heat["z"][1][2] == 9.0  # second lever upwards, first to the right
    assert "changes fast here" in heat["hovertext"][0][1] and "changes" not in heat["hovertext"][0][0]
    assert line["type"] == "contour" and np.array(line["z"])[1:-1, 2].tolist() == [1.0] * 4
    assert heat["colorscale"][0][1] == figures.HEALTHIER  # less is healthier
    (alone,) = drawn(maps.phase_diagram(phase(fast=np.zeros((3, 4), bool), health=1.0)))["data"]
    assert alone["colorscale"][0][1] == figures.WORSE


def test_an_empty_cell_of_a_phase_diagram_stays_empty() -> None:
    mean = np.arange(12.0).reshape(3, 4)
    mean[0, 0] = math.nan
    assert drawn(maps.phase_diagram(phase(mean=mean)))["data"][0]["z"][0][0] is None


def test_a_scan_shows_both_ways_and_where_they_end() -> None:
    levers = np.linspace(0, 1, 5)
    up = scans.Branch(levers, levers - 0.1, levers + 0.1)
    low = np.where(levers > 0.9, math.nan, 0.0)
    down = scans.Branch(1 - levers, low, 1 - levers)
    flagged = np.array([False, False, True, True, False])
    marks = (scans.Mark(HOSTILE, 0.7, 0.6, 0.8), scans.Mark("growth is 0", 0.9, math.nan, math.nan))
    shown = drawn(scans.scan(scans.Scan(HOSTILE, levers, HOSTILE, up, down, flagged, marks)))
    band, way, band_down, _ = shown["data"]
    assert len(band["x"]) == 10 and len(band_down["x"]) == 8  # a value without interval has no band
    assert [symbol.endswith("open") for symbol in way["marker"]["symbol"]] == [True, True, False, False, True]
    kinds = [shape["type"] for shape in shown["layout"]["shapes"]]
    assert kinds.count("rect") == 1 and kinds.count("line") == 2 and len(shown["layout"]["annotations"]) == 2


def test_courses_fill_the_marks_that_leave_out_zero() -> None:
    mean = np.array([0.0, 1.0, math.nan])
    line = interactions.Course(HOSTILE, mean, mean - 0.5, mean + 0.5, ["a", "b", HOSTILE])
    (trace,) = drawn(interactions.courses(["1", "2", "3"], [line], x="hours", y="spreads"))["data"]
    assert trace["y"] == [0.0, 1.0, None]
    assert trace["marker"]["symbol"] == ["circle-open", "circle", "circle-open"]


def test_dots_leave_out_what_is_not_there() -> None:
    dot = interactions.Dot(1.0, 0.5, 2.0, HOSTILE)
    gone = interactions.Dot(math.nan, math.nan, math.nan, "gone")
    one, other = drawn(interactions.dots(["a", HOSTILE], [("x", [dot, None]), ("y", [gone, dot])], x="share"))["data"]
    assert one["x"] == [1.0] and other["x"] == [1.0] and other["y"][0] > 1.0
    assert one["error_x"]["array"] == [1.0] and one["error_x"]["arrayminus"] == [0.5]


def test_a_waterfall_without_numbers_is_empty_rather_than_broken() -> None:
    step = interactions.Step("a", "main", math.nan, math.nan, math.nan, "?")
    bars = drawn(interactions.waterfall([step], start=math.nan, end=1.0, health=1.0, unit=HOSTILE))["data"][0]
    assert bars["x"] == [None] and bars["marker"]["color"] == [figures.UNCLEAR]
