"""The main job: from a configuration to a trained, analysed and reported ecosystem.

Stages: interactions (the factorial over gates on the default levers), training (meta-steps), evaluation (default
against trained levers on fresh seeds, sampled model), report. Each stage leaves its result in the run folder before the next
begins; the same command on the same folder goes on where it was and ends with the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mamba import members as mem
from mamba.interactions import findings, statistics
from mamba.meta import estimators, optimise
from mamba.objectives import NAMES, OBJECTIVES
from mamba.runs import analysis, checkpoint, folder, progress, report, signals, tracking
from mamba.runs.config import RunConfig, config_digest, dump_yaml, to_mapping
from mamba.runs.job import Job, prepare
from mamba.streams import stream
from mamba.types import Levers

INTERACTIONS, TRAINING, EVALUATION = analysis.STAGE, "training", "evaluation"


def run(config: RunConfig, path: str | Path, *, command: str, allow_config_change: bool = False) -> dict[str, Any]:
    """Runs a configuration in a run folder, or continues it there.

    Args:
        config: checked configuration.
        path: the run folder; made when absent.
        command: how the run was started, for the record.
        allow_config_change: continue a folder whose configuration differs.

    Returns:
        The summary that was written to `summary.json`; `finished` is False after a signal.

    Raises:
        UserError: the folder or the data cannot be used.
    """
    digest = config_digest(config)
    with folder.open_folder(path, dump_yaml(config), allow_config_change=allow_config_change) as place:
        if place.resumed and not place.changes:
            earlier = _finished(place.path, digest)
            if earlier is not None:
                progress.say(f"{place.path} is finished; nothing to do")
                if not (place.path / folder.REPORT / "index.html").exists():
                    report.write_report(place.path)
                return earlier
        clock = time.perf_counter()
        job = prepare(config)
        for fact, text in job.story.items():
            progress.say(f"{fact}: {text}")
        with signals.graceful() as stop_requested:
            return _stages(job, place, command=command, digest=digest, stop=stop_requested, clock=clock)


def _finished(path: Path, digest: str) -> dict[str, Any] | None:
    """The summary of a run of the configuration with this digest; None where there is none or it is another's."""
    if not (path / folder.SUMMARY).exists():
        return None
    summary = folder.read_summary(path / folder.SUMMARY)
    provenance = summary.get("provenance")
    mine = isinstance(provenance, Mapping) and provenance.get("config_digest") == digest
    return summary if mine and summary.get("finished") else None


def _stages(
    job: Job, place: folder.RunFolder, *, command: str, digest: str, stop: Callable[[], bool], clock: float
) -> dict[str, Any]:
    config, path = job.config, place.path
    trainer = optimise.trainer(
        job.ecosystem,
        job.inputs,
        config.meta,
        steps=config.steps,
        evaluate=job.evaluate,
        key=stream(job.key, TRAINING),
    )
    state = optimise.start(trainer)
    restored = checkpoint.latest(path / folder.CHECKPOINTS, state)
    if restored is not None:
        state = restored.tree
    done = int(state.step)
    kept = analysis.kept(job, path)
    if (path / folder.METRICS).exists():
        folder.read_metrics(path / folder.METRICS)
    stale = [folder.SUMMARY] if _finished(path, digest) is None else []
    stale += [folder.INTERACTIONS] if kept is None else []
    # Whatever cannot be used was refused by now, and the folder is still as it was.
    place.claim()
    for name in stale:  # results of another configuration: with those of this one they would make a report of neither
        if (path / name).exists():
            progress.say(f"{name} is of another configuration and is dropped")
            (path / name).unlink()

    def stays(row: Mapping[str, Any]) -> bool:
        if row.get("stage") == INTERACTIONS:
            return kept is not None
        at = row.get("meta_step")
        return row.get("stage") == TRAINING and isinstance(at, int) and at < done

    metrics = folder.open_metrics(path / folder.METRICS, keep=stays)
    run_id = folder.run_id(path)
    tracker = tracking.start(config.log, run_dir=path, run_id=run_id, config=to_mapping(config), name=config.name)
    summary: dict[str, Any] = {"name": config.name, "finished": False}
    try:
        results = None
        if config.interactions.seeds:
            results = analysis.run(job, path, kept, tracker=tracker, stop=stop)
            if results is not None and not any(
                each.get("stage") == INTERACTIONS for each in folder.read_metrics(path / folder.METRICS)
            ):
                row = analysis.row(results.analysis)
                metrics.append({"stage": INTERACTIONS, "meta_step": 0, **folder.plain(row)})
                tracker.log(0, row)
        if results is not None or config.interactions.seeds == 0:
            state = _train(job, trainer, state, path, metrics, tracker, stop)
        if stop():
            progress.say(f"stopped in good order; the same command continues in {path}")
            tracker.finish(summary)
            return summary
        evaluation = _evaluate(job, trainer, state, metrics, tracker)
        summary |= _summary(job, trainer, state, results, evaluation, command, time.perf_counter() - clock)
        folder.write_json(path / folder.SUMMARY, summary)
        page = report.write_report(path)
        if results is not None:
            tracker.artifact(path / folder.INTERACTIONS, "interactions", "analysis")
        tracker.finish({f"finding/{i}": found["sentence"] for i, found in enumerate(summary["findings"])})
        for found in summary["findings"]:
            progress.say(found["sentence"])
        progress.say(f"report: {page}")
        return summary
    finally:
        metrics.close()


# ---- training
# ------------------------------------------------------------------------------------------------------------


def _train(job: Job, trainer, state, path: Path, metrics, tracker, stop: Callable[[], bool]):
    config = job.config
    total, begun = config.meta.steps, int(state.step)
    if begun >= total:
        return state
    labels = estimators.names(job.inputs.levers)
    with progress.progress(total, "training", done=begun) as meter:
        while int(state.step) < total and not stop():
            index = int(state.step)
            clock = time.perf_counter()
            state, told = optimise.step(trainer, state)
            row = _training_row(job, labels, state, told)
            metrics.append({"stage": TRAINING, "meta_step": index, **folder.plain(row)})
            tracker.log(index, {**row, "perf/seconds_per_meta_step": time.perf_counter() - clock})
            last = index + 1 == total
            if last or (index + 1) % config.checkpoint.every == 0 or stop():
                meta = {"name": config.name}
                checkpoint.save(path / folder.CHECKPOINTS, index + 1, state, meta, keep=config.checkpoint.keep)
            meter.advance(1, utility=told.utility)
    return state


def _training_row(job: Job, labels: list[str], state, told: optimise.Report) -> dict[str, Any]:
    row: dict[str, Any] = {
        "meta/utility": told.utility,
        "meta/audited": int(told.fresh_audit),
        "meta/cosine": told.cosine,
    }
    for k, name in enumerate(NAMES):
        row[f"ecosystem/{name}"] = told.values[k]
        row[f"baseline/{name}"] = told.baseline[k]
    for c, name in enumerate(job.config.meta.keep):
        row[f"constraint/{name}"] = told.violation[c]
        row[f"multiplier/{name}"] = float(state.multipliers[c])
    values = np.asarray(state.levers)
    meaningful = meaningful_levers(job, estimators.unflat(job.inputs.levers)(state.levers))
    for p, label in enumerate(labels):
        row[f"levers/{label}"] = meaningful[label]
        row[f"levers_unconstrained/{label}"] = values[p]
        row[f"gradient/{label}"] = told.gradient[p]
        row[f"audit/{label}/pathwise"] = told.pathwise[p]
        row[f"audit/{label}/sampled"] = told.audited[p]
        row[f"audit/{label}/error"] = told.audited_error[p]
        row[f"audit/{label}/weight"] = told.weight[p]
    return row


def meaningful_levers(job: Job, levers: Levers) -> dict[str, float]:
    """Levers in their meaningful range by `algorithm/lever`, those that are arrays by `algorithm/lever/0` and on."""
    result = {}
    for name, algorithm in zip(job.ecosystem.names, job.ecosystem.algorithms, strict=True):
        for lever, value in levers[name].items():
            entries = np.asarray(algorithm.bounds[lever].forward(value)).ravel()
            result |= zip(_entries(f"{name}/{lever}", entries.size), map(float, entries), strict=True)
    return result


def lever_units(job: Job) -> dict[str, str]:
    """Units of the levers, by the names of `meaningful_levers`."""
    return {
        entry: algorithm.bounds[lever].unit
        for name, algorithm in zip(job.ecosystem.names, job.ecosystem.algorithms, strict=True)
        for lever, value in algorithm.levers.items()
        for entry in _entries(f"{name}/{lever}", np.size(value))
    }


def _entries(name: str, size: int) -> list[str]:
    """Names of the entries of a lever, as `estimators.names` gives them."""
    return [name] if size == 1 else [f"{name}/{i}" for i in range(size)]


# ---- evaluation
# ----------------------------------------------------------------------------------------------------------


def _evaluate(job: Job, trainer, state, metrics, tracker) -> dict[str, np.ndarray]:
    """Default and trained levers on the same fresh seeds, [S, J] each."""
    seeds = job.config.evaluation.seeds
    keys = jax.random.split(stream(job.key, EVALUATION), seeds)
    before = mem.repeat(job.ecosystem, trainer.baseline, keys)
    after = mem.repeat(job.ecosystem, optimise.levers_of(trainer, state), keys)
    everyone = mem.join(before, after)
    with progress.progress(2 * seeds, f"evaluation: {2 * seeds} rollouts on fresh seeds") as meter:
        finished = 0

        def done(total: int) -> None:
            nonlocal finished
            meter.advance(total - finished)
            finished = total

        values = job.evaluate(everyone, done)
    result = {"before": values[:seeds], "after": values[seeds:]}
    row = {
        f"{EVALUATION}/{when}/{name}": float(result[when][:, k].mean(dtype=np.float64))
        for when in ("before", "after")
        for k, name in enumerate(NAMES)
    }
    step = int(state.step)
    metrics.append({"stage": EVALUATION, "meta_step": step, **folder.plain(row)})
    tracker.log(step, row)
    return result


def _summary(
    job: Job,
    trainer,
    state,
    results: analysis.Results | None,
    evaluation: dict[str, np.ndarray],
    command: str,
    seconds: float,
) -> dict[str, Any]:
    config = job.config
    confidence = config.interactions.confidence
    before, after = (np.asarray(evaluation[when], np.float64) for when in ("before", "after"))
    change = statistics.estimate(after - before, confidence)
    found: list[findings.Finding | None] = []
    if results is not None:
        found += findings.pairs(results.analysis, config=config.interactions, learning=results.measured[2:])
        found.append(
            findings.strongest_side_effect(
                results.analysis,
                confidence=confidence,
                false_discovery_rate=config.interactions.false_discovery_rate,
            )
        )
    if config.meta.steps > 0:
        found.append(
            findings.training(
                change,
                before.mean(axis=0),
                minimised=[name for name, weight in config.meta.minimise.items() if weight > 0],
                kept=list(config.meta.keep),
                confidence=confidence,
            )
        )
    levels = {when: statistics.estimate(values, confidence) for when, values in (("before", before), ("after", after))}

    def interval(estimate: statistics.Estimate, k: int) -> dict[str, float]:
        return {"mean": estimate.mean[k], "low": estimate.low[k], "high": estimate.high[k]}

    trained = meaningful_levers(job, optimise.levers_of(trainer, state))
    default = meaningful_levers(job, trainer.baseline)
    units = lever_units(job)
    devices = jax.devices()
    return {
        "finished": True,
        "story": job.story,
        "algorithms": {each.name: each.kind for each in config.algorithms},
        "steps": config.steps,
        "seeds": {
            INTERACTIONS: config.interactions.seeds, EVALUATION: config.evaluation.seeds, "root": config.seed,
            "meta_steps": config.meta.steps,
        },
        "confidence": confidence,
        "objectives": {
            name: {
                "label": objective.label, "formula": objective.formula, "unit": objective.unit, "better": objective.better,
                "source": objective.source, "before": interval(levels["before"], k), "after": interval(levels["after"], k),
                "change": interval(change, k),
            }
            for k, (name, objective) in enumerate(OBJECTIVES.items())
        },
        "levers": {
            name: {"unit": units[name], "before": default[name], "after": trained[name]} for name in default
        },
        "minimise": dict(config.meta.minimise),
        "keep": dict(config.meta.keep),
        "findings": [finding._asdict() for finding in found if finding is not None],
        "seconds": seconds,
        "provenance": folder.provenance(
            command, device_kind=devices[0].device_kind, devices=len(devices), config_digest=config_digest(config)
        ),
    }  # fmt: skip
