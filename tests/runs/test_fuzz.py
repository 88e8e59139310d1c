"""500 mutated configurations, and sweep files: each is refused in clear lines, or read as it says. Never a traceback or silence."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mamba.algorithms.registry import KINDS
from mamba.runs.config import dump_yaml, load_config, presets, read_yaml, to_mapping, to_yaml
from mamba.runs.errors import UserError
from mamba.runs.sweeps import spec, sweep

CASES = 500
JUNK: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 10**9, 10**40, -(10**40), 0.5, -0.5, 1e300, -1e300, math.inf, math.nan, "", "x", "0.5",
    "true", "null", "NaN", "1e5", "\u00e4\U0001f40d", "a: b", "{", "../..", "x" * 5000, [], [1], [[]], ["x", None], {},
    {"x": 1}, {"kind": "x"},
)  # fmt: skip
CHARACTERS = "\t\0\x07:{}[],&*#?|-<>=!%@`'\"\\\n é🐍0aZ"


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in nested mappings and lists."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, each in inside:
        yield (*path, name)
        yield from places(each, (*path, name))


def parent(mapping: Any, path: tuple[Any, ...]) -> Any:
    """What holds the last name of a path."""
    for name in path[:-1]:
        mapping = mapping[name]
    return mapping


def _replaced(chance: random.Random, mapping: Any) -> None:
    path = chance.choice(list(places(mapping)))
    parent(mapping, path)[path[-1]] = copy.deepcopy(chance.choice(JUNK))


def _renamed(chance: random.Random, mapping: Any) -> None:
    path = chance.choice([path for path in places(mapping) if isinstance(parent(mapping, path), dict)])
    holder, name = parent(mapping, path), str(path[-1])
    at = chance.randrange(len(name) + 1)
    changed = chance.choice(
        [name[:at] + chance.choice("aez_.- ") + name[at:], name[: max(at - 1, 0)] + name[at:], name.upper()]
    )
    holder[changed] = holder.pop(path[-1])


def _moved(chance: random.Random, mapping: Any) -> None:
    paths = [path for path in places(mapping) if isinstance(parent(mapping, path), dict)]
    path = chance.choice(paths)
    value = copy.deepcopy(parent(mapping, path)[path[-1]])
    target = chance.choice(paths)
    parent(mapping, target)[path[-1]] = value


def _kind(chance: random.Random, mapping: Any) -> None:
    family = chance.choice(["recommenders", "moderators"])
    algorithms = mapping.get(family)
    if not isinstance(algorithms, dict):  # another mutation was here
        algorithms = {}
    name = chance.choice([*algorithms, "more"])
    settings = algorithms.get(name)
    changed = {**(settings if isinstance(settings, dict) else {}), "kind": chance.choice(list(KINDS))}
    mapping[family] = {**algorithms, name: changed}


def _scaled(chance: random.Random, mapping: Any) -> None:
    numbers = [path for path in places(mapping) if type(parent(mapping, path)[path[-1]]) in (int, float)]
    path = chance.choice(numbers)
    holder = parent(mapping, path)
    holder[path[-1]] = holder[path[-1]] * chance.choice([-1, 0, 0.1, 0.999, 1.5, 10, 1e6])


def _dropped(chance: random.Random, mapping: Any) -> None:
    path = chance.choice(list(places(mapping)))
    del parent(mapping, path)[path[-1]]


STRUCTURED: tuple[Callable[[random.Random, Any], None], ...] = (_replaced, _renamed, _moved, _kind, _scaled, _dropped)


def _scrambled(chance: random.Random, text: str) -> str:
    """A text with a few characters put in, taken out or doubled."""
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(text))
        change = chance.choice(["put", "take", "line", "cut"])
        if change == "put":
            text = text[:at] + chance.choice(CHARACTERS) + text[at:]
        elif change == "take":
            text = text[:at] + text[at + chance.randint(1, 8) :]
        elif change == "line":
            lines = text.splitlines(keepends=True)
            line = chance.randrange(len(lines))
            lines.insert(chance.randrange(len(lines)), lines[line])
            text = "".join(lines)
        else:
            text = text[: max(at, 1)]
    return text


def mutated(case: int) -> str:
    """The text of one case; the same every time."""
    chance = random.Random(case)
    source = chance.choice(sorted(presets()))
    text = presets()[source].read_text(encoding="utf-8")
    if case % 4 == 0:
        return _scrambled(chance, text)
    mapping = to_mapping(load_config(source)) if chance.random() < 0.5 else read_yaml(text)
    for _ in range(chance.randint(1, 3)):
        chance.choice(STRUCTURED)(chance, mapping)
    return to_yaml(mapping)


NUMBERS: dict[str, Any] = {"min": 0.2, "max": 0.8, "mu": 0.0, "sigma": 1.0, "q": 0.1, "a": 2.0, "b": 3.0}
FILES: dict[str, Any] = {
    **{name: read_yaml(path.read_text(encoding="utf-8")) for name, path in presets(spec.SHIPPED).items()},
    "distributions": {
        "method": "random",
        "run_cap": 2,
        "metric": {"name": "simulation/polarisation", "goal": "minimize"},
        "parameters": {
            f"parameters.{name}": {"distribution": named, **{key: NUMBERS[key] for key in (*needs, *may)}}
            for name, (named, (needs, may, of)) in zip(
                to_mapping(load_config("smoke"))["parameters"], spec._DISTRIBUTIONS.items(), strict=False
            )
            if of is not None
        },
        "command": ["${env}", "mamba-eco", "simulate", "smoke", "${args}"],
    },
}


def mutated_sweep(case: int) -> str:
    """The text of one sweep file; the same every time."""
    chance = random.Random(case)
    mapping = copy.deepcopy(FILES[chance.choice(sorted(FILES))])
    if case % 4 == 0:
        return _scrambled(chance, to_yaml(mapping))
    for _ in range(chance.randint(1, 2)):
        chance.choice([change for change in STRUCTURED if change is not _kind])(chance, mapping)
    return to_yaml(mapping)


def same(said: Any, read: Any) -> bool:
    """Whether a value was read as it was said; 1000.0 is a whole number, too."""
    if isinstance(said, bool) or isinstance(read, bool):
        return said is read
    if isinstance(said, int | float) and isinstance(read, int | float):
        return float(said) == float(read)
    if isinstance(said, list) and isinstance(read, list | tuple):
        return len(said) == len(read) and all(map(same, said, read))
    return said == read


def unheard(said: dict[str, Any], read: dict[str, Any], at: str = "") -> Iterator[str]:
    """What a file says and the configuration that was made of it does not."""
    for name, value in said.items():
        here = f"{at}{name}"
        if name not in read:
            if value is not None:  # `x: null` takes an algorithm or an entry away
                yield here
        elif isinstance(value, dict) and isinstance(read[name], dict):
            yield from unheard(value, read[name], f"{here}.")
        elif value is None and isinstance(read[name], dict):
            continue  # an empty section has its defaults
        elif not same(value, read[name]):
            yield f"{here}: {value!r} was read as {read[name]!r}"


def outcome(case: int, folder: Path) -> str:
    """`refused`, or `read`; raises where neither may stand."""
    path = folder / f"{case}.yaml"
    text = mutated(case)
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        config = load_config(path)
    except UserError as error:
        lines = str(error).splitlines()
        assert lines and all(line.strip() for line in lines), "an error says something"
        assert all(len(line) < 2000 for line in lines), "an error is short enough to be read"
        assert "Traceback" not in str(error) and "pydantic" not in str(error)
        return "refused"
    assert not list(unheard(read_yaml(text), to_mapping(config))), "everything that a file says is heard"
    again = folder / f"{case}-again.yaml"
    again.write_text(dump_yaml(config), encoding="utf-8")
    assert load_config(again) == config
    return "read"


def test_mutated_configurations_are_refused_or_read_as_they_say(tmp_path: Path) -> None:
    found = {"refused": 0, "read": 0}
    for case in range(CASES):
        try:
            found[outcome(case, tmp_path)] += 1
        except Exception as error:
            error.add_note(f"case {case}: print(tests.runs.test_fuzz.mutated({case}))")
            raise
    # Both happen often: the mutations are neither all absurd nor all harmless.
    assert found["refused"] > CASES // 4 and found["read"] > CASES // 20


def varied(parameters: dict[str, Any], above: str = "") -> Iterator[str]:
    """Names of what a sweep file varies."""
    for name, facts in parameters.items():
        if isinstance(facts, dict) and facts.keys() == {"parameters"}:
            yield from varied(facts["parameters"], f"{above}{name}.")
        else:
            yield f"{above}{name}"


def test_mutated_sweep_files_are_refused_or_planned(tmp_path: Path) -> None:
    found = {"refused": 0, "planned": 0}
    for case in range(CASES // 2):
        path = tmp_path / f"s{case}.yaml"
        path.write_text(mutated_sweep(case), encoding="utf-8", errors="surrogatepass")
        try:
            read = spec.load(path)
            members = sweep.planned(read, sweep.Options(count=2))
            found["planned"] += 1
            said = set(varied(read_yaml(path.read_text(encoding="utf-8", errors="surrogatepass"))["parameters"]))
            assert all(member.choice.keys() == said for member in members or ()), (
                "everything that a file varies is varied"
            )
        except UserError as error:
            assert all(line.strip() and len(line) < 2000 for line in str(error).splitlines()) and str(error)
            found["refused"] += 1
        except Exception as error:
            error.add_note(f"case {case}: print(tests.runs.test_fuzz.mutated_sweep({case}))")
            raise
    assert found["refused"] > CASES // 8 and found["planned"] > CASES // 40


def test_the_check_can_fail() -> None:
    assert list(unheard({"a": {"b": 1}, "c": 2}, {"a": {}, "c": 3})) == ["a.b", "c: 2 was read as 3"]
    assert not list(unheard({"steps": 5.0, "x": None}, {"steps": 5}))
    with pytest.raises(UserError):
        load_config("no such preset")
