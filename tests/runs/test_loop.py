"""The main job end to end on the smoke preset: what it leaves, that it repeats bit by bit, and that it survives a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from mamba import cli
from mamba import members as members_of
from mamba.algorithms.base import Algorithm, between, positive
from mamba.meta import vector
from mamba.objectives import NAMES
from mamba.runs import analysis, loop, training
from mamba.runs import folder as folders
from mamba.runs.config import config_digest, dump_yaml, load_config
from mamba.runs.errors import UserError
from mamba.runs.folder import load_run

ROOT = Path(__file__).parents[2]
# Without the stage of second-order effects, which takes most of a minute to compile; `test_second_order_stage` has it.
TINY = [
    *("--scenario.users=60", "--steps=6", "--log.wandb=disabled", "--second_order.seeds=0", "--interactions.every=3"),
]
SECOND_ORDER = ["--second_order.seeds=2", "--second_order.audit_seeds=4", "--second_order.audit_pairs=4"]


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
    training = [*["training"] * 3, "shifts", "training", "shifts"]
    assert stages == ["interactions", *training, "restoration", "evaluation"]
    assert [row["meta_step"] for row in run.metrics if row["stage"] == "shifts"] == [3, 4]
    assert run.summary["finished"] is True
    assert set(run.summary["objectives"]) == set(NAMES)
    chex.assert_shape(run.interactions["values"], (2, 8, len(NAMES)))
    chex.assert_tree_all_finite(run.interactions["values"])
    page = (finished / "report" / "index.html").read_text(encoding="utf-8")
    assert "toxic exposure" in page
    assert run.summary["stages"] == ["evaluation", "interactions", "training"]
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
    for name in ("metrics.jsonl", "interactions.npz"):
        assert (again / name).read_bytes() == (finished / name).read_bytes()
    one, other = (json.loads((path / "summary.json").read_text(encoding="utf-8")) for path in (again, finished))
    assert {name for name in other if one[name] != other[name]} <= {"seconds", "provenance"}
    saved = [
        json.loads((path / "checkpoints" / "0000000004" / "checkpoint.json").read_text()) for path in (again, finished)
    ]
    assert saved[0]["digest"] == saved[1]["digest"]
    # Two folders are two runs to wandb, and no number depends on which.
    assert (again / "run_id").read_text() != (finished / "run_id").read_text()


def _harmed(code: str, folder: Path, cache: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """As `_run`, in a process that first carries out `code`."""
    words = _command(folder, *overrides)
    code = f"{code}\nfrom mamba.cli import main\nsys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", code, *words[words.index("run") :]],
        env=_environment(cache),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )


# The arrays of the third checkpoint are written, what says that they are whole is not.
KILLED_WHILE_SAVING = """
import os, signal, sys
def heard(event, arguments):
    if event == "open" and str(arguments[0]).endswith(os.path.join(".0000000003", "checkpoint.json")):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(heard)
"""
WANDB_OUT_OF_ORDER = """
import sys, types
def raises(name):
    raise RuntimeError("out of order")
sys.modules["wandb"] = types.ModuleType("wandb")
sys.modules["wandb"].__getattr__ = raises
"""
IN_STEP = """
import os, signal, sys
from mamba.meta import optimise
step = optimise.step
def ended(trainer, state):
    if int(state.step) == %d:
        os.kill(os.getpid(), signal.%s)
    return step(trainer, state)
optimise.step = ended
"""
TERMINATED_AFTER_A_CHUNK_OF = """
import os, signal, sys
from mamba import members
from mamba.meta import optimise, restore
from mamba.runs import restoration
chunks, state_at = members.in_chunks, []
def in_chunks(run, inputs, some, *, chunk, done):
    def told(finished):
        if state_at:
            os.kill(os.getpid(), signal.SIGTERM)
            assert finished < len(some.keys), "the evaluation has but one chunk"
        done(finished)
    return chunks(run, inputs, some, chunk=chunk, done=told)
members.in_chunks = in_chunks
def watched(function):
    def call(*given, **named):
        if %s:
            state_at.append(True)
        return function(*given, **named)
    return call
optimise.step, restore.restored = watched(optimise.step), watched(restore.restored)
"""
IN_THE_THIRD_STEP = "function.__name__ == 'step' and int(given[1].step) == 2"
IN_THE_RESTORATION = "function.__name__ == 'restored'"
FULL_DISK_IN_THE_THIRD_SAVE = """
import resource, sys
from mamba.runs import checkpoint
save = checkpoint.save
def full(directory, step, *given, **named):
    if step == 3:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    return save(directory, step, *given, **named)
checkpoint.save = full
"""


def _checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


@pytest.mark.slow  # `test_checkpoint` kills at every change of a save
def test_killed_during_a_save_and_repeated_is_bit_equal(finished, cache, tmp_path):
    folder = tmp_path / "killed"
    overrides = ["--checkpoint.every=1", "--allow-config-change"]
    # The reference has other checkpoint settings, which must not change a single number.
    result = _harmed(KILLED_WHILE_SAVING, folder, cache, *overrides)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert _checkpoints(folder) == [".0000000003", "0000000001", "0000000002"]
    assert not (folder / "summary.json").exists()
    # And as if that were not enough: the newest whole one is damaged, and no call of wandb does its work.
    arrays = max((folder / "checkpoints" / "0000000002").rglob("d/*"), key=lambda path: path.stat().st_size)
    arrays.write_bytes(bytes(byte ^ 0x10 for byte in arrays.read_bytes()))
    result = _harmed(WANDB_OUT_OF_ORDER, folder, cache, *overrides, "--log.wandb=offline")
    assert result.returncode == 0, result.stderr
    warnings = [line for line in result.stderr.splitlines() if "warning" in line]
    assert len(warnings) == 2, result.stderr
    assert "checkpoint 0000000002 is damaged" in warnings[0] and "going back to 0000000001" in warnings[0]
    assert "wandb failed and is left out from here on" in warnings[1]
    assert (folder / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()


@pytest.mark.slow
def test_a_run_tells_what_is_second_order_and_changes_no_number_for_it(finished, cache, tmp_path):
    result = _run(tmp_path / "run", cache, *SECOND_ORDER)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()
    assert "second_order" in load_run(tmp_path / "run").summary["stages"]
    assert "Missed by the one-step view" in (tmp_path / "run" / "report" / "index.html").read_text(encoding="utf-8")


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


def test_a_termination_signal_saves_within_one_chunk(finished, cache, tmp_path):
    folder = tmp_path / "stopped"
    result = _harmed(IN_STEP % (1, "SIGTERM"), folder, cache)
    assert result.returncode == 0, result.stderr
    assert "stopped in good order; the same command continues" in result.stderr
    # The step it came in was finished and saved, though no checkpoint was due, and none was begun after it.
    assert [row["stage"] for row in load_run(folder).metrics] == ["interactions", "training", "training"]
    assert _checkpoints(folder) == ["0000000002"] and not (folder / "summary.json").exists()
    result = _run(folder, cache)
    assert result.returncode == 0, result.stderr
    assert (folder / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()


@pytest.mark.slow  # `test_checkpoint` fills the disk at a save
def test_a_full_disk_takes_nothing_away(finished, cache, tmp_path):
    folder = tmp_path / "full"
    assert _harmed(IN_STEP % (1, "SIGTERM"), folder, cache).returncode == 0
    overrides = ["--checkpoint.every=1", "--allow-config-change"]
    result = _harmed(FULL_DISK_IN_THE_THIRD_SAVE, folder, cache, *overrides)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("mamba-eco:")]
    assert len(lines) == 1 and "0000000003: cannot be written (File too large); make room" in lines[0], result.stderr
    assert _checkpoints(folder) == ["0000000002"] and not (folder / "summary.json").exists()
    result = _run(folder, cache, *overrides)
    assert result.returncode == 0, result.stderr
    assert (folder / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()


@pytest.mark.slow
def test_interactions_of_trained_levers_are_kept_where_their_levers_were_saved(finished, cache, tmp_path):
    for name, saved in (("SIGTERM", True), ("SIGKILL", False)):
        folder = tmp_path / name
        result = _harmed(IN_STEP % (3, name), folder, cache)
        assert result.returncode == (0 if saved else -signal.SIGKILL), result.stderr
        left = [row["stage"] for row in load_run(folder).metrics]
        assert left == ["interactions", *["training"] * 3, "shifts", *["training"] * saved]
        result = _run(folder, cache)
        assert result.returncode == 0, result.stderr
        assert "levers after meta-step 4" in result.stderr
        assert ("levers after meta-step 3" not in result.stderr) == saved
        assert (folder / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()


@pytest.mark.slow  # compiles for smaller chunks; `test_stops` has the rule
def test_an_evaluation_is_left_after_a_chunk_with_the_state_before_it_saved(cache, tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "stopped"
    few = ["--chunk=2", "--evaluation.seeds=6", "--interactions.every=0"]
    assert _run(whole, cache, *few).returncode == 0
    for when, taken in ((IN_THE_THIRD_STEP, 2), (IN_THE_RESTORATION, 4)):
        result = _harmed(TERMINATED_AFTER_A_CHUNK_OF % when, folder, cache, *few)
        assert result.returncode == 0, result.stderr
        assert "stopped in good order; the same command continues" in result.stderr
        stages = [row["stage"] for row in load_run(folder).metrics]
        assert stages == ["interactions", *["training"] * taken]
        assert _checkpoints(folder)[-1] == f"{taken:010}"
    assert _run(folder, cache, *few).returncode == 0
    for name in ("metrics.jsonl", "interactions.npz"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["--scenario.dataset=nowhere.csv"], "nowhere.csv"),
        (["--scenario.dataset=twitch_engbb"], "twitch_engb"),
        (["--scenario.opinions=twitch_engb"], "scenario.opinions"),
        (["--evaluation.transfer=['twitch_xx']"], "evaluation.transfer: no network is called 'twitch_xx'"),
        (["--meta.spread.gravity=0.1"], "meta.spread: no world parameter is called 'gravity'"),
        (["--scenario.users=-5"], "scenario.users"),
        (["--scenario.users=1"], "scenario.users: 1 leaves nobody to follow"),
        (["--parameters.check_delay=30"], "parameters.check_delay: 30 is not a whole number below scenario.lifetime"),
        (["--meta.step=3"], "Did you mean 'steps'"),
        (["--recommenders.home.kind=engagment"], "engagement"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, monkeypatch, capsys, overrides, words):
    assert words in _refusal("run", tmp_path / "bad", monkeypatch, capsys, *overrides)


def _refusal(job, path, monkeypatch, capsys, *overrides):
    """The one line that a command in this process refuses its settings with."""
    monkeypatch.setattr(cli, "use_compilation_cache", lambda: None)
    monkeypatch.setattr(cli, "use_all_cores", lambda: None)
    assert cli.main([job, str(ROOT / "configs" / "smoke.yaml"), "--run_dir", str(path), *TINY, *overrides]) == 2
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if line.startswith("mamba-eco:")]
    assert "Traceback" not in said
    assert not (path / "config.yaml").exists()  # the corrected command is not refused
    return line


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


# ---- a folder whose configuration changes, or that is damaged


def _config(*overrides: str):
    return load_config(ROOT / "configs" / "smoke.yaml", [*TINY, *overrides])


def _kept(path: Path, *overrides: str):
    config = _config(*overrides)
    names = tuple(each.name for each in config.algorithms)
    found = analysis.kept(SimpleNamespace(config=config, ecosystem=SimpleNamespace(names=names)), path)
    return None if found is None else found.values


@pytest.fixture
def copied(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "copied"))


def _contents(path: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file() and file.name != ".lock"}


def test_a_summary_of_another_configuration_is_not_finished(copied):
    config = _config()
    assert loop._finished(copied, config_digest(config))["finished"] is True
    assert loop._finished(copied, config_digest(_config("--seed=7"))) is None


@pytest.mark.slow  # `test_a_summary_of_another_configuration_is_not_finished` has the rule
def test_a_change_that_was_killed_is_carried_out_by_the_same_command(copied, cache):
    before = load_run(copied)
    overrides = ["--parameters.confidence=0.5", "--evaluation.seeds=3", "--allow-config-change"]
    # As a kill right after the claim leaves it: the new configuration with the results of the old one.
    (copied / "config.yaml").write_text(dump_yaml(_config(*overrides[:2])), encoding="utf-8")
    result = _run(copied, cache, *overrides)
    assert result.returncode == 0, result.stderr
    assert "nothing to do" not in result.stderr and "interactions.npz is of another" in result.stderr
    after = load_run(copied)
    assert after.summary["seeds"]["evaluation"] == 3
    assert after.summary["provenance"]["config_digest"] == config_digest(_config(*overrides[:2]))
    assert not np.array_equal(before.interactions["values"], after.interactions["values"])
    (row,) = [row for row in after.metrics if row["stage"] == "interactions"]
    at = NAMES.index("polarisation")
    assert row["interactions/polarisation/home"] == after.interactions["switch_off_mean"][0, at]
    (old,) = [row for row in before.metrics if row["stage"] == "interactions"]
    assert row != old


def test_interactions_are_kept_where_nothing_that_decides_them_changed(copied):
    values = load_run(copied).interactions["values"]
    for same in ([], ["--meta.steps=9"], ["--interactions.confidence=0.9"], ["--log.group=x"], ["--chunk=3"]):
        np.testing.assert_array_equal(_kept(copied, *same), values)
    for other in (
        ["--seed=7"],
        ["--steps=7"],
        ["--interactions.seeds=3"],
        ["--parameters.memory=0.5"],
        ["--moderators.takedown.threshold=0.7"],
        ["--moderators.downrank=None"],
        ["--recommenders.more={kind: popularity}"],
    ):
        assert _kept(copied, *other) is None, other
    arrays = folders.read_arrays(copied / "interactions.npz")
    folders.write_arrays(copied / "interactions.npz", {**arrays, "values": values[:1]})
    with pytest.raises(UserError, match=r"values has shape .*; remove it and run again"):
        _kept(copied)
    folders.write_arrays(copied / "interactions.npz", {**arrays, "objectives": arrays["objectives"][:-1]})
    assert _kept(copied) is None


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("metrics.jsonl", b"5\n", "metrics.jsonl:1: holds a number"),
        ("summary.json", b"[]\n", "summary.json: holds a list"),
        ("config.yaml", b"name: \xff\n", "config.yaml: is not UTF-8 text"),
        ("interactions.npz", b"", "interactions.npz: cannot be read"),
        ("interactions.npz", None, "interactions.npz: lacks values"),
    ],
)
def test_a_damaged_folder_is_refused_and_nothing_is_overwritten(copied, file, content, message):
    if file != "summary.json":
        (copied / "summary.json").unlink()
    if content is None:
        arrays = folders.read_arrays(copied / file)
        arrays.pop("values")
        folders.write_arrays(copied / file, arrays)
    else:
        (copied / file).write_bytes(content)
    before = _contents(copied)
    for changed in ([], ["--log.group=other"]):
        with pytest.raises(UserError) as error:
            loop.run(_config(*changed), copied, command="x", allow_config_change=True)
        assert message in str(error.value) and "\n" not in str(error.value)
    assert _contents(copied) == before


def test_a_change_that_cannot_be_made_leaves_the_folder_as_it_was(copied):
    before = _contents(copied)
    for overrides in (
        ["--scenario.dataset=nowhere.csv"],
        ["--moderators.downrank=None"],
    ):  # no file; no checkpoint fits
        with pytest.raises(UserError, match=r"nowhere\.csv|no checkpoint can be used"):
            loop.run(_config(*overrides), copied, command="x", allow_config_change=True)
        assert _contents(copied) == before


def test_every_stage_sends_chunks_of_the_configured_size(monkeypatch, capsys):
    asked = []

    def compiled(evaluate, inputs, members, *, chunk, limit):
        asked.append((chunk, limit > 2**20))
        return members_of.Compiled(None, chunk, 3 * 2**20)

    values = np.zeros((1, 5, len(NAMES) + 3))  # objectives, and own losses of three algorithms
    monkeypatch.setattr(members_of, "compiled", compiled)
    monkeypatch.setattr(members_of, "in_chunks", lambda *given, chunk, done: asked.append(chunk) or values)
    job = loop.prepare(_config("--chunk=5"))
    one = SimpleNamespace(keys=[0])
    assert job.evaluate(one).shape == (1, len(NAMES) + 3)
    assert job.measure(one).shape == (1, 5, len(NAMES))
    assert asked == [(5, True), 5, 5]  # without a warm-up one program serves both
    assert "rollouts go in chunks of 5; predicted memory 3 MiB" in capsys.readouterr().err


def _analyse(folder: Path, cache: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = _command(folder, *overrides)
    command[command.index("run")] = "analyse"
    return subprocess.run(command, env=_environment(cache), capture_output=True, text=True, cwd=ROOT, check=False)


LIGHT = ["--sensitivities.seeds=0"]  # derivatives take minutes to compile: see the slow test
SCAN = ["--emergence.lever=gates/home", "--emergence.points=3", "--emergence.hold=4", "--emergence.seeds=6"]


@pytest.mark.slow
def test_analysing_a_trained_run_adds_to_it_and_takes_nothing_away(finished, cache, tmp_path):
    copied = Path(shutil.copytree(finished, tmp_path / "copied"))
    overrides = [*LIGHT, *SCAN, "--allow-config-change"]
    result = _analyse(copied, cache, *overrides)
    assert result.returncode == 0, result.stderr
    assert "Scanning gates/home between 0 and 1" in result.stderr
    before, after = load_run(finished), load_run(copied)
    assert after.summary["stages"] == ["emergence", "interactions"]  # what was trained was another configuration
    np.testing.assert_array_equal(before.interactions["values"], after.interactions["values"])
    again = _analyse(copied, cache, *overrides)
    assert "finished; nothing to do" in again.stderr
    result = _run(copied, cache, *overrides)  # and now train it
    assert result.returncode == 0, result.stderr
    both = load_run(copied)
    assert both.summary["stages"] == ["emergence", "evaluation", "interactions", "training"]
    assert [row for row in both.metrics if row["stage"] == "evaluation"] == [
        row for row in before.metrics if row["stage"] == "evaluation"
    ]
    kinds = {each["kind"] for each in both.summary["findings"]}
    assert {"training", "emergence"} <= kinds
    assert "nothing to do" in _analyse(copied, cache, *overrides).stderr
    assert "nothing to do" in _run(copied, cache, *overrides).stderr


@pytest.mark.slow
def test_the_row_of_an_analysis_is_written_anew_where_it_is_read_otherwise(copied, cache):
    before = load_run(copied)
    overrides = ["--interactions.index=shapley_taylor", "--allow-config-change"]
    result = _run(copied, cache, *overrides)
    assert result.returncode == 0, result.stderr
    after = load_run(copied)
    np.testing.assert_array_equal(before.interactions["values"], after.interactions["values"])
    (row,) = [row for row in after.metrics if row["stage"] == "interactions"]
    (old,) = [row for row in before.metrics if row["stage"] == "interactions"]
    at = NAMES.index("polarisation")
    assert (
        row["interactions/polarisation/home__on__takedown"] == after.interactions["shapley_taylor_pair_mean"][0, 1, at]
    )
    assert row["interactions/polarisation/home__on__takedown"] != old["interactions/polarisation/home__on__takedown"]
    # Levers on the way there are not trained again: what was seen of them with the other index is dropped, and said.
    assert [each["meta_step"] for each in after.metrics if each["stage"] == "shifts"] == [4]
    assert "interactions after meta-step 3 were analysed with other settings and are dropped" in result.stderr


def test_windows_need_no_room_where_nothing_is_analysed():
    job = loop.prepare(_config("--steps=3", "--interactions.seeds=0"))
    assert job.config.interactions.windows > job.config.steps


@pytest.mark.slow
def test_analysis_from_end_to_end(cache, tmp_path):
    folder = tmp_path / "analysed"
    overrides = [
        *SCAN, "--emergence.across=world/scroll", "--emergence.across_low=0.5", "--emergence.across_high=0.9",
        "--interactions.warm_up=3", "--sensitivities.own={downrank: toxic_exposure_per_user}", "--sensitivities.steps=2",
        "--sensitivities.rounds=1", "--sensitivities.game_seeds=2", "--emergence.stationary=80",
    ]  # fmt: skip
    result = _analyse(folder, cache, *overrides)
    assert result.returncode == 0, result.stderr
    arrays = folders.read_arrays(folder / "sensitivities.npz")
    for name in ("jacobian", "externality_objective_mean", "hessian", "gap_mean", "price_mean", "conflict_mean"):
        assert name in arrays, name
    levers = len(arrays["levers"])
    assert arrays["jacobian"].shape == arrays["jacobian_direct"].shape == (8, len(NAMES) + 3, levers)
    assert not np.array_equal(arrays["jacobian"], arrays["jacobian_direct"])  # the state carries something
    emerged = folders.read_arrays(folder / "emergence.npz")
    assert emerged["phase_mean"].shape == (3, 3, len(NAMES)) and emerged["rates"].shape == (4, 3)
    assert emerged["warning_p"].shape == (2, 6, 2) and np.all(emerged["warning_false_positives"] <= 0.5)
    page = (folder / "report" / "index.html").read_text(encoding="utf-8")
    assert "Who interacts with whom" in page
    (folder / "summary.json").unlink()
    before = {name: (folder / name).read_bytes() for name in ("sensitivities.npz", "emergence.npz", "interactions.npz")}
    assert _analyse(folder, cache, *overrides).returncode == 0  # what is there is not computed again
    assert {name: (folder / name).read_bytes() for name in before} == before


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["--emergence.lever=gates/hom"], "algorithm 'hom' is unknown; did you mean 'home'?"),
        (["--emergence.lever=gates/home", "--emergence.low=2"], "goes nowhere"),
        (["--emergence.lever=levers/takedown/threshold"], "outside its range"),
        (["--emergence.across=gates/home"], "needs emergence.lever"),
        (["--emergence.stationary=5"], "give 0, or at least 80"),
        (["--sensitivities.own={nobody: wellbeing}"], "no algorithm is called 'nobody'"),
    ],
)
def test_analyses_of_what_does_not_exist_are_one_clear_line(tmp_path, monkeypatch, capsys, overrides, words):
    assert words in _refusal("analyse", tmp_path / "bad", monkeypatch, capsys, *overrides)


def test_levers_that_are_arrays_have_a_name_for_each_entry():
    bounds = {"offsets": between(-1.0, 1.0, "logits"), "strength": positive("per step")}
    levers = {"offsets": np.zeros(3, np.float32), "strength": np.float32(0.0)}
    algorithm = Algorithm("many", levers, bounds)
    given = {
        "a": {"offsets": jnp.asarray([-1.0, 0.0, 1.0]), "strength": jnp.float32(0.5)},
        "policy": {"hidden": jnp.asarray([[2.0, 3.0]])},
    }
    ecosystem = SimpleNamespace(names=("a",), algorithms=(algorithm,))
    job = SimpleNamespace(ecosystem=ecosystem, inputs=SimpleNamespace(levers=given))
    meaningful = training.meaningful_levers(job, given)
    names = ["a/offsets/0", "a/offsets/1", "a/offsets/2", "a/strength", "policy/hidden/0", "policy/hidden/1"]
    assert list(meaningful) == vector.names(given) == names
    assert all(type(value) is float for value in meaningful.values())
    wanted = [-np.tanh(0.5), 0.0, np.tanh(0.5), np.exp(0.5), 2.0, 3.0]  # weights of a policy as they are
    np.testing.assert_allclose(list(meaningful.values()), wanted, atol=1e-6)
    units = ["logits", "logits", "logits", "per step", "network weight", "network weight"]
    assert training.lever_units(job) == dict(zip(names, units, strict=True))
