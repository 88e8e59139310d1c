"""AgentTorch: the opinion model as one substep with one transition.

Work `opinions`: Friedkin and Johnsen 1990 for all users at once, in single precision. The averaging matrix is a sparse tensor of
the transition and not a network of the state, which AgentTorch would copy every step: that favours it.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from agent_torch.core import Registry, Runner
from agent_torch.core.substep import SubstepTransition
from task import Task, answer, work

PATH = "agents/users/opinion"


def transition(task: Task) -> type[SubstepTransition]:
    """The transition of a task."""
    reader, source = task.edges.T
    weight = (1.0 - task.stubbornness()) / np.maximum(task.degree(), 1)
    mean = torch.sparse_coo_tensor(
        torch.tensor(np.stack([reader, source]).astype(np.int64)),
        torch.tensor(weight[reader], dtype=torch.float32),
        (task.users, task.users),
    ).to_sparse_csr()
    anchor = torch.tensor(task.stubbornness() * task.innate, dtype=torch.float32)[:, None]

    class Average(SubstepTransition):
        """Opinions [U, 1] after a step."""

        def forward(self, state, action):
            return {"opinion": mean @ state["agents"]["users"]["opinion"] + anchor}

    return Average


def measure(task: Task, answers: Path) -> list[dict[str, object]]:
    """Measures `opinions`."""
    registry = Registry()
    registry.register(transition(task), "average", key="transition")
    opinion = {
        "name": "opinion", "shape": [task.users, 1], "dtype": "float", "learnable": False,
        "initialization_function": None, "value": 0.0,
    }  # fmt: skip
    average = {
        "generator": "average", "arguments": None,
        "input_variables": {"opinion": PATH}, "output_variables": ["opinion"],
    }  # fmt: skip
    config = {
        "simulation_metadata": {
            "num_substeps_per_step": 1, "num_steps_per_episode": task.steps, "num_episodes": 1,
            "calibration": False, "device": "cpu",
        },
        "state": {
            "environment": {}, "objects": {}, "network": {},
            "agents": {"users": {"number": task.users, "properties": {"opinion": opinion}}},
        },
        "substeps": {
            "0": {
                "name": "talk", "active_agents": ["users"], "observation": {"users": None}, "policy": {"users": None},
                "transition": {"average": average},
            }
        },
    }  # fmt: skip
    runner = Runner(config, registry)
    runner.init()
    innate = torch.tensor(task.innate, dtype=torch.float32)[:, None]

    def call() -> np.ndarray:
        runner.state["agents"]["users"]["opinion"] = innate
        runner.reset_state_before_episode()
        with torch.no_grad():
            runner.step(task.steps)
        return runner.state["agents"]["users"]["opinion"][:, 0].numpy()

    return [work(task, answers, name="opinions", call=call)]


if __name__ == "__main__":
    answer(version("agent-torch"), measure)
