"""What people see: tables, progress, one-line complaints. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.table import Table


class Advance(Protocol):
    """Call it after each finished piece of work."""

    def __call__(self, amount: float = 1, *, note: str = "") -> None: ...


def complain(message: str) -> None:
    """One line on stderr."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)


def warn(message: str) -> None:
    """One warning line on stderr."""
    print(f"warning: {' '.join(message.split())}", file=sys.stderr)


def say(message: str) -> None:
    """One line on stderr that is neither result nor complaint."""
    print(message, file=sys.stderr)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], numeric_from: int = 1) -> Table:
    """A rich table; columns from `numeric_from` on are right-aligned."""
    from rich.table import Table as RichTable

    result = RichTable(title=title, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        result.add_column(column, justify="right" if index >= numeric_from else "left")
    for row in rows:
        result.add_row(*[str(cell) for cell in row])
    return result


def show(renderable: object) -> None:
    """Print something rich to stdout; as wide as it needs to be when stdout is a file or a pipe."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 160).print(renderable)


@contextmanager
def progress(label: str, total: float | None) -> Iterator[Advance]:
    """A progress bar with time left on stderr; silent when stderr is no terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )
    with bar:
        task = bar.add_task(label, total=total, note="")

        def advance(amount: float = 1, *, note: str = "") -> None:
            bar.update(task, advance=amount, note=note)

        yield advance
