"""Leaving a stage between two of its steps when a signal asks for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mamba import members as mem
from mamba.runs import progress


class Stopped(Exception):
    """A signal asked to stop, and something that was asked for is missing."""


def heed(stop: Callable[[], bool]) -> None:
    """Called before a step that is still to be done.

    Raises:
        Stopped: a signal has arrived.
    """
    if stop():
        raise Stopped


def counted(meter: progress.Meter, stop: Callable[[], bool], *, total: int) -> Callable[[int], None]:
    """`done` of an evaluation of `total` things: advances the meter, and stops where there is a next chunk to leave out."""
    before = 0

    def done(finished: int) -> None:
        nonlocal before
        meter.advance(finished - before)
        before = finished
        if finished < total:
            heed(stop)

    return done


def between_chunks(
    evaluate: Callable[[mem.Members, Callable[[int], None]], np.ndarray], stop: Callable[[], bool]
) -> Callable[..., np.ndarray]:
    """`evaluate`, left between two of its chunks when a signal asks for it: then `Stopped` is raised, and its values are lost."""

    def leaving(members: mem.Members, done: Callable[[int], None] | None = None) -> np.ndarray:
        def told(finished: int) -> None:
            if done is not None:
                done(finished)
            if finished < len(members.keys):
                heed(stop)

        return evaluate(members, told)

    return leaving
