"""Configuration: one YAML file, `--a.b=v` overrides, every error at once.

The settings themselves are declared once, in the frozen dataclasses of the lower rooms (`mamba.fields.setting`).
Pydantic models are made from them here to check values; what comes out is those plain dataclasses again, inside
`RunConfig`.

Numbers follow YAML 1.2 (`3e-4` and `1e6` are numbers, `010` is ten), `yes`, `no`, `on` and `off` stay texts, and `None`
is nothing, because that is how a wandb agent writes it.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import functools
import hashlib
import re
import sys
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import pydantic
import yaml  # pyrefly: ignore[untyped-import]

from mamba.algorithms.registry import KINDS, Family
from mamba.fields import setting
from mamba.interactions.settings import EmergenceConfig, InteractionsConfig, SensitivitiesConfig
from mamba.meta.settings import MetaConfig, ParetoConfig, PerformativityConfig, SecondOrderConfig
from mamba.placement import SHARDS
from mamba.policies import PolicyConfig
from mamba.runs.errors import UserError
from mamba.runs.settings import CheckpointConfig, EvaluationConfig, LogConfig, SimulationConfig
from mamba.scenarios.settings import ScenarioConfig
from mamba.world.mechanisms import Mechanisms
from mamba.world.parameters import WorldParameters

# Sections that decide nothing but their own stage's results, and those that decide no result at all: a stage leaves the others' out
# of the digest that tells whether its file is still of this configuration.
APART = ("interactions", "sensitivities", "emergence", "second_order", "performativity", "pareto", "simulation")
SERVICES = ("name", "chunk", "log", "checkpoint")
MOST_ALGORITHMS = 16  # that an interaction analysis takes: no larger design of resolution V is built in
FAMILIES: dict[Family, str] = {"recommenders": "recommender", "moderators": "moderator"}

T = TypeVar("T")


class Deployed(NamedTuple):
    """One algorithm of a configuration.

    Attributes:
        name: the name it was given; unique in the run.
        kind: a key of `mamba.algorithms.registry.KINDS`.
        config: instance of that kind's configuration class.
    """

    name: str
    kind: str
    config: Any


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides a run."""

    name: str = setting("run", "name of the run, and of its folder in runs/")
    seed: int = setting(0, "seed of all randomness", ge=0, le=2**31 - 1)
    steps: int = setting(50, "length of a rollout", unit="steps of one hour", ge=2)
    chunk: int = setting(16, "rollouts sent to the device at a time, in every stage", unit="rollouts", ge=1)
    shard: str = setting(
        "members",
        "what is split over the devices: rollouts, or the users of each rollout, where one fits on no single device",
        choices=SHARDS,
    )
    scenario: ScenarioConfig = dataclasses.field(default_factory=ScenarioConfig)
    mechanisms: Mechanisms = dataclasses.field(default_factory=Mechanisms)
    parameters: WorldParameters = dataclasses.field(default_factory=WorldParameters)
    recommenders: dict[str, Deployed] = dataclasses.field(default_factory=dict)
    moderators: dict[str, Deployed] = dataclasses.field(default_factory=dict)
    policy: PolicyConfig = dataclasses.field(default_factory=PolicyConfig)
    meta: MetaConfig = dataclasses.field(default_factory=MetaConfig)
    second_order: SecondOrderConfig = dataclasses.field(default_factory=SecondOrderConfig)
    performativity: PerformativityConfig = dataclasses.field(default_factory=PerformativityConfig)
    pareto: ParetoConfig = dataclasses.field(default_factory=ParetoConfig)
    interactions: InteractionsConfig = dataclasses.field(default_factory=InteractionsConfig)
    sensitivities: SensitivitiesConfig = dataclasses.field(default_factory=SensitivitiesConfig)
    emergence: EmergenceConfig = dataclasses.field(default_factory=EmergenceConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    simulation: SimulationConfig = dataclasses.field(default_factory=SimulationConfig)
    log: LogConfig = dataclasses.field(default_factory=LogConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)

    @property
    def algorithms(self) -> tuple[Deployed, ...]:
        """Every algorithm: recommenders, then moderators, each in the order of the file."""
        return (*self.recommenders.values(), *self.moderators.values())


Members = dict[Family, dict[str, Deployed]]

SECTIONS: dict[str, type[Any]] = {
    "scenario": ScenarioConfig,
    "mechanisms": Mechanisms,
    "parameters": WorldParameters,
    "policy": PolicyConfig,
    "meta": MetaConfig,
    "second_order": SecondOrderConfig,
    "performativity": PerformativityConfig,
    "pareto": ParetoConfig,
    "interactions": InteractionsConfig,
    "sensitivities": SensitivitiesConfig,
    "emergence": EmergenceConfig,
    "evaluation": EvaluationConfig,
    "simulation": SimulationConfig,
    "log": LogConfig,
    "checkpoint": CheckpointConfig,
}


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a YAML file or a preset, applies overrides in order and checks the result.

    Args:
        source: path of a file, or name of a preset such as `quickstart`.
        overrides: `--a.b=v`, `a.b=v`, or `--a.b` followed by `v`.

    Returns:
        The checked configuration.

    Raises:
        UserError: every error that was found, one to a line.
    """
    path = find_config(source)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise UserError(f"cannot read {path}: {reason}") from error
    errors: list[str] = []
    mapping = apply_overrides(read_yaml(text, name=str(path)), overrides, errors)
    return _resolve(mapping, errors, None)


def find_config(source: str | Path) -> Path:
    """Path of a configuration file: a file that exists, else a preset of that name.

    Raises:
        UserError: there is neither; the message lists the presets.
    """
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir() and (path / "config.yaml").is_file():
        raise UserError(f"{path} is a folder; give its file {path / 'config.yaml'}")
    if path.is_dir():
        raise UserError(f"{path} is a folder; give a YAML file or the name of a preset ({', '.join(presets())})")
    name = str(source).removeprefix("configs/").removesuffix(".yaml")
    known = presets()
    if name not in known:
        raise UserError(
            f"no file or preset is called '{source}'.{_did_you_mean(name, known)} Presets: {', '.join(known)}"
        )
    return known[name]


def presets(inside: str = ".") -> dict[str, Path]:
    """Names and paths of the presets: shipped inside the package, or the folder `configs` of a checkout; or of those in a folder
    inside."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "presets", package.parent / "configs"):
        if folder.is_dir():
            return {path.stem: path for path in sorted((folder / inside).glob("*.yaml"))}
    return {}


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars, and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} cannot be a name", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{key}' is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Quotes whatever this loader or an older one would not read as a text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_SCALARS = (
    ("null", r"~|null|Null|NULL|None|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+(?:_[0-9]+)*", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+.")),
    ("merge", r"<<", ["<"]),
)
_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in _SCALARS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)
_Loader.add_constructor(
    "tag:yaml.org,2002:int",
    lambda loader, node: (int if len(node.value) < 100 else float)(loader.construct_scalar(node)),
)
_Loader.add_constructor(
    "tag:yaml.org,2002:float",
    lambda loader, node: float(re.sub(r"\.(inf|nan)", r"\1", loader.construct_scalar(node).lower())),
)


def _parse(text: str) -> Any:
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def read_yaml(text: str, *, name: str = "configuration") -> dict[str, Any]:
    """Reads a YAML text whose top level is a mapping.

    Args:
        text: the YAML text; an empty one is an empty mapping.
        name: what to call it in an error, usually its path.

    Raises:
        UserError: the text is not YAML, gives a key twice, or holds no mapping; the message says `name:line`.
    """
    try:
        value = _parse(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        raise UserError(f"{where}: {_yaml_problem(error)}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(f"{name}:{line}: character {error.character!r} cannot stand in YAML") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{name}: holds {_kind_of(value)}; the top level must be a mapping such as `steps: 50`")
    return value


def _yaml_problem(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or "not YAML"
    if r"'\t'" in problem:
        return "a tab cannot indent YAML; use spaces"
    if problem == "mapping values are not allowed here":
        return "this is not YAML: a ':' is not expected here (quote a text that holds one)"
    if _speaks_for_itself(problem):
        return problem
    return f"this is not YAML: {error.context + ', ' if error.context else ''}{problem}"


def _speaks_for_itself(problem: str | None) -> bool:
    return problem is not None and problem.endswith(("cannot be a name", "is given twice"))


# ---------------------------------------------------------------------------------------------------------------------
# Overrides


def apply_overrides(mapping: Mapping[str, Any], overrides: Sequence[str], errors: list[str]) -> dict[str, Any]:
    """Copy of a raw mapping with overrides applied in order.

    A mapping as a value is merged into what is there, an empty one empties it; a new `kind` drops the settings of the
    old one, but none of the overrides, wherever these stand; `None` removes an algorithm or an entry of `meta.minimise` and
    `meta.keep`.

    Args:
        mapping: raw mapping, as `read_yaml` gives it.
        overrides: `--a.b=v`, `a.b=v`, or `--a.b` followed by `v`.
        errors: one line is appended for each override that cannot be applied.
    """
    result = copy.deepcopy(dict(mapping))
    read: list[_Override] = []
    for dotted, text in split_overrides(overrides, errors):
        path = tuple(dotted.split("."))
        try:
            value = _parse(text)
        except yaml.YAMLError as error:
            if isinstance(error, yaml.MarkedYAMLError) and _speaks_for_itself(error.problem):
                errors.append(f"{dotted}: {error.problem}")
                continue
            errors.append(
                f"{dotted}: cannot read {text!r}; quote a text that holds special characters: {dotted}='\"...\"'"
            )
            continue
        if all(path):
            read.append(_Override(path, value))
        else:
            errors.append(f"{dotted}: is not a name of a setting; write section.name=value")
    for path, value in _kinds_first(read):
        if problem := _assign(result, list(path), value):
            errors.append(f"{'.'.join(path)}: {problem}")
    return result


class _Override(NamedTuple):
    path: tuple[str, ...]
    value: Any

    @property
    def names_kind(self) -> bool:
        """Whether it says of which kind an algorithm is."""
        if len(self.path) == 2:
            return isinstance(self.value, Mapping) and "kind" in self.value
        return len(self.path) == 3 and self.path[2] == "kind"

    @property
    def sets(self) -> bool:
        """Whether it does nothing but set something of an algorithm."""
        if len(self.path) == 2:
            return not self.names_kind and isinstance(self.value, Mapping) and bool(self.value)
        return len(self.path) > 2 and not self.names_kind


def _kinds_first(overrides: Iterable[_Override]) -> list[_Override]:
    """Overrides in which the kind of an algorithm comes before its other settings, which it would drop."""
    ordered: list[_Override] = []
    for each in overrides:
        at = len(ordered)
        if each.path[0] in FAMILIES and each.names_kind:
            for k in reversed(range(len(ordered))):
                if ordered[k].path[:2] not in (each.path[:2], each.path[:1]):
                    continue
                if not ordered[k].sets:
                    break
                at = k
        ordered.insert(at, each)
    return ordered


def split_overrides(overrides: Sequence[str], errors: list[str]) -> Iterator[tuple[str, str]]:
    """Dotted names and texts of overrides; a line is appended to `errors` for each that has no value."""
    rest = list(overrides)
    while rest:
        token = rest.pop(0)
        dotted, equals, text = token.removeprefix("--").partition("=")
        if equals:
            yield dotted, text
        elif token.startswith("--") and rest and not rest[0].startswith("--"):
            yield dotted, rest.pop(0)
        elif token.startswith("--"):
            errors.append(f"{dotted}: no value was given; write {token}=VALUE")
        else:
            errors.append(f"'{token}' is not an override; write section.name=value")


def _assign(mapping: dict[str, Any], path: list[str], value: Any) -> str | None:
    """Puts a value at a path of nested mappings; says what is wrong, if anything."""
    *above, last = path
    if above and path[0] in FAMILIES:
        members = mapping[path[0]] = mapping.get(path[0]) or {}
        adds = len(path) == 2 and isinstance(value, Mapping) and "kind" in value
        if isinstance(members, dict) and path[1] not in members and not adds:
            word, known = FAMILIES[path[0]], ", ".join(members) or "none"
            return f"no {word} is called '{path[1]}'.{_did_you_mean(path[1], members)} Known: {known}"
    here = mapping
    for depth, name in enumerate(above, start=1):
        if here.get(name) is None:
            here[name] = _free_names(path[:depth]) or {}
        if not isinstance(here[name], dict):
            return f"{'.'.join(path[:depth])} has no settings of its own"
        here = here[name]
    removable = above in [[family] for family in FAMILIES] or _free_names(above) is not None
    if value is None and removable:
        here.pop(last, None)
        return None
    new_kind = len(path) == 3 and path[0] in FAMILIES and last == "kind" and here.get("kind") != value
    if new_kind:
        here.clear()  # the settings of the old kind mean nothing to the new one
    before = _free_names(path) if here.get(last) is None else here[last]
    here[last] = _merged(before, value)
    return None


def _free_names(path: Sequence[str]) -> dict[str, float] | None:
    """Default of a setting that is itself a mapping with free names (such as meta.minimise), else None."""
    if len(path) != 2 or path[0] not in SECTIONS:
        return None
    defaults = [_default(field) for field in dataclasses.fields(SECTIONS[path[0]]) if field.name == path[1]]
    return dict(defaults[0]) if defaults and isinstance(defaults[0], dict) else None


def _merged(old: Any, new: Any) -> Any:
    if not isinstance(new, Mapping) or not isinstance(old, Mapping) or not new:
        return new
    if "kind" in new and "kind" in old and new["kind"] != old["kind"]:
        return dict(new)
    return {**old, **{name: _merged(old.get(name), value) for name, value in new.items()}}


# ---------------------------------------------------------------------------------------------------------------------
# Checking


def resolve(mapping: Mapping[str, Any], *, objectives: Collection[str] | None = None) -> RunConfig:
    """Checks a raw mapping and fills in every default.

    Args:
        mapping: nested mapping of settings, as in a YAML file.
        objectives: names that `meta.minimise` and `meta.keep` may use; None takes `mamba.objectives.OBJECTIVES`.

    Raises:
        UserError: every error that was found, one to a line.
    """
    return _resolve(mapping, [], objectives)


def _resolve(mapping: Mapping[str, Any], errors: list[str], objectives: Collection[str] | None) -> RunConfig:
    sections: dict[str, Any] = {name: _settings(cls, mapping.get(name), name, errors) for name, cls in SECTIONS.items()}
    members: Members = {family: _members(mapping.get(family), family, errors) for family in FAMILIES}
    nested = {*SECTIONS, *FAMILIES}
    own = {name: value for name, value in mapping.items() if name not in nested}
    top = _settings(RunConfig, own, "", errors)
    if top is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", top.name):
        errors.append(
            f"name: {_shown(top.name)} cannot name a folder; use at most 100 letters, digits, '.', '_' and '-'"
        )
    _check_algorithms(members, mapping, errors)
    steps = None if top is None else top.steps
    _check_sections(sections, members, errors, _known_objectives() if objectives is None else objectives, steps)
    if errors or top is None:
        raise UserError("\n".join(errors))
    parts: dict[str, Any] = {**sections, **members}
    return dataclasses.replace(top, **parts)


def _settings(cls: type[T], given: Any, at: str, errors: list[str]) -> T | None:
    """Instance of a settings class, or None after one line for each error."""
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        errors.append(f"{at}: {_shown(given)} is {_kind_of(given)}; give settings, such as {{{_names(cls)[0]}: ...}}")
        return None
    try:
        checked = _model(cls).model_validate(dict(given))
    except pydantic.ValidationError as error:
        errors.extend(_line(cls, at, problem) for problem in error.errors(include_url=False))
        return None
    return cls(**{name: getattr(checked, name) for name in _names(cls)})


def _members(given: Any, family: Family, errors: list[str]) -> dict[str, Deployed]:
    """Algorithms of one family; those with an error are left out after one line for each."""
    if not isinstance(given, Mapping | None):
        errors.append(
            f"{family}: {_shown(given)} is {_kind_of(given)}; give them by name, as in {{home: {{kind: ...}}}}"
        )
        return {}
    members = {}
    for name, settings in (given or {}).items():
        at = f"{family}.{name}"
        if not re.fullmatch("[a-z][a-z0-9_]{0,39}", name):
            errors.append(f"{at}: cannot be a name; use at most 40 of a-z, 0-9 and '_', beginning with a letter")
        if not isinstance(settings, Mapping) or "kind" not in settings:
            kinds = ", ".join(kind for kind, entry in KINDS.items() if entry.family == family)
            errors.append(f"{at}: has no kind; write {name}: {{kind: ...}} with one of {kinds}")
            continue
        kind = settings["kind"]
        if problem := _kind_problem(kind, family):
            errors.append(f"{at}.kind: {problem}")
            continue
        own = {field: value for field, value in settings.items() if field != "kind"}
        config = _settings(KINDS[kind].config, own, at, errors)
        if config is None:
            continue
        try:
            KINDS[kind].make(config)
        except ValueError as error:
            errors.append(f"{at}: {error}")
        members[name] = Deployed(name, kind, config)
    return members


def _kind_problem(kind: Any, family: Family) -> str | None:
    known = [name for name, entry in KINDS.items() if entry.family == family]
    if not isinstance(kind, str) or kind not in KINDS:
        hint = _did_you_mean(kind, KINDS) if isinstance(kind, str) else ""
        return f"no kind is called {_shown(kind)}.{hint} Known: {', '.join(known)}"
    right = KINDS[kind].family
    if right != family:
        return f"'{kind}' is a {FAMILIES[right]}; move it to {right}. Kinds of {family}: {', '.join(known)}"
    return None


def _check_algorithms(members: Members, given: Mapping[str, Any], errors: list[str]) -> None:
    if not any(given.get(family) for family in FAMILIES):
        errors.append("recommenders: there is no algorithm; add one, such as recommenders: {home: {kind: engagement}}")
    first, second = (members[family] for family in FAMILIES)
    for name in first:
        if name in second:
            errors.append(f"moderators.{name}: a recommender has this name too; rename one of them")


def _check_sections(
    sections: Mapping[str, Any],
    members: Members,
    errors: list[str],
    objectives: Collection[str],
    steps: int | None,
) -> None:
    """What depends on more than one setting; skips a section that has an error of its own."""
    interactions: InteractionsConfig | None = sections["interactions"]
    meta: MetaConfig | None = sections["meta"]
    log: LogConfig | None = sections["log"]
    scenario: ScenarioConfig | None = sections["scenario"]
    parameters: WorldParameters | None = sections["parameters"]
    if scenario is not None and scenario.users == 1:
        errors.append("scenario.users: 1 leaves nobody to follow; give at least 2, or 0 for everyone")
    if scenario is not None and parameters is not None:
        delay, lifetime = parameters.check_delay, scenario.lifetime
        if not (float(delay).is_integer() and delay < lifetime):
            errors.append(
                f"parameters.check_delay: {delay:g} is not a whole number below scenario.lifetime ({lifetime}), so no "
                f"item would ever be reviewed; give 0 to {lifetime - 1}, or a longer scenario.lifetime"
            )
    count = sum(map(len, members.values()))
    if interactions is not None and interactions.seeds == 1:
        errors.append("interactions.seeds: 1 gives no interval; give 0 to skip the analysis, or at least 2")
    elif interactions is not None and interactions.seeds and count > MOST_ALGORITHMS:
        errors.append(
            f"interactions.seeds: {interactions.seeds} with {count} algorithms; give 0 to skip the analysis, or at most "
            f"{MOST_ALGORITHMS} algorithms"
        )
    if interactions is not None and steps is not None and interactions.seeds and interactions.windows > steps:
        errors.append(
            f"interactions.windows: {interactions.windows} parts of a rollout of {steps} steps; give 0 to {steps}, or more steps"
        )
    if meta is not None:
        for part in ("minimise", "keep"):
            for name in getattr(meta, part):
                if objectives and name not in objectives:
                    hint = _did_you_mean(name, objectives)
                    errors.append(f"meta.{part}.{name}: no such objective.{hint} Known: {', '.join(objectives)}")
        if meta.steps and not any(meta.minimise.values()):
            errors.append("meta.minimise: nothing to train for; give an objective a weight, or meta.steps: 0")
    if log is not None:
        if not re.fullmatch(r"[^/\\#?%:]{1,128}", log.project):
            errors.append(
                f"log.project: {_shown(log.project)} cannot name a wandb project; use 1 to 128 of a-z, 0-9, '_', '-', '.'"
            )
        for tag in log.tags:
            if not 1 <= len(tag) <= 64:
                errors.append(f"log.tags: {_shown(tag)} has {len(tag)} characters; give 1 to 64")


def _known_objectives() -> Collection[str]:
    from mamba.objectives import OBJECTIVES

    return OBJECTIVES


def _names(cls: type[Any]) -> list[str]:
    """Names of the settings of a class, without its sections."""
    return [field.name for field in dataclasses.fields(cls) if "help" in field.metadata]


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default is not dataclasses.MISSING else typing.cast(Any, field.default_factory)()


def _whole(value: Any) -> Any:
    """1000.0 is a whole number: sweeps draw floats."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _listed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


_CHECKED: dict[Any, Any] = {
    int: Annotated[int, pydantic.BeforeValidator(_whole)],
    tuple[str, ...]: Annotated[tuple[str, ...], pydantic.BeforeValidator(_listed)],
}


@functools.cache
def _model(cls: type[Any]) -> type[pydantic.BaseModel]:
    """The pydantic model of a settings class."""
    hints = typing.get_type_hints(cls)
    definitions: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if "help" not in field.metadata:
            continue
        bounds = {name: field.metadata[name] for name in ("ge", "gt", "le", "lt") if field.metadata[name] is not None}
        choices = field.metadata["choices"]
        hint = (
            typing.cast(Any, Literal)[tuple(choices)] if choices else _CHECKED.get(hints[field.name], hints[field.name])
        )
        definitions[field.name] = (hint, pydantic.Field(_default(field), **bounds))
    return pydantic.create_model(
        cls.__name__,
        __config__=pydantic.ConfigDict(
            extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=()
        ),
        **definitions,
    )


def _line(cls: type[Any], at: str, problem: Any) -> str:
    """One error of pydantic as one line: the setting, the value, the remedy."""
    name, *inside = map(str, problem["loc"])
    dotted = ".".join(filter(None, (at, name, *inside)))
    field = next((field for field in dataclasses.fields(cls) if field.name == name), None)
    if field is None:
        return f"{dotted}: no such setting.{_unknown_hint(cls, at, name)}"
    value, metadata = problem["input"], field.metadata
    says: dict[str, Callable[[], str]] = {
        "greater_than_equal": lambda: f"{_shown(value)} is below {metadata['ge']:g}",
        "greater_than": lambda: f"{_shown(value)} is not above {metadata['gt']:g}",
        "less_than_equal": lambda: f"{_shown(value)} is above {metadata['le']:.10g}",
        "less_than": lambda: f"{_shown(value)} is not below {metadata['lt']:g}",
        "finite_number": lambda: f"{_shown(value)} is not finite",
        "literal_error": lambda: f"{_shown(value)} is not known",
    }
    if value is None:
        says[problem["type"]] = lambda: "nothing was given"
    elif metadata["choices"] and not isinstance(value, str):
        says[problem["type"]] = lambda: f"{_shown(value)} is {_kind_of(value)}"
    what = says.get(problem["type"], lambda: f"{_shown(value)} is {_kind_of(value)}")()
    if isinstance(value, float) and problem["type"] == "int_type":
        what = f"{_shown(value)} is not a whole number"
    hint = _did_you_mean(value, metadata["choices"]) if metadata["choices"] and isinstance(value, str) else ""
    line = f"{dotted}: {what}; give {_wanted(cls, field, inside=bool(inside))} ({metadata['help']})"
    return f"{line}.{hint}" if hint else line


def _wanted(cls: type[Any], field: dataclasses.Field[Any], *, inside: bool = False) -> str:
    """What a setting takes, in words."""
    if field.metadata["choices"]:
        return "one of " + ", ".join(field.metadata["choices"])
    hint = typing.get_type_hints(cls)[field.name]
    words = {
        int: "a whole number",
        float: "a number",
        str: "a text",
        bool: "true or false",
        dict[str, float]: "a number" if inside else "names with numbers, such as {polarisation: 1.0}",
        tuple[str, ...]: "a text" if inside else "a list of texts, such as [a, b]",
        str | None: "a text or None",
    }
    return f"{words.get(hint, str(hint))} {_range(field)}".rstrip()


def _range(field: dataclasses.Field[Any]) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    bounds = [f"{sign} {field.metadata[key]:.10g}" for key, sign in signs.items() if field.metadata[key] is not None]
    return " and ".join(bounds)


def _unknown_hint(cls: type[Any], at: str, name: str) -> str:
    elsewhere = [f"'{section}.{name}'" for section, other in SECTIONS.items() if name in _names(other)]
    elsewhere += [f"'{name}' at the top level"] if at and name in _names(RunConfig) else []
    if elsewhere:
        return f" Did you mean {' or '.join(elsewhere)}?"
    known = _names(cls) if at else [*_names(cls), *SECTIONS, *FAMILIES]
    return _did_you_mean(name, known) or f" Known: {', '.join(known)}"


def _did_you_mean(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _kind_of(value: Any) -> str:
    for kind, words in ((bool, "a truth value"), (int | float, "a number"), (str, "a text"), (Mapping, "a mapping")):
        if isinstance(value, kind):
            return words
    return "nothing" if value is None else "a list" if isinstance(value, list | tuple) else f"a {type(value).__name__}"


# ---------------------------------------------------------------------------------------------------------------------
# Writing


def to_mapping(config: RunConfig) -> dict[str, Any]:
    """The configuration as plain nested mappings in a fixed order, every default filled in."""
    mapping: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in FAMILIES:
            mapping[field.name] = {
                member.name: {"kind": member.kind, **_plain(member.config)} for member in value.values()
            }
        else:
            mapping[field.name] = _plain(value) if dataclasses.is_dataclass(value) else value
    return mapping


def _plain(settings: Any) -> dict[str, Any]:
    """Settings by name; free names in alphabetical order, so that equal settings give equal texts."""
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return {name: dict(sorted(value.items())) if isinstance(value, dict) else value for name, value in values.items()}


def dump_yaml(config: RunConfig) -> str:
    """The resolved configuration as YAML; reading it back gives an equal configuration."""
    return to_yaml(to_mapping(config))


def to_yaml(mapping: Mapping[str, Any]) -> str:
    """A mapping of plain values as YAML that `read_yaml` reads back."""
    return yaml.dump(mapping, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**20)


def config_digest(config: RunConfig, *, without: Collection[str] = ()) -> str:
    """SHA-256 of the resolved YAML, 64 hexadecimal digits.

    Args:
        config: the configuration.
        without: settings that do not count, as `name` or `section.name`.
    """
    mapping = to_mapping(config)
    for path in without:
        section, _, name = path.partition(".")
        del (mapping[section] if name else mapping)[name or section]
    return hashlib.sha256(to_yaml(mapping).encode()).hexdigest()


def diff(before: RunConfig | Mapping[str, Any], after: RunConfig | Mapping[str, Any]) -> list[str]:
    """Settings that differ, one line each, as `meta.steps: 30 -> 40`; empty when nothing does."""
    old, new = (to_mapping(side) if isinstance(side, RunConfig) else side for side in (before, after))
    lines = []
    left, right = dict(_leaves(old)), dict(_leaves(new))
    for dotted in dict.fromkeys([*left, *right]):
        if dotted not in right:
            lines.append(f"{dotted}: {_shown(left[dotted])} -> (absent)")
        elif dotted not in left:
            lines.append(f"{dotted}: (absent) -> {_shown(right[dotted])}")
        elif left[dotted] != right[dotted]:
            lines.append(f"{dotted}: {_shown(left[dotted])} -> {_shown(right[dotted])}")
    for family in FAMILIES:
        order = [list(side.get(family) or {}) for side in (old, new)]
        if order[0] != order[1] and sorted(order[0]) == sorted(order[1]):
            lines.append(f"{family}: order {', '.join(order[0])} -> {', '.join(order[1])}")
    return lines


def _leaves(mapping: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in mapping.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{at}{name}.")
        else:
            yield f"{at}{name}", value


def help_text() -> str:
    """Every setting of every section and kind, with its default, range, unit and meaning."""
    parts = [_help_of(RunConfig, "(top level)")]
    parts += [_help_of(cls, name) for name, cls in SECTIONS.items()]
    for family, word in FAMILIES.items():
        parts.append(f"{family}: by name, as in {family}: {{my_name: {{kind: ..., setting: ...}}}}")
        parts += [
            _help_of(entry.config, f"{family}.<name>  kind: {kind}", note=f"{word}; {_about(kind)}")
            for kind, entry in KINDS.items()
            if entry.family == family
        ]
    return "\n\n".join(parts) + "\n"


def _about(kind: str) -> str:
    """First sentence of the file of a kind, without its name."""
    module = sys.modules[KINDS[kind].make.__module__]
    first = (module.__doc__ or kind).split("\n\n")[0].replace("\n", " ")
    return first.partition(": ")[2].rstrip(".") or first.rstrip(".")


def _help_of(cls: type[Any], title: str, *, note: str = "") -> str:
    lines = [f"{title}  ({note or (cls.__doc__ or '').split(chr(10))[0].rstrip('.')})"]
    names = _names(cls)
    fields = [field for field in dataclasses.fields(cls) if field.name in names]
    hints = typing.get_type_hints(cls)
    shown = [_short(_default(field)) for field in fields]
    width = max((len(name) for name in names), default=0)
    column = max((len(text) for text in shown if len(text) <= 24), default=0)
    for field, default in zip(fields, shown, strict=True):
        limits = "one of " + ", ".join(field.metadata["choices"]) if field.metadata["choices"] else _range(field)
        word = "whole number" if hints[field.name] is int else ""
        extra = "; ".join(filter(None, (" ".join(filter(None, (word, limits))), field.metadata["unit"])))
        lines.append(
            f"  {field.name:<{width}}  {default:<{column}}  {field.metadata['help']}{f'  [{extra}]' if extra else ''}"
        )
    return "\n".join(lines)


def _short(value: Any) -> str:
    return (
        yaml.dump(
            list(value) if isinstance(value, tuple) else value, Dumper=_Dumper, default_flow_style=True, width=2**20
        )
        .removesuffix("...\n")
        .strip()
    )
