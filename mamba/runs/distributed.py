"""Several processes as one run: members are dealt out over processes, and every process goes the same way.

All processes do the same on the host, with the same numbers: what is measured in parts is gathered by all, and a signal to one
stops all at the same place. Process 0 owns the run folder; the others work in a copy that is thrown away, so that nothing is
written twice.

References:
    jax.distributed (docs.jax.dev, "Introduction to multi-controller JAX").
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from mamba import members as mem
from mamba.runs import progress
from mamba.runs.errors import UserError

T = TypeVar("T")
_VISIBLE = ("jax_cuda_visible_devices", "jax_rocm_visible_devices")


class Cluster(NamedTuple):
    """Where the processes of a run meet.

    Attributes:
        coordinator: `host:port` of process 0; None lets the cluster's environment say it.
        processes: how many there are; None as well.
        process: which this is; None as well.
    """

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None


def rule(cluster: Cluster, environment: Mapping[str, str]) -> str | None:
    """Why this process is one of several, in words; None where nothing says so.

    Only a launcher that starts several tasks counts: an allocation alone (`salloc`, a login shell inside a job) does not.
    """

    def tasks(name: str) -> bool:
        value = environment.get(name, "")
        return value.isdecimal() and int(value) > 1

    if cluster.coordinator is not None:
        return "a coordinator is given"
    if "SLURM_PROCID" in environment and tasks("SLURM_STEP_NUM_TASKS"):
        return "srun starts several tasks"
    if tasks("OMPI_COMM_WORLD_SIZE"):
        return "Open MPI starts several processes"
    if "," in environment.get("TPU_WORKER_HOSTNAMES", ""):
        return "a TPU pod has several workers"
    return None


def alone_on_host(environment: Mapping[str, str]) -> bool:
    """Whether a launcher says that it starts one task on every host."""
    tasks = environment.get("SLURM_STEP_TASKS_PER_NODE")  # such as 2(x3),1
    if tasks is not None:
        return re.fullmatch(r"1(\(x\d+\))?(,1(\(x\d+\))?)*", tasks) is not None
    return environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"


def start(mode: str, cluster: Cluster) -> None:
    """Joins the other processes where there are any; call it before anything else touches a device.

    Args:
        mode: `auto` joins where `rule` says so, `on` always, `off` never.
        cluster: where to meet.

    Raises:
        UserError: the processes did not find each other, or are not as many as expected, or nothing says where they meet.
    """
    found = rule(cluster, os.environ)
    announced = cluster.processes != 1 and (cluster.processes, cluster.process) != (None, None)
    if mode == "auto" and found is None and announced:
        raise UserError(
            "--num-processes, --process-id: nothing says where the processes meet; give --coordinator HOST:PORT of process 0"
        )
    if mode == "off" or (mode == "auto" and found is None):
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Its handler of SIGTERM would keep the signal from those of `mamba.runs.signals`.
    jax.config.update("jax_enable_preemption_service", False)
    seen = {name: jax.config.values[name] for name in _VISIBLE if name in jax.config.values}
    try:
        jax.distributed.initialize(cluster.coordinator, cluster.processes, cluster.process)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0][:300]
        raise UserError(
            f"--distributed: the processes did not find each other ({reason}); see --coordinator"
        ) from error
    if alone_on_host(os.environ) and "JAX_LOCAL_DEVICE_IDS" not in os.environ:
        # Where tasks of a host are numbered, jax gives each the device of its number: this one may have all.
        for name, value in seen.items():
            jax.config.update(name, value)
    index, count = jax.process_index(), jax.process_count()
    progress.quiet(index != 0)
    if cluster.processes not in (None, count):
        raise UserError(f"--num-processes: {cluster.processes} were announced, and there are {count}")
    if jax.device_count() != count * jax.local_device_count():
        raise UserError(
            f"--distributed: {jax.local_device_count()} devices here, and {jax.device_count()} in {count} processes; "
            "give all as many (--devices, JAX_NUM_CPU_DEVICES, CUDA_VISIBLE_DEVICES)"
        )
    devices = f"{jax.local_device_count()} local and {jax.device_count()} devices in all"
    progress.say(f"{found or 'asked for'}: process {index} of {count}, {devices}")


def refuse_several(why: str) -> None:
    """Refuses to be one of several processes.

    Raises:
        UserError: it is; the message gives `why`.
    """
    if jax.process_count() > 1:
        raise UserError(f"--distributed: {why}, which several processes cannot share; use --part or --slurm")


def refuse_different(*told: Any) -> None:
    """Refuses to go on where what this process was told, or found, is not what every other one has; all must ask at the same place.

    Args:
        *told: pytrees of arrays, numbers and texts.

    Raises:
        UserError: it is not.
    """
    if jax.process_count() == 1:
        return
    leaves = jax.tree.leaves(told)
    digest = hashlib.sha256(b"".join(b"%d:" % np.asarray(leaf).nbytes + np.asarray(leaf).tobytes() for leaf in leaves))
    every = _from_all(np.frombuffer(digest.digest(), np.uint32))
    if (every != every[0]).any():
        raise UserError(
            "--distributed: the processes do not have the same before them; give all of them one command, and with --run_dir "
            "a folder that all hosts see"
        )


def joined() -> bool:
    """Whether other processes may wait for this one."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Whether this process owns the run folder; with one process it does."""
    return jax.process_index() == 0


_OF_NO_JOB = ("wandb", "report", "profile", ".lock")  # in a run folder, and nothing that a job goes on from


@contextmanager
def own_folder(path: str | Path) -> Generator[Path, None, None]:
    """The run folder for process 0, a copy of what it holds now for every other one.

    Raises:
        UserError: the processes do not see the same files there.
    """
    folder = Path(path)
    if jax.process_count() == 1:
        yield folder
        return
    _from_all(np.zeros(1))  # nobody has written yet
    refuse_different(_names(folder))
    if is_first():
        _from_all(np.zeros(1))  # everybody has a copy
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="mamba-") as place:
        copy = Path(place) / folder.name
        if folder.is_dir():
            shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(*_OF_NO_JOB))
        _from_all(np.zeros(1))
        yield copy


def _names(folder: Path) -> list[str]:
    """The files in a folder, but for logs, which somebody else may write."""
    paths = (path.relative_to(folder) for path in folder.rglob("*"))
    return sorted(str(path) for path in paths if path.suffix != ".log" and not set(path.parts) & set(_OF_NO_JOB))


def _from_all(values: Any) -> Any:
    """What every process has, in a pytree of arrays with a leading axis [processes]; all must ask at the same places.

    Raises:
        UserError: another process is gone.
    """
    try:
        return multihost_utils.process_allgather(values)
    except jax.errors.JaxRuntimeError as error:
        raise UserError("--distributed: another process of this run is gone; see what it said last") from error


def agreed(stop: Callable[[], bool]) -> Callable[[], bool]:
    """Whether any process was asked to stop; all must ask at the same places."""
    if jax.process_count() == 1:
        return stop
    return lambda: bool(np.any(_from_all(np.asarray(stop()))))


def least(value: float) -> float:
    """The least of what all processes have; all must ask at the same places."""
    if jax.process_count() == 1:
        return value
    return float(np.min(_from_all(np.asarray(value))))


def mine(members: mem.Members) -> mem.Members:
    """The members of this process, as many as every other one has: dealt out like cards, the last one again where some lack."""
    processes, total = jax.process_count(), len(members.keys)
    if processes == 1:
        return members
    each = -(-total // processes)
    index = np.minimum(np.arange(each) * processes + jax.process_index(), total - 1)
    return jax.tree.map(lambda leaf: leaf[index], members)


def of_all(count: int) -> int:
    """How many members all processes take where each takes so many."""
    return count * jax.process_count()


def gathered(values: np.ndarray, total: int) -> np.ndarray:
    """Values of all `total` members in their order, on every process, from those of `mine`."""
    if jax.process_count() == 1:
        return values
    every = np.asarray(_from_all(values))  # [processes, each, ...]
    return np.swapaxes(every, 0, 1).reshape(-1, *values.shape[1:])[:total]


def shared_out(answer: Callable[[Sequence[T]], Sequence[Any]], questions: Sequence[T]) -> list[Any]:
    """Answers to questions, of which every process works out its part and gets all; dealt out as `mine` deals members.

    Args:
        answer: questions -> pytrees of arrays, of the same shapes for all questions.
        questions: at least one, the same in every process.
    """
    processes, total = jax.process_count(), len(questions)
    if processes == 1:
        return list(answer(questions))
    index = np.minimum(np.arange(-(-total // processes)) * processes + jax.process_index(), total - 1)
    own = answer([questions[at] for at in index])
    every = _from_all(jax.tree.map(lambda *leaves: np.stack(leaves), *own))
    return [jax.tree.map(lambda leaf, at=at: leaf[at % processes, at // processes], every) for at in range(total)]
