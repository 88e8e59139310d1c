"""The run folder: the identity of a run, and the truth about what it did.

    config.yaml       the resolved configuration
    metrics.jsonl     one row a line, written as it happens; a killed run loses no finished row
    summary.json      results, and how to repeat them
    interactions.npz  arrays of the interaction analysis, and the digest of what decided them
    run_id            a random name of this run, under which wandb continues it
    checkpoints/ report/ wandb/ profile/
    .stopped          the last command was told to stop before its end

A number that is not finite is `null` in JSON and NaN again when it is read. The same folder continues the same run: one
process at a time, and another configuration is refused. Everything but `metrics.jsonl` is replaced whole or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import platform
import secrets
import subprocess
from collections.abc import Callable, Generator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mamba.runs.errors import UserError

CONFIG, METRICS, SUMMARY, INTERACTIONS = "config.yaml", "metrics.jsonl", "summary.json", "interactions.npz"
SWEEP = "sweep.yaml"  # instead of CONFIG in the folder of a sweep
CHECKPOINTS, REPORT, WANDB, PROFILE = "checkpoints", "report", "wandb", "profile"
RUN_ID = "run_id"
LOCK = ".lock"
PACKAGES = ("mamba-ecosystems", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "pydantic", "wandb")


# ---------------------------------------------------------------------------------------------------------------------
# Files


def write_text(path: str | Path, text: str) -> None:
    """Replaces a file whole or not at all.

    Raises:
        UserError: it cannot be written; so do `write_json` and `write_arrays`.
    """
    _replace(Path(path), lambda file: file.write(text.encode()))


def write_json(path: str | Path, value: Any) -> None:
    """Writes JSON whole or not at all; numpy and JAX numbers become plain ones, those not finite `null`."""
    write_text(path, json.dumps(plain(value), indent=2, sort_keys=True, allow_nan=False) + "\n")


def write_arrays(path: str | Path, arrays: Mapping[str, Any]) -> None:
    """Writes a compressed `.npz` whole or not at all."""
    columns: dict[str, Any] = {name: np.asarray(array) for name, array in arrays.items()}
    _replace(Path(path), lambda file: np.savez_compressed(file, **columns))


def _replace(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise unwritable(path, error) from error
        raise


def unwritable(path: Path, error: OSError) -> UserError:
    """What to say of a file or folder that cannot be written."""
    return UserError(f"{path}: cannot be written ({_reason(error)}); make room or give the rights, and run again")


def read_text(path: str | Path) -> str:
    """Reads a text file.

    Raises:
        UserError: the file cannot be read or is not UTF-8 text.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text; restore it, or use another run folder") from error
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({_reason(error)}); give the rights, or use another run folder"
        ) from error


def read_json(path: str | Path) -> Any:
    """Reads a JSON file; `null` stays None.

    Raises:
        UserError: the file cannot be read or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({_reason(error)}); remove it and run again") from error


def read_summary(path: str | Path) -> dict[str, Any]:
    """Reads `summary.json`.

    Raises:
        UserError: the file cannot be read or holds no object.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds {_json_kind(value)}, not an object {{...}}; remove it and run again")
    return value


def plain(value: Any) -> Any:
    """A value made of plain Python: arrays as nested lists, numbers exactly, and None where one is not finite."""
    if isinstance(value, Mapping):
        return {str(name): plain(inside) for name, inside in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inside) for inside in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    array = np.asarray(value)
    if array.dtype.kind not in "biufSU" and array.dtype.name != "bfloat16":
        raise TypeError(f"a {type(value).__name__} cannot be written as JSON: {value!r}")
    array = array.astype(np.float32) if array.dtype.name == "bfloat16" else array
    return plain(array.tolist())


def _json_kind(value: Any) -> str:
    """What a JSON value that is no object is, in words."""
    kinds = ((bool, "a truth value"), (int | float, "a number"), (str, "a text"), (list, "a list"))
    return next((words for kind, words in kinds if isinstance(value, kind)), "null")


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


# ---------------------------------------------------------------------------------------------------------------------
# The folder


class RunFolder(NamedTuple):
    """An open run folder; this process holds its lock.

    Attributes:
        path: the folder.
        resumed: whether it held this run before.
        changes: lines of what differs from the configuration it held; empty unless a change was allowed.
        claim: `()`: writes the configuration into the folder, which is then this run's; until it is called nothing but
            the lock is there that was not there before.
    """

    path: Path
    resumed: bool
    changes: tuple[str, ...]
    claim: Callable[[], None]


@contextlib.contextmanager
def open_folder(
    path: str | Path, config_yaml: str, *, allow_config_change: bool = False, holds: str = CONFIG
) -> Generator[RunFolder, None, None]:
    """Opens a run folder, makes it where there is none, and locks it for the length of the block.

    The folder keeps the configuration it held until `claim` is called: once what the new one names was found usable.

    Args:
        path: the folder.
        config_yaml: the resolved configuration, from `mamba.runs.config.dump_yaml`.
        allow_config_change: continue although the folder holds another configuration.
        holds: name of the file with the configuration.

    Raises:
        UserError: it holds something else than a run, another configuration, or another process is writing into it.
            Nothing was changed then.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; give a folder with --run_dir")
    known = (folder / holds).is_file()
    if folder.is_dir() and not known and (strange := _strangers(folder, holds)):
        raise UserError(
            f"{folder} is not a run folder: it holds {', '.join(strange[:3])}{' and more' if len(strange) > 3 else ''} "
            f"but no {holds}; give an empty or a new folder with --run_dir"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / LOCK, "a+", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({_reason(error)}); give another folder with --run_dir"
        ) from error
    with lock:
        _take(lock, folder)
        known = (folder / holds).is_file()  # again: another process may have made it before the lock was ours
        changes = agreed(folder / holds, config_yaml, allow_config_change=allow_config_change) if known else []

        def claim() -> None:
            if not known or read_text(folder / holds) != config_yaml:
                write_text(folder / holds, config_yaml)

        yield RunFolder(folder, known, tuple(changes), claim)


def refuse_busy(path: str | Path) -> None:
    """Refuses a folder that another process is writing into.

    Raises:
        UserError: one is.
    """
    folder = Path(path)
    with contextlib.suppress(FileNotFoundError), open(folder / LOCK, "r+", encoding="utf-8") as lock:
        _take(lock, folder)


def run_id(path: str | Path) -> str:
    """The random name of the run in a folder; drawn when it is asked for the first time.

    Two folders with one configuration are two runs, so the name cannot come from the configuration; and no number of a
    run may depend on it.
    """
    file = Path(path) / RUN_ID
    known = read_text(file).strip() if file.exists() else ""
    if not known:
        known = secrets.token_hex(8)
        write_text(file, known + "\n")
    return known


def _strangers(folder: Path, holds: str) -> list[str]:
    """What a folder holds besides what a run killed at its very start leaves behind."""
    return sorted(entry.name for entry in folder.iterdir() if entry.name != LOCK and f".{holds}." not in entry.name)


def _take(lock: IO[str], folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # not on this system: the caller must see to it that one process writes
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            return  # a file system without locks
        lock.seek(0)
        owner = lock.read().strip()
        raise UserError(
            f"{folder}: another process{f' ({owner})' if owner else ''} is writing into it; "
            "wait until it ends, stop it, or give another --run_dir"
        ) from error
    # Past the file's buffer, which a full disk would keep from being closed; who holds the lock is told as a kindness only.
    with contextlib.suppress(OSError):
        os.ftruncate(lock.fileno(), 0)
        os.write(lock.fileno(), f"process {os.getpid()}\n".encode())


def agreed(path: Path, config_yaml: str, *, allow_config_change: bool) -> list[str]:
    """What differs between the configuration that a folder holds, at `path`, and another one; a line each.

    Raises:
        UserError: something does, and no change is allowed.
    """
    changes = _changes(path, config_yaml)
    if changes and not allow_config_change:
        also = " (members that both have are not done again)" if path.name == SWEEP else ""
        raise UserError(
            f"{path.parent} holds a {'sweep' if also else 'run'} with another configuration:\n"
            + "\n".join(f"  {line}" for line in changes)
            + f"\ngive another --run_dir, or --allow-config-change to continue with the new one{also}"
        )
    return changes


def _changes(path: Path, config_yaml: str) -> list[str]:
    from mamba.runs import config  # not at the top: reading a run folder needs no configuration classes

    before = read_text(path)
    if before == config_yaml:
        return []
    return config.diff(config.read_yaml(before, name=str(path)), config.read_yaml(config_yaml))


# ---------------------------------------------------------------------------------------------------------------------
# Metrics


class MetricsLog(NamedTuple):
    """An open `metrics.jsonl`.

    Attributes:
        append: `(row)`: writes one row, a mapping of names to numbers, texts or arrays; on disk when it returns.
        close: closes the file.
    """

    append: Callable[[Mapping[str, Any]], None]
    close: Callable[[], None]


def open_metrics(path: str | Path, *, keep: Callable[[dict[str, Any]], bool] | None = None) -> MetricsLog:
    """Opens `metrics.jsonl` to append to it.

    Args:
        path: the file.
        keep: which rows of an earlier process stay; those that come after the checkpoint that a run continues from must
            go, as they will be written again. A half-written last line goes in any case.

    Raises:
        UserError: a line in the middle of the file is no JSON object, or the file cannot be written.
    """
    path = Path(path)
    if path.exists():
        lines = _lines(path)
        kept = [line for line, row in lines if keep is None or keep(row)]
        text = "".join(line + "\n" for line in kept)
        if text.encode() != path.read_bytes():
            write_text(path, text)
    try:
        file = open(path, "a", encoding="utf-8", buffering=1)
    except OSError as error:
        raise unwritable(path, error) from error

    def append(row: Mapping[str, Any]) -> None:
        line = json.dumps(plain(row), sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n"
        try:
            file.write(line)
        except OSError as error:
            raise unwritable(path, error) from error

    def close() -> None:
        with contextlib.suppress(OSError):  # rows are on disk when `append` returns; only one that failed is left
            file.close()

    return MetricsLog(append, close)


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Rows of `metrics.jsonl`; `null` becomes NaN, a half-written last line is left out.

    Raises:
        UserError: a line in the middle of the file is no JSON object.
    """
    return [_with_nan(row) for _, row in _lines(Path(path))]


def _lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Every whole line with what it says."""
    found = []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({_reason(error)}); give the rights, or use another run folder"
        ) from error
    for number, line in enumerate(lines, start=1):
        last = number == len(lines)  # what follows the last newline: nothing, or a line cut off by a kill
        if last or not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}:{number}: is not JSON ({error}); remove that line") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: holds {_json_kind(row)}, not an object {{...}}; remove that line")
        found.append((line, row))
    return found


def _with_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_nan(inside) for name, inside in value.items()}
    if isinstance(value, list):
        return [_with_nan(inside) for inside in value]
    return math.nan if value is None else value


# ---------------------------------------------------------------------------------------------------------------------
# Reading a run


class Run(NamedTuple):
    """What a run folder holds; a part that was not written yet is empty or None.

    Attributes:
        path: the folder.
        config: resolved configuration as nested mappings.
        metrics: rows of `metrics.jsonl` in the order they were written.
        summary: `summary.json`; numbers that were not finite are NaN.
        interactions: arrays of `interactions.npz`.
    """

    path: Path
    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    summary: dict[str, Any] | None
    interactions: dict[str, NDArray[Any]] | None


def load_run(path: str | Path) -> Run:
    """Reads a run folder into plain Python and numpy, also while the run goes on.

    Raises:
        UserError: it is no run folder, or one of its files is damaged.
    """
    folder = Path(path)
    if not (folder / CONFIG).is_file():
        what = "does not exist" if not folder.exists() else f"holds no {CONFIG}"
        raise UserError(f"{folder} {what}; give the folder of a run, such as runs/quickstart")
    from mamba.runs import config

    settings = config.read_yaml(read_text(folder / CONFIG), name=str(folder / CONFIG))
    for section in (*config.SECTIONS, *config.FAMILIES):
        if not isinstance(settings.get(section) or {}, Mapping):
            raise UserError(f"{folder / CONFIG}: {section} holds no settings; restore it, or use another run folder")
    metrics = read_metrics(folder / METRICS) if (folder / METRICS).is_file() else []
    summary = _with_nan(read_summary(folder / SUMMARY)) if (folder / SUMMARY).is_file() else None
    interactions = read_arrays(folder / INTERACTIONS) if (folder / INTERACTIONS).is_file() else None
    return Run(folder, settings, metrics, summary, interactions)


def read_arrays(path: str | Path) -> dict[str, NDArray[Any]]:
    """Every array of an `.npz` file.

    Raises:
        UserError: the file is damaged.
    """
    try:
        # Opened here: numpy leaves a damaged file open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # zipfile, zlib and numpy raise many kinds
        raise UserError(f"{path}: cannot be read ({error}); remove it and run again") from error


def column(rows: Sequence[Mapping[str, Any]], name: str) -> NDArray[np.float64]:
    """One metric over rows, NaN where a row does not have it."""
    return np.asarray([row.get(name, math.nan) for row in rows], np.float64)


# ---------------------------------------------------------------------------------------------------------------------
# Provenance


def provenance(command: str, **facts: Any) -> dict[str, Any]:
    """How to repeat a run: command, versions, platform, git commit. The name of the machine is not among them.

    Args:
        command: the command line.
        **facts: what the caller knows besides, such as `device_kind="cpu"`, `device_count=1`.
    """
    return {
        "command": command,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "git": _git(),
        **facts,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git() -> dict[str, Any] | None:
    """Commit of the checkout this package runs from, else of the working folder; never fails."""
    checkout = Path(__file__).resolve().parents[2]
    folder = checkout if (checkout / ".git").exists() else Path.cwd()

    def ask(*arguments: str) -> str:
        return subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()

    try:
        commit = ask("rev-parse", "HEAD")
        return {"commit": commit, "changed": bool(ask("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None
