"""Files of results that stages leave in the run folder, and whether they are of this configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import NamedTuple, get_type_hints

import numpy as np

from mamba.runs import folder
from mamba.runs.config import APART, SERVICES, RunConfig, config_digest
from mamba.runs.job import Job

ALL = ("*",)  # settings of a section


class Results(NamedTuple):
    """The file of one stage.

    Attributes:
        file: its name.
        indifferent: settings, as `section` or `section.name`, that its numbers do not depend on.
    """

    file: str
    indifferent: tuple[str, ...]


def of_stage(file: str, *, reads: Mapping[str, Collection[str]], indifferent: Collection[str] = ()) -> Results:
    """The file of a stage that reads only some of the sections which belong to one stage each.

    Args:
        file: its name.
        reads: section of `mamba.runs.config.APART` -> its settings that count, `ALL` of them or by name.
        indifferent: more settings that do not.
    """
    kinds = get_type_hints(RunConfig)
    unread = [section for section in APART if section not in reads]
    for section, names in reads.items():
        if names != ALL:
            unread += [
                f"{section}.{field.name}" for field in dataclasses.fields(kinds[section]) if field.name not in names
            ]
    return Results(file, (*SERVICES, *unread, *indifferent))


def digest(results: Results, job: Job) -> str:
    """Digest of the settings that decide the results."""
    return digest_of(results, job.config)


def digest_of(results: Results, config: RunConfig) -> str:
    """The same, of a configuration that is not prepared."""
    return config_digest(config, without=results.indifferent)


def is_stale(results: Results, job: Job, path: Path) -> bool:
    """Whether a run folder holds results of another configuration.

    Raises:
        UserError: the file is damaged.
    """
    target = path / results.file
    return target.exists() and str(folder.read_arrays(target).get("digest", "")) != digest(results, job)


def kept(results: Results, job: Job, path: Path) -> dict[str, np.ndarray] | None:
    """Results of this configuration from a run folder; None where there are none.

    Raises:
        UserError: the file is damaged.
    """
    target = path / results.file
    return folder.read_arrays(target) if target.exists() and not is_stale(results, job, path) else None


def completed(
    results: Results,
    job: Job,
    path: Path,
    *,
    measure: Callable[[], dict[str, np.ndarray]],
    extend: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]],
) -> tuple[dict[str, np.ndarray], bool]:
    """Results, from the folder where they are there, and whether anything was added to what it held.

    Args:
        results: the file.
        job: the job.
        path: run folder.
        measure: what the folder lacks altogether.
        extend: adds what became known later; the same object where there is nothing to add.

    Raises:
        UserError: the file is damaged.
    """
    known = kept(results, job, path)
    arrays = known
    if arrays is None:
        arrays = measure()
        folder.write_arrays(path / results.file, arrays)
    whole = extend(arrays)
    if whole is not arrays:
        folder.write_arrays(path / results.file, whole)
    return whole, whole is not known
