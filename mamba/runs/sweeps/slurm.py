"""A Slurm array script for a sweep: every task does its part, and goes back into the queue when its time is up.

`--signal=USR2` makes Slurm tell a task two minutes before its limit; the task then finishes its batch, keeps it and ends, and the
script puts it back into the queue, where it goes on. Slurm itself does so after a preemption (`--requeue`).

References:
    The manual pages of sbatch and scontrol (slurm.schedmd.com).
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from mamba.runs import folder

SCRIPT = "sweep.sbatch"
WARNING_S = 120  # seconds before the limit


def script(name: str, path: Path, *, parts: int, words: Sequence[str], done: str, directory: Path) -> str:
    """The text of the script.

    Args:
        name: of the sweep.
        path: folder of the sweep.
        parts: tasks of the array.
        words: the command of a task, without `--part`.
        done: file below `path` that task `I` of `N` leaves when it is done; `{i}` and `{n}` in it are those.
        directory: where the command is started.
    """
    task = "${SLURM_ARRAY_TASK_ID}"
    left = f"{shlex.quote(str(path))}/{done.format(i=task, n=parts)}"
    return f"""#!/bin/sh
#SBATCH --job-name={name}
#SBATCH --array=0-{parts - 1}
#SBATCH --signal=USR2@{WARNING_S}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={path}/slurm-%A_%a.log
# Add what your cluster asks for, such as --partition, --time, --gres=gpu:1, --mem.
set -u
cd {shlex.quote(str(directory))} || exit 1
srun {shlex.join(words)} --part "{task}/{parts}" || exit $?
# The task ends in good order, too, when it was told to stop: then its part is not done, and it goes on later.
test -f {left} || scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_{task}"
"""


def write(name: str, path: Path, *, parts: int, words: Sequence[str], done: str) -> Path:
    """Writes the script into the folder of a sweep and returns its path."""
    target = path / SCRIPT
    text = script(name, path.absolute(), parts=parts, words=words, done=done, directory=Path.cwd())
    folder.write_text(target, text)
    return target
