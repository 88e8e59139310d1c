"""Whether what training gained holds in other communities, where nothing was trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mamba.runs.markup import Column, Html, between, count, escape, join, percent, table, tag
from mamba.runs.sections.shared import NOTHING, View, interval_words, said, titled, value_of, verdict_of


def transfer_section(view: View) -> Html:
    """A sentence and a table for each community; empty where the levers were tried nowhere else."""
    told: Mapping[str, Any] = view.summary.get("transfer") or {}
    if not told:
        return Html("")
    parts: list[Any] = [tag("h3", "Elsewhere, without more training")]
    for name, each in told.items():
        parts += [tag("p", _share(view, name, each)), _table(view, name, each)]
    return join(parts)


def _share(view: View, name: str, each: Mapping[str, Any]) -> Html:
    if not value_of(each.get("home") or {}, "low") > 0:
        return escape(f"In {name}: no share of the gain, because none was clear where the levers were trained.")
    mean, low, high = (value_of(each.get("share") or {}, end) for end in ("mean", "low", "high"))
    return escape(
        f"In {name}, the gain is {percent(100 * mean, signed=False)} of that where the levers were trained ({view.ci} "
        f"{between(100 * low, 100 * high, in_percent=True, signed=False)}). Gain is the fall of the training goal, in each "
        "community relative to its own default levers, on fresh seeds of the sampled model."
    )


def _table(view: View, name: str, each: Mapping[str, Any]) -> Html:
    goal = [view.objectives[key] for key in dict.fromkeys([*view.minimise, *view.keep]) if key in view.objectives]
    rest = [of for of in view.objectives.values() if of not in goal]
    seeds = (view.summary.get("seeds") or {}).get("evaluation")
    body = []
    for heading, some in (("Trained and kept", goal), ("Everything else", rest)):
        rows = []
        for of in some:
            there = (each.get("objectives") or {}).get(of.name) or {}
            change = there.get("change") or {}
            mean, low, high = (value_of(change, end) for end in ("mean", "low", "high"))
            home = _percent(of.level.get("before") or {}, of.level.get("change") or {})
            away = _percent(there.get("before") or {}, change)
            rows.append([titled(view, of), said(verdict_of(low, high, of.health), mean), *map(_cell, (away, home))])
        if rows:
            body.append((heading, rows))
    columns = [
        Column("Objective", wide=True),
        Column(f"Verdict in {name}"),
        Column(f"There, in % of before ({view.ci})", numeric=True),
        Column(f"Where it was trained ({view.ci})", numeric=True),
    ]
    runs = f", {count(seeds, 'fresh seed')}" if isinstance(seeds, int) else ""
    return table(f"Default against trained levers in {name} and where they were trained{runs}.", columns, body)


def _percent(before: Mapping[str, Any], change: Mapping[str, Any]) -> tuple[float, float, float]:
    level = abs(value_of(before, "mean"))
    scale = 100.0 / level if math.isfinite(level) and level > NOTHING else math.nan
    mean, low, high = (scale * value_of(change, end) for end in ("mean", "low", "high"))
    return mean, low, high


def _cell(of: tuple[float, float, float]) -> Html:
    return join([percent(of[0]), " ", interval_words(*of[1:], in_percent=True)])
