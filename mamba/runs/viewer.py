"""Serves the reports of runs and sweeps on 127.0.0.1, also while they go on."""

from __future__ import annotations

import contextlib
import functools
import html
import http.server
import threading
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mamba.runs.errors import UserError
from mamba.runs.folder import CONFIG, METRICS, REPORT, SUMMARY, SWEEP


def make_server(root: Path, port: int) -> http.server.ThreadingHTTPServer:
    """A server on 127.0.0.1 of the reports below a folder; nothing else of the folder can be read through it."""
    return http.server.ThreadingHTTPServer(("127.0.0.1", port), functools.partial(_Viewer, root=root.absolute()))


def runs_in(root: Path) -> dict[str, Path]:
    """Run folders, and those of sweeps, by the path under which they are served: such a folder itself is `run`."""
    if any((root / name).is_file() for name in (CONFIG, SWEEP)):
        return {"run": root}
    found = {path.parent for name in (CONFIG, SWEEP) for path in root.glob(f"*/{name}")}
    return {path.name: path for path in sorted(found)}


_writing = threading.Lock()


class _Viewer(http.server.SimpleHTTPRequestHandler):
    """`/` lists the runs, `/<run>/` is the report of one, written anew when the run has gone on since."""

    answered = False  # whether the head of an answer was sent

    def __init__(self, *arguments: Any, root: Path) -> None:
        self.root = root
        super().__init__(*arguments, directory=str(root))

    def do_GET(self) -> None:
        self.respond(super().do_GET)

    def do_HEAD(self) -> None:
        self.respond(super().do_HEAD)

    def respond(self, serve: Callable[[], None]) -> None:
        """Answers a request, whatever fails; `serve` sends the file that `translate_path` finds."""
        with contextlib.suppress(ConnectionError):  # whoever asked has gone
            try:
                self.find(serve)
            except ConnectionError:
                raise
            except Exception as error:  # of one page: the others are served on
                if not self.answered:
                    self.send_page(f"<!doctype html><meta charset=utf-8><pre>{html.escape(_told(error))}</pre>", 500)

    def find(self, serve: Callable[[], None]) -> None:
        """Answers a request; raises whatever goes wrong with the page."""
        host = (self.headers.get("Host") or "").rpartition(":")[0] or self.headers.get("Host")
        if host not in ("127.0.0.1", "localhost"):  # a page of another site must not read this one
            self.send_error(403)
            return
        name, slash, inside = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).lstrip("/").partition("/")
        runs = runs_in(self.root)
        if not name and len(runs) == 1:
            self.go_to(f"/{urllib.parse.quote(next(iter(runs)))}/")
        elif not name:
            items = "".join(f'<li><a href="/{urllib.parse.quote(run)}/">{html.escape(run)}</a></li>' for run in runs)
            self.send_page(f"<!doctype html><meta charset=utf-8><title>mamba</title><h1>Runs</h1><ul>{items}</ul>")
        elif name not in runs:
            self.send_error(404)
        elif not slash:
            self.go_to(f"/{urllib.parse.quote(name)}/")
        else:
            if inside in ("", "index.html"):
                _refresh(runs[name])
            serve()

    def translate_path(self, path: str) -> str:
        """Path of a file inside the report of a run."""
        name, _, inside = urllib.parse.urlsplit(path).path.lstrip("/").partition("/")
        run = runs_in(self.root).get(urllib.parse.unquote(name))
        if run is None:
            return str(self.root / "absent")
        self.directory = str(run / REPORT)
        return super().translate_path("/" + inside)

    def list_directory(self, path: object) -> None:
        """Lists nothing."""
        self.send_error(404)

    def go_to(self, place: str) -> None:
        """Sends the browser elsewhere."""
        self.send_response(302)
        self.send_header("Location", place)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send_page(self, page: str, code: int = 200) -> None:
        """Sends a page made here."""
        body = page.encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def end_headers(self) -> None:
        """Adds that a page may change at any moment."""
        self.send_header("Cache-Control", "no-cache")
        self.answered = True
        super().end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing."""


def _refresh(run: Path) -> None:
    """Writes the report of a run where it is missing or older than the metrics."""

    def changed(path: Path) -> float:
        return path.stat().st_mtime if path.exists() else 0.0

    page = run / REPORT / "index.html"
    with _writing:
        if not page.exists() or changed(page) < max(changed(run / METRICS), changed(run / SUMMARY)):
            write_report(run)


def _told(error: Exception) -> str:
    """An error in a line; one that nobody foresaw, as of a file damaged in an odd way, with its kind."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError | OSError) else f"{type(error).__name__}: {text}".rstrip(": ")


def write_report(path: Path) -> Path:
    """Writes the page of a run or of a sweep."""
    # Imported when a page is written: a server starts at once.
    if (path / SWEEP).is_file():
        from mamba.runs.sweeps.report import write_report as write
    else:
        from mamba.runs.report import write_report as write
    return write(path)
