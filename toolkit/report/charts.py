"""Bar charts as plain HTML boxes: they follow light and dark, scale to a phone and need no script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from toolkit.report.html import Markup, join, tag


@dataclass(frozen=True)
class Bar:
    """One line of a chart."""

    name: str
    value: float
    shown: str
    kind: str = ""
    """CSS class that gives the colour."""
    mark: float | None = None
    """Where a thin line stands, in the unit of the value."""


def bars(items: Sequence[Bar]) -> Markup:
    """Horizontal bars on one scale that starts at 0."""
    most = max([bar.value for bar in items] + [bar.mark or 0 for bar in items], default=0) or 1.0
    return tag("div", *(_line(bar, most) for bar in items), class_="bars")


def _line(bar: Bar, most: float) -> Markup:
    parts = [tag("i", class_=f"bar {bar.kind}".strip(), style=f"width:{100 * max(bar.value, 0) / most:.2f}%")]
    if bar.mark is not None:
        parts.append(tag("i", class_="mark", style=f"left:{100 * bar.mark / most:.2f}%"))
    track = tag("span", join(parts), class_="track")
    return tag("div", tag("span", bar.name, class_="name"), track, tag("b", bar.shown), class_="line")


def meter(value: float, limit: float) -> Markup:
    """How much of its limit a number uses up."""
    share = 0.0 if value <= 0 else 1.0 if limit <= 0 else min(value / limit, 1.0)
    kind = "over" if value > limit else "near" if share > 0.8 else "fine"
    return tag("span", tag("i", class_=kind, style=f"width:{100 * share:.1f}%"), class_="meter", aria_hidden="true")
