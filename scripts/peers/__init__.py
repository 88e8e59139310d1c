"""Peers that install from PyPI, measured beside mamba in the same session, on the same follow graph, users and steps.

Each peer lives in a virtual environment of its own, made from `requirements/PEER.txt`, and does its work in a fresh process,
`workers/run_PEER.py`, whose docstring says exactly which work that is; mamba and scipy are measured in the same way by the
Python that runs this. Where two do the same deterministic work, the same opinions must come out.

Two ratios: of mamba doing the same work, where its step can be cut down to it, and of mamba's whole step, which does more than
any of the others (`posting` is another model): `WORKS` says which, and is printed under the table. Compiling is not in them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from peers.workers.task import Task, save

HERE = Path(__file__).resolve().parent
FOLLOWEES = 16  # kept of each user's on the network, as a scenario keeps them
CANDIDATES = 16
SECONDS = 10.0  # of CPU time for repeats of one work
INSTALL_LIMIT = 900.0  # seconds on the wall
WORK_LIMIT = 600.0
TOLERANCE = 1e-4  # of an opinion in [-1, 1]; some work in single precision

WORKS = {
    "joint": "mamba's whole step: posts, 16 candidates, ranking, scrolling, clicks, reshares, all user states, learning",
    "feed": "16 posts of followees, one chosen by softmax, opinion moves: less than mamba's whole step",
    "opinions": "opinions averaged over all followees (Friedkin-Johnsen), the same numbers come out: far less than that step",
    "posting": "one post handed to all followers, whose opinions move; no ranking, no choice: another model",
}


class UnusableError(Exception):
    """Why a peer is skipped, in one line."""


@dataclass(frozen=True)
class Peer:
    """A peer.

    Attributes:
        name: as people write it.
        worker: file in `workers/`.
        requirements: file in `requirements/`, `name==version` a line; None where the Python that runs this has it.
        alone: likewise, of packages that are installed without what they require.
    """

    name: str
    worker: str
    requirements: str | None = None
    alone: str | None = None


OURS = Peer("mamba", "run_mamba.py")
PEERS = {
    "ndlib": Peer("NDlib", "run_ndlib.py", "ndlib.txt"),
    "mesa": Peer("Mesa", "run_mesa.py", "mesa.txt"),
    "doces": Peer("DOCES", "run_doces.py", "doces.txt"),
    "agenttorch": Peer("AgentTorch", "run_agenttorch.py", "agenttorch.txt", "agenttorch-alone.txt"),
    "scipy": Peer("scipy", "run_scipy.py"),
}


@dataclass(frozen=True)
class Measured:
    """One work of one peer, or why there is none.

    Attributes:
        peer: its name.
        version: of its distribution; empty where skipped.
        work: key of `WORKS`; empty where skipped.
        users: U.
        steps: T of one call.
        first_s: CPU-seconds of the first call, which may compile; it is not counted.
        per_cpu_s: user-steps per CPU-second of the process, all its threads.
        per_wall_s: user-steps per second on the wall.
        same_work: mamba's `per_cpu_s` at the same work over this one's; None where mamba has no figure for it.
        whole_step: likewise of mamba's work `joint`.
        agrees: whether the opinions are those of the reference; None for works that draw at random.
        skipped: the reason, else empty.
    """

    peer: str
    version: str = ""
    work: str = ""
    users: int = 0
    steps: int = 0
    first_s: float = 0.0
    per_cpu_s: float = 0.0
    per_wall_s: float = 0.0
    same_work: float | None = None
    whole_step: float | None = None
    agrees: bool | None = None
    skipped: str = ""


# ---- the task
# -------------------------------------------------------------------------------------------------------------


def make_task(users: int = 0, *, steps: int = 50, seconds: float = SECONDS) -> Task:
    """The network and the innate opinions on the first topic of the default scenario: Twitch, or a connected part of it."""
    from mamba.scenarios import populations
    from mamba.scenarios.settings import ScenarioConfig
    from mamba.world import network

    scenario = populations.load(ScenarioConfig(users=users, followees=FOLLOWEES), seed=0)
    people = scenario.population
    return Task(
        users=scenario.sizes.users,
        steps=steps,
        seconds=seconds,
        candidates=CANDIDATES,
        followees=FOLLOWEES,
        edges=network.edge_list(people.followees, people.weight),
        innate=np.asarray(people.innate[0], np.float64),
    )


def reference(task: Task) -> np.ndarray:
    """Opinions [U] at the end of the work `opinions`."""
    reader, source = task.edges.T
    opinion = task.innate
    for _ in range(task.steps):
        heard = np.bincount(reader, weights=opinion[source], minlength=task.users)
        opinion = (heard + task.innate) / (task.degree() + 1)
    return opinion


def check(task: Task, work: str, opinions: np.ndarray) -> bool | None:
    """Whether the opinions at the end show that the work was done; None where it draws at random and only looks right.

    Raises:
        UnusableError: it was not done.
    """
    if opinions.shape != (task.users,):
        raise UnusableError(f"does other work: {work} left {opinions.shape} opinions, not {task.users:,}")
    if not np.all(np.isfinite(opinions)) or np.abs(opinions).max() > 1.0 + TOLERANCE:
        raise UnusableError(f"does other work: opinions of {work} leave [-1, 1]")
    if work == "opinions":
        far = float(np.abs(opinions - reference(task)).max())
        if far > TOLERANCE:
            raise UnusableError(f"does other work: its opinions are up to {far:.2g} from those of the model")
        return True
    if np.array_equal(opinions, task.innate):
        raise UnusableError(f"does other work: {work} moved no opinion")
    return None


# ---- environments
# ---------------------------------------------------------------------------------------------------------


def last_line(text: str) -> str:
    """What went wrong: the last line that names an error, else the last that says anything."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["no message"])[-1][:300]


def _run(command: Sequence[str], *, limit: float, what: str, environment: dict[str, str] | None = None) -> str:
    """Standard output of a command.

    Raises:
        UnusableError: it failed or took too long.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, env=environment, check=False)
    except subprocess.TimeoutExpired:
        raise UnusableError(f"{what}: not done in {limit:g} s") from None
    except OSError as error:
        raise UnusableError(f"{what}: {error}") from None
    if done.returncode != 0:
        raise UnusableError(f"{what}: {last_line(done.stderr or done.stdout)}")
    return done.stdout


def own_environment() -> dict[str, str]:
    """Environment variables of a peer: not our modules, and one thread, which costs the fewest CPU-seconds."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return {**kept, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def install(
    peer: Peer, folder: Path, *, requirements: Path = HERE / "requirements", limit: float = INSTALL_LIMIT
) -> Path:
    """Makes the environment of a peer, or takes the one that is there and complete.

    Args:
        peer: with `requirements`.
        folder: of the environment.
        requirements: where the peer's files lie.
        limit: seconds for each call of pip.

    Returns:
        Its Python.

    Raises:
        UnusableError: it does not install.
    """
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    wanted = [["-r", str(requirements / str(peer.requirements))]]
    if peer.alone is not None:
        wanted.append(["--no-deps", "-r", str(requirements / peer.alone)])
    recipe = "\n".join((requirements / name).read_text() for name in (peer.requirements, peer.alone) if name)
    complete = folder / "complete.txt"
    if complete.exists() and complete.read_text() == recipe:
        return python
    what = "does not install"
    _run([sys.executable, "-m", "venv", "--clear", str(folder)], limit=limit, what=what, environment=own_environment())
    for words in wanted:
        command = [str(python), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", *words]
        _run(command, limit=limit, what=what, environment=own_environment())
    complete.write_text(recipe)
    return python


# ---- measuring
# ------------------------------------------------------------------------------------------------------------


def parsed(peer: Peer, printed: str) -> list[Measured]:
    """What a worker printed: its last line, the same as `Measured` without ratios.

    Raises:
        UnusableError: it is not what a worker prints.
    """
    try:
        found = json.loads((printed.strip().splitlines() or [""])[-1])
        return [
            Measured(
                peer=peer.name,
                version=found["version"],
                work=each["work"],
                users=each["users"],
                steps=each["steps"],
                first_s=each["first_cpu_s"],
                per_cpu_s=each["users"] * each["steps"] / each["cpu_s"],
                per_wall_s=each["users"] * each["steps"] / each["wall_s"],
            )
            for each in found["works"]
        ]
    except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise UnusableError(f"its worker gave no figures: {type(error).__name__}: {error}") from None


def measure(peer: Peer, task: Task, folder: Path, *, limit: float = WORK_LIMIT) -> list[Measured]:
    """Installs a peer and measures its works.

    Args:
        peer: which one.
        task: the same for all.
        folder: for environments; that of this peer is reused.
        limit: seconds for its worker.

    Returns:
        A row for each work, or one with the reason why it is skipped.
    """
    try:
        if peer.requirements is None:
            python, environment = Path(sys.executable), None
        else:
            python, environment = install(peer, folder / peer.worker.removesuffix(".py")), own_environment()
        with tempfile.TemporaryDirectory() as name:
            place = Path(name)
            save(task, place / "task.npz")
            command = [str(python), str(HERE / "workers" / peer.worker), str(place / "task.npz"), str(place)]
            found = parsed(peer, _run(command, limit=limit, what="does not run", environment=environment))
            for each in found:
                if (each.users, each.steps) != (task.users, task.steps):
                    raise UnusableError(f"does other work: {each.users:,} users and {each.steps} steps")
            return [replace(each, agrees=check(task, each.work, np.load(place / f"{each.work}.npy"))) for each in found]
    except UnusableError as reason:
        return [Measured(peer.name, skipped=str(reason))]


def compare(
    names: Sequence[str],
    task: Task,
    *,
    folder: Path | None = None,
    tell: Callable[[Measured], None] = lambda row: None,
) -> list[Measured]:
    """mamba and some peers, one after the other.

    Args:
        names: keys of `PEERS`.
        task: the same for all.
        folder: where environments are made and kept; None throws them away.
        tell: called with each row as soon as it is there.

    Returns:
        mamba's rows, then those of the peers with mamba's ratios to them.
    """
    with tempfile.TemporaryDirectory() as thrown_away:
        place = folder or Path(thrown_away)
        rows = measure(OURS, task, place)
        own = {row.work: row.per_cpu_s for row in rows if not row.skipped}
        for row in rows:
            tell(row)

        def ratio(row: Measured, work: str) -> float | None:
            return None if row.skipped or work not in own else own[work] / row.per_cpu_s

        for name in names:
            for row in measure(PEERS[name], task, place):
                rows.append(replace(row, same_work=ratio(row, row.work), whole_step=ratio(row, "joint")))
                tell(rows[-1])
    return rows


# ---- printing
# -------------------------------------------------------------------------------------------------------------

HEAD = [
    "peer",
    "version",
    "work",
    "users",
    "steps",
    "user-steps/CPU-s",
    "/s on the wall",
    "mamba, same work",
    "mamba, whole step",
    "opinions",
    "first call s",
]


def amount(value: float) -> str:
    """A rate in thousands, with three figures."""
    return f"{float(f'{value / 1e3:.3g}'):,g}k"


def cells(row: Measured) -> list[str]:
    """A row of the table, but for peers that were skipped."""
    return [
        row.peer,
        row.version,
        row.work,
        f"{row.users:,}",
        str(row.steps),
        amount(row.per_cpu_s),
        amount(row.per_wall_s),
        *("" if ratio is None else f"{float(f'{ratio:.2g}'):,g}x" for ratio in (row.same_work, row.whole_step)),
        "the same" if row.agrees else "in range",
        f"{row.first_s:.1f}",
    ]


def text(rows: Sequence[Measured], table: Callable[[Sequence[str], Sequence[Sequence[str]]], str]) -> str:
    """The table, who was skipped and why, and what each work is.

    Args:
        rows: of `compare`.
        table: makes text of a head and cells.
    """
    done = [row for row in rows if not row.skipped]
    lines = [table(HEAD, [cells(row) for row in done])] if done else []
    lines += [f"skipped {row.peer}: {row.skipped}" for row in rows if row.skipped]
    if done:
        lines.append("on the wall mamba has all cores and an installed peer one; ratios are of CPU time")
    lines += [f"{work}: {said}" for work, said in WORKS.items() if any(row.work == work for row in done)]
    return "\n".join(lines)


def plain(rows: Sequence[Measured]) -> list[dict[str, Any]]:
    """Rows for JSON."""
    return [asdict(row) for row in rows]
