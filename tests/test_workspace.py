"""The dashboard of Weights & Biases is one that wandb-workspaces takes, and shows what runs log."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

from mamba.objectives import NAMES

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


def test_what_it_shows_is_what_a_run_logs():
    """Every single name in the dashboard is one that some stage logs; every pattern meets one."""
    made = _script().workspace("team", "p")
    logged = [
        "meta/utility", "meta/cosine", "meta/skipped", "members/alive", "perf/seconds_per_meta_step",
        "constraint/engagement_per_user", "multiplier/engagement_per_user",
        "levers/home/sharpness", "levers_unconstrained/home/sharpness", "growth/users",
        "passing/users", "audit/home/sharpness/weight", "interactions/polarisation/a__on__b",
        *(f"{part}/{name}" for part in ("ecosystem", "baseline", "simulation") for name in NAMES),
        *(f"ecosystem/{name}/{word}" for name in NAMES for word in ("min", "q25", "median", "q75", "max")),
    ]  # fmt: skip
    panels = [panel for section in made.sections for panel in section.panels if hasattr(panel, "metric_regex")]
    assert panels
    for panel in panels:
        if panel.metric_regex:
            assert any(re.fullmatch(panel.metric_regex, name) for name in logged), panel.metric_regex
        else:
            assert {getattr(each, "name", each) for each in panel.y} <= set(logged)


def test_without_a_key_it_says_so_in_one_line(capsys, monkeypatch):
    script = _script()

    class Refused:
        def save(self):
            raise ValueError("no key\nsecond line")

    monkeypatch.setattr(script, "workspace", lambda *arguments: Refused())
    assert script.main(["--entity", "team"]) == 2
    assert capsys.readouterr().err == "wandb did not take it: no key second line\n"
