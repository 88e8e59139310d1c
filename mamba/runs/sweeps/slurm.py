"""A Slurm array script for a sweep: every task does its part, and goes back into the queue when its time is up.

`--signal=USR2` makes Slurm tell a task two minutes before its limit; the task then finishes its batch, keeps it and ends, and the
script puts it back into the queue, where it goes on. A task that was told while it started, before it listens, dies of the
signal: nothing that was saved is lost, and it goes back, too. Slurm itself does so after a preemption (`--requeue`).

References:
    The manual pages of sbatch, srun and scontrol (slurm.schedmd.com); `_get_argument` in `src/sbatch/opt.c` of Slurm.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from mamba.runs import folder
from mamba.runs.errors import UserError

SCRIPT = "sweep.sbatch"
WARNING_S = 120  # seconds before the limit
DIED = 128 + 12  # exit status of srun where USR2 ended a task


def script(name: str, path: Path, *, parts: int, words: Sequence[str], done: str, directory: Path) -> str:
    """The text of the script.

    Args:
        name: of the sweep.
        path: folder of the sweep.
        parts: tasks of the array.
        words: the command of a task, without `--part`.
        done: file below `path` that task `I` of `N` leaves when it is done; `{i}` and `{n}` in it are those.
        directory: where the command is started.

    Raises:
        UserError: name or path hold a line break, which no option of a script can.
    """
    for text in (name, str(path)):
        if "\n" in text:
            raise UserError(f"--slurm: {text!r} holds a line break; give another name or --run_dir")
    task = "${SLURM_ARRAY_TASK_ID}"
    left = f"{shlex.quote(str(path))}/{done.format(i=task, n=parts)}"
    log = f"{str(path).replace('%', '%%')}/slurm-%A_%a.log"
    return f"""#!/bin/sh
#SBATCH --job-name={quoted(name)}
#SBATCH --array=0-{parts - 1}
#SBATCH --signal=USR2@{WARNING_S}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={quoted(log)}
# Add what your cluster asks for, such as --partition, --time, --gres=gpu:1, --mem.
set -u
cd {shlex.quote(str(directory))} || exit 1
srun {shlex.join(words)} --part "{task}/{parts}"
status=$?
# The task ends in good order, too, when it was told to stop: then its part is not done, and it goes on later. It dies of USR2
# ({DIED}) when it was told before it listens.
if [ "$status" -eq {DIED} ] || {{ [ "$status" -eq 0 ] && [ ! -f {left} ]; }}; then
  exec scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_{task}"
fi
exit "$status"
"""


def quoted(text: str) -> str:
    """A word as sbatch reads it in an option line, where a blank would end it and `#` begin a comment."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def write(name: str, path: Path, *, parts: int, words: Sequence[str], done: str) -> Path:
    """Writes the script into the folder of a sweep and returns its path. Arguments and errors as for `script`."""
    target = path / SCRIPT
    text = script(name, path.absolute(), parts=parts, words=words, done=done, directory=Path.cwd())
    folder.write_text(target, text)
    return target
