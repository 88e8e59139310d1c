"""`mamba-eco sweep`: many configurations from one file.

Members that simulate (`command: [..., mamba-eco, simulate, ...]`) are run together in compile groups, those that train are
trained in step in such groups, and those that run everything are processes of their own. Either way every member is done once,
whatever interrupts the sweep, and the report says which command repeats it.

    runs/<name>/
      sweep.yaml       the file, with what was asked for on the command line
      parts/           finished batches, until all are
      members/<k>-<digest>/  run folders of members: all where they are processes, those in training, else those that
                       `log.member_runs` asks for; a member has the folder of its digest, also where its number changes
      members.npz      values [M, S, 1 + W, C] in the order of `simulation.COLUMNS`
      members.jsonl    a row for each member: settings, metrics, command
      metrics.jsonl    quantiles over members
      summary.json     best members, groups, how to repeat it
      report/
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mamba.runs import distributed, folder, loop, progress, signals, simulation, tracking
from mamba.runs.config import RunConfig, dump_yaml, load_config, split_overrides, to_mapping, to_yaml
from mamba.runs.errors import UserError
from mamba.runs.sweeps import batches, bayes, groups, kept, outcomes, processes, trainings
from mamba.runs.sweeps import spec as specs
from mamba.runs.sweeps.kept import FOLDERS, LOGS, MEMBERS, PARTS, TABLE, TASKS
from mamba.runs.sweeps.outcomes import Member, Outcome

JOB_TYPE = "sweep"
_SHOWN = 20  # members that a dry run lists


class Options(NamedTuple):
    """What the command line says of a sweep.

    Attributes:
        count: most members; None takes `run_cap`.
        seed: of random draws.
        per_batch: members that are run together; None takes as many as `chunk` rollouts are.
        part: `(i, n)`: this process does every n-th distinct member from the i-th on; None does all.
        processes: members at a time that are processes of their own; 0 runs or trains members together where they can be.
    """

    count: int | None = None
    seed: int = 0
    per_batch: int | None = None
    part: tuple[int, int] | None = None
    processes: int = 0


class _Open(NamedTuple):
    """A sweep at work in its folder.

    Attributes:
        spec: the sweep.
        options: of the command line.
        shared: more settings of all members, as overrides.
        base: what all members start from.
        path: the folder; that of a part for a part.
        root: the folder of the whole sweep.
        known: values [S, 1 + W, C] of members that simulated, by their digest.
        ended: outcomes of members that trained in step, by their digest.
        programs: compiled so far.
        trainers: likewise, for members that train in step.
        stop: whether a signal asks to stop.
    """

    spec: specs.Spec
    options: Options
    shared: tuple[str, ...]
    base: RunConfig
    path: Path
    root: Path
    known: dict[str, np.ndarray]
    ended: dict[str, Outcome]
    programs: batches.Programs
    trainers: trainings.Programs
    stop: Callable[[], bool]

    @property
    def folders(self) -> Path:
        """The run folders of members: of all parts, in the folder of the whole sweep."""
        return (self.path if self.options.part is None else self.root) / FOLDERS


class _Result(NamedTuple):
    """What came of all members.

    Attributes:
        members: in order.
        outcomes: by number.
        groups: numbers of the members of each compile group.
    """

    members: list[Member]
    outcomes: dict[int, Outcome]
    groups: list[list[int]]


def sweep(
    spec: specs.Spec,
    path: str | Path,
    *,
    options: Options,
    shared: Sequence[str] = (),
    command: str,
    allow_config_change: bool = False,
) -> dict[str, Any]:
    """Runs a sweep in a folder, or goes on with it there.

    Args:
        spec: from `mamba.runs.sweeps.spec.load`.
        path: the folder; made when absent.
        options: what the command line asks for.
        shared: more settings that all members share, as overrides.
        command: how the sweep was started, for the record.
        allow_config_change: continue a folder that holds another sweep; members that both have are not done again.

    Returns:
        The summary that was written to `summary.json`; `finished` is False after a signal, and of a part.

    Raises:
        UserError: the file, a member, the data or the folder cannot be used.
    """
    shared = joined_overrides(shared)
    base = load_config(spec.source, [*spec.fixed, *shared])
    members = planned(spec, options, shared=shared)
    mine = members
    if members is not None and options.part is not None:  # nobody is dealt to two parts
        mine = kept.distinct(members)[options.part[0] :: options.part[1]]
    # Before the folder is this sweep's.
    made = usable(spec, options, mine, base=base, shared=shared)
    text = to_yaml(_described(spec, options, base))
    place = Path(path)
    if options.part is not None:
        if distributed.is_first():  # the others meet it in the folder of the part
            claim_for_parts(spec, path, options=options, shared=shared, allow_config_change=allow_config_change)
        place = place / TASKS / f"{options.part[0]}-of-{options.part[1]}"
    with (
        distributed.own_folder(place) as own,
        folder.open_folder(own, text, allow_config_change=allow_config_change, holds=folder.SWEEP) as opened,
        signals.graceful(progress.say) as asked,
    ):
        stop = distributed.agreed(asked)
        clock = time.perf_counter()
        distributed.refuse_different(text, options)
        earlier = _finished(opened.path, spec, options, text) if options.part is None else None
        if earlier is not None:
            progress.say(f"{opened.path} is finished; nothing to do")
            return earlier
        if opened.changes:
            kept.gather(opened.path)
        opened.claim()
        # A summary says that the sweep, or this part of it, is finished: a script looks at that.
        (opened.path / folder.SUMMARY).unlink(missing_ok=True)
        for key in spec.unused:
            progress.say(f"{key}: says something to wandb only")
        known, ended = _known(opened.path, spec.job)
        if options.part is not None:  # also what was known before there were parts
            before = _known(Path(path), spec.job, tasks=False)
            known, ended = before[0] | known, before[1] | ended
        distributed.refuse_different(sorted(known), sorted(ended))
        at_work = _Open(spec, options, shared, base, opened.path, Path(path), known, ended, {}, {}, stop)
        stopped = {"name": spec.name, "finished": False}
        result = _chosen(at_work) if mine is None else _carried_out(at_work, mine, made)
        if result is not None and options.part is None:
            summary = _completed(at_work, result, command=command, clock=clock)
            if summary is not None:
                return summary
        if result is None or options.part is None:
            progress.say(f"stopped in good order; the same command continues in {opened.path}")
            return stopped
        summary = {"name": spec.name, "finished": True, "part": list(options.part), "members": len(result.members)}
        folder.write_json(opened.path / folder.SUMMARY, summary)
        progress.say(
            f"part {options.part[0]} of {options.part[1]} is done; without --part the sweep puts parts together"
        )
        return summary | {"finished": False}


def _known(path: Path, job: str, *, tasks: bool = True) -> tuple[dict[str, np.ndarray], dict[str, Outcome]]:
    """What a folder knows of members of a job: values of those that simulated, outcomes of those that trained in step."""
    return (
        kept.known(path, tasks=tasks) if job == "simulate" else {},
        kept.ended(path, tasks=tasks) if job == "train" else {},
    )


def _finished(path: Path, spec: specs.Spec, options: Options, text: str) -> dict[str, Any] | None:
    """The summary of a sweep that is finished, whose results are there and of whose members none may be tried again; else None.

    `text` describes the sweep, with its parameters in their order: in another one, members have other numbers.
    """
    if not all((path / name).is_file() for name in (folder.SWEEP, folder.SUMMARY, folder.METRICS, TABLE)):
        return None
    summary = folder.read_summary(path / folder.SUMMARY)
    same = folder.read_text(path / folder.SWEEP) == text
    again = summary.get("frozen") and (spec.job != "simulate" or options.processes)  # a process may have failed
    return summary if same and summary.get("finished") and not again else None


def joined_overrides(shared: Sequence[str]) -> tuple[str, ...]:
    """Overrides as `a.b=v`, also those given as `--a.b` and `v`.

    Raises:
        UserError: one has no value.
    """
    errors: list[str] = []
    found = tuple(f"{name}={value}" for name, value in split_overrides(shared, errors))
    if errors:
        raise UserError("\n".join(errors))
    return found


def claim_for_parts(
    spec: specs.Spec,
    path: str | Path,
    *,
    options: Options,
    shared: Sequence[str] = (),
    allow_config_change: bool = False,
) -> None:
    """Makes a folder that of a sweep whose parts are done by several processes. Arguments as for `sweep`.

    Raises:
        UserError: the sweep has no parts, or the folder holds another one.
    """
    if spec.method == "bayes":
        raise UserError("a bayes sweep goes one batch after the other and has no parts")
    file = Path(path) / folder.SWEEP
    text = to_yaml(_described(spec, options, load_config(spec.source, [*spec.fixed, *shared])))
    if file.is_file():
        changes = folder.agreed(file, text, allow_config_change=allow_config_change)
        if not changes:
            return
        kept.gather(Path(path))
    folder.write_text(file, text)


def planned(spec: specs.Spec, options: Options, *, shared: Sequence[str] = ()) -> list[Member] | None:
    """Every member, checked; None where choices wait for results.

    Raises:
        UserError: every error of every member, or a setting is given for all members and varied, too.
    """
    names = [each.name for each in spec.parameters]
    for given in (word.split("=", 1)[0].removeprefix("--") for word in joined_overrides(shared)):
        for name in names:
            if f"{name}.".startswith(f"{given}.") or f"{given}.".startswith(f"{name}."):
                raise UserError(f"--{given}: the sweep varies {name}; leave it out here, or take it out of the file")
    if spec.method == "bayes":
        specs.wanted(spec, count=options.count)
        return None
    return outcomes.members_of(spec, specs.members(spec, count=options.count, seed=options.seed), shared=shared)


def check(spec: specs.Spec, options: Options, *, shared: Sequence[str] = ()) -> None:
    """Refuses now what `sweep` would refuse before it begins.

    Raises:
        UserError: as `sweep`, but for the folder.
    """
    base = load_config(spec.source, [*spec.fixed, *joined_overrides(shared)])
    usable(spec, options, planned(spec, options, shared=shared), base=base, shared=joined_overrides(shared))


def usable(
    spec: specs.Spec,
    options: Options,
    members: list[Member] | None,
    *,
    base: RunConfig,
    shared: Sequence[str] = (),
) -> list[groups.Group]:
    """Compile groups of the members that run together, whose data and settings were found usable.

    Members that are processes of their own are left out; where choices wait for results, the first are tried.

    Raises:
        UserError: data cannot be used, settings contradict each other, or these processes cannot do it together.
    """
    if options.part is not None and spec.job != "simulate" and jax.process_count() > 1:
        raise UserError(
            f"--part: a part of members that {spec.job} is one process; give every process a part of its own"
        )
    if members is None:
        members = _first(spec, options, base=base, shared=shared)
    reasons = [f"--processes={options.processes}" if options.processes else _apart(spec, member) for member in members]
    for why in filter(None, reasons):
        distributed.refuse_several(why)
    together = [member for member, why in zip(members, reasons, strict=True) if why is None]
    made = groups.grouped(together, spec.job)
    if spec.job == "train":
        for group in made:
            trainings.check(group)
    return made


def _first(spec: specs.Spec, options: Options, *, base: RunConfig, shared: Sequence[str]) -> list[Member]:
    """The members that are chosen before anything is known.

    Raises:
        UserError: optuna is not installed, or their configurations cannot be used.
    """
    count = min(specs.wanted(spec, count=options.count), _batch(spec, base, options))
    asked = bayes.Chooser(spec, seed=options.seed).ask(count)
    return outcomes.members_of(spec, [each.choice for each in asked], shared=shared)


def _described(spec: specs.Spec, options: Options, base: RunConfig) -> dict[str, Any]:
    """What decides the members of a sweep, as the folder keeps it."""
    # What the command sets for all members is part of the base.
    told = {name: value for name, value in spec._asdict().items() if name not in ("unused", "fixed")} | {
        "metric": None if spec.metric is None else dict(spec.metric._asdict()),
        "parameters": {
            each.name: {"distribution": each.distribution, "values": list(each.values), "weights": list(each.weights)}
            | each.facts
            for each in spec.parameters
        },
        "count": spec.count if options.count is None else options.count,
        "seed": options.seed,
    }
    if spec.method == "bayes":  # what is chosen next depends on how many are chosen at once
        told["batch"] = _batch(spec, base, options)
    return {"sweep": told, "base": to_mapping(base)}


# ---------------------------------------------------------------------------------------------------------------------
# Running members


def _carried_out(of: _Open, members: list[Member], made: list[groups.Group]) -> _Result | None:
    """Runs the members without results, in groups that are `usable`; None after a stop."""
    if of.options.processes:
        return _processes(of, members, f"--processes={of.options.processes}")
    return _together(of, members, made) if of.spec.job == "simulate" else _in_step(of, members, made)


def _together(of: _Open, members: list[Member], made: list[groups.Group]) -> _Result | None:
    """Simulates members in compile groups."""
    seeds, waiting = of.base.simulation.seeds, sum(member.digest not in of.known for member in members)
    done = f"; {len(members) - waiting} are done" if waiting < len(members) else ""
    progress.say(
        f"{of.spec.name}: {len(members)} members x {seeds} rollouts in {len(made)} compile group{'s' * (len(made) > 1)}{done}"
    )
    with progress.progress(len(members), "members", done=len(members) - waiting) as meter:

        def keep(some: Sequence[Member], values: np.ndarray) -> None:
            kept.write(of.path / PARTS / f"{some[0].number:06d}-{some[0].digest[:8]}.npz", some, values)
            of.known.update(zip((member.digest for member in some), values, strict=True))
            lost = sum(not np.isfinite(each).all() for each in of.known.values())
            meter.advance(len(some), **({"frozen": lost} if lost else {}))

        for group in made:
            per_batch = _batch(of.spec, group.members[0].config, of.options)
            done = frozenset(member.number for member in group.members if member.digest in of.known)
            plan = batches.plan(group, per_batch=per_batch, done=done)
            if plan.batches and not batches.run(
                plan, per_batch=per_batch, keep=keep, stop=of.stop, programs=of.programs
            ):
                return None
    found = {member.number: outcomes.of_values(member.config, of.known[member.digest]) for member in members}
    return _Result(members, found, [[member.number for member in group.members] for group in made])


def _in_step(of: _Open, members: list[Member], made: list[groups.Group]) -> _Result | None:
    """Trains members in compile groups; those that must be are processes of their own."""
    reasons: dict[str, list[Member]] = {}
    able = []
    for member in members:
        why = _apart(of.spec, member)
        (able if why is None else reasons.setdefault(why, [])).append(member)
    found: dict[int, Outcome] = {}
    for why, some in reasons.items():  # while the devices are free
        result = _processes(of, some, why)
        if result is None:
            return None
        found |= result.outcomes
    there = kept.places(of.folders, able)
    for member in able:  # as a process of its own, in an earlier attempt
        alone = processes.outcome_of(there[member.digest], member, of.spec.job)
        if alone is not None:
            of.ended.setdefault(member.digest, alone)
    waiting = kept.distinct([member for member in able if member.digest not in of.ended])
    busy = {member.number for member in waiting}
    done = sum(member.digest in of.ended for member in able)
    if waiting:
        progress.say(
            f"{of.spec.name}: {len(able)} members train in step in {len(made)} compile group{'s' * (len(made) > 1)}"
            + (f"; {done} are done" if done else "")
        )
        if stages := sorted({stage for member in waiting for stage in trainings.left_out(member.config)}):
            progress.say(f"{', '.join(stages)}: only for members that get a run of their own (log.member_runs)")
    with progress.progress(sum(member.config.meta.steps for member in waiting), "meta-steps of members") as meter:

        def keep(found: Mapping[int, Outcome]) -> None:
            digests = {member.number: member.digest for member in able}
            rows = [{"member": n, "digest": digests[n], **outcome._asdict()} for n, outcome in found.items()]
            first = min(found)
            folder.write_text(of.path / PARTS / f"{first:06d}-{digests[first][:8]}.jsonl", kept.lines(rows))
            of.ended.update((digests[number], outcome) for number, outcome in found.items())

        for group in made:
            places = {member.number: there[member.digest] for member in group.members if member.number in busy}
            if not trainings.run(
                group,
                places,
                size=_batch(of.spec, group.members[0].config, of.options),
                keep=keep,
                told=meter.advance,
                stop=of.stop,
                named=lambda member: _named(of, member),
                programs=of.trainers,
            ):
                return None
    found |= {member.number: of.ended[member.digest] for member in able}
    return _Result(members, found, [[member.number for member in group.members] for group in made])


def _processes(of: _Open, members: list[Member], why: str) -> _Result | None:
    """Runs members as processes of their own."""

    def overrides(member: Member) -> list[str]:
        own = [f"log.group={of.base.log.group or of.spec.name}", f"name={of.spec.name}-{member.number}"]
        own += ["log.wandb=disabled"] * (of.base.log.member_runs == "none")
        return [*specs.overrides(of.spec, member.choice), *of.shared, *own]

    at_once = max(1, of.options.processes)
    progress.say(f"{of.spec.name}: {len(members)} members, {at_once} process{'es' * (at_once > 1)} at a time ({why})")
    found, whole = processes.run(
        of.spec,
        members,
        kept.places(of.folders, members),
        logs=of.folders / LOGS,
        at_once=at_once,
        overrides=overrides,
        stop=of.stop,
    )
    return _Result(members, found, []) if whole else None


def _chosen(of: _Open) -> _Result | None:
    """Members chosen batch by batch, by what came of those before."""
    chooser = bayes.Chooser(of.spec, seed=of.options.seed)
    total, size = specs.wanted(of.spec, count=of.options.count), _batch(of.spec, of.base, of.options)
    whole = _Result([], {}, [])
    while len(whole.members) < total:
        begin = len(whole.members)
        asked = chooser.ask(min(size, total - begin))
        some = [
            outcomes.member_of(of.spec, each.choice, number=begin + at, shared=of.shared)
            for at, each in enumerate(asked)
        ]
        result = _carried_out(of, some, usable(of.spec, of.options, some, base=of.base))
        if result is None:
            return None
        outcomes.check_metric(of.spec, result.outcomes)
        scores: list[float | None] = []
        for member in some:
            outcome = result.outcomes[member.number]
            scores.append(outcomes.score(of.spec, outcome))
        chooser.tell(asked, scores)
        whole = _Result([*whole.members, *some], whole.outcomes | result.outcomes, [*whole.groups, *result.groups])
    return whole


def _batch(spec: specs.Spec, config: RunConfig, options: Options) -> int:
    """Members that are run or trained together: as asked, else as many as `chunk` rollouts are."""
    if options.per_batch or options.processes:
        return options.per_batch or options.processes
    return trainings.per_batch(config) if spec.job == "train" else max(1, config.chunk // config.simulation.seeds)


def dry_run(spec: specs.Spec, *, options: Options, shared: Sequence[str] = ()) -> None:
    """Prints members, compile groups and predicted memory, and runs nothing.

    Raises:
        UserError: as `sweep`.
    """
    members = planned(spec, options, shared=shared)
    if members is None:
        total, base = specs.wanted(spec, count=options.count), load_config(spec.source, [*spec.fixed, *shared])
        print(
            f"{spec.name}: {total} members, chosen one batch after the other by what came of those before; the first:"
        )
        members = _first(spec, options, base=base, shared=shared)
    names = [each.name for each in spec.parameters]
    title = f"{spec.name}: {len(members)} members{f', the first {_SHOWN}' if len(members) > _SHOWN else ''}"
    rows: list[tuple[Any, ...]] = [
        (m.number, *(progress.shown(m.choice[name]) for name in names)) for m in members[:_SHOWN]
    ]
    progress.print_table(title, ("member", *names), rows)
    reasons = [f"--processes={options.processes}" if options.processes else _apart(spec, member) for member in members]
    for why in dict.fromkeys(why for why in reasons if why is not None):
        print(f"{reasons.count(why)} are processes of their own (mamba-eco {spec.job}): {why}")
    rows = []
    together = [member for member, why in zip(members, reasons, strict=True) if why is None]
    for number, group in enumerate(groups.grouped(together, spec.job)):
        per_batch = _batch(spec, group.members[0].config, options)
        if spec.job == "train":
            count, at_a_time = -(-len(group.members) // per_batch), min(per_batch, len(group.members))
            trainings.check(group)
            needed = trainings.predicted(group, size=per_batch)
        else:
            plan = batches.plan(group, per_batch=per_batch)
            count, (at_a_time, needed) = len(plan.batches), batches.predicted(plan, per_batch=per_batch)
        users = group.ecosystem.sizes.users
        rows.append((number, len(group.members), count, at_a_time, users, f"{needed / 2**20:,.1f} MiB"))
    if rows:
        what = "trainings in step" if spec.job == "train" else "rollouts at a time"
        columns = ("group", "members", "batches", what, "users", "predicted peak memory")
        progress.print_table("compile groups", columns, rows)


def _apart(spec: specs.Spec, member: Member) -> str | None:
    """Why a member must be a process of its own; None where it need not."""
    return None if spec.job == "simulate" else trainings.apart(spec.job, member.config)


# ---------------------------------------------------------------------------------------------------------------------
# When all members are done


def _completed(of: _Open, result: _Result, *, command: str, clock: float) -> dict[str, Any] | None:
    """Puts the results together: table, quantiles, member runs, summary; None after a stop."""
    spec, path, log = of.spec, of.path, of.base.log
    order = outcomes.ranked(spec, result.outcomes)
    group_of = {number: g for g, numbers in enumerate(result.groups) for number in numbers}
    table = outcomes.table(spec, result.members, result.outcomes, group_of=group_of, shared=of.shared)
    rows = outcomes.quantiles(spec.job, result.outcomes)
    frozen = [member.number for member in result.members if result.outcomes[member.number].frozen]
    values = [of.known[member.digest] for member in result.members if member.digest in of.known]
    tabled = len(values) == len(result.members) and len({each.shape for each in values}) == 1
    if tabled:
        kept.write(path / MEMBERS, result.members, np.stack(values))
    folder.write_text(path / TABLE, kept.lines(table))
    folder.write_text(path / folder.METRICS, kept.lines(rows))
    outcomes.check_metric(spec, result.outcomes)
    best = order[: log.top_k]
    summary = {
        "name": spec.name,
        "finished": True,
        "job": spec.job,
        "members": len(result.members),
        "frozen": frozen,
        "groups": result.groups,
        "metric": None if spec.metric is None else dict(spec.metric._asdict()),
        "best": best,
        "seconds": time.perf_counter() - clock,
        "provenance": folder.provenance(command, device_kind=jax.devices()[0].device_kind, devices=len(jax.devices())),
    }
    alive = [member.number for member in result.members if member.number not in frozen]
    chosen = {"none": [], "top_k": best, "all": alive}[log.member_runs]
    if not _member_runs(of, [result.members[number] for number in chosen], result.members):
        return None
    _track(of, rows, best=[table[number] for number in best], frozen=len(frozen))
    folder.write_json(path / folder.SUMMARY, summary)
    if tabled:  # else the parts are the table
        shutil.rmtree(path / PARTS, ignore_errors=True)
    _say_best(spec, table, best, frozen)
    return summary


def _track(of: _Open, rows: Sequence[Mapping[str, Any]], *, best: Sequence[Mapping[str, Any]], frozen: int) -> None:
    """The sweep as one wandb run: quantiles, and the best members in its summary."""
    log = dataclasses.replace(of.base.log, group=of.base.log.group or of.spec.name)
    if not distributed.is_first():
        log = dataclasses.replace(log, wandb="disabled")
    told = _described(of.spec, of.options, of.base)
    tracker = tracking.start(
        log,
        run_dir=of.path,
        run_id=folder.run_id(of.path),
        config={**told["base"], "sweep": told["sweep"]},
        name=of.spec.name,
        job_type=JOB_TYPE,
    )
    for row in rows:
        tracker.log(int(row[outcomes.AT[of.spec.job]]), row)
    first = {"best": {name: value for name, value in best[0].items() if name != "settings"}} if best else {}
    tracker.finish({"members/frozen": frozen, **first})


def _member_runs(of: _Open, members: Sequence[Member], everyone: Sequence[Member]) -> bool:
    """Run folders, reports and wandb runs of some members, from what is known of them; those of processes are there.

    False after a stop.
    """
    there = kept.places(of.folders, everyone)
    for member in kept.distinct(members):
        place, config = there[member.digest], _named(of, member)
        repeats = outcomes.command_of(of.spec, member.choice, shared=of.shared)
        if member.digest not in of.known and member.digest not in of.ended:
            continue
        job = loop.simulate if of.spec.job == "simulate" else loop.train
        if of.stop():
            return False
        done = processes.outcome_of(place, member, of.spec.job) is not None
        if member.digest in of.known and not done:
            folder.write_arrays(place / simulation.FILE, simulation.kept(config, of.known[member.digest]))
        folder.write_text(place / folder.CONFIG, dump_yaml(config))  # it may be logged in another way now
        if not job(config, place, command=repeats, job_type=loop.MEMBER)["finished"]:
            return False
    chosen = {member.digest for member in members}
    for member in kept.distinct(everyone):
        if member.digest in chosen or member.digest not in of.ended:
            continue
        place = there[member.digest]  # it was there to go on from
        if not (place / folder.SUMMARY).exists():
            shutil.rmtree(place, ignore_errors=True)
    return True


def _named(of: _Open, member: Member) -> RunConfig:
    """The configuration of a member in a run folder of its own."""
    log = dataclasses.replace(member.config.log, group=member.config.log.group or of.spec.name)
    return dataclasses.replace(member.config, name=f"{of.spec.name}-{member.number}", log=log)


def _say_best(spec: specs.Spec, table: Sequence[Mapping[str, Any]], best: Sequence[int], frozen: Sequence[int]) -> None:
    for number in frozen[:10]:
        progress.warn(f"member {number} counts nowhere: {table[number]['why']}")
    if len(frozen) > 10:
        progress.warn(f"and {len(frozen) - 10} more members count nowhere")
    if spec.metric is not None and best:
        names = [each.name for each in spec.parameters]
        lines = [(n, table[n][spec.metric.name], *(table[n]["settings"].get(name) for name in names)) for n in best]
        progress.print_table(f"best by {spec.metric.name}", ("member", spec.metric.name, *names), lines)
