"""A small training that is killed at every change that Python makes to the file system in a save: a program for `test_checkpoint`.

The arrays themselves are written by threads of orbax, between two of these changes; a folder that lacks some is one without its
final name.

The loop, the checkpoints and the metrics are those of a run; only the meta-step is a stand-in, so that a hundred saves take
seconds. Every attempt is a process of its own (forked before JAX has started) that kills itself right before the n-th change of
one save; another process then does what a repeated command does. First the save is that of a new step, then that of a step which
is there already, and is all that is there. Prints a line for each attempt.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from mamba.meta import optimise
from mamba.runs import checkpoint, folder, tracking, training

STEPS, KILLED, KEEP = 4, 3, 2  # the third save also removes the first checkpoint
_CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree", "open")


def _state() -> optimise.TrainingState:
    levers, one = np.linspace(0.0, 1.0, 5, dtype=np.float32), np.zeros(1, np.float32)
    return optimise.TrainingState(np.int32(0), levers, {"momentum": levers * 0}, one, one, ())


def _step(trainer: Any, state: optimise.TrainingState) -> tuple[optimise.TrainingState, Any]:
    """Chaotic: what is lost or done twice shows."""
    del trainer
    levers = np.float32(3.9) * state.levers * (1 - state.levers)
    after = state._replace(step=np.int32(state.step + 1), levers=levers, optimiser={"momentum": levers - state.levers})
    return after, SimpleNamespace(told={"skipped": False}, utility=float(levers.sum()))


def train(path: Path) -> None:
    """What a run does in its folder, at first and when its command is repeated."""
    settings = SimpleNamespace(
        name="x", meta=SimpleNamespace(steps=STEPS), checkpoint=SimpleNamespace(every=1, keep=KEEP)
    )
    job: Any = SimpleNamespace(config=settings, inputs=SimpleNamespace(levers={}))
    restored = checkpoint.latest(path / folder.CHECKPOINTS, _state())
    state = _state() if restored is None else restored.tree
    done = int(state.step)
    metrics = folder.open_metrics(path / folder.METRICS, keep=lambda row: row["meta_step"] < done)
    trainer: Any = None
    training.train(job, trainer, state, path=path, metrics=metrics, tracker=tracking.nothing(), stop=lambda: False)


def save_again(path: Path) -> None:
    """What a run does that is told to stop as soon as it went on: it saves its step again, here with another configuration."""
    restored = checkpoint.latest(path / folder.CHECKPOINTS, _state())
    if restored is None or restored.step != KILLED:
        raise RuntimeError(f"step {KILLED} is lost")
    checkpoint.save(path / folder.CHECKPOINTS, KILLED, restored.tree, {"name": "y"}, keep=1)


def _dies_at(change: int) -> None:
    """Kills this process right before the change of that number in the save of step `KILLED`."""
    seen, saving = 0, False

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if not saving or event not in _CHANGES or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        # What is below a folder that is removed is named without that folder.
        if event in ("os.remove", "os.rmdir") or folder.CHECKPOINTS in os.fsdecode(arguments[0]):
            seen += 1
            if seen == change:
                os.kill(os.getpid(), signal.SIGKILL)

    save = checkpoint.save

    def saved(directory: Any, step: int, *given: Any, **named: Any) -> Path:
        nonlocal saving
        saving = step == KILLED
        try:
            return save(directory, step, *given, **named)
        finally:
            saving = False

    sys.addaudithook(heard)
    checkpoint.save = saved


def _forked(work: Callable[[Path], None], path: Path, *, change: int = 0) -> int:
    """Works in a process of its own; its exit status, negative where it was killed."""
    process = os.fork()
    if process == 0:
        try:
            if change:
                _dies_at(change)
            work(path)
            os._exit(0)
        except BaseException as error:
            print(f"failed: {error!r}", flush=True)
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _left(path: Path) -> tuple[bytes, str]:
    """What a training leaves: its metrics, and the digest of its last checkpoint."""
    last = max(os.listdir(path / folder.CHECKPOINTS))
    return (path / folder.METRICS).read_bytes(), folder.read_json(path / folder.CHECKPOINTS / last / "checkpoint.json")[
        "digest"
    ]


def main(root: Path) -> None:
    """Kills attempts to train, then attempts to save again the last step but one of a training."""
    training.row = lambda job, state, told: {"utility": told.utility, "levers": state.levers}
    optimise.step = _step
    training._passing = training._open_blocks = lambda *given: []
    training.to_mapping = lambda config: {"name": config.name}
    checkpoint._provenance = dict  # git takes longer than all else here
    checkpoint._orbax()  # imported once
    (root / "new").mkdir(parents=True)
    _attempts(train, root / "train", begin=root / "new")
    alone = shutil.copytree(root / "train" / "whole", root / "alone")
    for name in os.listdir(alone / folder.CHECKPOINTS):
        if int(name) != KILLED:
            shutil.rmtree(alone / folder.CHECKPOINTS / name)
    _attempts(save_again, root / "again", begin=alone)


def _attempts(work: Callable[[Path], None], root: Path, *, begin: Path) -> None:
    """Kills one attempt after the other, each a change later, until one is not killed any more; all begin with the same folder."""
    whole = shutil.copytree(begin, root / "whole")
    _forked(work, whole)
    for change in range(1, 1000):
        path = shutil.copytree(begin, root / str(change))
        code = _forked(work, path, change=change)
        if code == 0:
            break
        left = sorted(os.listdir(path / folder.CHECKPOINTS))
        again = _forked(work, path)
        same = _left(path) == _left(whole)
        print(root.name, "killed" if code == -signal.SIGKILL else code, again, same, *left, flush=True)
        if code != -signal.SIGKILL:
            break


if __name__ == "__main__":
    main(Path(sys.argv[1]))
