"""The page of a sweep: its best members, all of them, and how each is repeated alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mamba.objectives import OBJECTIVES
from mamba.runs import folder, pages
from mamba.runs.config import read_yaml
from mamba.runs.errors import UserError
from mamba.runs.markup import Cell, Column, Html, count, duration, join, number, series, table, tag
from mamba.runs.pictures.bands import Band, bands
from mamba.runs.pictures.parallel import Axis, parallel
from mamba.runs.sections.shared import KEY, Figures
from mamba.runs.simulation import PART
from mamba.runs.sweeps import outcomes, sweep

LISTED = 1000  # members in the table; a page with more is slow
LINES = 2000  # members in the picture


class _Swept(NamedTuple):
    """A sweep, read once."""

    name: str
    spec: Mapping[str, Any]
    summary: Mapping[str, Any]
    members: Sequence[Mapping[str, Any]]
    rows: Sequence[Mapping[str, Any]]

    @property
    def settings(self) -> list[str]:
        """Dotted names of what is varied."""
        return list(self.spec["parameters"])

    @property
    def metric(self) -> str:
        """What members are compared by."""
        asked = self.summary.get("metric") or {}
        return str(asked.get("name") or f"{self.final}/{KEY[0]}")

    @property
    def final(self) -> str:
        """What comes before the name of an objective in the metric that members end with."""
        return outcomes.FINAL[str(self.summary["job"])]

    @property
    def at(self) -> str:
        """What rows are counted by."""
        return outcomes.AT[str(self.summary["job"])]

    @property
    def lower_is_better(self) -> bool:
        """Whether less of the metric is better."""
        asked = self.summary.get("metric")
        if asked:
            return asked.get("goal") != "maximize"
        return OBJECTIVES[KEY[0]].better == "lower"


def write_report(path: Path) -> Path:
    """Writes the page of a sweep that is done.

    Raises:
        UserError: it is not done, or one of its files is damaged.
    """
    if not (path / folder.SUMMARY).is_file():
        raise UserError(f"{path}: nothing to report yet; the page of a sweep is written when all members are done")
    swept = _read(path)
    drawn = Figures()
    sections = [
        ("best", "Best members", _best(swept)),
        ("course", "Over the hours" if swept.at == "hour" else "Over the training", _course(swept, drawn)),
        ("settings", "Settings and what came of them", _parallel(swept, drawn)),
        ("members", "All members", _members(swept)),
        ("repeat", "How to repeat it", _repeat(swept, folder.read_text(path / folder.SWEEP))),
    ]
    return pages.write(path / folder.REPORT, pages.page(swept.name, _top(swept), sections, drawn))


def _read(path: Path) -> _Swept:
    described = read_yaml(folder.read_text(path / folder.SWEEP), name=str(path / folder.SWEEP))
    summary = folder.read_summary(path / folder.SUMMARY)
    members = [json.loads(line) for line in folder.read_text(path / sweep.TABLE).splitlines()]
    rows = folder.read_metrics(path / folder.METRICS)
    return _Swept(str(summary["name"]), described["sweep"], summary, members, rows)


def _spoken(metric: str) -> str:
    """A metric as people say it."""
    name = metric.rsplit("/", 1)[-1]
    return OBJECTIVES[name].label if name in OBJECTIVES else metric


def _top(swept: _Swept) -> Html:
    spec, summary = swept.spec, swept.summary
    frozen, groups = len(summary["frozen"]), len(summary["groups"])
    machine = summary.get("provenance") or {}
    varied = series([tag("code", name) for name in swept.settings])
    kinds = {"grid": "All combinations", "random": "Random choices", "bayes": "Choices by what was found before"}
    lead = join(
        [
            f"{kinds.get(str(spec['method']), 'Choices')} of ",
            varied,
            f" on {spec['source']}: {count(summary['members'], 'member')} in {count(groups, 'compile group')}.",
            f" {count(frozen, 'member')} left the finite numbers and count nowhere." if frozen else "",
        ]
    )
    return tag(
        "header",
        tag("p", "mamba · sweep", class_="eyebrow"),
        tag("h1", swept.name),
        tag("p", lead, class_="lead"),
        tag(
            "p",
            tag("strong", "A simulation. "),
            "Users, posts and algorithms are models on a simplified platform. The best of many members looks better than it "
            "is, by the luck of its seeds: repeat it on fresh seeds before you rely on it.",
            class_="notice",
            role="note",
        ),
        tag(
            "dl",
            tag(
                "div",
                tag("dt", "Run"),
                tag(
                    "dd",
                    f"{duration(summary.get('seconds'))} on {machine.get('devices')} × {machine.get('device_kind')}",
                ),
            ),
            class_="facts",
        ),
        class_="top",
    )


def _cells(swept: _Swept, member: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    """Cells of a member: number, metrics, settings."""
    cells: list[Any] = [Cell(member["member"], member["member"])]
    for name in names:
        value = member.get(name)
        cells.append(Cell(number(value), value if value is not None and math.isfinite(value) else None))
    for name in swept.settings:
        value = member["settings"].get(name)
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        cells.append(Cell(f"{value:.4g}" if isinstance(value, float) else str(value), value if numeric else str(value)))
    return cells


def _columns(swept: _Swept, names: Sequence[str]) -> list[Column]:
    return [
        Column("Member", numeric=True),
        *(Column(_spoken(name), numeric=True) for name in names),
        *(Column(tag("code", name), numeric=True) for name in swept.settings),
    ]


def _best(swept: _Swept) -> Html:
    if not swept.summary["best"]:
        return tag("p", "The sweep names no metric by which members could be compared.", class_="note")
    by_number = {member["member"]: member for member in swept.members}
    best = [by_number[n] for n in swept.summary["best"]]
    rows = [_cells(swept, member, [swept.metric]) for member in best]
    goal = "lowest" if swept.lower_is_better else "highest"
    said = f"The {count(len(best), 'member')} with the {goal} {_spoken(swept.metric)}."
    return join(
        [
            table(said, _columns(swept, [swept.metric]), [(None, rows)]),
            tag("p", "Each alone:"),
            tag("pre", tag("code", "\n".join(member["command"] for member in best)), class_="wrapped"),
        ]
    )


def _course(swept: _Swept, drawn: Figures) -> Html:
    hours = folder.column(swept.rows, swept.at)
    unit = swept.at.replace("_", "-")
    pictures, drawings = [], []
    for name, of in OBJECTIVES.items():
        at = {word: folder.column(swept.rows, f"{PART}/{name}/{word}") for word in outcomes.QUANTILES}
        if not np.isfinite(at["median"]).any():
            continue
        around = [Band("all members", at["min"], at["max"]), Band("half of them", at["q25"], at["q75"])]
        pictures.append(bands(hours, at["median"], around, named="median member", y=f"{of.label}, {of.unit}", x=unit))
        drawings.append(("", of.label, f"{of.label} of the members over {unit}s."))
    if not pictures:
        return Html("")
    labels = [words for _, words, _ in drawings]
    chosen = labels.index(_spoken(swept.metric)) if _spoken(swept.metric) in labels else 0
    return join(
        [
            drawn.choose(drawings, name="swept-objective", chosen=chosen),
            drawn.add(
                pictures,
                about=drawings[chosen][2],
                chosen=chosen,
                caption=(
                    "Each point is one part of the rollouts, at the hour it ends with; a member is the mean of its seeds."
                    if unit == "hour"
                    else "On the sampled model, before each meta-step."
                ),
            ),
        ]
    )


def _parallel(swept: _Swept, drawn: Figures) -> Html:
    alive = [member for member in swept.members if not member["frozen"]][:LINES]
    if len(alive) < 2:
        return Html("")
    others = [f"{swept.final}/{name}" for name in KEY if f"{swept.final}/{name}" != swept.metric]
    metrics = [name for name in (*others[:3], swept.metric) if name in alive[0]]
    axes = [Axis(name, [member["settings"].get(name) for member in alive]) for name in swept.settings]
    axes += [Axis(_spoken(name), [member[name] for member in alive]) for name in metrics]
    colour = np.array([member.get(swept.metric, math.nan) for member in alive], np.float64)
    return drawn.add(
        [parallel(axes, colour, lower_is_better=swept.lower_is_better)],
        about=f"Parallel coordinates of {len(alive)} members.",
        caption=(
            f"Every line is a member, blue where {_spoken(swept.metric)} is best. Drag along an axis to keep the members that pass "
            "there; double-click it to keep all again."
        ),
    )


def _members(swept: _Swept) -> Html:
    known = {name for member in swept.members for name in member}
    wanted = (swept.metric, *(f"{swept.final}/{name}" for name in KEY))
    names = [name for name in dict.fromkeys(wanted) if name in known]
    order = list(swept.members)
    columns = [*_columns(swept, names), Column("Group", numeric=True), Column("Frozen, and why")]
    rows = [
        [
            *_cells(swept, member, names),
            Cell(member["group"], member["group"]),
            Cell(member["why"], int(member["frozen"])),
        ]
        for member in order[:LISTED]
    ]
    more = "" if len(order) <= LISTED else f" The first {LISTED:,}; all are in members.jsonl."
    return table(f"Click a heading to sort by it.{more}", columns, [(None, rows)], class_="sortable")


def _repeat(swept: _Swept, source: str) -> Html:
    facts = swept.summary.get("provenance") or {}
    git = facts.get("git") or {}
    return join(
        [
            tag("pre", tag("code", facts.get("command", "")), class_="wrapped"),
            tag(
                "p",
                "Commands of single members are in members.jsonl. On the same machine and versions a member that runs alone "
                "gives the numbers that it gave in the sweep.",
                class_="note",
            ),
            table(
                "Where the numbers come from.",
                [Column("What"), Column("Value", wide=True)],
                [
                    (
                        None,
                        [
                            ["Git commit", tag("code", git.get("commit", "not in a git checkout"))],
                            ["System", f"{facts.get('platform', '?')}, Python {facts.get('python', '?')}"],
                            ["Versions", ", ".join(f"{k} {v}" for k, v in (facts.get("versions") or {}).items())],
                        ],
                    )
                ],
            ),
            tag("details", tag("summary", "The sweep"), tag("pre", tag("code", source)), class_="printed"),
        ]
    )
