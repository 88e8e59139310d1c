"""What a one-step view misses of the externalities, which teams hinder each other, and where goals collide."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mamba.interactions.statistics import discoveries
from mamba.objectives import NAMES, NO_ZERO
from mamba.runs import sensitivities
from mamba.runs.markup import MISSING, Column, Html, between, count, join, number, percent, series, table, tag
from mamba.runs.pictures import interactions as pictures
from mamba.runs.sections.contributions import key_objectives
from mamba.runs.sections.externalities import AUDITED
from mamba.runs.sections.shared import Figures, Objective, View, interval_words, label_of, required

_PARTS = ("objective", "direct", "mediated", "algorithm")
_NEEDED = (
    *("names", "objectives", "own_row", "own_sign", "reasons", "conflict_mean", "conflict_low", "conflict_high"),
    *(f"externality_{name}_{part}" for name in _PARTS for part in ("mean", "low", "high", "p")),
)
ROWS = 10  # rows of a table before the rest is folded
PAIRS = 5  # conflicts told
_NOTHING = (math.nan, math.nan, math.nan)
ALONE = 0.999  # share of a squared gradient from which one lever counts as the only one


class Entry(NamedTuple):
    """One confirmed externality; each part is mean, low and high in % per 1 %.

    Attributes:
        team: index of the algorithm that improves its own metric.
        objective: what changes.
        whole: the change in the expected mode.
        sampled: the change on the sampled model; NaN without an audit.
        within: the part that holds all that is carried over fixed.
        carried: the rest.
    """

    team: int
    objective: Objective
    whole: tuple[float, float, float]
    sampled: tuple[float, float, float]
    within: tuple[float, float, float]
    carried: tuple[float, float, float]

    @property
    def told(self) -> tuple[float, float, float]:
        """What is reported: the sampled model where there is one."""
        return self.sampled if math.isfinite(self.sampled[0]) else self.whole

    @property
    def missed(self) -> float:
        """Share of a one-step view's blind spot, |carried| / (|within| + |carried|); NaN where both are 0."""
        parts = abs(self.within[0]), abs(self.carried[0])
        return parts[1] / sum(parts) if sum(parts) > 0 else math.nan

    @property
    def turned(self) -> bool:
        """Whether a one-step view surely has the other sign."""
        within, whole = _way(self.within), _way(self.whole)
        return within * whole < 0


def sensitivities_section(view: View, drawn: Figures) -> Html:
    """Supplement to the table of externalities; empty without derivatives.

    Raises:
        UserError: the file lacks arrays.
    """
    arrays = view.sensitivities
    if arrays is None:
        return Html("")
    audited = sensitivities.source(arrays) == "audited"
    required(view.run.path / sensitivities.FILE, arrays, _NEEDED + (AUDITED if audited else ()))
    shown = [each for each in view.objectives.values() if each.name in NAMES]
    parts = [
        *_one_step(view, arrays, shown, drawn),
        *_teams(view, arrays),
        *_collisions(view, arrays, shown),
        *_game(view, arrays),
    ]
    return join(parts)


def confirmed(view: View, arrays: Mapping[str, NDArray[Any]], shown: Sequence[Objective]) -> tuple[list[Entry], int]:
    """Externalities that pass at the run's false discovery rate, largest first, and how many were tested.

    Tests are those of the sampled model where that was audited. A team's effect on the objective that it is measured by is
    1 % by construction, and no test.
    """
    told = sensitivities.source(arrays)
    p = np.array(arrays[f"{told}_objective_p"], np.float64)
    for team, row in enumerate(arrays["own_row"]):
        if int(row) < len(p):
            p[int(row), team] = np.nan
    found = discoveries(p, _rate(view))
    entries = [
        Entry(
            team,
            each,
            _triple(arrays, "externality_objective", NAMES.index(each.name), team),
            _triple(arrays, "audited_objective", NAMES.index(each.name), team) if told == "audited" else _NOTHING,
            _triple(arrays, "externality_direct", NAMES.index(each.name), team),
            _triple(arrays, "externality_mediated", NAMES.index(each.name), team),
        )
        for each in shown
        for team in range(p.shape[1])
        if found[NAMES.index(each.name), team]
    ]
    return sorted(entries, key=lambda entry: -abs(entry.told[0])), int(np.isfinite(p).sum())


# ---- one step against the dynamics -----------------------------------------------------------------------------------


def _one_step(view: View, arrays: Mapping[str, NDArray[Any]], shown: Sequence[Objective], drawn: Figures) -> list[Html]:
    audited = sensitivities.source(arrays) == "audited"
    entries, tests = confirmed(view, arrays, shown)
    heading = tag("h3", "What a one-step view misses")
    rate = f"a false discovery rate of {100 * _rate(view):g} %"
    if not tests:
        return []
    if not entries:
        text = f"None of {count(tests, 'externality', 'externalities')} passes at {rate}, so that none is split up."
        return [heading, tag("p", text)]
    names = [str(name) for name in arrays["names"]]
    shares = [entry.missed for entry in entries if math.isfinite(entry.missed)]
    turned = sum(entry.turned for entry in entries)
    text = (
        f"{len(entries)} of {count(tests, 'externality', 'externalities')} {'passes' if len(entries) == 1 else 'pass'} at {rate}"
        f"{' on the sampled model, and what is split up is the expected mode' if audited else ''}. "
        "A team that looks one step ahead sees what happens within that step; what reaches the others through tired, leaving "
        "or persuaded users, moved ties and learners it does not see."
    )
    # A derivative that is no more than noise has no parts.
    entries = [entry for entry in entries if math.isfinite(entry.whole[0])]
    if not entries:
        return [heading, tag("p", text + " In the expected mode none of them is resolved.")]
    if shares:
        half = sum(share > 0.5 for share in shares)
        text += (
            f" That unseen part is {percent(100 * float(np.median(shares)), signed=False)} of the two parts together (median), "
            f"and more than half in {half} of {len(shares)}."
        )
    if turned:
        text += f" In {turned} of {len(entries)} the one-step view has the wrong sign."
    wanted = {each.name for each in key_objectives(view, shown)}
    key = [entry for entry in entries if entry.objective.name in wanted]
    first = (key or entries)[:ROWS]
    rest = [entry for entry in entries if entry not in first]
    rows = [f"{names[entry.team]}: {entry.objective.label}" for entry in first]
    parts = (("within a step", "within"), ("carried over", "carried"))
    lines = [(words, [_dot(row, words, getattr(entry, part), view.ci) for row, entry in zip(rows, first, strict=True)])
              for words, part in parts]  # fmt: skip
    picture = drawn.add(
        [pictures.dots(rows, lines, x="% per 1 % of the team's own metric")],
        about="Dot plot of the largest confirmed externalities: the part within a step, and the part that is carried over.",
        caption="The two parts add up to the externality in the expected mode. Intervals: each alone.",
    )
    columns = [
        Column("Team: objective"),
        *([Column("Sampled model", numeric=True)] if audited else []),
        Column("Expected mode" if audited else "Whole", numeric=True),
        Column("Within a step", numeric=True),
        Column("Carried over", numeric=True),
        Column("Missed by one step", numeric=True),
    ]
    caption = f"Confirmed externalities in % per 1 % of the team's own metric ({view.ci}), largest first."
    told = table(caption, columns, [(None, [_split_row(names, entry) for entry in first])])
    folded = []
    if rest:
        more = table("The other confirmed externalities.", columns, [(None, [_split_row(names, e) for e in rest])])
        folded = [tag("details", tag("summary", f"{len(rest)} more"), more)]
    signless = series([e.objective.label for e in _distinct(entries) if e.objective.name in NO_ZERO])
    note = (
        "Missed: size of the carried part over the sizes of both. Where the parts have opposite signs they cancel, and a half "
        "may stand for a whole effect near 0."
    )
    if signless:
        note = join(
            [note, " Per cent of ", signless, " are per cent of its distance from the set-point, which may be small."]
        )
    return [heading, tag("p", text), picture, told, tag("p", note, class_="note"), *folded]


def _distinct(entries: Sequence[Entry]) -> list[Entry]:
    """The first entry of each objective."""
    return list({entry.objective.name: entry for entry in reversed(entries)}.values())


def _dot(row: str, words: str, of: tuple[float, float, float], ci: str) -> pictures.Dot:
    return pictures.Dot(*of, f"{row}\n{words}: {number(of[0], signed=True)} % ({ci} {between(*of[1:])})")


def _split_row(names: Sequence[str], entry: Entry) -> list[Any]:
    verdict = "better" if (entry.told[0] > 0) == (entry.objective.health > 0) else "worse"
    words = "▲ healthier" if verdict == "better" else "▼ worse"
    told = join([tag("span", f"{number(entry.told[0], signed=True)} %", class_=verdict), " ", _brackets(entry.told),
                 tag("div", words, class_=verdict)])  # fmt: skip
    whole = [told, _cell(entry.whole)] if math.isfinite(entry.sampled[0]) else [told]
    within = join(
        [_cell(entry.within), *([tag("div", "the other way", class_="unit")] if entry.turned else [])],
    )
    missed = percent(100 * entry.missed, signed=False)
    return [f"{names[entry.team]}: {entry.objective.label}", *whole, within, _cell(entry.carried), missed]


# ---- team on team ----------------------------------------------------------------------------------------------------


def _teams(view: View, arrays: Mapping[str, NDArray[Any]]) -> list[Html]:
    told = f"{sensitivities.source(arrays)}_algorithm"
    p = np.array(arrays[f"{told}_p"], np.float64)
    # A team on itself, and teams with one metric: the same 1 % by construction, and no test.
    rows = np.asarray(arrays["own_row"])
    p[rows[:, None] == rows] = np.nan
    tests = int(np.isfinite(p).sum())
    if not tests:
        return []
    names = [str(name) for name in arrays["names"]]
    found = [(int(i), int(j)) for i, j in zip(*np.nonzero(discoveries(p, _rate(view))), strict=True)]
    found.sort(key=lambda at: -abs(float(arrays[f"{told}_mean"][at])))
    heading = tag("h3", "Who helps and who hinders whom")
    if not found:
        text = f"None of {count(tests, 'effect')} of one team's progress on another team's metric is confirmed."
        return [heading, tag("p", text)]
    items = []
    for i, j in found[:ROWS]:
        of = _triple(arrays, told, i, j)
        hinders = of[0] < 0
        verb = tag("span", "hinders" if hinders else "helps", class_="worse" if hinders else "better")
        items.append(
            tag(
                "li",
                tag("strong", names[j]), " ", verb, " ", tag("strong", names[i]),
                f": for each 1 % that {names[j]} improves {_own(view, arrays, j)}, the metric of {names[i]} "
                f"({_own(view, arrays, i)}) gets {number(abs(of[0]))} % {'worse' if hinders else 'better'} ",
                _brackets(of),
                ".",
            )
        )  # fmt: skip
    text = (
        f"{len(found)} of {count(tests, 'effect')} of one team's progress on another team's metric "
        f"{'is' if len(found) == 1 else 'are'} confirmed (improvement counts as positive, {view.ci}):"
    )
    return [heading, tag("p", text), tag("ul", *items)]


# ---- conflicts -------------------------------------------------------------------------------------------------------


def _collisions(view: View, arrays: Mapping[str, NDArray[Any]], shown: Sequence[Objective]) -> list[Html]:
    """The strongest conflicts among all objectives, of which the map shows the key ones."""
    mean, low, high = (np.asarray(arrays[f"conflict_{part}"], np.float64) for part in ("mean", "low", "high"))
    at = [NAMES.index(each.name) for each in shown]
    pairs = [(a, b) for n, a in enumerate(at) for b in at[n + 1 :] if np.isfinite(mean[a, b])]
    one = _one_lever(arrays)
    forced = [(a, b) for a, b in pairs if one[a] >= 0 and one[a] == one[b]]
    judged = [pair for pair in pairs if pair not in forced]
    if not judged:
        return []
    clear = sorted((pair for pair in judged if high[pair] < 0), key=lambda pair: mean[pair])
    aside = ""
    if forced:
        aside = (
            f" {count(len(forced), 'further pair')} {'hangs' if len(forced) == 1 else 'hang'} on one and the same lever, where a "
            "cosine can only be −1 or +1, and "
            f"{'is' if len(forced) == 1 else 'are'} left out."
        )
    heading = tag("h3", "The strongest conflicts between goals")
    if not clear:
        text = f"Among {count(len(judged), 'pair')} of objectives no interval leaves out 0 on the side of a conflict."
        return [heading, tag("p", text + aside)]
    wanted = {NAMES.index(each.name) for each in key_objectives(view, shown)}
    a, b = next((pair for pair in clear if wanted.issuperset(pair)), clear[0])
    among = "between key objectives " if wanted.issuperset((a, b)) else ""
    text = (
        f"The strongest conflict {among}is that of {label_of(view, NAMES[a])} and {label_of(view, NAMES[b])}: levers that "
        f"make one healthier harm the other (cosine {_size(mean[a, b])}, {view.ci} {_size(low[a, b])} to "
        f"{_size(high[a, b])}). {len(clear)} of {count(len(judged), 'pair')} of objectives collide so; the intervals are not "
        f"corrected for choosing among them.{aside}"
    )
    rows = [
        [
            f"{label_of(view, NAMES[a])} and {label_of(view, NAMES[b])}",
            join(
                [_size(mean[a, b]), " ", tag("span", f"({_size(low[a, b])} to {_size(high[a, b])})", class_="interval")]
            ),
        ]
        for a, b in dict.fromkeys([(a, b), *clear[:PAIRS]])
    ]
    caption = "Cosine between improving directions, with steps of one unconstrained unit; −1: whatever helps one harms the other."
    columns = [Column("Objectives"), Column(f"Cosine ({view.ci})", numeric=True)]
    return [heading, tag("p", text), table(caption, columns, [(None, rows)])]


def _one_lever(arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.int64]:
    """The lever that moves an objective alone, [J]; -1 where several do, or where the file does not tell."""
    if "jacobian" not in arrays:
        return np.full(len(NAMES), -1)
    squares = np.asarray(arrays["jacobian"], np.float64)[:, : len(NAMES)].mean(axis=0) ** 2  # [J, P]
    whole = squares.sum(axis=1)
    alone = (whole > 0) & (squares.max(axis=1) >= ALONE * whole)
    return np.where(alone, squares.argmax(axis=1), -1)


# ---- the game --------------------------------------------------------------------------------------------------------


def _game(view: View, arrays: Mapping[str, NDArray[Any]]) -> list[Html]:
    """What the price of non-coordination hangs on, and how strongly teams' wishes hang on each other."""
    parts: list[Html] = []
    config = view.run.config.get("sensitivities") or {}
    if "price_mean" in arrays:
        low, high = float(arrays["price_low"]), float(arrays["price_high"])
        if low > 0:
            verdict = "Going alone costs the goal of the run"
        elif high < 0:
            verdict = "Going alone ends better for the goal of the run than what the joint search found"
        else:
            verdict = "Whether going alone costs the goal of the run is not resolved"
        parts.append(
            tag(
                "p",
                f"{verdict} ({number(100 * float(arrays['price_mean']), signed=True)} %, {view.ci} "
                f"{between(100 * low, 100 * high)}). The goal is taken without its constraints. {_search(config)} "
                "A wider or longer search may give another price.",
            )
        )
    coupling = np.asarray(arrays.get("coupling", np.zeros((0, 0))), np.float64)
    names = [str(name) for name in arrays["names"]]
    others = np.where(np.eye(len(coupling)) > 0, 0.0, coupling)
    if others.any():
        rows = [
            [name, *[MISSING if m == n else number(float(coupling[n, m])) for m in range(len(names))]]
            for n, name in enumerate(names)
        ]
        parts += [
            tag(
                "details",
                tag("summary", "How strongly teams' wishes hang on each other"),
                table(
                    "Size of the block of second derivatives: how far the gradient of the team of the row moves with the levers "
                    "of the team of the column, relative to its metric, per unconstrained unit squared. Without "
                    "intervals: an order of size.",
                    [Column("Team"), *[Column(name, numeric=True) for name in names]],
                    [(None, rows)],
                ),
            ),
        ]
    return [tag("h3", "What the price of non-coordination depends on"), *parts] if parts else []


def _search(config: Mapping[str, Any]) -> str:
    """How far and how long both searches went."""
    if not all(name in config for name in ("radius", "rounds", "steps")):
        return "All levers stayed within the configured radius."
    return (
        f"All levers stayed within {number(float(config['radius']))} of where they are, in unconstrained units. Teams "
        f"took turns for {count(int(config['rounds']), 'round')} of {count(int(config['steps']), 'gradient step')} each; the joint "
        "search had as many steps in all."
    )


# ---- words -----------------------------------------------------------------------------------------------------------


def _rate(view: View) -> float:
    return float((view.run.config.get("interactions") or {}).get("false_discovery_rate") or 0.05)


def _own(view: View, arrays: Mapping[str, NDArray[Any]], team: int) -> str:
    row = int(arrays["own_row"][team])
    return label_of(view, NAMES[row]) if row < len(NAMES) else "its own loss"


def _triple(arrays: Mapping[str, NDArray[Any]], name: str, i: int, j: int) -> tuple[float, float, float]:
    mean, low, high = (float(arrays[f"{name}_{part}"][i, j]) for part in ("mean", "low", "high"))
    return mean, low, high


def _way(of: tuple[float, float, float]) -> int:
    """Sign of an estimate whose interval leaves out 0, else 0."""
    return 1 if of[1] > 0 else -1 if of[2] < 0 else 0


def _size(value: float) -> str:
    """Two decimals, whole numbers where large."""
    if not math.isfinite(value):
        return MISSING
    text = f"{value:+.2f}" if abs(value) < 99.5 else f"{value:+,.0f}"
    return text.replace("-", "\N{MINUS SIGN}")


def _brackets(of: tuple[float, float, float]) -> Html:
    return interval_words(of[1], of[2])


def _cell(of: tuple[float, float, float]) -> Html:
    if not math.isfinite(of[0]):
        return Html(MISSING)
    return join([f"{number(of[0], signed=True)} %", " ", _brackets(of)])
