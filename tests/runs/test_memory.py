"""How much memory there is, also in a container or in a job of a cluster."""

from __future__ import annotations

import math
from pathlib import Path

import jax
import pytest

from mamba.runs import memory


def _group(place: Path, **files: object) -> None:
    place.mkdir(parents=True)
    for name, value in files.items():
        (place / name.replace("__", ".")).write_text(f"{value}\n")


def test_a_group_leaves_what_those_it_is_part_of_leave(tmp_path: Path) -> None:
    own, root = tmp_path / "own", tmp_path / "root"
    own.write_text("0::/job/step\n")
    _group(root / "job", memory__max=1000, memory__current=300, memory__stat="anon 250\ninactive_file 40")
    assert memory.of_control_groups(own, root) == 740  # the step itself is not to be seen here
    (root / "job" / "step").mkdir()
    assert memory.of_control_groups(own, root) == 740
    for name, value in (("memory.max", "max"), ("memory.current", 10), ("memory.stat", "inactive_file 0")):
        (root / "job" / "step" / name).write_text(f"{value}\n")
    assert memory.of_control_groups(own, root) == 740
    (root / "job" / "step" / "memory.max").write_text("200\n")
    assert memory.of_control_groups(own, root) == 190
    (root / "job" / "memory.current").write_text("1200\n")
    assert memory.of_control_groups(own, root) == 0


def test_groups_of_the_first_version_are_understood(tmp_path: Path) -> None:
    own, root = tmp_path / "own", tmp_path / "root"
    own.write_text("9:name=systemd:/\n4:cpu,memory:/seen/from/the/host\n1:cpu:/\n0::/\n")
    facts = "inactive_file 1\ntotal_inactive_file 50"
    _group(root / "memory", memory__limit_in_bytes=500, memory__usage_in_bytes=400, memory__stat=facts)
    assert memory.of_control_groups(own, root) == 150


def test_where_no_group_says_anything_memory_is_not_limited(tmp_path: Path) -> None:
    assert memory.of_control_groups(tmp_path / "missing", tmp_path) == math.inf
    (tmp_path / "own").write_text("no groups\n4:memory:/x\n")
    assert memory.of_control_groups(tmp_path / "own", tmp_path / "root") == math.inf


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="an accelerator says itself what it has")
def test_the_tighter_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = memory.free_memory()
    assert 0 < whole < math.inf
    monkeypatch.setattr(memory, "of_control_groups", lambda own, mounted: whole / 3)
    assert memory.free_memory() == whole / 3
