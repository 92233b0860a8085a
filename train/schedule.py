"""The learning rate as a function of the step; only the plateau schedule remembers anything."""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import Any

from train.recipe import ScheduleRecipe


class Schedule:
    """Factor on the peak learning rate for each step; `observe` is told each epoch's validation NME.

    >>> course = Schedule(ScheduleRecipe(epochs=10, warmup=0), steps_per_epoch=100)
    >>> course.factor(0), round(course.factor(500), 3)
    (1.0, 0.505)
    """

    def __init__(self, recipe: ScheduleRecipe, steps_per_epoch: int) -> None:
        self.recipe = recipe
        self.steps_per_epoch = steps_per_epoch
        self.best = math.inf
        self.waited = 0
        self.drops = 0

    def factor(self, step: int) -> float:
        """The factor for a step, counted over the whole run."""
        epoch = step / self.steps_per_epoch
        return self._rise(step) * self._course(epoch)

    def _rise(self, step: int) -> float:
        warm = self.recipe.warmup * self.steps_per_epoch
        return 1.0 if step >= warm else (step + 1) / (warm + 1)

    def _course(self, epoch: float) -> float:
        recipe = self.recipe
        if recipe.name == "cosine":
            past = min(max(epoch - recipe.warmup, 0.0) / max(recipe.epochs - recipe.warmup, 1e-9), 1.0)
            return recipe.floor + (1 - recipe.floor) * (1 + math.cos(math.pi * past)) / 2
        if recipe.name == "multistep":
            return recipe.gamma ** bisect_right(sorted(recipe.milestones), epoch)
        if recipe.name == "plateau":
            return float(max(recipe.gamma**self.drops, recipe.floor))
        return 1.0

    def observe(self, nme: float) -> None:
        """Plateau: count the epochs without a better NME, and drop the rate after `patience` of them."""
        if nme < self.best:
            self.best, self.waited = nme, 0
            return
        self.waited += 1
        if self.waited > self.recipe.patience:
            self.drops, self.waited = self.drops + 1, 0

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited, "drops": self.drops}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.waited, self.drops = state["best"], state["waited"], state["drops"]
