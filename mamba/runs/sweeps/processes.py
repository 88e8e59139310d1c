"""Members as processes of their own, each with its run folder: for jobs that one program cannot run together."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from mamba.runs import folder, progress
from mamba.runs.config import read_yaml
from mamba.runs.errors import UserError
from mamba.runs.sweeps import spec as specs
from mamba.runs.sweeps.outcomes import Member, Outcome, digest, of_rows

_LOOK_S = 0.2  # seconds between looks at the processes
_TOLD = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)  # a process that one of these ended was told to end


def outcome_of(place: Path, member: Member, job: str) -> Outcome | None:
    """What a member left in its run folder; None where it is not finished.

    A folder that another member left, which had the number in a sweep that was changed since, is removed.
    """
    if (place / folder.CONFIG).is_file():
        there = read_yaml(folder.read_text(place / folder.CONFIG), name=str(place / folder.CONFIG))
        if digest(there) != member.digest:
            progress.warn(f"{place} is that of another member, and is removed")
            shutil.rmtree(place)
    if not (place / folder.SUMMARY).is_file() or not folder.read_summary(place / folder.SUMMARY).get("finished"):
        return None
    return of_rows(job, folder.read_metrics(place / folder.METRICS))


def run(
    spec: specs.Spec,
    members: Sequence[Member],
    path: Path,
    *,
    at_once: int,
    overrides: Callable[[Member], Sequence[str]],
    stop: Callable[[], bool],
    environment: Mapping[str, str] | None = None,
) -> tuple[dict[int, Outcome], bool]:
    """Runs members, some at a time; what is finished in its folder is not run again.

    Args:
        spec: the sweep.
        members: of it.
        path: folder of the run folders.
        at_once: processes at a time.
        overrides: settings of a member.
        stop: whether a signal asks to stop; the processes are asked, too, and save what they have.
        environment: of the processes; None takes that of this one.

    Returns:
        Outcomes by number, and whether all members were run. A member whose process fails is frozen, and says why; one that is
        told to stop is not.
    """
    whole = True
    outcomes: dict[int, Outcome] = {}
    waiting: list[Member] = []
    for member in members:
        known = outcome_of(path / name(member), member, spec.job)
        if known is None:
            waiting.append(member)
        else:
            outcomes[member.number] = known
    running: dict[int, tuple[Member, subprocess.Popen[bytes], Any]] = {}
    with progress.progress(len(members), "members", done=len(outcomes)) as meter:
        try:
            while waiting or running:
                if stop():
                    return outcomes, False
                while waiting and len(running) < at_once:
                    member = waiting.pop(0)
                    log = _log(path, member)
                    log.parent.mkdir(parents=True, exist_ok=True)
                    file = open(log, "ab")
                    words = [spec.job, spec.source, *(f"--{word.removeprefix('--')}" for word in overrides(member))]
                    command = [
                        sys.executable,
                        "-m",
                        "mamba",
                        *words,
                        "--run_dir",
                        str(path / name(member)),
                        "--distributed=off",
                        "--allow-config-change",  # of what decides no result: the folder is the member's own
                    ]
                    process = _start(command, file, environment)
                    running[member.number] = (member, process, file)
                time.sleep(_LOOK_S)
                for number, (member, process, file) in list(running.items()):
                    if process.poll() is None:
                        continue
                    file.close()
                    del running[number]
                    code = process.returncode
                    found = outcome_of(path / name(member), member, spec.job) if code == 0 else None
                    if found is None and (code == 0 or -code in _TOLD):
                        whole = False
                        continue
                    outcomes[number] = found or Outcome([], True, _why(_log(path, member), code))
                    meter.advance(1)
        finally:
            _end(process for _, process, _ in running.values())
            for _, _, file in running.values():
                file.close()
    return outcomes, whole and not stop()


def _start(words: Sequence[str], file: IO[bytes], environment: Mapping[str, str] | None) -> subprocess.Popen[bytes]:
    own = None if environment is None else dict(environment)
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=own)


def name(member: Member) -> str:
    """The name of the run folder of a member."""
    return f"{member.number:06d}"


def _log(path: Path, member: Member) -> Path:
    return path / "logs" / f"{name(member)}.txt"


def _why(log: Path, code: int) -> str:
    """The last line that a failed process wrote."""
    try:
        lines = [line.strip() for line in folder.read_text(log).splitlines() if line.strip()]
    except UserError:
        lines = []
    return f"exit code {code}: {lines[-1] if lines else 'it said nothing'}"


def _end(processes: Any) -> None:
    """Asks processes to save and end, and waits until they have."""
    alive = [process for process in processes if process.poll() is None]
    for process in alive:
        process.send_signal(signal.SIGTERM)
    for process in alive:
        process.wait()
