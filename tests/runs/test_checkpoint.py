"""Checkpoints: bit-equal after a reload, refused when damaged or when they do not fit, whole after a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mamba.meta import optimise
from mamba.runs import checkpoint, folder, tracking, training
from mamba.runs.config import load_config, resolve
from mamba.runs.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def tree(scale: float = 1.0) -> dict[str, Any]:
    levers = {"home": {"sharpness": jnp.float32(scale), "mix": jnp.linspace(0.0, scale, 5)}}
    return {
        "levers": levers,
        "optimizer": optax.adam(0.1).init(levers),
        "key": jax.random.key_data(jax.random.key(7)),
        "half": jnp.full(3, scale, jnp.bfloat16),
        "nothing": (),
        "empty": jnp.zeros((0, 4)),
        "numpy": np.arange(4, dtype=np.int64),
        "flag": np.bool_(True),
    }


def steps(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def largest_file(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def test_there_is_none(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "absent", tree()) is None
    assert checkpoint.latest(tmp_path, tree()) is None


def test_one_of_several_processes_writes_its_folder_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """orbax would have all processes write one folder together, and fails where each has its own."""
    saved = tree(0.1)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(checkpoint, "_orbax", lambda: pytest.fail("orbax is asked"))
    checkpoint.save(tmp_path, 5, saved, {"digest": "abc"})
    found = checkpoint.latest(tmp_path, tree())
    assert found is not None and found.step == 5
    for a, b in zip(jax.tree.leaves(saved), jax.tree.leaves(found.tree), strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    file = tmp_path / "0000000005" / "state.npz"
    kept = np.load(file)
    np.savez(file, **{name: kept[name] ^ 1 if kept[name].dtype == np.uint32 else kept[name] for name in kept.files})
    with pytest.raises(UserError, match="digest does not match"):
        checkpoint.latest(tmp_path, tree())


def test_what_comes_back_is_bit_equal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    saved = tree(0.1)
    checkpoint.save(tmp_path, 5, saved, {"best": np.float32(0.1), "digest": "abc"})
    restored = checkpoint.latest(tmp_path, tree(3.0))
    assert restored is not None and restored.step == 5
    assert restored.meta == {"best": 0.10000000149011612, "digest": "abc"}
    assert jax.tree.structure(restored.tree) == jax.tree.structure(saved)
    for before, after in zip(jax.tree.leaves(saved), jax.tree.leaves(restored.tree), strict=True):
        assert isinstance(after, jax.Array) == isinstance(before, jax.Array)
        assert after.dtype == before.dtype and after.shape == before.shape
        assert np.asarray(after).tobytes() == np.asarray(before).tobytes()
        if isinstance(before, jax.Array):
            assert after.committed == before.committed and after.weak_type == before.weak_type
    assert capfd.readouterr() == ("", "")


def test_the_newest_are_kept_and_a_step_can_be_written_again(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 4):
        checkpoint.save(tmp_path, step, tree(step), {}, keep=2)
    assert steps(tmp_path) == ["0000000003", "0000000004"]
    restored = checkpoint.latest(tmp_path, tree())
    assert restored is not None and restored.step == 4


def test_one_of_the_same_step_and_digest_stays_unless_it_is_damaged(tmp_path: Path) -> None:
    final = checkpoint.save(tmp_path, 4, tree(), {"name": "x"})
    before = final.stat().st_ino
    checkpoint.save(tmp_path, 4, tree(), {"name": "x"}, run_id="of another process")
    assert final.stat().st_ino == before
    flip(largest_file(final / "state"))
    checkpoint.save(tmp_path, 4, tree(), {"name": "x"})
    assert checkpoint.latest(tmp_path, tree()) is not None
    checkpoint.save(tmp_path, 4, tree(), {"name": "y"})
    restored = checkpoint.latest(tmp_path, tree())
    assert restored is not None and restored.meta == {"name": "y"} and steps(tmp_path) == ["0000000004"]


def test_one_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, 4, tree(1.0), {}, keep=1)
    rename = os.rename

    def refused(source: Path | str, target: Path | str) -> None:
        if Path(target).name == "0000000004" and Path(source).name.startswith("."):
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refused)
    with pytest.raises(UserError, match=r"0000000004: cannot be written \(Input/output error\)"):
        checkpoint.save(tmp_path, 4, tree(2.0), {}, keep=1)
    assert steps(tmp_path) == ["0000000004"]
    restored = checkpoint.latest(tmp_path, tree())
    assert restored is not None and restored.tree["levers"]["home"]["sharpness"] == 1.0


def test_the_one_just_written_stays_although_damaged_ones_are_newer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(largest_file(checkpoint.save(tmp_path, 9, tree(9.0), {}) / "state"))
    checkpoint.save(tmp_path, 7, tree(7.0), {}, keep=1)
    restored = checkpoint.latest(tmp_path, tree())
    assert restored is not None and restored.step == 7 and "0000000009 is damaged" in capsys.readouterr().err


def test_it_says_where_it_was_made(tmp_path: Path) -> None:
    saved = [checkpoint.save(tmp_path / str(k), 5, tree(), {"name": "x"}, run_id=f"{k}") for k in range(2)]
    records = [json.loads((path / "checkpoint.json").read_text()) for path in saved]
    assert (records[0]["step"], records[0]["format"]) == (5, checkpoint.FORMAT)
    told = records[0]["provenance"]
    whole = folder.provenance("x")
    assert {name: told[name] for name in ("python", "platform", "versions")} == {
        name: whole[name] for name in ("python", "platform", "versions")
    }
    assert {"mamba-ecosystems", "jax", "flax", "optax", "orbax-checkpoint"} <= set(told["versions"])
    assert (told["git"] or {}).get("commit") == (whole["git"] or {}).get("commit")
    assert (told["device_kind"], told["devices"], told["processes"]) == (
        jax.devices()[0].device_kind,
        len(jax.devices()),
        1,
    )
    # Equal states have equal digests, whoever saved them.
    assert [record["provenance"]["run_id"] for record in records] == ["0", "1"]
    assert records[0]["digest"] == records[1]["digest"]
    restored = checkpoint.latest(tmp_path / "0", tree())
    assert restored is not None and restored.provenance == told and restored.meta == {"name": "x"}


def test_one_of_an_older_version_is_read(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 5, tree(), {"name": "x"}) / "checkpoint.json"
    record = json.loads(path.read_text())
    assert set(record) == {"format", "step", "leaves", "digest", "meta", "provenance"}
    del record["provenance"]  # they had all but that
    path.write_text(json.dumps(record, indent=1, sort_keys=True))
    restored = checkpoint.latest(tmp_path, tree())
    assert restored is not None and restored.step == 5 and restored.provenance == {}


def test_that_of_a_training_holds_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(ROOT / "configs" / "smoke.yaml", ["meta.steps=1", "meta.keep={trust: 1.0}"])
    one = np.zeros(1, np.float32)
    before = optimise.TrainingState(np.int32(0), one, (), one, one, ())
    told = SimpleNamespace(told={"skipped": False}, utility=0.0)
    monkeypatch.setattr(optimise, "step", lambda trainer, state: (state._replace(step=np.int32(1)), told))
    monkeypatch.setattr(training, "row", lambda job, state, told: {})
    monkeypatch.setattr(training, "_passing", lambda *given: [])
    metrics = folder.open_metrics(tmp_path / folder.METRICS)
    job: Any = SimpleNamespace(config=config)
    trainer: Any = None
    training.train(job, trainer, before, path=tmp_path, metrics=metrics, tracker=tracking.nothing(), stop=lambda: False)
    metrics.close()
    restored = checkpoint.latest(tmp_path / folder.CHECKPOINTS, before)
    assert restored is not None
    assert resolve(restored.meta["config"]) == config and restored.meta["name"] == config.name
    assert restored.provenance["run_id"] == folder.run_id(tmp_path)


def test_a_damaged_one_is_refused_and_the_one_before_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2, 3, 4, 5):
        checkpoint.save(tmp_path, step, tree(step), {"step": step}, keep=9)
    flip(largest_file(tmp_path / "0000000005" / "state"))
    shutil.rmtree(tmp_path / "0000000004" / "state")
    record = tmp_path / "0000000003" / "checkpoint.json"
    record.write_text(record.read_text()[:100])
    record = tmp_path / "0000000002" / "checkpoint.json"
    record.write_text(record.read_text().replace('"step": 2', '"step": 1'))
    restored = checkpoint.latest(tmp_path, tree())
    assert restored is not None and restored.step == 1 and restored.meta == {"step": 1}
    said = " ".join(capsys.readouterr().err.split())
    for step in (2, 3, 4, 5):
        assert f"checkpoint 000000000{step} is damaged" in said
    assert said.count("going back to 0000000001") == 4


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    final = checkpoint.save(tmp_path, 1, {"x": jnp.arange(64.0)}, {})
    like = {"x": jnp.zeros(64)}
    files = sorted(path for path in (final / "state").rglob("*") if path.is_file())
    for path in files:
        whole = path.read_bytes()
        for place in range(0, len(whole), max(1, len(whole) // 6)):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            try:
                restored = checkpoint.latest(tmp_path, like)
            except UserError:
                continue
            assert restored is not None  # a byte that means nothing, such as a time stamp
            np.testing.assert_array_equal(restored.tree["x"], np.arange(64.0))
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"half": jnp.zeros(3)}, "['half'] is bfloat16[3] there and float32[3] here"),
        ({"half": jnp.zeros(4, jnp.bfloat16)}, "['half'] is bfloat16[3] there and bfloat16[4] here"),
        ({"empty": jnp.zeros((0, 5))}, "['empty'] is float32[0, 4] there and float32[0, 5] here"),
        ({"more": jnp.zeros(1)}, "['more'] is absent there and float32[1] here"),
        ({"nothing": jnp.zeros(1)}, "['nothing'] is absent there and float32[1] here"),
    ],
)
def test_one_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    checkpoint.save(tmp_path, 1, tree(), {})
    with pytest.raises(UserError) as error:
        checkpoint.latest(tmp_path, {**tree(), **change})
    assert message in str(error.value)
    assert "to start anew, remove" in str(error.value)


def test_another_format_is_refused(tmp_path: Path) -> None:
    record = checkpoint.save(tmp_path, 1, tree(), {}) / "checkpoint.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "format": 99}))
    with pytest.raises(UserError, match="has format 99, this version of mamba reads format 1"):
        checkpoint.latest(tmp_path, tree())


def test_a_kill_while_saving_leaves_whole_ones(tmp_path: Path) -> None:
    code = f"""
import numpy as np
from mamba.runs import checkpoint
print("ready", flush=True)
for step in range(1, 10_000):
    checkpoint.save({str(tmp_path)!r}, step, {{"x": np.full(200_000, step, np.float32)}}, {{"step": step}}, keep=2)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    like = {"x": np.zeros(200_000, np.float32)}
    last = 0
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not any(path.name >= "0000000006" for path in tmp_path.iterdir()):
            time.sleep(0.01)
        time.sleep(0.013)
        process.send_signal(signal.SIGKILL)
    restored = checkpoint.latest(tmp_path, like)
    assert restored is not None and restored.step >= 6 and restored.meta == {"step": restored.step}
    np.testing.assert_array_equal(restored.tree["x"], restored.step)
    last = restored.step
    checkpoint.save(tmp_path, last + 1, like, {}, keep=1)  # the leftovers of the kill are cleared away
    assert steps(tmp_path) == [f"{last + 1:010d}"]


def test_a_kill_at_any_change_of_a_save_loses_nothing_but_that_save(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(Path(__file__).with_name("killed.py")), str(tmp_path / "attempts")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    attempts = [line.split() for line in result.stdout.splitlines()]
    # Each was killed, its command repeated, and what both left is what one process leaves; nothing half-written had a final name.
    assert {tuple(words[1:4]) for words in attempts} == {("killed", "0", "True")}, result.stdout
    assert "warning" not in result.stderr
    left = {work: {" ".join(words[4:]) for words in attempts if words[0] == work} for work in ("train", "again")}
    # Before the new one is begun, while it is built, and while the oldest is removed.
    assert left["train"] == {
        "0000000001 0000000002",
        ".0000000003 0000000001 0000000002",
        "0000000001 0000000002 0000000003",
    }
    # The only one is there until that which replaces it is, under its own name or put aside.
    assert left["again"] == {
        "0000000003",
        ".0000000003 0000000003",
        ".0000000003 0000000003.aside",
        "0000000003 0000000003.aside",
    }


@pytest.mark.parametrize("room", [0, 300, 100_000])
def test_a_full_disk_is_one_clear_line_and_the_one_before_is_intact(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], room: int
) -> None:
    resource = pytest.importorskip("resource")  # not on every system
    checkpoint.save(tmp_path, 1, tree(1.0), {"step": 1})
    large = {**tree(2.0), "large": np.random.default_rng(0).random(50_000)}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))  # no file may be larger: the nearest to a full disk
    try:
        with pytest.raises(UserError) as error:
            checkpoint.save(tmp_path, 2, large, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(error.value) == (
        f"{tmp_path / '0000000002'}: cannot be written (File too large); make room or give the rights, and run again"
    )
    assert capfd.readouterr() == ("", "")  # none of what orbax says of it
    assert steps(tmp_path) == ["0000000001"]  # no rest takes the room that is left
    restored = checkpoint.latest(tmp_path, tree())
    assert restored is not None and restored.meta == {"step": 1}
    checkpoint.save(tmp_path, 2, large, {})
    assert steps(tmp_path) == ["0000000001", "0000000002"]


@pytest.mark.parametrize(
    "message",
    [
        "RESOURCE_EXHAUSTED: Error writing 00000: Failed to write 9 bytes: No space left on device [os_error_code='28']",
        "OUT_OF_RANGE: Failed to write 9 bytes: No space left on device [tensorstore_spec='{...']",
    ],
)
def test_a_disk_that_fills_up_while_orbax_writes_is_the_same_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    checkpoint.save(tmp_path, 1, tree(1.0), {})

    def full(path: Path, leaves: Any) -> None:
        path.mkdir()
        (path / "half").write_text("x")
        raise ValueError(message)

    monkeypatch.setattr(checkpoint, "_orbax", lambda: (full, None))
    with pytest.raises(UserError, match=r"0000000002: cannot be written \(No space left on device\); make room"):
        checkpoint.save(tmp_path, 2, tree(2.0), {})
    assert steps(tmp_path) == ["0000000001"]
    monkeypatch.setattr(checkpoint, "_orbax", lambda: (lambda path, leaves: {}["another error"], None))
    with pytest.raises(KeyError):  # a fault of the program is not called a full disk
        checkpoint.save(tmp_path, 2, tree(2.0), {})
