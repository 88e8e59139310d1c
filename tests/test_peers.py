"""Peers beside mamba: the task, the check that a peer did it, why one is skipped, the table. No network, no peer installed."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@pytest.fixture(scope="module")
def peers():
    sys.path.insert(0, str(SCRIPTS))
    try:
        yield importlib.import_module("peers")
    finally:
        sys.path.remove(str(SCRIPTS))
        for name in [name for name in sys.modules if name.partition(".")[0] == "peers"]:
            del sys.modules[name]


@pytest.fixture
def task(peers):
    return peers.make_task(60, steps=3, seconds=0.01)


def printed(**changes):
    works = {"work": "feed", "users": 60, "steps": 3, "first_cpu_s": 0.5, "cpu_s": 0.018, "wall_s": 0.036}
    return "a warning\n" + json.dumps({"version": "1.2", "works": [{**works, **changes}]}) + "\n"


def test_a_task_survives_its_file(peers, task, tmp_path):
    peers.save(task, tmp_path / "task.npz")
    again = importlib.import_module("peers.workers.task").load(tmp_path / "task.npz")
    assert (again.users, again.steps, again.followees) == (60, 3, 16)
    np.testing.assert_array_equal(again.edges, task.edges)
    assert [len(sources) for sources in again.sources()] == task.degree().tolist()
    assert 1 <= task.degree().max() <= 16


def test_the_reference_is_friedkin_and_johnsen_of_all_followees(peers, task):
    opinion, stubbornness = task.innate, task.stubbornness()
    for _ in range(task.steps):
        means = np.array([np.mean(opinion[sources]) if sources else 0.0 for sources in task.sources()])
        opinion = (1.0 - stubbornness) * means + stubbornness * task.innate
    np.testing.assert_allclose(peers.reference(task), opinion, atol=1e-12)


def test_other_work_is_told_from_the_same(peers, task):
    right = peers.reference(task)
    assert peers.check(task, "opinions", right) is True
    assert peers.check(task, "feed", right) is None
    for work, opinions, said in (
        ("opinions", right + 0.01, "from those of the model"),
        ("opinions", right[:-1], "59"),
        ("feed", task.innate, "moved no opinion"),
        ("feed", right * np.nan, "leave"),
        ("feed", right + 2.0, "leave"),
    ):
        with pytest.raises(peers.UnusableError, match=said):
            peers.check(task, work, opinions)


def test_parsing(peers):
    (row,) = peers.parsed(peers.PEERS["mesa"], printed())
    assert (row.peer, row.version, row.work) == ("Mesa", "1.2", "feed")
    assert row.per_cpu_s == pytest.approx(10_000) and row.per_wall_s == pytest.approx(5_000)
    for wrong in ("", "no JSON", "[]", '{"version": "1"}', printed(cpu_s=0)):
        with pytest.raises(peers.UnusableError, match="gave no figures"):
            peers.parsed(peers.PEERS["mesa"], wrong)


def test_scipy_is_measured_and_does_the_work(peers, task, tmp_path):
    (row,) = peers.measure(peers.PEERS["scipy"], task, tmp_path)
    assert not row.skipped and row.agrees is True
    assert row.work == "opinions" and row.users == 60 and row.per_cpu_s > 0


def test_a_peer_that_cannot_be_imported_is_skipped_with_the_reason(peers, task, tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "install", lambda peer, folder: Path(sys.executable))
    ran = peers._run
    monkeypatch.setattr(
        peers, "_run", lambda command, **options: ran([command[0], "-c", "import no_such_peer"], **options)
    )
    (row,) = peers.measure(peers.PEERS["ndlib"], task, tmp_path)
    assert row.skipped == "does not run: ModuleNotFoundError: No module named 'no_such_peer'"


def test_a_step_that_takes_too_long_is_a_reason(peers):
    with pytest.raises(peers.UnusableError, match=r"does not run: not done in 0\.05 s"):
        peers._run([sys.executable, "-c", "import time; time.sleep(9)"], limit=0.05, what="does not run")


@pytest.mark.slow
def test_a_package_that_does_not_exist_is_a_reason(peers, task, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # nobody is asked
    (tmp_path / "nothing.txt").write_text("no-such-peer-of-mamba==0.0.1\n")
    monkeypatch.setattr(peers, "HERE", tmp_path)
    monkeypatch.setattr(peers.install, "__kwdefaults__", {**peers.install.__kwdefaults__, "requirements": tmp_path})
    nothing = peers.Peer("Nothing", "run_nothing.py", "nothing.txt")
    (row,) = peers.measure(nothing, task, tmp_path / "environments")
    assert row.skipped.startswith("does not install: ERROR: ") and "no-such-peer-of-mamba" in row.skipped
    assert not (tmp_path / "environments" / "run_nothing" / "complete.txt").exists()


def test_an_environment_is_reused_only_where_it_is_complete_and_pinned_the_same(peers, tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(peers, "_run", lambda command, **options: commands.append(command) or "")
    (tmp_path / "one.txt").write_text("one==1\n")
    (tmp_path / "two.txt").write_text("two==2\n")
    folder = tmp_path / "place"
    folder.mkdir()
    peer = peers.Peer("One", "run_one.py", "one.txt", "two.txt")
    peers.install(peer, folder, requirements=tmp_path)
    assert len(commands) == 3 and "--no-deps" in commands[2] and "--no-deps" not in commands[1]
    peers.install(peer, folder, requirements=tmp_path)
    assert len(commands) == 3
    (tmp_path / "one.txt").write_text("one==2\n")
    peers.install(peer, folder, requirements=tmp_path)
    assert len(commands) == 6


def test_the_ratio_is_mambas_rate_over_the_peers(peers, task, monkeypatch):
    rate = {"mamba": 3e5, "NDlib": 1e5, "DOCES": 6e6}

    def measure(peer, task, folder):
        if peer.name == "Mesa":
            return [peers.Measured("Mesa", skipped="does not install: no network")]
        works = {"mamba": ["joint", "opinions"], "NDlib": ["opinions"], "DOCES": ["posting"]}[peer.name]
        return [
            peers.Measured(peer.name, "1", work, 60, 3, 0.1, (1 + i) * rate[peer.name], 1e5)
            for i, work in enumerate(works)
        ]

    monkeypatch.setattr(peers, "measure", measure)
    told = []
    rows = peers.compare(["ndlib", "mesa", "doces"], task, tell=told.append)
    assert told == rows
    assert [row.whole_step for row in rows] == [None, None, pytest.approx(3.0), None, pytest.approx(0.05)]
    assert [row.same_work for row in rows] == [None, None, pytest.approx(6.0), None, None]
    text = peers.text(rows, lambda head, cells: "\n".join(" ".join(row) for row in [head, *cells]))
    assert "NDlib 1 opinions 60 3 100k 100k 6x 3x" in text and "0.05x" in text
    assert "skipped Mesa: does not install: no network" in text
    assert "opinions: opinions averaged" in text and "feed:" not in text  # only works that were measured are explained
    assert json.loads(json.dumps(peers.plain(rows)))[3]["skipped"] == "does not install: no network"


def test_without_mamba_there_is_no_ratio(peers, task, monkeypatch):
    def measure(peer, task, folder):
        if peer.name == "mamba":
            return [peers.Measured("mamba", skipped="does not run")]
        return [peers.Measured(peer.name, "1", "opinions", 60, 3, 0.1, 1e5, 1e5)]

    monkeypatch.setattr(peers, "measure", measure)
    assert [row.whole_step for row in peers.compare(["ndlib"], task)] == [None, None]


def test_every_peer_is_pinned_and_has_a_worker_that_compiles(peers):
    for peer in (peers.OURS, *peers.PEERS.values()):
        worker = SCRIPTS / "peers" / "workers" / peer.worker
        compile(worker.read_text(), str(worker), "exec")
        for name in filter(None, (peer.requirements, peer.alone)):
            lines = (SCRIPTS / "peers" / "requirements" / name).read_text().splitlines()
            assert all("==" in line for line in lines if not line.startswith("#"))


@pytest.mark.slow
def test_mamba_is_measured_in_a_process_of_its_own(peers, task, tmp_path):
    whole, same = peers.measure(peers.OURS, task, tmp_path)
    assert (whole.work, whole.agrees) == ("joint", None) and whole.per_cpu_s > 0
    assert (same.work, same.agrees) == ("opinions", True) and same.per_cpu_s > 0
