"""A run small enough to repeat many times, and somebody who watches it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from train.recipe import Recipe, recipe_from
from train.watch import Moment, Unwatched

BATCHES = 3
"""Batches in an epoch of the tiny run."""


def tiny(**sections: dict[str, object]) -> Recipe:
    """12 faces to validate on, 48 to train on, a network of a few thousand weights."""
    base = {
        "model": {"architecture": "pfld", "width": 0.1, "input_size": 32, "branches": 2},
        "data": {"train": ["synth:48@1"], "val": ["synth:12@2"], "batch_size": 16, "workers": 1},
        "optimizer": {"lr": 5e-3},
        "schedule": {"epochs": 4, "warmup": 0.5},
        "average": {"decay": 0.9},
        "run": {"threads": 1, "tensorboard": False, "seed": 3, "channels_last": False},
    }
    return recipe_from(sections, base=recipe_from(base))


class Teller(Unwatched):
    """Calls back after each step, and keeps the notes."""

    def __init__(self, after: Callable[[Moment], object] = lambda moment: None) -> None:
        self.after = after
        self.notes: list[str] = []
        self.moments: list[Moment] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    @contextmanager
    def training(self, steps: int, done: int) -> Iterator[Callable[[Moment], object]]:
        def tell(moment: Moment) -> None:
            self.moments.append(moment)
            self.after(moment)

        yield tell
