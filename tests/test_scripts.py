"""The scripts of a checkout: what they start, and what they refuse."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mamba.runs import folder

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, "PYTHONPATH": "", **environment}
    return subprocess.run(words, env=given, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("name", "argument"), [("train", "CONFIG"), ("sweep", "FILE")])
def test_they_are_commands_of_the_command_line(name, argument, tmp_path):
    helped = run(sys.executable, str(SCRIPTS / f"{name}.py"), "--help")
    assert helped.returncode == 0 and f"usage: mamba-eco {name} {argument}" in helped.stdout
    refused = run(sys.executable, str(SCRIPTS / f"{name}.py"), str(tmp_path / "nothing.yaml"))
    assert refused.returncode == 2 and "nothing.yaml" in refused.stderr and "Traceback" not in refused.stderr


def test_a_slurm_job_goes_back_into_the_queue_until_its_run_is_finished(tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("srun", "scontrol"):
        (tools / tool).write_text(f'#!/bin/sh\necho {tool} "$@" >> "{tmp_path}/calls"\n')
        (tools / tool).chmod(0o755)
    place = tmp_path / "a run"

    def calls(**environment: str) -> list[str]:
        (tmp_path / "calls").unlink(missing_ok=True)
        path = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "SLURM_JOB_ID": "77"}
        done = run("sh", str(SCRIPTS / "slurm.sh"), str(place), "train", "platform", "--seed=1", **(path | environment))
        assert done.returncode == 0, done.stderr
        return (tmp_path / "calls").read_text().splitlines()

    started = f"srun mamba-eco train platform --seed=1 --run_dir {place}"
    assert calls() == [started, "scontrol requeue 77"]
    place.mkdir()
    folder.write_json(place / "summary.json", {"finished": False})
    assert calls() == [started, "scontrol requeue 77"]
    folder.write_json(place / "summary.json", {"finished": True})
    assert calls() == [started]


def test_a_slurm_job_that_fails_is_not_queued_again(tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "srun").write_text("#!/bin/sh\nexit 3\n")
    (tools / "scontrol").write_text(f'#!/bin/sh\ntouch "{tmp_path}/queued"\n')
    for tool in ("srun", "scontrol"):
        (tools / tool).chmod(0o755)
    path = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "SLURM_JOB_ID": "77"}
    done = run("sh", str(SCRIPTS / "slurm.sh"), str(tmp_path / "out"), "train", "platform", **path)
    assert done.returncode == 3 and not (tmp_path / "queued").exists()


@pytest.mark.parametrize("words", [(), ("runs/mine",), ("runs/mine", "train", "platform")])
def test_what_is_no_slurm_job_is_one_clear_line(words):
    refused = run("sh", str(SCRIPTS / "slurm.sh"), *words, SLURM_JOB_ID="")
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1
    assert "sbatch" in refused.stderr
