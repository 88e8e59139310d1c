"""The run folder: one configuration, one process, nothing half-written."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from mamba.runs import folder
from mamba.runs.config import dump_yaml, resolve
from mamba.runs.errors import UserError
from mamba.runs.signals import graceful

ROOT = Path(__file__).resolve().parents[2]
CONFIG = dump_yaml(resolve({"recommenders": {"home": {"kind": "engagement"}}}))
OTHER = dump_yaml(resolve({"recommenders": {"home": {"kind": "engagement"}}, "meta": {"steps": 40}}))


def listing(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def test_a_folder_is_made_and_found_again(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "x"
    with folder.open_folder(path, CONFIG) as opened:
        assert opened[:3] == (path, False, ())
        assert listing(path) == [".lock"]  # given up without a claim, the folder is anybody's
        opened.claim()
        assert (path / "config.yaml").read_text() == CONFIG
    with folder.open_folder(path, CONFIG) as opened:
        assert opened.resumed and opened.changes == ()


def test_another_configuration_is_refused_with_what_differs(tmp_path: Path) -> None:
    with folder.open_folder(tmp_path, CONFIG) as opened:
        opened.claim()
    with pytest.raises(UserError, match="another configuration") as error, folder.open_folder(tmp_path, OTHER):
        pass
    assert "  meta.steps: 30 -> 40" in str(error.value).splitlines() and "--allow-config-change" in str(error.value)
    assert (tmp_path / "config.yaml").read_text() == CONFIG
    with folder.open_folder(tmp_path, OTHER, allow_config_change=True) as opened:
        assert opened.changes == ("meta.steps: 30 -> 40",)
        assert (tmp_path / "config.yaml").read_text() == CONFIG
        opened.claim()
    assert (tmp_path / "config.yaml").read_text() == OTHER


def test_a_configuration_in_another_layout_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("# a comment\n" + CONFIG)
    with folder.open_folder(tmp_path, CONFIG) as opened:
        assert opened.resumed and opened.changes == ()


def test_a_strange_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with (
        pytest.raises(UserError, match=r"is not a run folder: it holds thesis\.tex"),
        folder.open_folder(tmp_path, CONFIG, allow_config_change=True),
    ):
        pass
    assert listing(tmp_path) == ["thesis.tex"]
    with pytest.raises(UserError, match="is a file"), folder.open_folder(tmp_path / "thesis.tex", CONFIG):
        pass


def test_what_a_kill_at_the_very_start_leaves_is_no_stranger(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("process 1\n")
    (tmp_path / ".config.yaml.123").write_text("na")
    with folder.open_folder(tmp_path, CONFIG) as opened:
        assert not opened.resumed


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with folder.open_folder(tmp_path, CONFIG):
        with pytest.raises(UserError, match=rf"another process \(process {os.getpid()}\) is writing into it"):
            with folder.open_folder(tmp_path, CONFIG):
                pass
    with folder.open_folder(tmp_path, CONFIG):  # free again
        pass


def test_metrics_are_exact_and_stable(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = folder.open_metrics(path)
    row = {
        "b": jnp.float32(0.1),
        "a": np.float64(1 / 3),
        "n": np.int64(2**40),
        "x": [1, np.nan],
        "flag": np.bool_(True),
    }
    log.append({**row, "inf": math.inf, "matrix": np.eye(2, dtype=np.float32), "deep": {"k": jnp.bfloat16(1.5)}})
    text = path.read_text()  # before it is closed
    log.close()
    assert text == (
        '{"a":0.3333333333333333,"b":0.10000000149011612,"deep":{"k":1.5},"flag":true,"inf":null,'
        '"matrix":[[1.0,0.0],[0.0,1.0]],"n":1099511627776,"x":[1,null]}\n'
    )
    (read,) = folder.read_metrics(path)
    assert np.float32(read["b"]) == np.float32(0.1) and math.isnan(read["inf"]) and math.isnan(read["x"][1])
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        folder.plain(object())


def test_rows_after_the_checkpoint_go_and_a_half_written_line_too(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = folder.open_metrics(path)
    for step in range(6):
        log.append({"meta_step": step, "loss": 0.1 * step})
    log.close()
    whole = path.read_text()
    path.write_text(whole + '{"meta_step":6,"lo')
    assert [row["meta_step"] for row in folder.read_metrics(path)] == [0, 1, 2, 3, 4, 5]
    log = folder.open_metrics(path, keep=lambda row: row["meta_step"] <= 3)
    for step in (4, 5):
        log.append({"meta_step": step, "loss": 0.1 * step})
    log.close()
    assert path.read_text() == whole
    path.write_text(whole.replace('{"loss":0.2', '{"loss:0.2'))
    with pytest.raises(UserError, match=r"metrics\.jsonl:3: is not JSON"):
        folder.open_metrics(path)


def test_a_killed_process_loses_no_finished_row(tmp_path: Path) -> None:
    code = f"""
import os, signal
from mamba.runs import folder
log = folder.open_metrics({str(tmp_path / "metrics.jsonl")!r})
for step in range(151):
    log.append({{"meta_step": step}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == -signal.SIGKILL
    assert len(folder.read_metrics(tmp_path / "metrics.jsonl")) == 151


def test_files_are_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    folder.write_json(path, {"b": 1, "a": np.float32(0.5)})
    with pytest.raises(TypeError):
        folder.write_json(path, {"a": object()})
    assert folder.read_json(path) == {"a": 0.5, "b": 1}
    arrays = {"x": np.arange(3)}
    folder.write_arrays(tmp_path / "a.npz", arrays)
    first = (tmp_path / "a.npz").read_bytes()
    folder.write_arrays(tmp_path / "a.npz", arrays)
    assert (tmp_path / "a.npz").read_bytes() == first  # equal arrays, equal bytes
    with pytest.raises(ValueError):
        folder.write_arrays(tmp_path / "a.npz", {"x": [[1, 2], [3]]})
    assert listing(tmp_path) == ["a.npz", "summary.json"]


def test_load_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist; give the folder of a run"):
        folder.load_run(tmp_path / "absent")
    with folder.open_folder(tmp_path / "x", CONFIG) as opened:
        opened.claim()
        run = folder.load_run(opened.path)  # while it is being written
        assert (run.metrics, run.summary, run.interactions) == ([], None, None)
        log = folder.open_metrics(opened.path / folder.METRICS)
        log.append({"meta_step": 0, "loss": math.nan})
        log.append({"meta_step": 1, "loss": 2.0, "extra": 1.0})
        log.close()
        folder.write_json(opened.path / folder.SUMMARY, {"best": math.inf})
        folder.write_arrays(opened.path / folder.INTERACTIONS, {"index": np.eye(3)})
    run = folder.load_run(tmp_path / "x")
    assert run.config["recommenders"]["home"]["kind"] == "engagement"
    np.testing.assert_array_equal(folder.column(run.metrics, "loss"), [math.nan, 2.0])
    np.testing.assert_array_equal(folder.column(run.metrics, "extra"), [math.nan, 1.0])
    assert run.summary is not None and math.isnan(run.summary["best"])
    assert run.interactions is not None
    np.testing.assert_array_equal(run.interactions["index"], np.eye(3))
    (tmp_path / "x" / "interactions.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(UserError, match=r"interactions\.npz: cannot be read"):
        folder.load_run(tmp_path / "x")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("metrics.jsonl", b'{"stage":"training"}\n5\n', "metrics.jsonl:2: holds a number, not an object"),
        ("metrics.jsonl", b"[1]\n", "metrics.jsonl:1: holds a list, not an object"),
        ("metrics.jsonl", b"null\n", "metrics.jsonl:1: holds null, not an object"),
        ("summary.json", b"[1, 2]", "summary.json: holds a list, not an object"),
        ("summary.json", b"true", "summary.json: holds a truth value, not an object"),
        ("summary.json", b"\xff", "summary.json: cannot be read"),
        ("config.yaml", b"name: \xff\xfe\n", "config.yaml: is not UTF-8 text"),
        ("config.yaml", b"scenario: 5\n", "config.yaml: scenario holds no settings"),
    ],
)
def test_a_damaged_file_is_one_clear_line(tmp_path: Path, file: str, content: bytes, message: str) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError) as error:
        folder.load_run(tmp_path)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert (tmp_path / file).read_bytes() == content


def test_a_configuration_that_is_no_text_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(b"\xff")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        with folder.open_folder(tmp_path, CONFIG, allow_config_change=True):
            pass
    assert (tmp_path / "config.yaml").read_bytes() == b"\xff"


def test_a_full_disk_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"page\.html: cannot be written \(File exists\); make room"):
        folder.write_text(tmp_path / "file" / "page.html", "x")
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    monkeypatch.setattr(folder, "open", lambda *given, **named: open("/dev/full", "w", buffering=1), raising=False)
    log = folder.open_metrics(tmp_path / "metrics.jsonl")
    with pytest.raises(UserError, match=r"metrics\.jsonl: cannot be written \(No space left on device\)"):
        log.append({"a": 1})
    log.close()


def test_every_folder_has_a_name_of_its_own(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first = folder.run_id(tmp_path / "a")
    assert folder.run_id(tmp_path / "a") == first != folder.run_id(tmp_path / "b")
    assert len(first) == 16 and first.isalnum()


def test_provenance_is_plain_and_names_no_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = folder.provenance("mamba-eco run x", device_kind="cpu", device_count=1)
    assert facts["command"] == "mamba-eco run x" and facts["device_count"] == 1
    assert facts["versions"]["jax"] and facts["versions"]["numpy"] == np.__version__
    assert os.uname().nodename not in json.dumps({**facts, "git": None}).replace("mamba-eco run x", "").split('"')
    monkeypatch.setenv("PATH", str(tmp_path))  # no git there
    assert folder.provenance("x")["git"] is None


def test_signals_ask_for_a_stop_and_handlers_come_back() -> None:
    called: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: called.append(number))
    mine = signal.getsignal(signal.SIGUSR2)
    said: list[str] = []
    try:
        with graceful(said.append) as stop_requested:
            assert not stop_requested()
            os.kill(os.getpid(), signal.SIGUSR2)
            assert stop_requested() and called == [signal.SIGUSR2]  # the earlier handler was called too
            os.kill(os.getpid(), signal.SIGTERM)  # its default action, to end the process, was not
            os.kill(os.getpid(), signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGUSR2) is mine
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert len(said) == 1 and said[0].startswith("SIGUSR2: finishing this chunk")
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_block_around_another_hears_every_signal_too() -> None:
    said: list[str] = []
    with graceful(said.append) as outer:
        for number in (signal.SIGINT, signal.SIGTERM):
            with graceful() as inner:
                os.kill(os.getpid(), number)
                assert inner() and outer()
            with graceful() as later:
                assert not later()
        assert len(said) == 1 and said[0].startswith("SIGINT: finishing this chunk")
        with graceful(), pytest.raises(KeyboardInterrupt):  # the second one, wherever the first was heard
            os.kill(os.getpid(), signal.SIGINT)
    with graceful() as outer:
        assert not outer()
