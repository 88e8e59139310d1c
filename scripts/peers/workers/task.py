"""What every worker shares: the task's file, the clock, the answer. Runs in any peer's environment: Python and numpy only.

A worker is called as `python run_PEER.py TASK.npz ANSWERS` by the Python that has the peer. It measures one or more works
on the task's follow graph, leaves the opinions of its first call in the folder ANSWERS, and prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Task:
    """The same for every peer.

    Attributes:
        users: U.
        steps: T of one call.
        seconds: of CPU time that a worker may spend on repeats of one work.
        candidates: C, posts a user looks at in the work `feed`.
        followees: K, at most so many are followed by anybody.
        edges: follows [E, 2], rows (reader, source), without loops.
        innate: innate opinions [U] in [-1, 1].
    """

    users: int
    steps: int
    seconds: float
    candidates: int
    followees: int
    edges: np.ndarray
    innate: np.ndarray

    def degree(self) -> np.ndarray:
        """How many each user follows, [U]."""
        return np.bincount(self.edges[:, 0], minlength=self.users)

    def stubbornness(self) -> np.ndarray:
        """Weight of the innate opinion in the work `opinions`, [U]: that of one followee more."""
        return 1.0 / (1.0 + self.degree())

    def sources(self) -> list[list[int]]:
        """Whom each user follows."""
        found: list[list[int]] = [[] for _ in range(self.users)]
        for reader, source in self.edges.tolist():
            found[reader].append(source)
        return found


def save(task: Task, path: Path) -> None:
    """Writes a task for `load`."""
    np.savez(path, **vars(task))


def load(path: Path) -> Task:
    """Reads a task."""
    with np.load(path) as file:
        return Task(**{name: value if value.ndim else value.item() for name, value in file.items()})


def work(
    task: Task, answers: Path, *, name: str, call: Callable[[], Sequence[float] | np.ndarray]
) -> dict[str, object]:
    """Measures one work.

    The first call is not counted; its opinions [U] are kept for the check. The fastest of the others counts, at least two
    and then as many as the task's seconds allow, at most seven.

    Args:
        task: what `call` does, T steps of all users.
        answers: folder for the opinions.
        name: of the work.
        call: runs the T steps from their start and gives the opinions at their end.

    Returns:
        Name, users, steps, seconds of CPU time of the first call (which may compile), and the least seconds of CPU time and on
        the wall.
    """
    start = time.process_time()
    opinions = call()
    first = time.process_time() - start
    np.save(answers / f"{name}.npy", np.asarray(opinions, np.float64))
    cpu, wall = [], []
    while len(cpu) < 2 or (len(cpu) < 7 and sum(cpu) < task.seconds):
        start, start_wall = time.process_time(), time.perf_counter()
        call()
        cpu.append(time.process_time() - start)
        wall.append(time.perf_counter() - start_wall)
    return {
        "work": name,
        "users": task.users,
        "steps": task.steps,
        "first_cpu_s": first,
        "cpu_s": min(cpu),
        "wall_s": min(wall),
    }


def answer(version: str, measure: Callable[[Task, Path], list[dict[str, object]]]) -> None:
    """Reads the arguments, measures, and prints the line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("task", type=Path)
    parser.add_argument("answers", type=Path)
    options = parser.parse_args()
    print(json.dumps({"version": version, "works": measure(load(options.task), options.answers)}))
