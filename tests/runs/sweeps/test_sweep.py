"""Sweeps end to end: members together give what each gives alone, whatever interrupts them, and what a folder holds then."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from mamba import cli
from mamba import ecosystem as eco
from mamba.algorithms import registry
from mamba.objectives import NAMES, NETWORK
from mamba.runs import folder, loop, simulation
from mamba.runs.config import dump_yaml, load_config, read_yaml
from mamba.runs.errors import UserError
from mamba.runs.sweeps import batches, groups, kept, outcomes, processes, report, slurm, sweep
from mamba.runs.sweeps import spec as specs
from mamba.scenarios import populations
from mamba.scenarios.settings import ScenarioConfig
from mamba.world.parameters import WorldParameters

TINY = [
    "scenario.users=60",
    "steps=6",
    "simulation.seeds=2",
    "simulation.windows=3",
    "log.wandb=disabled",
    "log.top_k=1",
]
PARAMETERS = {
    "recommenders.home.sharpness": {"values": [1.0, 9.0]},
    "moderators.takedown.threshold": {"values": [0.3, 0.9]},
    "seed": {"values": [0, 1]},
}


def made(*, job="simulate", **changed):
    command = ["${env}", "mamba-eco", job, "smoke", *(f"--{word}" for word in TINY), "${args}"]
    metric = {"name": f"{outcomes.FINAL[job]}/polarisation", "goal": "minimize"}
    base = {"method": "grid", "parameters": PARAMETERS, "command": command, "metric": metric}
    return specs.parse({**base, **changed}, name="made")


THREE = sweep.Options(per_batch=3)


def ran(path, of, *, options=THREE, shared=(), changed=False):
    command = "mamba-eco sweep made.yaml"
    return sweep.sweep(of, path, options=options, shared=shared, command=command, allow_config_change=changed)


def folder_of(path, number):
    """The run folder that was made for a member of this number."""
    (found,) = (path / kept.FOLDERS).glob(f"{number:06d}-*")
    return found


def values_of(path):
    arrays = folder.read_arrays(path / kept.MEMBERS)
    return dict(zip(arrays["members"].tolist(), arrays["values"], strict=True))


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweeps") / "made"
    return SimpleNamespace(path=path, summary=ran(path, made()), spec=made())


def test_a_sweep_leaves_what_it_promises(swept):
    rows = [json.loads(line) for line in (swept.path / kept.TABLE).read_text().splitlines()]
    assert [row["member"] for row in rows] == list(range(8))
    assert swept.summary["groups"] == [list(range(8))] and swept.summary["frozen"] == []
    values = values_of(swept.path)
    assert values[0].shape == (2, 1 + 3, len(simulation.COLUMNS))
    k = NAMES.index("polarisation")
    assert rows[3]["simulation/polarisation"] == pytest.approx(values[3][:, 0, k].mean())
    apart = rows[3]["simulation/network/assortativity"]
    assert 0.0 < apart < 1.0 and apart == pytest.approx(
        values[3][:, 0, simulation.COLUMNS.index("network/assortativity")].mean()
    )
    assert {f"network/{name}/median" for name in NETWORK} <= set(folder.read_metrics(swept.path / folder.METRICS)[0])
    best = min(rows, key=lambda row: row["simulation/polarisation"])["member"]
    assert swept.summary["best"][0] == best
    # The best have run folders with a report; the batches are gone.
    assert (folder_of(swept.path, best) / folder.REPORT / "index.html").is_file()
    assert not (swept.path / kept.PARTS).exists()


def test_quantiles_are_those_of_the_members(swept):
    metrics = folder.read_metrics(swept.path / folder.METRICS)
    values, k = values_of(swept.path), NAMES.index("wellbeing")
    assert [row["hour"] for row in metrics] == [2, 4, 6]
    members = [values[number][:, 2, k].mean() for number in range(8)]
    assert metrics[1]["ecosystem/wellbeing/q25"] == pytest.approx(np.quantile(members, 0.25))
    assert metrics[1]["ecosystem/wellbeing/max"] == pytest.approx(max(members))
    assert metrics[1]["members/alive"] == 8


def test_a_member_alone_gives_bit_for_bit_what_it_gave_in_the_sweep(swept, tmp_path, monkeypatch):
    row = json.loads((swept.path / kept.TABLE).read_text().splitlines()[5])
    monkeypatch.chdir(tmp_path)
    words = shlex.split(row["command"])
    assert words[:3] == ["mamba-eco", "simulate", "smoke"]
    loop.simulate(load_config(words[2], words[3:]), tmp_path / "alone", command=row["command"])
    alone = folder.read_arrays(tmp_path / "alone" / simulation.FILE)["values"]
    np.testing.assert_array_equal(alone, values_of(swept.path)[5])


def test_a_sweep_that_was_stopped_goes_on_and_ends_with_the_same_bits(swept, tmp_path, monkeypatch, capsys):
    place = tmp_path / "made"
    write = folder.write_arrays

    def signalled(path, arrays):
        write(path, arrays)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(folder, "write_arrays", signalled)
    assert ran(place, swept.spec)["finished"] is False
    # The batch in which the signal came is kept, the next one is not begun.
    assert len(list((place / kept.PARTS).iterdir())) == 1
    # Then the disk is full at the next batch.
    monkeypatch.setattr(folder, "write_arrays", lambda path, arrays: write(path.parent / "file" / path.name, arrays))
    (place / kept.PARTS / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written \(File exists\); make room"):
        ran(place, swept.spec)
    (place / kept.PARTS / "file").unlink()
    assert len(list((place / kept.PARTS).iterdir())) == 1
    # Then no call of wandb does its work.
    monkeypatch.setattr(folder, "write_arrays", write)
    monkeypatch.setitem(sys.modules, "wandb", None)
    capsys.readouterr()
    assert ran(place, swept.spec, shared=["log.wandb=offline"], changed=True)["finished"] is True
    said = capsys.readouterr().err
    # The sweep and its best member, a run of its own, each say it once.
    assert "3 are done" in said and said.count("warning: wandb failed and is left out from here on") == 2
    for name in (kept.TABLE, folder.METRICS):
        assert (place / name).read_text().replace(" --log.wandb=offline", "") == (swept.path / name).read_text()
    for number, values in values_of(swept.path).items():
        np.testing.assert_array_equal(values_of(place)[number], values)


def test_a_damaged_batch_is_run_again(swept, tmp_path):
    place = tmp_path / "made"
    ran(place, swept.spec, options=sweep.Options(per_batch=3, part=(0, 2)))
    parts = sorted((place / kept.TASKS / "0-of-2" / kept.PARTS).iterdir())
    parts[0].write_bytes(parts[0].read_bytes()[:-40])
    assert ran(place, swept.spec)["finished"] is True
    np.testing.assert_array_equal(values_of(place)[0], values_of(swept.path)[0])


def test_parts_put_together_are_the_sweep(swept, tmp_path, monkeypatch):
    place = tmp_path / "made"
    for i in (0, 1):
        assert ran(place, swept.spec, options=sweep.Options(per_batch=3, part=(i, 2)))["finished"] is False
        assert (place / kept.PART_DONE.format(i=i, n=2)).is_file()
    monkeypatch.setattr(batches, "run", None)  # nothing is left to run
    ran(place, swept.spec)
    assert (place / kept.TABLE).read_text() == (swept.path / kept.TABLE).read_text()


def test_members_that_a_changed_sweep_still_has_are_not_done_again(swept, tmp_path, monkeypatch):
    place, done = tmp_path / "made", []
    run = batches.run

    def counted(of, *, keep, **more):
        def keeping(some, values):
            done.extend(member.choice["recommenders.home.sharpness"] for member in some)
            keep(some, values)

        return run(of, keep=keeping, **more)

    monkeypatch.setattr(batches, "run", counted)
    other = made(parameters={**PARAMETERS, "recommenders.home.sharpness": {"values": [1.0, 3.0]}}, metric=None)
    for i in (0, 1):  # in parts, and half of the members are those of the other sweep
        ran(place, other, options=sweep.Options(per_batch=3, part=(i, 2)))
    with pytest.raises(UserError, match=r"(?s)holds a sweep with another.*members that both have are not done again"):
        ran(place, swept.spec, options=sweep.Options(per_batch=3, part=(1, 2)))
    del done[:]
    sweep.claim_for_parts(swept.spec, place, options=THREE, allow_config_change=True)
    assert not (place / kept.TASKS).exists()
    # A part knows what the whole folder knows.
    ran(place, swept.spec, options=sweep.Options(per_batch=3, part=(0, 2)))
    shown = ran(place, swept.spec)
    assert shown["finished"] and (place / kept.TABLE).read_text() == (swept.path / kept.TABLE).read_text()
    assert done == [9.0] * 4
    for number, values in values_of(swept.path).items():
        np.testing.assert_array_equal(values_of(place)[number], values)


def test_members_of_one_digest_are_dealt_to_one_part(swept, tmp_path, monkeypatch):
    dealt = []

    def listed(of, *, keep, **more):
        dealt.extend((member.number, member.digest) for batch in of.batches for member in batch.members)
        return False

    monkeypatch.setattr(batches, "run", listed)
    of = made(parameters={"seed": {"values": [0, 0, 1, 1]}})
    for i in (0, 1):
        ran(tmp_path / "made", of, options=sweep.Options(per_batch=3, part=(i, 2)))
    assert [number for number, _ in dealt] == [0, 2] and len({digest for _, digest in dealt}) == 2


def test_a_finished_sweep_is_logged_once_and_the_command_does_nothing_more(copied, monkeypatch):
    before = (copied / folder.SUMMARY).read_text()
    monkeypatch.setattr(sweep, "_track", None)
    assert ran(copied, made())["finished"] is True
    assert (copied / folder.SUMMARY).read_text() == before
    # Told to stop among the runs of members, it has logged nothing yet.
    monkeypatch.setattr(sweep, "_member_runs", lambda *given: False)
    assert ran(copied, made(), shared=["log.member_runs=all"], changed=True)["finished"] is False


def test_settings_given_as_two_words_are_shared_too(swept):
    assert sweep.joined_overrides(["--meta.steps", "4", "seed=1"]) == ("meta.steps=4", "seed=1")
    with pytest.raises(UserError, match="no value was given"):
        sweep.joined_overrides(["--meta.steps"])


def test_another_sweep_is_refused_with_what_differs(swept):
    with pytest.raises(UserError, match=r"sweep\.count: None -> 3"):
        ran(swept.path, swept.spec, options=sweep.Options(count=3))


def test_what_is_logged_may_change_also_in_the_file(swept, tmp_path, monkeypatch):
    shutil.copytree(swept.path, tmp_path / "made")
    command = ["${env}", "mamba-eco", "simulate", "smoke", *(f"--{word}" for word in [*TINY, "log.top_k=2"]), "${args}"]
    monkeypatch.setattr(batches, "run", None)  # nothing is left to run
    summary = ran(tmp_path / "made", made(command=command), changed=True)
    assert len(summary["best"]) == 2


def test_the_order_of_algorithms_and_a_kind_before_its_settings_count():
    both = {"one": {"kind": "diversity"}, "other": {"kind": "popularity"}}
    of = made(parameters={"recommenders": {"values": [both, dict(reversed(both.items()))]}})
    found = groups.grouped(sweep.planned(of, sweep.Options()))
    names = [[name for name in group.ecosystem.names if name in both] for group in found]
    assert names == [["one", "other"], ["other", "one"]]
    # In the file the setting comes first: it is that of the kind all the same.
    varied = {"recommenders.home.sharpness": {"values": [2.0, 9.0]}, "recommenders.home.kind": {"values": ["bridging"]}}
    members = sweep.planned(made(parameters=varied), sweep.Options())
    told = [(member.config.recommenders["home"].kind, member.config.recommenders["home"].config) for member in members]
    assert [(kind, config.sharpness) for kind, config in told] == [("bridging", 2.0), ("bridging", 9.0)]


def test_members_that_differ_in_more_than_numbers_get_programs_of_their_own():
    of = made(
        parameters={
            "seed": {"values": [0, 1]},
            "steps": {"values": [4, 6]},
            "parameters.scroll_fatigue": {"values": [0.1, 0.2]},
        }
    )
    found = groups.grouped(sweep.planned(of, sweep.Options()))
    assert [[member.number for member in group.members] for group in found] == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert all(group.homes.tolist() == [0, 0, 1, 1] for group in found)


def test_slabs_hold_all_populations_and_batches_all_members(monkeypatch):
    monkeypatch.setattr(batches, "free_memory", lambda: 0.0)  # room for one population at a time
    members = sweep.planned(made(), sweep.Options())
    (group,) = groups.grouped(members)
    plan = batches.plan(group, per_batch=3, done=frozenset([2]))
    assert plan.slabs == ((0,), (1,))
    assert sorted(member.number for batch in plan.batches for member in batch.members) == [0, 1, 3, 4, 5, 6, 7]
    for batch in plan.batches:
        assert {member.config.seed for member in batch.members} == {batch.slab} and set(batch.homes) == {0}


def test_members_that_are_not_finite_are_frozen_and_leave_the_others_bit_equal(swept, tmp_path, monkeypatch):
    broken = {
        4: {"opinion_rate": float("nan")},  # from the start
        # On the way: wellbeing lost with the square of fatigue; the rested lose nothing, the tired leave the finite numbers.
        6: {"wellbeing_overuse": 2e38},
    }

    member_of = outcomes.member_of

    def poisoned(spec, choice, *, number, shared=()):
        member = member_of(spec, choice, number=number, shared=shared)
        parameters = dataclasses.replace(WorldParameters(), **broken.get(number, {}))
        return member._replace(config=dataclasses.replace(member.config, parameters=parameters))

    monkeypatch.setattr(outcomes, "member_of", poisoned)
    warned = []
    monkeypatch.setattr(sweep.progress, "warn", warned.append)
    summary = ran(tmp_path / "made", swept.spec)
    found, whole = values_of(tmp_path / "made"), values_of(swept.path)
    finite = {number: np.isfinite(found[number]).all(axis=(0, 2)).tolist() for number in broken}
    assert finite == {4: [False] * 4, 6: [False, True, False, False]}  # the whole rollout, then its parts
    assert summary["frozen"] == [4, 6] and not {4, 6} & set(summary["best"])
    why = {4: "not finite by hour 2", 6: "not finite by hour 4"}
    for number, words in why.items():
        assert sum(f"member {number} counts nowhere: {words}" in text for text in warned) == 1
    rows = [json.loads(line) for line in (tmp_path / "made" / kept.TABLE).read_text().splitlines()]
    assert {row["member"]: row["why"] for row in rows if row["frozen"]} == why
    for number, values in whole.items():
        if number not in broken:
            np.testing.assert_array_equal(found[number], values)
    # Quantiles are those of the others, also over the hours in which the lost one was still finite.
    metrics, k = folder.read_metrics(tmp_path / "made" / folder.METRICS), NAMES.index("wellbeing")
    assert {row["members/alive"] for row in metrics} == {6}
    least = min(values[:, 1, k].mean() for number, values in whole.items() if number not in broken)
    assert found[6][:, 1, k].max() < -1e30 and metrics[0]["ecosystem/wellbeing/min"] == pytest.approx(least)
    page = report.write_report(tmp_path / "made").read_text()
    assert "2 members left the finite numbers" in page


@pytest.mark.slow  # compiles what an accelerator runs
def test_side_by_side_a_member_that_is_not_finite_leaves_the_others_bit_equal_too(tmp_path, monkeypatch):
    monkeypatch.setattr(simulation.mem, "layout", lambda: "vmap")
    rates = {"whole": [0.05, 0.06, 0.07], "made": [0.05, 0.06, 0.07]}
    member_of = outcomes.member_of

    def poisoned(spec, choice, *, number, shared=()):
        member = member_of(spec, choice, number=number, shared=shared)
        parameters = dataclasses.replace(member.config.parameters, opinion_rate=float("nan"))
        return (
            member if number != 1 else member._replace(config=dataclasses.replace(member.config, parameters=parameters))
        )

    for name, values in rates.items():
        of = made(parameters={"parameters.opinion_rate": {"values": values}})
        assert ran(tmp_path / name, of)["frozen"] == ([1] if name == "made" else [])
        monkeypatch.setattr(outcomes, "member_of", poisoned)
    found, whole = values_of(tmp_path / "made"), values_of(tmp_path / "whole")
    assert np.isnan(found[1]).any()
    for number in (0, 2):
        np.testing.assert_array_equal(found[number], whole[number])


def test_populations_that_do_not_fit_on_a_device_are_one_line_with_the_group(tmp_path, monkeypatch):
    monkeypatch.setattr(batches.placement, "placed", _full)
    with pytest.raises(
        UserError, match=r"out of memory: 2 populations do not fit, of the compile group of members 0, 1, 2"
    ):
        ran(tmp_path / "made", made())


OUT_OF_MEMORY = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 99 bytes."


def _full(*arguments, **named):
    raise jax.errors.JaxRuntimeError(OUT_OF_MEMORY)


@pytest.mark.parametrize(
    ("per_batch", "chunk", "words"),
    [
        (3, 6, "6 rollouts at a time of {group} need about 8.0 GiB; try --members-per-batch=1"),
        (8, 16, "16 rollouts at a time of {group} need about 8.0 GiB; try --members-per-batch=4"),
        (1, 2 * jax.local_device_count(), "try --simulation.seeds={half}, or fewer scenario.users"),
        (1, jax.local_device_count(), "try fewer scenario.users"),
    ],
)
def test_out_of_memory_names_the_group_and_the_batch_to_try(tmp_path, monkeypatch, per_batch, chunk, words):
    def compiled(fitted, members):
        if "members 0, 1, 4, 5 " in fitted._who:  # this group fits
            return SimpleNamespace(run=lambda *given: np.zeros((16, 4, len(simulation.COLUMNS))), chunk=16, bytes=1)
        return SimpleNamespace(run=_full, chunk=chunk, bytes=2**33)

    monkeypatch.setattr(batches.simulation.Fitted, "compiled", compiled)
    of = made(parameters={"seed": {"values": [0, 1]}, "steps": {"values": [4, 6]}, "name": {"values": ["a", "b"]}})
    with pytest.raises(UserError) as error:
        ran(tmp_path / "made", of, options=sweep.Options(per_batch=per_batch))
    group = "the compile group of members 2, 3, 6, 7 (4 in all, 60 users)"
    assert words.format(group=group, half=chunk // 2) in str(error.value) and group in str(error.value)
    done = {member.digest for member in sweep.planned(of, sweep.Options()) if member.number in (0, 1, 4, 5)}
    assert set(kept.known(tmp_path / "made")) == done  # which is kept


def test_a_program_that_does_not_fit_names_the_group_too(tmp_path, monkeypatch):
    monkeypatch.setattr(batches.mem, "compiled", _full)
    words = r"9 rollouts at a time of the compile group of member 0 \(1 in all, 60 users\) do not fit; try --members"
    with pytest.raises(UserError, match=f"out of memory: {words}"):
        ran(tmp_path / "made", made(parameters={"simulation.seeds": {"value": 3}}))  # three members, if there were


def test_the_page_of_a_sweep_lists_members_and_their_commands(swept):
    page = report.write_report(swept.path).read_text()
    assert 'class="sortable"' in page and page.count("<tr>") > 8
    assert "mamba-eco simulate smoke" in page
    with pytest.raises(UserError, match="nothing to report yet"):
        report.write_report(swept.path / "absent")


def test_the_page_of_a_sweep_draws_quantiles_and_parallel_coordinates(swept):
    page = report.write_report(swept.path).read_text(encoding="utf-8")
    course, parallel = (json.loads(text)["variants"] for text in re.findall(r'id="figure-\d+">(.*?)</script>', page))
    rows = folder.read_metrics(swept.path / folder.METRICS)
    assert len(course) == len(NAMES) + len(NETWORK)  # a drawing of each objective and trait, to choose from
    drawing = course[NAMES.index("wellbeing")]["data"]
    assert {trace["type"] for trace in drawing} == {"scatter"} and drawing[-1]["name"] == "median member"
    assert [trace["name"] for trace in drawing if trace.get("fill") == "tonexty"] == ["all members", "half of them"]
    for trace, word in zip(drawing, ("min", "max", "q25", "q75", "median"), strict=True):
        assert trace["x"] == [2, 4, 6]
        np.testing.assert_allclose(trace["y"], [row[f"ecosystem/wellbeing/{word}"] for row in rows], rtol=1e-4)
    (lines,) = parallel[0]["data"]
    assert lines["type"] == "parcoords"
    members = [json.loads(line) for line in (swept.path / kept.TABLE).read_text().splitlines()]
    axes = {axis["label"].replace("<br>", ""): axis for axis in lines["dimensions"]}
    assert list(axes)[:3] == list(PARAMETERS)
    for name in PARAMETERS:
        assert axes[name]["values"] == [member["settings"][name] for member in members]
    # What members are compared by stands last, and colours the lines.
    last = [member["simulation/polarisation"] for member in members]
    np.testing.assert_allclose(list(axes.values())[-1]["values"], last)
    np.testing.assert_allclose(lines["line"]["color"], last)


def test_errors_of_members_are_told_once(tmp_path):
    of = made(parameters={"meta.steps": {"values": [-1, 2]}, "seed": {"values": [0, 1]}})
    with pytest.raises(UserError, match=r"meta.steps: .* \(in 2 of 4 members\)") as caught:
        ran(tmp_path / "made", of)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "made").exists()


def test_a_metric_that_nobody_logs_is_refused_and_nothing_is_lost(tmp_path, monkeypatch):
    of = made(parameters={"seed": {"value": 0}}, metric={"name": "simulation/polarization"})
    with pytest.raises(
        UserError, match=r"no member logged simulation/polarization\. Known: simulation/creator_inequality"
    ):
        ran(tmp_path / "made", of)
    monkeypatch.setattr(batches, "run", None)  # the members are there
    right = made(parameters={"seed": {"value": 0}}, metric={"name": "simulation/polarisation"})
    command = {"options": THREE, "command": "again", "allow_config_change": True}
    assert sweep.sweep(right, tmp_path / "made", **command)["best"] == [0]


@pytest.mark.parametrize("kind", ["engagement", "removal", "growth", "community_notes"])
def test_a_setting_with_a_lever_of_its_name_does_nothing_but_set_it(kind):
    _check_levers(kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(registry.KINDS))
def test_every_setting_with_a_lever_of_its_name_does_nothing_but_set_it(kind):
    _check_levers(kind)


def _check_levers(kind):
    """The program of one step is the same text when every such setting is another number."""
    base = registry.KINDS[kind].config()
    levers = registry.KINDS[kind].make(base).levers
    fields = {field.name: field for field in dataclasses.fields(base) if field.name in levers}
    assert fields, "every kind has a lever that its configuration sets"
    changed = {}
    for name, field in fields.items():
        value, told = getattr(base, name), field.metadata
        within = [
            each
            for each in (1.3 * value + 0.01, 0.7 * value + 0.001)
            if all(
                told[end] is None or holds(each, told[end])
                for end, holds in (
                    ("lt", float.__lt__),
                    ("le", float.__le__),
                    ("gt", float.__gt__),
                    ("ge", float.__ge__),
                )
            )
        ]
        changed[name] = within[0]
    other = registry.KINDS[kind].make(dataclasses.replace(base, **changed))
    assert set(other.levers) == set(levers)
    assert any(not np.array_equal(other.levers[name], levers[name]) for name in fields)
    assert _program(other) == _program(registry.KINDS[kind].make(base))


def _program(algorithm):
    scenario = populations.load(ScenarioConfig(users=40, topics=2), seed=0)
    ecosystem = eco.make({"it": algorithm}, sizes=scenario.sizes)

    def step(inputs, key):
        state = eco.init(ecosystem, inputs, key)
        return eco.step(ecosystem, inputs, state, index=jax.numpy.int32(0), key=key, mode="sampled")

    text = str(jax.make_jaxpr(step)(eco.inputs(ecosystem, scenario.population), jax.random.key(0)))
    return text.replace("0x", "\n0x")


@pytest.mark.slow
def test_choices_that_learn_are_the_same_after_an_interruption(tmp_path, monkeypatch):
    pytest.importorskip("optuna", reason="the extra `bayes` is not installed")
    parameters = {
        "recommenders.home.sharpness": {"distribution": "log_uniform_values", "min": 1.0, "max": 12.0},
        "meta.optimizer": {"values": ["adam", "sgd"]},
        "seed": {"min": 0, "max": 1},
    }
    of = made(method="bayes", run_cap=4, parameters=parameters)
    two = sweep.Options(per_batch=2)
    ran(tmp_path / "whole", of, options=two)
    rows = [json.loads(line) for line in (tmp_path / "whole" / kept.TABLE).read_text().splitlines()]
    assert len(rows) == 4 and all(1.0 <= row["settings"]["recommenders.home.sharpness"] <= 12.0 for row in rows)
    monkeypatch.setattr(sweep.batches, "run", _only_first(sweep.batches.run))
    assert ran(tmp_path / "broken", of, options=two)["finished"] is False
    monkeypatch.undo()
    ran(tmp_path / "broken", of, options=two)
    assert (tmp_path / "broken" / kept.TABLE).read_text() == (tmp_path / "whole" / kept.TABLE).read_text()
    with pytest.raises(UserError, match="has no parts"):
        ran(tmp_path / "parts", of, options=sweep.Options(part=(0, 2)))


def test_a_dry_run_of_choices_that_learn_shows_the_first_of_them(capsys):
    pytest.importorskip("optuna", reason="the extra `bayes` is not installed")
    of = made(method="bayes", run_cap=4, parameters={"seed": {"min": 0, "max": 1}})
    sweep.dry_run(of, options=sweep.Options(per_batch=2))
    told = capsys.readouterr().out
    assert "4 members, chosen one batch after the other" in told and re.search(r"made: 2\s+members", told)
    assert "predicted peak memory" in told


def _only_first(run):
    calls = []

    def once(of, **arguments):
        calls.append(of)
        return run(of, **arguments) if len(calls) == 1 else False

    return once


# ---- what a folder holds belongs to whom


@pytest.fixture
def copied(swept, tmp_path):
    place = tmp_path / "copied"
    shutil.copytree(swept.path, place)
    return place


def _never(*given, **more):
    raise AssertionError("nothing is left to run")


def test_the_digest_of_a_configuration_outlives_its_file():
    for preset in ("smoke", "quickstart", "platform"):
        config = load_config(preset, ["simulation.seeds=3", "meta.only=[home]"] if preset == "quickstart" else [])
        assert outcomes.digest(read_yaml(dump_yaml(config))) == outcomes.digest(config)
        assert outcomes.digest(load_config(preset, ["chunk=3", "name=x", "log.wandb=disabled"])) == outcomes.digest(
            load_config(preset, [])
        )
    assert outcomes.digest(load_config("smoke", ["seed=1"])) != outcomes.digest(load_config("smoke", []))


def test_a_file_in_another_order_finds_the_results_of_every_member(copied, monkeypatch):
    before = [json.loads(line) for line in (copied / kept.TABLE).read_text().splitlines()]
    monkeypatch.setattr(batches, "run", _never)
    ran(copied, made(parameters=dict(reversed(PARAMETERS.items()))))
    after = [json.loads(line) for line in (copied / kept.TABLE).read_text().splitlines()]
    assert [row["settings"] for row in after] != [row["settings"] for row in before]
    found = {json.dumps(row["settings"], sort_keys=True): row["simulation/polarisation"] for row in before}
    assert {json.dumps(row["settings"], sort_keys=True): row["simulation/polarisation"] for row in after} == found
    assert len(set(found.values())) > 4  # not a table of equal numbers
    # The best has the run folder that it had, under the number that it had.
    best = json.loads((copied / folder.SUMMARY).read_text())["best"][0]
    (place,) = (path for path in (copied / kept.FOLDERS).iterdir() if path.name[0] == "0")
    assert not place.name.startswith(f"{best:06d}")
    config = load_config(str(place / folder.CONFIG), [])
    settings = after[best]["settings"]
    assert config.seed == settings["seed"]
    assert config.recommenders["home"].config.sharpness == settings["recommenders.home.sharpness"]


def test_what_is_harmless_to_members_keeps_what_is_done(copied, monkeypatch):
    monkeypatch.setattr(batches, "run", _never)
    summary = ran(copied, made(), shared=["chunk=2", "checkpoint.every=7", "log.group=other"], changed=True)
    assert summary["finished"]


def test_parts_count_after_a_harmless_change(swept, tmp_path, monkeypatch):
    place = tmp_path / "made"
    for i in (0, 1):
        ran(place, swept.spec, options=sweep.Options(per_batch=4, part=(i, 2)))
    monkeypatch.setattr(batches, "run", _never)
    goal = {"name": "simulation/polarisation", "goal": "maximize"}
    ran(place, made(metric=goal), changed=True)
    for number, values in values_of(swept.path).items():
        np.testing.assert_array_equal(values_of(place)[number], values)


def test_a_part_that_has_more_to_do_than_before_is_not_done(swept, tmp_path, monkeypatch):
    """The mark decides whether a script puts a task back into the queue."""
    place, half = tmp_path / "made", sweep.Options(per_batch=4, part=(0, 2))
    done = place / kept.PART_DONE.format(i=0, n=2)
    ran(place, made(run_cap=2), options=half)
    assert done.is_file()
    for part in (done.parent / kept.PARTS).iterdir():  # what it did is lost
        part.unlink()
    monkeypatch.setattr(batches, "run", lambda *given, **more: False)  # told to stop
    ran(place, made(run_cap=2), options=half)
    assert not done.exists()


def test_a_sweep_of_another_job_begins_anew_and_takes_nothing_away(copied, monkeypatch):
    asked = []
    monkeypatch.setattr(sweep.trainings, "run", lambda group, places, **more: asked.extend(places) or False)
    ran(copied, made(job="train"), changed=True)
    assert sorted(asked) == list(range(8))  # also those that have a run folder of a simulation
    monkeypatch.setattr(batches, "run", _never)
    assert ran(copied, made(), changed=True)["finished"] is True


@pytest.mark.parametrize(
    ("stages", "done"),
    [
        (["simulation"], {"simulate"}),
        (["evaluation"], {"train"}),
        (["evaluation", "interactions", "training"], {"train", "run"}),
        (None, set()),
    ],
)
def test_a_member_is_done_where_its_job_is(tmp_path, stages, done):
    (member,) = sweep.planned(made(parameters={"seed": {"value": 0}}), sweep.Options())
    folder.write_text(tmp_path / folder.CONFIG, dump_yaml(member.config))
    folder.write_json(tmp_path / folder.SUMMARY, {"finished": True} | ({"stages": stages} if stages else {}))
    folder.write_text(tmp_path / folder.METRICS, "")
    assert {job for job in outcomes.FINAL if processes.outcome_of(tmp_path, member, job) is not None} == done


def test_a_task_at_work_is_not_robbed_of_its_part(swept, tmp_path):
    place = tmp_path / "made"
    ran(place, swept.spec, options=sweep.Options(per_batch=3, part=(0, 2)))
    task = place / kept.TASKS / "0-of-2"
    before = sorted(path.name for path in place.rglob("*"))
    with folder.open_folder(task, (task / folder.SWEEP).read_text(), holds=folder.SWEEP):
        with pytest.raises(UserError, match="0-of-2: another process"):
            sweep.claim_for_parts(made(run_cap=2), place, options=THREE, allow_config_change=True)
    assert sorted(path.name for path in place.rglob("*")) == before


def test_bad_data_leaves_a_folder_as_it_was(copied, tmp_path):
    text = (copied / folder.SWEEP).read_text()
    for place, changed in ((copied, True), (tmp_path / "new", False)):
        with pytest.raises(UserError, match="nowhere"):
            ran(place, made(), shared=["scenario.dataset=nowhere.csv"], changed=changed)
    assert (copied / folder.SWEEP).read_text() == text and len(values_of(copied)) == 8
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "given", ["seed=7", "--moderators.takedown={kind: removal}", "recommenders.home.sharpness.x=1"]
)
def test_what_is_varied_is_not_given_for_all(given):
    with pytest.raises(UserError, match="the sweep varies"):
        sweep.planned(made(), sweep.Options(), shared=[given])
    assert len(sweep.planned(made(), sweep.Options(), shared=["steps=5"])) == 8


def test_member_runs_leave_out_those_that_count_nowhere(copied, monkeypatch):
    arrays = folder.read_arrays(copied / kept.MEMBERS)
    values = arrays["values"].copy()
    values[3] = np.nan
    folder.write_arrays(copied / kept.MEMBERS, {**arrays, "values": values})
    seen = []
    monkeypatch.setattr(sweep, "_member_runs", lambda of, some, everyone: seen.extend(some) or True)
    ran(copied, made(), shared=["log.member_runs=all"], changed=True)
    assert [member.number for member in seen] == [0, 1, 2, 4, 5, 6, 7]


@pytest.mark.slow  # processes that compile
def test_a_sweep_over_two_devices_gives_the_bits_of_one(tmp_path):
    command = ["${env}", "mamba-eco", "simulate", "smoke", *(f"--{word}" for word in TINY), "${args}"]
    of = {"method": "grid", "parameters": PARAMETERS, "command": command}
    (tmp_path / "made.yaml").write_text(json.dumps(of))
    for devices in ("1", "2"):
        words = ["sweep", "made.yaml", "--devices", devices, "--run_dir", devices, "--members-per-batch=3"]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
        result = subprocess.run(
            [sys.executable, "-m", "mamba", *words], cwd=tmp_path, env=environment, text=True, capture_output=True
        )
        assert result.returncode == 0, result.stderr
        assert f"on {devices} x cpu" in result.stderr
    one, two = (values_of(tmp_path / devices) for devices in ("1", "2"))
    for number, values in one.items():
        np.testing.assert_array_equal(two[number], values)


# ---- processes, slurm, the command line


def test_members_that_are_processes_are_collected(tmp_path, monkeypatch):
    started = []

    class Fake:
        """Instead of a training: a process that writes what a training leaves."""

        def __init__(self, words, file):
            started.append(words)
            place = words[words.index("--run_dir") + 1]
            config = load_config(words[4], [word[2:] for word in words[5 : words.index("--run_dir")]])
            folder.write_text(f"{place}/{folder.CONFIG}", dump_yaml(config))
            rate = float(next(word for word in words if "learning_rate" in word).split("=")[1])
            self.returncode = 0 if rate < 0.3 else 7
            if self.returncode == 0:
                folder.write_json(f"{place}/{folder.SUMMARY}", {"finished": True, "stages": ["evaluation"]})
                rows = [{"meta_step": n, "ecosystem/polarisation": rate * n} for n in range(3)]
                rows.append({"stage": "evaluation", "meta_step": 3, "evaluation/after/polarisation": 1.0 - rate})
                folder.write_text(f"{place}/{folder.METRICS}", "".join(json.dumps(row) + "\n" for row in rows))
            else:
                file.write(b"first\nout of luck\n")

        def poll(self):
            return self.returncode

    monkeypatch.setattr(processes, "_start", Fake)
    monkeypatch.setattr(processes, "_LOOK_S", 0.0)
    of = made(job="train", parameters={"meta.learning_rate": {"values": [0.1, 0.2, 0.3]}})
    summary = ran(tmp_path / "made", of, options=sweep.Options(processes=2))
    assert summary["best"] == [1] and summary["frozen"] == [2]
    rows = [json.loads(line) for line in (tmp_path / "made" / kept.TABLE).read_text().splitlines()]
    assert rows[2]["why"] == "exit code 7: out of luck"
    assert rows[1]["evaluation/after/polarisation"] == pytest.approx(0.8)
    metrics = folder.read_metrics(tmp_path / "made" / folder.METRICS)
    assert metrics[2]["ecosystem/polarisation/median"] == pytest.approx(0.3)
    assert started[0][1:5] == ["-m", "mamba", "train", "smoke"] and "--log.group=made" in started[0]
    assert "--log.wandb=disabled" not in started[0][started[0].index("--log.group=made") :]
    # What is finished is not started again; what failed is.
    del started[:]
    ran(tmp_path / "made", of, options=sweep.Options(processes=2))
    assert len(started) == 1
    assert "0.3" in " ".join(started[0])
    # No run of its own in wandb, where none is asked for.
    shared = ["log.member_runs=none"]
    ran(tmp_path / "made", of, options=sweep.Options(processes=2), shared=shared, changed=True)
    assert "--log.wandb=disabled" in started[-1][started[-1].index("--log.group=made") :]
    report.write_report(tmp_path / "made")


@pytest.mark.slow  # processes that compile
def test_members_that_are_processes_save_when_they_are_stopped_and_go_on(tmp_path):
    command = ["${env}", "mamba-eco", "train", "smoke", "${args}"]
    told = {"command": command, "method": "grid", "metric": {"name": "evaluation/utility", "goal": "minimize"}}
    told["parameters"] = {"meta.learning_rate": {"values": [0.05, 0.3]}}
    (tmp_path / "made.yaml").write_text(json.dumps(told))
    quick = ["--scenario.users=60", "--steps=6", "--meta.estimator=es", "--meta.audit_pairs=2", "--meta.steps=40"]
    quick += ["--second_order.seeds=0", "--checkpoint.every=1", "--log.wandb=disabled", "--log.member_runs=none"]
    words = ["sweep", "made.yaml", "--processes", "2", "--run_dir", "made", *quick]
    place = tmp_path / "made"

    def begun():
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
        command = [sys.executable, "-m", "mamba", *words]
        return subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, stderr=subprocess.PIPE)

    process = begun()
    for _ in range(3000):
        if len(list(place.glob(f"{kept.FOLDERS}/*/{folder.CHECKPOINTS}/*/*"))) and process.poll() is None:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0 and "the same command continues" in said, said
    steps = [len(folder.read_metrics(path)) for path in place.glob(f"{kept.FOLDERS}/*/{folder.METRICS}")]
    assert steps and max(steps) < 40 and not (place / folder.SUMMARY).exists()
    process = begun()
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    rows = [json.loads(line) for line in (place / kept.TABLE).read_text().splitlines()]
    assert [row["frozen"] for row in rows] == [False, False]
    # And as the command of the table does it, uninterrupted.
    alone = shlex.split(rows[1]["command"])
    config = load_config(alone[2], alone[3:])
    loop.train(config, tmp_path / "alone", command=rows[1]["command"])
    wanted = folder.read_metrics(tmp_path / "alone" / folder.METRICS)
    found = folder.read_metrics(folder_of(place, 1) / folder.METRICS)
    assert len(found) == len(wanted)
    np.testing.assert_array_equal(folder.column(found, "meta/utility"), folder.column(wanted, "meta/utility"))
    assert rows[1]["evaluation/utility"] == pytest.approx(wanted[-1]["evaluation/utility"], rel=1e-12)


class Ended:
    """A process that has ended at once, and may have left something in its run folder."""

    returncode = 0

    def __init__(self, words, file):
        self.place = Path(words[words.index("--run_dir") + 1])
        self.leaves()

    def leaves(self):
        pass

    def poll(self):
        return self.returncode


def as_processes(monkeypatch, tmp_path, ended):
    """Members of a sweep of two seeds as processes, of which `ended` stands for each."""
    monkeypatch.setattr(processes, "_start", ended)
    monkeypatch.setattr(processes, "_LOOK_S", 0.0)
    of = made(parameters={"seed": {"values": [0, 1, 0]}})  # the third has the results of the first
    members = sweep.planned(of, sweep.Options())
    places = kept.places(tmp_path, members)
    run = functools.partial(processes.run, of, members, places, logs=tmp_path, at_once=1, overrides=lambda member: [])
    return members, places, run


@pytest.mark.parametrize("code", [-signal.SIGTERM, 0])
def test_a_process_that_was_told_to_stop_counts_for_nothing_yet(tmp_path, monkeypatch, code):
    _, _, run = as_processes(monkeypatch, tmp_path, type("Told", (Ended,), {"returncode": code}))
    asked = iter([False, True])
    assert run(stop=lambda: next(asked)) == ({}, False)  # so was the sweep
    found, whole = run(stop=lambda: False)
    assert whole and [each.frozen for each in found.values()] == [True] * 3
    assert found[0].why.startswith("exit code -15" if code else "it was told to stop")


def test_members_of_one_digest_are_one_process(tmp_path, monkeypatch):
    started = []

    class Finishes(Ended):
        def leaves(self):
            started.append(self.place.name)
            member = next(each for each in members if places[each.digest] == self.place)
            folder.write_text(self.place / folder.CONFIG, dump_yaml(member.config))
            folder.write_json(self.place / folder.SUMMARY, {"finished": True, "stages": ["simulation"]})
            folder.write_text(self.place / folder.METRICS, "")

    members, places, run = as_processes(monkeypatch, tmp_path, Finishes)
    found, whole = run(stop=lambda: False)
    assert whole and sorted(found) == [0, 1, 2] and not any(each.frozen for each in found.values())
    assert [name[:6] for name in started] == ["000000", "000001"]
    assert run(stop=lambda: False)[1] and len(started) == 2  # what is finished is not run again


def test_a_run_of_other_settings_is_no_result_and_is_not_removed(tmp_path, monkeypatch):
    class Edited(Ended):
        """The file that all members start from was changed since the sweep was planned."""

        def leaves(self):
            folder.write_text(self.place / folder.CONFIG, dump_yaml(load_config("smoke", ["seed=9"])))
            folder.write_json(self.place / folder.SUMMARY, {"finished": True, "stages": ["simulation"]})
            folder.write_text(self.place / folder.METRICS, "")

    _, places, run = as_processes(monkeypatch, tmp_path, Edited)
    found, whole = run(stop=lambda: False)
    assert whole and found[0].frozen and found[0].why == "smoke was changed while the sweep ran"
    assert all((place / folder.SUMMARY).is_file() for place in places.values())
    # Without its configuration nobody knows whose a summary is.
    for place in places.values():
        (place / folder.CONFIG).unlink()
    with pytest.raises(UserError, match="is not a run folder"):
        run(stop=lambda: False)


def test_a_member_that_is_at_work_elsewhere_starts_no_process(tmp_path, monkeypatch):
    members, places, run = as_processes(monkeypatch, tmp_path, Ended)
    held = folder.open_folder(places[members[0].digest], "seed: 9\n")
    with held as opened, pytest.raises(UserError, match="another process"):
        opened.claim()
        run(stop=lambda: False)
    assert folder.read_text(places[members[0].digest] / folder.CONFIG) == "seed: 9\n"


def test_the_slurm_script_runs_its_part_and_requeues_what_is_not_done(tmp_path):
    path = tmp_path / "a folder"
    words = ["mamba-eco", "sweep", "x.yaml", "--run_dir", str(path)]
    script = slurm.write("made", path, parts=4, words=words, done=kept.PART_DONE)
    text = script.read_text()
    for line in ("--array=0-3", "--signal=USR2@120", "--requeue", "--open-mode=append"):
        assert f"#SBATCH {line}\n" in text
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("srun", "scontrol"):
        (tools / tool).write_text(f'#!/bin/sh\necho {tool} "$@" >> "{tmp_path}/calls"\n')
        (tools / tool).chmod(0o755)
    environment = {"PATH": f"{tools}:/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_JOB_ID": "77"}

    def calls():
        (tmp_path / "calls").unlink(missing_ok=True)
        subprocess.run(["sh", script], env=environment, check=True)
        return (tmp_path / "calls").read_text().splitlines()

    assert calls() == [f"srun mamba-eco sweep x.yaml --run_dir {path} --part 2/4", "scontrol requeue 77_2"]
    folder.write_json(path / kept.PART_DONE.format(i=2, n=4), {})
    assert calls() == [f"srun mamba-eco sweep x.yaml --run_dir {path} --part 2/4"]


SRUN = """#!/bin/sh
# As Slurm does when the time is nearly up: tells the task, once it has kept a batch; not when it has the time it needs.
"$@" &
task=$!
if [ ! -e "{told}" ]; then
  until ls "{parts}"/*.npz >/dev/null 2>&1 || ! kill -0 "$task" 2>/dev/null; do sleep 0.05; done
  : >"{told}"
  kill -USR2 "$task"
fi
wait "$task"
"""


@pytest.mark.slow  # three processes that compile
def test_a_task_of_a_slurm_array_that_is_told_to_stop_goes_back_into_the_queue_and_goes_on(tmp_path):
    """The script as it is written, with the two commands of Slurm replaced by what they would do."""
    values = {"values": list(range(24))}
    command = ["${env}", "mamba-eco", "simulate", "smoke", *(f"--{word}" for word in TINY), "${args}"]
    of = {"method": "grid", "parameters": {"seed": values}, "command": command}
    (tmp_path / "seeds.yaml").write_text(json.dumps(of))
    environment = {**os.environ, "SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_JOB_ID": "77", "JAX_PLATFORMS": "cpu"}
    words = ["sweep", "seeds.yaml", "--members-per-batch=1", "--run_dir=here", "--slurm=1"]
    subprocess.run(
        [sys.executable, "-m", "mamba", *words], cwd=tmp_path, env=environment, check=True, capture_output=True
    )
    script = tmp_path / "here" / slurm.SCRIPT
    tools = tmp_path / "bin"
    tools.mkdir()
    parts = tmp_path / "here" / kept.TASKS / "0-of-1" / kept.PARTS
    stubs = {
        "srun": SRUN.format(told=tmp_path / "told", parts=parts),
        "scontrol": f'#!/bin/sh\necho "$@" >> "{tmp_path}/queue"\n',
        "mamba-eco": f'#!/bin/sh\nexec "{sys.executable}" -m mamba "$@"\n',
    }
    for name, text in stubs.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    environment["PATH"] = f"{tools}:{environment['PATH']}"

    def task():
        result = subprocess.run(["sh", script], env=environment, text=True, capture_output=True, check=False)
        assert result.returncode == 0, result.stderr
        return result.stderr

    assert "SIGUSR2: finishing" in task()
    done = len(list(parts.iterdir()))
    assert 1 <= done < len(values["values"])
    assert (tmp_path / "queue").read_text() == "requeue 77_0\n"
    assert f"{done} are done" in task()
    assert (tmp_path / "queue").read_text() == "requeue 77_0\n"  # its part is done: not again
    assert (tmp_path / "here" / kept.PART_DONE.format(i=0, n=1)).is_file()


FILE = """
method: random
run_cap: 3
parameters:
  seed: {values: [0, 1]}
command: ["${env}", mamba-eco, simulate, smoke, "${args}"]
"""


def test_the_command_line_plans_writes_scripts_and_refuses(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "use_compilation_cache", lambda: None)
    monkeypatch.setattr(cli, "use_devices", lambda wanted: None)
    (tmp_path / "x.yaml").write_text(FILE)
    shown = [f"--{word}" for word in TINY]
    assert cli.main(["sweep", "x.yaml", "--dry-run", "--members-per-batch", "2", *shown]) == 0
    told = capsys.readouterr().out
    assert "x: 3 members" in told and "predicted peak memory" in told
    assert float(re.search(r"([\d,.]+) MiB", told)[1].replace(",", "")) > 0
    assert not (tmp_path / "runs").exists()
    monkeypatch.setattr(sys, "argv", ["mamba-eco", "sweep", "x.yaml", "--slurm", "2", "--count=2"])
    assert cli.main(["sweep", "x.yaml", "--slurm", "2", "--count=2"]) == 0
    assert "srun mamba-eco sweep x.yaml --count=2 --part" in (tmp_path / "runs" / "x" / slurm.SCRIPT).read_text()
    assert cli.main(["sweep", "absent.yaml"]) == 2
    assert "cannot read absent.yaml" in capsys.readouterr().err
    for words in (["--count", "0"], ["--part", "2/2"], ["--members-per-batch", "x"]):
        with pytest.raises(SystemExit):
            cli.main(["sweep", "x.yaml", *words])
