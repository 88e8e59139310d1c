"""HTML that cannot be broken by what it shows, and numbers as people read them."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

MISSING = "–"
_MINUS = "\N{MINUS SIGN}"
_SPACE = "\N{NO-BREAK SPACE}"
_RAISED = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


class Html(str):
    """Text that is markup already; every other text is escaped on its way into a page."""

    __slots__ = ()


def escape(value: Any) -> Html:
    """Markup of a value: itself if it is markup, nothing for None, escaped text otherwise."""
    if isinstance(value, Html):
        return value
    return Html("" if value is None else html.escape(str(value)))


def join(parts: Iterable[Any], between: str = "") -> Html:
    """Markup of several values one after the other; `between` is escaped too."""
    return Html(escape(between).join(escape(part) for part in parts))


def tag(element: str, *inside: Any, **attributes: Any) -> Html:
    """One element.

    Args:
        element: its name.
        *inside: content, escaped unless markup.
        **attributes: `class_` becomes `class`, `aria_label` becomes `aria-label`; None and False are left out, True is
            written without a value.
    """
    written = []
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        plain = name.rstrip("_").replace("_", "-")
        written.append(f" {plain}" if value is True else f' {plain}="{html.escape(str(value))}"')
    return Html(f"<{element}{''.join(written)}>{join(inside)}</{element}>")


# ---------------------------------------------------------------------------------------------------------------------
# Numbers


def number(value: float | None, *, signed: bool = False) -> str:
    """Three significant digits, a true minus sign, a dash for what is not a finite number."""
    if value is None or not math.isfinite(value):
        return MISSING
    size = abs(value)
    if size == 0:
        return "0"
    exponent = int(f"{size:.2e}".split("e")[1])  # of the rounded number: 0.9996 is 1.00
    if -4 <= exponent < 6:
        text = f"{size:,.{max(0, 2 - exponent)}f}"
    else:
        text = f"{size / 10.0**exponent:.2f}{_SPACE}×{_SPACE}10{str(exponent).translate(_RAISED)}"
    return _sign(value, signed) + text


def percent(value: float | None, *, signed: bool = True) -> str:
    """Per cent with at most one decimal."""
    if value is None or not math.isfinite(value):
        return MISSING
    size = abs(value)
    text = f"{size:.1f}" if size < 99.95 else f"{size:,.0f}"
    return f"{_sign(value, signed) if float(text.replace(',', '')) else ''}{text}{_SPACE}%"


def between(low: float | None, high: float | None, *, in_percent: bool = False, signed: bool = True) -> str:
    """An interval such as `−3.1 to +0.4`; the sign `%` is said once, by the estimate that stands before it."""
    if in_percent:
        return " to ".join(percent(end, signed=signed).removesuffix(f"{_SPACE}%") for end in (low, high))
    return " to ".join(number(end, signed=signed) for end in (low, high))


def p_value(p: float | None) -> str:
    """A p-value as journals print it."""
    if p is None or not math.isfinite(p):
        return "p not known"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def duration(seconds: float | None) -> str:
    """Seconds in words."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def count(value: float, singular: str, plural: str | None = None) -> str:
    """A number with its noun: `1 seed`, `1,000 users`."""
    return f"{value:,.0f} {singular if value == 1 else plural or singular + 's'}"


def series(words: Sequence[Any]) -> Html:
    """`a, b and c`."""
    parts = [escape(word) for word in words]
    if len(parts) < 2:
        return join(parts)
    return Html(", ".join(parts[:-1]) + " and " + parts[-1])


def _sign(value: float, signed: bool) -> str:
    return _MINUS if value < 0 else "+" if signed else ""


# ---------------------------------------------------------------------------------------------------------------------
# Tables


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: its heading.
        numeric: set to the right.
        wide: keeps room for a sentence.
    """

    title: Any
    numeric: bool = False
    wide: bool = False


class Cell(NamedTuple):
    """A cell of a table that can be sorted.

    Attributes:
        shown: what it shows.
        value: number or text by which it is sorted; None stands last.
    """

    shown: Any
    value: float | str | None


def table(
    caption: Any, columns: Sequence[Column], groups: Iterable[tuple[Any, Sequence[Sequence[Any]]]], *, class_: str = ""
) -> Html:
    """A table that scrolls sideways where the screen is narrow; the first cell of a row is its heading.

    Args:
        caption: what it shows.
        columns: one a cell.
        groups: `(heading or None, rows)`; rows under one heading.
        class_: classes of the table; `sortable` lets readers sort it by the values of its `Cell`s.
    """
    styles = [" ".join(word for word, on in (("number", c.numeric), ("wide", c.wide)) if on) or None for c in columns]
    head = tag(
        "thead", tag("tr", *[tag("th", c.title, scope="col", class_=s) for c, s in zip(columns, styles, strict=True)])
    )
    bodies = []
    for heading, rows in groups:
        lines = []
        if heading is not None:
            cell = tag("th", heading, scope="rowgroup", colspan=len(columns))
            lines.append(tag("tr", cell, class_="group"))
        for row in rows:
            cells = [cell if isinstance(cell, Cell) else Cell(cell, None) for cell in row]
            first = tag("th", cells[0].shown, scope="row", class_=styles[0], data_value=cells[0].value)
            rest = [
                tag("td", cell.shown, class_=style, data_value=cell.value)
                for cell, style in zip(cells[1:], styles[1:], strict=True)
            ]
            lines.append(tag("tr", first, *rest))
        bodies.append(tag("tbody", *lines))
    inside = tag("table", tag("caption", tag("span", caption)), head, *bodies, class_=class_ or None)
    # A region that scrolls must be reachable by keyboard.
    return tag("div", inside, class_="scroll", tabindex="0")
