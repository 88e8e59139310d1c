"""Weights & Biases as a sink: nothing depends on it, and nothing it does can stop a run.

The first failure of any kind (no key, no network, a full disk) becomes one warning, and from then on nothing is logged
there; the run folder has everything. Runs are offline (`wandb sync` uploads them later) unless the configuration says
otherwise; so does the command line for a run that an agent of wandb starts, where nothing is said. Every file stays inside
the run folder, and the x axis of every chart is the meta-step.
"""

from __future__ import annotations

import functools
import operator
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mamba.runs.folder import WANDB, plain
from mamba.runs.progress import warn
from mamba.runs.settings import LogConfig

STEP = "meta_step"
PAIRS_UP_TO = 8  # algorithms whose pairs are logged as scalars; the table has all of them


class Tracker(NamedTuple):
    """Where metrics go besides the run folder. No function raises.

    Attributes:
        log: `(step, row)`: the scalars of a row, nested mappings joined by `/`; arrays are left out.
        log_matrix: `(step, name, labels, matrix)`: effects `matrix[i][j]` of algorithm `labels[i]` on algorithm
            `labels[j]`, as scalars `<name>/<i>__on__<j>` where there are few, the diagonal left out.
        log_figure: `(step, name, figure)`: a plotly figure.
        log_table: `(step, name, columns, rows)`: a small table; a row costs about a millisecond.
        artifact: `(path, name, type)`: keeps a copy of a file.
        finish: `(summary, failed=False)`: writes the summary and closes; later calls do nothing.
    """

    log: Callable[[int, Mapping[str, Any]], None]
    log_matrix: Callable[[int, str, Sequence[str], Any], None]
    log_figure: Callable[[int, str, Any], None]
    log_table: Callable[[int, str, Sequence[str], Sequence[Sequence[Any]]], None]
    artifact: Callable[[str | Path, str, str], None]
    finish: Callable[..., None]


def nothing() -> Tracker:
    """The tracker that does nothing."""

    def ignore(*arguments: Any, **named: Any) -> None:
        del arguments, named

    return Tracker(ignore, ignore, ignore, ignore, ignore, ignore)


def start(
    log: LogConfig,
    *,
    run_dir: str | Path,
    run_id: str,
    config: Mapping[str, Any],
    name: str,
    job_type: str = "train",
) -> Tracker:
    """Starts or continues a wandb run.

    Args:
        log: mode, project, entity, group and tags.
        run_dir: the run folder.
        run_id: identifier that stays the same when the run is continued and that no other folder has, see
            `mamba.runs.folder.run_id`. A wandb agent's own identifier goes before it.
        config: the resolved configuration as nested mappings.
        name: name to show.
        job_type: `train`, `eval`, `sweep` or `member`.

    Returns:
        A tracker; one that does nothing where wandb is disabled or cannot start.
    """
    if log.wandb == "disabled":
        return nothing()
    before = {variable: os.environ.get(variable) for variable in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR")}
    try:
        return _start(log, Path(run_dir).absolute(), run_id, plain(config), name, job_type, before)
    except Exception as error:
        _restore(before)
        _give_up(error)
        return nothing()


def _start(
    log: LogConfig,
    run_dir: Path,
    run_id: str,
    config: dict[str, Any],
    name: str,
    job_type: str,
    before: Mapping[str, str | None],
) -> Tracker:
    import wandb

    folder = run_dir / WANDB
    folder.mkdir(parents=True, exist_ok=True)  # wandb takes a temporary folder instead of one that is missing
    # Artifacts are staged in the home directory otherwise.
    os.environ.update(WANDB_DATA_DIR=str(folder / "data"), WANDB_CACHE_DIR=str(folder / "cache"))
    wanted: dict[str, Any] = {
        "silent": True,
        "console": "off",
        "init_timeout": 60.0,
        "login_timeout": 30.0,
        "finish_timeout": 120.0,
    }
    run = wandb.init(
        project=log.project,
        entity=log.entity,
        group=log.group,
        tags=list(log.tags) or None,
        name=name,
        job_type=job_type,
        id=os.environ.get("WANDB_RUN_ID", run_id),
        resume="allow",
        mode="online" if log.wandb == "online" else "offline",
        dir=str(run_dir),
        config=config,
        reinit="create_new",
        settings=wandb.Settings(**{key: value for key, value in wanted.items() if key in wandb.Settings.model_fields}),
    )
    run.define_metric(STEP)
    run.define_metric("*", step_metric=STEP)
    alive = True
    # wandb's own step, which goes on in a run that is continued, and the meta-step that was logged there.
    latest = (int(getattr(run, "step", 0)) - 1, -1)

    def safe(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> None:
            nonlocal alive
            if not alive:
                return
            try:
                function(*arguments, **named)
            except Exception as error:
                alive = False
                _restore(before)
                _give_up(error)

        return call

    def write(step: int, row: Mapping[str, Any]) -> None:
        # The step is always passed: a continued offline run would count from 0 again. wandb's own must not go back, or the row is
        # dropped; that of a stage which follows training does. The axis of every chart is STEP, which may.
        nonlocal latest
        if step != latest[1]:
            latest = (max(latest[0] + 1, operator.index(step)), operator.index(step))
        run.log({STEP: latest[1], **row}, step=latest[0])

    @safe
    def log_row(step: int, row: Mapping[str, Any]) -> None:
        write(step, scalars(row))

    @safe
    def log_matrix(step: int, name: str, labels: Sequence[str], matrix: Any) -> None:
        write(step, pairs(name, labels, matrix))

    @safe
    def log_figure(step: int, name: str, figure: Any) -> None:
        write(step, {metric_name(name): wandb.Plotly(figure)})

    @safe
    def log_table(step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        write(step, {metric_name(name): wandb.Table(columns=list(columns), data=[plain(row) for row in rows])})

    @safe
    def artifact(path: str | Path, name: str, type: str) -> None:
        kept = wandb.Artifact(re.sub(r"[^a-zA-Z0-9_.-]", "_", name), type=type)
        kept.add_file(str(path), policy="mutable")  # copied now: the file may be replaced before the upload
        run.log_artifact(kept)

    @safe
    def finish(summary: Mapping[str, Any], failed: bool = False) -> None:
        nonlocal alive
        try:
            run.summary.update(scalars(summary))
            run.finish(exit_code=int(failed))
        finally:
            _restore(before)
        alive = False

    return Tracker(log_row, log_matrix, log_figure, log_table, artifact, finish)


def _restore(before: Mapping[str, str | None]) -> None:
    for variable, value in before.items():
        if value is None:
            os.environ.pop(variable, None)
        else:
            os.environ[variable] = value


def _give_up(error: Exception) -> None:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    warn(f"wandb failed and is left out from here on; the run folder has everything ({reason})")


def metric_name(name: str) -> str:
    """A name that wandb takes: letters, digits, `_` and `/`, everything else as `_`."""
    cleaned = re.sub(r"[^_a-zA-Z0-9/]", "_", name)
    return cleaned if re.match("[_a-zA-Z]", cleaned) else f"_{cleaned}"


def scalars(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Numbers, truth values and texts of a row as plain Python by cleaned name; nested mappings joined by `/`."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        full = f"{prefix}{name}"
        if isinstance(value, Mapping):
            found.update(scalars(value, f"{full}/"))
        elif isinstance(value, bool | int | float | str):
            found[metric_name(full)] = value
        elif value is not None and not isinstance(value, list | tuple) and np.shape(value) == ():
            found[metric_name(full)] = np.asarray(value).item()
    return found


def pairs(name: str, labels: Sequence[str], matrix: Any) -> dict[str, float]:
    """Off-diagonal entries of a matrix as `<name>/<row>__on__<column>`; none where there are too many labels.

    Raises:
        ValueError: the matrix is not square with one row for each label.
    """
    values = np.asarray(matrix, np.float64)
    if values.shape != (len(labels), len(labels)):
        raise ValueError(f"{name}: a matrix of shape {values.shape} does not belong to {len(labels)} labels")
    if len(labels) > PAIRS_UP_TO:
        return {}
    return {
        metric_name(f"{name}/{one}__on__{other}"): float(values[i, j])
        for i, one in enumerate(labels)
        for j, other in enumerate(labels)
        if i != j
    }
