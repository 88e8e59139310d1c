"""What the folder of a sweep keeps of its members, while it runs and after.

What is known of a member is known by its digest (`outcomes.digest`): it is right for whichever member of a changed sweep has it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mamba.runs import folder, progress, simulation
from mamba.runs.errors import UserError
from mamba.runs.sweeps.outcomes import Member, Outcome

MEMBERS, TABLE, PARTS, FOLDERS, TASKS = "members.npz", "members.jsonl", "parts", "members", "tasks"
LOGS = "logs"  # in FOLDERS: what members say that are processes
PART_DONE = f"{TASKS}/{{i}}-of-{{n}}/{folder.SUMMARY}"


def distinct(members: Sequence[Member]) -> list[Member]:
    """The first member of every digest: the others have its results."""
    found: dict[str, Member] = {}
    for member in members:
        found.setdefault(member.digest, member)
    return list(found.values())


def places(folders: Path, members: Sequence[Member]) -> dict[str, Path]:
    """Run folders by digest: the one that a member has, whatever its number was when it was made, else a new one."""
    there = {path.name.rpartition("-")[2]: path for path in sorted(folders.glob("*-*"))}
    return {
        member.digest: there.get(member.digest[:12], folders / f"{member.number:06d}-{member.digest[:12]}")
        for member in distinct(members)
    }


def gather(path: Path) -> None:
    """Makes a folder ready for a changed sweep: drops what was put together, and collects what tasks did of their parts.

    What is known of members stays, as do their run folders: those that the changed sweep has, too, are not done again. Values of
    the others are kept until the sweep is done.

    Raises:
        UserError: a task is at work on its part. Nothing was changed then.
    """
    tasks = [task for task in sorted((path / TASKS).glob("*")) if task.is_dir()]
    for task in tasks:
        folder.refuse_busy(task)
    for name in (TABLE, folder.METRICS, folder.SUMMARY):
        (path / name).unlink(missing_ok=True)
    shutil.rmtree(path / folder.REPORT, ignore_errors=True)
    (path / PARTS).mkdir(exist_ok=True)
    found = {path / MEMBERS: f"earlier-{MEMBERS}"}
    found |= {
        part: f"{part.stem}-{task.name}{part.suffix}" for task in tasks for part in sorted((task / PARTS).glob("*"))
    }
    for part, name in found.items():
        with contextlib.suppress(FileNotFoundError):  # there is none, or another process has just collected it
            part.replace(path / PARTS / name)
    shutil.rmtree(path / TASKS, ignore_errors=True)


def known(path: Path, *, tasks: bool = True) -> dict[str, np.ndarray]:
    """Values [S, 1 + W, C] of every member that is done, by its digest; with `tasks` also those of tasks that did a part."""
    found: dict[str, np.ndarray] = {}
    files = [path / MEMBERS] if (path / MEMBERS).is_file() else []
    for file in [*files, *parts(path, ".npz", tasks=tasks)]:
        try:
            arrays = folder.read_arrays(file)
            digests = arrays["digests"].tolist()
            if arrays["columns"].tolist() != list(simulation.COLUMNS):
                raise KeyError
        except (UserError, KeyError):
            progress.warn(f"{file} is damaged; its members are run again")
            continue
        found |= dict(zip(digests, arrays["values"], strict=True))
    return found


def ended(path: Path, *, tasks: bool = True) -> dict[str, Outcome]:
    """Outcomes of every member that was trained in step, by its digest; with `tasks` also those of tasks that did a part."""
    found: dict[str, Outcome] = {}
    for file in parts(path, ".jsonl", tasks=tasks):
        try:
            rows = folder.read_metrics(file)
            found |= {row["digest"]: Outcome(row["rows"], row["frozen"], row["why"]) for row in rows}
        except (UserError, KeyError):
            progress.warn(f"{file} is damaged; its members go on from their checkpoints")
    return found


def parts(path: Path, suffix: str, *, tasks: bool = True) -> list[Path]:
    """Finished batches of a sweep, and with `tasks` of those that did parts of it."""
    places = (path, *(sorted(path.glob(f"{TASKS}/*")) if tasks else ()))
    return [part for place in places for part in sorted(place.glob(f"{PARTS}/*{suffix}"))]


def write(path: Path, members: Sequence[Member], values: np.ndarray) -> None:
    """Keeps values [N, S, 1 + W, C] of N members."""
    numbers, digests = [member.number for member in members], [member.digest for member in members]
    arrays = {"members": np.array(numbers), "digests": np.array(digests), "columns": np.array(simulation.COLUMNS)}
    folder.write_arrays(path, {**arrays, "values": values})


def lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as the text of a `.jsonl` file."""
    return "".join(json.dumps(folder.plain(row), sort_keys=True, allow_nan=False) + "\n" for row in rows)
