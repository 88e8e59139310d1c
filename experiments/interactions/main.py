"""Who interacts with whom on the default platform, and which findings survive on another network.

    mamba-eco analyse platform --run_dir runs/twitch --interactions.windows=5 --sensitivities.seeds=0
    mamba-eco analyse platform --run_dir runs/generated --interactions.windows=5 --sensitivities.seeds=0 \
        --scenario.dataset=generated --scenario.users=1000
    python experiments/interactions/main.py runs/twitch runs/generated

Prints the tables of this folder's README as Markdown. Each run folder has the report with all the pictures.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mamba.interactions import factorial, findings
from mamba.interactions.settings import InteractionsConfig
from mamba.interactions.statistics import selected
from mamba.interactions.verdicts import CODES, VERDICTS
from mamba.objectives import NAMES, OBJECTIVES
from mamba.runs.folder import load_run

SHOWN = 20


class Study(NamedTuple):
    """One network's analysis, with the settings it was made with and its sentences."""

    config: InteractionsConfig
    analysis: factorial.Analysis
    sentences: list[str]


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("real", type=Path, help="run folder of the real network")
    parser.add_argument("other", type=Path, help="run folder of the network that findings should survive on")
    asked = parser.parse_args()
    real, other = read(asked.real), read(asked.other)
    if real.analysis.names != other.analysis.names:
        raise SystemExit(f"{asked.real} and {asked.other} hold different platforms; analyse the same one on both")
    print("\n".join([*told(real), *counted(real, other), *survived(real, other), *shares(real, other), *onset(real)]))


def read(path: Path) -> Study:
    """The analysis of a run folder, made again from its values."""
    run = load_run(path)
    arrays = run.interactions
    if arrays is None:
        raise SystemExit(f"{path} has no interactions.npz; analyse it first")
    known = {field.name for field in fields(InteractionsConfig)}
    config = InteractionsConfig(**{k: v for k, v in run.config["interactions"].items() if k in known})
    windows = arrays["windows"] if arrays["windows"].shape[2] else None
    names = [str(name) for name in arrays["names"]]
    analysis = factorial.analyse(names, arrays["values"], config=config, windows=windows)
    learning = (arrays["learning_pairs"], arrays["learning_values"])
    found = findings.pairs(analysis, config=config, learning=learning)
    side = findings.strongest_side_effect(
        analysis, confidence=config.confidence, false_discovery_rate=config.false_discovery_rate
    )
    return Study(config, analysis, [each.sentence for each in [*found, *([] if side is None else [side])]])


def told(study: Study) -> list[str]:
    """The headline sentences."""
    seeds, platforms = study.analysis.values.shape[:2]
    gain = study.analysis.variance_ratio
    lines = ["### Findings", ""]
    lines += [f"{i}. {sentence}" for i, sentence in enumerate(study.sentences, 1)]
    lines += [
        "",
        f"{seeds} paired seeds of {platforms} platforms. Common random numbers make a switch-off comparison worth "
        f"{np.nanmedian(gain):.1f} unpaired ones (median over objectives; {np.nanmin(gain):.1f} to {np.nanmax(gain):.1f}).",
        "",
    ]
    return lines


def _pairs(study: Study) -> list[tuple[int, int, int]]:
    """All pairs and objectives, the largest interaction in spreads first."""
    upper = np.argwhere(np.triu(np.ones((len(study.analysis.names),) * 2, bool), 1))
    scale = np.where(study.analysis.spread > 0, study.analysis.spread, np.inf)
    size = np.abs(np.nan_to_num(study.analysis.verdicts.interaction.mean)) / scale
    every = [(int(i), int(j), k) for i, j in upper for k in range(len(NAMES))]
    return sorted(every, key=lambda at: -size[at])


def counted(*studies: Study) -> list[str]:
    """How many pairs and objectives got which verdict."""
    counts = [Counter(VERDICTS[study.analysis.verdicts.codes[at]] for at in _pairs(study)) for study in studies]
    lines = ["### Verdicts", "", "| verdict | real network | generated network |", "|---|---|---|"]
    lines += [
        f"| {name.replace('_', ' ')} | {counts[0][name]} | {counts[1][name]} |"
        for name in sorted(VERDICTS, key=lambda name: -counts[0][name])
    ]
    return [*lines, ""]


def fate(real: Study, other: Study, at: tuple[int, int, int]) -> str:
    """What became of a verdict on the other network."""
    here, there = real.analysis.verdicts, other.analysis.verdicts
    i, j, k = at
    turned = [bool(each.reversed_by[pair]) for each in (here, there) for pair in ((i, j, k), (j, i, k))]
    same = here.interaction.mean[at] * there.interaction.mean[at] > 0
    if there.codes[at] == here.codes[at] and same and turned[:2] == turned[2:]:
        return "the same"
    if there.codes[at] in (CODES["none"], CODES["unresolved"]):
        return "none" if there.codes[at] == CODES["none"] else "not resolved"
    return f"{VERDICTS[there.codes[at]].replace('_', ' ')}, {'same' if same else 'opposite'} sign"


def survived(real: Study, other: Study) -> list[str]:
    """Which verdicts on the real network hold on the other one."""
    silent = (CODES["none"], CODES["unresolved"])
    claimed = [at for at in _pairs(real) if real.analysis.verdicts.codes[at] not in silent]
    fates = Counter(fate(real, other, at).split(", ")[-1] for at in claimed)
    lines = [
        "### What survives on the generated network",
        "",
        f"{len(claimed)} pairs and objectives have a verdict on the real network. On the generated one: "
        + ", ".join(f"{name} {count}" for name, count in fates.most_common())
        + f". The {min(SHOWN, len(claimed))} largest:",
        "",
        "| pair | objective | verdict | interaction in spreads, 95 % CI | generated | verdict there |",
        "|---|---|---|---|---|---|",
    ]
    names = real.analysis.names
    for at in claimed[:SHOWN]:
        i, j, k = at
        cells = [f"{names[i]} x {names[j]}", OBJECTIVES[NAMES[k]].label]
        cells.append(VERDICTS[real.analysis.verdicts.codes[at]].replace("_", " "))
        # Those listed were picked among all tests; on the other network they were named beforehand.
        tested = int(np.isfinite(real.analysis.verdicts.p).sum()) // 2
        picked = selected(
            real.analysis.verdicts.interaction,
            len(real.analysis.values),
            chosen=SHOWN,
            among=tested,
            confidence=real.config.confidence,
        )
        for study, found in ((real, picked), (other, other.analysis.verdicts.interaction)):
            spread = study.analysis.spread[k]
            mean, low, high = (x[at] / spread for x in (found.mean, found.low, found.high))
            cells.append(f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]")
        lines.append("| " + " | ".join([*cells, fate(real, other, at)]) + " |")
    return [*lines, "", "Interactions are benefits: positive is healthier than the sum of the two.", ""]


def shares(*studies: Study) -> list[str]:
    """How much of what differs between platforms is interaction."""
    lines = [
        "### Can the teams be tuned separately?",
        "",
        "Share of the variance between all on/off combinations that is due to interactions, corrected for noise, 95 % CI.",
        "",
        "| objective | real network | generated network |",
        "|---|---|---|",
    ]
    for k, name in enumerate(NAMES):
        cells = []
        for study in studies:
            anova = study.analysis.anova
            if anova is None or not np.isfinite(anova.interaction.mean[k]):
                cells.append("")
                continue
            mean, low, high = (
                100 * x[k] for x in (anova.interaction.mean, anova.interaction.low, anova.interaction.high)
            )
            cells.append(f"{mean:.1f} % [{low:.1f}, {high:.1f}]")
        lines.append(f"| {OBJECTIVES[name].label} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def onset(study: Study) -> list[str]:
    """The strongest pairs that work against each other, by window."""
    windows = study.analysis.windows
    against = {CODES[name] for name in ("working_against", "reversing", "remedy_undermined", "compounding_harm")}
    chosen = [at for at in _pairs(study) if study.analysis.verdicts.codes[at] in against][:8]
    if windows is None or not chosen:
        return []
    count = windows.pair.mean.shape[2]
    lines = [
        "### When they begin to",
        "",
        "Interaction in each part of the rollout, in spreads of the whole (bold: the interval excludes 0 after Bonferroni over "
        "the parts). Here, too, interactions are benefits.",
        "",
        "| pair | objective | " + " | ".join(f"part {w + 1}" for w in range(count)) + " |",
        "|---|---|" + "---|" * count,
    ]
    for i, j, k in chosen:
        better = 1.0 if OBJECTIVES[NAMES[k]].better == "higher" else -1.0
        cells = []
        for w in range(count):
            value = f"{better * windows.pair.mean[i, j, w, k] / study.analysis.spread[k]:+.2f}"
            sure = windows.pair.p[i, j, w, k] * count < 1.0 - study.config.confidence
            cells.append(f"**{value}**" if sure else value)
        pair = f"{study.analysis.names[i]} x {study.analysis.names[j]}"
        lines.append(f"| {pair} | {OBJECTIVES[NAMES[k]].label} | " + " | ".join(cells) + " |")
    return [*lines, ""]


if __name__ == "__main__":
    main()
