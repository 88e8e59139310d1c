"""scipy: what a careful user writes without a framework.

Work `opinions`: Friedkin and Johnsen 1990 in one step for all, x <- (1 - s) W x + s x0, with W the sparse rows that average
over whom a user follows, in double precision; who follows nobody keeps x. No posts, no candidates, no choice.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy
import scipy.sparse
from task import Task, answer, work


def measure(task: Task, answers: Path) -> list[dict[str, object]]:
    """Measures `opinions`."""
    reader, source = task.edges.T
    degree = np.bincount(reader, minlength=task.users)
    mean = scipy.sparse.csr_array(
        ((1.0 - task.stubbornness) / degree[reader], (reader, source)), shape=(task.users, task.users)
    )
    alone = degree == 0
    anchor = np.where(alone, 0.0, task.stubbornness) * task.innate

    def call() -> np.ndarray:
        opinion = task.innate
        for _ in range(task.steps):
            opinion = np.where(alone, opinion, mean @ opinion + anchor)
        return opinion

    return [work(task, answers, name="opinions", call=call)]


if __name__ == "__main__":
    answer(scipy.__version__, measure)
