"""Which recipe a resumed run follows: its own, but for the keys that may change on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runtime.errors import UsageError
from train.checkpoint import load_checkpoint
from train.recipe import KEYS, Key, Recipe, overlay, recipe_from
from train.rundir import RunDirectory


def resumed_recipe(run: RunDirectory, given: Mapping[Key, Any]) -> Recipe:
    """The recipe inside last.ckpt, with those given values laid over it that a run may change."""
    if not run.last.exists():
        raise UsageError(f"{run.path}: no last.ckpt, so there is no run to resume; leave --resume out to start one")
    recipe = recipe_from(load_checkpoint(run.last).recipe, f"{run.last}: recipe")
    for key, value in given.items():
        kept = getattr(getattr(recipe, key.section), key.name)
        if not key.later and key.check(value, f"--{key.flag}") != kept:
            free = ", ".join(f"--{other.flag}" for other in KEYS.values() if other.later)
            raise UsageError(
                f"--{key.flag} {value!r}: the run in {run.path} was begun with {kept!r}, which a resumed run keeps; "
                f"start another run, or change only {free}"
            )
    return overlay(recipe, {key: value for key, value in given.items() if key.later})
