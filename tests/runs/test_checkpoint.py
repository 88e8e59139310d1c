"""Checkpoints: bit-equal after a reload, refused when damaged or when they do not fit, whole after a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mamba.runs import checkpoint
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
    assert {tuple(words[:3]) for words in attempts} == {("killed", "0", "True")}, result.stdout
    assert "warning" not in result.stderr
    # Before the new one is begun, while it is built, and while the oldest is removed.
    left = {" ".join(words[3:]) for words in attempts}
    assert left == {
        "0000000001 0000000002",
        ".0000000003 0000000001 0000000002",
        "0000000001 0000000002 0000000003",
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
