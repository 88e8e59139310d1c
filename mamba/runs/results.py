"""Files of results that stages leave in the run folder, and whether they are of this configuration."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mamba.runs import folder
from mamba.runs.config import APART, SERVICES, config_digest
from mamba.runs.job import Job


class Results(NamedTuple):
    """The file of one stage.

    Attributes:
        file: its name.
        indifferent: settings, as `section` or `section.name`, that its numbers do not depend on.
    """

    file: str
    indifferent: tuple[str, ...]


def of_stage(file: str, *, reads: Collection[str], indifferent: Collection[str] = ()) -> Results:
    """The file of a stage that reads only some of the sections which belong to one stage each.

    Args:
        file: its name.
        reads: sections of `mamba.runs.config.APART` that count.
        indifferent: more settings that do not.
    """
    return Results(file, (*SERVICES, *(section for section in APART if section not in reads), *indifferent))


def digest(results: Results, job: Job) -> str:
    """Digest of the settings that decide the results."""
    return config_digest(job.config, without=results.indifferent)


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
