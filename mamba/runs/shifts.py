"""How training shifts who interacts with whom: the factorial again every few meta-steps, on the levers of that moment.

Seeds, platforms and warm-up are those of the analysis of the default levers, so that every difference to it is paired, and the
program that ran it runs these, too: the default levers run the warm-up, what is frozen knows these, and other levers count
from then on. A row of `metrics.jsonl` holds each analysis; its matrices go to wandb.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mamba.interactions import factorial
from mamba.interactions.factorial import Analysis
from mamba.meta import optimise
from mamba.objectives import NAMES
from mamba.runs import analysis, folder, progress
from mamba.runs.config import APART, SERVICES, RunConfig, config_digest
from mamba.runs.errors import UserError
from mamba.runs.job import Job
from mamba.runs.tracking import Tracker

STAGE = "shifts"
BOUNDS = ("low", "high")
# Levers are those of the checkpoint, whatever the settings say by now, and how often they are looked at changes nothing.
_INDIFFERENT = (
    *SERVICES,
    *(section for section in APART if section != analysis.STAGE),
    *("meta", "evaluation"),
    *(f"{analysis.STAGE}.{name}" for name in ("every", "learning_pairs", "windows")),
)


def digest(config: RunConfig) -> str:
    """Digest of what decides a row, the levers apart."""
    return config_digest(config, without=_INDIFFERENT)


def check(job: Job) -> None:
    """Refuses to follow what is not measured.

    Raises:
        UserError: one line that names the setting.
    """
    asked = job.config.interactions
    if asked.every and not asked.seeds:
        raise UserError(
            "interactions.every: there is nothing to follow where interactions.seeds is 0; give at least 2 seeds"
        )


def visitor(
    job: Job,
    trainer: optimise.Trainer,
    before: analysis.Measured,
    *,
    path: Path,
    metrics: folder.MetricsLog,
    tracker: Tracker,
    stop: Callable[[], bool],
) -> Callable[[optimise.TrainingState], None]:
    """`state -> None`: analyses and logs the levers of a state where it is their turn, and they have not been.

    It raises `Stopped` where a signal arrives between two chunks; then the analysis is lost, and made when training goes on.

    Args:
        job: the job.
        trainer: of the job.
        before: what was measured of the default levers.
        path: run folder.
        metrics: the open `metrics.jsonl`.
        tracker: where to log.
        stop: whether a signal asks to stop.
    """
    every, total, names = job.config.interactions.every, job.config.meta.steps, job.ecosystem.names
    default = functools.cache(lambda: analysis.analysed(job, before))
    done = {row["meta_step"] for row in folder.read_metrics(path / folder.METRICS) if row.get("stage") == STAGE}

    def visit(state: optimise.TrainingState) -> None:
        step = int(state.step)
        if step == 0 or step in done or (step % every and step < total):
            return
        progress.say(f"interactions of the levers after meta-step {step}")
        values = analysis.table_of(job, optimise.levers_of(trainer, state), stop=stop)[:, :, 0]
        now = before._replace(values=values, windows=before.windows[:, :, :0])
        found = analysis.analysed(job, now)
        # Effects are linear in the values: those of a difference are the differences, paired by seed.
        shift = analysis.analysed(job, now._replace(values=values - before.values))
        # Heat maps of all meta-steps are in the spreads of the default levers.
        analysis.log_matrices(step, factorial.on_scale_of(found, default()), tracker)
        for k, objective in enumerate(NAMES):
            tracker.log(
                step, {f"{analysis.STAGE}/{objective}": dict(zip(names, found.switch_off.mean[:, k], strict=True))}
            )
            tracker.log_matrix(step, f"{STAGE}/{objective}", names, shift.shown_pair.mean[:, :, k])
        # Last: what is written there is not made again.
        logged = {"stage": STAGE, "meta_step": step, "digest": digest(job.config)}
        metrics.append({**logged, **folder.plain(row(found, shift))})
        done.add(step)

    return visit


def row(found: Analysis, shift: Analysis) -> dict[str, Any]:
    """What is logged of an analysis, in the names of `analysis.row`.

    Args:
        found: the analysis of the levers of the moment.
        shift: that of the differences to the default levers.

    Returns:
        `analysis.row(found)`; of each pair in the shown index the interval, `interactions_low/...` and `interactions_high/...`,
        its `shifts/...` since the default levers with `shifts_low/...` and `shifts_high/...`, and whether that is
        `confirmed/...` at the false discovery rate over all pairs and objectives.
    """
    result = analysis.row(found)
    for k, objective in enumerate(NAMES):
        for i, a in enumerate(found.names):
            for j in range(i + 1, len(found.names)):
                pair = f"{objective}/{a}__on__{found.names[j]}"
                for name, of in ((analysis.STAGE, found.shown_pair), (STAGE, shift.shown_pair)):
                    result |= {f"{name}_{bound}/{pair}": getattr(of, bound)[i, j, k] for bound in BOUNDS}
                result[f"{STAGE}/{pair}"] = shift.shown_pair.mean[i, j, k]
                result[f"confirmed/{pair}"] = bool(shift.index_confirmed[i, j, k])
    return result
