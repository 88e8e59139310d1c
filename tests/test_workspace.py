"""The dashboard of Weights & Biases is one that wandb-workspaces takes, and shows what runs log."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mamba import passing
from mamba.meta import optimise, vector
from mamba.objectives import NAMES
from mamba.runs import analysis, folder, loop, shifts, simulation, tracking, training
from mamba.runs.config import load_config
from mamba.runs.sweeps import outcomes

ROOT = Path(__file__).parents[1]
pytest.importorskip("wandb_workspaces", reason="the extra `workspace` is not installed")


def _script():
    spec = importlib.util.spec_from_file_location("workspace_script", ROOT / "scripts" / "setup_wandb_workspace.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_dashboard_is_built_and_printed_without_asking_anybody(capsys, monkeypatch):
    import wandb

    monkeypatch.setattr(wandb, "Api", None)
    assert _script().main(["--entity", "team", "--project", "p", "--dry-run"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["entity"], told["project"]) == ("team", "p")
    sections = told["spec"]["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections][:2] == ["Goal and limits", "Objectives"]
    assert len(sections[1]["panels"]) == len(NAMES)
    assert "http" not in json.dumps(told), "no host is written down"


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """Names of all that a run, a simulation and a sweep log, from the functions that make them; the numbers are made up."""
    path = tmp_path_factory.mktemp("run")
    config = load_config(
        ROOT / "configs" / "smoke.yaml",
        ["scenario.users=60", "meta.steps=1", "interactions.every=1", "meta.keep={trust: 1}"],
    )
    job = loop.prepare(config)
    names: set[str] = set()

    def log(step, row):
        names.update(tracking.scalars(row))

    def matrix(step, name, labels, values):
        names.update(tracking.pairs(name, labels, values))

    tracker = tracking.nothing()._replace(
        log=log, log_matrix=matrix, log_figure=lambda step, name, figure: names.add(tracking.metric_name(name))
    )
    # A meta-step in which the estimator has everything to say.
    levers = np.asarray(vector.flat(job.inputs.levers))
    blocks, objectives = np.ones(len(passing.blocks(job.ecosystem))), np.ones(len(NAMES))
    told = {name: levers for name in ("pathwise", "audited", "audited_error", "weight")}
    told |= {"fresh": 1, "cosine": 1.0, "skipped": 0, "growth": blocks, "passing": blocks}
    limits = np.ones(len(config.meta.keep))
    found = optimise.Report(objectives, objectives, 1.0, limits, levers, levers, told)
    before = optimise.TrainingState(np.int32(0), levers, (), limits, limits, ())
    metrics = folder.open_metrics(path / folder.METRICS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimise, "step", lambda trainer, state: (state._replace(step=np.int32(1)), found))
        training.train(job, None, before, path=path, metrics=metrics, tracker=tracker, stop=lambda: False)
    metrics.close()
    (row,) = folder.read_metrics(path / folder.METRICS)
    assert {"meta/utility", "constraint/trust", "levers/home/sharpness"} <= set(row) & names

    outcome = outcomes.of_values(config, np.ones((1, 1 + len(simulation.hours(config)), len(simulation.COLUMNS))))
    for row in (*outcome.rows, *outcomes.quantiles("simulate", {0: outcome})):
        log(0, row)

    draw = np.random.default_rng(0)

    def measure(members, done=None):
        return draw.random((len(members.keys), 1 + config.interactions.windows, len(NAMES)))

    asked = job._replace(measure=measure)
    results = analysis.run(asked, path, None, tracker=tracker, stop=lambda: False)
    log(0, analysis.row(results.analysis))
    metrics = folder.open_metrics(path / folder.METRICS)
    trainer = SimpleNamespace(baseline=job.inputs.levers)
    common = {"path": path, "metrics": metrics, "tracker": tracker, "stop": lambda: False}
    shifts.visitor(asked, trainer, results.measured, **common)(before._replace(step=np.int32(1)))
    metrics.close()
    return names


def test_what_it_shows_is_what_a_run_logs(logged):
    """Every single name in the dashboard is one that some stage logs; every pattern meets one."""
    made = _script().workspace("team", "p")
    panels = [panel for section in made.sections for panel in section.panels]
    shown: set[str] = set()
    for panel in panels:
        if getattr(panel, "metric_regex", None):
            assert any(re.fullmatch(panel.metric_regex, name) for name in logged), panel.metric_regex
        shown |= {getattr(each, "name", each) for each in getattr(panel, "y", None) or []}
        shown |= set(getattr(panel, "media_keys", None) or [])
        shown |= {each.metric.name for each in getattr(panel, "columns", None) or []}
    assert {"meta/utility", "interactions/wellbeing/matrix", "simulation/wellbeing"} <= shown
    assert shown <= logged, sorted(shown - logged)


def test_without_a_key_it_says_so_in_one_line(capsys, monkeypatch):
    script = _script()

    class Refused:
        def save(self):
            raise ValueError("no key\nsecond line")

    monkeypatch.setattr(script, "workspace", lambda *arguments: Refused())
    assert script.main(["--entity", "team"]) == 2
    assert capsys.readouterr().err == "wandb did not take it: no key second line\n"
