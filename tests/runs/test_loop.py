"""The main job end to end on the smoke preset: what it leaves, that it repeats bit by bit, and that it survives a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mamba.objectives import NAMES
from mamba.runs.folder import load_run

ROOT = Path(__file__).parents[2]
TINY = ["--scenario.users=60", "--steps=6", "--log.wandb=disabled"]


def _command(folder: Path, *overrides: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "mamba",
        "run",
        str(ROOT / "configs" / "smoke.yaml"),
        "--run_dir",
        str(folder),
        *TINY,
        *overrides,
    ]


def _environment(cache: Path) -> dict[str, str]:
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", str(cache)),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }


def _run(folder: Path, cache: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command(folder, *overrides), env=_environment(cache), capture_output=True, text=True, cwd=ROOT, check=False
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    folder = tmp_path_factory.mktemp("runs") / "first"
    result = _run(folder, cache)
    assert result.returncode == 0, result.stderr
    return folder


def test_a_run_leaves_what_it_promises(finished):
    run = load_run(finished)
    stages = [row["stage"] for row in run.metrics]
    assert stages == ["interactions", *["training"] * 4, "evaluation"]
    assert run.summary["finished"] is True
    assert set(run.summary["objectives"]) == set(NAMES)
    assert run.interactions["values"].shape == (2, 8, len(NAMES))
    assert np.isfinite(run.interactions["values"]).all()
    page = (finished / "report" / "index.html").read_text(encoding="utf-8")
    assert "toxic exposure" in page
    assert (
        run.summary["provenance"]["command"].startswith("mamba-eco run")
        or "mamba" in run.summary["provenance"]["command"]
    )


def test_metrics_are_finite_and_levers_move(finished):
    rows = [row for row in load_run(finished).metrics if row["stage"] == "training"]
    for name in NAMES:
        assert all(np.isfinite(row[f"ecosystem/{name}"]) for row in rows)
    levers = [name for name in rows[0] if name.startswith("levers_unconstrained/")]
    assert any(rows[0][name] != rows[-1][name] for name in levers)
    assert rows[0]["meta/audited"] == 1


def test_the_same_command_twice_is_bit_equal(finished, cache, tmp_path):
    again = tmp_path / "again"
    result = _run(again, cache)
    assert result.returncode == 0, result.stderr
    assert (again / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()


def test_killed_in_the_middle_and_repeated_is_bit_equal(finished, cache, tmp_path):
    folder = tmp_path / "killed"
    overrides = ["--checkpoint.every=1", "--allow-config-change"]
    # The reference has other checkpoint settings, which must not change a single number.
    process = subprocess.Popen(
        _command(folder, *overrides),
        env=_environment(cache),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    metrics = folder / "metrics.jsonl"
    deadline = time.monotonic() + 540
    while time.monotonic() < deadline and process.poll() is None:
        if metrics.exists() and metrics.read_text(encoding="utf-8").count('"stage":"training"') >= 2:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "summary.json").exists()
    result = _run(folder, cache, *overrides)
    assert result.returncode == 0, result.stderr
    assert metrics.read_bytes() == (finished / "metrics.jsonl").read_bytes()


def test_a_finished_run_is_left_alone(finished, cache):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file() and path.name != ".lock"}
    result = _run(finished, cache)
    assert result.returncode == 0, result.stderr
    assert "finished; nothing to do" in result.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_another_configuration_is_refused_and_nothing_is_lost(finished, cache):
    before = (finished / "metrics.jsonl").read_bytes()
    result = _run(finished, cache, "--seed=7")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "seed" in result.stderr
    assert (finished / "metrics.jsonl").read_bytes() == before


def test_a_termination_signal_stops_in_good_order(finished, cache, tmp_path):
    folder = tmp_path / "stopped"
    process = subprocess.Popen(
        _command(folder),
        env=_environment(cache),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = folder / "metrics.jsonl"
    deadline = time.monotonic() + 540
    while time.monotonic() < deadline and process.poll() is None:
        if metrics.exists() and metrics.read_text(encoding="utf-8").count('"stage":"training"') >= 1:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate()
    assert process.returncode == 0, told
    result = _run(folder, cache)
    assert result.returncode == 0, result.stderr
    assert metrics.read_bytes() == (finished / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["--scenario.dataset=nowhere.csv"], "nowhere.csv"),
        (["--scenario.dataset=twitch_engbb"], "twitch_engb"),
        (["--scenario.opinions=twitch_engb"], "scenario.opinions"),
        (["--scenario.users=-5"], "scenario.users"),
        (["--meta.step=3"], "Did you mean 'steps'"),
        (["--recommenders.home.kind=engagment"], "engagement"),
    ],
)
def test_bad_input_is_one_clear_line(cache, tmp_path, overrides, words):
    folder = tmp_path / "bad"
    result = _run(folder, cache, *overrides)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("mamba-eco:")]
    assert len(lines) == 1
    assert words in lines[0]


def test_bad_graph_files_name_the_line(cache, tmp_path):
    bad = tmp_path / "follows.csv"
    bad.write_text("reader,source\n0,1\n1,x7\n", encoding="utf-8")
    result = _run(tmp_path / "run", cache, f"--scenario.dataset={bad}")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "x7" in result.stderr


def test_the_summary_is_plain_json(finished):
    text = (finished / "summary.json").read_text(encoding="utf-8")
    assert "NaN" not in text
    assert json.loads(text)["name"] == "smoke"
