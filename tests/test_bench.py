"""The benchmark script: its functions run, on a tiny world; nothing here judges a time."""

import importlib.util
import json
import sys
from pathlib import Path

import jax
import pytest

PATH = Path(__file__).resolve().parents[1] / "scripts" / "bench.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_script", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_script"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["bench_script"]


def test_facts_and_bandwidth(bench):
    facts = bench.machine()
    assert facts["jax"] == jax.__version__ and facts["cores"] >= 1
    assert bench.copy_bandwidth(megabytes=1, repeats=1) > 0


def test_every_case_has_the_same_number_of_candidates(bench):
    for which in ("one", "all"):
        built = bench.ecosystem(which, 50, 0)
        proposed = sum(getattr(bench.registry.KINDS[a.kind].config(), "proposals", 0) for a in built.algorithms)
        proposed = 4 if which == "one" else proposed
        assert built.sizes.in_network + proposed == bench.CANDIDATES


def test_blocks(bench, monkeypatch):
    assert bench.default_block(1000) == 0
    if not bench.on_accelerator():
        assert bench.default_block(1_000_000) == bench.CPU_BLOCK
    monkeypatch.setattr(bench, "on_accelerator", lambda: True)
    assert bench.default_block(1_000_000) == 0


def test_a_quick_run_prints_and_writes(bench, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench, "copy_bandwidth", lambda: 1e10)
    cache = jax.config.jax_enable_compilation_cache
    try:
        target = tmp_path / "bench.json"
        bench.main(["--users", "60", "--steps", "2", "--repeats", "1", "--cases", "a", "--json", str(target)])
    finally:
        jax.config.update("jax_enable_compilation_cache", cache)
    text = capsys.readouterr().out
    assert "one recommender, sampled" in text and ">= 500k" in text and "RecSim NG" in text
    written = json.loads(target.read_text())
    (row,) = written["speeds"]
    assert row["users"] == 60 and row["user_steps_per_s"] > 0 and 0 < row["roofline"]
    assert written["gradients"] == [] and written["memory"] == []


@pytest.mark.slow
def test_gradient_and_memory(bench):
    slope = bench.slope(60, 0, repeats=1, steps=2)
    assert slope.multiple > 0 and slope.compile_s > 0
    rows = bench.memory(steps=(2,), users=40)
    assert {row["kept"] for row in rows} == {"default", "a state a step", "everything"}
    assert "T = 2" in bench.memory_table(rows)
    assert "meta-gradient" in bench.slope_table([slope])


@pytest.mark.slow
def test_factorial(bench, monkeypatch):
    monkeypatch.setattr(bench, "FACTORIAL_KINDS", ("popularity", "demotion"))
    crossed = bench.factorial(users=60, seeds=2, steps=2)
    assert crossed.rollouts == 8
    assert crossed.difference < 1e-5  # the batch and one by one are the same rollouts
    assert crossed.wall_ratio > 0 and crossed.ratio_skipping > 0
    assert "2^2 factorial x 2 seeds" in bench.factorial_table(crossed)
