"""The benchmark script: its functions run, on a tiny world; nothing here judges a time."""

import importlib.util
import json
import sys
from pathlib import Path

import jax
import pytest

from mamba.algorithms import registry

PATH = Path(__file__).resolve().parents[1] / "scripts" / "bench.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_script", PATH)
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = before
    for name in [name for name in sys.modules if name.partition(".")[0] in ("benchmarks", "peers")]:
        del sys.modules[name]


def test_facts_and_bandwidth(bench):
    facts = bench.measuring.machine()
    assert facts["jax"] == jax.__version__ and facts["cores"] >= 1
    assert bench.measuring.copy_bandwidth(megabytes=1, repeats=1) > 0


def test_the_fastest_call_counts_and_the_first_does_not(bench, monkeypatch):
    wall, cpu = iter([0.0, 3.0, 10.0, 12.0]), iter([0.0, 4.0, 10.0, 15.0])
    monkeypatch.setattr(bench.measuring.time, "perf_counter", lambda: next(wall))
    monkeypatch.setattr(bench.measuring.time, "process_time", lambda: next(cpu))
    calls = []
    assert bench.measuring.fastest(lambda: calls.append(1), 2) == (2.0, 4.0)  # each the least by itself
    assert len(calls) == 3


def test_every_case_has_the_same_number_of_candidates(bench):
    for which in ("one", "all"):
        built = bench.platforms.ecosystem(which, 50, 0)
        proposed = sum(getattr(registry.KINDS[a.kind].config(), "proposals", 0) for a in built.algorithms)
        proposed = 4 if which == "one" else proposed
        assert built.sizes.in_network + proposed == bench.platforms.CANDIDATES


def test_blocks(bench, monkeypatch):
    platforms = bench.platforms
    assert platforms.default_block(1000) == 0
    monkeypatch.setattr(platforms, "on_accelerator", lambda: False)
    assert platforms.default_block(1_000_000) == platforms.CPU_BLOCK
    monkeypatch.setattr(platforms, "on_accelerator", lambda: True)
    assert platforms.default_block(1_000_000) == 0


def test_a_target_is_shown_only_for_what_it_is_for(bench, monkeypatch):
    speed, (one, eight, expected) = bench.speed, bench.speed.CASES
    monkeypatch.setattr(speed, "on_accelerator", lambda: False)
    monkeypatch.setattr(speed, "cores", lambda: 2)
    assert [speed.rate_target(case, 100_000) for case in (one, eight, expected)] == [1e6, 250e3, None]
    assert speed.rate_target(one, 1_000_000) == 1e6 and speed.rate_target(one, 99_999) is None
    monkeypatch.setattr(speed, "cores", lambda: 8)
    assert speed.rate_target(one, 100_000) is None
    monkeypatch.setattr(speed, "on_accelerator", lambda: True)
    assert [speed.rate_target(case, 1_000_000) for case in (one, eight, expected)] == [100e6, 30e6, None]
    assert speed.rate_target(one, 100_000) is None


def test_the_roofline_counts_what_the_copy_does(bench, monkeypatch):
    seconds = bench.measuring.Seconds(wall=1.0, cpu=2.0)
    monkeypatch.setattr(bench.measuring, "on_accelerator", lambda: False)
    assert bench.speed.roofline(1_000_000, seconds, 3e9) == pytest.approx(0.5)
    monkeypatch.setattr(bench.measuring, "on_accelerator", lambda: True)
    assert bench.speed.roofline(1_000_000, seconds, 3e9) == pytest.approx(1.0)


def test_the_speed_table(bench):
    rows = [
        bench.speed.Speed("one recommender, sampled", 100_000, 0, 50, 3.0, 2e6, 1e6, 1e6, 0.3, 0.25),
        bench.speed.Speed("eight kinds, expected", 1000, 0, 50, 3.0, 4e5, None, None, 0.02, None),
    ]
    head, _, first, second = bench.speed.speed_table(rows).splitlines()
    assert "user-steps/s" in head and "a CPU-second" in head
    assert first.split()[4:] == ["all", *"2,000k >= 1,000k 0.50 1,000k 30.0% >= 25% 3.0".split()]
    assert ">=" not in second and "400k" in second


@pytest.mark.slow
def test_a_quick_run_prints_and_writes(bench, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench.measuring, "copy_bandwidth", lambda: 1e10)
    cache = jax.config.jax_enable_compilation_cache
    try:
        target = tmp_path / "bench.json"
        bench.main(["--users", "60", "--steps", "2", "--repeats", "1", "--cases", "a", "--json", str(target)])
    finally:
        jax.config.update("jax_enable_compilation_cache", cache)
    text = capsys.readouterr().out
    assert "one recommender, sampled" in text and ">= 25%" in text and "RecSim NG" in text
    written = json.loads(target.read_text())
    (row,) = written["speeds"]
    assert row["users"] == 60 and row["wall_rate"] > 0 and 0 < row["roofline"]
    assert row["target"] is None and row["roofline_target"] == 0.25
    assert (row["cpu_rate"] is None) == bench.measuring.on_accelerator()
    assert written["gradients"] == [] and written["memory"] == [] and written["compile"] == []
    assert written["beside_peers"] == [] and written["many"] is None


def test_peers_alone_run_no_other_part(bench, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench.measuring, "copy_bandwidth", lambda: 1e10)
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
    slope = bench.speed.slope(60, 0, repeats=1, steps=2)
    assert slope.multiple > 0 and slope.compile_s > 0
    rows = bench.speed.memory(steps=(2,), users=40)
    assert {row["kept"] for row in rows} == {"default", "a state a step", "everything"}
    assert "T = 2" in bench.speed.memory_table(rows)
    assert "meta-gradient" in bench.speed.slope_table([slope])


def test_the_first_kinds_have_the_same_number_of_candidates(bench):
    for count in bench.compiling.COUNTS:
        built = bench.platforms.of_kinds(bench.platforms.KINDS[:count], 50, 0)
        proposed = sum(getattr(registry.KINDS[a.kind].config(), "proposals", 0) for a in built.algorithms)
        assert len(built.algorithms) == count and built.sizes.in_network + proposed == bench.platforms.CANDIDATES


def test_the_persistent_cache_is_left_as_it_was(bench, tmp_path):
    before = jax.config.jax_enable_compilation_cache, jax.config.jax_compilation_cache_dir
    with bench.measuring.persistent_cache(str(tmp_path)):
        jax.jit(lambda x: x * 3.0 - 1.0).lower(1.0).compile()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path)
    assert any(tmp_path.iterdir())
    assert (jax.config.jax_enable_compilation_cache, jax.config.jax_compilation_cache_dir) == before


def test_the_compile_table(bench):
    made = bench.compiling.Compile
    rows = [made("gradient", kinds, 60, 2, 1.0, 1.1, 2.0, 2.1, 0.2, 0.3, 1234 * kinds) for kinds in (2, 1)]
    rows.append(made("forward, sampled", 8, 60, 2, 1.0, 1.1, 2.0, 2.1, 0.2, 0.3, 99))
    head, _, *lines = bench.compiling.compile_table(rows).splitlines()
    assert head.startswith("program") and "HLO instructions" in head
    assert [line.split("  ")[0] for line in lines] == ["forward, sampled", "gradient", "gradient"]
    assert "1,234" in lines[1] and "2.0 / 2.1" in lines[1] and "0.2 / 0.3" in lines[1]


@pytest.mark.slow
def test_compiling(bench, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench.measuring, "copy_bandwidth", lambda: 1e10)
    monkeypatch.setattr(bench.compiling, "QUICK_COUNTS", (1,))
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
    monkeypatch.setattr(bench.factorial, "KINDS", ("popularity", "demotion"))
    crossed = bench.factorial.factorial(users=60, seeds=2, steps=2)
    assert crossed.rollouts == 8
    assert crossed.difference < 1e-5  # the batch and one by one are the same rollouts
    assert crossed.wall_ratio > 0 and crossed.ratio_skipping > 0
    assert "2^2 factorial x 2 seeds" in bench.factorial.factorial_table(crossed)


def test_the_table_of_many_against_one(bench):
    made = bench.many.Many
    head, _, line = bench.many.many_table(made(256, 10_000, 20, 9.0, 3.0, 2.0, 1.5, None, 1.5)).splitlines()
    assert head.startswith("case") and "many s" in head and "one s" in head
    assert line.startswith("256 rollouts of 10,000 users") and "2,560,000" in line
    assert line.split()[6:] == ["20", "3.00", "2.00", "1.50x", "<=", "1.5x", "9.0"]
    line = bench.many.many_table(made(64, 1000, 20, 9.0, 3.0, 2.0, 1.5, 1.25, None)).splitlines()[-1]
    assert line.split()[6:] == ["20", "3.00", "2.00", "1.50x", "1.25x", "9.0"]


def test_as_many_as_the_machine_can_bear(bench, monkeypatch):
    monkeypatch.setattr(bench.many, "on_accelerator", lambda: False)
    assert bench.many.size() == (64, 1000) and bench.many.size(quick=True) == (8, 500)
    monkeypatch.setattr(bench.many, "on_accelerator", lambda: True)
    assert bench.many.size() == (256, 10_000) and bench.many.size(quick=True) == (8, 500)


@pytest.mark.slow
def test_many_against_one(bench, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench.measuring, "copy_bandwidth", lambda: 1e10)
    monkeypatch.setattr(bench.many, "QUICK", (3, 40))
    cache = jax.config.jax_enable_compilation_cache
    try:
        target = tmp_path / "bench.json"
        bench.main(["--quick", "--repeats", "1", "--cases", "g", "--json", str(target)])
    finally:
        jax.config.update("jax_enable_compilation_cache", cache)
    row = json.loads(target.read_text())["many"]
    assert (row["members"], row["users"], row["target"]) == (3, 40, None)
    assert row["many_s"] > 0 and row["ratio"] == pytest.approx(row["many_s"] / row["one_s"])
    assert "3 rollouts of 40 users" in capsys.readouterr().out
