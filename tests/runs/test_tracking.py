"""Tracking: what is logged can be read back from the offline run, and no failure reaches the caller."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mamba.runs import figures, folder, tracking
from mamba.runs.config import resolve, to_mapping
from mamba.runs.settings import LogConfig

CONFIG = resolve({"recommenders": {"home": {"kind": "engagement"}}})
ROWS = [
    {
        "meta_step": step,
        "ecosystem": {"polarisation": np.float32(0.1 * step), "wellbeing": math.nan if step == 1 else -0.5},
        "algorithms/home/own_loss": 1.0 / (step + 1),
        "perf/steps per second": 12,
        "curve": np.arange(3.0),
    }
    for step in range(3)
]


def records(run_dir: Path) -> list[dict[str, Any]]:
    """Records of every offline run below a run folder, as `wandb leet inspect` reads them."""
    found = []
    for path in sorted((run_dir / "wandb").glob("offline-run-*/*.wandb")):
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if result.returncode != 0 and "leet" in result.stderr:
            pytest.skip("this wandb has no `leet inspect`")
        assert result.returncode == 0, result.stderr
        found += [json.loads(line) for line in result.stdout.splitlines()]
    return found


def history(run_dir: Path) -> dict[int, dict[str, Any]]:
    rows: dict[int, dict[str, Any]] = {}
    for record in records(run_dir):
        if record["type"] == "history":
            item = {name: value for name, value in record["history"]["item"].items() if not name.startswith("_")}
            rows.setdefault(record["history"]["step"]["num"], {}).update(item)
    return rows


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after two meta-steps and continued, and the metrics beside it."""
    path = tmp_path_factory.mktemp("run")
    home = tmp_path_factory.mktemp("home")
    metrics = folder.open_metrics(path / folder.METRICS)
    matrix = np.asarray([[0.0, 0.5], [-0.25, 0.0]])
    (path / "interactions.npz").write_bytes(b"arrays")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        for variable in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(variable)
        for part in (ROWS[:2], ROWS[2:]):
            tracker = tracking.start(
                LogConfig(tags=("a",)), run_dir=path, run_id="abcdef", config=to_mapping(CONFIG), name="x"
            )
            for row in part:
                tracker.log(row["meta_step"], row)
                metrics.append({**tracking.scalars(row), "meta_step": row["meta_step"]})
            if len(part) == 1:
                tracker.log_matrix(3, "interactions/polarisation", ["home", "takedown"], matrix)
                tracker.log_table(3, "interactions/all", ["a", "b", "index"], [["home", "takedown", np.float32(0.5)]])
                picture = figures.Matrix(("home", "takedown"), matrix, 1.0, matrix > 0, matrix > 9, [["", ""]] * 2)
                tracker.log_figure(3, "interactions/polarisation/matrix", figures.matrix(picture).figure)
                tracker.artifact(path / "interactions.npz", "interactions x", "interactions")
            tracker.finish({"final": {"polarisation": np.float64(0.25)}, "text": "done", "list": [1]})
            tracker.finish({})
            tracker.log(9, {"late": 1})
        assert not [name for name in os.environ if name.startswith("WANDB_") and name.endswith("_DIR")]
        assert not list(home.rglob("*wandb*"))  # nothing is left in the home folder
    metrics.close()
    return path


def test_the_offline_run_says_what_the_metrics_say(run_dir: Path) -> None:
    logged = history(run_dir)
    for row in folder.read_metrics(run_dir / folder.METRICS):
        step = row["meta_step"]
        assert logged[step].keys() == row.keys()
        for name, value in row.items():
            other = logged[step][name]
            assert math.isnan(float(other)) if math.isnan(value) else other == value, name
    assert set(logged[0]) == {
        "meta_step", "ecosystem/polarisation", "ecosystem/wellbeing", "algorithms/home/own_loss",
        "perf/steps_per_second",
    }  # fmt: skip
    assert 9 not in logged


def test_the_offline_run_has_matrices_tables_and_files(run_dir: Path) -> None:
    last = history(run_dir)[3]
    assert last["interactions/polarisation/home__on__takedown"] == 0.5
    assert last["interactions/polarisation/takedown__on__home"] == -0.25
    kinds = [record["type"] for record in records(run_dir)]
    assert "artifact" in kinds and kinds.count("exit") == 2
    media = {path.name for path in (run_dir / "wandb").glob("*/files/media/**/*") if path.is_file()}
    assert any(name.endswith(".table.json") for name in media)
    assert any(name.startswith("matrix_") and name.endswith(".plotly.json") for name in media)


def test_the_offline_run_knows_its_identity_and_configuration(run_dir: Path) -> None:
    everything = records(run_dir)
    runs = [record["run"] for record in everything if record["type"] == "run"]
    assert [run["run_id"] for run in runs] == ["abcdef", "abcdef"]  # continued, not begun anew
    settings = runs[0]["config"]["update"]
    assert settings["recommenders"]["home"] == to_mapping(CONFIG)["recommenders"]["home"]
    assert settings["parameters"]["opinion_rate"] == 0.08
    summary = [record["summary"]["update"] for record in everything if record["type"] == "summary"]
    assert any(update.get("final/polarisation") == 0.25 for update in summary)
    assert any(record["type"] == "metric" and record["metric"].get("glob_name") == "*" for record in everything)


def test_a_stage_that_counts_from_the_start_again_is_logged_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(variable)
    tracker = tracking.start(LogConfig(), run_dir=tmp_path, run_id="abc", config={}, name="x")
    for step, name in ((3, "a"), (3, "b"), (0, "late"), (0, "later"), (1, "last")):
        tracker.log(step, {name: 1.0})
    tracker.finish({})
    rows = history(tmp_path)
    found = [(row["meta_step"], sorted(set(row) - {"meta_step"})) for _, row in sorted(rows.items())]
    assert found == [(3, ["a", "b"]), (0, ["late", "later"]), (1, ["last"])]


def test_disabled_does_nothing(tmp_path: Path) -> None:
    tracker = tracking.start(LogConfig(wandb="disabled"), run_dir=tmp_path, run_id="x", config={}, name="x")
    for function in tracker:
        function(1, 2, 3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_wandb_is_told_where_to_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    import wandb

    told: list[Any] = []

    def init(**named: Any) -> None:
        told.append(named["mode"])
        raise OSError("no more is needed")

    monkeypatch.setattr(wandb, "init", init)
    tracking.start(LogConfig(wandb=mode), run_dir=tmp_path, run_id="x", config={}, name="x")
    assert told == [mode]


def test_no_key_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    tracker = tracking.start(LogConfig(wandb="online"), run_dir=tmp_path, run_id="x", config={}, name="x")
    tracker.log(1, {"a": 1})
    tracker.finish({})
    said = capsys.readouterr().err
    assert said.count("warning") == 1 and "the run folder has everything" in said


def test_any_failure_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    def broken(**named: Any) -> None:
        raise OSError("the network is down\nand so on")

    monkeypatch.setattr(wandb, "init", broken)
    tracker = tracking.start(LogConfig(), run_dir=tmp_path, run_id="x", config={}, name="x")
    tracker.log(0, {"a": 1.0})
    assert "(the network is down and so on)" in " ".join(capsys.readouterr().err.split())

    class Run:
        """A run whose disk is full from the second row on."""

        dir, url = str(tmp_path), ""
        rows = 0

        def define_metric(self, *arguments: Any, **named: Any) -> None:
            pass

        def log(self, *arguments: Any, **named: Any) -> None:
            self.rows += 1
            if self.rows > 1:
                raise RuntimeError("disk full")

    run = Run()
    monkeypatch.setattr(wandb, "init", lambda **named: run)
    tracker = tracking.start(LogConfig(), run_dir=tmp_path, run_id="x", config={}, name="x")
    for step in range(4):
        tracker.log(step, {"a": 1.0})
    tracker.log_matrix(1, "x", ["a"], np.zeros((2, 3)))
    tracker.finish({})
    said = capsys.readouterr().err
    assert run.rows == 2 and said.count("warning") == 1 and "disk full" in said


class OutOfOrder:
    """Instead of wandb and of all that it gives: remembers what is called by its path, and fails where it is told to."""

    def __init__(self, calls: list[str], fails: str, name: str = "") -> None:
        self._calls, self._fails, self._name = calls, fails, name

    def __getattr__(self, name: str) -> "OutOfOrder":
        if name.startswith("__"):
            raise AttributeError(name)
        return OutOfOrder(self._calls, self._fails, f"{self._name}.{name}".lstrip("."))

    def __call__(self, *arguments: Any, **named: Any) -> "OutOfOrder":
        self._calls.append(self._name)
        if self._name == self._fails:
            raise RuntimeError(f"{self._name} is out of order")
        return self

    def __contains__(self, name: str) -> bool:
        return True  # `Settings.model_fields` has everything

    def __int__(self) -> int:
        return 0


EVERY_CALL = (
    "Settings", "init", "init.define_metric", "init.log", "Plotly", "Table", "Artifact", "Artifact.add_file",
    "init.log_artifact", "init.summary.update", "init.finish",
)  # fmt: skip


@pytest.mark.parametrize("fails", ["none", "import", *EVERY_CALL])
def test_whatever_call_of_wandb_fails_nothing_is_raised_and_it_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fails: str
) -> None:
    calls: list[str] = []
    monkeypatch.setitem(sys.modules, "wandb", None if fails == "import" else OutOfOrder(calls, fails))
    before = dict(os.environ)
    (tmp_path / "x.npz").write_bytes(b"arrays")
    tracker = tracking.start(LogConfig(), run_dir=tmp_path, run_id="x", config=to_mapping(CONFIG), name="x")
    for step, row in enumerate(ROWS):
        tracker.log(step, row)
    tracker.log_matrix(3, "interactions/polarisation", ["a", "b"], np.zeros((2, 2)))
    tracker.log_figure(3, "interactions/polarisation/matrix", {})
    tracker.log_table(3, "interactions/all", ["a"], [[1.0]])
    tracker.artifact(tmp_path / "x.npz", "x", "interactions")
    tracker.finish({"done": 1})
    said = " ".join(capsys.readouterr().err.split())
    assert dict(os.environ) == before  # also where nothing is logged to the end
    if fails == "none":
        # All calls there are: one that is added has to fail here, too.
        assert said == "" and set(calls) == set(EVERY_CALL)
        return
    assert said.count("warning") == 1 and "the run folder has everything" in said
    if fails != "import":
        assert f"({fails} is out of order)" in said and calls[-1] == fails  # nothing is called after it


def test_names_and_pairs() -> None:
    assert tracking.metric_name("perf/steps per s!") == "perf/steps_per_s_" and tracking.metric_name("1st") == "_1st"
    labels = [f"a{i}" for i in range(9)]
    assert tracking.pairs("x", labels, np.zeros((9, 9))) == {}
    assert len(tracking.pairs("x", labels[:8], np.zeros((8, 8)))) == 56
    with pytest.raises(ValueError, match="does not belong to 2 labels"):
        tracking.pairs("x", ["a", "b"], np.zeros((3, 3)))
