"""Trainings in step: each is what it would have been alone, whatever interrupts the sweep."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
import shutil
import signal
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from mamba import cli
from mamba.meta import lockstep, robust
from mamba.meta.constraints import ZeroBaseline
from mamba.objectives import NAMES
from mamba.runs import folder, loop, tracking
from mamba.runs.config import dump_yaml, load_config
from mamba.runs.errors import UserError
from mamba.runs.sweeps import kept, outcomes, processes, report, sweep, trainings
from mamba.runs.sweeps import spec as specs
from mamba.world.parameters import WorldParameters

TINY = [
    "scenario.users=60",
    "steps=6",
    "meta.steps=3",
    "meta.audit_pairs=2",
    "second_order.seeds=0",
    "checkpoint.every=2",
    "log.wandb=disabled",
    "log.member_runs=none",
]
# Perturbed runs: what is differentiated takes long to compile, and is answered in the same way.
QUICK = ["meta.estimator=es"]
PARAMETERS = {"meta.learning_rate": {"values": [0.05, 0.3]}, "seed": {"values": [0, 1]}}


def made(*, estimator=QUICK, **changed):
    command = ["${env}", "mamba-eco", "train", "smoke", *(f"--{word}" for word in [*TINY, *estimator]), "${args}"]
    metric = {"name": "evaluation/utility", "goal": "minimize"}
    base = {"method": "grid", "parameters": PARAMETERS, "command": command, "metric": metric}
    return specs.parse({**base, **changed}, name="made")


THREE = sweep.Options(per_batch=3)


def ran(path, of, *, options=THREE, **more):
    return sweep.sweep(of, path, options=options, command="mamba-eco sweep made.yaml", **more)


def rows_of(path):
    """What every member logged, by number."""
    rows = [row for part in kept.parts(path, ".jsonl") for row in folder.read_metrics(part)]
    return {row["member"]: row["rows"] for row in rows}


def assert_same(rows, others, **tolerance):
    assert len(rows) == len(others)
    for row, other in zip(rows, others, strict=True):
        assert row.keys() == other.keys()
        names = sorted(name for name, value in row.items() if isinstance(value, int | float))
        np.testing.assert_allclose([row[n] for n in names], [other[n] for n in names], **tolerance)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("trainings") / "made"
    return SimpleNamespace(path=path, summary=ran(path, made()))


@pytest.fixture(scope="module")
def differentiated(tmp_path_factory):
    path = tmp_path_factory.mktemp("trainings") / "made"
    ran(path, made(estimator=[]))
    return path


def test_a_sweep_of_trainings_leaves_what_it_promises(trained):
    summary = trained.summary
    assert summary["finished"] and summary["members"] == 4 and summary["frozen"] == []
    assert summary["groups"] == [[0, 1, 2, 3]]  # step sizes and seeds share one program
    metrics = folder.read_metrics(trained.path / folder.METRICS)
    assert [row["meta_step"] for row in metrics] == [0, 1, 2, 3]  # three meta-steps and the evaluation
    levers = [name for name in metrics[0] if name.startswith("levers/home/") and name.endswith("/median")]
    assert levers and {row["members/alive"] for row in metrics} == {4}
    rows = rows_of(trained.path)
    last = [rows[number][-1]["evaluation/after/polarisation"] for number in range(4)]
    assert metrics[3]["evaluation/after/polarisation/q25"] == pytest.approx(np.quantile(last, 0.25))
    table = [json.loads(line) for line in (trained.path / kept.TABLE).read_text().splitlines()]
    assert [row["settings"] for row in table][3] == {"meta.learning_rate": 0.3, "seed": 1}
    assert table[summary["best"][0]]["evaluation/utility"] == min(row["evaluation/utility"] for row in table)
    # Folders to go on from are gone when there is nothing left to go on with.
    assert not any((trained.path / kept.FOLDERS).iterdir())
    page = report.write_report(trained.path).read_text()
    assert "meta.learning_rate" in page and "4 members" in page


def test_a_member_is_what_it_is_alone(trained, tmp_path):
    _check_alone(trained.path, tmp_path, QUICK)


@pytest.mark.slow
def test_a_member_that_is_differentiated_is_what_it_is_alone(differentiated, tmp_path):
    _check_alone(differentiated, tmp_path, [])


def _check_alone(path, place, words):
    config = load_config("smoke", [*TINY, *words, "meta.learning_rate=0.3", "seed=1"])
    loop.train(config, place / "alone", command="mamba-eco train")
    alone = outcomes.of_rows("train", folder.read_metrics(place / "alone" / folder.METRICS)).rows
    assert_same(rows_of(path)[3], alone, rtol=1e-5, atol=1e-6)


def test_a_sweep_that_was_stopped_goes_on_and_ends_with_the_same_bits(trained, tmp_path, monkeypatch):
    # The signal arrives while the second meta-step begins, whose runs are many chunks: it is left after the first of them.
    _check_stopped(trained.path, tmp_path, monkeypatch, QUICK, saved=1)


@pytest.mark.slow
def test_a_sweep_that_was_stopped_after_its_trainings_goes_on_too(trained, tmp_path, monkeypatch):
    # The signal arrives with the first question of the restorations, whose runs are several chunks.
    _check_stopped(trained.path, tmp_path, monkeypatch, QUICK, saved=3)


@pytest.mark.slow
def test_a_sweep_with_derivatives_that_was_stopped_goes_on_too(differentiated, tmp_path, monkeypatch):
    # What is measured in the second meta-step is one chunk; its derivatives are one for each member: it is left after the first.
    _check_stopped(differentiated, tmp_path, monkeypatch, [], saved=1)


def _check_stopped(whole, tmp_path, monkeypatch, words, *, saved):
    def made_again():
        return made(estimator=words)

    place, step, restored = tmp_path / "made", trainings.optimise.step, trainings.restoration.restored

    def signalled(trainer, state):
        if int(state.step) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(trainer, state)

    def signalled_later(*given):
        os.kill(os.getpid(), signal.SIGTERM)
        return restored(*given)

    with monkeypatch.context() as patched:
        if saved < 3:
            patched.setattr(trainings.optimise, "step", signalled)
        else:
            patched.setattr(trainings.restoration, "restored", signalled_later)
        assert ran(place, made_again())["finished"] is False
    states = [sorted(found.name for found in each.iterdir()) for each in (place / kept.FOLDERS).glob("*/checkpoints")]
    assert [found[-1] for found in states] == [f"{saved:010}"] * 3  # the first batch
    taken = []

    def counted(trainer, state):
        taken.append(int(state.step))
        return step(trainer, state)

    monkeypatch.setattr(trainings.optimise, "step", counted)
    # In other batches than before.
    assert ran(place, made_again(), options=sweep.Options(per_batch=2))["finished"] is True
    assert sorted(taken) == sorted([*range(3), *(3 * list(range(saved, 3)))])
    for number, rows in rows_of(whole).items():
        assert_same(rows, rows_of(place)[number], rtol=0, atol=0)
    assert (place / folder.METRICS).read_text() == (whole / folder.METRICS).read_text()
    # And what is done is not done again; a damaged batch is.
    monkeypatch.setattr(trainings.optimise, "step", None)
    (place / folder.SUMMARY).unlink()
    ran(place, made_again())
    (place / folder.SUMMARY).unlink()
    part = sorted((place / kept.PARTS).glob("*.jsonl"))[0]
    part.write_text(part.read_text()[:-40] + "\n}\n")
    monkeypatch.setattr(trainings.optimise, "step", step)
    ran(place, made_again())
    assert_same(rows_of(place)[0], rows_of(whole)[0], rtol=0, atol=0)


def test_parts_put_together_are_the_sweep(trained, tmp_path, monkeypatch):
    place, ended, given = tmp_path / "made", kept.ended(trained.path), []
    known = {member.number: ended[member.digest] for member in sweep.planned(made(), sweep.Options())}

    def taken(group, places, *, keep, **more):
        given.append(sorted(places))
        keep({number: known[number] for number in places})
        return True

    monkeypatch.setattr(trainings, "run", lambda group, places, **more: not places or taken(group, places, **more))
    for i in (0, 1):
        assert ran(place, made(), options=sweep.Options(per_batch=3, part=(i, 2)))["finished"] is False
    ran(place, made())
    assert given == [[0, 2], [1, 3]]  # and nothing is left to train
    assert (place / kept.TABLE).read_text() == (trained.path / kept.TABLE).read_text()


def test_members_with_an_error_of_their_own_leave_the_others_bit_equal(trained, tmp_path, monkeypatch):
    step = trainings.optimise.step

    member_of = outcomes.member_of

    def poisoned(spec, choice, *, number, shared=()):
        member = member_of(spec, choice, number=number, shared=shared)
        if number != 1:
            return member
        broken = dataclasses.replace(WorldParameters(), opinion_rate=math.nan)
        return member._replace(config=dataclasses.replace(member.config, parameters=broken))

    def failing(trainer, state):
        if trainer.config.learning_rate == 0.3 and int(state.step) == 1:
            raise ZeroBaseline("polarisation is 0 at the baseline")
        return step(trainer, state)

    monkeypatch.setattr(outcomes, "member_of", poisoned)
    monkeypatch.setattr(trainings.optimise, "step", failing)
    summary = ran(tmp_path / "made", made())
    assert summary["frozen"] == [1, 2, 3] and summary["best"] == [0]
    table = [json.loads(line) for line in (tmp_path / "made" / kept.TABLE).read_text().splitlines()]
    assert "is not finite" in table[1]["why"] and table[2]["why"] == "polarisation is 0 at the baseline"
    assert_same(rows_of(tmp_path / "made")[0], rows_of(trained.path)[0], rtol=0, atol=0)
    # What is no error of a member is nobody's result.
    monkeypatch.setattr(trainings.optimise, "step", lambda trainer, state: np.zeros(2) + np.zeros(3))
    with pytest.raises(ValueError, match="broadcast"):
        ran(tmp_path / "bug", made())


@pytest.mark.slow  # compiles for worlds of their own
def test_a_member_that_is_lost_in_a_sampled_world_leaves_the_others_bit_equal(tmp_path, monkeypatch):
    quick = [*QUICK, "meta.worlds=2", "meta.level=0.5", "meta.spread={opinion_rate: 0.1}", "meta.steps=2"]
    of = made(estimator=quick, parameters={"parameters.opinion_rate": {"values": [0.05, 0.06]}})
    ran(tmp_path / "whole", of)
    samples, asked = robust.parameter_samples, []

    def poisoned(key, parameters, *, count, **more):
        found = samples(key, parameters, count=count, **more)
        if count == 1 or abs(float(parameters.opinion_rate) - 0.06) > 1e-6:
            return found
        asked.append(count)
        lost = found.opinion_rate.at[0].set(math.nan)
        return dataclasses.replace(found, opinion_rate=lost) if len(asked) == 1 else found  # in the first meta-step

    monkeypatch.setattr(robust, "parameter_samples", poisoned)
    assert ran(tmp_path / "made", of)["finished"] is True
    found, whole = rows_of(tmp_path / "made"), rows_of(tmp_path / "whole")
    assert_same(found[0], whole[0], rtol=0, atol=0)
    # No step is taken on what is no number, and the next one is a step like any other.
    assert [row["meta/skipped"] for row in found[1][:2]] == [1, 0] and [r["meta/skipped"] for r in found[0][:2]] == [
        0,
        0,
    ]
    for name, value in found[1][1].items():
        assert math.isfinite(value) or not math.isfinite(whole[1][1][name]), name
    before = [name for name in found[1][-1] if name.startswith("evaluation/before/")]
    assert before and [found[1][-1][name] for name in before] == [whole[1][-1][name] for name in before]


def test_settings_that_contradict_each_other_are_told_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(trainings.optimise, "step", None)
    of = made(parameters={"meta.only": {"values": [["home"], ["nobody"], ["somebody"]]}})
    with pytest.raises(UserError) as error:
        ran(tmp_path / "made", of)
    assert [line.split(".")[0] for line in str(error.value).splitlines()] == ["meta", "meta"]
    assert "called 'nobody'" in str(error.value) and "(in 1 of 3 members)" in str(error.value)


def test_several_processes_share_no_part(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep.jax, "process_count", lambda: 2)
    monkeypatch.setattr(sweep.distributed, "own_folder", lambda place: contextlib.nullcontext(place))
    monkeypatch.setattr(sweep.distributed, "agreed", lambda stop: stop)
    with pytest.raises(UserError, match="a part of members that train is one process"):
        ran(tmp_path / "made", made(), options=sweep.Options(part=(0, 2)))


def test_a_signal_among_the_runs_of_members_is_heard(trained, tmp_path, monkeypatch):
    place, begun = tmp_path / "made", []
    shutil.copytree(trained.path, place)
    changed = {"shared": ["log.member_runs=all"], "allow_config_change": True}

    def signalled(config, path, *, command, job_type):
        begun.append((config.name, job_type, (path / folder.CONFIG).read_text()))
        return {"finished": len(begun) != 2}

    monkeypatch.setattr(loop, "train", signalled)
    assert ran(place, made(), **changed)["finished"] is False
    assert [name for name, _, _ in begun] == ["made-0", "made-1"]
    assert all(job == loop.MEMBER and "member_runs: all" in text for _, job, text in begun)
    assert ran(place, made(), **changed)["finished"] is True


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ("loop", "gradients of 1 training at a time of {group} do not fit; try --meta.estimator=es, or fewer"),
        ("vmap", "gradients of 3 trainings at a time of {group} do not fit; try --members-per-batch=1"),
    ],
)
def test_out_of_memory_names_the_group_and_what_to_try(tmp_path, monkeypatch, layout, words):
    def full(self, calls):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 99 bytes.")

    def measured(fitted, members, done=None):
        return np.ones((len(members.keys), len(NAMES) + 3))  # three algorithms

    monkeypatch.setattr(lockstep.SideBySide, "__call__", full)
    monkeypatch.setattr(trainings.Fitted, "__call__", measured)
    monkeypatch.setattr(trainings.mem, "layout", lambda: layout)
    of = made(estimator=[], parameters={**PARAMETERS, "meta.monitor_every": {"value": 0}})
    group = "the compile group of members 0, 1, 2, 3 (4 in all, 60 users)"
    words = re.escape(words.format(group=group))
    with pytest.raises(UserError, match=words):
        ran(tmp_path / "made", of)
    # Rollouts that fail as a whole fail for all, too.
    monkeypatch.setattr(trainings.Fitted, "__call__", lambda fitted, members, done=None: full(None, None))
    with pytest.raises(jax.errors.JaxRuntimeError):
        ran(tmp_path / "rollouts", of)


def test_what_cannot_go_in_step_is_a_process_of_its_own(tmp_path, monkeypatch, capsys):
    def config(*words):
        return load_config("smoke", [*TINY, *words])

    assert trainings.apart("train", config()) is None
    assert trainings.apart("train", config("meta.estimator=es")) is None
    assert "run" in trainings.apart("run", config())
    for word in ("meta.estimator=pes", "shard=users", "evaluation.transfer=['twitch_es']"):
        assert trainings.apart("train", config(word))
    assert trainings.left_out(config("second_order.seeds=2", "pareto.divisions=4")) == ["second_order", "pareto"]
    given = []

    def fake(spec, members, path, **more):
        given.extend(member.number for member in members)
        return {
            member.number: outcomes.Outcome([{"meta_step": 3, "evaluation/utility": 1.0}]) for member in members
        }, True

    monkeypatch.setattr(processes, "run", fake)
    monkeypatch.setattr(trainings, "run", lambda group, places, *, keep, **more: keep(
        {number: outcomes.Outcome([{"meta_step": 3, "evaluation/utility": 2.0}]) for number in places}
    ) or True)  # fmt: skip
    of = made(parameters={"meta.estimator": {"values": ["hybrid", "pes", "es"]}})
    summary = ran(tmp_path / "made", of)
    assert given == [1] and summary["groups"] == [[0, 2]] and summary["best"] == [1, 0, 2]
    assert "meta.estimator=pes" in capsys.readouterr().err


@pytest.mark.slow
def test_a_dry_run_predicts_the_memory_of_trainings(capsys):
    sweep.dry_run(made(estimator=[]), options=THREE)
    told = capsys.readouterr().out
    assert "trainings in step" in told and " MiB" in told
    sweep.dry_run(made(), options=sweep.Options(processes=2))
    assert "4 are processes of their own (mamba-eco train): --processes=2" in capsys.readouterr().out


@pytest.mark.slow
def test_side_by_side_is_one_after_the_other(differentiated, tmp_path, monkeypatch):
    """The layout of accelerators, where trainings are differentiated side by side."""
    monkeypatch.setattr(trainings.mem, "layout", lambda: "vmap")
    ran(tmp_path / "made", made(estimator=[]))
    for number, rows in rows_of(differentiated).items():
        assert_same(rows, rows_of(tmp_path / "made")[number], rtol=2e-3, atol=1e-4)


@pytest.mark.slow
def test_the_best_members_get_runs_of_their_own_that_go_on_where_they_are(tmp_path, monkeypatch):
    shared = ["log.member_runs=top_k", "log.top_k=1", "second_order.seeds=2", "second_order.audit_seeds=0"]
    logged = []
    monkeypatch.setattr(
        loop.tracking,
        "start",
        lambda *given, **named: tracking.nothing()._replace(log=lambda step, row: logged.append((step, row))),
    )
    summary = ran(tmp_path / "made", made(), shared=shared)
    curve = [(step, row["meta/utility"]) for step, row in logged if "meta/utility" in row]
    assert [step for step, _ in curve] == [0, 1, 2]  # also of what was trained in the sweep
    (place,) = (tmp_path / "made" / kept.FOLDERS).glob(f"{summary['best'][0]:06d}-*")
    there = folder.load_run(place)
    assert there.summary["stages"] == ["evaluation", "second_order", "training"]
    again = outcomes.of_rows("train", there.metrics).rows
    assert_same(rows_of(tmp_path / "made")[summary["best"][0]], again[:5], rtol=1e-6)
    assert sorted(entry.name for entry in (tmp_path / "made" / kept.FOLDERS).iterdir()) == [place.name]


def test_the_command_line_plans_trainings(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "use_compilation_cache", lambda: None)
    monkeypatch.setattr(cli, "use_devices", lambda wanted: None)
    monkeypatch.setattr(trainings, "predicted", lambda group, *, size: 2**20)
    assert cli.main(["sweep", "learning_rate", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "learning_rate: 6 members" in told and "trainings in step" in told


def test_a_member_that_is_at_work_elsewhere_is_refused(tmp_path):
    of, path = made(parameters={"seed": {"values": [0]}}), tmp_path / "made"
    sweep.claim_for_parts(of, path, options=sweep.Options())
    (place,) = kept.places(path / kept.FOLDERS, sweep.planned(of, sweep.Options())).values()
    with folder.open_folder(place, "name: elsewhere\n") as held, pytest.raises(UserError, match="another process"):
        held.claim()
        ran(path, of)
    assert folder.read_text(place / folder.CONFIG) == "name: elsewhere\n"


def test_a_member_finds_its_folder_and_no_other(tmp_path, monkeypatch):
    """Members that change places go on from what each left in training; what a run of other settings left counts for nothing."""
    path, opened = tmp_path / "made", {}
    first = sweep.planned(made(), sweep.Options())
    for member, place in zip(first, kept.places(path / kept.FOLDERS, first).values(), strict=True):
        folder.write_text(place / folder.CONFIG, dump_yaml(member.config))
        (place / folder.CHECKPOINTS).mkdir()
    stranger = kept.places(path / kept.FOLDERS, first)[first[3].digest]
    folder.write_text(stranger / folder.CONFIG, dump_yaml(load_config("smoke", ["seed=9"])))

    def seen(config, shared, home, place):
        opened[config.meta.learning_rate, config.seed] = (place.name[:6], (place / folder.CHECKPOINTS).exists())
        raise KeyboardInterrupt

    monkeypatch.setattr(trainings, "_opened", seen)
    swapped = made(parameters=dict(reversed(PARAMETERS.items())))
    sweep.claim_for_parts(swapped, path, options=sweep.Options())
    for number in range(4):
        part = sweep.Options(per_batch=1, part=(number, 4))
        with pytest.raises(KeyboardInterrupt):
            ran(path, swapped, options=part)
    found = {(member.config.meta.learning_rate, member.config.seed): f"{member.number:06d}" for member in first}
    assert {settings: number for settings, (number, _) in opened.items()} == found
    last = (first[3].config.meta.learning_rate, first[3].config.seed)
    assert [settings for settings, (_, goes_on) in opened.items() if not goes_on] == [last]
