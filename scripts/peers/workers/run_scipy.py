"""scipy: what a careful user writes without a framework.

Work `opinions`: Friedkin and Johnsen 1990 in one step for all, x <- (1 - s) W x + s x0, with W the sparse rows that average
over whom a user follows and s the stubbornness, in double precision. No posts, no candidates, no choice.
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
    weight = (1.0 - task.stubbornness()) / np.maximum(task.degree(), 1)
    mean = scipy.sparse.csr_array((weight[reader], (reader, source)), shape=(task.users, task.users))
    anchor = task.stubbornness() * task.innate

    def call() -> np.ndarray:
        opinion = task.innate
        for _ in range(task.steps):
            opinion = mean @ opinion + anchor
        return opinion

    return [work(task, answers, name="opinions", call=call)]


if __name__ == "__main__":
    answer(scipy.__version__, measure)
