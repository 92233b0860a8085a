"""What a run tells whoever watches it; the loop itself prints nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from train.rundir import Row


@dataclass(frozen=True)
class Moment:
    """A finished step."""

    epoch: int
    """Counted from 1."""
    step: int
    steps: int
    """In the whole run."""
    loss: float
    """Means over the epoch so far."""
    nme: float
    images_per_second: float


class Watch(Protocol):
    """Somebody who looks on."""

    def note(self, text: str) -> None:
        """A line worth reading once."""

    def working(self, label: str, pieces: int) -> AbstractContextManager[Callable[[], object]]:
        """Preparatory work of so many pieces; call what it gives after each."""

    def training(self, steps: int, done: int) -> AbstractContextManager[Callable[[Moment], object]]:
        """The whole training; call what it gives after each step."""

    def epoch(self, row: Row, best: bool) -> None:
        """An epoch was measured."""


class Unwatched:
    """Nobody looks on."""

    def note(self, text: str) -> None:
        """Say nothing."""

    @contextmanager
    def working(self, label: str, pieces: int) -> Iterator[Callable[[], object]]:  # noqa: ARG002 - the protocol's names
        yield lambda: None

    @contextmanager
    def training(self, steps: int, done: int) -> Iterator[Callable[[Moment], object]]:  # noqa: ARG002
        yield lambda moment: None  # noqa: ARG005

    def epoch(self, row: Row, best: bool) -> None:
        """Say nothing."""
