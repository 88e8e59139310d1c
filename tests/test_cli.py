"""The command line: what it passes on, what it refuses, and how it ends."""

import functools
import http.client
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

from mamba import cli
from mamba.runs import viewer
from mamba.runs.config import load_config, read_yaml, resolve
from mamba.runs.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.fixture(autouse=True)
def no_lasting_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "MAMBA_TRACEBACK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Calls of a stand-in for `mamba.runs.loop.run`; it raises what was put into `errors`."""
    calls: list[Any] = []

    def run(config: Any, folder_path: Path, **named: Any) -> dict[str, Any]:
        calls.append((config, folder_path, named))
        if config.name == "refused":
            raise UserError("scenario.dataset: no such file\nsecond line")
        if config.name == "interrupted":
            raise KeyboardInterrupt
        if config.name == "full":
            raise OSError(28, "No space left on device", "runs/full/report")
        jax.numpy.zeros(3).block_until_ready()
        return {"finished": config.name != "stopped"}

    loop = types.ModuleType("mamba.runs.loop")
    loop.run = run  # type: ignore[attr-defined]
    loop.analyse = functools.partial(run, analysed=True)  # type: ignore[attr-defined]
    loop.train = functools.partial(run, analysed=False)  # type: ignore[attr-defined]
    loop.simulate = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mamba.runs.loop", loop)
    return calls


def test_run_passes_the_configuration_on(runs: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "argv", ["scripts/train.py", "smoke"]
    )  # what is recorded are the words of the command line
    words = ["run", "--meta.steps", "3", "smoke", "--run_dir", str(tmp_path / "x"), "seed=2", "--allow-config-change"]
    assert cli.main(words) == 0
    ((config, folder, named),) = runs
    assert config == load_config("smoke", ["meta.steps=3", "seed=2"]) and folder == tmp_path / "x"
    assert named["allow_config_change"] is True
    assert named["command"] == shlex.join(["mamba-eco", *words])


@pytest.mark.parametrize(("command", "analysed"), [("analyse", True), ("train", False)])
def test_other_jobs_pass_the_configuration_on(command: str, analysed: bool, runs: list[Any], tmp_path: Path) -> None:
    assert cli.main([command, "smoke", "--run_dir", str(tmp_path / "x"), "--emergence.points=4"]) == 0
    ((config, folder, named),) = runs
    assert config.emergence.points == 4 and folder == tmp_path / "x" and named["analysed"] is analysed


def test_run_has_defaults(runs: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", str(ROOT / "configs" / "smoke.yaml"), "--name=other"]) == 0
    assert runs[0][1] == Path("runs/other") and runs[0][2]["allow_config_change"] is False
    # What a wandb agent starts gets a folder of its own, member by member.
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    monkeypatch.setenv("WANDB_RUN_ID", "abc")
    assert cli.main(["simulate", "smoke", "--seed=2"]) == 0
    assert runs[1][1] == Path("runs/smoke-abc")


def test_the_module_is_recorded_as_such(runs: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(ROOT / "mamba" / "__main__.py")])
    assert cli.main(["run", "smoke", "--run_dir", str(tmp_path)]) == 0
    assert runs[0][2]["command"] == f"python -m mamba run smoke --run_dir {tmp_path}"


def test_a_sweep_records_a_command_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mamba.runs.sweeps import sweep

    calls: list[Any] = []
    monkeypatch.setattr(sweep, "sweep", lambda *given, **named: calls.append(named) or {"finished": False})
    monkeypatch.setattr(sys, "argv", ["scripts/sweep.py", "sharpness"])
    monkeypatch.chdir(tmp_path)
    assert cli.main(["sweep", "sharpness"]) == 0
    assert calls[0]["command"] == "mamba-eco sweep sharpness"
    assert (tmp_path / "runs" / "sharpness" / cli.STOPPED).is_file()
    assert cli.main(["sweep", "sharpness", "--part=0/2", "--run_dir=other"]) == 0
    assert not (tmp_path / "other").exists()  # the file of its part says whether that is done


def test_members_that_are_processes_share_the_memory_of_an_accelerator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mamba.runs.sweeps import sweep

    variables = ("XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_MEM_FRACTION")
    seen: list[Any] = []
    look = cli.use_devices  # called before anything is on a device

    def watched(wanted: str) -> None:
        seen.append([os.environ.get(variable) for variable in variables])
        look(wanted)

    monkeypatch.setattr(cli, "use_devices", watched)
    monkeypatch.setattr(sweep, "sweep", lambda *given, **named: {"finished": False})
    monkeypatch.chdir(tmp_path)
    for variable in variables:
        monkeypatch.setenv(variable, "said")  # stays, and is put back after the test
    assert cli.main(["sweep", "sharpness", "--processes=2"]) == 0
    for variable in variables:
        monkeypatch.delenv(variable)
    assert cli.main(["sweep", "sharpness"]) == 0  # of simulations: no process but this
    assert cli.main(["sweep", "sharpness", "--processes=3"]) == 0
    assert seen == [["said", "said"], [None, None], ["false", "0.300"]]


def test_a_run_that_was_told_to_stop_says_so_in_its_folder_until_one_ends(runs: list[Any], tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"finished": true}')  # of an earlier job
    assert cli.main(["train", "smoke", "--run_dir", str(tmp_path), "--name=stopped"]) == 0
    assert (tmp_path / cli.STOPPED).is_file()
    assert cli.main(["train", "smoke", "--run_dir", str(tmp_path), "--name=refused"]) == 2
    assert (tmp_path / cli.STOPPED).is_file()
    assert cli.main(["train", "smoke", "--run_dir", str(tmp_path)]) == 0
    assert not (tmp_path / cli.STOPPED).exists()


@pytest.mark.parametrize(
    ("file", "words", "mode", "expected"),
    [
        ("{}", [], None, "online"),
        ("{log: {tags: [a]}}", ["--log.project=x"], None, "online"),
        ("{}", ["--log.wandb=offline"], None, "offline"),
        ("{}", ["--log={wandb: disabled}"], None, "disabled"),
        ("{log: {wandb: offline}}", [], None, "offline"),
        ("{}", [], "offline", "offline"),
    ],
)
def test_what_an_agent_of_wandb_starts_is_logged_online_where_nothing_says_otherwise(
    runs: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    words: list[str],
    mode: str | None,
    expected: str,
) -> None:
    (tmp_path / "x.yaml").write_text(f"{(ROOT / 'configs' / 'smoke.yaml').read_text()}\n{file[1:-1]}\n")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if mode is not None:
        monkeypatch.setenv("WANDB_MODE", mode)
    command = ["train", str(tmp_path / "x.yaml"), "--run_dir", str(tmp_path), *words]
    assert cli.main(command) == 0 and runs[0][0] == load_config(tmp_path / "x.yaml", words)
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    assert cli.main(command) == 0 and runs[1][0].log.wandb == expected


def traces(path: Path) -> list[str]:
    return sorted(file.name.partition(".")[2] for file in path.rglob("*") if file.is_file())


def test_profile_writes_a_trace(runs: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["simulate", "smoke", "--profile", "--run_dir", str(tmp_path / "x")]) == 0
    assert "xplane.pb" in traces(tmp_path / "x" / "profile")
    assert "warning" not in capsys.readouterr().err
    assert cli.main(["train", "smoke", "--profile", "--run_dir", str(tmp_path / "y"), "--name=refused"]) == 2
    assert not (tmp_path / "y").exists()
    assert cli.main(["run", "smoke", "--run_dir", str(tmp_path / "z")]) == 0
    assert not (tmp_path / "z" / "profile").exists()


def test_profile_is_of_process_0(runs: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(jax.profiler, "start_trace", None)
    assert cli.main(["train", "smoke", "--profile", "--run_dir", str(tmp_path / "x"), "--name=stopped"]) == 0
    assert len(runs) == 1 and not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "broken", ["tempfile.mkdtemp", "jax.profiler.start_trace", "jax.profiler.stop_trace", "shutil.copytree"]
)
def test_a_profiler_that_fails_is_one_warning(
    runs: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], broken: str
) -> None:
    def out_of_order(*given: Any, **named: Any) -> None:
        raise RuntimeError("out of\norder")

    ends = jax.profiler.stop_trace
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # what ends below is written after its folder was removed
    monkeypatch.setattr(broken, out_of_order)
    assert cli.main(["simulate", "smoke", "--profile", "--run_dir", str(tmp_path / "x")]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "mamba-eco: warning: --profile: no trace is written (out of order)"
    assert len(runs) == 1 and not (tmp_path / "x" / "profile").exists()
    if broken.endswith("stop_trace"):
        ends()


def test_user_errors_are_lines_and_code_2(
    runs: list[Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["run", "smoke", "--meta.step=3", "users=-5"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "mamba-eco: meta.step: no such setting. Did you mean 'steps'?",
        "mamba-eco: users: no such setting. Did you mean 'scenario.users'?",
    ]
    assert not runs
    assert cli.main(["run", "smoke", "name=refused"]) == 2
    assert capsys.readouterr().err == "mamba-eco: scenario.dataset: no such file\nmamba-eco: second line\n"
    assert cli.main(["run", "smoke", "name=interrupted"]) == 130
    capsys.readouterr()
    assert cli.main(["run", "smoke", "name=full"]) == 2
    said = "mamba-eco: runs/full/report: No space left on device; make room or give the rights, and try again\n"
    assert capsys.readouterr().err == said
    monkeypatch.setenv("MAMBA_TRACEBACK", "1")
    with pytest.raises(UserError):
        cli.main(["run", "nowhere"])


@pytest.mark.parametrize("words", [["run"], ["report"], ["report", "x", "--a.b=1"], ["fly"], ["view", "x", "--port=a"]])
def test_unusable_arguments_are_code_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2 and "mamba-eco" in capsys.readouterr().err


def test_config_show_prints_what_can_be_read_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "show", "quickstart", "--recommenders.home.kind=popularity"]) == 0
    config = load_config("quickstart", ["recommenders.home.kind=popularity"])
    assert resolve(read_yaml(capsys.readouterr().out)) == config


def test_help_lists_and_versions(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0 and "commands:" in capsys.readouterr().out
    assert cli.main(["config", "help"]) == 0
    text = capsys.readouterr().out
    assert "kind: two_tower" in text and "fatigue_decay" in text and "[whole number >= 0; users]" in text
    assert cli.main(["data", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("twitch_engb ") and " MIT " in line for line in lines)
    assert cli.main(["config"]) == 0 and cli.main(["data"]) == 0
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0 and "mamba-ecosystems" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["run", "--help"])
    assert "--recommenders.home.kind=popularity" in capsys.readouterr().out


def test_the_compilation_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.use_compilation_cache()
    folder = Path(jax.config.jax_compilation_cache_dir)
    assert folder.is_dir() and folder.parent == tmp_path / "cache" / "mamba" / "jax"
    assert jax.config.jax_persistent_cache_min_compile_time_secs == cli.CACHE_FROM_S
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "mine"))
    cli.use_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine") and not capsys.readouterr().err
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "file" / "below"))
    cli.use_compilation_cache()
    assert "set JAX_COMPILATION_CACHE_DIR" in " ".join(capsys.readouterr().err.split())


def python(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        timeout=120,
    )


def test_the_module_runs_without_a_backend() -> None:
    result = python("-m", "mamba", "config", "show", "smoke", "steps=1", JAX_PLATFORMS="bogus")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("mamba-eco: steps: 1 is below 2;") and result.stderr.count("\n") == 1


CACHED = """
from collections import Counter
import jax
from mamba import cli

cli.use_compilation_cache()
told = Counter()
jax.monitoring.register_event_listener(lambda event, **more: told.update([event.removeprefix("/jax/compilation_cache/")]))
jax.jit(lambda x: 3.0 * x + 1.0).lower(jax.ShapeDtypeStruct((3,), "float32")).compile()
print(told["cache_hits"], told["cache_misses"])
"""


@pytest.mark.parametrize("given", [False, True])
def test_a_second_process_finds_what_the_first_has_compiled(tmp_path: Path, given: bool) -> None:
    kept = {"JAX_PLATFORMS": "cpu", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    if given:
        kept["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path / "kept")
    told = [python("-c", CACHED, **kept) for _ in range(2)]
    assert [each.returncode for each in told] == [0, 0], told[0].stderr + told[1].stderr
    assert [each.stdout.split() for each in told] == [["0", "1"], ["1", "0"]]  # hits and misses of one program
    # Otherwise it is the user's cache folder, which JAX by itself knows nothing of.
    assert [(tmp_path / name).exists() for name in ("kept", "cache")] == [given, not given]


DEALT = """
import sys
import jax
from mamba import cli
from mamba.runs.errors import UserError

cli.use_devices(sys.argv[1])
cli._check_devices(sys.argv[1])
print(jax.local_device_count())
try:
    cli._check_devices("99")
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("wanted", "given", "count"),
    [("all", "", min(CORES, cli.MOST_CORES)), ("all", "3", 3), ("2", "1", 2), ("3", "", 3)],
)
def test_a_sweep_takes_the_devices_it_was_told_to_and_no_more_than_there_are(
    wanted: str, given: str, count: int
) -> None:
    more = {"JAX_NUM_CPU_DEVICES": given} if given else {}
    result = python("-c", DEALT, wanted, JAX_PLATFORMS="cpu", XLA_FLAGS="", **more)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [str(count), f"--devices: 99 are asked for, and there are {count}"]


def test_a_reader_who_leaves_is_no_error() -> None:
    script = 'set -o pipefail; "$0" -m mamba config help | head -n 1'
    result = subprocess.run(
        ["bash", "-c", script, sys.executable],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        timeout=120,
    )
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    assert result.stdout.startswith("(top level)")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_output_that_cannot_be_written_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "mamba", "config", "show", "smoke"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=120,
        )
    assert result.returncode == 2
    assert result.stderr == "mamba-eco: No space left on device; make room or give the rights, and try again\n"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("metrics.jsonl", b"5\n", "metrics.jsonl:1: holds a number, not an object {...}; remove that line"),
        ("summary.json", b"[]", "summary.json: holds a list, not an object {...}; remove it and run again"),
        ("config.yaml", b"\xff", "config.yaml: is not UTF-8 text; restore it, or use another run folder"),
    ],
)
def test_reports_of_damaged_folders_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, content: bytes, message: str
) -> None:
    (tmp_path / "config.yaml").write_text("name: x\n")
    (tmp_path / file).write_bytes(content)
    assert cli.main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"mamba-eco: {tmp_path}/{message}\n"
    assert not (tmp_path / "report").exists()


def test_a_report_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text("name: x\n")
    (tmp_path / "metrics.jsonl").write_text('{"stage":"training","meta_step":0}\n')
    (tmp_path / "report").write_text("a file where the folder should be")
    assert cli.main(["report", str(tmp_path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "make room or give the rights" in lines[0]


# ---------------------------------------------------------------------------------------------------------------------
# The viewer


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Calls of a stand-in for `mamba.runs.report.write_report`."""
    calls: list[Path] = []

    def write_report(run_dir: Path) -> Path:
        calls.append(run_dir)
        if run_dir.name == "young":
            raise UserError("there is nothing to report yet <b>")
        if run_dir.name == "odd":
            raise KeyError("job\n<b>")
        (run_dir / "report").mkdir(exist_ok=True)
        (run_dir / "report" / "index.html").write_text(f"report {len(calls)}")
        return run_dir / "report" / "index.html"

    report = types.ModuleType("mamba.runs.report")
    report.write_report = write_report  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mamba.runs.report", report)
    return calls


@pytest.fixture
def folder_of_runs(tmp_path: Path) -> Path:
    for name in ("a b", "old", "young"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("name: x\n")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "other").mkdir()
    (tmp_path / "swept").mkdir()
    (tmp_path / "swept" / "sweep.yaml").write_text("sweep: {name: x}\n")
    return tmp_path


def get(port: int, path: str, **headers: str) -> tuple[int, str, str | None]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.getheader("Location")
    finally:
        connection.close()


def test_view_serves_reports_and_nothing_else(reports: list[Path], folder_of_runs: Path) -> None:
    with viewer.make_server(folder_of_runs, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            port = server.server_address[1]
            status, page, _ = get(port, "/")
            assert status == 200 and 'href="/a%20b/"' in page and "other" not in page and "secret" not in page
            assert get(port, "/a%20b")[::2] == (302, "/a%20b/")
            assert get(port, "/a%20b/")[:2] == (200, "report 1")
            assert get(port, "/a%20b/index.html")[:2] == (200, "report 1")  # nothing has changed
            metrics = folder_of_runs / "a b" / "metrics.jsonl"
            metrics.write_text("{}\n")
            later = (folder_of_runs / "a b" / "report" / "index.html").stat().st_mtime + 5
            os.utime(metrics, (later, later))
            assert get(port, "/a%20b/")[:2] == (200, "report 2")  # the run has gone on
            status, page, _ = get(port, "/swept/")
            assert status == 500 and "the page of a sweep is written when all members are done" in page
            status, page, _ = get(port, "/young/")
            assert status == 500 and "there is nothing to report yet &lt;b&gt;" in page
            for path in ("/secret.txt", "/a%20b/../../secret.txt", "/a%20b/..%2f..%2fsecret.txt", "/other/",
                         "/a%20b/config.yaml", "/..%2fx"):  # fmt: skip
                status, page, _ = get(port, path)
                assert status == 404 and "secret" not in page.replace("secret.txt", ""), path
            assert get(port, "/", Host="evil.example:80")[0] == 403
            assert server.server_address[0] == "127.0.0.1"
        finally:
            server.shutdown()
            thread.join()


def test_a_page_that_fails_is_one_line_and_the_others_are_served_on(
    reports: list[Path],
    folder_of_runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (folder_of_runs / "odd").mkdir()
    (folder_of_runs / "odd" / "config.yaml").write_text("name: x\n")
    with viewer.make_server(folder_of_runs, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            port = server.server_address[1]
            status, page, _ = get(port, "/odd/")
            assert status == 500 and "KeyError: &#x27;job\\n&lt;b&gt;&#x27;" in page and "\n" not in page
            assert get(port, "/old/")[:2] == (200, "report 2")
            assert get(port, "/old/%00")[0] in (404, 500)  # no file can be called that
            with monkeypatch.context() as patch:
                patch.setattr(viewer, "runs_in", lambda root: os.listdir(root / "absent"))
                status, page, _ = get(port, "/")
                assert status == 500 and "No such file or directory" in page
            assert get(port, "/old/")[0] == 200
        finally:
            server.shutdown()
            thread.join()
    assert capfd.readouterr().err == ""


def test_view_of_one_run_and_refusals(
    reports: list[Path], folder_of_runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with viewer.make_server(folder_of_runs / "old", 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            port = server.server_address[1]
            assert get(port, "/")[::2] == (302, "/run/") and get(port, "/run/")[0] == 200
            assert cli.main(["view", str(folder_of_runs), "--port", str(port)]) == 2
        finally:
            server.shutdown()
            thread.join()
    assert "cannot be used" in capsys.readouterr().err
    assert cli.main(["view", str(folder_of_runs / "other")]) == 2 and cli.main(["view", "absent"]) == 2
    assert cli.main(["report", str(folder_of_runs / "old")]) == 0
    assert capsys.readouterr().out.strip().endswith("index.html")


def test_ctrl_c_ends_the_viewer_in_good_order(folder_of_runs: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "mamba", "view", str(folder_of_runs), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "bogus"},
    )
    assert process.stdout is not None and "Ctrl+C ends it" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (0, "")
