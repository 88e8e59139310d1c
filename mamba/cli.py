"""The command line, `mamba-eco` or `python -m mamba`.

It reads the arguments, sets JAX's persistent compilation cache before JAX starts, and calls the library. Exit codes: 0
done (also after a signal that stopped a run in good order, or Ctrl+C in `view`), 2 something the user gave cannot be used,
a file cannot be read or written, or memory does not do, 130 interrupted. A run that was told to stop leaves the file
`.stopped` in its folder until one there comes to its end. `MAMBA_TRACEBACK=1` shows the traceback of an error.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import os
import platform
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mamba.runs.errors import UserError

if TYPE_CHECKING:
    from mamba.runs.config import RunConfig
    from mamba.runs.sweeps.spec import Spec
    from mamba.runs.sweeps.sweep import Options

PROGRAM = "mamba-eco"
MOST_CORES = 16
_OF_MEMORY = 0.9  # of an accelerator, that the processes of a sweep share out
STOPPED = ".stopped"  # in a run folder: its last command was told to stop before its end, and the same command goes on
CHANGE = ("--allow-config-change", "--allow_config_change")
CACHE_FROM_S = 0.3  # compilations shorter than this are not worth a file

OVERRIDES = """\
Every setting can be given as --section.name=VALUE (or --section.name VALUE, or section.name=VALUE); the last one counts:

  --meta.steps=100 --seed=1                      numbers, texts, true and false, None
  --recommenders.home.sharpness=8                a setting of the algorithm called home
  --recommenders.home.kind=popularity            another kind, with that kind's defaults
  "--recommenders.extra={kind: two_tower}"       one algorithm more
  --moderators.takedown=None                     one algorithm less

`mamba-eco config help` lists every setting of every section and kind."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code.

    Args:
        arguments: the words after the program's name; None takes those of this process.
    """
    try:
        code = _told(list(sys.argv[1:] if arguments is None else arguments))
    except Exception:
        if _others_wait():
            traceback.print_exc()
            _leave(1)
        raise
    if code and _others_wait():
        _leave(code)
    return code


def _others_wait() -> bool:
    """Whether other processes may wait for what this one will not do any more."""
    distributed = sys.modules.get("mamba.runs.distributed")  # else nobody was joined
    return distributed is not None and distributed.joined()


def _leave(code: int) -> NoReturn:
    """Ends this process at once: leaving in good order, JAX waits for the others, who wait for this one."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def _told(arguments: list[str]) -> int:
    """Runs a command, and says in a line or a few what it cannot use; its exit code."""
    try:
        code = _main(arguments)
        sys.stdout.flush()
        return code
    except UserError as error:
        if os.environ.get("MAMBA_TRACEBACK") == "1":
            raise
        for line in str(error).splitlines():
            print(f"{PROGRAM}: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if os.environ.get("MAMBA_TRACEBACK") == "1":
            raise
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has left, as `| head` does. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (MemoryError, RuntimeError) as error:
        # RESOURCE_EXHAUSTED is how JAX's runtime begins; jax itself may not have been imported.
        if os.environ.get("MAMBA_TRACEBACK") == "1" or not (
            isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
        ):
            raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        print(f"{PROGRAM}: out of memory ({reason}); try fewer scenario.users or a smaller --chunk", file=sys.stderr)
        return 2
    except OSError as error:
        if os.environ.get("MAMBA_TRACEBACK") == "1":
            raise
        reason = " ".join((error.strerror or str(error) or type(error).__name__).split())
        where = f"{error.filename}: " if error.filename else ""
        print(f"{PROGRAM}: {where}{reason}; make room or give the rights, and try again", file=sys.stderr)
        try:
            sys.stdout.flush()
        except OSError:  # it is the output that cannot be written; Python would complain once more at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2


def _main(arguments: list[str]) -> int:
    own, overrides = _split(arguments)
    parser = _parser()
    parsed = parser.parse_args(own)
    if parsed.command is None:
        parser.print_help()
        return 0
    if overrides and not parsed.takes_overrides:
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    parsed.overrides = overrides
    parsed.words = arguments
    parsed.do(parsed)
    return 0


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Our own arguments, and overrides of settings; argparse would take `4` of `--meta.steps 4` for a positional."""
    valued = {
        "--run_dir",
        "--run-dir",
        "--port",
        "--count",
        "--sweep-seed",
        "--members-per-batch",
        "--part",
        "--devices",
        "--processes",
        "--slurm",
        "--distributed",
        "--coordinator",
        "--num-processes",
        "--process-id",
    }
    flags = {*CHANGE, "--profile", "--help", "--version", "--dry-run"}
    own, overrides, rest = [], [], list(arguments)
    while rest:
        word = rest.pop(0)
        if word.partition("=")[0] in valued | flags:
            own.append(word)
            if word in valued and rest:
                own.append(rest.pop(0))
        elif re.match(r"[A-Za-z_][\w.]*=", word) or (word.startswith("--") and "=" in word):
            overrides.append(word)
        elif word.startswith("--"):
            overrides.append(word)
            if rest and not rest[0].startswith("--"):
                overrides.append(rest.pop(0))
        else:
            own.append(word)
    return own, overrides


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="What recommendation and moderation algorithms do together to a network, and how to tune them.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=_version())
    parser.set_defaults(command=None, takes_overrides=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(group: argparse._SubParsersAction, name: str, do: Callable[..., None], about: str, **more: Any):
        made = group.add_parser(
            name,
            help=about,
            description=about[0].upper() + about[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **more,
        )
        made.set_defaults(command=name, do=do, takes_overrides=False)
        return made

    usage = f"{PROGRAM} %s CONFIG %s[--section.name=VALUE ...]"
    for name, do, about in (
        ("simulate", _simulate, "simulate a configuration as it is, without training or analysis"),
        ("run", _run, "train and evaluate a configuration, or continue that in the same folder"),
        ("train", _train, "train and evaluate a configuration without an interaction analysis, or continue that"),
        ("analyse", _analyse, "find out who interacts with whom, without training, or continue that"),
    ):
        job = command(
            commands,
            name,
            do,
            about,
            usage=usage % (name, "[--run_dir DIR] [--allow-config-change] [--profile] "),
            epilog=OVERRIDES,
        )
        job.add_argument("config", metavar="CONFIG", help="a YAML file, or a preset such as quickstart")
        _add_run_options(job)

    sweep = command(
        commands,
        "sweep",
        _sweep,
        "run many configurations from one sweep file, or continue that",
        usage=f"{PROGRAM} sweep FILE [options] [--section.name=VALUE ...]",
        epilog=OVERRIDES,
    )
    sweep.add_argument("file", metavar="FILE", help="a sweep file, as `wandb sweep` takes it")
    _add_run_options(sweep)
    sweep.add_argument("--dry-run", action="store_true", help="print members, compile groups and memory; run nothing")
    sweep.add_argument("--count", type=_positive, metavar="N", help="most members; run_cap of the file by default")
    sweep.add_argument("--sweep-seed", type=_whole, default=0, metavar="N", help="seed of random draws; 0 by default")
    sweep.add_argument(
        "--members-per-batch",
        type=_positive,
        metavar="N",
        help="members run together; as many as `chunk` rollouts by default",
    )
    sweep.add_argument(
        "--devices", default="all", metavar="N", help="devices that members are spread over; all by default"
    )
    sweep.add_argument(
        "--processes", type=_positive, default=0, metavar="N", help="run every member as a process, N at a time"
    )
    sweep.add_argument("--slurm", type=_positive, metavar="N", help="write an sbatch script of N tasks; run nothing")
    sweep.add_argument(
        "--part", type=_part, metavar="I/N", help="run every N-th distinct member from the I-th (0 to N - 1) on"
    )

    report = command(commands, "report", _report, "write the report of a run folder")
    report.add_argument("run_dir", metavar="DIR", help="a run folder")

    view = command(commands, "view", _view, "serve reports on 127.0.0.1, also while runs go on")
    view.add_argument("run_dir", metavar="DIR", help="a run folder, or a folder of run folders")
    view.add_argument("--port", type=int, default=8765, help="8765 by default; 0 takes a free one")

    config = command(
        commands, "config", lambda parsed: config.print_help(), "show configurations and what they may hold"
    )
    inside = config.add_subparsers(title="commands", metavar="COMMAND")
    show = command(
        inside,
        "show",
        _config_show,
        "print a configuration with every default filled in",
        usage=usage % ("config show", ""),
        epilog=OVERRIDES,
    )
    show.add_argument("config", metavar="CONFIG", help="a YAML file, or a preset such as quickstart")
    show.set_defaults(takes_overrides=True)
    command(inside, "help", _config_help, "print every setting of every section and kind")

    data = command(commands, "data", lambda parsed: data.print_help(), "the data shipped with the package")
    inside = data.add_subparsers(title="commands", metavar="COMMAND")
    command(inside, "list", _data_list, "print what there is, with licences")
    return parser


def _add_run_options(job: argparse.ArgumentParser) -> None:
    job.add_argument("--run_dir", "--run-dir", metavar="DIR", help="the run folder; runs/<name> by default")
    job.add_argument(*CHANGE, action="store_true", help="continue in a folder that holds another configuration")
    job.add_argument(
        "--profile",
        action="store_true",
        help="write a trace of JAX's profiler into profile/ of the run folder; for short runs, as it grows with time",
    )
    several = job.add_argument_group("several processes (hosts)")
    several.add_argument(
        "--distributed",
        choices=("auto", "on", "off"),
        default="auto",
        help="join other processes: auto does where srun, Open MPI, a TPU pod or --coordinator says that there are some",
    )
    several.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens")
    several.add_argument("--num-processes", type=_positive, metavar="N", help="how many there are")
    several.add_argument("--process-id", type=int, metavar="I", help="which this is, from 0 on")
    job.set_defaults(takes_overrides=True)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def _part(text: str) -> tuple[int, int]:
    one, slash, all_ = text.partition("/")
    if not (slash and one.isdecimal() and all_.isdecimal() and int(one) < int(all_)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 0 to N - 1")
    return int(one), int(all_)


def _version() -> str:
    from mamba import __version__

    return f"mamba-ecosystems {__version__}"


# ---------------------------------------------------------------------------------------------------------------------
# Commands


def _run(parsed: argparse.Namespace) -> None:
    _job(parsed, "run")


def _simulate(parsed: argparse.Namespace) -> None:
    _job(parsed, "simulate")


def _train(parsed: argparse.Namespace) -> None:
    _job(parsed, "train")


def _analyse(parsed: argparse.Namespace) -> None:
    _job(parsed, "analyse")


def _job(parsed: argparse.Namespace, name: str) -> None:
    """Carries out `mamba.runs.loop.<name>` of a configuration in a run folder."""
    from mamba.runs.config import load_config

    config = load_config(parsed.config, parsed.overrides)
    default = Path("runs") / config.name
    if os.environ.get("WANDB_SWEEP_ID"):
        config = _for_agent(config, parsed)
        # A wandb agent starts many runs of one name, each with an identifier of its own.
        if agent := os.environ.get("WANDB_RUN_ID"):
            default = default.with_name(f"{config.name}-{agent}")
    folder = Path(parsed.run_dir) if parsed.run_dir else default
    use_compilation_cache()
    use_all_cores()
    _join_processes(parsed)
    from mamba.runs import profiling
    from mamba.runs.loop import analyse, run, simulate, train

    job = {"run": run, "train": train, "analyse": analyse, "simulate": simulate}[name]
    with profiling.trace(folder, wanted=parsed.profile):
        summary = job(config, folder, command=_command(parsed.words), allow_config_change=parsed.allow_config_change)
    from mamba.runs.distributed import is_first

    if not is_first():
        return
    _mark(folder, stopped=not summary["finished"])
    if (page := folder / "report" / "index.html").is_file():
        print(page)


def _for_agent(config: RunConfig, parsed: argparse.Namespace) -> RunConfig:
    """The configuration as an agent of wandb needs it: its server hears of the metric only where runs are logged online.

    What was said stays: by the file, by the command line, or as `WANDB_MODE`.
    """
    from mamba.runs.config import apply_overrides, find_config, read_yaml

    given = apply_overrides(read_yaml(find_config(parsed.config).read_text("utf-8")), parsed.overrides, [])
    log = given.get("log")
    if (isinstance(log, Mapping) and "wandb" in log) or os.environ.get("WANDB_MODE"):
        return config
    return dataclasses.replace(config, log=dataclasses.replace(config.log, wandb="online"))


def _command(words: Sequence[str]) -> str:
    """The command that does this again, ready to be pasted into a shell, also where a script of a checkout gave its words."""
    as_module = Path(sys.argv[0]).parts[-2:] == ("mamba", "__main__.py")
    return shlex.join([*(("python", "-m", "mamba") if as_module else (PROGRAM,)), *words])


def _mark(folder: Path, *, stopped: bool) -> None:
    """Leaves `STOPPED` in the folder of a run that was told to stop, and takes it from one that has come to its end.

    Neither the exit code nor the summary says so: that of an earlier job stays in the folder.
    """
    from mamba.runs.folder import write_text

    if stopped:
        write_text(folder / STOPPED, "")
    else:
        (folder / STOPPED).unlink(missing_ok=True)


def _sweep(parsed: argparse.Namespace) -> None:
    from mamba.runs import profiling, viewer
    from mamba.runs.distributed import is_first
    from mamba.runs.sweeps import spec, sweep

    read = spec.load(parsed.file)
    options = sweep.Options(parsed.count, parsed.sweep_seed, parsed.members_per_batch, parsed.part, parsed.processes)
    use_compilation_cache()
    if parsed.processes or read.job != "simulate":  # of which some members may be processes of their own
        _leave_memory_to_others(parsed.processes)
    use_devices(parsed.devices)
    _join_processes(parsed)
    _check_devices(parsed.devices)
    if parsed.dry_run:
        sweep.dry_run(read, options=options, shared=parsed.overrides)
        return
    folder = Path(parsed.run_dir) if parsed.run_dir else Path("runs") / read.name
    if parsed.slurm:
        _write_script(parsed, read, options, folder)
        return
    place = folder if parsed.part is None else _part_folder(folder, *parsed.part)
    with profiling.trace(place, wanted=parsed.profile):
        summary = sweep.sweep(
            read,
            folder,
            options=options,
            shared=parsed.overrides,
            command=_command(parsed.words),
            allow_config_change=parsed.allow_config_change,
        )
    if not is_first():
        return
    if parsed.part is None:  # a part that is done is no finished sweep
        _mark(folder, stopped=not summary["finished"])
    if summary["finished"]:
        print(viewer.write_report(folder))


def _write_script(parsed: argparse.Namespace, read: Spec, options: Options, folder: Path) -> None:
    """Makes a folder that of a sweep, and writes the script that does it as an array of Slurm jobs."""
    from mamba.runs.sweeps import kept, slurm, sweep

    sweep.check(read, options, shared=parsed.overrides)  # refused now, not on the cluster
    sweep.claim_for_parts(
        read, folder, options=options, shared=parsed.overrides, allow_config_change=parsed.allow_config_change
    )
    # The tasks themselves may change nothing: one that is queued again would change the sweep of the others.
    words = [word for word in _without_option(parsed.words, "--slurm") if word not in CHANGE]
    script = slurm.write(read.name, folder, parts=parsed.slurm, words=[PROGRAM, *words], done=kept.PART_DONE)
    whole = shlex.join([PROGRAM, *words])
    print(f"sbatch {shlex.quote(str(script))}; when all tasks are done, {whole} puts their parts together")


def _part_folder(folder: Path, part: int, of: int) -> Path:
    """The folder of a part of a sweep."""
    from mamba.runs.sweeps import kept

    return (folder / kept.PART_DONE.format(i=part, n=of)).parent


def _without_option(words: Sequence[str], name: str) -> list[str]:
    """Arguments without an option and its value."""
    rest, kept = list(words), []
    while rest:
        word = rest.pop(0)
        if word == name:
            rest.pop(0)
        elif not word.startswith(f"{name}="):
            kept.append(word)
    return kept


def _leave_memory_to_others(at_once: int) -> None:
    """Lets this process and those that it starts take memory of an accelerator as they need it; the first would take most of it.

    Processes that run `at_once` have a share each, of which they predict what fits. What the user said of either stays.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if at_once > 1:
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{_OF_MEMORY / at_once:.3f}")


def _join_processes(parsed: argparse.Namespace) -> None:
    from mamba.runs import distributed

    distributed.start(
        parsed.distributed, distributed.Cluster(parsed.coordinator, parsed.num_processes, parsed.process_id)
    )


def _report(parsed: argparse.Namespace) -> None:
    from mamba.runs.viewer import write_report

    print(write_report(Path(parsed.run_dir)))


def _view(parsed: argparse.Namespace) -> None:
    from mamba.runs import viewer

    root = Path(parsed.run_dir)
    if not root.is_dir():
        raise UserError(f"{root} is no folder; give a run folder, or a folder of run folders such as runs")
    if not viewer.runs_in(root):
        raise UserError(f"{root} holds no run; give a run folder, or a folder of run folders such as runs")
    try:
        server = viewer.make_server(root, parsed.port)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--port: {parsed.port} cannot be used ({error}); give another one, or 0 for a free one"
        ) from error
    with server, contextlib.suppress(KeyboardInterrupt):
        print(f"http://127.0.0.1:{server.server_address[1]}/  (Ctrl+C ends it)", flush=True)
        server.serve_forever()


def _config_show(parsed: argparse.Namespace) -> None:
    from mamba.runs.config import dump_yaml, load_config

    print(dump_yaml(load_config(parsed.config, parsed.overrides)), end="")


def _config_help(parsed: argparse.Namespace) -> None:
    from mamba.runs.config import help_text

    print(help_text(), end="")


def _data_list(parsed: argparse.Namespace) -> None:
    from mamba.datasets import catalogue
    from mamba.runs.progress import print_table

    rows = [(entry.name, entry.kind, entry.licence, entry.size, entry.title) for entry in catalogue()]
    print_table("", ("name", "kind", "licence", "size", "what it is"), rows)


# ---------------------------------------------------------------------------------------------------------------------
# The compilation cache


def use_compilation_cache() -> None:
    """Lets JAX keep compiled programs between processes; a second run then starts in a tenth of the time.

    The folder is `JAX_COMPILATION_CACHE_DIR`, else `mamba/jax` in the user's cache folder, one for each kind of
    processor: a program compiled for one may not run on another that shares the home folder.
    """
    import jax

    from mamba.runs.progress import warn

    given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(given) if given else home / "mamba" / "jax" / _processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(13, "no permission to write")
    except OSError as error:
        warn(f"compiled programs cannot be kept in {folder} ({error.strerror}); set JAX_COMPILATION_CACHE_DIR")
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", CACHE_FROM_S)


def use_all_cores() -> None:
    """Makes every core a JAX device where JAX runs on the CPU: rollouts are spread over devices.

    `JAX_NUM_CPU_DEVICES` says otherwise.
    """
    import jax

    if os.environ.get("JAX_NUM_CPU_DEVICES"):
        return
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    with contextlib.suppress(RuntimeError):  # a JAX that has already started (a notebook, a test) keeps its devices
        jax.config.update("jax_num_cpu_devices", min(cores, MOST_CORES))


def use_devices(wanted: str) -> None:
    """Limits JAX, here and in processes to be started, to so many devices of those it finds; `all` as `use_all_cores`.

    Raises:
        UserError: it is no number.
    """
    import jax

    if wanted == "all":
        use_all_cores()
        return
    if not wanted.isdecimal() or int(wanted) < 1:
        raise UserError(f"--devices: {wanted!r} is neither all nor a whole number of at least 1")
    count = int(wanted)
    visible = ",".join(map(str, range(count)))
    os.environ |= {"JAX_NUM_CPU_DEVICES": str(count), "JAX_CUDA_VISIBLE_DEVICES": visible}
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", count)
    with contextlib.suppress(RuntimeError, AttributeError):
        jax.config.update("jax_cuda_visible_devices", visible)


def _check_devices(wanted: str) -> None:
    """Starts JAX's back end, and refuses fewer devices than were asked for."""
    import jax

    if wanted != "all" and jax.local_device_count() < int(wanted):
        raise UserError(f"--devices: {wanted} are asked for, and there are {jax.local_device_count()}")


def _processor() -> str:
    """A short name of this kind of processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = [f"model name: {platform.processor()}"]
    wanted = ("model name", "flags", "Features", "CPU part")
    facts = sorted({line for line in lines if line.startswith(wanted)})
    return f"{platform.machine()}-{hashlib.sha256(chr(10).join(facts).encode()).hexdigest()[:12]}"
