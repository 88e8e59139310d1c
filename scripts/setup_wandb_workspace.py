"""Makes a Weights & Biases dashboard for the runs of a project: goal, limits, levers, audits, health, interactions, sweeps.

    pip install wandb-workspaces                       # or the extra mamba-ecosystems[workspace]
    python scripts/setup_wandb_workspace.py --entity my-team --project mamba            # saves it and prints its address
    python scripts/setup_wandb_workspace.py --entity my-team --project mamba --dry-run  # prints it, and asks nobody

It needs a key (`wandb login`), but for a dry run. A second call with the same `--name` makes a second view.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from mamba.objectives import NAMES, OBJECTIVES
from mamba.runs.sections.shared import GROUPS, KEY
from mamba.runs.simulation import TRAITS
from mamba.runs.sweeps.outcomes import QUANTILES
from mamba.runs.tracking import STEP

NAME = "mamba: what algorithms do together"
WIDE = 3  # charts beside each other


def sections(workspaces: Any, reports: Any) -> list[Any]:
    """Sections of the dashboard.

    Args:
        workspaces: module `wandb_workspaces.workspaces`.
        reports: module `wandb_workspaces.reports.v2`.
    """

    def lines(title: str, *names: str, pattern: str | None = None) -> Any:
        chosen = {"metric_regex": pattern} if pattern else {"y": [reports.Metric(name) for name in names]}
        return reports.LinePlot(title=title, x=reports.Metric(STEP), **chosen)

    def section(name: str, panels: Sequence[Any], *, is_open: bool = False) -> Any:
        layout = workspaces.SectionLayoutSettings(columns=WIDE, rows=-(-len(panels) // WIDE))
        return workspaces.Section(name=name, panels=list(panels), is_open=is_open, layout_settings=layout)

    objectives = [
        lines(f"{OBJECTIVES[name].label} (levers and default)", f"ecosystem/{name}", f"baseline/{name}")
        for name in NAMES
    ]
    network = [lines(of.label, name, *(f"{name}/{word}" for word in QUANTILES)) for name, of in TRAITS.items()]
    sweeps = [
        lines(f"{OBJECTIVES[name].label}: members", *(f"ecosystem/{name}/{word}" for word in QUANTILES))
        for name in GROUPS["Harms"] + GROUPS["People"]
    ]
    return [
        section(
            "Goal and limits",
            [
                lines("goal (less is better)", "meta/utility"),
                lines("limits: positive is broken", pattern="constraint/.*"),
                lines("multipliers of limits", pattern="multiplier/.*"),
            ],
            is_open=True,
        ),
        section("Objectives", objectives, is_open=True),
        section(
            "Levers",
            [lines("levers", pattern="levers/.*"), lines("in unconstrained units", pattern="levers_unconstrained/.*")],
        ),
        section(
            "Are the gradients right?",
            [
                lines("cosine of pathwise and sampled gradient", "meta/cosine"),
                lines("weight of the pathwise part", pattern="audit/.*/weight"),
                lines("amplification of derivatives, by part", pattern="growth/.*"),
                lines("share of derivatives that pass, by part", pattern="passing/.*"),
            ],
        ),
        section(
            "Health",
            [lines("meta-steps without a finite gradient", "meta/skipped"), lines("seconds", pattern="perf/.*")],
        ),
        section(
            "Who interacts with whom",
            [
                reports.MediaBrowser(media_keys=[f"interactions/{name}/matrix" for name in KEY]),
                lines("pairs", pattern="interactions/.*__on__.*"),
                lines("pairs since the default levers", pattern="shifts/.*__on__.*"),
            ],
        ),
        section("The network: simulations, and members of sweeps", network),
        section("Sweeps: quantiles over members", [lines("members alive", "members/alive"), *sweeps]),
        section(
            "Sweeps: settings and what came of them",
            [
                reports.ParallelCoordinatesPlot(
                    columns=[
                        reports.ParallelCoordinatesPlotColumn(reports.SummaryMetric(f"simulation/{name}"))
                        for name in GROUPS["People"]
                    ]
                ),
                reports.RunComparer(diff_only="split"),
            ],
        ),
    ]


def workspace(entity: str, project: str, name: str = NAME) -> Any:
    """The dashboard, not saved.

    Raises:
        ImportError: wandb-workspaces is not installed.
    """
    import wandb_workspaces.reports.v2 as reports
    import wandb_workspaces.workspaces as workspaces

    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=sections(workspaces, reports),
        settings=workspaces.WorkspaceSettings(x_axis=STEP, smoothing_type="none"),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Saves or prints the dashboard and returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--entity", required=True, help="wandb user or team")
    parser.add_argument("--project", default="mamba", help="wandb project; mamba by default")
    parser.add_argument("--name", default=NAME, help="name of the view")
    parser.add_argument("--dry-run", action="store_true", help="print the dashboard as JSON; save nothing")
    parsed = parser.parse_args(arguments)
    try:
        made = workspace(parsed.entity, parsed.project, parsed.name)
    except ImportError:
        print("wandb-workspaces is not installed; pip install wandb-workspaces", file=sys.stderr)
        return 2
    if parsed.dry_run:
        print(json.dumps(made._to_model().model_dump(mode="json", by_alias=True), indent=2))
        return 0
    try:
        print(made.save().url)
    except Exception as error:  # whatever wandb raises: no key, no network, no such team
        print(f"wandb did not take it: {' '.join(str(error).split())[:300]}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
