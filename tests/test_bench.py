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
    assert written["gradients"] == [] and written["memory"] == [] and written["compile"] == []
    assert written["beside_peers"] == []


def test_peers_alone_run_no_other_part(bench, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench, "copy_bandwidth", lambda: 1e10)
    asked = []
    monkeypatch.setattr(
        bench, "beside_peers", lambda names, users, steps, **options: asked.append((names, users, steps)) or []
    )
    cache = jax.config.jax_enable_compilation_cache
    try:
        bench.main(["--peers", "mesa", "--steps", "3"])
        bench.main(["--peers", "--quick"])
    finally:
        jax.config.update("jax_enable_compilation_cache", cache)
    everyone = tuple(bench.peers_module().PEERS)
    assert asked == [(["mesa"], 0, 3), (everyone, 1000, 50)]  # 0 users: the whole network
    assert "user-steps/s" not in capsys.readouterr().out


def test_an_unknown_peer_is_refused_before_anything_is_measured(bench, capsys):
    with pytest.raises(SystemExit):
        bench.main(["--peers", "nobody"])
    said = capsys.readouterr()
    assert "no peer is called nobody; known: ndlib" in said.err and said.out == ""


@pytest.mark.slow
def test_gradient_and_memory(bench):
    slope = bench.slope(60, 0, repeats=1, steps=2)
    assert slope.multiple > 0 and slope.compile_s > 0
    rows = bench.memory(steps=(2,), users=40)
    assert {row["kept"] for row in rows} == {"default", "a state a step", "everything"}
    assert "T = 2" in bench.memory_table(rows)
    assert "meta-gradient" in bench.slope_table([slope])


def test_the_first_kinds_have_the_same_number_of_candidates(bench):
    for count in bench.COMPILE_KINDS:
        built = bench.of_kinds(bench.KINDS[:count], 50, 0)
        proposed = sum(getattr(bench.registry.KINDS[a.kind].config(), "proposals", 0) for a in built.algorithms)
        assert len(built.algorithms) == count and built.sizes.in_network + proposed == bench.CANDIDATES


def test_the_persistent_cache_is_left_as_it_was(bench, tmp_path):
    before = jax.config.jax_enable_compilation_cache, jax.config.jax_compilation_cache_dir
    with bench.persistent_cache(str(tmp_path)):
        jax.jit(lambda x: x * 3.0 - 1.0).lower(1.0).compile()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path)
    assert any(tmp_path.iterdir())
    assert (jax.config.jax_enable_compilation_cache, jax.config.jax_compilation_cache_dir) == before


def test_the_compile_table(bench):
    rows = [bench.Compile("gradient", kinds, 60, 2, 1.0, 1.1, 2.0, 2.1, 0.2, 0.3, 1234 * kinds) for kinds in (2, 1)]
    rows.append(bench.Compile("forward, sampled", 8, 60, 2, 1.0, 1.1, 2.0, 2.1, 0.2, 0.3, 99))
    head, _, *lines = bench.compile_table(rows).splitlines()
    assert head.startswith("program") and "HLO instructions" in head
    assert [line.split("  ")[0] for line in lines] == ["forward, sampled", "gradient", "gradient"]
    assert "1,234" in lines[1] and "2.0 / 2.1" in lines[1] and "0.2 / 0.3" in lines[1]


@pytest.mark.slow
def test_compiling(bench, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench, "copy_bandwidth", lambda: 1e10)
    monkeypatch.setattr(bench, "QUICK_COMPILE_KINDS", (1,))
    cache = jax.config.jax_enable_compilation_cache
    try:
        target = tmp_path / "bench.json"
        bench.main(["--quick", "--cases", "compile", "--json", str(target)])
    finally:
        jax.config.update("jax_enable_compilation_cache", cache)
    forward, gradient = json.loads(target.read_text())["compile"]
    assert (forward["program"], gradient["program"]) == ("forward, sampled", "gradient")
    assert 0 < forward["instructions"] < gradient["instructions"]
    assert all(row[name] > 0 for row in (forward, gradient) for name in ("trace_cpu_s", "compile_wall_s", "warm_cpu_s"))
    assert "from the cache s" in capsys.readouterr().out


@pytest.mark.slow
def test_factorial(bench, monkeypatch):
    monkeypatch.setattr(bench, "FACTORIAL_KINDS", ("popularity", "demotion"))
    crossed = bench.factorial(users=60, seeds=2, steps=2)
    assert crossed.rollouts == 8
    assert crossed.difference < 1e-5  # the batch and one by one are the same rollouts
    assert crossed.wall_ratio > 0 and crossed.ratio_skipping > 0
    assert "2^2 factorial x 2 seeds" in bench.factorial_table(crossed)
