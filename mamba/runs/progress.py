"""What a run says on the terminal: a live bar where there is one, plain lines where there is not.

Everything goes to the standard error stream, so that standard output stays free for results.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

LINE_EVERY_S = 10.0  # plain lines: at most one in this many seconds


class Meter(NamedTuple):
    """What `progress` gives.

    Attributes:
        advance: `(amount=1, **shown)`: so many more are done; `shown` are numbers or words to show beside the bar.
    """

    advance: Callable[..., None]


_silent = False


def quiet(silent: bool) -> None:
    """Whether this process says nothing from now on: of several processes one speaks."""
    global _silent
    _silent = silent


def _console(*, stderr: bool = True, **how: Any) -> Console:
    # Made when it is used: the streams may have been replaced since import.
    return Console(stderr=stderr, highlight=False, quiet=_silent, **how)


def say(text: str) -> None:
    """Prints a line to standard error."""
    _console(soft_wrap=True).print(Text(text))


def warn(text: str) -> None:
    """Prints a warning line to standard error."""
    _console(soft_wrap=True).print(Text(f"mamba-eco: warning: {text}", style="yellow"))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints a table to standard output; floats with four significant digits, numbers to the right."""
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        numbers = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(value)) for value in row))
    console = _console(stderr=False)
    if not console.is_terminal:
        # A pipe or a file has no width: as wide as the table.
        console = _console(stderr=False, width=max(Console(width=10_000).measure(table).maximum, 1))
    console.print(table)


def shown(value: Any) -> str:
    """A value as a few characters: floats with four significant digits, None as a dash."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@contextmanager
def progress(total: int, label: str, *, done: int = 0) -> Generator[Meter, None, None]:
    """Shows how far a loop has come, its speed and the time that is left.

    Args:
        total: how many there are.
        label: what is counted, such as `meta-step`.
        done: how many are done already, as after a resume.

    Yields:
        A `Meter`.
    """
    console = _console(soft_wrap=True)
    if console.is_terminal and not _silent:
        with _live(console, total, label, done) as meter:
            yield meter
    else:
        yield _plain(console, total, label, done)


@contextmanager
def _live(console: Console, total: int, label: str, done: int) -> Generator[Meter, None, None]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(label, total=total, completed=done, note="")

        def advance(amount: int = 1, **values: Any) -> None:
            bar.update(task, advance=amount, note=_note(values))

        yield Meter(advance)


def _plain(console: Console, total: int, label: str, done: int) -> Meter:
    start = last = time.monotonic()
    first, count = done, done

    def advance(amount: int = 1, **values: Any) -> None:
        nonlocal last, count
        count += amount
        now = time.monotonic()
        if count < total and now - last < LINE_EVERY_S:
            return
        last = now
        speed = (count - first) / max(now - start, 1e-9)
        left = f", {duration((total - count) / speed)} left" if speed and count < total else ""
        note = _note(values)
        console.print(Text(f"{label} {count}/{total}, {speed:.3g}/s{left}{f', {note}' if note else ''}"))

    return Meter(advance)


def _note(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {shown(value)}" for name, value in values.items())


def duration(seconds: float) -> str:
    """Seconds in words, such as `3 min 20 s`."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
