"""What came of the members of a sweep: their metrics, the best of them, quantiles over them."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mamba.runs import shifts, simulation
from mamba.runs.config import SERVICES, RunConfig, load_config, to_mapping
from mamba.runs.errors import UserError
from mamba.runs.sweeps import spec as specs

QUANTILES = {"min": 0.0, "q25": 0.25, "median": 0.5, "q75": 0.75, "max": 1.0}
# What comes before the name of an objective in the metric that a job ends with.
FINAL = {"simulate": simulation.WHOLE, "train": "evaluation/after", "run": "evaluation/after"}
AT = {"simulate": "hour", "train": "meta_step", "run": "meta_step"}  # what the rows of a job are counted by


class Member(NamedTuple):
    """One configuration of a sweep.

    Attributes:
        number: its place in the sweep.
        choice: what was chosen for it.
        config: the whole configuration.
        digest: of what decides its results: what is known of a member is known by it, whatever number another sweep gave it.
    """

    number: int
    choice: specs.Choice
    config: RunConfig
    digest: str


class Outcome(NamedTuple):
    """What came of a member.

    Attributes:
        rows: what it logged, in order; numbers by name.
        frozen: whether it left the finite numbers, or failed.
        why: in a few words, where it did.
    """

    rows: list[dict[str, Any]]
    frozen: bool = False
    why: str = ""

    @property
    def metrics(self) -> dict[str, Any]:
        """The last value of everything that was logged."""
        return {name: value for row in self.rows for name, value in row.items()}


def digest(config: RunConfig | Mapping[str, Any]) -> str:
    """Digest of what decides the results of a configuration, also of one that was read from a file."""
    mapping = to_mapping(config) if isinstance(config, RunConfig) else config
    told = {name: value for name, value in mapping.items() if name not in SERVICES}
    # Not sorted: the order of algorithms counts.
    return hashlib.sha256(json.dumps(told, default=str).encode()).hexdigest()


def member_of(spec: specs.Spec, choice: specs.Choice, *, number: int, shared: Sequence[str] = ()) -> Member:
    """One member.

    Raises:
        UserError: its configuration cannot be used.
    """
    config = load_config(spec.source, [*specs.overrides(spec, choice), *shared])
    return Member(number, choice, config, digest(config))


def members_of(spec: specs.Spec, choices: Sequence[specs.Choice], *, shared: Sequence[str] = ()) -> list[Member]:
    """Every member, checked.

    Raises:
        UserError: every error of every member, each once, with the number of members that have it.
    """
    found, errors = [], {}
    for number, choice in enumerate(choices):
        try:
            found.append(member_of(spec, choice, number=number, shared=shared))
        except UserError as error:
            for line in str(error).splitlines():
                errors.setdefault(line, []).append(number)
    if errors:
        lines = [f"{line} (in {len(who)} of {len(choices)} members)" for line, who in errors.items()]
        raise UserError("\n".join(lines))
    return found


def command_of(spec: specs.Spec, choice: specs.Choice, *, shared: Sequence[str] = ()) -> str:
    """The command that repeats a member alone."""
    words = [f"--{word.removeprefix('--')}" for word in (*specs.overrides(spec, choice), *shared)]
    return shlex.join(["mamba-eco", spec.job, spec.source, *words])


def of_values(config: RunConfig, values: np.ndarray) -> Outcome:
    """The outcome of a simulated member, from its values [S, 1 + W, C]."""
    rows = simulation.rows(simulation.kept(config, values))
    lost = np.flatnonzero(~np.isfinite(values).all(axis=(0, 2)))
    if not len(lost):
        return Outcome(rows)
    ends = [config.steps, *simulation.hours(config)]  # the whole rollout stands before its parts
    return Outcome(rows, True, f"not finite by hour {min(ends[part] for part in lost)}")


def of_rows(job: str, logged: Sequence[Mapping[str, Any]]) -> Outcome:
    """The outcome of a member that ended, from the rows of its `metrics.jsonl`; how training shifted interactions stays there."""
    at = AT[job]
    rows = [
        {at: row.get(at, 0), **{name: value for name, value in row.items() if isinstance(value, int | float)}}
        for row in logged
        if row.get("stage") != shifts.STAGE
    ]
    final = {name: value for row in rows for name, value in row.items() if name.startswith(f"{FINAL[job]}/")}
    if lost := [name for name, value in final.items() if not math.isfinite(value)]:
        return Outcome(rows, True, f"{lost[0]} is not finite")
    return Outcome(rows)


def table(
    spec: specs.Spec,
    members: Sequence[Member],
    outcomes: Mapping[int, Outcome],
    *,
    group_of: Mapping[int, int],
    shared: Sequence[str],
) -> list[dict[str, Any]]:
    """A row for each member: its settings, the metrics it ended with, and the command that repeats it."""
    rows = []
    for member in members:
        outcome = outcomes[member.number]
        wanted = (f"{FINAL[spec.job]}/", "transfer/", "evaluation/utility")
        metrics = {name: value for name, value in outcome.metrics.items() if name.startswith(wanted)}
        if spec.metric is not None and spec.metric.name in outcome.metrics:
            metrics[spec.metric.name] = outcome.metrics[spec.metric.name]
        told = {
            "member": member.number,
            "group": group_of.get(member.number),
            "frozen": outcome.frozen,
            "why": outcome.why,
            "settings": member.choice,
            "command": command_of(spec, member.choice, shared=shared),
        }
        rows.append(told | metrics)
    return rows


def check_metric(spec: specs.Spec, outcomes: Mapping[int, Outcome]) -> None:
    """Refuses a metric that no member logs.

    Raises:
        UserError: there are members that are not frozen, and none logged the metric.
    """
    alive = [outcome.metrics for outcome in outcomes.values() if not outcome.frozen]
    if spec.metric is None or not alive or any(spec.metric.name in told for told in alive):
        return
    stage = FINAL[spec.job].split("/")[0]
    known = sorted({name for told in alive for name in told if name.startswith(f"{stage}/")})
    raise UserError(f"metric.name: no member logged {spec.metric.name}. Known: {', '.join(known)}")


def ranked(spec: specs.Spec, outcomes: Mapping[int, Outcome]) -> list[int]:
    """Numbers of the members from the best on; those without a score are left out."""
    scores = {number: score(spec, outcome) for number, outcome in outcomes.items()}
    return sorted((number for number, each in scores.items() if each is not None), key=lambda n: (scores[n], n))


def score(spec: specs.Spec, outcome: Outcome) -> float | None:
    """The metric of the sweep, so that less is better; None of a frozen member, without the metric or where it is not finite."""
    value = None if spec.metric is None or outcome.frozen else outcome.metrics.get(spec.metric.name)
    if spec.metric is None or value is None or not math.isfinite(value):
        return None
    return (1.0 if spec.metric.goal == "minimize" else -1.0) * float(value)


def quantiles(job: str, outcomes: Mapping[int, Outcome]) -> list[dict[str, Any]]:
    """Quantiles over the members of everything that they logged, a row for each hour or meta-step; frozen ones are left out."""
    at = AT[job]
    columns: dict[int, dict[str, list[float]]] = {}
    for outcome in outcomes.values():
        if outcome.frozen:
            continue
        for row in outcome.rows:
            if at not in row:
                continue
            here = columns.setdefault(int(row[at]), {})
            for name, value in row.items():
                if (
                    name != at
                    and isinstance(value, int | float)
                    and not isinstance(value, bool)
                    and math.isfinite(value)
                ):
                    here.setdefault(name, []).append(float(value))
    rows = []
    for step, named in sorted(columns.items()):
        row: dict[str, Any] = {"stage": "sweep", at: step, "members/alive": max(map(len, named.values()), default=0)}
        for name, values in named.items():
            ends = np.quantile(values, list(QUANTILES.values()))
            row |= {f"{name}/{word}": float(end) for word, end in zip(QUANTILES, ends, strict=True)}
        rows.append(row)
    return rows
