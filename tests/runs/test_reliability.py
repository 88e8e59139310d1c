"""Whole jobs that are harmed: by a full disk, a signal, wandb, too little memory. Rollouts are stand-ins, so nothing compiles."""

from __future__ import annotations

import builtins
import os
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from mamba import cli
from mamba.meta import optimise
from mamba.runs import analysis, folder, job, signals, simulation, tracking
from mamba.runs.config import load_config
from mamba.runs.sweeps import processes

TINY = ["--scenario.users=60", "--steps=6", "--simulation.seeds=5", "--simulation.windows=3", "--log.wandb=disabled"]
FULL = Path("/dev/full")
SWEEP = """
method: grid
metric: {name: simulation/polarisation, goal: minimize}
parameters:
  seed: {values: [0, 1, 2, 3]}
command: ["${env}", mamba-eco, simulate, smoke, "${args}"]
"""


@pytest.fixture
def rollouts(monkeypatch):
    """What stands in for rollouts: `done` has their number chunk by chunk, and a SIGTERM arrives in chunk number `terminated`."""
    of = SimpleNamespace(done=[], terminated=0)

    def values(fitted, members, told=None):
        total, chunk = len(members.keys), fitted.compiled(members).chunk
        for begin in range(0, total, chunk):
            of.done.append(min(chunk, total - begin))
            if len(of.done) == of.terminated:
                os.kill(os.getpid(), signal.SIGTERM)
            if told is not None:
                told(begin + of.done[-1])
        seeds = np.asarray(jax.random.key_data(members.keys)).astype(np.uint64)
        shape = (4, len(simulation.COLUMNS))  # the whole and three windows
        return np.stack([np.random.default_rng(seed).uniform(0.5, 1.5, shape) for seed in seeds]).astype(np.float32)

    monkeypatch.setattr(job.Fitted, "__call__", values)
    monkeypatch.setattr(job.Fitted, "compiled", lambda fitted, members: SimpleNamespace(chunk=fitted._chunk))
    monkeypatch.setattr(cli, "use_compilation_cache", lambda: None)
    monkeypatch.setattr(cli, "use_all_cores", lambda: None)
    return of


def carried_out(command: str, path: Path, *more: str) -> int:
    return cli.main([command, "smoke", *TINY, *more, "--run_dir", str(path)])


def told(captured: pytest.CaptureFixture[str]) -> list[str]:
    """Errors and warnings."""
    said = captured.readouterr().err
    assert "Traceback" not in said
    return [line for line in said.splitlines() if line.startswith("mamba-eco:")]


def results(path: Path) -> dict[str, bytes]:
    """The numbers that a job left."""
    return {file.name: file.read_bytes() for file in path.iterdir() if file.suffix in (".npz", ".jsonl")}


@pytest.fixture
def whole(rollouts, tmp_path):
    """A simulation that nothing happened to."""
    assert carried_out("simulate", tmp_path / "whole") == 0
    del rollouts.done[:]
    return tmp_path / "whole"


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
def test_a_disk_that_is_full_at_any_file_is_one_line_and_the_same_command_goes_on(
    whole, rollouts, tmp_path, monkeypatch, capsys
):
    at, files = 0, []

    def opened(path, mode="r", *given, **named):
        if "r" not in mode and Path(path).name != folder.LOCK:
            files.append(Path(path).name)
            path = FULL if len(files) == at else path
        return builtins.open(path, mode, *given, **named)

    monkeypatch.setattr(folder, "open", opened, raising=False)
    failed = []
    while True:  # in a folder of its own, each a file later
        at, files, place = at + 1, [], tmp_path / str(at + 1)
        capsys.readouterr()
        if carried_out("simulate", place) == 0:
            break
        failed.append(files[at - 1])
        (line,) = told(capsys)
        assert "No space left on device" in line and "make room" in line
        at, files = -at, []
        assert carried_out("simulate", place) == 0
        assert results(place) == results(whole) and (place / "report" / "index.html").is_file()
        at = -at
    names = " ".join(failed)
    for name in ("config.yaml", "run_id", "simulation.npz", "metrics.jsonl", "summary.json", "index.html"):
        assert name in names


def test_a_signal_in_a_simulation_is_heard_after_the_chunk_and_finished_rollouts_are_kept(rollouts, tmp_path, capsys):
    assert carried_out("simulate", tmp_path / "whole", "--chunk=2") == 0
    assert rollouts.done == [2, 2, 1]
    rollouts.done, rollouts.terminated = [], 2
    assert carried_out("simulate", tmp_path / "stopped", "--chunk=2") == 0
    assert rollouts.done == [2, 2]
    assert not (tmp_path / "stopped" / folder.SUMMARY).exists()
    assert "stopped in good order; the same command continues" in capsys.readouterr().err
    rollouts.done, rollouts.terminated = [], 0
    assert carried_out("simulate", tmp_path / "stopped", "--chunk=2") == 0
    assert rollouts.done == [1]
    assert results(tmp_path / "stopped") == results(tmp_path / "whole")


@pytest.mark.parametrize("file", [simulation.FILE, simulation.PART_FILE])
def test_rollouts_of_which_something_else_was_measured_are_made_again(file, whole, rollouts, tmp_path):
    place = shutil.copytree(whole, tmp_path / "older")
    arrays = folder.read_arrays(place / simulation.FILE)
    for name in (simulation.FILE, folder.SUMMARY):
        (place / name).unlink()
    # As a version that measured less would have left it.
    older = {name: value for name, value in arrays.items() if name != "columns"}
    folder.write_arrays(place / file, older | {"values": arrays["values"][:2, :, :-1]})
    assert carried_out("simulate", place) == 0
    assert sum(rollouts.done) == len(arrays["values"]) and results(place) == results(whole)


def test_a_signal_in_a_batch_of_a_sweep_is_heard_after_the_chunk(rollouts, tmp_path):
    (tmp_path / "x.yaml").write_text(SWEEP)

    def swept(place):
        words = [*TINY, "--chunk=10", "--members-per-batch=4", "--log.member_runs=none", "--run_dir", str(place)]
        return cli.main(["sweep", str(tmp_path / "x.yaml"), *words])

    assert swept(tmp_path / "whole") == 0
    assert rollouts.done == [20]
    # Where memory does not do for a batch, its members go in smaller chunks.
    limited = SimpleNamespace(chunk=10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job.Fitted, "compiled", lambda fitted, members: limited)
        rollouts.done, rollouts.terminated = [], 1
        assert swept(tmp_path / "stopped") == 0
        assert rollouts.done == [10]
        rollouts.done, rollouts.terminated = [], 0
        assert swept(tmp_path / "stopped") == 0
        assert rollouts.done == [10]
        # Nor for the rollouts of one member: between two chunks of these the signal is heard, too.
        limited.chunk, rollouts.done, rollouts.terminated = 2, [], 5
        assert swept(tmp_path / "small") == 0
        assert rollouts.done == [2, 2, 1, 2, 2]
        rollouts.done, rollouts.terminated = [], 0
        assert swept(tmp_path / "small") == 0
        assert rollouts.done == [2, 2, 1] * 3
    assert (tmp_path / "small" / "members.jsonl").read_text() == (tmp_path / "whole" / "members.jsonl").read_text()
    found, wanted = ((tmp_path / each / "members.jsonl").read_text() for each in ("stopped", "whole"))
    assert found == wanted


def test_a_signal_in_an_analysis_is_heard_after_the_chunk_and_finished_seeds_are_kept(rollouts, tmp_path):
    settings = ["--interactions.seeds=3", "--interactions.windows=3", "--interactions.learning_pairs=0", "--chunk=4"]
    prepared = job.prepare(load_config("smoke", [*TINY, *settings]))  # eight rows: a seed is two chunks

    def analysed(place):
        place.mkdir(exist_ok=True)
        rollouts.done = []
        with signals.graceful() as stop:
            return analysis.run(prepared, place, None, tracker=tracking.nothing(), stop=stop)

    whole = analysed(tmp_path / "whole")
    assert rollouts.done == [4] * 6
    rollouts.terminated = 3
    assert analysed(tmp_path / "stopped") is None and rollouts.done == [4, 4, 4]
    assert folder.read_arrays(tmp_path / "stopped" / analysis.PART)["values"].shape[0] == 1
    rollouts.terminated = 0
    again = analysed(tmp_path / "stopped")
    assert rollouts.done == [4, 4, 4, 4]  # the second and the third seed
    assert whole is not None and again is not None
    np.testing.assert_array_equal(again.measured.values, whole.measured.values)
    assert results(tmp_path / "stopped") == results(tmp_path / "whole")


def test_processes_of_a_sweep_are_asked_to_save_and_waited_for(tmp_path, monkeypatch):
    code = """
import pathlib, signal, sys, time
def saved(*signal):
    time.sleep(0.2)
    pathlib.Path(sys.argv[1]).write_text("saved")
    sys.exit(0)
signal.signal(signal.SIGTERM, saved)
pathlib.Path(sys.argv[1]).write_text("begun")
time.sleep(300)
"""

    def start(words, file):
        place = words[words.index("--run_dir") + 1]
        return subprocess.Popen([sys.executable, "-c", code, f"{place}.txt"], stdout=file, stderr=file)

    monkeypatch.setattr(processes, "_start", start)
    files = [tmp_path / f"{number:06d}.txt" for number in range(2)]

    def stop():
        return all(file.is_file() and file.read_text() == "begun" for file in files)

    spec = SimpleNamespace(job="train", source="smoke")
    members = [SimpleNamespace(number=n, digest=f"{n:06d}") for n in range(3)]
    places = {member.digest: tmp_path / member.digest for member in members}
    found, every = processes.run(
        spec, members, places, logs=tmp_path / "logs", at_once=2, overrides=lambda member: [], stop=stop
    )
    assert (found, every) == ({}, False)
    assert [file.read_text() for file in files] == ["saved", "saved"]
    assert not (tmp_path / "000002.txt").exists()  # none was begun after the signal


def test_wandb_that_is_out_of_order_does_not_stop_a_simulation(whole, tmp_path, monkeypatch, capsys):
    def broken(name):
        raise RuntimeError(f"{name} is out of order")

    module = types.ModuleType("wandb")
    module.__getattr__ = broken  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "wandb", module)
    capsys.readouterr()
    assert carried_out("simulate", tmp_path / "x", "--log.wandb=offline") == 0
    (line,) = told(capsys)
    assert "warning: wandb failed and is left out from here on" in line and "out of order" in line
    assert results(tmp_path / "x") == results(whole)


@pytest.mark.parametrize(("seeds", "remedy"), [(2, "try --meta.seeds=1, fewer scenario.users"), (1, "try fewer scen")])
def test_a_gradient_that_does_not_fit_is_one_line_and_says_what_to_try(
    seeds, remedy, rollouts, tmp_path, monkeypatch, capsys
):
    def full(trainer, state):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes.")

    monkeypatch.setattr(optimise, "step", full)
    assert carried_out("train", tmp_path / "x", f"--meta.seeds={seeds}") == 2
    (line,) = told(capsys)
    assert f"meta: out of memory in meta-step 0: a gradient through {seeds} rollouts of 6 steps with 60 users" in line
    assert remedy in line


@pytest.mark.parametrize(
    "error", [MemoryError("cannot allocate 9 TiB"), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 99 bytes\nmore")]
)
def test_memory_that_runs_out_anywhere_else_is_one_line(error, tmp_path, monkeypatch, capsys):
    def full(*given, **named):
        raise error

    monkeypatch.setattr(cli, "use_compilation_cache", full)
    assert carried_out("simulate", tmp_path / "x") == 2
    (line,) = told(capsys)
    assert "out of memory (" in line and "try fewer scenario.users" in line
    monkeypatch.setattr(cli, "use_compilation_cache", lambda: {}["another error"])
    with pytest.raises(KeyError):
        carried_out("simulate", tmp_path / "x")
