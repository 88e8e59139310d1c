"""What the sections of the report share: a run read once, the words for it, and the figures of the page."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from numpy.typing import NDArray

from mamba.objectives import MODERATION, NAMES, NO_ZERO, OBJECTIVES
from mamba.runs import emergence, figures, folder, sensitivities, shifts, simulation
from mamba.runs.errors import UserError
from mamba.runs.markup import MISSING, Html, between, join, number, percent, tag
from mamba.runs.sections.analysed import Analysed, analysed, sentences

# Objectives under the question they answer; the same harm per user and per impression stand side by side.
GROUPS = {
    "The platform's own metrics": ("engagement_per_user", "engagement_per_impression", "retention"),
    "Harms": (
        "toxic_exposure_per_user",
        "toxic_exposure_per_impression",
        "misinformation_exposure_per_user",
        "misinformation_exposure_per_impression",
        "misinformation_reshares_per_user",
        "misinformation_reshares_per_impression",
    ),
    "People": ("polarisation", "exposure_diversity", "wellbeing", "trust"),
    "Creators and fairness": ("creator_inequality", "exposure_disparity", "toxic_exposure_gap"),
    "Moderation": MODERATION,
}
OTHER = "Other objectives"
KEY = ("engagement_per_user", "retention", "toxic_exposure_per_user", "misinformation_exposure_per_user", "wellbeing")
LEVEL = 1e-6  # levels below this are nothing to be relative to
NOTHING = 1e-9  # levels and spreads below this are 0


class Objective(NamedTuple):
    """Words of an objective; `level` holds before, after and change where a run was evaluated."""

    name: str
    label: str
    unit: str
    better: str
    formula: str
    source: str
    level: Mapping[str, Mapping[str, float]]

    @property
    def health(self) -> float:
        """+1 where more is healthier, -1 where less is."""
        return 1.0 if self.better == "higher" else -1.0


class View(NamedTuple):
    """A run, read once."""

    run: folder.Run
    name: str
    summary: Mapping[str, Any]
    training: Sequence[Mapping[str, Any]]
    analysed: Analysed | None
    sensitivities: Mapping[str, NDArray[Any]] | None
    emergence: Mapping[str, NDArray[Any]] | None
    objectives: Mapping[str, Objective]
    algorithms: Mapping[str, str]
    minimise: Mapping[str, float]
    keep: Mapping[str, float]
    confidence: float

    @property
    def ci(self) -> str:
        """`95 % CI`."""
        return f"{100 * self.confidence:g}\N{NO-BREAK SPACE}%\N{NO-BREAK SPACE}CI"


def read(run: folder.Run, training: Sequence[Mapping[str, Any]]) -> View:
    """Reads what the sections need out of a run."""
    summary, config = run.summary or {}, run.config
    meta = config.get("meta") or {}
    algorithms = {
        str(name): str((each or {}).get("kind", "?"))
        for family in ("recommenders", "moderators")
        for name, each in (config.get(family) or {}).items()
    }
    told: Mapping[str, Any] = summary.get("objectives") or {}
    measured = [] if run.interactions is None else [str(name) for name in run.interactions["objectives"]]
    logged = [name.removeprefix("ecosystem/") for row in training[:1] for name in row if name.startswith("ecosystem/")]
    names = dict.fromkeys([*told, *measured, *logged])
    order = [name for group in GROUPS.values() for name in group if name in names]
    order += [name for name in names if name not in order]
    own = meta.get("goal") == "own"  # then neither steers anything
    confidence = summary.get("confidence") or (config.get("interactions") or {}).get("confidence") or 0.95
    return View(
        run=run,
        name=str(summary.get("name") or config.get("name") or run.path.name),
        summary=summary,
        training=training,
        analysed=analysed(run),
        sensitivities=_arrays(run.path / sensitivities.FILE),
        emergence=_arrays(run.path / emergence.FILE),
        objectives={name: _objective(name, told.get(name) or {}) for name in order},
        algorithms=algorithms or {str(name): str(kind) for name, kind in (summary.get("algorithms") or {}).items()},
        minimise={} if own else {k: w for k, w in (summary.get("minimise") or meta.get("minimise") or {}).items() if w},
        keep={} if own else summary.get("keep") or meta.get("keep") or {},
        confidence=float(confidence),
    )


def _arrays(path: Path) -> dict[str, NDArray[Any]] | None:
    return folder.read_arrays(path) if path.is_file() else None


def required(path: Path, arrays: Mapping[str, NDArray[Any]], names: Sequence[str]) -> None:
    """Refuses a file that lacks arrays, or that measured other objectives.

    Raises:
        UserError: one line that names the file and the remedy.
    """
    if missing := [name for name in names if name not in arrays]:
        raise UserError(f"{path}: lacks {', '.join(missing)}; remove it and run again")
    for name, known in (("objectives", NAMES), ("columns", simulation.COLUMNS)):
        if name in arrays and arrays[name].tolist() != list(known):
            raise UserError(
                f"{path}: holds other objectives than this version of mamba measures; remove it and run again"
            )


def results_of(view: View, file: str, names: Sequence[str]) -> dict[str, NDArray[Any]] | None:
    """What a stage left in the run folder; None where it left nothing.

    Raises:
        UserError: the file is damaged, lacks arrays of these names, or measured other objectives.
    """
    path = view.run.path / file
    if not path.is_file():
        return None
    arrays = folder.read_arrays(path)
    required(path, arrays, names)
    return arrays


def _objective(name: str, told: Mapping[str, Any]) -> Objective:
    known = OBJECTIVES.get(name)

    def word(field: str, otherwise: str) -> str:
        return str(told.get(field) or (getattr(known, field) if known else otherwise))

    level = {when: told[when] for when in ("before", "after", "change") if told.get(when)}
    return Objective(
        name,
        word("label", name),
        word("unit", ""),
        word("better", "lower"),
        word("formula", ""),
        word("source", ""),
        level,
    )


def grouped(view: View) -> Iterator[tuple[str, list[Objective]]]:
    """Objectives of the run under their headings."""
    rest = dict(view.objectives)
    for heading, names in GROUPS.items():
        inside = [rest.pop(name) for name in names if name in rest]
        if inside:
            yield heading, inside
    if rest:
        yield OTHER, list(rest.values())


def verdict_of(low: float, high: float, health: float) -> str:
    """`better` or `worse` if the interval leaves out 0, else `unclear`."""
    if not (math.isfinite(low) and math.isfinite(high)) or low <= 0 <= high:
        return "unclear"
    return "better" if (low > 0) == (health > 0) else "worse"


def said(verdict: str, change: float) -> Html:
    """A verdict in a word, with an arrow that says which way the number went."""
    if verdict == "unclear":
        return tag("span", "no clear change", class_="unclear")
    arrow = "↑" if change > 0 else "↓"
    return tag("span", f"{arrow} {'healthier' if verdict == 'better' else 'worse'}", class_=verdict)


def scale_words(unit: str) -> str:
    """The unit of an objective as it reads after a number."""
    return "on a scale of 0 to 1" if unit == "0 to 1" else unit


def typeset(text: str) -> str:
    """A true minus sign before numbers, and no line break between a number and its per cent sign."""
    return re.sub(r"(?<=\d) %( CI)?", "\N{NO-BREAK SPACE}%\\1", re.sub(r"(?<![\w-])-(?=\d)", "\N{MINUS SIGN}", text))


def interval_words(low: float, high: float, *, in_percent: bool = False, signed: bool = True) -> Html:
    """An interval in brackets, nothing where an end is not finite."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return Html("")
    return tag("span", f"({between(low, high, in_percent=in_percent, signed=signed)})", class_="interval")


def followed(view: View) -> list[Mapping[str, Any]]:
    """Rows of `metrics.jsonl` that tell what training shifted of the interactions; none where that was not followed."""
    return [row for row in view.run.metrics if row.get("stage") == shifts.STAGE]


def told(view: View) -> list[Mapping[str, Any]]:
    """Findings of the run; before it ends, those of its interaction analysis."""
    if view.summary:
        return list(view.summary.get("findings") or [])
    return [] if view.analysed is None else [finding._asdict() for finding in sentences(view.analysed)]


def in_percent_of(of: Analysed, objective: Objective) -> float:
    """What turns a change into per cent of the level with everything on; NaN where that has no zero or is 0."""
    level = float(of.level[NAMES.index(objective.name)])
    relative = objective.name not in NO_ZERO and math.isfinite(level) and abs(level) > LEVEL
    return 100.0 / abs(level) if relative else math.nan


def change_words(of: Analysed, objective: Objective, mean: float) -> str:
    """A change in % of the level with everything on, or in units where there is no such level."""
    if not math.isfinite(mean):
        return MISSING
    scale = in_percent_of(of, objective)
    return percent(mean * scale) if math.isfinite(scale) else number(mean, signed=True)


def change_interval(of: Analysed, objective: Objective, low: float, high: float) -> Html:
    """The interval of a change, in brackets, in what `change_words` says."""
    scale = in_percent_of(of, objective)
    if math.isfinite(scale):
        return interval_words(low * scale, high * scale, in_percent=True)
    return interval_words(low, high)


def badges(view: View, name: str) -> Html:
    """Marks of an objective that was trained or kept."""
    words = []
    if name in view.minimise:
        words.append("trained" if view.minimise[name] > 0 else "trained (raised)")
    if name in view.keep:
        words.append("constraint")
    return join(tag("span", word, class_="badge") for word in words)


def titled(view: View, of: Objective) -> Html:
    """Label, unit and marks of an objective."""
    return join([of.label, " ", tag("span", scale_words(of.unit), class_="unit"), badges(view, of.name)])


class Figures:
    """Figures of a page and their JSON, numbered as they are asked for."""

    def __init__(self) -> None:
        self.scripts: list[Html] = []

    def add(
        self,
        variants: Sequence[figures.Variant],
        *,
        about: str,
        title: Any = None,
        caption: Any = None,
        chosen: int = 0,
        buttons: bool = True,
    ) -> Html:
        """Adds a figure and returns the markup that shows it."""
        number_ = len(self.scripts) + 1
        content = figures.dump(variants, buttons=buttons)
        self.scripts.append(json_script(f"figure-{number_}", content))
        plot = tag(
            "div",
            id=f"plot-{number_}",
            class_="plot",
            role="img",
            aria_label=about,
            data_figure=f"figure-{number_}",
            data_variant=chosen,
            style=f"min-height:{variants[chosen].figure.layout.height:.0f}px",
        )
        below = [] if caption is None else [tag("figcaption", caption)]
        return tag("figure", *([] if title is None else [tag("p", title, class_="title")]), plot, *below)

    def choose(self, drawings: Sequence[tuple[str, str, str]], *, name: str, chosen: int = 0) -> Html:
        """A selector for the figure that is added next.

        Args:
            drawings: `(heading, words, what the drawing shows)` of each variant; those of one heading stand together.
            name: id of the selector.
            chosen: which is drawn first.
        """
        options: dict[str, list[Html]] = {}
        for at, (heading, words, about) in enumerate(drawings):
            option = tag("option", words, value=at, selected=at == chosen, data_label=about)
            options.setdefault(heading, []).append(option)
        inside = [tag("optgroup", *some, label=heading) if heading else join(some) for heading, some in options.items()]
        select = tag("select", *inside, id=name, data_plot=f"plot-{len(self.scripts) + 1}")
        return tag("p", tag("label", "Show", for_=name), select, class_="choice")


def json_script(name: str, content: str) -> Html:
    """A script element with JSON, which nothing in the JSON can close."""
    harmless = content.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return Html(f'<script type="application/json" id="{name}">{harmless}</script>')


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value from a file is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def label_of(view: View, name: str) -> str:
    """Label of an objective by name."""
    return _named(view, name).label


def limit_words(view: View, name: str, share: float) -> str:
    """The limit of a constraint, such as `engagement at least 97 %`; what the per cents are of is left to the caller."""
    of = _named(view, name)
    return f"{of.label} {'at least' if of.health > 0 else 'at most'} {100 * share:g} %"


def _named(view: View, name: str) -> Objective:
    return view.objectives.get(name) or _objective(name, {})


def spoken(kind: str) -> str:
    """A kind as people say it."""
    return kind.replace("_", " ")


def value_of(of: Mapping[str, Any], name: str) -> float:
    """A number from a file, NaN where there is none."""
    value = of.get(name)
    return float(value) if is_number(value) else math.nan


def marks(view: View, name: str) -> list[str]:
    """`trained` and `constraint` where they hold."""
    return [word for word, of in (("trained", view.minimise), ("constraint", view.keep)) if name in of]
