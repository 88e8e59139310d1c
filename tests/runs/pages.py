"""Run folders made by hand, and a reader for the pages that are written from them."""

import html
import json
import math
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from mamba.objectives import NAMES, OBJECTIVES
from mamba.runs import folder, report

HOSTILE = "<img src=x onerror=alert(1)>\"'&</script>"
LEVERS = ("home/sharpness", "filter/strength")
SENTENCE = "home and filter interact on toxic exposure: together they add -12.8 % (95 % CI -16.9 to -8.8) of its level."


def config(first: str = "home", more: str = "") -> str:
    return f"""name: tiny
seed: 3
steps: 12
scenario: {{dataset: generated, users: 50}}
recommenders:
  {json.dumps(first)}: {{kind: engagement}}
moderators:
  filter: {{kind: demotion}}
meta:
  steps: 4
  optimizer: adam
  constraint_seeds: 2
  minimise: {{toxic_exposure_per_user: 1.0, polarisation: 1.0}}
  keep: {{engagement_per_user: 0.97}}
interactions: {{seeds: 4, confidence: 0.95, false_discovery_rate: 0.05{more}}}
"""


def arrays(first: str = "home", names: tuple[str, ...] = ()) -> dict[str, Any]:
    """Interactions of two algorithms, of which one objective has a strong pair effect; seeds share no noise."""
    rng = np.random.default_rng(0)
    values = 1.0 + 0.01 * rng.normal(size=(4, 4, len(NAMES)))
    values[:, 3, NAMES.index("toxic_exposure_per_user")] += 0.5
    values[:, :, NAMES.index("false_removal_rate")] = 0.0  # nothing varies: no spread, no ratio
    return measured(names or (first, "filter"), values)


def measured(
    names: Sequence[str],
    values: np.ndarray,
    *,
    windows: np.ndarray | None = None,
    pairs: np.ndarray | None = None,
    learning: np.ndarray | None = None,
) -> dict[str, Any]:
    """What the report reads of `interactions.npz`: names, values [S, R, J], and what else was measured."""
    seeds, rows, count = values.shape
    return {
        "digest": np.array("d1b2"),
        "names": np.array(names),
        "objectives": np.array(NAMES),
        "values": values,
        "windows": np.zeros((seeds, rows, 0, count)) if windows is None else windows,
        "learning_pairs": np.zeros((0, 2), int) if pairs is None else pairs,
        "learning_values": np.zeros((0, seeds, 9, count)) if learning is None else learning,
    }


def training_row(step: int) -> dict[str, Any]:
    row: dict[str, Any] = {"stage": "training", "meta_step": step, "meta/utility": -0.1 * step}
    row |= {"meta/audited": int(step % 2 == 0), "meta/cosine": 0.5}
    for name in NAMES:
        row[f"ecosystem/{name}"], row[f"baseline/{name}"] = 1.0 - 0.01 * step, 1.0
    row["constraint/engagement_per_user"] = -0.5
    for lever, sampled in zip(LEVERS, (1.0, 0.01), strict=True):
        row |= {f"levers/{lever}": 2.0 + step, f"audit/{lever}/pathwise": 0.1, f"audit/{lever}/sampled": sampled}
        row |= {f"audit/{lever}/error": 0.1, f"audit/{lever}/weight": 0.25}
    return row


def level(mean: float, reach: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - reach, "high": mean + reach}


def summary(sentence: str = SENTENCE) -> dict[str, Any]:
    changes = {"toxic_exposure_per_user": -0.2, "polarisation": 0.1, "trust": -0.05, "wellbeing": math.nan}
    return {
        "name": "tiny",
        "finished": True,
        "story": {"network": "made up", "groups": "none"},
        "algorithms": {"home": "engagement", "filter": "demotion"},
        "steps": 12,
        "seeds": {"interactions": 4, "evaluation": 6, "root": 3, "meta_steps": 4},
        "confidence": 0.95,
        "objectives": {
            name: {
                **{part: getattr(of, part) for part in ("label", "formula", "unit", "better", "source")},
                "before": level(0.5, 0.01),
                "after": level(0.5 + changes.get(name, 0.0), 0.01),
                "change": level(changes.get(name, 0.0), 0.01),
            }
            for name, of in OBJECTIVES.items()
        },
        "levers": {lever: {"unit": "logits", "before": 2.0, "after": 5.0} for lever in LEVERS},
        "minimise": {"toxic_exposure_per_user": 1.0, "polarisation": 1.0},
        "keep": {"engagement_per_user": 0.97},
        "findings": [
            {"kind": "interaction", "sentence": sentence, "objective": "toxic_exposure_per_user", **level(0.5, 0.1)}
        ],
        "seconds": 75.0,
        "provenance": {
            "command": "mamba-eco run tiny.yaml",
            "python": "3.11.7",
            "platform": "Linux x86_64",
            "versions": {"jax": "0.10.2"},
            "git": {"commit": "0123456789abcdef", "changed": True},
            "device_kind": "cpu",
            "devices": 1,
            "config_digest": "d1935",
        },
    }


def make(path: Path, *, first: str = "home", parts: str = "interactions training summary", **changed: Any) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    folder.write_text(path / folder.CONFIG, config(first, changed.get("more", "")))
    if "interactions" in parts:
        folder.write_arrays(path / folder.INTERACTIONS, changed.get("arrays") or arrays(first))
    if "training" in parts:
        rows = changed.get("rows") or [training_row(step) for step in range(4)]
        lines = [json.dumps(folder.plain(row)) + "\n" for row in rows]
        folder.write_text(path / folder.METRICS, "".join(lines))
    if "summary" in parts:
        folder.write_json(path / folder.SUMMARY, changed.get("summary") or summary())
    return path


class Reader(HTMLParser):
    """Elements, attributes and text of a page; fails where elements are not closed in order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(source)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words)).replace("\N{MINUS SIGN}", "-")


def written(path: Path) -> tuple[str, Reader]:
    page = report.write_report(path)
    assert page == path / "report" / "index.html"
    source = page.read_text(encoding="utf-8")
    return source, Reader(source)


def row_of(source: str, label: str) -> str:
    """Text of the first table row whose heading starts with a label."""
    found = re.search(rf'<tr><th scope="row"[^>]*>{re.escape(label)}.*?</tr>', source, re.S)
    assert found, label
    return re.sub(r"\s+", " ", html.unescape(re.sub("<[^>]+>", " ", found[0]))).replace("\N{MINUS SIGN}", "-")


def pictures(source: str) -> list[list[dict[str, Any]]]:
    """The drawings of every figure of a page."""
    return [json.loads(text)["variants"] for text in re.findall(r'id="figure-\d+">(.*?)</script>', source)]
