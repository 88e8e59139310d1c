"""A sweep file: what is varied, how, and which command a member carries out.

The file is one that `wandb sweep` takes, too: `method`, `parameters` by dotted name, `metric`, `run_cap`, and a `command` whose
words after `mamba-eco` name the job, the configuration and the settings that all members share.

    method: random
    run_cap: 64
    metric: {name: simulation/polarisation, goal: minimize}
    parameters:
      recommenders.home.sharpness: {distribution: log_uniform_values, min: 1, max: 12}
      seed: {values: [0, 1, 2, 3]}
    command: ["${env}", mamba-eco, simulate, quickstart, "${args}"]

References:
    The sweep configuration of Weights & Biases (docs.wandb.ai, "Sweep configuration keys"; schema of the package `sweeps` 0.3.0).
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from mamba.runs import config as configs
from mamba.runs.errors import UserError

METHODS = ("grid", "random", "bayes")
GOALS = ("minimize", "maximize")
JOBS = ("simulate", "train", "run")
SHIPPED = "sweeps"  # folder of the sweeps that ship, among the presets
_ARGUMENTS = {"${args}", "${args_no_hyphens}"}  # what an agent of wandb replaces by the settings of a member
PROGRAMS = ("mamba-eco", "mamba")
MOST_MEMBERS = 100_000
EDGE = 1e-9  # quantiles closer to 0 and 1 may be infinite
# Keys of the format that say nothing to a sweep that runs here.
_ELSEWHERE = ("apiVersion", "kind", "controller", "description", "job", "image_uri", "entity", "project", "scheduler")
_KEYS = ("name", "method", "metric", "parameters", "command", "program", "run_cap", "early_terminate", *_ELSEWHERE)


class Metric(NamedTuple):
    """What makes one member better than another.

    Attributes:
        name: of a metric of the job.
        goal: `minimize` or `maximize`.
    """

    name: str
    goal: str


class Parameter(NamedTuple):
    """One setting that is varied.

    Attributes:
        name: dotted name of the setting.
        distribution: name of the distribution.
        values: every value, where there are finitely many; empty otherwise.
        weights: probability of each of them.
        quantile: `u in (0, 1) -> value` where there are infinitely many.
        facts: numbers of the distribution, such as `min` and `max`.
    """

    name: str
    distribution: str
    values: tuple[Any, ...]
    weights: tuple[float, ...]
    quantile: Callable[[float], float]
    facts: dict[str, float]


class Spec(NamedTuple):
    """A checked sweep file.

    Attributes:
        name: of the sweep.
        method: `grid`, `random` or `bayes`.
        metric: None where the file names none.
        parameters: what is varied, in the order of the file.
        job: what a member does: `simulate`, `train` or `run`.
        source: configuration of all members: a path or a preset.
        fixed: overrides that all members share, `a.b=v`.
        count: most members; None where the file does not say.
        unused: keys of the file that only wandb reads.
    """

    name: str
    method: str
    metric: Metric | None
    parameters: tuple[Parameter, ...]
    job: str
    source: str
    fixed: tuple[str, ...]
    count: int | None
    unused: tuple[str, ...]


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def load(path: str | Path) -> Spec:
    """Reads a sweep file, by its path, or one that ships by its name.

    Raises:
        UserError: every error that was found, one to a line.
    """
    file = configs.presets(SHIPPED).get(str(path), Path(path))
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        known = ", ".join(configs.presets(SHIPPED))
        raise UserError(f"cannot read {file}: {reason}; give a sweep file, or one that ships: {known}") from error
    return parse(configs.read_yaml(text, name=str(file)), name=file.stem)


def parse(mapping: Mapping[str, Any], *, name: str) -> Spec:
    """Checks the contents of a sweep file; `name` is the sweep's where the file gives none.

    Raises:
        UserError: every error that was found, one to a line.
    """
    errors: list[str] = []
    for key in mapping:
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, n=1)
            errors.append(
                f"{key}: no such key.{f' Did you mean {near[0]!r}?' if near else ''} Known: {', '.join(_KEYS)}"
            )
    method = mapping.get("method")
    if method not in METHODS:
        errors.append(f"method: {method!r} is not one of {', '.join(METHODS)}")
    title = mapping.get("name") or name
    if not isinstance(title, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", title):
        errors.append(
            f"name: {title!r} cannot be the name of a folder; use at most 80 letters, digits, '.', '_' and '-'"
        )
    parameters = _parameters(mapping.get("parameters"), "", errors)
    names = [parameter.name for parameter in parameters]
    for twice in sorted({each for each in names if names.count(each) > 1}):
        errors.append(f"parameters: {twice} is given twice")
    count = mapping.get("run_cap")
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
        errors.append(f"run_cap: {count!r} is not a whole number of at least 1")
        count = None
    if method == "grid":
        errors += [
            f"parameters.{each.name}: a grid needs values, and {each.distribution} has infinitely many"
            for each in parameters
            if not each.values
        ]
    metric = _metric(mapping.get("metric"), errors)
    if method == "bayes" and metric is None:
        errors.append("metric: method bayes needs one, such as {name: simulation/polarisation, goal: minimize}")
    job, source, fixed = _command(mapping, errors)
    if errors:
        raise UserError("\n".join(errors))
    unused = tuple(key for key in mapping if key in (*_ELSEWHERE, "early_terminate"))
    return Spec(title, str(method), metric, tuple(parameters), job, source, fixed, count, unused)


def _metric(value: Any, errors: list[str]) -> Metric | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        errors.append("metric: give {name: simulation/polarisation, goal: minimize}")
        return None
    goal = value.get("goal", "minimize")
    if goal not in GOALS:
        errors.append(f"metric.goal: {goal!r} is not one of {', '.join(GOALS)}")
    return Metric(value["name"], str(goal))


def _command(mapping: Mapping[str, Any], errors: list[str]) -> tuple[str, str, tuple[str, ...]]:
    """Job, configuration and shared overrides that the command names."""
    example = 'command: ["${env}", mamba-eco, simulate, quickstart, "${args}"]'
    words = mapping.get("command")
    if not isinstance(words, list) or not all(isinstance(word, str | int | float) for word in words):
        errors.append(f"command: is missing or no list of words; give {example}")
        return "", "", ()
    texts = [str(word) for word in words]
    if not _ARGUMENTS & set(texts):
        errors.append('command: "${args}" is missing, where the settings of a member go')
    rest = [word for word in texts if not word.startswith("${") and word not in ("/usr/bin/env", "-m")]
    rest = [word for word in rest if not Path(word).name.startswith("python")]
    if not rest or Path(rest[0]).name not in PROGRAMS:
        errors.append(f"command: does not start mamba-eco; give {example}")
        return "", "", ()
    own, fixed = rest[1:], []
    while own and (own[-1].startswith("--") or "=" in own[-1]):
        fixed.insert(0, own.pop())
    if len(own) != 2 or own[0] not in JOBS:
        errors.append(f"command: after mamba-eco, one of {', '.join(JOBS)} and one configuration; give {example}")
        return "", "", ()
    for word in fixed:
        if "=" not in word or word.startswith(("--run_dir", "--run-dir")):
            errors.append(f"command: {word} cannot be shared by all members; settings are --section.name=value")
    return own[0], own[1], tuple(word.removeprefix("--") for word in fixed)


def _parameters(value: Any, above: str, errors: list[str]) -> list[Parameter]:
    where = f"parameters{'.' + above if above else ''}"
    if not isinstance(value, Mapping) or not value:
        errors.append(f"{where}: give the settings that are varied, such as seed: {{values: [0, 1]}}")
        return []
    found: list[Parameter] = []
    for name, facts in value.items():
        dotted = f"{above}.{name}" if above else str(name)
        if isinstance(facts, Mapping) and set(facts) == {"parameters"}:
            found += _parameters(facts["parameters"], dotted, errors)
            continue
        try:
            found.append(_parameter(dotted, facts))
        except _Unusable as error:
            errors.append(f"parameters.{dotted}: {error}")
    return found


class _Unusable(Exception):
    """Why a parameter cannot be used; completes `parameters.x: ...`."""


def _parameter(name: str, facts: Any) -> Parameter:
    if not isinstance(facts, Mapping):
        raise _Unusable("give {values: [...]}, {value: ...}, or {min: ..., max: ...}")
    named = facts.get("distribution", _implied(facts))
    if not isinstance(named, str) or named not in _DISTRIBUTIONS:
        near = difflib.get_close_matches(str(named), _DISTRIBUTIONS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise _Unusable(f"no distribution is called {named!r}.{hint} Known: {', '.join(_DISTRIBUTIONS)}")
    needs, may = _DISTRIBUTIONS[named][:2]
    for key in facts:
        if key not in (*needs, *may, "distribution"):
            raise _Unusable(f"{named} has no {key!r}; it has {', '.join((*needs, *may))}")
    if missing := [key for key in needs if key not in facts]:
        raise _Unusable(f"{named} needs {', '.join(missing)}")
    if named in ("constant", "categorical", "categorical_w_probabilities"):
        return _finite(name, named, facts)
    numbers = {}
    for key in (*needs, *may):
        given = facts.get(key, _DEFAULTS.get(key))
        if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
            raise _Unusable(f"{key} = {given!r} is not a number")
        numbers[key] = float(given)
    if "min" in numbers and not numbers["min"] < numbers["max"] and named != "int_uniform":
        raise _Unusable(
            f"min = {numbers['min']:g} must be below max = {numbers['max']:g}; a single value is {{value: ...}}"
        )
    if "values" in named and numbers["min"] <= 0:
        raise _Unusable(f"min = {numbers['min']:g} must be above 0 for {named}")
    for key in ("q", "a", "b", "sigma"):
        if key in numbers and numbers[key] <= 0:
            raise _Unusable(f"{key} = {numbers[key]:g} must be above 0")
    if named == "int_uniform":
        low, high = numbers["min"], numbers["max"]
        if low != int(low) or high != int(high) or low > high:
            raise _Unusable("int_uniform needs whole numbers, min not above max")
        if high - low < MOST_MEMBERS:
            values = tuple(range(int(low), int(high) + 1))
            return Parameter(name, named, values, (1.0 / len(values),) * len(values), _never, numbers)
    ends = [math.inf]
    quantile: Callable[[float], float] = _never
    try:
        with np.errstate(all="ignore"):  # an end that is no number is refused below
            quantile = _quantile(named, numbers)
            ends = [quantile(u) for u in (EDGE, 0.5, 1.0 - EDGE)]
    except (OverflowError, ValueError):  # nor can it be rounded
        pass
    if not all(map(math.isfinite, ends)):
        hint = "; log_uniform takes exponents, log_uniform_values the values" if "log_uniform" in named else ""
        raise _Unusable(f"{named} of these numbers is not finite{hint}")
    return Parameter(name, named, (), (), quantile, numbers)


def _implied(facts: Mapping[str, Any]) -> str:
    """The distribution of a parameter that names none."""
    if "value" in facts:
        return "constant"
    if "values" in facts:
        return "categorical_w_probabilities" if "probabilities" in facts else "categorical"
    ends = (facts.get("min"), facts.get("max"))
    return "int_uniform" if all(isinstance(end, int) for end in ends) else "uniform"


def _finite(name: str, named: str, facts: Mapping[str, Any]) -> Parameter:
    values = [facts["value"]] if named == "constant" else facts["values"]
    if not isinstance(values, list) or not values:
        raise _Unusable("values must be a list with at least one value")
    shares = facts.get("probabilities", [1.0 / len(values)] * len(values))
    if not isinstance(shares, list) or len(shares) != len(values):
        raise _Unusable(f"probabilities must be a list of {len(values)} numbers, one for each value")
    if not all(isinstance(share, int | float) and not isinstance(share, bool) and share >= 0 for share in shares):
        raise _Unusable("probabilities must be numbers of at least 0")
    if not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
        raise _Unusable(f"probabilities add up to {sum(shares):g}, not to 1")
    return Parameter(name, named, tuple(values), tuple(map(float, shares)), _never, {})


def _never(u: float) -> float:
    raise ValueError("a parameter of finitely many values has no quantile function")


# ---------------------------------------------------------------------------------------------------------------------
# Distributions: names of the numbers they need and may have, and the distribution


def _log_normal(mean: float, deviation: float) -> Any:
    return stats.lognorm(s=deviation, scale=math.exp(mean))


_DEFAULTS = {"q": 1.0, "mu": 0.0, "sigma": 1.0, "a": 1.0, "b": 1.0}
_ENDS, _MOMENTS, _SHAPES = ("min", "max"), ("mu", "sigma"), ("a", "b")
_DISTRIBUTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...], Callable[..., Any] | None]] = {
    "constant": (("value",), (), None),
    "categorical": (("values",), (), None),
    "categorical_w_probabilities": (("values", "probabilities"), (), None),
    "int_uniform": (_ENDS, (), lambda low, high: stats.randint(int(low), int(high) + 1)),
    "uniform": (_ENDS, (), lambda low, high: stats.uniform(low, high - low)),
    "log_uniform": (_ENDS, (), lambda low, high: stats.loguniform(math.exp(low), math.exp(high))),
    "log_uniform_values": (_ENDS, (), stats.loguniform),
    # Uniform in log(1/x), with the ends of log(1/x) or of x: the same family.
    "inv_log_uniform": (_ENDS, (), lambda low, high: stats.loguniform(math.exp(-high), math.exp(-low))),
    "inv_log_uniform_values": (_ENDS, (), stats.loguniform),
    "normal": ((), _MOMENTS, stats.norm),
    "log_normal": ((), _MOMENTS, _log_normal),
    "beta": ((), _SHAPES, stats.beta),
}
_ROUNDED = ("uniform", "log_uniform", "log_uniform_values", "normal", "log_normal", "beta")
_DISTRIBUTIONS |= {
    f"q_{name}": (needs, (*may, "q"), of) for name in _ROUNDED for needs, may, of in [_DISTRIBUTIONS[name]]
}


def _quantile(named: str, numbers: Mapping[str, float]) -> Callable[[float], float]:
    """Quantile function of a distribution of infinitely many values."""
    needs, may, of = _DISTRIBUTIONS[named]
    assert of is not None
    frozen = of(*(numbers[key] for key in (*needs, *may) if key != "q"))
    if "q" not in numbers:
        return lambda u: frozen.ppf(u).item()
    return lambda u: round(frozen.ppf(u).item() / numbers["q"]) * numbers["q"]


# ---------------------------------------------------------------------------------------------------------------------
# Members


Choice = dict[str, Any]  # dotted name -> value


def size(spec: Spec) -> int | None:
    """Members of a grid; None where the file asks for draws without end."""
    return None if spec.method != "grid" else math.prod(len(each.values) for each in spec.parameters)


def wanted(spec: Spec, *, count: int | None) -> int:
    """Members of a sweep; `count` None takes `run_cap` of the file.

    Raises:
        UserError: nobody says how many, or too many.
    """
    limit = spec.count if count is None else count
    whole = size(spec)
    total = whole if limit is None else limit if whole is None else min(limit, whole)
    if total is None:
        raise UserError(f"a {spec.method} sweep needs the number of its members: run_cap in the file, or --count")
    if total > MOST_MEMBERS:
        raise UserError(f"{total:,} members are too many; give run_cap or --count (at most {MOST_MEMBERS:,})")
    return total


def members(spec: Spec, *, count: int | None, seed: int) -> list[Choice]:
    """What each member's settings are, for methods that need no results: the whole grid, or random draws.

    Member k of a random sweep is the same whatever `count` is.

    Args:
        spec: the sweep.
        count: most members; None takes `run_cap` of the file.
        seed: of the random draws.

    Raises:
        UserError: a random sweep without a number of members, or too many members.
    """
    total = wanted(spec, count=count)
    if spec.method == "grid":
        return list(itertools.islice(_grid(spec.parameters), total))
    return [drawn(spec.parameters, np.random.default_rng([seed, k])) for k in range(total)]


def _grid(parameters: Sequence[Parameter]) -> Iterator[Choice]:
    names = [each.name for each in parameters]
    return (
        dict(zip(names, values, strict=True)) for values in itertools.product(*(each.values for each in parameters))
    )


def drawn(parameters: Sequence[Parameter], random: np.random.Generator) -> Choice:
    """One random member."""
    choice = {}
    for each, u in zip(parameters, random.random(len(parameters)), strict=True):
        if each.values:
            index = int(np.searchsorted(np.cumsum(each.weights), u, side="right"))
            choice[each.name] = each.values[min(index, len(each.values) - 1)]
        else:
            choice[each.name] = each.quantile(min(max(float(u), EDGE), 1.0 - EDGE))
    return choice


def overrides(spec: Spec, choice: Choice) -> list[str]:
    """Overrides of a member, as a wandb agent would give them: first those that all share."""
    return [*spec.fixed, *(f"{name}={value}" for name, value in choice.items())]
