"""Mesa: two models as its documentation teaches, one Python object a user and `AgentSet.do`.

Work `opinions`: Friedkin and Johnsen 1990, all at once: every agent first looks at whom it follows, then all move.
Work `feed`: every agent in turn draws 16 posts of whom it follows (a post is its author's last stance), chooses one by softmax
of closeness, moves towards it, and posts. No creators' lives, retrieval, learning, reshares or moods: less than a step of mamba.
"""

from __future__ import annotations

import math
from pathlib import Path

import mesa
import numpy as np
from task import Task, answer, work

SHARPNESS = 4.0  # of the choice, per unit of distance between opinions
RATE = 0.1  # of moving towards a chosen post


class User(mesa.Agent):
    """A user: innate opinion, stubbornness, opinion, the opinion it is about to have, and whom it follows."""

    def __init__(self, model: mesa.Model, innate: float, stubbornness: float) -> None:
        super().__init__(model)
        self.stubbornness = stubbornness
        self.innate = self.opinion = self.coming = innate
        self.follows: list[User] = []

    def look(self) -> None:
        """Averages over whom it follows."""
        if self.follows:
            mean = sum(friend.opinion for friend in self.follows) / len(self.follows)
            self.coming = (1.0 - self.stubbornness) * mean + self.stubbornness * self.innate

    def move(self) -> None:
        """Takes the opinion it is about to have."""
        self.opinion = self.coming

    def read(self) -> None:
        """Draws candidates, chooses one, moves towards it; its opinion is its next post."""
        if not self.follows:
            return
        posts = [friend.opinion for friend in self.random.choices(self.follows, k=self.model.candidates)]
        weights = [math.exp(-SHARPNESS * abs(post - self.opinion)) for post in posts]
        chosen = self.random.choices(posts, weights)[0]
        self.opinion += RATE * (chosen - self.opinion)


class Platform(mesa.Model):
    """All users of a task."""

    def __init__(self, task: Task) -> None:
        super().__init__(seed=0)
        self.candidates = task.candidates
        people = zip(task.innate.tolist(), task.stubbornness().tolist(), strict=True)
        users = [User(self, innate, stubbornness) for innate, stubbornness in people]
        for user, sources in zip(users, task.sources(), strict=True):
            user.follows = [users[source] for source in sources]


def measure(task: Task, answers: Path) -> list[dict[str, object]]:
    """Measures `opinions` and `feed`."""
    platform = Platform(task)
    users = list(platform.agents)

    def start() -> None:
        for user in users:
            user.opinion = user.coming = user.innate

    def opinions() -> np.ndarray:
        start()
        for _ in range(task.steps):
            platform.agents.do("look").do("move")
        return np.array([user.opinion for user in users])

    def feed() -> np.ndarray:
        start()
        for _ in range(task.steps):
            platform.agents.do("read")
        return np.array([user.opinion for user in users])

    return [
        work(task, answers, name="opinions", call=opinions),
        work(task, answers, name="feed", call=feed),
    ]


if __name__ == "__main__":
    answer(mesa.__version__, measure)
