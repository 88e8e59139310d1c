"""The house rules: which part of mamba may import what, and that importing it does no work."""

import ast
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mamba"

# A room imports rooms before it, never after it.
ROOMS = (
    "fields",
    "types",
    "storing",
    "streams",
    "sums",
    "unroll",
    "placement",
    "world",
    "algorithms",
    "policies",
    "ecosystem",
    "passing",
    "rollout",
    "objectives",
    "members",
    "meta",
    "interactions",
    "explain",
    "datasets",
    "scenarios",
    "runs",
    "cli",
)
STRANGERS = {"world", "algorithms"}  # meet only in ecosystem, through types
ENTRANCES = {"__init__", "__main__"}  # free to import any room

ONE_FILE = {"wandb", "orbax", "plotly", "rich"}  # each in a single file of runs/
CONFIG_FILES = {"pydantic", "yaml"}  # in the files of runs/ whose name starts with config
NETS = "algorithms/nets.py"  # the only home of neural network modules
NETS_ONLY = {"flax.linen", "flax.nnx"}

OPTIONAL = {"optuna", "pyarrow"}  # may be missing: packages of the extras


def imports_of(tree: ast.Module) -> Iterator[tuple[int, int, str, str | None]]:
    """Every import, wherever it stands: (line, level of a relative import, module, imported name or None)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, 0, alias.name, None
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.lineno, node.level, node.module or "", alias.name
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in {"import_module", "__import__"} and isinstance(node.args[0].value, str):
                yield node.lineno, 0, node.args[0].value, None


def violations(package: Path) -> list[str]:
    """Every breach of the house rules in a package folder, as `file:line: what is wrong`."""
    found: list[str] = []
    homes: dict[str, dict[str, str]] = defaultdict(dict)  # library -> file of runs/ -> first place
    for path in sorted(package.rglob("*.py")):
        inside = path.relative_to(package)
        room = inside.parts[0].removesuffix(".py")
        file = f"{package.name}/{inside.as_posix()}"
        if room not in ROOMS and room not in ENTRANCES:
            found.append(f"{file}:1: `{room}` is not in the order of rooms; give it a place in ROOMS")
            continue
        for line, level, module, name in imports_of(ast.parse(path.read_text(encoding="utf-8"), str(path))):
            here = f"{file}:{line}"
            full = f"{module}.{name}" if name else module
            top = module.split(".")[0]
            if level:
                found.append(f"{here}: relative import; write `from {package.name}...`")
            elif top == package.name:
                if problem := breach(room, full.split(".")[1:]):
                    found.append(f"{here}: {problem}")
            elif top in ONE_FILE or top in CONFIG_FILES:
                if room != "runs":
                    found.append(f"{here}: `{room}` imports {top}, which belongs to runs/")
                elif top in CONFIG_FILES and not inside.name.startswith("config"):
                    found.append(f"{here}: {top} belongs to the files of runs/ whose name starts with `config`")
                elif top in ONE_FILE:
                    homes[top].setdefault(file, here)
            elif top == "flax" and inside.as_posix() != NETS:
                if full == "flax":
                    found.append(f"{here}: bare `import flax` brings every part of it; write `from flax import struct`")
                elif any(f"{full}.".startswith(f"{part}.") for part in NETS_ONLY):
                    found.append(f"{here}: {full} belongs to {NETS}")
    for library, files in homes.items():
        if len(files) > 1:
            found.extend(f"{here}: {library} is imported by {len(files)} files; keep one" for here in files.values())
    return sorted(found)


def breach(room: str, target: list[str]) -> str | None:
    """What is wrong with a room importing `mamba.<target>`, if anything."""
    if room in ENTRANCES or target == ["__version__"]:
        return None
    if not target or target[0] not in ROOMS:
        return f"`{room}` imports from the front door; name the room, as in `from mamba.types import ...`"
    if ROOMS.index(target[0]) > ROOMS.index(room):
        return f"`{room}` imports `{target[0]}`, which stands above it"
    if {room, target[0]} == STRANGERS:
        return f"`{room}` imports `{target[0]}`; the two meet only in `ecosystem`"
    return None


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "JAX_PLATFORMS": "bogus", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT, timeout=300
    )


def test_house_rules() -> None:
    found = violations(PACKAGE)
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("file", "code", "message"),
    [
        ("types.py", "from mamba.world.network import x", "stands above"),
        ("world/a.py", "import mamba.algorithms.base", "stands above"),
        ("algorithms/a.py", "def f():\n    from mamba.world import network", ":2: `algorithms` imports `world`"),
        ("algorithms/a.py", "from mamba import world", "meet only in"),
        ("interactions/a.py", "from mamba.datasets import load", "stands above"),
        ("meta/a.py", "from mamba import Ecosystem", "front door"),
        ("meta/a.py", "from .b import c", "relative"),
        ("world/a.py", "import yaml", "belongs to runs/"),
        ("cli.py", "from rich.console import Console", "belongs to runs/"),
        ("scenarios/a.py", "import importlib\nimportlib.import_module('wandb')", ":2: `scenarios` imports wandb"),
        ("runs/loop.py", "import pydantic", "starts with `config`"),
        ("world/a.py", "from flax import linen as nn", "belongs to algorithms/nets.py"),
        ("types.py", "import flax", "bare"),
        ("helpers.py", "x = 1", "not in the order"),
    ],
)
def test_house_rules_find(tmp_path: Path, file: str, code: str, message: str) -> None:
    path = tmp_path / "mamba" / file
    path.parent.mkdir(parents=True)
    path.write_text(code)
    found = violations(tmp_path / "mamba")
    assert len(found) == 1 and message in found[0], found


def test_house_rules_count_files_and_allow_the_rest(tmp_path: Path) -> None:
    sources = {
        "__init__.py": "from mamba.cli import main",
        "algorithms/nets.py": "from flax import linen, nnx",
        "types.py": "from flax import struct\nimport flax.struct",
        "datasets/a.py": "from mamba.world.network import x\nfrom mamba import __version__",
        "runs/config.py": "import pydantic, yaml",
        "runs/config_sweep.py": "import pydantic, yaml",
        "runs/tracking.py": "import wandb\nimport wandb",
        "runs/report.py": "import wandb.sdk",
    }
    for file, code in sources.items():
        (tmp_path / "mamba" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mamba" / file).write_text(code)
    assert violations(tmp_path / "mamba") == [
        "mamba/runs/report.py:1: wandb is imported by 2 files; keep one",
        "mamba/runs/tracking.py:1: wandb is imported by 2 files; keep one",
    ]


def test_import_touches_no_backend() -> None:
    result = run_python("import mamba")
    assert result.returncode == 0, result.stderr


def test_importing_any_module_touches_no_backend() -> None:
    names = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1] != "__main__":
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    code = f"""
import importlib, traceback
failed = 0
for name in {names!r}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in {OPTIONAL!r}:
            failed += 1
            traceback.print_exc()
    except Exception:
        failed += 1
        traceback.print_exc()
raise SystemExit(failed > 0)
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr


def test_no_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    private = re.compile(r"\.\./shared|(?<![\w.*-])/(?:work|tmp)\b")
    folders = [ROOT / name for name in ("mamba", "scripts", "configs")]
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    files += [path for name in ("README.md", "pyproject.toml") if (path := ROOT / name).is_file()]
    found = []
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # data
        for number, line in enumerate(text.splitlines(), start=1):
            if private.search(line):
                found.append(f"{path.relative_to(ROOT).as_posix()}:{number}: {line.strip()}")
    assert not found, "\n" + "\n".join(found)
