"""Stopping in good order: a signal sets a flag, and the loop looks at it between chunks.

SIGTERM comes from a cluster that takes the machine back, SIGUSR2 from Slurm some time before (`--signal=USR2@120`),
SIGINT from the keyboard. A second SIGINT stops at once, with KeyboardInterrupt.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

SIGNALS = ("SIGTERM", "SIGUSR2", "SIGINT")
_ours: list[Any] = []  # handlers of the blocks that are open


@contextmanager
def graceful(announce: Callable[[str], None] | None = None) -> Generator[Callable[[], bool], None, None]:
    """Catches the signals above for the length of a block.

    A handler that somebody else installed for SIGTERM or SIGUSR2 (submitit does, to put the job back into the queue) is
    called after the flag is set, and so is that of a block around this one, whatever the signal. The default actions and
    Python's own handler of SIGINT are not: they would end the process. Outside the main thread nothing can be caught, and
    the flag stays down.

    Args:
        announce: called with one line when a signal arrives.

    Yields:
        `stop_requested()`: whether a signal has arrived.
    """
    arrived: list[str] = []
    earlier: dict[int, Any] = {}

    def handle(number: int, frame: Any) -> None:
        name = signal.Signals(number).name
        if number == signal.SIGINT and "SIGINT" in arrived:
            raise KeyboardInterrupt
        arrived.append(name)
        if announce is not None and len(arrived) == 1:
            again = "; once more to stop at once" if number == signal.SIGINT else ""
            announce(f"{name}: finishing this chunk, then saving{again}")
        before = earlier.get(number)
        if callable(before) and (number != signal.SIGINT or before in _ours):
            before(number, frame)

    _ours.append(handle)
    if threading.current_thread() is threading.main_thread():
        for name in SIGNALS:
            if (number := getattr(signal, name, None)) is not None:
                earlier[number] = signal.signal(number, handle)
    try:
        yield lambda: bool(arrived)
    finally:
        _ours.remove(handle)
        for number, before in earlier.items():
            # None: the handler was not installed from Python and cannot be put back from here.
            signal.signal(number, signal.SIG_DFL if before is None else before)
