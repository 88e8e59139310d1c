"""Leaving a stage between two of its steps when a signal asks for it."""

from __future__ import annotations

from collections.abc import Callable

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
