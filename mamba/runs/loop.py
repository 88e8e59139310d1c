"""The main jobs: from a configuration to a trained or analysed, and reported, ecosystem.

`simulate`: rollouts of the platform as it is. `run`: interactions (the factorial over gates on the default levers), training
(meta-steps), evaluation (default against trained levers on fresh seeds, sampled model), report. `analyse`: interactions,
sensitivities, emergence, report. Each stage leaves its result in the run folder before the next begins; the same command on the
same folder goes on where it was and ends with the same bytes. All may be given the same folder, one after the other.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mamba.interactions import factorial, findings, statistics
from mamba.meta import optimise
from mamba.objectives import NAMES, OBJECTIVES
from mamba.runs import (
    analysis,
    checkpoint,
    distributed,
    emergence,
    evaluation,
    folder,
    pareto,
    performativity,
    progress,
    report,
    restoration,
    second_order,
    sensitivities,
    shifts,
    signals,
    simulation,
    stops,
    tracking,
    training,
)
from mamba.runs.config import RunConfig, config_digest, dump_yaml, to_mapping
from mamba.runs.job import Job, devices, prepare

INTERACTIONS, TRAINING, EVALUATION = analysis.STAGE, training.STAGE, evaluation.STAGE
RESTORATION = restoration.STAGE
MEMBER = "member"  # the `job_type` of a member of a sweep
_OPTIONAL = (
    sensitivities,
    emergence,
    second_order,
    performativity,
    pareto,
    simulation,
)  # each with a file of results of its own
_ANALYSED = ("interaction", "side_effect", "externality", "emergence")  # kinds of findings of an analysis
_TOLD = 3  # interacting pairs that are told on the terminal


def run(config: RunConfig, path: str | Path, *, command: str, allow_config_change: bool = False) -> dict[str, Any]:
    """Trains, evaluates and reports a configuration in a run folder, or goes on with it there.

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
    wanted = stages_of("run", config)
    return _carried_out(config, path, command, allow_config_change, wanted=wanted, stages=_run_stages)


def stages_of(job: str, config: RunConfig) -> set[str]:
    """The stages that a job has finished when it is done: names in `summary.json`."""
    if job == "run" and config.interactions.seeds:
        return {EVALUATION, INTERACTIONS}
    return {{"run": EVALUATION, "train": EVALUATION, "simulate": simulation.STAGE, "analyse": emergence.STAGE}[job]}


def train(
    config: RunConfig,
    path: str | Path,
    *,
    command: str,
    allow_config_change: bool = False,
    job_type: str = "train",
) -> dict[str, Any]:
    """Trains, evaluates and reports without an interaction analysis. As `run`; `job_type` is for wandb."""
    return _carried_out(
        config,
        path,
        command,
        allow_config_change,
        wanted=stages_of("train", config),
        stages=_train_stages,
        job_type=job_type,
    )


def analyse(config: RunConfig, path: str | Path, *, command: str, allow_config_change: bool = False) -> dict[str, Any]:
    """Analyses a configuration in a run folder without training: interactions, sensitivities, emergence. As `run`."""
    wanted = stages_of("analyse", config)
    return _carried_out(config, path, command, allow_config_change, wanted=wanted, stages=_analysis_stages)


def simulate(
    config: RunConfig,
    path: str | Path,
    *,
    command: str,
    allow_config_change: bool = False,
    job_type: str = "eval",
) -> dict[str, Any]:
    """Simulates a configuration in a run folder as it is, without training or analysis. As `run`; `job_type` is for wandb."""
    wanted = stages_of("simulate", config)
    return _carried_out(
        config, path, command, allow_config_change, wanted=wanted, stages=_simulation_stages, job_type=job_type
    )


class _Open(NamedTuple):
    """A job at work in its folder.

    Attributes:
        job: the job.
        path: run folder.
        kept: what an earlier process measured of the factorial.
        trainer: of the job.
        state: from which training goes on.
        before: finished summary of an earlier job of the same configuration; empty without.
        metrics: the open `metrics.jsonl`.
        tracker: where to log.
        stop: whether a signal asks to stop.
    """

    job: Job
    path: Path
    kept: analysis.Measured | None
    trainer: optimise.Trainer
    state: optimise.TrainingState
    before: dict[str, Any]
    metrics: folder.MetricsLog
    tracker: tracking.Tracker
    stop: Callable[[], bool]


def _carried_out(
    config: RunConfig,
    path: str | Path,
    command: str,
    allow_config_change: bool,
    *,
    wanted: set[str],
    stages: Callable[..., dict[str, Any] | None],
    job_type: str = "train",
) -> dict[str, Any]:
    digest = config_digest(config)
    with (
        distributed.own_folder(path) as own,
        folder.open_folder(own, dump_yaml(config), allow_config_change=allow_config_change) as place,
    ):
        distributed.refuse_different(digest)
        earlier = _finished(place.path, digest)
        if earlier is not None and place.resumed and not place.changes and wanted <= set(earlier.get("stages", ())):
            progress.say(f"{place.path} is finished; nothing to do")
            if not (place.path / folder.REPORT / "index.html").exists():
                report.write_report(place.path)
            return earlier
        clock = time.perf_counter()
        with devices(config):
            job = prepare(config)
            for fact, text in job.story.items():
                progress.say(f"{fact}: {text}")
            with signals.graceful() as asked:
                stop = distributed.agreed(asked)
                return _closed(
                    job, place, stages, earlier or {}, command=command, job_type=job_type, stop=stop, clock=clock
                )


def _finished(path: Path, digest: str) -> dict[str, Any] | None:
    """The summary of a run of the configuration with this digest; None where there is none or it is another's."""
    if not (path / folder.SUMMARY).exists():
        return None
    summary = folder.read_summary(path / folder.SUMMARY)
    provenance = summary.get("provenance")
    mine = isinstance(provenance, Mapping) and provenance.get("config_digest") == digest
    return summary if mine and summary.get("finished") else None


def _closed(
    job: Job,
    place: folder.RunFolder,
    stages: Callable[..., dict[str, Any] | None],
    before: dict[str, Any],
    *,
    command: str,
    job_type: str,
    stop: Callable[[], bool],
    clock: float,
) -> dict[str, Any]:
    """Carries out the stages in a claimed folder and writes summary and report."""
    config, path = job.config, place.path
    for stage in (shifts, *_OPTIONAL) if stages is _run_stages else _OPTIONAL:
        stage.check(job)
    for name in job.config.evaluation.transfer:
        evaluation.elsewhere(job.config, name)  # refused now, not after hours of training
    trainer = training.trainer_of(job, stop=stop)
    state = training.begun(job, trainer)
    restored = checkpoint.latest(path / folder.CHECKPOINTS, state)
    state = state if restored is None else restored.tree
    done = int(state.step)
    kept = analysis.kept(job, path)
    distributed.refuse_different(done, state.levers, kept)
    if (path / folder.METRICS).exists():
        folder.read_metrics(path / folder.METRICS)
    stale = [] if before else [folder.SUMMARY]
    stale += [folder.INTERACTIONS] if kept is None else []
    stale += [stage.FILE for stage in _OPTIONAL if stage.is_stale(job, path)]
    # Whatever cannot be used was refused by now, and the folder is still as it was.
    place.claim()
    for name in stale:  # results of another configuration: with those of this one they would make a report of neither
        if (path / name).exists():
            progress.say(f"{name} is of another configuration and is dropped")
            (path / name).unlink()

    # What was kept may be read with other settings now: then the row that was logged is another one, too.
    known = None if kept is None else _logged(analysis.analysed(job, kept))

    def stays(row: Mapping[str, Any]) -> bool:
        if row.get("stage") == INTERACTIONS:
            return row == known
        if row.get("stage") == simulation.STAGE:  # what is stale was removed
            return (path / simulation.FILE).exists() and stages is not _simulation_stages
        if row.get("stage") in (RESTORATION, EVALUATION):
            return bool(before) and stages in (_analysis_stages, _simulation_stages)
        at = row.get("meta_step")
        if not isinstance(at, int):
            return False
        if row.get("stage") == shifts.STAGE:  # of the levers after so many meta-steps
            mine = row.get("digest") == shifts.digest(config)
            if not mine:
                progress.say(f"interactions after meta-step {at} were analysed with other settings and are dropped")
            return mine and at <= done
        return row.get("stage") == TRAINING and at < done

    identity = folder.run_id(path)
    metrics = folder.open_metrics(path / folder.METRICS, keep=stays)
    tracker = tracking.start(
        config.log if distributed.is_first() else dataclasses.replace(config.log, wandb="disabled"),
        run_dir=path,
        run_id=identity,
        config=to_mapping(config),
        name=config.name,
        job_type=job_type,
    )
    try:
        if job_type == MEMBER and done:  # what was trained in the sweep has been logged nowhere else
            for row in folder.read_metrics(path / folder.METRICS):
                if row.get("stage") == TRAINING:
                    tracker.log(row["meta_step"], {name: value for name, value in row.items() if name != "stage"})
        summary = stages(_Open(job, path, kept, trainer, state, before, metrics, tracker, stop))
        if summary is None:
            progress.say(f"stopped in good order; the same command continues in {path}")
            unfinished = {"name": config.name, "finished": False}
            tracker.finish(unfinished)
            return unfinished
        summary |= {
            "finished": True,
            "seconds": time.perf_counter() - clock,
            "provenance": folder.provenance(
                command,
                device_kind=jax.devices()[0].device_kind,
                devices=len(jax.devices()),
                config_digest=config_digest(config),
            ),
        }
        folder.write_json(path / folder.SUMMARY, summary)
        page = report.write_report(path)
        files = {folder.INTERACTIONS: INTERACTIONS} | {each.FILE: each.STAGE for each in _OPTIONAL}
        for name, kind in files.items():
            if (path / name).exists():
                tracker.artifact(path / name, kind, "analysis")
        tracker.finish({f"finding/{i}": found["sentence"] for i, found in enumerate(summary["findings"])})
        _say_findings(summary["findings"])
        progress.say(f"report: {page}")
        return summary
    except BaseException:
        tracker.finish({}, failed=True)
        raise
    finally:
        metrics.close()


def _say_findings(found: list[dict[str, Any]]) -> None:
    """Findings on the terminal, the interactions of the strongest pairs only."""
    pairs = [each for each in found if each["kind"] == "interaction"]
    for each in [*pairs[:_TOLD], *(each for each in found if each["kind"] != "interaction")]:
        progress.say(each["sentence"])
    if len(pairs) > _TOLD:
        progress.say(f"and {len(pairs) - _TOLD} more pairs interact: see the report")


def _interactions(of: _Open) -> analysis.Results | None:
    """The interaction stage; None after a stop, or where it was not asked for."""
    if of.job.config.interactions.seeds == 0:
        return None
    results = analysis.run(of.job, of.path, of.kept, tracker=of.tracker, stop=of.stop)
    known = folder.read_metrics(of.path / folder.METRICS)
    if results is not None and not any(row.get("stage") == INTERACTIONS for row in known):
        of.metrics.append(_logged(results.analysis))
        of.tracker.log(0, analysis.row(results.analysis))
    return results


def _logged(found: factorial.Analysis) -> dict[str, Any]:
    """The row of `metrics.jsonl` of an analysis."""
    return {"stage": INTERACTIONS, "meta_step": 0, **folder.plain(analysis.row(found))}


def _interaction_findings(job: Job, results: analysis.Results | None) -> list[findings.Finding]:
    if results is None:
        return []
    asked = job.config.interactions
    side = findings.strongest_side_effect(
        results.analysis, confidence=asked.confidence, false_discovery_rate=asked.false_discovery_rate
    )
    told = findings.pairs(results.analysis, config=asked, learning=(results.measured.pairs, results.measured.learning))
    return [*told, *([] if side is None else [side])]


def _common(job: Job) -> dict[str, Any]:
    """What every summary says of its job."""
    config = job.config
    return {
        "name": config.name,
        "story": job.story,
        "algorithms": {each.name: each.kind for each in config.algorithms},
        "steps": config.steps,
        "confidence": config.interactions.confidence,
    }


# ---- analysis
# ------------------------------------------------------------------------------------------------------------


def _analysis_stages(of: _Open) -> dict[str, Any] | None:
    """Interactions, sensitivities, emergence; the summary, None after a stop."""
    job, config = of.job, of.job.config
    results = _interactions(of)
    if of.stop():
        return None
    told = _interaction_findings(job, results)
    stages = [] if results is None else [INTERACTIONS]
    if config.sensitivities.seeds:
        derivatives = sensitivities.run(job, of.path, tracker=of.tracker, stop=of.stop)
        if derivatives is None:
            return None
        told += sensitivities.findings(job, derivatives)
        stages.append(sensitivities.STAGE)
    emerged = emergence.run(job, of.path, tracker=of.tracker, stop=of.stop)
    if emerged is None:
        return None
    told += emergence.findings(job, emerged)
    stages.append(emergence.STAGE)
    trained = [each for each in of.before.get("findings", []) if each["kind"] not in _ANALYSED]
    levels: dict[str, Any] = {}
    if results is not None:
        on = statistics.estimate(np.asarray(results.measured.values[:, -1], np.float64), config.interactions.confidence)
        levels = {name: {**_words(name), "before": evaluation.interval(on, k)} for k, name in enumerate(NAMES)}
    seeds = {INTERACTIONS: config.interactions.seeds, "root": config.seed}
    return {
        **_common(job),
        "objectives": levels,
        "seeds": seeds,
        **of.before,
        "stages": sorted({*stages, *of.before.get("stages", ())}),
        "findings": [*(finding._asdict() for finding in told), *trained],
    }


def _words(name: str) -> dict[str, str]:
    """What an objective is, for the summary."""
    of = OBJECTIVES[name]
    return {"label": of.label, "formula": of.formula, "unit": of.unit, "better": of.better, "source": of.source}


# ---- simulation
# ----------------------------------------------------------------------------------------------------------


def _simulation_stages(of: _Open) -> dict[str, Any] | None:
    """Rollouts of the platform as it is; the summary, None after a stop."""
    job, config = of.job, of.job.config
    try:
        arrays = simulation.run(job, of.path, stop=of.stop)
    except stops.Stopped:
        return None
    for row in simulation.rows(arrays):
        of.metrics.append({"stage": simulation.STAGE, **row})
        of.tracker.log(int(row["hour"]), row)
    levels = statistics.estimate(arrays["values"][:, 0, : len(NAMES)], config.interactions.confidence)
    simulated = {name: {**_words(name), "before": evaluation.interval(levels, k)} for k, name in enumerate(NAMES)}
    return {
        **_common(job),
        "objectives": simulated,
        "seeds": {simulation.STAGE: config.simulation.seeds, "root": config.seed},
        "findings": [],
        **of.before,
        "stages": sorted({simulation.STAGE, *of.before.get("stages", ())}),
    }


# ---- training
# ------------------------------------------------------------------------------------------------------------


def _run_stages(of: _Open) -> dict[str, Any] | None:
    """Interactions, then training; the summary, None after a stop."""
    results = _interactions(of)
    return None if of.stop() else _train_stages(of, results)


def _train_stages(of: _Open, results: analysis.Results | None = None) -> dict[str, Any] | None:
    """Training and evaluation, with what was found of interactions; the summary, None after a stop."""
    job, trainer = of.job, of.trainer
    common: dict[str, Any] = {"path": of.path, "metrics": of.metrics, "tracker": of.tracker, "stop": of.stop}
    watched = results is not None and job.config.interactions.every
    visit = shifts.visitor(job, trainer, results.measured, **common) if watched else lambda state: None
    state = training.train(job, trainer, of.state, visit=visit, **common)
    if of.stop():
        return None
    try:
        visit(state)
        state, kept = _restored(of, trainer, state)
    except stops.Stopped:
        return None
    measured = _evaluate(of, trainer, state)
    if measured is None:
        return None
    stages = {
        EVALUATION,
        *([] if job.config.meta.steps == 0 else [TRAINING]),
        *([] if results is None else [INTERACTIONS]),
    }
    found = [*_interaction_findings(job, results)]
    if job.config.second_order.seeds and job.config.meta.steps:
        shares = second_order.run(
            job,
            of.path,
            np.asarray(state.levers),
            shares=training.shares_of(state),
            evaluation=measured,
            tracker=of.tracker,
            stop=of.stop,
        )
        if shares is None:
            return None
        measured["findings"] += second_order.findings(job, shares)
        stages.add(second_order.STAGE)
    turned = optimise.levers_of(trainer, state) if job.config.meta.steps else None
    for stage, wanted in ((performativity, job.config.performativity.rounds), (pareto, job.config.pareto.divisions)):
        if not wanted:
            continue
        arrays = stage.run(job, of.path, trained=turned, tracker=of.tracker, stop=of.stop)
        if arrays is None:
            return None
        measured["findings"] += stage.findings(job, arrays)
        stages.add(stage.STAGE)
    summary = _summary(job, trainer, state, found, measured)
    again = () if results is None else ("interaction", "side_effect")
    more = [each for each in of.before.get("findings", []) if each["kind"] in _ANALYSED and each["kind"] not in again]
    return summary | {
        "restored": kept,
        "stages": sorted({*stages, *of.before.get("stages", ())}),
        "findings": [*summary["findings"], *more],
    }


def _restored(
    of: _Open, trainer: optimise.Trainer, state: optimise.TrainingState
) -> tuple[optimise.TrainingState, dict[str, Any] | None]:
    """The levers that are deployed, and what is told of them; None where nothing was trained or is to be kept.

    Raises:
        Stopped: a signal arrived.
    """
    state, told = restoration.restored(of.job, trainer, state)
    if told is not None:
        step, row = int(state.step), restoration.row(told)
        of.metrics.append({"stage": RESTORATION, "meta_step": step, **folder.plain(row)})
        of.tracker.log(step, row)
        restoration.say(told)
    return state, told


# ---- evaluation
# ----------------------------------------------------------------------------------------------------------


def _evaluate(of: _Open, trainer: optimise.Trainer, state: optimise.TrainingState) -> dict[str, Any] | None:
    """Default and trained levers on the same fresh seeds, here and elsewhere: part of the summary; None after a stop."""
    job = of.job
    platforms = {"before": trainer.baseline, "after": optimise.levers_of(trainer, state)}
    try:
        here = evaluation.compared(job, platforms, stop=of.stop)
        others = {
            name: evaluation.compared(
                evaluation.elsewhere(job.config, name), platforms, stop=of.stop, where=f" in {name}"
            )
            for name in job.config.evaluation.transfer
        }
        varied = None
        if job.config.meta.spread:
            worlds = evaluation.sampled_worlds(job)
            varied = evaluation.compared(job, platforms, stop=of.stop, where=evaluation.IN_WORLDS, worlds=worlds)
    except stops.Stopped:
        return None
    confidence = job.config.interactions.confidence
    told = {name: evaluation.told(values, here, trainer.goal, confidence=confidence) for name, values in others.items()}
    found = []
    for name, values in others.items():
        share, home = evaluation.surviving(values, here, trainer.goal, confidence=confidence)
        lost = evaluation.broken(values, trainer.goal, confidence=confidence)
        found.append(findings.transfer(share, home, where=name, confidence=confidence, broken=lost))
    robust = None
    if varied is not None:
        level = job.config.meta.level
        robust = evaluation.over_worlds(varied, trainer.goal, level=level, confidence=confidence)
        found.append(findings.worlds(robust, seeds=job.config.evaluation.seeds, confidence=confidence))
    step, row = int(state.step), evaluation.row(here, trainer.goal, worlds=robust)
    row |= {f"transfer/{name}/share": each["share"]["mean"] for name, each in told.items()}
    of.metrics.append({"stage": EVALUATION, "meta_step": step, **folder.plain(row)})
    of.tracker.log(step, row)
    return {**here, "transfer": told, "worlds": robust, "findings": found}


def _summary(
    job: Job,
    trainer: optimise.Trainer,
    state: optimise.TrainingState,
    found: list[findings.Finding],
    measured: dict[str, Any],
) -> dict[str, Any]:
    config = job.config
    confidence = config.interactions.confidence
    before, after = measured["before"], measured["after"]
    change = statistics.estimate(after - before, confidence)
    if config.meta.steps > 0:
        trained = findings.training(
            change,
            before.mean(axis=0),
            wanted=config.meta.minimise,
            kept=list(config.meta.keep),
            confidence=confidence,
            own=config.meta.goal == "own",
        )
        found = [*found, *([] if trained is None else [trained])]
    found = [*found, *measured["findings"]]
    levels = {when: statistics.estimate(values, confidence) for when, values in (("before", before), ("after", after))}
    levels["change"] = change
    turned = training.meaningful_levers(job, optimise.levers_of(trainer, state))
    default = training.meaningful_levers(job, trainer.baseline)
    units = training.lever_units(job)
    return {
        **_common(job),
        "seeds": {
            INTERACTIONS: config.interactions.seeds, EVALUATION: config.evaluation.seeds, "root": config.seed,
            "meta_steps": config.meta.steps,
        },
        "objectives": {
            name: {**_words(name), **{when: evaluation.interval(level, k) for when, level in levels.items()}}
            for k, name in enumerate(NAMES)
        },
        "transfer": measured["transfer"],
        "worlds": measured["worlds"],
        "levers": {name: {"unit": units[name], "before": default[name], "after": turned[name]} for name in default},
        "minimise": dict(config.meta.minimise),
        "keep": dict(config.meta.keep),
        "findings": [finding._asdict() for finding in found],
    }  # fmt: skip
