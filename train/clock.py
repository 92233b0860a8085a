"""Where the time of an epoch goes: waiting for data, or working on it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class Clock:
    """Seconds spent waiting for batches, and seconds spent between them."""

    def __init__(self, first_batch: int = 0) -> None:
        self.first_batch = first_batch
        self.waited = 0.0
        self.worked = 0.0

    def timed(self, batches: Iterable[T]) -> Iterator[T]:
        """Hand the batches through."""
        source = iter(batches)
        end = object()
        while True:
            asked = time.perf_counter()
            batch = next(source, end)
            if batch is end:
                return
            given = time.perf_counter()
            self.waited += given - asked
            yield batch  # type: ignore[misc]
            self.worked += time.perf_counter() - given

    def speed(self, batches: int, faces_each: int) -> float:
        """Faces per second so far."""
        seconds = self.waited + self.worked
        return (batches - self.first_batch) * faces_each / seconds if seconds > 0 else 0.0
