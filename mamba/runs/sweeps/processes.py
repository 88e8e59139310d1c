"""Members as processes of their own, each with its run folder: for jobs that one program cannot run together."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from mamba.runs import folder, loop, progress
from mamba.runs.config import read_yaml
from mamba.runs.errors import UserError
from mamba.runs.sweeps import spec as specs
from mamba.runs.sweeps.kept import distinct
from mamba.runs.sweeps.outcomes import Member, Outcome, digest, of_rows

_LOOK_S = 0.2  # seconds between looks at the processes


def outcome_of(place: Path, member: Member, job: str) -> Outcome | None:
    """What a member left in its run folder; None where the job is not finished, or is one of other settings."""
    if not (place / folder.CONFIG).is_file() or not (place / folder.SUMMARY).is_file():
        return None
    there = read_yaml(folder.read_text(place / folder.CONFIG), name=str(place / folder.CONFIG))
    summary = folder.read_summary(place / folder.SUMMARY)
    done = summary.get("finished") and loop.stages_of(job, member.config) <= set(summary.get("stages") or ())
    if digest(there) != member.digest or not done:
        return None
    return of_rows(job, folder.read_metrics(place / folder.METRICS))


def run(
    spec: specs.Spec,
    members: Sequence[Member],
    places: Mapping[str, Path],
    *,
    logs: Path,
    at_once: int,
    overrides: Callable[[Member], Sequence[str]],
    stop: Callable[[], bool],
) -> tuple[dict[int, Outcome], bool]:
    """Runs members, some at a time; what is finished in its folder is not run again.

    Args:
        spec: the sweep.
        members: of it.
        places: run folders by digest; members of one digest are one process.
        logs: folder of what the processes say.
        at_once: processes at a time.
        overrides: settings of a member.
        stop: whether a signal asks to stop; the processes are asked, too, and save what they have.

    Returns:
        Outcomes by number, and whether all members were run. A member whose process fails is frozen, and says why.

    Raises:
        UserError: another process is at work in the run folder of a member.
    """
    outcomes: dict[str, Outcome] = {}
    waiting: list[Member] = []
    for member in distinct(members):
        known = outcome_of(places[member.digest], member, spec.job)
        if known is None:
            waiting.append(member)
        else:
            outcomes[member.digest] = known

    def by_number() -> dict[int, Outcome]:
        return {member.number: outcomes[member.digest] for member in members if member.digest in outcomes}

    running: dict[int, tuple[Member, subprocess.Popen[bytes], Any]] = {}
    with progress.progress(len(waiting) + len(outcomes), "members", done=len(outcomes)) as meter:
        try:
            while waiting or running:
                if stop():
                    return by_number(), False
                while waiting and len(running) < at_once:
                    member = waiting.pop(0)
                    place = places[member.digest]
                    with folder.open_folder(place, "", allow_config_change=True):
                        pass  # nobody else is at work there
                    log = logs / f"{place.name}.txt"
                    log.parent.mkdir(parents=True, exist_ok=True)
                    file = open(log, "ab")
                    words = [spec.job, spec.source, *(f"--{word.removeprefix('--')}" for word in overrides(member))]
                    command = [
                        sys.executable,
                        "-m",
                        "mamba",
                        *words,
                        "--run_dir",
                        str(place),
                        "--distributed=off",
                        "--allow-config-change",  # of what decides no result: the folder is the member's own
                    ]
                    process = _start(command, file)
                    running[member.number] = (member, process, file)
                time.sleep(_LOOK_S)
                for number, (member, process, file) in list(running.items()):
                    if process.poll() is None:
                        continue
                    file.close()
                    del running[number]
                    code = process.returncode
                    place = places[member.digest]
                    found = outcome_of(place, member, spec.job) if code == 0 else None
                    if found is None and stop():  # so was the process
                        return by_number(), False
                    outcomes[member.digest] = found or Outcome([], True, _why(place, logs, code, source=spec.source))
                    meter.advance(1)
        finally:
            _end(process for _, process, _ in running.values())
            for _, _, file in running.values():
                file.close()
    return by_number(), not stop()


def _start(words: Sequence[str], file: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=file, stderr=file)


def _why(place: Path, logs: Path, code: int, *, source: str) -> str:
    """Why a process left no results: what it did wrong, or the last line that it wrote."""
    if code == 0:
        done = (place / folder.SUMMARY).is_file() and folder.read_summary(place / folder.SUMMARY).get("finished")
        return f"{source} was changed while the sweep ran" if done else "it was told to stop"
    try:
        lines = [line.strip() for line in folder.read_text(logs / f"{place.name}.txt").splitlines() if line.strip()]
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
