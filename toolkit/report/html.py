"""HTML from text that nobody may trust: every word is escaped here, markup is a type of its own."""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Iterable, Sequence


class Markup(str):
    """Text that is HTML already; everything else is escaped on its way into a page."""

    __slots__ = ()


_ODD = frozenset(("Cc", "Cf", "Cs", "Co"))
"""Unicode categories that do not show, or change how their neighbours show."""


def text(value: object) -> Markup:
    """Escape; control and direction characters, which could disguise a name, become visible boxes."""
    if isinstance(value, Markup):
        return value
    shown = "".join("\N{WHITE SQUARE}" if unicodedata.category(c) in _ODD and c != "\n" else c for c in str(value))
    return Markup(html.escape(shown, quote=True))


def tag(name: str, *content: object, **attributes: object) -> Markup:
    """An element; `class_` and `for_` lose their underscore, other underscores become dashes.

    >>> tag("p", "a < b", class_="x")
    '<p class="x">a &lt; b</p>'
    """
    words = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{words}>{join(content)}</{name}>")


def join(parts: Iterable[object], between: str = "") -> Markup:
    return Markup(between.join(text(part) for part in parts))


def table(columns: Sequence[object], rows: Iterable[Sequence[object]], words: int = 1) -> Markup:
    """A table that scrolls sideways on a phone; columns from `words` on are numbers."""
    head = join(tag("th", c, class_="n" if i >= words else None) for i, c in enumerate(columns))
    body = join(
        tag("tr", *(tag("td", cell, class_="n" if i >= words else None) for i, cell in enumerate(row))) for row in rows
    )
    inner = tag("table", tag("thead", tag("tr", head)), tag("tbody", body))
    return tag("div", inner, class_="scroll", tabindex="0")


def number(value: float, digits: int = 3) -> str:
    """Short and exact enough for people.

    >>> number(12.310532), number(0.0), number(0.00012), number(1234.5)
    ('12.3', '0', '0.00012', '1,234')
    """
    if not math.isfinite(value):
        return "none"
    if value == 0:
        return "0"
    if abs(value) >= 1e6:
        return f"{value / 1e6:.4g}M"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def size(count: int) -> str:
    """Bytes for people.

    >>> size(999), size(1_254_000)
    ('999 B', '1.25 MB')
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count} B"
