"""A static page: its frame, its styles and scripts, and what it may not do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from mamba.runs import figures, folder
from mamba.runs.markup import Html, tag
from mamba.runs.sections.shared import Figures, json_script

PAGE, SCRIPT = "index.html", "plotly.min.js"


def write(directory: Path, page: str) -> Path:
    """Writes a page, with plotly.js beside it, and returns its path.

    Raises:
        UserError: it cannot be written.
    """
    script, content = directory / SCRIPT, figures.plotly_js()
    if not script.is_file() or script.stat().st_size != len(content.encode()):
        folder.write_text(script, content)
    folder.write_text(directory / PAGE, page)
    return directory / PAGE


def page(name: str, top: Html, sections: Sequence[tuple[str, str, Html]], drawn: Figures) -> str:
    """A whole page.

    Args:
        name: of the run or sweep.
        top: its header.
        sections: `(anchor, title, body)`; those without a body are left out.
        drawn: the figures of the sections.
    """
    shown = [(anchor, title, body) for anchor, title, body in sections if body]
    links = tag("ul", *[tag("li", tag("a", title, href=f"#{anchor}")) for anchor, title, _ in shown])
    body = [
        tag("section", tag("h2", title, id=f"{anchor}-title"), inside, id=anchor, aria_labelledby=f"{anchor}-title")
        for anchor, title, inside in shown
    ]
    assets = resources.files("mamba.runs") / "assets"
    style, script, sorting = (
        Html((assets / file).read_text(encoding="utf-8")) for file in ("report.css", "report.js", "sort.js")
    )
    # Whatever a run is called, this page cannot reach out: the policy forbids it.
    policy = (
        "connect-src 'none'; font-src 'none'; frame-src 'none'; object-src 'none'; form-action 'none'; base-uri "
        "'none'; img-src data: blob:"
    )
    head = [
        Html('<meta charset="utf-8">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html('<meta name="color-scheme" content="light dark">'),
        Html('<link rel="icon" href="data:,">'),
        tag("title", f"{name} · mamba report"),
        tag("style", style),
    ]
    inside = tag(
        "div",
        top,
        tag("nav", links, aria_label="Sections"),
        tag("main", *body),
        tag("footer", "Written by mamba from the run folder. This page needs no network."),
        class_="page",
    )
    scripts = [json_script("dark-colours", json.dumps(figures.DARK)), *drawn.scripts]
    if any('class="sortable"' in section for section in body):
        scripts.append(tag("script", sorting))
    after = [*scripts, Html(f'<script src="{SCRIPT}" charset="utf-8"></script>'), tag("script", script)]
    return f"<!doctype html>\n{tag('html', tag('head', *head), tag('body', inside, *after), lang='en')}\n"
