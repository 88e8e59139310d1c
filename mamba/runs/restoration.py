"""After training: as much of the way to the trained levers as keeps every limit is what is deployed."""

from __future__ import annotations

from typing import Any

from mamba.meta import optimise, restore
from mamba.runs import progress
from mamba.runs.job import Job
from mamba.streams import stream

STAGE = "restoration"
_TOLD = ("violation", "bound", "trained", "trained_bound")


def restored(
    job: Job, trainer: optimise.Trainer, state: optimise.TrainingState
) -> tuple[optimise.TrainingState, dict[str, Any] | None]:
    """The levers that are deployed.

    Returns:
        `(state, told)`: `told` is for the summary, `mamba.meta.restore.Restored` by the names of what is kept; None where
        nothing was trained or is to be kept, and the state is as it was.
    """
    config = job.config.meta
    if not (config.restore and config.steps and config.keep and trainer.own is None):
        return state, None
    found = restore.restored(trainer, state, seeds=job.config.evaluation.seeds, key=stream(trainer.key, STAGE))
    told: dict[str, Any] = {"share": found.share, "confidence": restore.CONFIDENCE}
    for field in _TOLD:
        told[field] = dict(zip(config.keep, getattr(found, field).tolist(), strict=True))
    return state._replace(levers=found.levers), told


def row(told: dict[str, Any]) -> dict[str, float]:
    """What is logged of it."""
    kept = {f"{STAGE}/constraint/{name}": value for name, value in told["violation"].items()}
    return {f"{STAGE}/share": told["share"], **kept, **{f"{STAGE}/bound/{n}": v for n, v in told["bound"].items()}}


def say(told: dict[str, Any]) -> None:
    """Says on the terminal what the trained levers did not keep, if anything."""
    beyond = [name for name, value in told["trained_bound"].items() if not value <= 0]  # also where it is not a number
    if beyond and told["share"] == 1.0:
        progress.say(f"the last levers do not surely keep {', '.join(beyond)}, and none on the way to them come nearer")
    elif beyond:
        kept = all(value <= 0 for value in told["bound"].values())
        progress.say(
            f"the last levers do not surely keep {', '.join(beyond)} (one-sided {restore.CONFIDENCE:.0%} intervals): those that "
            f"go {told['share']:.0%} of the way from the default levers to them "
            f"{'do' if kept else 'come nearest to it'}, and are deployed"
        )
