"""Two processes that find each other over gloo are one run: it is logged once, and its numbers are those of one process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import pytest

from mamba import cli
from mamba.runs import distributed, folder, job, simulation
from mamba.runs.errors import UserError

ROOT = Path(__file__).parents[2]
TINY = ["--scenario.users=60", "--steps=6", "--simulation.seeds=5", "--simulation.windows=3"]


def test_only_a_launcher_that_starts_several_tasks_counts():
    alone = distributed.Cluster()
    assert distributed.rule(alone, {}) is None
    assert distributed.rule(alone, {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"}) is None  # an allocation, no srun
    assert distributed.rule(alone, {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}) is None
    assert "srun" in distributed.rule(alone, {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"})
    assert "Open MPI" in distributed.rule(alone, {"OMPI_COMM_WORLD_SIZE": "4"})
    assert "TPU" in distributed.rule(alone, {"TPU_WORKER_HOSTNAMES": "a,b"})
    assert distributed.rule(alone, {"TPU_WORKER_HOSTNAMES": "a"}) is None
    assert "coordinator" in distributed.rule(distributed.Cluster("host:1"), {})


def test_off_and_auto_without_a_cluster_join_nobody(monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", None)
    distributed.start("off", distributed.Cluster("host:1", 2, 0))
    for name in ("SLURM_PROCID", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    distributed.start("auto", distributed.Cluster())


@pytest.mark.parametrize(
    "words", [["--num-processes", "2", "--process-id", "0"], ["--process-id=1"], ["--num-processes=2"]]
)
def test_processes_that_have_nowhere_to_meet_do_not_run_alone(words, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(jax.distributed, "initialize", None)
    for name in ("SLURM_PROCID", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cli, "use_compilation_cache", lambda: None)
    assert cli.main(["simulate", "smoke", "--run_dir", str(tmp_path / "x"), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "give --coordinator HOST:PORT" in line and not (tmp_path / "x").exists()
    distributed.start("auto", distributed.Cluster(None, 1, 0))  # one process has nobody to meet
    distributed.start("off", distributed.Cluster(None, 2, 0))


def test_processes_that_do_not_find_each_other_are_one_clear_line(monkeypatch):
    def initialize(*arguments):
        raise RuntimeError("DEADLINE_EXCEEDED: nobody came\nsecond line")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(UserError, match=r"did not find each other \(DEADLINE_EXCEEDED: nobody came\)"):
        distributed.start("on", distributed.Cluster())


@pytest.mark.parametrize(
    ("environment", "seen"),
    [
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x2)"}, "all"),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x2),1"}, "all"),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, "all"),
        ({"SLURM_STEP_TASKS_PER_NODE": "2(x2),1"}, "0"),  # a device for each task of a host
        ({"SLURM_STEP_TASKS_PER_NODE": "11"}, "0"),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, "0"),
        ({}, "0"),
        ({"SLURM_STEP_TASKS_PER_NODE": "1", "JAX_LOCAL_DEVICE_IDS": "0"}, "0"),  # the user says so
    ],
)
def test_a_task_that_is_alone_on_its_host_sees_all_devices(environment, seen, monkeypatch):
    told = {"jax_cuda_visible_devices": "all", "jax_enable_preemption_service": True}
    monkeypatch.setattr(jax.config, "update", told.__setitem__)
    # As jax does where a launcher numbers the tasks of a host.
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given: told.update(jax_cuda_visible_devices="0"))
    for name in ("SLURM_STEP_TASKS_PER_NODE", "OMPI_COMM_WORLD_LOCAL_SIZE", "JAX_LOCAL_DEVICE_IDS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    distributed.start("on", distributed.Cluster())
    assert told["jax_cuda_visible_devices"] == seen
    assert told["jax_enable_preemption_service"] is False  # it would take SIGTERM for itself


def test_processes_that_have_not_the_same_before_them_do_not_go_on(monkeypatch):
    distributed.refuse_different("alone", 1)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    seen = []
    monkeypatch.setattr(
        distributed.multihost_utils, "process_allgather", lambda own: seen.append(own) or np.stack([own] * 2)
    )
    for told in (("a", 1, np.arange(3.0)), ("a", 1, np.arange(3.0) + 1), ("a", 2, np.arange(3.0)), ("b", 1, None)):
        distributed.refuse_different(*told)
    assert len({each.tobytes() for each in seen}) == 4
    monkeypatch.setattr(distributed.multihost_utils, "process_allgather", lambda own: np.stack([own, seen[0]]))
    with pytest.raises(UserError, match=r"do not have the same before them.*a folder that all hosts see"):
        distributed.refuse_different("b", 1)


def test_a_process_without_the_others_says_so(monkeypatch):
    def lost(own):
        raise jax.errors.JaxRuntimeError("UNKNOWN: Gloo all-gather failed: Connection closed by peer")

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(distributed.multihost_utils, "process_allgather", lost)
    with pytest.raises(UserError, match="another process of this run is gone"):
        distributed.agreed(lambda: False)()


def test_a_signal_to_one_process_stops_all(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    others = [True]
    monkeypatch.setattr(
        distributed.multihost_utils, "process_allgather", lambda own: np.stack([own, np.asarray(others[0])])
    )
    assert distributed.agreed(lambda: False)() is True
    others[0] = False
    assert distributed.agreed(lambda: False)() is False
    assert distributed.agreed(lambda: True)() is True


@pytest.mark.parametrize("total", [1, 4, 5, 7])
def test_members_are_dealt_out_and_gathered_in_order(monkeypatch, total):
    from mamba.members import Members

    members = Members(levers={}, gates=np.arange(total), learning=np.arange(total), keys=np.arange(total))
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    parts = []
    for process in range(3):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        parts.append(distributed.mine(members).keys)
    assert len({len(part) for part in parts}) == 1
    monkeypatch.setattr(distributed.multihost_utils, "process_allgather", lambda values: np.stack(parts)[..., None])
    np.testing.assert_array_equal(distributed.gathered(parts[0][:, None], total)[:, 0], np.arange(total))


def test_the_smallest_chunk_of_all_processes_is_that_of_each(monkeypatch):
    from mamba import members

    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(distributed.multihost_utils, "process_allgather", lambda own: np.stack([own, 5, 9]))
    assert distributed.least(7) == 5 and distributed.least(4.0) == 4
    some = members.Members(levers={}, gates=np.arange(9), learning=np.arange(9), keys=np.arange(9))
    asked = []

    def compiled(evaluate, inputs, members_, *, chunk, limit):
        asked.append(chunk)
        return members.Compiled(None, chunk, 0)

    monkeypatch.setattr("mamba.members.compiled", compiled)
    assert job.Fitted(None, None, chunk=8).compiled(some).chunk == 5 and asked == [8, 5]
    assert job.Fitted(None, None, chunk=4).compiled(some).chunk == 4 and asked == [8, 5, 4]


@pytest.mark.parametrize("total", [1, 2, 5])
def test_questions_are_shared_out_and_answered_in_order(monkeypatch, total):
    questions, asked = list(range(total)), []

    def answer(some):
        asked.append(list(some))
        return [{"ten": np.full(3, 10 * number)} for number in some]

    monkeypatch.setattr(distributed.jax, "process_count", lambda: 2)
    parts = []
    monkeypatch.setattr(distributed.multihost_utils, "process_allgather", lambda tree: parts.append(tree) or tree)
    for process in range(2):
        monkeypatch.setattr(distributed.jax, "process_index", lambda process=process: process)
        with contextlib.suppress(IndexError):  # what one process alone has gathered is no whole
            distributed.shared_out(answer, questions)
    assert len({len(some) for some in asked}) == 1 and set(asked[0] + asked[1]) == set(questions)
    every = {"ten": np.stack([part["ten"] for part in parts[:2]])}
    monkeypatch.setattr(distributed.multihost_utils, "process_allgather", lambda tree: every)
    found = distributed.shared_out(answer, questions)
    assert [each["ten"].tolist() for each in found] == [[10 * number] * 3 for number in questions]


def _free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


WANDB = """
# Instead of wandb: a line for every run that is begun and every row that is logged, by whichever process.
import os
class Settings:
    model_fields = {}
def said(*words):
    with open(os.environ["SAID"], "a") as file:
        file.write(" ".join(map(str, words)) + "\\n")
class Run:
    step, summary = 0, {}
    def define_metric(self, *given, **named): pass
    def log(self, row, step): said("row", row["meta_step"])
    def log_artifact(self, kept): pass
    def finish(self, exit_code): said("finished", exit_code)
class Artifact:
    def __init__(self, *given, **named): pass
    def add_file(self, *given, **named): pass
def init(**named):
    said("begun", named["job_type"])
    return Run()
"""


LITTLE = ["--second_order.seeds=0", "--meta.estimator=es", "--meta.audit_pairs=2"]


def _running(
    path: Path, *more: str, job: str = "simulate", instead: Path | None = None, how: Sequence[str] = ("-m", "mamba")
) -> subprocess.Popen[str]:
    first = [] if instead is None else [str(instead)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*first, str(ROOT), os.environ.get("PYTHONPATH", "")])}
    environment["SAID"] = str(path.with_name("said"))
    words = [sys.executable, *how, job, "smoke", "--run_dir", str(path), *TINY, *more]
    return subprocess.Popen(words, env=environment, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_two_processes_are_one_run(tmp_path):
    cluster = ["--coordinator", f"127.0.0.1:{_free_port()}", "--num-processes", "2"]
    instead = tmp_path / "instead"
    instead.mkdir()
    (instead / "wandb.py").write_text(WANDB, encoding="utf-8")
    both = [_running(tmp_path / "two", *cluster, "--process-id", str(process), instead=instead) for process in range(2)]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert "process 0 of 2" in said[0][1] and "report:" in said[0][1]
    assert "index.html" in said[0][0] and "index.html" not in said[1][0]
    assert not any(word in said[1][1] for word in ("report", "rollouts", "network")), "the second process says nothing"
    run = folder.load_run(tmp_path / "two")
    assert [row["hour"] for row in run.metrics] == [2, 4, 6]
    # Every process would log to a folder of its own; only what they call shows that one does.
    logged = (tmp_path / "said").read_text().splitlines()
    assert logged == ["begun eval", "row 2", "row 4", "row 6", "finished 0"]
    alone = _running(tmp_path / "one", "--log.wandb=disabled")
    assert alone.communicate(timeout=300) and alone.returncode == 0
    found, wanted = (folder.read_arrays(tmp_path / each / simulation.FILE)["values"] for each in ("two", "one"))
    np.testing.assert_array_equal(found, wanted)


FULL = """
# Nothing more can be written to the run folder, by whichever process owns it.
import builtins, errno
from mamba import cli
from mamba.runs import folder
def full(path, *given):
    raise folder.unwritable(path, OSError(errno.ENOSPC, "No space left on device"))
folder.write_arrays = folder.write_text = full
raise SystemExit(cli.main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
def test_two_processes_end_soon_where_one_of_them_cannot_go_on(tmp_path, process):
    cluster = ["--coordinator", f"127.0.0.1:{_free_port()}", "--num-processes", "2"]
    (tmp_path / "full.py").write_text(FULL, encoding="utf-8")
    both = []
    for number in range(2):
        own = [*cluster, "--process-id", str(number), "--log.wandb=disabled"]
        how = [str(tmp_path / "full.py")] if number == process else ["-m", "mamba"]
        both.append(_running(tmp_path / "two", *own, how=how))
    said = [each.communicate(timeout=120) for each in both]  # jax alone would wait for five minutes
    assert both[process].returncode == 2 and both[1 - process].returncode != 0, said
    assert "No space left on device" in said[process][1] and "Traceback" not in said[process][1]


@pytest.mark.slow
def test_two_processes_of_which_one_is_told_to_stop_go_on_together(tmp_path):
    settings = ["--log.wandb=disabled", "--simulation.seeds=40", "--chunk=2"]

    def begun() -> list[subprocess.Popen[str]]:
        cluster = ["--coordinator", f"127.0.0.1:{_free_port()}", "--num-processes", "2"]
        return [_running(tmp_path / "two", *cluster, "--process-id", str(number), *settings) for number in range(2)]

    both = begun()
    stopped = tmp_path / "two" / simulation.PART_FILE
    for _ in range(1200):
        time.sleep(0.1)
        if (tmp_path / "two" / folder.CONFIG).exists():
            break
    both[1].send_signal(signal.SIGTERM)
    said = [each.communicate(timeout=300) for each in both]
    assert [each.returncode for each in both] == [0, 0], said
    assert (stopped.exists() or not (tmp_path / "two" / folder.SUMMARY).exists()) and "stopped in good order" in said[
        0
    ][1]
    both = begun()
    said = [each.communicate(timeout=300) for each in both]
    assert [each.returncode for each in both] == [0, 0], said
    assert folder.load_run(tmp_path / "two").summary["finished"] is True


@pytest.mark.slow
def test_two_processes_that_see_different_folders_do_not_go_on(tmp_path):
    cluster = ["--coordinator", f"127.0.0.1:{_free_port()}", "--num-processes", "2"]
    alone = _running(tmp_path / "0" / "two", "--log.wandb=disabled", "--meta.steps=1", *LITTLE, job="train")
    assert alone.communicate(timeout=300) and alone.returncode == 0
    both = []
    for number in range(2):
        own = [*cluster, "--process-id", str(number), "--log.wandb=disabled", "--allow-config-change", "--meta.steps=2"]
        both.append(_running(tmp_path / str(number) / "two", *own, *LITTLE, job="train"))
    said = [each.communicate(timeout=300) for each in both]
    assert [each.returncode for each in both] == [2, 2], said
    assert "a folder that all hosts see" in said[0][1]
    assert folder.load_run(tmp_path / "0" / "two").summary["finished"] is True


@pytest.mark.slow
def test_two_processes_train_save_and_go_on(tmp_path):
    settings = ["--log.wandb=disabled", "--second_order.seeds=0", "--checkpoint.every=1", "--allow-config-change"]

    def trained(path: Path, steps: int, *, processes: int) -> None:
        cluster = ["--coordinator", f"127.0.0.1:{_free_port()}", "--num-processes", str(processes)]
        found = []
        for process in range(processes):
            own = [*cluster, "--process-id", str(process)] if processes > 1 else []
            found.append(_running(path, f"--meta.steps={steps}", *settings, *own, job="train"))
        said = [process.communicate(timeout=900) for process in found]
        assert [process.returncode for process in found] == [0] * processes, said

    trained(tmp_path / "two", 2, processes=2)
    trained(tmp_path / "two", 3, processes=2)
    rows = [row for row in folder.load_run(tmp_path / "two").metrics if row["stage"] == "training"]
    assert [row["meta_step"] for row in rows] == [0, 1, 2]
    # What several processes left, one can go on with.
    trained(tmp_path / "two", 4, processes=1)
    assert folder.load_run(tmp_path / "two").summary["finished"] is True


SWEEP = """
name: rates
method: grid
metric: {name: evaluation/utility, goal: minimize}
parameters:
  meta.learning_rate: {values: [0.05, 0.1, 0.3]}
command: ["${env}", mamba-eco, train, smoke, "${args}"]
"""


@pytest.mark.slow
def test_two_processes_train_the_members_of_a_sweep_in_step(tmp_path):
    (tmp_path / "rates.yaml").write_text(SWEEP, encoding="utf-8")
    words = ["--log.wandb=disabled", "--log.member_runs=none", "--meta.steps=2", *TINY]

    def swept(path: Path, processes: int) -> dict[str, object]:
        cluster = ["--coordinator", f"127.0.0.1:{_free_port()}", "--num-processes", str(processes)]
        command = [sys.executable, "-m", "mamba", "sweep", str(tmp_path / "rates.yaml"), "--run_dir", str(path), *words]
        running = []
        for process in range(processes):
            own = [*cluster, "--process-id", str(process)] if processes > 1 else []
            running.append(subprocess.Popen([*command, *own], cwd=ROOT, text=True, stderr=subprocess.PIPE))
        said = [process.communicate(timeout=900) for process in running]
        assert [process.returncode for process in running] == [0] * processes, said
        return {row["member"]: row["evaluation/utility"] for row in map(json.loads, (path / "members.jsonl").open())}

    alone, two = swept(tmp_path / "one", 1), swept(tmp_path / "two", 2)
    assert len(two) == 3 and two == pytest.approx(alone, rel=1e-4)
