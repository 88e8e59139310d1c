"""Leaving a stage: before a step that is left, never after the last."""

from types import SimpleNamespace

import numpy as np
import pytest

from mamba.runs import stops
from mamba.runs.progress import Meter


def test_a_step_that_is_left_is_not_begun():
    stops.heed(lambda: False)
    with pytest.raises(stops.Stopped):
        stops.heed(lambda: True)


def test_a_finished_evaluation_is_not_thrown_away():
    moved: list[int] = []
    done = stops.counted(Meter(moved.append), lambda: len(moved) == 2, total=10)
    done(4)
    with pytest.raises(stops.Stopped):
        done(8)
    assert moved == [4, 4]
    stops.counted(Meter(moved.append), lambda: True, total=10)(10)
    assert moved == [4, 4, 10]


def test_an_evaluation_is_left_between_two_chunks_and_not_after_the_last():
    finished: list[int] = []

    def evaluate(members, done):
        for end in (2, 4, 5):
            finished.append(end)
            done(end)
        return np.zeros(5)

    members, told = SimpleNamespace(keys=np.zeros(5)), []
    assert stops.between_chunks(evaluate, lambda: False)(members, told.append).shape == (5,)
    assert finished == told == [2, 4, 5]
    with pytest.raises(stops.Stopped):
        stops.between_chunks(evaluate, lambda: len(finished) == 5)(members)
    assert finished == [2, 4, 5, 2, 4]
    assert stops.between_chunks(evaluate, lambda: finished[-1] == 5)(members).shape == (5,)
