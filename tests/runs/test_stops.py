"""Leaving a stage: before a step that is left, never after the last."""

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
