"""The page of a sweep: what it says of members, and that a damaged file is one clear line."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from mamba.runs import folder
from mamba.runs.errors import UserError
from mamba.runs.sweeps import kept, report

RATE, METRIC = "meta.learning_rate", "constraint/trust"
SPEC = {"sweep": {"method": "grid", "source": "smoke", "parameters": {RATE: {"values": [0.1, 0.2]}}}, "base": {}}
SUMMARY: dict[str, Any] = {
    "name": "made",
    "finished": True,
    "job": "train",
    "members": 4,
    "frozen": [3],
    "groups": [[0, 1, 2, 3]],
    "metric": {"name": METRIC, "goal": "minimize"},
    "best": [1, 0],
    "seconds": 3.0,
    "provenance": {"command": "mamba-eco sweep made.yaml", "devices": 1, "device_kind": "cpu"},
}
REMEDY = "run the sweep again"


def member(number: int, **more: Any) -> dict[str, Any]:
    told = {
        "member": number,
        "group": 0,
        "frozen": False,
        "why": "",
        "settings": {RATE: 0.1 * (number + 1)},
        "command": f"mamba-eco train smoke --{RATE}={number}",
        "evaluation/after/polarisation": 0.5 - 0.01 * number,
    }
    return told | more


def members() -> list[dict[str, Any]]:
    """Two that are compared, one whose limits do not name what they are compared by, and one that failed."""
    failed = {"frozen": True, "why": "exit code 7: out of luck"}
    return [member(0, **{METRIC: 0.2}), member(1, **{METRIC: 0.1}), member(2), member(3, **failed)]


def made(
    path: Path, *, summary: dict[str, Any] = SUMMARY, rows: list[Any] | None = None, spec: dict[str, Any] = SPEC
) -> Path:
    path.mkdir(exist_ok=True)
    (path / folder.SWEEP).write_text(json.dumps(spec))
    (path / folder.SUMMARY).write_text(json.dumps(summary))
    (path / kept.TABLE).write_text("".join(json.dumps(row) + "\n" for row in (members() if rows is None else rows)))
    (path / folder.METRICS).write_text('{"meta_step": 0, "ecosystem/polarisation/median": 0.5}\n')
    return path


def page_of(path: Path) -> str:
    return report.write_report(path).read_text(encoding="utf-8")


def axes_of(page: str) -> dict[str, list[Any]]:
    """Values on each axis of the parallel coordinates."""
    figures = [json.loads(text) for text in re.findall(r'id="figure-\d+">(.*?)</script>', page)]
    (lines,) = [trace for each in figures for trace in each["variants"][0]["data"] if trace["type"] == "parcoords"]
    return {axis["label"].replace("<br>", ""): axis["values"] for axis in lines["dimensions"]}


@pytest.mark.parametrize("nothing", [{}, {METRIC: None}])
def test_members_without_the_metric_are_no_line_and_no_word_on_its_axis(
    tmp_path: Path, nothing: dict[str, Any]
) -> None:
    rows = members()
    page = page_of(made(tmp_path, rows=[member(2, **nothing), *rows[:2], rows[3]]))
    axes = axes_of(page)
    assert axes[RATE] == [0.1, 0.2] and list(axes.values())[-1] == [0.2, 0.1]
    assert f"Left out: 1 member without {METRIC}." in page


def test_where_too_few_have_the_metric_there_is_no_picture(tmp_path: Path) -> None:
    page = page_of(made(tmp_path, rows=[member(number) for number in range(4)]))
    assert "parcoords" not in page and page.count("mamba-eco train smoke") == 2


@pytest.mark.parametrize(
    ("whys", "words"),
    [
        (["exit code 7: <b>"], "1 member failed (exit code 7: &lt;b&gt;), and counts nowhere."),
        (["not finite by hour 4"] * 2, "2 members left the finite numbers; they count nowhere."),
        (
            ["not finite by hour 2", "evaluation/after/trust is not finite", "exit code 1: trust is not finite"],
            "2 members left the finite numbers and 1 member failed (exit code 1: trust is not finite); they count nowhere.",
        ),
        (list("abcde"), "1 member failed (c) and 2 members failed for other reasons; they count nowhere."),
    ],
)
def test_it_says_what_happened_to_members_that_count_nowhere(tmp_path: Path, whys: list[str], words: str) -> None:
    lost = [member(2 + at, frozen=True, why=why) for at, why in enumerate(whys)]
    summary = SUMMARY | {"frozen": [each["member"] for each in lost]}
    assert words in page_of(made(tmp_path, summary=summary, rows=[*members()[:2], *lost]))


@pytest.mark.parametrize(
    ("job", "grouped", "words", "never"),
    [
        ("simulate", [0, 1, 2, 3], ["runs alone", "bit for bit on a CPU"], "to rounding"),
        ("train", [0, 1, 2, 3], ["to rounding, not bit for bit", "0.001 %", "0.2 %"], "process of its own"),
        ("train", [], ["bit for bit", "process of its own"], "to rounding"),
        ("train", [0, 1], ["trained in step", "to rounding", "One that was a process of its own gives"], "runs alone"),
        ("run", [], ["bit for bit", "process of its own"], "to rounding"),
    ],
)
def test_it_says_how_exactly_a_member_alone_repeats_its_numbers(
    tmp_path: Path, job: str, grouped: list[int], words: list[str], never: str
) -> None:
    rows = [each | {"group": 0 if each["member"] in grouped else None} for each in members()]
    page = page_of(made(tmp_path, summary=SUMMARY | {"job": job}, rows=rows))
    said = page[page.index("On the same machine and versions") :]
    said = said[: said.index("</p>")]
    assert all(word in said for word in words) and never not in said


def test_a_damaged_table_is_one_line_that_names_it(tmp_path: Path) -> None:
    made(tmp_path)
    text = (tmp_path / kept.TABLE).read_text()
    (tmp_path / kept.TABLE).write_text(text[: len(text) // 2])
    with pytest.raises(UserError, match=rf"members\.jsonl:2: is not JSON \(.*\); {REMEDY}"):
        page_of(tmp_path)
    (tmp_path / kept.TABLE).write_text("[1]\n")
    with pytest.raises(UserError, match=rf"members\.jsonl:1: holds no object .*; {REMEDY}"):
        page_of(tmp_path)
    (tmp_path / kept.TABLE).write_text("")
    with pytest.raises(UserError, match=rf"members\.jsonl: lacks member 1; {REMEDY}"):
        page_of(tmp_path)


def test_a_part_of_a_sweep_has_no_page(tmp_path: Path) -> None:
    part = {"name": "made", "finished": True, "part": [0, 2], "members": 2}
    with pytest.raises(UserError, match="is a part of a sweep; the page is that of the whole sweep"):
        page_of(made(tmp_path, summary=part))


def test_whatever_is_missing_or_of_another_kind_is_one_line(tmp_path: Path) -> None:
    files: dict[str, Any] = {"summary": SUMMARY, "spec": SPEC["sweep"], "member": members()[1]}
    refused: dict[str, set[str]] = {name: set() for name in files}
    for file, whole in files.items():
        for name in whole:
            for value in (..., None, "x", 3, [], {}):
                told = copy.deepcopy(whole)
                told.pop(name)
                told |= {} if value is ... else {name: value}
                given: dict[str, Any] = {"summary": {"summary": told}, "spec": {"spec": {"sweep": told}}}.get(
                    file, {"rows": [members()[0], told, *members()[2:]]}
                )
                try:
                    page_of(made(tmp_path, **given))
                except UserError as error:
                    assert name in str(error) or "member 1" in str(error), (file, name, value)
                    assert len(str(error).splitlines()) == 1
                    refused[file].add(name)
    assert refused["summary"] == set(report._SUMMARY) and refused["spec"] == set(report._SPEC)
    assert refused["member"] == set(report._MEMBER)
