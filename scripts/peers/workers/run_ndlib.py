"""NDlib: its own Friedkin-Johnsen model.

Work `opinions`: `FJModel` on a directed graph, whose edges run from the one who is followed to the reader because the model
averages over predecessors; the innate opinions are put in place of the drawn ones. Its iteration 0 changes nothing and is
left out, as is the state of every node that it otherwise returns each iteration (`node_status=False`).
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import networkx as nx
import numpy as np
from ndlib.models.ModelConfig import Configuration
from ndlib.models.opinions import FJModel
from task import Task, answer, work


def measure(task: Task, answers: Path) -> list[dict[str, object]]:
    """Measures `opinions`."""
    graph = nx.DiGraph()
    graph.add_nodes_from(range(task.users))
    graph.add_edges_from(task.edges[:, ::-1].tolist())
    model = FJModel(graph)
    config = Configuration()
    for user, stubbornness in enumerate(task.stubbornness().tolist()):
        config.add_node_configuration("stubbornness", user, stubbornness)
    model.set_initial_status(config)
    innate = dict(enumerate(task.innate.tolist()))
    model.initial_status = innate
    model.iteration(node_status=False)

    def call() -> np.ndarray:
        model.status = innate.copy()
        for _ in range(task.steps):
            model.iteration(node_status=False)
        return np.array([model.status[user] for user in range(task.users)])

    return [work(task, answers, name="opinions", call=call)]


if __name__ == "__main__":
    answer(version("ndlib"), measure)
