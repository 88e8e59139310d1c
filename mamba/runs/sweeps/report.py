"""The page of a sweep: its best members, all of them, and how each is repeated alone."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
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
from mamba.runs.sections.shared import KEY, Figures, is_number
from mamba.runs.simulation import PART, TRAITS, WHOLE
from mamba.runs.sweeps import kept, outcomes

LISTED = 1000  # members in the table; a page with more is slow
_REASONS = 3  # why members failed, in the first lines of the page; all are in the table
LINES = 2000  # members in the picture
_REMEDY = "run the sweep again, which writes it anew"
# What the page reads of each file, and what it must be.
_SPEC = {"method": str, "source": str, "parameters": dict}
_SUMMARY = {
    "name": str,
    "job": str,
    "members": int,
    "frozen": list,
    "groups": list,
    "best": list,
    "metric": dict | None,
    "seconds": float | int | None,
    "provenance": dict | None,
}
_MEMBER = {"member": int, "group": int | None, "frozen": bool, "why": str, "settings": dict, "command": str}


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
    if "part" in summary:
        raise UserError(f"{path}: is a part of a sweep; the page is that of the whole sweep, when all parts are done")
    _check(summary, _SUMMARY, where=path / folder.SUMMARY)
    _check(described.get("sweep"), _SPEC, where=path / folder.SWEEP, remedy="restore it, or use another run folder")
    members = []
    for at, line in enumerate(folder.read_text(path / kept.TABLE).splitlines(), start=1):
        where = f"{path / kept.TABLE}:{at}"
        try:
            members.append(json.loads(line))
        except ValueError as error:
            raise UserError(f"{where}: is not JSON ({error}); {_REMEDY}") from error
        _check(members[-1], _MEMBER, where=where)
    if summary["job"] not in outcomes.FINAL:
        raise UserError(f"{path / folder.SUMMARY}: no job is called {summary['job']!r}; {_REMEDY}")
    numbers = [member["member"] for member in members]
    if lost := [best for best in summary["best"] if best not in numbers]:
        raise UserError(f"{path / kept.TABLE}: lacks member {lost[0]}; {_REMEDY}")
    rows = folder.read_metrics(path / folder.METRICS)
    return _Swept(summary["name"], described["sweep"], summary, members, rows)


def _check(told: Any, wanted: Mapping[str, Any], *, where: object, remedy: str = _REMEDY) -> None:
    """Refuses what a damaged file says; what may be None may be left out.

    Raises:
        UserError: it is no object, or something in it is missing or of another kind.
    """
    if not isinstance(told, Mapping):
        raise UserError(f"{where}: holds no object {{...}}; {remedy}")
    if wrong := [name for name, kind in wanted.items() if not isinstance(told.get(name), kind)]:
        what = "damaged" if wrong[0] in told else "missing"
        raise UserError(f"{where}: {wrong[0]} is {what}; {remedy}")


def _metric(member: Mapping[str, Any], name: str) -> float:
    """What a member ended with; NaN where it does not have that, or it is not finite."""
    value = member.get(name)
    return float(value) if is_number(value) and math.isfinite(value) else math.nan


def _spoken(metric: str) -> str:
    """A metric as people say it: an objective by its label, anything else, such as how far a limit is broken, by its name."""
    of, _, name = metric.rpartition("/")
    trait = metric.removeprefix(f"{WHOLE}/")
    if trait in TRAITS:
        return TRAITS[trait].label
    return OBJECTIVES[name].label if name in OBJECTIVES and of in (PART, *outcomes.FINAL.values()) else metric


def _top(swept: _Swept) -> Html:
    spec, summary = swept.spec, swept.summary
    groups = len(summary["groups"])
    machine = summary.get("provenance") or {}
    varied = series([tag("code", name) for name in swept.settings])
    kinds = {"grid": "All combinations", "random": "Random choices", "bayes": "Choices by what was found before"}
    lead = join(
        [
            f"{kinds.get(str(spec['method']), 'Choices')} of ",
            varied,
            f" on {spec['source']}: {count(summary['members'], 'member')} in {count(groups, 'compile group')}.",
            *_lost(swept),
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


def _lost(swept: _Swept) -> list[Any]:
    """What happened to the members that count nowhere; nothing where there are none."""
    whys = [member["why"] for member in swept.members if member["frozen"]]
    if not whys:
        return []
    lost = re.compile(r"not finite by hour \d+|\S+ is not finite")  # `mamba.runs.sweeps.outcomes`
    found = Counter("left the finite numbers" if lost.fullmatch(why) else f"failed ({why})" for why in whys)
    first = found.most_common(_REASONS)
    told = [f"{count(many, 'member')} {what}" for what, many in first]
    if more := len(whys) - sum(many for _, many in first):
        told.append(f"{count(more, 'member')} failed for other reasons")
    return [" ", series(told), "; they count nowhere." if len(whys) > 1 else ", and counts nowhere."]


def _cells(swept: _Swept, member: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    """Cells of a member: number, metrics, settings."""
    cells: list[Any] = [Cell(member["member"], member["member"])]
    for name in names:
        value = _metric(member, name)
        cells.append(Cell(number(value), value if math.isfinite(value) else None))
    for name in swept.settings:
        value = member["settings"].get(name)
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        cells.append(Cell(shown, value if is_number(value) else str(value)))
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
    for name, of in ({f"{PART}/{name}": of for name, of in OBJECTIVES.items()} | TRAITS).items():
        at = {word: folder.column(swept.rows, f"{name}/{word}") for word in outcomes.QUANTILES}
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
    alive = [member for member in swept.members if not member["frozen"]]
    # A line passes every axis, so that what members are compared by decides who has one.
    compared = [member for member in alive if math.isfinite(_metric(member, swept.metric))]
    lines = compared[:LINES]
    if len(lines) < 2:
        return Html("")
    others = [f"{swept.final}/{name}" for name in KEY if f"{swept.final}/{name}" != swept.metric]
    found = {name: [_metric(member, name) for member in lines] for name in (*others[:3], swept.metric)}
    axes = [Axis(name, [member["settings"].get(name) for member in lines]) for name in swept.settings]
    axes += [Axis(_spoken(name), values) for name, values in found.items() if np.isfinite(values).all()]
    without = len(alive) - len(compared)
    return drawn.add(
        [parallel(axes, np.asarray(found[swept.metric]), lower_is_better=swept.lower_is_better)],
        about=f"Parallel coordinates of {len(lines)} members.",
        caption=(
            f"Every line is a member, blue where {_spoken(swept.metric)} is best. Drag along an axis to keep the members that pass "
            "there; double-click it to keep all again."
            + (f" Left out: {count(without, 'member')} without {_spoken(swept.metric)}." if without else "")
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
            Cell(member.get("group"), member.get("group")),
            Cell(member["why"], int(member["frozen"])),
        ]
        for member in order[:LISTED]
    ]
    more = "" if len(order) <= LISTED else f" The first {LISTED:,}; all are in members.jsonl."
    return table(f"Click a heading to sort by it.{more}", columns, [(None, rows)], class_="sortable")


def _alone(swept: _Swept) -> str:
    """How exactly a member that runs alone repeats what it gave in the sweep."""
    same = "gives the numbers that it gave in the sweep"
    together = [member.get("group") is not None for member in swept.members]
    if not any(together):
        return f"a member that runs alone {same} bit for bit: it was a process of its own there, too."
    if swept.summary["job"] == "simulate":
        return (
            f"a member that runs alone {same} bit for bit on a CPU; an accelerator may round otherwise in a batch of another "
            "size."
        )
    # What the tests hold trainings of three meta-steps to.
    rounding = (
        f"{same} to rounding, not bit for bit: after three meta-steps within 0.001 % on a CPU, and 0.2 % where members are "
        "differentiated side by side, as on an accelerator. More meta-steps may add up to more."
    )
    if all(together):
        return f"a member that trains alone {rounding}"
    return f"a member that trained in step (it has a group) {rounding} One that was a process of its own {same} bit for bit."


def _repeat(swept: _Swept, source: str) -> Html:
    facts = swept.summary.get("provenance") or {}
    git = facts.get("git") or {}
    return join(
        [
            tag("pre", tag("code", facts.get("command", "")), class_="wrapped"),
            tag(
                "p",
                f"Commands of single members are in members.jsonl. On the same machine and versions {_alone(swept)}",
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
