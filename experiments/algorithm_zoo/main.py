"""The algorithm zoo: every kind alone and a platform of eight together, on two networks with the same degrees.

    python experiments/algorithm_zoo/main.py [--seeds 20] [--users 800] [--steps 40] [--csv results.csv] [--kinds a b ...]

Prints the tables of this folder's README as Markdown. Every row is a paired comparison with a platform whose feed is the own
ties and six random live items, in random order; the kind of the row joins it. Same seeds, sampled model; intervals are 95 %
(Student's t). Without those six there would be little to rank or to moderate: few accounts post, and few of their posts
are in a user's own ties.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from scipy import stats

from mamba import ecosystem as eco
from mamba import members as mem
from mamba import objectives
from mamba.algorithms import registry
from mamba.cli import use_all_cores, use_compilation_cache
from mamba.runs.config import find_config, load_config
from mamba.scenarios import populations

ZOO_PLATFORM = (
    "engagement",
    "two_tower",
    "popularity",
    "notification",
    "friend_suggestion",
    "removal",
    "demotion",
    "community_notes",
)
SHOWN = (
    "engagement_per_user",
    "retention",
    "polarisation",
    "exposure_diversity",
    "toxic_exposure_per_impression",
    "misinformation_exposure_per_impression",
    "misinformation_reshares_per_user",
    "wellbeing",
    "trust",
    "creator_inequality",
    "false_removal_rate",
    "violation_lifetime",
)


BASE, ZOO = "random feed", "the zoo's platform of eight"


class Row(NamedTuple):
    """Objectives of one platform over seeds, [S, J], on one network."""

    network: str
    platform: str
    values: np.ndarray


def main() -> None:
    """Runs the study and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--users", type=int, default=800)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--csv", type=Path, default=None)
    parser.add_argument("--kinds", nargs="+", default=None, choices=list(registry.KINDS))
    asked = parser.parse_args()
    use_compilation_cache()
    use_all_cores()

    base = load_config(find_config("quickstart"), [f"--scenario.users={asked.users}"]).scenario
    networks = {
        "Twitch ENGB": populations.load(base, seed=0),
        "same degrees": populations.load(replace(base, ties="rewired"), seed=0),
    }
    alone = {kind: (kind,) for kind in asked.kinds or registry.KINDS}
    platforms: dict[str, tuple[str, ...]] = {BASE: (), **alone, ZOO: ZOO_PLATFORM}
    rows = []
    for label, kinds in platforms.items():
        rows += measured(label, kinds, networks, seeds=asked.seeds, steps=asked.steps)
        print(f"{label}: done", flush=True)
    for network in networks:
        print(table([row for row in rows if row.network == network], network))
    if asked.csv is not None:
        write(rows, asked.csv)


def measured(
    label: str, kinds: tuple[str, ...], networks: dict[str, populations.Scenario], *, seeds: int, steps: int
) -> list[Row]:
    """One platform on every network; compiled once, because both networks have the same sizes."""
    sizes = next(iter(networks.values())).sizes
    supply = registry.make("constant", score="zero", proposals=6)
    ecosystem = eco.make({"supply": supply} | {kind: registry.make(kind) for kind in kinds}, sizes=sizes)
    run = jax.jit(mem.evaluator(ecosystem, steps=steps))
    keys = jax.random.split(jax.random.key(11), seeds)
    rows = []
    for network, scenario in networks.items():
        given = eco.inputs(ecosystem, jax.device_put(scenario.population))
        members = mem.repeat(ecosystem, given.levers, keys)
        rows.append(Row(network, label, mem.in_chunks(run, given, members, chunk=32).astype(np.float64)))
    return rows


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and half-width of the 95 % interval over the first axis."""
    n = len(values)
    return values.mean(axis=0), stats.t.ppf(0.975, n - 1) * values.std(axis=0, ddof=1) / n**0.5


def table(rows: list[Row], network: str) -> str:
    """Change of each shown objective against the platform without algorithms, in % of its level there."""
    base = next(row.values for row in rows if row.platform == BASE)
    at = [objectives.NAMES.index(name) for name in SHOWN]
    level = base.mean(axis=0)
    head = ["platform", *(objectives.OBJECTIVES[name].label for name in SHOWN)]
    lines = [f"\n### {network}\n", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines.append(f"| {BASE} (level) | " + " | ".join(f"{level[k]:.3g}" for k in at) + " |")
    for row in rows:
        if row.platform == BASE:
            continue
        mean, half = interval(row.values - base)
        cells = []
        for k in at:
            scale = 100.0 / abs(level[k]) if abs(level[k]) > 1e-6 else 0.0
            text = f"{mean[k] * scale:+.1f} ± {half[k] * scale:.1f} %" if scale else f"{mean[k]:+.3f} ± {half[k]:.3f}"
            cells.append(f"**{text}**" if abs(mean[k]) > half[k] else text)
        lines.append(f"| {row.platform} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write(rows: list[Row], path: Path) -> None:
    """Every objective of every platform and network, with intervals of the level and of the change."""
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["network", "platform", "objective", "level", "half_width", "change", "change_half_width"])
        for row in rows:
            base = next(r.values for r in rows if r.network == row.network and r.platform == BASE)
            for (mean, half), name, (change, spread) in zip(
                np.stack(interval(row.values)).T, objectives.NAMES, np.stack(interval(row.values - base)).T, strict=True
            ):
                out.writerow([row.network, row.platform, name, *(f"{x:.6g}" for x in (mean, half, change, spread))])


if __name__ == "__main__":
    main()
