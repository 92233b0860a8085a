"""What was wrong with a data set: every skipped face is counted and named, none is dropped in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from runtime.errors import InputError

OnError = Literal["skip", "fail"]
MAX_KEPT = 1000

KINDS = {
    "text": "unreadable text",
    "columns": "wrong column count",
    "number": "not a number",
    "points": "impossible points",
    "image": "image missing or unreadable",
}
"""Kinds of problems, in the words of the report."""


@dataclass(frozen=True)
class Problem:
    """One face that cannot be used."""

    kind: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


def _printable(text: str) -> str:
    """One line without control characters: file names may hold anything."""
    line = " ".join(text.split())[:300]
    return "".join(character if character.isprintable() else "?" for character in line)


class Problems:
    """The broken faces of a source: all are counted by kind, the first thousand are kept with file:line."""

    def __init__(self, on_error: OnError = "skip") -> None:
        self.on_error = on_error
        self.counts: Counter[str] = Counter()
        self.kept: list[Problem] = []

    def add(self, kind: str, where: str, text: str) -> None:
        """Note a broken face, or stop at it when the caller asked to."""
        problem = Problem(kind, where, _printable(text))
        if self.on_error == "fail":
            raise InputError(f"{problem}; correct it, or skip broken faces")
        self.counts[kind] += 1
        if len(self.kept) < MAX_KEPT:
            self.kept.append(problem)

    def extend(self, other: Problems) -> None:
        """Take over what another report holds."""
        self.counts.update(other.counts)
        self.kept.extend(other.kept[: MAX_KEPT - len(self.kept)])

    def __len__(self) -> int:
        return sum(self.counts.values())

    def __iter__(self) -> Iterator[Problem]:
        return iter(self.kept)

    def summary(self) -> str:
        """One line.

        >>> report = Problems(); report.add("columns", "list.txt:3", "found 12 columns"); report.summary()
        '1 broken face (1 wrong column count); first: list.txt:3: found 12 columns'
        """
        if not self.counts:
            return "no broken faces"
        kinds = ", ".join(f"{number} {KINDS.get(kind, kind)}" for kind, number in sorted(self.counts.items()))
        faces = "face" if len(self) == 1 else "faces"
        return f"{len(self)} broken {faces} ({kinds}); first: {self.kept[0]}"


def problems_of(source: object) -> Problems:
    """The report that a source carries; an empty one when it cannot have any."""
    found = getattr(source, "problems", None)
    return found if isinstance(found, Problems) else Problems()
