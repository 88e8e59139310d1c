"""What the devices do with their time: a trace of JAX's profiler, for TensorBoard or Perfetto."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

import jax

from mamba.runs import distributed, progress
from mamba.runs.folder import PROFILE


@contextlib.contextmanager
def trace(path: Path, *, wanted: bool = True) -> Generator[None, None, None]:
    """A trace of what the devices of process 0 do in a block, in `PROFILE` of a run folder.

    It is written once the block has come to its end, so that a run that is refused leaves the folder as it was. Nothing that
    the profiler does can end a run: a failure is one warning.

    Args:
        path: the run folder.
        wanted: False does nothing.
    """
    if not (wanted and distributed.is_first()):
        yield
        return
    places: list[str] = []

    def begin() -> None:
        places.append(tempfile.mkdtemp(prefix="mamba-"))
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # every call of Python while JAX compiles: 100 MiB for a small run
        jax.profiler.start_trace(places[0], profiler_options=options)

    def keep() -> None:
        shutil.copytree(places[0], path / PROFILE, dirs_exist_ok=True)

    begun, ended = _succeeds(begin), False
    try:
        yield
        ended = True
    finally:
        if begun and _succeeds(jax.profiler.stop_trace) and ended and _succeeds(keep):
            progress.say(f"profile: {path / PROFILE}")
        for place in places:
            shutil.rmtree(place, ignore_errors=True)


def _succeeds(call: Callable[[], None]) -> bool:
    """Whether a call for the profiler does; a warning where it does not."""
    try:
        call()
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        progress.warn(f"--profile: no trace is written ({reason})")
        return False
    return True
