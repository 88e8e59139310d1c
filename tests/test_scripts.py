"""The scripts of a checkout: what they start, and what they refuse."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mamba import cli
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


@pytest.fixture
def job(tmp_path):
    """`slurm.sh` with the two commands of Slurm replaced: what srun does -> exit code, what is called after it."""
    tools, said = tmp_path / "bin", tmp_path / "calls"
    tools.mkdir()

    def started(srun: str = "") -> tuple[int, list[str]]:
        said.unlink(missing_ok=True)
        for tool, does in (("srun", srun), ("scontrol", "")):
            (tools / tool).write_text(f'#!/bin/sh\necho {tool} "$@" >> "{said}"\n{does}\n')
            (tools / tool).chmod(0o755)
        path = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "SLURM_JOB_ID": "77"}
        place = tmp_path / "a run"
        done = run("sh", str(SCRIPTS / "slurm.sh"), str(place), "train", "platform", "--seed=1", **path)
        first, *calls = said.read_text().splitlines()
        assert first == f"srun mamba-eco train platform --seed=1 --run_dir {place}"
        return done.returncode, calls

    return started


@pytest.mark.parametrize("earlier", [False, True])
def test_a_slurm_job_goes_back_into_the_queue_until_its_run_is_finished(job, tmp_path, earlier):
    place = tmp_path / "a run"
    place.mkdir()
    if earlier:  # `analyse` has finished in the folder, and `train` keeps what it found until it has finished, too
        folder.write_json(place / folder.SUMMARY, {"finished": True, "stages": ["interaction"]})
    folder.write_text(place / cli.STOPPED, "")
    assert job() == (0, ["scontrol requeue 77"])
    (place / cli.STOPPED).unlink()
    assert job() == (0, [])


def test_a_slurm_job_that_fails_is_not_queued_again(job, tmp_path):
    folder.write_text(tmp_path / "a run" / cli.STOPPED, "")  # as it was told in an earlier attempt
    assert job("exit 3") == (3, [])


def test_a_slurm_job_that_was_told_to_stop_before_it_listens_is_queued_again(job):
    assert job("sh -c 'kill -USR2 $$'") == (0, ["scontrol requeue 77"])
    assert job("sh -c 'kill -KILL $$'") == (137, [])


@pytest.mark.parametrize("words", [(), ("runs/mine",), ("runs/mine", "train", "platform")])
def test_what_is_no_slurm_job_is_one_clear_line(words):
    refused = run("sh", str(SCRIPTS / "slurm.sh"), *words, SLURM_JOB_ID="")
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1
    assert "sbatch" in refused.stderr
