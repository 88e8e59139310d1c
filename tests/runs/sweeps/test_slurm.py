"""The Slurm script of a sweep: what its lines say to sbatch, what a task runs, and when it goes back into the queue."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mamba import cli
from mamba.runs import folder
from mamba.runs.errors import UserError
from mamba.runs.sweeps import kept, slurm

FILE = """
method: grid
parameters:
  seed: {values: [0, 1, 2, 3]}
command: ["${env}", mamba-eco, simulate, smoke, "${args}"]
"""


def options(text):
    """The options of a script, read as sbatch does: quotes and backslashes as in a shell, `#` begins a comment outside of them."""
    lines = [line.removeprefix("#SBATCH") for line in text.splitlines() if line.startswith("#SBATCH")]
    words = [word for line in lines for word in shlex.split(line, comments=True)]
    return dict(word.removeprefix("--").partition("=")[::2] for word in words)


@pytest.fixture
def swept(tmp_path, monkeypatch):
    """A sweep file in the current folder: what its script says after a command."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "use_compilation_cache", lambda: None)
    monkeypatch.setattr(cli, "use_devices", lambda wanted: None)
    (tmp_path / "x.yaml").write_text(FILE)

    def script(*words):
        assert cli.main(["sweep", "x.yaml", *words]) == 0
        return (tmp_path / "runs" / "x" / slurm.SCRIPT).read_text()

    return script


@pytest.mark.parametrize("name", ["a run", "100% #1", 'a "quoted" run', "it's", "back\\slash"])
def test_any_path_and_name_are_one_word_to_sbatch(tmp_path, name):
    text = slurm.script(
        name, tmp_path / name, parts=2, words=["mamba-eco"], done=kept.PART_DONE, directory=tmp_path / name
    )
    told = options(text)
    assert told["job-name"] == name
    path = str(tmp_path / name).replace("%", "%%")  # a `%` alone begins what Slurm fills in
    assert told["output"] == f"{path}/slurm-%A_%a.log" and told["array"] == "0-1"
    subprocess.run(["sh", "-n"], input=text, text=True, check=True)


def test_a_line_break_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds a line break"):
        slurm.script("x", tmp_path / "a\nb", parts=1, words=["x"], done=kept.PART_DONE, directory=tmp_path)


@pytest.mark.parametrize("program", ["mamba-eco", "scripts/sweep.py"])
def test_a_task_runs_the_command_line_whatever_wrote_its_script(swept, monkeypatch, capsys, program):
    words = ["x.yaml", "--slurm", "2", "--count=2", "--log.tags=['a b']"]
    monkeypatch.setattr(sys, "argv", [program, *([] if program.endswith(".py") else ["sweep"]), *words])
    task = "mamba-eco sweep x.yaml --count=2 '--log.tags=['\"'\"'a b'\"'\"']'"
    assert f"\nsrun {task} --part " in swept(*words[1:])
    assert f"; when all tasks are done, {task} puts" in capsys.readouterr().out


@pytest.mark.parametrize("allowed", cli.CHANGE)
def test_tasks_do_not_change_a_sweep_that_was_changed_when_the_script_was_written(swept, tmp_path, capsys, allowed):
    swept("--slurm=2")
    root = tmp_path / "runs" / "x"
    part = root / "tasks" / "0-of-2"
    folder.write_text(part / folder.SWEEP, (root / folder.SWEEP).read_text())
    folder.write_text(part / kept.PARTS / "kept.npz", "")
    assert cli.main(["sweep", "x.yaml", "--slurm=2", "--count=3"]) == 2
    assert "allow" not in swept("--slurm=2", "--count=3", allowed)
    # What was done of a part is kept for all, and a task finds no other sweep than the one that it is told.
    assert [file.name for file in (root / kept.PARTS).iterdir()] == ["kept-0-of-2.npz"] and not part.exists()


@pytest.mark.parametrize(
    ("srun", "done", "code", "queued"),
    [
        ("true", False, 0, True),
        ("true", True, 0, False),
        ("exit 3", False, 3, False),
        ("sh -c 'kill -USR2 $$'", False, 0, True),  # told before it listens
        ("sh -c 'kill -KILL $$'", False, 137, False),
    ],
)
def test_a_task_goes_back_into_the_queue_where_it_can_go_on(tmp_path, srun, done, code, queued):
    assert slurm.DIED == 128 + signal.SIGUSR2
    path, tools = tmp_path / "a folder", tmp_path / "bin"
    tools.mkdir()
    for tool, does in (("srun", srun), ("scontrol", f'echo "$@" >> "{tmp_path}/queue"')):
        (tools / tool).write_text(f"#!/bin/sh\n{does}\n")
        (tools / tool).chmod(0o755)
    script = slurm.write("x", path, parts=4, words=["mamba-eco", "sweep", "x"], done=kept.PART_DONE)
    if done:
        folder.write_json(path / kept.PART_DONE.format(i=2, n=4), {})
    environment = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_JOB_ID": "77"}
    ended = subprocess.run(["sh", script], env=environment, check=False, capture_output=True, text=True)
    assert ended.returncode == code, ended.stderr
    queue = Path(tmp_path / "queue")
    assert (queue.read_text() if queue.exists() else "") == ("requeue 77_2\n" if queued else "")
