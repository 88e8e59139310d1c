"""DOCES: its own model of posts, feeds and opinions.

Work `posting`: U activations are a step. Each time one user, drawn at random, makes a post (half of the time) or takes one from a
feed of 16 and passes it to all who follow that user; each of those puts it into the feed and moves by at most 0.1 towards the
post or away from it. Nobody ranks or chooses among candidates, and there is no recommender: it is another model, not a part
of a step of mamba. Nobody rewires. Edges run from the reader to whom they follow, as a graph of one edge shows.
"""

from __future__ import annotations

from pathlib import Path

import doces
import numpy as np
from task import Task, answer, work

FRESH = 0.5  # share of activations with a post of one's own


def measure(task: Task, answers: Path) -> list[dict[str, object]]:
    """Measures `posting`."""
    model = doces.Opinion_dynamics(task.users, task.edges, directed=True, verbose=False)

    def call() -> np.ndarray:
        end = model.simulate_dynamics(
            task.users * task.steps,
            phi=0.0,
            mu=FRESH,
            posting_filter=doces.UNIFORM,
            receiving_filter=doces.UNIFORM,
            b=task.innate,
            feed_size=task.candidates,
            rewire=False,
            verbose=False,
            rand_seed=1,
        )
        return np.array(end["b"])

    return [work(task, answers, name="posting", call=call)]


if __name__ == "__main__":
    answer(doces.__version__, measure)
