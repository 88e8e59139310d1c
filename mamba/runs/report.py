"""The report of a run: one static page that opens from `file://` and asks the network for nothing.

It reads the run folder and nothing else, and shows what is there: a run that goes on, or that only analysed
interactions, has a page too. Numbers stand in tables as well as in figures, so that the page says the same on paper,
without scripts and to a screen reader.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mamba.algorithms.registry import KINDS
from mamba.runs import folder, pages
from mamba.runs.errors import UserError
from mamba.runs.markup import MISSING, Column, Html, between, count, duration, join, number, series, table, tag
from mamba.runs.sections.audit import audit_section
from mamba.runs.sections.change import change_section
from mamba.runs.sections.corners import corners_section
from mamba.runs.sections.emergence import emergence_section
from mamba.runs.sections.externalities import externalities_section
from mamba.runs.sections.growth import growth_section
from mamba.runs.sections.interactions import interactions_section
from mamba.runs.sections.pareto import pareto_section
from mamba.runs.sections.performativity import performativity_section
from mamba.runs.sections.second_order import second_order_section
from mamba.runs.sections.sensitivities import sensitivities_section
from mamba.runs.sections.shared import (
    Figures,
    View,
    followed,
    grouped,
    is_number,
    label_of,
    limit_words,
    read,
    scale_words,
    spoken,
    told,
    typeset,
    value_of,
)
from mamba.runs.sections.simulated import simulated_section
from mamba.runs.sections.training import training_section
from mamba.runs.sections.transfer import transfer_section
from mamba.runs.sections.warnings import warnings_section

CARDS = 3  # pairs told at the top; all are told in their section
# Kind of a finding -> what its size is of, and its unit where that is not the objective's.
SIZES = {
    "interaction": ("Interaction on ", None),
    "externality": ("", "% for each 1 %"),
    "emergence": ("Way up less way down, ", None),
    "transfer": ("Share of the gain, ", "of the gain at home"),
}
KINDS_OF_FINDING = {
    "interaction": "Interaction",
    "side_effect": "Side effect",
    "externality": "Externality",
    "emergence": "Tipping points",
    "training": "Training",
    "second_order": "Second-order effects",
    "performativity": "Retraining",
    "pareto": "Trade-offs",
    "transfer": "Elsewhere",
    "worlds": "Other worlds",
}


def write_report(run_dir: Path) -> Path:
    """Writes the page of a run, finished or not.

    Args:
        run_dir: the run folder.

    Returns:
        Path of `report/index.html`; plotly.js lies beside it.

    Raises:
        UserError: it is no run folder, one of its files is damaged, or there is nothing to report yet.
    """
    run = folder.load_run(run_dir)
    training = [row for row in run.metrics if row.get("stage") == "training"]
    if not (run.summary or run.interactions or training):
        raise UserError(f"{run.path}: nothing to report yet; run it, or wait until its first stage is done")
    source = folder.read_text(run.path / folder.CONFIG)
    return pages.write(run.path / folder.REPORT, _page(read(run, training), source))


# ---------------------------------------------------------------------------------------------------------------------
# The page


def _page(view: View, source: str) -> str:
    drawn = Figures()
    sections = [
        ("findings", "Headline findings", _findings(view)),
        ("simulation", "The platform as it is", simulated_section(view, drawn)),
        (
            "change",
            "Before and after meta-training",
            join([change_section(view, drawn), transfer_section(view)]),
        ),
        ("interactions", "Who interacts with whom", interactions_section(view, drawn)),
        (
            "externalities",
            "What one team's progress does to the others",
            join([externalities_section(view, drawn), sensitivities_section(view, drawn)]),
        ),
        (
            "emergence",
            "Tipping points",
            join([emergence_section(view, drawn), corners_section(view, drawn), warnings_section(view, drawn)]),
        ),
        ("training", "Training", training_section(view, drawn)),
        ("second-order", "First-order gains and second-order effects", second_order_section(view, drawn)),
        ("pareto", "What can be had for what", pareto_section(view, drawn)),
        ("performativity", "When every team retrains on its own data", performativity_section(view, drawn)),
        ("audit", "Gradient audit", join([audit_section(view, drawn), growth_section(view)])),
        ("repeat", "How to repeat it", _repeat(view, source)),
        ("limits", "What was not varied", _limits(view)),
        ("reading", "How to read this page", _reading(view)),
    ]
    return pages.page(view.name, _top(view), sections, drawn)


def _top(view: View) -> Html:
    """Title and what ran."""
    story, seeds = view.summary.get("story") or {}, view.summary.get("seeds") or {}
    config, scenario = view.run.config, view.run.config.get("scenario") or {}
    steps, users = view.summary.get("steps") or config.get("steps"), scenario.get("users")
    network = story.get("network") or scenario.get("dataset")
    families = []
    for family in ("recommenders", "moderators"):
        kinds = {name: view.algorithms[name] for name in config.get(family) or {} if name in view.algorithms}
        if kinds:
            named = series([join([tag("strong", name), f" ({spoken(kind)})"]) for name, kind in kinds.items()])
            families.append(join([f"{count(len(kinds), family[:-1])}, ", named]))
    what: list[Any] = [
        join(families, ", and "),
        " ran together on one simulated network. " if families else "One simulated network. ",
    ]
    if steps:
        people = f" of {count(users, 'user')}" if is_number(users) and users else ""  # 0 is everyone
        what.append(f"Every rollout follows {count(steps, 'hour')}{people}. ")
    if view.analysed is not None:
        each, platforms = view.analysed.analysis.values.shape[:2]
        full = view.analysed.analysis.plan.kind == "full"
        what.append(
            f"{each} seeds of {f'all {platforms}' if full else f'{platforms} chosen'} on/off combinations measured who "
            f"interacts with whom ({each * platforms:,} rollouts)"
        )
        what.append("; " if view.training else ". ")
    if view.training:
        what.append(join([f"{count(len(view.training), 'meta-step')} trained their levers", *_trained_for(view), ". "]))
    if any(each.level for each in view.objectives.values()) and seeds.get("evaluation"):
        what.append(f"The levers before and after were then compared on {seeds['evaluation']} fresh seeds.")
    facts = [
        (name.capitalize(), text)
        for name, text in (("network", network), *((k, v) for k, v in story.items() if k != "network"))
    ]
    machine = view.summary.get("provenance") or {}
    if view.summary:
        facts.append(
            (
                "Run",
                f"{duration(view.summary.get('seconds'))} on {count(machine.get('devices') or 1, 'device')} "
                f"({machine.get('device_kind', '?')}), root seed {seeds.get('root', '?')}",
            )
        )
    inside = [
        tag("p", "mamba · ecosystem report", class_="eyebrow"),
        tag("h1", view.name),
        tag("p", *what, class_="lead"),
    ]
    if not view.summary.get("finished"):
        inside.append(
            tag(
                "p",
                tag("strong", "This run is not finished. "),
                "The page shows what there is so far; write it again later.",
                class_="notice unfinished",
                role="note",
            )
        )
    inside.append(
        tag(
            "p",
            tag("strong", "A simulation. "),
            "Users, posts and algorithms are models on a simplified platform; nothing here is calibrated to any "
            "one platform. Trust directions and relative sizes more than absolute numbers. Intervals cover the "
            "randomness of the simulation, not the error of the model.",
            class_="notice",
            role="note",
        )
    )
    inside.append(tag("dl", *[tag("div", tag("dt", k), tag("dd", v)) for k, v in facts if v], class_="facts"))
    return tag("header", *inside, class_="top")


def _trained_for(view: View) -> list[Any]:
    """What the levers were trained for, in words that follow "trained their levers"."""
    if (view.run.config.get("meta") or {}).get("goal") == "own":
        return [", each team its own for its own metric"]
    goals = []
    for way, sign in (("lower", 1.0), ("raise", -1.0)):
        if names := [label_of(view, name) for name, weight in view.minimise.items() if sign * weight > 0]:
            goals.append(join([f" to {way} ", series(names)]))
    said: list[Any] = [" together", join(goals, " and")]
    if view.keep:
        limits = series([limit_words(view, name, float(share)) for name, share in view.keep.items()])
        said += [", with ", limits, " of before"]
    return said


def _purpose(kind: str) -> str:
    """What a kind is for: the first line of the file that implements it."""
    if kind not in KINDS:
        return ""
    text = inspect.getdoc(sys.modules[KINDS[kind].config.__module__]) or ""
    first = " ".join(text.split("\n\n")[0].split())
    return first.split("`: ", 1)[-1].rstrip(".").replace("`", "")


# ---- findings --------------------------------------------------------------------------------------------------------


def _findings(view: View) -> Html:
    found = told(view)
    if not view.summary and not found:
        return tag("p", "Headline findings are written when the run ends.", class_="note")
    pairs = [each for each in found if each.get("kind") == "interaction"]
    cards = []
    for each in [*pairs[:CARDS], *[each for each in found if each.get("kind") != "interaction"]]:
        kind = str(each.get("kind", "finding"))
        of = view.objectives.get(str(each.get("objective")))
        size = None
        if of is not None:
            mean, low, high = (value_of(each, end) for end in ("mean", "low", "high"))
            before, unit = SIZES.get(kind, ("", None))
            size = tag(
                "p",
                f"{before}{of.label}: {number(mean, signed=True)} ({view.ci} {between(low, high)}), "
                f"{unit or scale_words(of.unit)}",
                class_="small",
            )
        cards.append(
            tag(
                "article",
                tag("p", KINDS_OF_FINDING.get(kind, kind), class_="kind"),
                tag("p", typeset(str(each.get("sentence", "")))),
                size,
                class_=f"card {kind}" if kind in KINDS_OF_FINDING else "card",
            )
        )
    parts: list[Any] = [tag("div", *cards, class_="cards")] if cards else []
    if view.analysed is not None and not pairs:
        parts.append(tag("p", "No pair of algorithms passed the test for an interaction that is not negligible."))
    if len(pairs) > CARDS:
        more = count(len(pairs) - CARDS, "more confirmed pair")
        link = tag("a", "Who interacts with whom", href="#interactions")
        parts.append(tag("p", f"{more} under ", link, ".", class_="note"))
    if not parts and (view.training or view.analysed is not None):
        parts.append(tag("p", "Nothing passed its test."))
    return join(parts)


# ---- how to repeat and to read ---------------------------------------------------------------------------------------


def _repeat(view: View, source: str) -> Html:
    facts = view.summary.get("provenance") or {}
    seeds = view.summary.get("seeds") or {}
    git = facts.get("git")
    rows: list[list[Any]] = []
    if facts:
        commit = "not in a git checkout"
        if isinstance(git, Mapping) and git.get("commit"):
            commit = f"{git['commit']}{', with uncommitted changes' if git.get('changed') else ''}"
        rows += [
            ["Git commit", tag("code", commit) if isinstance(git, Mapping) else commit],
            ["Device", f"{facts.get('devices', '?')} × {facts.get('device_kind', '?')}"],
            ["System", f"{facts.get('platform', '?')}, Python {facts.get('python', '?')}"],
            ["Versions", ", ".join(f"{name} {version}" for name, version in (facts.get("versions") or {}).items())],
            ["Digest of the configuration", tag("code", facts.get("config_digest", MISSING))],
        ]
    if seeds:
        words = {
            "root": "root",
            "interactions": "seeds of interactions",
            "evaluation": "fresh seeds of the evaluation",
            "simulation": "seeds of the simulation",
            "meta_steps": "meta-steps",
        }
        rows.append(
            [
                "Seeds",
                ", ".join(
                    f"{words.get(name, name)} {value}"
                    for name, value in sorted(seeds.items(), key=lambda s: s[0] != "root")
                ),
            ]
        )
    parts: list[Any] = []
    if facts.get("command"):
        parts.append(tag("pre", tag("code", facts["command"]), class_="wrapped"))
        parts.append(
            tag(
                "p",
                "The same configuration, seed, device layout and versions give the same numbers bit for bit (on a GPU with "
                "XLA_FLAGS=--xla_gpu_deterministic_ops=true). Or save the configuration below as a file and run that.",
                class_="note",
            )
        )
    else:
        parts.append(
            tag(
                "p",
                "Save the configuration below as a file and run it; versions and command are recorded when a run ends.",
            )
        )
    if rows:
        parts.append(
            table("Where the numbers come from.", [Column("What"), Column("Value", wide=True)], [(None, rows)])
        )
    parts.append(
        tag("details", tag("summary", "Resolved configuration"), tag("pre", tag("code", source)), class_="printed")
    )
    return join(parts)


def _limits(view: View) -> Html:
    scenario, meta = view.run.config.get("scenario") or {}, view.run.config.get("meta") or {}
    said = [
        f"The population: one network ({scenario.get('dataset', 'as configured')}) with one draw of people; seeds "
        "vary what happens to them, not who they are.",
        "The model: mechanisms and world parameters stay as configured (see the resolved configuration); no "
        "interval covers them.",
        "The horizon: effects slower than a rollout are not seen.",
    ]
    if view.analysed is not None:
        again = ", and its combinations once more at those of some meta-steps (“What training shifted”)"
        said.append(
            f"The levers of the interaction analysis: it was made at the default levers{again if followed(view) else ''}; other "
            "settings may interact otherwise."
        )
    if view.training:
        said.append(
            f"The training: one run of {meta.get('optimizer', 'the optimiser')} from one starting point. The "
            "intervals before and after compare two given settings of the levers; another training run may end "
            "elsewhere."
        )
    said.append("The algorithms: those listed, all by one platform, on the same users.")
    return tag("ul", *[tag("li", tag("strong", a + ":"), b) for a, b in (text.split(":", 1) for text in said)])


def _per_cents(view: View) -> Html:
    """What per cents of an interaction analysis are of; empty without one."""
    if view.analysed is None:
        return Html("")
    text = (
        "Per cents of interactions and side effects are of an objective's level with every algorithm on. Beyond -100 % says that "
        "the level is much higher where the algorithm, or one of the pair, is off."
    )
    return tag("li", typeset(text))


def _reading(view: View) -> Html:
    rows = [
        (heading, [[of.label, of.formula, of.unit, of.better, of.source, tag("code", of.name)] for of in inside])
        for heading, inside in grouped(view)
    ]
    columns = [
        Column("Objective"),
        Column("Formula", wide=True),
        Column("Unit"),
        Column("Healthier"),
        Column("Source"),
        Column("Name in files"),
    ]
    legend = (
        "Sums run over users, shown posts and hours: a examined, m reshared, z toxicity and v veracity of a post "
        "(0 to 1), U users, T hours, D topics, w wellbeing, r trust."
    )
    parts: list[Any] = [
        tag(
            "ul",
            tag(
                "li",
                "Harms are shown per user and hour and per impression: more activity must not hide as more harm, "
                "nor less activity as less.",
            ),
            _per_cents(view),
            tag("li", f"“{view.ci}”: interval from paired seeds by Student's t; “s.e.”: standard error."),
            tag(
                "li",
                "“Sampled model”: people and posts with discrete, random decisions. Levers are trained through its "
                "smooth mean field; results are only ever reported from the sampled model.",
            ),
            tag(
                "li",
                "“Lever”: a number by which an algorithm can be tuned. “Meta-step”: one joint change of all levers.",
            ),
        ),
        tag(
            "details",
            tag("summary", "Definitions of all objectives"),
            tag("p", legend, class_="note"),
            table("Objectives.", columns, rows),
            class_="printed",
        ),
    ]
    kinds = [[name, spoken(kind), _purpose(kind)] for name, kind in view.algorithms.items()]
    if kinds:
        columns = [Column("Algorithm"), Column("Kind"), Column("What it is", wide=True)]
        parts.append(
            tag(
                "details",
                tag("summary", "The algorithms"),
                table("Algorithms of this run.", columns, [(None, kinds)]),
                class_="printed",
            )
        )
    return join(parts)
